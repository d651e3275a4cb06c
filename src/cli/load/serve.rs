//! `serve`: the servers that a load balancer is tested and measured with.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use anyhow::Context;
use nix::sys::socket::SockFlag;
use socket2::{Domain, Socket, Type};

use super::gear::{Drill, Gear, Next, Ready};
use super::peer::{Broken, Manner, Mode, Peer, Wants};
use super::tally::Fault;
use super::target::Target;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4096;
/// How many connections are accepted before others have their turn.
const ACCEPTS_MAX: usize = 256;
/// Slots from here on are listeners.
const LISTENER_SLOT: usize = 1 << 40;

/// A listening socket and the address it got.
pub struct Listener {
    socket: Socket,
    address: Target,
}

impl Listener {
    /// Listens on `target`. With `shared`, several sockets may listen on one TCP address.
    ///
    /// # Errors
    ///
    /// When the address cannot be had.
    pub fn bind(target: &Target, shared: bool) -> anyhow::Result<Self> {
        let place = || format!("cannot listen on {target}");
        let kind = Type::STREAM.nonblocking();
        let socket = Socket::new(target.domain(), kind, None).with_context(place)?;
        match target {
            Target::Unix(path) => remove_stale(path),
            Target::Tcp(_) => {
                socket.set_reuse_address(true)?;
                // Accepted sockets inherit it, which spares a system call each.
                socket.set_tcp_nodelay(true)?;
                if shared {
                    socket.set_reuse_port(true)?;
                }
                if target.domain() == Domain::IPV6 {
                    socket.set_only_v6(true)?;
                }
            }
        }
        socket.bind(&target.sock_addr().with_context(place)?).with_context(place)?;
        socket.listen(BACKLOG).with_context(place)?;
        let address = match socket.local_addr()?.as_socket() {
            Some(address) => Target::Tcp(address),
            None => target.clone(),
        };
        Ok(Self { socket, address })
    }

    /// The same place once more, for another thread: a socket of its own, or for Unix the same one.
    ///
    /// # Errors
    ///
    /// When the address cannot be had again.
    pub fn again(&self) -> anyhow::Result<Self> {
        match self.address {
            Target::Tcp(_) => Listener::bind(&self.address, true),
            Target::Unix(_) => Ok(Self { socket: self.socket.try_clone()?, address: self.address.clone() }),
        }
    }

