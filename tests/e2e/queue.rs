//! Sessions that wait for a place on a server, and how long.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::facts::await_that;
use crate::harness::ground::Ground;
use crate::harness::peers::{Server, ask, connect, exchange, read_exactly, reset};
use crate::harness::ringway::{Ringway, Setup, listener, one_pool, pool};

/// Servers with one place each, and a queue before them.
fn queued(front: SocketAddr, servers: &[SocketAddr], lines: &str) -> String {
    let server = |(i, address)| format!("{{ name = \"s{i}\", address = \"{address}\", max_connections = 1 }}");
    let entries: Vec<String> = servers.iter().enumerate().map(server).collect();
    listener("front", &front.to_string(), "pool") + &pool("pool", &entries, lines)
}

fn await_waiting(ringway: &Ringway, count: usize) {
    ringway.await_metric("ringway_queue_sessions", &[("pool", "pool")], |waiting| waiting == count as f64);
}

fn is_served(client: &mut TcpStream) -> bool {
    read_exactly(client, 1).is_ok_and(|name| name == b"a")
}

/// First come, first served, on whichever worker each of them is.
#[test]
fn who_waits_is_served_in_turn() {
    let ground = Ground::new();
    let server = Server::named_echo(&ground, "a");
    let front = ground.address();
    let config = queued(front, &[server.address()], "queue = { limit = 20, timeout = \"1m\" }");
    let ringway = Setup::on(&ground).global("workers = 4").start(&config);
    let mut holder = connect(front);
    assert!(is_served(&mut holder));
    let mut line = Vec::new();
    for count in 1..=12 {
        line.push(connect(front));
        await_waiting(&ringway, count);
    }
    let workers = ringway.metrics().by("ringway_worker_sessions", "worker");
    assert!(workers.values().all(|sessions| *sessions > 0.0), "{workers:?}");
    assert_eq!(ringway.metric("ringway_server_sessions", &[]), 1.0);
    for (turn, mut next) in line.into_iter().enumerate() {
        drop(std::mem::replace(&mut holder, next.try_clone().expect("a second handle")));
        assert!(is_served(&mut next), "turn {turn}");
        assert_eq!(exchange(&mut next, b"hello").expect("an echo"), b"hello");
        await_waiting(&ringway, 11 - turn);
    }
    drop(holder);
    let records = ringway.await_records(13);
    let waited = |record: &serde_json::Value| record["queue_us"].as_u64().expect("a number");
    assert_eq!(records.iter().filter(|record| waited(record) == 0).count(), 1, "{records:?}");
    assert!(records.iter().all(|record| record["reason"] == "done" && record["attempts"] == 1), "{records:?}");
    assert_eq!(ringway.metric("ringway_queued_total", &[]), 12.0);
    assert_eq!(ringway.metric("ringway_queue_seconds_count", &[]), 12.0);
    ringway.end_well();
}

#[test]
fn the_queue_has_an_end_and_patience_too() {
    let ground = Ground::new();
    let server = Server::named_echo(&ground, "a");
    let front = ground.address();
    let config = queued(front, &[server.address()], "queue = { limit = 2, timeout = \"400ms\" }");
    let ringway = Ringway::start(&ground, &config);
    let mut holder = connect(front);
    assert!(is_served(&mut holder));
    let began = Instant::now();
    let waiting: Vec<TcpStream> = (0..2).map(|_| connect(front)).collect();
    await_waiting(&ringway, 2);
    assert_eq!(ask(front), "reset");
    assert_eq!(ringway.record("queue_full")["code"], "SQ");
    for mut client in waiting {
        assert!(!is_served(&mut client));
    }
    assert!(began.elapsed() >= Duration::from_millis(400));
    let record = ringway.record("queue_timeout");
    assert_eq!((&record["code"], &record["server"], &record["attempts"]), (&"sQ".into(), &().into(), &0.into()));
    assert!(record["queue_us"].as_u64() >= Some(400_000), "{record}");
    assert_eq!(ringway.metric("ringway_queue_timeouts_total", &[]), 2.0);
    assert_eq!(ringway.metric("ringway_queue_full_total", &[]), 1.0);

    // One who leaves the line makes room for another.
    let (leaver, mut stayer) = (connect(front), connect(front));
    await_waiting(&ringway, 2);
    reset(leaver);
    assert_eq!(ringway.record("queue_left")["code"], "CQ");
    drop(holder);
    assert!(is_served(&mut stayer));
    drop(stayer);
    ringway.end_well();
}

/// A server that is added, or a higher limit, is for those who wait as well.
#[test]
fn a_reload_serves_those_who_wait() {
    let ground = Ground::new();
    let (one, two) = (Server::named_echo(&ground, "a"), Server::named_echo(&ground, "a"));
    let front = ground.address();
    let lines = "queue = { limit = 20, timeout = \"1m\" }";
    let config = queued(front, &[one.address()], lines);
    let ringway = Ringway::start(&ground, &config);
    let mut clients: Vec<TcpStream> = (0..6).map(|_| connect(front)).collect();
    await_waiting(&ringway, 5);
    ringway.reload_with(&queued(front, &[one.address(), two.address()], lines));
    await_waiting(&ringway, 4);
    ringway.reload_with(
        &queued(front, &[one.address(), two.address()], lines).replace("max_connections = 1", "max_connections = 3"),
    );
    await_waiting(&ringway, 0);
    assert!(clients.iter_mut().all(is_served));
    drop(clients);
    ringway.end_well();
}

