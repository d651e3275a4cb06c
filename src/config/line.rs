//! Who waits for a server of a pool, over all workers.
//!
//! Those who want the same wait in one [`Line`], first come first served; lines do not wait for each other. Without a role
//! there is one. Of those who want a role, each wish has its own, and so have those who have tried a server in vain: they
//! wait for *another* that has the role, and nobody who has still to try the first may stand behind them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use super::plan::{RoleWish, ServerRole};
use crate::base::counter::PerWorker;

/// What those of one line want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Whom.
    pub wish: Option<RoleWish>,
    /// They have tried a server that had the role.
    pub again: bool,
}

/// The lines of a pool.
#[derive(Debug)]
pub struct Lines {
    /// How many wait in all of them. Read at the end of every session, so it has a cache line that is quiet as long as nobody
    /// waits.
    waiting: CachePadded<AtomicU32>,
    any: Line,
    /// Those of [`Lane::ALL`] after the first, once there are any.
    roles: OnceLock<Box<[Line]>>,
    workers: usize,
}

impl Lane {
    /// All of them.
    pub const ALL: [Lane; 7] = {
        const fn lane(role: ServerRole, fallback: bool, again: bool) -> Lane {
            Lane { wish: Some(RoleWish { role, fallback }), again }
        }
        [
            Lane { wish: None, again: false },
            lane(ServerRole::Primary, false, false),
            lane(ServerRole::Primary, false, true),
            lane(ServerRole::Replica, false, false),
            lane(ServerRole::Replica, false, true),
            lane(ServerRole::Replica, true, false),
            lane(ServerRole::Replica, true, true),
        ]
    };

    /// That of a session.
    pub fn of(wish: Option<RoleWish>, again: bool) -> Self {
        Self { wish, again: again && wish.is_some() }
    }

    /// Its place in [`Lane::ALL`].
    fn index(self) -> usize {
        let first = match self.wish {
            None => return 0,
            Some(RoleWish { role: ServerRole::Primary, .. }) => 1,
            Some(RoleWish { role: ServerRole::Replica, fallback: false }) => 3,
            Some(RoleWish { role: ServerRole::Replica, fallback: true }) => 5,
        };
        first + usize::from(self.again)
    }
}

