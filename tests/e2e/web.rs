//! Web traffic: real nginx behind, real wrk in front.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::facts::{await_that, http_get};
use crate::harness::ground::{Ground, need};
use crate::harness::invariants::Baseline;
use crate::harness::peers::Nginx;
use crate::harness::ringway::{Ringway, one_pool};

/// Runs wrk while something else goes on until it has ended; fails if one request failed. Requests it made.
fn wrk_meanwhile(target: SocketAddr, path: &str, flags: &[&str], mut meanwhile: impl FnMut()) -> u64 {
    need("wrk");
    let mut wrk = Command::new("wrk")
        .args(["-t1", "--timeout", "10s"])
        .args(flags)
        .arg(format!("http://{target}{path}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("wrk");
    while wrk.try_wait().expect("our own child").is_none() {
        meanwhile();
    }
    let output = wrk.wait_with_output().expect("our own child");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    said.lines()
        .find_map(|line| line.trim().split_once(" requests in "))
        .and_then(|(count, _)| count.parse().ok())
        .unwrap_or_else(|| panic!("no count of requests: {said}"))
}

#[test]
fn two_web_servers_answer_in_turn_and_one_alone() {
    let ground = Ground::new();
    let (one, two) = (Nginx::start(&ground, "web1"), Nginx::start(&ground, "web2"));
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[one.address(), two.address()], ""));
    let get = || {
        let (status, body) = http_get(front, "/").expect("an answer");
        assert_eq!(status, 200);
        body
    };
    let answers: Vec<String> = (0..10).map(|_| get()).collect();
    assert_eq!(answers.iter().filter(|name| *name == "web1").count(), 5, "{answers:?}");
    let (_, big) = http_get(front, "/big").expect("an answer");
    assert_eq!(big.len(), 1 << 20);

    drop(two);
    for _ in 0..10 {
        assert_eq!(get(), "web1");
    }
    ringway.end_well();
}

/// T25: with short connections and with kept ones.
#[test]
fn not_one_request_fails_under_reloads() {
    let ground = Ground::new();
    let (one, two) = (Nginx::start(&ground, "web1"), Nginx::start(&ground, "web2"));
    let front = ground.address();
    let both = [one.address(), two.address()];
    let configs =
        [one_pool(front, &both, ""), one_pool(front, &both, "connect_attempts = 2"), one_pool(front, &both[..1], "")];
    let mut ringway = Ringway::start(&ground, &configs[0]);
    let baseline = Baseline::of(&ringway);
    for flags in [["-c32", "-d4s", "-H", "Connection: close"], ["-c32", "-d3s", "-H", "Connection: keep-alive"]] {
        let mut round = 0;
        let requests = wrk_meanwhile(front, "/", &flags, || {
            ringway.write_config(&configs[round % configs.len()]);
            ringway.signal(Signal::SIGHUP);
            round += 1;
            std::thread::sleep(Duration::from_millis(50));
        });
        assert!(requests > 500, "{requests} requests");
        assert!(round > 10, "{round} reloads");
    }
    assert!(ringway.metric("ringway_config_generation", &[]) > 10.0);
    let failed: f64 =
        ["connect_refused", "connect_timeout", "no_server", "resource", "internal", "server_reset", "shutdown"]
            .iter()
            .map(|reason| ringway.ended(reason))
            .sum();
    assert_eq!(failed, 0.0);
    // A pool is there for both again.
    ringway.write_config(&configs[0]);
    ringway.signal(Signal::SIGHUP);
    await_that("both servers", || {
        let names: Vec<String> = (0..2).filter_map(|_| http_get(front, "/").ok()).map(|(_, name)| name).collect();
        names.contains(&"web2".to_owned())
    });
    baseline.holds_again(&mut ringway);
    ringway.end_well();
}

#[test]
fn a_server_that_dies_under_load_is_passed_over() {
    let ground = Ground::new();
    let (one, two) = (Nginx::start(&ground, "web1"), Nginx::start(&ground, "web2"));
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[one.address(), two.address()], ""));
    // Gone before the load begins, so that no request was under way: none may fail.
    drop(two);
    let requests = wrk_meanwhile(front, "/", &["-c16", "-d2s", "-H", "Connection: close"], || {
        std::thread::sleep(Duration::from_millis(50));
    });
    assert!(requests > 20, "{requests} requests");
    let metrics = ringway.metrics();
    assert!(metrics.sum("ringway_retries_total", &[]) > 0.0);
    assert_eq!(metrics.sum("ringway_sessions_ended_total", &[("reason", "connect_refused")]), 0.0);
    ringway.end_well();
}
