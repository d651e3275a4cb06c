//! The effective configuration: the draft as TOML again, every default written out.
//!
//! What is printed reads back as the same draft. No key that works today holds a secret; the one that comes first is
//! masked here.

use std::fmt::Write as _;

use super::checks::{print_check, print_eject};
use super::draft::{Draft, PoolDraft, ServerDraft};
use super::ledger::Standing;
use super::plan::{ConnectRate, Engine, Keepalive, Kind, LogFormat, LogTarget, Per, Policy, Queue, Workers};
use super::value::{duration_text, unexpanded};
use crate::proxy_protocol::Version;

impl Draft {
    /// The effective configuration as TOML.
    pub fn print(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let global = &self.global;
        writeln!(out, "[global]")?;
        writeln!(out, "workers = {}", workers(global.workers))?;
        writeln!(out, "engine = {}", string(global.engine.name()))?;
        match global.max_connections {
            Some(most) => writeln!(out, "max_connections = {most}")?,
            None => writeln!(out, "# max_connections: what the fd limit allows")?,
        }
        match &global.user {
            Some(user) => writeln!(out, "user = {}", string(user))?,
            None => writeln!(out, "# user: the one that starts ringway")?,
        }
        match &global.group {
            Some(group) => writeln!(out, "group = {}", string(group))?,
            None => writeln!(out, "# group: the primary group of the user")?,
        }
        writeln!(out, "drain_timeout = {}", duration(global.drain_ms))?;
        match &global.state_dir {
            Some(path) => writeln!(out, "state_dir = {}", string(&path.to_string_lossy()))?,
            None => writeln!(out, "# state_dir: the directory of this file")?,
        }

        writeln!(out, "\n[log]")?;
        writeln!(out, "target = {}", string(&self.log.target.to_string()))?;
        writeln!(out, "format = {}", string(self.log.format.name()))?;
        writeln!(out, "access = {}", self.log.access)?;
        if let Some(path) = self.log.target.socket() {
            writeln!(out, "socket = {}", string(&path.to_string_lossy()))?;
        }

        writeln!(out, "\n[admin]")?;
        match &self.admin.socket {
            Some(path) => writeln!(out, "socket = {}", string(&path.to_string_lossy()))?,
            None => writeln!(out, "# socket: none")?,
        }
        match &self.admin.http {
            Some(http) => writeln!(out, "http = \"{http}\"")?,
            None => writeln!(out, "# http: none")?,
        }
        match &self.admin.haproxy_socket {
            Some(path) => writeln!(out, "haproxy_socket = {}", string(&path.to_string_lossy()))?,
            None => writeln!(out, "# haproxy_socket: none")?,
        }

        for listener in &self.listeners {
            writeln!(out, "\n[listeners.{}]", key(&listener.name.value))?;
            let binds = listener.binds.iter().map(|bind| string(&bind.value.to_string()));
            writeln!(out, "bind = [{}]", binds.collect::<Vec<_>>().join(", "))?;
            writeln!(out, "pool = {}", string(&listener.pool.value))?;
            if let Some(wish) = &listener.role {
                writeln!(out, "role = \"{}\"", wish.value.role.name())?;
                if wish.value.fallback {
                    writeln!(out, "fallback = \"primary\"")?;
                }
            }
        }
        self.pools.iter().try_for_each(|pool| write_pool(out, pool))
    }
}

fn write_pool(out: &mut String, pool: &PoolDraft) -> std::fmt::Result {
    writeln!(out, "\n[pools.{}]", key(&pool.name.value))?;
    writeln!(out, "kind = {}", string(pool.kind.name()))?;
    writeln!(out, "policy = {}", string(pool.policy.name()))?;
    writeln!(out, "servers = [")?;
    for server in &pool.servers {
        let (name, address) = (&server.name.value, server.address.value.to_string());
        write!(out, "  {{ name = {}, address = {}", string(name), string(&address))?;
        write!(out, ", weight = {}", server.weight)?;
        if server.max_connections > 0 {
            write!(out, ", max_connections = {}", server.max_connections)?;
        }
        if let Some(rate) = server.connect_rate {
            write!(out, ", connect_rate = {}, connect_burst = {}", connect_rate(rate), rate.burst)?;
        }
        writeln!(out, ", backup = {} }},{}", server.backup, origin(server))?;
    }
    for server in &pool.removed {
        let (name, address) = (&server.name.value, server.address.value.to_string());
        writeln!(out, "  # {{ name = {}, address = {} }}: removed by the overlay", string(name), string(&address))?;
    }
    writeln!(out, "]")?;
    let terms = &pool.terms;
    writeln!(out, "connect_timeout = {}", duration(terms.connect_ms))?;
    writeln!(out, "connect_attempts = {}", terms.connect_attempts)?;
    writeln!(out, "idle_timeout = {}", duration(terms.idle_ms))?;
    writeln!(out, "half_close_timeout = {}", duration(terms.half_close_ms))?;
    writeln!(out, "max_lifetime = {}", duration(terms.lifetime_ms))?;
    let sources: Vec<String> = terms.sources.iter().map(|ip| format!("\"{ip}\"")).collect();
    writeln!(out, "source = [{}]", sources.join(", "))?;
    writeln!(out, "keepalive = {}", keepalive(terms.keepalive))?;
    writeln!(out, "user_timeout = {}", duration(terms.user_timeout_ms))?;
    writeln!(out, "queue = {}", queue(terms.queue))?;
    writeln!(out, "send_proxy = \"{}\"", send_proxy(terms.send_proxy))?;
    writeln!(out, "slow_start = {}", duration(pool.slow_start_ms))?;
    let care = &pool.care;
    match print_check(care.check.as_ref(), terms.send_proxy) {
        Some(check) => writeln!(out, "check = {check}")?,
        None => writeln!(out, "check = \"off\"")?,
    }
    writeln!(out, "eject = {}", print_eject(care.eject))?;
    writeln!(out, "fail_open = {}", care.fail_open)?;
    writeln!(out, "on_down = \"{}\"", care.on_down.name())
}

