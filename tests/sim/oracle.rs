//! What must hold, whatever happens. A violation is a panic; whoever runs the seed tells it with a trace.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use ringway::config::ledger::{Health, Standing};
use ringway::config::plan::RoleWish;
use ringway::dataplane::commons::Desk;
use ringway::dataplane::ending::Ending;
use ringway::dataplane::record::Record;
use ringway::kernel::{Close, Errno, Sock, Token};

use crate::flight::{FlightKey, Kind};
use crate::scene::PoolTerms;
use crate::socket::{Far, Hold, Socket, is_shortage, says_no};
use crate::world::{World, note};

/// A timer may be this late: a tick of the wheel, and the rounding to it.
pub const TICK_NS: u64 = 4_000_001;
/// Longest that bytes of a stream may wait untold: a beat and a half, and some.
const GATHER_NS: u64 = 3_500_000;

/// The lower bits of a session's tokens name its slot and its tenant; the upper ones say what the request is for.
const NAME: u64 = (1 << 56) - 1;
const SLOT: u64 = (1 << 32) - 1;

/// A session, as seen from outside.
#[derive(Debug)]
pub struct Pair {
    pub client: usize,
    /// The worker that has it.
    pub lane: usize,
    /// The socket of the last attempt.
    pub server: Option<usize>,
    /// How many scenes there had been when its worker had it.
    pub scene: u64,
    pub attempts: Vec<Attempt>,
    /// Whom its listener wants.
    pub wish: Option<RoleWish>,
    /// It was seen to wait since its last attempt.
    pub waited: bool,
    /// From which of the attempts on it remembers whom it has tried; and whether that may be a later one.
    pub tried_from: usize,
    pub hazy: bool,
    /// The order by which it is to leave its server, which has lost its role.
    pub astray: Option<usize>,
    /// The last bytes went to the client.
    pub answered: bool,
    /// When it was first seen to wait for another server, or for the same again.
    pub awaits_ns: Option<u64>,
    /// The first of them under the scene in which its client was accepted: that is its plan for good.
    pub began_at_once: bool,
    /// The shard knows that the server is connected, and has heard it if it speaks first.
    pub relaying: bool,
    /// The last server that sent an error which sends on, by its socket.
    pub refusal: Option<usize>,
    /// The client's socket is closed.
    pub over: bool,
    pub opened_ns: u64,
    /// Since when it has had no server, at least.
    pub bereft_ns: u64,
    /// When it began to relay, or finished one direction: its timer was set anew then, to the next tick at the soonest.
    pub timer_set_ns: u64,
    /// When a byte moved, or a direction finished.
    pub active_ns: u64,
    /// One direction has finished.
    pub half: bool,
    /// A send was refused for want of memory.
    pub short_of_memory: bool,
    /// Its server is down, and its end was ordered.
    pub condemned: bool,
    /// An operator has ended it.
    pub doomed: bool,
    pub recorded: bool,
}

/// A connect of a session.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub target: usize,
    /// Checks of it that had passed when it was chosen, and from how many addresses it has been tried since.
    pub proofs: u64,
    pub sources: usize,
    pub began_ns: u64,
    /// When it was given up.
    pub cancelled_ns: Option<u64>,
    pub result: Option<Result<(), Errno>>,
    /// When the shard heard of its success.
    pub connected_ns: Option<u64>,
}

// What the shard does, as it does it.
impl World {
    /// A slot is used again only when nothing of its last tenant is in flight.
    pub fn check_slot(&self, lane: usize, key: FlightKey) {
        if key.0 == Kind::Accept || !self.judged {
            return;
        }
        for (kind, token) in self.lanes[lane].flights.keys() {
            let same = *kind != Kind::Accept && token & SLOT == key.1 & SLOT;
            let freed = same && token & NAME != key.1 & NAME;
            assert!(!freed, "slot {} was freed while {kind:?} {token:x} was in flight", key.1 & SLOT);
        }
    }

