//! Who serves: exact shares, spares, limits, and the next server when one does not answer.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::facts::await_that;
use crate::harness::ground::{Ground, in_own_network};
use crate::harness::peers::{BlackHole, Server, ask, connect, exchange, read_exactly, reset};
use crate::harness::ringway::{Ringway, Setup, listener, one_pool, pool};

/// Asks `count` times from `threads` clients at once; how often each name answered.
fn shares(front: SocketAddr, count: usize, threads: usize) -> BTreeMap<String, usize> {
    let answers: Vec<String> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..threads)
            .map(|_| scope.spawn(move || (0..count / threads).map(|_| ask(front)).collect::<Vec<_>>()))
            .collect();
        asking.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let mut shares = BTreeMap::new();
    for answer in answers {
        *shares.entry(answer).or_default() += 1;
    }
    shares
}

fn entry(name: &str, address: SocketAddr, rest: &str) -> String {
    format!("{{ name = \"{name}\", address = \"{address}\"{rest} }}")
}

#[test]
fn a_thousand_connections_over_two_equal_servers_give_500_each() {
    let ground = Ground::new();
    let (a, b) = (Server::named(&ground, "a"), Server::named(&ground, "b"));
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[a.address(), b.address()], ""));

    let shares = shares(front, 1000, 8);
    assert_eq!(shares, BTreeMap::from([("a".to_owned(), 500), ("b".to_owned(), 500)]));
    let accepted = ringway.metrics().by("ringway_server_connects_total", "server");
    assert_eq!(accepted.values().copied().collect::<Vec<_>>(), [500.0, 500.0]);
    ringway.end_well();
}

#[test]
fn one_client_sees_servers_in_turn() {
    let ground = Ground::new();
    let servers = [Server::named(&ground, "a"), Server::named(&ground, "b"), Server::named(&ground, "c")];
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &servers.each_ref().map(Server::address), ""));
    let answers: Vec<String> = (0..30).map(|_| ask(front)).collect();
    for turn in answers.windows(4) {
        assert_eq!(turn[0], turn[3], "{answers:?}");
        assert_ne!(turn[0], turn[1], "{answers:?}");
    }
    ringway.end_well();
}

#[test]
fn weights_share_exactly() {
    let ground = Ground::new();
    let servers = [Server::named(&ground, "a"), Server::named(&ground, "b"), Server::named(&ground, "c")];
    let front = ground.address();
    let [a, b, c] = servers.each_ref().map(Server::address);
    let entries = [entry("a", a, ", weight = 5"), entry("b", b, ", weight = 3"), entry("c", c, ", weight = 0")];
    let config = listener("front", &front.to_string(), "pool") + &pool("pool", &entries, "");
    let ringway = Ringway::start(&ground, &config);
    let shares = shares(front, 800, 4);
    assert_eq!(shares, BTreeMap::from([("a".to_owned(), 500), ("b".to_owned(), 300)]));
    ringway.end_well();
}

#[test]
fn a_backup_serves_while_nobody_else_can() {
    let ground = Ground::new();
    let main_address = ground.address();
    let spare = Server::named(&ground, "spare");
    let main = Server::at(main_address, |mut stream| drop(std::io::Write::write_all(&mut stream, b"main")));
    let front = ground.address();
    let entries = [entry("main", main_address, ""), entry("spare", spare.address(), ", backup = true")];
    let config = listener("front", &front.to_string(), "pool") + &pool("pool", &entries, "eject = \"off\"");
    let ringway = Ringway::start(&ground, &config);

    assert_eq!(shares(front, 20, 1), BTreeMap::from([("main".to_owned(), 20)]));
    drop(main);
    assert_eq!(shares(front, 20, 1), BTreeMap::from([("spare".to_owned(), 20)]));
    let _main = Server::at(main_address, |mut stream| drop(std::io::Write::write_all(&mut stream, b"main")));
    assert_eq!(shares(front, 20, 1), BTreeMap::from([("main".to_owned(), 20)]));
    ringway.end_well();
}

