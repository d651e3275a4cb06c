//! `stream`: bulk in one or both directions.
//!
//! | direction | partner | a transfer is complete when |
//! |---|---|---|
//! | down | `serve --mode source` | all bytes, or the end, have come |
//! | up | `serve --mode sink` | all bytes are sent, our end is sent, and the end of the partner has come |
//! | both | `serve --mode echo` | the same, and as many bytes have come back as were sent |
//!
//! A connection whose transfer is complete starts another one while the duration lasts and no byte count is asked for.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;

use socket2::Socket;

use super::gear::{Drill, Gear, Next, Ready};
use super::pattern;
use super::socket::{Dialer, Got, is_connected, send};
use super::tally::Fault;

/// The most bytes one connection moves in one direction before it is another one's turn.
const BUDGET_BYTES: u64 = 2 * 1024 * 1024;
/// How long a connection rests before it is opened again, in nanoseconds.
const REST_NS: u64 = 10_000_000;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Direction {
    /// The server sends.
    Down,
    /// We send.
    Up,
    /// We send, and get back what we sent.
    Both,
}

/// What every connection does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Connections at a time.
    pub connections: usize,
    /// Who sends.
    pub direction: Direction,
    /// Bytes of one transfer; without, it goes on to the end of the duration.
    pub bytes: Option<u64>,
    /// What comes is checked against the deterministic stream.
    pub verify: bool,
    /// How long to go on, in nanoseconds.
    pub duration_ns: u64,
    /// How long a connection may stand still, in nanoseconds.
    pub timeout_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Moving,
    /// Our end is sent; theirs has not come yet.
    Ending,
    Closed,
}

struct Link {
    socket: Option<Socket>,
    phase: Phase,
    sent: u64,
    received: u64,
    /// There may be bytes to read, and room to write.
    readable: bool,
    writable: bool,
    /// The end is on its way, so that a short read is not the last.
    closed: bool,
    /// In the queue of those that stopped at their budget.
    queued: bool,
    since_ns: u64,
    moved_ns: u64,
}

/// The state of one thread.
pub struct Stream {
    plan: Plan,
    dialer: Dialer,
    links: Vec<Link>,
    busy: VecDeque<usize>,
    resting: VecDeque<(u64, usize)>,
    until_ns: Option<u64>,
    over: bool,
    running: usize,
}

impl Stream {
    /// All connections closed.
    pub fn new(plan: Plan, dialer: Dialer) -> Self {
        let closed = || Link {
            socket: None,
            phase: Phase::Closed,
            sent: 0,
            received: 0,
            readable: false,
            writable: false,
            closed: false,
            queued: false,
            since_ns: 0,
            moved_ns: 0,
        };
        Self {
            dialer,
            links: (0..plan.connections).map(|_| closed()).collect(),
            busy: VecDeque::with_capacity(plan.connections),
            resting: (0..plan.connections).map(|slot| (0, slot)).collect(),
            until_ns: None,
            over: false,
            running: 0,
            plan,
        }
    }

    fn sends(&self) -> bool {
        self.plan.direction != Direction::Down
    }

    fn open(&mut self, slot: usize, now_ns: u64, gear: &mut Gear) {
        self.running += 1;
        let link = &mut self.links[slot];
        *link = Link {
            socket: None,
            phase: Phase::Opening,
            sent: 0,
            received: 0,
            readable: false,
            writable: false,
            closed: false,
            queued: link.queued,
            since_ns: now_ns,
            moved_ns: now_ns,
        };
        let watched = self.dialer.dial().and_then(|socket| {
            gear.watch(&socket, slot, true)?;
            link.socket = Some(socket);
            Ok(())
        });
        if let Err(error) = watched {
            self.end(slot, Err(Broken::Failed(error)), gear);
        }
    }

    /// Moves what can be moved, up to the budget.
    fn pump(&mut self, slot: usize, gear: &mut Gear) {
        let result = self.try_pump(slot, gear);
        match result {
            Ok(Moved::Waits) => {}
            Ok(Moved::HasMore) => {
                let link = &mut self.links[slot];
                if !link.queued {
                    link.queued = true;
                    self.busy.push_back(slot);
                }
            }
            Ok(Moved::Done) => self.end(slot, Ok(()), gear),
            Err(broken) => self.end(slot, Err(broken), gear),
        }
    }

    fn try_pump(&mut self, slot: usize, gear: &mut Gear) -> Result<Moved, Broken> {
        let before = (self.links[slot].sent, self.links[slot].received);
        let sending = self.links[slot].phase == Phase::Moving && self.sends();
        let mut more = sending && self.push(slot, gear)?;
        match self.pull(slot, gear)? {
            Moved::Done => return Ok(Moved::Done),
            Moved::HasMore => more = true,
            Moved::Waits => {}
        }
        let link = &mut self.links[slot];
        if (link.sent, link.received) != before {
            link.moved_ns = gear.clock.now_ns();
        }
        Ok(match more {
            true => Moved::HasMore,
            false => Moved::Waits,
        })
    }