/// What of a server is not the file's.
fn origin(server: &ServerDraft) -> String {
    let mut text = String::from(if server.overlaid { " # added by the overlay" } else { "" });
    let Some(before) = &server.set else { return text };
    let mut set = Vec::new();
    if server.standing != Standing::Ready {
        set.push(format!("state {}", server.standing.word()));
    }
    if let Some(weight) = before.weight {
        set.push(format!("weight (without it {weight})"));
    }
    if let Some(most) = before.max_connections {
        let most = if most == 0 { "none".to_owned() } else { most.to_string() };
        set.push(format!("max_connections (without it {most})"));
    }
    text.push_str(if text.is_empty() { " # set by the overlay: " } else { "; set by it: " });
    text + &set.join(", ")
}

/// `connect_rate` as its value in the file.
pub(super) fn connect_rate(rate: ConnectRate) -> String {
    let per = match rate.per {
        Per::Second => "s",
        Per::Minute => "m",
    };
    format!("\"{}/{per}\"", rate.count)
}

/// `queue` as its value in the file.
pub(super) fn queue(queue: Queue) -> String {
    format!("{{ limit = {}, timeout = {} }}", queue.limit, duration(queue.timeout_ms))
}

/// `send_proxy`: its word in the file.
pub(super) fn send_proxy(version: Option<Version>) -> &'static str {
    version.map_or("off", Version::name)
}

/// `keepalive` as its value in the file.
pub(super) fn keepalive(keepalive: Option<Keepalive>) -> String {
    let Some(Keepalive { idle_s, interval_s, count }) = keepalive else {
        return "\"off\"".into();
    };
    let [idle, interval] = [idle_s, interval_s].map(|s| duration(u32::from(s) * 1000));
    format!("{{ idle = {idle}, interval = {interval}, count = {count} }}")
}

/// A duration as its value in the file.
pub(super) fn duration(ms: u32) -> String {
    format!("\"{}\"", duration_text(ms.into()))
}

/// `workers` as its value in the file.
pub(super) fn workers(workers: Workers) -> String {
    match workers {
        Workers::Auto => "\"auto\"".into(),
        Workers::Count(n) => n.to_string(),
    }
}

/// A string as its value in the file: quoted as TOML wants it, with nothing left to expand.
pub(super) fn string(text: &str) -> String {
    toml::Value::String(unexpanded(text)).to_string()
}

/// A name as a key: a dot would divide it.
fn key(name: &str) -> String {
    match name.contains('.') {
        true => format!("\"{name}\""),
        false => name.to_owned(),
    }
}

impl Engine {
    /// Its word in the file.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Auto => "auto",
            Engine::IoUring => "io_uring",
            Engine::Epoll => "epoll",
        }
    }
}

impl LogFormat {
    /// Its word in the file.
    pub fn name(self) -> &'static str {
        match self {
            LogFormat::Json => "json",
            LogFormat::Logfmt => "logfmt",
            LogFormat::Haproxy => "haproxy",
        }
    }
}

impl Kind {
    /// Its word in the file.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Tcp => "tcp",
            Kind::Mysql => "mysql",
        }
    }
}

impl Policy {
    /// Its word in the file.
    pub fn name(self) -> &'static str {
        match self {
            Policy::RoundRobin => "round-robin",
            Policy::LeastConnections => "least-connections",
            Policy::RandomTwo => "random-two",
            Policy::SourceHash => "source-hash",
            Policy::Maglev => "maglev",
            Policy::First => "first",
        }
    }
}

impl std::fmt::Display for LogTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LogTarget::Stdout => f.write_str("stdout"),
            LogTarget::File(path) => path.display().fmt(f),
            LogTarget::Syslog(_) => f.write_str("syslog"),
            LogTarget::Journald(_) => f.write_str("journald"),
        }
    }
}
