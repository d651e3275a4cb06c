//! One connection of a test server.
//!
//! | phase | event | next |
//! |---|---|---|
//! | Serving | the peer's end, and nothing left to send | closed |
//! | Serving | `source` has sent all, or `--close-after` is reached | Closing: our end is sent |
//! | Serving | `--reset-after` is reached | closed with RST |
//! | Closing | the peer's end | closed |
//! | any | an error | closed |
//!
//! While something is left to send, nothing is read: a peer that does not read stops its own sending, and memory
//! stays bounded by one read buffer.

use std::io;
use std::net::Shutdown;
use std::time::Duration;

use socket2::Socket;

use super::pattern;
use super::socket::{Close, Got, Scratch, send};
use super::tally::Tally;

/// The most bytes one peer moves before it is another one's turn.
const BUDGET_BYTES: u64 = 2 * 1024 * 1024;

/// What the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Sends back what it gets.
    Echo,
    /// Sends --response bytes after every --request bytes.
    Reply,
    /// Reads, and says nothing.
    Sink,
    /// Sends the deterministic stream, then its end.
    Source,
    /// Sends --response bytes first, then echoes.
    Greet,
}

/// How the server treats its peers.
#[derive(Clone, Debug)]
pub struct Manner {
    /// What it does.
    pub mode: Mode,
    /// Bytes of a request (`reply`).
    pub request_bytes: u64,
    /// Bytes of one answer: a response (`reply`), the greeting (`greet`), all there is (`source`).
    pub answer_bytes: u64,
    /// Sent first, so that a test knows who answered.
    pub name: Vec<u8>,
    /// After how many bytes it misbehaves, and how: bytes sent, or received by a `sink`.
    pub leave: Option<(u64, Close)>,
    /// How long it thinks before an answer.
    pub delay: Duration,
    /// `sink` checks what it gets against the deterministic stream.
    pub verify: bool,
}

/// What a peer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Something to read.
    Read,
    /// Room to send.
    Write,
    /// Another turn: it has used up this one.
    Turn,
    /// Its delay, which begins now.
    Delay,
    /// Nothing: it is done, drop it.
    Nothing,
}

/// Why a peer was given up.
#[derive(Debug)]
pub enum Broken {
    /// The socket failed.
    Failed(io::Error),
    /// The bytes differ from the stream, first at this offset.
    Differs(u64),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Broken::Failed(error)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Closing,
}

/// The thinking before an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thought {
    None,
    /// The delay is to begin.
    Due,
    /// The delay has begun, and the server knows when it ends.
    Begun,
}

impl Thought {
    fn due_if(due: bool) -> Self {
        match due {
            true => Thought::Due,
            false => Thought::None,
        }
    }
}

/// The state of one connection.
pub struct Peer {
    socket: Socket,
    phase: Phase,
    /// There may be something to read.
    readable: bool,
    /// The peer's end is on its way, so that a short read is not the last.
    ending: bool,
    /// The peer's end has been read.
    ended: bool,
    thought: Thought,
    /// Writability is watched too.
    writable_watched: bool,
    /// Bytes of answers still to send.
    owed: u64,
    /// Bytes of a request that is not complete.
    asked: u64,
    sent: u64,
    received: u64,
    /// Bytes to send before anything else, and how many of them are gone.
    residue: Vec<u8>,
    residue_sent: usize,
}

impl Peer {
    /// A connection just accepted.
    pub fn new(socket: Socket, manner: &Manner) -> Self {
        let speaks_first = matches!(manner.mode, Mode::Source | Mode::Greet);
        Self {
            socket,
            phase: Phase::Serving,
            readable: false,
            ending: false,
            ended: false,
            thought: Thought::due_if(speaks_first && !manner.delay.is_zero()),
            writable_watched: false,
            owed: match speaks_first {
                true => manner.answer_bytes,
                false => 0,
            },
            asked: 0,
            sent: 0,
            received: 0,
            residue: manner.name.clone(),
            residue_sent: 0,
        }
    }

    /// The socket, to be watched.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// True the first time writability is to be watched.
    pub fn begin_watching_writable(&mut self) -> bool {
        !std::mem::replace(&mut self.writable_watched, true)
    }

    /// True when it has something to do before any event.
    pub fn is_eager(&self, manner: &Manner) -> bool {
        self.owed > 0
            || !self.residue.is_empty()
            || manner.mode == Mode::Source
            || manner.leave.is_some_and(|(bytes, _)| bytes == 0)
    }

    /// Notes that there is something to read, and whether the end is near.
    pub fn note_readable(&mut self, ending: bool) {
        self.readable = true;
        self.ending |= ending;
    }

    /// The delay is over.
    pub fn end_delay(&mut self) {
        self.thought = Thought::None;
    }

