//! Non-blocking sockets: opening them, and moving bytes with as few system calls as possible.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, setsockopt, sockopt};
use socket2::{SockAddr, Socket, Type};

use super::target::Target;

/// The buffer for bytes that are looked at, in bytes, one a thread.
pub const KEEP_BYTES: usize = 256 * 1024;
/// The most bytes one call throws away.
const DISCARD_BYTES: usize = 1024 * 1024;

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// So many bytes; `drained` when no more were there, so that the next call would only answer EAGAIN.
    Bytes {
        /// How many.
        count: usize,
        /// No more for now.
        drained: bool,
    },
    /// Nothing for now.
    Nothing,
    /// The peer has sent its last byte.
    End,
}

/// The read buffers of one thread.
pub struct Scratch {
    keep: Box<[u8]>,
    discard: Box<[MaybeUninit<u8>]>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { keep: vec![0; KEEP_BYTES].into(), discard: Box::new_uninit_slice(DISCARD_BYTES) }
    }
}

impl Scratch {
    /// Reads up to `bytes_max` bytes; [`Scratch::kept`] has them.
    ///
    /// # Errors
    ///
    /// What recv(2) says, except for EAGAIN.
    #[inline]
    pub fn read(&mut self, socket: &Socket, bytes_max: usize) -> io::Result<Got> {
        let room = bytes_max.min(self.keep.len());
        got(io::Read::read(&mut &*socket, &mut self.keep[..room]), room)
    }

    /// The first `count` bytes of the last [`Scratch::read`].
    pub fn kept(&self, count: usize) -> &[u8] {
        &self.keep[..count]
    }

    /// Reads and forgets up to `bytes_max` bytes. On TCP the kernel drops the bytes without copying them (MSG_TRUNC, tcp(7)), and this buffer
    /// is never touched; on a Unix socket it copies them here.
    ///
    /// # Errors
    ///
    /// What recv(2) says, except for EAGAIN.
    #[inline]
    pub fn discard(&mut self, socket: &Socket, bytes_max: usize) -> io::Result<Got> {
        let room = bytes_max.min(self.discard.len());
        let flags = MsgFlags::MSG_TRUNC.bits();
        got(socket.recv_with_flags(&mut self.discard[..room], flags), room)
    }
}

#[inline]
fn got(result: io::Result<usize>, room: usize) -> io::Result<Got> {
    match result {
        Ok(0) => Ok(Got::End),
        Ok(count) => Ok(Got::Bytes { count, drained: count < room }),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Got::Nothing),
        Err(error) => Err(error),
    }
}

/// Sends what the socket takes now, which may be nothing. When it is less than `bytes`, the socket is full and will
/// report when it is writable again.
///
/// # Errors
///
/// What send(2) says, except for EAGAIN.
#[inline]
pub fn send(socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
    match socket.send(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

/// How connections end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Close {
    /// Politely; whoever closes first keeps the port in TIME_WAIT.
    Fin,
    /// With RST, which leaves nothing behind.
    Reset,
}

/// Opens connections to one target, from each source address in turn.
pub struct Dialer {
    target: Target,
    address: SockAddr,
    sources: Vec<SockAddr>,
    next_source: usize,
    close: Close,
}

impl Dialer {
    /// Connections to `target`, bound to `sources` in turn when there are any.
    ///
    /// # Errors
    ///
    /// When the address cannot be put into the kernel's form.
    pub fn new(target: &Target, sources: &[IpAddr], close: Close) -> io::Result<Self> {
        Ok(Self {
            address: target.sock_addr()?,
            target: target.clone(),
            sources: sources.iter().map(|ip| SocketAddr::new(*ip, 0).into()).collect(),
            next_source: 0,
            close,
        })
    }

    /// A socket that is connected, or about to be.
    ///
    /// # Errors
    ///
    /// What socket(2), bind(2) or connect(2) say, except that a connect is under way.
    pub fn dial(&mut self) -> io::Result<Socket> {
        let socket = Socket::new(self.target.domain(), Type::STREAM.nonblocking(), None)?;
        if self.target.is_tcp() {
            socket.set_tcp_nodelay(true)?;
            if self.close == Close::Reset {
                socket.set_linger(Some(Duration::ZERO))?;
            }
        }
        if let Some(source) = self.sources.get(self.next_source) {
            self.next_source = (self.next_source + 1) % self.sources.len();
            // The port is then chosen by connect(2), which may share one among different targets.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(source)?;
        }
        match socket.connect(&self.address) {
            Ok(()) => Ok(socket),
            Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => Ok(socket),
            Err(error) => Err(error),
        }
    }

    /// What to tell the user when a connection could not be opened.
    pub fn complaint(&self, error: &io::Error) -> String {
        let advice = match error.kind() {
            io::ErrorKind::AddrNotAvailable => match self.sources.is_empty() {
                true => "; no local port is left, or no route: use --close reset, or several --source",
                false => "; is each --source an address of this machine, and are ports left?",
            },
            _ if error.raw_os_error() == Some(nix::libc::EMFILE) => {
                "; raise the limit of open files, or lower --connections"
            }
            _ => "",
        };
        format!("connect to {}: {error}{advice}", self.target)
    }

    /// The target, to be named in complaints.
    pub fn target(&self) -> &Target {
        &self.target
    }
}

/// True when `socket` has finished connecting; a failed one answers with its error.
///
/// # Errors
///
/// Why the connect failed.
pub fn is_connected(socket: &Socket) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}
