//! The check of one server: a connection that is kept and asked every round, and a fresh one every ten seconds.
//!
//! ```text
//! begin ─┬─ a kept connection? ask it ──────────────┐
//!        └─ none, or kept for 10 s? open a fresh one ┴─▶ Outcome: a report, a fault, or both
//! ```
//!
//! The kept connection is the quick one: a change of roles is seen one round trip after it is asked. The fresh one sees
//! what the kept one cannot, such as a server that has no connection left; then the kept one still tells the role, and the
//! outcome has both. A fresh one that is well becomes the kept one, and the old one says farewell.
//!
//! When a round's time is over it has failed, but a handshake under way is not broken off: it goes on, into the next round
//! if need be, and is given up only after [`HANDSHAKE_MS_MAX`].
//!
//! Time comes in as an argument; sockets belong to whoever drives it and carries out its [`Order`]s.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Fault;
use super::client::Login;
use super::line::{Happening, Line, Security};
use super::report::{Dialect, Report, Round};

/// How often a fresh connection is made, in milliseconds.
pub const FRESH_MS: u64 = 10_000;
/// How long a handshake may take, in milliseconds: MySQL's own `connect_timeout` is as long.
pub const HANDSHAKE_MS_MAX: u64 = 10_000;

/// One of the sockets of a probe. A number is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId(pub u32);

/// What the probe wants of its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Connect a socket to the server.
    Open(SocketId),
    /// Send these bytes; all of them go out before anything that is ordered later.
    Send(SocketId, Vec<u8>),
    /// Close it, cleanly, once everything is sent. Nothing more is told of it.
    Close(SocketId),
}

/// What a round has come to; at least one of both is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the server says of itself, if it could be asked.
    pub report: Option<Report>,
    /// What went wrong. With a report: the server is there and takes no new connection.
    pub fault: Option<Fault>,
}

/// The check of one server.
#[derive(Debug)]
pub struct Probe {
    login: Arc<Login>,
    security: Security,
    /// Logged in, and asked every round.
    kept: Option<Kept>,
    /// Being made.
    fresh: Option<Fresh>,
    round: Option<Running>,
    orders: VecDeque<Order>,
    outcome: Option<Outcome>,
    sockets: u32,
}

#[derive(Debug)]
struct Kept {
    id: SocketId,
    line: Line,
    since_ms: u64,
    dialect: Dialect,
    asking: Option<Round>,
}

#[derive(Debug)]
struct Fresh {
    id: SocketId,
    /// `None` while it connects.
    line: Option<Line>,
    since_ms: u64,
}

/// What a round has and what it still waits for.
#[derive(Debug, Default)]
struct Running {
    report: Option<Report>,
    fault: Option<Fault>,
    /// The outcome must wait for the fresh connection.
    wants_fresh: bool,
}

impl Probe {
    /// A probe without any connection.
    pub fn new(login: Arc<Login>, security: Security) -> Self {
        Self {
            login,
            security,
            kept: None,
            fresh: None,
            round: None,
            orders: VecDeque::new(),
            outcome: None,
            sockets: 0,
        }
    }

    /// Whether a round that began now would open a connection.
    pub fn wants_login(&self, now_ms: u64) -> bool {
        self.kept.as_ref().is_none_or(|kept| now_ms.saturating_sub(kept.since_ms) >= FRESH_MS)
    }

    /// From now on, fresh connections log in like this.
    pub fn log_in_as(&mut self, login: Arc<Login>, security: Security) {
        self.login = login;
        self.security = security;
    }

    /// The next order.
    pub fn order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// What the round has come to, once.
    pub fn outcome(&mut self) -> Option<Outcome> {
        self.outcome.take()
    }

    /// Whether it has any socket.
    pub fn has_sockets(&self) -> bool {
        self.kept.is_some() || self.fresh.is_some()
    }

    /// Whether the server would take the end of this check for a handshake broken off.
    pub fn is_shaking_hands(&self) -> bool {
        self.fresh.as_ref().is_some_and(|fresh| fresh.line.as_ref().is_some_and(Line::is_shaking_hands))
    }

