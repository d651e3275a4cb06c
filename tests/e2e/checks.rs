//! Servers that come and go: checks, ejection, the last resort, and what becomes of sessions.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::facts::{await_that, http_get, watch_for};
use crate::harness::ground::Ground;
use crate::harness::peers::{BlackHole, Nginx, Server, ask, connect, end_of, exchange, read_exactly};
use crate::harness::ringway::{Ringway, listener, one_pool, pool};

/// As quick as makes sense on a busy machine.
const QUICK: &str = "interval = \"60ms\", fast_interval = \"20ms\", timeout = \"5s\"";

fn is(ringway: &Ringway, server: &str, state: &str) -> bool {
    ringway.metric("ringway_server_state", &[("server", server), ("state", state)]) == 1.0
}

fn await_state(ringway: &Ringway, server: &str, state: &str) {
    await_that(&format!("{server} to be {state}"), || is(ringway, server, state));
}

/// Events about servers, as (server, state, reason).
fn turns(ringway: &Ringway) -> Vec<(String, String, String)> {
    let events = ringway.events();
    let read = events.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let word = |event: &serde_json::Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    read.filter(|event| event["event"] == "server")
        .map(|event| (word(&event, "server"), word(&event, "state"), word(&event, "reason")))
        .collect()
}

/// Waits until the log has this change of a server's state.
fn await_turn(ringway: &Ringway, server: &str, state: &str, reason: &str) {
    await_that(&format!("an event: {server} {state} {reason}"), || {
        turns(ringway).iter().any(|(s, now, why)| s == server && now == state && why.contains(reason))
    });
}

fn answers(front: SocketAddr, count: usize) -> BTreeSet<String> {
    (0..count).map(|_| ask(front)).collect()
}

/// A web server whose status can be set, and which remembers who it was asked for.
struct Web {
    server: Server,
    status: Arc<AtomicU16>,
    heads: Arc<Mutex<BTreeSet<String>>>,
}

impl Web {
    fn new(ground: &Ground, name: &'static str) -> Self {
        let status = Arc::new(AtomicU16::new(200));
        let heads = Arc::new(Mutex::new(BTreeSet::new()));
        let (now, seen) = (Arc::clone(&status), Arc::clone(&heads));
        let server = Server::new(ground, move |mut stream| {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                if !stream.read(&mut byte).is_ok_and(|read| read == 1) {
                    return;
                }
                head.push(byte[0]);
            }
            seen.lock().expect("no panic").insert(String::from_utf8_lossy(&head).into_owned());
            let status = now.load(Ordering::SeqCst);
            let length = name.len();
            // Whoever asked may have gone.
            let _ =
                write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}");
        });
        Self { server, status, heads }
    }
}

#[test]
fn a_web_server_that_stops_gets_no_client_and_comes_back() {
    let ground = Ground::new();
    let a = Nginx::start(&ground, "a");
    let b = Nginx::start(&ground, "b");
    let (front, b_address) = (ground.address(), b.address());
    let lines = format!("check = {{ type = \"http\", {QUICK} }}\neject = \"off\"\nconnect_attempts = 1");
    let ringway = Ringway::start(&ground, &one_pool(front, &[a.address(), b_address], &lines));
    let served = |count: usize| -> BTreeSet<String> {
        (0..count).map(|_| http_get(front, "/")).map(|answer| answer.expect("a server that works").1).collect()
    };
    await_state(&ringway, "s0", "up");
    await_state(&ringway, "s1", "up");
    assert_eq!(served(20).len(), 2);

    drop(b);
    await_state(&ringway, "s1", "down");
    assert_eq!(served(100), BTreeSet::from(["a".to_owned()]));
    assert_eq!(ringway.metric("ringway_server_connects_total", &[("result", "refused")]), 0.0);
    await_turn(&ringway, "s1", "down", "connection refused");
    let status = String::from_utf8(ringway.verb(&["status"]).stdout).expect("UTF-8");
    assert!(status.contains("! pool/s1 is down for ") && status.contains(": connection refused"), "{status}");

    let _b = Nginx::start_at(&ground, "b", b_address);
    await_state(&ringway, "s1", "up");
    assert_eq!(served(20).len(), 2);
    await_turn(&ringway, "s1", "up", "2 checks in a row passed");
    assert!(ringway.metric("ringway_check_total", &[("server", "s1"), ("result", "refused")]) >= 3.0);
    await_that("every check to be timed", || ringway.metric("ringway_check_duration_seconds_count", &[]) >= 10.0);
    ringway.end_well();
}