    /// Sends; true when the budget, not the socket, was the limit.
    fn push(&mut self, slot: usize, gear: &mut Gear) -> io::Result<bool> {
        let wanted = self.plan.bytes.unwrap_or(u64::MAX);
        let link = &mut self.links[slot];
        let Some(socket) = &link.socket else {
            return Ok(false);
        };
        let budget = link.sent.saturating_add(BUDGET_BYTES);
        while link.writable && link.sent < wanted && !self.over {
            if link.sent >= budget {
                return Ok(true);
            }
            let bytes = pattern::slice(link.sent, wanted - link.sent);
            let sent = send(socket, bytes)?;
            link.sent += sent as u64;
            gear.tally.bytes_out += sent as u64;
            link.writable = sent == bytes.len();
        }
        if link.sent >= wanted || self.over {
            socket.shutdown(Shutdown::Write)?;
            link.phase = Phase::Ending;
            link.moved_ns = gear.clock.now_ns();
        }
        Ok(false)
    }

    /// Reads.
    fn pull(&mut self, slot: usize, gear: &mut Gear) -> Result<Moved, Broken> {
        let link = &mut self.links[slot];
        let Some(socket) = &link.socket else {
            return Ok(Moved::Waits);
        };
        let budget = link.received.saturating_add(BUDGET_BYTES);
        while link.readable {
            if link.received >= budget {
                return Ok(Moved::HasMore);
            }
            // Downwards, what a server sends beyond the bytes asked for is left unread.
            let room = match (self.plan.direction, self.plan.bytes) {
                (Direction::Down, Some(bytes)) => bytes - link.received,
                _ => u64::MAX,
            };
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            let got = match self.plan.verify {
                true => gear.scratch.read(socket, room)?,
                false => gear.scratch.discard(socket, room)?,
            };
            let count = match got {
                Got::Nothing => {
                    link.readable = false;
                    continue;
                }
                Got::End => return at_end(&self.plan, link),
                Got::Bytes { count, drained } => {
                    link.readable = !drained || link.closed;
                    count
                }
            };
            gear.tally.bytes_in += count as u64;
            if self.plan.verify {
                pattern::check(link.received, gear.scratch.kept(count)).map_err(Broken::Differs)?;
            }
            link.received += count as u64;
            match self.plan.direction {
                Direction::Down if self.plan.bytes == Some(link.received) => {
                    return Ok(Moved::Done);
                }
                Direction::Up => return Err(Broken::Surplus(0)),
                Direction::Both if link.received > link.sent => {
                    return Err(Broken::Surplus(link.sent));
                }
                Direction::Down | Direction::Both => {}
            }
        }
        Ok(Moved::Waits)
    }

    /// A transfer is over; another one may follow.
    fn end(&mut self, slot: usize, result: Result<(), Broken>, gear: &mut Gear) {
        let link = &mut self.links[slot];
        let now_ns = gear.clock.now_ns();
        let again = match result {
            Ok(()) => {
                gear.tally.ops += 1;
                gear.tally.latency.record(now_ns - link.since_ns);
                self.plan.bytes.is_none()
            }
            Err(broken) => {
                let (fault, why) = broken.spell(link, &self.plan, &self.dialer);
                gear.tally.fault(fault, || why);
                self.plan.bytes.is_none() && fault != Fault::Mismatch
            }
        };
        if matches!(link.phase, Phase::Moving | Phase::Ending) {
            gear.tally.open -= 1;
        }
        link.phase = Phase::Closed;
        link.socket = None;
        self.running -= 1;
        if again && !self.over {
            self.resting.push_back((now_ns + REST_NS, slot));
        }
    }
}

/// What the end of their stream means.
fn at_end(plan: &Plan, link: &Link) -> Result<Moved, Broken> {
    let complete = match plan.direction {
        Direction::Down => plan.bytes.is_none(),
        Direction::Up => link.phase == Phase::Ending,
        Direction::Both => link.phase == Phase::Ending && link.received == link.sent,
    };
    match complete {
        true => Ok(Moved::Done),
        false => Err(Broken::End),
    }
}

enum Moved {
    Waits,
    HasMore,
    Done,
}

enum Broken {
    Failed(io::Error),
    Late,
    Unfinished,
    End,
    Surplus(u64),
    Differs(u64),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Broken::Failed(error)
    }
}