    /// Does all that can be done now.
    ///
    /// # Errors
    ///
    /// Why the connection is to be given up.
    pub fn pump(&mut self, manner: &Manner, scratch: &mut Scratch, tally: &mut Tally) -> Result<Wants, Broken> {
        let budget = (self.sent + self.received).saturating_add(BUDGET_BYTES);
        loop {
            if self.phase == Phase::Closing {
                return self.drain(scratch, tally);
            }
            match self.thought {
                Thought::None => {}
                Thought::Due => {
                    self.thought = Thought::Begun;
                    return Ok(Wants::Delay);
                }
                Thought::Begun => return Ok(Wants::Read),
            }
            if !self.flush(manner, tally)? {
                return Ok(Wants::Write);
            }
            if self.must_leave(manner) {
                if let Some((_, Close::Reset)) = manner.leave {
                    self.socket.set_linger(Some(Duration::ZERO))?;
                    return Ok(Wants::Nothing);
                }
                self.finish_sending()?;
                continue;
            }
            if self.sent + self.received >= budget {
                return Ok(Wants::Turn);
            }
            if self.owed > 0 {
                continue;
            }
            if manner.mode == Mode::Source && !self.ended {
                self.finish_sending()?;
                continue;
            }
            if self.ended {
                // Closing sends our end; theirs has come.
                return Ok(Wants::Nothing);
            }
            if !self.readable {
                return Ok(Wants::Read);
            }
            self.pull(manner, scratch, tally)?;
        }
    }

    fn finish_sending(&mut self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)?;
        self.phase = Phase::Closing;
        Ok(())
    }

    fn must_leave(&self, manner: &Manner) -> bool {
        let moved = match manner.mode {
            Mode::Sink => self.received,
            _ => self.sent,
        };
        manner.leave.is_some_and(|(bytes, _)| moved >= bytes)
    }

    /// Reads and forgets until the peer's end.
    fn drain(&mut self, scratch: &mut Scratch, tally: &mut Tally) -> Result<Wants, Broken> {
        while self.readable && !self.ended {
            let got = scratch.discard(&self.socket, usize::MAX)?;
            tally.bytes_in += self.note(got);
        }
        Ok(match self.ended {
            true => Wants::Nothing,
            false => Wants::Read,
        })
    }

    /// Keeps what a read said about the socket; returns how many bytes it brought.
    fn note(&mut self, got: Got) -> u64 {
        match got {
            Got::Bytes { count, drained } => {
                self.readable = !drained || self.ending;
                self.received += count as u64;
                count as u64
            }
            Got::Nothing => {
                self.readable = false;
                0
            }
            Got::End => {
                self.ended = true;
                0
            }
        }
    }

    /// Reads once, and does with it what the mode says.
    fn pull(&mut self, manner: &Manner, scratch: &mut Scratch, tally: &mut Tally) -> Result<(), Broken> {
        let keeps = match manner.mode {
            Mode::Echo | Mode::Greet => true,
            Mode::Sink => manner.verify,
            Mode::Reply | Mode::Source => false,
        };
        let position = self.received;
        let got = match keeps {
            true => scratch.read(&self.socket, usize::MAX)?,
            false => scratch.discard(&self.socket, usize::MAX)?,
        };
        let count = self.note(got);
        tally.bytes_in += count;
        if count == 0 {
            return Ok(());
        }
        match manner.mode {
            Mode::Echo | Mode::Greet => {
                let bytes = scratch.kept(count as usize);
                let sent = match manner.delay.is_zero() {
                    true => self.send_some(bytes, manner, tally)?,
                    false => 0,
                };
                if sent < bytes.len() {
                    self.residue.clear();
                    self.residue_sent = 0;
                    self.residue.extend_from_slice(&bytes[sent..]);
                }
                self.thought = Thought::due_if(!manner.delay.is_zero());
            }
            Mode::Reply => {
                let asked = self.asked + count;
                let complete = asked / manner.request_bytes;
                self.asked = asked % manner.request_bytes;
                self.owed += complete.saturating_mul(manner.answer_bytes);
                self.thought = Thought::due_if(complete > 0 && !manner.delay.is_zero());
                tally.ops += complete;
            }
            Mode::Sink if manner.verify => {
                pattern::check(position, scratch.kept(count as usize)).map_err(Broken::Differs)?;
            }
            Mode::Sink | Mode::Source => {}
        }
        Ok(())
    }

    /// Sends some of what waits; false when the socket is full.
    fn flush(&mut self, manner: &Manner, tally: &mut Tally) -> io::Result<bool> {
        if self.must_leave(manner) {
            return Ok(true);
        }
        if self.residue_sent < self.residue.len() {
            let residue = std::mem::take(&mut self.residue);
            let sent = self.send_some(&residue[self.residue_sent..], manner, tally);
            self.residue = residue;
            self.residue_sent += sent?;
            if self.must_leave(manner) {
                return Ok(true);
            }
            if self.residue_sent < self.residue.len() {
                return Ok(false);
            }
            // A peer that is idle keeps no buffer.
            self.residue = Vec::new();
            self.residue_sent = 0;
        }
        if self.owed == 0 {
            return Ok(true);
        }
        // Each answer is the beginning of the stream.
        let rest = match self.owed % manner.answer_bytes {
            0 => manner.answer_bytes,
            part => part,
        };
        let bytes = pattern::slice(manner.answer_bytes - rest, rest);
        let sent = self.send_some(bytes, manner, tally)?;
        self.owed -= sent as u64;
        Ok(sent == bytes.len() || self.must_leave(manner))
    }

    /// Sends, but not past the point where it is to leave.
    fn send_some(&mut self, bytes: &[u8], manner: &Manner, tally: &mut Tally) -> io::Result<usize> {
        let allowed = match manner.leave {
            Some((bytes_max, _)) if manner.mode != Mode::Sink => bytes_max - self.sent,
            _ => u64::MAX,
        };
        let cut = bytes.len().min(usize::try_from(allowed).unwrap_or(usize::MAX));
        let sent = send(&self.socket, &bytes[..cut])?;
        self.sent += sent as u64;
        tally.bytes_out += sent as u64;
        Ok(sent)
    }
}
