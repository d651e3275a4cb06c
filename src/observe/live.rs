//! What those who watch are told: everything once, then each second what has changed.
//!
//! A [`View`] is a status with rates, cut into rows that can be compared. Rows of servers that do nothing stay the same, so
//! a frame is as long as there is something to say: a thousand idle servers cost nothing. Everybody who watches gets the
//! same frames, so they are made once, however many watch.

use std::collections::BTreeMap;

use serde::Serialize;

use super::history::Sample;
use super::panel::LastReload;
use super::rates::Earlier;
use super::recent::Told;
use super::status::{Latency, Status};

/// One look at the daemon.
#[derive(Clone, Debug)]
pub struct View {
    about: About,
    layout: Layout,
    listeners: Vec<ListenerRow>,
    pools: Vec<PoolRow>,
    servers: Vec<Vec<ServerRow>>,
}

/// What is said each time.
#[derive(Clone, Debug, Serialize)]
struct About {
    version: String,
    state: String,
    engine: String,
    engine_reason: String,
    uptime_s: u64,
    generation: u64,
    applied_unix_s: u64,
    last_reload_successful: bool,
    sessions: u64,
    max_connections: u64,
    descriptors: u64,
    descriptors_max: u64,
    log_dropped: u64,
    /// Sessions of each.
    workers: Vec<u64>,
}

