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

mod load;
mod roles;
mod source;

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
}

/// What a pick came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// This server, by its index in the pool; a place on it is claimed.
    Server(u16),
    /// There are usable servers, and each has all the sessions it may have.
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

    fn has(&self, server: u16) -> bool {
        self.servers[..usize::from(self.count)].contains(&server)
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
    let tried = caller.tried;
    match pool.policy {
        // Two nodes agree on the backup, too.
        policy if backup && policy.is_by_source() => {
            source::rendezvous(pool, tried, digest_of_client(caller.address), true)
        }
        _ if backup => first_usable(pool, tried, true),
        Policy::RoundRobin => round_robin(pool, tried),
        Policy::LeastConnections => load::least_connections(pool, tried),
        Policy::RandomTwo => load::random_two(pool, tried, caller.random),
        Policy::SourceHash => source::rendezvous(pool, tried, digest_of_client(caller.address), false),
        Policy::Maglev => source::maglev(pool, tried, digest_of_client(caller.address)),
        Policy::First => first_usable(pool, tried, false),
    }
}

/// Gives a claimed place back. In one order with what is looked at next: see
/// [`Line::is_waited_in`](crate::config::ledger::Line::is_waited_in).
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
pub fn has_room(pool: &Pool, tried: &Tried) -> bool {
    for (overlook, backup) in steps(pool) {
        let tried = Tried { overlook, ..*tried };
        let all = (0..).zip(&pool.servers).filter(|(_, server)| server.backup == backup);
        let mut group = all.filter(|(index, _)| usable(pool, *index, &tried)).peekable();
        if group.peek().is_some() {
            return group.any(|(_, server)| has_place(server));
        }
    }
    false
}

/// One atomic draw a session: over equal servers the sessions of all workers alternate exactly.
fn round_robin(pool: &Pool, tried: &Tried) -> Pick {
    let rotation = &pool.rotation;
    if rotation.is_empty() {
        return Pick::None;
    }
    let counter = turns(pool, tried);
    for _ in 0..DRAWS_MAX.min(rotation.len()) {
        let draw = counter.fetch_add(1, Ordering::Relaxed);
        let server = rotation[(draw % rotation.len() as u64) as usize];
        if usable(pool, server, tried) && claim(&pool.servers[usize::from(server)]) {
            return Pick::Server(server);
        }
    }
    first_usable(pool, tried, false)
}

/// What counts the turns of such a session.
fn turns<'a>(pool: &'a Pool, tried: &Tried) -> &'a AtomicU64 {
    if tried.count == 0 { &pool.ledger.rotation } else { &pool.ledger.retry_rotation }
}

/// The first server, or the first backup, that is usable and has room.
fn first_usable(pool: &Pool, tried: &Tried, backup: bool) -> Pick {
    let mut answer = Pick::None;
    for (index, server) in (0u16..).zip(&pool.servers) {
        if server.backup != backup || !usable(pool, index, tried) {
            continue;
        }
        if claim(server) {
            return Pick::Server(index);
        }
        answer = Pick::Full;
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
fn candidates<'a>(pool: &'a Pool, tried: &'a Tried, backup: bool) -> impl Iterator<Item = (u16, &'a Server)> {
    let all = (0u16..).zip(&pool.servers);
    all.filter(move |(index, server)| server.backup == backup && usable(pool, *index, tried) && has_place(server))
}

/// As seen just now: only a claim makes sure of it.
fn has_place(server: &Server) -> bool {
    server.max_connections == 0 || server.ledger.active.load(Ordering::Relaxed) < server.max_connections
}

fn claim(server: &Server) -> bool {
    let active = &server.ledger.active;
    if server.max_connections == 0 {
        active.fetch_add(1, Ordering::Relaxed);
        return true;
    }
    // Never above the limit, not even for a moment: another worker would take the server for full.
    active
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < server.max_connections).then_some(now + 1))
        .is_ok()
}

#[cfg(test)]
mod tests;
