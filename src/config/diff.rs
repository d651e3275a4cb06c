//! What a reload would do: the difference of two plans, for an operator and for a program.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::base::words::many;

use super::checks::{print_check, print_eject};
use super::ledger::Standing;
use super::plan::{Address, Care, Listener, Plan, Pool, RoleWish, Server, Terms};
use super::print;

/// The difference between a running plan and the one that would follow it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Changed keys of `[global]`, `[log]` and `[admin]`.
    pub settings: Vec<Setting>,
    /// Listeners that come, go or change, by name.
    pub listeners: Vec<ListenerDiff>,
    /// Pools that come, go or change, by name.
    pub pools: Vec<PoolDiff>,
}

/// One key with another value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its name, with its table for daemon-wide ones: `log.format`, `weight`.
    pub key: String,
    /// The value that runs, as TOML; `none` when there is none.
    pub from: String,
    /// The value it would get.
    pub to: String,
    /// A reload cannot apply it.
    pub needs_restart: bool,
}

/// Whether a thing comes, goes or stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is new.
    Added,
    /// It goes.
    Removed,
    /// It stays, and something about it is different.
    Changed,
}

/// What happens to a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenerDiff {
    /// Its name.
    pub name: String,
    /// What happens to it.
    pub change: Change,
    /// Sockets that are opened.
    pub opened: Vec<String>,
    /// Sockets that are closed; what they accepted is still served.
    pub closed: Vec<String>,
    /// The pool that new sessions go to; with its old value when it changes.
    pub pool: Option<Setting>,
    /// The role that new sessions want; with its old value when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Setting>,
}

/// What happens to a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolDiff {
    /// Its name.
    pub name: String,
    /// What happens to it.
    pub change: Change,
    /// Keys of the pool that change, for new sessions.
    pub settings: Vec<Setting>,
    /// Servers that come, go or change, in the order of the file.
    pub servers: Vec<ServerDiff>,
    /// The servers stay the same, in another order: the rotation begins anew.
    pub reordered: bool,
}

/// What happens to a server. One that moves to another address is another server: it goes and comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerDiff {
    /// Its name within the pool.
    pub name: String,
    /// Its address.
    pub address: String,
    /// What happens to it. A removed one keeps its sessions until they end.
    pub change: Change,
    /// Its keys that change; of an added one, those that are not the default.
    pub settings: Vec<Setting>,
}

impl Diff {
    /// Whether the two plans are the same but for their generation.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.listeners.is_empty() && self.pools.is_empty()
    }

    /// The same for everybody's eyes: of a check, which may say a password or a secret path, only its kind.
    #[must_use]
    pub fn without_secrets(mut self) -> Self {
        let settings = self.pools.iter_mut().flat_map(|pool| &mut pool.settings);
        for setting in settings.filter(|setting| setting.key == "check") {
            setting.from = kind_of_check(&setting.from);
            let to = kind_of_check(&setting.to);
            setting.to = if to == setting.from { "with other terms".to_owned() } else { to };
        }
        self
    }

    /// Keys that a reload leaves as they are, because the process must start anew for them.
    pub fn needs_restart(&self) -> impl Iterator<Item = &Setting> {
        self.settings.iter().filter(|setting| setting.needs_restart)
    }
}

/// The kind of a printed check, which comes first in it.
fn kind_of_check(printed: &str) -> String {
    match printed.strip_prefix("{ ").and_then(|rest| rest.split([',', ' ', '}']).next().zip(rest.split('"').nth(1))) {
        Some(("type", kind)) => format!("{{ type = \"{kind}\", … }}"),
        Some(_) => "{ … }".to_owned(),
        None => none(),
    }
}

/// What becoming `new` means for `old`.
pub fn diff(old: &Plan, new: &Plan) -> Diff {
    Diff {
        settings: settings(old, new),
        listeners: pairs(&old.listeners, &new.listeners, |listener| &listener.name)
            .filter_map(|(old, new)| listener(old, new))
            .collect(),
        pools: pairs(&old.pools, &new.pools, |pool| &pool.name).filter_map(|(old, new)| pool(old, new)).collect(),
    }
}

