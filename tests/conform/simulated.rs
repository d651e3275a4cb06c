//! The simulator's kernel, with no faults and peers that do only what the script says.

use std::net::SocketAddr;

use ringway::kernel::{Bell, Event, Kernel, Sock, WakeTarget};

use crate::faults::Faults;
use crate::kernel::{SimBell, SimKernel};
use crate::play::{Far, Ground, Heard, Target};
use crate::rng::Rng;
use crate::world::{Errand, SimDoor, Trace, World};

/// Room in the buffers of each socket, in bytes.
const ROOM: u64 = 300_000;
/// Descriptors of simulated doors: nobody opens them.
const DOORS: i32 = 500_000;

struct Simulation {
    world: World,
    /// Far ends that have left: they answer what comes with a reset.
    left: Vec<usize>,
}

/// A world of one worker.
pub fn ground() -> Box<dyn Ground> {
    let mut world = World::new(Rng::new(0), 1, Trace::default());
    world.faults = Faults::default();
    world.judged = false;
    // Peers do nothing by themselves.
    world.frozen = true;
    Box::new(Simulation { world, left: Vec::new() })
}

impl Simulation {
    /// What is due happens.
    fn happen(&mut self) {
        while let Some(errand) = self.world.take_errand() {
            match errand {
                Errand::Answer(lane, key, outcome) => self.world.answer(lane, key, outcome),
                Errand::Act(id) => self.world.keep_appointment(id),
                _ => unreachable!("nobody ordered {errand:?}"),
            }
        }
        for &id in &self.left {
            if self.world.socks[id].unsent() > 0 {
                self.world.peer_reads(id);
            }
        }
    }

    fn widen(&mut self, id: usize) {
        let sock = &mut self.world.socks[id];
        (sock.room_in, sock.room_out) = (ROOM, ROOM);
    }
}

impl Ground for Simulation {
    fn call(&mut self, act: &mut dyn FnMut(&mut dyn Kernel)) {
        act(&mut SimKernel { world: &mut self.world, lane: 0 });
        self.happen();
    }

    fn turn(&mut self, now: bool, events: &mut Vec<Event>) {
        let before = events.len();
        let wait = |world: &mut World, events: &mut Vec<Event>| {
            SimKernel { world, lane: 0 }.wait(Some(0), events).expect("the simulated kernel goes on");
        };
        wait(&mut self.world, events);
        self.happen();
        // An answer of the network is under way for less than a fence.
        while let Some(next) = self.world.next_errand_ns() {
            self.world.now = self.world.now.max(next);
            self.happen();
        }
        if events.len() == before || now {
            wait(&mut self.world, events);
        }
    }

    fn door(&mut self) -> Sock {
        let number = self.world.doors.len();
        let fd = DOORS + number as i32;
        self.world.door_of.insert(fd, (number, 0));
        self.world.doors.push(SimDoor {
            queues: vec![Vec::new()],
            open: true,
            given_up: vec![false],
            listener: 0,
            pool: 0,
            members: Vec::new(),
        });
        Sock(fd)
    }

    fn knock(&mut self, door: Sock) -> Far {
        let (number, _) = self.world.door_of[&door.0];
        let id = self.world.socks.len();
        self.world.client_comes(number);
        self.widen(id);
        Far(id)
    }

    fn target(&mut self, target: Target) -> SocketAddr {
        let always = |is: bool| if is { 1000 } else { 0 };
        self.world.faults.connect_refused = always(target == Target::Refuses);
        self.world.faults.connect_silent = always(target == Target::Silent);
        SocketAddr::from(([10, 0, 0, 1], 80))
    }

    fn answer(&mut self, sock: Sock) -> Far {
        let id = self.world.open_sock(sock, "answer");
        self.widen(id);
        Far(id)
    }

    fn say(&mut self, far: Far, bytes: usize) {
        let sock = &mut self.world.socks[far.0];
        sock.arrived += bytes as u64;
        assert!(sock.unread() <= sock.room_in, "a far end says more than there is room for");
        self.world.tell_of_data(far.0);
    }

    fn hear(&mut self, far: Far, _: usize, _: bool) -> (usize, Heard) {
        let before = self.world.socks[far.0].delivered;
        while self.world.socks[far.0].unsent() > 0 {
            self.world.peer_reads(far.0);
        }
        self.world.peer_reads(far.0);
        let sock = &self.world.socks[far.0];
        let heard = match () {
            () if sock.peer.rst_coming => Heard::Reset,
            () if sock.peer.heard_fin => Heard::Fin,
            () => Heard::Open,
        };
        ((sock.delivered - before) as usize, heard)
    }

    fn finish(&mut self, far: Far) {
        self.world.fin_by_peer(far.0, false);
    }

    fn reset(&mut self, far: Far) {
        self.world.reset_by_peer(far.0);
    }

    fn leave(&mut self, far: Far) {
        self.left.push(far.0);
        if self.world.socks[far.0].unsent() > 0 {
            self.world.reset_by_peer(far.0);
        } else {
            self.world.fin_by_peer(far.0, true);
        }
    }

    fn ring(&mut self) {
        SimBell(&mut self.world).ring(WakeTarget(0));
    }
}
