//! The event loop that every generator thread and every test server thread turns.
//!
//! One mio poll a thread, edge-triggered: a socket is registered once, for reading only, and asks for writability the
//! first time a send finds it full. What a thread does with the events is its [`Drill`].

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use socket2::Socket;

use super::socket::Scratch;
use super::tally::Tally;

/// How many events one wait returns at most.
const EVENTS_MAX: usize = 1024;
/// How often late operations are looked for, in nanoseconds.
const SWEEP_NS: u64 = 100_000_000;
/// Waits this long or longer do not need the precise timer, in nanoseconds.
const COARSE_NS: u64 = 200_000_000;
/// The events of the two below concern no socket.
const WAKE: Token = Token(usize::MAX);
const ALARM: Token = Token(usize::MAX - 1);

/// What an event says about a socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ready {
    /// There is something to read, be it the end or an error.
    pub readable: bool,
    /// The end has come, so that a short read is not yet the last.
    pub closed: bool,
    /// There is room to write, or an error to collect.
    pub writable: bool,
}

/// When a drill wants to be called again, events aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At once: work is left over.
    Now,
    /// At this time, in nanoseconds; precisely.
    At(u64),
    /// Only for events, and now and then to look for late operations.
    Whenever,
    /// Never: all is done.
    Finished,
}

/// What a thread does.
pub trait Drill {
    /// The socket registered as `slot` is ready.
    ///
    /// # Errors
    ///
    /// Only what makes the whole run pointless.
    fn ready(&mut self, slot: usize, ready: Ready, gear: &mut Gear) -> io::Result<()>;

    /// All events of a round are handled: starts what is due.
    ///
    /// # Errors
    ///
    /// Only what makes the whole run pointless.
    fn advance(&mut self, now_ns: u64, gear: &mut Gear) -> io::Result<Next>;

    /// Called every 100 ms: gives up on what is late.
    fn sweep(&mut self, now_ns: u64, gear: &mut Gear);

    /// The user wants the run to end: starts nothing more.
    fn stop(&mut self, now_ns: u64);
}

/// Nanoseconds since the thread's gear was built.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// The time.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// Live figures of one thread, for the progress line.
#[derive(Debug, Default)]
pub struct Gauge {
    /// Operations that succeeded.
    pub ops: AtomicU64,
    /// Operations that failed.
    pub faults: AtomicU64,
    /// Bytes received.
    pub bytes_in: AtomicU64,
    /// Bytes sent.
    pub bytes_out: AtomicU64,
    /// Connections open.
    pub open: AtomicU64,
}

impl Gauge {
    fn show(&self, tally: &Tally) {
        self.ops.store(tally.ops, Ordering::Relaxed);
        self.faults.store(tally.faults(), Ordering::Relaxed);
        self.bytes_in.store(tally.bytes_in, Ordering::Relaxed);
        self.bytes_out.store(tally.bytes_out, Ordering::Relaxed);
        self.open.store(tally.open, Ordering::Relaxed);
    }
}

/// What every drill needs, one a thread.
pub struct Gear {
    /// The thread's clock.
    pub clock: Clock,
    /// The thread's read buffers.
    pub scratch: Scratch,
    /// What it has counted.
    pub tally: Tally,
    poll: Poll,
    registry: Registry,
    waker: Arc<Waker>,
    alarm: TimerFd,
    alarm_at_ns: u64,
    gauge: Arc<Gauge>,
    start: Option<(u64, u64)>,
}

