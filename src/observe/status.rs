//! `/v1/status`: the daemon at a glance, as JSON for programs and as a table for people.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::histogram::{BOUNDS_US, Histogram};
use crate::base::words::many;
use crate::config::ledger::PoolTally;
use crate::config::plan::{Listener, Pool, Server};
use crate::dataplane::ending::{ConnectResult, Ending};

use super::history::{Buckets, History, failures, rejected};
use super::metrics::{merged, role, sessions_open, state};
use super::panel::Panel;
use super::process::usage;

/// Everything `ringway status` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version that runs.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// `running`, or `draining` while traffic should go elsewhere.
    pub state: String,
    /// `io_uring` or `epoll`.
    pub engine: String,
    /// Why that engine.
    pub engine_reason: String,
    /// Seconds since the start.
    pub uptime_s: f64,
    /// The configuration in force.
    pub config: ConfigStatus,
    /// Sessions open now.
    pub sessions: u64,
    /// Most sessions at once.
    pub max_connections: u64,
    /// Descriptors in use, in the fullest table: each worker has one of its own.
    pub descriptors: u64,
    /// Descriptors there may be in a table.
    pub descriptors_max: u64,
    /// Records and events the log lost.
    pub log_dropped: u64,
    /// In order.
    pub workers: Vec<WorkerStatus>,
    /// In order of their names.
    pub listeners: Vec<ListenerStatus>,
    /// In order of their names.
    pub pools: Vec<PoolStatus>,
}

/// The configuration in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// Counts up with each configuration that came into force.
    pub generation: u64,
    /// False when the file that was read last was refused.
    pub last_reload_successful: bool,
    /// When it came into force, in seconds since 1970.
    pub applied_unix_s: f64,
    /// Reloads that were applied.
    pub reloads_applied: u64,
    /// Reloads that were refused.
    pub reloads_refused: u64,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its number.
    pub index: u64,
    /// Sessions it has now.
    pub sessions: u64,
    /// Connections it handed to a less loaded worker.
    pub handed_over: u64,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub binds: Vec<String>,
    /// Where its sessions go.
    pub pool: String,
    /// Sessions open now.
    pub sessions: u64,
    /// Connections accepted, refused ones too.
    pub accepted: u64,
    /// Connections refused before they became a session.
    pub rejected: u64,
    /// Bytes from clients to servers.
    pub bytes_in: u64,
    /// Bytes from servers to clients.
    pub bytes_out: u64,
    /// Sessions that failed, and connections that were refused.
    #[serde(default)]
    pub failed: u64,
    /// Ended sessions by reason; reasons that never came are left out.
    pub ended: BTreeMap<String, u64>,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// How a server is chosen.
    pub policy: String,
    /// Connects tried again on another server.
    pub retries: u64,
    /// Sessions that wait for a place on a server.
    pub waiting: u64,
    /// From the choice of a server to its connection.
    pub connect: Latency,
    /// From accept to the server's first byte.
    pub first_byte: Latency,
    /// Length of sessions.
    pub session: Latency,
    /// As `connect`, of the last minute alone.
    #[serde(default)]
    pub connect_lately: Latency,
    /// As `first_byte`, of the last minute alone.
    #[serde(default)]
    pub first_byte_lately: Latency,
    /// In the order of the file.
    pub servers: Vec<ServerStatus>,
}

