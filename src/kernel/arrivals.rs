//! What others have passed to this worker: sockets that came through its hatch and wait to be claimed.

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use super::{Errno, Hatch, Refused, Sock, Ticket};
use crate::sys::hatch;

/// A worker's side of its hatch.
#[derive(Debug)]
pub(super) struct Arrivals {
    inside: OwnedFd,
    outside: Option<OwnedFd>,
    /// In, and not claimed yet: few, and for a moment.
    here: Vec<(Ticket, OwnedFd)>,
    /// Nobody will claim these when they come.
    unwanted: Vec<Ticket>,
}

impl Arrivals {
    pub(super) fn new(engine: &'static str) -> Result<Self, Refused> {
        let (outside, inside) = hatch::open().map_err(|errno| Refused {
            engine,
            errno,
            reason: "limit",
            cause: "no descriptor is left".into(),
            remedy: "raise LimitNOFILE (ulimit -n)".into(),
        })?;
        Ok(Self { inside, outside: Some(outside), here: Vec::new(), unwanted: Vec::new() })
    }

    /// See [`super::Engine::hatch`].
    pub(super) fn outside(&mut self) -> Option<OwnedFd> {
        self.outside.take()
    }

    /// What the worker itself needs of it.
    pub(super) fn descriptor(&self) -> RawFd {
        self.inside.as_raw_fd()
    }

    /// See [`super::Kernel::take_in`].
    pub(super) fn take_in(&mut self) -> Result<(), Errno> {
        loop {
            self.refuse()?;
            let Some((number, fd)) = hatch::take(self.inside.as_raw_fd())? else { return Ok(()) };
            self.here.push((Ticket(number), fd));
        }
    }

    /// Throws away what is next and unwanted: that takes no descriptor.
    fn refuse(&mut self) -> Result<(), Errno> {
        while !self.unwanted.is_empty()
            && let Some(number) = hatch::next(self.inside.as_raw_fd())?
            && let Some(at) = self.unwanted.iter().position(|&unwanted| unwanted == Ticket(number))
        {
            hatch::throw_away(self.inside.as_raw_fd())?;
            self.unwanted.swap_remove(at);
        }
        Ok(())
    }

    /// See [`super::Kernel::claim`].
    pub(super) fn claim(&mut self, ticket: Ticket) -> Option<Sock> {
        let at = self.here.iter().position(|&(here, _)| here == ticket)?;
        Some(Sock(self.here.swap_remove(at).1.into_raw_fd()))
    }

    /// See [`super::Kernel::unclaimed`].
    pub(super) fn unclaimed(&self) -> Vec<Ticket> {
        self.here.iter().map(|&(ticket, _)| ticket).collect()
    }

    /// See [`super::Kernel::discard`].
    pub(super) fn discard(&mut self, ticket: Ticket) {
        match self.here.iter().position(|&(here, _)| here == ticket) {
            Some(at) => drop(self.here.swap_remove(at)),
            None => {
                self.unwanted.push(ticket);
                // What is in front of it is looked for again and again, and this with it.
                let _ = self.refuse();
            }
        }
    }
}

/// See [`super::Kernel::pass`]; without letting go of it here.
pub(super) fn pass(sock: Sock, ticket: Ticket, to: Hatch) -> Result<(), Errno> {
    hatch::pass(to.0, ticket.0, sock.0)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::sys::bytes;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        (near, listener.accept().expect("it connects").0)
    }

    /// A hatch, with a connection in it for each ticket, and their far ends.
    fn filled(tickets: &[Ticket]) -> (Arrivals, Vec<TcpStream>) {
        let mut arrivals = Arrivals::new("a test").expect("descriptors are to be had");
        let hatch = arrivals.outside().expect("given once");
        let far = tickets.iter().map(|&ticket| {
            let (near, far) = pair();
            pass(Sock(near.as_raw_fd()), ticket, Hatch(hatch.as_raw_fd())).expect("there is room");
            far
        });
        let far = far.collect();
        (arrivals, far)
    }

    fn has_ended(far: &mut TcpStream) -> bool {
        far.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("an option every socket has");
        far.read(&mut [0]).is_ok_and(|read| read == 0)
    }

    #[test]
    fn they_are_claimed_by_ticket_in_any_order() {
        let [one, two] = [Ticket::of_door(1), Ticket::of_connection(3, 1)];
        let (mut arrivals, mut far) = filled(&[one, two]);
        assert_eq!(arrivals.claim(two), None);
        arrivals.take_in().expect("there is room");
        let second = arrivals.claim(two).expect("it came");
        assert_eq!((arrivals.claim(two), arrivals.unclaimed()), (None, vec![one]));
        let first = arrivals.claim(one).expect("it came");
        assert!(arrivals.unclaimed().is_empty());
        bytes::close(second.0);
        assert!(has_ended(&mut far[1]));
        bytes::close(first.0);
        assert!(has_ended(&mut far[0]));
    }

    #[test]
    fn what_nobody_wants_is_closed_before_or_after_it_comes() {
        let [one, two, three] = [1, 2, 3].map(Ticket::of_door);
        let (mut arrivals, mut far) = filled(&[one, two, three]);
        arrivals.discard(one);
        assert!(has_ended(&mut far[0]), "it needs not be taken in for that");
        arrivals.discard(three);
        arrivals.take_in().expect("there is room");
        assert!(has_ended(&mut far[2]));
        assert_eq!(arrivals.unclaimed(), [two]);
        arrivals.discard(two);
        assert!(has_ended(&mut far[1]));
        assert!(arrivals.unclaimed().is_empty() && arrivals.unwanted.is_empty());
    }
}
