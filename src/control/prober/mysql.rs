//! A task that asks one MySQL server, over and over: the sockets and the clock of a [`Probe`].
//!
//! The task listens to all connections of the probe at once, of which there may be two. A handshake goes on beside the rounds
//! until the server has answered, even when the server is no longer to be checked.

use std::future::{poll_fn, ready};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready as ready_or_pending};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use crate::config::plan::{CheckPace, MysqlQuestion};
use crate::dataplane::commons::monotonic_ns;
use crate::health::mysql::probe::{HANDSHAKE_MS_MAX, Order, Outcome, Probe, SocketId};
use crate::health::mysql::{Fault as MysqlFault, Login, Password, Security};
use crate::health::{Fault, schedule};

use super::attend::pace_of;
use super::gather::Gatherer;
use super::library::Library;
use super::office::Office;
use super::ward::{Errand, Ward};
use super::wire::{Link, Target, connect_fault};

/// What is heard of a socket.
enum Heard {
    Connected(Link),
    Failed(Fault),
    /// There is something to read, or the end.
    Ready,
    /// Nothing more can be sent.
    Ended,
}

/// A connect that is under way.
type Connecting = Pin<Box<dyn Future<Output = io::Result<Link>>>>;

/// A connection, and what it has still to send.
struct Wire {
    link: Link,
    rest: Vec<u8>,
}

/// The probe, and its end of its connections.
struct Desk {
    probe: Probe,
    target: Target,
    gatherer: Rc<Gatherer>,
    connecting: Option<(SocketId, Connecting)>,
    wires: Vec<(SocketId, Wire)>,
    /// Why the last connection did not come about.
    unconnected: Option<Fault>,
}

