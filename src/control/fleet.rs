//! The fleet of workers: start, letters, farewell. Nothing here waits for a worker.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use crate::dataplane::commons::{Commons, Mail, Scene};
use crate::dataplane::worker::{self, Hired};
use crate::kernel::epoll::{Epoll, EventBell};
use crate::kernel::uring::{RingBell, Uring};
use crate::kernel::{Bell, Engine, Refused, WakeTarget};

use super::engine::Drive;

/// All workers, and the letters they have not got yet.
#[derive(Debug)]
pub(super) struct Fleet {
    commons: Arc<Commons>,
    threads: Vec<JoinHandle<()>>,
    bell: ControlBell,
    /// By worker: what its full mailbox refused.
    unsent: Vec<Unsent>,
}

/// What wakes the workers of each engine.
#[derive(Debug)]
enum ControlBell {
    Ring(Box<RingBell>),
    Event(EventBell),
}

/// Letters that wait to be sent, in the order they are sent in. Each says the same however often it is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Unsent {
    new_scene: bool,
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
    /// Lets everybody hired begin.
    pub(super) fn begin(crew: Crew, commons: Arc<Commons>) -> Self {
        let Crew { bell, hired } = crew;
        let threads = hired.into_iter().enumerate().map(|(index, hired)| hired.begin(index, &commons)).collect();
        Self { bell, threads, unsent: vec![Unsent::default(); commons.desks.len()], commons }
    }

    /// Publishes a scene, then says so.
    pub(super) fn publish(&mut self, scene: Scene) {
        self.commons.scene.store(Arc::new(scene));
        self.tell(Word::NewScene);
    }

    /// Tells every worker.
    pub(super) fn tell(&mut self, word: Word) {
        for unsent in &mut self.unsent {
            unsent.add(word);
        }
        self.deliver();
    }

    /// Sends what is unsent; true when nothing is left.
    pub(super) fn deliver(&mut self) -> bool {
        for index in 0..self.threads.len() {
            while let Some(word) = self.unsent[index].first() {
                if self.commons.post(index, word.letter(), &mut self.bell).is_err() {
                    break;
                }
                self.unsent[index].remove(word);
            }
        }
        self.unsent.iter().all(|unsent| unsent.first().is_none())
    }

    /// Whether letters wait to be sent.
    pub(super) fn has_unsent(&self) -> bool {
        self.unsent.iter().any(|unsent| unsent.first().is_some())
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
    fn add(&mut self, word: Word) {
        match word {
            Word::NewScene => self.new_scene = true,
            Word::Drain => self.drain = true,
            Word::Stop => self.stop = true,
        }
    }

    fn remove(&mut self, word: Word) {
        match word {
            Word::NewScene => self.new_scene = false,
            Word::Drain => self.drain = false,
            Word::Stop => self.stop = false,
        }
    }

    fn first(self) -> Option<Word> {
        match self {
            Unsent { new_scene: true, .. } => Some(Word::NewScene),
            Unsent { drain: true, .. } => Some(Word::Drain),
            Unsent { stop: true, .. } => Some(Word::Stop),
            Unsent { new_scene: false, drain: false, stop: false } => None,
        }
    }
}

impl Word {
    fn letter(self) -> Mail {
        match self {
            Word::NewScene => Mail::NewScene,
            Word::Drain => Mail::Drain,
            Word::Stop => Mail::Stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_go_out_in_order_and_once() {
        let mut unsent = Unsent::default();
        for word in [Word::Stop, Word::NewScene, Word::Drain, Word::NewScene] {
            unsent.add(word);
        }
        let mut sent = Vec::new();
        while let Some(word) = unsent.first() {
            unsent.remove(word);
            sent.push(word);
        }
        assert_eq!(sent, [Word::NewScene, Word::Drain, Word::Stop]);
    }
}
