//! Listening sockets (socket(7), ip(7), tcp(7), unix(7)).
//!
//! TCP: one socket a worker on the same address (`SO_REUSEPORT`), so that the kernel spreads connections and no worker
//! waits for another. The price of that option is that a second daemon of the same user could join in unnoticed and take
//! half of the connections; so the first socket is a *claim*: it listens without that option, which only one process can
//! do, and is opened to the others afterwards.
//!
//! Options that accepted connections shall have are set on the listening socket: they inherit them (tcp(7)), so no accept
//! pays a system call for them.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::base::limits::BACKLOG;

/// Mode of a unix socket that clients connect to: its owner and its group may.
pub const UNIX_MODE: u32 = 0o660;

/// Tries to get the lock on a directory, and the time between them.
const LOCK_TRIES: u32 = 100;
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// Options that connections inherit from the socket they were accepted from (tcp(7)). Keepalive is not among them: it
/// arms a timer for each connection, so a session gets it once it has lived a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heritage {
    /// `TCP_USER_TIMEOUT` in milliseconds; 0 is the kernel's default.
    pub user_timeout_ms: u32,
}

/// Whether somebody else may be listening on the address already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbours {
    /// Nobody may: a daemon started twice is refused.
    Refuse,
    /// Our own sockets hold an address that overlaps (`0.0.0.0:80` and `10.0.0.1:80`), so a plain bind would fail.
    Ours,
}

/// Whether the address has to be on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Now.
    Now,
    /// Some day (`IP_FREEBIND`, ip(7)): an address that wanders between machines is brought by somebody else, later.
    Later,
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// `EADDRINUSE`.
    #[error("the address is in use: another process listens there (ss -ltnp shows which)")]
    InUse,
    /// A daemon answers on the unix socket.
    #[error("the socket is in use: a process answers on it")]
    Answered,
    /// `EACCES` or `EPERM` on a TCP port.
    #[error("permission denied: ports below 1024 need root or CAP_NET_BIND_SERVICE")]
    Denied,
    /// `EACCES` on a path.
    #[error("permission denied: the user may not make the socket there")]
    PathDenied,
    /// `EADDRNOTAVAIL`.
    #[error("the address is not on this machine (ip address shows those that are)")]
    NotLocal,
    /// The directory is missing.
    #[error("its directory does not exist")]
    NoDirectory,
    /// Something that is no socket is in the way; it is left alone.
    #[error("a file that is no socket is in the way")]
    NotASocket,
    /// Anything else.
    #[error("{call}: {cause}")]
    Other {
        /// The call.
        call: &'static str,
        /// What it said.
        cause: io::Error,
    },
}

impl ListenError {
    /// True when another try a moment later may succeed: the kernel lets go of a killed process's sockets only when the
    /// last ring request on them has ended.
    pub fn may_pass(&self) -> bool {
        matches!(self, ListenError::InUse)
    }

    /// True when it is a matter of rights.
    pub fn is_permission(&self) -> bool {
        matches!(self, ListenError::Denied | ListenError::PathDenied)
    }
}

/// Listens on a TCP address with `count` sockets, non-blocking and close-on-exec. IPv6 addresses take IPv6 only
/// (`IPV6_V6ONLY`): list both to have both.
///
/// # Errors
/// See [`ListenError`]. Nothing stays open.
pub fn tcp(
    address: SocketAddr,
    count: usize,
    heritage: Heritage,
    neighbours: Neighbours,
    presence: Presence,
) -> Result<Vec<OwnedFd>, ListenError> {
    let listen = |socket: &Socket| socket.listen(BACKLOG.into()).map_err(|cause| from_bind("listen", cause));
    let mut sockets = Vec::with_capacity(count);
    if neighbours == Neighbours::Refuse {
        // Bound is not enough: two sockets with `SO_REUSEADDR` may be bound to one address, but only one may listen.
        let claim = bound(address, false, presence)?;
        bequeath(SockRef::from(&claim), heritage)?;
        listen(&claim)?;
        claim.set_reuse_port(true).map_err(|cause| ListenError::Other { call: "SO_REUSEPORT", cause })?;
        sockets.push(claim);
    }
    let claims = sockets.len();
    // The others are bound before the first of them listens: as few connections as can be meet a group that still grows.
    // (Those whose handshake is under way stay with the socket they began with.)
    for _ in claims..count {
        let socket = bound(address, true, presence)?;
        bequeath(SockRef::from(&socket), heritage)?;
        sockets.push(socket);
    }
    sockets[claims..].iter().try_for_each(listen)?;
    Ok(sockets.into_iter().map(OwnedFd::from).collect())
}