    /// A connection is the shard's from now on.
    pub fn accept_told(&mut self, id: usize) -> Sock {
        self.accepted += 1;
        if let Far::Client { door } = self.socks[id].far {
            self.socks[id].members = self.doors[door].members.clone();
            self.socks[id].pool = self.doors[door].pool;
            self.socks[id].scene = self.scenes;
            self.socks[id].is_late = !self.doors[door].open;
        }
        let sock = &mut self.socks[id];
        sock.hold = Hold::Open;
        (sock.accepted, sock.accepted_ns) = (self.accepted, self.now);
        note!(self, "  client {id} is accepted");
        World::number(id)
    }

    /// The first watch on a client's socket names its session.
    pub fn claim_client(&mut self, lane: usize, id: usize, token: Token) {
        if !self.judged {
            return;
        }
        let name = (lane, token.0 & NAME);
        if self.is_server(id) || self.socks[id].pair.is_some() {
            let pair = self.pair_of.get(&name).copied();
            assert_eq!(pair, self.socks[id].pair, "socket {id} is watched for another session");
            return;
        }
        let number = self.pairs.len();
        let wish = self.wish_of(id);
        self.pairs.push(Pair {
            wish,
            waited: false,
            tried_from: 0,
            hazy: false,
            astray: None,
            answered: false,
            awaits_ns: None,
            client: id,
            lane,
            server: None,
            scene: self.scenes,
            attempts: Vec::new(),
            began_at_once: false,
            relaying: false,
            refusal: None,
            over: false,
            opened_ns: self.now,
            bereft_ns: self.now,
            timer_set_ns: 0,
            active_ns: self.now,
            half: false,
            short_of_memory: false,
            condemned: false,
            doomed: false,
            recorded: false,
        });
        self.pair_of.insert(name, number);
        self.socks[id].pair = Some(number);
        note!(self, "  session {number} begins with client {id}");
    }

    fn pair_named(&self, lane: usize, token: Token) -> usize {
        *self.pair_of.get(&(lane, token.0 & NAME)).expect("a session watches its client before all else")
    }

