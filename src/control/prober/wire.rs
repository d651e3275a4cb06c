//! One check on the wire: connects, sends and reads what the probe says.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::config::plan::Address;
use crate::health::{Fault, Outcome, Probe, Step, Then};

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

/// Leads one conversation. `link` is the connection that was kept, if there is one, and is left there if it is to be kept;
/// `waiting_for` always says what for.
pub(super) async fn check(
    probe: &mut dyn Probe,
    target: &Target,
    link: &mut Option<Link>,
    waiting_for: &Cell<&'static str>,
    now_ns: u64,
) -> Outcome {
    // Taken out for the time of the check: whatever ends it early closes the connection.
    let mut current = link.take();
    let mut fresh = false;
    let mut bytes = Vec::new();
    let mut step = probe.begin(current.is_some(), now_ns);
    loop {
        let send = match step {
            Step::Connect => {
                drop(current.take());
                waiting_for.set("a connection");
                current = Some(Link::open(target).await.map_err(connect_fault)?);
                fresh = true;
                step = probe.connected();
                continue;
            }
            Step::Done { outcome, then } => {
                *link = current.and_then(|current| current.leave_as(&then)).filter(|_| then == Then::Keep);
                return outcome;
            }
            Step::Send(send) => send,
            Step::Read => Vec::new(),
        };
        let Some(link) = current.as_mut() else {
            return Err(Fault::Local("a check that speaks before it has connected".into()));
        };
        waiting_for.set("an answer");
        bytes.clear();
        step = match link.exchange(&send, &mut bytes).await {
            Ok(0) => probe.closed(),
            Ok(_) => {
                fresh = true;
                probe.received(&bytes)
            }
            // A server may give up a connection that was kept at any time, and by a reset.
            Err(_) if !fresh => probe.closed(),
            Err(error) => return Err(Fault::Broken(words(&error))),
        };
    }
}

impl Link {
    async fn open(target: &Target) -> io::Result<Self> {
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

    /// Does what is to be done when a check is over; gives the connection back if it still stands.
    fn leave_as(self, then: &Then) -> Option<Self> {
        match then {
            Then::Keep => return Some(self),
            Then::Close(last_words) => self.say_last(last_words),
            Then::Reset => {
                if let Link::Tcp(stream) = &self {
                    // What cannot be reset is closed.
                    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
                }
            }
        }
        None
    }

    /// Sends last words as far as they can be sent at once, and closes.
    pub(super) fn say_last(&self, words: &[u8]) {
        // Whoever does not take a few bytes on an idle connection has its own troubles.
        let _ = match self {
            _ if words.is_empty() => Ok(0),
            Link::Tcp(stream) => stream.try_write(words),
            Link::Unix(stream) => stream.try_write(words),
        };
    }
}

/// What an error of connect(2), or of what comes before it, says of the server.
fn connect_fault(error: io::Error) -> Fault {
    let text = words(&error);
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
