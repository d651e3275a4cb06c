//! Picks for listeners that want a role.
//!
//! | wanted | chooses |
//! |---|---|
//! | the primary | it, whatever its health: it is the last that was proven to take writes, until another is |
//! | a replica | by the pool's policy; one that is behind gets its share; one that is ejected comes last |
//! | a replica, with a fallback | the primary, when no replica is usable |
//!
//! What the operator says (`drain`, `maint`, weight 0) always counts.

use super::room::claim_all;
use super::{Caller, Pick, Tried, pick_of, usable};
use crate::base::digest::{digest_of_client, mix};
use crate::config::ledger::{Overlook, SHARE_WHOLE, Standing};
use crate::config::plan::{Policy, Pool, RoleWish, Server, ServerRole};

/// Chooses a server of a role.
pub(super) fn pick(pool: &Pool, caller: &Caller<'_>, wish: RoleWish) -> Pick {
    let chosen = match wish.role {
        ServerRole::Primary => primary(pool, caller),
        ServerRole::Replica => replica(pool, caller),
    };
    match chosen {
        Pick::None if wish.fallback => primary(pool, caller),
        chosen => chosen,
    }
}

fn primary(pool: &Pool, caller: &Caller<'_>) -> Pick {
    let tried = Tried { role: Some(ServerRole::Primary), ..*caller.tried };
    let found = (0_u16..).zip(&pool.servers).find(|(index, _)| usable(pool, *index, &tried));
    match found {
        // There is one: what it has is for all, even while it ramps.
        Some((index, server)) if claim_all(server, caller.now_ns) => Pick::Server(index),
        Some(_) => Pick::Full,
        None => Pick::None,
    }
}

fn replica(pool: &Pool, caller: &Caller<'_>) -> Pick {
    // The same client draws the same lot, where the policy goes by the client.
    let lot = if pool.policy.is_by_source() { digest_of_client(caller.address) } else { caller.random };
    // Where the least loaded is chosen, the load for its share is what counts.
    let lots = match pool.policy {
        Policy::LeastConnections => &[None][..],
        _ => &[Some(lot), None],
    };
    let all = Tried { role: Some(ServerRole::Replica), ..*caller.tried };
    for overlook in [Overlook::Nothing, Overlook::Health] {
        for backup in [false, true] {
            for lot in lots {
                let tried = Tried { overlook, lot: *lot, ..all };
                match pick_of(pool, &Caller { tried: &tried, ..*caller }, backup) {
                    Pick::None => {}
                    // One that the lot has left out may have room.
                    Pick::Full if lot.is_some() => {}
                    chosen => return chosen,
                }
            }
        }
    }
    Pick::None
}

/// The servers such a session could get, full or not: those of the first step of a pick at which anybody is usable. And
/// whether each gives out all the places it has.
pub(super) fn within_reach<'a>(
    pool: &'a Pool,
    tried: &Tried,
    wish: RoleWish,
) -> impl Iterator<Item = (&'a Server, bool)> {
    let at = move |(tried, backup): (Tried, Option<bool>)| {
        let all = (0_u16..).zip(&pool.servers);
        let all = all.filter(move |(_, server)| backup.is_none_or(|backup| server.backup == backup));
        let usable = all.filter(move |(index, _)| usable(pool, *index, &tried)).map(|(_, server)| server);
        // Of the role of which there is one, a pick takes the first.
        usable.take(if backup.is_none() { 1 } else { usize::MAX })
    };
    let replica =
        |overlook, backup| (Tried { role: Some(ServerRole::Replica), lot: None, overlook, ..*tried }, Some(backup));
    let steps = [
        replica(Overlook::Nothing, false),
        replica(Overlook::Nothing, true),
        replica(Overlook::Health, false),
        replica(Overlook::Health, true),
        (Tried { role: Some(ServerRole::Primary), ..*tried }, None),
    ];
    let wanted = match (wish.role, wish.fallback) {
        (ServerRole::Primary, _) => 4..5,
        (ServerRole::Replica, true) => 0..5,
        (ServerRole::Replica, false) => 0..4,
    };
    let step = steps.into_iter().take(wanted.end).skip(wanted.start).find(|step| at(*step).next().is_some());
    step.into_iter().flat_map(move |step| at(step).map(move |server| (server, step.1.is_none())))
}

