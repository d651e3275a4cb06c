//! The worker: one pinned thread, one ring, one loop.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use super::commons::{Commons, monotonic_ns};
use super::shard::Shard;
use crate::kernel::uring::{Refused, Uring};
use crate::kernel::{Errno, Kernel};
use crate::sys::{affinity, bytes};

/// Starts worker `index` on a thread of its own, pinned to `cpu` if one is given, and returns once its engine runs and
/// its desk is open for mail.
///
/// # Errors
/// Why the kernel refused a ring, or a thread (`EAGAIN`); nothing is left running then.
pub fn start(index: usize, cpu: Option<usize>, commons: Arc<Commons>) -> Result<JoinHandle<()>, Refused> {
    let (tell, told) = mpsc::sync_channel(1);
    let thread = thread::Builder::new().name(format!("ringway-w{index}")).spawn(move || {
        if let Some(cpu) = cpu {
            // A core that has gone since it was listed: unpinned is slower, not wrong.
            let _ = affinity::pin(cpu);
        }
        let _ = bytes::block_signals();
        match Uring::new() {
            Err(refused) => drop(tell.send(Err(refused))),
            Ok(mut kernel) => {
                commons.desks[index].open(kernel.wake_target());
                let _ = tell.send(Ok(()));
                work(index, &commons, &mut kernel);
            }
        }
    });
    let thread = thread.map_err(|error| Refused {
        errno: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)),
        reason: "limit",
        cause: "no thread could be started".into(),
        remedy: "raise the limit on processes and threads (ulimit -u, TasksMax)".into(),
    })?;
    match told.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(refused)) => Err(refused),
        // The thread ended without a word, which only a panic does, and a panic ends the process.
        Err(_) => std::process::abort(),
    }
}

/// The loop. Leaves after [`super::commons::Mail::Stop`], when the kernel has let go of every socket.
fn work<K: Kernel>(index: usize, commons: &Arc<Commons>, kernel: &mut K) {
    let desk = &commons.desks[index];
    let mut events = Vec::new();
    let mut now = monotonic_ns();
    let seed = RandomState::new().build_hasher().finish();
    let mut shard = Shard::new(index, Arc::clone(commons), now, seed);
    shard.adopt(now, kernel);
    while !shard.is_done() {
        if let Err(errno) = kernel.wait(shard.patience_ns(now), &mut events) {
            // The engine itself is broken: half a daemon is worse than none.
            eprintln!("ringway: worker {index}: the kernel refuses to go on: {errno}");
            std::process::abort();
        }
        now = monotonic_ns();
        for event in events.drain(..) {
            shard.handle(event, now, kernel);
        }
        shard.resume(now, kernel);
        shard.expire(now, kernel);
        desk.hush();
        while let Some(mail) = desk.take() {
            shard.obey(mail, now, kernel);
        }
        desk.turns.fetch_add(1, Ordering::Relaxed);
        let lag = monotonic_ns().saturating_sub(now);
        desk.tally.lag_ns_max.fetch_max(lag, Ordering::Relaxed);
    }
    shard.close(now, kernel);
    // Submit what was requested last: the closing of sockets.
    let _ = kernel.wait(Some(0), &mut events);
    desk.tally.gone.store(true, Ordering::Release);
}
