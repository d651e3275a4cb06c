//! The greeting gate of pools of `kind = "mysql"`: a server is the client's only once it has greeted.
//!
//! In MySQL's protocol the server speaks first. A server that is full, shutting down or at odds with this host accepts the
//! connection all the same, and says so in its first packet, or hangs up, or says nothing. Nothing has gone either way by
//! then but the header that tells a server whose connection it is (`send_proxy`), which each is sent, so the session can go on to
//! another without the client's noticing. From the first packet on the relay is the same as everywhere: what was read of the
//! server is the residue of the direction down.
//!
//! The packet: three bytes of length (little end first), one of sequence, the payload. A payload that begins with 0xff is
//! an error: two bytes of number, then text (MySQL's internals manual, "Protocol::Packet", "ERR_Packet"; MariaDB's
//! knowledge base, "Connecting").

use super::ending::{Ending, GreetingError};
use super::pump::{Run, Stop};
use super::session::{Direction, Phase, Role, Side};
use super::shard::{Shard, fault, ms};
use crate::base::limits::GREETING_MAX;
use crate::base::slab::Key;
use crate::kernel::{Close, Errno, Kernel, Request};

/// Bytes of a packet before its payload.
const HEADER: usize = 4;
/// What makes a payload an error.
const ERR: u8 = 0xff;

/// What the bytes that have come are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// More must come before that can be said.
    Unfinished,
    /// Something for the client: a greeting, an error only the client can do something about, or nothing of MySQL's.
    Pass(Option<GreetingError>),
    /// A reason to try another server.
    Another(GreetingError),
}

impl Shard {
    /// A server that speaks first is connected: wait for its first packet. It may have to be told first whose connection it is;
    /// `spoken` is how that went.
    pub(super) fn await_greeting(&mut self, key: Key, spoken: Option<Run>, now: u64, kernel: &mut impl Kernel) {
        let Some(session) = self.sessions.of(key) else { return };
        session.phase = Phase::Greeting;
        self.wheel.set(key.index, now + ms(session.terms().connect_ms));
        if let (Some(server), true) = (session.server, session.up.is_silent()) {
            kernel.acknowledge(server);
        }
        self.watch(key, Role::ReadServer, kernel);
        if let Some(Run { stop, .. }) = spoken {
            self.introduced(key, stop, now, kernel);
        }
    }

    /// A server that is to greet has been sent its header, or some of it.
    fn introduced(&mut self, key: Key, stop: Stop, now: u64, kernel: &mut impl Kernel) {
        match stop {
            Stop::Full => self.watch(key, Role::WriteServer, kernel),
            Stop::SinkFault(errno) => match fault(Side::Server, errno) {
                Ending::ServerReset => {
                    // What it said before it went is still to be heard.
                    let Some(session) = self.sessions.of(key) else { return };
                    session.life.doomed = Some((Ending::ServerReset, errno as i32));
                    session.up.abandon(&mut self.tools, kernel);
                }
                Ending::PeerVanished => self.part(key, GreetingError::Timeout, errno as i32, now, kernel),
                ending => self.end(key, ending, errno as i32, now, kernel),
            },
            Stop::Drained | Stop::Budget | Stop::Ended | Stop::SourceFault(_) => {}
        }
    }

    /// Sends what a server that is to greet has not taken of its header; whether its greeting is still waited for.
    fn introduce_further(&mut self, key: Key, now: u64, kernel: &mut impl Kernel) -> bool {
        let Some(session) = self.sessions.of(key) else { return false };
        if let (true, Some(server)) = (session.up.is_blocked(), session.server)
            && let Err(stop) = session.up.flush(server, &mut self.tools, kernel)
        {
            self.introduced(key, stop, now, kernel);
        }
        self.sessions.of(key).is_some_and(|session| session.phase == Phase::Greeting)
    }

