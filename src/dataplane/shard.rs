//! The shard: every decision of one worker.
//!
//! Events, time and mail come in; calls on the [`Kernel`] go out. It reads no clock and knows no thread, so the same shard
//! runs on any kernel, a simulated one too. Doors (listening sockets) are in `doors`, the way to a server in `connect`, the
//! end of a session in `closing`; here are the relay and the timers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::commons::{Commons, Desk, Mail, Scene};
use super::doors::DoorSlot;
use super::ending::Ending;
use super::evict;
use super::exodus;
use super::gather::Visit;
use super::handover::Strangers;
use super::pump::{Run, Stop, Tools};
use super::queue::Queue;
use super::record::Note;
use super::roll;
use super::session::{Direction, Phase, Role, Session, Side};
use crate::base::slab::{Key, Slab};
use crate::base::wheel::Wheel;
use crate::kernel::{Errno, Event, KeepaliveOptions, Kernel, Readiness};

/// A second, in nanoseconds.
pub(super) const SECOND_NS: u64 = 1_000_000_000;
const MS_NS: u64 = 1_000_000;
/// Age at which a session gets keepalive and user timeout on its sockets: short ones never pay for them.
const SETTLE_NS: u64 = SECOND_NS;
/// What certainly fits into one segment, in bytes (RFC 9293 §3.7.1: 536 is the least everyone takes). A first request of
/// this size cannot be held back by Nagle's algorithm, so a session of one request never pays for switching it off.
const ONE_SEGMENT: u64 = 536;
/// A living session is recorded this often.
pub(super) const REPORT_NS: u64 = 300 * SECOND_NS;

/// Memory of a session's slot, in bytes, with its place in the timer wheel.
pub const SESSION_BYTES: u64 = size_of::<Session>() as u64 + 64;

/// What a worker is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything.
    Serving,
    /// No new connections.
    Draining,
    /// No sessions either; leaves when the kernel has let go of the last one.
    Stopping,
}

/// One worker's state.
#[derive(Debug)]
pub struct Shard {
    pub(super) index: usize,
    pub(super) commons: Arc<Commons>,
    pub(super) scene: Arc<Scene>,
    pub(super) mode: Mode,
    pub(super) doors: Slab<DoorSlot>,
    /// Doors that wait for a moment to accept again.
    pub(super) doors_paused: usize,
    /// Descriptors or memory ran short, and no session has been connected since.
    pub(super) short: bool,
    pub(super) sessions: Slab<Session>,
    pub(super) wheel: Wheel,
    pub(super) tools: Tools,
    /// Directions that stopped at their budget.
    runnable: VecDeque<(Key, Direction)>,
    /// Sockets that gather, the next to be looked after first.
    pub(super) visits: VecDeque<Visit>,
    /// Servers whose sessions are being ended.
    pub(super) evictions: VecDeque<evict::Progress>,
    /// Orders to lead sessions out.
    pub(super) exoduses: VecDeque<exodus::Progress>,
    /// Calls of the roll under way.
    pub(super) rolls: VecDeque<roll::Calling>,
    due: Vec<u32>,
    /// Sessions that wait for a place, by pool.
    pub(super) queues: Vec<Queue>,
    /// One of them has been called.
    pub(super) called: bool,
    /// Which of them is being looked through.
    pub(super) looking: Option<usize>,
    pub(super) sessions_opened: u64,
    pub(super) strangers: Strangers,
    /// Turns through the source addresses of pools that have them.
    pub(super) source_turn: usize,
    pub(super) random: u64,
    pub(super) quiet: Quiet,
}

/// When each kind of note may be said again.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    pub(super) accept_ns: u64,
    pub(super) full_ns: u64,
    pub(super) ports_ns: u64,
    pipes_ns: u64,
}

