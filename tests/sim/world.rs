//! The world around the shards: sockets and their peers, listening queues, pipes, the clock, and what is to happen when.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::rc::Rc;

use ringway::config::plan::RoleWish;
use ringway::kernel::{Interest, Readiness, Sock};

use crate::faults::Faults;
use crate::flight::{FlightKey, Lane, Word};
use crate::greeting::Greeting;
use crate::hatch::Hatches;
use crate::oracle::Pair;
use crate::peer::Peer;
use crate::rng::Rng;
use crate::roles::Roles;
use crate::scene::{PoolTerms, Target};
use crate::socket::{Far, Hold, Socket};

/// Sockets of the simulation are numbered from here: real descriptors stand for doors.
const SOCK_BASE: i32 = 1_000_000;

/// Keeps the extras apart from everything else that is drawn; and has those seeds among the classic ones that are tests by
/// name (`tests/sim.rs`).
const EXTRA: u64 = 0x6A09_E667_F3BC_C911;
/// Keeps haste apart in the same way.
const HASTE: u64 = 0xBB67_AE85_84CA_A73B;
/// Keeps hatches apart in the same way.
const HATCH: u64 = 0x510E_527F_ADE6_82D1;
/// Keeps want apart in the same way.
const WANT: u64 = 0x3C6E_F372_FE94_F82B;

/// Keeps headers apart in the same way.
const HEADERS: u64 = 0x9B05_688C_2B3E_6C1F;

/// Keeps the march apart in the same way.
const MARCH: u64 = 0xA54F_F53A_5F1D_36F1;

/// Lines of what happened; `None` while nobody reads them.
#[derive(Clone, Default)]
pub struct Trace(pub Option<Rc<RefCell<Vec<String>>>>);

/// Writes a line of the trace, if there is one.
macro_rules! note {
    ($world:expr, $($words:tt)*) => {
        if let Some(lines) = &$world.trace.0 {
            let line = format!("{:>13} {}", $world.now, format_args!($($words)*));
            lines.borrow_mut().push(line);
        }
    };
}
pub(crate) use note;

/// Something that will happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Errand {
    /// A peer looks at its connection.
    Act(usize),
    /// The network answers a connect.
    Answer(usize, FlightKey, Outcome),
    /// A client comes.
    Client,
    /// The configuration changes.
    Reload,
    /// An operator changes a server's standing.
    Standing,
    /// The control thread learns something of a server.
    Health,
    /// It learns of a role that is lost or found.
    Role,
    /// It hears that a server works.
    Proof,
    /// A letter about a new scene comes late.
    Letter(usize),
    /// Servers that ramp have warmed up a little.
    Ramp,
    /// An operator ends the sessions of a client, or looks at those of all.
    Roll,
    /// An operator has sessions led out, some more of them, or no more.
    March(Step),
    /// A worker is drained and the configuration changed at once, with people at the doors.
    Haste(usize),
    /// A letter to a worker.
    Drain(usize),
    /// A letter to a worker.
    Stop(usize),
}

/// A step of a march.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Begin,
    More,
    Everyone,
    End,
}

/// How a connect goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Connected,
    Refused,
    TimedOut,
    Unreachable,
    NoPorts,
}

/// What wakes those who wait on a socket: the key of the kernel's wake-up.
#[derive(Clone, Copy, Debug)]
pub enum Wake {
    Data,
    Room,
    /// Without a key: look yourself.
    State,
    Error,
}

/// A listening address: a queue for each worker.
#[derive(Debug)]
pub struct SimDoor {
    pub queues: Vec<Vec<usize>>,
    /// In the published scene.
    pub open: bool,
    /// Its listener, by its name's number: one that goes and comes again has another door.
    pub listener: usize,
    /// Where its sessions go, as it was last published, and the servers there.
    pub pool: usize,
    pub members: Vec<usize>,
    /// By worker: there was no descriptor for the next of its queue.
    pub given_up: Vec<bool>,
}

/// A pipe: bytes `from..to` of what one socket's peer sent.
#[derive(Debug)]
pub struct SimPipe {
    pub lane: usize,
    pub open: bool,
    pub size: u64,
    pub source: usize,
    pub from: u64,
    pub to: u64,
}