    /// Begins a round. A round that is still under way has failed by now.
    pub fn begin(&mut self, now_ms: u64) {
        if self.round.is_some() {
            self.late();
        }
        self.outcome = None;
        if self.fresh.as_ref().is_some_and(|fresh| now_ms.saturating_sub(fresh.since_ms) >= HANDSHAKE_MS_MAX) {
            self.drop_fresh();
        }
        let due = self.wants_login(now_ms);
        self.round = Some(Running { wants_fresh: due, ..Running::default() });
        self.ask();
        if due && self.fresh.is_none() {
            self.open(now_ms);
        }
    }

    /// The time of the round is over.
    pub fn late(&mut self) {
        let Some(mut round) = self.round.take() else { return };
        let asked = self.kept.as_ref().is_some_and(|kept| kept.asking.is_some());
        let what = match &self.fresh {
            _ if asked => "it was asked, and says nothing",
            Some(Fresh { line: None, .. }) => "the connection does not come about",
            Some(Fresh { line: Some(line), .. }) if line.greeting().is_none() => "it does not greet",
            _ => "the login does not end",
        };
        if asked {
            self.drop_kept();
        }
        // What has failed before is more telling than that time ran out.
        round.fault.get_or_insert(Fault::Late(what));
        self.outcome = Some(Outcome { report: round.report, fault: round.fault });
    }

    /// A socket is connected.
    pub fn connected(&mut self, id: SocketId) {
        if let Some(fresh) = self.fresh.as_mut().filter(|fresh| fresh.id == id) {
            fresh.line = Some(Line::new(Arc::clone(&self.login), self.security.clone()));
        }
    }

    /// A socket could not be connected, or has failed; it is closed.
    pub fn failed(&mut self, id: SocketId, why: String, now_ms: u64) {
        self.gone(id, Fault::Connect(why), false, now_ms);
    }

    /// The server has closed a socket.
    pub fn ended(&mut self, id: SocketId, now_ms: u64) {
        let line = match (&self.kept, &self.fresh) {
            (Some(kept), _) if kept.id == id => Some(&kept.line),
            (_, Some(fresh)) if fresh.id == id => fresh.line.as_ref(),
            _ => return,
        };
        let fault = line.map_or(Fault::Closed("at once"), Line::closed);
        self.gone(id, fault, true, now_ms);
    }

    /// A socket has read bytes.
    pub fn received(&mut self, id: SocketId, bytes: &[u8], now_ms: u64) {
        if let Some(line) = self.line(id) {
            let mut fault = line.received(bytes).err();
            while fault.is_none() {
                let Some(line) = self.line(id) else { return };
                match line.advance() {
                    Ok(None) => break,
                    Ok(Some(happening)) => fault = self.happened(id, happening, now_ms).err(),
                    Err(why) => fault = Some(why),
                }
            }
            if let Some(fault) = fault {
                self.gone(id, fault, true, now_ms);
            } else {
                self.flush(id);
            }
        }
    }

    /// Ends the check: every connection that can says farewell. A handshake goes on and is not to be waited for longer than
    /// [`HANDSHAKE_MS_MAX`]; call it again when that is over.
    pub fn leave(&mut self) {
        self.round = None;
        self.farewell();
        if !self.is_shaking_hands() {
            self.drop_fresh();
        }
    }

    fn line(&mut self, id: SocketId) -> Option<&mut Line> {
        match (&mut self.kept, &mut self.fresh) {
            (Some(kept), _) if kept.id == id => Some(&mut kept.line),
            (_, Some(fresh)) if fresh.id == id => fresh.line.as_mut(),
            _ => None,
        }
    }

    fn flush(&mut self, id: SocketId) {
        let bytes = self.line(id).map(Line::take_out).unwrap_or_default();
        if !bytes.is_empty() {
            self.orders.push_back(Order::Send(id, bytes));
        }
    }

    fn open(&mut self, now_ms: u64) {
        let id = SocketId(self.sockets);
        self.sockets = self.sockets.wrapping_add(1);
        self.fresh = Some(Fresh { id, line: None, since_ms: now_ms });
        self.orders.push_back(Order::Open(id));
    }

