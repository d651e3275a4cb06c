//! `connect` and `request`: a request, its response, and how long that took.
//!
//! | phase | event | next |
//! |---|---|---|
//! | Closed | its turn | Opening, or Asking when the connection stood at once |
//! | Opening | connected | Asking (`connect`), Idle (`request`) |
//! | Idle | an operation is due | Asking |
//! | Asking | the last byte of the response | Closed (`connect`), Idle (`request`) |
//! | any | fault, timeout | Closed, and a short rest before the next try |
//!
//! The path of one operation in a closed loop is a send and a recv; nothing is allocated, and the clock is read once.

use std::collections::VecDeque;
use std::io;

use socket2::Socket;

use super::gear::{Drill, Gear, Next, Ready};
use super::pace::Pace;
use super::pattern;
use super::socket::{Dialer, Got, is_connected, send};
use super::tally::Fault;

/// How long a connection rests after a fault, in nanoseconds: a dead server is not asked in a tight loop.
const REST_NS: u64 = 10_000_000;
/// How many connections are opened at once before a `request` run: fewer than any accept queue holds.
const OPENING_MAX: usize = 256;

/// What every operation is.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Connections at a time.
    pub connections: usize,
    /// A new connection for every operation.
    pub fresh: bool,
    /// Bytes of a request.
    pub request_bytes: u64,
    /// Bytes of a response.
    pub response_bytes: u64,
    /// Responses are checked against the deterministic stream.
    pub verify: bool,
    /// Operations a second; as fast as answers come when absent.
    pub rate: Option<f64>,
    /// Operations to do.
    pub count: u64,
    /// How long operations are started, in nanoseconds.
    pub duration_ns: u64,
    /// How long one operation may take, in nanoseconds.
    pub timeout_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Opening,
    Idle,
    Asking { unsent: u64, received: u64 },
}

struct Link {
    socket: Option<Socket>,
    phase: Phase,
    /// Writability is watched too.
    writable: bool,
    /// When the operation was meant to start.
    intended_ns: u64,
    /// When the operation, or the connect that is no operation, did start.
    since_ns: u64,
}

/// The state of one thread.
pub struct Exchange {
    plan: Plan,
    dialer: Dialer,
    links: Vec<Link>,
    /// Ready for the next operation, longest idle first.
    idle: VecDeque<usize>,
    /// Until when each link rests, in order.
    resting: VecDeque<(u64, usize)>,
    /// `Some` once operations may start.
    pace: Option<Pace>,
    /// Links not opened yet; only before the start of `request`.
    unopened: usize,
    opening: usize,
    asking: usize,
}

impl Exchange {
    /// All connections closed.
    pub fn new(plan: Plan, dialer: Dialer) -> Self {
        let closed = || Link { socket: None, phase: Phase::Closed, writable: false, intended_ns: 0, since_ns: 0 };
        let links = (0..plan.connections).map(|_| closed()).collect();
        let (idle, unopened) = match plan.fresh {
            true => ((0..plan.connections).collect(), 0),
            false => (VecDeque::with_capacity(plan.connections), plan.connections),
        };
        Self {
            dialer,
            links,
            idle,
            resting: VecDeque::with_capacity(plan.connections),
            pace: None,
            unopened,
            opening: 0,
            asking: 0,
            plan,
        }
    }

    /// Opens the connections of `request`; the schedule starts when each has been tried.
    fn prepare(&mut self, now_ns: u64, gear: &mut Gear) -> io::Result<()> {
        while self.unopened > 0 && self.opening < OPENING_MAX {
            self.unopened -= 1;
            self.open(self.unopened, now_ns, now_ns, gear);
        }
        if self.unopened > 0 || self.opening > 0 {
            return Ok(());
        }
        if !self.plan.fresh && gear.tally.connections == 0 {
            // Nothing answers: there is nothing to measure.
            self.plan.count = 0;
        }
        gear.start();
        let origin_ns = gear.clock.now_ns();
        let until_ns = origin_ns.saturating_add(self.plan.duration_ns);
        let pace = Pace::new(self.plan.rate, origin_ns, self.plan.count, until_ns);
        self.pace = Some(pace);
        Ok(())
    }