    /// Where it listens; the port is the real one.
    pub fn address(&self) -> &Target {
        &self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Target::Unix(path) = &self.address {
            // Another thread's copy may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Removes a socket file that nobody listens on any more; anything else is left for bind(2) to complain about.
fn remove_stale(path: &Path) {
    let refused = std::os::unix::net::UnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if refused {
        let _ = std::fs::remove_file(path);
    }
}

struct Seat {
    /// Counts who sat here, so that a delay of a former peer is told from the present one's.
    generation: u32,
    /// In the queue of those that used up their turn.
    queued: bool,
    peer: Option<Peer>,
}

/// The state of one server thread.
pub struct Server {
    manner: Manner,
    listeners: Vec<Listener>,
    seats: Vec<Seat>,
    free: Vec<usize>,
    /// Peers that used up their turn, and listeners that may have more.
    busy: VecDeque<usize>,
    /// Whose delay ends when; all delays are equal, so they end in order.
    delays: VecDeque<(u64, usize, u32)>,
    duration_ns: Option<u64>,
    until_ns: u64,
}

impl Server {
    /// A server that has not started to accept.
    pub fn new(manner: Manner, listeners: Vec<Listener>, duration_ns: Option<u64>) -> Self {
        Self {
            manner,
            busy: (0..listeners.len()).map(|i| LISTENER_SLOT + i).collect(),
            listeners,
            seats: Vec::new(),
            free: Vec::new(),
            delays: VecDeque::new(),
            duration_ns,
            until_ns: u64::MAX,
        }
    }

    /// Registers the listeners, and measures from here.
    ///
    /// # Errors
    ///
    /// When epoll does not take them.
    pub fn start(&mut self, gear: &mut Gear) -> io::Result<()> {
        for (index, listener) in self.listeners.iter().enumerate() {
            gear.watch(&listener.socket, LISTENER_SLOT + index, false)?;
        }
        if let Some(duration_ns) = self.duration_ns {
            self.until_ns = gear.clock.now_ns().saturating_add(duration_ns);
        }
        gear.start();
        Ok(())
    }

    fn accept(&mut self, slot: usize, gear: &mut Gear) -> io::Result<()> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        for _ in 0..ACCEPTS_MAX {
            let listener = &self.listeners[slot - LISTENER_SLOT];
            match listener.socket.accept4(flags.bits()) {
                Ok((socket, _)) => self.seat(socket, gear)?,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    // It went away while it waited (accept(2)).
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
                    _ => {
                        // Out of descriptors or memory: the next sweep tries again.
                        let address = &listener.address;
                        gear.tally.fault(Fault::Other, || format!("accept on {address}: {error}"));
                        return Ok(());
                    }
                },
            }
        }
        self.busy.push_back(slot);
        Ok(())
    }

    fn seat(&mut self, socket: Socket, gear: &mut Gear) -> io::Result<()> {
        gear.tally.connections += 1;
        gear.tally.open += 1;
        let peer = Peer::new(socket, &self.manner);
        let eager = peer.is_eager(&self.manner);
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.seats.push(Seat { generation: 0, queued: false, peer: None });
                self.seats.len() - 1
            }
        };
        gear.watch(peer.socket(), slot, false)?;
        self.seats[slot].peer = Some(peer);
        if eager {
            self.pump(slot, gear)?;
        }
        Ok(())
    }

    fn pump(&mut self, slot: usize, gear: &mut Gear) -> io::Result<()> {
        let seat = &mut self.seats[slot];
        let Some(peer) = &mut seat.peer else {
            return Ok(());
        };
        match peer.pump(&self.manner, &mut gear.scratch, &mut gear.tally) {
            Ok(Wants::Read) => return Ok(()),
            Ok(Wants::Write) => {
                if peer.begin_watching_writable() {
                    gear.watch_writable(peer.socket(), slot)?;
                }
                return Ok(());
            }
            Ok(Wants::Turn) => {
                if !std::mem::replace(&mut seat.queued, true) {
                    self.busy.push_back(slot);
                }
                return Ok(());
            }
            Ok(Wants::Delay) => {
                let due_ns = gear.clock.now_ns() + self.manner.delay.as_nanos() as u64;
                self.delays.push_back((due_ns, slot, seat.generation));
                return Ok(());
            }
            Ok(Wants::Nothing) => {
                if self.manner.mode != Mode::Reply {
                    gear.tally.ops += 1;
                }
            }
            Err(Broken::Failed(error)) => {
                gear.tally.fault(Fault::from(&error), || format!("a client: {error}"));
            }
            Err(Broken::Differs(offset)) => {
                gear.tally.fault(Fault::Mismatch, || {
                    format!("a client: what came differs from the stream at offset {offset}")
                });
                // The client is to see that something is wrong.
                let _ = peer.socket().set_linger(Some(std::time::Duration::ZERO));
            }
        }
        seat.peer = None;
        seat.generation = seat.generation.wrapping_add(1);
        gear.tally.open -= 1;
        self.free.push(slot);
        Ok(())
    }
}

impl Drill for Server {
    fn ready(&mut self, slot: usize, ready: Ready, gear: &mut Gear) -> io::Result<()> {
        if slot >= LISTENER_SLOT {
            return self.accept(slot, gear);
        }
        if let Some(peer) = &mut self.seats[slot].peer
            && ready.readable
        {
            peer.note_readable(ready.closed);
        }
        self.pump(slot, gear)
    }

    fn advance(&mut self, now_ns: u64, gear: &mut Gear) -> io::Result<Next> {
        if now_ns >= self.until_ns {
            return Ok(Next::Finished);
        }
        while let Some((due_ns, slot, generation)) = self.delays.front().copied() {
            if due_ns > now_ns {
                break;
            }
            self.delays.pop_front();
            let seat = &mut self.seats[slot];
            if seat.generation == generation
                && let Some(peer) = &mut seat.peer
            {
                peer.end_delay();
                self.pump(slot, gear)?;
            }
        }
        for _ in 0..self.busy.len() {
            match self.busy.pop_front() {
                Some(slot) if slot >= LISTENER_SLOT => self.accept(slot, gear)?,
                Some(slot) => {
                    self.seats[slot].queued = false;
                    self.pump(slot, gear)?;
                }
                None => break,
            }
        }
        if !self.busy.is_empty() {
            return Ok(Next::Now);
        }
        let due_ns = self.delays.front().map_or(u64::MAX, |(due_ns, ..)| *due_ns);
        Ok(match due_ns.min(self.until_ns) {
            u64::MAX => Next::Whenever,
            at_ns => Next::At(at_ns),
        })
    }

    fn sweep(&mut self, _now_ns: u64, _gear: &mut Gear) {
        // Connections that could not be accepted for want of descriptors cause no further event.
        for index in 0..self.listeners.len() {
            let slot = LISTENER_SLOT + index;
            if !self.busy.contains(&slot) {
                self.busy.push_back(slot);
            }
        }
    }

    fn stop(&mut self, now_ns: u64) {
        self.until_ns = now_ns;
    }
}
