//! Bounded: at every limit work is refused and counted, nothing grows, nothing spins, and it ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::harness::facts::{PATIENCE, await_that, cpu_of, status_of, uninterrupted, watch_for};
use crate::harness::ground::{Ground, need};
use crate::harness::peers::{Server, connect, exchange, try_connect};
use crate::harness::ringway::{Ringway, Setup, listener, one_pool, pool};

/// Opens connections without waiting for anything behind them.
fn open(front: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| connect(front)).collect()
}

#[test]
fn no_more_sessions_than_allowed() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let ringway =
        Setup::on(&ground).global("workers = 2\nmax_connections = 10").start(&one_pool(front, &[server.address()], ""));
    let mut held = open(front, 10);
    for client in &mut held {
        exchange(client, b"x").expect("within the limit");
    }
    for _ in 0..5 {
        let answer = try_connect(front).and_then(|mut more| exchange(&mut more, b"x"));
        assert!(answer.is_err(), "an eleventh session");
    }
    ringway.await_metric("ringway_listener_rejected_total", &[("reason", "max_connections")], |count| count == 5.0);
    for client in &mut held {
        exchange(client, b"x").expect("the ten are not touched");
    }
    held.pop();
    ringway.await_metric("ringway_sessions", &[], |open| open == 9.0);
    exchange(&mut connect(front), b"x").expect("room for one");
    drop(held);
    ringway.end_well();
}

#[test]
fn more_sessions_than_descriptors_is_refused_at_start() {
    let ground = Ground::new();
    need("prlimit");
    let (status, said) = Setup::on(&ground)
        .global("workers = 1\nmax_connections = 5000")
        .wrapped(&["prlimit", "--nofile=1024:1024"])
        .start_in_vain(&one_pool(ground.address(), &[ground.address()], ""));
    assert!(matches!(status.code(), Some(1 | 3)), "{status}\n{said}");
    assert!(said.contains("max_connections"), "{said}");
}

#[test]
fn a_slow_reader_stops_its_writer_and_nothing_else() {
    let ground = Ground::new();
    // Sends as long as anybody takes it.
    let endless = Server::new(&ground, |mut stream| {
        let block = vec![7_u8; 256 * 1024];
        while stream.write_all(&block).is_ok() {}
    });
    let server = Server::echo(&ground);
    let (front, other) = (ground.address(), ground.address());
    let config = one_pool(front, &[endless.address()], "")
        + &listener("other", &other.to_string(), "other")
        + &pool("other", &[format!("{{ name = \"e\", address = \"{}\" }}", server.address())], "");
    let mut ringway = Ringway::start(&ground, &config);
    let pid = ringway.pid();
    let rss_before = status_of(pid, "VmRSS");

    // Thirty that take a first bite and then nothing.
    let mut readers = open(front, 30);
    for reader in &mut readers {
        reader.read_exact(&mut [0; 4096]).expect("a first bite");
    }
    let moved = || ringway.metric("ringway_bytes_total", &[("listener", "front"), ("direction", "out")]);
    let mut last = -1.0;
    await_that("the writers to be stopped", || {
        std::thread::sleep(Duration::from_millis(200));
        let now = moved();
        let stopped = now == last;
        last = now;
        stopped
    });
    let (stopped_at, spent) = (last, cpu_of(pid));
    let began = Instant::now();
    watch_for(Duration::from_secs(2), || {
        exchange(&mut connect(other), b"others are served").expect("an echo");
    });
    let (spent, length) = (cpu_of(pid) - spent, began.elapsed());
    assert!(spent < length / 2, "{spent:?} of CPU time in {length:?}");
    assert_eq!(moved(), stopped_at, "nothing moves towards readers that do not read");
    let grown = status_of(pid, "VmRSS").saturating_sub(rss_before);
    assert!(grown < 30 * 64 + 8 * 1024, "{grown} KiB more for 30 sessions");

    // One wakes up and gets what it is owed.
    readers[0].read_exact(&mut vec![0; 8 << 20]).expect("more of the stream");
    ringway.must_live();
    drop(readers);
    ringway.end_well();
}

