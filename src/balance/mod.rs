//! Which server gets the next session.
//!
//! Pure: no clock, socket, lock or allocation on a pick. A pick *claims*: it counts the session into the server's
//! `active` before it answers, so that two workers cannot both take the last place; [`release`] gives the place back.
//!
//! The order of choice: servers that are no backups, by the pool's policy; a backup only when none of them is *usable*
//! (in service, not found down or ejected, and not yet tried by this session). A server that is merely full is usable: its
//! load must not spill onto a standby that may be a replica of it. Of the servers that are no backups, and of the backups,
//! those that have not been checked to an end yet come after all others. Then come those that are ejected, for a rest is no
//! proof of anything, and with `fail_open`, at the very last, those that are found down.
//!
//! | policy | chooses | shares | a pick looks at |
//! |---|---|---|---|
//! | `round-robin` | the next of the rotation | exactly as the weights | one server |
//! | `least-connections` | the least `(active + 1) / weight`, equals in turn | of sessions that live, as the weights | all servers |
//! | `random-two` | the less loaded of two weighted draws | nearly as the weights | two servers |
//! | `source-hash` | by client address: rendezvous of the servers' names | of clients, as the weights | all servers |
//! | `maglev` | by client address: the maglev table | of clients, as the weights | one server |
//! | `first` | the first of the file with room | – | those before it |
//!
//! Where a pick looks at one server or two and finds it out of service or full, it looks at more, at most at all.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::digest::digest_of_client;
use crate::base::limits::ATTEMPTS_MAX;
use crate::config::ledger::Overlook;
use crate::config::plan::{Policy, Pool, RoleWish, Server, ServerRole};

pub mod foresight;
pub mod level;
mod load;
mod roles;
mod room;
mod source;

use room::{claim, has_place, has_place_of, is_spared, overflow, ready_ns};

/// Servers one session has tried already; at most `connect_attempts` of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    servers: [u16; ATTEMPTS_MAX],
    count: u8,
    /// What a pick for it overlooks meanwhile.
    overlook: Overlook,
    /// The role a server must have; `None`: any, or none.
    role: Option<ServerRole>,
    /// Draws whether a replica that is behind is to be had this time; `None`: it is.
    lot: Option<u64>,
}

/// Draws (from the rotation, of chance, from a table) before a pick falls back to looking at every server. Draws keep the
/// shares of the remaining servers right while some are out; the look-through finds the last usable one of thousands. Also
/// how often a pick looks anew when other workers take the last place of what it chose.
const DRAWS_MAX: usize = 16;

/// Who asks for a server: what a pick goes by besides the pool.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The servers this session has tried.
    pub tried: &'a Tried,
    /// The client's address. Policies by source take all clients without one (of a unix socket) for the same client.
    pub address: Option<IpAddr>,
    /// A number nobody can foresee.
    pub random: u64,
    /// Whom it wants.
    pub wish: Option<RoleWish>,
    /// The time, for servers with `connect_rate`: nanoseconds of `CLOCK_MONOTONIC`.
    pub now_ns: u64,
}

/// What a pick came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// This server, by its index in the pool; a place on it is claimed.
    Server(u16),
    /// There are usable servers, and each has all the sessions it may have, or all the connects for now.
    Full,
    /// No server is usable.
    None,
}

impl Tried {
    /// Remembers a server.
    pub fn add(&mut self, server: u16) {
        if let Some(place) = self.servers.get_mut(usize::from(self.count)) {
            *place = server;
            self.count += 1;
        }
    }

    /// How many there are.
    pub fn count(&self) -> u8 {
        self.count
    }

    /// Which, in turn.
    pub fn servers(&self) -> &[u16] {
        &self.servers[..usize::from(self.count)]
    }

    fn has(&self, server: u16) -> bool {
        self.servers().contains(&server)
    }
}

/// Chooses a server for a session, and claims a place on it.
pub fn pick(pool: &Pool, caller: &Caller<'_>) -> Pick {
    if let Some(wish) = caller.wish {
        return roles::pick(pool, caller, wish);
    }
    match pick_of(pool, caller, false) {
        Pick::None => last_resort(pool, caller),
        chosen => chosen,
    }
}