    /// The server has said something, or ended.
    pub(super) fn greeted(&mut self, key: Key, now: u64, kernel: &mut impl Kernel) {
        if !self.introduce_further(key, now, kernel) {
            return;
        }
        let verdict = loop {
            let Some(session) = self.sessions.of(key) else { return };
            let Some(server) = session.server else { return };
            let left = HEADER + GREETING_MAX - session.down.ahead().len();
            match session.down.read_ahead(server, left, &mut self.tools, kernel) {
                Ok(0) => {
                    // A reset that was seen as the connect came to its end has been told, and reads as an end from then on.
                    let reset = session.life.doomed.is_some();
                    break Err((if reset { GreetingError::Reset } else { GreetingError::Closed }, 0));
                }
                Ok(_) => match judge(session.down.ahead()) {
                    Verdict::Unfinished => {}
                    verdict => break Ok(verdict),
                },
                Err(Errno::EAGAIN) => return,
                Err(errno) => match fault(Side::Server, errno) {
                    Ending::ServerReset => break Err((GreetingError::Reset, errno as i32)),
                    Ending::PeerVanished => break Err((GreetingError::Timeout, errno as i32)),
                    ending => return self.end(key, ending, errno as i32, now, kernel),
                },
            }
        };
        match verdict {
            Ok(Verdict::Unfinished) => {}
            Ok(Verdict::Pass(error)) => self.pass(key, error, now, kernel),
            Ok(Verdict::Another(error)) => self.part(key, error, 0, now, kernel),
            Err((error, errno)) => self.part(key, error, errno, now, kernel),
        }
    }

    /// A greeting has had all the time it may take.
    pub(super) fn greeting_is_late(&mut self, key: Key, now: u64, kernel: &mut impl Kernel) {
        self.part(key, GreetingError::Timeout, 0, now, kernel);
    }

    /// What the server said is for the client.
    fn pass(&mut self, key: Key, error: Option<GreetingError>, now: u64, kernel: &mut impl Kernel) {
        if let Some(error) = error {
            self.mark(key, error);
        }
        let Some(session) = self.sessions.of(key) else { return };
        session.phase = Phase::Relaying;
        session.life.active_ns = now;
        let waiting = session.up.readable;
        if let Some(packet) = session.life.refusal.take() {
            self.tools.keep_spill(packet);
        }
        self.set_timer(key, now);
        self.drive(key, Direction::Down, now, kernel);
        let relaying = self.sessions.of(key).is_some_and(|session| session.phase == Phase::Relaying);
        if waiting && relaying {
            self.drive(key, Direction::Up, now, kernel);
        }
    }

    /// Lets go of a server that did not greet. Another is chosen when nothing more can be said of this one.
    fn part(&mut self, key: Key, error: GreetingError, errno: i32, now: u64, kernel: &mut impl Kernel) {
        self.mark(key, error);
        let Some(session) = self.sessions.of(key) else { return };
        let is_packet = matches!(judge(session.down.ahead()), Verdict::Another(_));
        if is_packet
            && let Some(packet) = session.down.take_ahead()
            && let Some(earlier) = session.life.refusal.replace(packet)
        {
            self.tools.keep_spill(earlier);
        }
        session.down.abandon(&mut self.tools, kernel);
        session.down = Default::default();
        // Nothing of the client's: the header that was for this server.
        session.up.abandon(&mut self.tools, kernel);
        session.life.doomed = None;
        session.life.connect_us = None;
        session.life.local_port = 0;
        session.phase = Phase::Parting { ending: error.ending(), errno };
        for role in [Role::ReadServer, Role::WriteServer] {
            if let (Some((server, interest)), true) = (session.watched(role), session.in_flight.has(role)) {
                kernel.cancel(Request::Watch(interest), server, role.token(key));
            }
        }
        if let Some(server) = session.server.take() {
            kernel.close(server, Close::Clean);
        }
        self.wheel.clear(key.index);
        self.let_go(key, kernel);
        self.parted(key, now, kernel);
    }

    /// On to another server, or to the end, if nothing more can be said of the one that was let go.
    pub(super) fn parted(&mut self, key: Key, now: u64, kernel: &mut impl Kernel) {
        let Some(session) = self.sessions.of(key) else { return };
        let Phase::Parting { ending, errno } = session.phase else { return };
        if session.in_flight.has(Role::ReadServer) || session.in_flight.has(Role::WriteServer) {
            return;
        }
        if session.life.tried.count() < session.terms().connect_attempts {
            self.choose(key, Some((ending, errno)), now, kernel);
        } else {
            self.give_up(key, ending, errno, now, kernel);
        }
    }