    /// Whether this server may be connected to now.
    pub fn check_connect(&mut self, lane: usize, address: SocketAddr, token: Token) {
        if !self.judged {
            return;
        }
        let number = self.pair_named(lane, token);
        let found = self.targets.iter().position(|target| target.address == address);
        let index = found.unwrap_or_else(|| panic!("connect to {address}, which no plan names"));
        let pair = &self.pairs[number];
        if let Some(server) = pair.server {
            assert!(!self.socks[server].is_open(), "session {number} connects and has socket {server} already");
        }
        // A failure for want of ports is tried again from another address: the place on the server was claimed before.
        // One that came too late is no such failure, whatever was said of it in the end.
        let ports = |last: &Attempt| matches!(last.result, Some(Err(Errno::EADDRNOTAVAIL | Errno::EADDRINUSE)));
        let short = |last: &Attempt| last.target == index && ports(last) && last.cancelled_ns.is_none();
        let again = pair.attempts.last().is_some_and(short);
        let again = again && self.has_source_left(pair, index);
        self.check_role(number, index, again);
        let (pair, target) = (&self.pairs[number], &self.targets[index]);
        let attempts = &pair.attempts[pair.tried_from..];
        let tried = attempts.iter().filter(|attempt| attempt.target == index).count();
        let sources = if again { self.terms(index).sources } else { 1 };
        let fresh = tried < sources.max(1) || pair.hazy;
        assert!(fresh, "session {number} tries server {} again", target.name);
        let servers: BTreeSet<usize> = attempts.iter().map(|attempt| attempt.target).chain([index]).collect();
        let most = self.terms(index).attempts;
        let few = servers.len() as u64 <= most || pair.hazy;
        assert!(few, "session {number} tries {} servers, not {most}", servers.len());
        // Who wants a role goes by that.
        let down = target.health == Health::Down && pair.wish.is_none();
        assert!(!down || again, "session {number} connects to {}, which is down", target.name);
        let ready = target.standing == Standing::Ready;
        assert!(ready || again, "session {number} connects to {}, which is in {:?}", target.name, target.standing);
        let client = &self.socks[pair.client];
        let Far::Client { door } = client.far else { panic!("socket {} is no client", pair.client) };
        let removed = target.removed_at.is_some_and(|at| client.accepted > at) && self.doors[door].open;
        assert!(!removed, "session {number} began after server {} was removed, and connects to it", target.name);
        if target.removed_at.is_some() {
            self.see("a session that began before a reload connects to a server the reload removed");
        }
        self.check_turn(number);
        let target = &self.targets[index];
        let open = self.open_to(index);
        let full = target.max > 0 && open >= target.max;
        assert!(!full, "server {} has {open} sessions, which is all it may have", target.name);
        if target.places().is_some_and(|places| open >= places) && !again {
            let waits = self.terms(index).queue_limit > 0;
            assert!(!waits, "session {number} does not wait for {} to warm up, which has {open} sessions", target.name);
            self.check_overflow(number, index);
        }
        if !again {
            let now = self.now;
            let target = &mut self.targets[index];
            let (interval_ns, slack_ns) = target.pace_ns();
            let early = target.rate.is_some() && target.due_ns > now + slack_ns;
            assert!(!early, "session {number} connects to {} sooner than its rate allows", target.name);
            target.due_ns = target.due_ns.max(now) + interval_ns;
        }
        let began_ns = self.now;
        let last = self.pairs[number].attempts.last().filter(|last| again && last.target == index);
        let (proofs, sources) = last.map_or((self.targets[index].proofs, 1), |last| (last.proofs, last.sources + 1));
        let (cancelled_ns, result, connected_ns) = (None, None, None);
        let attempt = Attempt { target: index, proofs, sources, began_ns, cancelled_ns, result, connected_ns };
        self.leave_astray(number, index);
        let pair = &mut self.pairs[number];
        if pair.attempts.is_empty() {
            let client = &self.socks[pair.client];
            pair.began_at_once = client.scene == self.scenes && !client.is_late;
        }
        pair.attempts.push(attempt);
    }

    /// Sockets open to a server.
    pub fn open_to(&self, target: usize) -> u32 {
        let open = self.socks.iter().filter(|sock| sock.far == Far::Server { target } && sock.is_open());
        open.count() as u32
    }

    pub fn connect_failed_at_once(&mut self, lane: usize, token: Token, errno: Errno) {
        if !self.judged {
            return;
        }
        let number = self.pair_named(lane, token);
        self.conclude(number, Err(errno));
    }

    pub fn connect_begins(&mut self, lane: usize, address: SocketAddr, token: Token) -> usize {
        if !self.judged {
            return self.server_sock(0, address);
        }
        let number = self.pair_named(lane, token);
        let target = self.pairs[number].attempts.last().map_or(0, |attempt| attempt.target);
        let id = self.server_sock(target, address);
        self.expect_header(id, self.pairs[number].client);
        self.socks[id].pair = Some(number);
        self.pairs[number].server = Some(id);
        id
    }

    pub fn connect_cancelled(&mut self, lane: usize, token: Token) {
        if !self.judged {
            return;
        }
        let number = self.pair_named(lane, token);
        if let Some(attempt) = self.pairs[number].attempts.last_mut() {
            attempt.cancelled_ns = attempt.cancelled_ns.or(Some(self.now));
        }
    }

