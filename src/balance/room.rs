//! Whether a server has room for one more session: its places, of which a server that ramps (`slow_start`) gives out only
//! a part, its *warmth*.
//!
//! Warmth is soft. It thins: of the sessions that would go to the server only that part does, the others go to the next.
//! And it narrows `max_connections`, by the same part. But when nobody else has room, a server that ramps takes what its
//! real limit allows, for a slow answer is better than none; unless the session can wait for a place instead (`queue`).
//!
//! And whether it may be connected to so soon after the last time (`connect_rate`): one that may not is as good as full.

use std::sync::atomic::Ordering;

use super::{Caller, Pick, usable};
use crate::base::digest::mix;
use crate::config::ledger::WARM;
use crate::config::plan::{Pool, Server};

/// Whether this session is one of those that a server which ramps leaves to the next. `salt` makes draws of one session
/// differ.
pub(super) fn is_spared(server: &Server, caller: &Caller<'_>, salt: u64) -> bool {
    let warmth = server.ledger.warmth();
    warmth < WARM && mix(caller.random ^ salt) % u64::from(WARM) >= u64::from(warmth)
}

/// The same by client: one whose server ramps goes elsewhere, and comes back once, when it has warmed up so far.
pub(super) fn is_spared_for(server: &Server, client: u64) -> bool {
    let warmth = server.ledger.warmth();
    warmth < WARM && mix(server.key ^ client) % u64::from(WARM) >= u64::from(warmth)
}

/// Its real limit; `None` is none.
fn limit(server: &Server) -> Option<u32> {
    (server.max_connections > 0).then_some(server.max_connections)
}

/// The places it gives out now; `None` is no limit.
fn places(server: &Server) -> Option<u32> {
    let warmth = server.ledger.warmth();
    match server.max_connections {
        0 => None,
        most if warmth >= WARM => Some(most),
        most => {
            let soft = (u64::from(most) * u64::from(warmth)).div_ceil(u64::from(WARM));
            // Not more than `most`, which fits. One at least: who gets nothing never warms up.
            Some(u32::try_from(soft).unwrap_or(most).max(1))
        }
    }
}

/// Whether it could be connected to now: it has a place to give out, and its `connect_rate` allows it. As seen just now: only a
/// claim makes sure of it.
pub(super) fn has_place(server: &Server, now_ns: u64) -> bool {
    has_place_of(server, false, now_ns)
}

/// The same, with a place by its real limit if it gives out `all` it has.
pub(super) fn has_place_of(server: &Server, all: bool, now_ns: u64) -> bool {
    is_open(server, all) && server.rate.is_none_or(|rate| server.ledger.connects.ready_ns(rate) <= now_ns)
}

/// When its `connect_rate` allows a connect again, if that is all it lacks.
pub(super) fn ready_ns(server: &Server, all: bool, now_ns: u64) -> Option<u64> {
    let ready_ns = server.ledger.connects.ready_ns(server.rate?);
    (is_open(server, all) && ready_ns > now_ns).then_some(ready_ns)
}

fn is_open(server: &Server, all: bool) -> bool {
    let places = if all { limit(server) } else { places(server) };
    places.is_none_or(|most| server.ledger.active.load(Ordering::Relaxed) < most)
}

/// Takes one of the places it gives out.
pub(super) fn claim(server: &Server, now_ns: u64) -> bool {
    claim_of(server, places(server), now_ns)
}

/// Takes a place by its real limit.
pub(super) fn claim_all(server: &Server, now_ns: u64) -> bool {
    claim_of(server, limit(server), now_ns)
}

/// Takes a place on the first server that has one by its real limit: when all else is full.
pub(super) fn overflow(pool: &Pool, caller: &Caller<'_>, backup: bool) -> Pick {
    if pool.terms.queue.limit > 0 {
        return Pick::Full;
    }
    let ramps = |server: &Server| server.backup == backup && server.ledger.warmth() < WARM;
    for (index, server) in (0u16..).zip(&pool.servers).filter(|(_, server)| ramps(server)) {
        let most = Some(server.max_connections);
        if usable(pool, index, caller.tried) && claim_of(server, most, caller.now_ns) {
            return Pick::Server(index);
        }
    }
    Pick::Full
}

/// The connect first and then the place: one that is put back makes nobody wait who would not be told.
fn claim_of(server: &Server, most: Option<u32>, now_ns: u64) -> bool {
    let ledger = &server.ledger;
    if let Some(rate) = server.rate
        && !ledger.connects.take(rate, now_ns)
    {
        return false;
    }
    let Some(most) = most else {
        ledger.active.fetch_add(1, Ordering::Relaxed);
        return true;
    };
    // Never above the limit, not even for a moment: another worker would take the server for full.
    let more = |now| (now < most).then_some(now + 1);
    let claimed = ledger.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
    if let (false, Some(rate)) = (claimed, server.rate) {
        ledger.connects.put_back(rate);
    }
    claimed
}