#[test]
fn the_status_of_an_answer_decides_and_the_log_says_which() {
    let ground = Ground::new();
    let (a, b) = (Web::new(&ground, "a"), Web::new(&ground, "b"));
    let front = ground.address();
    let check = format!(
        "check = {{ type = \"http\", path = \"/healthz\", host = \"www.example.com\", expect = [200, \"300-399\"], {QUICK} }}"
    );
    let ringway = Ringway::start(&ground, &one_pool(front, &[a.server.address(), b.server.address()], &check));
    await_state(&ringway, "s0", "up");
    await_state(&ringway, "s1", "up");
    b.status.store(302, Ordering::SeqCst);
    a.status.store(503, Ordering::SeqCst);
    await_state(&ringway, "s0", "down");
    await_turn(&ringway, "s0", "down", "HTTP 503 where 200 or 300-399 was expected");
    assert!(is(&ringway, "s1", "up"));
    a.status.store(200, Ordering::SeqCst);
    await_state(&ringway, "s0", "up");
    let heads = a.heads.lock().expect("no panic").clone();
    assert!(
        heads.iter().all(|head| head.starts_with("GET /healthz HTTP/1.1\r\nHost: www.example.com\r\n")),
        "{heads:?}"
    );
    ringway.end_well();
}

#[test]
fn what_a_server_says_is_held_against_what_it_should_say() {
    let ground = Ground::new();
    let ready = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&ready);
    let store = Server::new(&ground, move |mut stream| {
        let mut question = [0; 6];
        if stream.read_exact(&mut question).is_ok() && &question == b"PING\r\n" {
            let answer: &[u8] = if now.load(Ordering::SeqCst) { b"+PONG\r\n" } else { b"-LOADING\r\n" };
            let _ = stream.write_all(answer);
        }
    });
    let greets = Server::named(&ground, "220 \0 ready");
    let front = ground.address();
    let entry = |name: &str, server: &Server| format!("{{ name = \"{name}\", address = \"{}\" }}", server.address());
    let config = listener("front", &front.to_string(), "store")
        + &pool(
            "store",
            &[entry("store", &store)],
            &format!("check = {{ type = \"send-expect\", send = \"PING\\r\\n\", expect = \"+PONG\", {QUICK} }}"),
        )
        + &pool(
            "greets",
            &[entry("greets", &greets)],
            &format!("check = {{ type = \"send-expect\", expect_hex = \"00 20\", {QUICK} }}"),
        );
    let ringway = Ringway::start(&ground, &config);
    await_state(&ringway, "greets", "up");
    await_state(&ringway, "store", "down");
    await_turn(&ringway, "store", "down", r#"answer "-LOADING\r\n" where "+PONG" was expected"#);
    ready.store(true, Ordering::SeqCst);
    await_state(&ringway, "store", "up");
    ringway.end_well();
}

#[test]
fn a_server_that_does_not_answer_is_down_and_elsewhere_is_elsewhere() {
    let ground = Ground::new();
    let hole = BlackHole::new(&ground);
    let mute = Server::new(&ground, |mut stream| while stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {});
    let (served, sidecar) = (Server::named(&ground, "x"), Web::new(&ground, "sidecar"));
    let front = ground.address();
    let entry = |name: &str, address: SocketAddr| format!("{{ name = \"{name}\", address = \"{address}\" }}");
    let quick = "interval = \"60ms\", fast_interval = \"20ms\", timeout = \"300ms\"";
    let config = listener("front", &front.to_string(), "side")
        + &pool("hole", &[entry("hole", hole.address())], &format!("check = {{ type = \"tcp\", {quick} }}"))
        + &pool("mute", &[entry("mute", mute.address())], &format!("check = {{ type = \"http\", {quick} }}"))
        + &pool(
            "side",
            &[entry("side", served.address())],
            &format!("check = {{ type = \"http\", port = {}, {QUICK} }}", sidecar.server.address().port()),
        );
    let ringway = Ringway::start(&ground, &config);
    await_turn(&ringway, "hole", "down", "timeout after 300ms waiting for a connection");
    await_turn(&ringway, "mute", "down", "timeout after 300ms waiting for an answer");
    await_state(&ringway, "side", "up");
    sidecar.status.store(500, Ordering::SeqCst);
    await_state(&ringway, "side", "down");
    assert_eq!(ask(front), "reset");
    assert_eq!(ringway.record("no_server")["code"], "SC");
    ringway.await_event("pool side has no server left");
    ringway.end_well();
}