/// A distribution of durations, since the start unless it says otherwise, estimated from buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// The median, in microseconds; `null` when there are none.
    pub p50_us: Option<u64>,
    /// 99 of 100 are not longer, in microseconds.
    pub p99_us: Option<u64>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: String,
    /// One of the states in the metrics.
    pub state: String,
    /// Its share.
    pub weight: u64,
    /// Used only when no other is usable.
    pub backup: bool,
    /// Sessions connected or connecting now.
    pub sessions: u64,
    /// Most sessions at once; 0 is no limit.
    pub max_connections: u64,
    /// Connects that succeeded.
    pub connects: u64,
    /// Connects that failed.
    pub connects_failed: u64,
    /// Bytes from clients to it.
    pub bytes_in: u64,
    /// Bytes from it to clients.
    pub bytes_out: u64,
    /// Why it is in its state, where there is something to say.
    #[serde(default)]
    pub reason: String,
    /// How long it has been in it, in seconds.
    #[serde(default)]
    pub since_s: f64,
    /// How its last check came out; empty when there was none.
    #[serde(default)]
    pub last_check: String,
    /// How long that took, in microseconds.
    #[serde(default)]
    pub last_check_us: u64,
    /// Times it was ejected.
    #[serde(default)]
    pub ejections: u64,
    /// `primary`, `replica` or `none`; empty in a pool without roles.
    #[serde(default)]
    pub role: String,
    /// Why that is `none`, where there is something to say.
    #[serde(default)]
    pub role_reason: String,
    /// How far a replica was behind when it was last asked, in seconds; `null` where that is not known.
    #[serde(default)]
    pub lag_s: Option<u32>,
}

/// Reads the panel.
pub fn status(panel: &Panel) -> Status {
    let scene = panel.commons.scene.load_full();
    let desks = &panel.commons.desks;
    let usage = usage(panel.commons.workers());
    let (reloads_applied, reloads_refused) = panel.reloads.counts();
    let dropped: u64 = desks.iter().map(|desk| desk.tally.records_dropped.read()).sum();
    let history = panel.history();
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        state: if panel.is_ready() { "running" } else { "draining" }.into(),
        engine: panel.engine.name.into(),
        engine_reason: panel.engine.reason.into(),
        uptime_s: panel.uptime().as_secs_f64(),
        config: ConfigStatus {
            generation: scene.plan.generation,
            last_reload_successful: panel.reloads.last_was_successful(),
            applied_unix_s: panel.reloads.applied_unix_s(),
            reloads_applied,
            reloads_refused,
        },
        sessions: panel.commons.sessions().into(),
        max_connections: panel.commons.max_connections.load(Ordering::Relaxed).into(),
        descriptors: usage.descriptors,
        descriptors_max: usage.descriptors_max,
        log_dropped: dropped + panel.log.events_dropped(),
        workers: desks
            .iter()
            .enumerate()
            .map(|(index, desk)| WorkerStatus {
                index: index as u64,
                sessions: desk.sessions.load(Ordering::Relaxed).into(),
                handed_over: desk.tally.handed_over.read(),
            })
            .collect(),
        listeners: scene.plan.listeners.iter().map(|l| listener(l)).collect(),
        pools: scene.plan.pools.iter().map(|p| pool(p, &history)).collect(),
    }
}

fn listener(listener: &Listener) -> ListenerStatus {
    let tally = &listener.ledger.tally;
    let ended = |why: Ending| tally.sum(|t| t.ended[why as usize].read());
    ListenerStatus {
        name: listener.name.to_string(),
        binds: listener.binds.iter().map(ToString::to_string).collect(),
        pool: listener.pool.name.to_string(),
        sessions: sessions_open(listener),
        accepted: tally.sum(|t| t.accepted.read()),
        rejected: rejected(listener),
        bytes_in: tally.sum(|t| t.bytes_in.read()),
        bytes_out: tally.sum(|t| t.bytes_out.read()),
        failed: failures(listener),
        ended: Ending::ALL
            .into_iter()
            .map(|why| (why.reason().to_owned(), ended(why)))
            .filter(|(_, count)| *count > 0)
            .collect(),
    }
}

