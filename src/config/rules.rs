//! What is wrong only between sections: names that lead nowhere, addresses claimed twice, pools that cannot serve.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::complaints::{At, did_you_mean, quote};
use super::draft::{Draft, PoolDraft};
use super::maglev;
use super::mysql;
use super::plan::{Address, HttpQuestion, HttpTls, Policy, Question, Verify};
use super::read::Reader;
use super::sections::Seen;
use super::value;
use crate::base::limits::MAGLEV_ENTRIES_MAX;

/// Checks all of them.
pub(super) fn check(reader: &mut Reader<'_>, draft: &Draft, seen: &Seen) {
    if seen.listeners == 0 {
        reader.advise(
            &seen.listeners_at,
            "there are no listeners, so there is nothing to do",
            "add [listeners.NAME] with `bind` and `pool`",
        );
    }
    pools_exist(reader, draft, seen);
    binds_are_free(reader, draft);
    for pool in &draft.pools {
        servers_differ(reader, pool);
        somebody_serves(reader, draft, pool);
        sources_fit(reader, pool);
        somebody_can_be_full(reader, draft, pool);
        checks_find_servers(reader, pool);
    }
    maglev_tables_fit(reader, draft);
    mysql::rules(reader, draft);
}

/// Said once, of the pool whose table is one too many.
fn maglev_tables_fit(reader: &mut Reader<'_>, draft: &Draft) {
    let mut entries = 0;
    for pool in draft.pools.iter().filter(|pool| pool.policy == Policy::Maglev) {
        entries += maglev::size(pool.servers.iter().filter(|server| server.weight > 0 && !server.backup).count());
        if entries > MAGLEV_ENTRIES_MAX {
            let message = format!(
                "the tables of the maglev pools up to {} have {entries} entries; most is {MAGLEV_ENTRIES_MAX}",
                quote(&pool.name.value)
            );
            let help = "use \"source-hash\" in small pools: it needs no table";
            return reader.advise(&pool.name.at, message, help);
        }
    }
}

fn pools_exist(reader: &mut Reader<'_>, draft: &Draft, seen: &Seen) {
    let Some(pools) = &seen.pools else {
        return;
    };
    for listener in &draft.listeners {
        let wanted = &listener.pool.value;
        if pools.contains(wanted) || reader.complaints.is_full() {
            continue;
        }
        let message =
            format!("listener {} uses pool {}, which does not exist", quote(&listener.name.value), quote(wanted));
        let help = match did_you_mean(wanted, pools.iter().map(String::as_str)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None if value::name("pool", wanted).is_ok() => {
                format!("add [pools.{wanted}] with its servers")
            }
            None => "name a pool of this file".into(),
        };
        reader.advise(&listener.pool.at, message, help);
    }
}

/// Somebody who wants to listen on an address.
struct Claim<'a> {
    address: Address,
    at: &'a At,
    who: String,
}

