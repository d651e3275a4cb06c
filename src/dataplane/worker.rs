//! The worker: one pinned thread, one engine, one loop.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use crossbeam::utils::CachePadded;

use super::commons::{Commons, Desk, Lines, monotonic_ns};
use super::shard::Shard;
use crate::base::rehearsal;
use crate::kernel::{Engine, Errno, Kernel, Refused};
use crate::sys::{affinity, bytes, stderr, table};

/// A worker that has its engine and waits for the word to begin. Dropped instead, it goes home, and has touched nothing
/// that others see.
#[derive(Debug)]
pub struct Hired {
    thread: JoinHandle<()>,
    begin: mpsc::SyncSender<()>,
    lines: Lines,
}

/// Opens a desk for each worker of a crew, in order, and lets them begin: all have their desks before the first moves to a
/// table of its own.
pub fn begin(crew: Vec<Hired>, commons: &Commons) -> Vec<JoinHandle<()>> {
    let open = |(Hired { thread, begin, lines }, desk): (Hired, &CachePadded<Desk>)| {
        desk.connect(lines);
        (thread, begin)
    };
    let ready: Vec<_> = crew.into_iter().zip(&commons.desks).map(open).collect();
    let start = |(thread, begin): (JoinHandle<()>, mpsc::SyncSender<()>)| {
        // It waits for this, or the process is ending.
        let _ = begin.send(());
        thread
    };
    ready.into_iter().map(start).collect()
}

/// Hires worker `index` on a thread of its own, pinned to `cpu` if one is given, and returns once its engine is ready.
///
/// # Errors
/// Why the kernel refused an engine, or a thread (`EAGAIN`); nothing is left running then.
pub fn hire<E: Engine>(index: usize, cpu: Option<usize>, commons: &Arc<Commons>) -> Result<Hired, Refused> {
    let (tell, told) = mpsc::sync_channel(1);
    let (begin, begun) = mpsc::sync_channel(1);
    let shared = Arc::clone(commons);
    let thread = thread::Builder::new().name(format!("ringway-w{index}")).spawn(move || {
        if let Some(cpu) = cpu {
            // A core that has gone since it was listed: unpinned is slower, not wrong.
            let _ = affinity::pin(cpu);
        }
        let _ = bytes::block_signals();
        let mut kernel = match E::new() {
            Ok(kernel) => kernel,
            Err(refused) => return drop(tell.send(Err(refused))),
        };
        let lines = Lines { target: kernel.wake_target(), rope: kernel.rope(), hatch: kernel.hatch() };
        let _ = tell.send(Ok(lines));
        if begun.recv().is_ok() {
            move_out(&shared, &kernel);
            work(index, &shared, &mut kernel);
        }
    });
    let thread = thread.map_err(|error| Refused {
        engine: "a worker",
        errno: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)),
        reason: "limit",
        cause: "no thread could be started".into(),
        remedy: "raise the limit on processes and threads (ulimit -u, TasksMax)".into(),
    })?;
    match told.recv() {
        Ok(Ok(lines)) => Ok(Hired { thread, begin, lines }),
        Ok(Err(refused)) => Err(refused),
        // The thread ended without a word, which only a panic does, and a panic ends the process.
        Err(_) => std::process::abort(),
    }
}

/// Moves to a table of descriptors of its own, with those that workers reach one another and the control thread by. Sockets
/// come through the hatch, and do so too where this is refused: then the table stays a common one, which is slower, not
/// wrong. From here on nothing may be called on this thread that counts on other descriptors: no task may be woken.
fn move_out(commons: &Commons, engine: &impl Engine) {
    let lines = commons.desks.iter().flat_map(|desk| desk.descriptors());
    let bell = commons.alarm.rope();
    let own = engine.descriptors();
    let _ = table::own((0..=libc::STDERR_FILENO).chain(lines).chain(bell).chain(own).collect());
}

/// The loop. Leaves after [`super::commons::Mail::Stop`], when the kernel has let go of every socket.
fn work<K: Kernel>(index: usize, commons: &Arc<Commons>, kernel: &mut K) {
    let desk = &commons.desks[index];
    let mut events = Vec::new();
    let mut now = monotonic_ns();
    let seed = RandomState::new().build_hasher().finish();
    let mut shard = Shard::new(index, Arc::clone(commons), now, seed);
    shard.adopt(now, kernel);
    desk.pulse.begin(nix::unistd::gettid().as_raw());
    while !shard.is_done() {
        let patience_ns = shard.patience_ns(now);
        desk.pulse.waits(patience_ns.map(|patience_ns| now.saturating_add(patience_ns)));
        if let Err(errno) = kernel.wait(patience_ns, &mut events) {
            // The engine itself is broken: half a daemon is worse than none.
            stderr::say(&format!("ringway: worker {index}: the kernel refuses to go on: {errno}\n"));
            std::process::abort();
        }
        now = monotonic_ns();
        desk.pulse.works(now);
        for event in events.drain(..) {
            shard.handle(event, now, kernel);
        }
        shard.resume(now, kernel);
        shard.expire(now, kernel);
        desk.hush();
        while let Some(mail) = desk.take() {
            shard.obey(mail, now, kernel);
        }
        while let Some(newcomer) = desk.take_newcomer() {
            shard.welcome(newcomer, now, kernel);
        }
        shard.attend(now, kernel);
        rehearsal::sessions_opened(shard.sessions_opened);
        desk.tally.cq_overflows.add(kernel.take_overflows());
        desk.turns.fetch_add(1, Ordering::Relaxed);
        let lag = monotonic_ns().saturating_sub(now);
        desk.tally.lag_ns_max.fetch_max(lag, Ordering::Relaxed);
    }
    shard.close(now, kernel);
    // Submit what was requested last: the closing of sockets.
    let _ = kernel.wait(Some(0), &mut events);
    desk.pulse.end();
    desk.tally.gone.store(true, Ordering::Release);
}
