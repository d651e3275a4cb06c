//! What a worker says of a session: one record at its end, and one every five minutes of a long life.
//!
//! A record is plain data. The worker puts it into a bounded queue and goes on; the log thread makes text of it.

use std::net::SocketAddr;
use std::sync::Arc;

use super::ending::Ending;
use crate::config::plan::Listener;

/// Bits of a session's number that count; the worker's index is above them.
pub const COUNT_BITS: u32 = 48;

/// What a session goes by in the log and on the command line: `3-162`.
pub fn session_name(number: u64) -> String {
    format!("{}-{}", number >> COUNT_BITS, number & ((1 << COUNT_BITS) - 1))
}

/// The number of what [`session_name`] makes; `None` for anything else.
pub fn session_number(name: &str) -> Option<u64> {
    let (worker, count) = name.split_once('-')?;
    let (worker, count): (u64, u64) = (worker.parse().ok()?, count.parse().ok()?);
    (worker < 1 << (64 - COUNT_BITS) && count < 1 << COUNT_BITS).then_some(worker << COUNT_BITS | count)
}

/// One access record.
#[derive(Debug)]
pub struct Record {
    /// Unique within one run of the daemon: the worker's index in the upper 16 bits, a count in the lower 48.
    pub session: u64,
    /// When the record was made, in nanoseconds of `CLOCK_MONOTONIC`.
    pub made_ns: u64,
    /// When the session was accepted, on the same clock.
    pub accepted_ns: u64,
    /// Its listener, and through it the pool.
    pub listener: Arc<Listener>,
    /// Index of the server in the pool; `None` when none was chosen.
    pub server: Option<u32>,
    /// The client's address; `None` for a client of a unix socket.
    pub client: Option<SocketAddr>,
    /// Our port towards the server; 0 when there is none.
    pub local_port: u16,
    /// Time spent waiting for a free server, in microseconds.
    pub queue_us: u32,
    /// Time from the choice of the last server to its connection, in microseconds.
    pub connect_us: Option<u32>,
    /// Time from accept to the server's first byte, in microseconds.
    pub first_byte_us: Option<u32>,
    /// Bytes from client to server that the server's socket took.
    pub bytes_in: u64,
    /// Bytes from server to client that the client's socket took.
    pub bytes_out: u64,
    /// Connects tried.
    pub attempts: u8,
    /// Why it ended; `None` in the record of a session that goes on.
    pub ending: Option<Ending>,
    /// The errno behind the ending; 0 when there is none.
    pub errno: i32,
    /// Who else was there; only for a log that shows it.
    pub crowd: Option<Crowd>,
}

/// Sessions at the end of one, the way HAProxy counts them in its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crowd {
    /// Of the daemon, with the one that ended.
    pub process: u32,
    /// Of the listener, with the one that ended.
    pub listener: u32,
    /// Of the pool, without it.
    pub pool: u32,
    /// Of the server, without it.
    pub server: u32,
}

/// Something a worker has to say that belongs to no session. Rate-limited at the source: one a second and kind.
#[derive(Debug)]
pub enum Note {
    /// Accept failed; the listener pauses.
    AcceptPaused {
        /// The listener.
        listener: Arc<Listener>,
        /// What accept said.
        errno: i32,
        /// How long until the next try, in milliseconds.
        pause_ms: u32,
    },
    /// Connections were refused because `max_connections` was reached.
    MaxConnections {
        /// The listener.
        listener: Arc<Listener>,
    },
    /// No local port was left towards a server.
    NoPorts {
        /// The listener, and through it the pool.
        listener: Arc<Listener>,
        /// Index of the server.
        server: u32,
    },
    /// No pipe for splice could be had; bulk is copied instead.
    NoPipes {
        /// What pipe2(2) or fcntl(2) said; 0 when the pipe was too small or the worker's share is used up.
        errno: i32,
    },
}
