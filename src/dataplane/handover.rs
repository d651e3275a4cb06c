//! Connections that one worker accepts and another serves, because it has clearly fewer.
//!
//! The kernel deals connections out as it likes, and long sessions let the difference grow. A worker that has too many
//! passes a new connection's socket through the hatch of the least loaded one, which may have a table of descriptors of its
//! own, and then tells it what came. Nothing has been read or written by then.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::commons::Newcomer;
use super::shard::{Shard, ms};
use crate::config::plan::Listener;
use crate::kernel::{Errno, Kernel, Sock, Ticket};

/// A worker hands a connection over when it has this many sessions more than the least loaded, and an eighth: below that
/// the difference is chance and levels out by itself.
const IMBALANCE_MIN: u32 = 4;
/// Time after which a newcomer there was no descriptor for is looked for again, in milliseconds.
const AGAIN_MS: u32 = 10;

/// Newcomers there has been no descriptor for: they wait in the hatch.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    waiting: Vec<Newcomer>,
    again_ns: u64,
}

impl Strangers {
    /// When to look for them again.
    pub(super) fn next_ns(&self) -> Option<u64> {
        (!self.waiting.is_empty()).then_some(self.again_ns)
    }
}

impl Shard {
    /// Who should have the next session: this worker, unless another has clearly fewer. One that leaves is no choice: it
    /// may be gone before it reads its mail.
    pub(super) fn least_loaded(&self) -> usize {
        let mine = self.desk().sessions.load(Ordering::Relaxed);
        let staying = (0..).zip(&self.commons.desks).filter(|(_, desk)| !desk.leaving.load(Ordering::Relaxed));
        let loads = staying.map(|(worker, desk)| (desk.sessions.load(Ordering::Relaxed), worker));
        let Some((least, worker)) = loads.min() else { return self.index };
        if mine >= least + IMBALANCE_MIN + least / 8 { worker } else { self.index }
    }

    /// Hands a connection over to `worker`; false if that cannot be, and it is still here.
    pub(super) fn hand_over(
        &mut self,
        sock: Sock,
        listener: &Arc<Listener>,
        worker: usize,
        now: u64,
        kernel: &mut impl Kernel,
    ) -> bool {
        let ticket = Ticket::of_connection(self.index, self.desk().tally.handed_over.read());
        let desk = &self.commons.desks[worker];
        if !self.commons.takes_newcomers(worker) || kernel.pass(sock, ticket, desk.hatch()).is_err() {
            return false;
        }
        // Counted before it arrives, so that the next choice knows of it.
        desk.sessions.fetch_add(1, Ordering::Relaxed);
        let newcomer = Newcomer { ticket, listener: Arc::clone(listener), accepted_ns: now };
        self.commons.hand_over(worker, newcomer, kernel);
        self.desk().tally.handed_over.bump();
        true
    }

    /// Opens a session for a connection that was handed over, and is counted here.
    pub fn welcome(&mut self, newcomer: Newcomer, now: u64, kernel: &mut impl Kernel) {
        let taken = kernel.take_in();
        if let Some(sock) = kernel.claim(newcomer.ticket) {
            return self.open(sock, newcomer.listener, newcomer.accepted_ns, now, kernel);
        }
        // It was passed before it was told of: only a descriptor can be wanting.
        self.strangers.waiting.push(newcomer);
        self.strangers.again_ns = now + ms(AGAIN_MS);
        self.rest(taken.err().unwrap_or(Errno::EMFILE), now, kernel);
    }

    /// Looks again for those there was no descriptor for.
    pub(super) fn look_for_strangers(&mut self, now: u64, kernel: &mut impl Kernel) {
        if self.strangers.next_ns().is_some_and(|due_ns| due_ns <= now) {
            for newcomer in std::mem::take(&mut self.strangers.waiting) {
                self.welcome(newcomer, now, kernel);
            }
        }
    }

    /// Gives up those there was no descriptor for: their connections end with the hatch.
    pub(super) fn forget_strangers(&mut self) {
        let forgotten = std::mem::take(&mut self.strangers.waiting).len() as u32;
        self.desk().sessions.fetch_sub(forgotten, Ordering::Relaxed);
    }
}
