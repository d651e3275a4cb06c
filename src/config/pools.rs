//! Reads `[pools.NAME]`: policy, servers, and the terms sessions are run on.

use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::checks::care;
use super::complaints::{At, Located, quote};
use super::draft::{PoolDraft, ServerDraft};
use super::keys;
use super::ledger::Standing;
use super::limits;
use super::plan::{Address, ConnectRate, Keepalive, Kind, Policy, Queue, Terms};
use super::print;
use super::read::{Reader, Section, Value, kind};
use super::sections::{Seen, meant, named};
use super::value;
use crate::proxy_protocol::Version;

/// Reads all of them.
pub(super) fn pools(reader: &mut Reader<'_>, root: &Section<'_, '_>, seen: &mut Seen) -> Vec<PoolDraft> {
    let Some(parent) = reader.table(root, "pools") else {
        seen.pools = (!meant(root, "pools")).then(Vec::new);
        return Vec::new();
    };
    let names = parent.table.keys().map(|name| name.get_ref().to_string());
    seen.pools = Some(names.collect());
    if parent.table.len() > limits::POOLS_MAX {
        let message = format!("{} pools; most is {}", parent.table.len(), limits::POOLS_MAX);
        reader.complain(&parent.at, message);
        return Vec::new();
    }
    let mut list = Vec::new();
    for (name, section) in named(reader, &parent, "pools", "pool", &keys::POOL) {
        let kinds = [Kind::Tcp, Kind::Mysql].map(|kind| (kind.name(), kind));
        let kind = reader.choice(&section, "kind", &kinds, &[]).unwrap_or(Kind::Tcp);
        let policies = Policy::ALL.map(|policy| (policy.name(), policy));
        let policy = reader.choice(&section, "policy", &policies, &[]);
        let (servers, broken) = servers(reader, &name.value, &section);
        let (terms, sources_at) = terms(reader, &section, kind);
        let slow_start = reader.duration(&section, "slow_start", &limits::SLOW_START);
        let queue_at = section.table.get("queue").map_or(section.at.clone(), |value| value.span());
        let (care, check_at, check_off) = care(reader, &section, kind, terms.send_proxy);
        let servers_at = section.table.get("servers").map_or(section.at.clone(), |value| value.span());
        list.push(PoolDraft {
            name,
            kind,
            policy: policy.unwrap_or(kind.policy()),
            servers,
            removed: Vec::new(),
            servers_at,
            broken,
            terms,
            slow_start_ms: slow_start.map_or(limits::SLOW_START.default, |time| time.value),
            queue_at,
            sources_at,
            care,
            check_at,
            check_off,
        });
    }
    list
}

impl Kind {
    /// The policy of a pool that names none.
    fn policy(self) -> Policy {
        match self {
            Kind::Tcp => Policy::RoundRobin,
            Kind::Mysql => Policy::LeastConnections,
        }
    }
}

fn terms(reader: &mut Reader<'_>, section: &Section<'_, '_>, kind: Kind) -> (Terms, Vec<At>) {
    let mut duration = |key: &str, limit: &limits::Millis| {
        let read = reader.duration(section, key, limit);
        read.map_or(limit.default, |found| found.value)
    };
    let mut terms = Terms {
        connect_ms: duration("connect_timeout", &limits::CONNECT),
        connect_attempts: limits::CONNECT_ATTEMPTS_DEFAULT,
        idle_ms: match kind {
            Kind::Tcp => duration("idle_timeout", &limits::IDLE),
            Kind::Mysql => duration("idle_timeout", &limits::IDLE_MYSQL),
        },
        half_close_ms: duration("half_close_timeout", &limits::HALF_CLOSE),
        lifetime_ms: duration("max_lifetime", &limits::LIFETIME),
        sources: Vec::new(),
        keepalive: Some(limits::KEEPALIVE_DEFAULT),
        user_timeout_ms: duration("user_timeout", &limits::USER_TIMEOUT),
        queue: Queue { limit: 0, timeout_ms: limits::QUEUE_TIMEOUT.default },
        send_proxy: send_proxy(reader, section).unwrap_or(None),
    };
    let attempts = reader.count(section, "connect_attempts", limits::CONNECT_ATTEMPTS);
    if let Some(attempts) = attempts.and_then(|count| u8::try_from(count.value).ok()) {
        terms.connect_attempts = attempts;
    }
    if let Some(value) = section.table.get("keepalive") {
        terms.keepalive = keepalive(reader, value);
    }
    if let Some(value) = section.table.get("queue") {
        terms.queue = queue(reader, value).unwrap_or(terms.queue);
    }
    let mut sources_at = Vec::new();
    let sources = reader.strings(section, "source", limits::SOURCES_MAX);
    for text in sources.unwrap_or_default() {
        if let Some(source) = reader.check(&text.at, value::ip(&text.value)) {
            terms.sources.push(source.value);
            sources_at.push(source.at);
        }
    }
    (terms, sources_at)
}