impl Shard {
    /// The shard of worker `index`, with no door open: [`Shard::adopt`] opens them. `seed` feeds its jitter and draws.
    pub fn new(index: usize, commons: Arc<Commons>, now: u64, seed: u64) -> Self {
        let scene = commons.scene.load_full();
        Self {
            index,
            commons,
            scene,
            mode: Mode::Serving,
            doors: Slab::default(),
            doors_paused: 0,
            short: false,
            sessions: Slab::default(),
            wheel: Wheel::new(now),
            tools: Tools::default(),
            runnable: VecDeque::new(),
            visits: VecDeque::new(),
            evictions: VecDeque::new(),
            exoduses: VecDeque::new(),
            rolls: VecDeque::new(),
            due: Vec::new(),
            queues: Vec::new(),
            called: false,
            looking: None,
            sessions_opened: 0,
            strangers: Strangers::default(),
            source_turn: index,
            random: seed | 1,
            quiet: Quiet::default(),
        }
    }

    /// How long the worker may wait, in nanoseconds; `None`: until something happens.
    pub fn patience_ns(&self, now: u64) -> Option<u64> {
        let orders = self.next_eviction_ns().into_iter().chain(self.next_exodus_ns()).min();
        let works = !self.runnable.is_empty() || self.called || !self.rolls.is_empty();
        if works || orders.is_some_and(|due_ns| due_ns <= now) {
            return Some(0);
        }
        let timers = self.wheel.next_ns();
        let doors = self.next_door_ns();
        let visits = self.visits.front().map(|visit| visit.due_ns);
        let looks = self.next_look_ns().into_iter().chain(self.strangers.next_ns());
        let next = timers.into_iter().chain(orders).chain(doors).chain(visits).chain(looks).min()?;
        Some(next.saturating_sub(now).max(1))
    }

    /// True when a stopping worker has nothing left.
    pub fn is_done(&self) -> bool {
        self.mode == Mode::Stopping && self.sessions.is_empty() && self.doors.is_empty()
    }

    /// Acts on an event.
    pub fn handle(&mut self, event: Event, now: u64, kernel: &mut impl Kernel) {
        match event {
            Event::Ready { token, readiness, more } => {
                if let Some((role, key)) = Role::parse(token) {
                    self.ready(key, role, readiness, more, now, kernel);
                }
            }
            Event::Accepted { token, result, more } => {
                if let Some((_, key)) = Role::parse(token) {
                    self.accepted(key, result, more, now, kernel);
                }
            }
            Event::Connected { token, result } => {
                if let Some((_, key)) = Role::parse(token) {
                    self.connected(key, result, now, kernel);
                }
            }
            // The letters themselves are read every turn.
            Event::Mail => {}
        }
    }

    /// Gives each direction that stopped at its budget another turn.
    pub fn resume(&mut self, now: u64, kernel: &mut impl Kernel) {
        for _ in 0..self.runnable.len() {
            let Some((key, direction)) = self.runnable.pop_front() else { break };
            let Some(session) = self.sessions.of(key) else { continue };
            session.pump(direction).queued = false;
            if session.phase == Phase::Relaying {
                self.drive(key, direction, now, kernel);
            }
        }
    }

    /// Acts on the timers that are due, and says how the pipes stand. Once a turn.
    pub fn expire(&mut self, now: u64, kernel: &mut impl Kernel) {
        self.wake_doors(now, kernel);
        self.look_for_strangers(now, kernel);
        self.visit(now, kernel);
        self.evict(now, kernel);
        self.lead_out(now, kernel);
        self.call_roll(now, kernel);
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(now, &mut due);
        for index in due.drain(..) {
            if let Some(key) = self.sessions.key_at(index) {
                self.timer(key, now, kernel);
            }
        }
        self.due = due;
        self.mention_pipes(now);
    }

