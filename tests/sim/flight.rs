//! Requests in flight, as a ring keeps them: each worker has a lane of them, and answers come in the order in which they
//! arose within one request, and in any order between two.

use std::collections::{BTreeMap, VecDeque};

use ringway::kernel::{Close, Errno, Event, Interest, Readiness, Token};

use crate::socket::Hold;
use crate::world::{Errand, Outcome, World, note};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Accept,
    Connect,
    Watch,
}

/// What the network, or a firewall, says of a connect that has no way to go (connect(2); `icmp_err_convert`).
const NETWORK_SAYS_NO: [Errno; 7] = [
    Errno::ENETUNREACH,
    Errno::EHOSTUNREACH,
    Errno::ENETDOWN,
    Errno::EHOSTDOWN,
    Errno::ENOPROTOOPT,
    Errno::EACCES,
    Errno::EPERM,
];

/// Kind and token: what a cancellation names.
pub type FlightKey = (Kind, u64);

#[derive(Clone, Copy, Debug)]
pub enum What {
    Accept { door: usize },
    Connect { sock: usize },
    Watch { sock: usize, interest: Interest },
}

/// One thing to be told of a request.
#[derive(Clone, Copy, Debug)]
pub enum Word {
    /// An edge, with what the waker said; `None`: as things stand when it is told.
    Edge(Option<Readiness>),
    Accepted(Result<usize, Errno>),
    Connected(Result<(), Errno>),
    /// Cancelled.
    Ended,
}

#[derive(Debug)]
pub struct Flight {
    pub what: What,
    /// Submitted: the kernel knows of it.
    armed: bool,
    cancelled: bool,
    /// Nothing will follow what is in `words`.
    spent: bool,
    words: VecDeque<(u64, Word)>,
}

/// What was requested since the last wait.
#[derive(Debug)]
pub enum Submission {
    Arm(FlightKey),
    Cancel(FlightKey),
    Close(usize),
    Ring(usize),
}

/// One worker's requests.
#[derive(Debug, Default)]
pub struct Lane {
    pub submissions: VecDeque<Submission>,
    pub flights: BTreeMap<FlightKey, Flight>,
    /// Closed sockets whose FIN or RST has not left.
    closing: Vec<usize>,
    /// Somebody rang.
    pub rung_at: Option<u64>,
    /// When an accept was last requested or came to its end, by door.
    pub accepts_ns: BTreeMap<usize, u64>,
    /// By door: when it first read of a scene with it, and the socket had been sent.
    pub furnished_ns: BTreeMap<usize, u64>,
    /// When it was last refused a socket or a pipe.
    pub shortage_ns: u64,
}

impl Lane {
    /// When there is something to be told.
    pub fn next_word_ns(&self) -> Option<u64> {
        let words = self.flights.values().filter_map(|flight| flight.words.front()).map(|(at, _)| *at);
        words.chain(self.rung_at).min()
    }

    /// True when nothing of a request waits to be told.
    pub fn is_silent(&self, key: FlightKey) -> bool {
        self.flights.get(&key).is_some_and(|flight| flight.armed && flight.words.is_empty())
    }

    /// What a watch that still counts looks for.
    pub fn watching(&self, key: FlightKey) -> Option<Interest> {
        let flight = self.flights.get(&key)?;
        match flight.what {
            What::Watch { interest, .. } if flight.armed && !flight.cancelled => Some(interest),
            _ => None,
        }
    }

    /// Whether an accept at `door` is in flight, or its last event on its way.
    pub fn accepts_at(&self, door: usize) -> bool {
        self.flights.values().any(|flight| matches!(flight.what, What::Accept { door: at } if at == door))
    }

    /// An accept that takes connections of `door`.
    pub fn accepting(&self, door: usize) -> Option<FlightKey> {
        let waits = |flight: &Flight| {
            matches!(flight.what, What::Accept { door: at } if at == door)
                && flight.armed
                && !flight.cancelled
                && !flight.spent
        };
        self.flights.iter().find(|(_, flight)| waits(flight)).map(|(key, _)| *key)
    }

