//! One run: a world, two workers in it, and a life from the first client to the last letter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ringway::dataplane::commons::{Commons, Mail};
use ringway::dataplane::evict::Eviction;
use ringway::dataplane::exodus::Exodus;
use ringway::dataplane::roll::{Roll, Task, Whose};
use ringway::dataplane::shard::Shard;
use ringway::kernel::{Event, Hatch, Kernel, WakeTarget};

use crate::flight::Lane;
use crate::header;
use crate::kernel::{SHORTAGE, SimBell, SimKernel};
use crate::rng::Rng;
use crate::scene::Stage;
use crate::world::{Errand, Step, Trace, World, note};

pub const WORKERS: usize = 2;
const MS: u64 = 1_000_000;
/// Time between two steps of a ramp.
const RAMP_MS: u64 = 100;
/// Times in a run in want that many come at once.
const RUSHES: usize = 4;
/// The longest a door pauses.
const PAUSE_MAX_NS: u64 = 500 * MS;
/// More steps than any honest run takes.
const STEPS_MAX: usize = 400_000;
/// Turns of a worker from Stop to its end, at most.
const STOP_TURNS_MAX: usize = 400;

struct Worker {
    shard: Shard,
    events: Vec<Event>,
    /// When it wakes by itself.
    deadline: Option<u64>,
    /// It has read that it drains or stops.
    leaving: bool,
    stopping: bool,
    turns_stopping: usize,
    gone: bool,
}

pub struct Run {
    pub world: World,
    pub stage: Stage,
    pub commons: Arc<Commons>,
    workers: Vec<Worker>,
    /// An order to lead sessions out.
    order: Option<Arc<Exodus>>,
    steps: usize,
}

/// What a few hundred seeds must have met.
pub const RARE: [&str; 37] = [
    header::TOLD,
    header::IN_PIECES,
    header::NOBODY,
    "a connect is said to have gone well that has not",
    "bytes are offered to a server that is not connected",
    "a peer that asks and waits",
    "a peer that closes whatever is still to be read",
    "a peer that falls silent",
    "a peer that finishes and reads on",
    "a peer that finishes when it is told to",
    "a peer that never reads",
    "a peer that reads a little at a time",
    "a peer that resets",
    "a peer that resets behind its FIN",
    "a peer that sends a little at a time",
    "a peer that stops reading for a while",
    "a peer whose network goes away",
    "a server speaks first",
    "a hatch is full",
    "no descriptor for what was passed",
    "a connection is handed over",
    "a connection is taken from a queue without waiting",
    "a direction stops at its budget",
    "a drain overtakes a reload",
    "a greeting comes in pieces",
    "a greeting sends on",
    "a client is told what the last server said",
    "a reload meets a closing door",
    "a reload meets a paused door",
    "a session that began before a reload connects to a server the reload removed",
    "a session is recorded while it lives",
    "a server ramps",
    "a session waits for a place",
    "a splice",
    "a watch lapses",
    SHORTAGE,
    "no pipe is to be had",
];

/// What is seen in a run, for the summary.
pub type Seen = BTreeMap<&'static str, u64>;

/// Which world a seed is run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Servers are all alike.
    Plain,
    /// They have roles, and listeners want them.
    Roles,
}

/// Runs a seed. Panics at the first thing that should not be.
pub fn run(kind: Kind, seed: u64, trace: &Trace) -> Seen {
    let mut run = Run::new(kind, seed, trace.clone());
    run.serve();
    run.fall_silent();
    run.stop();
    run.check_end();
    run.world.seen
}

impl Run {
    fn new(kind: Kind, seed: u64, trace: Trace) -> Self {
        let mut world = World::new(Rng::new(seed), WORKERS, trace);
        if kind == Kind::Roles {
            world.begin_roles();
        }
        let mut stage = Stage::draw(&mut world);
        let scene = stage.build(&mut world);
        world.draw_roles();
        let most = if world.rng.chance(200) { world.rng.range(1, 10) as u32 } else { 10_000 };
        let commons = Arc::new(Commons::new(WORKERS, scene, most));
        (0..WORKERS).for_each(|lane| world.hatches.deliver(lane));
        let workers = (0..WORKERS).map(|index| Worker::new(index, &commons, &mut world, seed)).collect();
        Self { world, stage, commons, workers, order: None, steps: 0 }
    }

