//! Hatches: how listening sockets and connections come to a worker that has a table of descriptors of its own.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::RawFd;

use ringway::kernel::{Close, Errno, Hatch, Sock, Ticket};

use crate::kernel::SimKernel;
use crate::rng::Rng;
use crate::world::{World, note};

/// Descriptors of doors; below those of connections.
const DOOR_BASE: RawFd = 500_000;

/// The hatches of all workers.
#[derive(Debug)]
pub struct Hatches {
    rng: Rng,
    lanes: Vec<SimHatch>,
    /// Listening sockets that a worker has claimed and not closed.
    pub listening: BTreeSet<RawFd>,
    /// Connections that were handed to a worker who ended before there was a descriptor for them.
    pub lost: u64,
}

#[derive(Clone, Debug, Default)]
struct SimHatch {
    /// Sent when the next letter is: the hatch was full when their scene was published.
    parcels: Vec<(Ticket, RawFd)>,
    outside: VecDeque<(Ticket, RawFd)>,
    inside: Vec<(Ticket, RawFd)>,
    unwanted: Vec<Ticket>,
    /// Nothing more goes in.
    full: bool,
}

impl Hatches {
    pub fn new(rng: Rng, workers: usize) -> Self {
        Self { rng, lanes: vec![SimHatch::default(); workers], listening: BTreeSet::new(), lost: 0 }
    }

    /// The descriptor of a worker's socket of a door.
    pub fn door(&self, number: usize, lane: usize) -> RawFd {
        DOOR_BASE + RawFd::try_from(number * self.lanes.len() + lane).expect("a run has few doors")
    }

    /// A door's socket is on its way to a worker: now, or when it gets the letter about it.
    pub fn send(&mut self, lane: usize, ticket: Ticket, fd: RawFd) {
        let late = self.rng.chance(300);
        let hatch = &mut self.lanes[lane];
        hatch.parcels.push((ticket, fd));
        if !late {
            self.deliver(lane);
        }
    }

    /// What was held back goes in.
    pub fn deliver(&mut self, lane: usize) {
        let hatch = &mut self.lanes[lane];
        hatch.outside.extend(hatch.parcels.drain(..));
    }

    /// Says whether the hatches of all others are full for `lane`'s next turn.
    pub fn fill(&mut self, lane: usize, full: bool) {
        for (_, hatch) in self.lanes.iter_mut().enumerate().filter(|&(other, _)| other != lane) {
            hatch.full = full;
        }
    }

    /// What came in and nobody has claimed.
    pub fn unclaimed(&self, lane: usize) -> Vec<Ticket> {
        self.lanes[lane].inside.iter().map(|&(ticket, _)| ticket).collect()
    }
}

impl World {
    /// A worker has read of the published scene: it accepts from now on at each door of it whose socket has been sent, or will when
    /// there is a descriptor for that.
    pub fn furnish(&mut self, lane: usize) {
        let Self { doors, hatches, lanes, now, .. } = self;
        let parcels = &hatches.lanes[lane].parcels;
        for (number, _) in doors.iter().enumerate().filter(|(_, door)| door.open) {
            let ticket = Ticket::of_door(number as u64 + 1);
            if parcels.iter().all(|(held_back, _)| *held_back != ticket) {
                lanes[lane].furnished_ns.entry(number).or_insert(*now);
            }
        }
    }
}

impl SimKernel<'_> {
    pub fn pass_on(&mut self, sock: Sock, ticket: Ticket, Hatch(lane): Hatch) -> Result<(), Errno> {
        let id = self.world.open_sock(sock, "pass");
        let lane = usize::try_from(lane).expect("hatches are numbered by worker");
        assert!(self.world.socks[id].flights.is_empty(), "socket {id} is passed on with requests in flight");
        if self.world.hatches.lanes[lane].full {
            self.world.see("a hatch is full");
            return Err(Errno::EAGAIN);
        }
        note!(self.world, "  socket {id} goes to worker {lane}");
        self.world.hatches.lanes[lane].outside.push_back((ticket, sock.0));
        Ok(())
    }

    pub fn take_all_in(&mut self) -> Result<(), Errno> {
        let hatches = &mut self.world.hatches;
        while let Some((ticket, fd)) = hatches.lanes[self.lane].outside.pop_front() {
            if hatches.rng.chance(30) {
                hatches.lanes[self.lane].outside.push_front((ticket, fd));
                self.world.see("no descriptor for what was passed");
                self.world.lanes[self.lane].shortage_ns = self.world.now;
                return Err(Errno::EMFILE);
            }
            let hatch = &mut hatches.lanes[self.lane];
            match hatch.unwanted.iter().position(|&unwanted| unwanted == ticket) {
                Some(at) => {
                    assert!(hatch.unwanted.swap_remove(at).is_door(), "a connection is thrown away");
                }
                None => hatch.inside.push((ticket, fd)),
            }
        }
        Ok(())
    }

    pub fn claim_one(&mut self, ticket: Ticket) -> Option<Sock> {
        let hatches = &mut self.world.hatches;
        let hatch = &mut hatches.lanes[self.lane];
        let at = hatch.inside.iter().position(|&(inside, _)| inside == ticket)?;
        let (_, fd) = hatch.inside.swap_remove(at);
        if ticket.is_door() {
            hatches.listening.insert(fd);
        }
        Some(Sock(fd))
    }

    pub fn discard_one(&mut self, ticket: Ticket) {
        let hatch = &mut self.world.hatches.lanes[self.lane];
        match hatch.inside.iter().position(|&(inside, _)| inside == ticket) {
            Some(at) => {
                assert!(hatch.inside.swap_remove(at).0.is_door(), "a connection is thrown away");
            }
            None => hatch.unwanted.push(ticket),
        }
    }

    /// The worker ends, and its hatch with it.
    pub fn close_hatch(&mut self) {
        let hatch = &mut self.world.hatches.lanes[self.lane];
        let mut left = std::mem::take(&mut hatch.outside);
        left.extend(hatch.inside.extract_if(.., |(ticket, _)| !ticket.is_door()));
        for (_, fd) in left.into_iter().filter(|(ticket, _)| !ticket.is_door()) {
            note!(self.world, "  a connection ends with the hatch");
            let id = self.world.open_sock(Sock(fd), "close_hatch");
            self.world.close(self.lane, id, Close::Reset);
            self.world.hatches.lost += 1;
        }
    }
}
