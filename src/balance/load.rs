//! Policies that go by how many sessions a server has.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::sync::atomic::Ordering;

use super::{Caller, DRAWS_MAX, Pick, candidates, claim, first_usable, has_place, is_spared, turns, usable};
use crate::base::digest::{mix, scale};
use crate::config::plan::{Pool, Server};

/// The server whose `(active + 1) / weight` is the least: how loaded it would be with this session. Those that are equal in
/// this take turns.
///
/// It looks at every server of the pool, for there is no order of thousands that all workers could keep up together at
/// less cost: with many servers [`random_two`] is nearly as even.
pub(super) fn least_connections(pool: &Pool, caller: &Caller<'_>) -> Pick {
    let turn = turns(pool, caller.tried).fetch_add(1, Ordering::Relaxed);
    for _ in 0..DRAWS_MAX {
        let Some(server) = least(pool, caller, turn) else { break };
        if claim(&pool.servers[usize::from(server)], caller.now_ns) {
            return Pick::Server(server);
        }
    }
    first_usable(pool, caller, false)
}

fn least(pool: &Pool, caller: &Caller<'_>, turn: u64) -> Option<u16> {
    let loads = || candidates(pool, caller, false).map(|(index, server)| (index, Load::of(server, 1)));
    let (mut least, mut equals) = (None, 0);
    for (index, load) in loads() {
        match least.map_or(Less, |(_, least)| load.compare(least)) {
            Less => (least, equals) = (Some((index, load)), 1),
            Equal => equals += 1,
            Greater => {}
        }
    }
    let (first, least) = least?;
    if equals == 1 {
        return Some(first);
    }
    let mut skip = turn % equals;
    for (index, load) in loads().skip_while(|(index, _)| *index < first) {
        if load.compare(least) == Equal {
            if skip == 0 {
                return Some(index);
            }
            skip -= 1;
        }
    }
    // Other workers have changed the counts meanwhile.
    Some(first)
}

/// The less loaded of two servers drawn by their weights (Mitzenmacher 2001, *The Power of Two Choices*); the first of them
/// when both are alike, so that sessions too short to be counted are shared by weight.
pub(super) fn random_two(pool: &Pool, caller: &Caller<'_>) -> Pick {
    let rotation = &pool.rotation;
    let mut one: Option<u16> = None;
    let mut random = caller.random;
    for _ in 0..DRAWS_MAX.min(4 * rotation.len()) {
        random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let two = rotation[scale(mix(random), rotation.len())];
        let server = &pool.servers[usize::from(two)];
        if one == Some(two) || !usable(pool, two, caller.tried) || !has_place(server, caller.now_ns) {
            continue;
        }
        if is_spared(server, caller, random) {
            continue;
        }
        let Some(first) = one else {
            one = Some(two);
            continue;
        };
        let other = &pool.servers[usize::from(first)];
        let second_is_less = Load::of(server, 0).compare(Load::of(other, 0)) == Less;
        let chosen = if second_is_less { two } else { first };
        if claim(&pool.servers[usize::from(chosen)], caller.now_ns) {
            return Pick::Server(chosen);
        }
        // Another worker took its last place.
        one = Some(if second_is_less { first } else { two });
    }
    match one {
        Some(only) if claim(&pool.servers[usize::from(only)], caller.now_ns) => Pick::Server(only),
        Some(_) | None => first_usable(pool, caller, false),
    }
}

/// Sessions for a weight: compared as fractions, without rounding.
#[derive(Clone, Copy)]
struct Load {
    sessions: u64,
    weight: u64,
}

impl Load {
    /// The load of a server with so many sessions more. It is usable, so it has a weight.
    fn of(server: &Server, more: u64) -> Self {
        let active = server.ledger.active.load(Ordering::Relaxed);
        // One that is behind, or ramps, has its share of the weight.
        let shares = u64::from(server.ledger.share()) * u64::from(server.ledger.warmth());
        Self { sessions: u64::from(active) + more, weight: u64::from(server.weight) * shares }
    }

    fn compare(self, other: Self) -> std::cmp::Ordering {
        (self.sessions * other.weight).cmp(&(other.sessions * self.weight))
    }
}
