//! Faults of ringway itself: a worker that hangs, a thread that panics. Half a balancer is worse than none, so the process
//! ends and says where it was; its supervisor starts it again.
//!
//! The faults are ordered by `RINGWAY_REHEARSE`, which only debug builds know.

use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::harness::facts::await_some;
use crate::harness::ground::Ground;
use crate::harness::peers::{Server, connect, exchange};
use crate::harness::ringway::{Ringway, Setup, one_pool};

/// What all its files and streams have, once it has ended by SIGABRT.
fn last_words(ringway: &mut Ringway) -> String {
    let status = ringway.wait();
    let said = ringway.events().join("\n");
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status}\n{said}");
    said
}

/// T23: a hung worker is reported while the process lives, and after 5 s the process ends with the backtrace of the
/// culprit. Then the addresses are free for the next one.
#[test]
fn t23_a_stuck_worker() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let config = one_pool(front, &[server.address()], "");
    let mut ringway = Setup::on(&ground).rehearsing("hang=2").start(&config);

    // Of three sessions on two workers one worker has two, and hangs.
    let began = Instant::now();
    let held = [connect(front), connect(front), connect(front)];
    let report = await_some("a report", || {
        let events = ringway.events();
        events.into_iter().find(|event| event.contains("\"event\":\"stuck\""))
    });
    // It was written while the process lived: what ends it leaves no time for the log.
    assert!(report.contains("worker "), "{report}");
    assert_eq!(ringway.metric("ringway_watchdog_stalls_total", &[]), 1.0);

    let said = last_words(&mut ringway);
    assert!(began.elapsed().as_secs() >= 4, "{:?} until the end", began.elapsed());
    assert!(said.contains("has been stuck for 5 s"), "{said}");
    // Who gets no core for half a second cannot say where it is; hardly both times.
    let in_vain = |text: &str| text.contains("it does not answer");
    assert!(report.contains("hang_on_order") || in_vain(&report), "{report}");
    let told = said.lines().any(|line| line.starts_with("    ") && line.contains("hang_on_order"));
    assert!(told || in_vain(&said) && !in_vain(&report), "{said}");
    drop(held);

    let next = Ringway::start(&ground, &config);
    exchange(&mut connect(front), b"x").expect("the next one serves");
    next.end_well();
}

/// T24: a panic on a worker ends the whole process at once, with message and backtrace.
#[test]
fn t24_a_panic() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let config = one_pool(front, &[server.address()], "");
    let mut ringway = Setup::on(&ground).rehearsing("panic=2").start(&config);
    let held = [connect(front), connect(front), connect(front)];
    let said = last_words(&mut ringway);
    assert!(said.contains("panicked at src/base/rehearsal.rs") && said.contains("a panic on order"), "{said}");
    assert!(said.contains("thread ringway-w"), "{said}");
    assert!(said.contains("rehearsal::sessions_opened"), "no backtrace: {said}");
    drop(held);

    let next = Ringway::start(&ground, &config);
    exchange(&mut connect(front), b"x").expect("the next one serves");
    next.end_well();
}
