//! io_uring: the ring tells a worker *when*; the worker moves the bytes itself.
//!
//! Readiness comes from multishot `POLL_ADD` in edge mode, connections from multishot `ACCEPT`, mail from `MSG_RING`. Sockets
//! are closed by the ring too, after everything requested before on the same turn: a descriptor's number can then never
//! be given to a new socket while a request that means the old one still waits to be submitted. A spare socket
//! ([`super::spares`]) keeps its number, and its file: what is still armed on it from before ends by its cancellation, which
//! means a token and no descriptor.
//!
//! Not used, on purpose: `IORING_OP_SPLICE` and `IORING_OP_SHUTDOWN` (both always go to a kernel worker thread:
//! `REQ_F_FORCE_ASYNC` in io_uring/splice.c and net.c), multishot `RECV` (no back-pressure), registered files (splice(2)
//! needs real descriptors).

mod ring;
mod setup;

use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

use io_uring::{cqueue, opcode, squeue, types};
use socket2::SockAddr;

use self::ring::Ring;
pub use self::setup::{Abilities, KERNEL_MINIMUM, probe};
use super::{
    Bell, Close, ConnectOptions, Engine, Errno, Event, Interest, Kernel, Readiness, Refused, Request, Sock, Token,
    WakeTarget, arrivals::Arrivals, direct, spares::Spares,
};
use crate::base::limits::{COMPLETIONS, SUBMISSIONS};
use crate::base::rehearsal;
use crate::sys::bytes;

/// A worker that has had nothing to do for so long closes its spare sockets.
const SPARES_NS: u64 = 1_000_000_000;

/// User data: what a completion means in the upper bits, the shard's token below.
mod tag {
    pub(super) const ACCEPT: u64 = 1 << 60;
    pub(super) const CONNECT: u64 = 2 << 60;
    pub(super) const WATCH: u64 = 3 << 60;
    pub(super) const MAIL: u64 = 4 << 60;
    pub(super) const IGNORE: u64 = 5 << 60;
    /// The disconnect of a spare socket, its descriptor below.
    pub(super) const SPARE: u64 = 6 << 60;
    /// Beside one of the others: the completion of the request to cancel it.
    pub(super) const CANCEL: u64 = 1 << 63;
    pub(super) const KIND: u64 = 7 << 60;
    pub(super) const TOKEN: u64 = (1 << super::Token::BITS) - 1;
}

/// A worker's kernel on io_uring.
#[derive(Debug)]
pub struct Uring {
    ring: Ring,
    /// Requests of this turn, submitted by the next wait in this order.
    requests: Vec<squeue::Entry>,
    spares: Spares,
    arrivals: Arrivals,
}

impl Uring {
    fn understand(&mut self, completion: &cqueue::Entry) -> Option<Event> {
        let data = completion.user_data();
        let token = Token(data & tag::TOKEN);
        let result = completion.result();
        let more = cqueue::more(completion.flags());
        if data & tag::CANCEL != 0 {
            // The request had an event under way. That event comes first, but the request stays: cancel it again.
            if result == -libc::EALREADY {
                self.requests.push(cancellation(data & !tag::CANCEL));
            }
            return None;
        }
        match data & tag::KIND {
            tag::ACCEPT => {
                let result = outcome(result).map(Sock).inspect_err(|&errno| self.relieve(errno));
                Some(Event::Accepted { token, result, more })
            }
            tag::CONNECT => Some(Event::Connected { token, result: outcome(result).map(drop) }),
            tag::WATCH => Some(Event::Ready { token, readiness: readiness(result), more }),
            tag::MAIL => Some(Event::Mail),
            tag::SPARE => {
                // Only its failure is told. Whoever has taken it meanwhile hears from the connect that it is of no use.
                let fd = (token.0 as u32).cast_signed();
                if self.spares.forget(fd) {
                    self.requests.push(closing(fd));
                }
                None
            }
            _ => None,
        }
    }

    /// Where descriptors are short, none are kept in reserve.
    fn relieve(&mut self, errno: Errno) {
        if matches!(errno, Errno::EMFILE | Errno::ENFILE) {
            self.let_go();
        }
    }

    /// Closes the spare sockets. By the ring: the disconnect of the last may still wait to be submitted.
    fn let_go(&mut self) {
        self.requests.extend(self.spares.drain().map(closing));
    }
}

impl Engine for Uring {
    /// The ring belongs to the thread that makes it (`IORING_SETUP_SINGLE_ISSUER`).
    fn new() -> Result<Self, Refused> {
        let completions = rehearsal::limit("completions", COMPLETIONS as usize) as u32;
        let (ring, _) = setup::make(SUBMISSIONS.min(completions), completions)?;
        let arrivals = Arrivals::new(setup::ENGINE)?;
        Ok(Self { ring, requests: Vec::with_capacity(SUBMISSIONS as usize), spares: Spares::default(), arrivals })
    }

    fn wake_target(&self) -> WakeTarget {
        WakeTarget(self.ring.descriptor())
    }

    /// Nothing: a message to what is no ring fails and does no harm.
    fn rope(&mut self) -> Option<OwnedFd> {
        None
    }

    fn hatch(&mut self) -> Option<OwnedFd> {
        self.arrivals.outside()
    }

    fn descriptors(&self) -> Vec<RawFd> {
        vec![self.ring.descriptor(), self.arrivals.descriptor()]
    }
}

impl Bell for Uring {
    fn ring(&mut self, target: WakeTarget) {
        self.requests.push(wake_up(target));
    }
}

