//! What metrics and status are read from: the commons of the workers, and what the conductor says of itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::base::limits::CHANGES_MAX;
use crate::dataplane::commons::Commons;

use super::event::unix_ns;
use super::history::History;
use super::writer::LogTally;

/// Everything an observer looks at. The conductor writes, anybody reads.
#[derive(Debug)]
pub struct Panel {
    /// What the workers share.
    pub commons: Arc<Commons>,
    /// What drives the workers.
    pub engine: EngineChoice,
    /// When the daemon started.
    pub started: SystemTime,
    /// How reloads went.
    pub reloads: ReloadTally,
    /// What the log lost, and was told last.
    pub log: Arc<LogTally>,
    /// What led here; nobody but the admin server adds to it.
    history: Mutex<History>,
    /// True from the first TERM on: `/readyz` says no.
    draining: AtomicBool,
    /// An operator wants traffic to go elsewhere: `/readyz` says no, and whoever comes all the same is served.
    aside: AtomicBool,
}

/// What drives the workers, and why that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineChoice {
    /// `io_uring` or `epoll`.
    pub name: &'static str,
    /// One word: `configured`, `preferred`, or why io_uring was refused (`sysctl`, `seccomp`, `kernel` …).
    pub reason: &'static str,
}

/// How reloads went; the start counts as the first.
#[derive(Debug)]
pub struct ReloadTally {
    successful: AtomicBool,
    applied_unix_ns: AtomicU64,
    applied: AtomicU64,
    refused: AtomicU64,
    last: Mutex<Option<LastReload>>,
}

/// What became of the last reload, as far as anybody may know: without what may hold a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastReload {
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Whether the new configuration came into force.
    pub applied: bool,
    /// The one in force since then.
    pub generation: u64,
    /// What changed, or where what was refused is wrong; one line each.
    pub lines: Vec<String>,
    /// Lines that are not shown.
    pub more: u64,
}

impl LastReload {
    /// One that ended now with so many lines.
    pub fn now(applied: bool, generation: u64, mut lines: Vec<String>) -> Self {
        let more = lines.len().saturating_sub(CHANGES_MAX) as u64;
        lines.truncate(CHANGES_MAX);
        Self { unix_ms: unix_ns(SystemTime::now()) / 1_000_000, applied, generation, lines, more }
    }
}

impl Panel {
    /// A panel for a daemon that starts now.
    pub fn new(commons: Arc<Commons>, engine: EngineChoice, log: Arc<LogTally>) -> Self {
        let started = SystemTime::now();
        Self {
            commons,
            engine,
            started,
            reloads: ReloadTally {
                successful: AtomicBool::new(true),
                applied_unix_ns: AtomicU64::new(unix_ns(started)),
                applied: AtomicU64::new(0),
                refused: AtomicU64::new(0),
                last: Mutex::default(),
            },
            log,
            history: Mutex::default(),
            draining: AtomicBool::new(false),
            aside: AtomicBool::new(false),
        }
    }

    /// What led here.
    pub fn history(&self) -> MutexGuard<'_, History> {
        // A history that somebody left in the middle of a change lacks a sample, no more.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the start.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed().unwrap_or_default()
    }

    /// Whether the daemon is on its way out.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether traffic should come here.
    pub fn is_ready(&self) -> bool {
        !self.is_draining() && !self.aside.load(Ordering::Relaxed)
    }

    /// Whether traffic should come here, as far as an operator has a say; what was said before.
    pub fn set_ready(&self, ready: bool) -> bool {
        !self.aside.swap(!ready, Ordering::Relaxed)
    }

    /// From now on the daemon is on its way out.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

impl ReloadTally {
    /// What became of the last one; `None` when there was none since the start.
    pub fn last(&self) -> Option<LastReload> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers what became of one.
    pub fn remember(&self, reload: LastReload) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(reload);
    }

    /// A new plan is in force.
    pub fn applied(&self) {
        self.applied.fetch_add(1, Ordering::Relaxed);
        self.applied_unix_ns.store(unix_ns(SystemTime::now()), Ordering::Relaxed);
        self.successful.store(true, Ordering::Relaxed);
    }

    /// A file was refused; the old plan stays.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.successful.store(false, Ordering::Relaxed);
    }

    /// Whether the last file was accepted.
    pub fn last_was_successful(&self) -> bool {
        self.successful.load(Ordering::Relaxed)
    }

    /// When the plan in force came into force, in seconds since 1970.
    pub fn applied_unix_s(&self) -> f64 {
        let millis = self.applied_unix_ns.load(Ordering::Relaxed) / 1_000_000;
        Duration::from_millis(millis).as_secs_f64()
    }

    /// How many were applied and how many refused.
    pub fn counts(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.applied), read(&self.refused))
    }
}

/// A small plan and a panel on it, for the tests of this room and of `control`.
#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::ledger::Registry;
    use crate::config::plan::*;
    use crate::dataplane::commons::Scene;

    fn server(registry: &mut Registry, name: &str, address: &str) -> Server {
        let address: std::net::SocketAddr = address.parse().expect("an address");
        Server {
            name: name.into(),
            key: 0,
            address: Address::Inet(address),
            sockaddr: address.into(),
            weight: 1,
            weight_in_file: 1,
            standing: crate::config::ledger::Standing::Ready,
            max_connections: 0,
            connect_rate: None,
            rate: None,
            backup: false,
            ledger: registry.server("web", name, &address.to_string()),
        }
    }

    /// One listener, one pool, two servers, two workers.
    pub(crate) fn plan() -> Plan {
        let mut registry = Registry::new(2);
        let pool = Arc::new(Pool {
            name: "web".into(),
            kind: Kind::Tcp,
            policy: Policy::RoundRobin,
            servers: vec![server(&mut registry, "web1", "10.0.0.21:80"), server(&mut registry, "web2", "10.0.0.22:80")],
            rotation: vec![0, 1],
            table: Vec::new(),
            terms: Terms {
                send_proxy: None,
                connect_ms: 3_000,
                connect_attempts: 3,
                idle_ms: 300_000,
                half_close_ms: 30_000,
                lifetime_ms: 0,
                sources: Vec::new(),
                keepalive: None,
                user_timeout_ms: 0,
                queue: Queue { limit: 0, timeout_ms: 5_000 },
            },
            care: Care::default(),
            is_paced: false,
            slow_start_ms: 0,
            ledger: registry.pool("web"),
        });
        let listener = Listener {
            role: None,
            name: "web".into(),
            binds: vec![Address::Inet("127.0.0.1:8080".parse().expect("an address"))],
            pool: Arc::clone(&pool),
            ledger: registry.listener("web"),
        };
        Plan {
            generation: 1,
            global: Global {
                workers: Workers::Count(2),
                engine: Engine::Auto,
                max_connections: None,
                user: None,
                group: None,
                drain_ms: 30_000,
                state_dir: None,
            },
            log: Log { target: LogTarget::Stdout, format: LogFormat::Json, access: true },
            admin: Admin { socket: None, http: None, haproxy_socket: None },
            listeners: vec![Arc::new(listener)],
            pools: vec![pool],
        }
    }

    /// A panel on [`plan`] without doors.
    pub(crate) fn panel() -> Arc<Panel> {
        let scene = Scene { plan: Arc::new(plan()), doors: Vec::new() };
        let engine = EngineChoice { name: "io_uring", reason: "preferred" };
        let commons = Arc::new(Commons::new(2, scene, 1_000));
        Arc::new(Panel::new(commons, engine, Arc::default()))
    }
}
