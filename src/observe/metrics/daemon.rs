//! The daemon: its version, engine and configuration, its workers, its process.

use std::fmt::Error;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::NoLabelSet;
use prometheus_client::metrics::MetricType;

use crate::config::plan::Plan;
use crate::dataplane::commons::WorkerTally;
use crate::observe::panel::Panel;
use crate::observe::process::usage;

use super::page::Page;

/// What runs, and by which configuration.
pub(super) fn daemon(page: &mut Page, panel: &Panel, plan: &Plan) -> Result<(), Error> {
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

/// Each worker.
pub(super) fn workers(page: &mut Page, panel: &Panel) -> Result<(), Error> {
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
    let pipes = |read: fn(&WorkerTally) -> u32| desks().map(|(_, desk)| f64::from(read(&desk.tally))).sum::<f64>();
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

/// The process, by the names all programs have for it.
pub(super) fn process(page: &mut Page, panel: &Panel) -> Result<(), Error> {
    let usage = usage(panel.commons.workers());
    page.gauges(
        "ringway_fds",
        "Descriptors in use in the fullest table (each worker has its own), and how many there may be in one.",
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
        ("process_open_fds", "Open descriptors, in the fullest table.", usage.descriptors as f64),
        ("process_max_fds", "Most descriptors there may be in a table.", usage.descriptors_max as f64),
        ("process_threads", "Threads.", usage.threads as f64),
    ];
    gauges.into_iter().try_for_each(|(name, help, value)| page.gauge(name, help, value))
}
