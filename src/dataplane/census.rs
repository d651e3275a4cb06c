//! A count of the sessions of a pool: how many each of its servers has, by what their listeners wish for, and how many of
//! them are idle. It is taken as the roll is called, some places of the table a turn ([`super::roll`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::session::{Phase, Session};
use crate::config::ledger::ServerLedger;
use crate::config::plan::{Pool, RoleWish};

/// The count, as far as it has come.
#[derive(Debug)]
pub struct Census {
    /// The servers, which it keeps alive, by the addresses of their ledgers.
    places: HashMap<usize, (usize, Arc<ServerLedger>)>,
    wishes: Vec<Option<RoleWish>>,
    /// By server, and for each by wish.
    counts: Vec<Count>,
}

#[derive(Debug, Default)]
struct Count {
    held: AtomicU64,
    idle: AtomicU64,
}

impl Census {
    /// Nobody is counted yet; who has another wish than these never is.
    pub fn new(pool: &Pool, wishes: &[Option<RoleWish>]) -> Self {
        let place =
            |(index, ledger): (usize, &Arc<ServerLedger>)| (Arc::as_ptr(ledger).addr(), (index, Arc::clone(ledger)));
        Self {
            places: pool.servers.iter().map(|server| &server.ledger).enumerate().map(place).collect(),
            wishes: wishes.to_vec(),
            counts: (0..pool.servers.len() * wishes.len()).map(|_| Count::default()).collect(),
        }
    }

    /// Sessions that wish for the `wish`-th of the wishes, by server; and how many of them are idle.
    pub fn of(&self, wish: usize) -> (Vec<u64>, Vec<u64>) {
        let of = |server: &[Count]| {
            let count = server.get(wish);
            count.map_or((0, 0), |count| (count.held.load(Ordering::Relaxed), count.idle.load(Ordering::Relaxed)))
        };
        self.counts.chunks(self.wishes.len().max(1)).map(of).unzip()
    }

    /// Counts a session that has a server.
    pub(super) fn count(&self, session: &Session) {
        let Some(server) = session.chosen() else { return };
        let Some((place, _)) = self.places.get(&Arc::as_ptr(&server.ledger).addr()) else { return };
        let Some(wish) = self.wishes.iter().position(|wish| *wish == session.listener.role) else { return };
        let count = &self.counts[place * self.wishes.len() + wish];
        count.held.fetch_add(1, Ordering::Relaxed);
        if session.phase == Phase::Relaying && session.is_idle() {
            count.idle.fetch_add(1, Ordering::Relaxed);
        }
    }
}
