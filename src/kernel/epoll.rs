//! epoll: for places that refuse io_uring. What the ring would have told, epoll_wait tells, edge by edge.
//!
//! Like the ring, this engine keeps nothing per watch: the kernel keeps the token and brings it back. A socket is in one
//! epoll instance only once, and a watch for reading and one for writing have a token each; so there are two instances,
//! and the *writers'* is itself watched by the main one.
//!
//! ```text
//!             ┌─ doors        level: as long as connections wait
//! main epoll ─┼─ connects     edge: writable or failed, then the watch for reading takes the registration over
//!             ├─ watches for reading              edge
//!             ├─ the eventfd others ring          edge: nobody has to read it
//!             └─ writers' epoll ── watches for writing, edge
//! ```
//!
//! A request that is cancelled answers in the next wait. Sockets are closed at once, which also takes them out of both
//! instances; a report that has been fetched has become an event before anything can be closed, so none is ever stale.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use socket2::SockAddr;

use super::{
    Bell, Close, ConnectOptions, Engine, Errno, Event, Interest, Kernel, Readiness, Refused, Request, Sock, Token,
    WakeTarget, arrivals::Arrivals, direct,
};
use crate::sys::{bytes, epoll};

const ENGINE: &str = "epoll";
/// Reports taken from the kernel at once; what is ready beyond them comes with the next wait.
const REPORTS: usize = 512;
/// Most connections taken from one door in one wait.
const ACCEPTS_MAX: u32 = 64;

/// Data of a registration: what a report means in the upper bits, below them the shard's token or a descriptor.
mod tag {
    pub(super) const READ: u64 = 1 << 60;
    pub(super) const WRITE: u64 = 2 << 60;
    pub(super) const DOOR: u64 = 3 << 60;
    pub(super) const CONNECT: u64 = 4 << 60;
    pub(super) const MAIL: u64 = 5 << 60;
    pub(super) const WRITERS: u64 = 6 << 60;
    pub(super) const KIND: u64 = 7 << 60;
    pub(super) const REST: u64 = (1 << super::Token::BITS) - 1;
}

/// A worker's kernel on epoll.
#[derive(Debug)]
pub struct Epoll {
    main: epoll::Epoll,
    writers: epoll::Epoll,
    reports: epoll::Reports,
    /// Reports of the writers' instance.
    writable: epoll::Reports,
    /// What to ring. The worker's desk gets the descriptor, see [`Engine::rope`].
    bell: WakeTarget,
    rope: Option<OwnedFd>,
    doors: Vec<Door>,
    /// Connects, until the watch for reading takes their registration over.
    connects: HashMap<RawFd, Connect>,
    /// Events the next wait begins with.
    answers: Vec<Event>,
    /// Cancelled watches whose socket is still registered: those that are not closed in the same turn are taken out.
    leaving: Vec<(RawFd, Interest)>,
    /// Watches that could not be registered and whose last event is under way: nothing is left to cancel.
    failed: Vec<(Token, Interest)>,
    turn: u64,
    arrivals: Arrivals,
}

/// An accept in flight.
#[derive(Debug)]
struct Door {
    listener: RawFd,
    token: Token,
    /// Connections to take at most, next time. A try that finds the queue empty costs as much as one that does not, so
    /// this begins with one and doubles while every turn finds more.
    batch: u32,
    /// The turn that took a whole batch last.
    full: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connect {
    /// Under way.
    Dialling(Token),
    /// It has answered; its registration is of no use any more.
    Answered,
}

impl Engine for Epoll {
    fn new() -> Result<Self, Refused> {
        let main = epoll::Epoll::new().map_err(refused)?;
        let writers = epoll::Epoll::new().map_err(refused)?;
        let rope = epoll::counter().map_err(refused)?;
        main.add(writers.as_raw_fd(), libc::EPOLLIN, tag::WRITERS).map_err(refused)?;
        main.add(rope.as_raw_fd(), libc::EPOLLIN | libc::EPOLLET, tag::MAIL).map_err(refused)?;
        Ok(Self {
            main,
            writers,
            reports: epoll::Reports::with_room(REPORTS),
            writable: epoll::Reports::with_room(REPORTS),
            bell: WakeTarget(rope.as_raw_fd()),
            rope: Some(rope),
            doors: Vec::new(),
            connects: HashMap::new(),
            answers: Vec::new(),
            leaving: Vec::new(),
            failed: Vec::new(),
            turn: 0,
            arrivals: Arrivals::new(ENGINE)?,
        })
    }

    fn wake_target(&self) -> WakeTarget {
        self.bell
    }

    /// The eventfd. Were it closed with the worker, its number could become that of somebody's connection, and a late ring
    /// would write eight bytes into it.
    fn rope(&mut self) -> Option<OwnedFd> {
        self.rope.take()
    }

