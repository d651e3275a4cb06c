//! The watchdog: a thread that does nothing but look whether the others get on.
//!
//! ```text
//! every 100 ms, for each worker and the conductor:
//!   it keeps its promise ([`Pulse`]) ──────────────────▶ fine
//!   it is overdue, and so it was last time ──▶ suspect ─┬─ 0.2 s (the conductor: 30 s) ──▶ reported once, with its stack
//!                                                      └─ a worker, 5 s ──▶ told to standard error, abort
//! ```
//!
//! What counts is time in which the watchdog itself ran and the suspect had a core: a process that was stopped, a machine
//! that slept, or a core somebody else keeps busy make nobody a suspect. The end is SIGABRT, because a balancer that
//! serves with some of its workers only is worse than one that its supervisor starts again. A conductor that is stuck, on a
//! dead file system say, costs no session: it is reported, and left to the supervisor, which hears nothing of it any more.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use crate::base::pulse::Pulse;
use crate::dataplane::commons::{Commons, monotonic_ns};
use crate::observe::event::Event;
use crate::observe::writer::Log;
use crate::sys::stack;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);
/// Most time one look adds to a suspicion: when the watchdog itself did not run, nobody else may have either.
const STEP_NS_MAX: u64 = 2 * LOOK.as_nanos() as u64;
/// What a worker may take: clients notice by then, and no turn of its loop takes this long.
const WORKER: Patience = Patience { report_ns: 200_000_000, end_ns: Some(5_000_000_000) };
/// What the conductor may take, which compiles configurations and moves no bytes.
const CONDUCTOR: Patience = Patience { report_ns: 30_000_000_000, end_ns: None };
/// How long a report may take, in seconds, before it is taken for stuck on what the suspect holds: looking names up in a
/// large program on a busy machine takes its time.
const REPORT_S: u32 = 30;
/// How long last words may take, in seconds.
const LAST_WORDS_S: u32 = 10;

/// How long a thread may be overdue.
#[derive(Clone, Copy, Debug)]
struct Patience {
    report_ns: u64,
    /// `None`: as long as it likes.
    end_ns: Option<u64>,
}

/// Starts the watchdog over all workers and the conductor. It lives as long as the process.
///
/// # Errors
/// The thread or the handler of its signal could not be had.
pub(super) fn start(commons: Arc<Commons>, conductor: Arc<Pulse>, log: Log) -> io::Result<()> {
    stack::arm()?;
    let mut watched: Vec<Suspicion> = (0..=commons.desks.len()).map(|_| Suspicion::default()).collect();
    std::thread::Builder::new().name("ringway-watch".into()).spawn(move || {
        let _ = stack::block_signals();
        let mut looked = monotonic_ns();
        loop {
            std::thread::sleep(LOOK);
            let now = monotonic_ns();
            let step = (now - looked).min(STEP_NS_MAX);
            looked = now;
            for (index, suspicion) in watched.iter_mut().enumerate() {
                let desk = commons.desks.get(index);
                let name = || desk.map_or_else(|| "the conductor".to_owned(), |_| format!("worker {index}"));
                let (pulse, called, patience) = match desk {
                    Some(desk) => (&desk.pulse, desk.is_rung(), WORKER),
                    None => (&*conductor, false, CONDUCTOR),
                };
                let Some(thread) = pulse.thread() else { continue };
                match suspicion.look(pulse.due_ns(), called, now, step, patience, || waited_ns(thread)) {
                    Verdict::Fine => {}
                    Verdict::Report => {
                        if let Some(desk) = desk {
                            desk.tally.stalls.bump();
                        }
                        report(&log, &name(), thread, patience);
                    }
                    Verdict::End => end(&name(), thread, suspicion.stuck_ns),
                }
            }
        }
    })?;
    Ok(())
}

/// What is known of one thread.
#[derive(Debug, Default)]
struct Suspicion {
    /// The promise that was broken when it was looked at last.
    broken_ns: Option<u64>,
    stuck_ns: u64,
    /// Time it had waited for a core, at the last look.
    waited_ns: u64,
    reported: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    Report,
    End,
}

impl Suspicion {
    /// One look, `step_ns` after the one before. `called`: somebody has rung, and it has not come. `waited_ns`: how long
    /// the thread has waited for a core in all its life.
    fn look(
        &mut self,
        due_ns: u64,
        called: bool,
        now_ns: u64,
        step_ns: u64,
        patience: Patience,
        waited_ns: impl Fn() -> u64,
    ) -> Verdict {
        if due_ns >= now_ns && !called {
            *self = Self::default();
            return Verdict::Fine;
        }
        let waited = waited_ns();
        if self.broken_ns != Some(due_ns) {
            *self = Self { broken_ns: Some(due_ns), waited_ns: waited, ..Self::default() };
            return Verdict::Fine;
        }
        let starved = waited.saturating_sub(self.waited_ns);
        self.waited_ns = waited;
        self.stuck_ns += step_ns.saturating_sub(starved);
        if patience.end_ns.is_some_and(|end_ns| self.stuck_ns >= end_ns) {
            return Verdict::End;
        }
        if self.stuck_ns >= patience.report_ns && !self.reported {
            self.reported = true;
            return Verdict::Report;
        }
        Verdict::Fine
    }
}

