//! The only door from a worker to the kernel: one trait, an engine on io_uring and one on epoll.
//!
//! The shard decides, the kernel acts. [`Kernel`] has two kinds of calls. *Immediate* ones never block and answer at
//! once: `recv`, `send`, `fill`, `pour`, `finish`, `close` … *Requests* answer later, as an [`Event`] from [`Kernel::wait`]:
//! `accept`, `connect`, `watch`. Each request carries a [`Token`] that comes back with its events; the event that ends a
//! request has `more == false`, and until it has come the kernel still holds the socket, so the slot behind the token
//! may not be used again.
//!
//! Errors are bare errnos: what they mean is for the shard to say.

mod arrivals;
mod direct;
pub mod epoll;
mod spares;
pub mod uring;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{OwnedFd, RawFd};

pub use nix::errno::Errno;
use socket2::SockAddr;

/// A stream socket the worker owns, or a listening one it may use. An index into the kernel's table and no more: it
/// does not prove that the socket is open. Sessions close theirs exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sock(pub RawFd);

/// A pipe that carries bytes from one splice to the next. Not `Clone`: whoever holds it owns it.
#[derive(Debug, PartialEq, Eq)]
pub struct Pipe {
    /// The end splice(2) reads from.
    pub out: RawFd,
    /// The end splice(2) writes to.
    pub into: RawFd,
    /// Bytes it was sized for. Pages of small packets fill it sooner: a pipe counts slots, not bytes.
    pub size: usize,
}

/// What a request is for, chosen by the shard and given back with each of its events. The upper bits belong to the
/// kernel: a token must fit in [`Token::BITS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

impl Token {
    /// Bits a token may use.
    pub const BITS: u32 = 60;
}

/// How a worker is woken from outside: a ring's descriptor, or an eventfd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WakeTarget(pub RawFd);

/// Where others pass sockets to a worker: the descriptor of the outside of its hatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hatch(pub RawFd);

/// What a socket that is passed to a worker is known by: unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

impl Ticket {
    const CONNECTION: u64 = 1 << 63;

    /// That of a worker's listening socket of the door with this id.
    pub fn of_door(id: u64) -> Self {
        Self(id)
    }

    /// That of the `count`th connection that `worker` hands over.
    pub fn of_connection(worker: usize, count: u64) -> Self {
        Self(Self::CONNECTION | ((worker as u64) << 48) | (count & ((1 << 48) - 1)))
    }

    /// Whether it is a door's.
    pub fn is_door(self) -> bool {
        self.0 & Self::CONNECTION == 0
    }
}

/// Wakes workers: each engine has one for its neighbours, the control thread has one of its own.
pub trait Bell {
    /// Wakes the worker. Cheap; never blocks; waking one that is awake does no harm.
    fn ring(&mut self, target: WakeTarget);
}

/// Why an engine cannot be had here, and what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{engine} is not available: {cause} ({errno})")]
pub struct Refused {
    /// Which one.
    pub engine: &'static str,
    /// What the kernel said.
    pub errno: Errno,
    /// One short word for metrics: `sysctl`, `seccomp`, `kernel`, `memlock`, `limit`, `other`.
    pub reason: &'static str,
    /// The cause in a few words.
    pub cause: String,
    /// What an operator can do about it: one sentence.
    pub remedy: String,
}

/// What poll(2) says of a socket. Edges: each is told once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Bytes, an end of stream or an error wait to be read.
    pub readable: bool,
    /// There is room to write again.
    pub writable: bool,
    /// The peer has finished sending (FIN), or the connection is gone: read until the end shows.
    pub ended: bool,
    /// The socket has an error (RST, timeout).
    pub broken: bool,
}

/// What [`Kernel::watch`] looks for. Errors, hang-ups and the peer's FIN are always told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Something to read.
    Readable,
    /// Room to write.
    Writable,
}

/// The kinds of requests, for [`Kernel::cancel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Made by [`Kernel::accept`].
    Accept,
    /// Made by [`Kernel::connect`].
    Connect,
    /// Made by [`Kernel::watch`], with this interest.
    Watch(Interest),
}

/// An answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection was accepted, or accept failed.
    Accepted {
        /// The request's.
        token: Token,
        /// The new socket (non-blocking, close-on-exec), or why there is none.
        result: Result<Sock, Errno>,
        /// False: accept again to get more.
        more: bool,
    },
    /// A connect came to its end. Always the last event of its request.
    Connected {
        /// The request's.
        token: Token,
        /// Connected, or why not; `ECANCELED` after [`Kernel::cancel`].
        result: Result<(), Errno>,
    },
    /// A watched socket changed, or (when `more` is false) is watched no longer.
    Ready {
        /// The request's.
        token: Token,
        /// What changed; nothing when the watch only ended.
        readiness: Readiness,
        /// False: watch again to hear more.
        more: bool,
    },
    /// Somebody rang.
    Mail,
}

