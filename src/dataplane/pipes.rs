//! The pipes of one worker: borrowed for bytes between two sockets, given back empty, closed when not.
//!
//! Pages are shared by all pipes of a user (`fs.pipe-user-pages-soft`, pipe(7)): 64 MiB for everyone but root. So a worker
//! asks for few large pipes and, once those are all in use, for small ones; when there is none to be had, bulk is copied.

use crate::base::limits::{PIPE_LARGE, PIPE_SMALL, PIPES_IDLE_MAX, PIPES_LARGE_MAX, PIPES_MAX};
use crate::kernel::{Kernel, Pipe};

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
        let wanted = if self.large < PIPES_LARGE_MAX { PIPE_LARGE } else { PIPE_SMALL };
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
        if self.idle.len() >= PIPES_IDLE_MAX {
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