    /// The shard hears how a connect went.
    pub fn connect_told(&mut self, lane: usize, token: Token, result: Result<(), Errno>) {
        let number = self.pair_named(lane, token);
        if self.pairs[number].over {
            return;
        }
        self.startle(self.pairs[number].client);
        let untrue = self.pairs[number].server.and_then(|id| self.socks[id].untrue);
        let result = result.and_then(|()| self.outran_for_nothing(number)).and(untrue.map_or(Ok(()), Err));
        self.conclude(number, result);
        if let Some(Attempt { target, began_ns, cancelled_ns: Some(at), .. }) = self.pairs[number].attempts.last() {
            let had = at - began_ns;
            let hurried = self.is_evicting(*target, *at) || self.is_called_away(&self.pairs[number], *at);
            let waited = had >= self.terms(*target).connect_ns;
            assert!(waited || hurried, "session {number} gives its connect up after {had} ns");
        }
        let now = self.now;
        let Some(attempt) = self.pairs[number].attempts.last_mut().filter(|_| result.is_ok()) else { return };
        attempt.connected_ns = Some(now);
        let target = attempt.target;
        if !self.terms(target).gate {
            self.pairs[number].relaying = true;
            self.pairs[number].timer_set_ns = self.now;
            self.pairs[number].active_ns = self.now;
        }
    }

    fn conclude(&mut self, number: usize, result: Result<(), Errno>) {
        self.pairs[number].bereft_ns = self.now;
        if let Some(attempt) = self.pairs[number].attempts.last_mut() {
            attempt.result = Some(result);
        }
    }

    /// Bytes have moved to a socket, or a FIN.
    pub fn touched(&mut self, id: usize) {
        if let Some(number) = self.socks[id].pair {
            let answered = !self.is_server(id);
            let pair = &mut self.pairs[number];
            pair.active_ns = self.now;
            pair.answered = answered;
        }
    }

    /// Why the stream towards `to` is not whole; `None` if it is: the other side has finished, and all it said is here.
    fn incomplete(&self, to: usize) -> Option<String> {
        let Some(from) = self.other(to) else { return Some("there is no other side".into()) };
        let (from, to) = (&self.socks[from], &self.socks[to]);
        if !from.fin_arrived {
            return Some(format!("the other side has not finished (dead: {})", from.dead));
        }
        if !from.end_read {
            return Some("the other side's end has not been read".into());
        }
        let missing = from.arrived - to.given() + to.header_left();
        (missing > 0).then(|| format!("{missing} bytes are missing"))
    }

    /// A FIN: once, and only after the last byte.
    pub fn check_fin(&mut self, id: usize) {
        if !self.judged {
            return;
        }
        assert!(!self.socks[id].fin_sent, "socket {id} gets a second FIN");
        if let Some(why) = self.incomplete(id) {
            panic!("socket {id} gets a FIN: {why}");
        }
        if let Some(number) = self.socks[id].pair {
            self.pairs[number].half = true;
            self.pairs[number].timer_set_ns = self.now;
        }
    }

    /// A close that looks like a clean end must be one.
    pub fn check_close(&mut self, id: usize, how: Close) {
        if !self.judged {
            return;
        }
        let number = self.socks[id].pair;
        let unused = self.is_server(id) && number.is_some_and(|number| !self.pairs[number].relaying);
        let told = number.is_some_and(|number| !self.pairs[number].relaying) && self.is_told(id);
        // One that is dead hears neither FIN nor RST.
        let unheard = unused || told || self.socks[id].dead;
        let missing = if how == Close::Clean && !unheard { self.incomplete(id) } else { None };
        if let Some(why) = missing {
            panic!("socket {id} is closed as if all were well: {why}");
        }
        match number {
            Some(number) if self.is_server(id) => self.pairs[number].bereft_ns = self.now,
            Some(number) => self.pairs[number].over = true,
            None => {}
        }
    }

    /// Rejected at the door, or ended as it began: neither ever was watched.
    pub fn never_watched(&self) -> u64 {
        let closed = |hold: Hold| !matches!(hold, Hold::Queued | Hold::Open);
        let clients = self.socks.iter().filter(|sock| matches!(sock.far, Far::Client { .. }));
        clients.filter(|sock| sock.pair.is_none() && closed(sock.hold)).count() as u64
    }
}

