//! From a client to a server: open a session, choose, connect, and try another when that fails.

use std::sync::Arc;

use super::ending::{ConnectResult, Ending};
use super::pump::{Run, Stop, Tools};
use super::record::{COUNT_BITS, Note};
use super::session::{Direction, InFlight, Life, Phase, Role, Session};
use super::shard::{Mode, REPORT_NS, Shard, micros, ms};
use crate::balance::{self, Caller, Pick, Tried};
use crate::base::slab::Key;
use crate::config::plan::{Kind, Listener, Terms};
use crate::kernel::{Close, ConnectOptions, Errno, Kernel, Request, Sock};
use crate::proxy_protocol::{Ends, Header};

/// What to do after a connect failed.
enum Next {
    /// The same server, from another local address.
    Source,
    /// Another server.
    Server,
    /// Give up.
    End,
}

impl Shard {
    /// Opens a session for a connection that counts as this worker's already.
    pub(super) fn open(
        &mut self,
        client: Sock,
        listener: Arc<Listener>,
        accepted_ns: u64,
        now: u64,
        kernel: &mut impl Kernel,
    ) {
        listener.ledger.tally.of(self.index).opened.bump();
        listener.pool.ledger.tally.of(self.index).sessions.rise();
        self.sessions_opened += 1;
        let wanted = self.scene.plan.log.access || listener.pool.policy.is_by_source();
        let peer = if wanted { kernel.peer(client) } else { None };
        let life = Life {
            id: ((self.index as u64) << COUNT_BITS) | self.sessions_opened,
            peer,
            local_port: 0,
            chosen: None,
            last: None,
            tried: Tried::default(),
            proofs: 0,
            forgiven: 0,
            sources_tried: 0,
            answered: false,
            settled: false,
            prompt: false,
            refusal: None,
            doomed: None,
            accepted_ns,
            queued_ns: 0,
            patience_ns: 0,
            queue_us: 0,
            picked_ns: now,
            active_ns: now,
            lifetime_ns: self.lifetime_end(&listener.pool.terms, now),
            report_ns: now + REPORT_NS,
            connect_us: None,
            first_byte_us: None,
        };
        let key = self.sessions.insert(Session {
            listener,
            phase: Phase::Connecting { late: false },
            in_flight: InFlight::default(),
            client,
            server: None,
            up: Default::default(),
            down: Default::default(),
            life,
        });
        if self.mode == Mode::Stopping {
            // Without a request in flight it is gone at once, even after the last wait.
            self.end(key, Ending::Shutdown, 0, now, kernel);
            return;
        }
        self.watch(key, Role::ReadClient, kernel);
        self.choose(key, None, now, kernel);
    }

    /// The kernel's answer to a connect.
    pub(super) fn connected(&mut self, key: Key, result: Result<(), Errno>, now: u64, kernel: &mut impl Kernel) {
        let index = self.index;
        let access = self.scene.plan.log.access;
        let Some(session) = self.sessions.of(key) else { return };
        session.in_flight.remove(Role::Connect);
        let Phase::Connecting { late } = session.phase else {
            self.free_if_quiet(key);
            return;
        };
        if result.is_ok() && is_nobody(session, kernel) {
            let errno = kernel.error(session.client).unwrap_or(Errno::ECONNRESET);
            return self.end(key, Ending::ClientGone, errno as i32, now, kernel);
        }
        // Cancelled because its server lost the role, and connected all the same: whoever sent it away does not look again.
        let stays = if late && has_lost_its_role(session) { Err(Errno::ECANCELED) } else { Ok(()) };
        let spoken = match result.and(stays).and_then(|()| speak(session, &mut self.tools, kernel)) {
            Ok(spoken) => spoken,
            Err(errno) => {
                let result = if late { ConnectResult::Timeout } else { classify(errno) };
                if let Some(sock) = session.server.take() {
                    kernel.close(sock, Close::Clean);
                }
                self.connect_failed(key, result, errno, now, kernel);
                return;
            }
        };
        let us = micros(now - session.life.picked_ns);
        session.life.connect_us = Some(us);
        if let Some(server) = session.chosen() {
            server.ledger.tally.of(index).connects[ConnectResult::Ok as usize].bump();
            server.ledger.forget_failures();
        }
        session.listener.pool.ledger.tally.of(index).connect.record(u64::from(us));
        if let (true, Some(sock)) = (access, session.server) {
            session.life.local_port = kernel.local(sock).map_or(0, |address| address.port());
        }
        match session.listener.pool.kind {
            Kind::Tcp => self.relay_begins(key, spoken, now, kernel),
            Kind::Mysql => self.await_greeting(key, spoken, now, kernel),
        }
    }