impl Broken {
    fn spell(self, link: &Link, plan: &Plan, dialer: &Dialer) -> (Fault, String) {
        let target = dialer.target();
        let (sent, received) = (link.sent, link.received);
        match self {
            Broken::Failed(error) if link.phase == Phase::Opening => (Fault::from(&error), dialer.complaint(&error)),
            Broken::Failed(error) => {
                (Fault::from(&error), format!("{target}: {error}, after {sent} bytes sent and {received} received"))
            }
            Broken::Late if link.phase == Phase::Opening => {
                (Fault::Timeout, format!("{target}: no connection within the timeout"))
            }
            Broken::Late => (
                Fault::Timeout,
                format!("{target}: stood still for the timeout after {sent} bytes sent and {received} received"),
            ),
            Broken::Unfinished => {
                (Fault::Timeout, format!("{target}: the run ended after {sent} bytes sent and {received} received"))
            }
            Broken::End => {
                let wanted = match plan.direction {
                    Direction::Down => plan.bytes.unwrap_or(0),
                    _ => sent,
                };
                (
                    Fault::ClosedEarly,
                    format!("{target}: ended after {received} bytes received, {sent} sent, of {wanted}"),
                )
            }
            Broken::Surplus(limit) => {
                (Fault::Mismatch, format!("{target}: sent {received} bytes, more than the {limit} it was to send back"))
            }
            Broken::Differs(offset) => {
                (Fault::Mismatch, format!("{target}: what came differs from the stream at offset {offset}"))
            }
        }
    }
}

impl Drill for Stream {
    fn ready(&mut self, slot: usize, ready: Ready, gear: &mut Gear) -> io::Result<()> {
        let link = &mut self.links[slot];
        link.readable |= ready.readable;
        link.writable |= ready.writable;
        link.closed |= ready.closed;
        if link.phase == Phase::Opening {
            let Some(socket) = &link.socket else {
                return Ok(());
            };
            match is_connected(socket) {
                Ok(true) => {
                    link.phase = Phase::Moving;
                    link.moved_ns = gear.clock.now_ns();
                    gear.tally.connect.record(link.moved_ns - link.since_ns);
                    gear.tally.connections += 1;
                    gear.tally.open += 1;
                }
                Ok(false) => return Ok(()),
                Err(error) => {
                    self.end(slot, Err(Broken::Failed(error)), gear);
                    return Ok(());
                }
            }
        }
        if self.links[slot].phase != Phase::Closed {
            self.pump(slot, gear);
        }
        Ok(())
    }

    fn advance(&mut self, now_ns: u64, gear: &mut Gear) -> io::Result<Next> {
        let until_ns = *self.until_ns.get_or_insert_with(|| {
            gear.start();
            now_ns.saturating_add(self.plan.duration_ns)
        });
        if now_ns >= until_ns && !self.over {
            self.over = true;
            self.resting.clear();
            self.finish_all(gear);
        }
        for _ in 0..self.busy.len() {
            let Some(slot) = self.busy.pop_front() else {
                break;
            };
            self.links[slot].queued = false;
            if matches!(self.links[slot].phase, Phase::Moving | Phase::Ending) {
                self.pump(slot, gear);
            }
        }
        while let Some((rested_ns, slot)) = self.resting.front().copied() {
            if rested_ns > now_ns {
                break;
            }
            self.resting.pop_front();
            self.open(slot, now_ns, gear);
        }
        if self.running == 0 && self.resting.is_empty() {
            return Ok(Next::Finished);
        }
        if !self.busy.is_empty() {
            return Ok(Next::Now);
        }
        Ok(match (self.over, self.resting.front()) {
            (true, _) => Next::Whenever,
            (false, Some((rested_ns, _))) => Next::At(until_ns.min(*rested_ns)),
            (false, None) => Next::At(until_ns),
        })
    }

    fn sweep(&mut self, now_ns: u64, gear: &mut Gear) {
        for slot in 0..self.links.len() {
            let link = &self.links[slot];
            let late = now_ns.saturating_sub(link.moved_ns) > self.plan.timeout_ns;
            if link.phase != Phase::Closed && late {
                self.end(slot, Err(Broken::Late), gear);
            }
        }
    }

    fn stop(&mut self, now_ns: u64) {
        self.until_ns = Some(self.until_ns.unwrap_or(now_ns).min(now_ns));
    }
}

impl Stream {
    /// The duration is over: receivers stop where they are, senders send their end and wait for the answer to it.
    fn finish_all(&mut self, gear: &mut Gear) {
        for slot in 0..self.links.len() {
            match (self.links[slot].phase, self.plan.direction) {
                (Phase::Closed | Phase::Ending, _) => {}
                (Phase::Moving, Direction::Up | Direction::Both) if self.plan.bytes.is_none() => {
                    self.pump(slot, gear);
                }
                (Phase::Moving, Direction::Down) if self.plan.bytes.is_none() => {
                    self.end(slot, Ok(()), gear);
                }
                // What had a byte count to reach has not reached it in time.
                _ => self.end(slot, Err(Broken::Unfinished), gear),
            }
        }
    }
}
