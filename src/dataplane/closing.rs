//! The end of a session: one ending, one record, both sockets let go, and the slot freed when the kernel has answered all.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::commons::Commons;
use super::ending::{ConnectResult, Ending};
use super::record::{Crowd, Record};
use super::session::{Phase, Role, Session};
use super::shard::Shard;
use crate::balance;
use crate::base::counter::Counter;
use crate::base::slab::Key;
use crate::config::plan::LogFormat;
use crate::kernel::{Close, Kernel, Request};

/// Bytes of a session that leave the buffers of its sockets as small as they were.
const SMALL: u64 = 64 * 1024;

impl Shard {
    /// Ends a session. Does nothing if it has ended already.
    pub(super) fn end(&mut self, key: Key, ending: Ending, errno: i32, now: u64, kernel: &mut impl Kernel) {
        // A side that has not got everything must not take the end for a clean one; one that has itself reset hears nothing.
        let clean_for_client = matches!(ending, Ending::Done | Ending::ClientReset);
        let client = if clean_for_client { Close::Clean } else { Close::Reset };
        self.end_like(key, ending, errno, client, now, kernel);
    }

    /// The same, with the way to close the client's connection.
    pub(super) fn end_like(
        &mut self,
        key: Key,
        ending: Ending,
        errno: i32,
        client: Close,
        now: u64,
        kernel: &mut impl Kernel,
    ) {
        let index = self.index;
        let Some(session) = self.sessions.of(key) else { return };
        if session.phase == Phase::Closing {
            return;
        }
        if session.phase == Phase::Queued {
            self.leave_queue(key, now);
        }
        let Some(session) = self.sessions.of(key) else { return };
        let connecting = matches!(session.phase, Phase::Connecting { .. });
        let relaying = session.phase == Phase::Relaying;
        session.phase = Phase::Closing;
        session.up.abandon(&mut self.tools, kernel);
        session.down.abandon(&mut self.tools, kernel);
        // Cancel first, close after: both are requests of this turn, and the FIN or RST leaves when the last holder of the
        // socket lets go.
        for role in [Role::ReadClient, Role::WriteClient, Role::ReadServer, Role::WriteServer] {
            if let Some((sock, interest)) = session.watched(role)
                && session.in_flight.has(role)
            {
                kernel.cancel(Request::Watch(interest), sock, role.token(key));
            }
        }
        if let Some(server) = session.server
            && session.in_flight.has(Role::Connect)
        {
            kernel.cancel(Request::Connect, server, Role::Connect.token(key));
        }
        kernel.close(session.client, client);
        if let Some(server) = session.server.take() {
            let clean_for_server = !relaying || matches!(ending, Ending::Done | Ending::ServerReset);
            match session.chosen() {
                _ if clean_for_server => kernel.close(server, Close::Clean),
                Some(chosen) if is_as_new(session) => kernel.spare(server, &chosen.sockaddr),
                _ => kernel.close(server, Close::Reset),
            }
        }
        if let Some(packet) = session.life.refusal.take() {
            self.tools.keep_spill(packet);
        }
        if let Some(server) = session.chosen() {
            balance::release(server);
            if connecting {
                server.ledger.tally.of(index).connects[ConnectResult::Abandoned as usize].bump();
            }
        }
        // Only a session that had a place frees one.
        let freed = session.life.chosen.is_some() && session.listener.pool.ledger.line.is_waited_in();
        let freed = freed.then(|| Arc::clone(&session.listener.pool));
        session.listener.ledger.tally.of(index).ended[ending as usize].bump();
        let length_us = now.saturating_sub(session.life.accepted_ns) / 1_000;
        let pool = session.listener.pool.ledger.tally.of(index);
        pool.session.record(length_us);
        pool.sessions.fall();
        self.desk().sessions.fetch_sub(1, Ordering::Relaxed);
        self.wheel.clear(key.index);
        self.report(key, Some(ending), errno, now);
        self.free_if_quiet(key);
        if let Some(pool) = freed {
            self.call_for(&pool, kernel);
        }
    }

    /// Frees the slot of an ended session once nothing of it is in flight.
    pub(super) fn free_if_quiet(&mut self, key: Key) {
        if let Some(session) = self.sessions.of(key)
            && session.phase == Phase::Closing
            && session.in_flight.is_empty()
        {
            self.sessions.remove(key);
        }
    }

    /// Puts a record of a session into the queue to the log: its end, or (`ending` is `None`) how it stands.
    pub(super) fn report(&mut self, key: Key, ending: Option<Ending>, errno: i32, now: u64) {
        let log = &self.scene.plan.log;
        if !log.access {
            return;
        }
        let shows_crowd = log.format == LogFormat::Haproxy && ending.is_some();
        let Some(session) = self.sessions.of(key) else { return };
        let life = &session.life;
        let record = Record {
            session: life.id,
            made_ns: now,
            accepted_ns: life.accepted_ns,
            listener: Arc::clone(&session.listener),
            server: life.chosen.or(life.last).map(u32::from),
            client: life.peer,
            local_port: life.local_port,
            queue_us: life.queue_us,
            connect_us: life.connect_us,
            first_byte_us: life.first_byte_us,
            bytes_in: session.up.moved,
            bytes_out: session.down.moved,
            attempts: session.attempts(),
            ending,
            errno,
            crowd: shows_crowd.then(|| crowd(&self.commons, session)),
        };
        let desk = self.desk();
        if desk.records.push(record).is_err() {
            desk.tally.records_dropped.bump();
        }
    }
}

/// Whether the server's socket is none the worse for this session: no options, no source, no large buffers.
fn is_as_new(session: &Session) -> bool {
    let moved = session.up.moved + session.down.moved;
    !session.life.settled && session.terms().sources.is_empty() && moved < SMALL
}

/// Who is there when `session` has just ended and been counted. A few loads a worker, and only for the format that shows it.
fn crowd(commons: &Commons, session: &Session) -> Crowd {
    let listener = &session.listener;
    // What has ended is read first: a session that another worker opens and ends meanwhile must not count as minus one.
    let at_listener = listener.ledger.tally.sum(|t| {
        let ended: u64 = t.ended.iter().map(Counter::read).sum();
        t.opened.read().saturating_sub(ended)
    });
    let server =
        session.life.chosen.or(session.life.last).and_then(|index| listener.pool.servers.get(usize::from(index)));
    let number = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    Crowd {
        process: commons.sessions().saturating_add(1),
        listener: number(at_listener).saturating_add(1),
        pool: number(listener.pool.ledger.tally.sum(|t| t.sessions.read())),
        server: server.map_or(0, |server| server.ledger.active.load(Ordering::Relaxed)),
    }
}