    /// Acts on a letter.
    pub fn obey(&mut self, mail: Mail, now: u64, kernel: &mut impl Kernel) {
        match mail {
            Mail::NewScene => self.adopt(now, kernel),
            Mail::Evict(order) => self.begin_eviction(order, now),
            Mail::Exodus(order) => self.begin_exodus(order, now),
            Mail::Roll(roll) => self.begin_roll(roll),
            Mail::Drain => self.leave(Mode::Draining, now, kernel),
            Mail::Stop => {
                self.leave(Mode::Stopping, now, kernel);
                let keys: Vec<Key> = self.sessions.keys().collect();
                for key in keys {
                    self.end(key, Ending::Shutdown, 0, now, kernel);
                }
            }
        }
    }

    /// Lets go of what others have sent meanwhile, and of what a worker keeps for reuse. Call it last.
    pub fn close(&mut self, now: u64, kernel: &mut impl Kernel) {
        while let Some(mail) = self.desk().take() {
            self.obey(mail, now, kernel);
        }
        while let Some(newcomer) = self.desk().take_newcomer() {
            self.welcome(newcomer, now, kernel);
        }
        self.forget_strangers();
        self.tools.pipes.close(kernel);
    }

    /// This worker's desk.
    pub(super) fn desk(&self) -> &Desk {
        &self.commons.desks[self.index]
    }

    /// Says something to the log, unless the same was said less than a second ago.
    pub(super) fn note(&self, quiet_until_ns: u64, now: u64, note: impl FnOnce() -> Note) -> u64 {
        if now < quiet_until_ns {
            return quiet_until_ns;
        }
        // A full queue means that the log has plenty to say already.
        let _ = self.desk().notes.push(note());
        now + SECOND_NS
    }

    /// A watched socket has something to say.
    fn ready(&mut self, key: Key, role: Role, readiness: Readiness, more: bool, now: u64, kernel: &mut impl Kernel) {
        let Some(session) = self.sessions.of(key) else { return };
        let side = role.side();
        if !more {
            session.in_flight.remove(role);
            match session.phase {
                Phase::Closing => return self.free_if_quiet(key),
                Phase::Parting { .. } if side == Side::Server => return self.parted(key, now, kernel),
                _ => {}
            }
            self.watch(key, role, kernel);
        }
        let Some(session) = self.sessions.of(key) else { return };
        let source = session.pump(side.outgoing());
        source.ending |= readiness.ended | readiness.broken;
        source.readable |= readiness.readable | readiness.ended | readiness.broken | !more;
        match session.phase {
            Phase::Connecting { .. } | Phase::Greeting | Phase::Parting { .. }
                if readiness.broken && side == Side::Client =>
            {
                let errno = kernel.error(session.client).unwrap_or(Errno::ECONNRESET);
                self.end(key, Ending::ClientGone, errno as i32, now, kernel);
            }
            Phase::Queued if readiness.broken => {
                let errno = kernel.error(session.client).unwrap_or(Errno::ECONNRESET);
                self.end(key, Ending::QueueLeft, errno as i32, now, kernel);
            }
            Phase::Greeting if side == Side::Server => self.greeted(key, now, kernel),
            Phase::Connecting { .. } | Phase::Queued | Phase::Greeting | Phase::Parting { .. } | Phase::Closing => {}
            Phase::Relaying => self.relay(key, side, readiness, now, kernel),
        }
    }

    /// Runs what an event on `side` may have set free.
    fn relay(&mut self, key: Key, side: Side, readiness: Readiness, now: u64, kernel: &mut impl Kernel) {
        let Some(session) = self.sessions.of(key) else { return };
        let source = session.pump(side.outgoing());
        if source.readable && !source.queued && !source.is_blocked() {
            self.drive(key, side.outgoing(), now, kernel);
        }
        let Some(session) = self.sessions.of(key) else { return };
        let sink = session.pump(side.incoming());
        let touched = readiness.writable | readiness.ended | readiness.broken;
        if touched && sink.is_blocked() && !sink.queued && session.phase == Phase::Relaying {
            self.drive(key, side.incoming(), now, kernel);
        }
        if readiness.broken {
            self.broken(key, side, now, kernel);
        }
    }

