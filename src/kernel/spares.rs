//! Sockets that have served once and serve again.
//!
//! A connection that ends by a reset need not take its socket along: connect(2) to `AF_UNSPEC` sends the RST, throws away
//! what was sent or received, and leaves a socket as it was before its first connect (`tcp_disconnect` in net/ipv4/tcp.c).
//! The next connection then needs no new one, which saves the kernel a file, an inode and their end: 6 % of all it takes
//! to connect, relay a short answer and reset.
//!
//! What a program has set stays set, and buffers that have grown stay large; so only sockets of short sessions are kept. The
//! error that the disconnect leaves behind (`ECONNRESET`) is forgotten by the next connect (`tcp_connect_init`).

use std::os::fd::RawFd;

use socket2::SockAddr;

use crate::base::limits::SPARES_MAX;
use crate::sys::bytes;

/// The spare sockets of a worker, by family.
#[derive(Debug, Default)]
pub(super) struct Spares {
    v4: Vec<RawFd>,
    v6: Vec<RawFd>,
}

impl Spares {
    pub(super) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// One to connect to `target` with.
    pub(super) fn take(&mut self, target: &SockAddr) -> Option<RawFd> {
        self.of(target)?.pop()
    }

    /// Keeps `fd`, which has been connected to `target` and is disconnected before it is connected again; false, and then it
    /// is the caller's still, if there is no room for one more.
    pub(super) fn keep(&mut self, fd: RawFd, target: &SockAddr) -> bool {
        let Some(spares) = self.of(target).filter(|spares| spares.len() < SPARES_MAX) else { return false };
        spares.push(fd);
        true
    }

    /// Takes a certain one out; false if it is not here any more.
    pub(super) fn forget(&mut self, fd: RawFd) -> bool {
        let before = self.v4.len() + self.v6.len();
        self.v4.retain(|&spare| spare != fd);
        self.v6.retain(|&spare| spare != fd);
        self.v4.len() + self.v6.len() < before
    }

    /// Takes them all out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = RawFd> {
        self.v4.drain(..).chain(self.v6.drain(..))
    }

    fn of(&mut self, target: &SockAddr) -> Option<&mut Vec<RawFd>> {
        match i32::from(target.family()) {
            libc::AF_INET => Some(&mut self.v4),
            libc::AF_INET6 => Some(&mut self.v6),
            _ => None,
        }
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.drain().for_each(bytes::close);
    }
}
