//! What outlives a plan: counts, statistics and the place in the rotation, keyed by identity.
//!
//! A reload compiles a new [`super::plan::Plan`]; a listener, pool or server that keeps its name keeps its ledger. The
//! [`Registry`] remembers ledgers weakly: one that neither a plan nor a live session points to is gone.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::base::bucket::Bucket;
use crate::base::counter::{Counter, Gauge, PerWorker};
use crate::base::histogram::Histogram;

use super::line::Lines;
use super::plan::{RoleWish, ServerRole};

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
    pub line: Lines,
    /// One tally a worker.
    pub tally: PerWorker<PoolTally>,
    /// Length of checks of its servers; the control thread writes it.
    pub checks: Histogram,
    /// More than one of its servers takes writes; the control thread writes it.
    pub split: AtomicBool,
    /// Times another server became primary, or none; the control thread writes it.
    pub role_changes: Counter,
}

impl PoolLedger {
    fn new(workers: usize) -> Self {
        Self {
            rotation: AtomicU64::new(0),
            retry_rotation: AtomicU64::new(0),
            line: Lines::new(workers),
            tally: PerWorker::new(workers),
            checks: Histogram::default(),
            split: AtomicBool::new(false),
            role_changes: Counter::default(),
        }
    }

    /// A copy of what a pick goes by; counts and those who wait are not in it.
    pub(super) fn shadow(&self) -> Self {
        let copy = |counter: &AtomicU64| AtomicU64::new(counter.load(Ordering::Relaxed));
        Self { rotation: copy(&self.rotation), retry_rotation: copy(&self.retry_rotation), ..Self::new(1) }
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
    /// All that a pick asks, in one word: [`Standing`] in bits 0 and 1, [`Health`] in 2 and 3, [`EJECTED`], and [`Office`]
    /// from bit 5 on.
    state: AtomicU32,
    /// How much of its weight and of its places it has now, in thousandths; see [`ServerLedger::warmth`].
    warmth: AtomicU32,
    /// How long it takes to have all of them after it came into service, in milliseconds; 0: no time.
    slow_start_ms: AtomicU32,
    /// How long it has been in service, as long as it ramps, in milliseconds.
    ramped_ms: AtomicU32,
    /// The connects its `connect_rate` leaves.
    pub connects: Bucket,
    /// Connects that failed in a row.
    failures: AtomicU32,
    /// Checks that passed, for those who tried it in vain before; it wraps around.
    proofs: AtomicU32,
    /// One tally a worker.
    pub tally: PerWorker<ServerTally>,
    /// Checks by their result; the control thread writes them.
    pub checks: [Counter; CHECK_RESULTS_MAX],
    /// Times it was ejected; the control thread writes it.
    pub ejections: Counter,
    /// For people; no worker looks at it.
    bulletin: Mutex<Bulletin>,
}

/// Room for the list of results of a check in a ledger; `health` asserts that they fit.
pub const CHECK_RESULTS_MAX: usize = 16;

/// What there is to say of a server's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bulletin {
    /// When it came into its state.
    pub since: Instant,
    /// Why it is in its state; empty when there is nothing to say.
    pub reason: String,
    /// How the last check went; empty when there was none.
    pub last_check: String,
    /// How long that took.
    pub last_took: Duration,
    /// How far it is behind its source, in seconds, where it said so when it was last asked.
    pub lag_s: Option<u32>,
    /// Why it has no role, in a pool with roles; empty when it has one.
    pub no_role: &'static str,
    /// When a check passed last, by the clock on the wall: for people and programs elsewhere.
    pub passed: Option<SystemTime>,
    /// What kind of end it came to, as in `ringway_check_total`; empty when there was none.
    pub last_result: &'static str,
    /// The HTTP status it got, when that was wrong.
    pub last_status: Option<u16>,
    /// Results in a row that speak against what is held of it.
    pub doubts: u8,
    /// Times checks found it down.
    pub falls: u64,
    /// How long it was down in all, but for the time since it went down last.
    pub down_before: Duration,
}

impl Bulletin {
    /// What was heard of it is old: nothing is known.
    pub fn forget(&mut self, reason: &str) {
        self.since = Instant::now();
        reason.clone_into(&mut self.reason);
        self.last_check.clear();
        self.lag_s = None;
        self.passed = None;
        self.last_result = "";
        self.last_status = None;
        self.doubts = 0;
    }
}

