//! Sessions that are to be elsewhere are led out: one after the other, at the pace of whoever ordered it.
//!
//! ```text
//! control thread ── lets so many leave, now and then ──▶ tickets, which all workers share
//! worker ── looks for who is idle, while there are tickets ──▶ each who leaves takes one, and ends as `moved`
//! ```
//!
//! Only who is connected leaves, and only who came before the order: whoever comes later has been sent here all the same.
//! Idle means that nothing is under way as far as this side of the connection can tell: a reset costs nobody a byte.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::ending::Ending;
use super::session::{Phase, Session};
use super::shard::Shard;
use crate::base::slab::Key;
use crate::config::ledger::ServerLedger;
use crate::config::plan::RoleWish;
use crate::kernel::Kernel;

/// Places in the table of sessions that are looked at in one turn, and sessions that leave in it, at most.
const PLACES_A_TURN: u32 = 256;
const LEAVING_A_TURN: u32 = 16;
/// Time to the next such turn: a worker looks at 128 000 places and leads out 8 000 sessions a second, at most.
const PAUSE_NS: u64 = 2_000_000;
/// How often it is looked whether there are tickets, or somebody has become idle.
const LOOK_NS: u64 = 50_000_000;

/// An order to every worker.
#[derive(Debug)]
pub struct Exodus {
    /// Who came after it stays, in nanoseconds of `CLOCK_MONOTONIC`.
    begun_ns: u64,
    /// Whose sessions; `None`: all.
    groups: Option<Groups>,
    /// How many may leave now.
    tickets: AtomicU64,
    /// How long one must have been silent to count as idle, in nanoseconds.
    quiet_ns: AtomicU64,
    /// Everybody leaves, busy or not, and without a ticket.
    everyone: AtomicBool,
    called_off: AtomicBool,
    /// How many have left.
    gone: AtomicU64,
}

#[derive(Debug)]
struct Groups {
    all: Vec<Group>,
    /// Which of them are of a server, by the address of its ledger, which a group keeps alive.
    of: HashMap<usize, Vec<usize>>,
}

/// Sessions with one server.
#[derive(Debug)]
pub struct Group {
    server: Arc<ServerLedger>,
    whose: Whose,
    /// How many of them may leave yet.
    allowed: AtomicU64,
    gone: AtomicU64,
}

/// Which of the sessions with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// All.
    Anybody,
    /// Those of listeners that wish for such a server, or for no particular one.
    Wishing(Option<RoleWish>),
}

impl Group {
    /// Sessions with a server, of which at most so many may leave.
    pub fn new(server: Arc<ServerLedger>, whose: Whose, allowed: u64) -> Self {
        Self { server, whose, allowed: AtomicU64::new(allowed), gone: AtomicU64::new(0) }
    }

    /// How many have left.
    pub fn gone(&self) -> u64 {
        self.gone.load(Ordering::Relaxed)
    }

    /// How many may leave yet.
    pub fn allowed(&self) -> u64 {
        self.allowed.load(Ordering::Relaxed)
    }

    /// Changes that. For the control thread, while nobody has a ticket.
    pub fn allow(&self, most: u64) {
        self.allowed.store(most, Ordering::Relaxed);
    }
}

impl Exodus {
    /// An order for all sessions that there are now. Nobody has a ticket yet.
    pub fn of_all(now_ns: u64) -> Self {
        Self {
            begun_ns: now_ns,
            groups: None,
            tickets: AtomicU64::new(0),
            quiet_ns: AtomicU64::new(u64::MAX),
            everyone: AtomicBool::new(false),
            called_off: AtomicBool::new(false),
            gone: AtomicU64::new(0),
        }
    }

    /// The same for some of them.
    pub fn of_groups(groups: Vec<Group>, now_ns: u64) -> Self {
        let mut of: HashMap<usize, Vec<usize>> = HashMap::new();
        for (index, group) in groups.iter().enumerate() {
            of.entry(Arc::as_ptr(&group.server).addr()).or_default().push(index);
        }
        Self { groups: Some(Groups { all: groups, of }), ..Self::of_all(now_ns) }
    }

    /// The groups it was made of.
    pub fn groups(&self) -> &[Group] {
        self.groups.as_ref().map_or(&[], |groups| &groups.all)
    }

