//! The far ends of connections: clients and servers with habits, most of them bad.

use ringway::kernel::Errno;

use crate::faults::Faults;
use crate::greeting::Greeting;
use crate::rng::Rng;
use crate::socket::{Far, Hold};
use crate::world::{Errand, Wake, World, note};

const MS: u64 = 1_000_000;

/// What a connection ends with when its segments are not answered: a timeout, or what routers and firewalls said meanwhile
/// (`tcp_write_err`: `sk_err_soft`; `icmp_err_convert` and its sister of IPv6).
const VANISHED: [Errno; 10] = [
    Errno::ETIMEDOUT,
    Errno::EHOSTUNREACH,
    Errno::ENETUNREACH,
    Errno::EHOSTDOWN,
    Errno::ENONET,
    Errno::ECONNREFUSED,
    Errno::ENOPROTOOPT,
    Errno::EOPNOTSUPP,
    Errno::EPROTO,
    Errno::EACCES,
];

/// What a peer does when it has said all it wants to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finale {
    /// FIN, and reads on.
    Finish,
    /// FIN, and a reset right behind it.
    FinishAndReset,
    /// FIN when the other side has finished too.
    FinishLast,
    /// close(2), whatever is still to be read.
    Close,
    Reset,
    /// Nothing.
    Silence,
}

#[derive(Debug)]
pub struct Peer {
    /// Bytes it wants to send in all, and has sent.
    sends: u64,
    pub sent: u64,
    /// It sends only this far ahead of what it has heard: request and response.
    ahead: u64,
    chunk_out: u64,
    chunk_in: u64,
    pace_ns: u64,
    deaf: bool,
    pausing: u32,
    paused_until: u64,
    finale: Finale,
    /// Resets, or vanishes, once it has sent and heard this much.
    resets_at: u64,
    vanishes_at: u64,

    /// Its FIN has been sent.
    pub finished: bool,
    /// It has closed, and answers whatever comes with a reset.
    closed: bool,
    /// It does nothing more.
    pub gone: bool,
    pub heard_fin: bool,
    pub vanished: bool,
    pub fin_coming: bool,
    pub rst_coming: bool,
    scheduled: bool,
}

impl Peer {
    pub fn draw(rng: &mut Rng, faults: &Faults, room: (u64, u64)) -> Self {
        let bulk = rng.chance(faults.bulk);
        let most = rng.one_of(&[0, 100, 3_000, 60_000, 600_000, 4 << 20]).min(room.0.min(room.1) * 60);
        let sends = match rng.below(1000) {
            _ if bulk => rng.range(100_000, 6 << 20),
            0..150 => 0,
            _ => rng.size(most.max(1)),
        };
        let chunk = |rng: &mut Rng| {
            let least = sends / 40 + 1;
            match rng.below(1000) as u32 {
                _ if bulk && rng.chance(500) => 8 << 20,
                n if n < faults.dribble && !bulk => least + rng.below(7),
                _ => least + rng.size(4 << 20),
            }
        };
        let finale = if rng.chance(faults.silent) {
            Finale::Silence
        } else if rng.chance(faults.reset) {
            rng.one_of(&[Finale::Reset, Finale::FinishAndReset])
        } else if rng.chance(faults.rude) {
            Finale::Close
        } else {
            rng.one_of(&[Finale::Finish, Finale::Finish, Finale::FinishLast])
        };
        let at = |rng: &mut Rng, chance: u32| {
            if rng.chance(chance / 2) { rng.below(sends * 2 + 2) } else { u64::MAX }
        };
        Self {
            sends,
            sent: 0,
            ahead: if rng.chance(700) { u64::MAX } else { rng.below(sends + 1) },
            chunk_out: chunk(rng),
            chunk_in: chunk(rng),
            pace_ns: if rng.chance(400) { 0 } else { rng.size(5 * MS) },
            deaf: rng.chance(faults.deaf),
            pausing: if rng.chance(faults.pausing) { 200 } else { 0 },
            paused_until: 0,
            finale,
            resets_at: at(rng, faults.reset),
            vanishes_at: at(rng, faults.vanish),
            finished: false,
            closed: false,
            gone: false,
            heard_fin: false,
            vanished: false,
            fin_coming: false,
            rst_coming: false,
            scheduled: false,
        }
    }
}

impl Peer {
    /// It is a server that speaks first.
    pub fn will_greet(&mut self, greeting: &Greeting, rng: &mut Rng) {
        let length = greeting.bytes.len() as u64;
        self.ahead = self.ahead.saturating_add(length);
        match rng.below(1000) {
            0..100 => self.sends = 0,
            100..200 => self.sends = rng.below(length),
            _ if greeting.is_error => {
                self.sends = length;
                self.finale = rng.one_of(&[Finale::Finish, Finale::Close, Finale::Reset]);
            }
            _ => self.sends += length,
        }
    }