#[test]
fn connects_that_fail_in_a_row_eject_a_server_for_ever_longer() {
    let ground = Ground::new();
    let (gone, alive) = (ground.address(), Server::named(&ground, "alive"));
    let front = ground.address();
    let lines = "eject = { failures = 3, for = \"400ms\", max_for = \"1m\" }";
    let ringway = Ringway::start(&ground, &one_pool(front, &[gone, alive.address()], lines));
    let refused = || ringway.metric("ringway_server_connects_total", &[("server", "s0"), ("result", "refused")]);
    let ejections = || ringway.metric("ringway_server_ejections_total", &[("server", "s0")]);

    for times in 1..=2 {
        await_that("an ejection", || {
            assert_eq!(ask(front), "alive");
            ejections() == f64::from(times)
        });
        await_turn(&ringway, "s0", "ejected", "connects in a row failed");
    }
    // The second rest is twice as long as the first: long enough to see that nothing is sent there.
    let before = refused();
    assert_eq!(answers(front, 20), BTreeSet::from(["alive".to_owned()]));
    assert!(refused() == before || ejections() > 2.0, "{before} before, {} now", refused());

    let back = Server::at(gone, |mut stream| drop(stream.write_all(b"back")));
    await_that("the server to be back", || ask(front) == "back");
    assert!(is(&ringway, "s0", "up"));
    await_turn(&ringway, "s0", "up", "");
    drop(back);
    ringway.end_well();
}

#[test]
fn the_last_usable_server_is_never_ejected() {
    let ground = Ground::new();
    let (one, other) = (ground.address(), ground.address());
    let front = ground.address();
    let lines = "eject = { failures = 1, for = \"1m\" }";
    let ringway = Ringway::start(&ground, &one_pool(front, &[one, other], lines));
    // Both refuse. One may be ejected; the other is left, and tried each time.
    for _ in 0..30 {
        assert_eq!(ask(front), "reset");
    }
    assert_eq!(ringway.ended("no_server"), 0.0);
    assert_eq!(ringway.metric("ringway_server_state", &[("state", "ejected")]), 1.0);
    ringway.end_well();
}

#[test]
fn a_server_comes_back_from_its_rest_when_no_other_is_left() {
    let ground = Ground::new();
    let (gone, web) = (ground.address(), Web::new(&ground, "web"));
    let front = ground.address();
    let health = Web::new(&ground, "health");
    // Both are asked at the same place whether they work, and one of them refuses sessions.
    let check = |port: u16| {
        format!("check = {{ type = \"http\", port = {port}, {QUICK} }}\neject = {{ failures = 1, for = \"1m\" }}")
    };
    let config = one_pool(front, &[gone, web.server.address()], &check(health.server.address().port()));
    let ringway = Ringway::start(&ground, &config);
    await_state(&ringway, "s0", "up");
    await_state(&ringway, "s1", "up");
    await_that("an ejection", || {
        drop(http_get(front, "/"));
        is(&ringway, "s0", "ejected")
    });
    health.status.store(500, Ordering::SeqCst);
    await_state(&ringway, "s1", "down");
    await_state(&ringway, "s0", "down");
    health.status.store(200, Ordering::SeqCst);
    await_state(&ringway, "s1", "up");
    // One that has proved itself by checks is no longer ejected.
    await_state(&ringway, "s0", "up");
    ringway.end_well();
}

#[test]
fn with_fail_open_servers_that_are_down_are_better_than_none() {
    let ground = Ground::new();
    let (a, b) = (Web::new(&ground, "a"), Web::new(&ground, "b"));
    let front = ground.address();
    let config = |more: &str| {
        let lines = format!("check = {{ type = \"http\", {QUICK} }}\n{more}");
        one_pool(front, &[a.server.address(), b.server.address()], &lines)
    };
    let ringway = Ringway::start(&ground, &config("fail_open = true"));
    let served = || http_get(front, "/").map(|(_, body)| body);
    a.status.store(500, Ordering::SeqCst);
    await_state(&ringway, "s0", "down");
    await_state(&ringway, "s1", "up");
    for _ in 0..10 {
        assert_eq!(served().expect("b"), "b");
    }
    b.status.store(500, Ordering::SeqCst);
    await_state(&ringway, "s1", "down");
    let names: BTreeSet<String> = (0..10).map(|_| served().expect("either")).collect();
    assert_eq!(names.len(), 2);
    ringway.await_event("fail_open");

    // The state stays over the reload, which leaves the check as it was.
    ringway.reload_with(&config(""));
    assert!(is(&ringway, "s0", "down") && is(&ringway, "s1", "down"));
    assert!(served().is_err());
    assert_eq!(ringway.record("no_server")["code"], "SC");
    ringway.end_well();
}

