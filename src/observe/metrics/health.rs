//! What checks found, and the roles that follow from it.

use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;

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
        servers_of(pools)
            .map(|(pool, server)| ([("pool", &*pool.name), ("server", &*server.name)], server.ledger.ejections.read())),
    )
}