    /// Gives out so many tickets more. Of those that nobody has taken so far, only so many are kept that there are at most
    /// `most` with them: what was missed is not made up for all at once.
    pub fn admit(&self, more: u64, most: u64) {
        let change = |tickets: u64| Some(tickets.saturating_add(more).min(most));
        // Never refused: `change` always has an answer.
        let _ = self.tickets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    /// Takes all tickets back.
    pub fn hold(&self) {
        self.tickets.store(0, Ordering::Relaxed);
    }

    /// From now on, who has been silent for so long counts as idle.
    pub fn spare(&self, quiet_ns: u64) {
        self.quiet_ns.store(quiet_ns, Ordering::Relaxed);
    }

    /// From now on everybody leaves. When each worker has seen to that, all of them have let go of the order.
    pub fn take_everyone(&self) {
        self.everyone.store(true, Ordering::Relaxed);
    }

    /// Nobody leaves any more.
    pub fn call_off(&self) {
        self.called_off.store(true, Ordering::Relaxed);
    }

    /// How many have left.
    pub fn gone(&self) -> u64 {
        self.gone.load(Ordering::Relaxed)
    }

    fn takes_everyone(&self) -> bool {
        self.everyone.load(Ordering::Relaxed)
    }

    fn is_called_off(&self) -> bool {
        self.called_off.load(Ordering::Relaxed)
    }

    /// Whether anybody may leave now.
    fn is_open(&self) -> bool {
        self.tickets.load(Ordering::Relaxed) > 0 || self.takes_everyone()
    }

    /// The group of a session; the error: it is in none.
    fn group_of(&self, session: &Session) -> Result<Option<&Group>, Foreign> {
        let Some(groups) = &self.groups else { return Ok(None) };
        let server = session.chosen().ok_or(Foreign)?;
        let of = groups.of.get(&Arc::as_ptr(&server.ledger).addr()).ok_or(Foreign)?;
        let is_meant = |group: &&Group| match group.whose {
            Whose::Anybody => true,
            Whose::Wishing(wish) => session.listener.role == wish,
        };
        of.iter().map(|index| &groups.all[*index]).find(is_meant).map(Some).ok_or(Foreign)
    }

    /// Takes a ticket for somebody of a group, if there is one.
    fn claim(&self, group: Option<&Group>) -> bool {
        if group.is_some_and(|group| !take(&group.allowed)) {
            return false;
        }
        if !self.takes_everyone() && !take(&self.tickets) {
            if let Some(group) = group {
                group.allowed.fetch_add(1, Ordering::Relaxed);
            }
            return false;
        }
        if let Some(group) = group {
            group.gone.fetch_add(1, Ordering::Relaxed);
        }
        self.gone.fetch_add(1, Ordering::Relaxed);
        true
    }
}

/// Not meant.
struct Foreign;

/// Takes one, if there is one.
fn take(from: &AtomicU64) -> bool {
    from.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// How far a worker has come with one.
#[derive(Debug)]
pub(super) struct Progress {
    order: Arc<Exodus>,
    next: u32,
    /// When the table is looked through further, in nanoseconds.
    due_ns: u64,
    /// Everybody leaves this time, and it is the last.
    is_last: bool,
}

impl Shard {
    /// Takes an order.
    pub(super) fn begin_exodus(&mut self, order: Arc<Exodus>, now: u64) {
        self.exoduses.push_back(Progress { order, next: 0, due_ns: now, is_last: false });
    }

    /// When the next order is gone on with, in nanoseconds.
    pub(super) fn next_exodus_ns(&self) -> Option<u64> {
        self.exoduses.iter().map(|progress| progress.due_ns).min()
    }

    /// Goes on with the first order that is due. Once a turn.
    pub(super) fn lead_out(&mut self, now: u64, kernel: &mut impl Kernel) {
        let Some(due) = self.exoduses.iter().position(|progress| progress.due_ns <= now) else { return };
        let Some(mut progress) = self.exoduses.remove(due) else { return };
        if progress.order.is_called_off() {
            return;
        }
        if progress.order.takes_everyone() && !progress.is_last {
            (progress.is_last, progress.next) = (true, 0);
        }
        let places = self.sessions.places();
        let end = progress.next.saturating_add(PLACES_A_TURN).min(places);
        let mut left = 0;
        while progress.next < end && left < LEAVING_A_TURN && progress.order.is_open() {
            if let Some(key) = self.sessions.key_at(progress.next)
                && self.may_leave(key, &progress.order, now, kernel)
            {
                self.end(key, Ending::Moved, 0, now, kernel);
                left += 1;
            }
            progress.next += 1;
        }
        let is_through = progress.next >= places;
        if is_through && progress.is_last {
            return;
        }
        progress.due_ns = now + if is_through || !progress.order.is_open() { LOOK_NS } else { PAUSE_NS };
        if is_through {
            progress.next = 0;
        }
        self.exoduses.push_back(progress);
    }

    /// Whether a session leaves now; then it has its ticket.
    fn may_leave(&mut self, key: Key, order: &Exodus, now: u64, kernel: &mut impl Kernel) -> bool {
        let Some(session) = self.sessions.of(key) else { return false };
        if session.phase != Phase::Relaying || session.life.accepted_ns >= order.begun_ns {
            return false;
        }
        let Ok(group) = order.group_of(session) else { return false };
        if !order.takes_everyone() {
            let silent_ns = now.saturating_sub(session.life.active_ns);
            let is_quiet = silent_ns >= order.quiet_ns.load(Ordering::Relaxed) && session.is_idle();
            // Asked last, for it is a system call.
            if !is_quiet || kernel.unsent(session.client) > 0 {
                return false;
            }
        }
        order.claim(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ledger::Registry;

    #[test]
    fn tickets_that_nobody_took_do_not_pile_up() {
        let order = Exodus::of_all(0);
        assert!(!order.claim(None), "there is none");
        (0..10).for_each(|_| order.admit(2, 3));
        assert_eq!((0..10).filter(|_| order.claim(None)).count(), 3);
        order.admit(5, 5);
        order.hold();
        assert!(!order.is_open() && !order.claim(None));
        order.take_everyone();
        assert!(order.claim(None));
        assert_eq!(order.gone(), 4);
    }

    #[test]
    fn a_group_gives_no_more_than_it_may() {
        let server = Registry::new(1).server("p", "a", "10.0.0.1:80");
        let order = Exodus::of_groups(vec![Group::new(server, Whose::Anybody, 2)], 0);
        let group = || order.groups().first();
        assert!(!order.claim(group()), "no ticket");
        assert_eq!(group().map(Group::allowed), Some(2), "and it costs the group nothing");
        order.admit(9, 9);
        assert_eq!((0..9).filter(|_| order.claim(group())).count(), 2);
        assert_eq!((order.gone(), group().map(Group::gone), group().map(Group::allowed)), (2, Some(2), Some(0)));
        group().expect("one").allow(1);
        assert!(order.claim(group()) && !order.claim(group()));
    }
}
