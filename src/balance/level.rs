//! How sessions stand against the shares of the servers: who holds more than its part, and has had it only because others
//! were away. What is over can be moved; where it then goes is for the policy to say.
//!
//! A server's part is by weight among those that a session could get now (a replica that is behind, and one that ramps, have
//! their share of it), as far as `max_connections` leaves room. One that could not get it, and works, such as a backup while
//! others serve, has no part. Servers that drain, that are down or that rest keep what they hold: moving is not what they
//! are there for.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use super::{Tried, roles, within_reach};
use crate::config::ledger::{Overlook, Standing};
use crate::config::plan::{Pool, RoleWish, Server};

/// How one server stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Sessions of the kind that was asked for.
    pub held: u64,
    /// Its part of them, rounded up.
    pub part: u64,
    /// What of it is over: as much could move, and would find room elsewhere.
    pub over: u64,
}

/// How the servers of a pool stand, of which each holds so many sessions that wish for such a server; `None`: it is left
/// alone.
pub fn levels(pool: &Pool, wish: Option<RoleWish>, held: &[u64]) -> Vec<Option<Level>> {
    let takers = takers(pool, wish);
    let takes = |index: usize| takers.get(index).copied().unwrap_or(false);
    let mut levels: Vec<Option<Level>> = pool
        .servers
        .iter()
        .zip(held)
        .enumerate()
        .map(|(index, (server, &held))| {
            (takes(index) || works(server, wish)).then_some(Level { held, part: 0, over: 0 })
        })
        .collect();
    let all: u64 = levels.iter().flatten().map(|level| level.held).sum();
    let mut shares: Vec<Share> = (0..levels.len())
        .filter(|&index| takes(index))
        .map(|index| Share::of(index, &pool.servers[index], held[index]))
        .filter(|share| share.weight > 0)
        .collect();
    // Who would be full below an even part comes first: what is left is shared by the others.
    shares.sort_by(|one, other| (one.room * other.weight).cmp(&(other.room * one.weight)));
    let (mut rest, mut weights) = (u128::from(all), shares.iter().map(|share| share.weight).sum::<u128>());
    let mut room = 0;
    for share in shares {
        let is_full = share.room * weights < rest * share.weight;
        let part = if is_full { share.room } else { (rest * share.weight).div_ceil(weights) };
        if is_full {
            (rest, weights) = (rest - share.room, weights - share.weight);
        }
        if let Some(level) = &mut levels[share.index] {
            level.part = u64::try_from(part).unwrap_or(u64::MAX);
            room += level.part.saturating_sub(level.held);
        }
    }
    for level in levels.iter_mut().flatten() {
        level.over = level.held.saturating_sub(level.part).min(room);
        room -= level.over;
    }
    levels
}

/// Which servers a session of this wish could get now, by their places in the pool; nobody while something speaks against all.
pub fn takers(pool: &Pool, wish: Option<RoleWish>) -> Vec<bool> {
    let tried = Tried::default();
    let reach: HashSet<*const Server> = match wish {
        None => within_reach(pool, &tried).map(std::ptr::from_ref).collect(),
        Some(wish) => roles::within_reach(pool, &tried, wish).map(|(server, _)| std::ptr::from_ref(server)).collect(),
    };
    let takes = |server: &Server| reach.contains(&std::ptr::from_ref(server)) && works(server, wish);
    pool.servers.iter().map(takes).collect()
}

/// Whether sessions of this wish are served there as they are meant to be.
fn works(server: &Server, wish: Option<RoleWish>) -> bool {
    let ledger = &server.ledger;
    let fits = match wish {
        None => ledger.is_usable(Overlook::Nothing),
        Some(wish) => ledger.suits(wish) && ledger.standing() == Standing::Ready && !ledger.is_ejected(),
    };
    server.weight > 0 && fits
}

/// What a server that takes sessions has a right to.
struct Share {
    index: usize,
    weight: u128,
    /// How many of these sessions it could hold.
    room: u128,
}

