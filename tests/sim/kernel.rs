//! The kernel one worker sees: [`ringway::kernel::Kernel`] on the [`World`].

use std::net::SocketAddr;
use std::os::fd::RawFd;

use ringway::kernel::{
    Bell, Close, ConnectOptions, Errno, Event, Hatch, Interest, KeepaliveOptions, Kernel, Pipe, Request, Sock, Ticket,
    Token, WakeTarget,
};
use socket2::SockAddr;

use crate::flight::{Kind, Submission, What};
use crate::socket::Hold;
use crate::world::{SimPipe, Wake, World, note};

/// What is seen when accept finds nothing to make a socket of.
pub const SHORTAGE: &str = "accept finds a shortage";

/// What accept4(2) says when it has no socket to give; the connection waits. `EPERM`: a firewall's word.
const ACCEPT_SHORTAGE: [Errno; 5] = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EPERM];
/// What it says of a connection that was gone before it was taken (accept(2), "Error handling").
const ACCEPT_ABORTED: [Errno; 7] = [
    Errno::ECONNABORTED,
    Errno::EPROTO,
    Errno::ENOPROTOOPT,
    Errno::ENETDOWN,
    Errno::ENETUNREACH,
    Errno::EHOSTDOWN,
    Errno::EHOSTUNREACH,
];
/// What socket(2), setsockopt(2), bind(2) or connect(2) say at once.
const CONNECT_AT_ONCE: [Errno; 9] = [
    Errno::EMFILE,
    Errno::ENFILE,
    Errno::ENOBUFS,
    Errno::ENOMEM,
    Errno::EADDRNOTAVAIL,
    Errno::EADDRINUSE,
    Errno::ENETUNREACH,
    Errno::EACCES,
    Errno::EPERM,
];

/// Worker `lane`'s way into the world.
pub struct SimKernel<'a> {
    pub world: &'a mut World,
    pub lane: usize,
}

impl Bell for SimKernel<'_> {
    fn ring(&mut self, target: WakeTarget) {
        let other = usize::try_from(target.0).expect("desks are open before anyone writes");
        self.world.lanes[self.lane].submissions.push_back(Submission::Ring(other));
    }
}

/// The control thread's bell.
pub struct SimBell<'a>(pub &'a mut World);

impl Bell for SimBell<'_> {
    fn ring(&mut self, target: WakeTarget) {
        let other = usize::try_from(target.0).expect("desks are open before anyone writes");
        self.0.lanes[other].rung_at = Some(self.0.told_at());
    }
}

impl World {
    fn pipe(&mut self, end: RawFd, lane: usize, call: &str) -> usize {
        let id = (end / 2) as usize;
        assert!(self.pipes[id].open, "{call} on pipe {id}, which is closed");
        assert_eq!(self.pipes[id].lane, lane, "pipe {id} is another worker's");
        id
    }

    /// accept(2) may have no socket to give.
    pub fn accept_fails(&mut self, door: usize, lane: usize, aborted_permille: u32) -> Option<Errno> {
        if self.rng.chance(self.faults.accept_shortage) {
            self.see(SHORTAGE);
            return Some(self.dice.one_of(&ACCEPT_SHORTAGE));
        }
        if self.rng.chance(aborted_permille) {
            let id = self.doors[door].queues[lane].remove(0);
            self.socks[id].peer.gone = true;
            return Some(self.dice.one_of(&ACCEPT_ABORTED));
        }
        None
    }

    /// The bytes that go from one side of a session to the other: checks that they are the next of the other's.
    fn check_next(&self, to: usize, from: u64, source: usize, len: u64) {
        if !self.judged {
            return;
        }
        let sock = &self.socks[to];
        let relaying = sock.pair.is_some_and(|number| self.pairs[number].relaying);
        if !relaying {
            assert!(!self.is_server(to), "server's socket {to} is written to before it has greeted");
            assert_eq!(from, sock.given(), "socket {to} got {} bytes and is given those from {from} on", sock.given());
            let told = self.source_for(to).and_then(|source| self.socks[source].greeting.as_ref());
            let whole = told.is_some_and(|greeting| from + len <= greeting.bytes.len() as u64);
            assert!(whole, "socket {to} is given {len} bytes of a server that has not greeted");
            return;
        }
        let other = self.other(to).unwrap_or_else(|| panic!("socket {to} is written to and has no other side"));
        assert_eq!(source, other, "socket {to} is given bytes of socket {source}; its session's other side is {other}");
        assert_eq!(from, sock.given(), "socket {to} got {} bytes and is given those from {from} on", sock.given());
        assert!(from + len <= self.socks[other].read, "socket {to} is given bytes nobody has read");
    }

