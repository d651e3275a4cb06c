//! What only somebody who looks again and again can tell: rates, and the most there was at once, as seen once a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::plan::{Listener, Plan, Pool, Server};
use crate::observe::metrics::sessions_open;

use super::stat::connects;

/// How often to look.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// All of them, by the ledger they are about. Bounded by the plan: who is not in it is forgotten at the next look.
#[derive(Debug, Default)]
pub(super) struct Trends(HashMap<usize, Trend>);

/// One listener, pool or server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trend {
    /// Sessions begun so far.
    total: u64,
    /// Sessions begun in the last second.
    pub(super) rate: u64,
    /// The most of that.
    pub(super) rate_max: u64,
    /// Most sessions at once.
    pub(super) current_max: u64,
    /// Most sessions that waited at once; of pools.
    pub(super) waiting_max: u64,
    /// Seen at this look.
    is_fresh: bool,
}

impl Trends {
    /// Looks; the look before was `passed` ago.
    pub(super) fn look(&mut self, plan: &Plan, passed: Duration) {
        for listener in &plan.listeners {
            let accepted = listener.ledger.tally.sum(|t| t.accepted.read());
            self.see(id(&listener.ledger), accepted, sessions_open(listener), 0, passed);
        }
        for pool in &plan.pools {
            let mut total = 0;
            for server in &pool.servers {
                let (worked, failed) = connects(server);
                let sessions = server.ledger.active.load(std::sync::atomic::Ordering::Relaxed);
                self.see(id(&server.ledger), worked + failed, sessions.into(), 0, passed);
                total += worked;
            }
            let sessions = pool.ledger.tally.sum(|t| t.sessions.read());
            self.see(id(&pool.ledger), total, sessions, pool.ledger.line.waiting().into(), passed);
        }
        self.0.retain(|_, trend| std::mem::take(&mut trend.is_fresh));
    }

    fn see(&mut self, id: usize, total: u64, current: u64, waiting: u64, passed: Duration) {
        let before = self.0.get(&id).copied();
        let trend = self.0.entry(id).or_default();
        // One that is new has no second behind it; a pool that lost a server counts less than before.
        let begun = before.map_or(0, |before| total.saturating_sub(before.total));
        let passed_ms = passed.as_millis().max(1);
        trend.rate = u64::try_from(u128::from(begun) * 1_000 / passed_ms).unwrap_or(u64::MAX);
        trend.rate_max = trend.rate_max.max(trend.rate);
        trend.current_max = trend.current_max.max(current);
        trend.waiting_max = trend.waiting_max.max(waiting);
        (trend.total, trend.is_fresh) = (total, true);
    }

    pub(super) fn listener(&self, listener: &Listener) -> Option<&Trend> {
        self.0.get(&id(&listener.ledger))
    }

    pub(super) fn pool(&self, pool: &Pool) -> Option<&Trend> {
        self.0.get(&id(&pool.ledger))
    }

    pub(super) fn server(&self, server: &Server) -> Option<&Trend> {
        self.0.get(&id(&server.ledger))
    }

    /// Of all listeners together: connections in the last second, and the most of that of any one.
    pub(super) fn connections(&self, plan: &Plan) -> (u64, u64) {
        let trends = || plan.listeners.iter().filter_map(|listener| self.listener(listener));
        (trends().map(|trend| trend.rate).sum(), trends().map(|trend| trend.rate_max).max().unwrap_or(0))
    }
}

/// What a ledger goes by. An address that is used again is another's: its numbers would be off for a second.
fn id<T>(ledger: &Arc<T>) -> usize {
    Arc::as_ptr(ledger) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::ending::ConnectResult;
    use crate::observe::panel::tests::plan;

    #[test]
    fn rates_and_maxima() {
        let plan = plan();
        let (listener, server) = (&plan.listeners[0], &plan.pools[0].servers[0]);
        let accept = |count| listener.ledger.tally.of(0).accepted.add(count);
        let mut trends = Trends::default();
        accept(100);
        trends.look(&plan, LOOK);
        assert_eq!(trends.listener(listener).map(|trend| trend.rate), Some(0), "before the first look is no second");
        accept(10);
        server.ledger.tally.of(1).connects[ConnectResult::Ok as usize].add(6);
        server.ledger.active.store(5, std::sync::atomic::Ordering::Relaxed);
        trends.look(&plan, Duration::from_secs(2));
        server.ledger.active.store(1, std::sync::atomic::Ordering::Relaxed);
        trends.look(&plan, LOOK);
        let trend = trends.server(server).expect("seen");
        assert_eq!((trend.rate, trend.rate_max, trend.current_max), (0, 3, 5));
        assert_eq!(trends.pool(&plan.pools[0]).map(|trend| trend.rate_max), Some(3));
        assert_eq!(trends.connections(&plan), (0, 5));
    }

    #[test]
    fn who_has_gone_is_forgotten() {
        let (plan, mut trends) = (plan(), Trends::default());
        trends.look(&plan, LOOK);
        assert_eq!(trends.0.len(), 4);
        let mut empty = super::tests::plan();
        (empty.listeners, empty.pools) = (Vec::new(), Vec::new());
        trends.look(&empty, LOOK);
        assert!(trends.0.is_empty());
    }
}
