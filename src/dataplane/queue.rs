//! Sessions that wait for a place: every server they could have is full, or nobody has the role they want.
//!
//! Each worker has a queue for each pool and [`Lane`], first come first served; the [`Line`] of the lane says how many wait over
//! all workers and since when the first of each. A place that becomes free is offered to the worker whose first has waited longest: that
//! one is *called*, and *looks* at the end of its turn whether it can serve somebody. Newcomers go behind those who wait.
//!
//! Nobody is forgotten, because whoever joins looks once more after it can be seen to wait, and whoever frees a place looks
//! for those who wait after the place is free: of the two, one sees the other ([`Lines::is_waited_in`]). A worker that is
//! called and finds that the room there is suits nobody of its own passes the call on to the next in age; and when there is none,
//! as far as the published plan goes, to the next that has somebody who may go by another. A role that comes is room, too: whoever
//! gives it calls as if it had made a place.
//!
//! Who wants a role stands only behind those who want the same, so that reads go on while writes wait for a primary. Those
//! who have tried a server that has the role wait for another, in a lane of their own: it may be gone, and not be found out
//! yet, and then all who come get there. Of them no more than [`SEARCH_MAX`] are asked in one look: those who have not tried
//! a new server stand before those who have. A call for them goes to all workers, and is not passed on. The other that has the
//! role may be the same, come back: when a check of a server passes, whoever waits here and has tried it may try all again, for
//! as long as he may wait in all.
//!
//! [`Lines::is_waited_in`]: crate::config::line::Lines::is_waited_in
//! [`Line`]: crate::config::line::Line

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::ending::Ending;
use super::session::{Phase, Session};
use super::shard::{Shard, micros, ms};
use crate::balance::{self, Pick, Tried};
use crate::base::slab::Key;
use crate::config::ledger::PoolLedger;
use crate::config::line::Lane;
use crate::config::plan::{Listener, Pool};
use crate::kernel::Kernel;

/// Shortest time between two looks because of `connect_rate`: a burst gathers meanwhile.
const LOOK_MIN_NS: u64 = 1_000_000;
/// Times a worker looks in one turn, at most: what is left over waits for the next.
const LOOKS_MAX: usize = 4;

/// Sessions behind the front that are asked in one look, of those who have tried a server of the role they want.
const SEARCH_MAX: usize = 64;

/// Those who wait in one lane of a pool on this worker.
#[derive(Debug)]
pub(super) struct Queue {
    ledger: Arc<PoolLedger>,
    lane: Lane,
    /// In the order they came; with some among them who wait no longer.
    line: VecDeque<Key>,
    /// How many do.
    waiting: usize,
    /// Somebody among them may go by another plan than the published one: by what that one has room for, nobody can tell for
    /// him.
    has_strangers: bool,
    /// There may be room.
    called: bool,
    /// Since when the first had waited whom others saw here first since the last look; 0: they saw nobody. Who is called may be
    /// gone when the look comes, and the call is then passed on from where he stood.
    seen_ns: u64,
    /// When to look because of `connect_rate` alone; `u64::MAX`: never.
    look_ns: u64,
}

impl Shard {
    /// Lets a session wait that found every server full, or nobody with its role, if its pool has a queue with room; else says
    /// how it ends.
    pub(super) fn queue_up(&mut self, key: Key, now: u64, kernel: &mut impl Kernel) -> Result<(), Ending> {
        let Some(session) = self.sessions.of(key) else { return Ok(()) };
        let pool = Arc::clone(&session.listener.pool);
        let terms = pool.terms.queue;
        let lane = lane_of(session);
        let tally = pool.ledger.tally.of(self.index);
        if terms.limit == 0 {
            let paced = pool.is_paced && balance::next_ns(&pool, &session.life.tried, lane.wish, now).is_some();
            return Err(if paced { Ending::ConnectRate } else { Ending::ServersFull });
        }
        let until_ns = match lane.again {
            false => now + ms(terms.timeout_ms),
            // He may have waited here before: a server whose checks pass and whose connects fail keeps nobody for ever.
            true if session.life.patience_ns == 0 => now + ms(terms.timeout_ms),
            true => session.life.patience_ns,
        };
        if until_ns <= now {
            tally.queue_timeouts.bump();
            return Err(Ending::QueueTimeout);
        }
        if !pool.ledger.line.enter(lane, terms.limit, session.life.tried.count() > 0) {
            tally.queue_full.bump();
            return Err(Ending::QueueFull);
        }
        tally.queued.bump();
        session.phase = Phase::Queued;
        session.life.queued_ns = now;
        if lane.again {
            session.life.patience_ns = until_ns;
        }
        self.wheel.set(key.index, until_ns);
        let index = self.queue_of(&pool.ledger, lane);
        let is_stranger = !self.current(&pool.ledger).is_some_and(|current| Arc::ptr_eq(&current, &pool));
        let queue = &mut self.queues[index];
        queue.has_strangers |= is_stranger;
        queue.line.push_back(key);
        queue.waiting += 1;
        self.tidy(index);
        // What is seen from here on is newer than what others see of this session.
        fence(Ordering::SeqCst);
        self.look_later(index, &pool, now);
        let tried = self.sessions.of(key).map_or_else(Tried::default, |session| session.in_vain());
        if balance::has_room(&pool, &tried, lane.wish, now) {
            self.call_first(&pool.ledger, lane, kernel);
        }
        Ok(())
    }

