//! The sessions of a server that is out are ended, a few in each turn, so that the others do not feel it.
//!
//! Those who are with a server that has lost its role go in two steps: the idle at once, for whom nothing is under way (the
//! last bytes went to the client, as after an answer), the rest when their grace is over; and never so many at once that
//! all of them come back to the new primary together.

use std::sync::Arc;

use super::ending::Ending;
use super::session::Phase;
use super::shard::Shard;
use crate::base::slab::Key;
use crate::config::ledger::ServerLedger;
use crate::kernel::Kernel;

/// Places in the table of sessions that are looked at in one turn.
const PLACES_A_TURN: u32 = 256;
/// Most sessions that are sent away from a server without its role in one turn, and the time to the next: 3 200 a second
/// and worker, at most.
const ASTRAY_A_TURN: u32 = 32;
const ASTRAY_PAUSE_NS: u64 = 10_000_000;
/// How often it is looked whether a busy session has become idle.
const SWEEP_NS: u64 = 100_000_000;

/// An order to end sessions of a server. Those that are still being connected to it go on to another one.
#[derive(Clone, Debug)]
pub struct Eviction {
    /// Whose.
    pub server: Arc<ServerLedger>,
    /// As what.
    pub ending: Ending,
    /// Which of them.
    pub whom: Whom,
}

/// Which sessions of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// All.
    All,
    /// Those of listeners that want no role.
    Roleless,
    /// Those of listeners that want a role which it does not have, and that chose it while it had: whoever came since came for
    /// what it is now, and if it loses that, too, there may be reasons to let them stay.
    Astray {
        /// When the role was lost, in nanoseconds of `CLOCK_MONOTONIC`.
        lost_ns: u64,
        /// How long those that are busy may stay, in nanoseconds.
        grace_ns: u64,
    },
}

/// How far one has come.
#[derive(Debug)]
pub(super) struct Progress {
    order: Arc<Eviction>,
    next: u32,
    /// When the table is looked through further, in nanoseconds.
    due_ns: u64,
    /// When it began to be looked through this time.
    sweep_ns: u64,
    /// From when on nobody is spared.
    all_ns: u64,
}

/// What becomes of one session.
enum Fate {
    Stays,
    /// It is ended, or goes on to another server.
    Leaves,
}

impl Shard {
    /// Takes an order.
    pub(super) fn begin_eviction(&mut self, order: Arc<Eviction>, now: u64) {
        let grace_ns = match order.whom {
            Whom::All | Whom::Roleless => 0,
            Whom::Astray { grace_ns, .. } => grace_ns,
        };
        let all_ns = now.saturating_add(grace_ns);
        self.evictions.push_back(Progress { order, next: 0, due_ns: now, sweep_ns: now, all_ns });
    }

    /// When the next order is gone on with, in nanoseconds.
    pub(super) fn next_eviction_ns(&self) -> Option<u64> {
        self.evictions.iter().map(|progress| progress.due_ns).min()
    }

    /// Goes on with the first order that is due. Once a turn.
    pub(super) fn evict(&mut self, now: u64, kernel: &mut impl Kernel) {
        let Some(due) = self.evictions.iter().position(|progress| progress.due_ns <= now) else { return };
        let Some(mut progress) = self.evictions.remove(due) else { return };
        let is_paced = matches!(progress.order.whom, Whom::Astray { .. });
        let places = self.sessions.places();
        let end = progress.next.saturating_add(PLACES_A_TURN).min(places);
        let mut left = 0;
        while progress.next < end && !(is_paced && left == ASTRAY_A_TURN) {
            if let Some(key) = self.sessions.key_at(progress.next)
                && let Fate::Leaves = self.judge(key, &progress, now, kernel)
            {
                left += 1;
            }
            progress.next += 1;
        }
        progress.due_ns = if is_paced && left > 0 { now + ASTRAY_PAUSE_NS } else { now };
        if progress.next < places {
            self.evictions.push_front(progress);
        } else if progress.sweep_ns < progress.all_ns {
            let next_ns = (progress.sweep_ns + SWEEP_NS).min(progress.all_ns).max(progress.due_ns);
            self.evictions.push_back(Progress { next: 0, due_ns: next_ns, sweep_ns: next_ns, ..progress });
        }
    }

    fn judge(&mut self, key: Key, progress: &Progress, now: u64, kernel: &mut impl Kernel) -> Fate {
        let order = &progress.order;
        let Some(session) = self.sessions.of(key) else { return Fate::Stays };
        if !session.chosen().is_some_and(|server| Arc::ptr_eq(&server.ledger, &order.server)) {
            return Fate::Stays;
        }
        let role = session.listener.role;
        let meant = match order.whom {
            Whom::All => true,
            Whom::Roleless => role.is_none(),
            // Asked anew each time: it may have got the role back.
            Whom::Astray { lost_ns, .. } => {
                session.life.picked_ns <= lost_ns && role.is_some_and(|role| !order.server.suits(role))
            }
        };
        let may_stay = matches!(order.whom, Whom::Astray { .. }) && now < progress.all_ns;
        // Only who relays has a client for sure.
        let may_stay = may_stay && matches!(session.phase, Phase::Relaying);
        let spared = may_stay && (!session.is_idle() || kernel.unsent(session.client) > 0);
        match session.phase {
            _ if !meant => return Fate::Stays,
            Phase::Connecting { late: false } => self.connect_is_late(key, now, kernel),
            Phase::Greeting => self.greeting_is_late(key, now, kernel),
            Phase::Relaying if spared => return Fate::Stays,
            Phase::Relaying => self.end(key, order.ending, 0, now, kernel),
            Phase::Connecting { late: true } | Phase::Parting { .. } | Phase::Queued | Phase::Closing => {
                return Fate::Stays;
            }
        }
        Fate::Leaves
    }
}
