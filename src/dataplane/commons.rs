//! What workers share: the published scene, a desk for each worker, and nothing else.
//!
//! Things that *are* so are published ([`Scene`] behind an `ArcSwap`); things that *happen* are mailed ([`Mail`] through a
//! bounded channel, the worker woken through its engine). No lock, and nobody waits for anybody.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use crossbeam::queue::{ArrayQueue, SegQueue};
use crossbeam::utils::CachePadded;

use super::evict::Eviction;
use super::exodus::Exodus;
use super::record::{Note, Record};
use super::roll::Roll;
use crate::base::counter::Counter;
use crate::base::limits::{MAIL_MAX, NEWCOMERS_MAX, NOTES_MAX, RECORDS_MAX, WORKERS_MAX};
use crate::base::pulse::Pulse;
use crate::base::rehearsal;
use crate::config::ledger::PoolLedger;
use crate::config::line::Line;
use crate::config::plan::{Address, Listener, Plan};
use crate::kernel::{Bell, Hatch, Ticket, WakeTarget};

// What the ceiling on sessions reckons with (`BYTES_PER_WORKER`): a place in any of the queues is at most 256 bytes.
const _: () = assert!(size_of::<Record>() <= 240 && size_of::<Note>() <= 240 && size_of::<Mail>() <= 240);
const _: () = assert!(size_of::<Newcomer>() <= 240 && NEWCOMERS_MAX > WORKERS_MAX as usize);

/// A plan together with the listening sockets that serve it: what one atomic swap replaces.
#[derive(Debug)]
pub struct Scene {
    /// The configuration.
    pub plan: Arc<Plan>,
    /// Every listening socket, with the listener it belongs to under this plan.
    pub doors: Vec<(Arc<Door>, Arc<Listener>)>,
}

/// Listening sockets of one address: one per worker (`SO_REUSEPORT`; a unix socket is one, duplicated), passed to it through
/// its hatch with the ticket of the door's id. Who has closed his lets go of this.
#[derive(Debug)]
pub struct Door {
    /// Unique for the life of the process.
    pub id: u64,
    /// Where it listens.
    pub address: Address,
}

/// A letter to a worker.
#[derive(Debug)]
pub enum Mail {
    /// The scene has changed: open and close doors accordingly.
    NewScene,
    /// End the sessions of a server.
    Evict(Arc<Eviction>),
    /// End sessions one after the other, over a time.
    Exodus(Arc<Exodus>),
    /// Call out sessions, or end them.
    Roll(Arc<Roll>),
    /// Take no more connections (after those already in the accept queues); let sessions finish.
    Drain,
    /// End every session now, then leave the loop.
    Stop,
}

/// A connection that another worker accepted; this one is less loaded.
#[derive(Debug)]
pub struct Newcomer {
    /// What its socket came through the hatch with, before this was written.
    pub ticket: Ticket,
    /// Where it was accepted.
    pub listener: Arc<Listener>,
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub accepted_ns: u64,
}

/// How a worker is reached from outside.
#[derive(Debug)]
pub struct Lines {
    /// See [`Engine::wake_target`](crate::kernel::Engine::wake_target).
    pub target: WakeTarget,
    /// See [`Engine::rope`](crate::kernel::Engine::rope).
    pub rope: Option<OwnedFd>,
    /// See [`Engine::hatch`](crate::kernel::Engine::hatch).
    pub hatch: Option<OwnedFd>,
}

/// What all workers and the control thread share.
#[derive(Debug)]
pub struct Commons {
    /// The published plan and doors.
    pub scene: ArcSwap<Scene>,
    /// One desk a worker.
    pub desks: Box<[CachePadded<Desk>]>,
    /// Most sessions at once, over all workers.
    pub max_connections: AtomicU32,
    /// A limit on memory is nearly reached: nobody is let in.
    pub memory_short: AtomicBool,
    /// Rung when connects to a server have failed so often in a row that it may have to be ejected, and when there is
    /// something to do.
    pub alarm: Alarm,
}

/// How workers call the control thread: by a bell whose rope is in all tables of descriptors, since nothing else of the control
/// thread's is in theirs.
#[derive(Default)]
pub struct Alarm {
    /// What is pulled, and what the control thread listens to: the ends of a unix(7) socket pair.
    bell: OnceLock<(UnixStream, UnixStream)>,
    rung: AtomicBool,
    errands: SegQueue<Errand>,
}

/// Something for the control thread to do.
pub type Errand = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alarm").field("rung", &self.rung).finish_non_exhaustive()
    }
}

impl Alarm {
    /// Hangs up the bell, before workers begin. Without one nobody hears.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`: there are no descriptors for it.
    pub fn install(&self) -> io::Result<()> {
        let (rope, bell) = UnixStream::pair()?;
        rope.set_nonblocking(true)?;
        bell.set_nonblocking(true)?;
        let first = self.bell.set((rope, bell)).is_ok();
        debug_assert!(first, "there is one control thread");
        Ok(())
    }

