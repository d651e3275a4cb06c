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
use crate::sys::{stack, stderr};

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
                match suspicion.look(pulse.due_ns(), called, now, step, patience, || share_of(thread)) {
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
    /// What it had had of the cores, at the last look.
    share: Share,
    reported: bool,
}

/// What a thread has had of the cores, in all its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    /// How long it ran.
    ran_ns: u64,
    /// How long it waited for a core, without the wait that lasts: the kernel adds that when it is over.
    waited_ns: u64,
    /// It runs, or waits for a core.
    ready: bool,
}

impl Share {
    /// How much of the last step it waited for a core.
    fn starved_ns(self, before: Self, step_ns: u64) -> u64 {
        let waits_still = self.ready && self.ran_ns == before.ran_ns;
        if waits_still { step_ns } else { self.waited_ns.saturating_sub(before.waited_ns) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    Report,
    End,
}

impl Suspicion {
    /// One look, `step_ns` after the one before. `called`: somebody has rung, and it has not come.
    fn look(
        &mut self,
        due_ns: u64,
        called: bool,
        now_ns: u64,
        step_ns: u64,
        patience: Patience,
        share: impl Fn() -> Share,
    ) -> Verdict {
        if due_ns >= now_ns && !called {
            *self = Self::default();
            return Verdict::Fine;
        }
        let share = share();
        if self.broken_ns != Some(due_ns) {
            *self = Self { broken_ns: Some(due_ns), share, ..Self::default() };
            return Verdict::Fine;
        }
        let starved_ns = share.starved_ns(self.share, step_ns);
        self.share = share;
        self.stuck_ns += step_ns.saturating_sub(starved_ns);
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

/// What a thread has had (`/proc/PID/task/TID/schedstat`, sched-stats.rst; its state in `stat`, proc_pid_stat(5)); nothing
/// where the kernel does not say.
fn share_of(thread: i32) -> Share {
    let mut text = [0; 512];
    let mut read = |name: &str, find: &dyn Fn(&str) -> Option<Share>| {
        let file = File::open(format!("/proc/self/task/{thread}/{name}"));
        let length = file.and_then(|file| file.read_at(&mut text, 0)).unwrap_or(0);
        find(std::str::from_utf8(&text[..length]).unwrap_or_default()).unwrap_or_default()
    };
    // The name stands in parentheses, and may hold some itself.
    let state = read("stat", &|text| {
        let ready = text.rsplit_once(") ")?.1.starts_with('R');
        Some(Share { ready, ..Share::default() })
    });
    read("schedstat", &|text| {
        let mut words = text.split(' ').map(str::parse);
        let (ran_ns, waited_ns) = (words.next()?.ok()?, words.next()?.ok()?);
        Some(Share { ran_ns, waited_ns, ..state })
    })
}

/// Says where a suspect is, in the log. Should that get stuck itself (on a lock the suspect holds, say), the process ends.
fn report(log: &Log, name: &str, thread: i32, patience: Patience) {
    stack::abort_within(REPORT_S);
    let frames = stack::capture(thread);
    let place = frames.map_or_else(|| "it does not answer".to_owned(), |frames| stack::names(&frames).join(" < "));
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
    stderr::say(&format!(
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
        stderr::say(&format!("ringway: thread {} {panic}\n{trace}\n", thread.name().unwrap_or("?")));
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
            let share = Share { waited_ns: waited, ..Share::default() };
            match suspicion.look(due, called, now, STEP, WORKER, || share) {
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
        let look = |look: u64| suspicion.look(1, false, look * STEP, STEP, CONDUCTOR, Share::default);
        let told: Vec<Verdict> = (1..=2_000).map(look).filter(|&verdict| verdict != Verdict::Fine).collect();
        assert_eq!(told, [Verdict::Report]);
    }

    #[test]
    fn whoever_has_no_core_is_not_stuck() {
        assert_eq!(looks(200, |look, _| (1, false, look * STEP)), []);
        let told = looks(101, |look, _| (1, false, look * STEP / 2));
        assert_eq!(told, [(5, Verdict::Report), (101, Verdict::End)], "half the time");
    }

    /// The kernel adds a wait to the sum when it is over, so one that lasts shows only in what the thread does not run.
    #[test]
    fn whoever_waits_for_a_core_right_now_is_not_stuck() {
        let told = |share: fn(u64) -> Share| {
            let mut suspicion = Suspicion::default();
            let look = |look: u64| suspicion.look(1, false, look * STEP, STEP, WORKER, || share(look));
            (1..=51).map(look).filter(|&verdict| verdict != Verdict::Fine).collect::<Vec<_>>()
        };
        assert_eq!(told(|_| Share { ran_ns: 7, waited_ns: 0, ready: true }), [], "no core for five seconds");
        let spins = told(|look| Share { ran_ns: look * STEP, waited_ns: 0, ready: true });
        assert_eq!(spins, [Verdict::Report, Verdict::End]);
        let sleeps = told(|_| Share { ran_ns: 7, waited_ns: 0, ready: false });
        assert_eq!(sleeps, [Verdict::Report, Verdict::End]);
    }

    #[test]
    fn the_kernel_says_what_a_thread_has_had() {
        assert_eq!(share_of(0), Share::default());
        let ours = || share_of(nix::unistd::gettid().as_raw());
        assert!(ours().ready, "{:?}", ours());
        // The kernel adds up at its ticks: so busy a thread has had something after a few.
        assert!((0..1_000_000).any(|_| ours().ran_ns > 0), "{:?}", ours());
    }
}