// What must be true of a worker.
impl World {
    /// The gauges of its pipes tell what it has.
    pub fn check_gauges(&self, lane: usize, desk: &Desk) {
        let open = || self.pipes.iter().filter(|pipe| pipe.lane == lane && pipe.open);
        let used = open().filter(|pipe| pipe.from < pipe.to).count();
        let told = |gauge: &AtomicU32| gauge.load(Ordering::Relaxed) as usize;
        assert_eq!(told(&desk.tally.pipes_used), used, "pipes that carry bytes, says worker {lane}");
        assert_eq!(told(&desk.tally.pipes_idle), open().count() - used, "empty pipes, says worker {lane}");
    }

    /// A worker that closes a door, or all because it `leaves`, has taken every connection that waited there for which there
    /// was a descriptor.
    pub fn check_queues(&mut self, lane: usize, leaves: bool) {
        // One that came and went with two reloads in a row it never had: who knocked there is reset with the socket.
        let lanes = &self.lanes;
        let had = |number: &usize| lanes[lane].accepts_ns.contains_key(number);
        let doors = self.doors.iter_mut().enumerate().filter(|(number, _)| had(number));
        for (number, door) in doors.filter(|(_, door)| leaves || !door.open) {
            let left = std::mem::take(&mut door.queues[lane]);
            let excused = left.is_empty() || door.given_up[lane];
            assert!(excused, "worker {lane} closes door {number} and leaves {left:?} in its queue");
            for id in left {
                self.socks[id].peer.gone = true;
            }
        }
    }

    /// Whether a worker may only now have read that it is to end the sessions of a server.
    fn is_evicting(&self, target: usize, at_ns: u64) -> bool {
        let slack = self.faults.latency_ns * 40 + self.faults.sluggish_ns * 40 + TICK_NS;
        let told_ns = self.targets[target].evicted_ns;
        told_ns > 0 && at_ns <= told_ns + slack
    }

    /// Workers are told to end the sessions of a server.
    pub fn condemn(&mut self, target: usize) {
        self.targets[target].evicted_ns = self.now;
        for pair in self.pairs.iter_mut().filter(|pair| !pair.over && pair.relaying && pair.wish.is_none()) {
            pair.condemned |= pair.attempts.last().is_some_and(|attempt| attempt.target == target);
        }
    }

    /// An operator ends the sessions of a client.
    pub fn doom(&mut self, client: usize) {
        note!(self, "the session of client {client} is to end");
        self.pairs.iter_mut().filter(|pair| !pair.over && pair.client == client).for_each(|pair| pair.doomed = true);
    }

    /// The server a session is connected to, or was last.
    pub fn served_by(&self, pair: &Pair) -> Option<usize> {
        pair.attempts.last().map(|attempt| attempt.target)
    }
}

// What must be true when nothing happens.
impl World {
    /// Clients the shards hold.
    pub fn live(&self) -> u64 {
        self.socks.iter().filter(|sock| !matches!(sock.far, Far::Server { .. }) && sock.is_open()).count() as u64
    }

    /// The workers wait: nobody may have been forgotten.
    pub fn check_rest(&self) {
        for (number, pair) in self.pairs.iter().enumerate() {
            if pair.over {
                continue;
            }
            let told = self.lanes.iter().all(|lane| lane.next_word_ns().is_none());
            assert!(!pair.condemned || !told, "session {number} is to end with its server, and lives on");
            assert!(!pair.doomed || !told, "session {number} is to end by an operator's wish, and lives on");
            self.check_timers(number, pair);
            self.check_astray(number, pair);
            let sockets = [Some(pair.client), pair.server];
            let mut flights = sockets.into_iter().flatten().flat_map(|id| &self.socks[id].flights);
            if flights.all(|(lane, key)| self.lanes[*lane].is_silent(*key)) {
                self.check_flow(number, pair);
            }
        }
    }