    /// Clients come, and everything goes on at once.
    fn serve(&mut self) {
        let rng = &mut self.world.rng;
        let clients = rng.size(40);
        let span = rng.size(3_000) * MS;
        let reloads = if rng.chance(500) { 0 } else { rng.range(1, 5) };
        let standings = if rng.chance(500) { 0 } else { rng.range(1, 8) };
        let abrupt = rng.chance(400);
        let end = self.world.now + span;
        let errands = [(clients, Errand::Client), (reloads, Errand::Reload), (standings, Errand::Standing)];
        for (count, errand) in errands {
            for _ in 0..count {
                let at = self.world.now + self.world.rng.below(span);
                self.world.schedule(at, errand);
            }
        }
        let healthy = self.world.classic || self.world.dice.chance(500);
        let healths = if healthy { 0 } else { self.world.dice.range(1, 12) };
        for _ in 0..healths {
            let at = self.world.now + self.world.dice.below(span);
            self.world.schedule(at, Errand::Health);
        }
        if self.world.pools.iter().any(|terms| terms.slow_start_ms > 0) {
            self.world.schedule(self.world.now, Errand::Ramp);
        }
        if !self.world.classic && self.world.haste.chance(300) {
            let at = self.world.now + self.world.haste.below(span);
            let lane = self.world.haste.index(WORKERS);
            self.world.schedule(at, Errand::Haste(lane));
        }
        if self.world.is_in_want || self.world.roles.is_some() {
            self.schedule_rushes(span);
        }
        if let Some(roles) = &mut self.world.roles {
            let (changes, proofs) = (roles.rng.range(2, 12), roles.rng.below(30));
            for (count, errand) in [(changes, Errand::Role), (proofs, Errand::Proof)] {
                for _ in 0..count {
                    let after = self.world.roles.as_mut().map_or(0, |roles| roles.rng.below(span));
                    self.world.schedule(self.world.now + after, errand);
                }
            }
        }
        let rolls = if self.world.classic { 0 } else { self.world.haste.below(4) };
        for _ in 0..rolls {
            let at = self.world.now + self.world.haste.below(span);
            self.world.schedule(at, Errand::Roll);
        }
        if !self.world.classic && self.world.march.chance(700) {
            self.schedule_march(span);
        }
        if abrupt {
            let soon = self.world.rng.range(span / 2, span);
            self.schedule_stop(soon);
        }
        let after = self.world.rng.size(3_000) * MS;
        self.advance_to(end + after);
    }

    /// Sessions are led out, in steps, and perhaps everybody in the end.
    fn schedule_march(&mut self, span: u64) {
        let begin = self.world.now + self.world.march.below(span);
        self.world.schedule(begin, Errand::March(Step::Begin));
        let mut at = begin;
        for _ in 0..self.world.march.range(4, 24) {
            at += self.world.march.size(100 * MS);
            self.world.schedule(at, Errand::March(Step::More));
        }
        if self.world.march.chance(300) {
            self.world.schedule(at, Errand::March(Step::Everyone));
        }
        self.world.schedule(at + 300 * MS, Errand::March(Step::End));
    }

    /// More come at once than there are places, and the configuration changes while some of them wait.
    fn schedule_rushes(&mut self, span: u64) {
        for _ in 0..RUSHES {
            let at = self.world.now + self.world.want.below(span);
            let reload = at + self.world.want.size(20 * MS);
            self.world.schedule(reload, Errand::Reload);
            for _ in 0..self.world.want.range(4, 10) {
                let at = at + self.world.want.below(MS);
                self.world.schedule(at, Errand::Client);
            }
        }
    }

    /// Stop reaches one worker after the other, perhaps after Drain.
    fn schedule_stop(&mut self, within: u64) {
        let drains = self.world.rng.chance(500);
        let apart = self.world.rng.size(500 * MS);
        for lane in 0..WORKERS {
            let at = self.world.now + self.world.rng.below(within);
            if drains {
                self.world.schedule(at, Errand::Drain(lane));
                if self.world.rng.chance(500) {
                    self.world.schedule(at, Errand::Reload);
                }
            }
            let at = self.world.now + within + self.world.rng.below(apart);
            self.world.schedule(at, Errand::Stop(lane));
        }
    }