/// [`ServerLedger::warmth`] of a server that does not ramp.
pub const WARM: u32 = 1_000;

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

/// What checks say of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Health {
    /// It is not checked; it may be tried.
    Unchecked = 0,
    /// It works.
    Up = 1,
    /// No check has come to an end yet.
    Checking = 2,
    /// It does not work.
    Down = 3,
}

const STANDING: u32 = 0b11;
const HEALTH_SHIFT: u32 = 2;
const HEALTH: u32 = 0b11 << HEALTH_SHIFT;
/// Set for [`Health::Checking`] and [`Health::Down`].
const UNPROVEN: u32 = (Health::Checking as u32) << HEALTH_SHIFT;
/// Connects have failed in a row; it gets a rest.
const EJECTED: u32 = 1 << 4;

/// What a server of a pool with roles is, from bit 5 on: 1 for the primary, 2 for a replica; from bit 8 on its share.
const OFFICE: u32 = 0b11 << 5 | SHARE;
const PRIMARY: u32 = 1 << 5;
const REPLICA: u32 = 2 << 5;
const SHARE_SHIFT: u32 = 8;
const SHARE: u32 = 0x3FF << SHARE_SHIFT;

/// The whole share of a replica.
pub const SHARE_WHOLE: u16 = 1000;

/// The role a server has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Office {
    /// None, or nobody asks.
    #[default]
    None,
    /// It is the primary.
    Primary,
    /// It is a replica.
    Replica {
        /// Of its weight, in thousandths; 1 to [`SHARE_WHOLE`].
        share: u16,
    },
}

/// Whether nothing speaks against it.
fn is_in_service(state: u32) -> bool {
    state & (STANDING | UNPROVEN | EJECTED) == 0
}

/// What speaks against a server, and may be overlooked when nobody is left of whom nothing does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlook {
    /// Nothing.
    #[default]
    Nothing,
    /// That no check has come to an end yet.
    Checking,
    /// That, and that it is ejected.
    Ejection,
    /// Whatever checks and connects say; never what the operator says.
    Health,
}

impl ServerLedger {
    fn new(workers: usize) -> Self {
        Self {
            active: AtomicU32::new(0),
            state: AtomicU32::new(0),
            warmth: AtomicU32::new(WARM),
            slow_start_ms: AtomicU32::new(0),
            ramped_ms: AtomicU32::new(0),
            connects: Bucket::default(),
            failures: AtomicU32::new(0),
            proofs: AtomicU32::new(0),
            tally: PerWorker::new(workers),
            checks: Default::default(),
            ejections: Counter::default(),
            bulletin: Mutex::new(Bulletin {
                since: Instant::now(),
                reason: String::new(),
                last_check: String::new(),
                last_took: Duration::ZERO,
                lag_s: None,
                no_role: "",
                passed: None,
                last_result: "",
                last_status: None,
                doubts: 0,
                falls: 0,
                down_before: Duration::ZERO,
            }),
        }
    }

    /// A copy of what a pick goes by; counts are not in it.
    pub(super) fn shadow(&self) -> Self {
        let copy = |number: &AtomicU32| AtomicU32::new(number.load(Ordering::Relaxed));
        Self {
            active: copy(&self.active),
            state: copy(&self.state),
            warmth: copy(&self.warmth),
            connects: self.connects.copy(),
            ..Self::new(1)
        }
    }

