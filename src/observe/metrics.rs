//! `/metrics`: every figure the daemon keeps, rendered when somebody asks. Nothing is registered or updated in between;
//! the counters that workers keep for themselves are summed here.
//!
//! Two dialects of one text: OpenMetrics, which prometheus-client writes and Prometheus asks for, and the older Prometheus
//! text format for everybody else.

use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::base::histogram::{BOUNDS_US, Histogram};
use crate::config::ledger::{Health, Office, PoolLedger, PoolTally, SHARE_WHOLE, Standing, WARM};
use crate::config::plan::{Kind, Listener, Plan, Pool, Server};
use crate::dataplane::ending::{ConnectResult, Ending, GreetingError, Refusal};
use crate::health::CheckResult;

use super::panel::Panel;
use super::process::usage;

/// Which text to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Prometheus text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Dialect {
    /// The one a scraper asks for with its `Accept` header.
    pub fn of_accept(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Dialect::OpenMetrics } else { Dialect::Prometheus }
    }

    /// The `Content-Type` of the answer.
    pub const fn content_type(self) -> &'static str {
        match self {
            Dialect::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Dialect::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What `state` of `ringway_server_state` can be. One of them is 1.
pub const STATES: [&str; 7] = ["up", "down", "drain", "maint", "starting", "ejected", "unknown"];

/// The state of a server, out of [`STATES`]: what the operator says goes before what checks say, and that before what
/// connects say. A server that is not checked counts as up; before the first check has come to an end it is unknown.
pub fn state(server: &Server) -> &'static str {
    let ledger = &server.ledger;
    match (ledger.standing(), ledger.health(), ledger.is_ejected()) {
        (Standing::Drain, ..) => "drain",
        (Standing::Maint, ..) => "maint",
        (Standing::Ready, Health::Down, _) => "down",
        (Standing::Ready, _, true) => "ejected",
        (Standing::Ready, Health::Checking, false) => "unknown",
        (Standing::Ready, Health::Up | Health::Unchecked, false) => "up",
    }
}

/// What `role` of `ringway_server_role` can be. One of them is 1.
pub const ROLES: [&str; 3] = ["primary", "replica", "none"];

/// The role of a server, out of [`ROLES`].
pub fn role(server: &Server) -> &'static str {
    match server.ledger.office() {
        Office::Primary => "primary",
        Office::Replica { .. } => "replica",
        Office::None => "none",
    }
}

/// All metrics as text.
pub fn render(panel: &Arc<Panel>, dialect: Dialect) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(Arc::clone(panel))));
    let mut text = String::with_capacity(16 * 1024);
    encode(&mut text, &registry).expect("writing to a String cannot fail");
    match dialect {
        Dialect::OpenMetrics => text,
        Dialect::Prometheus => classic(&text),
    }
}

/// OpenMetrics made into the older format: there the name of a counter in `HELP` and `TYPE` has its `_total`, an info
/// is a gauge with its `_info`, and there is no `EOF`.
fn classic(open: &str) -> String {
    let mut text = String::with_capacity(open.len() + 1_024);
    let mut help = "";
    for line in open.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let words = help.strip_prefix(name).unwrap_or(help).trim_start();
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                kind => ("", kind),
            };
            text.push_str(&format!("# HELP {name}{suffix} {words}\n"));
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// One look at a panel.
#[derive(Debug)]
struct Scrape(Arc<Panel>);

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), Error> {
        let scene = self.0.commons.scene.load_full();
        let mut page = Page { encoder };
        daemon(&mut page, &self.0, &scene.plan)?;
        for_listeners(&mut page, &scene.plan.listeners)?;
        for_servers(&mut page, &scene.plan.pools)?;
        for_health(&mut page, &scene.plan.pools)?;
        for_pools(&mut page, &scene.plan.pools)?;
        for_workers(&mut page, &self.0)?;
        process(&mut page, &self.0)
    }
}

