//! The engines: sockets on loopback, and peers that are plain sockets of the same thread.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use ringway::kernel::epoll::{Epoll, EventBell};
use ringway::kernel::uring::{RingBell, Uring};
use ringway::kernel::{Bell, Engine, Event, Kernel, Refused, Sock, WakeTarget};
use ringway::sys::affinity;
use socket2::{Domain, SockRef, Socket, Type};

use crate::play::{Far, Ground, Heard, Target};

/// What never takes this long unless it never comes.
const PATIENCE: Duration = Duration::from_secs(10);
/// A turn without an event. Whoever waits for something has many.
const TURN_NS: u64 = 10_000_000;

/// An engine, and loopback.
struct Loopback<E> {
    kernel: E,
    wake: WakeTarget,
    /// What must stay open for as long as somebody may ring.
    _rope: Option<OwnedFd>,
    bell: Box<dyn Bell>,
    doors: Vec<TcpListener>,
    /// Where servers listen.
    server: TcpListener,
    /// Sockets behind the addresses that refuse or are silent.
    held: Vec<Socket>,
    fars: Vec<Option<TcpStream>>,
}

/// io_uring.
pub fn uring() -> Box<dyn Ground> {
    Box::new(Loopback::<Uring>::new(Box::new(had(RingBell::new()))))
}

/// epoll.
pub fn epoll() -> Box<dyn Ground> {
    Box::new(Loopback::<Epoll>::new(Box::new(EventBell)))
}

fn had<T>(engine: Result<T, Refused>) -> T {
    engine.unwrap_or_else(|refused| panic!("{refused}: {}", refused.remedy))
}

impl<E: Engine> Loopback<E> {
    fn new(bell: Box<dyn Bell>) -> Self {
        // Packets of one core keep their order: a fence overtakes nothing.
        let core = *affinity::allowed().first().expect("this thread runs somewhere");
        affinity::pin(core).expect("a core this thread may use");
        let server = listen();
        let mut kernel: E = had(E::new());
        let (wake, rope) = (kernel.wake_target(), kernel.rope());
        Self { kernel, wake, _rope: rope, bell, doors: Vec::new(), server, held: Vec::new(), fars: Vec::new() }
    }

    fn far(&mut self, stream: TcpStream) -> Far {
        stream.set_nonblocking(true).expect("an option every socket has");
        stream.set_nodelay(true).expect("an option every socket has");
        self.fars.push(Some(stream));
        Far(self.fars.len() - 1)
    }

    fn stream(&mut self, far: Far) -> &mut TcpStream {
        self.fars[far.0].as_mut().expect("a far end that has left does nothing")
    }
}

fn listen() -> TcpListener {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    listener.set_nonblocking(true).expect("an option every socket has");
    listener
}

/// An address nobody listens at, nor will while the socket is there.
fn deaf_port() -> (SocketAddr, Socket) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there is a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("loopback has a free port");
    let address = socket.local_addr().expect("it is bound");
    (address.as_socket().expect("an address of IPv4"), socket)
}

/// An address of a queue with no place left: a SYN to it is dropped.
fn full_queue() -> (SocketAddr, Vec<Socket>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there is a socket");
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("loopback has a free port");
    listener.listen(0).expect("it can listen");
    let address = listener.local_addr().expect("it is bound");
    let only = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there is a socket");
    only.connect(&address).expect("the one place in the queue");
    (address.as_socket().expect("an address of IPv4"), vec![listener, only])
}

impl<E: Engine> Ground for Loopback<E> {
    fn call(&mut self, act: &mut dyn FnMut(&mut dyn Kernel)) {
        act(&mut self.kernel);
    }

    fn turn(&mut self, now: bool, events: &mut Vec<Event>) {
        let timeout_ns = if now { 0 } else { TURN_NS };
        self.kernel.wait(Some(timeout_ns), events).expect("the engine goes on");
    }

    fn door(&mut self) -> Sock {
        let listener = listen();
        let sock = Sock(listener.as_raw_fd());
        self.doors.push(listener);
        sock
    }

    fn knock(&mut self, door: Sock) -> Far {
        let found = self.doors.iter().find(|listener| listener.as_raw_fd() == door.0).expect("a door of this play");
        let address = found.local_addr().expect("it is bound");
        let stream = TcpStream::connect(address).expect("the queue has room");
        self.far(stream)
    }

    fn target(&mut self, target: Target) -> SocketAddr {
        match target {
            Target::Listens => self.server.local_addr().expect("it is bound"),
            Target::Refuses => {
                let (address, held) = deaf_port();
                self.held.push(held);
                address
            }
            Target::Silent => {
                let (address, held) = full_queue();
                self.held.extend(held);
                address
            }
        }
    }

    fn answer(&mut self, _: Sock) -> Far {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.server.accept() {
                Ok((stream, _)) => return self.far(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => thread::yield_now(),
                Err(error) => panic!("the server's queue: {error}"),
            }
        }
    }

    fn say(&mut self, far: Far, bytes: usize) {
        let deadline = Instant::now() + PATIENCE;
        let all = vec![0; bytes];
        let mut left = &all[..];
        while !left.is_empty() {
            match self.stream(far).write(left) {
                Ok(sent) => left = &left[sent..],
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => thread::yield_now(),
                Err(error) => panic!("a far end speaks: {error}"),
            }
        }
    }

    fn hear(&mut self, far: Far, bytes: usize, ends: bool) -> (usize, Heard) {
        let deadline = Instant::now() + PATIENCE;
        let mut into = vec![0; 1 << 16];
        let mut got = 0;
        loop {
            match self.stream(far).read(&mut into) {
                Ok(0) => return (got, Heard::Fin),
                Ok(more) => got += more,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return (got, Heard::Reset),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if got >= bytes && !ends || Instant::now() >= deadline {
                        return (got, Heard::Open);
                    }
                    thread::yield_now();
                }
                Err(error) => panic!("a far end listens: {error}"),
            }
        }
    }

    fn finish(&mut self, far: Far) {
        self.stream(far).shutdown(std::net::Shutdown::Write).expect("it is connected");
    }

    fn reset(&mut self, far: Far) {
        let stream = self.fars[far.0].take().expect("it has not left");
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option every socket has");
    }

    fn leave(&mut self, far: Far) {
        self.fars[far.0] = None;
    }

    fn ring(&mut self) {
        self.bell.ring(self.wake);
    }
}
