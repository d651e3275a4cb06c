//! A task that asks one MySQL server, over and over: the sockets and the clock of a [`Probe`].
//!
//! Each connection has a small task of its own, a *porter*, who carries bytes both ways; the probe may have two at once. A
//! handshake goes on beside the rounds until the server has answered, even when the server is no longer to be checked.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
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

/// Bytes read at once.
const READ: usize = 4096;
/// What porters have brought and the task has not taken: more waits in the kernel.
const BROUGHT_MAX: usize = 16;
/// Longest password file, in bytes.
const PASSWORD_MAX: u64 = 4096;

/// What a porter brings.
enum Brought {
    Connected,
    Failed(Fault),
    Bytes(Vec<u8>),
    Ended,
}

/// The probe's end of its connections.
struct Desk {
    probe: Probe,
    target: Target,
    porters: HashMap<SocketId, mpsc::UnboundedSender<Vec<u8>>>,
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
        let due_ns = first_ns.unwrap_or_else(|| next_ns(&ward, &pace, begun_ns, ended_ns, random));
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

/// An interval is kept, or a little shorter by chance, never longer: it is what a switch-over waits for.
fn next_ns(ward: &Ward, pace: &CheckPace, begun_ns: u64, ended_ns: u64, random: u64) -> u64 {
    let interval_ms = u64::from(ward.verdict.get().interval_ms(pace)) * 10 / 11;
    schedule::next_ns(begun_ns, ended_ns, u32::try_from(interval_ms.max(1)).unwrap_or(u32::MAX), random)
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
                    let (carry, load) = mpsc::unbounded_channel();
                    self.porters.insert(id, carry);
                    tokio::task::spawn_local(carry_for(id, self.target.clone(), load, self.bring.clone()));
                }
                Order::Send(id, bytes) => {
                    if let Some(porter) = self.porters.get(&id) {
                        // A porter who has gone has told why.
                        let _ = porter.send(bytes);
                    }
                }
                // He delivers what he has, and closes.
                Order::Close(id) => drop(self.porters.remove(&id)),
            }
        }
    }

    fn take(&mut self, id: SocketId, brought: Brought) {
        if !self.porters.contains_key(&id) {
            return;
        }
        let now_ms = monotonic_ns() / 1_000_000;
        match brought {
            Brought::Connected => self.probe.connected(id),
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

/// Connects, then carries bytes both ways until the server has ended or nothing more is to be sent.
async fn carry_for(
    id: SocketId,
    target: Target,
    load: mpsc::UnboundedReceiver<Vec<u8>>,
    bring: mpsc::Sender<(SocketId, Brought)>,
) {
    let link = match Link::open(&target).await {
        Ok(link) => link,
        Err(error) => {
            let _ = bring.send((id, Brought::Failed(connect_fault(&error)))).await;
            return;
        }
    };
    if bring.send((id, Brought::Connected)).await.is_err() {
        return;
    }
    match link {
        Link::Tcp(stream) => carry(id, stream, load, bring).await,
        Link::Unix(stream) => carry(id, stream, load, bring).await,
    }
}

async fn carry(
    id: SocketId,
    stream: impl AsyncRead + AsyncWrite,
    mut load: mpsc::UnboundedReceiver<Vec<u8>>,
    bring: mpsc::Sender<(SocketId, Brought)>,
) {
    let (mut from, mut to) = tokio::io::split(stream);
    let mut buffer = vec![0; READ];
    loop {
        tokio::select! {
            biased;
            bytes = load.recv() => {
                let Some(bytes) = bytes else {
                    // Nothing more to be said: the rest goes out, and then a FIN.
                    let _ = to.shutdown().await;
                    return;
                };
                if to.write_all(&bytes).await.is_err() {
                    let _ = bring.send((id, Brought::Ended)).await;
                    return;
                }
            }
            read = from.read(&mut buffer) => {
                let brought = match read {
                    Ok(0) | Err(_) => Brought::Ended,
                    Ok(count) => Brought::Bytes(buffer[..count].to_vec()),
                };
                let is_over = matches!(brought, Brought::Ended);
                if bring.send((id, brought)).await.is_err() || is_over {
                    return;
                }
            }
        }
    }
}
