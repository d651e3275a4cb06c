//! Moving bytes and shaping sockets on bare descriptors: recv(2), send(2), splice(2), pipe(2), connect(2),
//! shutdown(2), socket(7), tcp(7).
//!
//! Workers call these some hundred thousand times a second, on descriptors whose life the session table rules; so they
//! take a `RawFd` and say nothing of ownership. A wrong descriptor is an error from the kernel, not undefined behaviour.
//!
//! What moves bytes is called by its number (syscall(2)): the functions of the C library that may block are places where a
//! thread can be cancelled (pthreads(7)), and mark it so before and after, with two atomic operations each.

use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::ptr;

use nix::errno::Errno;
use socket2::SockAddr;

pub use super::stack::block_signals;

/// recv(2), never blocking.
///
/// # Errors
/// The errno of recv(2).
#[inline]
pub fn recv(fd: RawFd, into: &mut [u8]) -> Result<usize, Errno> {
    let nobody = ptr::null_mut::<libc::sockaddr>();
    // SAFETY: recvfrom(2) writes at most `into.len()` bytes to `into`, which is borrowed mutably for the call; nobody's address
    // is asked for.
    let n = unsafe {
        libc::syscall(libc::SYS_recvfrom, fd, into.as_mut_ptr(), into.len(), libc::MSG_DONTWAIT, nobody, nobody)
    };
    usize::try_from(n).map_err(|_| Errno::last())
}

/// send(2), never blocking, no SIGPIPE.
///
/// # Errors
/// The errno of send(2).
#[inline]
pub fn send(fd: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let nobody = ptr::null::<libc::sockaddr>();
    // SAFETY: sendto(2) reads at most `bytes.len()` bytes from `bytes`, which is borrowed for the call; no address is given.
    let n = unsafe { libc::syscall(libc::SYS_sendto, fd, bytes.as_ptr(), bytes.len(), flags, nobody, 0) };
    usize::try_from(n).map_err(|_| Errno::last())
}

/// splice(2) of at most `len` bytes, `SPLICE_F_NONBLOCK`. The socket itself must be `O_NONBLOCK`: the flag speaks only of
/// the pipe.
///
/// # Errors
/// The errno of splice(2).
#[inline]
pub fn splice(from: RawFd, to: RawFd, len: usize) -> Result<usize, Errno> {
    let here = ptr::null_mut::<libc::loff_t>();
    // SAFETY: both offsets are null, as splice(2) requires of pipes and sockets; no memory of ours is touched.
    let n = unsafe { libc::syscall(libc::SYS_splice, from, here, to, here, len, libc::SPLICE_F_NONBLOCK) };
    usize::try_from(n).map_err(|_| Errno::last())
}

/// pipe2(2), non-blocking and close-on-exec: (read end, write end).
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn pipe() -> Result<(RawFd, RawFd), Errno> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors pipe2 writes.
    Errno::result(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) })?;
    Ok((ends[0], ends[1]))
}

/// Asks for a pipe of `size` bytes (`F_SETPIPE_SZ`, fcntl(2)) and tells what it has then.
pub fn size_pipe(end: RawFd, size: usize) -> usize {
    let wanted = libc::c_int::try_from(size).unwrap_or(libc::c_int::MAX);
    // SAFETY: F_SETPIPE_SZ and F_GETPIPE_SZ take and return integers only.
    let got = unsafe {
        libc::fcntl(end, libc::F_SETPIPE_SZ, wanted);
        libc::fcntl(end, libc::F_GETPIPE_SZ)
    };
    usize::try_from(got).unwrap_or(0)
}

/// close(2). An error means that the descriptor was not open, or is closed all the same.
pub fn close(fd: RawFd) {
    // SAFETY: closing a number touches no memory of ours; that it is ours to close is the caller's table's to know.
    unsafe { libc::close(fd) };
}

/// shutdown(2) for writing. Its only errors say that the connection is gone already.
pub fn shutdown_write(fd: RawFd) {
    // SAFETY: takes integers only.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// A non-blocking, close-on-exec stream socket for the family of `target`.
///
/// # Errors
/// The errno of socket(2).
pub fn stream_socket(target: &SockAddr) -> Result<RawFd, Errno> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: takes integers only.
    Errno::result(unsafe { libc::socket(libc::c_int::from(target.family()), kind, 0) })
}

/// connect(2) on a non-blocking socket: `Ok(true)` when it is connected at once, `Ok(false)` when that is under way and the
/// socket will be writable at its end.
///
/// # Errors
/// The errno of connect(2).
pub fn connect(fd: RawFd, target: &SockAddr) -> Result<bool, Errno> {
    // SAFETY: `target` is a valid socket address of the stated length and outlives the call.
    match Errno::result(unsafe { libc::connect(fd, target.as_ptr().cast(), target.len()) }) {
        Ok(_) => Ok(true),
        Err(Errno::EINPROGRESS) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Where a socket is connected to that is to be unconnected again: connect(2) to it ends a TCP connection by a reset
/// (`AF_UNSPEC`). The socket's pending error is then `ECONNRESET`.
pub static NOWHERE: libc::sockaddr =
    libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };

/// accept4(2), non-blocking and close-on-exec.
///
/// # Errors
/// The errno of accept4(2).
pub fn accept(listener: RawFd) -> Result<RawFd, Errno> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: a null address asks for none.
    Errno::result(unsafe { libc::accept4(listener, ptr::null_mut(), ptr::null_mut(), flags) })
}