    /// Starts operations on links that are idle, as far as they are due.
    fn start_due(&mut self, now_ns: u64, gear: &mut Gear) {
        let mut now_ns = now_ns;
        // Each at most once: an operation may end within its start, and the loop must turn.
        for turn in 0..self.idle.len() {
            if turn > 0 {
                now_ns = gear.clock.now_ns();
            }
            let Some(pace) = &mut self.pace else { return };
            let Some(intended_ns) = pace.take(now_ns) else {
                return;
            };
            let Some(slot) = self.idle.pop_front() else {
                return;
            };
            match self.plan.fresh {
                true => self.open(slot, intended_ns, now_ns, gear),
                false => {
                    let link = &mut self.links[slot];
                    link.intended_ns = intended_ns;
                    link.since_ns = now_ns;
                    self.ask(slot, gear);
                }
            }
        }
    }

    /// Opens a connection; with `fresh`, that starts the operation, and the request goes out with it.
    fn open(&mut self, slot: usize, intended_ns: u64, now_ns: u64, gear: &mut Gear) {
        let link = &mut self.links[slot];
        link.intended_ns = intended_ns;
        link.since_ns = now_ns;
        link.phase = Phase::Opening;
        link.writable = false;
        self.opening += 1;
        match self.dialer.dial() {
            Ok(socket) => self.links[slot].socket = Some(socket),
            Err(error) => return self.fail_with(slot, &error, gear),
        }
        if let Err(error) = self.try_at_once(slot, gear) {
            self.fail_with(slot, &error, gear);
        }
    }

    /// A connect to the own machine has often finished by now: a send tells, and spares an event.
    fn try_at_once(&mut self, slot: usize, gear: &mut Gear) -> io::Result<()> {
        let link = &mut self.links[slot];
        let Some(socket) = &link.socket else {
            return Ok(());
        };
        let fresh = self.plan.fresh;
        if fresh && self.plan.request_bytes > 0 {
            let bytes = pattern::slice(0, self.plan.request_bytes);
            let sent = send(socket, bytes)? as u64;
            let unsent = self.plan.request_bytes - sent;
            link.writable = unsent > 0;
            gear.watch(socket, slot, link.writable)?;
            if sent > 0 {
                gear.tally.bytes_out += sent;
                self.connected(slot, gear);
                self.links[slot].phase = Phase::Asking { unsent, received: 0 };
                self.asking += 1;
                self.finish_if_answered(slot, gear);
            }
            return Ok(());
        }
        if fresh && self.plan.response_bytes == 0 && is_connected(socket)? {
            self.connected(slot, gear);
            self.asking += 1;
            self.links[slot].phase = Phase::Asking { unsent: 0, received: 0 };
            self.finish_if_answered(slot, gear);
            return Ok(());
        }
        link.writable = true;
        gear.watch(socket, slot, true)
    }

    /// Counts a connection that has come to stand.
    fn connected(&mut self, slot: usize, gear: &mut Gear) {
        let took_ns = gear.clock.now_ns() - self.links[slot].since_ns;
        gear.tally.connect.record(took_ns);
        gear.tally.connections += 1;
        gear.tally.open += 1;
        self.opening -= 1;
    }

    fn opened(&mut self, slot: usize, gear: &mut Gear) -> io::Result<()> {
        match &self.links[slot].socket {
            Some(socket) if is_connected(socket)? => {}
            _ => return Ok(()),
        }
        self.connected(slot, gear);
        if self.plan.fresh {
            self.ask(slot, gear);
        } else {
            self.links[slot].phase = Phase::Idle;
            self.idle.push_back(slot);
        }
        Ok(())
    }

    /// Starts the operation of a connection that stands.
    fn ask(&mut self, slot: usize, gear: &mut Gear) {
        self.links[slot].phase = Phase::Asking { unsent: self.plan.request_bytes, received: 0 };
        self.asking += 1;
        match self.push(slot, gear) {
            Ok(()) => self.finish_if_answered(slot, gear),
            Err(error) => self.fail_with(slot, &error, gear),
        }
    }

    /// Sends what is left of the request, as far as the socket takes it.
    fn push(&mut self, slot: usize, gear: &mut Gear) -> io::Result<()> {
        let link = &mut self.links[slot];
        let (Some(socket), Phase::Asking { unsent, .. }) = (&link.socket, &mut link.phase) else {
            return Ok(());
        };
        while *unsent > 0 {
            let bytes = pattern::slice(self.plan.request_bytes - *unsent, *unsent);
            let sent = send(socket, bytes)?;
            *unsent -= sent as u64;
            gear.tally.bytes_out += sent as u64;
            if sent < bytes.len() {
                if !link.writable {
                    link.writable = true;
                    gear.watch_writable(socket, slot)?;
                }
                break;
            }
        }
        Ok(())
    }