/// Two claims collide when they are equal, or when one of the same family and port takes every address.
fn binds_are_free(reader: &mut Reader<'_>, draft: &Draft) {
    let mut claims: Vec<Claim<'_>> = Vec::new();
    for listener in &draft.listeners {
        let who = format!("listener {}", quote(&listener.name.value));
        claims.extend(listener.binds.iter().map(|bind| Claim {
            address: bind.value.clone(),
            at: &bind.at,
            who: who.clone(),
        }));
    }
    if let Some(http) = draft.admin.http {
        claims.push(Claim { address: Address::Inet(http), at: &draft.admin_http_at, who: "admin.http".into() });
    }
    if let Some(path) = &draft.admin.haproxy_socket {
        let (at, who) = (&draft.haproxy_socket_at, "admin.haproxy_socket".into());
        claims.push(Claim { address: Address::Unix(path.clone()), at, who });
    }
    claims.sort_by_key(|claim| claim.at.start);
    let mut exact: HashMap<&Address, usize> = HashMap::new();
    let mut every: HashMap<(bool, u16), usize> = HashMap::new();
    let mut some: HashMap<(bool, u16), usize> = HashMap::new();
    for (index, claim) in claims.iter().enumerate() {
        let mut other = exact.get(&claim.address).copied();
        exact.entry(&claim.address).or_insert(index);
        if let Address::Inet(inet) = &claim.address {
            let port = (inet.is_ipv6(), inet.port());
            let (mine, theirs) = match inet.ip().is_unspecified() {
                true => (&mut every, &some),
                false => (&mut some, &every),
            };
            other = other.or_else(|| theirs.get(&port).copied());
            mine.entry(port).or_insert(index);
        }
        if Some(&claim.address) == admin_socket(draft).as_ref() {
            reader.complain(claim.at, format!("{} is the admin socket (admin.socket)", claim.address));
        }
        if let Some(other) = other.and_then(|other| claims.get(other)) {
            complain_of_collision(reader, claim, other);
        }
    }
}

fn admin_socket(draft: &Draft) -> Option<Address> {
    draft.admin.socket.clone().map(Address::Unix)
}

fn complain_of_collision(reader: &mut Reader<'_>, claim: &Claim<'_>, other: &Claim<'_>) {
    let line = reader.complaints.line_of(other.at.start);
    let message = match claim.address == other.address {
        true => format!("{} is taken by {} (line {line})", claim.address, other.who),
        false => {
            format!("{} of {} and {} of {} (line {line}) overlap", claim.address, claim.who, other.address, other.who)
        }
    };
    reader.advise(claim.at, message, "each address and port can be bound once; take one of the two out");
}

fn servers_differ(reader: &mut Reader<'_>, pool: &PoolDraft) {
    let mut names: HashMap<&str, &At> = HashMap::new();
    let mut addresses: HashMap<&Address, &At> = HashMap::new();
    for server in &pool.servers {
        let name: &str = &server.name.value;
        if let Some(first) = names.get(name) {
            let line = reader.complaints.line_of(first.start);
            let message = format!("pool {} has two servers named {}", quote(&pool.name.value), quote(name));
            reader.advise(&server.name.at, message, format!("the first is on line {line}; give this one another name"));
        }
        names.entry(name).or_insert(&server.name.at);
        if let Some(first) = addresses.get(&server.address.value) {
            let line = reader.complaints.line_of(first.start);
            let message = format!("pool {} has two servers at {}", quote(&pool.name.value), server.address.value);
            reader.advise(
                &server.address.at,
                message,
                format!("the first is on line {line}; use `weight` to give one server a larger share"),
            );
        }
        addresses.entry(&server.address.value).or_insert(&server.address.at);
    }
}

fn somebody_serves(reader: &mut Reader<'_>, draft: &Draft, pool: &PoolDraft) {
    if pool.broken {
        return;
    }
    let name = quote(&pool.name.value);
    // Whoever took them out by an overlay finds nothing amiss in the file.
    let without = if pool.removed.is_empty() { "" } else { " without those that are removed from it" };
    if pool.servers.is_empty() {
        let user = draft.listeners.iter().find(|listener| *listener.pool.value == *pool.name.value);
        let otherwise = match user {
            Some(listener) => {
                let line = reader.complaints.line_of(listener.name.at.start);
                format!("remove listener {} (line {line})", quote(&listener.name.value))
            }
            None => "remove the pool".to_owned(),
        };
        let help = format!("add one to `servers`, or {otherwise}");
        return reader.advise(&pool.servers_at, format!("pool {name} has no servers{without}"), help);
    }
    if pool.servers.iter().all(|server| server.backup) {
        let help = "a backup steps in for another server; leave `backup` out of at least one";
        return reader.advise(&pool.servers_at, format!("every server of pool {name} is a backup{without}"), help);
    }
    if pool.servers.iter().all(|server| server.weight == 0) {
        let help = "weight 0 takes no new sessions; give at least one server a weight from 1 to 256";
        reader.advise(&pool.servers_at, format!("every server of pool {name} has weight 0{without}"), help);
    }
}

