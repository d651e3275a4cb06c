//! What outlives a plan: counts, statistics and the place in the rotation, keyed by identity.
//!
//! A reload compiles a new [`super::plan::Plan`]; a listener, pool or server that keeps its name keeps its ledger. The
//! [`Registry`] remembers ledgers weakly: one that neither a plan nor a live session points to is gone.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crossbeam::utils::CachePadded;

use serde::{Deserialize, Serialize};

use crate::base::counter::{Counter, Gauge, PerWorker};
use crate::base::histogram::Histogram;

/// Statistics of one listener, kept by its name.
#[derive(Debug)]
pub struct ListenerLedger {
    /// One tally a worker.
    pub tally: PerWorker<ListenerTally>,
}

/// What one worker counted for one listener.
#[derive(Debug, Default)]
pub struct ListenerTally {
    /// Connections taken from the accept queue, refused ones too.
    pub accepted: Counter,
    /// Sessions opened by this worker; a connection handed to another worker is opened there. Those not yet in `ended` live.
    pub opened: Counter,
    /// Ended sessions by `Ending as usize`.
    pub ended: [Counter; ENDINGS_MAX],
    /// Connections refused before they became a session, by `Refusal as usize`.
    pub rejected: [Counter; REFUSALS_MAX],
    /// Bytes from client to server.
    pub bytes_in: Counter,
    /// Bytes from server to client.
    pub bytes_out: Counter,
}

/// Room for the list of endings in a tally; `dataplane::ending` asserts that they fit.
pub const ENDINGS_MAX: usize = 32;
/// Room for the list of refusals in a tally.
pub const REFUSALS_MAX: usize = 8;

/// Statistics and rotation of one pool, kept by its name.
#[derive(Debug)]
pub struct PoolLedger {
    /// The round-robin counter: one for all workers, so that alternation is exact across them.
    pub rotation: AtomicU64,
    /// The same for sessions whose first server failed: with one counter for both, two servers of which one is down
    /// would have every session begin at the dead one.
    pub retry_rotation: AtomicU64,
    /// Who waits for a place.
    pub line: Line,
    /// One tally a worker.
    pub tally: PerWorker<PoolTally>,
}

/// Sessions that wait for a place on a server of a pool, over all workers.
#[derive(Debug)]
pub struct Line {
    /// How many wait. Read at the end of every session, so it has a cache line that is quiet as long as nobody waits.
    waiting: CachePadded<AtomicU32>,
    /// By worker: since when the first waits there, in nanoseconds of `CLOCK_MONOTONIC`; 0: nobody does.
    since_ns: PerWorker<AtomicU64>,
}

impl Line {
    fn new(workers: usize) -> Self {
        Self { waiting: CachePadded::new(AtomicU32::new(0)), since_ns: PerWorker::new(workers) }
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether anybody waits. In one order with [`Line::enter`] and with the release of a place: of a session that joins and
    /// then looks for room, and a worker that makes room and then looks here, one sees the other.
    #[inline]
    pub fn is_waited_in(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// One more waits; false if `limit` do already.
    pub fn enter(&self, limit: u32) -> bool {
        let more = |now| (now < limit).then_some(now + 1);
        self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// One waits no longer. Once for each [`Line::enter`] that let one in.
    pub fn leave(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Says since when the first waits on `worker`; 0 when nobody does.
    pub fn publish(&self, worker: usize, since_ns: u64) {
        self.since_ns.of(worker).store(since_ns, Ordering::SeqCst);
    }

    /// By worker, since when the first waits there; 0 where nobody does.
    pub fn since_ns(&self) -> impl Iterator<Item = u64> {
        self.since_ns.iter().map(|since_ns| since_ns.load(Ordering::SeqCst))
    }
}

/// What one worker counted for one pool.
#[derive(Debug, Default)]
pub struct PoolTally {
    /// Sessions that live.
    pub sessions: Gauge,
    /// Connects that were tried again on another server.
    pub retries: Counter,
    /// Sessions that began to wait for a place.
    pub queued: Counter,
    /// Sessions that found the queue full.
    pub queue_full: Counter,
    /// Sessions that waited in vain.
    pub queue_timeouts: Counter,
    /// Time sessions waited for a place, however it ended.
    pub queue: Histogram,
    /// Time from the pick of a server to its connection.
    pub connect: Histogram,
    /// Time from accept to the first byte from the server.
    pub first_byte: Histogram,
    /// Length of sessions.
    pub session: Histogram,
}

/// Counts of one server, kept by `pool/server` and its address.
#[derive(Debug)]
pub struct ServerLedger {
    /// Sessions connected or connecting now, over all workers; `max_connections` looks at it.
    pub active: AtomicU32,
    /// What an operator (or, later, a health check) says of it: [`Standing`] as u32.
    standing: AtomicU32,
    /// One tally a worker.
    pub tally: PerWorker<ServerTally>,
}

/// What one worker counted for one server.
#[derive(Debug, Default)]
pub struct ServerTally {
    /// Connects by `ConnectResult as usize`.
    pub connects: [Counter; CONNECT_RESULTS_MAX],
    /// Greetings that were none, by `GreetingError as usize`; of servers of `kind = "mysql"`.
    pub greetings: [Counter; GREETING_ERRORS_MAX],
    /// Bytes from client to server.
    pub bytes_in: Counter,
    /// Bytes from server to client.
    pub bytes_out: Counter,
}

/// Room for the list of connect results in a tally.
pub const CONNECT_RESULTS_MAX: usize = 8;

/// Room for the list of greeting errors in a tally.
pub const GREETING_ERRORS_MAX: usize = 8;

/// Whether a server may be given new sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u32)]
pub enum Standing {
    /// Takes sessions; no check has said anything of it yet.
    Ready = 0,
    /// Keeps its sessions, gets no new ones.
    Drain = 1,
    /// Out of service.
    Maint = 2,
}

impl Standing {
    /// The word in the API and on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Standing::Ready => "ready",
            Standing::Drain => "drain",
            Standing::Maint => "maint",
        }
    }
}

impl ServerLedger {
    /// Whether it may be given new sessions.
    #[inline]
    pub fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Relaxed) {
            0 => Standing::Ready,
            1 => Standing::Drain,
            _ => Standing::Maint,
        }
    }