/// What only another configuration changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Layout {
    listeners: Vec<ListenerPlace>,
    pools: Vec<PoolPlace>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct ListenerPlace {
    name: String,
    binds: Vec<String>,
    pool: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct PoolPlace {
    name: String,
    policy: String,
    /// Its servers have roles.
    roles: bool,
    servers: Vec<ServerPlace>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct ServerPlace {
    name: String,
    address: String,
    #[serde(skip_serializing_if = "is_default")]
    backup: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct ListenerRow {
    #[serde(skip_serializing_if = "is_default")]
    sessions: u64,
    #[serde(skip_serializing_if = "is_default")]
    accepted: u64,
    #[serde(skip_serializing_if = "is_default")]
    accepted_s: f64,
    #[serde(skip_serializing_if = "is_default")]
    failed: u64,
    #[serde(skip_serializing_if = "is_default")]
    in_s: f64,
    #[serde(skip_serializing_if = "is_default")]
    out_s: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct PoolRow {
    #[serde(skip_serializing_if = "is_default")]
    waiting: u64,
    #[serde(skip_serializing_if = "is_default")]
    retries: u64,
    #[serde(skip_serializing_if = "is_default")]
    connect: Latency,
    #[serde(skip_serializing_if = "is_default")]
    first_byte: Latency,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct ServerRow {
    state: String,
    #[serde(skip_serializing_if = "is_default")]
    role: String,
    #[serde(skip_serializing_if = "is_default")]
    lag_s: Option<u32>,
    weight: u64,
    #[serde(skip_serializing_if = "is_default")]
    sessions: u64,
    #[serde(skip_serializing_if = "is_default")]
    max_connections: u64,
    #[serde(skip_serializing_if = "is_default")]
    connects: u64,
    #[serde(skip_serializing_if = "is_default")]
    connects_s: f64,
    #[serde(skip_serializing_if = "is_default")]
    failed: u64,
    #[serde(skip_serializing_if = "is_default")]
    in_s: f64,
    #[serde(skip_serializing_if = "is_default")]
    out_s: f64,
    /// Why it is not up, or has no role.
    #[serde(skip_serializing_if = "is_default")]
    reason: String,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What is told beside the rows: what happened since the last frame, or all that is remembered.
#[derive(Clone, Debug, Default, Serialize)]
pub struct News {
    /// Samples, the oldest first.
    pub samples: Vec<Sample>,
    /// Events, the oldest first.
    pub events: Vec<Told>,
    /// What became of the last reload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reload: Option<LastReload>,
}

/// One frame. Rows go by their places in the layout; of servers by those of pool and server, as in `0/3`.
#[derive(Serialize)]
struct Frame<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    layout: Option<&'a Layout>,
    about: &'a About,
    listeners: BTreeMap<usize, &'a ListenerRow>,
    pools: BTreeMap<usize, &'a PoolRow>,
    servers: BTreeMap<String, &'a ServerRow>,
    #[serde(flatten)]
    news: &'a News,
}

impl View {
    /// A look at `status`; the earlier one gives the rates.
    pub fn new(status: &Status, earlier: Option<&Earlier<'_>>) -> Self {
        let servers = status.pools.iter().map(|pool| {
            let rows = pool.servers.iter().map(|server| {
                let flow = earlier.map(|earlier| earlier.server(&pool.name, server)).unwrap_or_default();
                ServerRow {
                    state: server.state.clone(),
                    role: server.role.clone(),
                    lag_s: server.lag_s,
                    weight: server.weight,
                    sessions: server.sessions,
                    max_connections: server.max_connections,
                    connects: server.connects,
                    connects_s: flow.connections_s,
                    failed: server.connects_failed,
                    in_s: flow.bytes_in_s,
                    out_s: flow.bytes_out_s,
                    reason: match (server.state.as_str(), server.role_reason.as_str()) {
                        ("up", "") => String::new(),
                        ("up", no_role) => format!("no role: {no_role}"),
                        _ => server.reason.clone(),
                    },
                }
            });
            rows.collect()
        });
        let listeners = status.listeners.iter().map(|listener| {
            let flow = earlier.map(|earlier| earlier.listener(listener)).unwrap_or_default();
            ListenerRow {
                sessions: listener.sessions,
                accepted: listener.accepted,
                accepted_s: flow.connections_s,
                failed: listener.failed,
                in_s: flow.bytes_in_s,
                out_s: flow.bytes_out_s,
            }
        });
        let pools = status.pools.iter().map(|pool| PoolRow {
            waiting: pool.waiting,
            retries: pool.retries,
            connect: pool.connect_lately,
            first_byte: pool.first_byte_lately,
        });
        Self {
            about: about(status),
            layout: layout(status),
            listeners: listeners.collect(),
            pools: pools.collect(),
            servers: servers.collect(),
        }
    }

    /// All of it, as JSON.
    pub fn whole(&self, news: &News) -> String {
        self.frame(None, news)
    }

    /// What is different from an earlier look, as JSON; all of it where the configuration is another one.
    pub fn since(&self, before: &View, news: &News) -> String {
        self.frame(Some(before).filter(|before| before.layout == self.layout), news)
    }

    fn frame(&self, before: Option<&View>, news: &News) -> String {
        let none = Vec::new();
        let (mut listeners, mut pools, mut servers) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (i, row) in self.listeners.iter().enumerate() {
            if before.and_then(|before| before.listeners.get(i)) != Some(row) {
                listeners.insert(i, row);
            }
        }
        for (i, row) in self.pools.iter().enumerate() {
            if before.and_then(|before| before.pools.get(i)) != Some(row) {
                pools.insert(i, row);
            }
        }
        for (i, rows) in self.servers.iter().enumerate() {
            let old = before.and_then(|before| before.servers.get(i)).unwrap_or(&none);
            for (j, row) in rows.iter().enumerate().filter(|(j, row)| old.get(*j) != Some(row)) {
                servers.insert(format!("{i}/{j}"), row);
            }
        }
        let layout = if before.is_none() { Some(&self.layout) } else { None };
        let frame = Frame { layout, about: &self.about, listeners, pools, servers, news };
        serde_json::to_string(&frame).expect("our own types serialise")
    }
}

fn about(status: &Status) -> About {
    About {
        version: status.version.clone(),
        state: status.state.clone(),
        engine: status.engine.clone(),
        engine_reason: status.engine_reason.clone(),
        uptime_s: status.uptime_s as u64,
        generation: status.config.generation,
        applied_unix_s: status.config.applied_unix_s as u64,
        last_reload_successful: status.config.last_reload_successful,
        sessions: status.sessions,
        max_connections: status.max_connections,
        descriptors: status.descriptors,
        descriptors_max: status.descriptors_max,
        log_dropped: status.log_dropped,
        workers: status.workers.iter().map(|worker| worker.sessions).collect(),
    }
}

fn layout(status: &Status) -> Layout {
    let listeners = status.listeners.iter().map(|listener| ListenerPlace {
        name: listener.name.clone(),
        binds: listener.binds.clone(),
        pool: listener.pool.clone(),
    });
    let pools = status.pools.iter().map(|pool| {
        let servers = pool.servers.iter().map(|server| ServerPlace {
            name: server.name.clone(),
            address: server.address.clone(),
            backup: server.backup,
        });
        PoolPlace {
            name: pool.name.clone(),
            policy: pool.policy.clone(),
            roles: pool.servers.iter().any(|server| !server.role.is_empty()),
            servers: servers.collect(),
        }
    });
    Layout { listeners: listeners.collect(), pools: pools.collect() }
}

/// A frame as `text/event-stream` has it (HTML, "Server-sent events"). `data` is JSON, in which line ends are escaped: so it
/// is one line, whatever is in it.
pub fn event_stream(event: &str, id: &str, data: &str) -> String {
    format!("event: {event}\nid: {id}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::observe::panel::tests::panel;
    use crate::observe::status::status;

    fn read(frame: &str) -> Value {
        serde_json::from_str(frame).expect("JSON")
    }

    #[test]
    fn only_what_has_changed_is_told_again() {
        let then = status(&panel());
        let mut now = then.clone();
        now.pools[0].servers[1].state = "down".into();
        now.pools[0].servers[1].reason = "connection refused".into();
        now.listeners[0].accepted = 10;
        let before = View::new(&then, None);
        let after = View::new(&now, Some(&Earlier::new(&then, 1.0)));

        let whole = read(&before.whole(&News::default()));
        assert_eq!(whole["layout"]["pools"][0]["servers"][1]["address"], "10.0.0.22:80");
        assert_eq!(whole["servers"].as_object().map(|rows| rows.len()), Some(2));
        assert_eq!(whole["servers"]["0/0"]["state"], "up");

        let some = read(&after.since(&before, &News::default()));
        assert!(some.get("layout").is_none());
        assert_eq!(some["servers"].as_object().map(|rows| rows.len()), Some(1));
        assert_eq!(some["servers"]["0/1"]["reason"], "connection refused");
        assert_eq!(some["listeners"]["0"]["accepted_s"], 10.0);
        let quiet = read(&after.since(&after, &News::default()));
        assert!(quiet["servers"].as_object().is_some_and(|rows| rows.is_empty()), "{quiet}");
    }

    #[test]
    fn another_configuration_is_told_as_a_whole() {
        let then = status(&panel());
        let mut now = then.clone();
        now.pools[0].servers.remove(0);
        let frame = read(&View::new(&now, None).since(&View::new(&then, None), &News::default()));
        assert_eq!(frame["layout"]["pools"][0]["servers"][0]["name"], "web2");
        assert_eq!(frame["servers"].as_object().map(|rows| rows.len()), Some(1));
    }

    #[test]
    fn nothing_in_a_name_ends_a_frame() {
        let mut hostile = status(&panel());
        hostile.pools[0].servers[0].name = "x\n\nevent: all\rdata: </script><img src=x onerror=alert(1)>".into();
        let frame = event_stream("all", "1.2.3", &View::new(&hostile, None).whole(&News::default()));
        assert_eq!(frame.matches('\n').count(), 4, "{frame}");
        assert!(!frame.contains('\r') && frame.ends_with("\n\n"));
        let data = frame.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
        assert_eq!(read(data)["layout"]["pools"][0]["servers"][0]["name"], hostile.pools[0].servers[0].name);
    }
}