    fn hatch(&mut self) -> Option<OwnedFd> {
        self.arrivals.outside()
    }

    fn descriptors(&self) -> Vec<RawFd> {
        vec![self.main.as_raw_fd(), self.writers.as_raw_fd(), self.bell.0, self.arrivals.descriptor()]
    }
}

impl Bell for Epoll {
    fn ring(&mut self, target: WakeTarget) {
        epoll::count_up(target.0);
    }
}

/// The control thread's bell.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventBell;

impl Bell for EventBell {
    fn ring(&mut self, target: WakeTarget) {
        epoll::count_up(target.0);
    }
}

impl Kernel for Epoll {
    fn wait(&mut self, timeout_ns: Option<u64>, events: &mut Vec<Event>) -> Result<(), Errno> {
        self.turn += 1;
        for (fd, interest) in self.leaving.drain(..) {
            match interest {
                Interest::Readable => self.main.remove(fd),
                Interest::Writable => self.writers.remove(fd),
            }
        }
        self.failed.clear();
        let timeout = if self.answers.is_empty() { timeout_ns } else { Some(0) };
        match self.main.wait(timeout.map(Duration::from_nanos), &mut self.reports) {
            Ok(()) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        events.append(&mut self.answers);
        for index in 0..self.reports.len() {
            let (ready, data) = self.reports.of(index);
            self.understand(ready, data, events)?;
        }
        Ok(())
    }

    fn accept(&mut self, listener: Sock, token: Token) {
        // A unix socket is one queue for all workers: wake one, not all (`EPOLLEXCLUSIVE`).
        let added = self.main.add(listener.0, libc::EPOLLIN | libc::EPOLLEXCLUSIVE, tag::DOOR | number(listener.0));
        match added {
            Ok(()) => self.doors.push(Door { listener: listener.0, token, batch: 1, full: 0 }),
            Err(errno) => self.answers.push(Event::Accepted { token, result: Err(shortage(errno)), more: false }),
        }
    }

    fn connect(&mut self, target: &SockAddr, options: ConnectOptions, token: Token) -> Result<Sock, Errno> {
        let fd = direct::stream_socket(target, options)?;
        let result = match bytes::connect(fd, target) {
            Ok(true) => Ok(()),
            Ok(false) => {
                if let Err(errno) = self.main.add(fd, libc::EPOLLOUT | libc::EPOLLET, tag::CONNECT | number(fd)) {
                    bytes::close(fd);
                    return Err(shortage(errno));
                }
                self.connects.insert(fd, Connect::Dialling(token));
                return Ok(Sock(fd));
            }
            Err(errno) => Err(errno),
        };
        self.answers.push(Event::Connected { token, result });
        Ok(Sock(fd))
    }

    fn watch(&mut self, sock: Sock, interest: Interest, token: Token) {
        let fd = sock.0;
        let (instance, events, kind) = match interest {
            Interest::Readable => (&self.main, libc::EPOLLIN | libc::EPOLLRDHUP, tag::READ),
            Interest::Writable => (&self.writers, libc::EPOLLOUT | libc::EPOLLRDHUP, tag::WRITE),
        };
        let dialled = interest == Interest::Readable && self.connects.remove(&fd).is_some();
        let left = self.leaving.iter().rposition(|&leaving| leaving == (fd, interest));
        let registered = match left {
            Some(index) => {
                self.leaving.swap_remove(index);
                true
            }
            None => dialled,
        };
        let (events, data) = (events | libc::EPOLLET, kind | token.0);
        let done = if registered { instance.change(fd, events, data) } else { instance.add(fd, events, data) };
        if done.is_err() {
            // A socket nobody would hear of again is as bad as a broken one.
            let readiness = Readiness { broken: true, ..Readiness::default() };
            self.answers.push(Event::Ready { token, readiness, more: false });
            self.failed.push((token, interest));
        }
    }

    fn cancel(&mut self, request: Request, sock: Sock, token: Token) {
        match request {
            Request::Accept => {
                if self.shut(sock.0).is_some() {
                    self.answers.push(Event::Accepted { token, result: Err(Errno::ECANCELED), more: false });
                }
            }
            Request::Connect => {
                // It may have answered already, and the answer not been read.
                if self.connects.get(&sock.0) == Some(&Connect::Dialling(token)) {
                    self.connects.remove(&sock.0);
                    self.leaving.push((sock.0, Interest::Readable));
                    self.answers.push(Event::Connected { token, result: Err(Errno::ECANCELED) });
                }
            }
            Request::Watch(interest) => {
                if !self.failed.contains(&(token, interest)) {
                    self.leaving.push((sock.0, interest));
                    self.answers.push(Event::Ready { token, readiness: Readiness::default(), more: false });
                }
            }
        }
    }

    fn close(&mut self, sock: Sock, how: Close) {
        if how == Close::Reset {
            bytes::linger_zero(sock.0);
        }
        // Most were cancelled a moment ago, so they are the last.
        while let Some(index) = self.leaving.iter().rposition(|&(fd, _)| fd == sock.0) {
            self.leaving.swap_remove(index);
        }
        self.connects.remove(&sock.0);
        bytes::close(sock.0);
    }

    direct::immediate_calls!();
}

impl Epoll {
    /// Turns a report into events.
    ///
    /// # Errors
    /// Those of [`Kernel::wait`].
    fn understand(&mut self, ready: u32, data: u64, events: &mut Vec<Event>) -> Result<(), Errno> {
        let rest = data & tag::REST;
        match data & tag::KIND {
            tag::READ => events.push(Event::Ready { token: Token(rest), readiness: readiness(ready), more: true }),
            tag::WRITERS => {
                match self.writers.wait(Some(Duration::ZERO), &mut self.writable) {
                    Ok(()) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno),
                }
                for index in 0..self.writable.len() {
                    let (ready, data) = self.writable.of(index);
                    let token = Token(data & tag::REST);
                    events.push(Event::Ready { token, readiness: readiness(ready), more: true });
                }
            }
            tag::CONNECT => self.connected(descriptor(rest), ready, events),
            tag::DOOR => self.admit(descriptor(rest), events),
            tag::MAIL => events.push(Event::Mail),
            _ => {}
        }
        Ok(())
    }