    /// Reads what has come of the response; true when that was the rest of it.
    fn pull(&mut self, slot: usize, ready: Ready, gear: &mut Gear) -> Result<bool, Broken> {
        loop {
            let link = &mut self.links[slot];
            let Some(socket) = &link.socket else {
                return Ok(false);
            };
            let got = match self.plan.verify {
                true => gear.scratch.read(socket, usize::MAX)?,
                false => gear.scratch.discard(socket, usize::MAX)?,
            };
            let (count, drained) = match got {
                Got::Nothing => return Ok(false),
                Got::End => return Err(Broken::End),
                Got::Bytes { count, drained } => (count, drained),
            };
            gear.tally.bytes_in += count as u64;
            let Phase::Asking { received, .. } = &mut link.phase else {
                return Err(Broken::Surplus);
            };
            if self.plan.verify {
                pattern::check(*received, gear.scratch.kept(count)).map_err(Broken::Differs)?;
            }
            *received += count as u64;
            if *received > self.plan.response_bytes {
                return Err(Broken::Surplus);
            }
            if *received == self.plan.response_bytes {
                return Ok(true);
            }
            if drained && !ready.closed {
                return Ok(false);
            }
        }
    }

    /// Ends the operation if the response is complete.
    fn finish_if_answered(&mut self, slot: usize, gear: &mut Gear) {
        let link = &mut self.links[slot];
        let Phase::Asking { unsent, received } = link.phase else {
            return;
        };
        if received < self.plan.response_bytes || unsent > 0 {
            return;
        }
        let now_ns = gear.clock.now_ns();
        gear.tally.ops += 1;
        gear.tally.latency.record(now_ns.saturating_sub(link.intended_ns));
        if self.plan.rate.is_some() {
            gear.tally.service.record(now_ns.saturating_sub(link.since_ns));
        }
        self.asking -= 1;
        match self.plan.fresh {
            true => {
                link.socket = None;
                link.phase = Phase::Closed;
                gear.tally.open -= 1;
            }
            false => link.phase = Phase::Idle,
        }
        self.idle.push_back(slot);
        // In a closed loop the next one starts here, with this reading of the clock.
        if !self.plan.fresh {
            self.start_due(now_ns, gear);
        }
    }

    /// Reads, and ends the operation with the last byte of its response.
    fn read_on(&mut self, slot: usize, ready: Ready, gear: &mut Gear) {
        loop {
            match self.pull(slot, ready, gear) {
                Ok(true) => self.finish_if_answered(slot, gear),
                Ok(false) => return,
                Err(broken) => return self.broken(slot, broken, gear),
            }
            // When the end was announced, it is still to be read.
            if !ready.closed {
                return;
            }
        }
    }

    fn fail_with(&mut self, slot: usize, error: &io::Error, gear: &mut Gear) {
        let fault = Fault::from(error);
        let opening = self.links[slot].phase == Phase::Opening;
        let dialer = &self.dialer;
        gear.tally.fault(fault, || match opening {
            true => dialer.complaint(error),
            false => format!("{}: {error}", dialer.target()),
        });
        self.retire(slot, gear);
    }

    fn fail(&mut self, slot: usize, fault: Fault, why: &str, gear: &mut Gear) {
        let target = self.dialer.target();
        gear.tally.fault(fault, || format!("{target}: {why}"));
        self.retire(slot, gear);
    }

    /// Closes a link after a fault, to be used again after a rest.
    fn retire(&mut self, slot: usize, gear: &mut Gear) {
        let link = &mut self.links[slot];
        match link.phase {
            Phase::Closed => {}
            Phase::Opening => {
                self.opening -= 1;
                // A reconnect in vain uses up an operation, so that a count comes to its end.
                if let (false, Some(pace)) = (self.plan.fresh, &mut self.pace) {
                    pace.forfeit();
                }
            }
            Phase::Idle => self.idle.retain(|other| *other != slot),
            Phase::Asking { .. } => self.asking -= 1,
        }
        if !matches!(link.phase, Phase::Closed | Phase::Opening) {
            gear.tally.open -= 1;
        }
        link.phase = Phase::Closed;
        link.socket = None;
        let rested_ns = gear.clock.now_ns() + REST_NS;
        self.resting.push_back((rested_ns, slot));
    }

