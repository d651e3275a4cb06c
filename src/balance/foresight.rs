//! Which server somebody would get, and why the others not, without anything being changed by the question.

use super::room::has_place;
use super::{Caller, Pick, pick};
use crate::config::ledger::{Health, Standing};
use crate::config::plan::{Pool, Server};

/// What keeps a server from a session, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is the one.
    Chosen,
    /// Another is chosen; nothing speaks against it.
    Usable,
    /// It is for when no other is usable.
    Backup,
    /// Its weight is 0.
    NoWeight,
    /// The operator says so.
    Drain,
    /// The operator says so.
    Maint,
    /// It does not have the role the listener wants.
    Role,
    /// Checks say so.
    Down,
    /// No check has come to an end yet.
    Checking,
    /// Connects to it have failed.
    Ejected,
    /// It has all the sessions it may have.
    Full,
    /// It has all the connects it may have for now.
    Paced,
}

impl Why {
    /// One word, for machines.
    pub const fn word(self) -> &'static str {
        match self {
            Why::Chosen => "chosen",
            Why::Usable => "usable",
            Why::Backup => "backup",
            Why::NoWeight => "weight",
            Why::Drain => "drain",
            Why::Maint => "maint",
            Why::Role => "role",
            Why::Down => "down",
            Why::Checking => "starting",
            Why::Ejected => "ejected",
            Why::Full => "full",
            Why::Paced => "connect_rate",
        }
    }
}

/// What a pick for this session would come to now.
pub fn foresee(pool: &Pool, caller: &Caller<'_>) -> Pick {
    // The pick itself, on a copy: whatever it claims and counts, nobody sees.
    pick(&pool.shadow(), caller)
}

/// How each server stands to such a session, when it comes to `chosen`.
pub fn reasons(pool: &Pool, caller: &Caller<'_>, chosen: Pick) -> Vec<Why> {
    (0..).zip(&pool.servers).map(|(index, server)| reason(server, caller, chosen == Pick::Server(index))).collect()
}

fn reason(server: &Server, caller: &Caller<'_>, is_chosen: bool) -> Why {
    let ledger = &server.ledger;
    let lacks_role = caller.wish.is_some_and(|wish| !ledger.holds(wish.role));
    match (ledger.standing(), ledger.health()) {
        _ if is_chosen => Why::Chosen,
        (Standing::Drain, _) => Why::Drain,
        (Standing::Maint, _) => Why::Maint,
        _ if server.weight == 0 => Why::NoWeight,
        _ if lacks_role => Why::Role,
        (_, Health::Down) => Why::Down,
        (_, Health::Checking) => Why::Checking,
        _ if ledger.is_ejected() => Why::Ejected,
        _ if server.backup => Why::Backup,
        _ if has_place(server, caller.now_ns) => Why::Usable,
        _ if server.rate.is_some_and(|rate| ledger.connects.ready_ns(rate) > caller.now_ns) => Why::Paced,
        _ => Why::Full,
    }
}