/// Binds to `source` and leaves the port to connect(2) (`IP_BIND_ADDRESS_NO_PORT`, ip(7)): ports are shared between
/// destinations then, not used up by the bind.
///
/// # Errors
/// The errno of setsockopt(2) or bind(2).
pub fn bind_source(fd: RawFd, source: IpAddr) -> Result<(), Errno> {
    set(fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    let address = SockAddr::from(SocketAddr::new(source, 0));
    // SAFETY: `address` is a valid socket address of the stated length and outlives the call.
    Errno::result(unsafe { libc::bind(fd, address.as_ptr().cast(), address.len()) }).map(drop)
}

/// Sets an integer option.
///
/// # Errors
/// The errno of setsockopt(2).
#[inline]
pub fn set(fd: RawFd, level: i32, option: i32, value: libc::c_int) -> Result<(), Errno> {
    set_raw(fd, level, option, &value)
}

/// Makes close(2) send an RST and throw unsent bytes away (`SO_LINGER` with zero seconds, socket(7)).
#[inline]
pub fn linger_zero(fd: RawFd) {
    let now = libc::linger { l_onoff: 1, l_linger: 0 };
    // It cannot fail on a stream socket; on a dead one it does not matter.
    let _ = set_raw(fd, libc::SOL_SOCKET, libc::SO_LINGER, &now);
}

fn set_raw<T: Copy>(fd: RawFd, level: i32, option: i32, value: &T) -> Result<(), Errno> {
    // SAFETY: setsockopt reads `size_of::<T>()` bytes from `value`, a plain C value borrowed for the call.
    let done =
        unsafe { libc::setsockopt(fd, level, option, ptr::from_ref(value).cast(), size_of::<T>() as libc::socklen_t) };
    Errno::result(done).map(drop)
}

/// `SO_ERROR`: the pending error, which reading clears.
pub fn take_error(fd: RawFd) -> Option<Errno> {
    let mut value: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` has the `len` bytes getsockopt may write.
    let done =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, ptr::from_mut(&mut value).cast(), &mut len) };
    (done == 0 && value != 0).then(|| Errno::from_raw(value))
}

/// getpeername(2); `None` unless it is an IP address.
pub fn peer(fd: RawFd) -> Option<SocketAddr> {
    address_by(|storage, len| {
        // SAFETY: `storage` has room for any socket address and `len` says how much.
        unsafe { libc::getpeername(fd, storage, len) }
    })
}

/// Bytes that were sent and that the peer's kernel has not acknowledged yet (`SIOCOUTQ`, tcp(7)); 0 where that is not known.
pub fn unsent(fd: RawFd) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, which Linux calls TIOCOUTQ too, writes one int, and `bytes` is one.
    let told = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) };
    if told == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
}

/// getsockname(2); `None` unless it is an IP address.
pub fn local(fd: RawFd) -> Option<SocketAddr> {
    address_by(|storage, len| {
        // SAFETY: `storage` has room for any socket address and `len` says how much.
        unsafe { libc::getsockname(fd, storage, len) }
    })
}

fn address_by(call: impl Fn(*mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int) -> Option<SocketAddr> {
    let mut storage = MaybeUninit::<libc::sockaddr_in6>::zeroed();
    let mut len = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    if call(storage.as_mut_ptr().cast(), &mut len) != 0 {
        return None;
    }
    // SAFETY: all-zero bytes are a valid sockaddr_in6, and the kernel wrote at most `len` bytes over them.
    let v6 = unsafe { storage.assume_init() };
    match libc::c_int::from(v6.sin6_family) {
        libc::AF_INET6 => {
            Some(SocketAddr::new(std::net::Ipv6Addr::from(v6.sin6_addr.s6_addr).into(), u16::from_be(v6.sin6_port)))
        }
        libc::AF_INET => {
            // SAFETY: the family says that the storage holds a sockaddr_in, which is smaller than sockaddr_in6 and no
            // more strictly aligned.
            let v4 = unsafe { ptr::from_ref(&v6).cast::<libc::sockaddr_in>().read() };
            let ip = std::net::Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::new(ip.into(), u16::from_be(v4.sin_port)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn splice_moves_exactly_what_it_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("a listening socket");
        let (served, _) = listener.accept().expect("a connection");
        served.set_nonblocking(true).expect("a socket");
        let (out, into) = pipe().expect("a pipe");
        assert!(size_pipe(into, 1 << 18) >= 1 << 16);
        assert_eq!(splice(served.as_raw_fd(), into, 1 << 18), Err(Errno::EAGAIN));
        client.write_all(b"0123456789").expect("sent");
        let filled = loop {
            match splice(served.as_raw_fd(), into, 1 << 18) {
                Err(Errno::EAGAIN) => std::thread::yield_now(),
                other => break other,
            }
        };
        assert_eq!(filled, Ok(10));
        assert_eq!(splice(out, served.as_raw_fd(), 4), Ok(4));
        let mut four = [0; 4];
        client.read_exact(&mut four).expect("an answer");
        assert_eq!(&four, b"0123");
        close(out);
        close(into);
    }

    #[test]
    fn addresses_come_back_in_both_families() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(bind).expect("a free port");
            assert_eq!(local(listener.as_raw_fd()), Some(listener.local_addr().expect("bound")));
            let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("a listening socket");
            assert_eq!(peer(client.as_raw_fd()), Some(listener.local_addr().expect("bound")));
        }
        let (a, _b) = std::os::unix::net::UnixStream::pair().expect("two sockets");
        assert_eq!(peer(a.as_raw_fd()), None);
    }
}