    /// Changes it; the next pick sees it.
    pub fn set_standing(&self, standing: Standing) {
        self.standing.store(standing as u32, Ordering::Relaxed);
    }
}

/// All ledgers that are alive, by identity. Lives on the control thread, in whoever compiles plans.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    listeners: HashMap<String, Weak<ListenerLedger>>,
    pools: HashMap<String, Weak<PoolLedger>>,
    servers: HashMap<String, Weak<ServerLedger>>,
}

impl Registry {
    /// An empty registry whose ledgers have one tally for each of `workers`.
    pub fn new(workers: usize) -> Self {
        Self { workers, listeners: HashMap::new(), pools: HashMap::new(), servers: HashMap::new() }
    }

    /// How many tallies each ledger has.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The ledger of listener `name`: the living one, or a new one.
    pub fn listener(&mut self, name: &str) -> Arc<ListenerLedger> {
        let workers = self.workers;
        recall(&mut self.listeners, name, || ListenerLedger { tally: PerWorker::new(workers) })
    }

    /// The ledger of pool `name`.
    pub fn pool(&mut self, name: &str) -> Arc<PoolLedger> {
        let workers = self.workers;
        recall(&mut self.pools, name, || PoolLedger {
            rotation: AtomicU64::new(0),
            retry_rotation: AtomicU64::new(0),
            line: Line::new(workers),
            tally: PerWorker::new(workers),
        })
    }

    /// The ledger of a server. A server that moves to another address under the same name is another server.
    pub fn server(&mut self, pool: &str, server: &str, address: &str) -> Arc<ServerLedger> {
        let workers = self.workers;
        let identity = format!("{pool}/{server}@{address}");
        recall(&mut self.servers, &identity, || ServerLedger {
            active: AtomicU32::new(0),
            standing: AtomicU32::new(Standing::Ready as u32),
            tally: PerWorker::new(workers),
        })
    }

    /// Forgets names whose ledgers are gone. Call it after each reload: it bounds the maps by what is alive.
    pub fn sweep(&mut self) {
        self.listeners.retain(|_, ledger| ledger.strong_count() > 0);
        self.pools.retain(|_, ledger| ledger.strong_count() > 0);
        self.servers.retain(|_, ledger| ledger.strong_count() > 0);
    }
}

fn recall<T>(map: &mut HashMap<String, Weak<T>>, key: &str, make: impl FnOnce() -> T) -> Arc<T> {
    if let Some(living) = map.get(key).and_then(Weak::upgrade) {
        return living;
    }
    let fresh = Arc::new(make());
    map.insert(key.to_owned(), Arc::downgrade(&fresh));
    fresh
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_ledger_while_anyone_holds_it() {
        let mut registry = Registry::new(2);
        let first = registry.server("web", "a", "10.0.0.1:80");
        first.active.store(7, Ordering::Relaxed);
        let again = registry.server("web", "a", "10.0.0.1:80");
        assert!(Arc::ptr_eq(&first, &again));
        let moved = registry.server("web", "a", "10.0.0.2:80");
        assert!(!Arc::ptr_eq(&first, &moved));
        drop((first, again, moved));
        registry.sweep();
        assert!(registry.servers.is_empty());
        let fresh = registry.server("web", "a", "10.0.0.1:80");
        assert_eq!(fresh.active.load(Ordering::Relaxed), 0);
    }
}