    fn check_timers(&self, number: usize, pair: &Pair) {
        let Some(attempt) = pair.attempts.last() else { return };
        let terms = self.terms(attempt.target);
        if !pair.relaying {
            let began_ns = attempt.connected_ns.unwrap_or(attempt.began_ns);
            let late = self.now > began_ns + terms.connect_ns + TICK_NS;
            let parted = pair.server.is_none_or(|server| !self.socks[server].is_open());
            let over = parted || attempt.cancelled_ns.is_some();
            assert!(!late || over, "session {number} waits for its connect, or a greeting, for ever");
            return;
        }
        let limit = if pair.half { terms.half_ns } else { terms.idle_ns };
        let quiet = self.now - pair.active_ns;
        assert!(limit == 0 || quiet <= limit + TICK_NS, "session {number} is silent for {quiet} ns and lives on");
        // While it connects the attempts are what limits it.
        let end = (pair.opened_ns + terms.lifetime_ns).max(pair.timer_set_ns);
        let old = terms.lifetime_ns > 0 && self.now > end + TICK_NS;
        assert!(!old, "session {number} is {} ns old and lives on", self.now - pair.opened_ns);
    }

    pub fn terms(&self, target: usize) -> &PoolTerms {
        &self.pools[self.targets[target].pool]
    }

    /// No event is under way for this session: what could go on must have gone on.
    fn check_flow(&self, number: usize, pair: &Pair) {
        let client = &self.socks[pair.client];
        assert!(!client.dead, "session {number}: the client's reset has been missed");
        let server = pair.server.map(|id| &self.socks[id]).filter(|server| server.is_open());
        let Some(server) = server else {
            assert!(self.queues_of(client).next().is_some(), "session {number} waits for nothing");
            return;
        };
        if !pair.relaying {
            server.check_header(number, pair);
            assert!(!server.flights.is_empty(), "session {number} waits for a server nobody watches");
            let missed = server.connected && server.is_readable();
            assert!(!missed, "session {number}: what its server said instead of a greeting has been missed");
            return;
        }
        for (from, to, way) in [(client, server, "up"), (server, client, "down")] {
            // Nobody writes to a server that is gone, or failed; its last words are still for the client.
            if way == "up" && (server.dead || pair.short_of_memory) {
                continue;
            }
            let held = to.header_left() + from.read - to.given();
            let stuck = if held > 0 {
                to.is_writable().then_some("is held, and the receiver has room")
            } else if from.is_readable() && !self.is_gathering(from) {
                Some("can be read")
            } else if from.end_read && !to.fin_sent {
                Some("has ended, and the receiver is not told")
            } else {
                None
            };
            if let Some(stuck) = stuck {
                let unread = from.unread();
                panic!("session {number}, {way}: what {stuck} is forgotten ({held} held, {unread} unread)");
            }
        }
    }

    /// What it has is below what it was asked to tell of, and has not waited for long: a timer will fetch it.
    fn is_gathering(&self, sock: &Socket) -> bool {
        let silent = !sock.has_gathered() && !sock.fin_arrived && !sock.dead;
        silent && sock.untold_since.is_some_and(|since| self.now <= since + GATHER_NS + 2 * self.faults.sluggish_ns)
    }