    /// Ends a session that found no server. If one of those tried has sent an error packet, the client gets the last such: the
    /// words of a server say more than a reset.
    pub(super) fn give_up(&mut self, key: Key, ending: Ending, errno: i32, now: u64, kernel: &mut impl Kernel) {
        let Some(session) = self.sessions.of(key) else { return };
        let Some(packet) = session.life.refusal.take() else { return self.end(key, ending, errno, now, kernel) };
        let client = session.client;
        // Into an empty buffer, which takes more than that: it all goes, or the client is beyond being told.
        let sent = kernel.send(client, &packet).unwrap_or(0);
        session.down.moved += sent as u64;
        let whole = sent == packet.len();
        self.tools.keep_spill(packet);
        if whole {
            // Bytes left unread would make a reset of the close, and that overtakes what was sent (tcp_close).
            self.tools.throw_away(client, kernel);
        }
        if sent > 0 {
            self.account(key, Direction::Down, sent as u64, now);
        }
        self.end_like(key, ending, errno, if whole { Close::Clean } else { Close::Reset }, now, kernel);
    }

    /// Counts what a server did instead of greeting.
    fn mark(&mut self, key: Key, error: GreetingError) {
        let index = self.index;
        if let Some(server) = self.sessions.of(key).and_then(|session| session.chosen()) {
            server.ledger.tally.of(index).greetings[error as usize].bump();
        }
    }
}

fn judge(bytes: &[u8]) -> Verdict {
    let [low, middle, high, _, payload @ ..] = bytes else { return Verdict::Unfinished };
    let length = u32::from_le_bytes([*low, *middle, *high, 0]) as usize;
    if length == 0 || length > GREETING_MAX {
        // Whatever this is, MySQL's clients will know what to say of it.
        return Verdict::Pass(None);
    }
    match payload.get(..length) {
        None => Verdict::Unfinished,
        Some([ERR, low, high, ..]) => match u16::from_le_bytes([*low, *high]) {
            1040 => Verdict::Another(GreetingError::TooManyConnections),
            1053 => Verdict::Another(GreetingError::ShuttingDown),
            1129 => Verdict::Another(GreetingError::HostBlocked),
            _ => Verdict::Pass(Some(GreetingError::Other)),
        },
        Some([ERR, ..]) => Verdict::Pass(Some(GreetingError::Other)),
        Some(_) => Verdict::Pass(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A packet with this payload.
    fn packet(payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_le_bytes();
        [&length[..3], &[0], payload].concat()
    }

    fn error(number: u16) -> Vec<u8> {
        packet(&[&[ERR][..], &number.to_le_bytes(), b"Too many connections"].concat())
    }

    #[test]
    fn a_greeting_passes_once_it_is_whole() {
        // As MariaDB 10.11 sends it, up to its version.
        let greeting = packet(b"\x0a5.5.5-10.11.6-MariaDB-0+deb12u1\0");
        for upto in 0..greeting.len() {
            assert_eq!(judge(&greeting[..upto]), Verdict::Unfinished, "{upto} bytes");
        }
        assert_eq!(judge(&greeting), Verdict::Pass(None));
    }

    #[test]
    fn three_errors_send_on_and_others_are_passed_on() {
        use GreetingError::{HostBlocked, Other, ShuttingDown, TooManyConnections};
        for (number, expected) in [
            (1040, Verdict::Another(TooManyConnections)),
            (1053, Verdict::Another(ShuttingDown)),
            (1129, Verdict::Another(HostBlocked)),
            (1130, Verdict::Pass(Some(Other))),
            (1045, Verdict::Pass(Some(Other))),
        ] {
            let whole = error(number);
            assert_eq!(judge(&whole), expected, "{number}");
            assert_eq!(judge(&whole[..whole.len() - 1]), Verdict::Unfinished, "{number}");
        }
        assert_eq!(judge(&packet(&[ERR, 16])), Verdict::Pass(Some(Other)), "an error without a number");
    }

    #[test]
    fn what_is_no_packet_of_mysql_is_not_held_up() {
        assert_eq!(judge(b"HTTP/1.1 400 Bad Request\r\n"), Verdict::Pass(None));
        assert_eq!(judge(&[0, 0, 0, 0]), Verdict::Pass(None));
    }

    proptest! {
        #[test]
        fn a_verdict_comes_in_time_and_stays(bytes in prop::collection::vec(any::<u8>(), 0..2 * GREETING_MAX)) {
            let verdict = judge(&bytes);
            prop_assert!(bytes.len() < HEADER + GREETING_MAX || verdict != Verdict::Unfinished);
            if verdict != Verdict::Unfinished {
                let longer = [&bytes[..], b"more"].concat();
                prop_assert_eq!(judge(&longer), verdict);
            }
        }
    }
}