/// A queue nobody ever waits in promises what it does not hold.
fn somebody_can_be_full(reader: &mut Reader<'_>, draft: &Draft, pool: &PoolDraft) {
    let limited = pool.servers.iter().any(|server| server.max_connections > 0 || server.connect_rate.is_some());
    // Who wants a role waits while nobody has it.
    let mut listeners = draft.listeners.iter().filter(|listener| *listener.pool.value == *pool.name.value);
    let awaited = listeners.any(|listener| listener.role.is_some());
    if pool.terms.queue.limit > 0 && !limited && !awaited && !pool.broken {
        let message = format!("pool {} has a queue, and no server that could be full", quote(&pool.name.value));
        reader.advise(
            &pool.queue_at,
            message,
            "give its servers `max_connections` or `connect_rate`, or take `queue` out",
        );
    }
}

/// A port or a host to check at makes no sense of a path.
fn checks_find_servers(reader: &mut Reader<'_>, pool: &PoolDraft) {
    let (Some(check), Some(at)) = (&pool.care.check, &pool.check_at) else { return };
    let unix = pool.servers.iter().find(|server| matches!(server.address.value, Address::Unix(_)));
    let Some(server) = unix else { return };
    if let Question::Http(HttpQuestion { tls: Some(HttpTls { name: None, verify }), .. }) = &check.question
        && *verify != Verify::Nothing
        && check.address.is_none()
    {
        let name = quote(&server.name.value);
        let message = format!("`check` has no name that the certificate of server {name}, a unix socket, must be for");
        reader.advise(at, message, "add `sni = \"www.example.com\"`");
    }
    if check.port.is_some() == check.address.is_some() {
        return;
    }
    let message = format!(
        "server {} of pool {} is a unix socket, which has neither address nor port",
        quote(&server.name.value),
        quote(&pool.name.value)
    );
    reader.advise(at, message, "give `check` both `address` and `port`, or neither");
}

fn sources_fit(reader: &mut Reader<'_>, pool: &PoolDraft) {
    let sources = &pool.terms.sources;
    let family = |v6: bool| if v6 { "IPv6" } else { "IPv4" };
    let inets: Vec<SocketAddr> = pool
        .servers
        .iter()
        .filter_map(|server| match &server.address.value {
            Address::Inet(inet) => Some(*inet),
            Address::Unix(_) => None,
        })
        .collect();
    for (index, (source, at)) in sources.iter().zip(&pool.sources_at).enumerate() {
        if source.is_unspecified() {
            reader.advise(
                at,
                format!("source {source} is every address"),
                "leave `source` out to let the kernel choose",
            );
        }
        if sources[..index].contains(source) {
            reader.complain(at, format!("source {source} is given twice"));
        }
        if !pool.broken && !inets.is_empty() && inets.iter().all(|inet| inet.is_ipv6() != source.is_ipv6()) {
            let message = format!("source {source} is {}, but no server of the pool is", family(source.is_ipv6()));
            reader.complain(at, message);
        }
    }
    if sources.is_empty() {
        return;
    }
    for server in &pool.servers {
        let who = quote(&server.name.value);
        match &server.address.value {
            Address::Unix(_) => reader.advise(
                &server.address.at,
                format!("server {who} is a unix socket, and the pool has `source`"),
                "a unix socket has no source address; move this server to a pool of its own",
            ),
            Address::Inet(inet) if sources.iter().all(|source| source.is_ipv6() != inet.is_ipv6()) => reader.complain(
                &server.address.at,
                format!("server {who} is {0}, but `source` has no {0} address", family(inet.is_ipv6())),
            ),
            Address::Inet(_) => {}
        }
    }
}
