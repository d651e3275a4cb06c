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
        let is_idle = session.phase == Phase::Relaying && session.is_idle();
        self.add(&server.ledger, session.listener.role, is_idle);
    }

    fn add(&self, server: &Arc<ServerLedger>, wish: Option<RoleWish>, is_idle: bool) {
        let Some((place, _)) = self.places.get(&Arc::as_ptr(server).addr()) else { return };
        let Some(wish) = self.wishes.iter().position(|known| *known == wish) else { return };
        let count = &self.counts[place * self.wishes.len() + wish];
        count.held.fetch_add(1, Ordering::Relaxed);
        count.idle.fetch_add(u64::from(is_idle), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ledger::Registry;
    use crate::config::plan::ServerRole;

    fn pool(addresses: &str) -> Arc<Pool> {
        let servers: String =
            addresses.chars().map(|n| format!("{{ name = 's{n}', address = '127.0.0.{n}:3306' }},")).collect();
        let text = format!("[listeners.l]\nbind = '127.0.0.1:80'\npool = 'p'\n[pools.p]\nservers = [{servers}]\n");
        let draft = crate::config::parse("test", &text, &|_| None).unwrap_or_else(|complaints| panic!("{complaints}"));
        Arc::clone(&draft.compile(&mut Registry::new(1), None).pools[0])
    }

    #[test]
    fn each_server_has_a_count_for_each_wish() {
        let (pool, elsewhere) = (pool("12"), pool("3"));
        let wish = |role, fallback| Some(RoleWish { role, fallback });
        let (write, read) = (wish(ServerRole::Primary, false), wish(ServerRole::Replica, false));
        let census = Census::new(&pool, &[write, read]);
        let [first, second] = [0, 1].map(|index: usize| &pool.servers[index].ledger);
        for (server, wish, is_idle) in [
            (first, write, true),
            (first, write, false),
            (first, read, false),
            (second, read, true),
            (second, read, true),
            // Of none of these wishes, and of another pool: they are nobody's here.
            (second, wish(ServerRole::Replica, true), true),
            (second, None, true),
            (&elsewhere.servers[0].ledger, write, true),
        ] {
            census.add(server, wish, is_idle);
        }
        assert_eq!(census.of(0), (vec![2, 0], vec![1, 0]));
        assert_eq!(census.of(1), (vec![1, 2], vec![0, 2]));
        assert_eq!(Census::new(&pool, &[]).of(0), (vec![], vec![]), "a pool that no listener leads to");
    }
}
