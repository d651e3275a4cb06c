//! The pump: moves the bytes of one direction from one socket to the other.
//!
//! It begins by *copying* through the worker's one buffer: nothing is held per connection, and small messages cost two
//! system calls. A read that fills the buffer announces bulk, and the pump turns to *splicing* through a borrowed pipe; a
//! few splices in a row that are smaller than the buffer turn it back. What the receiver does not take at once is the
//! *residue*: it stays in the pipe, or in a spill of at most a buffer's size. While there is residue nothing is read: that
//! is the back-pressure, and it bounds what a direction can hold.
//!
//! ```text
//! run ─┬─ residue? ─ write it ─ not all taken ─────────────────────────► Full   (a Writable edge will come)
//!      ├─ end of stream seen before? ──────────────────────────────────► Ended
//!      ├─ budget used up? ─────────────────────────────────────────────► Budget (run again soon: no edge will come)
//!      ├─ read ─ nothing there ────────────────────────────────────────► Drained (a Readable edge will come)
//!      │       ├ end of stream ────────────────────────────────────────► Ended
//!      │       └ bytes ─ write ─ all taken: again from the top; else they are residue
//!      └─ an errno from either socket ─────────────────────────────────► Fault
//! ```

use super::gather::Flow;
use super::pipes::Pipes;
use crate::base::limits::{BUDGET, BUFFER, SPILLS_IDLE_MAX};
use crate::kernel::{Errno, Kernel, Pipe, Sock};
use crate::proxy_protocol::{HEADER_MAX, Header};

/// Small splices in a row that end a spell of splicing. One is often only the edge of a segment.
const SMALL_MAX: u8 = 3;

/// In [`Pump::header`]: the receiver has all of it.
const TAKEN: u8 = u8::MAX;

const _: () = assert!(HEADER_MAX < TAKEN as usize && HEADER_MAX < BUFFER, "a pump counts a header in a byte");
const _: () = assert!(size_of::<Pump>() <= 64, "every session has two");

/// One direction of a session.
#[derive(Debug, Default)]
pub struct Pump {
    mover: Mover,
    residue: Residue,
    /// The sender has finished: read returned 0. The receiver is told once the residue is gone.
    ended: bool,
    /// The receiver has been told (FIN).
    pub finished: bool,
    /// The source has said that its end, or an error, is near: read on until it shows, even after a short read.
    pub ending: bool,
    /// There may be something to read.
    pub readable: bool,
    /// Waits for its turn because the budget was used up.
    pub queued: bool,
    /// Bytes of the sender that the receiver's socket has taken.
    pub moved: u64,
    /// Bytes at the front of the residue that are not the sender's: what the receiver has not taken of a header. Or [`TAKEN`].
    header: u8,
    /// Whether it is a stream, and how its source is listened to.
    pub flow: Flow,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mover {
    #[default]
    Copy,
    /// The last `small` splices were smaller than the buffer.
    Splice { small: u8 },
}

#[derive(Debug, Default)]
enum Residue {
    #[default]
    None,
    /// Bytes `from..` of a spill.
    Spilled { bytes: Vec<u8>, from: usize },
    /// This many bytes in a pipe.
    Piped { pipe: Pipe, held: usize },
}

/// Why a run stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The source has nothing more now.
    Drained,
    /// The receiver takes no more now.
    Full,
    /// There may be more, but others have a turn first.
    Budget,
    /// The sender has finished, and the receiver's socket has every byte.
    Ended,
    /// The sender's socket failed.
    SourceFault(Errno),
    /// The receiver's socket failed.
    SinkFault(Errno),
}

/// One run of a pump.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Why it stopped.
    pub stop: Stop,
    /// Bytes of the sender that the receiver's socket has taken meanwhile.
    pub moved: u64,
    /// The same with those of a header.
    pub sent: u64,
}

/// What a worker lends its pumps.
#[derive(Debug)]
pub struct Tools {
    buffer: Box<[u8; BUFFER]>,
    spills: Vec<Vec<u8>>,
    /// Pipes for splice.
    pub pipes: Pipes,
}

impl Default for Tools {
    fn default() -> Self {
        Self { buffer: Box::new([0; BUFFER]), spills: Vec::new(), pipes: Pipes::default() }
    }
}