fn bound(address: SocketAddr, shared: bool, presence: Presence) -> Result<Socket, ListenError> {
    let other = |call| move |cause| ListenError::Other { call, cause };
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None).map_err(other("socket"))?;
    if address.is_ipv6() {
        socket.set_only_v6(true).map_err(other("IPV6_V6ONLY"))?;
    }
    if presence == Presence::Later {
        let set = if address.is_ipv6() { socket.set_freebind_v6(true) } else { socket.set_freebind_v4(true) };
        set.map_err(other("IP_FREEBIND"))?;
    }
    // Connections of a former life in TIME_WAIT do not count as "in use".
    socket.set_reuse_address(true).map_err(other("SO_REUSEADDR"))?;
    if shared {
        socket.set_reuse_port(true).map_err(other("SO_REUSEPORT"))?;
    }
    socket.bind(&SockAddr::from(address)).map_err(|cause| from_bind("bind", cause))?;
    Ok(socket)
}

/// Whether an address is on this machine now. In doubt it is.
pub fn is_present(ip: IpAddr) -> bool {
    let absent = |error: io::Error| error.kind() == io::ErrorKind::AddrNotAvailable;
    !UdpSocket::bind((ip, 0)).is_err_and(absent)
}

/// Sets the options that future connections inherit; those already accepted keep theirs.
///
/// # Errors
/// What setsockopt(2) said.
pub fn bequeath(socket: SockRef<'_>, heritage: Heritage) -> Result<(), ListenError> {
    let other = |call| move |cause| ListenError::Other { call, cause };
    socket.set_tcp_nodelay(true).map_err(other("TCP_NODELAY"))?;
    let user_timeout = Duration::from_millis(heritage.user_timeout_ms.into());
    socket.set_tcp_user_timeout(Some(user_timeout)).map_err(other("TCP_USER_TIMEOUT"))
}

/// Listens on a unix socket: one socket, duplicated for each of `count` workers. A socket file that nobody answers on any
/// more is replaced; one that somebody answers on is not, nor is any other kind of file.
///
/// # Errors
/// See [`ListenError`]. Nothing stays open.
pub fn unix(path: &Path, count: usize, mode: u32) -> Result<Vec<OwnedFd>, ListenError> {
    let other = |call| move |cause| ListenError::Other { call, cause };
    // Between bind and listen nobody answers on a socket, and another daemon that starts just then would take it for stale.
    let _alone = alone_in_directory_of(path);
    clear_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(other("socket"))?;
    let address = SockAddr::unix(path).map_err(other("address"))?;
    // The file takes its mode from the socket (less the umask), so it is never open to more people than it shall be.
    nix::sys::stat::fchmod(&socket, nix::sys::stat::Mode::from_bits_truncate(mode))
        .map_err(|errno| other("fchmod")(errno.into()))?;
    socket.bind(&address).map_err(|cause| match from_bind("bind", cause) {
        ListenError::Denied => ListenError::PathDenied,
        ListenError::Other { cause, .. } if cause.kind() == io::ErrorKind::NotFound => ListenError::NoDirectory,
        error => error,
    })?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(other("chmod"))?;
    socket.listen(BACKLOG.into()).map_err(|cause| from_bind("listen", cause))?;
    let first = OwnedFd::from(socket);
    let mut sockets = Vec::with_capacity(count);
    for _ in 1..count {
        sockets.push(first.try_clone().map_err(other("dup"))?);
    }
    sockets.push(first);
    Ok(sockets)
}