    /// Takes links back into service that have rested.
    fn wake_rested(&mut self, now_ns: u64, gear: &mut Gear) {
        while let Some((rested_ns, slot)) = self.resting.front().copied() {
            if rested_ns > now_ns {
                break;
            }
            self.resting.pop_front();
            if self.plan.fresh {
                self.idle.push_back(slot);
            } else if self.pace.is_none() {
                // One try each before the start.
                self.resting.push_back((now_ns + REST_NS, slot));
            } else {
                self.open(slot, now_ns, now_ns, gear);
            }
        }
    }

    fn broken(&mut self, slot: usize, broken: Broken, gear: &mut Gear) {
        match broken {
            Broken::Failed(error) => self.fail_with(slot, &error, gear),
            Broken::End => {
                let why = match self.links[slot].phase {
                    Phase::Asking { received, .. } => {
                        format!("closed after {received} of {} bytes of the response", self.plan.response_bytes)
                    }
                    _ => "closed a connection that was idle".to_owned(),
                };
                self.fail(slot, Fault::ClosedEarly, &why, gear);
            }
            Broken::Surplus => {
                let why = format!("sent more than the {} bytes of a response", self.plan.response_bytes);
                self.fail(slot, Fault::Mismatch, &why, gear);
            }
            Broken::Differs(offset) => {
                let why = format!("the response differs from the stream at offset {offset}");
                self.fail(slot, Fault::Mismatch, &why, gear);
            }
        }
    }
}

/// Why a connection is no good any more.
enum Broken {
    Failed(io::Error),
    End,
    Surplus,
    Differs(u64),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Broken::Failed(error)
    }
}

impl Drill for Exchange {
    fn ready(&mut self, slot: usize, ready: Ready, gear: &mut Gear) -> io::Result<()> {
        let phase = self.links[slot].phase;
        if phase == Phase::Closed {
            return Ok(());
        }
        if phase == Phase::Opening && (ready.writable || ready.closed) {
            if let Err(error) = self.opened(slot, gear) {
                self.fail_with(slot, &error, gear);
                return Ok(());
            }
        } else if matches!(phase, Phase::Asking { unsent: 1.., .. })
            && ready.writable
            && let Err(error) = self.push(slot, gear)
        {
            self.fail_with(slot, &error, gear);
            return Ok(());
        }
        self.finish_if_answered(slot, gear);
        if ready.readable {
            self.read_on(slot, ready, gear);
        }
        Ok(())
    }

    fn advance(&mut self, now_ns: u64, gear: &mut Gear) -> io::Result<Next> {
        if self.pace.is_none() {
            self.prepare(now_ns, gear)?;
        }
        if !self.pace.as_ref().is_some_and(|pace| pace.is_over(now_ns)) {
            self.wake_rested(now_ns, gear);
        }
        self.start_due(now_ns, gear);
        let Some(pace) = &self.pace else {
            return Ok(Next::Whenever);
        };
        let backlog = pace.backlog(now_ns);
        gear.tally.backlog_max = gear.tally.backlog_max.max(backlog);
        if pace.is_over(now_ns) {
            if self.asking + self.opening == 0 {
                gear.tally.missed = backlog;
                return Ok(Next::Finished);
            }
            return Ok(Next::Whenever);
        }
        let mut at_ns = pace.until_ns();
        if let Some((rested_ns, _)) = self.resting.front() {
            at_ns = at_ns.min(*rested_ns);
        }
        if !self.idle.is_empty() {
            match pace.next_ns() {
                Some(next_ns) => at_ns = at_ns.min(next_ns),
                None => return Ok(Next::Now),
            }
        }
        Ok(Next::At(at_ns))
    }

    fn sweep(&mut self, now_ns: u64, gear: &mut Gear) {
        for slot in 0..self.links.len() {
            let link = &self.links[slot];
            let waits = matches!(link.phase, Phase::Opening | Phase::Asking { .. });
            if waits && now_ns.saturating_sub(link.since_ns) > self.plan.timeout_ns {
                let why = match link.phase {
                    Phase::Opening => "no connection within the timeout",
                    _ => "no complete response within the timeout",
                };
                self.fail(slot, Fault::Timeout, why, gear);
            }
        }
    }

    fn stop(&mut self, now_ns: u64) {
        match &mut self.pace {
            Some(pace) => pace.stop(now_ns),
            None => {
                self.plan.count = 0;
                self.unopened = 0;
            }
        }
    }
}