impl Share {
    fn of(index: usize, server: &Server, held: u64) -> Self {
        let ledger = &server.ledger;
        let weight = u128::from(server.weight) * u128::from(ledger.share()) * u128::from(ledger.warmth());
        let active = u64::from(ledger.active.load(Ordering::Relaxed));
        let room = match u64::from(server.max_connections) {
            // More than there are sessions.
            0 => u64::MAX,
            most => most.saturating_sub(active.saturating_sub(held)),
        };
        Self { index, weight, room: room.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ledger::{Health, Office, Registry, SHARE_WHOLE};
    use crate::config::plan::{Plan, ServerRole};

    fn plan(servers: &[&str]) -> Plan {
        let servers: String = (1..)
            .zip(servers)
            .map(|(n, more)| format!("{{ name = 's{n}', address = '127.0.0.1:{n}'{more} }},\n"))
            .collect();
        let text = format!(
            "[listeners.l]\nbind = '127.0.0.1:9'\npool = 'p'\n[pools.p]\nservers = [\n{servers}]\ncheck = {{ type = 'tcp' }}\n"
        );
        let draft = crate::config::parse("t.toml", &text, &|_| None).unwrap_or_else(|wrong| panic!("{wrong}"));
        let plan = draft.compile(&mut Registry::new(1), None);
        plan.pools[0].servers.iter().for_each(|server| server.ledger.set_health(Health::Up));
        plan
    }

    /// Held, part and what is over, of each server.
    fn stand(plan: &Plan, wish: Option<RoleWish>, held: &[u64]) -> Vec<Option<(u64, u64)>> {
        for (server, held) in plan.pools[0].servers.iter().zip(held) {
            server.ledger.active.store(u32::try_from(*held).expect("few"), Ordering::Relaxed);
        }
        let levels = levels(&plan.pools[0], wish, held);
        levels.into_iter().map(|level| level.map(|level| (level.part, level.over))).collect()
    }

    #[test]
    fn what_is_over_is_what_is_above_the_share() {
        let equal = plan(&["", "", ""]);
        assert_eq!(stand(&equal, None, &[10, 10, 0]), [Some((7, 3)), Some((7, 3)), Some((7, 0))]);
        assert_eq!(stand(&equal, None, &[7, 7, 6]), [Some((7, 0)); 3]);
        assert_eq!(stand(&equal, None, &[0, 1, 1]), [Some((1, 0)); 3], "nobody is better off by a move");
        assert_eq!(stand(&equal, None, &[0, 0, 0]), [Some((0, 0)); 3]);
        let weighted = plan(&[", weight = 3", ""]);
        assert_eq!(stand(&weighted, None, &[0, 8]), [Some((6, 0)), Some((2, 6))]);
    }

    #[test]
    fn who_is_out_is_left_alone_and_who_has_no_part_gives_all() {
        let pool = plan(&["", "", ", backup = true"]);
        let ledger = |index: usize| &pool.pools[0].servers[index].ledger;
        assert_eq!(
            stand(&pool, None, &[0, 0, 9]),
            [Some((5, 0)), Some((5, 0)), Some((0, 9))],
            "a backup's time is over"
        );
        ledger(0).set_standing(Standing::Drain);
        ledger(1).set_health(Health::Down);
        assert_eq!(stand(&pool, None, &[5, 5, 2]), [None, None, Some((2, 0))], "nobody else is to be had");
        ledger(1).set_health(Health::Up);
        assert_eq!(stand(&pool, None, &[9, 2, 0]), [None, Some((2, 0)), Some((0, 0))], "who drains keeps its sessions");
        ledger(1).set_health(Health::Checking);
        ledger(2).set_health(Health::Down);
        assert_eq!(stand(&pool, None, &[9, 2, 4]), [None; 3], "nothing is known of anybody");
        let without = plan(&["", ", weight = 0"]);
        assert_eq!(stand(&without, None, &[4, 8]), [Some((4, 0)), None]);
    }

    #[test]
    fn a_limit_leaves_what_it_has_no_room_for() {
        let pool = plan(&["", ", max_connections = 2", ""]);
        assert_eq!(stand(&pool, None, &[12, 0, 0]), [Some((5, 7)), Some((2, 0)), Some((5, 0))]);
        let full = plan(&["", ", max_connections = 2"]);
        assert_eq!(stand(&full, None, &[12, 2]), [Some((12, 0)), Some((2, 0))]);
        let ledger = &full.pools[0].servers[1].ledger;
        stand(&full, None, &[12, 0]);
        ledger.active.store(2, Ordering::Relaxed);
        let levels = levels(&full.pools[0], None, &[12, 0]);
        assert_eq!(levels[0].map(|level| level.over), Some(0), "its places are taken by sessions of another kind");
    }

    #[test]
    fn who_ramps_has_a_part_of_its_part() {
        let pool = plan(&["", ""]);
        let ledger = &pool.pools[0].servers[1].ledger;
        ledger.set_slow_start(10_000);
        ledger.ramp();
        ledger.ramp_by(5_000);
        assert_eq!(stand(&pool, None, &[90, 0]), [Some((60, 30)), Some((30, 0))]);
    }

    #[test]
    fn each_role_is_among_its_own() {
        let pool = plan(&["", "", ""]);
        let servers = &pool.pools[0].servers;
        let replica = Office::Replica { share: SHARE_WHOLE };
        for (server, office) in servers.iter().zip([Office::Primary, replica, replica]) {
            server.ledger.set_office(office);
        }
        let wish = |role, fallback| Some(RoleWish { role, fallback });
        assert_eq!(stand(&pool, wish(ServerRole::Primary, false), &[50, 0, 0]), [Some((50, 0)), None, None]);
        let reads = wish(ServerRole::Replica, false);
        assert_eq!(stand(&pool, reads, &[0, 10, 0]), [None, Some((5, 5)), Some((5, 0))]);
        let fallback = wish(ServerRole::Replica, true);
        let levels = stand(&pool, fallback, &[6, 4, 0]);
        assert_eq!(levels, [Some((0, 6)), Some((5, 0)), Some((5, 0))], "a replica has come back");
        servers[1].ledger.set_office(Office::Replica { share: 500 });
        assert_eq!(stand(&pool, reads, &[0, 12, 0]), [None, Some((4, 8)), Some((8, 0))], "who is behind has less");
        servers[2].ledger.set_ejected(true);
        assert_eq!(stand(&pool, reads, &[0, 12, 3]), [None, Some((12, 0)), None]);
    }

    /// Whatever is held, what is over goes into what is missing, and never more.
    #[test]
    fn what_is_over_finds_room() {
        let pool = plan(&["", ", weight = 5", ", max_connections = 40", ", backup = true", ", weight = 2"]);
        for case in 0..2_000_u64 {
            let draw = |salt: u64| crate::base::digest::mix(case * 7 + salt) % 60;
            let held = [draw(0), draw(1), draw(2).min(40), draw(3), draw(4)];
            stand(&pool, None, &held);
            let levels = levels(&pool.pools[0], None, &held);
            let over: u64 = levels.iter().flatten().map(|level| level.over).sum();
            let room: u64 = levels.iter().flatten().map(|level| level.part.saturating_sub(level.held)).sum();
            assert!(over <= room, "{held:?}: {levels:?}");
            assert!(levels.iter().flatten().all(|level| level.held - level.over >= level.part.min(level.held)));
            assert_eq!(
                levels[3].map(|level| level.over),
                Some(held[3].min(room)),
                "a backup gives what it can: {levels:?}"
            );
        }
    }
}