    /// Nobody says anything any more: timers end what has one.
    fn fall_silent(&mut self) {
        self.world.frozen = true;
        note!(self.world, "all peers fall silent");
        let longest = self.world.pools.iter().map(|terms| terms.longest_ns()).max().unwrap_or(0);
        let slack = self.world.faults.latency_ns * 40 + self.world.faults.sluggish_ns * 40 + 100 * MS;
        self.advance_to(self.world.now + longest + slack);
        // Who waited long in a queue is young still.
        let old = self.world.now - longest - slack;
        for (number, pair) in self.world.pairs.iter().enumerate().filter(|(_, pair)| pair.opened_ns <= old) {
            let Some(attempt) = pair.attempts.last() else {
                assert!(pair.over, "session {number} connects to nobody and lives on");
                continue;
            };
            let terms = self.world.terms(attempt.target);
            let immortal = terms.idle_ns == 0 && terms.lifetime_ns == 0 && pair.relaying && !pair.half;
            assert!(pair.over || immortal, "session {number} lives on in silence");
        }
        if self.world.rng.chance(150) {
            // Who may live for ever is heard of every five minutes.
            self.advance_to(self.world.now + 700_000 * MS);
        }
        self.world.frozen = self.world.rng.chance(500);
    }

    fn stop(&mut self) {
        if !self.world.stopped {
            self.schedule_stop(20 * MS);
        }
        while self.workers.iter().any(|worker| !worker.gone) {
            assert!(self.step(u64::MAX), "a worker that was stopped waits for ever");
        }
    }

    fn advance_to(&mut self, end: u64) {
        while self.step(end) {}
        self.world.now = self.world.now.max(end);
    }

