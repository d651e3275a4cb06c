//! What follows from what is learned of a server: its state in the ledger, an event, orders to the workers.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use crate::config::ledger::{Health, Overlook};
use crate::config::plan::{Eject, OnDown, Pool, Server};
use crate::dataplane::commons::{Commons, monotonic_ns};
use crate::dataplane::ending::Ending;
use crate::dataplane::evict::{Eviction, Whom};
use crate::health::{CheckResult, Fault, Outcome};
use crate::observe::event::Event;
use crate::observe::writer::Log;

use super::Order;
use super::council::Council;
use super::gather::Gatherer;
use super::library::Library;
use super::ward::{Ward, id};

/// Least time between two events that say that a check was not possible.
const QUIET: Duration = Duration::from_secs(10);

/// What the tasks of the prober share.
pub(super) struct Office {
    log: Log,
    commons: Arc<Commons>,
    orders: mpsc::UnboundedSender<Order>,
    wards: RefCell<HashMap<usize, Rc<Ward>>>,
    /// Pools that were seen without a server that may be chosen.
    dark: RefCell<HashSet<Arc<str>>>,
    /// Connections that are kept between checks.
    pub(super) kept: Cell<u32>,
    random: Cell<u64>,
    quiet_until: Cell<Option<Instant>>,
    /// What checks read from files.
    pub(super) library: Library,
    /// Who knows of roles.
    pub(super) council: Council,
    /// Who listens to the sockets of checks.
    pub(super) gatherer: Rc<Gatherer>,
}

impl Office {
    pub(super) fn new(
        log: Log,
        commons: Arc<Commons>,
        orders: mpsc::UnboundedSender<Order>,
        gatherer: Gatherer,
    ) -> Self {
        Self {
            log,
            commons,
            orders,
            wards: RefCell::default(),
            dark: RefCell::default(),
            kept: Cell::new(0),
            random: Cell::new(RandomState::new().build_hasher().finish() | 1),
            quiet_until: Cell::new(None),
            library: Library::default(),
            council: Council::default(),
            gatherer: Rc::new(gatherer),
        }
    }

    /// A random number: xorshift64 (Marsaglia 2003) is enough for jitter.
    pub(super) fn draw(&self) -> u64 {
        let mut random = self.random.get();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.set(random);
        random
    }

    /// The ward of a server of a new plan.
    pub(super) fn ward_of(&self, pool: &Arc<Pool>, index: usize) -> Rc<Ward> {
        let mut wards = self.wards.borrow_mut();
        let ward = wards.entry(id(&pool.servers[index].ledger)).or_insert_with(|| Rc::new(Ward::new(pool, index)));
        ward.move_to(pool, index);
        Rc::clone(ward)
    }

    /// Lets go of all others.
    pub(super) fn retain(&self, present: &HashSet<usize>) {
        self.wards.borrow_mut().retain(|id, ward| {
            let stays = present.contains(id);
            if !stays {
                ward.dismiss();
            }
            stays
        });
    }

    /// A task keeps its connection, or does not any more.
    pub(super) fn count_kept(&self, before: &mut bool, now: bool) {
        let kept = self.kept.get();
        self.kept.set(kept + u32::from(now) - u32::from(*before));
        *before = now;
    }

    /// A check has come to an end.
    pub(super) fn hear(&self, ward: &Ward, outcome: &Outcome, took: Duration) {
        let (pool, server) = ward.place();
        let Some(check) = &pool.care.check else { return };
        pool.ledger.checks.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        let result = CheckResult::of(outcome);
        ward.ledger.checks[result as usize].bump();
        {
            let mut bulletin = ward.ledger.bulletin();
            bulletin.last_took = took;
            bulletin.last_result = result.word();
            bulletin.last_status = None;
            bulletin.last_check.clear();
            match outcome {
                Ok(()) => {
                    bulletin.last_check.push_str("passed");
                    bulletin.passed = Some(SystemTime::now());
                }
                Err(fault) => bulletin.last_check = fault.to_string(),
            }
            if let Err(Fault::Status { found, .. }) = outcome {
                bulletin.last_status = Some(*found);
            }
        }
        if let Err(Fault::Local(_)) = outcome {
            if ward.ledger.health() == Health::Checking {
                let mut bulletin = ward.ledger.bulletin();
                bulletin.reason = bulletin.last_check.clone();
            }
            return self.mention_impossible(&pool, &server, outcome);
        }
        if outcome.is_ok() {
            ward.ledger.prove();
            self.call_who_tried(&pool);
        }
        let mut verdict = ward.verdict.get();
        let before = verdict.health();
        let changed = verdict.hear(outcome.is_ok(), &check.pace);
        ward.verdict.set(verdict);
        ward.ledger.bulletin().doubts = verdict.doubts();
        if changed {
            let reason = match (outcome, before) {
                (Err(fault), _) => fault.to_string(),
                (Ok(()), Health::Checking) | (Ok(()), Health::Unchecked) => "the first check passed".into(),
                (Ok(()), Health::Up | Health::Down) if check.pace.rise == 1 => "a check passed".into(),
                (Ok(()), Health::Up | Health::Down) => format!("{} checks in a row passed", check.pace.rise),
            };
            self.turn(ward, &pool, &server, verdict.health(), reason);
        }
    }