/// All servers that somebody of this wish could get, whomever he has tried.
pub(super) fn holders(pool: &Pool, wish: RoleWish) -> impl Iterator<Item = &Server> {
    let serves = move |server: &&Server| {
        let holds = |role| server.ledger.holds(role);
        holds(wish.role) || wish.fallback && holds(ServerRole::Primary)
    };
    let in_service = |server: &&Server| server.weight > 0 && server.ledger.standing() == Standing::Ready;
    pool.servers.iter().filter(in_service).filter(serves)
}

/// Whether a server has the role, and nothing speaks against it that is not overlooked.
#[inline]
pub(super) fn serves(server: &Server, role: ServerRole, tried: &Tried) -> bool {
    let ledger = &server.ledger;
    if !ledger.holds(role) || ledger.standing() != Standing::Ready {
        return false;
    }
    match role {
        ServerRole::Primary => true,
        ServerRole::Replica => {
            let rests = tried.overlook == Overlook::Nothing && ledger.is_ejected();
            !rests && tried.lot.is_none_or(|lot| draws(server, lot))
        }
    }
}

/// Whether a replica that is behind is to be had this time: in as many of a thousand times as its share says.
fn draws(server: &Server, lot: u64) -> bool {
    let share = server.ledger.share();
    share == SHARE_WHOLE || mix(server.key ^ lot) % u64::from(SHARE_WHOLE) < u64::from(share)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::balance::{self, release};
    use crate::config::ledger::{Health, Office, Registry};
    use crate::config::plan::Plan;

    const WRITES: RoleWish = RoleWish { role: ServerRole::Primary, fallback: false };
    const READS: RoleWish = RoleWish { role: ServerRole::Replica, fallback: false };

    fn plan(policy: &str, last: &str) -> Plan {
        plan_with(policy, last, "")
    }

    fn plan_with(policy: &str, last: &str, terms: &str) -> Plan {
        let text = format!(
            "[listeners.l]\nbind = '127.0.0.1:9'\npool = 'p'\n[pools.p]\npolicy = '{policy}'\n{terms}\nservers = [\n\
             {{ name = 'a', address = '127.0.0.1:1' }},\n{{ name = 'b', address = '127.0.0.1:2' }},\n\
             {{ name = 'c', address = '127.0.0.1:3'{last} }},\n]\n"
        );
        let draft = crate::config::parse("t.toml", &text, &|_| None).unwrap_or_else(|wrong| panic!("{wrong}"));
        draft.compile(&mut Registry::new(1), None)
    }

    fn set(pool: &Pool, offices: [Office; 3]) {
        for (server, office) in pool.servers.iter().zip(offices) {
            server.ledger.set_office(office);
        }
    }

    fn ask(pool: &Pool, wish: RoleWish, n: u64, tried: &Tried) -> Pick {
        let address = Some(IpAddr::from([10, 0, (n >> 8) as u8, n as u8]));
        balance::pick(pool, &Caller { tried, address, random: mix(n), now_ns: 0, wish: Some(wish) })
    }

    const REPLICA: Office = Office::Replica { share: SHARE_WHOLE };
    const POLICIES: [&str; 6] = ["round-robin", "least-connections", "random-two", "source-hash", "maglev", "first"];

    #[test]
    fn each_policy_keeps_to_the_role() {
        for policy in POLICIES {
            let plan = plan(policy, "");
            let pool = &plan.pools[0];
            assert_eq!(ask(pool, WRITES, 0, &Tried::default()), Pick::None, "{policy}: nobody has a role");
            set(pool, [REPLICA, Office::Primary, REPLICA]);
            for n in 0..200 {
                assert_eq!(ask(pool, WRITES, n, &Tried::default()), Pick::Server(1), "{policy}");
                let read = ask(pool, READS, n, &Tried::default());
                assert!(matches!(read, Pick::Server(0 | 2)), "{policy}: {read:?}");
            }
            // Health is for those who want no role; what the operator says is for all.
            pool.servers.iter().for_each(|server| server.ledger.set_health(Health::Down));
            pool.servers[1].ledger.set_ejected(true);
            assert_eq!(ask(pool, WRITES, 0, &Tried::default()), Pick::Server(1), "{policy}");
            pool.servers[1].ledger.set_standing(Standing::Drain);
            assert_eq!(ask(pool, WRITES, 0, &Tried::default()), Pick::None, "{policy}");
            let mut tried = Tried::default();
            tried.add(0);
            tried.add(2);
            assert_eq!(ask(pool, READS, 0, &tried), Pick::None, "{policy}: both were tried");
        }
    }

    #[test]
    fn reads_fall_back_only_where_they_may() {
        let plan = plan("least-connections", ", backup = true");
        let pool = &plan.pools[0];
        let fallback = RoleWish { fallback: true, ..READS };
        set(pool, [Office::Primary, Office::None, Office::None]);
        assert_eq!(ask(pool, READS, 0, &Tried::default()), Pick::None);
        assert_eq!(ask(pool, fallback, 0, &Tried::default()), Pick::Server(0));
        set(pool, [Office::Primary, Office::None, REPLICA]);
        assert_eq!(ask(pool, fallback, 0, &Tried::default()), Pick::Server(2), "a backup before the primary");
        set(pool, [Office::Primary, REPLICA, REPLICA]);
        assert_eq!(ask(pool, fallback, 0, &Tried::default()), Pick::Server(1));
        pool.servers[1].ledger.set_ejected(true);
        assert_eq!(ask(pool, READS, 0, &Tried::default()), Pick::Server(2));
        pool.servers[2].ledger.set_ejected(true);
        assert_eq!(ask(pool, READS, 0, &Tried::default()), Pick::Server(1), "rather than nobody");
    }

    /// Room is where a pick finds a place, whatever the roles and who is full.
    #[test]
    fn room_is_where_a_pick_finds_it() {
        const FALLBACK: RoleWish = RoleWish { fallback: true, ..READS };
        let offices = [Office::None, Office::Primary, REPLICA, Office::Replica { share: 1 }];
        for policy in POLICIES {
            let plan = plan_with(policy, ", backup = true, max_connections = 1", "queue = { limit = 9 }");
            let pool = &plan.pools[0];
            for case in 0..64_u64 {
                set(pool, [0, 1, 2].map(|place| offices[(case >> (2 * place)) as usize % 4]));
                for (wish, tried) in [WRITES, READS, FALLBACK].into_iter().flat_map(|wish| {
                    let mut one = Tried::default();
                    one.add((case % 3) as u16);
                    [(wish, Tried::default()), (wish, one)]
                }) {
                    for full in [false, true] {
                        let active = &pool.servers[2].ledger.active;
                        active.store(u32::from(full), std::sync::atomic::Ordering::Relaxed);
                        let room = balance::has_room(pool, &tried, Some(wish), 0);
                        let any = balance::has_any_room(pool, Some(wish), 0);
                        let picked = ask(pool, wish, case, &tried);
                        let what = format!("{policy} {case} {wish:?} {full} {picked:?}");
                        assert_eq!(room, matches!(picked, Pick::Server(_)), "{what}");
                        assert!(any || !room, "{what}");
                        if let Pick::Server(server) = picked {
                            release(&pool.servers[usize::from(server)]);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_replica_that_is_behind_gets_its_share() {
        for policy in ["round-robin", "random-two", "source-hash", "maglev", "first"] {
            let plan = plan(policy, "");
            let pool = &plan.pools[0];
            set(pool, [Office::Replica { share: 250 }, REPLICA, Office::Primary]);
            let mut got = [0_u32; 3];
            for n in 0..4_000 {
                let Pick::Server(server) = ask(pool, READS, n, &Tried::default()) else { panic!("{policy}") };
                got[usize::from(server)] += 1;
                release(&pool.servers[usize::from(server)]);
            }
            // A weight of 1/4 beside one of 1 is a fifth. Who draws by lot whom it may have, and then by the policy, gets a
            // quarter of a half; and `first` a quarter of all.
            let expected = if policy == "first" { 900..1_100 } else { 400..850 };
            assert!(expected.contains(&got[0]) && got[0] + got[1] == 4_000, "{policy}: {got:?}");
        }
        let plan = plan("least-connections", "");
        let pool = &plan.pools[0];
        set(pool, [Office::Replica { share: 250 }, REPLICA, Office::Primary]);
        for n in 0..1_000 {
            ask(pool, READS, n, &Tried::default());
        }
        let held = pool.servers[0].ledger.active.load(std::sync::atomic::Ordering::Relaxed);
        assert!((190..=210).contains(&held), "{held} of 1000 that stay: a quarter of the other's 800");
        set(pool, [Office::Replica { share: 1 }, Office::None, Office::Primary]);
        for n in 0..100 {
            assert_eq!(ask(pool, READS, n, &Tried::default()), Pick::Server(0), "the only one, however far behind");
        }
    }
}
