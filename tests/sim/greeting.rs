//! What servers of `kind = "mysql"` say first: most of them a greeting, some an error, and what comes of either.

use crate::rng::Rng;
use crate::stream;
use crate::world::World;

/// Errors that send a session on to another server, and some that are the client's.
const SENDS_ON: [u16; 3] = [1040, 1053, 1129];
const PASSED_ON: [u16; 2] = [1130, 1203];
/// The longest payload that is waited for.
const PAYLOAD_MAX: u64 = 1024;

/// The first packet of a server.
#[derive(Debug)]
pub struct Greeting {
    pub bytes: Vec<u8>,
    /// With how many of them it is clear what it is.
    pub clear_at: u64,
    /// It is an error that sends on.
    pub sends_on: bool,
    /// It is an error.
    pub is_error: bool,
}

impl Greeting {
    pub fn draw(rng: &mut Rng) -> Self {
        let length = rng.one_of(&[3, 20, 90, 500, PAYLOAD_MAX]);
        let mut payload: Vec<u8> = (0..length).map(|_| rng.next() as u8).collect();
        payload[0] = 10;
        let (sends_on, is_error) = match rng.below(1000) {
            0..300 => (true, true),
            300..400 => (false, true),
            _ => (false, false),
        };
        if is_error {
            let number = rng.one_of(if sends_on { &SENDS_ON } else { &PASSED_ON });
            payload[0] = 0xff;
            payload[1..3].copy_from_slice(&number.to_le_bytes());
        }
        let long = !is_error && rng.chance(100);
        let told = if long { rng.range(PAYLOAD_MAX + 1, (1 << 24) - 1) } else { length };
        let mut bytes = told.to_le_bytes()[..3].to_vec();
        bytes.push(0);
        bytes.append(&mut payload);
        let clear_at = if long { 4 } else { bytes.len() as u64 };
        Self { bytes, clear_at, sends_on, is_error }
    }
}

impl World {
    /// What stands at `from` of the stream that the peer of `id` sends.
    pub fn write_stream(&self, id: usize, from: u64, into: &mut [u8]) {
        stream::write(id, from, into);
        if let Some(greeting) = &self.socks[id].greeting {
            let said = greeting.bytes.iter().skip(from as usize);
            into.iter_mut().zip(said).for_each(|(byte, said)| *byte = *said);
        }
    }

    /// Whether `bytes` are what stands there.
    pub fn is_stream(&self, id: usize, from: u64, bytes: &[u8]) -> bool {
        if self.socks[id].greeting.is_none() {
            return stream::is(id, from, bytes);
        }
        let mut right = vec![0; bytes.len()];
        self.write_stream(id, from, &mut right);
        right == bytes
    }

    /// The shard has read of a server: perhaps enough to know what it says.
    pub fn hear_greeting(&mut self, id: usize) {
        let sock = &self.socks[id];
        let (Some(greeting), Some(number)) = (&sock.greeting, sock.pair) else { return };
        if sock.read < greeting.clear_at {
            if sock.read > 0 {
                self.see("a greeting comes in pieces");
            }
            return;
        }
        let (sends_on, now) = (greeting.sends_on, self.now);
        let pair = &mut self.pairs[number];
        if pair.relaying || pair.server != Some(id) {
            return;
        }
        if sends_on {
            pair.refusal = Some(id);
            self.see("a greeting sends on");
        } else {
            pair.relaying = true;
            pair.timer_set_ns = now;
            pair.active_ns = now;
        }
    }

    /// Whose bytes a socket is given: the other side's; or, when no server is left, those of the last that sent an error.
    pub fn source_for(&self, to: usize) -> Option<usize> {
        let pair = &self.pairs[self.socks[to].pair?];
        if pair.relaying || self.is_server(to) { self.other(to) } else { pair.refusal }
    }

    /// Whether a client has been given all of the error it is told at the end.
    pub fn is_told(&self, client: usize) -> bool {
        let refusal = self.source_for(client).and_then(|source| self.socks[source].greeting.as_ref());
        refusal.is_some_and(|greeting| self.socks[client].taken == greeting.bytes.len() as u64)
    }
}