    /// Asks the kept connection, if it is there and has nothing else to do.
    fn ask(&mut self) {
        let Some(kept) = &mut self.kept else { return };
        if kept.asking.is_none() && kept.line.is_ready() {
            let version = kept.line.greeting().map_or("", |greeting| &greeting.version);
            let round = Round::new(version);
            kept.line.ask(&round.question(&kept.dialect));
            kept.asking = Some(round);
            let id = kept.id;
            self.flush(id);
        }
    }

    fn happened(&mut self, id: SocketId, happening: Happening, now_ms: u64) -> Result<(), Fault> {
        match happening {
            Happening::Ready => self.logged_in(id, now_ms),
            Happening::Answer(answer) => {
                let Some(kept) = self.kept.as_mut().filter(|kept| kept.id == id) else { return Ok(()) };
                let Some(mut round) = kept.asking.take() else { return Ok(()) };
                match round.answered(answer, &mut kept.dialect)? {
                    None => {
                        // Or the answer to another question follows.
                        if kept.line.is_ready() {
                            kept.line.ask(&round.question(&kept.dialect));
                        }
                        kept.asking = Some(round);
                    }
                    Some(_) if !kept.line.is_ready() => return Err(Fault::Malformed("an answer nobody asked for")),
                    Some(report) => {
                        if let Some(running) = &mut self.round {
                            running.report = Some(report);
                        }
                        self.conclude();
                    }
                }
            }
        }
        Ok(())
    }

    /// A fresh connection is well: it becomes the kept one.
    fn logged_in(&mut self, id: SocketId, now_ms: u64) {
        let Some(Fresh { line: Some(line), .. }) = self.fresh.take_if(|fresh| fresh.id == id) else { return };
        let Some(dialect) = line.greeting().map(Dialect::of) else { return };
        let answered = self.round.as_ref().is_none_or(|round| round.report.is_some());
        self.farewell();
        self.kept = Some(Kept { id, line, since_ms: now_ms, dialect, asking: None });
        if let Some(round) = &mut self.round {
            round.wants_fresh = false;
        }
        if !answered {
            self.ask();
        }
        self.conclude();
    }

    /// The round is over when the server has told what it is, and has let a fresh connection in if it had to.
    fn conclude(&mut self) {
        let done = |round: &mut Running| round.report.is_some() && !round.wants_fresh;
        if let Some(round) = self.round.take_if(done) {
            self.outcome = Some(Outcome { report: round.report, fault: round.fault });
        }
    }

    /// A connection is no more.
    fn gone(&mut self, id: SocketId, fault: Fault, is_open: bool, now_ms: u64) {
        if is_open {
            self.flush(id);
            self.orders.push_back(Order::Close(id));
        }
        if self.fresh.take_if(|fresh| fresh.id == id).is_some() {
            let Some(round) = &mut self.round else { return };
            round.fault = Some(fault);
            round.wants_fresh = false;
            let asking = self.kept.as_ref().is_some_and(|kept| kept.asking.is_some());
            if round.report.is_some() || !asking {
                self.outcome = self.round.take().map(|round| Outcome { report: round.report, fault: round.fault });
            }
            return;
        }
        let Some(kept) = self.kept.take_if(|kept| kept.id == id) else { return };
        let Some(round) = &mut self.round else { return };
        // What a server answers is final; a connection that it has closed meanwhile is not, if there is another.
        if matches!(fault, Fault::Question { .. }) || round.fault.is_some() {
            round.fault = Some(fault);
            self.outcome = self.round.take().map(|round| Outcome { report: round.report, fault: round.fault });
        } else if kept.asking.is_some() {
            round.wants_fresh = true;
            if self.fresh.is_none() {
                self.open(now_ms);
            }
        }
    }

    fn farewell(&mut self) {
        if let Some(mut kept) = self.kept.take() {
            kept.line.quit();
            let id = kept.id;
            let bytes = kept.line.take_out();
            if !bytes.is_empty() {
                self.orders.push_back(Order::Send(id, bytes));
            }
            self.orders.push_back(Order::Close(id));
        }
    }

    fn drop_kept(&mut self) {
        if let Some(kept) = self.kept.take() {
            self.orders.push_back(Order::Close(kept.id));
        }
    }

    fn drop_fresh(&mut self) {
        if let Some(fresh) = self.fresh.take() {
            self.orders.push_back(Order::Close(fresh.id));
        }
    }
}

#[cfg(test)]
mod tests;