impl Pump {
    /// Moves bytes from `from` to `to` until one of them stops it.
    #[inline]
    pub fn drive(&mut self, from: Sock, to: Sock, tools: &mut Tools, kernel: &mut impl Kernel) -> Run {
        let (before, header_before) = (self.moved, self.header_left());
        let stop = self.run(from, to, tools, kernel);
        let moved = self.moved - before;
        Run { stop, moved, sent: moved + (header_before - self.header_left()) as u64 }
    }

    /// Sends `header` to a receiver that has just been connected, before all else; and in one piece with what `from` has said by
    /// now, if that is to go as well: a receiver may want all of the header at once (PROXY protocol, §2). What has been
    /// kept from a receiver that came to nothing follows, without the header that was for him.
    pub fn introduce(
        &mut self,
        header: &Header,
        from: Option<Sock>,
        to: Sock,
        tools: &mut Tools,
        kernel: &mut impl Kernel,
    ) -> Run {
        let before = self.moved;
        let keeps = self.ahead().len() > self.header_left();
        self.put_first(header, tools);
        let stop = match from {
            Some(from) if keeps || self.ended => self.run(from, to, tools, kernel),
            Some(from) => self.begin(from, to, BUFFER - header.len(), tools, kernel),
            None => self.flush(to, tools, kernel).err().unwrap_or(Stop::Drained),
        };
        let moved = self.moved - before;
        Run { stop, moved, sent: moved + (header.len() - self.header_left()) as u64 }
    }

    /// Makes `header` the first of the residue, in the place of what is left of another.
    fn put_first(&mut self, header: &Header, tools: &mut Tools) {
        let left = self.header_left();
        self.header = header.len() as u8;
        match &mut self.residue {
            Residue::None => {
                let mut bytes = tools.spills.pop().unwrap_or_default();
                bytes.extend_from_slice(header);
                self.residue = Residue::Spilled { bytes, from: 0 };
            }
            Residue::Spilled { bytes, from } => {
                bytes.splice(..*from + left, header.iter().copied());
                *from = 0;
            }
            Residue::Piped { .. } => {
                debug_assert!(false, "only a receiver that has taken bytes is spliced to, and he is the last");
                self.header = 0;
            }
        }
    }

    /// Bytes of a header that the receiver has still to take.
    fn header_left(&self) -> usize {
        if self.header == TAKEN { 0 } else { usize::from(self.header) }
    }

    /// Reads at most `most` bytes, sends them behind what is to be sent before, and runs on if there may be more.
    fn begin(&mut self, from: Sock, to: Sock, most: usize, tools: &mut Tools, kernel: &mut impl Kernel) -> Stop {
        let got = match self.read_ahead(from, most, tools, kernel) {
            Ok(got) => {
                self.ended = got == 0;
                got
            }
            Err(Errno::EAGAIN) => 0,
            Err(errno) => return Stop::SourceFault(errno),
        };
        match self.flush(to, tools, kernel) {
            Err(stop) => stop,
            Ok(()) if got < most && !self.ending && !self.ended => Stop::Drained,
            Ok(()) => self.run(from, to, tools, kernel),
        }
    }

    fn run(&mut self, from: Sock, to: Sock, tools: &mut Tools, kernel: &mut impl Kernel) -> Stop {
        if let Err(stop) = self.flush(to, tools, kernel) {
            return stop;
        }
        let start = self.moved;
        let mut first = true;
        loop {
            if self.ended {
                return Stop::Ended;
            }
            if self.moved - start >= BUDGET as u64 {
                return Stop::Budget;
            }
            let step = match self.mover {
                Mover::Copy => self.copy(from, to, tools, kernel),
                Mover::Splice { small } => self.splice(from, to, tools, kernel, small, first),
            };
            first = false;
            if let Err(stop) = step {
                return stop;
            }
        }
    }