/// Sessions that echo, and whose server has just been found down.
fn sessions_when_a_server_goes_down(
    ground: &Ground,
    on_down: &str,
    count: usize,
) -> (Ringway, Vec<TcpStream>, Web, Server) {
    let (health, server) = (Web::new(ground, "health"), Server::echo(ground));
    let front = ground.address();
    let port = health.server.address().port();
    let lines = format!("check = {{ type = \"http\", port = {port}, {QUICK} }}\non_down = \"{on_down}\"");
    let ringway = Ringway::start(ground, &one_pool(front, &[server.address()], &lines));
    await_state(&ringway, "s0", "up");
    let mut held: Vec<TcpStream> = (0..count).map(|_| connect(front)).collect();
    for stream in &mut held {
        exchange(stream, b"x").expect("an echo");
    }
    health.status.store(500, Ordering::SeqCst);
    await_state(&ringway, "s0", "down");
    (ringway, held, health, server)
}

#[test]
fn sessions_of_a_server_that_goes_down_are_kept() {
    let ground = Ground::new();
    let (ringway, mut held, _health, _server) = sessions_when_a_server_goes_down(&ground, "keep", 20);
    for stream in &mut held {
        exchange(stream, b"still here").expect("an echo");
    }
    drop(held);
    ringway.end_well();
}

#[test]
fn sessions_of_a_server_that_goes_down_are_closed() {
    let ground = Ground::new();
    // More than a worker looks at in one turn.
    let (ringway, mut held, health, _server) = sessions_when_a_server_goes_down(&ground, "close", 700);
    for stream in &mut held {
        assert_eq!(end_of(stream), Err(std::io::ErrorKind::ConnectionReset));
    }
    ringway.await_ended("server_down", 700.0);
    assert_eq!(ringway.record("server_down")["code"], "DD");
    health.status.store(200, Ordering::SeqCst);
    await_state(&ringway, "s0", "up");
    ringway.end_well();
}

#[test]
fn a_reload_keeps_what_is_known_and_a_new_server_proves_itself_first() {
    let ground = Ground::new();
    let (a, b) = (Server::named(&ground, "a"), Server::named(&ground, "b"));
    let dead = ground.address();
    let front = ground.address();
    let config = |servers: &[SocketAddr], pace: &str| {
        let lines = format!("check = {{ type = \"tcp\", {pace} }}\nconnect_attempts = 1\neject = \"off\"");
        one_pool(front, servers, &lines)
    };
    let ringway = Ringway::start(&ground, &config(&[a.address(), dead], QUICK));
    await_turn(&ringway, "s0", "up", "");
    await_turn(&ringway, "s1", "down", "");
    let events = turns(&ringway).len();

    // Another pace, and nothing else: nobody is asked anew.
    ringway.reload_with(&config(&[a.address(), dead], "interval = \"50ms\""));
    assert!(is(&ringway, "s0", "up") && is(&ringway, "s1", "down"));
    assert_eq!(answers(front, 20), BTreeSet::from(["a".to_owned()]));
    assert_eq!(turns(&ringway).len(), events);

    // A server that moved is another: it gets no session before a check has found it up, and none at all if that fails.
    let hole = BlackHole::new(&ground);
    ringway.reload_with(&config(&[a.address(), hole.address()], "interval = \"50ms\", timeout = \"500ms\""));
    assert!(is(&ringway, "s0", "up"));
    assert_eq!(answers(front, 20), BTreeSet::from(["a".to_owned()]));
    await_state(&ringway, "s1", "down");

    ringway.reload_with(&config(&[a.address(), b.address()], QUICK));
    await_state(&ringway, "s1", "up");
    assert_eq!(answers(front, 20).len(), 2);
    assert_eq!(ringway.ended("connect_refused") + ringway.ended("connect_timeout"), 0.0);

    // Without a check nothing is held against a server.
    ringway.reload_with(&one_pool(front, &[a.address(), dead], ""));
    assert!(is(&ringway, "s0", "up") && is(&ringway, "s1", "up"));
    assert!(!ringway.metrics().has("ringway_check_total", &[]));
    ringway.end_well();
}