    /// Whether it may be given new sessions by someone who overlooks so much.
    #[inline]
    pub fn is_usable(&self, overlook: Overlook) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        let is_down = state & HEALTH == (Health::Down as u32) << HEALTH_SHIFT;
        match overlook {
            Overlook::Nothing => is_in_service(state),
            Overlook::Checking => state & (STANDING | EJECTED) == 0 && !is_down,
            Overlook::Ejection => state & STANDING == 0 && !is_down,
            Overlook::Health => state & STANDING == 0,
        }
    }

    /// What the operator says of it.
    #[inline]
    pub fn standing(&self) -> Standing {
        match self.state.load(Ordering::Relaxed) & STANDING {
            0 => Standing::Ready,
            1 => Standing::Drain,
            _ => Standing::Maint,
        }
    }

    /// Changes it; the next pick sees it. One that comes into service ramps, if its pool says so. For the control thread.
    pub fn set_standing(&self, standing: Standing) {
        self.set(STANDING, standing as u32);
    }

    /// What checks say of it.
    pub fn health(&self) -> Health {
        match (self.state.load(Ordering::Relaxed) & HEALTH) >> HEALTH_SHIFT {
            0 => Health::Unchecked,
            1 => Health::Up,
            2 => Health::Checking,
            _ => Health::Down,
        }
    }

    /// Changes it; the next pick sees it. As [`ServerLedger::set_standing`].
    pub fn set_health(&self, health: Health) {
        self.set(HEALTH, (health as u32) << HEALTH_SHIFT);
    }

    /// The role it has.
    pub fn office(&self) -> Office {
        let state = self.state.load(Ordering::Relaxed);
        match state & (PRIMARY | REPLICA) {
            PRIMARY => Office::Primary,
            REPLICA => Office::Replica { share: ((state & SHARE) >> SHARE_SHIFT) as u16 },
            _ => Office::None,
        }
    }

    /// Changes it; the next pick sees it.
    pub fn set_office(&self, office: Office) {
        let bits = match office {
            Office::None => 0,
            Office::Primary => PRIMARY,
            Office::Replica { share } => REPLICA | (u32::from(share.min(SHARE_WHOLE)) << SHARE_SHIFT),
        };
        self.set(OFFICE, bits);
    }

    /// Whether it has this role.
    #[inline]
    pub fn holds(&self, role: ServerRole) -> bool {
        let bit = match role {
            ServerRole::Primary => PRIMARY,
            ServerRole::Replica => REPLICA,
        };
        self.state.load(Ordering::Relaxed) & (PRIMARY | REPLICA) == bit
    }

    /// Whether a session that wishes for such a server may be with it.
    pub fn suits(&self, wish: RoleWish) -> bool {
        self.holds(wish.role) || wish.fallback && self.holds(ServerRole::Primary)
    }

    /// Its part of its weight, in thousandths: less than [`SHARE_WHOLE`] only for a replica that is behind.
    #[inline]
    pub fn share(&self) -> u16 {
        match self.office() {
            Office::Replica { share } => share,
            Office::None | Office::Primary => SHARE_WHOLE,
        }
    }

    /// Whether it is ejected.
    pub fn is_ejected(&self) -> bool {
        self.state.load(Ordering::Relaxed) & EJECTED != 0
    }

    /// Ejects it, or lets it back in; the next pick sees it. As [`ServerLedger::set_standing`].
    pub fn set_ejected(&self, ejected: bool) {
        self.set(EJECTED, if ejected { EJECTED } else { 0 });
    }

    /// Changes the bits of `mask`, which others than their owner leave alone. One that comes into service by it ramps: it has
    /// been away, or it is new and has only now been found to work. Not so one that was there when the daemon started.
    fn set(&self, mask: u32, bits: u32) {
        let before = self.state.load(Ordering::Relaxed);
        let after = before & !mask | bits;
        if !is_in_service(before) && is_in_service(after) {
            let unproven = before & (STANDING | EJECTED) == 0 && before & HEALTH == UNPROVEN;
            if !unproven || self.warmth() < WARM {
                self.ramp();
            }
        }
        let change = |state: u32| Some(state & !mask | bits);
        // Never refused: `change` always has an answer.
        let _ = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    /// A connect to it failed through its own fault; how many in a row did.
    #[inline]
    pub fn failed(&self) -> u32 {
        self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// A connect to it worked, or it is given another chance.
    #[inline]
    pub fn forget_failures(&self) {
        // The usual case costs no write to a cache line that workers share.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Connects that failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// A check has passed: who has tried it in vain, and waits, may try again. For the control thread, which then looks for those
    /// who wait.
    pub fn prove(&self) {
        self.proofs.fetch_add(1, Ordering::SeqCst);
    }

    /// Changes with each [`ServerLedger::prove`].
    #[inline]
    pub fn proofs(&self) -> u32 {
        self.proofs.load(Ordering::SeqCst)
    }

    /// What there is to say of its health. For the control thread and observers: a worker never waits for a lock.
    pub fn bulletin(&self) -> MutexGuard<'_, Bulletin> {
        // A bulletin is text for people: half of one does no harm.
        self.bulletin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much of its weight and of its `max_connections` it has now, in thousandths: [`WARM`], or less while it ramps.
    #[inline]
    pub fn warmth(&self) -> u32 {
        self.warmth.load(Ordering::Relaxed)
    }

    /// Sets how long it takes from coming into service to a full share, in milliseconds; 0: no time. One that ramps goes on
    /// in the new time. For the control thread.
    pub fn set_slow_start(&self, slow_start_ms: u32) {
        self.slow_start_ms.store(slow_start_ms, Ordering::Relaxed);
        self.ramp_by(0);
    }

    /// It comes into service: begins to ramp, if it does. For the control thread.
    pub fn ramp(&self) {
        if self.slow_start_ms.load(Ordering::Relaxed) > 0 {
            self.ramped_ms.store(0, Ordering::Relaxed);
            self.warmth.store(1, Ordering::Relaxed);
        }
    }

    /// So many milliseconds more have passed; whether it ramps. For the control thread.
    pub fn ramp_by(&self, ms: u32) -> bool {
        if self.warmth() >= WARM {
            return false;
        }
        let ramped_ms = self.ramped_ms.load(Ordering::Relaxed).saturating_add(ms);
        self.ramped_ms.store(ramped_ms, Ordering::Relaxed);
        let whole = self.slow_start_ms.load(Ordering::Relaxed);
        let share = u64::from(ramped_ms) * u64::from(WARM) / u64::from(whole.max(1));
        let share = if whole == 0 { WARM } else { u32::try_from(share).unwrap_or(WARM).clamp(1, WARM) };
        self.warmth.store(share, Ordering::Relaxed);
        true
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
        recall(&mut self.pools, name, || PoolLedger::new(workers))
    }

    /// The ledger of a server. A server that moves to another address under the same name is another server.
    pub fn server(&mut self, pool: &str, server: &str, address: &str) -> Arc<ServerLedger> {
        let workers = self.workers;
        let identity = format!("{pool}/{server}@{address}");
        recall(&mut self.servers, &identity, || ServerLedger::new(workers))
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
    fn who_is_usable_depends_on_three_voices_and_on_what_is_overlooked() {
        let ledger = Registry::new(1).server("web", "a", "10.0.0.1:80");
        let mut answers = String::new();
        for standing in [Standing::Ready, Standing::Drain, Standing::Maint] {
            for health in [Health::Unchecked, Health::Up, Health::Checking, Health::Down] {
                for ejected in [false, true] {
                    ledger.set_ejected(ejected);
                    ledger.set_standing(standing);
                    ledger.set_health(health);
                    assert_eq!((ledger.standing(), ledger.health()), (standing, health));
                    assert_eq!(ledger.is_ejected(), ejected);
                    let usable = [Overlook::Nothing, Overlook::Checking, Overlook::Ejection, Overlook::Health]
                        .map(|overlook| ledger.is_usable(overlook));
                    let in_service = standing == Standing::Ready;
                    let proven = matches!(health, Health::Unchecked | Health::Up);
                    let hopeful = proven || health == Health::Checking;
                    let right = [proven && !ejected, hopeful && !ejected, hopeful, true].map(|yes| in_service && yes);
                    assert_eq!(usable, right, "{standing:?} {health:?} {ejected}");
                    answers.push(if usable[0] { '1' } else { '0' });
                }
            }
        }
        assert_eq!(answers, "101000000000000000000000");
    }

    #[test]
    fn a_role_is_kept_beside_all_else() {
        let ledger = Registry::new(1).server("db", "a", "10.0.0.1:3306");
        ledger.set_health(Health::Down);
        let reads = |fallback| RoleWish { role: ServerRole::Replica, fallback };
        for (office, primary, replica, fallback, share) in [
            (Office::None, false, false, false, 1000),
            (Office::Primary, true, false, true, 1000),
            (Office::Replica { share: 1000 }, false, true, true, 1000),
            (Office::Replica { share: 1 }, false, true, true, 1),
        ] {
            ledger.set_office(office);
            assert_eq!((ledger.office(), ledger.share(), ledger.health()), (office, share, Health::Down));
            let held = [ServerRole::Primary, ServerRole::Replica].map(|role| ledger.holds(role));
            assert_eq!(held, [primary, replica]);
            assert_eq!((ledger.suits(reads(false)), ledger.suits(reads(true))), (replica, fallback));
        }
        ledger.set_health(Health::Up);
        assert_eq!(ledger.office(), Office::Replica { share: 1 });
    }

    #[test]
    fn failures_count_in_a_row() {
        let ledger = Registry::new(1).server("web", "a", "10.0.0.1:80");
        assert_eq!((ledger.failed(), ledger.failed()), (1, 2));
        ledger.forget_failures();
        assert_eq!((ledger.failures(), ledger.failed()), (0, 1));
    }

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
