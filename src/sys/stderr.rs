//! Standard error as the daemon uses it: write(2), poll(2).
//!
//! It may be a pipe that nobody reads, a full disk or a terminal that has gone. `eprintln!` waits for the first for ever and
//! panics at the others, and either would end a daemon that only wanted to complain.

use std::io;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long one piece may wait for room, in milliseconds.
const ROOM_MS: u16 = 100;
/// What a pipe that polls writable takes whole (`PIPE_BUF`, pipe(7)).
pub(super) const PIECE: usize = 4_096;

/// Writes without waiting long for whoever reads it, and without a lock; what cannot be written is lost.
pub fn say(text: &str) {
    for piece in text.as_bytes().chunks(PIECE) {
        let stderr = io::stderr();
        let mut asked = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        if !poll(&mut asked, PollTimeout::from(ROOM_MS)).is_ok_and(|ready| ready > 0) {
            return;
        }
        if nix::unistd::write(stderr.as_fd(), piece).is_err() {
            return;
        }
    }
}