/// T35: a server that flaps changes its state, and is spoken of, no more often than `rise` and `fall` allow.
#[test]
fn t35_a_flapping_server() {
    let ground = Ground::new();
    let (steady, flaps) = (Web::new(&ground, "steady"), Web::new(&ground, "flaps"));
    let front = ground.address();
    let check = "check = { type = \"http\", interval = \"20ms\", fast_interval = \"20ms\", timeout = \"5s\", rise = 3, fall = 3 }";
    let ringway = Ringway::start(&ground, &one_pool(front, &[steady.server.address(), flaps.server.address()], check));
    await_state(&ringway, "s0", "up");
    await_state(&ringway, "s1", "up");
    let mut turn = 0;
    watch_for(Duration::from_secs(3), || {
        turn += 1;
        // Now for a moment, now for long enough to be believed.
        let wrong = turn % 3 == 0 || turn / 20 % 2 == 0;
        flaps.status.store(if wrong { 500 } else { 200 }, Ordering::SeqCst);
        assert_eq!(http_get(front, "/").map(|(_, body)| body.is_empty()).ok(), Some(false));
    });
    let checks = ringway.metric("ringway_check_total", &[("server", "s1")]);
    let changes = turns(&ringway).iter().filter(|(server, ..)| server == "s1").count() as f64;
    assert!(changes >= 2.0, "{changes} changes in {checks} checks: it did not flap");
    assert!(changes <= 1.0 + checks / 3.0, "{changes} changes in {checks} checks");
    assert_eq!(turns(&ringway).iter().filter(|(server, ..)| server == "s0").count(), 1);
    ringway.end_well();
}

/// T36: two hundred servers fail at once, and come back at once.
#[test]
fn t36_a_mass_failure() {
    let ground = Ground::new();
    let health = Web::new(&ground, "health");
    let servers: Vec<Server> = (0..200).map(|_| Server::named(&ground, "x")).collect();
    let front = ground.address();
    let addresses: Vec<SocketAddr> = servers.iter().map(Server::address).collect();
    let port = health.server.address().port();
    let lines = format!(
        "check = {{ type = \"http\", port = {port}, interval = \"500ms\", timeout = \"5s\", fall = 1, rise = 1 }}"
    );
    let ringway = Ringway::start(&ground, &one_pool(front, &addresses, &lines));
    let count = |state: &str| ringway.metric("ringway_server_state", &[("state", state)]);
    await_that("all to be up", || count("up") == 200.0);
    health.status.store(503, Ordering::SeqCst);
    await_that("all to be down", || count("down") == 200.0);
    assert_eq!(ask(front), "reset");
    assert_eq!(ringway.record("no_server")["code"], "SC");
    await_that("one event of the pool", || {
        ringway.events().iter().filter(|line| line.contains("has no server left")).count() == 1
    });
    health.status.store(200, Ordering::SeqCst);
    await_that("all to be up again", || count("up") == 200.0);
    assert_eq!(answers(front, 200), BTreeSet::from(["x".to_owned()]));
    await_that("an event of each change", || turns(&ringway).len() == 600);
    assert_eq!(ringway.metric("ringway_log_dropped_total", &[]), 0.0);
    ringway.end_well();
}

/// Held sessions, too, are nothing a check counts against a server's limit, and a check is no session.
#[test]
fn checks_are_no_sessions() {
    let ground = Ground::new();
    let server = Server::named_echo(&ground, "e");
    let front = ground.address();
    let entry = format!("{{ name = \"s0\", address = \"{}\", max_connections = 1 }}", server.address());
    let config = listener("front", &front.to_string(), "pool")
        + &pool("pool", &[entry], &format!("check = {{ type = \"send-expect\", expect = \"e\", {QUICK} }}"));
    let ringway = Ringway::start(&ground, &config);
    let mut held = connect(front);
    assert_eq!(read_exactly(&mut held, 1).expect("a name"), b"e");
    let checked = || ringway.metric("ringway_check_total", &[("result", "ok")]);
    let before = checked();
    await_that("more checks", || checked() >= before + 5.0);
    assert_eq!(ringway.metric("ringway_server_connects_total", &[]), 1.0);
    assert_eq!(ringway.metric("ringway_server_sessions", &[]), 1.0);
    drop(held);
    ringway.end_well();
}
