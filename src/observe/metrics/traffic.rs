//! What flows: through listeners, to servers, and in pools.

use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::config::ledger::{PoolTally, WARM};
use crate::config::plan::{Kind, Listener, Pool};
use crate::dataplane::ending::{ConnectResult, Ending, GreetingError, Refusal};

use super::page::Page;
use super::{STATES, servers_of, state, with};

/// Connections, sessions and bytes by listener.
pub(super) fn listeners(page: &mut Page, listeners: &[Arc<Listener>]) -> Result<(), Error> {
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

/// The same by server, and what it has to give.
pub(super) fn servers(page: &mut Page, pools: &[Arc<Pool>]) -> Result<(), Error> {
    page.counters(
        "ringway_server_connects",
        "Connects to a server, by how they went.",
        servers_of(pools).flat_map(|(pool, server)| {
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
        servers_of(pools).filter(|(pool, _)| pool.kind == Kind::Mysql).flat_map(|(pool, server)| {
            GreetingError::ALL.map(|error| {
                let count = server.ledger.tally.sum(|t| t.greetings[error as usize].read());
                (with(pool, server, "error", error.word()), count)
            })
        }),
    )?;
    page.gauges(
        "ringway_server_sessions",
        "Sessions connected or connecting to a server now.",
        servers_of(pools).map(|(pool, server)| {
            let active = server.ledger.active.load(Ordering::Relaxed);
            ([("pool", &*pool.name), ("server", &*server.name)], f64::from(active))
        }),
    )?;
    page.gauges(
        "ringway_server_warmth",
        "How much of its weight and max_connections a server has now: 1, or less while it ramps (slow_start).",
        servers_of(pools).map(|(pool, server)| {
            let share = f64::from(server.ledger.warmth()) / f64::from(WARM);
            ([("pool", &*pool.name), ("server", &*server.name)], share)
        }),
    )?;
    page.counters(
        "ringway_server_bytes",
        "Bytes relayed, also by sessions that still run; in is client to server.",
        servers_of(pools).flat_map(|(pool, server)| {
            let tally = &server.ledger.tally;
            [("in", tally.sum(|t| t.bytes_in.read())), ("out", tally.sum(|t| t.bytes_out.read()))]
                .map(|(direction, bytes)| (with(pool, server, "direction", direction), bytes))
        }),
    )?;
    page.gauges(
        "ringway_server_state",
        "1 for the state the server is in, 0 for the others.",
        servers_of(pools).flat_map(|(pool, server)| {
            let now = state(server);
            STATES.map(|state| {
                let is = f64::from(u8::from(state == now));
                (with(pool, server, "state", state), is)
            })
        }),
    )
}

/// By pool: retries, who waits, and how long things take.
pub(super) fn pools(page: &mut Page, pools: &[Arc<Pool>]) -> Result<(), Error> {
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