    /// One thing happens, or time passes; false when nothing does before `end`.
    fn step(&mut self, end: u64) -> bool {
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "the run does not come to rest");
        let now = self.world.now;
        let mut due: Vec<usize> =
            (0..WORKERS).filter(|&lane| self.wakes_at(lane).is_some_and(|at| at <= now)).collect();
        if self.world.next_errand_ns().is_some_and(|at| at <= now) {
            due.push(WORKERS);
        }
        if due.is_empty() {
            self.world.check_rest();
            self.check_waiting();
            self.check_doors();
            self.check_gauges();
            let wakes = (0..WORKERS).filter_map(|lane| self.wakes_at(lane));
            let next = wakes.chain(self.world.next_errand_ns()).min();
            let Some(next) = next.filter(|&next| next <= end) else { return false };
            self.world.now = next;
            return true;
        }
        match self.world.rng.one_of(&due) {
            WORKERS => self.errand(),
            lane => self.turn(lane),
        }
        self.check_books();
        true
    }

    fn wakes_at(&self, lane: usize) -> Option<u64> {
        let worker = &self.workers[lane];
        if worker.gone {
            return None;
        }
        worker.deadline.into_iter().chain(self.world.lanes[lane].next_word_ns()).min()
    }

    fn errand(&mut self) {
        let Some(errand) = self.world.take_errand() else { return };
        match errand {
            Errand::Act(id) => self.world.keep_appointment(id),
            Errand::Answer(lane, key, outcome) => self.world.answer(lane, key, outcome),
            Errand::Client => self.client_comes(),
            Errand::Haste(lane) => self.haste(lane),
            Errand::Roll => self.call_roll(),
            Errand::March(step) => self.march(step),
            Errand::Reload => {
                self.publish();
                for lane in 0..WORKERS {
                    // A box may be full, and the letter sent again later.
                    if !self.world.classic && self.world.extra.chance(300) {
                        let at = self.world.now + self.world.extra.below(50 * MS);
                        self.world.letters += 1;
                        self.world.schedule(at, Errand::Letter(lane));
                    } else {
                        self.post(lane, Mail::NewScene);
                    }
                }
            }
            Errand::Standing => {
                self.stage.set_standing(&mut self.world);
                self.call_waiting();
            }
            Errand::Health => {
                if let Some(Mail::Evict(order)) = self.stage.set_health(&mut self.world) {
                    self.give_order(&order);
                }
                self.call_waiting();
            }
            Errand::Role => {
                let orders = self.world.change_roles();
                orders.into_iter().for_each(|order| self.give_order(&order));
                self.call_waiting();
            }
            Errand::Proof => {
                if self.world.prove_one() {
                    self.call_waiting();
                }
            }
            Errand::Letter(lane) => {
                self.world.letters -= 1;
                self.post(lane, Mail::NewScene);
            }
            Errand::Ramp => {
                let pools: Vec<_> = self.stage.plan.iter().flat_map(|plan| &plan.pools).cloned().collect();
                for pool in pools {
                    let ramping = pool.servers.iter().filter(|server| server.ledger.ramp_by(RAMP_MS as u32)).count();
                    if ramping > 0 {
                        self.world.see("a server ramps");
                        self.commons.call_waiting(&pool.ledger, &mut SimBell(&mut self.world));
                    }
                }
                let next = self.world.now + RAMP_MS * MS;
                self.world.schedule(next, Errand::Ramp);
            }
            Errand::Drain(lane) => self.post(lane, Mail::Drain),
            Errand::Stop(lane) => {
                self.world.stopped = true;
                self.workers[lane].stopping = true;
                self.post(lane, Mail::Stop);
            }
        }
    }

    /// The workers are to end sessions of a server.
    fn give_order(&mut self, order: &Arc<Eviction>) {
        for lane in 0..WORKERS {
            self.post(lane, Mail::Evict(Arc::clone(order)));
        }
    }

    fn client_comes(&mut self) {
        let open: Vec<usize> = (0..self.world.doors.len()).filter(|&at| self.world.doors[at].open).collect();
        let door = self.world.rng.one_of(&open);
        self.world.client_comes(door);
    }

    /// Publishes another configuration; the letters about it are still to be sent.
    fn publish(&mut self) {
        self.stage.change(&mut self.world);
        let scene = self.stage.build(&mut self.world);
        note!(self.world, "reload: generation {}", scene.plan.generation);
        self.world.forget_roles();
        self.commons.scene.store(Arc::new(scene));
    }

    /// Calls the roll of all sessions, or ends those of one client. Each worker is asked, and all that live are told.
    fn call_roll(&mut self) {
        let clients: Vec<usize> = self.world.pairs.iter().filter(|pair| !pair.over).map(|pair| pair.client).collect();
        if clients.is_empty() || self.workers.iter().any(|worker| worker.gone) {
            return;
        }
        let doomed = self.world.haste.chance(700).then(|| clients[self.world.haste.index(clients.len())]);
        let whose = match doomed {
            Some(client) => {
                self.world.doom(client);
                Whose { source: Some((self.world.socks[client].address.ip(), 32)), ..Whose::default() }
            }
            None => Whose::default(),
        };
        let task = if doomed.is_some() { Task::End } else { Task::Call };
        let roll = Arc::new(Roll::new(whose, task, |called| assert!(called.found >= called.rows.len() as u64)));
        for lane in 0..WORKERS {
            self.post(lane, Mail::Roll(Arc::clone(&roll)));
        }
    }

    /// An operator has sessions led out.
    fn march(&mut self, step: Step) {
        if let Step::Begin = step {
            if self.workers.iter().any(|worker| worker.stopping) {
                return;
            }
            let order = Arc::new(Exodus::of_all(self.world.now));
            self.world.marching = Some((self.world.now, false));
            for lane in 0..WORKERS {
                self.post(lane, Mail::Exodus(Arc::clone(&order)));
            }
            self.order = Some(order);
        }
        let Some(order) = &self.order else { return };
        match step {
            Step::Begin | Step::More => {
                order.spare(self.world.march.size(100 * MS) - 1);
                order.admit(self.world.march.below(10), 10);
            }
            Step::Everyone => {
                self.world.marching = self.world.marching.map(|(since_ns, _)| (since_ns, true));
                order.take_everyone();
            }
            Step::End => order.call_off(),
        }
    }

    /// Orders of letters that chance would hardly make: clients wait at doors whose accepts have failed, which the worker
    /// has not heard yet, when the letter to drain overtakes the one about a reload; or are on their way from a closing
    /// door when the configuration changes; or wait at paused doors whose pause is over before the letter comes.
    fn haste(&mut self, lane: usize) {
        if self.workers[lane].stopping {
            // Nothing comes after Stop.
            return;
        }
        let mut later = self.world.now + self.world.haste.size(20 * MS);
        let kind = self.world.haste.below(3);
        match kind {
            0 => self.world.fail_accepts(lane, later),
            1 => {}
            _ => {
                self.world.fail_accepts(lane, self.world.now);
                self.turn(lane);
                later += PAUSE_MAX_NS;
            }
        }
        (0..self.world.haste.range(1, 4)).for_each(|_| self.client_comes());
        match kind {
            0 => {
                self.world.see("a drain overtakes a reload");
                self.publish();
                self.post(lane, Mail::Drain);
            }
            1 => {
                self.world.see("a reload meets a closing door");
                self.world.hold_up_accepts(lane, later);
                self.post(lane, Mail::Drain);
                self.turn(lane);
                self.publish();
            }
            _ => {
                self.world.see("a reload meets a paused door");
                self.publish();
            }
        }
        for lane in 0..WORKERS {
            self.world.letters += 1;
            self.world.schedule(later, Errand::Letter(lane));
        }
    }

    /// Who waits may find room now.
    fn call_waiting(&mut self) {
        let pools = self.stage.plan.iter().flat_map(|plan| &plan.pools);
        pools.for_each(|pool| self.commons.call_waiting(&pool.ledger, &mut SimBell(&mut self.world)));
    }

    fn post(&mut self, lane: usize, mail: Mail) {
        note!(self.world, "mail for worker {lane}: {}", name(&mail));
        if matches!(mail, Mail::NewScene) {
            self.world.hatches.deliver(lane);
        }
        let Err(mail) = self.commons.post(lane, mail, &mut SimBell(&mut self.world)) else { return };
        if !self.workers[lane].gone {
            self.turn(lane);
            let posted = self.commons.post(lane, mail, &mut SimBell(&mut self.world));
            assert!(posted.is_ok(), "worker {lane} has had its turn and its box is full");
        }
    }

    /// One round of the loop in `dataplane::worker`.
    fn turn(&mut self, lane: usize) {
        if self.world.rng.chance(self.world.faults.sluggish) {
            self.world.now += self.world.rng.below(self.world.faults.sluggish_ns);
        }
        note!(self.world, "turn of worker {lane}");
        let now = self.world.now;
        let desk = &self.commons.desks[lane];
        let worker = &mut self.workers[lane];
        let mut kernel = SimKernel { world: &mut self.world, lane };
        // The time to wait is over: that is what a turn is.
        kernel.wait(None, &mut worker.events).expect("the simulated kernel goes on");
        let accepts = worker.events.iter().any(|event| matches!(event, Event::Accepted { .. }));
        let full = accepts && kernel.world.rng.chance(kernel.world.faults.full_hatch);
        kernel.world.hatches.fill(lane, full);
        for event in worker.events.drain(..) {
            note!(kernel.world, " {event:?}");
            if let Event::Connected { token, result } = event {
                kernel.world.connect_told(lane, token, result);
            }
            worker.shard.handle(event, now, &mut kernel);
        }
        worker.shard.resume(now, &mut kernel);
        worker.shard.expire(now, &mut kernel);
        desk.hush();
        while let Some(mail) = desk.take() {
            note!(kernel.world, " {}", name(&mail));
            let leaves = matches!(mail, Mail::Drain | Mail::Stop);
            let takes_up = leaves || matches!(mail, Mail::NewScene);
            if let (Mail::Evict(order), Some(roles)) = (&mail, &mut kernel.world.roles) {
                roles.obey(lane, order, now);
            }
            worker.shard.obey(mail, now, &mut kernel);
            if !worker.leaving && takes_up {
                kernel.world.check_queues(lane, leaves);
            }
            worker.leaving |= leaves;
            if takes_up && !worker.leaving {
                kernel.world.furnish(lane);
            }
        }
        while let Some(newcomer) = desk.take_newcomer() {
            kernel.world.see("a connection is handed over");
            worker.shard.welcome(newcomer, now, &mut kernel);
        }
        worker.shard.attend(now, &mut kernel);
        if worker.shard.is_done() {
            worker.gone = true;
            worker.shard.close(now, &mut kernel);
            kernel.close_hatch();
        }
        // What wait does first is done by now: nobody comes between the end of a turn and the wait after it.
        kernel.world.submit(lane);
        let patience = worker.shard.patience_ns(now);
        worker.deadline = patience.map(|patience| now + patience);
        if patience == Some(0) {
            self.world.see("a direction stops at its budget");
        }
        if worker.stopping {
            worker.turns_stopping += 1;
            assert!(worker.turns_stopping < STOP_TURNS_MAX, "worker {lane} was stopped and goes on and on");
        }
    }

    /// When no worker has been rung, nobody waits who need not, and who waits is counted.
    fn check_waiting(&mut self) {
        if self.world.letters > 0 || self.world.lanes.iter().any(|lane| lane.rung_at.is_some()) {
            return;
        }
        let waiting = self.world.check_waiting();
        let pools = self.stage.plan.iter().flat_map(|plan| &plan.pools);
        let counted: u32 = pools.map(|pool| pool.ledger.line.waiting()).sum();
        assert_eq!(counted as usize, waiting, "sessions that wait for a place");
    }

    /// Workers that expect nothing tell how their pipes stand.
    fn check_gauges(&self) {
        let serving = self.workers.iter().enumerate().filter(|(_, worker)| !worker.gone);
        for (lane, _) in serving.filter(|&(lane, _)| self.world.lanes[lane].next_word_ns().is_none()) {
            self.world.check_gauges(lane, &self.commons.desks[lane]);
        }
    }

    /// A worker that serves accepts at every door, or will again after a pause.
    fn check_doors(&self) {
        let slack = self.world.faults.latency_ns + self.world.faults.sluggish_ns + 10 * MS;
        for (lane, _) in self.workers.iter().enumerate().filter(|(_, worker)| !worker.gone && !worker.leaving) {
            for (number, _) in self.world.doors.iter().enumerate().filter(|(_, door)| door.open) {
                let Lane { accepts_ns, furnished_ns, .. } = &self.world.lanes[lane];
                let Some(last) = accepts_ns.get(&number).or_else(|| furnished_ns.get(&number)) else { continue };
                // Without descriptors a door rests, whatever it last did.
                let idle = self.world.now - self.world.lanes[lane].shortage_ns.max(*last);
                let rests = self.world.lanes[lane].accepts_at(number) || idle <= PAUSE_MAX_NS + slack;
                assert!(rests, "worker {lane} does not accept at door {number} any more");
            }
        }
    }

    fn check_end(&mut self) {
        assert_eq!(self.world.live(), 0, "clients that are open when all workers have gone");
        for (id, sock) in self.world.socks.iter().enumerate() {
            assert!(!sock.is_open(), "socket {id} is open when all workers have gone");
            assert!(sock.flights.is_empty(), "socket {id} has requests in flight when all workers have gone");
        }
        assert!(self.world.pipes.iter().all(|pipe| !pipe.open), "a pipe is left open");
        let listening = &self.world.hatches.listening;
        assert!(listening.is_empty(), "doors are left open: {listening:?}");
        let mut pools = self.stage.plan.iter().flat_map(|plan| &plan.pools);
        assert!(pools.all(|pool| !pool.ledger.line.is_waited_in()), "somebody waits when all have gone");
        for (lane, desk) in self.commons.desks.iter().enumerate() {
            assert_eq!(desk.sessions.load(Ordering::Relaxed), 0, "sessions on the desk of worker {lane}");
            assert_eq!(desk.tally.records_dropped.read(), 0, "records dropped by worker {lane}");
            assert!(self.world.lanes[lane].flights.is_empty(), "requests of worker {lane} in flight at its end");
            let unclaimed = self.world.hatches.unclaimed(lane);
            assert!(unclaimed.is_empty(), "worker {lane} has never claimed {unclaimed:?}");
        }
    }
}

impl Worker {
    fn new(index: usize, commons: &Arc<Commons>, world: &mut World, seed: u64) -> Self {
        commons.desks[index].open(WakeTarget(index as i32), Hatch(index as i32));
        let now = world.now;
        let mut shard = Shard::new(index, Arc::clone(commons), now, seed);
        let mut kernel = SimKernel { world, lane: index };
        shard.adopt(now, &mut kernel);
        kernel.world.furnish(index);
        kernel.world.submit(index);
        // A door may have to wait for a descriptor.
        let deadline = shard.patience_ns(now).map(|patience| now + patience);
        Self { shard, events: Vec::new(), deadline, leaving: false, stopping: false, turns_stopping: 0, gone: false }
    }
}

/// A letter's name: a listener in full is no help.
fn name(mail: &Mail) -> String {
    match mail {
        Mail::Evict(_) => "Evict".into(),
        Mail::Exodus(_) => "Exodus".into(),
        Mail::Roll(_) => "Roll".into(),
        mail => format!("{mail:?}"),
    }
}
