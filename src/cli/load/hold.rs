//! `hold`: opens connections, keeps them idle, and counts how many live to the end.
//!
//! A ping is eight bytes that an echo server sends back. The pings of all connections are spread evenly over the
//! interval, so that they measure the path rather than each other.

use std::io;

use socket2::Socket;

use super::gear::{Drill, Gear, Next, Ready};
use super::pace::Pace;
use super::pattern;
use super::socket::{Dialer, Got, is_connected, send};
use super::tally::Fault;

/// How many connects are under way at once: fewer than any accept queue holds.
const OPENING_MAX: usize = 256;
/// Bytes of a ping.
const PING_BYTES: u64 = 8;

/// What to hold.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many connections.
    pub connections: usize,
    /// How long, once all are open, in nanoseconds.
    pub duration_ns: u64,
    /// Connects a second; as fast as they succeed when absent.
    pub ramp: Option<f64>,
    /// How often each connection is pinged, in nanoseconds.
    pub ping_ns: Option<u64>,
    /// How long a connect or a ping may take, in nanoseconds.
    pub timeout_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Quiet,
    /// So many bytes of the ping have come back.
    Pinged {
        echoed: u64,
    },
    Closed,
}

struct Link {
    socket: Option<Socket>,
    phase: Phase,
    since_ns: u64,
}

/// The state of one thread.
pub struct Hold {
    plan: Plan,
    dialer: Dialer,
    links: Vec<Link>,
    ramp: Option<Pace>,
    opening: usize,
    /// `Some` once all connects are done: when the holding ends.
    until_ns: Option<u64>,
    pings: Option<Pace>,
    next_ping: usize,
    stopped: bool,
}

impl Hold {
    /// Nothing opened yet.
    pub fn new(plan: Plan, dialer: Dialer) -> Self {
        Self {
            dialer,
            links: Vec::with_capacity(plan.connections),
            ramp: None,
            opening: 0,
            until_ns: None,
            pings: None,
            next_ping: 0,
            stopped: false,
            plan,
        }
    }

    fn open(&mut self, now_ns: u64, gear: &mut Gear) {
        let slot = self.links.len();
        self.opening += 1;
        let dialed = self.dialer.dial().and_then(|socket| {
            gear.watch(&socket, slot, true)?;
            Ok(socket)
        });
        let (socket, error) = match dialed {
            Ok(socket) => (Some(socket), None),
            Err(error) => (None, Some(error)),
        };
        self.links.push(Link { socket, phase: Phase::Opening, since_ns: now_ns });
        if let Some(error) = error {
            self.fail_with(slot, &error, gear);
        }
    }

    fn opened(&mut self, slot: usize, gear: &mut Gear) -> io::Result<()> {
        let link = &mut self.links[slot];
        match &link.socket {
            Some(socket) if is_connected(socket)? => {}
            _ => return Ok(()),
        }
        let took_ns = gear.clock.now_ns() - link.since_ns;
        link.phase = Phase::Quiet;
        self.opening -= 1;
        gear.tally.connect.record(took_ns);
        gear.tally.connections += 1;
        gear.tally.open += 1;
        Ok(())
    }

    /// Pings the next connection in turn, if it is quiet.
    fn ping(&mut self, intended_ns: u64, gear: &mut Gear) {
        let slot = self.next_ping;
        self.next_ping = (slot + 1) % self.links.len();
        let link = &mut self.links[slot];
        let (Some(socket), Phase::Quiet) = (&link.socket, link.phase) else {
            return;
        };
        link.since_ns = intended_ns;
        link.phase = Phase::Pinged { echoed: 0 };
        match send(socket, pattern::slice(0, PING_BYTES)) {
            Ok(sent) => gear.tally.bytes_out += sent as u64,
            Err(error) => self.fail_with(slot, &error, gear),
        }
    }

    fn pull(&mut self, slot: usize, closed: bool, gear: &mut Gear) {
        loop {
            let link = &mut self.links[slot];
            let Some(socket) = &link.socket else { return };
            let (count, drained) = match gear.scratch.read(socket, usize::MAX) {
                Ok(Got::Bytes { count, drained }) => (count, drained),
                Ok(Got::Nothing) => return,
                Ok(Got::End) => return self.fail(slot, Fault::ClosedEarly, "closed", gear),
                Err(error) => return self.fail_with(slot, &error, gear),
            };
            gear.tally.bytes_in += count as u64;
            if let Phase::Pinged { echoed } = &mut link.phase {
                let good = pattern::check(*echoed, gear.scratch.kept(count)).is_ok();
                *echoed += count as u64;
                if !good || *echoed > PING_BYTES {
                    return self.fail(slot, Fault::Mismatch, "a ping came back changed", gear);
                }
                if *echoed == PING_BYTES {
                    link.phase = Phase::Quiet;
                    gear.tally.ops += 1;
                    let took_ns = gear.clock.now_ns().saturating_sub(link.since_ns);
                    gear.tally.latency.record(took_ns);
                }
            }
            if drained && !closed {
                return;
            }
        }
    }