    /// Reads at most `most` bytes and keeps them: nothing goes to the receiver before the next run. 0 is the end of the
    /// stream.
    ///
    /// # Errors
    /// What recv said; `EAGAIN` when there is nothing now.
    pub fn read_ahead(
        &mut self,
        from: Sock,
        most: usize,
        tools: &mut Tools,
        kernel: &mut impl Kernel,
    ) -> Result<usize, Errno> {
        let most = most.min(BUFFER);
        let got = kernel.recv(from, &mut tools.buffer[..most])?;
        match &mut self.residue {
            Residue::Spilled { bytes, .. } => bytes.extend_from_slice(&tools.buffer[..got]),
            Residue::None if got > 0 => self.residue = Residue::Spilled { bytes: tools.spill(0, got), from: 0 },
            // Nobody reads ahead of a pump that runs.
            Residue::None | Residue::Piped { .. } => {}
        }
        Ok(got)
    }

    /// What was read ahead.
    pub fn ahead(&self) -> &[u8] {
        match &self.residue {
            Residue::Spilled { bytes, from } => &bytes[*from..],
            Residue::None | Residue::Piped { .. } => &[],
        }
    }

    /// Takes out what was read ahead, in the buffer it is in: [`Tools::keep_spill`] takes that back.
    pub fn take_ahead(&mut self) -> Option<Vec<u8>> {
        match std::mem::take(&mut self.residue) {
            Residue::Spilled { bytes, .. } => Some(bytes),
            other => {
                self.residue = other;
                None
            }
        }
    }

    /// True while bytes wait for the receiver.
    pub fn is_blocked(&self) -> bool {
        !matches!(self.residue, Residue::None)
    }

    /// True while the receiver's socket has taken nothing, not even a whole header.
    pub fn is_silent(&self) -> bool {
        self.moved == 0 && self.header != TAKEN
    }

    /// True while it carries bulk.
    pub fn is_splicing(&self) -> bool {
        self.mover != Mover::Copy
    }

    /// True once the sender has finished and every byte is delivered.
    pub fn is_over(&self) -> bool {
        self.ended && !self.is_blocked()
    }

    /// Throws the residue away: the session ends before it could be delivered.
    pub fn abandon(&mut self, tools: &mut Tools, kernel: &mut impl Kernel) {
        self.header = if self.header == TAKEN { TAKEN } else { 0 };
        match std::mem::take(&mut self.residue) {
            Residue::None => {}
            Residue::Spilled { bytes, .. } => tools.keep_spill(bytes),
            Residue::Piped { pipe, .. } => tools.pipes.discard(pipe, kernel),
        }
    }

    /// Writes the residue, and reads nothing. `Ok` when none is left.
    ///
    /// # Errors
    /// [`Stop::Full`], [`Stop::SinkFault`].
    pub fn flush(&mut self, to: Sock, tools: &mut Tools, kernel: &mut impl Kernel) -> Result<(), Stop> {
        let taken = match &mut self.residue {
            Residue::None => return Ok(()),
            Residue::Spilled { bytes, from } => written(kernel.send(to, &bytes[*from..]))?,
            Residue::Piped { pipe, held } => written(kernel.pour(pipe, to, *held))?,
        };
        let left = self.header_left();
        let of_header = taken.min(left);
        if left > 0 {
            self.header = if of_header == left { TAKEN } else { (left - of_header) as u8 };
        }
        self.moved += (taken - of_header) as u64;
        match &mut self.residue {
            Residue::None => {}
            Residue::Spilled { bytes, from } => {
                *from += taken;
                if *from < bytes.len() {
                    return Err(Stop::Full);
                }
            }
            Residue::Piped { held, .. } => {
                *held -= taken;
                if *held > 0 {
                    return Err(Stop::Full);
                }
            }
        }
        match std::mem::take(&mut self.residue) {
            Residue::None => {}
            Residue::Spilled { bytes, .. } => tools.keep_spill(bytes),
            Residue::Piped { pipe, .. } => tools.pipes.give_back(pipe, kernel),
        }
        Ok(())
    }

