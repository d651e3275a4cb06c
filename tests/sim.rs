//! The whole shard on a simulated kernel: two workers, clients and servers with bad habits, virtual time, many seeds.
//!
//! Nothing of ringway is replaced but the kernel below it and the loop around it (`sim/run.rs` has the loop of
//! `dataplane::worker`, with the waiting done by a scheduler). A seed decides everything, so a failure repeats:
//!
//! ```text
//! cargo test --test sim                             1000 seeds
//! SIM_SEEDS=20000 cargo test --test sim             more of them; scripts/sim does it with a release build
//! SIM_SEED=123 cargo test --test sim -- --nocapture one in each world, with its traces
//! scripts/sim mutants                               mistakes made on purpose (sim/mutants.toml): each must be found
//! ```
//!
//! That the simulated kernel behaves like a real one is held by `tests/conform.rs`.
//!
//! Files: `world` (sockets, queues, pipes, what will happen when) · `socket` (a TCP connection's corners) · `peer` (the far
//! ends) · `greeting` (what a MySQL server says first) · `header` (what a server is told first) · `flight` (requests and their
//! events) · `kernel` (the trait) · `hatch` (how sockets come to a worker) · `scene` (configurations) · `faults` (what goes wrong
//! in a run) · `oracle` (what must hold), `waiting` (the same of queues), `roles` (of MySQL servers that have roles), `books`
//! (what is counted) · `run` (the loop and the life of a run).
//!
//! A seed that found something becomes a test of its own at the end of this file.

#[path = "sim/books.rs"]
mod books;
#[path = "sim/faults.rs"]
mod faults;
#[path = "sim/flight.rs"]
mod flight;
#[path = "sim/greeting.rs"]
mod greeting;
#[path = "sim/hatch.rs"]
mod hatch;
#[path = "sim/header.rs"]
mod header;
#[path = "sim/kernel.rs"]
mod kernel;
#[path = "sim/oracle.rs"]
mod oracle;
#[path = "sim/peer.rs"]
mod peer;
#[path = "sim/rng.rs"]
mod rng;
#[path = "sim/roles.rs"]
mod roles;
#[path = "sim/run.rs"]
mod run;
#[path = "sim/scene.rs"]
mod scene;
#[path = "sim/socket.rs"]
mod socket;
#[path = "sim/stream.rs"]
mod stream;
#[path = "sim/waiting.rs"]
mod waiting;
#[path = "sim/world.rs"]
mod world;

use std::cell::RefCell;
use std::env;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Once;
use std::time::Instant;

use ringway::dataplane::ending::Ending;

use run::{Kind, Seen, run};
use world::Trace;

const SEEDS: u64 = 1_000;
/// Of the world with roles.
const SEEDS_WITH_ROLES: u64 = 500;
/// Lines of a trace that a failure shows.
const TAIL: usize = 120;

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

thread_local! {
    /// What the last panic on this thread said, while a seed runs.
    static LAST_WORDS: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs a seed; the error is what was wrong.
fn attempt(kind: Kind, seed: u64, trace: &Trace) -> Result<Seen, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            LAST_WORDS.with_borrow_mut(|words| match words {
                Some(words) => *words = info.to_string(),
                None => usual(info),
            });
        }));
    });
    LAST_WORDS.set(Some(String::new()));
    let result = catch_unwind(AssertUnwindSafe(|| run(kind, seed, trace)));
    let words = LAST_WORDS.take().unwrap_or_default();
    result.map_err(|_| words)
}

/// Runs a seed and tells it; fails if it does.
fn tell(kind: Kind, seed: u64, tail: usize) {
    let lines = Rc::new(RefCell::new(Vec::new()));
    let result = attempt(kind, seed, &Trace(Some(Rc::clone(&lines))));
    let lines = lines.borrow();
    if result.is_err() || tail == usize::MAX {
        for line in &lines[lines.len().saturating_sub(tail)..] {
            println!("{line}");
        }
    }
    if let Err(words) = result {
        panic!("seed {seed}: {words}\n({kind:?}) All of it: SIM_SEED={seed} cargo test --test sim -- --nocapture");
    }
}

/// Runs the seeds that are asked for; what they have seen, if it is enough of them to have seen everything.
fn live(kind: Kind, usual: u64) -> Option<Seen> {
    if let Some(seed) = number("SIM_SEED") {
        tell(kind, seed, usize::MAX);
        return None;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(usual);
    let first = number("SIM_FIRST").unwrap_or(0);
    let began = Instant::now();
    let mut seen = Seen::new();
    for seed in first..first + seeds {
        match attempt(kind, seed, &Trace::default()) {
            Ok(run) => run.into_iter().for_each(|(what, count)| *seen.entry(what).or_default() += count),
            Err(_) => tell(kind, seed, TAIL),
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{kind:?}: {seeds} seeds in {seconds:.1} s, {:.0} a second; seen:", seeds as f64 / seconds);
    for (what, count) in &seen {
        println!("{count:>10} {what}");
    }
    (seeds >= usual).then_some(seen)
}

// A simulator that sees little holds little.

#[test]
fn what_holds_holds_whatever_happens() {
    let Some(seen) = live(Kind::Plain, SEEDS) else { return };
    for ending in Ending::ALL {
        assert!(ending == Ending::Internal || seen.contains_key(ending.reason()), "no session ended as {ending:?}");
    }
    for what in run::RARE {
        assert!(seen.contains_key(what), "never seen: {what}");
    }
}

#[test]
fn what_holds_holds_with_roles() {
    let Some(seen) = live(Kind::Roles, SEEDS_WITH_ROLES) else { return };
    for ending in [Ending::RoleLost, Ending::ServerDown, Ending::NoServer, Ending::QueueTimeout] {
        assert!(seen.contains_key(ending.reason()), "no session ended as {ending:?}");
    }
    for what in roles::RARE {
        assert!(seen.contains_key(what), "never seen: {what}");
    }
}

/// The same seed twice, and the same story.
#[test]
fn a_seed_repeats() {
    let story = || {
        let lines = Rc::new(RefCell::new(Vec::new()));
        let told = attempt(Kind::Plain, 3, &Trace(Some(Rc::clone(&lines))));
        assert!(told.is_ok(), "{told:?}");
        lines.take()
    };
    let (first, second) = (story(), story());
    assert!(first.len() > 100, "{} lines", first.len());
    assert_eq!(first, second);
}

// Seeds that found something. A seed means what its test says as long as the simulator draws as it did then; when it draws
// anew, the mutant that is this mistake finds another (`sim/mutants.toml`).

#[test]
fn seed_1530_a_closed_client_was_asked_what_it_had_not_taken() {
    tell(Kind::Roles, 1530, TAIL);
}

#[test]
fn seed_34_a_reset_server_was_passed_on_as_a_fin() {
    tell(Kind::Plain, 34, TAIL);
}

#[test]
fn seed_258_a_connection_was_handed_to_a_worker_that_had_left() {
    tell(Kind::Plain, 258, TAIL);
}

#[test]
fn seed_42_a_reset_behind_a_fin_was_missed_at_the_budget() {
    tell(Kind::Plain, 42, TAIL);
}

#[test]
fn seed_15196_two_workers_called_each_other_without_end() {
    tell(Kind::Roles, 15196, TAIL);
}

#[test]
fn seed_26292_a_call_did_not_reach_those_who_went_by_an_older_plan() {
    tell(Kind::Roles, 26292, TAIL);
}

#[test]
fn seed_15716_whoever_waited_behind_an_older_plan_was_not_served_in_time() {
    tell(Kind::Plain, 15716, TAIL);
}
