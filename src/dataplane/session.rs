//! A session: a client, a server, and a pump for each direction between them.

use std::net::SocketAddr;
use std::sync::Arc;

use super::ending::Ending;
use super::pump::Pump;
use crate::balance::Tried;
use crate::base::slab::{GENERATION_BITS, Key};
use crate::config::plan::{Listener, Server, Terms};
use crate::kernel::{Interest, Sock, Token};

/// One session.
#[derive(Debug)]
pub struct Session {
    /// Where it came in, and through it the pool and the terms it began with.
    pub listener: Arc<Listener>,
    /// What it is doing.
    pub phase: Phase,
    /// What the kernel still holds of it; the slot is free when this is empty and the phase is `Closing`.
    pub in_flight: InFlight,
    /// The client's socket; ours until the phase is `Closing`.
    pub client: Sock,
    /// The server's socket, once there is one.
    pub server: Option<Sock>,
    /// From client to server.
    pub up: Pump,
    /// From server to client.
    pub down: Pump,
    /// Everything only its start, its end and its timer look at.
    pub life: Life,
}

/// What a session is doing.
///
/// | from | when | to |
/// |---|---|---|
/// | – | accepted (here or by another worker) | `Connecting` |
/// | `Connecting` | connected | `Relaying`, or `Greeting` when the server speaks first |
/// | `Connecting` | connect failed, another server can be tried | `Connecting` |
/// | `Connecting` | every server is full, and the pool has a queue | `Queued` |
/// | `Queued` | a place is free | `Connecting` |
/// | `Greeting` | the server's first packet is one for the client | `Relaying` |
/// | `Greeting` | it is an error that sends on, or does not come | `Parting` |
/// | `Parting` | the watch on that server has ended, another can be tried | `Connecting` |
/// | all of these | any `Ending` | `Closing` |
/// | `Closing` | nothing in flight | freed |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A connect to a server is under way.
    Connecting {
        /// Its time is up and it has been cancelled; its answer decides what is next.
        late: bool,
    },
    /// Every server it could have is full; it waits for a place (`queue`).
    Queued,
    /// Connected to a server that speaks first; the client sees nothing of it before its first packet is here (`gate`).
    Greeting,
    /// A server that did not greet has been let go. The watch on it must have ended before another is watched, else what is
    /// still said of the one would be taken for the other's.
    Parting {
        /// How the session ends if there is no other.
        ending: Ending,
        /// The errno with it.
        errno: i32,
    },
    /// Both sides are connected.
    Relaying,
    /// Ended and recorded; the kernel has not yet answered everything.
    Closing,
}

/// The parts of a session off the hot path.
#[derive(Debug)]
pub struct Life {
    /// See [`super::record::Record::session`].
    pub id: u64,
    /// The client's address, when it is recorded or the pool's policy goes by it.
    pub peer: Option<SocketAddr>,
    /// Our port towards the server.
    pub local_port: u16,
    /// The chosen server's index in the pool; its place there is claimed.
    pub chosen: Option<u16>,
    /// The server of the last failed attempt, for the record.
    pub last: Option<u16>,
    /// Servers tried.
    pub tried: Tried,
    /// The sum of their [`ServerLedger::proofs`](crate::config::ledger::ServerLedger::proofs) when each was tried; kept only
    /// where a role is wanted.
    pub proofs: u32,
    /// Servers tried before all that were tried in vain were to be had again.
    pub forgiven: u8,
    /// Local addresses tried for the chosen server.
    pub sources_tried: u8,
    /// Messages to the server no longer wait for each other (`TCP_NODELAY`).
    pub prompt: bool,
    /// The last bytes went to the client.
    pub answered: bool,
    /// Keepalive and user timeout are set.
    pub settled: bool,
    /// The error packet of the last server that sent one instead of a greeting: for the client, if no other server greets.
    pub refusal: Option<Vec<u8>>,
    /// The server is gone, and what it sent is still being delivered; then the session ends like this.
    pub doomed: Option<(Ending, i32)>,
    /// When it was accepted, in nanoseconds.
    pub accepted_ns: u64,
    /// When it began to wait for a place, the last time.
    pub queued_ns: u64,
    /// Until when it waits for a server that it may try (again); 0: it has never had to.
    pub patience_ns: u64,
    /// How long it has waited for places, in microseconds.
    pub queue_us: u32,
    /// When the last server was chosen.
    pub picked_ns: u64,
    /// When a byte last moved, or a direction finished.
    pub active_ns: u64,
    /// When `max_lifetime` ends it; `u64::MAX` for never.
    pub lifetime_ns: u64,
    /// When the next record of a living session is due.
    pub report_ns: u64,
    /// From the choice of the server to its connection, in microseconds.
    pub connect_us: Option<u32>,
    /// From accept to the server's first byte, in microseconds.
    pub first_byte_us: Option<u32>,
}

/// A direction of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to server.
    Up,
    /// Server to client.
    Down,
}

impl Direction {
    /// The way back.
    pub fn other(self) -> Direction {
        match self {
            Direction::Up => Direction::Down,
            Direction::Down => Direction::Up,
        }
    }
}

/// A side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who connected to us.
    Client,
    /// Who we connected to.
    Server,
}

impl Side {
    /// The direction that reads from this side.
    pub fn outgoing(self) -> Direction {
        match self {
            Side::Client => Direction::Up,
            Side::Server => Direction::Down,
        }
    }

