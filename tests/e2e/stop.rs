//! Stopping: gracefully, at once, and the log that goes on.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::facts::{await_that, is_listening, lines_of, watch_for};
use crate::harness::ground::Ground;
use crate::harness::peers::{Server, ask, connect, end_of, exchange};
use crate::harness::ringway::{Ringway, Setup, one_pool};

/// Waits until the daemon takes no more connections.
fn await_closed_door(front: SocketAddr) {
    await_that("the listener to close", || !is_listening(front));
}

/// T29: no more is accepted, what is open goes on, and the end is clean.
fn drains_after(signal: Signal) {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let mut ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
    let mut client = connect(front);
    exchange(&mut client, b"before").expect("an echo");

    ringway.signal(signal);
    await_closed_door(front);
    watch_for(Duration::from_millis(500), || ringway.must_live());
    exchange(&mut client, b"during").expect("the session goes on");
    drop(client);
    let status = ringway.wait();
    assert!(status.success(), "{status}");
    assert_eq!(ringway.record("done")["bytes_in"], 12);
}

#[test]
fn term_lets_sessions_finish() {
    drains_after(Signal::SIGTERM);
}

#[test]
fn quit_lets_sessions_finish() {
    drains_after(Signal::SIGQUIT);
}

/// T29: whoever asks is told that it is on its way out.
#[test]
fn readiness_ends_with_the_drain() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
    let mut client = connect(front);
    exchange(&mut client, b"x").expect("an echo");
    assert_eq!(ringway.page("/readyz").0, 200);
    assert_eq!(ringway.page("/livez").0, 200);
    ringway.signal(Signal::SIGTERM);
    await_that("/readyz to say 503", || ringway.page("/readyz").0 == 503);
    assert_eq!(ringway.page("/livez").0, 200);
    assert_eq!(ringway.sessions(), 1.0);
}

/// T29: the rest is cut after `drain_timeout`.
#[test]
fn sessions_that_do_not_finish_are_ended_after_the_timeout() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let mut ringway = Setup::on(&ground).global("workers = 2\ndrain_timeout = \"1s\"").start(&one_pool(
        front,
        &[server.address()],
        "",
    ));
    let mut client = connect(front);
    exchange(&mut client, b"x").expect("an echo");
    ringway.signal(Signal::SIGTERM);
    assert_eq!(end_of(&mut client), Err(ErrorKind::ConnectionReset), "a cut is no clean end");
    let status = ringway.wait();
    assert!(status.success(), "{status}");
    assert_eq!(ringway.record("shutdown")["code"], "KD");
}

/// T29: a second signal does not wait for that.
#[test]
fn a_second_term_stops_now() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let mut ringway = Setup::on(&ground).global("workers = 2\ndrain_timeout = \"10m\"").start(&one_pool(
        front,
        &[server.address()],
        "",
    ));
    let mut client = connect(front);
    exchange(&mut client, b"x").expect("an echo");
    ringway.signal(Signal::SIGTERM);
    await_closed_door(front);
    ringway.must_live();
    ringway.signal(Signal::SIGTERM);
    let status = ringway.wait();
    assert!(status.success(), "{status}");
    assert_eq!(end_of(&mut client), Err(ErrorKind::ConnectionReset));
    assert_eq!(ringway.record("shutdown")["listener"], "front");
}

#[test]
fn int_stops_now() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let mut ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
    let mut client = connect(front);
    exchange(&mut client, b"x").expect("an echo");
    ringway.signal(Signal::SIGINT);
    let status = ringway.wait();
    assert!(status.success(), "{status}");
    drop(ringway.record("shutdown"));
}

#[test]
fn usr1_opens_the_log_anew() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
    let old = ground.file("rotated.log");
    let records = |file: &Path| {
        let lines = lines_of(file);
        lines.iter().filter(|line| line.contains("\"reason\":\"done\"")).count()
    };

    assert_eq!(ask(front), "a");
    await_that("the first record", || records(ringway.log()) == 1);
    fs::rename(ringway.log(), &old).expect("own directory");
    ringway.signal(Signal::SIGUSR1);
    await_that("a new log", || ringway.log().exists());
    assert_eq!(ask(front), "a");
    await_that("the second record", || records(ringway.log()) == 1);
    assert_eq!(records(&old), 1);
    ringway.end_well();
}

#[test]
fn an_address_in_use_is_said_at_start() {
    let ground = Ground::new();
    let taken = Server::echo(&ground);
    let (status, said) = Setup::on(&ground).start_in_vain(&one_pool(taken.address(), &[ground.address()], ""));
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&taken.address().to_string()), "{said}");
    assert!(said.to_lowercase().contains("in use"), "{said}");
}