fn pool(pool: &Pool, history: &History) -> PoolStatus {
    let (connect_lately, first_byte_lately) = history.lately(pool);
    let has_roles = pool.care.check.as_ref().is_some_and(|check| check.roles.is_some());
    PoolStatus {
        name: pool.name.to_string(),
        policy: pool.policy.name().into(),
        retries: pool.ledger.tally.sum(|t| t.retries.read()),
        waiting: pool.ledger.line.waiting().into(),
        connect: latency(pool, |tally| &tally.connect),
        first_byte: latency(pool, |tally| &tally.first_byte),
        session: latency(pool, |tally| &tally.session),
        connect_lately,
        first_byte_lately,
        servers: pool.servers.iter().map(|s| server(s, has_roles)).collect(),
    }
}

fn server(server: &Server, has_roles: bool) -> ServerStatus {
    let tally = &server.ledger.tally;
    let connects = |result: ConnectResult| tally.sum(|t| t.connects[result as usize].read());
    let ok = connects(ConnectResult::Ok);
    let bulletin = server.ledger.bulletin().clone();
    ServerStatus {
        name: server.name.to_string(),
        address: server.address.to_string(),
        state: state(server).into(),
        weight: server.weight.into(),
        backup: server.backup,
        sessions: server.ledger.active.load(Ordering::Relaxed).into(),
        max_connections: server.max_connections.into(),
        connects: ok,
        connects_failed: ConnectResult::ALL.into_iter().map(connects).sum::<u64>() - ok,
        bytes_in: tally.sum(|t| t.bytes_in.read()),
        bytes_out: tally.sum(|t| t.bytes_out.read()),
        reason: bulletin.reason,
        since_s: bulletin.since.elapsed().as_secs_f64(),
        last_check: bulletin.last_check,
        last_check_us: u64::try_from(bulletin.last_took.as_micros()).unwrap_or(u64::MAX),
        ejections: server.ledger.ejections.read(),
        role: if has_roles { role(server).into() } else { String::new() },
        role_reason: bulletin.no_role.into(),
        lag_s: bulletin.lag_s.filter(|_| has_roles),
    }
}

fn latency<'p>(pool: &'p Pool, figure: impl Fn(&'p PoolTally) -> &'p Histogram) -> Latency {
    latency_of(&merged(&pool.ledger, figure).0)
}

/// What a distribution comes to.
pub(super) fn latency_of(counts: &Buckets) -> Latency {
    Latency { count: counts.iter().sum(), p50_us: quantile(counts, 0.5), p99_us: quantile(counts, 0.99) }
}

/// The duration that a share of all do not exceed, taking those of a bucket as spread evenly. What lies in the last bucket
/// counts as its lower bound.
fn quantile(counts: &Buckets, share: f64) -> Option<u64> {
    let total: u64 = counts.iter().sum();
    let rank = total as f64 * share;
    let (mut below, mut lower) = (0, 0);
    for (bucket, &count) in counts.iter().enumerate() {
        if count > 0 && (below + count) as f64 >= rank {
            let Some(&upper) = BOUNDS_US.get(bucket) else {
                return Some(lower);
            };
            let part = (rank - below as f64) / count as f64;
            return Some(lower + ((upper - lower) as f64 * part) as u64);
        }
        below += count;
        lower = BOUNDS_US.get(bucket).copied().unwrap_or(lower);
    }
    None
}

