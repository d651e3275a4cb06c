//! What every fault must leave behind: nothing. A test takes a [`Baseline`] before it does harm, and ends with
//! [`Baseline::holds_again`].

use std::time::{Duration, Instant};

use ringway::base::limits::RECORDS_MAX;
use ringway::dataplane::record::Record;

use super::facts::{PATIENCE, await_that, cpu_of, status_of};
use super::ringway::Ringway;

/// Memory that may stay: buffers and slots kept for the next session.
const KEPT_KIB_MAX: u64 = 5 * 1024;
/// The names of this program, built as tests build it, take two thirds of this.
const NAMES_KIB: u64 = 64 * 1024;
/// Share of one core that a daemon with nothing to do may use.
const IDLE_CPU_MAX: f64 = 0.02;
/// How long it is watched at a time.
const WINDOW: Duration = Duration::from_millis(300);

/// A daemon as it was before.
#[derive(Clone, Copy, Debug)]
pub struct Baseline {
    memory_kib: u64,
}

impl Baseline {
    /// The daemon now, with no session open.
    pub fn of(ringway: &Ringway) -> Self {
        Self { memory_kib: memory_kib(ringway) }
    }

    /// What must hold once the test has closed every connection: no session is left and everything accepted is accounted
    /// for, descriptors are back ([`Ringway::settles`]), nothing panicked, no error was logged, memory is back within
    /// [`KEPT_KIB_MAX`], and the daemon sleeps.
    pub fn holds_again(&self, ringway: &mut Ringway) {
        self.holds_again_but_for(ringway, &[]);
    }

    /// The same where the test provoked errors, by the names of their events.
    pub fn holds_again_but_for(&self, ringway: &mut Ringway, provoked: &[&str]) {
        ringway.settles();
        for event in ringway.events().iter().filter(|event| event.contains("\"level\":\"error\"")) {
            assert!(provoked.iter().any(|name| event.contains(&format!("\"event\":\"{name}\""))), "{event}");
        }
        let most = self.memory_kib + KEPT_KIB_MAX + queued_kib(ringway) + named_kib(ringway);
        let deadline = Instant::now() + PATIENCE;
        while memory_kib(ringway) > most && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let (now, before) = (memory_kib(ringway), self.memory_kib);
        assert!(now <= most, "{now} KiB of memory, {before} before:\n{}", largest_mappings(ringway.pid()));
        await_that("the daemon to sleep", || idle_cpu(ringway.pid()) < IDLE_CPU_MAX);
    }
}

/// Memory that names take, which the standard library keeps once it has looked some up: for the report of a thread that was
/// kept from its work, as a busy machine may keep it.
fn named_kib(ringway: &Ringway) -> u64 {
    if ringway.metric("ringway_watchdog_stalls_total", &[]) > 0.0 { NAMES_KIB } else { 0 }
}

/// Memory of the queues of records that sessions have been written to: they are there from the start, but a page of them
/// only counts once it has been used.
fn queued_kib(ringway: &Ringway) -> u64 {
    let metrics = ringway.metrics();
    let room = metrics.by("ringway_worker_sessions", "worker").len() * RECORDS_MAX;
    let written = metrics.sum("ringway_sessions_ended_total", &[]);
    (room as u64).min(written as u64) * size_of::<Record>() as u64 / 1024
}

/// Memory of its own. The pages of its file do not count: the kernel reads them as they are needed, and takes them away.
fn memory_kib(ringway: &Ringway) -> u64 {
    status_of(ringway.pid(), "RssAnon")
}

/// Where the memory is: the mappings with most of it, from `/proc/PID/smaps`.
fn largest_mappings(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let (mut mappings, mut name) = (Vec::new(), "");
    for line in text.lines() {
        match line.split_once(':') {
            Some(("Anonymous", kib)) => {
                let kib: u64 = kib.trim_matches([' ', 'k', 'B']).parse().unwrap_or(0);
                mappings.push((kib, name));
            }
            // The first line of a mapping begins with its addresses.
            Some((key, _)) if key.contains('-') => name = line,
            _ => {}
        }
    }
    mappings.sort_unstable_by_key(|&(kib, _)| std::cmp::Reverse(kib));
    mappings.iter().take(8).map(|(kib, name)| format!("{kib:>8} KiB  {name}\n")).collect()
}

/// The share of one core that a process uses while nobody asks it for anything.
fn idle_cpu(pid: u32) -> f64 {
    let (began, before) = (Instant::now(), cpu_of(pid));
    std::thread::sleep(WINDOW);
    (cpu_of(pid) - before).as_secs_f64() / began.elapsed().as_secs_f64()
}