    /// Its habits, for the summary.
    pub fn habits(&self) -> impl Iterator<Item = &'static str> {
        let talks = self.sends > 0 && self.resets_at == u64::MAX && self.vanishes_at == u64::MAX;
        [
            (self.deaf, "a peer that never reads"),
            (self.pausing > 0, "a peer that stops reading for a while"),
            (self.chunk_in < 100, "a peer that reads a little at a time"),
            (talks && self.chunk_out < 100, "a peer that sends a little at a time"),
            (talks && self.ahead < self.sends, "a peer that asks and waits"),
            (talks && self.finale == Finale::Finish, "a peer that finishes and reads on"),
            (self.finale == Finale::FinishLast, "a peer that finishes when it is told to"),
            (self.finale == Finale::FinishAndReset, "a peer that resets behind its FIN"),
            (self.finale == Finale::Close, "a peer that closes whatever is still to be read"),
            (self.finale == Finale::Reset, "a peer that resets"),
            (self.vanishes_at < u64::MAX, "a peer whose network goes away"),
            (self.finale == Finale::Silence, "a peer that falls silent"),
        ]
        .into_iter()
        .filter_map(|(has, habit)| has.then_some(habit))
    }
}

impl World {
    /// Something has happened at this peer's end.
    pub fn poke(&mut self, id: usize) {
        let peer = &self.socks[id].peer;
        if !peer.scheduled && !peer.gone {
            let pace = peer.pace_ns;
            let at = self.now + self.rng.below(pace + 1);
            self.schedule_act(id, at);
        }
    }

    fn schedule_act(&mut self, id: usize, at: u64) {
        self.socks[id].peer.scheduled = true;
        self.schedule(at, Errand::Act(id));
    }

    /// The errand of a peer.
    pub fn keep_appointment(&mut self, id: usize) {
        self.socks[id].peer.scheduled = false;
        self.act(id);
    }

    /// A peer does what it can now.
    pub fn act(&mut self, id: usize) {
        if self.frozen || self.socks[id].peer.gone || !self.socks[id].connected {
            return;
        }
        self.peer_reads(id);
        self.peer_writes(id);
        self.peer_ends(id);
        let sock = &self.socks[id];
        let peer = &sock.peer;
        if peer.gone || peer.scheduled {
            return;
        }
        let hears = !peer.deaf && !peer.closed && sock.unsent() > 0;
        if hears || self.peer_allowance(id) > 0 {
            let at = if hears && peer.paused_until > self.now {
                peer.paused_until
            } else {
                let pace = peer.pace_ns;
                self.now + self.rng.below(pace + 1)
            };
            self.schedule_act(id, at);
        }
    }

    pub fn peer_reads(&mut self, id: usize) {
        let sock = &mut self.socks[id];
        if sock.peer.closed && sock.unsent() > 0 {
            note!(self, "peer of {id} has closed and answers data with a reset");
            self.reset_by_peer(id);
            return;
        }
        if sock.peer.deaf || self.now < sock.peer.paused_until {
            return;
        }
        if self.rng.chance(sock.peer.pausing) {
            sock.peer.paused_until = self.now + self.rng.size(2_000 * MS);
            return;
        }
        let got = sock.unsent().min(sock.peer.chunk_in);
        sock.delivered += got;
        sock.squeezed &= got == 0;
        if got > 0 {
            sock.delivered_ns = self.now;
            // Buffers grow with use, as the kernel's do: no stream takes for ever.
            sock.room_out += sock.room_out / 16 + 1;
            sock.peer.chunk_in += sock.peer.chunk_in / 16 + 1;
        }
        if sock.unsent() == 0 {
            if sock.peer.rst_coming {
                sock.peer.gone = true;
            } else if sock.peer.fin_coming {
                sock.peer.heard_fin = true;
            }
        }
        if got > 0 {
            note!(self, "peer of {id} reads {got}");
        }
        let sock = &mut self.socks[id];
        if sock.starved && !sock.dead && sock.is_writable() {
            sock.starved = false;
            self.wake(id, Wake::Room);
        }
    }

    /// How much this peer would send now.
    fn peer_allowance(&self, id: usize) -> u64 {
        let sock = &self.socks[id];
        let peer = &sock.peer;
        if peer.finished || peer.closed || peer.gone || sock.is_in_the_dark() {
            return 0;
        }
        let may = peer.sends.min(sock.delivered.saturating_add(peer.ahead)).saturating_sub(peer.sent);
        may.min(sock.room_in.saturating_sub(sock.unread()))
    }

