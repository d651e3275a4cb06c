//! One check on the wire: connects, sends and reads what the probe says.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::config::plan::Address;
use crate::health::{Fault, Outcome, Probe, Step};

/// Bytes read at once.
const READ: usize = 4096;

/// Where to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) address: Address,
    /// The local address to ask from: a server may know ringway by it.
    pub(super) source: Option<IpAddr>,
}

/// A connection to a server.
#[derive(Debug)]
pub(super) enum Link {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Leads one conversation; `waiting_for` always says what it waits for. Dropped before its end, it closes the connection.
pub(super) async fn check(probe: &mut dyn Probe, target: &Target, waiting_for: &Cell<&'static str>) -> Outcome {
    let mut link = Link::open(target).await.map_err(|error| connect_fault(&error))?;
    let mut bytes = Vec::new();
    let mut step = probe.connected();
    loop {
        waiting_for.set(probe.waiting_for());
        let send = match step {
            Step::Send(send) => send,
            Step::Read => Vec::new(),
            Step::Done { outcome, reset } => {
                if reset {
                    link.reset();
                }
                return outcome;
            }
        };
        bytes.clear();
        step = match link.exchange(&send, &mut bytes).await {
            Ok(0) => probe.closed(),
            Ok(_) => probe.received(&bytes),
            Err(error) => return Err(Fault::Broken { waiting_for: waiting_for.get(), why: words(&error) }),
        };
    }
}

impl Link {
    pub(super) async fn open(target: &Target) -> io::Result<Self> {
        match &target.address {
            Address::Inet(inet) => {
                let socket = if inet.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
                if let Some(source) = target.source {
                    socket.bind(SocketAddr::new(source, 0))?;
                }
                let stream = socket.connect(*inet).await?;
                stream.set_nodelay(true)?;
                Ok(Link::Tcp(stream))
            }
            Address::Unix(path) => UnixStream::connect(path).await.map(Link::Unix),
        }
    }

    /// Sends `send`, then reads something. 0 bytes: the server has said all.
    async fn exchange(&mut self, send: &[u8], bytes: &mut Vec<u8>) -> io::Result<usize> {
        bytes.reserve(READ);
        match self {
            Link::Tcp(stream) => {
                stream.write_all(send).await?;
                stream.read_buf(bytes).await
            }
            Link::Unix(stream) => {
                stream.write_all(send).await?;
                stream.read_buf(bytes).await
            }
        }
    }

    /// Waits until there may be something to read, or the end.
    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Link::Tcp(stream) => stream.readable().await,
            Link::Unix(stream) => stream.readable().await,
        }
    }

    /// Waits until something may be sent.
    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Link::Tcp(stream) => stream.writable().await,
            Link::Unix(stream) => stream.writable().await,
        }
    }

    /// Reads what there is now, at most [`READ`] bytes; nothing at the end. `WouldBlock`: not yet.
    pub(super) fn read_now(&self) -> io::Result<Vec<u8>> {
        // One for all of them, so that it stays warm.
        let mut buffer = [0; READ];
        let count = match self {
            Link::Tcp(stream) => stream.try_read(&mut buffer),
            Link::Unix(stream) => stream.try_read(&mut buffer),
        }?;
        if count < READ {
            self.is_read();
        }
        Ok(buffer[..count].to_vec())
    }

    /// There was less than was asked for, so there is no more: the next wait need not find that out by another read. What comes
    /// meanwhile, and an end, are told anew: epoll(7), "Do I need to continuously read/write…".
    fn is_read(&self) {
        let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _ = match self {
            Link::Tcp(stream) => stream.try_io(Interest::READABLE, nothing),
            Link::Unix(stream) => stream.try_io(Interest::READABLE, nothing),
        };
    }

    /// Sends as much as goes now; how many bytes did.
    pub(super) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let sent = match self {
            Link::Tcp(stream) => stream.try_write(bytes),
            Link::Unix(stream) => stream.try_write(bytes),
        };
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            sent => sent,
        }
    }

    /// Has its end be a reset.
    fn reset(&self) {
        if let Link::Tcp(stream) = self {
            // What cannot be reset is closed.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
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
            | Errno::EAGAIN,
        ) => Fault::Local(text),
        _ => Fault::Unreachable(text),
    }
}

/// An error of a system call, in the words of the system and without its number.
fn words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(errno) => Errno::from_raw(errno).desc().to_lowercase(),
        None => error.to_string(),
    }
}