    /// A server has come up, or gone down.
    fn turn(&self, ward: &Ward, pool: &Arc<Pool>, server: &Server, health: Health, reason: String) {
        let is_up = health == Health::Up;
        let was_down = ward.ledger.health() == Health::Down;
        ward.ledger.set_health(health);
        if is_up {
            // It has proved itself: whatever connects said before is old.
            ward.ledger.forget_failures();
            self.end_rest(ward);
        }
        let word = if is_up { "up" } else { "down" };
        let message = format!("server {} of pool {} is {word}: {reason}", server.name, pool.name);
        self.say(
            if is_up { Event::info("server", message) } else { Event::warn("server", message) },
            pool,
            server,
            word,
            &reason,
        );
        let mut bulletin = ward.ledger.bulletin();
        if was_down {
            let down = bulletin.since.elapsed();
            bulletin.down_before += down;
        }
        bulletin.falls += u64::from(!is_up);
        bulletin.since = Instant::now();
        bulletin.reason = reason;
        drop(bulletin);
        if !is_up && pool.care.on_down == OnDown::Close {
            // Who wants a role goes by that: the last primary keeps its sessions until there is another.
            let by_role = pool.care.check.as_ref().is_some_and(|check| check.roles.is_some());
            let whom = if by_role { Whom::Roleless } else { Whom::All };
            let order = Eviction { server: Arc::clone(&ward.ledger), ending: Ending::ServerDown, whom };
            self.evict(order);
        }
        self.call_waiting(pool);
        self.survey(pool);
    }

    /// Has the workers end sessions.
    pub(super) fn evict(&self, order: Eviction) {
        self.order(Order::Evict(Arc::new(order)));
    }

    fn order(&self, order: Order) {
        // Nobody takes orders only once the conductor has left.
        let _ = self.orders.send(order);
    }

    /// Which servers may be chosen has changed: who waits looks again.
    pub(super) fn call_waiting(&self, pool: &Pool) {
        if pool.terms.queue.limit > 0 {
            self.order(Order::Look(Arc::clone(&pool.ledger)));
        }
    }

    /// A server has proven itself: who has tried it in vain, and waits for its role, looks again.
    fn call_who_tried(&self, pool: &Pool) {
        // Who joins from here on sees the proof; who has joined before is seen here.
        fence(Ordering::SeqCst);
        if pool.ledger.line.waited_in().any(|lane| lane.again) {
            self.call_waiting(pool);
        }
    }

    fn say(&self, event: Event, pool: &Pool, server: &Server, state: &str, reason: &str) {
        let event = event.with("pool", &*pool.name).with("server", &*server.name);
        let event = event.with("address", server.address.to_string());
        self.log.say(event.with("state", state).with("reason", reason));
    }

    /// Says something to the log.
    pub(super) fn tell(&self, event: Event) {
        self.log.say(event);
    }

    fn mention_impossible(&self, pool: &Pool, server: &Server, outcome: &Outcome) {
        let now = Instant::now();
        if self.quiet_until.get().is_some_and(|until| now < until) {
            return;
        }
        self.quiet_until.set(Some(now + QUIET));
        let Err(fault) = outcome else { return };
        let event = Event::warn("check", fault.to_string()).with("pool", &*pool.name).with("server", &*server.name);
        self.log.say(event);
    }