    /// An edge: a new word, or one with the last.
    pub fn edge(&mut self, key: FlightKey, edge: Option<Readiness>, at: u64, split: bool) {
        let Some(flight) = self.flights.get_mut(&key) else { return };
        match flight.words.back_mut() {
            Some((_, Word::Edge(last))) if !split => *last = None,
            _ => flight.words.push_back((at, Word::Edge(edge))),
        }
    }

    pub fn tell(&mut self, key: FlightKey, at: u64, word: Word) {
        let Some(flight) = self.flights.get_mut(&key) else { return };
        flight.spent |= matches!(word, Word::Accepted(Err(_)) | Word::Connected(_));
        flight.words.push_back((at, word));
    }
}

impl World {
    /// What a worker's accepts have to say comes later than it would.
    pub fn hold_up_accepts(&mut self, lane: usize, until_ns: u64) {
        let accepts = |flight: &&mut Flight| matches!(flight.what, What::Accept { .. });
        for flight in self.lanes[lane].flights.values_mut().filter(accepts) {
            flight.words.iter_mut().for_each(|(at, _)| *at = until_ns.max(*at));
        }
    }

    /// A worker's accepts find no descriptor; it hears of that at `at`.
    pub fn fail_accepts(&mut self, lane: usize, at: u64) {
        for door in 0..self.doors.len() {
            if let Some(key) = self.lanes[lane].accepting(door) {
                self.lanes[lane].shortage_ns = self.now;
                self.lanes[lane].tell(key, at, Word::Accepted(Err(Errno::EMFILE)));
            }
        }
    }

    /// Makes a request; the next submission arms it.
    pub fn request(&mut self, lane: usize, key: FlightKey, what: What) {
        self.check_slot(lane, key);
        if let What::Connect { sock } | What::Watch { sock, .. } = what {
            self.socks[sock].flights.push((lane, key));
        }
        let flight = Flight { what, armed: false, cancelled: false, spent: false, words: VecDeque::new() };
        if let What::Accept { door } = what {
            self.lanes[lane].accepts_ns.insert(door, self.now);
        }
        let old = self.lanes[lane].flights.insert(key, flight);
        assert!(old.is_none(), "request {key:x?} is made while it is in flight");
        self.lanes[lane].submissions.push_back(Submission::Arm(key));
    }

    /// What wait does first: hands the requests of a turn to the kernel.
    pub fn submit(&mut self, lane: usize) {
        while let Some(submission) = self.lanes[lane].submissions.pop_front() {
            match submission {
                Submission::Arm(key) => self.arm(lane, key),
                Submission::Cancel(key) => self.cancel(lane, key),
                Submission::Close(id) => self.lanes[lane].closing.push(id),
                Submission::Ring(other) => {
                    let at = self.told_at();
                    let rung = &mut self.lanes[other].rung_at;
                    *rung = Some(rung.map_or(at, |earlier| earlier.min(at)));
                }
            }
        }
        self.release_closing(lane);
    }

    fn arm(&mut self, lane: usize, key: FlightKey) {
        let Some(flight) = self.lanes[lane].flights.get_mut(&key) else { return };
        flight.armed = true;
        match flight.what {
            What::Accept { door } => self.serve_queue(door, lane),
            What::Connect { .. } => self.dial(lane, key),
            What::Watch { sock, interest } => {
                let sock = &mut self.socks[sock];
                sock.starved |= interest == Interest::Writable && !sock.is_writable();
                let level = sock.level(interest);
                if level != Readiness::default() {
                    let at = self.told_at();
                    self.lanes[lane].edge(key, Some(level), at, true);
                }
            }
        }
    }

    fn dial(&mut self, lane: usize, key: FlightKey) {
        let faults = &self.faults;
        let outcome = if self.rng.chance(faults.connect_silent) {
            return;
        } else if self.rng.chance(faults.connect_refused) {
            Outcome::Refused
        } else if self.rng.chance(faults.connect_unreachable) {
            self.rng.one_of(&[Outcome::Unreachable, Outcome::TimedOut])
        } else if self.rng.chance(faults.connect_no_ports) {
            Outcome::NoPorts
        } else {
            Outcome::Connected
        };
        let slow = self.rng.chance(faults.connect_slow);
        let after = self.rng.below(if slow { faults.connect_slow_ns } else { 300_000 });
        self.schedule(self.now + after, Errand::Answer(lane, key, outcome));
    }

