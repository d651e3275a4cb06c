//! A task that asks one MySQL server, over and over: the sockets and the clock of a [`Probe`].
//!
//! Each connection has a small task of its own, a *porter*, who connects, brings what the server says, and sends what did not
//! go at once; the probe may have two at once. A handshake goes on beside the rounds until the server has answered, even when the server is no longer to be checked.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::config::plan::{CheckPace, MysqlQuestion, MysqlTls};
use crate::dataplane::commons::monotonic_ns;
use crate::health::mysql::probe::{HANDSHAKE_MS_MAX, Order, Outcome, Probe, SocketId};
use crate::health::mysql::{Fault as MysqlFault, Login, Password, Security};
use crate::health::tls::Trust;
use crate::health::{Fault, schedule};

use super::attend::pace_of;
use super::library::{Library, read};
use super::office::Office;
use super::ward::{Errand, Ward};
use super::wire::{Link, Target, connect_fault};

/// What porters have brought and the task has not taken: more waits in the kernel.
const BROUGHT_MAX: usize = 16;
/// Longest password file, in bytes.
const PASSWORD_MAX: u64 = 4096;

/// What a porter brings.
enum Brought {
    Connected(Rc<Wire>),
    Failed(Fault),
    Bytes(Vec<u8>),
    Ended,
}

/// Who carries a connection. Let go, he sends what is still to be sent, and closes.
struct Porter {
    task: AbortHandle,
    /// Once there is one.
    wire: Option<Rc<Wire>>,
}

/// A connection that is carried.
struct Wire {
    link: Link,
    /// What is still to be sent.
    rest: RefCell<Vec<u8>>,
    /// It is closed as soon as that is sent.
    is_over: Cell<bool>,
    /// The porter is to look at both.
    changed: Notify,
}

/// The probe's end of its connections.
struct Desk {
    probe: Probe,
    target: Target,
    porters: HashMap<SocketId, Porter>,
    brought: mpsc::Receiver<(SocketId, Brought)>,
    bring: mpsc::Sender<(SocketId, Brought)>,
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
    let (bring, brought) = mpsc::channel(BROUGHT_MAX);
    let login = Arc::new(Login { user: question.user.to_string(), password: Password::default() });
    let mut desk = Desk {
        probe: Probe::new(login, Security::Off),
        target: errand.target.clone(),
        porters: HashMap::new(),
        brought,
        bring,
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
            Some((id, brought)) = desk.brought.recv() => {
                desk.take(id, brought);
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
        let password = match &question.password_file {
            None => Password::default(),
            Some(file) => {
                let text = read(file, PASSWORD_MAX)?;
                let line = text.strip_suffix('\n').unwrap_or(&text);
                let line = line.strip_suffix('\r').unwrap_or(line);
                Password::new(line.to_owned())
                    .filter(|_| !line.contains('\n'))
                    .ok_or_else(|| format!("{} holds more than a line", file.display()))?
            }
        };
        let security = match &question.tls {
            MysqlTls::Off => Security::Off,
            MysqlTls::Require => Security::tls(Trust::Anybody, None)?,
            MysqlTls::VerifyCa { ca } => Security::tls(Trust::Signed(library.authorities(Some(ca))?), None)?,
            MysqlTls::VerifyFull { ca, name } => {
                Security::tls(Trust::Named(library.authorities(Some(ca))?), Some(name))?
            }
        };
        self.probe.log_in_as(Arc::new(Login { user: question.user.to_string(), password }), security);
        Ok(())
    }

    /// One round, within its time.
    async fn round(&mut self, begun_ns: u64, pace: &CheckPace) -> Result<Outcome, Fault> {
        let deadline = Instant::now() + Duration::from_millis(pace.timeout_ms.into());
        self.unconnected = None;
        self.probe.begin(begun_ns / 1_000_000);
        loop {
            self.obey();
            if let Some(outcome) = self.probe.outcome() {
                self.obey();
                return Ok(outcome);
            }
            tokio::select! {
                Some((id, brought)) = self.brought.recv() => self.take(id, brought),
                () = sleep_until(deadline) => self.probe.late(),
            }
        }
    }

    /// Carries out what the probe wants.
    fn obey(&mut self) {
        while let Some(order) = self.probe.order() {
            match order {
                Order::Open(id) => {
                    let task = tokio::task::spawn_local(carry_for(id, self.target.clone(), self.bring.clone()));
                    self.porters.insert(id, Porter { task: task.abort_handle(), wire: None });
                }
                Order::Send(id, bytes) => {
                    if let Some(wire) = self.porters.get(&id).and_then(|porter| porter.wire.as_ref()) {
                        wire.send(&bytes);
                    }
                }
                Order::Close(id) => drop(self.porters.remove(&id)),
            }
        }
    }

    fn take(&mut self, id: SocketId, brought: Brought) {
        let Some(porter) = self.porters.get_mut(&id) else { return };
        let now_ms = monotonic_ns() / 1_000_000;
        match brought {
            Brought::Connected(wire) => {
                porter.wire = Some(wire);
                self.probe.connected(id);
            }
            Brought::Bytes(bytes) => self.probe.received(id, &bytes, now_ms),
            Brought::Ended => self.probe.ended(id, now_ms),
            Brought::Failed(fault) => {
                self.porters.remove(&id);
                self.probe.failed(id, fault.to_string(), now_ms);
                self.unconnected = Some(fault);
            }
        }
        self.obey();
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
                Some((id, brought)) = self.brought.recv() => self.take(id, brought),
                () = sleep_until(deadline) => return,
            }
        }
    }
}

