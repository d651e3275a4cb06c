//! The shepherd leads sessions elsewhere at an operator's wish: those of this node (`ringway drain --for`), or of one server
//! (`ringway server set --state drain --for`); the idle first, evenly over the time that was given.
//!
//! It never ends a session itself. It says how many may leave, ten times a second, and the workers see who that is
//! (`dataplane::exodus`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::base::limits::PACED_MAX;
use crate::config::ledger::ServerLedger;
use crate::dataplane::commons::{Commons, monotonic_ns};
use crate::dataplane::exodus::{Exodus, Group, Whose};
use crate::observe::event::Event;
use crate::observe::writer::Log;

use super::fleet::Fleet;
use super::span::Span;
use super::tempo::Tempo;

/// Time between two steps.
pub(super) const STEP: Duration = Duration::from_millis(100);

/// All that is led.
#[derive(Debug)]
pub(super) struct Shepherd {
    flocks: Vec<Flock>,
    last: Instant,
}

/// Sessions that are led.
#[derive(Debug)]
struct Flock {
    of: Owner,
    order: Arc<Exodus>,
    tempo: Tempo,
    /// Sessions there were.
    first: u64,
    /// At the end everybody leaves.
    close: bool,
    /// It is the end, and everybody does.
    closing: bool,
}

/// Whose sessions they are.
#[derive(Clone, Debug)]
pub(super) enum Owner {
    /// All of this node.
    Node,
    /// Those of a server.
    Server {
        /// Its pool.
        pool: Arc<str>,
        /// Its name.
        server: Arc<str>,
        /// What it is known by.
        ledger: Arc<ServerLedger>,
    },
}

/// How they are to be led.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// Over which time.
    pub(super) over: Span,
    /// Who is busy at its end leaves, too.
    pub(super) close: bool,
}

impl Owner {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Owner::Node, Owner::Node) => true,
            (Owner::Server { ledger, .. }, Owner::Server { ledger: other, .. }) => Arc::ptr_eq(ledger, other),
            (Owner::Node, Owner::Server { .. }) | (Owner::Server { .. }, Owner::Node) => false,
        }
    }

    fn sessions(&self, commons: &Commons) -> u64 {
        u64::from(match self {
            Owner::Node => commons.sessions(),
            Owner::Server { ledger, .. } => ledger.active.load(Ordering::Relaxed),
        })
    }

    fn order(&self) -> Exodus {
        match self {
            Owner::Node => Exodus::of_all(monotonic_ns()),
            Owner::Server { ledger, .. } => {
                Exodus::of_groups(vec![Group::new(Arc::clone(ledger), Whose::Anybody, u64::MAX)], monotonic_ns())
            }
        }
    }

    fn say(&self, log: &Log, message: String, sessions: u64) {
        let event = match self {
            Owner::Node => Event::info("drain", message),
            Owner::Server { pool, server, .. } => {
                Event::info("server", message).with("pool", &**pool).with("server", &**server)
            }
        };
        log.say(event.with("sessions", sessions));
    }
}

impl Shepherd {
    /// One with nothing to do.
    pub(super) fn new() -> Self {
        Self { flocks: Vec::new(), last: Instant::now() }
    }

    /// Whether there is room for sessions of `owner`.
    ///
    /// # Errors
    /// There is none, in words for whoever asked.
    pub(super) fn admit(&self, owner: &Owner) -> Result<(), String> {
        if self.flocks.len() < PACED_MAX || self.flocks.iter().any(|flock| flock.of.is(owner)) {
            return Ok(());
        }
        Err(format!("sessions of {PACED_MAX} servers are being ended over a time already; wait, or leave `for` out"))
    }

    /// Begins to lead sessions; what was wished of them before is forgotten.
    pub(super) fn lead(&mut self, of: Owner, way: Way, fleet: &mut Fleet, commons: &Commons, log: &Log) {
        self.leave(&of, commons, log);
        let (first, order) = (of.sessions(commons), Arc::new(of.order()));
        let busy = if way.close { "the busy ones are ended at its end" } else { "the busy ones go on" };
        of.say(log, format!("idle sessions are ended over {}; {busy}", way.over), first);
        if self.flocks.is_empty() {
            self.last = Instant::now();
        }
        let tempo = Tempo::new(Instant::now(), way.over.duration());
        fleet.lead_out(&order);
        self.flocks.push(Flock { of, order, tempo, first, close: way.close, closing: false });
    }

    /// Sessions of `owner` are not led any more, if they were.
    pub(super) fn leave(&mut self, owner: &Owner, commons: &Commons, log: &Log) {
        let Some(at) = self.flocks.iter().position(|flock| flock.of.is(owner)) else { return };
        let flock = self.flocks.swap_remove(at);
        flock.order.call_off();
        let message = format!("no more sessions are ended; {} were", flock.order.gone());
        flock.of.say(log, message, owner.sessions(commons));
    }

    /// Nobody is led any more.
    pub(super) fn leave_all(&mut self) {
        self.flocks.drain(..).for_each(|flock| flock.order.call_off());
    }

    /// When to step next; `None`: never.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.flocks.is_empty()).then(|| self.last + STEP)
    }

    /// Lets some more leave.
    pub(super) fn step(&mut self, commons: &Commons, log: &Log) {
        let now = Instant::now();
        self.last = now;
        self.flocks.retain_mut(|flock| flock.step(now, commons, log));
    }
}

impl Flock {
    /// Lets some more leave; whether there is more to do.
    fn step(&mut self, now: Instant, commons: &Commons, log: &Log) -> bool {
        let sessions = self.of.sessions(commons);
        // Who has come since is counted there, and is not to leave.
        let left = sessions.min(self.first.saturating_sub(self.order.gone()));
        let gone = self.order.gone();
        if self.closing {
            // Each worker lets go of it when it has seen to the end of everybody.
            let done = Arc::strong_count(&self.order) == 1;
            if done {
                self.of.say(log, format!("the time is up: everybody is ended, {gone} sessions in all"), sessions);
            }
            return !done;
        }
        if left == 0 {
            self.order.call_off();
            self.of.say(
                log,
                format!("no session is left of those that were to go; {gone} of them were ended"),
                sessions,
            );
            return false;
        }
        if !self.tempo.is_over(now, left) {
            let measure = self.tempo.measure(now, left);
            self.order.spare(measure.quiet_ns);
            self.order.admit(measure.more, measure.most);
            return true;
        }
        if self.close {
            self.closing = true;
            self.order.take_everyone();
            return true;
        }
        self.order.call_off();
        self.of.say(log, format!("the time is up: {gone} sessions were ended, those that were busy go on"), sessions);
        false
    }
}
