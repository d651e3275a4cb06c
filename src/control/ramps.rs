//! Servers that come into service ramp (`slow_start`): whoever has been away is cold. This steps their shares, and has
//! those looked after who wait for a place: a server that has come into service, or warmed up, may have one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::ledger::ServerLedger;
use crate::config::plan::{Plan, Pool};

use super::fleet::Fleet;

/// Time between two steps of a ramp: a pool whose ramp takes the shortest time allowed makes ten of them.
const STEP: Duration = Duration::from_millis(100);

/// When shares were stepped last.
#[derive(Debug)]
pub(super) struct Ramps {
    last: Instant,
    /// Some pool has `slow_start`, or a queue.
    needed: bool,
}

impl Ramps {
    /// Ramps of a daemon that starts: nobody has been away.
    pub(super) fn of(plan: &Plan) -> Self {
        let mut ramps = Self { last: Instant::now(), needed: false };
        ramps.adopt(plan, plan);
        ramps
    }

    /// Takes up `plan`, which follows `old`. A server that comes to a pool that was there before begins cold; those of a new
    /// pool are all alike.
    pub(super) fn adopt(&mut self, plan: &Plan, old: &Plan) {
        self.needed = plan.pools.iter().any(|pool| pool.slow_start_ms > 0 || pool.terms.queue.limit > 0);
        for pool in &plan.pools {
            let before = old.pools.iter().find(|before| before.name == pool.name);
            let known = before.filter(|_| pool.slow_start_ms > 0).map(|before| ledgers(before).collect::<HashSet<_>>());
            for server in &pool.servers {
                server.ledger.set_slow_start(pool.slow_start_ms);
                if known.as_ref().is_some_and(|known| !known.contains(&Arc::as_ptr(&server.ledger))) {
                    server.ledger.ramp();
                }
            }
        }
    }

    /// When to step next; `None`: never.
    pub(super) fn due(&self) -> Option<Instant> {
        self.needed.then(|| self.last + STEP)
    }

    /// Steps all ramps, and calls those who wait.
    pub(super) fn step(&mut self, plan: &Plan, fleet: &mut Fleet) {
        let now = Instant::now();
        let passed_ms = u32::try_from(now.duration_since(self.last).as_millis()).unwrap_or(u32::MAX);
        self.last = now;
        for pool in &plan.pools {
            if pool.slow_start_ms > 0 {
                for server in &pool.servers {
                    server.ledger.ramp_by(passed_ms);
                }
            }
            if pool.ledger.line.is_waited_in() {
                fleet.call_waiting(&pool.ledger);
            }
        }
    }
}

/// The ledgers of the servers of a pool: what a server is known by.
fn ledgers(pool: &Pool) -> impl Iterator<Item = *const ServerLedger> {
    pool.servers.iter().map(|server| Arc::as_ptr(&server.ledger))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ledger::{Health, Registry, Standing, WARM};
    use crate::config::parse;

    const TEXT: &str = "[listeners.l]\nbind = '127.0.0.1:1'\npool = 'p'\n[pools.p]\nslow_start = '10s'\nservers = [\n\
                        { name = 'a', address = '127.0.0.1:2' },\n{ name = 'b', address = '127.0.0.1:3' },\n]\n";

    fn plan(text: &str, registry: &mut Registry, old: Option<&Plan>) -> Plan {
        parse("t", text, &|_| None).unwrap_or_else(|complaints| panic!("{complaints}")).compile(registry, old)
    }

    fn shares(plan: &Plan) -> Vec<u32> {
        plan.pools.iter().flat_map(|pool| &pool.servers).map(|server| server.ledger.warmth()).collect()
    }

    #[test]
    fn nobody_is_cold_at_a_start_or_by_a_reload_that_leaves_him() {
        let mut registry = Registry::new(1);
        let first = plan(TEXT, &mut registry, None);
        let mut ramps = Ramps::of(&first);
        assert!(ramps.due().is_some() && shares(&first) == [WARM, WARM]);
        let more = TEXT
            .replace("\n]\n", "\n{ name = 'c', address = '127.0.0.1:4' },\n]\n[pools.q]\nslow_start = '1s'\n")
            + "servers = [{ name = 'a', address = '127.0.0.1:2' }]\n";
        let second = plan(&more, &mut registry, Some(&first));
        ramps.adopt(&second, &first);
        assert_eq!(shares(&second), [WARM, WARM, 1, WARM], "the new one of p, and the new pool");
        // Without the key they have at once what they had to grow to.
        let third = plan(&more.replace("slow_start = '10s'\n", ""), &mut registry, Some(&second));
        ramps.adopt(&third, &second);
        assert_eq!(shares(&third), [WARM; 4]);
        let without = plan(&TEXT.replace("slow_start = '10s'\n", ""), &mut registry, None);
        assert!(Ramps::of(&without).due().is_none());
    }

    #[test]
    fn a_share_grows_in_a_line() {
        let mut registry = Registry::new(1);
        let plan = plan(TEXT, &mut registry, None);
        let _ramps = Ramps::of(&plan);
        let ledger = &plan.pools[0].servers[0].ledger;
        assert!(!ledger.ramp_by(5_000), "it is warm");
        ledger.set_standing(Standing::Ready);
        assert_eq!(ledger.warmth(), WARM, "it was in service");
        ledger.set_standing(Standing::Drain);
        assert_eq!(ledger.warmth(), WARM);
        ledger.set_standing(Standing::Ready);
        assert_eq!(ledger.warmth(), 1);
        for second in 1..10 {
            assert!(ledger.ramp_by(1_000));
            assert_eq!(ledger.warmth(), second * 100);
        }
        assert!(ledger.ramp_by(5_000) && ledger.warmth() == WARM && !ledger.ramp_by(1));
        // What checks say counts as well, and what connects do.
        ledger.set_health(Health::Down);
        ledger.set_health(Health::Up);
        assert!(ledger.warmth() == 1 && ledger.ramp_by(10_000));
        ledger.set_ejected(true);
        ledger.set_ejected(false);
        assert!(ledger.warmth() == 1 && ledger.ramp_by(10_000));
        // That it is still being checked when the daemon starts is no absence; of one that is added it is.
        ledger.set_health(Health::Checking);
        ledger.set_health(Health::Up);
        assert_eq!(ledger.warmth(), WARM);
        ledger.ramp();
        assert!(ledger.ramp_by(7_000));
        ledger.set_health(Health::Checking);
        ledger.set_health(Health::Up);
        assert!(ledger.warmth() == 1 && ledger.ramp_by(10_000));
        // Away again in the middle, it begins anew.
        ledger.set_standing(Standing::Maint);
        ledger.set_standing(Standing::Ready);
        assert!(ledger.ramp_by(5_000) && ledger.warmth() == 500);
        ledger.set_standing(Standing::Maint);
        ledger.set_standing(Standing::Ready);
        assert_eq!(ledger.warmth(), 1);
    }
}