    /// The network answers a connect, if it still waits.
    pub fn answer(&mut self, lane: usize, key: FlightKey, outcome: Outcome) {
        let Some(flight) = self.lanes[lane].flights.get(&key) else { return };
        let What::Connect { sock } = flight.what else { return };
        if flight.spent {
            return;
        }
        note!(self, "connect of socket {sock}: {outcome:?}");
        let result = match outcome {
            Outcome::Connected => {
                self.socks[sock].connected = true;
                self.poke(sock);
                Ok(())
            }
            Outcome::Refused => Err(self.dice.one_of(&[Errno::ECONNREFUSED, Errno::ECONNREFUSED, Errno::ECONNRESET])),
            Outcome::TimedOut => Err(Errno::ETIMEDOUT),
            Outcome::Unreachable => {
                let errno = self.dice.one_of(&NETWORK_SAYS_NO);
                if self.dice.chance(self.faults.connect_untrue) {
                    self.see("a connect is said to have gone well that has not");
                    self.socks[sock].untrue = Some(errno);
                    self.socks[sock].error = Some(errno);
                    Ok(())
                } else {
                    Err(errno)
                }
            }
            Outcome::NoPorts => Err(self.dice.one_of(&[Errno::EADDRNOTAVAIL, Errno::EADDRINUSE])),
        };
        let at = self.told_at();
        self.lanes[lane].tell(key, at, Word::Connected(result));
    }

    fn cancel(&mut self, lane: usize, key: FlightKey) {
        let at = self.told_at();
        let swallow = self.rng.chance(self.faults.swallow);
        let Some(flight) = self.lanes[lane].flights.get_mut(&key) else { return };
        if flight.cancelled {
            return;
        }
        flight.cancelled = true;
        match flight.what {
            What::Connect { .. } if flight.spent => {}
            What::Connect { .. } => self.lanes[lane].tell(key, at, Word::Connected(Err(Errno::ECANCELED))),
            What::Watch { .. } => {
                if swallow {
                    flight.words.clear();
                }
                flight.words.push_back((at, Word::Ended));
            }
            What::Accept { .. } => flight.words.push_back((at, Word::Ended)),
        }
    }

    fn release_closing(&mut self, lane: usize) {
        let closing = std::mem::take(&mut self.lanes[lane].closing);
        let (quiet, busy): (Vec<_>, Vec<_>) = closing.into_iter().partition(|&id| self.socks[id].flights.is_empty());
        self.lanes[lane].closing = busy;
        for id in quiet {
            self.release(id);
        }
    }

    /// What wait does last: appends what is to be told.
    pub fn reap(&mut self, lane: usize, events: &mut Vec<Event>) {
        let now = self.now;
        self.last_read = None;
        let due = |flight: &Flight| flight.words.front().is_some_and(|(at, _)| *at <= now);
        let mut keys: Vec<FlightKey> =
            self.lanes[lane].flights.iter().filter(|(_, flight)| due(flight)).map(|(key, _)| *key).collect();
        self.rng.shuffle(&mut keys);
        let most = if self.rng.chance(self.faults.few) { self.rng.size(4) as usize } else { usize::MAX };
        for key in keys {
            while events.len() < most {
                let Some(flight) = self.lanes[lane].flights.get_mut(&key) else { break };
                if !due(flight) {
                    break;
                }
                let Some((_, word)) = flight.words.pop_front() else { break };
                let what = flight.what;
                events.extend(self.say(lane, key, what, word));
                if self.rng.chance(300) {
                    break;
                }
            }
        }
        if self.lanes[lane].rung_at.is_some_and(|at| at <= now) {
            self.lanes[lane].rung_at = None;
            events.push(Event::Mail);
        }
        self.imagine(lane, events);
        self.release_closing(lane);
    }