    fn connected(&mut self, fd: RawFd, ready: u32, events: &mut Vec<Event>) {
        let Some(connect) = self.connects.get_mut(&fd) else { return };
        // Once it has answered, more edges mean nothing until somebody watches the socket.
        let Connect::Dialling(token) = std::mem::replace(connect, Connect::Answered) else { return };
        let failed = has(ready, libc::EPOLLERR | libc::EPOLLHUP).then(|| bytes::take_error(fd)).flatten();
        events.push(Event::Connected { token, result: failed.map_or(Ok(()), Err) });
    }

    /// Takes connections from a door that has some.
    fn admit(&mut self, listener: RawFd, events: &mut Vec<Event>) {
        let turn = self.turn;
        let Some(door) = self.doors.iter_mut().find(|door| door.listener == listener) else { return };
        let token = door.token;
        door.batch = if door.full + 1 == turn { (door.batch * 2).min(ACCEPTS_MAX) } else { 1 };
        for _ in 0..door.batch {
            match bytes::accept(listener) {
                Ok(fd) => events.push(Event::Accepted { token, result: Ok(Sock(fd)), more: true }),
                // The door stays ready as long as there is something: nothing is forgotten.
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                Err(errno) => {
                    self.shut(listener);
                    events.push(Event::Accepted { token, result: Err(errno), more: false });
                    return;
                }
            }
        }
        door.full = turn;
    }

    /// Ends an accept.
    fn shut(&mut self, listener: RawFd) -> Option<Door> {
        let index = self.doors.iter().position(|door| door.listener == listener)?;
        self.main.remove(listener);
        Some(self.doors.swap_remove(index))
    }
}

fn number(fd: RawFd) -> u64 {
    u64::from(fd.cast_unsigned())
}

fn descriptor(rest: u64) -> RawFd {
    (rest as u32).cast_signed()
}

fn has(ready: u32, events: i32) -> bool {
    ready & events.cast_unsigned() != 0
}

fn readiness(ready: u32) -> Readiness {
    Readiness {
        readable: has(ready, libc::EPOLLIN),
        writable: has(ready, libc::EPOLLOUT),
        ended: has(ready, libc::EPOLLRDHUP | libc::EPOLLHUP),
        broken: has(ready, libc::EPOLLERR),
    }
}

/// `ENOSPC` of epoll_ctl(2) is a limit on memory (`fs.epoll.max_user_watches`), not a full disk.
fn shortage(errno: Errno) -> Errno {
    if errno == Errno::ENOSPC { Errno::ENOMEM } else { errno }
}

fn refused(errno: Errno) -> Refused {
    let (reason, cause, remedy) = match errno {
        Errno::EMFILE | Errno::ENFILE => ("limit", "no descriptor is left", "raise LimitNOFILE (ulimit -n)"),
        Errno::ENOMEM | Errno::ENOSPC => (
            "memlock",
            "no memory, or fs.epoll.max_user_watches is reached",
            "free memory, or raise fs.epoll.max_user_watches",
        ),
        _ => (
            "other",
            "the kernel or a security module does not permit it",
            "look for a seccomp filter or a security module that denies epoll or eventfd",
        ),
    };
    Refused { engine: ENGINE, errno, reason, cause: cause.into(), remedy: remedy.into() }
}

#[cfg(test)]
mod tests;