    fn move_in(&mut self, to: usize, taken: u64) {
        self.socks[to].taken += taken;
        if taken > 0 {
            self.touched(to);
        }
        note!(self, "  → {taken} bytes into socket {to}");
        self.poke(to);
    }

    /// Our end of a connection. (Both ends of each are its own, so that none is taken for another.)
    pub fn local_address(id: usize) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], (id % 60_000) as u16 + 1))
    }

    /// How many bytes a socket takes.
    fn offer(&mut self, to: usize, len: u64) -> Result<u64, Errno> {
        if self.socks[to].untrue.is_some() {
            // In SYN-SENT still, or closed by now.
            self.see("bytes are offered to a server that is not connected");
            let error = if self.dice.chance(500) { self.socks[to].error.take() } else { None };
            return Err(error.unwrap_or(Errno::EAGAIN));
        }
        assert!(self.socks[to].connected, "socket {to} is written to before it is connected");
        assert!(!self.socks[to].fin_sent, "socket {to} is written to after its FIN");
        assert!(len > 0, "nothing is written to socket {to}");
        if self.no_memory(to) {
            return Err(self.dice.one_of(&[Errno::ENOBUFS, Errno::ENOMEM]));
        }
        let mut taken = self.socks[to].put(len);
        if let (Ok(room), true) = (taken, self.rng.chance(self.faults.squeeze)) {
            // It says full early, and room when something has gone out.
            let less = self.rng.below(room);
            if less > 0 {
                self.socks[to].starved = true;
                self.socks[to].squeezed = true;
                taken = Ok(less);
            }
        }
        if let Err(errno) = taken {
            note!(self, "  → {errno:?} from socket {to}");
        }
        taken
    }

    /// True when a call that moves bytes finds no memory.
    fn no_memory(&mut self, id: usize) -> bool {
        let short = self.rng.chance(self.faults.no_memory);
        if let (true, Some(pair)) = (short, self.socks[id].pair) {
            self.pairs[pair].short_of_memory = true;
        }
        short
    }

    fn take_out(&mut self, from: usize, max: u64) -> Result<u64, Errno> {
        assert!(self.socks[from].connected, "socket {from} is read before it is connected");
        let taken = self.socks[from].take(max);
        match taken {
            Ok(taken) => {
                self.socks[from].read += taken;
                self.socks[from].untold_since = None;
                self.hear_greeting(from);
                self.last_read = Some(from);
                note!(self, "  ← {taken} bytes out of socket {from}");
                self.poke(from);
            }
            Err(errno) => note!(self, "  ← {errno:?} from socket {from}"),
        }
        taken
    }
}