    /// What is readable when somebody has rung.
    pub fn bell(&self) -> Option<&UnixStream> {
        self.bell.get().map(|(_, bell)| bell)
    }

    /// The descriptor workers ring it by.
    pub fn rope(&self) -> Option<RawFd> {
        self.bell.get().map(|(rope, _)| rope.as_raw_fd())
    }

    /// Rings, unless it has been rung since somebody came.
    #[inline]
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            self.pull();
        }
    }

    /// Leaves something to do, and rings. It must not block.
    pub fn leave(&self, errand: Errand) {
        self.errands.push(errand);
        self.pull();
    }

    /// The next thing to do.
    pub fn take(&self) -> Option<Errand> {
        self.errands.pop()
    }

    /// Whether it has been rung. Call it before you look at what it is rung for, so that nothing is missed.
    pub fn answer(&self) -> bool {
        self.rung.swap(false, Ordering::SeqCst)
    }

    fn pull(&self) {
        if let Some((rope, _)) = self.bell.get() {
            let mut rope: &UnixStream = rope;
            // Where nothing more fits it has been rung already.
            let _ = rope.write(&[1]);
        }
    }
}

/// One worker's place: its mailbox, its queues towards the log, and figures others may read.
#[derive(Debug)]
pub struct Desk {
    letters_in: Sender<Mail>,
    letters_out: Receiver<Mail>,
    newcomers: ArrayQueue<Newcomer>,
    rung: AtomicBool,
    /// There may be room for those who wait here: in which lines, these say.
    called: AtomicBool,
    /// How to wake this worker; see [`WakeTarget`].
    wake_fd: AtomicI32,
    /// See [`Hatch`].
    hatch_fd: AtomicI32,
    /// What keeps these open.
    lines: OnceLock<Lines>,
    /// Sessions it has now.
    pub sessions: AtomicU32,
    /// Doors it had when it last took up a scene: it accepts there, or will when there is a descriptor for that.
    pub doors: AtomicUsize,
    /// It drains or stops: others hand it no connections.
    pub leaving: AtomicBool,
    /// Turns of its loop, to prove to the service manager that even an idle worker lives.
    pub turns: AtomicU64,
    /// What the watchdog feels.
    pub pulse: Pulse,
    /// Access records for the log thread.
    pub records: ArrayQueue<Record>,
    /// Notes for the log thread.
    pub notes: ArrayQueue<Note>,
    /// Counts of the worker itself.
    pub tally: WorkerTally,
}

/// What a worker counts of itself.
#[derive(Debug, Default)]
pub struct WorkerTally {
    /// Records that found the queue full.
    pub records_dropped: Counter,
    /// Pipes that carry bytes now (a gauge).
    pub pipes_used: AtomicU32,
    /// Empty pipes kept for reuse (a gauge).
    pub pipes_idle: AtomicU32,
    /// Connections handed to a less loaded worker.
    pub handed_over: Counter,
    /// Longest time from being woken to having handled everything, since the last scrape, in nanoseconds.
    pub lag_ns_max: AtomicU64,
    /// Turns that found the completion queue overflowed: the kernel kept what it had to say, and said it later.
    pub cq_overflows: Counter,
    /// Times the watchdog found the worker stuck; the watchdog writes it.
    pub stalls: Counter,
    /// True once the worker has left its loop.
    pub gone: AtomicBool,
}

impl Commons {
    /// Shared state for `workers` workers, starting with `scene`.
    pub fn new(workers: usize, scene: Scene, max_connections: u32) -> Self {
        Self {
            scene: ArcSwap::from_pointee(scene),
            desks: (0..workers).map(|_| CachePadded::new(Desk::new())).collect(),
            max_connections: AtomicU32::new(max_connections),
            memory_short: AtomicBool::new(false),
            alarm: Alarm::default(),
        }
    }

    /// Threads of the workers that run (gettid(2)).
    pub fn workers(&self) -> impl Iterator<Item = i32> {
        self.desks.iter().filter_map(|desk| desk.pulse.thread())
    }

    /// Sessions over all workers.
    pub fn sessions(&self) -> u32 {
        self.desks.iter().map(|desk| desk.sessions.load(Ordering::Relaxed)).sum()
    }

    /// Puts a letter into a worker's box and wakes it. Never blocks.
    ///
    /// # Errors
    /// Gives the letter back when the box is full.
    pub fn post(&self, worker: usize, mail: Mail, bell: &mut impl Bell) -> Result<(), Mail> {
        let desk = &self.desks[worker];
        match desk.letters_in.try_send(mail) {
            Ok(()) => {}
            Err(TrySendError::Full(mail) | TrySendError::Disconnected(mail)) => return Err(mail),
        }
        desk.ring(bell);
        Ok(())
    }