    /// One read into the buffer, one write out of it.
    #[inline]
    fn copy(&mut self, from: Sock, to: Sock, tools: &mut Tools, kernel: &mut impl Kernel) -> Result<(), Stop> {
        let got = match kernel.recv(from, &mut tools.buffer[..]) {
            Ok(0) => {
                self.ended = true;
                return Err(Stop::Ended);
            }
            Ok(got) => got,
            Err(errno) => return Err(nothing_read(errno)),
        };
        let sent = match kernel.send(to, &tools.buffer[..got]) {
            Ok(sent) => sent,
            Err(Errno::EAGAIN) => 0,
            Err(errno) => {
                // A receiver that has never taken a byte may give way to another, who is to have them all.
                if self.is_silent() {
                    self.residue = Residue::Spilled { bytes: tools.spill(0, got), from: 0 };
                }
                return Err(Stop::SinkFault(errno));
            }
        };
        self.moved += sent as u64;
        if got == BUFFER {
            self.mover = Mover::Splice { small: 0 };
        }
        if sent < got {
            self.residue = Residue::Spilled { bytes: tools.spill(sent, got), from: 0 };
            return Err(Stop::Full);
        }
        // A short read has emptied the socket; whatever comes after it is a new edge. An end announced before is none.
        if got < BUFFER && !self.ending {
            return Err(Stop::Drained);
        }
        Ok(())
    }

    /// One splice into a pipe, one out of it.
    fn splice(
        &mut self,
        from: Sock,
        to: Sock,
        tools: &mut Tools,
        kernel: &mut impl Kernel,
        small: u8,
        first: bool,
    ) -> Result<(), Stop> {
        let Some(pipe) = tools.pipes.borrow(kernel) else {
            return self.copy(from, to, tools, kernel);
        };
        let held = match kernel.fill(&pipe, from, pipe.size) {
            Ok(0) => {
                tools.pipes.give_back(pipe, kernel);
                self.ended = true;
                return Err(Stop::Ended);
            }
            Ok(held) => held,
            Err(errno) => {
                tools.pipes.give_back(pipe, kernel);
                if errno == Errno::EAGAIN && first {
                    // Something was to be read, and yet nothing to splice: urgent data stops splice(2) but not recv(2)
                    // (tcp_splice_read).
                    return self.copy(from, to, tools, kernel);
                }
                return Err(nothing_read(errno));
            }
        };
        self.mover = match small {
            _ if held >= BUFFER => Mover::Splice { small: 0 },
            SMALL_MAX.. => Mover::Copy,
            _ => Mover::Splice { small: small + 1 },
        };
        // Exactly what is in it: a larger length makes the kernel wait for more (MSG_MORE in splice_to_socket).
        let poured = match kernel.pour(&pipe, to, held) {
            Ok(poured) => poured,
            Err(Errno::EAGAIN) => 0,
            Err(errno) => {
                tools.pipes.discard(pipe, kernel);
                return Err(Stop::SinkFault(errno));
            }
        };
        self.moved += poured as u64;
        if poured < held {
            self.residue = Residue::Piped { pipe, held: held - poured };
            return Err(Stop::Full);
        }
        tools.pipes.give_back(pipe, kernel);
        Ok(())
    }
}

impl Tools {
    /// Copies bytes `from..to` of the buffer into a spill.
    fn spill(&mut self, from: usize, to: usize) -> Vec<u8> {
        let mut spill = self.spills.pop().unwrap_or_default();
        spill.extend_from_slice(&self.buffer[from..to]);
        spill
    }

    /// Reads what there is, up to a few buffers, and forgets it.
    pub fn throw_away(&mut self, from: Sock, kernel: &mut impl Kernel) {
        const READS_MAX: usize = 8;
        for _ in 0..READS_MAX {
            if !matches!(kernel.recv(from, &mut self.buffer[..]), Ok(1..)) {
                return;
            }
        }
    }

    /// Takes a spill back for reuse.
    pub fn keep_spill(&mut self, mut spill: Vec<u8>) {
        if self.spills.len() < SPILLS_IDLE_MAX {
            spill.clear();
            self.spills.push(spill);
        }
    }
}

fn written(result: Result<usize, Errno>) -> Result<usize, Stop> {
    match result {
        Ok(taken) => Ok(taken),
        Err(Errno::EAGAIN) => Err(Stop::Full),
        Err(errno) => Err(Stop::SinkFault(errno)),
    }
}

fn nothing_read(errno: Errno) -> Stop {
    if errno == Errno::EAGAIN { Stop::Drained } else { Stop::SourceFault(errno) }
}