    /// The direction that writes to this side.
    pub fn incoming(self) -> Direction {
        match self {
            Side::Client => Direction::Down,
            Side::Server => Direction::Up,
        }
    }
}

impl Session {
    /// The terms it began with.
    pub fn terms(&self) -> &Terms {
        &self.listener.pool.terms
    }

    /// The server it has a place on.
    pub fn chosen(&self) -> Option<&Server> {
        self.life.chosen.map(|index| &self.listener.pool.servers[usize::from(index)])
    }

    /// Servers tried, those that were forgiven too.
    pub fn attempts(&self) -> u8 {
        self.life.forgiven.saturating_add(self.life.tried.count())
    }

    /// Whom it has tried in vain: all it has tried, unless one of them has passed a check since. Then whatever was wrong may be
    /// over, and each may be tried again.
    pub fn in_vain(&self) -> Tried {
        let servers = &self.listener.pool.servers;
        let proofs = |sum: u32, index: u16| {
            sum.wrapping_add(servers.get(usize::from(index)).map_or(0, |server| server.ledger.proofs()))
        };
        let tried = self.life.tried;
        let is_news =
            self.listener.role.is_some() && tried.servers().iter().copied().fold(0, proofs) != self.life.proofs;
        if is_news { Tried::default() } else { tried }
    }

    /// The pump of a direction.
    pub fn pump(&mut self, direction: Direction) -> &mut Pump {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }

    /// What the watch of a role is on, and looks for; `None` if there is no such socket, or no such watch.
    pub fn watched(&self, role: Role) -> Option<(Sock, Interest)> {
        match role {
            Role::ReadClient => Some((self.client, Interest::Readable)),
            Role::WriteClient => Some((self.client, Interest::Writable)),
            Role::ReadServer => self.server.map(|server| (server, Interest::Readable)),
            Role::WriteServer => self.server.map(|server| (server, Interest::Writable)),
            Role::Connect | Role::Door => None,
        }
    }

    /// Whether nothing is under way: the last bytes went to the client, and all of them, or nobody ever said anything; and
    /// neither side has finished, which is how the other is told to answer.
    pub fn is_idle(&self) -> bool {
        let at_rest = |pump: &Pump| !pump.is_blocked() && !pump.queued && !pump.readable;
        let is_answered = self.life.answered || self.up.moved + self.down.moved == 0;
        is_answered && !self.is_half_closed() && at_rest(&self.up) && at_rest(&self.down)
    }

    /// One direction has finished and the other has not.
    pub fn is_half_closed(&self) -> bool {
        self.up.finished || self.down.finished
    }
}

/// The requests a session can have in flight, as bits and as the roles of their tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Waiting for bytes from the client.
    ReadClient = 0,
    /// Waiting for room towards the client.
    WriteClient = 1,
    /// Waiting for bytes from the server.
    ReadServer = 2,
    /// Waiting for room towards the server.
    WriteServer = 3,
    /// Connecting to the server.
    Connect = 4,
    /// Not of a session: accepting at a door.
    Door = 5,
}

impl Role {
    /// The watch for room towards a side.
    pub fn write(side: Side) -> Role {
        match side {
            Side::Client => Role::WriteClient,
            Side::Server => Role::WriteServer,
        }
    }

    /// The side a watch is on.
    pub fn side(self) -> Side {
        match self {
            Role::ReadClient | Role::WriteClient => Side::Client,
            Role::ReadServer | Role::WriteServer | Role::Connect | Role::Door => Side::Server,
        }
    }

    /// The token of this role's request for the session (or door) behind `key`.
    pub fn token(self, key: Key) -> Token {
        Token(((self as u64) << (32 + GENERATION_BITS)) | (u64::from(key.generation) << 32) | u64::from(key.index))
    }

    /// What [`Role::token`] put in.
    pub fn parse(token: Token) -> Option<(Role, Key)> {
        let role = match token.0 >> (32 + GENERATION_BITS) {
            0 => Role::ReadClient,
            1 => Role::WriteClient,
            2 => Role::ReadServer,
            3 => Role::WriteServer,
            4 => Role::Connect,
            5 => Role::Door,
            _ => return None,
        };
        let generation = ((token.0 >> 32) & ((1 << GENERATION_BITS) - 1)) as u32;
        Some((role, Key { index: (token.0 & u64::from(u32::MAX)) as u32, generation }))
    }
}

/// A set of [`Role`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InFlight(u8);

impl InFlight {
    /// Adds one; false if it was there.
    pub fn add(&mut self, role: Role) -> bool {
        let fresh = !self.has(role);
        self.0 |= 1 << role as u8;
        fresh
    }

    /// Takes one away.
    pub fn remove(&mut self, role: Role) {
        self.0 &= !(1 << role as u8);
    }

    /// Whether it is there.
    pub fn has(self, role: Role) -> bool {
        self.0 & (1 << role as u8) != 0
    }

    /// Whether none is.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

const _: () = assert!(4 + GENERATION_BITS + 32 <= Token::BITS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_whole() {
        let key = Key { index: u32::MAX - 1, generation: (1 << GENERATION_BITS) - 1 };
        for role in [Role::ReadClient, Role::WriteServer, Role::Connect, Role::Door] {
            assert_eq!(Role::parse(role.token(key)), Some((role, key)));
            assert!(role.token(key).0 < 1 << Token::BITS);
        }
    }

    #[test]
    fn a_session_is_small() {
        assert!(size_of::<Session>() <= 440, "{}", size_of::<Session>());
    }
}