/// A server that a reload adds begins cold, and warms up.
#[test]
fn a_server_that_is_added_ramps() {
    let ground = Ground::new();
    let (one, two) = (Server::named(&ground, "a"), Server::named(&ground, "b"));
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[one.address()], "slow_start = \"1h\""));
    let share = |server| ringway.metric("ringway_server_warmth", &[("server", server)]);
    assert_eq!(share("s0"), 1.0, "nobody is cold at the start");
    ringway.reload_with(&one_pool(front, &[one.address(), two.address()], "slow_start = \"1h\""));
    assert_eq!(share("s0"), 1.0);
    assert!(share("s1") < 0.02, "{}", share("s1"));
    let cold = (0..300).filter(|_| ask(front) == "b").count();
    assert!(cold < 30, "{cold} of 300 sessions");
    ringway.reload_with(&one_pool(front, &[one.address(), two.address()], "slow_start = \"1s\""));
    ringway.await_metric("ringway_server_warmth", &[("server", "s1")], |share| share == 1.0);
    assert_eq!((0..100).filter(|_| ask(front) == "b").count(), 50);
    ringway.end_well();
}

#[test]
fn a_server_is_not_stormed() {
    let ground = Ground::new();
    let (slow, fast) = (Server::named(&ground, "a"), Server::named(&ground, "b"));
    let (front, alone) = (ground.address(), ground.address());
    let slow =
        format!("{{ name = \"slow\", address = \"{}\", connect_rate = \"1/m\", connect_burst = 2 }}", slow.address());
    let fast = format!("{{ name = \"fast\", address = \"{}\" }}", fast.address());
    let config = listener("front", &front.to_string(), "pool")
        + &pool("pool", &[slow.clone(), fast], "")
        + &listener("alone", &alone.to_string(), "alone")
        + &pool("alone", &[slow], "");
    let ringway = Ringway::start(&ground, &config);
    let answers: Vec<String> = (0..20).map(|_| ask(front)).collect();
    assert_eq!(answers.iter().filter(|answer| *answer == "a").count(), 2, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| *answer == "b").count(), 18, "{answers:?}");
    let answers: Vec<String> = (0..4).map(|_| ask(alone)).collect();
    assert_eq!(answers, ["a", "a", "reset", "reset"]);
    assert_eq!(ringway.record("connect_rate")["code"], "SQ");
    ringway.await_ended("connect_rate", 2.0);
    ringway.end_well();
}

#[test]
fn who_comes_too_soon_waits_his_turn() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let front = ground.address();
    let entry =
        format!("{{ name = \"s0\", address = \"{}\", connect_rate = \"20/s\", connect_burst = 1 }}", server.address());
    let config = listener("front", &front.to_string(), "pool") + &pool("pool", &[entry], "queue = { limit = 20 }");
    let ringway = Setup::on(&ground).global("workers = 3").start(&config);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..11).map(|_| scope.spawn(move || ask(front))).collect();
        assert!(asking.into_iter().all(|thread| thread.join().expect("no panic") == "a"));
    });
    assert!(began.elapsed() >= Duration::from_millis(490), "{:?} for ten intervals of 50 ms", began.elapsed());
    assert!(ringway.metric("ringway_queued_total", &[]) >= 9.0);
    ringway.end_well();
}

/// A place is never given twice, and none is forgotten, however many come and go.
#[test]
fn a_crowd_goes_through_two_places() {
    let ground = Ground::new();
    let servers = [Server::named_echo(&ground, "a"), Server::named_echo(&ground, "a")];
    let front = ground.address();
    let addresses = servers.each_ref().map(Server::address);
    let config = queued(front, &addresses, "queue = { limit = 100, timeout = \"1m\" }");
    let ringway = Setup::on(&ground).global("workers = 4").start(&config);
    std::thread::scope(|scope| {
        for client in 0..40 {
            scope.spawn(move || {
                for turn in 0..25 {
                    let mut stream = connect(front);
                    if (client + turn) % 10 == 0 {
                        reset(stream);
                        continue;
                    }
                    assert!(is_served(&mut stream), "client {client}, turn {turn}");
                    assert_eq!(exchange(&mut stream, b"hi").expect("an echo"), b"hi");
                }
            });
        }
        let watching = scope.spawn(|| {
            await_that("the crowd to be done", || {
                assert!(ringway.metric("ringway_server_sessions", &[]) <= 2.0);
                ringway.metric("ringway_sessions_ended_total", &[]) >= 1000.0
            });
        });
        watching.join().expect("no panic");
    });
    let served = ringway.metric("ringway_server_connects_total", &[("result", "ok")]);
    assert!(served >= 900.0, "{served}");
    assert_eq!(ringway.metric("ringway_queue_timeouts_total", &[]), 0.0);
    await_waiting(&ringway, 0);
    ringway.end_well();
}