    /// A side has failed. What it sent before may still be on its way, and reading finds the error after the last byte;
    /// so this ends only sessions in which nobody will read any more.
    fn broken(&mut self, key: Key, side: Side, now: u64, kernel: &mut impl Kernel) {
        let Some(session) = self.sessions.of(key) else { return };
        if session.phase != Phase::Relaying {
            return;
        }
        let sock = match side {
            Side::Client => Some(session.client),
            Side::Server => session.server,
        };
        let source = session.pump(side.outgoing());
        // The server's last words are for the client, who may read slowly; a client's last words are for nobody. Nor may
        // they be waited for: after a FIN recv never tells of a reset (`SOCK_DONE`, tcp_recvmsg).
        let reads_on = side == Side::Server && (source.queued || source.is_blocked());
        if reads_on {
            return;
        }
        let errno = sock.and_then(|sock| kernel.error(sock)).unwrap_or(Errno::ECONNRESET);
        self.end(key, fault(side, errno), errno as i32, now, kernel);
    }

    /// Runs the pump of one direction and acts on why it stopped.
    pub(super) fn drive(&mut self, key: Key, direction: Direction, now: u64, kernel: &mut impl Kernel) {
        let Some(session) = self.sessions.of(key) else { return };
        let Some(server) = session.server else { return };
        if direction == Direction::Up && session.life.doomed.is_some() {
            return;
        }
        let (pump, from, to) = match direction {
            Direction::Up => (&mut session.up, session.client, server),
            Direction::Down => (&mut session.down, server, session.client),
        };
        // What a side says last is sent with its FIN, or not at all.
        if direction == Direction::Up && !pump.is_silent() && !pump.ending && !session.life.prompt {
            session.life.prompt = true;
            kernel.send_promptly(server);
        }
        let run = pump.drive(from, to, &mut self.tools, kernel);
        self.driven(key, direction, run, now, kernel);
    }

    /// Acts on a run of a pump.
    pub(super) fn driven(&mut self, key: Key, direction: Direction, run: Run, now: u64, kernel: &mut impl Kernel) {
        let Run { stop, moved, sent } = run;
        let Some(session) = self.sessions.of(key) else { return };
        if direction == Direction::Up
            && sent > ONE_SEGMENT
            && !session.life.prompt
            && let Some(server) = session.server
        {
            session.life.prompt = true;
            kernel.send_promptly(server);
        }
        if moved > 0 {
            self.account(key, direction, moved, now);
            self.flowed(key, direction, moved, kernel);
        }
        let (source_side, sink_side) = match direction {
            Direction::Up => (Side::Client, Side::Server),
            Direction::Down => (Side::Server, Side::Client),
        };
        match stop {
            Stop::Drained => self.drained(key, direction, now, kernel),
            Stop::Full => {
                self.watch(key, Role::write(sink_side), kernel);
            }
            Stop::Budget => {
                if let Some(session) = self.sessions.of(key) {
                    session.pump(direction).queued = true;
                    self.runnable.push_back((key, direction));
                }
            }
            Stop::Ended => self.direction_over(key, direction, now, kernel),
            Stop::SourceFault(errno) => self.end(key, fault(source_side, errno), errno as i32, now, kernel),
            Stop::SinkFault(errno) => self.sink_failed(key, sink_side, errno, now, kernel),
        }
        self.finish_doomed(key, direction, now, kernel);
    }