pub struct World {
    pub now: u64,
    pub rng: Rng,
    /// For which of several errnos a call gives: what is added to a list leaves everything else as it was drawn.
    pub dice: Rng,
    /// For what was added to the world later. Half of all runs have nothing of it, and are what they were: what only shows
    /// when most things work still shows there.
    pub extra: Rng,
    pub classic: bool,
    /// For [`Errand::Haste`].
    pub haste: Rng,
    /// What it draws for sessions that are led out.
    pub march: Rng,
    /// Since when sessions are led out, and whether everybody is.
    pub marching: Option<(u64, bool)>,
    /// For runs in want: places are few, clients many, and servers go and come back.
    pub want: Rng,
    pub is_in_want: bool,
    /// For runs in which servers are told whose connection it is.
    pub headers: Rng,
    pub has_headers: bool,
    /// Sessions are recorded.
    pub records: bool,
    /// For runs in which servers have roles.
    pub roles: Option<Roles>,
    /// By listener: whom its sessions want.
    pub wishes: Vec<Option<RoleWish>>,
    pub faults: Faults,
    pub trace: Trace,
    pub socks: Vec<Socket>,
    pub doors: Vec<SimDoor>,
    /// Which door and worker a descriptor stands for.
    pub door_of: BTreeMap<RawFd, (usize, usize)>,
    pub hatches: Hatches,
    pub pipes: Vec<SimPipe>,
    pub lanes: Vec<Lane>,
    pub pairs: Vec<Pair>,
    /// Lane and the lower bits of a session's tokens → its pair.
    pub pair_of: BTreeMap<(usize, u64), usize>,
    pub targets: Vec<Target>,
    pub pools: Vec<PoolTerms>,
    agenda: BinaryHeap<Reverse<(u64, u64, Errand)>>,
    errands: u64,
    /// What is done is held against what must hold (`oracle`); not by scripts that do what no shard would.
    pub judged: bool,
    /// Scenes published so far.
    pub scenes: u64,
    /// Letters about a new scene that are still to be sent.
    pub letters: usize,
    /// No peer does anything any more.
    pub frozen: bool,
    pub stopped: bool,
    /// The socket read last in this turn.
    pub last_read: Option<usize>,
    /// Connections accepted so far.
    pub accepted: u64,
    /// What this run has seen, for the summary.
    pub seen: BTreeMap<&'static str, u64>,
}

impl World {
    pub fn new(mut rng: Rng, workers: usize, trace: Trace) -> Self {
        let faults = Faults::draw(&mut rng);
        let mut extra = Rng::new(rng.peek() ^ EXTRA);
        let mut want = Rng::new(rng.peek() ^ WANT);
        let mut headers = Rng::new(rng.peek() ^ HEADERS);
        let hatches = Hatches::new(Rng::new(rng.peek() ^ HATCH), workers);
        let classic = extra.chance(500);
        Self {
            now: 1_000_000_000 + rng.below(1 << 40),
            dice: Rng::new(rng.peek()),
            classic,
            extra,
            haste: Rng::new(rng.peek() ^ HASTE),
            march: Rng::new(rng.peek() ^ MARCH),
            marching: None,
            is_in_want: !classic && want.chance(200),
            want,
            has_headers: !classic && headers.chance(400),
            headers,
            records: true,
            roles: None,
            wishes: Vec::new(),
            rng,
            faults,
            trace,
            socks: Vec::new(),
            doors: Vec::new(),
            door_of: BTreeMap::new(),
            hatches,
            pipes: Vec::new(),
            lanes: (0..workers).map(|_| Lane::default()).collect(),
            pairs: Vec::new(),
            pair_of: BTreeMap::new(),
            targets: Vec::new(),
            pools: Vec::new(),
            agenda: BinaryHeap::new(),
            errands: 0,
            judged: true,
            scenes: 0,
            letters: 0,
            frozen: false,
            stopped: false,
            last_read: None,
            accepted: 0,
            seen: BTreeMap::new(),
        }
    }