impl Lines {
    pub(super) fn new(workers: usize) -> Self {
        let waiting = CachePadded::new(AtomicU32::new(0));
        Self { waiting, any: Line::new(workers), roles: OnceLock::new(), workers }
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether anybody waits. In one order with [`Lines::enter`] and with the release of a place: of a session that joins and
    /// then looks for room, and a worker that makes room and then looks here, one sees the other.
    #[inline]
    pub fn is_waited_in(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// The line of a lane.
    pub fn of(&self, lane: Lane) -> &Line {
        match lane.index() {
            0 => &self.any,
            index => {
                let make = || (1..Lane::ALL.len()).map(|_| Line::new(self.workers)).collect();
                &self.roles.get_or_init(make)[index - 1]
            }
        }
    }

    /// Lanes in which somebody waits.
    pub fn waited_in(&self) -> impl Iterator<Item = Lane> {
        let lanes = if self.roles.get().is_some() { &Lane::ALL[..] } else { &Lane::ALL[..1] };
        lanes.iter().copied().filter(|lane| self.of(*lane).is_waited_in())
    }

    /// One more waits, who may have tried a server before; false if `limit` wait already.
    pub fn enter(&self, lane: Lane, limit: u32, again: bool) -> bool {
        let line = self.of(lane);
        let more = |now| (now < limit).then_some(now + 1);
        let entered = self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok();
        line.waiting.fetch_add(u32::from(entered), Ordering::SeqCst);
        line.again.fetch_add(u32::from(entered && again), Ordering::SeqCst);
        entered
    }

    /// One waits no longer. Once for each [`Lines::enter`] that let one in, and with the same words.
    pub fn leave(&self, lane: Lane, again: bool) {
        let line = self.of(lane);
        line.again.fetch_sub(u32::from(again), Ordering::SeqCst);
        line.waiting.fetch_sub(1, Ordering::SeqCst);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Sessions that wait for the same, over all workers.
#[derive(Debug)]
pub struct Line {
    /// How many wait.
    waiting: AtomicU32,
    /// How many of them have tried a server before.
    again: AtomicU32,
    ends: PerWorker<End>,
}

/// The end of a line at one worker.
#[derive(Debug, Default)]
struct End {
    /// Since when the first waits there, in nanoseconds of `CLOCK_MONOTONIC`; 0: nobody does.
    since_ns: AtomicU64,
    /// Somebody there may go by another plan than the published one.
    has_strangers: AtomicBool,
    /// There may be room for those who wait there.
    called: AtomicBool,
}

impl Line {
    fn new(workers: usize) -> Self {
        Self { waiting: AtomicU32::new(0), again: AtomicU32::new(0), ends: PerWorker::new(workers) }
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether anybody waits; in the order of [`Lines::is_waited_in`].
    pub fn is_waited_in(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Whether anybody waits who has tried a server before: room for him may be where there is none for others.
    pub fn has_again(&self) -> bool {
        self.again.load(Ordering::SeqCst) > 0
    }

    /// Says since when the first waits on `worker`; 0 when nobody does.
    pub fn publish(&self, worker: usize, since_ns: u64) {
        self.ends.of(worker).since_ns.store(since_ns, Ordering::SeqCst);
    }

    /// Says whether somebody who waits on `worker` may go by another plan than the published one. Before it is said since when.
    pub fn admit_strangers(&self, worker: usize, has_strangers: bool) {
        self.ends.of(worker).has_strangers.store(has_strangers, Ordering::SeqCst);
    }

    /// Has `worker` look here, when it is woken, whether there is room: here and in no other line, so that a call which workers
    /// pass on comes to an end.
    pub fn call(&self, worker: usize) {
        self.ends.of(worker).called.store(true, Ordering::SeqCst);
    }

    /// Whether `worker` has been called here since it last asked.
    pub fn take_call(&self, worker: usize) -> bool {
        self.ends.of(worker).called.swap(false, Ordering::SeqCst)
    }

    /// The worker whose first has waited longest.
    pub fn oldest(&self) -> Option<usize> {
        self.oldest_after((0, 0), false)
    }

    /// The worker whose first has waited longest of those who came after `age`, which is since when the first of a worker waits, and
    /// that worker; or of those with `strangers`, who may go by another plan than the published one.
    pub fn oldest_after(&self, age: (u64, usize), strangers: bool) -> Option<usize> {
        let ages = (0..).zip(self.since_ns()).map(|(worker, since_ns)| (since_ns, worker));
        let is_meant = |worker| !strangers || self.ends.of(worker).has_strangers.load(Ordering::SeqCst);
        let later = ages.filter(|first| first.0 > 0 && *first > age && is_meant(first.1));
        later.min().map(|(_, worker)| worker)
    }

    /// By worker, since when the first waits there; 0 where nobody does.
    pub fn since_ns(&self) -> impl Iterator<Item = u64> {
        self.ends.iter().map(|end| end.since_ns.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wish_has_a_line_and_all_have_one_limit() {
        let lines = Lines::new(2);
        for (index, lane) in Lane::ALL.into_iter().enumerate() {
            assert_eq!((lane.index(), Lane::of(lane.wish, lane.again)), (index, lane));
        }
        assert_eq!(Lane::of(None, true), Lane::ALL[0], "who wants no role waits with all others");
        assert!(lines.enter(Lane::ALL[0], 3, false) && lines.enter(Lane::ALL[2], 3, true));
        assert!(lines.enter(Lane::ALL[3], 3, false) && !lines.enter(Lane::ALL[5], 3, false), "three at most");
        assert_eq!(lines.waited_in().collect::<Vec<_>>(), [Lane::ALL[0], Lane::ALL[2], Lane::ALL[3]]);
        lines.of(Lane::ALL[2]).publish(1, 5);
        assert_eq!((lines.of(Lane::ALL[2]).oldest(), lines.of(Lane::ALL[3]).oldest()), (Some(1), None));
        lines.leave(Lane::ALL[2], true);
        assert_eq!(lines.waited_in().count(), 2);
        lines.leave(Lane::ALL[3], false);
        lines.leave(Lane::ALL[0], false);
        assert!(!lines.is_waited_in() && lines.waiting() == 0);
    }
}
