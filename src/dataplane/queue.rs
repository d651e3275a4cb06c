//! Sessions that wait for a place: every server they could have is full.
//!
//! Each worker has a line for each pool, first come first served; the pool's [`Line`] says how many wait over all workers and
//! since when the first of each. A place that becomes free is offered to the worker whose first has waited longest: that
//! one is *called*, and *looks* at the end of its turn whether it can serve somebody. Newcomers go behind those who wait.
//!
//! Nobody is forgotten, because whoever joins looks once more after it can be seen to wait, and whoever frees a place looks
//! for those who wait after the place is free: of the two, one sees the other ([`Line::is_waited_in`]). A worker that is
//! called and finds that the room there is suits nobody of its own passes the call on to the next in age.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::ending::Ending;
use super::session::Phase;
use super::shard::{Shard, micros, ms};
use crate::balance::{self, Pick, Tried};
use crate::base::slab::Key;
use crate::config::ledger::PoolLedger;
use crate::config::plan::Pool;
use crate::kernel::Kernel;

/// Times a worker looks in one turn, at most: what is left over waits for the next.
const LOOKS_MAX: usize = 4;

/// Those who wait for a pool on this worker.
#[derive(Debug)]
pub(super) struct Queue {
    ledger: Arc<PoolLedger>,
    /// In the order they came; with some among them who wait no longer.
    line: VecDeque<Key>,
    /// How many do.
    waiting: usize,
    /// There may be room.
    called: bool,
}

impl Shard {
    /// Lets a session wait that found every server full, if its pool has a queue with room; else says how it ends.
    pub(super) fn queue_up(&mut self, key: Key, now: u64, kernel: &mut impl Kernel) -> Result<(), Ending> {
        let Some(session) = self.sessions.of(key) else { return Ok(()) };
        let pool = Arc::clone(&session.listener.pool);
        let terms = pool.terms.queue;
        let tally = pool.ledger.tally.of(self.index);
        if terms.limit == 0 {
            return Err(Ending::ServersFull);
        }
        if !pool.ledger.line.enter(terms.limit) {
            tally.queue_full.bump();
            return Err(Ending::QueueFull);
        }
        tally.queued.bump();
        session.phase = Phase::Queued;
        session.life.queued_ns = now;
        let tried = session.life.tried;
        self.wheel.set(key.index, now + ms(terms.timeout_ms));
        let index = self.queue_of(&pool.ledger);
        let queue = &mut self.queues[index];
        queue.line.push_back(key);
        queue.waiting += 1;
        self.tidy(index);
        // What is seen from here on is newer than what others see of this session.
        fence(Ordering::SeqCst);
        if balance::has_room(&pool, &tried) {
            self.call_first(&pool, kernel);
        }
        Ok(())
    }

    /// Whether a session that has tried nobody yet must go behind others.
    pub(super) fn must_queue(pool: &Pool, tried: &Tried) -> bool {
        pool.terms.queue.limit > 0 && tried.count() == 0 && pool.ledger.line.is_waited_in()
    }

    /// A session waits no longer: it is served, or ends.
    pub(super) fn leave_queue(&mut self, key: Key, now: u64) {
        let index = self.index;
        let Some(session) = self.sessions.of(key).filter(|session| session.phase == Phase::Queued) else { return };
        session.phase = Phase::Connecting { late: false };
        let waited_us = micros(now.saturating_sub(session.life.queued_ns));
        session.life.queue_us = session.life.queue_us.saturating_add(waited_us);
        self.wheel.clear(key.index);
        let ledger = Arc::clone(&session.listener.pool.ledger);
        ledger.line.leave();
        ledger.tally.of(index).queue.record(u64::from(waited_us));
        let index = self.queue_of(&ledger);
        self.queues[index].waiting -= 1;
        self.tidy(index);
    }