/// How to let go of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// close(2): the peer sees a FIN, or has seen it.
    Clean,
    /// `SO_LINGER` with zero seconds, then close(2): the peer sees an RST, unsent bytes are thrown away.
    Reset,
}

/// Options of a connection to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Local address to connect from, the port left to the kernel at connect (`IP_BIND_ADDRESS_NO_PORT`, ip(7)).
    pub source: Option<IpAddr>,
}

/// Options set on a connection once it has lived a while: short sessions never pay for them (tcp(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepaliveOptions {
    /// `TCP_KEEPIDLE` in seconds; 0: no keepalive.
    pub idle_s: u32,
    /// `TCP_KEEPINTVL` in seconds.
    pub interval_s: u32,
    /// `TCP_KEEPCNT`.
    pub count: u32,
    /// `TCP_USER_TIMEOUT` in milliseconds; 0 leaves the default.
    pub user_timeout_ms: u32,
}

/// What a shard asks of the kernel. Sockets are its worker's own: the number of one means nothing, or another, to the next.
pub trait Kernel: Bell {
    /// Submits what was requested, waits until there is an event or `timeout_ns` has passed (`Some(0)`: does not wait;
    /// `None`: as long as it takes), and appends the events. Returning without one is normal.
    ///
    /// # Errors
    /// Only what the worker cannot survive.
    fn wait(&mut self, timeout_ns: Option<u64>, events: &mut Vec<Event>) -> Result<(), Errno>;

    /// How often since the last call the queue of answers was full when the kernel had one. Nothing is lost by it, but
    /// requests end that would have gone on.
    fn take_overflows(&mut self) -> u64 {
        0
    }

    /// Requests connections from a listening socket until an event says `more == false`.
    fn accept(&mut self, listener: Sock, token: Token);
    /// Makes a non-blocking socket for `target` and requests its connection. The last acknowledgement of the handshake is
    /// held back (`TCP_DEFER_ACCEPT`, tcp(7)), so that it can travel with the first bytes: send some as soon as the
    /// connect has answered, or call [`Kernel::acknowledge`]. `target` must stay where it is until then.
    ///
    /// # Errors
    /// What socket(2), setsockopt(2) or bind(2) said; then nothing was requested and no socket is open.
    fn connect(&mut self, target: &SockAddr, options: ConnectOptions, token: Token) -> Result<Sock, Errno>;
    /// Requests an event for each edge of readiness, and one at once if the socket is ready now.
    fn watch(&mut self, sock: Sock, interest: Interest, token: Token);
    /// Asks for the end of a request on `sock`. Its last event comes as always; one already under way may come first.
    fn cancel(&mut self, request: Request, sock: Sock, token: Token);

