//! What checks found, and the roles that follow from it.

use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use crate::config::ledger::{Office, SHARE_WHOLE};
use crate::config::plan::Pool;
use crate::health::CheckResult;

use super::page::Page;
use super::{ROLES, servers_of, with};

/// What checks found, and how often connects that failed led to a rest.
pub(super) fn health(page: &mut Page, pools: &[Arc<Pool>]) -> Result<(), Error> {
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
    page.gauges(
        "ringway_check_last_success_timestamp_seconds",
        "When a check of the server passed last, in seconds since 1970; not there before the first one has.",
        checked().flat_map(|pool| pool.servers.iter().map(move |server| (pool, server))).filter_map(
            |(pool, server)| {
                let passed = server.ledger.bulletin().passed?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
                Some(([("pool", &*pool.name), ("server", &*server.name)], passed.as_secs_f64()))
            },
        ),
    )?;
    page.counters(
        "ringway_server_ejections",
        "Times a server got a rest because connects to it failed in a row.",
        servers_of(pools)
            .map(|(pool, server)| ([("pool", &*pool.name), ("server", &*server.name)], server.ledger.ejections.read())),
    )?;
    roles(page, pools)
}

/// Who is what in pools whose servers have roles.
fn roles(page: &mut Page, pools: &[Arc<Pool>]) -> Result<(), Error> {
    let with_roles = || pools.iter().filter(|pool| pool.care.check.as_ref().is_some_and(|check| check.roles.is_some()));
    page.gauges(
        "ringway_server_role",
        "1 for the role a MySQL server has now, 0 for the others.",
        with_roles().flat_map(|pool| pool.servers.iter().map(move |server| (&**pool, server))).flat_map(
            |(pool, server)| {
                ROLES.map(|role| {
                    let is = f64::from(u8::from(role == super::role(server)));
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
    // Absent, not NaN, while nobody knows: a NaN would spoil every sum, and an old figure every alert. A series that ends is
    // stale to Prometheus at once; that replication is broken shows in the role.
    page.gauges(
        "ringway_server_lag_seconds",
        "How far a MySQL server is behind its source, as of its last check; not there while that is not known.",
        with_roles().flat_map(|pool| pool.servers.iter().map(move |server| (pool, server))).filter_map(
            |(pool, server)| {
                let lag_s = server.ledger.bulletin().lag_s?;
                Some(([("pool", &*pool.name), ("server", &*server.name)], f64::from(lag_s)))
            },
        ),
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
    )
}