    /// A session has waited for as long as it may.
    pub(super) fn queue_is_over(&mut self, key: Key, now: u64, kernel: &mut impl Kernel) {
        let index = self.index;
        let Some(session) = self.sessions.of(key) else { return };
        session.listener.pool.ledger.tally.of(index).queue_timeouts.bump();
        self.leave_queue(key, now);
        self.give_up(key, Ending::QueueTimeout, 0, now, kernel);
    }

    /// A place on a server of `pool` is free, and somebody waits for one.
    pub(super) fn call_for(&mut self, pool: &Arc<Pool>, kernel: &mut impl Kernel) {
        let current = self.current(&pool.ledger);
        if current.is_some_and(|current| Arc::ptr_eq(&current, pool)) {
            self.call_first(pool, kernel);
            return;
        }
        // A server that the plan has no more, perhaps: only those who came before the reload can use it, whoever they are.
        for (worker, since_ns) in pool.ledger.line.since_ns().enumerate() {
            if since_ns > 0 {
                self.call(worker, &pool.ledger, kernel);
            }
        }
    }

    /// Looks whether those who wait can be served, where there may be room. Last in a turn.
    pub fn attend(&mut self, now: u64, kernel: &mut impl Kernel) {
        if self.desk().take_call() {
            self.expect_room();
        }
        for _ in 0..LOOKS_MAX {
            if !std::mem::take(&mut self.called) {
                return;
            }
            for index in 0..self.queues.len() {
                if std::mem::take(&mut self.queues[index].called) {
                    self.look(index, now, kernel);
                }
            }
        }
    }

    /// There may be room in any pool.
    pub(super) fn expect_room(&mut self) {
        for queue in &mut self.queues {
            queue.called = true;
            self.called = true;
        }
    }

    /// Takes up a new scene. Who waits and has tried nobody has not begun with anything: it goes on under the new plan, so that a
    /// server that is added, or a limit that is raised, serves those who wait for it. Lines that nobody needs any more go.
    pub(super) fn renew_queues(&mut self) {
        let Self { queues, sessions, scene, .. } = self;
        let plan = &scene.plan;
        for key in queues.iter().flat_map(|queue| &queue.line) {
            let Some(session) = sessions.of(*key) else { continue };
            if session.phase != Phase::Queued || session.life.tried.count() > 0 {
                continue;
            }
            let found = plan.listeners.binary_search_by(|listener| listener.name.cmp(&session.listener.name));
            if let Some(listener) = found.ok().and_then(|index| plan.listeners.get(index))
                && Arc::ptr_eq(&listener.pool.ledger, &session.listener.pool.ledger)
            {
                session.listener = Arc::clone(listener);
            }
        }
        let lives = |ledger: &Arc<PoolLedger>| plan.pools.iter().any(|pool| Arc::ptr_eq(&pool.ledger, ledger));
        queues.retain(|queue| queue.waiting > 0 || lives(&queue.ledger));
        self.expect_room();
    }

    /// Serves from the front as long as there is room. When the front finds none and there is some, it suits somebody else:
    /// those behind, or those who wait on other workers.
    fn look(&mut self, index: usize, now: u64, kernel: &mut impl Kernel) {
        self.looking = true;
        while let Some(&key) = self.queues[index].line.front() {
            if self.is_queued(key) && !self.serve(key, now, kernel) {
                break;
            }
            self.queues[index].line.pop_front();
        }
        let ledger = Arc::clone(&self.queues[index].ledger);
        let current = self.current(&ledger);
        let room = current.is_none_or(|pool| balance::has_room(&pool, &Tried::default()));
        if room || self.is_mixed(index) {
            for _ in 0..self.queues[index].line.len() {
                let Some(key) = self.queues[index].line.pop_front() else { break };
                if self.is_queued(key) && !self.serve(key, now, kernel) {
                    self.queues[index].line.push_back(key);
                }
            }
        }
        self.looking = false;
        self.tidy(index);
        let current = self.current(&ledger);
        if current.is_none_or(|pool| balance::has_room(&pool, &Tried::default())) {
            self.call_next(&ledger, kernel);
        }
    }

