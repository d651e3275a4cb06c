//! The fleet of workers: start, letters, farewell. Nothing here waits for a worker.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use crate::config::ledger::PoolLedger;
use crate::dataplane::commons::{Commons, Mail, Scene};
use crate::dataplane::evict::Eviction;
use crate::dataplane::exodus::Exodus;
use crate::dataplane::roll::Roll;
use crate::dataplane::worker::{self, Hired};
use crate::kernel::epoll::{Epoll, EventBell};
use crate::kernel::uring::{RingBell, Uring};
use crate::kernel::{Bell, Engine, Errno, Hatch, Refused, Ticket, WakeTarget};
use crate::sys::hatch;

use super::engine::Drive;

/// All workers, and the letters they have not got yet.
#[derive(Debug)]
pub(super) struct Fleet {
    commons: Arc<Commons>,
    threads: Vec<JoinHandle<()>>,
    bell: ControlBell,
    /// By worker: what its full mailbox or hatch refused.
    unsent: Vec<Unsent>,
}

/// The listening sockets of a door, by worker: what is passed to them when a scene with it has been published.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    /// The door's id.
    pub(super) door: u64,
    /// They stay open here too.
    pub(super) sockets: Arc<[OwnedFd]>,
}

/// What wakes the workers of each engine.
#[derive(Debug)]
enum ControlBell {
    Ring(Box<RingBell>),
    Event(EventBell),
}

/// Letters that wait to be sent, in the order they are sent in. Each word says the same however often it is said.
#[derive(Clone, Debug, Default)]
struct Unsent {
    parcels: VecDeque<Parcel>,
    new_scene: bool,
    /// At most one a server and kind.
    evictions: VecDeque<Arc<Eviction>>,
    exoduses: VecDeque<Arc<Exodus>>,
    drain: bool,
    stop: bool,
}

/// What a fleet can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    NewScene,
    Drain,
    Stop,
}

impl Fleet {
    /// Lets everybody hired begin, with the sockets of the scene that is published.
    pub(super) fn begin(crew: Crew, commons: Arc<Commons>, parcels: Vec<Parcel>) -> Self {
        let Crew { bell, hired } = crew;
        let threads = worker::begin(hired, &commons);
        let unsent = vec![Unsent::default(); commons.desks.len()];
        let mut fleet = Self { bell, threads, unsent, commons };
        fleet.send(parcels);
        fleet
    }

    /// Publishes a scene, passes on the sockets of doors that are new in it, then says so.
    pub(super) fn publish(&mut self, scene: Scene, parcels: Vec<Parcel>) {
        let known = |parcel: &Parcel| scene.doors.iter().any(|(door, _)| door.id == parcel.door);
        self.unsent.iter_mut().for_each(|unsent| unsent.parcels.retain(known));
        self.commons.scene.store(Arc::new(scene));
        self.send(parcels);
    }

    fn send(&mut self, parcels: Vec<Parcel>) {
        self.unsent.iter_mut().for_each(|unsent| unsent.parcels.extend(parcels.iter().cloned()));
        self.tell(Word::NewScene);
    }

    /// Tells every worker.
    pub(super) fn tell(&mut self, word: Word) {
        for unsent in &mut self.unsent {
            unsent.add(word);
        }
        self.deliver();
    }

    /// Has every worker end the sessions of a server.
    pub(super) fn evict(&mut self, order: &Arc<Eviction>) {
        for unsent in &mut self.unsent {
            unsent
                .evictions
                .retain(|waiting| !Arc::ptr_eq(&waiting.server, &order.server) || waiting.whom != order.whom);
            unsent.evictions.push_back(Arc::clone(order));
        }
        self.deliver();
    }

    /// Has every worker lead sessions out.
    pub(super) fn lead_out(&mut self, order: &Arc<Exodus>) {
        self.unsent.iter_mut().for_each(|unsent| unsent.exoduses.push_back(Arc::clone(order)));
        self.deliver();
    }

    /// Has the workers look after those who wait for a pool: it has more room than before.
    pub(super) fn call_waiting(&mut self, pool: &PoolLedger) {
        self.commons.call_waiting(pool, &mut self.bell);
    }

    /// Sends what is unsent; true when nothing is left.
    pub(super) fn deliver(&mut self) -> bool {
        for (index, unsent) in self.unsent.iter_mut().enumerate() {
            unsent.pass(index, self.commons.desks[index].hatch());
            while let Some(letter) = unsent.first() {
                if self.commons.post(index, letter, &mut self.bell).is_err() {
                    break;
                }
                unsent.remove_first();
            }
        }
        !self.has_unsent()
    }

    /// Has every worker call the roll; one whose box is full is left out.
    pub(super) fn call_roll(&mut self, roll: &Arc<Roll>) {
        for index in 0..self.commons.desks.len() {
            if self.commons.post(index, Mail::Roll(Arc::clone(roll)), &mut self.bell).is_err() {
                roll.misses_a_worker();
            }
        }
    }

    /// Whether letters wait to be sent.
    pub(super) fn has_unsent(&self) -> bool {
        self.unsent.iter().any(|unsent| !unsent.parcels.is_empty() || unsent.first().is_some())
    }