    fn peer_writes(&mut self, id: usize) {
        let chunk = self.peer_allowance(id).min(self.socks[id].peer.chunk_out);
        if chunk == 0 {
            return;
        }
        let sock = &mut self.socks[id];
        if sock.peer.rst_coming || matches!(sock.hold, Hold::Released(_)) || sock.dead {
            // Written to nobody: the answer is a reset.
            sock.peer.gone = true;
            return;
        }
        if self.speaks_first(id) {
            self.see("a server speaks first");
        }
        let sock = &mut self.socks[id];
        sock.arrived += chunk;
        sock.peer.sent += chunk;
        sock.room_in += sock.room_in / 16 + 1;
        sock.peer.chunk_out += sock.peer.chunk_out / 16 + 1;
        note!(self, "peer of {id} sends {chunk}");
        self.tell_of_data(id);
    }

    /// Bytes have arrived.
    pub fn tell_of_data(&mut self, id: usize) {
        if self.socks[id].has_gathered() {
            self.socks[id].untold_since = None;
            self.wake(id, Wake::Data);
        } else {
            self.socks[id].untold_since.get_or_insert(self.now);
            self.see("bytes arrive and are not told of");
        }
    }

    /// A server that says something before its client does, who has something to say.
    fn speaks_first(&self, id: usize) -> bool {
        let client = self.other(id).filter(|_| self.is_server(id)).map(|client| &self.socks[client].peer);
        self.socks[id].peer.sent == 0 && client.is_some_and(|client| client.sent == 0 && client.sends > 0)
    }

    fn peer_ends(&mut self, id: usize) {
        let sock = &self.socks[id];
        let peer = &sock.peer;
        if peer.gone {
            return;
        }
        let total = peer.sent + sock.delivered;
        if total >= peer.vanishes_at {
            self.vanish(id);
            return;
        }
        if total >= peer.resets_at {
            self.reset_by_peer(id);
            return;
        }
        if peer.finished && peer.heard_fin {
            self.socks[id].peer.gone = true;
            return;
        }
        if peer.finished || peer.closed || peer.sent < peer.sends {
            return;
        }
        match peer.finale {
            Finale::Silence => {}
            Finale::Reset => self.reset_by_peer(id),
            Finale::Finish => self.fin_by_peer(id, false),
            Finale::FinishAndReset => {
                self.fin_by_peer(id, false);
                self.reset_by_peer(id);
            }
            Finale::FinishLast if peer.heard_fin => self.fin_by_peer(id, true),
            Finale::FinishLast => {}
            Finale::Close if sock.unsent() > 0 => self.reset_by_peer(id),
            Finale::Close => self.fin_by_peer(id, true),
        }
    }

    pub fn fin_by_peer(&mut self, id: usize, closed: bool) {
        note!(self, "peer of {id} {}", if closed { "closes" } else { "finishes" });
        let sock = &mut self.socks[id];
        sock.peer.finished = true;
        sock.peer.closed = closed;
        sock.peer.gone = closed && sock.peer.heard_fin;
        if !sock.dead && !matches!(sock.hold, Hold::Released(_)) {
            sock.fin_arrived = true;
            self.wake(id, Wake::State);
        }
    }

    /// An RST arrives (`tcp_reset`).
    pub fn reset_by_peer(&mut self, id: usize) {
        note!(self, "peer of {id} resets");
        let sock = &mut self.socks[id];
        sock.peer.gone = true;
        let error = if sock.fin_arrived && !sock.fin_sent { Errno::EPIPE } else { Errno::ECONNRESET };
        self.kill(id, error, [Wake::State, Wake::Error]);
    }

    /// The network between is gone (`tcp_write_err`).
    fn vanish(&mut self, id: usize) {
        note!(self, "peer of {id} vanishes");
        let error = self.dice.one_of(&VANISHED);
        let sock = &mut self.socks[id];
        sock.peer.gone = true;
        sock.peer.vanished = true;
        self.kill(id, error, [Wake::Error, Wake::State]);
    }

    fn kill(&mut self, id: usize, error: Errno, wakes: [Wake; 2]) {
        let sock = &mut self.socks[id];
        if sock.dead || matches!(sock.hold, Hold::Released(_)) {
            return;
        }
        sock.dead = true;
        sock.error = Some(error);
        for wake in wakes {
            self.wake(id, wake);
        }
    }

    /// Whether this far end belongs to a server.
    pub fn is_server(&self, id: usize) -> bool {
        matches!(self.socks[id].far, Far::Server { .. })
    }
}