impl Kernel for SimKernel<'_> {
    fn wait(&mut self, _: Option<u64>, events: &mut Vec<Event>) -> Result<(), Errno> {
        self.world.submit(self.lane);
        self.world.reap(self.lane, events);
        Ok(())
    }

    fn accept(&mut self, listener: Sock, token: Token) {
        let &(door, lane) = self.world.door_of.get(&listener.0).expect("accept is called on doors only");
        assert_eq!(lane, self.lane, "a worker accepts at another's socket");
        self.world.request(lane, (Kind::Accept, token.0), What::Accept { door });
    }

    fn connect(&mut self, target: &SockAddr, options: ConnectOptions, token: Token) -> Result<Sock, Errno> {
        let address = target.as_socket().expect("the simulated plans have no unix sockets");
        self.world.check_connect(self.lane, address, token);
        let world = &mut *self.world;
        if world.rng.chance(world.faults.connect_at_once) {
            let errno = world.dice.one_of(&CONNECT_AT_ONCE);
            note!(world, "  connect to {address}: {errno:?}");
            world.lanes[self.lane].shortage_ns = world.now;
            world.connect_failed_at_once(self.lane, token, errno);
            return Err(errno);
        }
        let id = world.connect_begins(self.lane, address, token);
        note!(world, "  connect to {address} from {:?} by socket {id}", options.source);
        world.request(self.lane, (Kind::Connect, token.0), What::Connect { sock: id });
        Ok(World::number(id))
    }

    fn watch(&mut self, sock: Sock, interest: Interest, token: Token) {
        let id = self.world.open_sock(sock, "watch");
        assert!(self.world.socks[id].connected, "socket {id} is watched before it is connected");
        self.world.claim_client(self.lane, id, token);
        note!(self.world, "  watch {interest:?} on socket {id}");
        self.world.request(self.lane, (Kind::Watch, token.0), What::Watch { sock: id, interest });
    }

    fn cancel(&mut self, request: Request, _: Sock, token: Token) {
        let kind = match request {
            Request::Accept => Kind::Accept,
            Request::Connect => Kind::Connect,
            Request::Watch(_) => Kind::Watch,
        };
        if kind == Kind::Connect {
            self.world.connect_cancelled(self.lane, token);
        }
        self.world.lanes[self.lane].submissions.push_back(Submission::Cancel((kind, token.0)));
    }

    fn accept_now(&mut self, listener: Sock) -> Result<Sock, Errno> {
        let &(door, lane) = self.world.door_of.get(&listener.0).expect("accept is called on doors only");
        assert_eq!(lane, self.lane, "a worker accepts at another's socket");
        self.world.doors[door].given_up[lane] = false;
        if self.world.doors[door].queues[lane].is_empty() {
            return Err(Errno::EAGAIN);
        }
        // Few are taken this way: more of them are gone than elsewhere, or no seed would see it.
        if let Some(errno) = self.world.accept_fails(door, lane, self.world.faults.accept_aborted * 4) {
            if ACCEPT_SHORTAGE.contains(&errno) {
                self.world.doors[door].given_up[lane] = true;
                self.world.lanes[lane].shortage_ns = self.world.now;
            }
            return Err(errno);
        }
        let id = self.world.doors[door].queues[lane].remove(0);
        self.world.see("a connection is taken from a queue without waiting");
        Ok(self.world.accept_told(id))
    }

    fn pass(&mut self, sock: Sock, ticket: Ticket, hatch: Hatch) -> Result<(), Errno> {
        self.pass_on(sock, ticket, hatch)
    }

    fn take_in(&mut self) -> Result<(), Errno> {
        self.take_all_in()
    }

    fn claim(&mut self, ticket: Ticket) -> Option<Sock> {
        self.claim_one(ticket)
    }

    fn unclaimed(&self) -> Vec<Ticket> {
        self.world.hatches.unclaimed(self.lane)
    }

    fn discard(&mut self, ticket: Ticket) {
        self.discard_one(ticket);
    }

    fn close_listener(&mut self, listener: Sock) {
        assert!(self.world.hatches.listening.remove(&listener.0), "{listener:?} is closed twice");
    }

    fn recv(&mut self, sock: Sock, into: &mut [u8]) -> Result<usize, Errno> {
        let id = self.world.open_sock(sock, "recv");
        self.world.jolt(id);
        let from = self.world.socks[id].read;
        let got = self.world.take_out(id, into.len() as u64)? as usize;
        self.world.write_stream(id, from, &mut into[..got]);
        self.world.jolt(id);
        Ok(got)
    }

    fn send(&mut self, sock: Sock, bytes: &[u8]) -> Result<usize, Errno> {
        let id = self.world.open_sock(sock, "send");
        self.world.jolt(id);
        let taken = self.world.offer(id, bytes.len() as u64)?;
        let from = self.world.socks[id].given();
        let (header, of_header) = self.world.take_header(id, bytes, taken);
        let said = &bytes[header..];
        if !said.is_empty() {
            let source = self.world.source_for(id).unwrap_or(id);
            self.world.check_next(id, from, source, taken - of_header);
            let right = !self.world.judged || self.world.is_stream(source, from, said);
            assert!(right, "socket {id} is given other bytes than those from {from} on of socket {source}");
        }
        self.world.move_in(id, taken - of_header);
        self.world.jolt(id);
        Ok(taken as usize)
    }

    fn fill(&mut self, pipe: &Pipe, sock: Sock, max: usize) -> Result<usize, Errno> {
        let id = self.world.open_sock(sock, "fill");
        self.world.jolt(id);
        let world = &mut *self.world;
        let number = world.pipe(pipe.into, self.lane, "fill");
        let held = world.pipes[number].to - world.pipes[number].from;
        assert_eq!(held, 0, "pipe {number} is filled and holds {held} bytes of socket {}", world.pipes[number].source);
        if world.last_read != Some(id) && world.socks[id].unread() > 0 && world.rng.chance(world.faults.urgent) {
            world.see("splice stops where recv does not");
            return Err(Errno::EAGAIN);
        }
        if world.no_memory(id) {
            return Err(Errno::ENOMEM);
        }
        let mut most = world.pipes[number].size.min(max as u64);
        if world.rng.chance(world.faults.short_fill) {
            most = world.rng.size(most);
        }
        let from = world.socks[id].read;
        let got = world.take_out(id, most)?;
        let pipe = &mut world.pipes[number];
        (pipe.source, pipe.from, pipe.to) = (id, from, from + got);
        world.see("a splice");
        world.jolt(id);
        Ok(got as usize)
    }

    fn pour(&mut self, pipe: &Pipe, sock: Sock, held: usize) -> Result<usize, Errno> {
        let id = self.world.open_sock(sock, "pour");
        self.world.jolt(id);
        let number = self.world.pipe(pipe.out, self.lane, "pour");
        let SimPipe { source, from, to, .. } = self.world.pipes[number];
        assert_eq!(held as u64, to - from, "pipe {number}: the length of a pour");
        assert_eq!(self.world.socks[id].header_left(), 0, "socket {id} is poured into before its header is whole");
        let taken = self.world.offer(id, to - from)?;
        self.world.check_next(id, from, source, taken);
        self.world.pipes[number].from += taken;
        self.world.move_in(id, taken);
        self.world.jolt(id);
        Ok(taken as usize)
    }

    fn open_pipe(&mut self, size: usize) -> Result<Pipe, Errno> {
        let world = &mut *self.world;
        if world.rng.chance(world.faults.pipe_refused) {
            world.see("no pipe is to be had");
            world.lanes[self.lane].shortage_ns = world.now;
            return Err(world.dice.one_of(&[Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM]));
        }
        let size = if world.rng.chance(world.faults.pipe_tiny) { world.rng.one_of(&[4096, 65536]) } else { size };
        let number = world.pipes.len();
        let end = RawFd::try_from(number * 2).expect("a run has few pipes");
        let pipe = SimPipe { lane: self.lane, open: true, size: size as u64, source: 0, from: 0, to: 0 };
        world.pipes.push(pipe);
        Ok(Pipe { out: end, into: end + 1, size })
    }

    fn close_pipe(&mut self, pipe: Pipe) {
        let number = self.world.pipe(pipe.out, self.lane, "close_pipe");
        self.world.pipes[number].open = false;
    }

    fn finish(&mut self, sock: Sock) {
        let id = self.world.open_sock(sock, "finish");
        note!(self.world, "  finish socket {id}");
        self.world.check_fin(id);
        self.world.touched(id);
        let sock = &mut self.world.socks[id];
        sock.fin_sent = true;
        sock.peer.fin_coming = true;
        if !sock.dead {
            self.world.wake(id, Wake::State);
            self.world.poke(id);
        }
    }

    fn close(&mut self, sock: Sock, how: Close) {
        let id = self.world.open_sock(sock, "close");
        note!(self.world, "  close socket {id}: {how:?}");
        self.world.check_close(id, how);
        self.world.close(self.lane, id, how);
        assert!(matches!(self.world.socks[id].hold, Hold::Closing(_)));
    }

    fn error(&mut self, sock: Sock) -> Option<Errno> {
        let id = self.world.open_sock(sock, "error");
        self.world.socks[id].error.take()
    }

    fn peer(&mut self, sock: Sock) -> Option<SocketAddr> {
        let id = self.world.open_sock(sock, "peer");
        if self.world.socks[id].untrue.is_some() { None } else { self.world.who_is(id) }
    }

    fn unsent(&mut self, sock: Sock) -> usize {
        let id = self.world.open_sock(sock, "unsent");
        self.world.socks[id].unsent() as usize
    }

    fn local(&mut self, sock: Sock) -> Option<SocketAddr> {
        let id = self.world.open_sock(sock, "local");
        Some(World::local_address(id))
    }

    fn acknowledge(&mut self, _: Sock) {}

    fn send_promptly(&mut self, _: Sock) {}

    fn gather(&mut self, sock: Sock, bytes: usize) {
        let id = self.world.open_sock(sock, "gather");
        note!(self.world, "  socket {id} gathers {bytes}");
        let sock = &mut self.world.socks[id];
        sock.gathers = bytes as u64;
        if sock.has_gathered() && !sock.dead {
            self.world.wake(id, Wake::Data);
        }
    }

    fn keep_alive(&mut self, sock: Sock, _: KeepaliveOptions) {
        self.world.open_sock(sock, "keep_alive");
    }
}