/// From the first choice to the last resort: what is overlooked, and whether it is the backups' turn.
fn steps(pool: &Pool) -> impl Iterator<Item = (Overlook, bool)> {
    let steps = [
        (Overlook::Nothing, false),
        (Overlook::Checking, false),
        (Overlook::Nothing, true),
        (Overlook::Checking, true),
        (Overlook::Ejection, false),
        (Overlook::Ejection, true),
        (Overlook::Health, false),
        (Overlook::Health, true),
    ];
    steps.into_iter().take(if pool.care.fail_open { 8 } else { 6 })
}

/// When no server is usable of which nothing is known that speaks against it, and that is no backup.
#[cold]
fn last_resort(pool: &Pool, caller: &Caller<'_>) -> Pick {
    for (overlook, backup) in steps(pool).skip(1) {
        let tried = Tried { overlook, ..*caller.tried };
        match pick_of(pool, &Caller { tried: &tried, ..*caller }, backup) {
            Pick::None => {}
            chosen => return chosen,
        }
    }
    Pick::None
}

/// The same among the backups, or among the others.
fn pick_of(pool: &Pool, caller: &Caller<'_>, backup: bool) -> Pick {
    let client = || digest_of_client(caller.address);
    let chosen = match pool.policy {
        // Two nodes agree on the backup, too.
        policy if backup && policy.is_by_source() => source::rendezvous(pool, caller, client(), true),
        _ if backup => first_usable(pool, caller, true),
        Policy::RoundRobin => round_robin(pool, caller),
        Policy::LeastConnections => load::least_connections(pool, caller),
        Policy::RandomTwo => load::random_two(pool, caller),
        Policy::SourceHash => source::rendezvous(pool, caller, client(), false),
        Policy::Maglev => source::maglev(pool, caller, client()),
        Policy::First => first_usable(pool, caller, false),
    };
    if chosen == Pick::Full { overflow(pool, caller, backup) } else { chosen }
}

/// Gives a claimed place back. In one order with what is looked at next: see
/// [`Lines::is_waited_in`](crate::config::line::Lines::is_waited_in).
pub fn release(server: &Server) {
    server.ledger.active.fetch_sub(1, Ordering::SeqCst);
}

/// Whether any server may be given new sessions, if it has room.
pub fn is_usable(pool: &Pool) -> bool {
    let overlook = if pool.care.fail_open { Overlook::Health } else { Overlook::Ejection };
    let tried = Tried { overlook, ..Tried::default() };
    (0..).zip(&pool.servers).any(|(index, _)| usable(pool, index, &tried))
}

/// Whether a pick would find a place for somebody who has tried these servers. It looks at all servers, and claims nothing.
pub fn has_room(pool: &Pool, tried: &Tried, wish: Option<RoleWish>, now_ns: u64) -> bool {
    match wish {
        None => within_reach(pool, tried).any(|server| has_place(server, now_ns)),
        Some(wish) => roles::within_reach(pool, tried, wish).any(|(server, all)| has_place_of(server, all, now_ns)),
    }
}

/// Whether any server has a place that somebody could get who has tried others before: a backup, say.
pub fn has_any_room(pool: &Pool, wish: Option<RoleWish>, now_ns: u64) -> bool {
    match wish {
        None => any_usable(pool).any(|server| has_place(server, now_ns)),
        Some(wish) => roles::holders(pool, wish).any(|server| has_place_of(server, true, now_ns)),
    }
}

/// When there may be a place for somebody who has tried these servers, because `connect_rate` of one allows a connect again;
/// `None` when time alone brings none.
pub fn next_ns(pool: &Pool, tried: &Tried, wish: Option<RoleWish>, now_ns: u64) -> Option<u64> {
    match wish {
        None => within_reach(pool, tried).filter_map(|server| ready_ns(server, false, now_ns)).min(),
        Some(wish) => {
            roles::within_reach(pool, tried, wish).filter_map(|(server, all)| ready_ns(server, all, now_ns)).min()
        }
    }
}