/// Both lists joined by name, in its order.
fn pairs<'a, T>(
    old: &'a [Arc<T>],
    new: &'a [Arc<T>],
    name: impl Fn(&'a T) -> &'a str,
) -> impl Iterator<Item = (Option<&'a T>, Option<&'a T>)> {
    let mut joined: BTreeMap<&str, (Option<&T>, Option<&T>)> = BTreeMap::new();
    for item in old {
        joined.entry(name(item)).or_default().0 = Some(item);
    }
    for item in new {
        joined.entry(name(item)).or_default().1 = Some(item);
    }
    joined.into_values()
}

/// Keeps the keys whose values differ.
fn changed(keys: impl IntoIterator<Item = (&'static str, String, String)>) -> Vec<Setting> {
    let differ = keys.into_iter().filter(|(_, from, to)| from != to);
    differ
        .map(|(key, from, to)| Setting { key: key.to_owned(), from, to, needs_restart: RESTART.contains(&key) })
        .collect()
}

/// Keys that are fixed for the life of the process.
const RESTART: [&str; 8] = [
    "global.workers",
    "global.engine",
    "global.user",
    "global.group",
    "global.state_dir",
    "admin.socket",
    "admin.http",
    "admin.haproxy_socket",
];

fn settings(old: &Plan, new: &Plan) -> Vec<Setting> {
    let read = |plan: &Plan| {
        let (global, log, admin) = (&plan.global, &plan.log, &plan.admin);
        let word = |word: &Option<String>| word.as_deref().map_or_else(none, print::string);
        let path =
            |path: &Option<PathBuf>| path.as_ref().map_or_else(none, |path| print::string(&path.to_string_lossy()));
        [
            ("global.workers", print::workers(global.workers)),
            ("global.engine", print::string(global.engine.name())),
            ("global.max_connections", global.max_connections.map_or_else(none, |n| n.to_string())),
            ("global.user", word(&global.user)),
            ("global.group", word(&global.group)),
            ("global.drain_timeout", print::duration(global.drain_ms)),
            (
                "global.state_dir",
                global.state_dir.as_ref().map_or_else(none, |path| print::string(&path.to_string_lossy())),
            ),
            ("log.target", print::string(&log.target.to_string())),
            ("log.format", print::string(log.format.name())),
            ("log.access", log.access.to_string()),
            ("log.socket", log.target.socket().map_or_else(none, |path| print::string(&path.to_string_lossy()))),
            ("admin.socket", path(&admin.socket)),
            ("admin.http", admin.http.map_or_else(none, |http| print::string(&http.to_string()))),
            ("admin.haproxy_socket", path(&admin.haproxy_socket)),
        ]
    };
    changed(zip(read(old), read(new)))
}

fn none() -> String {
    "none".into()
}

/// Two readings of the same keys, side by side.
fn zip<const N: usize>(
    old: [(&'static str, String); N],
    new: [(&'static str, String); N],
) -> impl Iterator<Item = (&'static str, String, String)> {
    old.into_iter().zip(new).map(|((key, from), (_, to))| (key, from, to))
}

fn listener(old: Option<&Listener>, new: Option<&Listener>) -> Option<ListenerDiff> {
    let either = new.or(old)?;
    let binds = |listener: Option<&Listener>, other: Option<&Listener>| -> Vec<String> {
        let all = listener.map_or(&[][..], |listener| &listener.binds);
        let kept = |bind: &&Address| !other.is_some_and(|other| other.binds.contains(bind));
        all.iter().filter(kept).map(Address::to_string).collect()
    };
    let name = |listener: Option<&Listener>| listener.map_or_else(none, |listener| print::string(&listener.pool.name));
    let role = |listener: Option<&Listener>| match listener.and_then(|listener| listener.role) {
        None => "any".to_owned(),
        Some(RoleWish { role, fallback: false }) => print::string(role.name()),
        Some(RoleWish { role, fallback: true }) => format!("{} or the primary", print::string(role.name())),
    };
    let found = ListenerDiff {
        name: either.name.to_string(),
        change: change(old, new),
        opened: binds(new, old),
        closed: binds(old, new),
        pool: changed([("pool", name(old), name(new))]).pop(),
        role: changed([("role", role(old), role(new))]).pop(),
    };
    let same = found.opened.is_empty() && found.closed.is_empty() && found.pool.is_none() && found.role.is_none();
    (!same).then_some(found)
}

fn change<T>(old: Option<&T>, new: Option<&T>) -> Change {
    match (old, new) {
        (None, _) => Change::Added,
        (Some(_), None) => Change::Removed,
        (Some(_), Some(_)) => Change::Changed,
    }
}

fn pool(old: Option<&Pool>, new: Option<&Pool>) -> Option<PoolDiff> {
    let either = new.or(old)?;
    let settings = match (old, new) {
        (Some(old), Some(new)) => changed(zip(pool_settings(old), pool_settings(new))),
        (None, _) | (_, None) => Vec::new(),
    };
    let servers = servers(old.map_or(&[], |pool| &pool.servers), new.map_or(&[], |pool| &pool.servers));
    let order = |pool: &Pool| pool.servers.iter().map(|server| server.name.clone()).collect::<Vec<_>>();
    let reordered = match (old, new) {
        (Some(old), Some(new)) => servers.is_empty() && order(old) != order(new),
        (None, _) | (_, None) => false,
    };
    let change = change(old, new);
    let same = change == Change::Changed && settings.is_empty() && servers.is_empty() && !reordered;
    (!same).then(|| PoolDiff { name: either.name.to_string(), change, settings, servers, reordered })
}

fn pool_settings(pool: &Pool) -> [(&'static str, String); 17] {
    // Taking it apart makes a new term fail to compile until it is compared.
    let Terms {
        connect_ms,
        connect_attempts,
        idle_ms,
        half_close_ms,
        lifetime_ms,
        sources,
        keepalive,
        user_timeout_ms,
        queue,
        send_proxy,
    } = &pool.terms;
    let Care { check, eject, fail_open, on_down } = &pool.care;
    let sources: Vec<String> = sources.iter().map(|ip| format!("\"{ip}\"")).collect();
    [
        ("kind", print::string(pool.kind.name())),
        ("policy", print::string(pool.policy.name())),
        ("connect_timeout", print::duration(*connect_ms)),
        ("connect_attempts", connect_attempts.to_string()),
        ("idle_timeout", print::duration(*idle_ms)),
        ("half_close_timeout", print::duration(*half_close_ms)),
        ("max_lifetime", print::duration(*lifetime_ms)),
        ("source", format!("[{}]", sources.join(", "))),
        ("keepalive", print::keepalive(*keepalive)),
        ("user_timeout", print::duration(*user_timeout_ms)),
        ("queue", print::queue(*queue)),
        ("send_proxy", print::string(print::send_proxy(*send_proxy))),
        ("check", print_check(check.as_ref(), *send_proxy).unwrap_or_else(none)),
        ("eject", print_eject(*eject)),
        ("fail_open", fail_open.to_string()),
        ("on_down", print::string(on_down.name())),
        ("slow_start", print::duration(pool.slow_start_ms)),
    ]
}

/// Servers by name and address: those that go first, then the rest in the order of the new file.
fn servers(old: &[Server], new: &[Server]) -> Vec<ServerDiff> {
    fn index(servers: &[Server]) -> BTreeMap<(&str, &Address), &Server> {
        let identity = |server| -> ((&str, &Address), &Server) {
            let server: &Server = server;
            ((&server.name, &server.address), server)
        };
        servers.iter().map(identity).collect()
    }
    let (before, after) = (index(old), index(new));
    let describe = |server: &Server, change, settings| ServerDiff {
        name: server.name.to_string(),
        address: server.address.to_string(),
        change,
        settings,
    };
    let defaults = || {
        [
            ("weight", "1".into()),
            ("max_connections", none()),
            ("connect_rate", none()),
            ("connect_burst", none()),
            ("backup", "false".into()),
            ("state", Standing::Ready.word().into()),
        ]
    };
    let mut found = Vec::new();
    for server in old {
        if !after.contains_key(&(&*server.name, &server.address)) {
            found.push(describe(server, Change::Removed, Vec::new()));
        }
    }
    for server in new {
        let now = server_settings(server);
        match before.get(&(&*server.name, &server.address)) {
            None => found.push(describe(server, Change::Added, changed(zip(defaults(), now)))),
            Some(old) => {
                let settings = changed(zip(server_settings(old), now));
                if !settings.is_empty() {
                    found.push(describe(server, Change::Changed, settings));
                }
            }
        }
    }
    found
}

fn server_settings(server: &Server) -> [(&'static str, String); 6] {
    let most = match server.max_connections {
        0 => none(),
        n => n.to_string(),
    };
    [
        ("weight", server.weight.to_string()),
        ("max_connections", most),
        ("connect_rate", server.connect_rate.map_or_else(none, print::connect_rate)),
        ("connect_burst", server.connect_rate.map_or_else(none, |rate| rate.burst.to_string())),
        ("backup", server.backup.to_string()),
        ("state", server.standing.word().into()),
    ]
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Change::Added => "+",
            Change::Removed => "-",
            Change::Changed => "~",
        })
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} → {}", self.key, self.from, self.to)
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing changes");
        }
        for setting in &self.settings {
            let note = if setting.needs_restart { " (needs a restart)" } else { "" };
            writeln!(f, "~ {setting}{note}")?;
        }
        self.listeners.iter().try_for_each(|listener| write!(f, "{listener}"))?;
        self.pools.iter().try_for_each(|pool| write!(f, "{pool}"))
    }
}

impl fmt::Display for ListenerDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = self.pool.as_ref();
        match self.change {
            Change::Added => {
                let pool = pool.map_or("none", |pool| &pool.to);
                writeln!(f, "+ listener {}: opens {}, pool {pool}", self.name, self.opened.join(", "))
            }
            Change::Removed => {
                let closed = self.closed.join(", ");
                writeln!(f, "- listener {}: closes {closed} (its sessions go on)", self.name)
            }
            Change::Changed => {
                let mut what = Vec::new();
                if !self.opened.is_empty() {
                    what.push(format!("opens {}", self.opened.join(", ")));
                }
                if !self.closed.is_empty() {
                    what.push(format!("closes {} (its sessions go on)", self.closed.join(", ")));
                }
                what.extend(pool.map(|pool| format!("{pool} for new sessions")));
                what.extend(self.role.as_ref().map(|role| format!("{role} for new sessions")));
                writeln!(f, "~ listener {}: {}", self.name, what.join("; "))
            }
        }
    }
}