/// `send_proxy` of a pool or a check; `None` when it does not say.
pub(super) fn send_proxy(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Option<Option<Version>> {
    let words = [None, Some(Version::V1), Some(Version::V2)].map(|version| (print::send_proxy(version), version));
    reader.choice(section, "send_proxy", &words, &[])
}

fn queue(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Queue> {
    let DeValue::Table(table) = value.get_ref() else {
        let message = format!("`queue` must be a table, found {}", kind(value.get_ref()));
        reader.advise(&value.span(), message, "write { limit = 100, timeout = \"5s\" }");
        return None;
    };
    let section = Section { called: "`queue`".into(), table, at: value.span() };
    reader.keys(&section, &keys::QUEUE);
    let limit = reader.count(&section, "limit", limits::QUEUE_LIMIT);
    let timeout = reader.duration(&section, "timeout", &limits::QUEUE_TIMEOUT);
    Some(Queue {
        limit: limit.map_or(0, |limit| limit.value),
        timeout_ms: timeout.map_or(limits::QUEUE_TIMEOUT.default, |timeout| timeout.value),
    })
}

fn keepalive(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Keepalive> {
    const HELP: &str = "write { idle = \"30s\", interval = \"10s\", count = 3 }, or \"off\"";
    let section = match value.get_ref() {
        DeValue::Table(table) => Section { called: "`keepalive`".into(), table, at: value.span() },
        DeValue::String(_) => {
            let text = reader.string("keepalive", value)?;
            if text.value != "off" {
                reader.advise(&text.at, format!("`keepalive` cannot be {}", quote(&text.value)), HELP);
            }
            return None;
        }
        other => {
            let message = format!("`keepalive` must be a table or \"off\", found {}", kind(other));
            reader.advise(&value.span(), message, HELP);
            return None;
        }
    };
    reader.keys(&section, &keys::KEEPALIVE);
    let mut keepalive = limits::KEEPALIVE_DEFAULT;
    let mut seconds = |key: &str, limit: &limits::Millis| {
        let ms = reader.duration(&section, key, limit)?;
        if ms.value % 1000 != 0 {
            let help = "the kernel counts keepalive in seconds (tcp(7))";
            reader.advise(&ms.at, format!("`{key}` is no whole number of seconds"), help);
        }
        u16::try_from(ms.value / 1000).ok()
    };
    if let Some(idle) = seconds("idle", &limits::KEEPALIVE_IDLE) {
        keepalive.idle_s = idle;
    }
    if let Some(interval) = seconds("interval", &limits::KEEPALIVE_INTERVAL) {
        keepalive.interval_s = interval;
    }
    let count = reader.count(&section, "count", limits::KEEPALIVE_COUNT);
    if let Some(count) = count.and_then(|count| u8::try_from(count.value).ok()) {
        keepalive.count = count;
    }
    Some(keepalive)
}

/// The servers that could be read, and whether some could not.
fn servers(reader: &mut Reader<'_>, pool: &str, section: &Section<'_, '_>) -> (Vec<ServerDraft>, bool) {
    const HELP: &str = "write servers = [{ name = \"a\", address = \"10.0.0.1:80\" }]";
    let Some(value) = section.table.get("servers") else {
        return (Vec::new(), false);
    };
    let DeValue::Array(items) = value.get_ref() else {
        let message = format!("`servers` must be a list of tables, found {}", kind(value.get_ref()));
        reader.advise(&value.span(), message, HELP);
        return (Vec::new(), true);
    };
    if items.len() > limits::SERVERS_MAX {
        let message = format!("pool {} has {} servers; most is {}", quote(pool), items.len(), limits::SERVERS_MAX);
        reader.complain(&value.span(), message);
        return (Vec::new(), true);
    }
    let mut list = Vec::with_capacity(items.len());
    for item in items.iter() {
        match item.get_ref() {
            DeValue::Table(table) => list.extend(server(reader, pool, table, item.span(), &keys::SERVER)),
            other => {
                let message = format!("an entry of `servers` must be a table, found {}", kind(other));
                reader.advise(&item.span(), message, HELP);
            }
        }
    }
    let broken = list.len() < items.len();
    (list, broken)
}

/// Reads one server, from a table that may have `keys`.
pub(super) fn server(
    reader: &mut Reader<'_>,
    pool: &str,
    table: &DeTable<'_>,
    at: At,
    keys: &keys::Keys,
) -> Option<ServerDraft> {
    let mut section = Section { called: format!("a server of pool {}", quote(pool)), table, at };
    let name = match table.get("name") {
        Some(value) => reader.string("name", value).and_then(|text| {
            let named = reader.check(&text.at, value::name("server", &text.value));
            section.called = format!("server {} of pool {}", quote(&text.value), quote(pool));
            named.map(|_| Located::new(Arc::from(text.value), text.at))
        }),
        None => {
            reader.advise(&section.at, format!("{} has no `name`", section.called), "add `name = \"NAME\"`");
            None
        }
    };
    reader.keys(&section, keys);
    let address = match table.get("address") {
        Some(value) => reader
            .string("address", value)
            .and_then(|text| reader.check(&text.at, value::address(&text.value)))
            .filter(|address| reachable(reader, address)),
        None => {
            let help = "add `address = \"10.0.0.1:80\"`";
            reader.advise(&section.at, format!("{} has no `address`", section.called), help);
            None
        }
    };
    let weight = reader.count(&section, "weight", limits::WEIGHT);
    let weight = weight.and_then(|weight| u16::try_from(weight.value).ok()).unwrap_or(1);
    let most = reader.count(&section, "max_connections", limits::CONNECTIONS);
    let connect_rate = connect_rate(reader, &section);
    let backup = reader.boolean(&section, "backup");
    Some(ServerDraft {
        name: name?,
        address: address?,
        weight,
        weight_in_file: weight,
        max_connections: most.map_or(0, |most| most.value),
        connect_rate,
        backup: backup.unwrap_or(false),
        standing: Standing::Ready,
        overlaid: false,
        set: None,
    })
}

/// A rate has a burst of a tenth of a second, unless the file says otherwise.
fn connect_rate(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Option<ConnectRate> {
    let burst = reader.count(section, "connect_burst", limits::CONNECT_RATE);
    let Some(value) = section.table.get("connect_rate") else {
        if let Some(burst) = burst {
            let help = "add `connect_rate = \"200/s\"`, or take `connect_burst` out";
            reader.advise(&burst.at, "`connect_burst` without `connect_rate`", help);
        }
        return None;
    };
    let text = reader.string("connect_rate", value)?;
    let (count, per) = reader.check(&text.at, value::rate(&text.value))?.value;
    let usual = (count / per.seconds() / 10).max(1);
    Some(ConnectRate { count, per, burst: burst.map_or(usual, |burst| burst.value) })
}

/// A server has one address: "every address" is none.
fn reachable(reader: &mut Reader<'_>, address: &Located<Address>) -> bool {
    match &address.value {
        Address::Inet(inet) if inet.ip().is_unspecified() => {
            let message = format!("{} is no address of a server", quote(&address.value.to_string()));
            reader.advise(&address.at, message, format!("write 127.0.0.1:{} for this machine", inet.port()));
            false
        }
        Address::Inet(_) | Address::Unix(_) => true,
    }
}