    /// Whether a session that has tried nobody yet must go behind others.
    pub(super) fn must_queue(listener: &Listener, tried: &Tried) -> bool {
        let lines = &listener.pool.ledger.line;
        listener.pool.terms.queue.limit > 0
            && tried.count() == 0
            && lines.is_waited_in()
            && lines.of(Lane::of(listener.role, false)).is_waited_in()
    }

    /// Whether a session may wait until some server has the role it wants.
    pub(super) fn may_await_role(&mut self, key: Key) -> bool {
        let session = self.sessions.of(key);
        session.is_some_and(|session| session.listener.role.is_some() && session.terms().queue.limit > 0)
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
        let lane = lane_of(session);
        ledger.line.leave(lane, session.life.tried.count() > 0);
        ledger.tally.of(index).queue.record(u64::from(waited_us));
        let index = self.queue_of(&ledger, lane);
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
        let is_current = current.is_some_and(|current| Arc::ptr_eq(&current, pool));
        for lane in pool.ledger.line.waited_in() {
            match is_current {
                true => self.call_first(&pool.ledger, lane, kernel),
                // A server that the plan has no more, perhaps: only those who came before the reload can use it, whoever
                // they are.
                false => self.call_all(&pool.ledger, lane, kernel),
            }
        }
    }

    /// Looks whether those who wait can be served, where there may be room. Last in a turn.
    pub fn attend(&mut self, now: u64, kernel: &mut impl Kernel) {
        if self.desk().take_call() {
            for queue in &mut self.queues {
                queue.called |= queue.ledger.line.of(queue.lane).take_call(self.index);
                self.called |= queue.called;
            }
        }
        self.look_by_the_clock(now, kernel);
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
        for queue in &mut *queues {
            let mut has_strangers = false;
            for key in &queue.line {
                let Some(session) = sessions.of(*key).filter(|session| session.phase == Phase::Queued) else {
                    continue;
                };
                let found = plan.listeners.binary_search_by(|listener| listener.name.cmp(&session.listener.name));
                match found.ok().and_then(|index| plan.listeners.get(index)) {
                    Some(listener)
                        if session.life.tried.count() == 0
                            && Arc::ptr_eq(&listener.pool.ledger, &session.listener.pool.ledger)
                            && listener.role == session.listener.role =>
                    {
                        session.listener = Arc::clone(listener);
                    }
                    _ => has_strangers = true,
                }
            }
            queue.has_strangers = has_strangers;
            // Whoever makes room from here on may ask.
            queue.ledger.line.of(queue.lane).admit_strangers(self.index, has_strangers);
        }
        let lives = |ledger: &Arc<PoolLedger>| plan.pools.iter().any(|pool| Arc::ptr_eq(&pool.ledger, ledger));
        queues.retain(|queue| queue.waiting > 0 || lives(&queue.ledger));
        self.expect_room();
    }

    /// Serves from the front as long as there is room. When the front finds none and there is some, it suits somebody else:
    /// those behind, or those who wait on other workers.
    fn look(&mut self, index: usize, now: u64, kernel: &mut impl Kernel) {
        self.looking = Some(index);
        while let Some(&key) = self.queues[index].line.front() {
            if self.is_queued(key) && !self.serve(key, now, kernel) {
                break;
            }
            self.queues[index].line.pop_front();
        }
        let (ledger, lane) = (Arc::clone(&self.queues[index].ledger), self.queues[index].lane);
        let room = self.may_have_room(&ledger, lane, now);
        let somebody = room || self.queues[index].has_strangers;
        if lane.again && somebody {
            self.search(index, now, kernel);
        } else if somebody {
            for _ in 0..self.queues[index].line.len() {
                let Some(key) = self.queues[index].line.pop_front() else { break };
                if self.is_queued(key) && !self.serve(key, now, kernel) {
                    self.queues[index].line.push_back(key);
                }
            }
        }
        self.looking = None;
        self.tidy(index);
        if !lane.again {
            // What the published plan has no room for there may be room for by another.
            let strangers = !self.may_have_room(&ledger, lane, now);
            self.call_next(index, strangers, kernel);
        }
        self.queues[index].seen_ns = ledger.line.of(lane).since_ns().nth(self.index).unwrap_or(0);
        self.look_again(index, now);
    }