impl fmt::Display for PoolDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.change {
            Change::Added => writeln!(f, "+ pool {}: {}", self.name, many(self.servers.len(), "server"))?,
            Change::Removed => writeln!(f, "- pool {}: {}", self.name, many(self.servers.len(), "server"))?,
            Change::Changed => {}
        }
        if !self.settings.is_empty() {
            let settings: Vec<String> = self.settings.iter().map(Setting::to_string).collect();
            writeln!(f, "~ pool {}: {}", self.name, settings.join("; "))?;
        }
        for server in &self.servers {
            write!(f, "{} server {}/{} at {}", server.change, self.name, server.name, server.address)?;
            let settings: Vec<String> = match server.change {
                Change::Added => server.settings.iter().map(|s| format!("{} {}", s.key, s.to)).collect(),
                Change::Removed | Change::Changed => server.settings.iter().map(Setting::to_string).collect(),
            };
            if !settings.is_empty() {
                write!(f, ": {}", settings.join("; "))?;
            }
            let drains = server.change == Change::Removed;
            writeln!(f, "{}", if drains { " (drains)" } else { "" })?;
        }
        if self.reordered {
            writeln!(f, "~ pool {}: its servers in another order", self.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ledger::Registry;
    use crate::config::parse;

    const OLD: &str = r#"
        [log]
        format = "json"
        [listeners.web]
        bind = ["127.0.0.1:80", "[::1]:80"]
        pool = "web"
        [listeners.old]
        bind = "127.0.0.1:81"
        pool = "web"
        [pools.web]
        servers = [
          { name = "web1", address = "10.0.0.1:80" },
          { name = "web2", address = "10.0.0.2:80" },
          { name = "web3", address = "10.0.0.3:80" },
        ]
    "#;

    const NEW: &str = r#"
        [global]
        workers = 2
        [log]
        format = "logfmt"
        [listeners.web]
        bind = ["127.0.0.1:80", "127.0.0.2:80"]
        pool = "new"
        [listeners.more]
        bind = "127.0.0.1:82"
        pool = "web"
        [pools.web]
        idle_timeout = "10m"
        servers = [
          { name = "web1", address = "10.0.0.1:80", weight = 2 },
          { name = "web2", address = "10.0.0.9:80", backup = true },
        ]
        [pools.new]
        servers = [{ name = "a", address = "10.0.1.1:80" }]
    "#;

    fn between(old: &str, new: &str) -> Diff {
        let mut registry = Registry::new(1);
        let [old, new] = [old, new].map(|text| parse("t", text, &|_| None).expect("it is right"));
        let old = old.compile(&mut registry, None);
        let new = new.compile(&mut registry, Some(&old));
        diff(&old, &new)
    }

    #[test]
    fn it_reads_well() {
        let shown = between(OLD, NEW).to_string();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(
            lines,
            [
                "~ global.workers \"auto\" → 2 (needs a restart)",
                "~ log.format \"json\" → \"logfmt\"",
                "+ listener more: opens 127.0.0.1:82, pool \"web\"",
                "- listener old: closes 127.0.0.1:81 (its sessions go on)",
                "~ listener web: opens 127.0.0.2:80; closes [::1]:80 (its sessions go on); pool \"web\" → \"new\" for new sessions",
                "+ pool new: 1 server",
                "+ server new/a at 10.0.1.1:80",
                "~ pool web: idle_timeout \"5m\" → \"10m\"",
                "- server web/web2 at 10.0.0.2:80 (drains)",
                "- server web/web3 at 10.0.0.3:80 (drains)",
                "~ server web/web1 at 10.0.0.1:80: weight 1 → 2",
                "+ server web/web2 at 10.0.0.9:80: backup true",
            ]
        );
    }

    #[test]
    fn the_same_file_changes_nothing() {
        let none = between(OLD, OLD);
        assert!(none.is_empty());
        assert_eq!(none.to_string(), "nothing changes\n");
        assert!(between(OLD, &OLD.replace("web1", "webX")).to_string().contains("(drains)"));
    }

    #[test]
    fn a_program_can_read_it() {
        let json = serde_json::to_value(between(OLD, NEW)).expect("plain data");
        assert_eq!(json["listeners"][1]["change"], "removed");
        assert_eq!(json["settings"][0]["needs_restart"], true);
    }

    #[test]
    fn of_a_check_others_see_only_its_kind() {
        let with = |check: &str| OLD.replace("[pools.web]", &format!("[pools.web]\ncheck = {{ {check} }}"));
        let redis = |secret| with(&format!("type = \"send-expect\", send = \"AUTH {secret}\", expect = \"+OK\""));
        let lines = |old: &str, new: &str| between(old, new).without_secrets().to_string();
        assert_eq!(
            lines(&redis("hunter2"), &redis("s3cret")),
            "~ pool web: check { type = \"send-expect\", … } → with other terms\n"
        );
        assert_eq!(
            lines(OLD, &with("type = \"http\", path = \"/health?token=s3cret\"")),
            "~ pool web: check none → { type = \"http\", … }\n"
        );
        assert!(between(&redis("hunter2"), OLD).to_string().contains("hunter2"), "the operator sees all of it");
        assert_eq!(lines(OLD, NEW), between(OLD, NEW).to_string());
    }

    #[test]
    fn another_order_is_seen() {
        let swapped = OLD.replace("web1", "x").replace("web2", "web1").replace("x", "web2");
        let swapped = swapped.replace("10.0.0.1:80", "y").replace("10.0.0.2:80", "10.0.0.1:80");
        let shown = between(OLD, &swapped.replace("\"y\"", "\"10.0.0.2:80\"")).to_string();
        assert_eq!(shown, "~ pool web: its servers in another order\n");
    }
}
