//! What the workers have counted, against what the world has seen.

use std::sync::atomic::Ordering;

use ringway::dataplane::ending::{ConnectResult, Refusal};

use crate::oracle::Pair;
use crate::run::{Run, WORKERS};
use crate::socket::Far;

impl Run {
    /// What the books say against what the world sees.
    pub fn check_books(&mut self) {
        for desk in &self.commons.desks {
            while let Some(record) = desk.records.pop() {
                self.world.check_record(&record);
            }
            while desk.notes.pop().is_some() {}
        }
        let live = self.world.live();
        assert_eq!(u64::from(self.commons.sessions()), live, "sessions on the desks against clients that are open");
        let (mut accepted, mut opened, mut ended, mut rejected) = (0, 0, 0, 0);
        for tally in self.stage.ledgers.iter().flatten().flat_map(|ledger| ledger.tally.iter()) {
            accepted += tally.accepted.read();
            opened += tally.opened.read();
            ended += tally.ended.iter().map(|count| count.read()).sum::<u64>();
            rejected += tally.rejected[Refusal::MaxConnections as usize].read();
        }
        assert_eq!(accepted, self.world.accepted, "accepted, as counted");
        let lost = self.world.hatches.lost;
        assert_eq!(accepted, live + ended + rejected + lost, "accepted = live + ended + rejected + lost");
        let begun = self.world.pairs.len() as u64 + self.world.never_watched() - rejected - lost;
        assert_eq!(opened, begun, "sessions opened");
        self.check_bytes();
        self.check_connects();
        if self.stage.records() {
            let unrecorded = self.world.pairs.iter().position(|pair| pair.over && !pair.recorded);
            assert_eq!(unrecorded, None, "a session that is over has no record");
        }
        for (index, target) in self.world.targets.iter().enumerate() {
            let active = target.ledger.as_ref().map_or(0, |ledger| ledger.active.load(Ordering::Relaxed));
            assert_eq!(active, self.world.open_to(index), "active sessions of server {}", target.name);
        }
        let idle = |lane: usize| self.world.pipes.iter().filter(move |pipe| pipe.lane == lane && pipe.open);
        for lane in (0..WORKERS).filter(|_| live == 0) {
            assert!(idle(lane).all(|pipe| pipe.from == pipe.to), "a pipe of worker {lane} holds bytes of nobody");
        }
    }

    /// Bytes, as counted by listener and by server.
    fn check_bytes(&self) {
        let world = &self.world;
        let listeners = || self.stage.ledgers.iter().flatten();
        let up: u64 = listeners().map(|ledger| ledger.tally.sum(|tally| tally.bytes_in.read())).sum();
        let down: u64 = listeners().map(|ledger| ledger.tally.sum(|tally| tally.bytes_out.read())).sum();
        let taken = |servers: bool| -> u64 {
            world
                .socks
                .iter()
                .filter(|sock| matches!(sock.far, Far::Server { .. }) == servers)
                .map(|sock| sock.given())
                .sum()
        };
        assert_eq!(up, taken(true), "bytes in, as the listeners count them");
        assert_eq!(down, taken(false), "bytes out, as the listeners count them");
        for (index, target) in world.targets.iter().enumerate() {
            let Some(ledger) = &target.ledger else { continue };
            let served = || world.pairs.iter().filter(|pair| pair.relaying && world.served_by(pair) == Some(index));
            let up: u64 = served().filter_map(|pair| pair.server).map(|server| world.socks[server].given()).sum();
            let down: u64 = served().map(|pair| world.socks[pair.client].taken).sum();
            assert_eq!(ledger.tally.sum(|tally| tally.bytes_in.read()), up, "bytes into server {}", target.name);
            assert_eq!(ledger.tally.sum(|tally| tally.bytes_out.read()), down, "bytes out of server {}", target.name);
        }
    }

    /// Connects, as counted by server and result, and those tried again elsewhere.
    fn check_connects(&self) {
        let world = &self.world;
        for (index, target) in world.targets.iter().enumerate() {
            let Some(ledger) = &target.ledger else { continue };
            let over = |pair: &Pair| {
                let to = pair.attempts.iter().filter(|attempt| attempt.target == index);
                to.filter(|attempt| attempt.result.is_some() || pair.over).count() as u64
            };
            let made: u64 = world.pairs.iter().map(over).sum();
            let counted = ledger.tally.sum(|tally| tally.connects.iter().map(|count| count.read()).sum());
            assert_eq!(counted, made, "connects to server {} that have come to an end", target.name);
            let connected = ledger.tally.sum(|tally| tally.connects[ConnectResult::Ok as usize].read());
            let attempts = world.pairs.iter().flat_map(|pair| &pair.attempts);
            let made = attempts.filter(|attempt| attempt.target == index && attempt.connected_ns.is_some()).count();
            assert_eq!(connected, made as u64, "connections of server {}", target.name);
        }
        let elsewhere =
            |pair: &Pair| pair.attempts.windows(2).filter(|two| two[0].target != two[1].target).count() as u64;
        let retried: u64 = world.pairs.iter().map(elsewhere).sum();
        let pools = self.stage.plan.iter().flat_map(|plan| &plan.pools);
        let counted: u64 = pools.map(|pool| pool.ledger.tally.sum(|tally| tally.retries.read())).sum();
        assert_eq!(counted, retried, "connects tried again elsewhere");
    }
}
