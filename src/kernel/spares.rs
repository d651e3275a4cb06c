//! Sockets that have served once and serve again.
//!
//! A connection that ends by a reset need not take its socket along: connect(2) to `AF_UNSPEC` sends the RST, throws away
//! what was sent or received, and leaves a socket as it was before its first connect (`tcp_disconnect` in net/ipv4/tcp.c).
//! The next connection then needs no new one, which saves the kernel a file, an inode and their end: 6 % of all it takes
//! to connect, relay a short answer and reset.
//!
//! What a program has set stays set, and buffers that have grown stay large; so only sockets of short sessions are kept.

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

    /// One to connect to `target` with, prepared as a new one would be.
    pub(super) fn take(&mut self, target: &SockAddr) -> Option<RawFd> {
        let fd = self.of(target)?.pop()?;
        // A disconnect forgets that acknowledgements are held back.
        let prepared = bytes::set(fd, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 0);
        prepared.map(|()| fd).inspect_err(|_| bytes::close(fd)).ok()
    }

    /// Resets the connection of `fd`, which went to `target`, and keeps the socket if there is room for one more. If not,
    /// nothing has been done.
    pub(super) fn keep(&mut self, fd: RawFd, target: &SockAddr) -> bool {
        let Some(spares) = self.of(target) else { return false };
        if spares.len() >= SPARES_MAX || bytes::disconnect(fd).is_err() {
            return false;
        }
        // The reset is an error of the socket's own, which the next connect would take for its.
        bytes::take_error(fd);
        spares.push(fd);
        true
    }

    /// Closes them all.
    pub(super) fn let_go(&mut self) {
        for fd in self.v4.drain(..).chain(self.v6.drain(..)) {
            bytes::close(fd);
        }
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
        self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A connection of a bare socket: the socket, where it went, and the far end.
    fn connection(listener: &TcpListener, spares: &mut Spares) -> (RawFd, SockAddr, TcpStream) {
        let target = SockAddr::from(listener.local_addr().expect("bound"));
        let fd = spares.take(&target).unwrap_or_else(|| bytes::stream_socket(&target).expect("a socket"));
        bytes::connect(fd, &target).expect("it listens");
        let (far, _) = listener.accept().expect("it has connected");
        (fd, target, far)
    }

    #[test]
    fn a_kept_socket_resets_its_connection_and_makes_the_next() {
        let mut spares = Spares::default();
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(host).expect("loopback");
            let (first, target, mut far) = connection(&listener, &mut spares);
            far.write_all(b"never read").expect("there is room");
            assert!(spares.keep(first, &target));
            let gone = far.read(&mut [0; 8]).expect_err("it was reset");
            assert_eq!(gone.kind(), ErrorKind::ConnectionReset);
            let (second, target, mut far) = connection(&listener, &mut spares);
            assert_eq!(second, first);
            assert!(spares.is_empty());
            assert_eq!(bytes::take_error(second), None);
            far.write_all(b"read").expect("there is room");
            let mut buffer = [0; 16];
            assert_eq!(bytes::recv(second, &mut buffer), Ok(4), "loopback delivers at once");
            assert!(spares.keep(second, &target));
            spares.let_go();
        }
    }

    #[test]
    fn so_many_are_kept_and_no_more() {
        let mut spares = Spares::default();
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let mut all = Vec::new();
        for _ in 0..=SPARES_MAX {
            all.push(connection(&listener, &mut spares));
        }
        for (index, (fd, target, _)) in all.iter().enumerate() {
            assert_eq!(spares.keep(*fd, target), index < SPARES_MAX);
        }
        let (last, _, far) = all.last_mut().expect("there are some");
        far.set_nonblocking(true).expect("a socket");
        let silent = far.read(&mut [0; 1]).expect_err("its connection goes on");
        assert_eq!(silent.kind(), ErrorKind::WouldBlock);
        bytes::close(*last);
        assert!(spares.take(&SockAddr::unix("/nowhere").expect("a path")).is_none(), "not of another family");
        assert!(!spares.is_empty());
        spares.let_go();
        assert!(spares.is_empty());
    }
}