#[test]
fn silence_ends_a_session() {
    let ground = Ground::new();
    let (tell, told) = channel();
    let server = Server::new(&ground, move |mut stream| {
        let mut first = [0; 1];
        drop(stream.read_exact(&mut first));
        drop(stream.write_all(&first));
        let _ = tell.send(stream.read(&mut first).map_err(|error| error.kind()));
    });
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], "idle_timeout = \"1s\""));
    let mut client = connect(front);
    let began = Instant::now();
    exchange(&mut client, b"x").expect("an echo");
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest);
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    let record = ringway.record("idle_timeout");
    assert_eq!(record["code"], "cD");
    let seen = told.recv_timeout(PATIENCE).expect("the server was told too");
    assert!(matches!(seen, Ok(0) | Err(ErrorKind::ConnectionReset)), "{seen:?}");
    ringway.end_well();
}

#[test]
fn activity_in_one_direction_keeps_a_session() {
    let ground = Ground::new();
    let server = Server::new(&ground, |mut stream| {
        for _ in 0..15 {
            std::thread::sleep(Duration::from_millis(200));
            if stream.write_all(b".").is_err() {
                return;
            }
        }
    });
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], "idle_timeout = \"1s\""));
    let mut client = connect(front);
    let mut dots = String::new();
    client.read_to_string(&mut dots).expect("a clean end");
    assert_eq!(dots.len(), 15);
    drop(client);
    drop(ringway.record("done"));
    ringway.end_well();
}

#[test]
fn half_a_session_ends_too() {
    let ground = Ground::new();
    // Says it is done and then waits for ever.
    let server = Server::new(&ground, |mut stream| {
        drop(stream.shutdown(Shutdown::Write));
        drop(stream.read(&mut [0; 1]));
    });
    let front = ground.address();
    let lines = "idle_timeout = \"1h\"\nhalf_close_timeout = \"1s\"";
    let ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], lines));
    let mut client = connect(front);
    assert_eq!(uninterrupted(|| client.read(&mut [0; 1])).expect("the server's end"), 0);
    assert_eq!(ringway.record("half_close_timeout")["code"], "cL");
    drop(client);
    ringway.end_well();
}

#[test]
fn a_life_has_an_end() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], "max_lifetime = \"2s\""));
    let mut client = connect(front);
    let began = Instant::now();
    // Busy all the time: it is not idleness that ends it.
    while exchange(&mut client, b"x").is_ok() {
        assert!(began.elapsed() < Duration::from_secs(15), "the session outlived its lifetime");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(began.elapsed() >= Duration::from_millis(1700), "{:?}", began.elapsed());
    assert_eq!(ringway.record("lifetime")["code"], "LD");
    ringway.end_well();
}

#[test]
fn clients_that_leave_before_a_server_is_there() {
    let ground = Ground::new();
    let hole = crate::harness::peers::BlackHole::new(&ground);
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[hole.address()], "connect_timeout = \"5s\""));
    for _ in 0..20 {
        crate::harness::peers::reset(connect(front));
    }
    await_that("twenty endings", || ringway.ended("client_gone") + ringway.ended("connect_timeout") == 20.0);
    ringway.end_well();
}

#[test]
fn churn_leaves_nothing_behind() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let mut ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
    let churn = |count: usize| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(move || {
                    for n in 0..count {
                        let mut client = connect(front);
                        match n % 4 {
                            0 => {}
                            1 => drop(exchange(&mut client, b"x")),
                            2 => drop(client.shutdown(Shutdown::Both)),
                            _ => drop(client.write_all(&[0; 70_000])),
                        }
                        if n % 3 == 0 {
                            crate::harness::peers::reset(client);
                        }
                    }
                });
            }
        });
    };
    churn(500);
    ringway.settles();
    let rss = status_of(ringway.pid(), "VmRSS");
    churn(1500);
    ringway.settles();
    let grown = status_of(ringway.pid(), "VmRSS").saturating_sub(rss);
    assert!(grown < 6 * 1024, "{grown} KiB more after 6000 further connections");
    ringway.end_well();
}
