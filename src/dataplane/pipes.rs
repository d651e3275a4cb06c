//! The pipes of one worker: borrowed for bytes between two sockets, given back empty, closed when not.
//!
//! Pages are shared by all pipes of a user (`fs.pipe-user-pages-soft`, pipe(7)): 64 MiB for everyone but root. So a worker
//! asks for few large pipes and, once those are all in use, for small ones; when there is none to be had, bulk is copied.

use crate::kernel::{Kernel, Pipe};

/// Size of a large pipe, in bytes: `fs.pipe-max-size` allows that much by default.
pub const PIPE_LARGE: usize = 1 << 20;
/// Size of a small pipe, and the least a pipe must have to be of use, in bytes: what pipe2(2) gives.
pub const PIPE_SMALL: usize = 1 << 16;
/// Large pipes a worker has at most.
pub const LARGE_MAX: usize = 24;
/// Pipes a worker has at most, large and small; two descriptors each.
pub const PIPES_MAX: usize = 512;
/// Empty pipes a worker keeps.
pub const IDLE_MAX: usize = 32;

/// A worker's pipes.
#[derive(Debug, Default)]
pub struct Pipes {
    /// Empty, the last used first; large ones are at the end.
    idle: Vec<Pipe>,
    /// All that exist, borrowed ones too.
    count: usize,
    large: usize,
    /// Why the last attempt to make one failed, until somebody asks.
    refusal: Option<i32>,
}

impl Pipes {
    /// Lends an empty pipe; `None` when there is none to be had.
    pub fn borrow(&mut self, kernel: &mut impl Kernel) -> Option<Pipe> {
        if let Some(pipe) = self.idle.pop() {
            return Some(pipe);
        }
        if self.count >= PIPES_MAX {
            self.refusal = Some(0);
            return None;
        }
        let wanted = if self.large < LARGE_MAX { PIPE_LARGE } else { PIPE_SMALL };
        match kernel.open_pipe(wanted) {
            Ok(pipe) if pipe.size >= PIPE_SMALL => {
                self.count += 1;
                self.large += usize::from(pipe.size > PIPE_SMALL);
                Some(pipe)
            }
            Ok(pipe) => {
                kernel.close_pipe(pipe);
                self.refusal = Some(0);
                None
            }
            Err(errno) => {
                self.refusal = Some(errno as i32);
                None
            }
        }
    }

    /// Takes back a pipe that is empty.
    pub fn give_back(&mut self, pipe: Pipe, kernel: &mut impl Kernel) {
        if self.idle.len() >= IDLE_MAX {
            self.discard(pipe, kernel);
        } else if pipe.size > PIPE_SMALL {
            self.idle.push(pipe);
        } else {
            self.idle.insert(0, pipe);
        }
    }

    /// Closes a pipe that still holds bytes nobody wants any more.
    pub fn discard(&mut self, pipe: Pipe, kernel: &mut impl Kernel) {
        self.count -= 1;
        self.large -= usize::from(pipe.size > PIPE_SMALL);
        kernel.close_pipe(pipe);
    }

    /// Pipes that carry bytes now, and empty ones.
    pub fn used_and_idle(&self) -> (usize, usize) {
        (self.count - self.idle.len(), self.idle.len())
    }

    /// Why no pipe could be had since the last call; the errno, 0 for our own or the kernel's limit.
    pub fn take_refusal(&mut self) -> Option<i32> {
        self.refusal.take()
    }

    /// Closes all idle pipes.
    pub fn close(&mut self, kernel: &mut impl Kernel) {
        while let Some(pipe) = self.idle.pop() {
            self.discard(pipe, kernel);
        }
    }
}