    pub fn see(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub fn schedule(&mut self, at: u64, errand: Errand) {
        self.errands += 1;
        // Errands of one moment come in any order.
        let order = (self.rng.next() & 0xFFFF_0000_0000_0000) | self.errands;
        self.agenda.push(Reverse((at, order, errand)));
    }

    pub fn next_errand_ns(&self) -> Option<u64> {
        self.agenda.peek().map(|Reverse((at, ..))| *at)
    }

    pub fn take_errand(&mut self) -> Option<Errand> {
        if self.next_errand_ns()? > self.now {
            return None;
        }
        self.agenda.pop().map(|Reverse((.., errand))| errand)
    }

    /// When something that happens now is told.
    pub fn told_at(&mut self) -> u64 {
        let late = self.rng.chance(self.faults.latency);
        self.now + if late { self.rng.below(self.faults.latency_ns) } else { 0 }
    }

    pub fn number(id: usize) -> Sock {
        Sock(SOCK_BASE + id as i32)
    }

    /// The socket behind a number; panics unless it is the shard's.
    pub fn open_sock(&self, sock: Sock, call: &str) -> usize {
        let id = usize::try_from(sock.0 - SOCK_BASE).unwrap_or(usize::MAX);
        let Some(socket) = self.socks.get(id) else { panic!("{call} on {sock:?}, which never was a socket") };
        assert!(socket.is_open(), "{call} on socket {id}, which is {:?}", socket.hold);
        id
    }

    /// Wakes the watches on a socket.
    pub fn wake(&mut self, id: usize, wake: Wake) {
        let flights = self.socks[id].flights.clone();
        for (lane, key) in flights {
            let Some(interest) = self.lanes[lane].watching(key) else { continue };
            let fixed = |readable, writable, broken| Some(Readiness { readable, writable, ended: false, broken });
            let edge = match (wake, interest) {
                (Wake::Data, Interest::Readable) => fixed(true, false, false),
                (Wake::Room, Interest::Writable) => fixed(false, true, false),
                (Wake::Data, Interest::Writable) | (Wake::Room, Interest::Readable) => continue,
                (Wake::Error, _) => fixed(false, false, true),
                (Wake::State, _) => None,
            };
            let at = self.told_at();
            let split = self.rng.chance(self.faults.split);
            self.lanes[lane].edge(key, edge, at, split);
        }
    }

    /// Somewhere else something happens, in the middle of a worker's turn.
    pub fn jolt(&mut self, near: usize) {
        if self.frozen || !self.rng.chance(self.faults.jolt) {
            return;
        }
        let other = self.other(near).unwrap_or(near);
        let any = self.rng.index(self.socks.len());
        let id = self.rng.one_of(&[near, other, any]);
        self.act(id);
    }

    /// A client connects.
    pub fn client_comes(&mut self, door: usize) {
        let id = self.socks.len();
        // The kernel spreads clients by their ports: evenly, or not at all.
        let lane = if self.rng.chance(self.faults.skew) { 0 } else { self.rng.index(self.lanes.len()) };
        let address = SocketAddr::from(([192, 168, (id / 250) as u8, (id % 250) as u8], 4000));
        let room = self.draw_room();
        let peer = self.draw_peer(room);
        self.socks.push(Socket::new(Far::Client { door }, address, room, peer));
        note!(self, "client {id} comes to door {door} of worker {lane}");
        self.doors[door].queues[lane].push(id);
        self.poke(id);
        self.serve_queue(door, lane);
    }

    /// A server's end of a connection.
    pub fn server_sock(&mut self, target: usize, address: SocketAddr) -> usize {
        let room = self.draw_room();
        let mut peer = self.draw_peer(room);
        let greets = self.targets.get(target).is_some_and(|target| self.pools[target.pool].gate);
        let greeting = greets.then(|| Greeting::draw(&mut self.extra));
        if let Some(greeting) = &greeting {
            peer.will_greet(greeting, &mut self.extra);
        }
        self.socks.push(Socket { greeting, ..Socket::new(Far::Server { target }, address, room, peer) });
        self.socks.len() - 1
    }

    fn draw_peer(&mut self, room: (u64, u64)) -> Peer {
        let peer = Peer::draw(&mut self.rng, &self.faults, room);
        for habit in peer.habits() {
            self.see(habit);
        }
        peer
    }

    fn draw_room(&mut self) -> (u64, u64) {
        let bulk = self.faults.bulk;
        let mut room = || {
            if self.rng.chance(bulk) {
                return 4 << 20;
            }
            match self.rng.below(6) {
                0 => self.rng.range(1, 100),
                1 => self.rng.range(100, 5_000),
                2 => self.rng.range(16_000, 17_000),
                3 => 4 << 20,
                _ => self.rng.size(1 << 20),
            }
        };
        (room(), room())
    }

    /// Hands queued connections to an accept that waits for them.
    pub fn serve_queue(&mut self, door: usize, lane: usize) {
        while let Some(key) = self.lanes[lane].accepting(door) {
            if self.doors[door].queues[lane].is_empty() {
                return;
            }
            let at = self.told_at();
            if let Some(errno) = self.accept_fails(door, lane, self.faults.accept_aborted) {
                self.lanes[lane].tell(key, at, Word::Accepted(Err(errno)));
            } else {
                let id = self.doors[door].queues[lane].remove(0);
                self.lanes[lane].tell(key, at, Word::Accepted(Ok(id)));
            }
        }
    }

    /// The socket at the other side of a session, while it has one.
    pub fn other(&self, id: usize) -> Option<usize> {
        let pair = &self.pairs[self.socks[id].pair?];
        if pair.client == id { pair.server } else { Some(pair.client) }
    }

    /// Lets the FIN or RST of a closed socket leave (`tcp_close`).
    pub fn release(&mut self, id: usize) {
        let sock = &mut self.socks[id];
        let Hold::Closing(how) = sock.hold else { panic!("socket {id} is let go twice") };
        sock.hold = Hold::Released(how);
        if let Some(pair) = sock.pair.map(|number| &mut self.pairs[number])
            && pair.server == Some(id)
        {
            // A server that was heard is parted with before another is looked for.
            pair.bereft_ns = self.now;
        }
        if !sock.connected {
            return;
        }
        let reset = how == ringway::kernel::Close::Reset || sock.unread() > 0;
        if reset && !sock.dead {
            sock.lost = self.rng.below(sock.unsent() + 1);
            sock.peer.rst_coming = true;
        } else {
            sock.peer.fin_coming = true;
        }
        note!(self, "socket {id}: {} leaves", if reset { "RST" } else { "FIN" });
        self.poke(id);
    }
}