    /// Looks whether a pool has a server that may be chosen. With none left, those that rest come back; an event says when
    /// that is not enough, and when it is over.
    pub(super) fn survey(&self, pool: &Arc<Pool>) {
        if pool.care.check.is_none() && pool.care.eject.is_none() {
            self.dark.borrow_mut().remove(&pool.name);
            return;
        }
        if !serves(pool, None, Overlook::Checking) {
            let wards = self.wards.borrow();
            let resting = pool.servers.iter().filter(|server| server.ledger.is_ejected());
            let resting: Vec<_> = resting.filter_map(|server| wards.get(&id(&server.ledger)).cloned()).collect();
            drop(wards);
            resting.iter().for_each(|ward| self.readmit(ward, "no other server is left"));
        }
        let is_dark = !serves(pool, None, Overlook::Checking);
        let was_dark = self.dark.borrow().contains(&pool.name);
        if is_dark && !was_dark {
            self.dark.borrow_mut().insert(Arc::clone(&pool.name));
            let then = match pool.care.fail_open {
                true => "sessions go to servers that are down (fail_open)",
                false => "sessions are refused",
            };
            let message = format!("pool {} has no server left: {then}", pool.name);
            self.log.say(Event::error("pool", message).with("pool", &*pool.name).with("state", "down"));
        }
        // One that has only not been checked yet is no news.
        if was_dark && serves(pool, None, Overlook::Nothing) {
            self.dark.borrow_mut().remove(&pool.name);
            let message = format!("pool {} has a server again", pool.name);
            self.log.say(Event::info("pool", message).with("pool", &*pool.name).with("state", "up"));
        }
    }

    /// Workers have called: servers to which connects failed in a row get a rest, unless no other is left.
    pub(super) fn answer_alarm(&self, now_ns: u64) {
        if !self.commons.alarm.answer() {
            return;
        }
        let wards: Vec<_> = self.wards.borrow().values().cloned().collect();
        for ward in wards {
            let (pool, server) = ward.place();
            if let Some(terms) = pool.care.eject
                && ward.ledger.failures() >= terms.failures
                && ward.ledger.is_usable(Overlook::Nothing)
                && serves(&pool, Some(ward.id()), Overlook::Nothing)
            {
                self.eject(&ward, &pool, &server, &terms, now_ns);
            }
        }
    }

    fn eject(&self, ward: &Ward, pool: &Pool, server: &Server, terms: &Eject, now_ns: u64) {
        let mut ejection = ward.ejection.get();
        let length = Duration::from_millis(ejection.begin(now_ns, terms).into());
        ward.ejection.set(ejection);
        ward.ledger.set_ejected(true);
        ward.ledger.ejections.bump();
        let reason = format!("{} connects in a row failed", ward.ledger.failures());
        let message = format!("server {} of pool {} is ejected for {length:?}: {reason}", server.name, pool.name);
        self.say(Event::warn("server", message), pool, server, "ejected", &reason);
        let mut bulletin = ward.ledger.bulletin();
        bulletin.since = Instant::now();
        bulletin.reason = reason;
        drop(bulletin);
        self.call_waiting(pool);
    }

    /// Servers that have rested long enough come back.
    pub(super) fn take_back(&self, now_ns: u64) {
        let wards: Vec<_> = self.wards.borrow().values().cloned().collect();
        for ward in wards.iter().filter(|ward| ward.ejection.get().is_over(now_ns)) {
            self.readmit(ward, "its rest is over");
        }
    }

    /// When the next rest is over.
    pub(super) fn next_return_ns(&self) -> Option<u64> {
        self.wards.borrow().values().filter_map(|ward| ward.ejection.get().until_ns()).min()
    }

    /// Ends a rest, if there is one, and says so.
    pub(super) fn readmit(&self, ward: &Ward, reason: &str) {
        if ward.ejection.get().until_ns().is_none() {
            return;
        }
        let (pool, server) = ward.place();
        self.end_rest(ward);
        if ward.ledger.health() == Health::Down {
            // A check has found it down meanwhile, and said so.
            return;
        }
        let message = format!("server {} of pool {} is no longer ejected: {reason}", server.name, pool.name);
        self.say(Event::info("server", message), &pool, &server, "up", reason);
        let mut bulletin = ward.ledger.bulletin();
        bulletin.since = Instant::now();
        reason.clone_into(&mut bulletin.reason);
        drop(bulletin);
        self.call_waiting(&pool);
    }

    fn end_rest(&self, ward: &Ward) {
        let mut ejection = ward.ejection.get();
        if ejection.until_ns().is_some() {
            ejection.end(monotonic_ns());
            ward.ejection.set(ejection);
            // Another row of failures is needed to eject it again.
            ward.ledger.forget_failures();
            ward.ledger.set_ejected(false);
        }
    }
}

/// Whether a pool has a server other than `but` that may be chosen.
fn serves(pool: &Pool, but: Option<usize>, overlook: Overlook) -> bool {
    let others = pool.servers.iter().filter(|server| but != Some(id(&server.ledger)));
    others.filter(|server| server.weight > 0).any(|server| server.ledger.is_usable(overlook))
}