impl Gear {
    /// A loop with nothing registered.
    ///
    /// # Errors
    ///
    /// When the kernel gives no epoll, eventfd or timerfd.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = Arc::new(Waker::new(&registry, WAKE)?);
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let alarm = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let alarm_fd = alarm.as_fd().as_raw_fd();
        // Edge-triggered, so an expired timer needs no read: arming it again clears it.
        registry.register(&mut SourceFd(&alarm_fd), ALARM, Interest::READABLE)?;
        Ok(Self {
            clock: Clock(Instant::now()),
            scratch: Scratch::default(),
            tally: Tally::default(),
            poll,
            registry,
            waker,
            alarm,
            alarm_at_ns: 0,
            gauge: Arc::default(),
            start: None,
        })
    }

    /// Wakes the loop from another thread.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// The live figures.
    pub fn gauge(&self) -> Arc<Gauge> {
        Arc::clone(&self.gauge)
    }

    /// Reports events of `socket` as `slot`, from now on until it is closed.
    ///
    /// # Errors
    ///
    /// When epoll does not take it.
    pub fn watch(&self, socket: &Socket, slot: usize, writable: bool) -> io::Result<()> {
        let fd = socket.as_raw_fd();
        self.registry.register(&mut SourceFd(&fd), Token(slot), interest(writable))
    }

    /// Reports writability too, from now on.
    ///
    /// # Errors
    ///
    /// When epoll does not take it.
    pub fn watch_writable(&self, socket: &Socket, slot: usize) -> io::Result<()> {
        let fd = socket.as_raw_fd();
        self.registry.reregister(&mut SourceFd(&fd), Token(slot), interest(true))
    }

    /// Measures from here: what came before was preparation.
    pub fn start(&mut self) {
        self.start = Some((self.clock.now_ns(), cpu_ns()));
    }

    /// Turns until `drill` has finished. With `stop` set (and the waker called) it is asked to come to an end.
    ///
    /// # Errors
    ///
    /// What the drill or epoll could not go on with.
    pub fn turn(mut self, drill: &mut impl Drill, stop: &AtomicBool) -> io::Result<Tally> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut next_sweep_ns = self.clock.now_ns() + SWEEP_NS;
        let mut stopping = false;
        loop {
            let now_ns = self.clock.now_ns();
            if stop.load(Ordering::Relaxed) && !stopping {
                stopping = true;
                drill.stop(now_ns);
            }
            if now_ns >= next_sweep_ns {
                drill.sweep(now_ns, &mut self);
                next_sweep_ns = now_ns + SWEEP_NS;
            }
            let next = drill.advance(now_ns, &mut self)?;
            self.gauge.show(&self.tally);
            if next == Next::Finished {
                break;
            }
            let wait = self.arm(next)?;
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                if event.token().0 >= ALARM.0 {
                    continue;
                }
                let failed = event.is_error();
                let ready = Ready {
                    readable: event.is_readable() || event.is_read_closed() || failed,
                    closed: event.is_read_closed() || failed,
                    writable: event.is_writable() || failed,
                };
                drill.ready(event.token().0, ready, &mut self)?;
            }
        }
        let (wall_ns, own_ns) = self.start.unwrap_or((self.clock.now_ns(), cpu_ns()));
        self.tally.elapsed_ns = self.clock.now_ns() - wall_ns;
        self.tally.cpu_ns = cpu_ns().saturating_sub(own_ns);
        Ok(self.tally)
    }

    /// How long to wait; sets the precise timer when that is needed (epoll_wait(2) knows only milliseconds).
    fn arm(&mut self, next: Next) -> io::Result<Duration> {
        let at_ns = match next {
            Next::Now | Next::Finished => return Ok(Duration::ZERO),
            Next::Whenever => return Ok(Duration::from_nanos(SWEEP_NS)),
            Next::At(at_ns) => at_ns,
        };
        let left_ns = at_ns.saturating_sub(self.clock.now_ns());
        if left_ns == 0 {
            return Ok(Duration::ZERO);
        }
        if left_ns < COARSE_NS && self.alarm_at_ns != at_ns {
            self.alarm_at_ns = at_ns;
            self.alarm.set(Expiration::OneShot(TimeSpec::nanoseconds(left_ns as i64)), TimerSetTimeFlags::empty())?;
        }
        Ok(Duration::from_nanos(SWEEP_NS))
    }
}

fn interest(writable: bool) -> Interest {
    match writable {
        true => Interest::READABLE | Interest::WRITABLE,
        false => Interest::READABLE,
    }
}

/// Processor time this thread has used, in nanoseconds.
fn cpu_ns() -> u64 {
    match nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID.now() {
        Ok(time) => time.num_nanoseconds().max(0) as u64,
        Err(_) => 0,
    }
}
