//! What happened between two looks at the daemon: rates, from counters that only count up.

use std::collections::HashMap;

use super::history::tenths;
use super::status::{ListenerStatus, ServerStatus, Status};

/// What flowed, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flow {
    /// Connections: accepted by a listener, or made to a server.
    pub connections_s: f64,
    /// Those that failed.
    pub failed_s: f64,
    /// Bytes from clients to servers.
    pub bytes_in_s: f64,
    /// Bytes from servers to clients.
    pub bytes_out_s: f64,
}

/// The earlier of two looks, ready to be compared with.
#[derive(Debug)]
pub struct Earlier<'a> {
    seconds: f64,
    listeners: HashMap<&'a str, &'a ListenerStatus>,
    /// By pool, name and address: a server that moved is another one.
    servers: HashMap<(&'a str, &'a str, &'a str), &'a ServerStatus>,
}

impl<'a> Earlier<'a> {
    /// A look at `status`, so many seconds before the one it is compared with.
    pub fn new(status: &'a Status, seconds: f64) -> Self {
        let servers = status.pools.iter().flat_map(|pool| {
            let key = |server: &'a ServerStatus| (&*pool.name, &*server.name, &*server.address);
            pool.servers.iter().map(move |server| (key(server), server))
        });
        Self {
            seconds: seconds.max(0.001),
            listeners: status.listeners.iter().map(|listener| (&*listener.name, listener)).collect(),
            servers: servers.collect(),
        }
    }

    /// What a listener did since; nothing when it was not there, or its counters began anew.
    pub fn listener(&self, now: &ListenerStatus) -> Flow {
        let Some(then) = self.listeners.get(&*now.name) else { return Flow::default() };
        Flow {
            connections_s: self.rate(now.accepted, then.accepted),
            failed_s: self.rate(now.failed, then.failed),
            bytes_in_s: self.rate(now.bytes_in, then.bytes_in),
            bytes_out_s: self.rate(now.bytes_out, then.bytes_out),
        }
    }

    /// What a server did since; as [`Earlier::listener`].
    pub fn server(&self, pool: &str, now: &ServerStatus) -> Flow {
        let Some(then) = self.servers.get(&(pool, &*now.name, &*now.address)) else { return Flow::default() };
        Flow {
            connections_s: self.rate(now.connects, then.connects),
            failed_s: self.rate(now.connects_failed, then.connects_failed),
            bytes_in_s: self.rate(now.bytes_in, then.bytes_in),
            bytes_out_s: self.rate(now.bytes_out, then.bytes_out),
        }
    }

    fn rate(&self, now: u64, then: u64) -> f64 {
        tenths(now.saturating_sub(then) as f64 / self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::panel::tests::panel;
    use crate::observe::status::status;

    #[test]
    fn rates_are_differences_and_never_negative() {
        let then = status(&panel());
        let mut now = then.clone();
        now.listeners[0].accepted = 25;
        now.listeners[0].failed = 1;
        now.pools[0].servers[1].connects = 5;
        now.pools[0].servers[1].bytes_out = 4_000;
        let earlier = Earlier::new(&then, 2.0);
        let flow = earlier.listener(&now.listeners[0]);
        assert_eq!((flow.connections_s, flow.failed_s), (12.5, 0.5));
        let flow = earlier.server("web", &now.pools[0].servers[1]);
        assert_eq!(flow, Flow { connections_s: 2.5, bytes_out_s: 2_000.0, ..Flow::default() });
        assert_eq!(Earlier::new(&now, 1.0).listener(&then.listeners[0]), Flow::default(), "counters began anew");
        now.pools[0].servers[1].address = "10.9.9.9:80".into();
        assert_eq!(earlier.server("web", &now.pools[0].servers[1]), Flow::default(), "another server");
    }
}
