//! The roll of sessions: those that live are called out, or ended, as somebody outside wishes; some places of the table a
//! turn, so that nobody else feels it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use super::census::Census;
use super::ending::Ending;
use super::session::Phase;
use super::shard::Shard;
use crate::base::limits::ROLL_MAX;
use crate::base::slab::Key;
use crate::config::plan::Listener;
use crate::kernel::Kernel;

/// Places in the table of sessions that are looked at in one turn.
const PLACES_A_TURN: u32 = 256;

/// Which sessions; whatever is left out suits all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whose {
    /// Of this listener.
    pub listener: Option<String>,
    /// With this server: its pool's name and its own.
    pub server: Option<(String, String)>,
    /// Of clients within this network: address and bits of its prefix. Clients of a unix socket are in none.
    pub source: Option<(IpAddr, u8)>,
    /// These, by [`Row::session`]; empty: any.
    pub sessions: Vec<u64>,
}

/// What is to be done with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// They are called out.
    Call,
    /// They are ended, and called out too.
    End,
}

/// A session as it stands.
#[derive(Debug)]
pub struct Row {
    /// As in its record ([`super::record::Record::session`]).
    pub session: u64,
    /// Its listener, and through it the pool.
    pub listener: Arc<Listener>,
    /// Index of its server in the pool; `None` while it has none.
    pub server: Option<u16>,
    /// The client; `None` for one of a unix socket.
    pub client: Option<std::net::SocketAddr>,
    /// What it is doing: `connecting`, `queued`, `greeting` or `relaying`.
    pub phase: &'static str,
    /// Time since it was accepted, in nanoseconds.
    pub age_ns: u64,
    /// Time since a byte last moved, in nanoseconds.
    pub idle_ns: u64,
    /// Bytes from client to server.
    pub bytes_in: u64,
    /// Bytes from server to client.
    pub bytes_out: u64,
}

/// The answer.
#[derive(Debug)]
pub struct Called {
    /// At most [`ROLL_MAX`] sessions, in no order.
    pub rows: Vec<Row>,
    /// How many suited in all.
    pub found: u64,
    /// Every worker was asked.
    pub complete: bool,
}

/// What takes it.
type Tell = Box<dyn FnOnce(Called) + Send + Sync>;

/// A wish that goes to every worker. When the last of them has let go of it, the answer is told.
pub struct Roll {
    whose: Whose,
    task: Task,
    rows: ArrayQueue<Row>,
    found: AtomicU64,
    incomplete: AtomicBool,
    /// They are only counted.
    census: Option<Arc<Census>>,
    tell: Option<Tell>,
}

impl std::fmt::Debug for Roll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roll").field("whose", &self.whose).field("task", &self.task).finish_non_exhaustive()
    }
}

impl Roll {
    /// A wish. `tell` is called on the thread of the last worker: it must not block, nor wake a task
    /// ([`Alarm::leave`](super::commons::Alarm::leave) is for that).
    pub fn new(whose: Whose, task: Task, tell: impl FnOnce(Called) + Send + Sync + 'static) -> Self {
        Self {
            whose,
            task,
            rows: ArrayQueue::new(ROLL_MAX),
            found: AtomicU64::new(0),
            incomplete: AtomicBool::new(false),
            census: None,
            tell: Some(Box::new(tell)),
        }
    }

    /// A wish that all are counted, and nobody called out.
    pub fn of_census(census: Arc<Census>, tell: impl FnOnce(Called) + Send + Sync + 'static) -> Self {
        let mut roll = Self::new(Whose::default(), Task::Call, tell);
        roll.census = Some(census);
        roll
    }

    /// A worker could not be asked: its box is full.
    pub fn misses_a_worker(&self) {
        self.incomplete.store(true, Ordering::Relaxed);
    }
}

impl Drop for Roll {
    fn drop(&mut self) {
        let rows = std::iter::from_fn(|| self.rows.pop()).collect();
        if let Some(tell) = self.tell.take() {
            let complete = !self.incomplete.load(Ordering::Relaxed);
            tell(Called { rows, found: self.found.load(Ordering::Relaxed), complete });
        }
    }
}

/// How far one has come.
#[derive(Debug)]
pub(super) struct Calling {
    roll: Arc<Roll>,
    next: u32,
}

