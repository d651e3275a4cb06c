//! The wall clock jumps, as after a long sleep of its machine or a mistake of its operator.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::ground::{Ground, command_succeeds, need};
use crate::harness::peers::{Server, connect, end_of, exchange};
use crate::harness::ringway::{Setup, listener, pool};

/// The library that stands between a program and the clock, which the command says where to find.
fn library() -> PathBuf {
    need("faketime");
    let preloaded =
        command_succeeds(std::process::Command::new("faketime").args(["-m", "-f", "+0d", "printenv", "LD_PRELOAD"]));
    PathBuf::from(preloaded.trim())
}

/// The day of a record: `2026-11-21`.
fn day(record: &Value) -> String {
    record["ts"].as_str().expect("a time").chars().take(10).collect()
}

/// T22: a day ahead, and a day back. Time stamps move; no timeout comes early, and none is missed.
#[test]
fn t22_wall_clock_jumps() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let clock = ground.file("clock");
    let jump = |to: &str| std::fs::write(&clock, to).expect("a file");
    jump("+0d");
    let (patient, hasty) = (ground.address(), ground.address());
    let servers = [format!("{{ name = \"s0\", address = \"{}\" }}", server.address())];
    let config = listener("patient", &patient.to_string(), "patient")
        + &pool("patient", &servers, "idle_timeout = \"1h\"")
        + &listener("hasty", &hasty.to_string(), "hasty")
        + &pool("hasty", &servers, "idle_timeout = \"300ms\"");
    let environment = |library: &Path| {
        [
            format!("LD_PRELOAD={}", library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        ]
    };
    let words = environment(&library());
    let wrapper: Vec<&str> = std::iter::once("env").chain(words.iter().map(String::as_str)).collect();
    let ringway = Setup::on(&ground).wrapped(&wrapper).start(&config);

    let mut kept = connect(patient);
    let mut days = Vec::new();
    for (round, to) in ["+0d", "+1d", "-1d"].into_iter().enumerate() {
        jump(to);
        exchange(&mut kept, b"still there").expect("an echo");
        let mut brief = connect(hasty);
        exchange(&mut brief, b"x").expect("an echo");
        let asked = Instant::now();
        let _ = end_of(&mut brief);
        assert!(asked.elapsed() >= Duration::from_millis(250), "{to}: after {:?}", asked.elapsed());
        let record = ringway.await_records(round + 1).pop().expect("one");
        assert_eq!((&record["listener"], &record["reason"]), (&"hasty".into(), &"idle_timeout".into()), "{to}");
        let length_ms = record["total_ms"].as_u64().expect("a number");
        assert!((300..20_000).contains(&length_ms), "{to}: {length_ms} ms");
        days.push(day(&record));
    }
    assert!(days[2] < days[0] && days[0] < days[1], "{days:?}");
    exchange(&mut kept, b"still there").expect("an echo");
    assert_eq!(ringway.sessions(), 1.0);
    drop(kept);
    ringway.end_well();
}