    /// Serves some of those behind the front, who may not have tried the server that the front has tried.
    fn search(&mut self, index: usize, now: u64, kernel: &mut impl Kernel) {
        let mut place = 0;
        for _ in 0..SEARCH_MAX {
            let Some(&key) = self.queues[index].line.get(place) else { return };
            if self.is_queued(key) && !self.serve(key, now, kernel) {
                place += 1;
            } else {
                self.queues[index].line.remove(place);
            }
        }
    }

    /// Arranges the next look by the clock, if time alone may bring room: a `connect_rate` allows another connect then.
    fn look_later(&mut self, index: usize, pool: &Pool, now: u64) {
        let Queue { lane, look_ns, .. } = &mut self.queues[index];
        *look_ns = (*look_ns).min(next_look_ns(pool, *lane, now));
    }

    /// The same for those who wait already: for the first, and, as long as some may go by another plan, for all. Each of their
    /// plans may have a server that the others have not, so that none of them can tell when it is time for the rest.
    fn look_again(&mut self, index: usize, now: u64) {
        let current = self.current(&self.queues[index].ledger);
        let Self { queues, sessions, .. } = self;
        let Queue { lane, line, has_strangers, look_ns, .. } = &mut queues[index];
        let mut last: Option<Arc<Pool>> = None;
        let mut strangers = false;
        for key in line.iter() {
            let Some(session) = sessions.of(*key).filter(|session| session.phase == Phase::Queued) else { continue };
            let pool = &session.listener.pool;
            let is_it = |other: &Arc<Pool>| Arc::ptr_eq(other, pool);
            if !last.as_ref().is_some_and(is_it) {
                *look_ns = (*look_ns).min(next_look_ns(pool, *lane, now));
                strangers |= !current.as_ref().is_some_and(is_it);
                last = Some(Arc::clone(pool));
            }
            if !*has_strangers {
                return;
            }
        }
        *has_strangers = strangers;
    }

    /// Looks that are due by the clock. Whoever has waited longest is called, here or elsewhere; and as long as somebody
    /// waits here, so is the next look.
    fn look_by_the_clock(&mut self, now: u64, kernel: &mut impl Kernel) {
        for index in 0..self.queues.len() {
            if self.queues[index].look_ns > now {
                continue;
            }
            self.queues[index].look_ns = u64::MAX;
            if self.queues[index].waiting > 0 {
                let (ledger, lane) = (Arc::clone(&self.queues[index].ledger), self.queues[index].lane);
                match lane.again {
                    // Each worker has a clock.
                    true => self.call(self.index, &ledger, lane, kernel),
                    false => self.call_first(&ledger, lane, kernel),
                }
                self.look_again(index, now);
            }
        }
    }

    /// When a look is due by the clock.
    pub(super) fn next_look_ns(&self) -> Option<u64> {
        self.queues.iter().map(|queue| queue.look_ns).min().filter(|look_ns| *look_ns < u64::MAX)
    }

    /// Gives a waiting session a server, if one has a place for it.
    fn serve(&mut self, key: Key, now: u64, kernel: &mut impl Kernel) -> bool {
        let Pick::Server(server) = self.pick(key, now) else { return false };
        self.leave_queue(key, now);
        self.forgive(key);
        self.assign(key, server);
        if let Err(failed) = self.begin(key, now, kernel) {
            self.choose(key, Some(failed), now, kernel);
        }
        true
    }

    /// If a server has proven itself since it was tried, what was tried counts no more.
    fn forgive(&mut self, key: Key) {
        let Some(session) = self.sessions.of(key) else { return };
        if session.in_vain().count() < session.life.tried.count() {
            session.life.forgiven = session.attempts();
            session.life.tried = Tried::default();
            session.life.proofs = 0;
        }
    }

    /// Calls the worker whose first has waited longest. Of those who have tried a server nobody can say whom the room suits
    /// but they themselves, so all are called, and no call is passed on.
    fn call_first(&mut self, ledger: &Arc<PoolLedger>, lane: Lane, kernel: &mut impl Kernel) {
        if lane.again {
            return self.call_all(ledger, lane, kernel);
        }
        if let Some(worker) = ledger.line.of(lane).oldest() {
            self.call(worker, ledger, lane, kernel);
        }
    }