impl Status {
    /// The table that `ringway status` prints.
    pub fn table(&self) -> String {
        let mut out = self.heading();
        let rate = |count: u64| format!("{:.1}", count as f64 / self.uptime_s.max(0.001));
        let mut listeners =
            Table::new(&["LISTENER", "BIND", "POOL"], &["SESSIONS", "ACCEPTED", "/S", "REFUSED", "IN", "OUT"]);
        for l in &self.listeners {
            let mut texts = vec![l.name.clone(), l.binds.first().cloned().unwrap_or_default(), l.pool.clone()];
            let figures = [l.sessions.to_string(), l.accepted.to_string(), rate(l.accepted), l.rejected.to_string()];
            texts.extend(figures.into_iter().chain([bytes(l.bytes_in), bytes(l.bytes_out)]));
            listeners.row(texts);
            for bind in l.binds.iter().skip(1) {
                listeners.row(vec![String::new(), bind.clone()]);
            }
        }
        listeners.write(&mut out);
        out.push('\n');
        let mut servers = Table::new(
            &["POOL", "SERVER", "ADDRESS", "STATE"],
            &["WEIGHT", "SESSIONS", "CONNECTS", "/S", "FAILED", "IN", "OUT"],
        );
        for pool in &self.pools {
            for (i, s) in pool.servers.iter().enumerate() {
                let first = if i == 0 { pool.name.clone() } else { String::new() };
                let role = Some(s.role.clone()).filter(|role| !role.is_empty());
                let lag = s.lag_s.filter(|lag_s| *lag_s > 0).map(|lag_s| format!("{lag_s} s behind"));
                let backup = s.backup.then(|| "backup".to_owned());
                let notes: Vec<String> = role.into_iter().chain(lag).chain(backup).collect();
                let state = match notes.as_slice() {
                    [] => s.state.clone(),
                    notes => format!("{} ({})", s.state, notes.join(", ")),
                };
                let sessions = match s.max_connections {
                    0 => s.sessions.to_string(),
                    max => format!("{}/{max}", s.sessions),
                };
                let figures = [s.weight.to_string(), sessions, s.connects.to_string(), rate(s.connects)];
                let mut row = vec![first, s.name.clone(), s.address.clone(), state];
                row.extend(figures);
                row.extend([s.connects_failed.to_string(), bytes(s.bytes_in), bytes(s.bytes_out)]);
                servers.row(row);
            }
        }
        servers.write(&mut out);
        self.troubles(&mut out);
        out.push('\n');
        self.latencies(&mut out);
        out
    }

    fn heading(&self) -> String {
        let uptime = duration(Duration::from_secs_f64(self.uptime_s.max(0.0)));
        let workers = self.workers.len();
        let mut out = format!(
            "ringway {} (pid {}) {} for {uptime}: {}, {}, configuration {}\n",
            self.version,
            self.pid,
            self.state,
            self.engine(),
            many(workers, "worker"),
            self.config.generation
        );
        let _ = writeln!(
            out,
            "{} sessions of {}, {} descriptors of {}",
            self.sessions, self.max_connections, self.descriptors, self.descriptors_max
        );
        if !self.config.last_reload_successful {
            out.push_str("! the last configuration was refused; the one before it goes on (see the log)\n");
        }
        if self.log_dropped > 0 {
            let _ = writeln!(out, "! {} log lines were dropped", self.log_dropped);
        }
        out.push('\n');
        out
    }

    /// Why servers are not up, or have no role, one line each.
    fn troubles(&self, out: &mut String) {
        for pool in &self.pools {
            for s in &pool.servers {
                if s.state != "up" && !s.reason.is_empty() {
                    let since = duration(Duration::from_secs_f64(s.since_s.max(0.0)));
                    let _ = writeln!(out, "! {}/{} is {} for {since}: {}", pool.name, s.name, s.state, s.reason);
                } else if !s.role_reason.is_empty() {
                    let _ = writeln!(out, "! {}/{} has no role: {}", pool.name, s.name, s.role_reason);
                }
            }
        }
    }

    fn engine(&self) -> String {
        match self.engine_reason.as_str() {
            "configured" | "preferred" => self.engine.clone(),
            refused => format!("{} (io_uring is refused: {refused})", self.engine),
        }
    }

    fn latencies(&self, out: &mut String) {
        let mut table = Table::new(
            &["POOL", "POLICY"],
            &["RETRIES", "CONNECT p50", "p99", "FIRST BYTE p50", "p99", "SESSION p50", "p99"],
        );
        for pool in &self.pools {
            let mut row = vec![pool.name.clone(), pool.policy.clone(), pool.retries.to_string()];
            for latency in [pool.connect, pool.first_byte, pool.session] {
                row.extend([micros(latency.p50_us), micros(latency.p99_us)]);
            }
            table.row(row);
        }
        table.write(out);
    }
}