impl Shard {
    /// Takes a wish.
    pub(super) fn begin_roll(&mut self, roll: Arc<Roll>) {
        self.rolls.push_back(Calling { roll, next: 0 });
    }

    /// Goes on with the first. Once a turn.
    pub(super) fn call_roll(&mut self, now: u64, kernel: &mut impl Kernel) {
        let Some(mut calling) = self.rolls.pop_front() else { return };
        let places = self.sessions.places();
        let end = calling.next.saturating_add(PLACES_A_TURN).min(places);
        for place in calling.next..end {
            if let Some(key) = self.sessions.key_at(place) {
                self.call_out(key, &calling.roll, now, kernel);
            }
        }
        calling.next = end;
        if end < places {
            self.rolls.push_front(calling);
        }
    }

    fn call_out(&mut self, key: Key, roll: &Roll, now: u64, kernel: &mut impl Kernel) {
        let Some(session) = self.sessions.of(key).filter(|session| session.phase != Phase::Closing) else { return };
        if let Some(census) = &roll.census {
            return census.count(session);
        }
        let (life, listener) = (&session.life, &session.listener);
        let whose = &roll.whose;
        let suits_listener = whose.listener.as_ref().is_none_or(|name| *listener.name == **name);
        let suits_id = whose.sessions.is_empty() || whose.sessions.contains(&life.id);
        if !suits_listener || !suits_id {
            return;
        }
        let server = session.chosen().map(|server| &*server.name);
        if let Some((pool, name)) = &whose.server
            && (*listener.pool.name != **pool || server != Some(name))
        {
            return;
        }
        // It is kept only where somebody else wants it.
        let client = life.peer.or_else(|| kernel.peer(session.client));
        if let Some((network, bits)) = whose.source
            && !client.is_some_and(|client| is_within(client.ip(), network, bits))
        {
            return;
        }
        roll.found.fetch_add(1, Ordering::Relaxed);
        let last_ns = if session.phase == Phase::Relaying { life.active_ns } else { life.accepted_ns };
        // What finds no room is counted all the same.
        let _ = roll.rows.push(Row {
            session: life.id,
            listener: Arc::clone(listener),
            server: life.chosen,
            client,
            phase: word(session.phase),
            age_ns: now.saturating_sub(life.accepted_ns),
            idle_ns: now.saturating_sub(last_ns),
            bytes_in: session.up.moved,
            bytes_out: session.down.moved,
        });
        if roll.task == Task::End {
            self.end(key, Ending::Killed, 0, now, kernel);
        }
    }
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Connecting { .. } | Phase::Parting { .. } => "connecting",
        Phase::Queued => "queued",
        Phase::Greeting => "greeting",
        Phase::Relaying => "relaying",
        Phase::Closing => "closing",
    }
}

/// Whether an address is within a network. An IPv4 address in IPv6's clothes is that IPv4 address.
fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (address.to_canonical(), network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            (address.to_bits() ^ network.to_bits()) & mask == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            (address.to_bits() ^ network.to_bits()) & mask == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let within = |address: &str, network: &str, bits| {
            is_within(address.parse().expect("an address"), network.parse().expect("an address"), bits)
        };
        assert!(within("10.1.2.3", "10.1.0.0", 16) && !within("10.2.2.3", "10.1.0.0", 16));
        assert!(within("10.1.2.3", "0.0.0.0", 0) && within("10.1.2.3", "10.1.2.3", 32));
        assert!(!within("10.1.2.2", "10.1.2.3", 32));
        assert!(within("::ffff:10.1.2.3", "10.0.0.0", 8), "IPv4 in IPv6's clothes");
        assert!(within("2001:db8::1", "2001:db8::", 32) && !within("2001:db9::1", "2001:db8::", 32));
        assert!(within("::1", "::", 0) && !within("::1", "0.0.0.0", 0));
    }

    #[test]
    fn the_answer_comes_when_all_have_let_go() {
        let (tell, told) = std::sync::mpsc::channel();
        let roll = Arc::new(Roll::new(Whose::default(), Task::Call, move |called| drop(tell.send(called))));
        let other = Arc::clone(&roll);
        roll.misses_a_worker();
        drop(roll);
        assert!(told.try_recv().is_err());
        drop(other);
        let called = told.try_recv().expect("told");
        assert_eq!((called.rows.len(), called.found, called.complete), (0, 0, false));
    }
}