/// How long a thread has been ready to run without a core (`/proc/PID/task/TID/schedstat`, sched-stats.rst); 0 where the
/// kernel does not say.
fn waited_ns(thread: i32) -> u64 {
    let mut text = [0; 128];
    let read = File::open(format!("/proc/self/task/{thread}/schedstat")).and_then(|file| file.read_at(&mut text, 0));
    let text = std::str::from_utf8(&text[..read.unwrap_or(0)]).unwrap_or_default();
    text.split(' ').nth(1).and_then(|waited| waited.parse().ok()).unwrap_or(0)
}

/// Says where a suspect is, in the log. Should that get stuck itself (on a lock the suspect holds, say), the process ends.
fn report(log: &Log, name: &str, thread: i32, patience: Patience) {
    stack::abort_within(REPORT_S);
    let frames = stack::capture(thread).unwrap_or_default();
    let place = stack::names(&frames).join(" < ");
    let event = Event::warn("stuck", format!("{name} has not moved for {} ms", patience.report_ns / 1_000_000));
    log.say(event.with("thread", u64::try_from(thread).unwrap_or_default()).with("stack", place));
    stack::go_on();
}

/// Says where a stuck thread is, on standard error, and ends the process.
fn end(name: &str, thread: i32, stuck_ns: u64) -> ! {
    stack::abort_within(LAST_WORDS_S);
    let frames = stack::capture(thread);
    // First what needs no memory: the stuck thread may hold the lock of the allocator.
    stack::say_offsets(frames.as_deref().unwrap_or_default());
    let place = match &frames {
        Some(frames) => stack::names(frames).join("\n    "),
        None => "it does not answer; see /proc/PID/task/TID/stack and wchan of a thread in that state".to_owned(),
    };
    let seconds = stuck_ns / 1_000_000_000;
    stack::say(&format!(
        "ringway: {name} (thread {thread}) has been stuck for {seconds} s; ending, to be started again. It is at\n    {place}\n"
    ));
    std::process::abort();
}

/// Makes a panic on any thread the end of the process, with its backtrace on standard error, and nothing that can hold it
/// up: half a balancer is worse than none.
pub(super) fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        stack::abort_within(LAST_WORDS_S);
        let thread = std::thread::current();
        let trace = std::backtrace::Backtrace::force_capture();
        stack::say(&format!("ringway: thread {} {panic}\n{trace}\n", thread.name().unwrap_or("?")));
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = 100_000_000;

    /// Looks every 100 ms at a thread whose promise, bell and wait are given by the number of the look.
    fn looks(count: u64, see: impl Fn(u64, u64) -> (u64, bool, u64)) -> Vec<(u64, Verdict)> {
        let mut suspicion = Suspicion::default();
        let mut told = Vec::new();
        for look in 1..=count {
            let now = look * STEP;
            let (due, called, waited) = see(look, now);
            match suspicion.look(due, called, now, STEP, WORKER, || waited) {
                Verdict::Fine => {}
                verdict => told.push((look, verdict)),
            }
        }
        told
    }

    #[test]
    fn whoever_gets_on_is_fine() {
        assert_eq!(looks(200, |_, now| (now - 1, false, 0)), [], "working, each time on another turn");
        assert_eq!(looks(200, |_, _| (u64::MAX, false, 0)), [], "idle");
        assert_eq!(looks(200, |_, now| (now + 1, false, 0)), [], "waiting for a timer");
    }

    #[test]
    fn whoever_is_stuck_is_reported_once_and_ends() {
        let told = looks(51, |_, _| (50_000_000, false, 0));
        assert_eq!(told, [(3, Verdict::Report), (51, Verdict::End)]);
        let told = looks(51, |_, _| (u64::MAX, true, 0));
        assert_eq!(told, [(3, Verdict::Report), (51, Verdict::End)], "called, and it does not come");
    }

    #[test]
    fn one_that_recovers_starts_from_nothing() {
        let told = looks(99, |look, now| (if look < 50 { 1 } else { now + look % 2 }, false, 0));
        assert_eq!(told, [(3, Verdict::Report)]);
    }

    #[test]
    fn a_stuck_conductor_is_reported_and_left_alone() {
        let mut suspicion = Suspicion::default();
        let look = |look: u64| suspicion.look(1, false, look * STEP, STEP, CONDUCTOR, || 0);
        let told: Vec<Verdict> = (1..=2_000).map(look).filter(|&verdict| verdict != Verdict::Fine).collect();
        assert_eq!(told, [Verdict::Report]);
    }

    #[test]
    fn whoever_has_no_core_is_not_stuck() {
        assert_eq!(looks(200, |look, _| (1, false, look * STEP)), []);
        let told = looks(101, |look, _| (1, false, look * STEP / 2));
        assert_eq!(told, [(5, Verdict::Report), (101, Verdict::End)], "half the time");
    }

    #[test]
    fn the_kernel_says_how_long_a_thread_waited() {
        assert_eq!(waited_ns(0), 0);
        let _ = waited_ns(nix::unistd::gettid().as_raw());
    }
}
