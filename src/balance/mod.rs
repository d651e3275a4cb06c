//! Which server gets the next session.
//!
//! Pure: no clock, socket, lock or allocation on a pick. A pick *claims*: it counts the session into the server's
//! `active` before it answers, so that two workers cannot both take the last place; [`release`] gives the place back.
//!
//! The order of choice: servers that are no backups, by the pool's policy; a backup only when none of them is *usable*
//! (in service and not yet tried by this session). A server that is merely full is usable: its load must not spill onto a
//! standby that may be a replica of it.

use std::sync::atomic::Ordering;

use crate::base::limits::ATTEMPTS_MAX;
use crate::config::ledger::Standing;
use crate::config::plan::{Policy, Pool, Server};

/// Servers one session has tried already; at most `connect_attempts` of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    servers: [u16; ATTEMPTS_MAX],
    count: u8,
}

/// Draws from the rotation before a pick falls back to looking at every server in turn. Draws keep the shares of the
/// remaining servers right while some are out; the look-through finds the last usable one of thousands.
const DRAWS_MAX: usize = 16;

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

/// Chooses a server for a session that has tried `tried`, and claims a place on it.
pub fn pick(pool: &Pool, tried: &Tried) -> Pick {
    let chosen = match pool.policy {
        Policy::RoundRobin => round_robin(pool, tried),
    };
    match chosen {
        Pick::None => first_usable(pool, tried, true),
        chosen => chosen,
    }
}

/// Gives a claimed place back.
pub fn release(server: &Server) {
    server.ledger.active.fetch_sub(1, Ordering::Relaxed);
}

/// One atomic draw a session: over equal servers the sessions of all workers alternate exactly.
fn round_robin(pool: &Pool, tried: &Tried) -> Pick {
    let rotation = &pool.rotation;
    if rotation.is_empty() {
        return Pick::None;
    }
    let counter = if tried.count == 0 { &pool.ledger.rotation } else { &pool.ledger.retry_rotation };
    for _ in 0..DRAWS_MAX.min(rotation.len()) {
        let draw = counter.fetch_add(1, Ordering::Relaxed);
        let server = rotation[(draw % rotation.len() as u64) as usize];
        if usable(pool, server, tried) && claim(&pool.servers[usize::from(server)]) {
            return Pick::Server(server);
        }
    }
    first_usable(pool, tried, false)
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
    server.weight > 0 && server.ledger.standing() == Standing::Ready && !tried.has(index)
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
