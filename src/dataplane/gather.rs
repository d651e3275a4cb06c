//! Long streams are gathered: their sockets tell of something to read only when a good deal waits.
//!
//! A fast sender keeps a worker awake with every segment, and each time little is there to move. Like a network card that
//! holds its interrupts back for a moment, a socket that has streamed for a while is asked to be silent until
//! [`GATHERED`] bytes wait (`SO_RCVLOWAT`, socket(7)). What stays below that is not forgotten: a *visit* fetches it at the
//! next beat ([`BEAT_NS`]), all streams in one turn; and when a visit finds little, the stream has paused, and its socket
//! tells of every byte again. One that fills its socket within a beat may gather more, so that only the beat wakes the
//! worker: each wake moves more then, and sender and receiver are woken, and acknowledge, less often too.
//!
//! Questions and answers are never gathered: a stream is what moves [`STREAM`] bytes one way with none the other way.

use super::session::{Direction, Phase, Session};
use super::shard::Shard;
use crate::base::limits::{GATHERED, GATHERED_MOST};
use crate::base::slab::Key;
use crate::kernel::{Kernel, Sock};

/// Bytes one way, with none the other way, that make a stream.
const STREAM: u64 = 1 << 20;
/// Time between two visits, in nanoseconds: the longest that bytes of a stream wait for more. The first may come half a beat
/// earlier or later.
const BEAT_NS: u64 = 2_000_000;
/// Bytes in that time below which a stream is too slow to be worth its delay.
const VISIT_MIN: u64 = 128 * 1024;

/// How a pump's source is asked to tell of bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// Bytes moved since the other direction last moved some.
    streak: u64,
    gathers: bool,
    /// It gathers [`GATHERED_MOST`].
    fills: bool,
    /// In the queue of [`Visit`]s.
    visited: bool,
}

/// When to look after a socket that gathers.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) due_ns: u64,
    key: Key,
    direction: Direction,
    /// What the pump had moved when the visit was arranged.
    moved: u64,
}

impl Shard {
    /// A direction has moved bytes.
    pub(super) fn flowed(&mut self, key: Key, direction: Direction, moved: u64, kernel: &mut impl Kernel) {
        let Some(session) = self.sessions.of(key) else { return };
        session.pump(direction).flow.streak += moved;
        // An answer follows: from here on, what comes back is waited for.
        session.pump(direction.other()).flow.streak = 0;
        speak_up(session, direction.other(), kernel);
    }

    /// A direction has read all there is. If it streams, let its socket gather.
    pub(super) fn drained(&mut self, key: Key, direction: Direction, now: u64, kernel: &mut impl Kernel) {
        let Some(session) = self.sessions.of(key) else { return };
        let pump = session.pump(direction);
        pump.readable = false;
        if pump.flow.streak < STREAM || !pump.is_splicing() {
            return;
        }
        let moved = pump.moved;
        let begins = !std::mem::replace(&mut pump.flow.gathers, true);
        let visited = std::mem::replace(&mut pump.flow.visited, true);
        if begins && let Some(source) = source(session, direction) {
            kernel.gather(source, GATHERED);
        }
        if !visited {
            self.visits.push_back(Visit { due_ns: next_beat(now), key, direction, moved });
        }
    }

    /// Fetches what sockets have gathered for long enough. Once a turn.
    pub(super) fn visit(&mut self, now: u64, kernel: &mut impl Kernel) {
        while self.visits.front().is_some_and(|visit| visit.due_ns <= now) {
            let Some(Visit { key, direction, mut moved, .. }) = self.visits.pop_front() else { break };
            let Some(session) = self.sessions.of(key) else { continue };
            let relaying = session.phase == Phase::Relaying;
            let pump = session.pump(direction);
            if !relaying || !pump.flow.gathers {
                pump.flow.visited = false;
                continue;
            }
            if !pump.queued && !pump.is_blocked() {
                self.drive(key, direction, now, kernel);
            }
            let Some(session) = self.sessions.of(key) else { continue };
            let pump = session.pump(direction);
            let before = std::mem::replace(&mut moved, pump.moved);
            if moved - before < VISIT_MIN && !pump.queued {
                pump.flow = Flow { gathers: pump.flow.gathers, ..Flow::default() };
                speak_up(session, direction, kernel);
                continue;
            }
            if moved - before >= GATHERED as u64
                && !std::mem::replace(&mut pump.flow.fills, true)
                && let Some(source) = source(session, direction)
            {
                kernel.gather(source, GATHERED_MOST);
            }
            self.visits.push_back(Visit { due_ns: next_beat(now), key, direction, moved });
        }
    }
}

/// The next beat that is more than half of one away.
fn next_beat(now: u64) -> u64 {
    ((now + BEAT_NS / 2) / BEAT_NS + 1) * BEAT_NS
}

/// Lets the source of a direction tell of every byte again.
fn speak_up(session: &mut Session, direction: Direction, kernel: &mut impl Kernel) {
    let flow = &mut session.pump(direction).flow;
    flow.fills = false;
    if !std::mem::replace(&mut flow.gathers, false) || session.phase != Phase::Relaying {
        return;
    }
    if let Some(source) = source(session, direction) {
        kernel.gather(source, 1);
    }
}

fn source(session: &Session, direction: Direction) -> Option<Sock> {
    match direction {
        Direction::Up => Some(session.client),
        Direction::Down => session.server,
    }
}