    /// Both sides are connected. What the client had said by then has gone to the server, as far as `spoken` says.
    fn relay_begins(&mut self, key: Key, spoken: Option<Run>, now: u64, kernel: &mut impl Kernel) {
        let Some(session) = self.sessions.of(key) else { return };
        session.life.active_ns = now;
        session.phase = Phase::Relaying;
        self.set_timer(key, now);
        self.watch(key, Role::ReadServer, kernel);
        if let Some(run) = spoken {
            self.driven(key, Direction::Up, run, now, kernel);
        }
        // The server may speak first: it must learn of the connection even if the client has nothing to say yet.
        if let Some(session) = self.sessions.of(key)
            && let (Phase::Relaying, true, Some(server)) = (session.phase, session.up.is_silent(), session.server)
        {
            kernel.acknowledge(server);
        }
    }

    /// A connect has had all the time it may take.
    pub(super) fn connect_is_late(&mut self, key: Key, now: u64, kernel: &mut impl Kernel) {
        let Some(session) = self.sessions.of(key) else { return };
        session.phase = Phase::Connecting { late: true };
        if let (Some(server), true) = (session.server, session.in_flight.has(Role::Connect)) {
            kernel.cancel(Request::Connect, server, Role::Connect.token(key));
        } else {
            // Unreachable by the table of phases: a connecting session has a connect in flight.
            self.end(key, Ending::Internal, 0, now, kernel);
        }
    }

    /// Chooses a server and begins to connect, over and over until one begins or the session ends. `failed` is how the last
    /// attempt went, if there was one.
    pub(super) fn choose(&mut self, key: Key, failed: Option<(Ending, i32)>, now: u64, kernel: &mut impl Kernel) {
        let mut failed = failed;
        loop {
            let picked = self.pick(key, now);
            if let Pick::Server(server) = picked {
                self.assign(key, server);
                match self.begin(key, now, kernel) {
                    Ok(()) => return,
                    Err(failure) => failed = Some(failure),
                }
                continue;
            }
            let full = match picked {
                Pick::Full => self.queue_up(key, now, kernel),
                Pick::None if self.may_await_role(key) => self.queue_up(key, now, kernel),
                Pick::None | Pick::Server(_) => Err(Ending::NoServer),
            };
            if let Err(ending) = full {
                let (ending, errno) = failed.unwrap_or((ending, 0));
                self.give_up(key, ending, errno, now, kernel);
            }
            return;
        }
    }

    /// Claims a place on a server for a session, unless others were here before.
    pub(super) fn pick(&mut self, key: Key, now: u64) -> Pick {
        let random = self.draw();
        let Some(session) = self.sessions.of(key) else { return Pick::None };
        let waits = session.phase == Phase::Queued;
        let tried = if waits { session.in_vain() } else { session.life.tried };
        if !waits && Self::must_queue(&session.listener, &tried) {
            return Pick::Full;
        }
        let (address, wish) = (session.life.peer.map(|peer| peer.ip()), session.listener.role);
        balance::pick(&session.listener.pool, &Caller { tried: &tried, address, random, now_ns: now, wish })
    }

    /// Takes note of the server that was picked for a session.
    pub(super) fn assign(&mut self, key: Key, server: u16) {
        let index = self.index;
        let Some(session) = self.sessions.of(key) else { return };
        // One that has come back is no other.
        if session.life.last.is_some_and(|last| last != server) {
            session.listener.pool.ledger.tally.of(index).retries.bump();
        }
        session.life.tried.add(server);
        session.life.chosen = Some(server);
        if let (Some(_), Some(server)) = (session.listener.role, session.chosen()) {
            let proofs = server.ledger.proofs();
            session.life.proofs = session.life.proofs.wrapping_add(proofs);
        }
        session.life.sources_tried = 0;
    }

