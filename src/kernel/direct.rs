//! The immediate calls: the same system calls under every engine.
//!
//! A macro, not bodies in the trait: a simulated kernel that forgets one must not compile.

use std::os::fd::RawFd;

use socket2::SockAddr;

use super::{ConnectOptions, Errno, KeepaliveOptions, Sock};
use crate::sys::bytes;

/// The immediate calls of [`super::Kernel`], but for `close`, which each engine does its own way; `self.arrivals` is its
/// [`super::arrivals::Arrivals`].
macro_rules! immediate_calls {
    () => {
        fn accept_now(
            &mut self,
            listener: $crate::kernel::Sock,
        ) -> Result<$crate::kernel::Sock, $crate::kernel::Errno> {
            $crate::sys::bytes::accept(listener.0).map($crate::kernel::Sock)
        }

        fn pass(
            &mut self,
            sock: $crate::kernel::Sock,
            ticket: $crate::kernel::Ticket,
            hatch: $crate::kernel::Hatch,
        ) -> Result<(), $crate::kernel::Errno> {
            $crate::kernel::arrivals::pass(sock, ticket, hatch)?;
            self.close(sock, $crate::kernel::Close::Clean);
            Ok(())
        }

        fn take_in(&mut self) -> Result<(), $crate::kernel::Errno> {
            self.arrivals.take_in()
        }

        fn claim(&mut self, ticket: $crate::kernel::Ticket) -> Option<$crate::kernel::Sock> {
            self.arrivals.claim(ticket)
        }

        fn unclaimed(&self) -> Vec<$crate::kernel::Ticket> {
            self.arrivals.unclaimed()
        }

        fn discard(&mut self, ticket: $crate::kernel::Ticket) {
            self.arrivals.discard(ticket);
        }

        fn close_listener(&mut self, listener: $crate::kernel::Sock) {
            $crate::sys::bytes::close(listener.0);
        }

        #[inline]
        fn recv(&mut self, sock: $crate::kernel::Sock, into: &mut [u8]) -> Result<usize, $crate::kernel::Errno> {
            $crate::sys::bytes::recv(sock.0, into)
        }

        #[inline]
        fn send(&mut self, sock: $crate::kernel::Sock, from: &[u8]) -> Result<usize, $crate::kernel::Errno> {
            $crate::sys::bytes::send(sock.0, from)
        }

        #[inline]
        fn fill(
            &mut self,
            pipe: &$crate::kernel::Pipe,
            sock: $crate::kernel::Sock,
            max: usize,
        ) -> Result<usize, $crate::kernel::Errno> {
            $crate::sys::bytes::splice(sock.0, pipe.into, max)
        }

        #[inline]
        fn pour(
            &mut self,
            pipe: &$crate::kernel::Pipe,
            sock: $crate::kernel::Sock,
            held: usize,
        ) -> Result<usize, $crate::kernel::Errno> {
            $crate::sys::bytes::splice(pipe.out, sock.0, held)
        }

        fn open_pipe(&mut self, size: usize) -> Result<$crate::kernel::Pipe, $crate::kernel::Errno> {
            let (out, into) = $crate::sys::bytes::pipe()?;
            Ok($crate::kernel::Pipe { out, into, size: $crate::sys::bytes::size_pipe(into, size) })
        }

        fn close_pipe(&mut self, pipe: $crate::kernel::Pipe) {
            $crate::sys::bytes::close(pipe.out);
            $crate::sys::bytes::close(pipe.into);
        }

        fn finish(&mut self, sock: $crate::kernel::Sock) {
            $crate::sys::bytes::shutdown_write(sock.0);
        }

        fn error(&mut self, sock: $crate::kernel::Sock) -> Option<$crate::kernel::Errno> {
            $crate::sys::bytes::take_error(sock.0)
        }

        fn peer(&mut self, sock: $crate::kernel::Sock) -> Option<::std::net::SocketAddr> {
            $crate::sys::bytes::peer(sock.0)
        }

        fn unsent(&mut self, sock: $crate::kernel::Sock) -> usize {
            $crate::sys::bytes::unsent(sock.0)
        }

        fn local(&mut self, sock: $crate::kernel::Sock) -> Option<::std::net::SocketAddr> {
            $crate::sys::bytes::local(sock.0)
        }

        fn acknowledge(&mut self, sock: $crate::kernel::Sock) {
            // Refused on unix sockets, which have no handshake.
            let _ = $crate::sys::bytes::set(sock.0, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 1);
        }

        fn send_promptly(&mut self, sock: $crate::kernel::Sock) {
            // Refused on unix sockets, which hold nothing back.
            let _ = $crate::sys::bytes::set(sock.0, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
        }

        fn gather(&mut self, sock: $crate::kernel::Sock, bytes: usize) {
            $crate::kernel::direct::gather(sock, bytes);
        }

        fn keep_alive(&mut self, sock: $crate::kernel::Sock, options: $crate::kernel::KeepaliveOptions) {
            $crate::kernel::direct::keep_alive(sock, options);
        }
    };
}
pub(super) use immediate_calls;

/// A socket to connect to `target` with, as [`super::Kernel::connect`] wants it.
///
/// # Errors
/// What socket(2), setsockopt(2) or bind(2) said; then no socket is open.
pub(super) fn stream_socket(target: &SockAddr, options: ConnectOptions) -> Result<RawFd, Errno> {
    let fd = bytes::stream_socket(target)?;
    if target.is_unix() {
        return Ok(fd);
    }
    // Who is to connect holds back the last acknowledgement if it has this, as whoever is to accept waits for the first bytes
    // (tcp_rcv_synsent_state_process). `TCP_QUICKACK` off does the same, but only once: a disconnect forgets it.
    let prepared = bytes::set(fd, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 1)
        .and_then(|()| options.source.map_or(Ok(()), |source| bytes::bind_source(fd, source)));
    prepared.map(|()| fd).inspect_err(|_| bytes::close(fd))
}

/// Sets how many bytes must wait before a socket tells of them.
pub(super) fn gather(sock: Sock, bytes: usize) {
    // A socket that will not gather tells of every byte: dearer, not wrong.
    let _ = bytes::set(
        sock.0,
        libc::SOL_SOCKET,
        libc::SO_RCVLOWAT,
        libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX),
    );
}

/// Sets keepalive and user timeout.
pub(super) fn keep_alive(sock: Sock, options: KeepaliveOptions) {
    let KeepaliveOptions { idle_s, interval_s, count, user_timeout_ms } = options;
    let set = |level, option, value: u32| {
        // Refused on unix sockets, which have no network to lose.
        let _ = bytes::set(sock.0, level, option, libc::c_int::try_from(value).unwrap_or(libc::c_int::MAX));
    };
    if idle_s > 0 {
        set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
        set(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, idle_s);
        set(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, interval_s);
        set(libc::IPPROTO_TCP, libc::TCP_KEEPCNT, count);
    }
    if user_timeout_ms > 0 {
        set(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, user_timeout_ms);
    }
}