    /// Takes one connection from a listening socket's queue at once (accept4(2)).
    ///
    /// # Errors
    /// `EAGAIN` when the queue is empty, else what accept4 said.
    fn accept_now(&mut self, listener: Sock) -> Result<Sock, Errno>;
    /// Passes a socket to the worker behind `hatch`, who claims it with `ticket`, and lets go of it here.
    ///
    /// # Errors
    /// `EAGAIN`: as many are on their way as fit. Whatever it is, the socket is still here.
    fn pass(&mut self, sock: Sock, ticket: Ticket, hatch: Hatch) -> Result<(), Errno>;
    /// Takes in what others have passed to this worker, for [`Kernel::claim`].
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`: there is no descriptor for the next one; it waits outside, with those after it.
    fn take_in(&mut self) -> Result<(), Errno>;
    /// The socket that came with `ticket`, if it is in. From now on it is the caller's.
    fn claim(&mut self, ticket: Ticket) -> Option<Sock>;
    /// Tickets of those that are in and have not been claimed.
    fn unclaimed(&self) -> Vec<Ticket>;
    /// Closes what came with `ticket`, or will come: nobody is going to claim it.
    fn discard(&mut self, ticket: Ticket);
    /// Closes a listening socket that no accept is in flight for, at once.
    fn close_listener(&mut self, listener: Sock);
    /// recv(2). 0 is the end of the stream.
    ///
    /// # Errors
    /// `EAGAIN`: nothing now. Others are of the connection.
    fn recv(&mut self, sock: Sock, into: &mut [u8]) -> Result<usize, Errno>;
    /// send(2), `MSG_NOSIGNAL`. May take less than all; then the socket is full and a `Writable` edge will come.
    ///
    /// # Errors
    /// `EAGAIN`: no room. Others are of the connection.
    fn send(&mut self, sock: Sock, bytes: &[u8]) -> Result<usize, Errno>;
    /// splice(2) from a socket into an *empty* pipe, at most `max` bytes. 0 is the end of the stream.
    ///
    /// # Errors
    /// `EAGAIN`: nothing to read now (the pipe is empty, so it cannot mean "pipe full"). Others are of the connection.
    fn fill(&mut self, pipe: &Pipe, sock: Sock, max: usize) -> Result<usize, Errno>;
    /// splice(2) from a pipe that holds exactly `held` bytes into a socket. May take less; then a `Writable` edge will come.
    ///
    /// # Errors
    /// `EAGAIN`: no room. Others are of the connection.
    fn pour(&mut self, pipe: &Pipe, sock: Sock, held: usize) -> Result<usize, Errno>;
    /// Makes a pipe of about `size` bytes; it may get less (see [`Pipe::size`]).
    ///
    /// # Errors
    /// What pipe2(2) said.
    fn open_pipe(&mut self, size: usize) -> Result<Pipe, Errno>;
    /// Closes both ends, with whatever is in it.
    fn close_pipe(&mut self, pipe: Pipe);
    /// shutdown(2) for writing: the peer sees a FIN after the last byte. An error means that the connection is gone, which
    /// its own events tell.
    fn finish(&mut self, sock: Sock);
    /// Lets go of a socket, after everything requested before. Requests on it must have been cancelled: the FIN or RST
    /// leaves when they have ended, which is in the next [`Kernel::wait`].
    fn close(&mut self, sock: Sock, how: Close);
    /// Lets go of a socket of [`Kernel::connect`] to `target`, without a `source`, as [`Close::Reset`] does. Nothing has been
    /// set on it that a new connection must not have: an engine may use it for one.
    fn spare(&mut self, sock: Sock, _target: &SockAddr) {
        self.close(sock, Close::Reset);
    }
    /// The socket's pending error (`SO_ERROR`), which this clears.
    fn error(&mut self, sock: Sock) -> Option<Errno>;
    /// The peer's address (getpeername(2)); `None` for a unix socket or one that is gone.
    fn peer(&mut self, sock: Sock) -> Option<SocketAddr>;
    /// Bytes sent that the peer has not acknowledged: a reset now would cost it them (`SIOCOUTQ`, tcp(7)).
    fn unsent(&mut self, sock: Sock) -> usize;
    /// The local address (getsockname(2)); `None` for a unix socket.
    fn local(&mut self, sock: Sock) -> Option<SocketAddr>;
    /// Lets the held-back acknowledgement of a handshake go: there is nothing to send with it.
    fn acknowledge(&mut self, sock: Sock);
    /// Sends small messages at once from now on (`TCP_NODELAY`, tcp(7)), and whatever waits already. Until then only a
    /// message that follows unacknowledged ones would wait.
    fn send_promptly(&mut self, sock: Sock);
    /// Tells of something to read only once `bytes` wait, or the end does, or the window is full (`SO_RCVLOWAT`, socket(7);
    /// tcp_poll takes it to heart since Linux 4.18); 1 is the default. Reading is not hindered. If enough waits already there
    /// is an edge at once. No effect on a unix socket.
    fn gather(&mut self, sock: Sock, bytes: usize);
    /// Sets keepalive and user timeout. Does nothing on a unix socket.
    fn keep_alive(&mut self, sock: Sock, options: KeepaliveOptions);
}

/// A kernel that a worker can be started on.
pub trait Engine: Kernel + Sized {
    /// Makes one. Call it on the thread that will use it.
    ///
    /// # Errors
    /// Why it cannot be had, with a remedy.
    fn new() -> Result<Self, Refused>;
    /// How others wake this worker.
    fn wake_target(&self) -> WakeTarget;
    /// The descriptor behind the wake target, if it must stay open for as long as somebody may ring. Given once.
    fn rope(&mut self) -> Option<OwnedFd>;
    /// The outside of its hatch. Given once.
    fn hatch(&mut self) -> Option<OwnedFd>;
    /// Descriptors it holds from its making: what a worker keeps that moves to a table of its own.
    fn descriptors(&self) -> Vec<RawFd>;
}