    /// Begins to connect to the chosen server, from one source after the other if there are several. On `Err` the attempt
    /// is over and counted, and another server may be tried; or the session has ended.
    pub(super) fn begin(&mut self, key: Key, now: u64, kernel: &mut impl Kernel) -> Result<(), (Ending, i32)> {
        loop {
            let Some(session) = self.sessions.of(key) else { return Ok(()) };
            let Some(chosen) = session.life.chosen else { return Ok(()) };
            let pool = &session.listener.pool;
            let server = &pool.servers[usize::from(chosen)];
            let sources = pool.terms.sources.as_slice();
            let source = match sources.len() {
                0 => None,
                count => {
                    self.source_turn = self.source_turn.wrapping_add(1);
                    Some(sources[self.source_turn % count])
                }
            };
            let deadline = now + ms(pool.terms.connect_ms);
            match kernel.connect(&server.sockaddr, ConnectOptions { source }, Role::Connect.token(key)) {
                Ok(sock) => {
                    session.server = Some(sock);
                    session.in_flight.add(Role::Connect);
                    session.phase = Phase::Connecting { late: false };
                    session.life.picked_ns = now;
                    self.wheel.set(key.index, deadline);
                    self.relax();
                    return Ok(());
                }
                Err(errno) => {
                    let result = classify(errno);
                    if result == ConnectResult::Resource {
                        self.rest(errno, now, kernel);
                    }
                    match self.attempt_over(key, result, now, kernel) {
                        Next::Source => {}
                        Next::Server => return Err((result.ending(), errno as i32)),
                        Next::End => {
                            self.give_up(key, result.ending(), errno as i32, now, kernel);
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    fn connect_failed(&mut self, key: Key, result: ConnectResult, errno: Errno, now: u64, kernel: &mut impl Kernel) {
        if result == ConnectResult::Resource {
            self.rest(errno, now, kernel);
        }
        match self.attempt_over(key, result, now, kernel) {
            Next::Source => match self.begin(key, now, kernel) {
                Ok(()) => {}
                Err(failed) => self.choose(key, Some(failed), now, kernel),
            },
            Next::Server => self.choose(key, Some((result.ending(), errno as i32)), now, kernel),
            Next::End => self.give_up(key, result.ending(), errno as i32, now, kernel),
        }
    }

    /// Counts a failed attempt, gives the place on its server back unless the same server is tried again, and says what
    /// comes next.
    fn attempt_over(&mut self, key: Key, result: ConnectResult, now: u64, kernel: &mut impl Kernel) -> Next {
        let index = self.index;
        let Some(session) = self.sessions.of(key) else { return Next::End };
        let Some(chosen) = session.life.chosen else { return Next::End };
        let pool = &session.listener.pool;
        let server = &pool.servers[usize::from(chosen)];
        server.ledger.tally.of(index).connects[result as usize].bump();
        if let (true, Some(eject)) = (result.is_fault_of_server(), pool.care.eject)
            && server.ledger.failed() >= eject.failures
        {
            self.commons.alarm.ring();
        }
        if result == ConnectResult::NoPorts {
            let listener = Arc::clone(&session.listener);
            session.life.sources_tried = session.life.sources_tried.saturating_add(1);
            // With another address it is a new connect: not to one that has lost the role meanwhile.
            let suits = listener.role.is_none_or(|role| server.ledger.suits(role));
            let again = suits && usize::from(session.life.sources_tried) < pool.terms.sources.len();
            self.quiet.ports_ns =
                self.note(self.quiet.ports_ns, now, || Note::NoPorts { listener, server: u32::from(chosen) });
            if again {
                return Next::Source;
            }
        }
        let attempts_left = self.let_go(key, kernel);
        if result == ConnectResult::Resource || !attempts_left { Next::End } else { Next::Server }
    }

    /// Gives the place on the chosen server back; whether another server may be tried.
    pub(super) fn let_go(&mut self, key: Key, kernel: &mut impl Kernel) -> bool {
        let Some(session) = self.sessions.of(key) else { return false };
        if let Some(server) = session.chosen() {
            balance::release(server);
        }
        session.life.last = session.life.chosen.take();
        let attempts_left = session.life.tried.count() < session.terms().connect_attempts;
        if session.listener.pool.ledger.line.is_waited_in() {
            let pool = Arc::clone(&session.listener.pool);
            self.call_for(&pool, kernel);
        }
        attempts_left
    }

    /// When `max_lifetime` ends a session that begins now: up to a tenth early, so that sessions that began together
    /// do not end together.
    fn lifetime_end(&mut self, terms: &Terms, now: u64) -> u64 {
        if terms.lifetime_ms == 0 {
            return u64::MAX;
        }
        let length = ms(terms.lifetime_ms);
        now + length - self.draw() % (length / 10).max(1)
    }

    /// xorshift64 (Marsaglia 2003): jitter and `random-two` need no better.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// Whether the listener wants a role that the chosen server has no more.
fn has_lost_its_role(session: &Session) -> bool {
    let chosen = session.chosen();
    session.listener.role.is_some_and(|role| chosen.is_some_and(|server| !server.ledger.suits(role)))
}

/// Whether a server is to be told who the client is, and nobody knows any more: its connection is gone. Told nothing, the server
/// would take what the client has said before for our own words.
fn is_nobody(session: &mut Session, kernel: &mut impl Kernel) -> bool {
    if session.terms().send_proxy.is_none() {
        return false;
    }
    session.life.peer = session.life.peer.or_else(|| kernel.peer(session.client));
    session.life.peer.is_none() && kernel.local(session.client).is_some()
}

/// Makes sure of a connect that went well by passing on what the client has said meanwhile, behind the header that says whose
/// connection it is, if the pool sends one: a server that takes some of it is connected, and nobody need ask. What it does not
/// take is kept for another. `None`: nothing has been passed on yet.
fn speak(session: &mut Session, tools: &mut Tools, kernel: &mut impl Kernel) -> Result<Option<Run>, Errno> {
    let Some(server) = session.server else { return Ok(None) };
    // A server that speaks first gets nothing of the client's before.
    let waits = session.listener.pool.kind == Kind::Tcp && (session.up.readable || session.up.is_blocked());
    let run = match session.terms().send_proxy {
        None if !waits => return truly_connected(session, None, kernel).map(|()| None),
        None => session.up.drive(session.client, server, tools, kernel),
        Some(version) => {
            let header = Header::of_client(version, ends(session, kernel));
            let client = waits.then_some(session.client);
            session.up.introduce(&header, client, server, tools, kernel)
        }
    };
    if run.sent == 0 {
        let said = if let Stop::SinkFault(errno) = run.stop { Some(errno) } else { None };
        truly_connected(session, said, kernel)?;
    }
    Ok(Some(run))
}

/// The client's connection, as its client sees it; `None` if it is a unix socket's.
fn ends(session: &Session, kernel: &mut impl Kernel) -> Option<Ends> {
    Some(Ends { source: session.life.peer?, destination: kernel.local(session.client)? })
}

/// Whether a connect that went well did. An ICMP error that arrives while the kernel holds the socket's lock makes it
/// pollable before the error is in place, and io_uring then reports success for a socket that is still in SYN-SENT
/// (`io_connect` after `tcp_v4_err`; seen on Linux 6.18 with servers behind a veth). Such a socket takes no bytes, so one that
/// has taken some needs no look.
///
/// The peer's address tells, not `SO_ERROR`, which asking clears: a server that has accepted, spoken and reset by now is
/// no failed connect. Such a socket has no peer either, but its error is another. `said` is what a send has said, and cleared.
fn truly_connected(session: &mut Session, said: Option<Errno>, kernel: &mut impl Kernel) -> Result<(), Errno> {
    let Some(sock) = session.server else { return Ok(()) };
    let unix = session.chosen().is_some_and(|server| server.sockaddr.is_unix());
    if unix || kernel.peer(sock).is_some() {
        return Ok(());
    }
    match said.or_else(|| kernel.error(sock)) {
        None => Ok(()),
        Some(errno @ (Errno::ECONNRESET | Errno::EPIPE)) => {
            if said.is_none() {
                session.life.doomed = Some((Ending::ServerReset, errno as i32));
            }
            Ok(())
        }
        Some(errno) => Err(errno),
    }
}

/// What an errno of connect(2), socket(2) or bind(2) means.
fn classify(errno: Errno) -> ConnectResult {
    match errno {
        Errno::ECONNREFUSED | Errno::ENOENT | Errno::ECONNRESET => ConnectResult::Refused,
        Errno::ETIMEDOUT | Errno::ECANCELED => ConnectResult::Timeout,
        Errno::EADDRNOTAVAIL | Errno::EADDRINUSE => ConnectResult::NoPorts,
        Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM => ConnectResult::Resource,
        _ => ConnectResult::Unreachable,
    }
}