#[test]
fn a_server_takes_no_more_than_its_limit() {
    let ground = Ground::new();
    let (a, b) = (Server::named_echo(&ground, "a"), Server::named_echo(&ground, "b"));
    let front = ground.address();
    let entries = [entry("a", a.address(), ", max_connections = 3"), entry("b", b.address(), ", max_connections = 5")];
    let config = listener("front", &front.to_string(), "pool") + &pool("pool", &entries, "");
    let ringway = Ringway::start(&ground, &config);

    let hold = || {
        let mut stream = connect(front);
        let name = read_exactly(&mut stream, 1).expect("a name");
        (stream, name)
    };
    let mut held: Vec<(TcpStream, Vec<u8>)> = (0..8).map(|_| hold()).collect();
    assert_eq!(held.iter().filter(|(_, name)| name == b"a").count(), 3);
    assert_eq!(held.iter().filter(|(_, name)| name == b"b").count(), 5);

    assert_eq!(ask(front), "reset");
    assert_eq!(ringway.record("servers_full")["code"], "SQ");

    // One leaves, one may come.
    drop(held.pop());
    ringway.await_metric("ringway_sessions", &[], |open| open == 7.0);
    held.push(hold());
    drop(held);
    ringway.end_well();
}

#[test]
fn the_next_server_when_one_refuses() {
    let ground = Ground::new();
    let gone = ground.address();
    let alive = Server::named(&ground, "alive");
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[gone, alive.address()], "connect_attempts = 2"));

    assert_eq!(shares(front, 100, 4), BTreeMap::from([("alive".to_owned(), 100)]));
    let metrics = ringway.metrics();
    let refused = metrics.sum("ringway_server_connects_total", &[("server", "s0"), ("result", "refused")]);
    assert!(refused >= 1.0, "{refused}");
    assert_eq!(metrics.sum("ringway_retries_total", &[]), refused);
    assert_eq!(
        ringway.await_records(100).iter().map(|record| record["attempts"].as_u64().unwrap_or(0) - 1).sum::<u64>()
            as f64,
        refused
    );
    ringway.end_well();
}

#[test]
fn one_attempt_is_one_attempt() {
    let ground = Ground::new();
    let (gone, alive) = (ground.address(), Server::named(&ground, "alive"));
    let front = ground.address();
    let ringway =
        Ringway::start(&ground, &one_pool(front, &[gone, alive.address()], "connect_attempts = 1\neject = \"off\""));
    let answers = shares(front, 20, 1);
    assert_eq!(answers.get("alive"), Some(&10), "{answers:?}");
    ringway.await_ended("connect_refused", 10.0);
    assert_eq!(ringway.metric("ringway_retries_total", &[]), 0.0);
    ringway.end_well();
}

#[test]
fn the_next_server_when_one_does_not_answer() {
    let ground = Ground::new();
    let hole = BlackHole::new(&ground);
    let alive = Server::named(&ground, "alive");
    let front = ground.address();
    let ringway =
        Ringway::start(&ground, &one_pool(front, &[hole.address(), alive.address()], "connect_timeout = \"200ms\""));

    let began = Instant::now();
    assert_eq!(shares(front, 4, 1), BTreeMap::from([("alive".to_owned(), 4)]));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let timeouts = ringway.metric("ringway_server_connects_total", &[("server", "s0"), ("result", "timeout")]);
    assert!(timeouts >= 2.0, "{timeouts}");
    ringway.end_well();
}

#[test]
fn nobody_answers_and_everybody_is_told() {
    let ground = Ground::new();
    let front = ground.address();
    let other = ground.address();
    let hole = BlackHole::new(&ground);
    let config = one_pool(front, &[ground.address(), ground.address()], "")
        + &listener("other", &other.to_string(), "hole")
        + &pool("hole", &[entry("hole", hole.address(), "")], "connect_timeout = \"150ms\"");
    let ringway = Ringway::start(&ground, &config);

    assert_eq!(ask(front), "reset");
    let record = ringway.record("connect_refused");
    assert_eq!(record["attempts"], 2, "each server once: {record}");
    assert_eq!(record["code"], "SC");

    assert_eq!(ask(other), "reset");
    assert_eq!(ringway.record("connect_timeout")["code"], "sC");
    ringway.end_well();
}