    fn fail_with(&mut self, slot: usize, error: &io::Error, gear: &mut Gear) {
        let opening = self.links[slot].phase == Phase::Opening;
        let dialer = &self.dialer;
        gear.tally.fault(Fault::from(error), || match opening {
            true => dialer.complaint(error),
            false => format!("{}: a held connection: {error}", dialer.target()),
        });
        self.retire(slot, gear);
    }

    fn fail(&mut self, slot: usize, fault: Fault, why: &str, gear: &mut Gear) {
        let target = self.dialer.target();
        gear.tally.fault(fault, || format!("{target}: a held connection: {why}"));
        self.retire(slot, gear);
    }

    fn retire(&mut self, slot: usize, gear: &mut Gear) {
        let link = &mut self.links[slot];
        match link.phase {
            Phase::Closed => return,
            Phase::Opening => self.opening -= 1,
            Phase::Quiet | Phase::Pinged { .. } => gear.tally.open -= 1,
        }
        link.phase = Phase::Closed;
        link.socket = None;
    }

    /// Opens what is due; once every connect has been answered, the holding begins.
    fn ramp_up(&mut self, now_ns: u64, gear: &mut Gear) -> Next {
        let plan = self.plan;
        let ramp = self.ramp.get_or_insert_with(|| {
            gear.start();
            Pace::new(plan.ramp, now_ns, plan.connections as u64, u64::MAX)
        });
        let mut due = 0;
        while self.opening + due < OPENING_MAX && ramp.take(now_ns).is_some() {
            due += 1;
        }
        let (over, next_ns) = (ramp.is_over(now_ns), ramp.next_ns());
        for _ in 0..due {
            self.open(now_ns, gear);
        }
        if over && self.opening == 0 {
            let until_ns = now_ns.saturating_add(plan.duration_ns);
            self.until_ns = Some(until_ns);
            if let Some(ping_ns) = plan.ping_ns {
                let rate = self.links.len() as f64 * 1e9 / ping_ns as f64;
                self.pings = Some(Pace::new(Some(rate), now_ns, u64::MAX, until_ns));
            }
            return Next::At(until_ns);
        }
        match next_ns {
            Some(next_ns) if self.opening < OPENING_MAX => Next::At(next_ns),
            _ => Next::Whenever,
        }
    }
}

impl Drill for Hold {
    fn ready(&mut self, slot: usize, ready: Ready, gear: &mut Gear) -> io::Result<()> {
        if self.links[slot].phase == Phase::Opening
            && let Err(error) = self.opened(slot, gear)
        {
            self.fail_with(slot, &error, gear);
        }
        if ready.readable && self.links[slot].phase != Phase::Opening {
            self.pull(slot, ready.closed, gear);
        }
        Ok(())
    }

    fn advance(&mut self, now_ns: u64, gear: &mut Gear) -> io::Result<Next> {
        let Some(until_ns) = self.until_ns else {
            if self.stopped {
                gear.tally.alive = gear.tally.open;
                return Ok(Next::Finished);
            }
            return Ok(self.ramp_up(now_ns, gear));
        };
        if now_ns >= until_ns || gear.tally.open == 0 {
            gear.tally.alive = gear.tally.open;
            return Ok(Next::Finished);
        }
        while let Some(intended_ns) = self.pings.as_mut().and_then(|pings| pings.take(now_ns)) {
            self.ping(intended_ns, gear);
        }
        let next_ns = self.pings.as_ref().and_then(Pace::next_ns);
        Ok(Next::At(next_ns.map_or(until_ns, |next_ns| next_ns.min(until_ns))))
    }

    fn sweep(&mut self, now_ns: u64, gear: &mut Gear) {
        for slot in 0..self.links.len() {
            let link = &self.links[slot];
            let late = now_ns.saturating_sub(link.since_ns) > self.plan.timeout_ns;
            let why = match link.phase {
                Phase::Opening => "no connection within the timeout",
                Phase::Pinged { .. } => "no echo of a ping within the timeout",
                Phase::Quiet | Phase::Closed => continue,
            };
            if late {
                self.fail(slot, Fault::Timeout, why, gear);
            }
        }
    }

    fn stop(&mut self, now_ns: u64) {
        self.stopped = true;
        self.until_ns = self.until_ns.map(|until_ns| until_ns.min(now_ns));
    }
}
