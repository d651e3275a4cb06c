//! What must hold of sessions that wait for a place on a server, and of servers that ramp.

use ringway::config::ledger::{Health, Standing};

use crate::oracle::TICK_NS;
use crate::scene::{PoolTerms, Target};
use crate::socket::{Far, Socket};
use crate::world::{SimDoor, World};

impl World {
    /// Who goes to a server that has not warmed up so far finds no room elsewhere.
    pub fn check_overflow(&self, number: usize, index: usize) {
        let pair = &self.pairs[number];
        if self.is_stray(pair.client) {
            return;
        }
        let tried = |other: usize| pair.attempts.iter().any(|attempt| attempt.target == other);
        for other in self.socks[pair.client].members.iter().copied().filter(|other| *other != index) {
            let target = &self.targets[other];
            let usable = target.weight > 0
                && target.standing == Standing::Ready
                && target.health != Health::Down
                && !tried(other);
            let class = |target: &Target| target.grade();
            let same = class(target) == class(&self.targets[index]);
            let room = target.places().is_none_or(|places| self.open_to(other) < places);
            let room = room && (target.rate.is_none() || target.due_ns <= self.now + target.pace_ns().1);
            assert!(!(usable && same && room), "session {number} goes to a cold server; {} has room", target.name);
        }
    }

    /// Nobody who comes is served before those who wait on the same worker for the same servers.
    pub fn check_turn(&self, number: usize) {
        let pair = &self.pairs[number];
        let client = &self.socks[pair.client];
        if !pair.attempts.is_empty() {
            return;
        }
        for (other, earlier) in self.pairs[..number].iter().enumerate() {
            let waits = !earlier.over && earlier.attempts.is_empty() && earlier.lane == pair.lane;
            let earlier = &self.socks[earlier.client];
            // Whatever scenes a worker took up since, or missed, it did so for both.
            let alike = earlier.scene == client.scene && (earlier.far == client.far || client.scene == self.scenes);
            let same = alike && earlier.members == client.members && !earlier.is_late && !client.is_late;
            let alike = self.pairs[other].wish == pair.wish;
            assert!(!(waits && same && alike), "session {number} is served before session {other}, which waits");
        }
    }

    /// Its listener is gone, or leads elsewhere: which of the scenes before that its worker took up last is not known here, for it
    /// may miss some.
    pub fn is_stray(&self, client: usize) -> bool {
        let Far::Client { door } = self.socks[client].far else { return false };
        let (listener, pool) = (self.doors[door].listener, self.socks[client].pool);
        let leads = |other: &SimDoor| other.open && other.listener == listener && other.pool == pool;
        self.socks[client].is_late || !self.doors.iter().any(leads)
    }

    /// The pools a session may have come to, by number: of a listener that was gone when it was accepted, nobody here knows which of
    /// the scenes before its worker took up last.
    pub fn pools_of(&self, client: &Socket) -> impl Iterator<Item = (usize, &PoolTerms)> {
        let (pool, is_late) = (client.pool, client.is_late);
        self.pools.iter().enumerate().filter(move |(index, _)| is_late || *index == pool)
    }

    /// Those of them in which it may wait.
    pub fn queues_of(&self, client: &Socket) -> impl Iterator<Item = &PoolTerms> {
        self.pools_of(client).map(|(_, terms)| terms).filter(|terms| terms.queue_limit > 0)
    }

    /// Who waits, and has tried nobody, goes on under the new plan, if that leads to the same pool.
    pub fn renew_waiting(&mut self, door: usize) {
        let waits = self.pairs.iter().filter(|pair| !pair.over && pair.attempts.is_empty());
        let SimDoor { listener, pool, members, .. } = &self.doors[door];
        for client in waits.map(|pair| pair.client) {
            let client = &mut self.socks[client];
            let Far::Client { door } = client.far else { continue };
            if self.doors[door].listener == *listener && client.pool == *pool {
                client.members.clone_from(members);
            }
        }
    }

    /// Sessions that wait for a place: there is none for them, and none has waited for too long. How many there are.
    pub fn check_waiting(&mut self) -> usize {
        let mut waiting = 0;
        self.note_patience();
        for (number, pair) in self.pairs.iter().enumerate() {
            // A server that was let go is parted with once the watch on it has ended.
            let served = |id: usize| self.socks[id].is_open() || !self.socks[id].flights.is_empty();
            if pair.over || pair.server.is_some_and(served) {
                continue;
            }
            waiting += 1;
            let client = &self.socks[pair.client];
            let longest_ns = self.queues_of(client).map(|terms| terms.queue_ns).max();
            let Some(longest_ns) = longest_ns else { panic!("session {number} waits for nothing") };
            let slack = TICK_NS + 2 * self.faults.latency_ns + 2 * self.faults.sluggish_ns;
            let late = self.now > pair.bereft_ns + longest_ns + slack;
            assert!(!late, "session {number} waits for ever");
            let late = pair.awaits_ns.is_some_and(|since_ns| self.now > since_ns + longest_ns + slack);
            assert!(!late, "session {number} waits for ever, again and again");
            // Who has tried somebody keeps its plan.
            let newest = client.scene == self.scenes || pair.scene < self.scenes;
            let is_known = match pair.attempts.is_empty() {
                true => newest && !self.is_stray(pair.client),
                false => pair.began_at_once,
            };
            if !is_known {
                continue;
            }
            if let Some(wish) = pair.wish {
                self.check_waiting_for(number, wish);
                continue;
            }
            let untried = |index: &&usize| pair.attempts.iter().all(|attempt| attempt.target != **index);
            let takes = |index: &&usize| {
                let target = &self.targets[**index];
                target.weight > 0 && target.standing == Standing::Ready && target.health != Health::Down
            };
            let class = |index: &usize| self.targets[*index].grade();
            let usable = || client.members.iter().filter(untried).filter(takes);
            let best = usable().map(class).min();
            if let Some(&room) =
                usable().filter(|index| Some(class(index)) == best).find(|index| self.has_room(**index))
            {
                panic!("session {number} waits though there is room on {}", self.targets[room].name);
            }
        }
        if waiting > 0 {
            self.see(if self.roles.is_some() { "a session waits for a role" } else { "a session waits for a place" });
        }
        waiting
    }

    /// Whether a server has a place, and has had it for long enough.
    pub fn has_room(&self, index: usize) -> bool {
        let target = &self.targets[index];
        // Who waits for a rate looks at times.
        let (_, slack_ns) = target.pace_ns();
        let late_ns = 2_000_000 + 2 * self.faults.sluggish_ns + 2 * self.faults.latency_ns;
        let soon = target.rate.is_some() && target.due_ns + late_ns > self.now + slack_ns;
        target.places().is_none_or(|places| self.open_to(index) < places) && !soon
    }

    /// Who wants a role and has tried a server is patient once, however often that is tried again.
    fn note_patience(&mut self) {
        let Self { pairs, socks, now, .. } = self;
        for pair in pairs.iter_mut().filter(|pair| !pair.over && pair.wish.is_some() && !pair.attempts.is_empty()) {
            let served = pair.server.is_some_and(|id| socks[id].is_open() || !socks[id].flights.is_empty());
            if !served {
                pair.awaits_ns.get_or_insert(*now);
                pair.waited = true;
            }
        }
    }
}