    /// Hands a connection over to a worker whose hatch its socket has gone through, and wakes it. Ask before that whether
    /// there is room ([`Commons::takes_newcomers`]).
    pub fn hand_over(&self, worker: usize, newcomer: Newcomer, bell: &mut impl Bell) {
        let refused = self.desks[worker].newcomers.push(newcomer).is_err();
        debug_assert!(!refused, "each worker asks before it adds one, and room is left for one of each");
        self.desks[worker].ring(bell);
    }

    /// Whether a worker has room for one more newcomer of each of the others.
    pub fn takes_newcomers(&self, worker: usize) -> bool {
        let newcomers = &self.desks[worker].newcomers;
        newcomers.len() + self.desks.len() < newcomers.capacity()
    }

    /// Has a worker look whether there is room for the sessions that wait there in a line. Unlike a letter it always arrives:
    /// called twice is called once.
    pub fn call(&self, worker: usize, line: &Line, bell: &mut impl Bell) {
        line.call(worker);
        self.desks[worker].called.store(true, Ordering::SeqCst);
        self.desks[worker].ring(bell);
    }

    /// Calls the worker whose first has waited longest for a pool: it may have more room than before, and no session has
    /// made it. What that worker leaves it passes on, so that others who wait are called in their turn.
    pub fn call_waiting(&self, pool: &PoolLedger, bell: &mut impl Bell) {
        // What has changed is seen by those who join from here on; who has joined before is seen here.
        fence(Ordering::SeqCst);
        for lane in pool.line.waited_in() {
            let line = pool.line.of(lane);
            let oldest = line.oldest();
            for (worker, since_ns) in line.since_ns().enumerate() {
                // Calls for those who have tried a server are not passed on.
                if since_ns > 0 && (lane.again || oldest == Some(worker)) {
                    self.call(worker, line, bell);
                }
            }
        }
    }
}

impl Desk {
    fn new() -> Self {
        let (letters_in, letters_out) = bounded(MAIL_MAX);
        Self {
            letters_in,
            letters_out,
            newcomers: ArrayQueue::new(NEWCOMERS_MAX),
            rung: AtomicBool::new(false),
            called: AtomicBool::new(false),
            wake_fd: AtomicI32::new(-1),
            hatch_fd: AtomicI32::new(-1),
            lines: OnceLock::new(),
            sessions: AtomicU32::new(0),
            doors: AtomicUsize::new(0),
            leaving: AtomicBool::new(false),
            turns: AtomicU64::new(0),
            pulse: Pulse::default(),
            records: ArrayQueue::new(rehearsal::limit("records", RECORDS_MAX)),
            notes: ArrayQueue::new(NOTES_MAX),
            tally: WorkerTally::default(),
        }
    }

    /// Keeps what this worker is reached by, and opens. Called once.
    pub fn connect(&self, lines: Lines) {
        let hatch = lines.hatch.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let target = lines.target;
        let first = self.lines.set(lines).is_ok();
        debug_assert!(first, "a desk has one worker");
        self.open(target, Hatch(hatch));
    }

    /// Says how this worker is woken, and where sockets are passed to it. Called once, before anyone may write to it.
    pub fn open(&self, target: WakeTarget, hatch: Hatch) {
        self.hatch_fd.store(hatch.0, Ordering::Release);
        self.wake_fd.store(target.0, Ordering::Release);
    }

    /// Where sockets are passed to this worker.
    pub fn hatch(&self) -> Hatch {
        Hatch(self.hatch_fd.load(Ordering::Acquire))
    }

    /// The descriptors it is reached by.
    pub fn descriptors(&self) -> [RawFd; 2] {
        [self.wake_fd.load(Ordering::Acquire), self.hatch().0]
    }

    /// Wakes the worker, unless somebody has and it has not come since.
    fn ring(&self, bell: &mut impl Bell) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            bell.ring(WakeTarget(self.wake_fd.load(Ordering::Acquire)));
        }
    }

    /// Whether it has been called to any line since it last asked. Ask after [`Desk::hush`], and then the lines.
    #[inline]
    pub fn take_call(&self) -> bool {
        self.called.load(Ordering::SeqCst) && self.called.swap(false, Ordering::SeqCst)
    }

    /// Lets the next letter ring again. The worker calls it before it empties the box, so that no letter is missed.
    #[inline]
    pub fn hush(&self) {
        if self.rung.load(Ordering::Relaxed) {
            self.rung.store(false, Ordering::SeqCst);
        }
    }

    /// Whether somebody has rung and the worker has not come since.
    pub fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Relaxed)
    }

    /// The next connection that was handed over.
    #[inline]
    pub fn take_newcomer(&self) -> Option<Newcomer> {
        self.newcomers.pop()
    }

    /// The next letter.
    #[inline]
    pub fn take(&self) -> Option<Mail> {
        self.letters_out.try_recv().ok()
    }
}

/// `CLOCK_MONOTONIC` now, in nanoseconds: the clock of every time in a [`Record`].
pub fn monotonic_ns() -> u64 {
    let now =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists on every Linux");
    u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX)
}