    /// An event about nothing: something was there, and is not any more.
    fn imagine(&mut self, lane: usize, events: &mut Vec<Event>) {
        if self.frozen || !self.rng.chance(self.faults.spurious) || self.lanes[lane].flights.is_empty() {
            return;
        }
        let index = self.rng.index(self.lanes[lane].flights.len());
        let Some(&key) = self.lanes[lane].flights.keys().nth(index) else { return };
        if let (Some(interest), true) = (self.lanes[lane].watching(key), self.lanes[lane].is_silent(key)) {
            let readable = interest == Interest::Readable;
            let readiness = Readiness { readable, writable: !readable, ended: false, broken: false };
            events.push(Event::Ready { token: Token(key.1), readiness, more: true });
        }
    }

    /// Turns a word into an event; ends the request if it is the last.
    fn say(&mut self, lane: usize, key: FlightKey, what: What, word: Word) -> Option<Event> {
        let token = Token(key.1);
        match (what, word) {
            (What::Watch { sock, interest }, Word::Edge(edge)) => {
                let mut readiness = edge.unwrap_or_else(|| self.socks[sock].level(interest));
                if readiness == Readiness::default() {
                    return None;
                }
                let cancelled = self.lanes[lane].watching(key).is_none();
                let mute = !cancelled && self.rng.chance(self.faults.lapse_mute);
                let more = cancelled || !(mute || self.rng.chance(self.faults.lapse));
                if mute {
                    readiness = Readiness::default();
                }
                if !more {
                    self.see("a watch lapses");
                    self.land(lane, key);
                }
                Some(Event::Ready { token, readiness, more })
            }
            (What::Watch { .. }, _) => {
                self.land(lane, key);
                Some(Event::Ready { token, readiness: Readiness::default(), more: false })
            }
            (What::Connect { .. }, Word::Connected(result)) => {
                self.land(lane, key);
                Some(Event::Connected { token, result })
            }
            (What::Accept { .. }, Word::Accepted(Ok(id))) => {
                let alone = self.lanes[lane].is_silent(key) && !self.lanes[lane].flights[&key].cancelled;
                let more = !(alone && self.rng.chance(self.faults.lapse));
                if !more {
                    self.land(lane, key);
                }
                Some(Event::Accepted { token, result: Ok(self.accept_told(id)), more })
            }
            (What::Accept { .. }, Word::Accepted(Err(errno))) => {
                self.land(lane, key);
                Some(Event::Accepted { token, result: Err(errno), more: false })
            }
            (What::Accept { .. }, _) => {
                self.land(lane, key);
                Some(Event::Accepted { token, result: Err(Errno::ECANCELED), more: false })
            }
            (What::Connect { .. }, _) => unreachable!("a connect has one answer"),
        }
    }

    /// Ends a request: its last event is on its way.
    fn land(&mut self, lane: usize, key: FlightKey) {
        let Some(flight) = self.lanes[lane].flights.remove(&key) else { return };
        if let What::Accept { door } = flight.what {
            self.lanes[lane].accepts_ns.insert(door, self.now);
        }
        if let What::Connect { sock } | What::Watch { sock, .. } = flight.what {
            self.socks[sock].flights.retain(|held| *held != (lane, key));
        }
    }

    /// close(2), as the shard asks for it.
    pub fn close(&mut self, lane: usize, id: usize, how: Close) {
        for &(at, key) in &self.socks[id].flights {
            assert_eq!(at, lane, "socket {id} is closed by one worker and watched by another");
            let asked = |s: &Submission| matches!(s, Submission::Cancel(cancelled) if *cancelled == key);
            let cancelled = self.lanes[lane].flights[&key].cancelled || self.lanes[lane].submissions.iter().any(asked);
            assert!(cancelled, "socket {id} is closed while request {key:x?} is in flight and not cancelled");
        }
        self.socks[id].hold = Hold::Closing(how);
        self.lanes[lane].submissions.push_back(Submission::Close(id));
    }
}