#[test]
fn quiet_sessions_spread_over_the_workers() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let ringway = Setup::on(&ground).global("workers = 2").start(&one_pool(front, &[server.address()], ""));
    let mut held = Vec::new();
    for _ in 0..300 {
        let mut stream = connect(front);
        exchange(&mut stream, b"x").expect("an echo");
        held.push(stream);
    }
    let by_worker = ringway.metrics().by("ringway_worker_sessions", "worker");
    assert_eq!(by_worker.values().sum::<f64>(), 300.0, "{by_worker:?}");
    assert_eq!(by_worker.len(), 2);
    assert!(by_worker.values().all(|&sessions| sessions >= 100.0), "{by_worker:?}");
    drop(held);
    ringway.end_well();
}

/// A session that is held, and the letter its server goes by.
fn hold(front: SocketAddr) -> (u8, TcpStream) {
    let mut stream = connect(front);
    let name = read_exactly(&mut stream, 1).expect("a name");
    (name[0], stream)
}

fn held_by(held: &[(u8, TcpStream)], name: u8) -> usize {
    held.iter().filter(|(server, _)| *server == name).count()
}

#[test]
fn least_connections_goes_where_fewest_are_held() {
    let ground = Ground::new();
    let (a, b) = (Server::named_echo(&ground, "a"), Server::named_echo(&ground, "b"));
    let front = ground.address();
    let entries = [entry("a", a.address(), ", weight = 2"), entry("b", b.address(), "")];
    let policy = "policy = \"least-connections\"";
    let config = listener("front", &front.to_string(), "pool") + &pool("pool", &entries, policy);
    let ringway = Setup::on(&ground).global("workers = 2").start(&config);

    let mut held: Vec<_> = (0..30).map(|_| hold(front)).collect();
    assert_eq!((held_by(&held, b'a'), held_by(&held, b'b')), (20, 10));
    held.retain(|(name, _)| *name == b'a');
    ringway.await_metric("ringway_server_sessions", &[("server", "b")], |held| held == 0.0);
    let next: Vec<_> = (0..9).map(|_| hold(front)).collect();
    assert_eq!(held_by(&next, b'b'), 9);
    drop((held, next));
    ringway.end_well();
}

#[test]
fn two_choices_hold_servers_even() {
    let ground = Ground::new();
    let servers = [Server::named_echo(&ground, "a"), Server::named_echo(&ground, "b")];
    let front = ground.address();
    let addresses = servers.each_ref().map(Server::address);
    let ringway = Ringway::start(&ground, &one_pool(front, &addresses, "policy = \"random-two\""));
    let held: Vec<_> = (0..100).map(|_| hold(front)).collect();
    // Alternation by one random draw would leave this range in one run of twenty; by two, once in ages.
    assert!((40..=60).contains(&held_by(&held, b'a')), "{}", held_by(&held, b'a'));
    drop(held);
    ringway.end_well();
}

#[test]
fn the_first_is_filled_before_the_next() {
    let ground = Ground::new();
    let (a, b) = (Server::named_echo(&ground, "a"), Server::named_echo(&ground, "b"));
    let front = ground.address();
    let entries = [entry("a", a.address(), ", max_connections = 3"), entry("b", b.address(), "")];
    let config = listener("front", &front.to_string(), "pool") + &pool("pool", &entries, "policy = \"first\"");
    let ringway = Ringway::start(&ground, &config);
    let mut held: Vec<_> = (0..5).map(|_| hold(front)).collect();
    assert_eq!(held.iter().map(|(name, _)| *name).collect::<Vec<_>>(), b"aaabb");
    drop(held.remove(0));
    ringway.await_metric("ringway_server_sessions", &[("server", "a")], |held| held == 2.0);
    held.push(hold(front));
    assert_eq!(held_by(&held, b'a'), 3);
    drop(held);
    ringway.end_well();
}

/// What the client at 127.0.0.`host` is answered.
fn ask_as(host: u8, front: SocketAddr) -> String {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into()).expect("all of 127/8 is ours");
    socket.connect(&front.into()).expect("a listener");
    let mut stream = TcpStream::from(socket);
    crate::harness::peers::patient(&stream);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("a name");
    answer
}