impl Drop for Porter {
    fn drop(&mut self) {
        match &self.wire {
            Some(wire) => wire.close(),
            None => self.task.abort(),
        }
    }
}

impl Wire {
    /// Sends what goes at once; the porter sends the rest.
    fn send(&self, bytes: &[u8]) {
        let mut rest = self.rest.borrow_mut();
        // What fails is read as the end of the connection.
        let sent = if rest.is_empty() { self.link.send_now(bytes).unwrap_or(bytes.len()) } else { 0 };
        if sent < bytes.len() {
            rest.extend_from_slice(&bytes[sent..]);
            self.changed.notify_one();
        }
    }

    fn close(&self) {
        self.is_over.set(true);
        self.changed.notify_one();
    }

    /// Sends more of the rest; false when there is nobody to send it to.
    fn send_rest(&self) -> bool {
        let mut rest = self.rest.borrow_mut();
        let sent = self.link.send_now(&rest);
        if let Ok(sent) = sent {
            rest.drain(..sent);
        }
        sent.is_ok()
    }

    fn has_rest(&self) -> bool {
        !self.rest.borrow().is_empty()
    }

    /// Brings what the server says until it ends, or until all is sent and the wire is to be closed.
    async fn carry(&self, id: SocketId, bring: &mpsc::Sender<(SocketId, Brought)>) {
        while !self.is_over.get() || self.has_rest() {
            let brought = tokio::select! {
                biased;
                () = self.changed.notified() => continue,
                _ = self.link.writable(), if self.has_rest() => match self.send_rest() {
                    true => continue,
                    false => Brought::Ended,
                },
                _ = self.link.readable(), if !self.is_over.get() => match self.link.read_now() {
                    Ok(bytes) if !bytes.is_empty() => Brought::Bytes(bytes),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Ok(_) | Err(_) => Brought::Ended,
                },
            };
            let is_end = matches!(brought, Brought::Ended);
            if bring.send((id, brought)).await.is_err() || is_end {
                return;
            }
        }
    }
}

/// A porter.
async fn carry_for(id: SocketId, target: Target, bring: mpsc::Sender<(SocketId, Brought)>) {
    match Link::open(&target).await {
        Ok(link) => {
            let wire =
                Rc::new(Wire { link, rest: RefCell::default(), is_over: Cell::new(false), changed: Notify::new() });
            if bring.send((id, Brought::Connected(Rc::clone(&wire)))).await.is_ok() {
                wire.carry(id, &bring).await;
            }
        }
        // Nobody waits for it any more, perhaps.
        Err(error) => drop(bring.send((id, Brought::Failed(connect_fault(&error)))).await),
    }
}