/// Asks until the errand is over.
pub(super) async fn attend(
    office: Rc<Office>,
    ward: Rc<Ward>,
    errand: Rc<Errand>,
    question: MysqlQuestion,
    delay: Duration,
) {
    let bell = office.council.bell(&ward);
    let login = Arc::new(Login { user: question.user.to_string(), password: Password::default() });
    let mut desk = Desk {
        probe: Probe::new(login, Security::Off),
        target: errand.target.clone(),
        gatherer: Rc::clone(&office.gatherer),
        connecting: None,
        wires: Vec::new(),
        unconnected: None,
    };
    let mut is_kept = false;
    let mut random = office.draw();
    let (mut begun_ns, mut ended_ns) = (0, 0);
    let mut first_ns = Some(monotonic_ns() + delay.as_nanos() as u64);
    while let Some(pace) = pace_of(&ward, &errand) {
        let due_ns = first_ns.unwrap_or_else(|| {
            let interval_ms = ward.verdict.get().interval_ms(&pace);
            // An interval is what a switch-over waits for.
            schedule::no_later_ns(begun_ns, ended_ns, interval_ms, random)
        });
        let wait = Duration::from_nanos(due_ns.saturating_sub(monotonic_ns()));
        tokio::select! {
            biased;
            () = errand.changed.notified() => continue,
            (id, heard) = desk.hear() => {
                desk.take(id, heard);
                continue;
            }
            () = bell.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
        first_ns = None;
        random = office.draw();
        begun_ns = monotonic_ns();
        let outcome = match desk.equip(&question, &office.library) {
            Ok(()) => desk.round(begun_ns, &pace).await,
            Err(why) => Err(Fault::Local(why)),
        };
        ended_ns = monotonic_ns();
        office.count_kept(&mut is_kept, desk.probe.has_sockets());
        if !errand.is_leaving() {
            report(&office, &ward, &desk, outcome, &pace, Duration::from_nanos(ended_ns - begun_ns));
        }
    }
    desk.leave().await;
    office.count_kept(&mut is_kept, false);
}

fn report(
    office: &Office,
    ward: &Ward,
    desk: &Desk,
    outcome: Result<Outcome, Fault>,
    pace: &CheckPace,
    took: Duration,
) {
    match outcome {
        Err(local) => office.hear(ward, &Err(local), took),
        Ok(outcome) => {
            let simple = match &outcome.fault {
                None => Ok(()),
                Some(fault) => Err(desk.told(fault, pace)),
            };
            office.hear(ward, &simple, took);
            // Nothing the server could help, and nothing it has said.
            if !matches!(simple, Err(Fault::Local(_))) || outcome.report.is_some() {
                office.council.hear(ward, &outcome, office);
            }
        }
    }
}

impl Desk {
    /// Reads what the login needs, as it is now: a password may have been changed.
    fn equip(&mut self, question: &MysqlQuestion, library: &Library) -> Result<(), String> {
        if !self.probe.wants_login(monotonic_ns() / 1_000_000) {
            return Ok(());
        }
        let password = library.password(question)?;
        let security = library.security(question)?;
        self.probe.log_in_as(Arc::new(Login { user: question.user.to_string(), password }), security);
        Ok(())
    }

    /// One round, within its time.
    async fn round(&mut self, begun_ns: u64, pace: &CheckPace) -> Result<Outcome, Fault> {
        let deadline = Instant::now() + Duration::from_millis(pace.timeout_ms.into());
        let gatherer = Rc::clone(&self.gatherer);
        let _under_way = gatherer.begin(pace.timeout_ms);
        let mut is_late = false;
        self.unconnected = None;
        self.probe.begin(begun_ns / 1_000_000);
        loop {
            self.obey();
            if let Some(outcome) = self.probe.outcome() {
                self.obey();
                return Ok(outcome);
            }
            tokio::select! {
                biased;
                (id, heard) = self.hear() => self.take(id, heard),
                () = sleep_until(deadline), if !is_late => {
                    is_late = true;
                    // What has come in time may not have been looked at.
                    gatherer.look();
                }
                () = ready(()), if is_late => self.probe.late(),
            }
        }
    }

    /// Carries out what the probe wants.
    fn obey(&mut self) {
        while let Some(order) = self.probe.order() {
            match order {
                Order::Open(id) => {
                    let (target, gatherer) = (self.target.clone(), Rc::clone(&self.gatherer));
                    self.connecting = Some((id, Box::pin(async move { Link::open(&target, &gatherer).await })));
                }
                Order::Send(id, bytes) => {
                    if let Some((_, wire)) = self.wires.iter_mut().find(|(of, _)| *of == id) {
                        wire.send(&bytes);
                    }
                }
                Order::Close(id) => self.close(id),
            }
        }
    }

    /// Lets go of a socket; what it has still to send goes out first.
    fn close(&mut self, id: SocketId) {
        self.connecting.take_if(|(of, _)| *of == id);
        if let Some(index) = self.wires.iter().position(|(of, _)| *of == id) {
            let (_, wire) = self.wires.swap_remove(index);
            if !wire.rest.is_empty() {
                tokio::task::spawn_local(wire.finish());
            }
        }
    }

    /// The next that is heard of a socket. Nothing is lost if it is not waited for to its end.
    async fn hear(&mut self) -> (SocketId, Heard) {
        poll_fn(|context| self.poll_hear(context)).await
    }

    fn poll_hear(&mut self, context: &mut Context<'_>) -> Poll<(SocketId, Heard)> {
        if let Some((id, connecting)) = &mut self.connecting
            && let Poll::Ready(outcome) = connecting.as_mut().poll(context)
        {
            let id = *id;
            self.connecting = None;
            let heard = outcome.map_or_else(|error| Heard::Failed(connect_fault(&error)), Heard::Connected);
            return Poll::Ready((id, heard));
        }
        for (id, wire) in &mut self.wires {
            if let Poll::Ready(heard) = wire.poll_hear(context) {
                return Poll::Ready((*id, heard));
            }
        }
        Poll::Pending
    }

    fn take(&mut self, id: SocketId, heard: Heard) {
        let now_ms = monotonic_ns() / 1_000_000;
        match heard {
            Heard::Connected(link) => {
                let mut wire = Wire { link, rest: Vec::new() };
                if let Some(header) = self.target.header(&wire.link) {
                    wire.send(&header);
                }
                self.wires.push((id, wire));
                self.probe.connected(id);
            }
            Heard::Ready => self.read(id, now_ms),
            Heard::Ended => self.probe.ended(id, now_ms),
            Heard::Failed(fault) => {
                self.probe.failed(id, fault.to_string(), now_ms);
                self.unconnected = Some(fault);
            }
        }
        self.obey();
    }

    /// Hands to the probe what a socket has to say.
    fn read(&mut self, id: SocketId, now_ms: u64) {
        let Some((_, wire)) = self.wires.iter().find(|(of, _)| *of == id) else { return };
        let read = wire.link.socket().read(|bytes| match bytes {
            [] => self.probe.ended(id, now_ms),
            bytes => self.probe.received(id, bytes, now_ms),
        });
        if read.is_err() {
            self.probe.ended(id, now_ms);
        }
    }

    /// A fault in the words of all checks.
    fn told(&self, fault: &MysqlFault, pace: &CheckPace) -> Fault {
        match fault {
            MysqlFault::Connect(why) => self.unconnected.clone().unwrap_or_else(|| Fault::Unreachable(why.clone())),
            MysqlFault::Late(what) => Fault::Timeout { waiting_for: what, after_ms: pace.timeout_ms },
            MysqlFault::Closed(_) => Fault::Ended,
            MysqlFault::NoTls | MysqlFault::Tls(_) | MysqlFault::Certificate(_) => Fault::Tls(fault.to_string()),
            other => Fault::Answer(other.to_string()),
        }
    }

    /// Says farewell; a handshake under way is ended first, as long as it may take.
    async fn leave(&mut self) {
        let deadline = Instant::now() + Duration::from_millis(HANDSHAKE_MS_MAX);
        loop {
            self.probe.leave();
            self.obey();
            if !self.probe.has_sockets() {
                return;
            }
            tokio::select! {
                (id, heard) = self.hear() => self.take(id, heard),
                () = sleep_until(deadline) => return,
            }
        }
    }
}

impl Wire {
    /// Sends what goes at once; the rest when there is room.
    fn send(&mut self, bytes: &[u8]) {
        // What fails is heard as the end of the connection.
        let sent = if self.rest.is_empty() { self.link.send_now(bytes).unwrap_or(bytes.len()) } else { 0 };
        self.rest.extend_from_slice(&bytes[sent..]);
    }

    /// Sends the rest; ready when nothing is left of it, or nobody is there to send it to.
    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            ready_or_pending!(self.link.socket().poll_writable(context));
            let sent = self.link.send_now(&self.rest)?;
            self.rest.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_hear(&mut self, context: &mut Context<'_>) -> Poll<Heard> {
        if let Poll::Ready(Err(_)) = self.poll_rest(context) {
            return Poll::Ready(Heard::Ended);
        }
        self.link.socket().poll_readable(context).map(|()| Heard::Ready)
    }

    /// Sends the rest, as long as a handshake may take, and closes.
    async fn finish(mut self) {
        let patience = Duration::from_millis(HANDSHAKE_MS_MAX);
        let _ = timeout(patience, poll_fn(|context| self.poll_rest(context))).await;
    }
}