/// Without an access log, for which the address of a client would be asked anyway.
#[test]
fn a_client_keeps_its_server_on_every_node() {
    for policy in ["source-hash", "maglev"] {
        let ground = Ground::new();
        let names = ["a", "b", "c"];
        let mut servers = names.map(|name| Some(Server::named(&ground, name)));
        let entries =
            [0, 1, 2].map(|n| entry(names[n], servers[n].as_ref().map(Server::address).expect("it is there"), ""));
        let reversed: Vec<String> = entries.iter().rev().cloned().collect();
        let (here, there) = (ground.address(), ground.address());
        let lines = format!("policy = \"{policy}\"");
        let config = |front: SocketAddr, entries: &[String]| {
            listener("front", &front.to_string(), "pool") + &pool("pool", entries, &lines)
        };
        let start = |front, entries: &[String]| Setup::on(&ground).log("access = false").start(&config(front, entries));
        let nodes = [start(here, &entries), start(there, &reversed)];

        let of: BTreeMap<u8, String> = (2..42).map(|host| (host, ask_as(host, here))).collect();
        for name in names {
            assert!(of.values().filter(|server| *server == name).count() >= 5, "{policy}: {of:?}");
        }
        for (&host, server) in &of {
            assert_eq!([ask_as(host, here), ask_as(host, there)], [server.clone(), server.clone()], "{policy}");
        }
        // Who loses a server is served by another, the same on both nodes; nobody else moves.
        drop(servers[1].take());
        for (&host, server) in &of {
            let now = ask_as(host, here);
            assert_eq!(now, ask_as(host, there), "{policy}");
            assert!(if server == "b" { now != "b" && !now.is_empty() } else { now == *server }, "{policy}: {now}");
        }
        nodes.into_iter().for_each(Ringway::end_well);
    }
}

/// Leaves 16 ports to connect from.
fn few_ports() {
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 50015").expect("root, own network");
}

/// A client whose own port is not one of the few.
fn connect_from(port: u16, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).expect("a free port");
    socket.connect(&to.into()).expect("a listener");
    let stream = TcpStream::from(socket);
    crate::harness::peers::patient(&stream);
    stream
}

/// Opens up to `count` sessions, each with a byte echoed; how many work, and all that were opened.
fn echoing(front: SocketAddr, count: u16, first_port: u16) -> (usize, Vec<TcpStream>) {
    let mut streams: Vec<TcpStream> = (0..count).map(|n| connect_from(first_port + n, front)).collect();
    let works = streams
        .iter_mut()
        .map(|stream| {
            let mut byte = [0];
            // A session that was refused ends or is reset, sooner or later.
            let sent = std::io::Write::write_all(stream, b"x");
            sent.and_then(|()| stream.read_exact(&mut byte)).is_ok()
        })
        .filter(|&works| works)
        .count();
    (works, streams)
}

#[test]
fn no_port_left_is_counted_and_more_sources_help() {
    in_own_network(|| {
        let ground = Ground::new();
        let (server, other) = (Server::echo(&ground), Server::echo(&ground));
        let front = ground.address();
        few_ports();
        let mut ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));

        let (works, held) = echoing(front, 24, 20_000);
        assert_eq!(works, 16, "one for each port");
        let refused = ringway.metric("ringway_server_connects_total", &[("result", "no_ports")]);
        assert!(refused >= 8.0, "{refused}");
        ringway.await_ended("no_ports", 8.0);
        assert_eq!(ringway.record("no_ports")["code"], "RC");
        ringway.must_live();
        // With a reset, or the ports would wait a minute for late segments (TIME_WAIT).
        held.into_iter().for_each(reset);
        await_that("all to end", || ringway.sessions() == 0.0);

        // Two sources have twice the ports.
        let sources = "source = [\"127.0.0.77\", \"127.0.0.78\"]";
        ringway.reload_with(&one_pool(front, &[server.address()], sources));
        let (works, held) = echoing(front, 30, 21_000);
        assert_eq!(works, 30);
        held.into_iter().for_each(reset);
        await_that("all to end", || ringway.sessions() == 0.0);

        // So has a second server.
        ringway.reload_with(&one_pool(front, &[server.address(), other.address()], ""));
        let (works, held) = echoing(front, 30, 22_000);
        assert_eq!(works, 30);
        held.into_iter().for_each(reset);
        ringway.end_well();
    });
}