/// Columns of text on the left, of figures on the right.
struct Table {
    texts: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(texts: &[&str], figures: &[&str]) -> Self {
        let heading = texts.iter().chain(figures).map(|&word| word.to_owned()).collect();
        Self { texts: texts.len(), rows: vec![heading] }
    }

    fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn write(&self, out: &mut String) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max())
            .map(Option::unwrap_or_default)
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                let _ = match column < self.texts {
                    true => write!(line, "{gap}{cell:<width$}"),
                    false => write!(line, "{gap}{cell:>width$}"),
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
}

/// Bytes in a unit that suits them.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} PiB")
}

/// Microseconds in a unit that suits them; `-` for none.
pub fn micros(us: Option<u64>) -> String {
    match us {
        None => "-".into(),
        Some(us @ 0..1_000) => format!("{us} µs"),
        Some(us @ 1_000..1_000_000) => format!("{:.1} ms", us as f64 / 1e3),
        Some(us) => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// The two largest units of a duration.
pub fn duration(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ledger::Standing;
    use crate::observe::panel::tests::panel;

    #[test]
    fn it_reads_back_and_shows_what_was_counted() {
        let panel = panel();
        let plan = panel.commons.scene.load().plan.clone();
        let tally = plan.listeners[0].ledger.tally.of(0);
        tally.accepted.add(3);
        tally.opened.add(2);
        tally.bytes_out.add(5 << 20);
        tally.ended[Ending::Done as usize].add(1);
        plan.pools[0].servers[0].ledger.tally.of(1).connects[ConnectResult::Refused as usize].add(2);
        plan.pools[0].servers[0].ledger.set_standing(Standing::Maint);
        plan.pools[0].ledger.tally.of(0).connect.record(80);
        panel.reloads.refused();
        panel.begin_drain();

        let status = status(&panel);
        let json = serde_json::to_string(&status).expect("serialises");
        assert_eq!(serde_json::from_str::<Status>(&json).expect("reads back"), status);
        assert_eq!((status.listeners[0].sessions, status.listeners[0].ended["done"]), (1, 1));
        assert_eq!(status.pools[0].servers[0].connects_failed, 2);
        let table = status.table();
        for fact in ["draining", "127.0.0.1:8080", "5.0 MiB", "maint", "was refused", "10.0.0.22:80", "configuration 1"]
        {
            assert!(table.contains(fact), "{fact} is missing in\n{table}");
        }
    }

    #[test]
    fn the_table_says_who_is_what_and_how_far_behind() {
        let mut status = status(&panel());
        let servers = &mut status.pools[0].servers;
        (servers[0].role, servers[0].lag_s, servers[0].backup) = ("replica".into(), Some(4), true);
        (servers[1].role, servers[1].lag_s) = ("replica".into(), Some(0));
        let table = status.table();
        assert!(table.contains("up (replica, 4 s behind, backup)") && table.contains("up (replica) "), "{table}");
    }

    #[test]
    fn figures_are_for_people() {
        assert_eq!(bytes(1_023), "1023 B");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(bytes(3 << 50), "3.0 PiB");
        assert_eq!(duration(Duration::from_secs(59)), "59 s");
        assert_eq!(duration(Duration::from_secs(3_700)), "1 h 1 min");
        assert_eq!(duration(Duration::from_secs(200_000)), "2 d 7 h");
        assert_eq!(micros(Some(1_500)), "1.5 ms");
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let histogram = Histogram::default();
        assert_eq!(quantile(&histogram.counts(), 0.5), None);
        for _ in 0..99 {
            histogram.record(70);
        }
        histogram.record(2_000_000_000);
        let median = quantile(&histogram.counts(), 0.5).expect("some");
        assert!((50..=100).contains(&median), "{median}");
        assert_eq!(quantile(&histogram.counts(), 1.0), Some(30_000_000));
    }
}
