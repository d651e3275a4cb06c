//! One look at a daemon, with rates since the one before.

use std::time::Duration;

use serde::Serialize;

use crate::control::admin::History;
use crate::observe::history::Sample;
use crate::observe::rates::{Earlier, Flow};
use crate::observe::recent::Told;
use crate::observe::status::{Latency, ServerStatus, Status};

/// What `ringway top` shows, and `--once --json` prints. Rates are those since the look before; latencies those of the last
/// minute.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Reading {
    pub(super) version: String,
    pub(super) pid: u32,
    /// `running` or `draining`.
    pub(super) state: String,
    pub(super) engine: String,
    pub(super) uptime_s: f64,
    pub(super) generation: u64,
    pub(super) last_reload_successful: bool,
    /// Time the rates are of.
    pub(super) interval_s: f64,
    pub(super) sessions: u64,
    pub(super) max_connections: u64,
    pub(super) descriptors: u64,
    pub(super) descriptors_max: u64,
    /// Of all listeners.
    #[serde(flatten)]
    pub(super) flow: Rates,
    pub(super) listeners: Vec<ListenerReading>,
    pub(super) pools: Vec<PoolReading>,
    /// Sessions of each.
    pub(super) workers: Vec<u64>,
    /// The last ones, the oldest first.
    pub(super) events: Vec<Told>,
    /// The last five minutes, one a second; for the sparklines.
    #[serde(skip)]
    pub(super) samples: Vec<Sample>,
}

/// Per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Rates {
    /// Connections accepted by a listener, or made to a server.
    pub(super) connections_s: f64,
    pub(super) failed_s: f64,
    pub(super) bytes_in_s: f64,
    pub(super) bytes_out_s: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ListenerReading {
    pub(super) name: String,
    pub(super) binds: Vec<String>,
    pub(super) pool: String,
    pub(super) sessions: u64,
    pub(super) accepted: u64,
    pub(super) failed: u64,
    #[serde(flatten)]
    pub(super) flow: Rates,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct PoolReading {
    pub(super) name: String,
    pub(super) policy: String,
    pub(super) waiting: u64,
    pub(super) retries: u64,
    pub(super) connect: Latency,
    pub(super) first_byte: Latency,
    pub(super) servers: Vec<ServerReading>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ServerReading {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) state: String,
    /// Why it is in it, where there is something to say.
    pub(super) reason: String,
    pub(super) role: String,
    pub(super) lag_s: Option<u32>,
    pub(super) backup: bool,
    pub(super) weight: u64,
    pub(super) sessions: u64,
    pub(super) max_connections: u64,
    pub(super) failed: u64,
    #[serde(flatten)]
    pub(super) flow: Rates,
}

impl From<Flow> for Rates {
    fn from(Flow { connections_s, failed_s, bytes_in_s, bytes_out_s }: Flow) -> Self {
        Self { connections_s, failed_s, bytes_in_s, bytes_out_s }
    }
}

impl Reading {
    /// A look at `status`, so long after the earlier one; without one, all rates are 0.
    pub(super) fn new(status: &Status, history: &History, earlier: Option<(&Status, Duration)>) -> Self {
        // Another process counts from nothing.
        let earlier = earlier.filter(|(then, _)| then.pid == status.pid);
        let interval_s = earlier.map_or(0.0, |(_, passed)| passed.as_secs_f64());
        let earlier = earlier.map(|(then, _)| Earlier::new(then, interval_s));
        let listeners = status.listeners.iter().map(|listener| ListenerReading {
            name: listener.name.clone(),
            binds: listener.binds.clone(),
            pool: listener.pool.clone(),
            sessions: listener.sessions,
            accepted: listener.accepted,
            failed: listener.failed,
            flow: earlier.as_ref().map(|earlier| earlier.listener(listener)).unwrap_or_default().into(),
        });
        let listeners: Vec<ListenerReading> = listeners.collect();
        let pools = status.pools.iter().map(|pool| {
            let flow = |server| earlier.as_ref().map(|earlier| earlier.server(&pool.name, server)).unwrap_or_default();
            PoolReading {
                name: pool.name.clone(),
                policy: pool.policy.clone(),
                waiting: pool.waiting,
                retries: pool.retries,
                connect: pool.connect_lately,
                first_byte: pool.first_byte_lately,
                servers: pool.servers.iter().map(|server| self::server(server, flow(server))).collect(),
            }
        });
        Self {
            version: status.version.clone(),
            pid: status.pid,
            state: status.state.clone(),
            engine: status.engine.clone(),
            uptime_s: status.uptime_s,
            generation: status.config.generation,
            last_reload_successful: status.config.last_reload_successful,
            interval_s,
            sessions: status.sessions,
            max_connections: status.max_connections,
            descriptors: status.descriptors,
            descriptors_max: status.descriptors_max,
            flow: sum(&listeners),
            pools: pools.collect(),
            listeners,
            workers: status.workers.iter().map(|worker| worker.sessions).collect(),
            events: history.events.clone(),
            samples: history.samples.clone(),
        }
    }

    /// Lines that its servers, with their pools, listeners and events take.
    pub(super) fn lines(&self) -> usize {
        let servers: usize = self.pools.iter().map(|pool| pool.servers.len() + 1).sum();
        servers + self.listeners.len() + self.events.len()
    }
}

fn server(server: &ServerStatus, flow: Flow) -> ServerReading {
    ServerReading {
        name: server.name.clone(),
        address: server.address.clone(),
        state: server.state.clone(),
        reason: server.reason.clone(),
        role: server.role.clone(),
        lag_s: server.lag_s,
        backup: server.backup,
        weight: server.weight,
        sessions: server.sessions,
        max_connections: server.max_connections,
        failed: server.connects_failed,
        flow: flow.into(),
    }
}

fn sum(listeners: &[ListenerReading]) -> Rates {
    listeners.iter().fold(Rates::default(), |sum, ListenerReading { flow, .. }| Rates {
        connections_s: sum.connections_s + flow.connections_s,
        failed_s: sum.failed_s + flow.failed_s,
        bytes_in_s: sum.bytes_in_s + flow.bytes_in_s,
        bytes_out_s: sum.bytes_out_s + flow.bytes_out_s,
    })
}
