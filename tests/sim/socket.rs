//! A TCP connection as Linux keeps it, with the peer at its far end: counts of bytes instead of bytes.
//!
//! What matters is in the corners, and taken from `net/ipv4/tcp.c`: a reset leaves what had arrived to be read; the error
//! is told once, by whichever of recv, send and `SO_ERROR` comes first, and after that a reset connection reads as ended;
//! a FIN that has come before makes recv say 0 whatever comes after; close with unread data resets.

use std::net::SocketAddr;

use ringway::kernel::{Close, Errno, Interest, Readiness};

use crate::flight::FlightKey;
use crate::greeting::Greeting;
use crate::header::Due;
use crate::peer::Peer;

/// Who is at the far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Far {
    /// A client, who came in by this door.
    Client { door: usize },
    /// A server, by its index among the targets.
    Server { target: usize },
}

/// What the shard has made of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// In the queue of a listening socket.
    Queued,
    /// The shard's.
    Open,
    /// Closed; the kernel still has requests on it.
    Closing(Close),
    /// Gone: the FIN or RST has left.
    Released(Close),
}

#[derive(Debug)]
pub struct Socket {
    pub far: Far,
    pub address: SocketAddr,
    pub hold: Hold,
    pub connected: bool,
    /// It is said to be connected and is not, for this.
    pub untrue: Option<Errno>,
    /// Which of all accepted connections it is, from 1.
    pub accepted: u64,
    pub accepted_ns: u64,
    /// The pool it came to, and which of its servers were in the plan.
    pub pool: usize,
    pub members: Vec<usize>,
    /// How many scenes there had been when it was accepted, and whether its door was closed by then.
    pub scene: u64,
    pub is_late: bool,
    /// The session it belongs to.
    pub pair: Option<usize>,
    /// What it says first, if it is a server of `kind = "mysql"`.
    pub greeting: Option<Greeting>,
    /// What it wants to hear first, if it is a server that is told whose connection it is.
    pub due: Option<Due>,
    /// Requests on it: lane and key.
    pub flights: Vec<(usize, FlightKey)>,

    /// Bytes that have come from the peer, and how many of them were read.
    pub arrived: u64,
    pub read: u64,
    pub room_in: u64,
    /// It tells of bytes only when this many wait (`SO_RCVLOWAT`).
    pub gathers: u64,
    /// When the first of the bytes arrived that wait and were not told of.
    pub untold_since: Option<u64>,
    /// The peer's FIN has come (`SOCK_DONE`).
    pub fin_arrived: bool,
    /// recv has said 0.
    pub end_read: bool,

    /// Bytes taken from the shard, those of a header too, and how many of them the peer has read.
    pub taken: u64,
    pub delivered: u64,
    /// When it last did.
    pub delivered_ns: u64,
    /// Bytes our own reset threw away.
    pub lost: u64,
    pub room_out: u64,
    /// A writer was turned away (`SOCK_NOSPACE`).
    pub starved: bool,
    /// It says full before it is, until the peer reads.
    pub squeezed: bool,
    pub fin_sent: bool,

    /// `sk_err`.
    pub error: Option<Errno>,
    /// Reset or timed out: `TCP_CLOSE`.
    pub dead: bool,
    pub peer: Peer,
}

impl Socket {
    pub fn new(far: Far, address: SocketAddr, room: (u64, u64), peer: Peer) -> Self {
        let client = matches!(far, Far::Client { .. });
        Self {
            far,
            address,
            hold: if client { Hold::Queued } else { Hold::Open },
            connected: client,
            untrue: None,
            accepted: 0,
            accepted_ns: 0,
            pool: 0,
            members: Vec::new(),
            scene: 0,
            is_late: false,
            pair: None,
            greeting: None,
            due: None,
            flights: Vec::new(),
            arrived: 0,
            read: 0,
            room_in: room.0,
            gathers: 1,
            untold_since: None,
            fin_arrived: false,
            end_read: false,
            taken: 0,
            delivered: 0,
            delivered_ns: 0,
            lost: 0,
            room_out: room.1,
            starved: false,
            squeezed: false,
            fin_sent: false,
            error: None,
            dead: false,
            peer,
        }
    }

    /// Bytes that wait for the shard.
    pub fn unread(&self) -> u64 {
        self.arrived - self.read
    }

    /// Bytes that wait for the peer.
    pub fn unsent(&self) -> u64 {
        self.taken - self.delivered - self.lost
    }

    /// Bytes send would take.
    pub fn room(&self) -> u64 {
        if self.squeezed { 0 } else { self.room_out.saturating_sub(self.unsent()) }
    }

    /// `sk_stream_is_writeable`: not before a third is free.
    pub fn is_writable(&self) -> bool {
        self.dead || self.fin_sent || (self.room() > 0 && self.room() >= self.unsent() / 2)
    }

    /// Something, or the end of everything, can be read that was not.
    pub fn is_readable(&self) -> bool {
        self.unread() > 0 || ((self.fin_arrived || self.dead) && !self.end_read)
    }

    /// Enough waits to be told of: what was asked for, or a full window (`tcp_epollin_ready`).
    pub fn has_gathered(&self) -> bool {
        self.unread() > 0 && self.unread() >= self.gathers.min(self.room_in)
    }

    /// What poll(2) says to a watch (`tcp_poll`).
    pub fn level(&self, interest: Interest) -> Readiness {
        let hung_up = self.dead || (self.fin_arrived && self.fin_sent);
        match interest {
            Interest::Readable => Readiness {
                readable: self.has_gathered() || self.fin_arrived || self.dead,
                writable: false,
                ended: self.fin_arrived || hung_up,
                broken: self.error.is_some(),
            },
            Interest::Writable => Readiness {
                readable: false,
                writable: self.is_writable(),
                // io_uring asks for it (`IO_POLL_UNMASK`), whatever else is looked for.
                ended: self.fin_arrived || hung_up,
                broken: self.error.is_some(),
            },
        }
    }

    /// How many of `max` bytes can be read now; 0 is the end.
    pub fn take(&mut self, max: u64) -> Result<u64, Errno> {
        if self.unread() > 0 {
            return Ok(self.unread().min(max));
        }
        if !self.fin_arrived {
            if let Some(error) = self.error.take() {
                return Err(error);
            }
            if !self.dead {
                return Err(Errno::EAGAIN);
            }
        }
        self.end_read = true;
        Ok(0)
    }

    /// How many of `len` bytes can be written now.
    pub fn put(&mut self, len: u64) -> Result<u64, Errno> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if self.dead || self.fin_sent {
            return Err(Errno::EPIPE);
        }
        let taken = self.room().min(len);
        self.starved |= taken < len;
        if taken == 0 { Err(Errno::EAGAIN) } else { Ok(taken) }
    }

    pub fn is_open(&self) -> bool {
        self.hold == Hold::Open
    }
}

/// What means that a connect found no way: none of those that say more.
pub fn says_no(errno: Errno) -> bool {
    let more = [
        Errno::ECONNREFUSED,
        Errno::ECONNRESET,
        Errno::ETIMEDOUT,
        Errno::ECANCELED,
        Errno::EADDRNOTAVAIL,
        Errno::EADDRINUSE,
    ];
    !more.contains(&errno) && !is_shortage(errno)
}

/// What means that something ran short here.
pub fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
}
