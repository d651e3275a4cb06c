//! Servers that are told whose connection it is (`send_proxy`): each expects one header, of its own client, whole and before
//! anything else, and says nothing before it has it.

use std::net::SocketAddr;

use ringway::proxy_protocol::{Ends, Header, Version};

use crate::oracle::Pair;
use crate::socket::{Far, Socket};
use crate::world::{World, note};

/// What a few hundred seeds must have met.
pub const TOLD: &str = "a server is told whose connection it is";
pub const IN_PIECES: &str = "a header is taken in pieces";
pub const NOBODY: &str = "nobody knows any more who a client was";

/// The header that a server expects.
#[derive(Debug)]
pub struct Due {
    bytes: Vec<u8>,
    /// How much of it has been taken from the shard.
    taken: u64,
}

impl Socket {
    /// Bytes of the header that have not been taken yet.
    pub fn header_left(&self) -> u64 {
        self.due.as_ref().map_or(0, |due| due.bytes.len() as u64 - due.taken)
    }

    /// A server that is to greet has what it has room for.
    pub fn check_header(&self, number: usize, pair: &Pair) {
        let is_heard = pair.attempts.last().is_some_and(|attempt| attempt.connected_ns.is_some());
        let left = self.header_left();
        let owed = left > 0 && is_heard && self.is_writable() && !self.dead;
        assert!(!owed, "session {number}: {left} bytes of the header are forgotten");
    }

    /// Its peer has read no whole header, and wants one.
    pub fn is_in_the_dark(&self) -> bool {
        self.due.as_ref().is_some_and(|due| self.delivered < due.bytes.len() as u64)
    }

    /// It wants a header, and nothing of it has been taken.
    fn is_untold(&self) -> bool {
        self.due.as_ref().is_some_and(|due| due.taken == 0)
    }

    /// Bytes of the other side's stream that were taken from the shard.
    pub fn given(&self) -> u64 {
        self.taken - self.due.as_ref().map_or(0, |due| due.taken)
    }
}

impl World {
    /// Before pools are drawn: where there are headers, what was said to a server that was none is often for the next.
    pub fn begin_headers(&mut self) {
        if self.has_headers {
            self.faults.connect_untrue = 900;
            self.faults.connect_unreachable = self.faults.connect_unreachable.max(100);
        }
    }

    /// Whether sessions are not recorded in a run with headers.
    pub fn forgets(&mut self) -> bool {
        self.has_headers && self.headers.chance(400)
    }

    /// What servers of a pool are told, for all of a run.
    pub fn draw_header(&mut self) -> Option<Version> {
        let version = self.headers.one_of(&[None, Some(Version::V1), Some(Version::V2)]);
        version.filter(|_| self.has_headers)
    }

    /// A server's socket that is to be connected for a client.
    pub fn expect_header(&mut self, id: usize, client: usize) {
        let Far::Server { target } = self.socks[id].far else { return };
        let Some(version) = self.terms(target).header else { return };
        let ends = Ends { source: self.socks[client].address, destination: World::local_address(client) };
        let bytes = Header::of_client(version, Some(ends)).to_vec();
        self.socks[id].due = Some(Due { bytes, taken: 0 });
    }

    /// A client may reset in the moment in which its server is connected, and the shard hear of the server first.
    pub fn startle(&mut self, client: usize) {
        let peer = &self.socks[client].peer;
        let can = self.has_headers && !self.records && !peer.gone && !self.frozen;
        if can && self.headers.chance(30) {
            self.reset_by_peer(client);
        }
    }

    /// The shard asks who a client is. Of one whose connection is gone nobody can tell, so nothing comes of what its server has been
    /// connected for; but where sessions are recorded the address is asked for while the client is there.
    pub fn who_is(&mut self, id: usize) -> Option<SocketAddr> {
        let sock = &self.socks[id];
        if self.records || !self.has_headers || !sock.dead || self.is_server(id) {
            return Some(sock.address);
        }
        let pair = sock.pair.map(|number| &mut self.pairs[number]);
        let waits = |pair: &&mut Pair| pair.server.is_some_and(|server| self.socks[server].is_untold());
        if let Some(pair) = pair.filter(waits) {
            pair.relaying = false;
            pair.attempts.last_mut().into_iter().for_each(|attempt| attempt.connected_ns = None);
            self.see(NOBODY);
        }
        None
    }

    /// Of `bytes`, which a socket is offered and takes `taken` of, it takes those that are its header's: how many they are, and
    /// how many of them it has now.
    pub fn take_header(&mut self, id: usize, bytes: &[u8], taken: u64) -> (usize, u64) {
        let left = self.socks[id].header_left();
        let sock = &mut self.socks[id];
        let Some(due) = sock.due.as_mut().filter(|_| left > 0) else { return (0, 0) };
        let rest = &due.bytes[due.taken as usize..];
        assert!(bytes.starts_with(rest), "server's socket {id} is given something else than the rest of its header");
        let of_header = taken.min(left);
        due.taken += of_header;
        sock.taken += of_header;
        let is_whole = of_header == left;
        note!(self, "  {of_header} of them are the header's, {} are left", left - of_header);
        self.see(if is_whole { TOLD } else { IN_PIECES });
        (left as usize, of_header)
    }
}