impl Kernel for Uring {
    fn wait(&mut self, timeout_ns: Option<u64>, events: &mut Vec<Event>) -> Result<(), Errno> {
        let spares_ns = if self.spares.is_empty() { u64::MAX } else { SPARES_NS };
        let patience_ns = timeout_ns.map_or(spares_ns, |timeout_ns| timeout_ns.min(spares_ns));
        let patience = (patience_ns < u64::MAX).then_some(Duration::from_nanos(patience_ns));
        self.ring.enter(&mut self.requests, patience)?;
        let before = events.len();
        while let Some(completion) = self.ring.next() {
            if let Some(event) = self.understand(&completion) {
                events.push(event);
            }
        }
        if events.len() == before && patience_ns == SPARES_NS {
            self.let_go();
        }
        Ok(())
    }

    fn take_overflows(&mut self) -> u64 {
        self.ring.take_overflows()
    }

    fn accept(&mut self, listener: Sock, token: Token) {
        let accept = opcode::AcceptMulti::new(types::Fd(listener.0)).flags(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
        self.requests.push(accept.build().user_data(tag::ACCEPT | token.0));
    }

    fn connect(&mut self, target: &SockAddr, options: ConnectOptions, token: Token) -> Result<Sock, Errno> {
        let spare = if options.source.is_none() { self.spares.take(target) } else { None };
        let fd = match spare {
            Some(fd) => fd,
            None => direct::stream_socket(target, options).inspect_err(|&errno| self.relieve(errno))?,
        };
        let connect = opcode::Connect::new(types::Fd(fd), target.as_ptr().cast(), target.len());
        self.requests.push(connect.build().user_data(tag::CONNECT | token.0));
        Ok(Sock(fd))
    }

    fn watch(&mut self, sock: Sock, interest: Interest, token: Token) {
        let events = match interest {
            Interest::Readable => libc::POLLIN | libc::POLLRDHUP,
            Interest::Writable => libc::POLLOUT,
        };
        let poll = opcode::PollAdd::new(types::Fd(sock.0), events as u32).multi(true);
        self.requests.push(poll.build().user_data(tag::WATCH | token.0));
    }

    fn cancel(&mut self, request: Request, _: Sock, token: Token) {
        let kind = match request {
            Request::Accept => tag::ACCEPT,
            Request::Connect => tag::CONNECT,
            Request::Watch(_) => tag::WATCH,
        };
        self.requests.push(cancellation(kind | token.0));
    }

    fn close(&mut self, sock: Sock, how: Close) {
        if how == Close::Reset {
            bytes::linger_zero(sock.0);
        }
        self.requests.push(closing(sock.0));
    }

    fn spare(&mut self, sock: Sock, target: &SockAddr) {
        if self.spares.keep(sock.0, target) {
            self.requests.push(disconnect(sock.0));
        } else {
            self.close(sock, Close::Reset);
        }
    }

    direct::immediate_calls!();
}

/// The control thread's bell: a small ring of its own that only sends `MSG_RING`.
#[derive(Debug)]
pub struct RingBell {
    ring: Ring,
}

impl RingBell {
    /// Makes one, for the thread that calls.
    ///
    /// # Errors
    /// Why the kernel refused it.
    pub fn new() -> Result<Self, Refused> {
        let (ring, _) = setup::make(4, 8)?;
        Ok(Self { ring })
    }
}

impl Bell for RingBell {
    fn ring(&mut self, target: WakeTarget) {
        // A worker that is gone cannot be woken, and need not be.
        let _ = self.ring.enter(&mut vec![wake_up(target)], Some(Duration::ZERO));
        while self.ring.next().is_some() {}
    }
}

fn wake_up(target: WakeTarget) -> squeue::Entry {
    opcode::MsgRingData::new(types::Fd(target.0), 0, tag::MAIL, None)
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
        .user_data(tag::IGNORE)
}

fn closing(fd: RawFd) -> squeue::Entry {
    opcode::Close::new(types::Fd(fd)).build().flags(squeue::Flags::SKIP_SUCCESS).user_data(tag::IGNORE)
}

/// Resets a connection and leaves its socket unconnected.
fn disconnect(fd: RawFd) -> squeue::Entry {
    opcode::Connect::new(types::Fd(fd), &raw const bytes::NOWHERE, size_of_val(&bytes::NOWHERE) as libc::socklen_t)
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
        .user_data(tag::SPARE | u64::from(fd.cast_unsigned()))
}

fn cancellation(data: u64) -> squeue::Entry {
    opcode::AsyncCancel::new(data).build().flags(squeue::Flags::SKIP_SUCCESS).user_data(data | tag::CANCEL)
}

fn outcome(result: i32) -> Result<i32, Errno> {
    if result < 0 { Err(Errno::from_raw(-result)) } else { Ok(result) }
}

/// A poll's result: a mask of events, or an errno. A watch that cannot be kept up leaves a socket nobody would hear of
/// again, which is as bad as a broken one.
fn readiness(result: i32) -> Readiness {
    if result < 0 {
        return Readiness { broken: result != -libc::ECANCELED, ..Readiness::default() };
    }
    let has = |bits: i16| result & i32::from(bits) != 0;
    Readiness {
        readable: has(libc::POLLIN),
        writable: has(libc::POLLOUT),
        ended: has(libc::POLLRDHUP | libc::POLLHUP),
        broken: has(libc::POLLERR),
    }
}

#[cfg(test)]
mod tests;