    /// Gives a waiting session a server, if one has a place for it.
    fn serve(&mut self, key: Key, now: u64, kernel: &mut impl Kernel) -> bool {
        let Pick::Server(server) = self.pick(key) else { return false };
        self.leave_queue(key, now);
        self.assign(key, server);
        if let Err(failed) = self.begin(key, now, kernel) {
            self.choose(key, Some(failed), now, kernel);
        }
        true
    }

    /// Calls the worker whose first has waited longest.
    fn call_first(&mut self, pool: &Pool, kernel: &mut impl Kernel) {
        let ages = (0..).zip(pool.ledger.line.since_ns()).filter(|(_, since_ns)| *since_ns > 0);
        if let Some((_, worker)) = ages.map(|(worker, since_ns)| (since_ns, worker)).min() {
            self.call(worker, &pool.ledger, kernel);
        }
    }

    /// Calls the next worker in age after this one, or the first if nobody waits here.
    fn call_next(&mut self, ledger: &Arc<PoolLedger>, kernel: &mut impl Kernel) {
        let mine = ledger.line.since_ns().nth(self.index).unwrap_or(0);
        let after = if mine > 0 { (mine, self.index) } else { (0, 0) };
        let ages = (0..).zip(ledger.line.since_ns()).filter(|(_, since_ns)| *since_ns > 0);
        let next = ages.map(|(worker, since_ns)| (since_ns, worker)).filter(|age| *age > after).min();
        if let Some((_, worker)) = next {
            self.call(worker, ledger, kernel);
        }
    }

    fn call(&mut self, worker: usize, ledger: &Arc<PoolLedger>, kernel: &mut impl Kernel) {
        if worker == self.index {
            let index = self.queue_of(ledger);
            self.queues[index].called = true;
            self.called = true;
        } else {
            self.commons.call(worker, kernel);
        }
    }

    /// The pool of the published plan that has this ledger.
    fn current(&self, ledger: &Arc<PoolLedger>) -> Option<Arc<Pool>> {
        self.scene.plan.pools.iter().find(|pool| Arc::ptr_eq(&pool.ledger, ledger)).cloned()
    }

    /// Whether those who wait go by different plans. Those of the old one came first, so the ends tell.
    fn is_mixed(&mut self, index: usize) -> bool {
        let line = &self.queues[index].line;
        let ends = [line.front().copied(), line.back().copied()];
        let [first, last] = ends.map(|key| {
            let session = key.and_then(|key| self.sessions.of(key));
            session.map(|session| Arc::as_ptr(&session.listener.pool))
        });
        first != last
    }

    fn is_queued(&mut self, key: Key) -> bool {
        self.sessions.of(key).is_some_and(|session| session.phase == Phase::Queued)
    }

    /// The index of the line of a pool.
    fn queue_of(&mut self, ledger: &Arc<PoolLedger>) -> usize {
        if let Some(index) = self.queues.iter().position(|queue| Arc::ptr_eq(&queue.ledger, ledger)) {
            return index;
        }
        let ledger = Arc::clone(ledger);
        self.queues.push(Queue { ledger, line: VecDeque::new(), waiting: 0, called: false });
        self.queues.len() - 1
    }

    /// Drops those who wait no longer, and says since when the first has waited.
    fn tidy(&mut self, index: usize) {
        if self.looking {
            return;
        }
        while let Some(&key) = self.queues[index].line.front() {
            if self.is_queued(key) {
                break;
            }
            self.queues[index].line.pop_front();
        }
        let Self { queues, sessions, .. } = self;
        let Queue { ledger, line, waiting, .. } = &mut queues[index];
        // Those who went from the middle may not outnumber those who stay.
        if line.len() > 2 * *waiting + 16 {
            line.retain(|key| sessions.of(*key).is_some_and(|session| session.phase == Phase::Queued));
        }
        let first = line.front().and_then(|key| sessions.of(*key));
        ledger.line.publish(self.index, first.map_or(0, |session| session.life.queued_ns));
    }
}
