//! The sessions of a server that is out are ended, a few in each turn, so that the others do not feel it.

use std::sync::Arc;

use super::ending::Ending;
use super::session::Phase;
use super::shard::Shard;
use crate::config::ledger::ServerLedger;
use crate::kernel::Kernel;

/// Places in the table of sessions that are looked at in one turn.
const PLACES_A_TURN: u32 = 256;

/// An order to end the sessions of a server. Those that are still being connected to it go on to another one.
#[derive(Clone, Debug)]
pub struct Eviction {
    /// Whose.
    pub server: Arc<ServerLedger>,
    /// As what.
    pub ending: Ending,
}

/// How far one has come.
#[derive(Debug)]
pub(super) struct Progress {
    order: Arc<Eviction>,
    next: u32,
}

impl Shard {
    /// Takes an order.
    pub(super) fn begin_eviction(&mut self, order: Arc<Eviction>) {
        self.evictions.push_back(Progress { order, next: 0 });
    }

    /// Goes on with the first order. Once a turn.
    pub(super) fn evict(&mut self, now: u64, kernel: &mut impl Kernel) {
        let Some(Progress { order, next }) = self.evictions.pop_front() else { return };
        let places = self.sessions.places();
        let end = next.saturating_add(PLACES_A_TURN).min(places);
        for key in (next..end).filter_map(|place| self.sessions.key_at(place)).collect::<Vec<_>>() {
            let Some(session) = self.sessions.of(key) else { continue };
            if !session.chosen().is_some_and(|server| Arc::ptr_eq(&server.ledger, &order.server)) {
                continue;
            }
            match session.phase {
                Phase::Connecting { late: false } => self.connect_is_late(key, now, kernel),
                Phase::Greeting => self.greeting_is_late(key, now, kernel),
                Phase::Relaying => self.end(key, order.ending, 0, now, kernel),
                Phase::Connecting { late: true } | Phase::Queued | Phase::Parting { .. } | Phase::Closing => {}
            }
        }
        if end < places {
            self.evictions.push_front(Progress { order, next: end });
        }
    }
}