/// Keeps other daemons that do the same out of a directory, until the lock is dropped. Without it (a directory that cannot
/// be read, somebody who holds it for long) the race is as unlikely as it is short; so this is no reason to fail.
fn alone_in_directory_of(path: &Path) -> Option<Flock<File>> {
    let mut directory = File::open(path.parent()?).ok()?;
    for _ in 0..LOCK_TRIES {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Some(lock),
            Err((back, _)) => directory = back,
        }
        std::thread::sleep(LOCK_RETRY);
    }
    None
}

/// Removes a socket file that a process left behind. A live owner is found by connecting: only the kernel knows.
fn clear_stale(path: &Path) -> Result<(), ListenError> {
    let other = |call| move |cause| ListenError::Other { call, cause };
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(ListenError::PathDenied);
        }
        Err(cause) => return Err(other("stat")(cause)),
    };
    if !kind.is_socket() {
        return Err(ListenError::NotASocket);
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(other("socket"))?;
    let address = SockAddr::unix(path).map_err(other("address"))?;
    match probe.connect(&address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(other("unlink"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(ListenError::PathDenied),
        // Connected, or its queue is full (EAGAIN): somebody is there.
        Ok(()) | Err(_) => Err(ListenError::Answered),
    }
}

fn from_bind(call: &'static str, cause: io::Error) -> ListenError {
    match cause.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) => ListenError::InUse,
        Some(Errno::EADDRNOTAVAIL) => ListenError::NotLocal,
        Some(Errno::EACCES | Errno::EPERM) => ListenError::Denied,
        _ => ListenError::Other { call, cause },
    }
}

/// True when a socket bound to one address gets in the way of a plain bind to the other: same port, same family, and the
/// same address or one of them the wildcard.
pub fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port()
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