    /// Whether every worker has the doors of the scene that was published first.
    pub(super) fn is_in_place(&self) -> bool {
        let doors = self.commons.scene.load().doors.len();
        self.commons.desks.iter().all(|desk| desk.doors.load(Ordering::Acquire) >= doors)
    }

    /// A worker that has ended though nobody told it to.
    pub(super) fn deserter(&self) -> Option<usize> {
        self.threads.iter().position(JoinHandle::is_finished)
    }

    /// Workers that still run.
    pub(super) fn running(&self) -> usize {
        self.threads.iter().filter(|thread| !thread.is_finished()).count()
    }

    /// Turns of each worker's loop.
    pub(super) fn turns(&self) -> Vec<u64> {
        self.commons.desks.iter().map(|desk| desk.turns.load(Ordering::Relaxed)).collect()
    }

    /// Takes leave of workers that have ended; the others are left to the end of the process.
    pub(super) fn dismiss(self) {
        self.threads.into_iter().filter(JoinHandle::is_finished).for_each(|thread| drop(thread.join()));
    }
}

/// Workers that have their engines and have not begun.
#[derive(Debug)]
pub(super) struct Crew {
    bell: ControlBell,
    hired: Vec<Hired>,
}

impl Crew {
    /// Hires a worker for each desk, pinned to `cores` in turn if there are any: all, or none.
    pub(super) fn hire(commons: &Arc<Commons>, cores: &[usize], drive: Drive) -> Result<Self, Refused> {
        let (hired, bell) = match drive {
            Drive::Ring => (all::<Uring>(commons, cores)?, ControlBell::Ring(Box::new(RingBell::new()?))),
            Drive::Epoll => (all::<Epoll>(commons, cores)?, ControlBell::Event(EventBell)),
        };
        Ok(Self { bell, hired })
    }
}

fn all<E: Engine>(commons: &Arc<Commons>, cores: &[usize]) -> Result<Vec<Hired>, Refused> {
    (0..commons.desks.len()).map(|index| worker::hire::<E>(index, cores.get(index).copied(), commons)).collect()
}

impl Bell for ControlBell {
    fn ring(&mut self, target: WakeTarget) {
        match self {
            ControlBell::Ring(bell) => bell.ring(target),
            ControlBell::Event(bell) => bell.ring(target),
        }
    }
}

impl Unsent {
    /// Passes on what the hatch takes. A worker hears of what has come after all, so that it empties a hatch that is full.
    fn pass(&mut self, worker: usize, to: Hatch) {
        while let Some(Parcel { door, sockets }) = self.parcels.front() {
            match hatch::pass(to.0, Ticket::of_door(*door).0, sockets[worker].as_raw_fd()) {
                Ok(()) => {}
                // Nobody is behind it any more.
                Err(Errno::EPIPE | Errno::ECONNRESET) => return self.parcels.clear(),
                Err(_) => return,
            }
            self.parcels.pop_front();
            self.new_scene = true;
        }
    }

    fn add(&mut self, word: Word) {
        match word {
            Word::NewScene => self.new_scene = true,
            Word::Drain => self.drain = true,
            Word::Stop => self.stop = true,
        }
    }

    fn remove_first(&mut self) {
        match self {
            Unsent { new_scene: true, .. } => self.new_scene = false,
            Unsent { evictions, .. } if !evictions.is_empty() => drop(evictions.pop_front()),
            Unsent { exoduses, .. } if !exoduses.is_empty() => drop(exoduses.pop_front()),
            Unsent { drain: true, .. } => self.drain = false,
            Unsent { .. } => self.stop = false,
        }
    }

    fn first(&self) -> Option<Mail> {
        match (self.new_scene, self.evictions.front(), self.exoduses.front()) {
            (true, ..) => Some(Mail::NewScene),
            (_, Some(order), _) => Some(Mail::Evict(Arc::clone(order))),
            (_, _, Some(order)) => Some(Mail::Exodus(Arc::clone(order))),
            (false, None, None) if self.drain => Some(Mail::Drain),
            (false, None, None) => self.stop.then_some(Mail::Stop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ledger::Registry;
    use crate::dataplane::ending::Ending;
    use crate::dataplane::evict::Whom;

    #[test]
    fn letters_go_out_in_order_and_once() {
        let mut unsent = Unsent::default();
        let server = Registry::new(1).server("web", "a", "10.0.0.1:80");
        unsent.evictions.push_back(Arc::new(Eviction { server, ending: Ending::ServerDown, whom: Whom::All }));
        unsent.exoduses.push_back(Arc::new(Exodus::of_all(0)));
        for word in [Word::Stop, Word::NewScene, Word::Drain, Word::NewScene] {
            unsent.add(word);
        }
        let mut sent = Vec::new();
        while let Some(letter) = unsent.first() {
            unsent.remove_first();
            sent.push(letter);
        }
        let right = matches!(sent[..], [Mail::NewScene, Mail::Evict(_), Mail::Exodus(_), Mail::Drain, Mail::Stop]);
        assert!(right, "{sent:?}");
    }
}
