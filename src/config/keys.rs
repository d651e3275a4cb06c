//! Which key may stand where: those that work, and those that are promised and still refused.

use super::complaints::did_you_mean;

/// The keys of one kind of table.
#[derive(Debug)]
pub(super) struct Keys {
    /// The table as the reader knows it.
    pub(super) place: &'static str,
    /// Keys that work.
    pub(super) now: &'static [&'static str],
    /// Keys of the contract that do not work yet. Parsed and ignored they would be a lie.
    pub(super) later: &'static [&'static str],
}

pub(super) const ROOT: Keys =
    Keys { place: "the file", now: &["global", "log", "admin", "listeners", "pools"], later: &[] };
pub(super) const GLOBAL: Keys = Keys {
    place: "[global]",
    now: &["workers", "engine", "max_connections", "user", "group", "drain_timeout", "state_dir"],
    later: &[],
};
pub(super) const LOG: Keys = Keys { place: "[log]", now: &["target", "format", "access", "socket"], later: &[] };
pub(super) const ADMIN: Keys = Keys { place: "[admin]", now: &["socket", "http", "haproxy_socket"], later: &[] };
pub(super) const LISTENER: Keys = Keys {
    place: "[listeners.NAME]",
    now: &["bind", "pool", "role", "fallback"],
    later: &["allow", "deny", "accept_proxy", "limit", "routes"],
};
pub(super) const POOL: Keys = Keys {
    place: "[pools.NAME]",
    now: &[
        "kind",
        "policy",
        "servers",
        "connect_timeout",
        "connect_attempts",
        "idle_timeout",
        "half_close_timeout",
        "max_lifetime",
        "queue",
        "slow_start",
        "source",
        "keepalive",
        "user_timeout",
        "check",
        "eject",
        "fail_open",
        "on_down",
        "send_proxy",
    ],
    later: &[],
};
pub(super) const SERVER: Keys = Keys {
    place: "an entry of `servers`",
    now: &["name", "address", "weight", "max_connections", "connect_rate", "connect_burst", "backup"],
    later: &[],
};
pub(super) const OVERLAY: Keys = Keys { place: "the overlay", now: &["add", "remove", "set"], later: &[] };
pub(super) const ADDED: Keys = Keys {
    place: "[[add]]",
    now: &["pool", "name", "address", "weight", "max_connections", "connect_rate", "connect_burst", "backup"],
    later: &[],
};
pub(super) const REMOVED: Keys = Keys { place: "[[remove]]", now: &["pool", "name", "address"], later: &[] };
pub(super) const SET: Keys =
    Keys { place: "[[set]]", now: &["pool", "name", "address", "state", "weight", "max_connections"], later: &[] };
pub(super) const KEEPALIVE: Keys = Keys { place: "`keepalive`", now: &["idle", "interval", "count"], later: &[] };
pub(super) const EJECT: Keys = Keys { place: "`eject`", now: &["failures", "for", "max_for"], later: &[] };
pub(super) const CHECK: Keys = Keys {
    place: "`check`",
    now: &[
        "type",
        "interval",
        "fast_interval",
        "timeout",
        "rise",
        "fall",
        "address",
        "port",
        "send_proxy",
        "send",
        "send_hex",
        "expect",
        "expect_hex",
        "path",
        "method",
        "host",
        "user",
        "password_file",
        "tls",
        "tls_ca",
        "tls_name",
        "sni",
        "verify",
        "max_lag",
        "lag_soft",
        "on_split",
        "role_grace",
    ],
    later: &[],
};

pub(super) const QUEUE: Keys = Keys { place: "`queue`", now: &["limit", "timeout"], later: &[] };

const ALL: [&Keys; 11] = [&ROOT, &GLOBAL, &LOG, &ADMIN, &LISTENER, &POOL, &SERVER, &KEEPALIVE, &EJECT, &CHECK, &QUEUE];

impl Keys {
    /// What to do about `wrong`, which is no key here.
    pub(super) fn help_for(&self, wrong: &str) -> String {
        // At the top stand tables, whose names are close to keys (`pools`, `pool`).
        let elsewhere = ALL
            .iter()
            .filter(|_| self.place != ROOT.place)
            .find(|keys| keys.now.contains(&wrong) || keys.later.contains(&wrong));
        let near = did_you_mean(wrong, self.now.iter().chain(self.later).copied());
        match (elsewhere, near) {
            (Some(keys), _) => format!("`{wrong}` belongs into {}", keys.place),
            (None, Some(near)) => format!("did you mean `{near}`?"),
            (None, None) => format!("keys here are `{}`", self.now.join("`, `")),
        }
    }
}