    /// Counts bytes as soon as they have moved: long sessions are seen while they live.
    pub(super) fn account(&mut self, key: Key, direction: Direction, moved: u64, now: u64) {
        let index = self.index;
        let Some(session) = self.sessions.of(key) else { return };
        session.life.active_ns = now;
        if direction == Direction::Down && session.life.first_byte_us.is_none() {
            let us = micros(now - session.life.accepted_ns);
            session.life.first_byte_us = Some(us);
            session.listener.pool.ledger.tally.of(index).first_byte.record(u64::from(us));
        }
        session.life.answered = direction == Direction::Down;
        let listener = session.listener.ledger.tally.of(index);
        let server = session.chosen().map(|server| server.ledger.tally.of(index));
        match direction {
            Direction::Up => {
                listener.bytes_in.add(moved);
                server.inspect(|tally| tally.bytes_in.add(moved));
            }
            Direction::Down => {
                listener.bytes_out.add(moved);
                server.inspect(|tally| tally.bytes_out.add(moved));
            }
        }
    }

    /// A direction has delivered its last byte: pass the FIN on, or end when both have.
    fn direction_over(&mut self, key: Key, direction: Direction, now: u64, kernel: &mut impl Kernel) {
        let Some(session) = self.sessions.of(key) else { return };
        if session.life.doomed.is_some() {
            // The failed write has taken the server's error, and after that a reset connection reads as ended
            // (tcp_recvmsg): this may be no FIN. `finish_doomed` passes the reset on.
            return;
        }
        if session.up.is_over() && session.down.is_over() {
            self.end(key, Ending::Done, 0, now, kernel);
            return;
        }
        let (pump, to) = match direction {
            Direction::Up => (&mut session.up, session.server),
            Direction::Down => (&mut session.down, Some(session.client)),
        };
        if let (false, Some(to)) = (pump.finished, to) {
            pump.finished = true;
            session.life.active_ns = now;
            kernel.finish(to);
            self.set_timer(key, now);
        }
    }

    /// A write failed. When it was to the server, what the server had said before is still for the client.
    fn sink_failed(&mut self, key: Key, side: Side, errno: Errno, now: u64, kernel: &mut impl Kernel) {
        let ending = fault(side, errno);
        let Some(session) = self.sessions.of(key) else { return };
        if side == Side::Client || session.life.doomed.is_some() || session.down.is_over() {
            self.end(key, ending, errno as i32, now, kernel);
            return;
        }
        session.life.doomed = Some((ending, errno as i32));
        session.up.abandon(&mut self.tools, kernel);
        if !session.down.is_blocked() && !session.down.queued {
            self.drive(key, Direction::Down, now, kernel);
        }
    }

    /// Ends a doomed session once its last bytes have been delivered.
    fn finish_doomed(&mut self, key: Key, direction: Direction, now: u64, kernel: &mut impl Kernel) {
        let Some(session) = self.sessions.of(key) else { return };
        let Some((ending, errno)) = session.life.doomed else { return };
        if direction == Direction::Down && !session.down.is_blocked() && !session.down.queued {
            self.end(key, ending, errno, now, kernel);
        }
    }

    /// Watches a side of a session, unless it is watched already.
    pub(super) fn watch(&mut self, key: Key, role: Role, kernel: &mut impl Kernel) {
        let Some(session) = self.sessions.of(key) else { return };
        if let Some((sock, interest)) = session.watched(role)
            && session.in_flight.add(role)
        {
            kernel.watch(sock, interest, role.token(key));
        }
    }

    /// A session's one timer: whatever is due, then the next.
    fn timer(&mut self, key: Key, now: u64, kernel: &mut impl Kernel) {
        let Some(session) = self.sessions.of(key) else { return };
        match session.phase {
            Phase::Closing | Phase::Parting { .. } => {}
            Phase::Connecting { .. } => self.connect_is_late(key, now, kernel),
            Phase::Queued => self.queue_is_over(key, now, kernel),
            Phase::Greeting => self.greeting_is_late(key, now, kernel),
            Phase::Relaying => {
                if !session.life.settled && now >= session.life.accepted_ns + SETTLE_NS {
                    session.life.settled = true;
                    settle(session, kernel);
                }
                if now >= session.life.lifetime_ns {
                    self.end(key, Ending::Lifetime, 0, now, kernel);
                } else if now >= idle_end(session) {
                    let half = session.is_half_closed();
                    let ending = if half { Ending::HalfCloseTimeout } else { Ending::IdleTimeout };
                    self.end(key, ending, 0, now, kernel);
                } else {
                    if now >= session.life.report_ns {
                        session.life.report_ns = now + REPORT_NS;
                        self.report(key, None, 0, now);
                    }
                    self.set_timer(key, now);
                }
            }
        }
    }