/// Passes sockets, and the file of a unix socket, on to another owner, so that this user can share their address again
/// later: `SO_REUSEPORT` asks that all sockets of an address belong to one user, and a socket belongs to whoever made it
/// until somebody says otherwise.
///
/// # Errors
/// What chown(2) said.
pub fn pass_on(
    sockets: &[OwnedFd],
    path: Option<&Path>,
    (user, group): (Option<u32>, Option<u32>),
) -> Result<(), ListenError> {
    let other = |cause| ListenError::Other { call: "chown", cause };
    path.map_or(Ok(()), |path| std::os::unix::fs::chown(path, user, group)).map_err(other)?;
    sockets.iter().try_for_each(|socket| std::os::unix::fs::fchown(socket, user, group)).map_err(other)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::Barrier;

    use super::*;

    fn free_port() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        listener.local_addr().expect("bound")
    }

    #[test]
    fn an_address_is_shared_among_workers_and_refused_to_a_second_daemon() {
        let address = free_port();
        let heritage = Heritage { user_timeout_ms: 55_000 };
        let ours = tcp(address, 3, heritage, Neighbours::Refuse, Presence::Now).expect("free");
        assert_eq!(ours.len(), 3);
        TcpStream::connect(address).expect("somebody listens");
        let second = tcp(address, 3, heritage, Neighbours::Refuse, Presence::Now).expect_err("taken");
        assert!(second.may_pass(), "{second}");
        let socket = SockRef::from(&ours[2]);
        assert!(socket.tcp_nodelay().expect("readable"));
        assert_eq!(socket.tcp_user_timeout().expect("readable"), Some(Duration::from_secs(55)));
        bequeath(socket, Heritage::default()).expect("options change while it listens");
        assert_eq!(SockRef::from(&ours[2]).tcp_user_timeout().expect("readable"), None);
        drop(ours);
        tcp(address, 1, heritage, Neighbours::Refuse, Presence::Now).expect("free again");
    }

    #[test]
    fn connections_inherit_what_the_listening_socket_has() {
        let address = free_port();
        let heritage = Heritage { user_timeout_ms: 12_345 };
        let ours = tcp(address, 1, heritage, Neighbours::Refuse, Presence::Now).expect("free");
        let _client = TcpStream::connect(address).expect("listens");
        let listener = Socket::from(ours.into_iter().next().expect("one"));
        let (accepted, _) = listener.accept().expect("queued");
        assert!(accepted.tcp_nodelay().expect("readable"));
        assert_eq!(accepted.tcp_user_timeout().expect("readable"), Some(Duration::from_millis(12_345)));
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("door");
        drop(UnixListener::bind(&path).expect("bound")); // closing does not unlink
        let sockets = unix(&path, 2, 0o600).expect("stale files give way");
        assert_eq!(sockets.len(), 2);
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).expect("somebody listens");
        assert!(matches!(unix(&path, 1, 0o600), Err(ListenError::Answered)));
        let file = directory.path().join("file");
        std::fs::write(&file, "precious").expect("written");
        assert!(matches!(unix(&file, 1, 0o600), Err(ListenError::NotASocket)));
        assert!(matches!(unix(&directory.path().join("no/such"), 1, 0o600), Err(ListenError::NoDirectory)));
    }

    /// What each of several daemons gets that begin at the same moment; none leaves before all have tried.
    fn at_once<T: Send>(begin: impl Fn() -> T + Sync) -> Vec<T> {
        let barrier = Barrier::new(4);
        let run = || {
            barrier.wait();
            let got = begin();
            barrier.wait();
            got
        };
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
            running.into_iter().map(|daemon| daemon.join().expect("no panic")).collect()
        })
    }

    #[test]
    fn of_daemons_that_start_at_the_same_moment_one_gets_the_address() {
        for _ in 0..100 {
            let address = free_port();
            let got = at_once(|| tcp(address, 3, Heritage::default(), Neighbours::Refuse, Presence::Now));
            assert_eq!(got.iter().filter(|doors| doors.is_ok()).count(), 1, "{got:?}");
        }
    }

    #[test]
    fn of_daemons_that_start_at_the_same_moment_one_gets_the_socket_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("door");
        for _ in 0..200 {
            let got = at_once(|| unix(&path, 1, 0o600));
            assert_eq!(got.iter().filter(|door| door.is_ok()).count(), 1, "{got:?}");
            UnixStream::connect(&path).expect("the one that is there answers");
        }
    }

    #[test]
    fn a_strange_address_is_said_to_be_strange_unless_it_may_come() {
        let strange = "192.0.2.77:0".parse().expect("an address");
        let error = tcp(strange, 1, Heritage::default(), Neighbours::Refuse, Presence::Now);
        assert!(matches!(error, Err(ListenError::NotLocal)));
        tcp(strange, 1, Heritage::default(), Neighbours::Refuse, Presence::Later).expect("bound before it is there");
        let strange = "[2001:db8::77]:0".parse().expect("an address");
        tcp(strange, 1, Heritage::default(), Neighbours::Refuse, Presence::Later).expect("bound before it is there");
        assert!(!is_present(strange.ip()));
        assert!(is_present("127.0.0.1".parse().expect("loopback")) && is_present("0.0.0.0".parse().expect("any")));
    }

    #[test]
    fn overlaps() {
        let table = [
            ("0.0.0.0:80", "10.0.0.1:80", true),
            ("10.0.0.1:80", "10.0.0.1:80", true),
            ("10.0.0.1:80", "10.0.0.2:80", false),
            ("0.0.0.0:80", "0.0.0.0:81", false),
            ("0.0.0.0:80", "[::]:80", false),
            ("[::]:80", "[::1]:80", true),
        ];
        for (a, b, expected) in table {
            let (a, b) = (a.parse().expect("a"), b.parse().expect("b"));
            assert_eq!(overlap(a, b), expected, "{a} {b}");
            assert_eq!(overlap(b, a), expected, "{b} {a}");
        }
    }
}