/// The same for somebody who may have tried others before.
pub fn next_of_any_ns(pool: &Pool, wish: Option<RoleWish>, now_ns: u64) -> Option<u64> {
    match wish {
        None => any_usable(pool).filter_map(|server| ready_ns(server, false, now_ns)).min(),
        Some(wish) => roles::holders(pool, wish).filter_map(|server| ready_ns(server, true, now_ns)).min(),
    }
}

/// The servers that are anybody's, down or not.
fn any_usable(pool: &Pool) -> impl Iterator<Item = &Server> {
    let lenient = Tried { overlook: Overlook::Health, ..Tried::default() };
    let all = (0..).zip(&pool.servers);
    all.filter(move |(index, _)| usable(pool, *index, &lenient)).map(|(_, server)| server)
}

/// The servers such a session could get, full or not: those of the first step at which anybody is usable.
fn within_reach<'a>(pool: &'a Pool, tried: &'a Tried) -> impl Iterator<Item = &'a Server> {
    let at = move |(overlook, backup): (Overlook, bool)| {
        let tried = Tried { overlook, ..*tried };
        let all = (0..).zip(&pool.servers).filter(move |(_, server)| server.backup == backup);
        all.filter(move |(index, _)| usable(pool, *index, &tried)).map(|(_, server)| server)
    };
    let step = steps(pool).find(|step| at(*step).next().is_some());
    step.into_iter().flat_map(at)
}

/// One atomic draw a session: over equal servers the sessions of all workers alternate exactly.
fn round_robin(pool: &Pool, caller: &Caller<'_>) -> Pick {
    let rotation = &pool.rotation;
    if rotation.is_empty() {
        return Pick::None;
    }
    let counter = turns(pool, caller.tried);
    for _ in 0..DRAWS_MAX.min(rotation.len()) {
        let draw = counter.fetch_add(1, Ordering::Relaxed);
        let index = rotation[(draw % rotation.len() as u64) as usize];
        let server = &pool.servers[usize::from(index)];
        if usable(pool, index, caller.tried) && !is_spared(server, caller, draw) && claim(server, caller.now_ns) {
            return Pick::Server(index);
        }
    }
    first_usable(pool, caller, false)
}

/// What counts the turns of such a session.
fn turns<'a>(pool: &'a Pool, tried: &Tried) -> &'a AtomicU64 {
    if tried.count == 0 { &pool.ledger.rotation } else { &pool.ledger.retry_rotation }
}

/// The first server, or the first backup, that is usable and has room: one that ramps only for its share of sessions, and
/// for all when nobody else has room.
fn first_usable(pool: &Pool, caller: &Caller<'_>, backup: bool) -> Pick {
    let mut answer = Pick::None;
    let mut spared = false;
    for (index, server) in (0u16..).zip(&pool.servers) {
        if server.backup != backup || !usable(pool, index, caller.tried) {
            continue;
        }
        answer = Pick::Full;
        if is_spared(server, caller, index.into()) {
            spared = true;
        } else if claim(server, caller.now_ns) {
            return Pick::Server(index);
        }
    }
    if spared {
        let mut others = (0u16..).zip(&pool.servers).filter(|(_, server)| server.backup == backup);
        let found = others.find(|(index, server)| usable(pool, *index, caller.tried) && claim(server, caller.now_ns));
        return found.map_or(answer, |(index, _)| Pick::Server(index));
    }
    answer
}

fn usable(pool: &Pool, index: u16, tried: &Tried) -> bool {
    let server = &pool.servers[usize::from(index)];
    let serves = match tried.role {
        None => server.ledger.is_usable(tried.overlook),
        Some(role) => roles::serves(server, role, tried),
    };
    server.weight > 0 && serves && !tried.has(index)
}

/// The servers with room for this session, backups or the others.
fn candidates<'a>(pool: &'a Pool, caller: &Caller<'a>, backup: bool) -> impl Iterator<Item = (u16, &'a Server)> {
    let (tried, now_ns) = (caller.tried, caller.now_ns);
    let all = (0u16..).zip(&pool.servers).filter(move |(_, server)| server.backup == backup);
    all.filter(move |(index, server)| usable(pool, *index, tried) && has_place(server, now_ns))
}

#[cfg(test)]
mod tests;