    /// Sets the timer of a relaying session to whatever comes next.
    pub(super) fn set_timer(&mut self, key: Key, now: u64) {
        let Some(session) = self.sessions.of(key) else { return };
        let settle = if session.life.settled { u64::MAX } else { session.life.accepted_ns + SETTLE_NS };
        let next = idle_end(session).min(session.life.lifetime_ns).min(session.life.report_ns).min(settle);
        if next != u64::MAX {
            self.wheel.set(key.index, next.max(now));
        }
    }

    fn mention_pipes(&mut self, now: u64) {
        if let Some(errno) = self.tools.pipes.take_refusal() {
            self.quiet.pipes_ns = self.note(self.quiet.pipes_ns, now, || Note::NoPipes { errno });
        }
        let (used, idle) = self.tools.pipes.used_and_idle();
        let tally = &self.desk().tally;
        tally.pipes_used.store(used as u32, Ordering::Relaxed);
        tally.pipes_idle.store(idle as u32, Ordering::Relaxed);
    }
}

/// When a session has been silent for too long; `u64::MAX` for never.
fn idle_end(session: &Session) -> u64 {
    let terms = session.terms();
    let limit = if session.is_half_closed() { terms.half_close_ms } else { terms.idle_ms };
    if limit == 0 { u64::MAX } else { session.life.active_ns + ms(limit) }
}

/// Sets what only a session of some length needs, on both sides.
fn settle(session: &Session, kernel: &mut impl Kernel) {
    let terms = session.terms();
    let keepalive = terms.keepalive;
    let options = KeepaliveOptions {
        idle_s: keepalive.map_or(0, |k| u32::from(k.idle_s)),
        interval_s: keepalive.map_or(0, |k| u32::from(k.interval_s)),
        count: keepalive.map_or(0, |k| u32::from(k.count)),
        user_timeout_ms: terms.user_timeout_ms,
    };
    kernel.keep_alive(session.client, options);
    if let Some(server) = session.server {
        kernel.keep_alive(server, options);
    }
}

/// The ending when a connected side's socket says `errno`.
pub(super) fn fault(side: Side, errno: Errno) -> Ending {
    match errno {
        Errno::ECONNRESET | Errno::EPIPE | Errno::ECONNABORTED => match side {
            Side::Client => Ending::ClientReset,
            Side::Server => Ending::ServerReset,
        },
        // No answer. Routers and firewalls may have said why meanwhile, and the timeout then speaks with their words
        // (`tcp_write_err`: `sk_err_soft`, out of `icmp_err_convert`): ECONNREFUSED is a firewall that rejects.
        Errno::ETIMEDOUT
        | Errno::EHOSTUNREACH
        | Errno::ENETUNREACH
        | Errno::ENETDOWN
        | Errno::EHOSTDOWN
        | Errno::ENONET
        | Errno::ECONNREFUSED
        | Errno::ENOPROTOOPT
        | Errno::EOPNOTSUPP
        | Errno::EPROTO
        | Errno::EACCES => Ending::PeerVanished,
        Errno::ENOMEM | Errno::ENOBUFS => Ending::Resource,
        _ => Ending::Internal,
    }
}

/// Milliseconds in nanoseconds.
pub(super) fn ms(ms: u32) -> u64 {
    u64::from(ms) * MS_NS
}

/// Nanoseconds in microseconds, as far as 32 bits reach (71 minutes).
pub(super) fn micros(ns: u64) -> u32 {
    u32::try_from(ns / 1_000).unwrap_or(u32::MAX)
}