    /// One record at each end, and it tells the truth.
    pub fn check_record(&mut self, record: &Record) {
        let client = record.client.expect("the simulated clients have addresses");
        let found = self.socks.iter().position(|sock| sock.address == client);
        let id = found.unwrap_or_else(|| panic!("a record of {client}, who never came"));
        let Some(number) = self.socks[id].pair else {
            let shutdown = self.stopped && record.ending == Some(Ending::Shutdown);
            assert!(shutdown, "a record of {client}, who has no session");
            return;
        };
        let Some(ending) = record.ending else {
            assert!(!self.pairs[number].over, "session {number} is over, and a record says that it goes on");
            self.see("a session is recorded while it lives");
            return;
        };
        note!(self, "  session {number} ends: {} (errno {})", ending.reason(), record.errno);
        self.see(ending.reason());
        let pair = &mut self.pairs[number];
        assert!(pair.over, "session {number} is recorded as ended and its client is not closed");
        assert!(!pair.recorded, "session {number} has a second record");
        pair.recorded = true;
        let pair = &self.pairs[number];
        let down = self.socks[pair.client].taken;
        assert_eq!(record.bytes_out, down, "session {number}: bytes to the client, as recorded");
        let up = pair.server.map_or(0, |server| self.socks[server].given());
        assert_eq!(record.bytes_in, up, "session {number}: bytes to the server, as recorded");
        let queues = self.queues_of(&self.socks[pair.client]).next().is_some();
        let queue_ns = u64::from(record.queue_us) * 1_000;
        let honest = queue_ns <= self.now - pair.opened_ns && (queues || queue_ns == 0);
        assert!(honest, "session {number} says that it waited for {} µs", record.queue_us);
        let told = !pair.relaying && self.is_told(pair.client);
        if told {
            self.see("a client is told what the last server said");
        }
        if let (true, Ending::RoleLost) = (self.roles.is_some(), ending) {
            let wrong = self.role_contradiction(number);
            assert!(wrong.is_none(), "session {number} ends as role_lost: {}", wrong.unwrap_or_default());
            return;
        }
        let pair = &self.pairs[number];
        if let Some(why) = self.contradiction(pair, ending) {
            panic!("session {number} ends as {}: {why}", ending.reason());
        }
    }

