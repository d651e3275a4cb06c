//! One check on the wire: connects, sends and reads what the probe says.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, SockAddr, Type};

use crate::config::plan::Address;
use crate::health::{Fault, Outcome, Probe, Step};
use crate::proxy_protocol::{Ends, Header, Version};

use super::gather::{Gatherer, Socket};

/// Where to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) address: Address,
    /// The local address to ask from: a server may know ringway by it.
    pub(super) source: Option<IpAddr>,
    /// It is told first who asks, in this version of the PROXY protocol.
    pub(super) send_proxy: Option<Version>,
}

/// A connection to a server.
pub(super) struct Link {
    socket: Socket,
    is_tcp: bool,
    /// Nothing was sent yet.
    is_silent: Cell<bool>,
}

/// Leads one conversation; `waiting_for` always says what it waits for. Dropped before its end, it closes the connection.
pub(super) async fn check(
    probe: &mut dyn Probe,
    target: &Target,
    gatherer: &Rc<Gatherer>,
    waiting_for: &Cell<&'static str>,
) -> Outcome {
    let link = Link::open(target, gatherer).await.map_err(|error| connect_fault(&error))?;
    let broken = |error: io::Error| Fault::Broken { waiting_for: waiting_for.get(), why: words(&error) };
    // What goes out before what the probe says, and in one piece with it.
    let mut first = target.header(&link).map_or_else(Vec::new, |header| header.to_vec());
    let mut step = probe.connected();
    loop {
        waiting_for.set(probe.waiting_for());
        let mut send = std::mem::take(&mut first);
        match step {
            Step::Send(said) => send.extend(said),
            Step::Read => {}
            Step::Done { outcome, reset } => {
                // Whether it was taken is not what was asked.
                let _ = link.send_all(&send).await;
                if reset {
                    link.reset();
                }
                return outcome;
            }
        }
        let next = link.exchange(&send, |bytes| match bytes {
            [] => probe.closed(),
            bytes => probe.received(bytes),
        });
        step = next.await.map_err(broken)?;
    }
}

impl Target {
    /// What goes before everything else on a connection to it.
    pub(super) fn header(&self, link: &Link) -> Option<Header> {
        self.send_proxy.map(|version| Header::of_own(version, || link.ends()))
    }
}

impl Link {
    pub(super) async fn open(target: &Target, gatherer: &Rc<Gatherer>) -> io::Result<Self> {
        let (domain, address) = match &target.address {
            Address::Inet(inet) => (Domain::for_address(*inet), SockAddr::from(*inet)),
            Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        };
        let socket = socket2::Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?;
        if let Some(source) = target.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        let begun = socket.connect(&address);
        let is_tcp = domain != Domain::UNIX;
        if begun.is_ok() {
            return Ok(Self { socket: gatherer.watch(socket)?, is_tcp, is_silent: Cell::new(true) });
        }
        begun.or_else(|error| if errno(&error) == Errno::EINPROGRESS { Ok(()) } else { Err(error) })?;
        let link = Self { socket: gatherer.watch(socket)?, is_tcp, is_silent: Cell::new(true) };
        loop {
            link.socket.writable().await;
            // Said once more, it tells how it came out, and is never taken in by a socket that is writable for another
            // reason: connect(2), `EALREADY` and `EISCONN`.
            match link.socket.fd().connect(&address) {
                Err(error) if errno(&error) == Errno::EALREADY => link.socket.is_not_connected(),
                Err(error) if errno(&error) != Errno::EISCONN => return Err(error),
                _ => return Ok(link),
            }
        }
    }

    /// Its own end and the server's; `None` for a unix socket, or when it is no more.
    fn ends(&self) -> Option<Ends> {
        let [source, destination] = [self.socket.fd().local_addr(), self.socket.fd().peer_addr()];
        Some(Ends { source: source.ok()?.as_socket()?, destination: destination.ok()?.as_socket()? })
    }

    async fn send_all(&self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = &rest[self.send_now(rest)?..];
            if !rest.is_empty() {
                self.socket.writable().await;
            }
        }
        Ok(())
    }

    /// Sends `send`, then reads something, which `take` gets; nothing: the server has said all.
    async fn exchange<T>(&self, send: &[u8], take: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        self.send_all(send).await?;
        let mut take = Some(take);
        loop {
            self.socket.readable().await;
            let taken = self.socket.read(|bytes| take.take().map(|take| take(bytes)))?;
            if let Some(taken) = taken.flatten() {
                return Ok(taken);
            }
        }
    }

    /// Its socket, to wait for.
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Sends as much as goes now; how many bytes did.
    pub(super) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_silent.replace(false) && self.is_tcp {
            self.socket.fd().set_tcp_nodelay(true)?;
        }
        self.socket.send(bytes)
    }

    /// Has its end be a reset.
    fn reset(&self) {
        if self.is_tcp {
            // What cannot be reset is closed.
            let _ = self.socket.fd().set_linger(Some(Duration::ZERO));
        }
    }
}

/// What an error of connect(2), or of what comes before it, says of the server.
pub(super) fn connect_fault(error: &io::Error) -> Fault {
    let text = words(error);
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ECONNREFUSED | Errno::ENOENT | Errno::ECONNRESET) => Fault::Refused,
        Some(
            Errno::EMFILE
            | Errno::ENFILE
            | Errno::ENOBUFS
            | Errno::ENOMEM
            | Errno::EADDRNOTAVAIL
            | Errno::EADDRINUSE
            | Errno::EAGAIN
            | Errno::ENOSPC,
        ) => Fault::Local(text),
        _ => Fault::Unreachable(text),
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// An error of a system call, in the words of the system and without its number.
fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(errno) => Errno::from_raw(errno).desc().to_lowercase(),
        None => error.to_string(),
    }
}