    fn call_all(&mut self, ledger: &Arc<PoolLedger>, lane: Lane, kernel: &mut impl Kernel) {
        for (worker, since_ns) in ledger.line.of(lane).since_ns().enumerate() {
            if since_ns > 0 {
                self.call(worker, ledger, lane, kernel);
            }
        }
    }

    /// Calls the next worker in age after this one, since when the first was seen here; or the first if nobody was. Or only the next at
    /// which somebody waits who may go by another plan than the published one.
    fn call_next(&mut self, index: usize, strangers: bool, kernel: &mut impl Kernel) {
        let Queue { ledger, lane, seen_ns, .. } = &self.queues[index];
        let (ledger, lane) = (Arc::clone(ledger), *lane);
        let after = if *seen_ns > 0 { (*seen_ns, self.index) } else { (0, 0) };
        if let Some(worker) = ledger.line.of(lane).oldest_after(after, strangers) {
            self.call(worker, &ledger, lane, kernel);
        }
    }

    fn call(&mut self, worker: usize, ledger: &Arc<PoolLedger>, lane: Lane, kernel: &mut impl Kernel) {
        if worker == self.index {
            let index = self.queue_of(ledger, lane);
            self.queues[index].called = true;
            self.called = true;
        } else {
            self.commons.call(worker, ledger.line.of(lane), kernel);
        }
    }

    /// The pool of the published plan that has this ledger.
    fn current(&self, ledger: &Arc<PoolLedger>) -> Option<Arc<Pool>> {
        self.scene.plan.pools.iter().find(|pool| Arc::ptr_eq(&pool.ledger, ledger)).cloned()
    }

    /// Whether there may be room for somebody who waits, on this worker or another.
    fn may_have_room(&self, ledger: &Arc<PoolLedger>, lane: Lane, now: u64) -> bool {
        let Some(pool) = self.current(ledger) else { return true };
        let again = ledger.line.of(lane).has_again() && balance::has_any_room(&pool, lane.wish, now);
        again || balance::has_room(&pool, &Tried::default(), lane.wish, now)
    }

    fn is_queued(&mut self, key: Key) -> bool {
        self.sessions.of(key).is_some_and(is_waiting)
    }

    /// The index of the queue of a lane.
    fn queue_of(&mut self, ledger: &Arc<PoolLedger>, lane: Lane) -> usize {
        let is_it = |queue: &Queue| queue.lane == lane && Arc::ptr_eq(&queue.ledger, ledger);
        if let Some(index) = self.queues.iter().position(is_it) {
            return index;
        }
        let ledger = Arc::clone(ledger);
        self.queues.push(Queue {
            ledger,
            lane,
            line: VecDeque::new(),
            waiting: 0,
            has_strangers: false,
            called: false,
            seen_ns: 0,
            look_ns: u64::MAX,
        });
        self.queues.len() - 1
    }

    /// Drops those who wait no longer, and says since when the first has waited.
    fn tidy(&mut self, index: usize) {
        // Who is served meanwhile and fails at once may join another line, and must be seen there.
        if self.looking == Some(index) {
            return;
        }
        while let Some(&key) = self.queues[index].line.front() {
            if self.is_queued(key) {
                break;
            }
            self.queues[index].line.pop_front();
        }
        let Self { queues, sessions, .. } = self;
        let Queue { ledger, lane, line, waiting, has_strangers, seen_ns, .. } = &mut queues[index];
        *has_strangers &= *waiting > 0;
        // Those who went from the middle may not outnumber those who stay.
        if line.len() > 2 * *waiting + 16 {
            line.retain(|key| sessions.of(*key).is_some_and(is_waiting));
        }
        let first = line.front().and_then(|key| sessions.of(*key));
        let since_ns = first.map_or(0, |session| session.life.queued_ns);
        let line = ledger.line.of(*lane);
        line.admit_strangers(self.index, *has_strangers);
        line.publish(self.index, since_ns);
        if *seen_ns == 0 {
            *seen_ns = since_ns;
        }
    }
}

fn is_waiting(session: &mut Session) -> bool {
    session.phase == Phase::Queued
}

/// Where a session waits, or would.
fn lane_of(session: &Session) -> Lane {
    Lane::of(session.listener.role, session.life.tried.count() > 0)
}

/// When to look because time alone may bring room in this pool; `u64::MAX`: never.
fn next_look_ns(pool: &Pool, lane: Lane, now: u64) -> u64 {
    if !pool.is_paced {
        return u64::MAX;
    }
    let next_ns = match lane.again || pool.ledger.line.of(lane).has_again() {
        true => balance::next_of_any_ns(pool, lane.wish, now),
        false => balance::next_ns(pool, &Tried::default(), lane.wish, now),
    };
    next_ns.unwrap_or(0).max(now + LOOK_MIN_NS)
}

#[cfg(test)]
mod tests;