    /// What speaks against a recorded ending.
    fn contradiction(&self, pair: &Pair, ending: Ending) -> Option<String> {
        let client = &self.socks[pair.client];
        let server = pair.server.map(|id| &self.socks[id]);
        let last = pair.attempts.last();
        let result = last.and_then(|attempt| attempt.result);
        let terms = last.map(|attempt| self.terms(attempt.target));
        let quiet = self.now - pair.active_ns;
        let clean = matches!(client.hold, Hold::Closing(Close::Clean) | Hold::Released(Close::Clean));
        let must = |holds: bool, what: &str| (!holds).then(|| what.to_owned());
        let told = !pair.relaying && self.is_told(pair.client);
        let deaf = client.dead || client.taken > 0 || pair.short_of_memory;
        match ending {
            Ending::ClientGone | Ending::QueueLeft | Ending::Killed | Ending::Shutdown => {}
            _ if pair.relaying || pair.refusal.is_none() || deaf => {}
            _ => return Some("the client has not been told what the last server said".into()),
        }
        match ending {
            Ending::Done => must(clean && pair.relaying, "it is not closed cleanly"),
            _ if clean && !client.dead && !told => Some("it is closed cleanly".into()),
            Ending::ClientReset => must(client.dead && pair.relaying, "the client lives"),
            Ending::ServerReset if !server.is_some_and(|server| server.dead) => Some("the server lives".into()),
            Ending::ServerReset => {
                // All that had come from it goes to the client first, who may be slow, but is there.
                let left = server.map_or(0, |server| server.arrived - client.taken);
                must(left == 0 || client.dead, "the server's last words are lost")
            }
            Ending::ClientGone => must(client.dead && !pair.relaying, "the client lives, or the server is connected"),
            Ending::PeerVanished => {
                let vanished = client.peer.vanished || server.is_some_and(|server| server.peer.vanished);
                must(vanished, "nobody has vanished")
            }
            Ending::ConnectRefused => {
                let refused = matches!(result, Some(Err(Errno::ECONNREFUSED | Errno::ECONNRESET)));
                must(refused, "the last connect was not refused")
            }
            Ending::ConnectTimeout => {
                let timed_out = matches!(result, Some(Err(Errno::ECANCELED | Errno::ETIMEDOUT)));
                must(
                    timed_out || last.is_some_and(|last| last.cancelled_ns.is_some()),
                    "the last connect had time left",
                )
            }
            Ending::ConnectUnreachable => must(matches!(result, Some(Err(errno)) if says_no(errno)), "it was not"),
            Ending::NoPorts => {
                must(matches!(result, Some(Err(Errno::EADDRNOTAVAIL | Errno::EADDRINUSE))), "there were ports")
            }
            Ending::Resource => {
                let short = matches!(result, Some(Err(errno)) if is_shortage(errno));
                must(short || pair.short_of_memory, "nothing was short")
            }
            Ending::NoServer => must(pair.attempts.is_empty(), "a server was tried"),
            Ending::ServersFull => {
                let refuses = self.pools_of(client).any(|(_, terms)| terms.queue_limit == 0);
                must(pair.attempts.is_empty() && refuses, "a server was tried, or it could have waited")
            }
            Ending::ConnectRate => {
                let paced = client.members.iter().any(|index| self.targets[*index].rate.is_some()) || client.is_late;
                let refuses = self.pools_of(client).any(|(_, terms)| terms.queue_limit == 0) && paced;
                must(pair.attempts.is_empty() && refuses, "no rate was exceeded")
            }
            Ending::QueueFull => {
                let came =
                    |other: &&Pair, pool| self.pools_of(&self.socks[other.client]).any(|(index, _)| index == pool);
                let all = |pool| self.pairs.iter().filter(|other| came(other, pool)).count();
                let full = |(pool, terms): (usize, &PoolTerms)| terms.queue_limit > 0 && all(pool) > terms.queue_limit;
                must(self.pools_of(client).any(full) && pair.attempts.is_empty(), "it could have waited")
            }
            Ending::QueueTimeout => {
                // Who waits for a role may have waited before.
                let first_ns = pair.attempts.first().map_or(pair.opened_ns, |first| first.began_ns);
                let since_ns = if pair.wish.is_some() { first_ns } else { pair.bereft_ns };
                let had_ns = self.now - since_ns;
                let waited = self.queues_of(client).any(|terms| had_ns >= terms.queue_ns);
                must(waited && !pair.relaying, "it has not waited for so long")
            }
            Ending::QueueLeft => {
                let queues = self.queues_of(client).next().is_some();
                must(client.dead && !pair.relaying && queues, "the client lives")
            }
            Ending::GreetingRefused => {
                let refused = server.is_some_and(|server| {
                    let error = server.greeting.as_ref().is_some_and(|g| g.sends_on && server.read >= g.clear_at);
                    server.connected && (error || server.end_read || server.dead)
                });
                must(refused && !pair.relaying, "the last server did not refuse")
            }
            Ending::GreetingTimeout => {
                let since = last.and_then(|last| last.connected_ns).unwrap_or(self.now);
                let had = terms.is_some_and(|terms| self.now - since >= terms.connect_ns);
                let vanished = server.is_some_and(|server| server.peer.vanished);
                let hurried = last.is_some_and(|last| self.is_evicting(last.target, self.now))
                    || self.is_called_away(pair, self.now);
                must((had || vanished || hurried) && !pair.relaying, "the last server had time left to greet")
            }
            Ending::IdleTimeout => {
                must(!pair.half && terms.is_some_and(|terms| quiet >= terms.idle_ns), "it was not idle for so long")
            }
            Ending::HalfCloseTimeout => {
                must(pair.half && terms.is_some_and(|terms| quiet >= terms.half_ns), "it was not silent for so long")
            }
            Ending::Lifetime => {
                let age = self.now - pair.opened_ns;
                must(terms.is_some_and(|terms| age >= terms.lifetime_ns / 10 * 9), "it is too young")
            }
            Ending::ServerDown | Ending::RoleLost => {
                let late = last.is_some_and(|attempt| self.is_evicting(attempt.target, self.now));
                must(pair.condemned || late, "nobody has found its server down")
            }
            Ending::Moved => {
                // Who has been handed over came when he was accepted, wherever that was.
                let meant = self.marching.filter(|(since_ns, _)| client.accepted_ns < *since_ns && pair.relaying);
                let whole = client.taken == client.delivered;
                must(meant.is_some_and(|(_, everyone)| everyone || whole && !pair.half), "it was not its turn")
            }
            Ending::Killed => must(pair.doomed, "nobody has wished it"),
            Ending::Shutdown => must(self.stopped, "nobody has stopped the worker"),
            Ending::Internal => Some("it must never".into()),
        }
    }
}