/// The text under construction, one family at a time.
struct Page<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Page<'_> {
    /// A counter; its name without `_total`.
    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (L, u64)>,
    ) -> Result<(), Error> {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (L, f64)>,
    ) -> Result<(), Error> {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            number(&mut family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }

    /// A gauge without labels.
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        number(&mut self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?, value)
    }

    /// A gauge that is always 1 and says things in its labels; its name without `_info`.
    fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) -> Result<(), Error> {
        self.encoder.encode_descriptor(name, help, None, MetricType::Info)?.encode_info(&labels)
    }

    /// A histogram per pool, in seconds.
    fn histograms<'p>(
        &mut self,
        name: &str,
        help: &str,
        pools: &'p [Arc<Pool>],
        figure: impl Fn(&'p PoolTally) -> &'p Histogram,
    ) -> Result<(), Error> {
        self.histograms_of(name, help, pools.iter().map(|pool| (pool, merged(&pool.ledger, &figure))))
    }

    /// The same of figures that are there already: counts by bucket, and the sum in microseconds.
    fn histograms_of<'p>(
        &mut self,
        name: &str,
        help: &str,
        figures: impl Iterator<Item = (&'p Arc<Pool>, ([u64; BOUNDS_US.len() + 1], u64))>,
    ) -> Result<(), Error> {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (pool, (counts, sum_us)) in figures {
            let bounds = BOUNDS_US.iter().map(|&us| us as f64 / 1e6).chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
            family.encode_family(&[("pool", &*pool.name)])?.encode_histogram::<NoLabelSet>(
                sum_us as f64 / 1e6,
                counts.iter().sum(),
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

/// A gauge's value; a whole number without a decimal point.
fn number(gauge: &mut MetricEncoder, value: f64) -> Result<(), Error> {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        gauge.encode_gauge(&(value as i64))
    } else {
        gauge.encode_gauge(&value)
    }
}

/// One histogram of a pool over all workers: counts by bucket, and the sum in microseconds.
pub fn merged<'p>(
    ledger: &'p PoolLedger,
    figure: impl Fn(&'p PoolTally) -> &'p Histogram,
) -> ([u64; BOUNDS_US.len() + 1], u64) {
    let mut counts = [0; BOUNDS_US.len() + 1];
    let mut sum_us = 0;
    for histogram in ledger.tally.iter().map(figure) {
        sum_us += histogram.sum_us();
        for (total, count) in counts.iter_mut().zip(histogram.counts()) {
            *total += count;
        }
    }
    (counts, sum_us)
}

fn daemon(page: &mut Page, panel: &Panel, plan: &Plan) -> Result<(), Error> {
    page.info("ringway_build", "The version that runs.", &[("version", env!("CARGO_PKG_VERSION"))])?;
    page.info(
        "ringway_engine",
        "What drives the workers, and why that.",
        &[("engine", panel.engine.name), ("reason", panel.engine.reason)],
    )?;
    page.gauge("ringway_ready", "1 while traffic should come here.", f64::from(u8::from(panel.is_ready())))?;
    page.gauge(
        "ringway_config_generation",
        "Counts up with each configuration that came into force; the first is 1.",
        plan.generation as f64,
    )?;
    page.gauge(
        "ringway_config_last_reload_successful",
        "1 if the configuration that was read last was accepted, 0 if it was refused and an older one goes on.",
        f64::from(u8::from(panel.reloads.last_was_successful())),
    )?;
    page.gauge(
        "ringway_config_last_reload_timestamp_seconds",
        "When the configuration in force came into force, in seconds since 1970.",
        panel.reloads.applied_unix_s(),
    )?;
    page.gauge(
        "ringway_max_connections",
        "Most sessions at once.",
        f64::from(panel.commons.max_connections.load(Ordering::Relaxed)),
    )?;
    let dropped: u64 = panel.commons.desks.iter().map(|desk| desk.tally.records_dropped.read()).sum();
    page.encoder
        .encode_descriptor(
            "ringway_log_dropped",
            "Access records and events that were dropped because the log stood still.",
            None,
            MetricType::Counter,
        )?
        .encode_counter::<NoLabelSet, _, f64>(&(dropped + panel.log.events_dropped()), None)
}

fn for_listeners(page: &mut Page, listeners: &[Arc<Listener>]) -> Result<(), Error> {
    let name = |listener: &Arc<Listener>| ("listener", listener.name.to_string());
    page.counters(
        "ringway_listener_accepted",
        "Connections taken from the accept queue, refused ones too.",
        listeners.iter().map(|l| ([name(l)], l.ledger.tally.sum(|tally| tally.accepted.read()))),
    )?;
    page.counters(
        "ringway_listener_rejected",
        "Connections refused before they became a session.",
        listeners.iter().flat_map(|l| {
            Refusal::ALL.map(|why| {
                let count = l.ledger.tally.sum(|t| t.rejected[why as usize].read());
                ([name(l), ("reason", why.reason().to_owned())], count)
            })
        }),
    )?;
    page.gauges(
        "ringway_sessions",
        "Sessions open now.",
        listeners.iter().map(|l| ([name(l)], sessions_open(l) as f64)),
    )?;
    page.counters(
        "ringway_sessions_ended",
        "Sessions that ended, by why.",
        listeners.iter().flat_map(|l| {
            Ending::ALL.map(|why| {
                let count = l.ledger.tally.sum(|t| t.ended[why as usize].read());
                ([name(l), ("reason", why.reason().to_owned())], count)
            })
        }),
    )?;
    page.counters(
        "ringway_bytes",
        "Bytes relayed, also by sessions that still run; in is client to server.",
        listeners.iter().flat_map(|l| {
            let tally = &l.ledger.tally;
            [("in", tally.sum(|t| t.bytes_in.read())), ("out", tally.sum(|t| t.bytes_out.read()))]
                .map(|(direction, bytes)| ([name(l), ("direction", direction.to_owned())], bytes))
        }),
    )
}

/// Sessions of a listener that are open now. The counts of several workers are not read at one instant; an end is never
/// counted before its opening by the same worker, so reading the ends first keeps the difference from going negative.
pub fn sessions_open(listener: &Listener) -> u64 {
    let tally = &listener.ledger.tally;
    let ended = tally.sum(|t| t.ended.iter().map(|count| count.read()).sum());
    tally.sum(|t| t.opened.read()).saturating_sub(ended)
}

fn servers(pools: &[Arc<Pool>]) -> impl Iterator<Item = (&Pool, &Server)> {
    pools.iter().flat_map(|pool| pool.servers.iter().map(move |server| (&**pool, server)))
}

fn for_servers(page: &mut Page, pools: &[Arc<Pool>]) -> Result<(), Error> {
    page.counters(
        "ringway_server_connects",
        "Connects to a server, by how they went.",
        servers(pools).flat_map(|(pool, server)| {
            ConnectResult::ALL.map(|result| {
                let tally = &server.ledger.tally;
                let count = tally.sum(|t| t.connects[result as usize].read());
                (with(pool, server, "result", result.word()), count)
            })
        }),
    )?;
    page.counters(
        "ringway_greeting_errors",
        "What servers of kind mysql did instead of greeting; \"other\" was passed on, all else sent the session on.",
        servers(pools).filter(|(pool, _)| pool.kind == Kind::Mysql).flat_map(|(pool, server)| {
            GreetingError::ALL.map(|error| {
                let count = server.ledger.tally.sum(|t| t.greetings[error as usize].read());
                (with(pool, server, "error", error.word()), count)
            })
        }),
    )?;
    page.gauges(
        "ringway_server_sessions",
        "Sessions connected or connecting to a server now.",
        servers(pools).map(|(pool, server)| {
            let active = server.ledger.active.load(Ordering::Relaxed);
            ([("pool", &*pool.name), ("server", &*server.name)], f64::from(active))
        }),
    )?;
    page.gauges(
        "ringway_server_warmth",
        "How much of its weight and max_connections a server has now: 1, or less while it ramps (slow_start).",
        servers(pools).map(|(pool, server)| {
            let share = f64::from(server.ledger.warmth()) / f64::from(WARM);
            ([("pool", &*pool.name), ("server", &*server.name)], share)
        }),
    )?;
    page.counters(
        "ringway_server_bytes",
        "Bytes relayed, also by sessions that still run; in is client to server.",
        servers(pools).flat_map(|(pool, server)| {
            let tally = &server.ledger.tally;
            [("in", tally.sum(|t| t.bytes_in.read())), ("out", tally.sum(|t| t.bytes_out.read()))]
                .map(|(direction, bytes)| (with(pool, server, "direction", direction), bytes))
        }),
    )?;
    page.gauges(
        "ringway_server_state",
        "1 for the state the server is in, 0 for the others.",
        servers(pools).flat_map(|(pool, server)| {
            let now = state(server);
            STATES.map(|state| {
                let is = f64::from(u8::from(state == now));
                (with(pool, server, "state", state), is)
            })
        }),
    )
}

/// What checks found, and how often connects that failed led to a rest.
fn for_health(page: &mut Page, pools: &[Arc<Pool>]) -> Result<(), Error> {
    let checked = || pools.iter().filter(|pool| pool.care.check.is_some());
    page.counters(
        "ringway_check",
        "Checks of a server, by how they came out.",
        checked().flat_map(|pool| pool.servers.iter().map(move |server| (&**pool, server))).flat_map(
            |(pool, server)| {
                CheckResult::ALL.map(|result| {
                    let count = server.ledger.checks[result as usize].read();
                    (with(pool, server, "result", result.word()), count)
                })
            },
        ),
    )?;
    page.histograms_of(
        "ringway_check_duration_seconds",
        "Length of checks, in seconds.",
        checked().map(|pool| (pool, (pool.ledger.checks.counts(), pool.ledger.checks.sum_us()))),
    )?;
    let with_roles = || pools.iter().filter(|pool| pool.care.check.as_ref().is_some_and(|check| check.roles.is_some()));
    page.gauges(
        "ringway_server_role",
        "1 for the role a MySQL server has now, 0 for the others.",
        with_roles().flat_map(|pool| pool.servers.iter().map(move |server| (&**pool, server))).flat_map(
            |(pool, server)| {
                ROLES.map(|role| {
                    let is = f64::from(u8::from(role == self::role(server)));
                    (with(pool, server, "role", role), is)
                })
            },
        ),
    )?;
    page.gauges(
        "ringway_server_share",
        "The part of its weight that a replica has: 1, less the further it is behind, 0 without a role.",
        with_roles().flat_map(|pool| pool.servers.iter().map(move |server| (&**pool, server))).map(|(pool, server)| {
            let share = match server.ledger.office() {
                Office::None => 0,
                Office::Primary | Office::Replica { .. } => server.ledger.share(),
            };
            ([("pool", &*pool.name), ("server", &*server.name)], f64::from(share) / f64::from(SHARE_WHOLE))
        }),
    )?;
    page.gauges(
        "ringway_split_brain",
        "1 while more than one server of a MySQL pool takes writes.",
        with_roles()
            .map(|pool| ([("pool", &*pool.name)], f64::from(u8::from(pool.ledger.split.load(Ordering::Relaxed))))),
    )?;
    page.counters(
        "ringway_primary_changes",
        "Times another server became primary, or none.",
        with_roles().map(|pool| ([("pool", &*pool.name)], pool.ledger.role_changes.read())),
    )?;
    page.counters(
        "ringway_server_ejections",
        "Times a server got a rest because connects to it failed in a row.",
        servers(pools)
            .map(|(pool, server)| ([("pool", &*pool.name), ("server", &*server.name)], server.ledger.ejections.read())),
    )
}

fn with<'a>(pool: &'a Pool, server: &'a Server, key: &'a str, value: &'a str) -> [(&'a str, &'a str); 3] {
    [("pool", &*pool.name), ("server", &*server.name), (key, value)]
}

fn for_pools(page: &mut Page, pools: &[Arc<Pool>]) -> Result<(), Error> {
    page.counters(
        "ringway_retries",
        "Connects that were tried again on another server.",
        pools.iter().map(|pool| {
            let retries = pool.ledger.tally.sum(|tally| tally.retries.read());
            ([("pool", &*pool.name)], retries)
        }),
    )?;
    let queues = || pools.iter().filter(|pool| pool.terms.queue.limit > 0 || pool.ledger.line.waiting() > 0);
    page.gauges(
        "ringway_queue_sessions",
        "Sessions that wait for a place on a server now.",
        queues().map(|pool| ([("pool", &*pool.name)], f64::from(pool.ledger.line.waiting()))),
    )?;
    let mut count = |name, help, figure: fn(&PoolTally) -> u64| {
        page.counters(name, help, queues().map(|pool| ([("pool", &*pool.name)], pool.ledger.tally.sum(figure))))
    };
    count("ringway_queued", "Sessions that had to wait for a place on a server.", |tally| tally.queued.read())?;
    count("ringway_queue_full", "Sessions that found every server full, and the queue too.", |t| t.queue_full.read())?;
    count("ringway_queue_timeouts", "Sessions that waited for a place in vain.", |t| t.queue_timeouts.read())?;
    page.histograms(
        "ringway_queue_seconds",
        "Time sessions waited for a place on a server, in seconds; those that did not wait are not in it.",
        pools,
        |tally| &tally.queue,
    )?;
    page.histograms(
        "ringway_connect_seconds",
        "Time from the choice of a server to its connection, in seconds.",
        pools,
        |tally| &tally.connect,
    )?;
    page.histograms(
        "ringway_first_byte_seconds",
        "Time from accept to the first byte from the server, in seconds.",
        pools,
        |tally| &tally.first_byte,
    )?;
    page.histograms("ringway_session_seconds", "Length of sessions, in seconds.", pools, |tally| &tally.session)
}

fn for_workers(page: &mut Page, panel: &Panel) -> Result<(), Error> {
    let desks = || panel.commons.desks.iter().enumerate().map(|(index, desk)| ([("worker", index.to_string())], desk));
    page.gauges(
        "ringway_worker_sessions",
        "Sessions a worker has now.",
        desks().map(|(labels, desk)| (labels, f64::from(desk.sessions.load(Ordering::Relaxed)))),
    )?;
    page.gauges(
        "ringway_worker_loop_lag_seconds",
        "Longest time from a worker's waking to its having handled everything, since the last scrape, in seconds.",
        desks().map(|(labels, desk)| {
            let lag_ns = desk.tally.lag_ns_max.swap(0, Ordering::Relaxed);
            (labels, lag_ns as f64 / 1e9)
        }),
    )?;
    page.counters(
        "ringway_worker_handed_over",
        "Connections a worker accepted and handed to a less loaded one.",
        desks().map(|(labels, desk)| (labels, desk.tally.handed_over.read())),
    )?;
    page.counters(
        "ringway_cq_overflow",
        "Turns of a worker that found its completion queue full; nothing is lost by it, but requests are made again.",
        desks().map(|(labels, desk)| (labels, desk.tally.cq_overflows.read())),
    )?;
    page.counters(
        "ringway_watchdog_stalls",
        "Times a worker did not move for 0.2 s; after 5 s the process ends.",
        desks().map(|(labels, desk)| (labels, desk.tally.stalls.read())),
    )?;
    let pipes = |read: fn(&crate::dataplane::commons::WorkerTally) -> u32| {
        desks().map(|(_, desk)| f64::from(read(&desk.tally))).sum::<f64>()
    };
    page.gauges(
        "ringway_pipes",
        "Pipes for splice: those that carry bytes now, and empty ones kept for reuse.",
        [
            ("used", pipes(|t| t.pipes_used.load(Ordering::Relaxed))),
            ("idle", pipes(|t| t.pipes_idle.load(Ordering::Relaxed))),
        ]
        .into_iter()
        .map(|(state, count)| ([("state", state)], count)),
    )
}

fn process(page: &mut Page, panel: &Panel) -> Result<(), Error> {
    let usage = usage();
    page.gauges(
        "ringway_fds",
        "Descriptors in use, and how many there may be.",
        [("used", usage.descriptors), ("limit", usage.descriptors_max)]
            .into_iter()
            .map(|(kind, count)| ([("kind", kind)], count as f64)),
    )?;
    page.encoder
        .encode_descriptor(
            "process_cpu_seconds",
            "Time on a CPU, user and system, in seconds.",
            None,
            MetricType::Counter,
        )?
        .encode_counter::<NoLabelSet, _, f64>(&usage.cpu_s, None)?;
    let started = panel.started.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    let gauges = [
        ("process_resident_memory_bytes", "Resident memory, in bytes.", usage.resident_bytes as f64),
        ("process_virtual_memory_bytes", "Address space, in bytes.", usage.virtual_bytes as f64),
        ("process_start_time_seconds", "When the process started, in seconds since 1970.", started.as_secs_f64()),
        ("process_open_fds", "Open descriptors.", usage.descriptors as f64),
        ("process_max_fds", "Most descriptors there may be.", usage.descriptors_max as f64),
        ("process_threads", "Threads.", usage.threads as f64),
    ];
    gauges.into_iter().try_for_each(|(name, help, value)| page.gauge(name, help, value))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::observe::panel::tests::panel;

    /// Family → type, and all samples, after checking that every line is what the format allows.
    fn read(text: &str) -> (BTreeMap<String, String>, BTreeMap<String, f64>) {
        let (mut kinds, mut samples) = (BTreeMap::new(), BTreeMap::new());
        let mut helped = BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a name and a text");
                assert!(help.ends_with('.'), "{line}");
                assert!(helped.insert(name.to_owned()), "twice: {line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                assert!(helped.contains(name), "no HELP before {line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                kinds.insert(name.to_owned(), kind.to_owned());
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a series and a value");
                let value: f64 = value.parse().expect("a number");
                let name = series.split('{').next().expect("a name");
                assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|suffix| name.strip_suffix(suffix))
                    .filter(|family| kinds.contains_key(*family))
                    .unwrap_or(name);
                assert!(kinds.contains_key(family), "no TYPE before {line}");
                if let Some((_, labels)) = series.split_once('{') {
                    assert!(labels.ends_with('}') && labels.contains("=\""), "{line}");
                }
                assert!(samples.insert(series.to_owned(), value).is_none(), "{line}");
            }
        }
        (kinds, samples)
    }

    #[test]
    fn every_metric_of_the_contract_is_there_and_says_what_it_is() {
        let panel = panel();
        let plan = Arc::clone(&panel.commons.scene.load().plan);
        let tally = plan.listeners[0].ledger.tally.of(1);
        tally.accepted.add(5);
        tally.opened.add(4);
        tally.ended[Ending::IdleTimeout as usize].add(3);
        tally.bytes_out.add(1 << 40);
        let pool = &plan.pools[0];
        pool.ledger.tally.of(0).connect.record(200);
        pool.ledger.tally.of(1).connect.record(60_000_000);
        pool.servers[1].ledger.set_standing(Standing::Drain);
        panel.commons.desks[1].tally.lag_ns_max.store(2_500_000, Ordering::Relaxed);

        let (kinds, samples) = read(&render(&panel, Dialect::Prometheus));
        for name in [
            "ringway_build_info",
            "ringway_engine_info",
            "ringway_listener_accepted_total",
            "ringway_listener_rejected_total",
            "ringway_sessions",
            "ringway_sessions_ended_total",
            "ringway_bytes_total",
            "ringway_server_connects_total",
            "ringway_greeting_errors_total",
            "ringway_server_sessions",
            "ringway_server_bytes_total",
            "ringway_server_warmth",
            "ringway_server_state",
            "ringway_retries_total",
            "ringway_queue_sessions",
            "ringway_queued_total",
            "ringway_queue_full_total",
            "ringway_queue_timeouts_total",
            "ringway_queue_seconds",
            "ringway_connect_seconds",
            "ringway_first_byte_seconds",
            "ringway_session_seconds",
            "ringway_config_generation",
            "ringway_config_last_reload_successful",
            "ringway_config_last_reload_timestamp_seconds",
            "ringway_fds",
            "ringway_worker_loop_lag_seconds",
            "ringway_worker_sessions",
            "ringway_pipes",
            "ringway_log_dropped_total",
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_open_fds",
        ] {
            assert!(kinds.contains_key(name), "{name} is missing");
        }
        for (series, expected) in [
            (r#"ringway_listener_accepted_total{listener="web"}"#, 5.0),
            (r#"ringway_sessions{listener="web"}"#, 1.0),
            (r#"ringway_sessions_ended_total{listener="web",reason="idle_timeout"}"#, 3.0),
            (r#"ringway_bytes_total{listener="web",direction="out"}"#, 1_099_511_627_776.0),
            (r#"ringway_server_state{pool="web",server="web2",state="drain"}"#, 1.0),
            (r#"ringway_server_state{pool="web",server="web2",state="up"}"#, 0.0),
            (r#"ringway_connect_seconds_bucket{le="0.0001",pool="web"}"#, 0.0),
            (r#"ringway_connect_seconds_bucket{le="0.00025",pool="web"}"#, 1.0),
            (r#"ringway_connect_seconds_bucket{le="30.0",pool="web"}"#, 1.0),
            (r#"ringway_connect_seconds_bucket{le="+Inf",pool="web"}"#, 2.0),
            (r#"ringway_connect_seconds_sum{pool="web"}"#, 60.0002),
            (r#"ringway_connect_seconds_count{pool="web"}"#, 2.0),
            (r#"ringway_worker_loop_lag_seconds{worker="1"}"#, 0.0025),
            ("ringway_config_generation", 1.0),
            ("ringway_log_dropped_total", 0.0),
            (r#"ringway_engine_info{engine="io_uring",reason="preferred"}"#, 1.0),
        ] {
            assert_eq!(samples.get(series), Some(&expected), "{series}");
        }
    }

    #[test]
    fn open_metrics_is_for_those_who_ask_for_it() {
        let text = render(&panel(), Dialect::OpenMetrics);
        assert!(text.ends_with("# EOF\n"));
        assert!(text.contains("# TYPE ringway_sessions_ended counter\n"));
        let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2";
        assert_eq!(Dialect::of_accept(accept), Dialect::OpenMetrics);
        assert_eq!(Dialect::of_accept("*/*"), Dialect::Prometheus);
    }
}
