//! Where the log goes, and how to write there without waiting.
//!
//! A regular file takes what it is given. A pipe, a socket or a terminal may be full because its reader sleeps; it is
//! asked first (poll(2)) and then given at most `PIPE_BUF` bytes, which it then takes without blocking (pipe(7)).
//! `O_NONBLOCK` on standard output is no way out: the flag would be everybody's who shares it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::config::plan::LogTarget;

use super::courier::Courier;
use super::pen::Envelope;

/// Mode of a log file that is made here: the owner writes, the group may read.
const MODE: u32 = 0o640;
/// What a pipe that polls writable takes whole (`PIPE_BUF`, pipe(7)).
const PIECE: usize = 4_096;

/// An open log.
#[derive(Debug)]
pub struct Sink {
    target: Option<LogTarget>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// Everything vanishes.
    Nowhere,
    File {
        file: File,
        /// A regular file, to which everything can be written at once.
        regular: bool,
    },
    Socket(Courier),
}

/// The log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the log {name}: {cause}{}", remedy(cause))]
pub struct SinkError {
    name: String,
    /// What open(2) said.
    #[source]
    pub cause: io::Error,
}

fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => {
            "; make it (`create` of logrotate), or its directory, the property of `user`"
        }
        _ => "",
    }
}

impl Sink {
    /// Opens `target`.
    ///
    /// # Errors
    /// What open(2) said, with the name of the target.
    pub fn open(target: &LogTarget) -> Result<Self, SinkError> {
        let (name, opened) = match target {
            LogTarget::Syslog(path) | LogTarget::Journald(path) => {
                let way = Way::Socket(Courier::new(path, Envelope::of(target)));
                return Ok(Self { target: Some(target.clone()), way });
            }
            LogTarget::Stdout => {
                ("on standard output".to_owned(), io::stdout().as_fd().try_clone_to_owned().map(File::from))
            }
            LogTarget::File(path) => (format!("{}", path.display()), open_file(path)),
        };
        let file = opened.map_err(|cause| SinkError { name, cause })?;
        let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        Ok(Self { target: Some(target.clone()), way: Way::File { file, regular } })
    }

    /// A log that keeps nothing.
    pub fn nowhere() -> Self {
        Self { target: None, way: Way::Nowhere }
    }

    /// Opens the target again, as logrotate asks for. On an error the old file goes on.
    ///
    /// # Errors
    /// As [`Sink::open`].
    pub fn reopen(&mut self) -> Result<(), SinkError> {
        match (&self.target, &mut self.way) {
            (Some(target @ LogTarget::File(_)), _) => *self = Self::open(target)?,
            (_, Way::Socket(courier)) => courier.reconnect(),
            (_, Way::File { .. } | Way::Nowhere) => {}
        }
        Ok(())
    }

    /// Makes a log file that we made as root the property of the user we become, who has to open it again one day.
    /// Standard output and files of other owners are left alone.
    ///
    /// # Errors
    /// What fchown(2) said.
    pub fn pass_on(&self, (user, group): (Option<u32>, Option<u32>)) -> io::Result<()> {
        match (&self.target, &self.way) {
            (Some(LogTarget::File(_)), Way::File { file, regular: true }) if file.metadata()?.uid() == 0 => {
                std::os::unix::fs::fchown(file, user, group)
            }
            _ => Ok(()),
        }
    }

    /// Entries it took and could not deliver, since the last call.
    pub fn take_lost(&mut self) -> u64 {
        match &mut self.way {
            Way::Socket(courier) => courier.take_lost(),
            Way::File { .. } | Way::Nowhere => 0,
        }
    }

    /// Writes some of `bytes` (whole entries) and says how much; 0: no room now.
    ///
    /// # Errors
    /// What poll(2), write(2) or the socket said; `EAGAIN` and `EINTR` count as no room.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (file, regular) = match &mut self.way {
            Way::Nowhere => return Ok(bytes.len()),
            Way::Socket(courier) => return courier.write(bytes),
            Way::File { file, regular } => (file, *regular),
        };
        if bytes.is_empty() {
            return Ok(0);
        }
        let piece = if regular {
            bytes
        } else if has_room(file)? {
            piece(bytes)
        } else {
            return Ok(0);
        };
        match file.write(piece) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
            answer => answer,
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    let is_fifo = path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
    let mut options = OpenOptions::new();
    options.append(true).mode(MODE);
    if is_fifo {
        // Opened for reading too, a FIFO neither waits for a reader nor breaks when one leaves (fifo(7)).
        options.read(true).custom_flags(libc::O_NONBLOCK);
    } else {
        options.create(true);
    }
    options.open(path)
}

fn has_room(file: &File) -> io::Result<bool> {
    let mut asked = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut asked, PollTimeout::ZERO) {
        Ok(0) | Err(nix::errno::Errno::EINTR) => Ok(false),
        // Writable, or broken: then the write says how.
        Ok(_) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// As many whole lines as fit; a line that is longer than a piece goes out in several.
fn piece(bytes: &[u8]) -> &[u8] {
    let Some(head) = bytes.get(..PIECE) else {
        return bytes;
    };
    match head.iter().rposition(|&byte| byte == b'\n') {
        Some(end) => &head[..=end],
        None => head,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn who_may_not_open_it_is_told_what_helps() {
        let told = |kind: io::ErrorKind| SinkError { name: "/l".into(), cause: kind.into() }.to_string();
        assert_eq!(
            told(io::ErrorKind::PermissionDenied),
            "cannot open the log /l: permission denied; make it (`create` of logrotate), or its directory, the property of `user`"
        );
        assert_eq!(told(io::ErrorKind::NotFound), "cannot open the log /l: entity not found");
    }

    #[test]
    fn a_file_takes_everything_and_can_be_rotated() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let mut sink = Sink::open(&LogTarget::File(path.clone())).expect("opened");
        let big = vec![b'x'; 100_000];
        assert_eq!(sink.write(&big).expect("written"), big.len());
        std::fs::rename(&path, directory.path().join("log.1")).expect("rotated");
        sink.reopen().expect("opened again");
        assert_eq!(sink.write(b"new\n").expect("written"), 4);
        assert_eq!(std::fs::read(&path).expect("there"), b"new\n");
        let missing = LogTarget::File(directory.path().join("no/log"));
        let error = Sink::open(&missing).expect_err("no such directory");
        assert!(error.to_string().contains("no/log"), "{error}");
    }

    #[test]
    fn a_fifo_nobody_reads_fills_up_and_never_blocks() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("made");
        let mut sink = Sink::open(&LogTarget::File(path.clone())).expect("opened");
        let line = [[b'x'; 99].as_slice(), b"\n"].concat().repeat(100);
        let mut written = 0;
        let full = (0..1_000).any(|_| {
            let n = sink.write(&line).expect("no error");
            assert_eq!(n % 100, 0, "whole lines only");
            written += n;
            n == 0
        });
        assert!(full, "it never filled up");
        let mut reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).expect("opened");
        let mut got = vec![0; written];
        reader.read_exact(&mut got).expect("all of it is there");
        assert!(sink.write(&line).expect("no error") > 0, "room again");
    }

    #[test]
    fn pieces_end_at_line_ends() {
        let long = [b'y'; 10_000];
        assert_eq!(piece(&long).len(), PIECE);
        assert_eq!(piece(b"one\ntwo"), b"one\ntwo");
        let mut lines = vec![b'z'; 4_000];
        lines.push(b'\n');
        lines.extend_from_slice(&[b'w'; 500]);
        assert_eq!(piece(&lines).len(), 4_001);
    }
}
