//! Links that lose, delay or refuse.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::{FRONT, say};
use crate::harness::facts::{PATIENCE, await_that, cpu_of, status_of};
use crate::harness::ground::Ground;
use crate::harness::invariants::Baseline;
use crate::harness::network::{Network, on_a_network};
use crate::harness::noise::both_ways;
use crate::harness::peers::{ask, connect, echo, end_of, exchange, reset, try_connect};
use crate::harness::ringway::{Ringway, listener, one_pool, pool};

/// Sockets of the balancer towards a host that are not closed.
fn sockets_towards(net: &Network, host: SocketAddr) -> String {
    net.balancer.command("ss", &format!("-Htano dst {host}")).trim().to_owned()
}

/// The way to one server is a hundred times too narrow: its client is held back, at no cost in memory or time, and whoever
/// goes to another server does not notice.
#[test]
fn t04_slow_server_link() {
    on_a_network(|net| {
        let ground = Ground::new();
        let sink = net.one.serve(80, |mut stream| while stream.read(&mut [0; 65_536]).is_ok_and(|got| got > 0) {});
        let other = net.two.serve(80, echo);
        let (front, quick) = (net.balancer.port(FRONT), net.balancer.port(FRONT + 1));
        let config = one_pool(front, &[sink.address()], "")
            + &listener("quick", &quick.to_string(), "quick")
            + &pool("quick", &[format!("{{ name = \"q\", address = \"{}\" }}", other.address())], "");
        let mut ringway = Ringway::start(&ground, &config);
        let baseline = Baseline::of(&ringway);
        let memory = status_of(ringway.pid(), "RssAnon");
        net.slow_towards(&net.one, "rate 256kbit burst 4kb latency 400ms");

        let mut client = net.client.connect(front);
        client.set_write_timeout(Some(Duration::from_secs(1))).expect("a socket");
        let (mut sent, most) = (0, 256 << 20);
        while sent < most {
            match client.write(&[7; 65_536]) {
                Ok(taken) => sent += taken,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("after {sent} bytes: {error}"),
            }
        }
        assert!(sent < most, "nobody held the client back");

        let (began, before) = (Instant::now(), cpu_of(ringway.pid()));
        let mut visitor = net.client.connect(quick);
        while began.elapsed() < Duration::from_secs(2) {
            let asked = Instant::now();
            exchange(&mut visitor, b"unaffected").expect("an echo");
            assert!(asked.elapsed() < Duration::from_secs(10), "{:?} for an echo beside it", asked.elapsed());
            std::thread::sleep(Duration::from_millis(5));
        }
        let (spent, length) = (cpu_of(ringway.pid()) - before, began.elapsed());
        assert!(spent < length / 4, "{spent:?} of CPU time in {length:?}");
        let grown = status_of(ringway.pid(), "RssAnon").saturating_sub(memory);
        assert!(grown < 5 * 1024, "{grown} KiB for one session that waits");
        reset(client);
        drop(visitor);
        baseline.holds_again(&mut ringway);
    });
}

/// A server that is no longer reached in the middle of a session: bytes under way to it are given up after
/// `user_timeout`, a silent session is found out by keepalive, and the kernel is left with nothing to send again.
#[test]
fn t10_established_black_hole() {
    on_a_network(|net| {
        let ground = Ground::new();
        let server = net.one.serve(80, echo);
        let front = net.balancer.port(FRONT);
        let lines = "user_timeout = \"1s\"\nkeepalive = { idle = \"1s\", interval = \"1s\", count = 1 }";
        let mut ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], lines));
        let baseline = Baseline::of(&ringway);
        let mut clients: Vec<TcpStream> = (0..4).map(|_| net.client.connect(front)).collect();
        // Keepalive and user timeout are set on sessions of a second's age.
        let began = Instant::now();
        await_that("sessions of some age", || {
            clients.iter_mut().for_each(|client| drop(exchange(client, b"x").expect("an echo")));
            began.elapsed() > Duration::from_millis(1200)
        });

        net.one.filter("ip saddr 10.77.2.1 drop");
        let began = Instant::now();
        for client in &mut clients[..2] {
            client.write_all(b"into the hole").expect("ringway takes it");
        }
        for client in &mut clients {
            assert_eq!(end_of(client), Err(ErrorKind::ConnectionReset), "a vanished server is no clean end");
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?} for a user_timeout of 1 s");
        ringway.await_ended("peer_vanished", 4.0);
        assert_eq!(ringway.record("peer_vanished")["code"], "sD");
        await_that("no socket that sends again and again", || sockets_towards(net, server.address()).is_empty());

        net.one.let_all_in();
        exchange(&mut net.client.connect(front), b"x").expect("served again");
        baseline.holds_again(&mut ringway);
    });
}

/// A host that does not answer at all costs one `connect_timeout` an attempt, never more attempts than are allowed, and
/// leaves no half-open connection.
#[test]
fn t11_syn_black_hole() {
    on_a_network(|net| {
        let ground = Ground::new();
        let alive = net.two.serve(80, say("alive"));
        let (front, dead) = (net.balancer.port(FRONT), net.balancer.port(FRONT + 1));
        let entries =
            |ports: [u16; 3]| ports.map(|n| format!("{{ name = \"d{n}\", address = \"{}\" }}", net.one.port(n)));
        let lines = "connect_timeout = \"300ms\"\nconnect_attempts = 2";
        let config = one_pool(front, &[net.one.port(80), alive.address()], lines)
            + &listener("dead", &dead.to_string(), "dead")
            + &pool("dead", &entries([80, 81, 82]), lines);
        let mut ringway = Ringway::start(&ground, &config);
        let baseline = Baseline::of(&ringway);
        net.one.filter("ip saddr 10.77.2.1 tcp flags & (syn | ack) == syn counter drop");

        for _ in 0..4 {
            assert_eq!(net.client.inside(|| ask(front)), "alive");
        }
        let timeouts = ringway.metric("ringway_server_connects_total", &[("server", "s0"), ("result", "timeout")]);
        assert!(timeouts >= 2.0, "{timeouts}");
        assert_eq!(ringway.metric("ringway_retries_total", &[("pool", "pool")]), timeouts);

        assert_eq!(net.client.inside(|| ask(dead)), "reset");
        let record = ringway.record("connect_timeout");
        assert_eq!((&record["code"], &record["attempts"]), (&"sC".into(), &2.into()), "{record}");
        let total_ms = record["total_ms"].as_u64().expect("a number");
        assert!((600..5_000).contains(&total_ms), "{total_ms} ms for two attempts of 300 ms");
        assert!(net.one.counted() as f64 >= timeouts + 2.0, "the filter met every attempt");
        await_that("no SYN that is sent again", || sockets_towards(net, net.one.port(80)).is_empty());

        net.one.let_all_in();
        baseline.holds_again(&mut ringway);
    });
}

/// Refusals of every kind a host, a router or a routing table can give: each is one failed attempt, another server
/// serves, and the client learns nothing of it.
#[test]
fn t12_refused_and_unreachable() {
    on_a_network(|net| {
        let ground = Ground::new();
        let (one, two) = (net.one.serve(80, say("one")), net.two.serve(80, say("two")));
        let front = net.balancer.port(FRONT);
        let mut ringway = Ringway::start(&ground, &one_pool(front, &[one.address(), two.address()], "eject = \"off\""));
        let baseline = Baseline::of(&ringway);
        // The kernel gives one ICMP error a second by default.
        net.one.set("icmp_ratelimit", "0");
        let filters = [
            ("reject with tcp reset", "refused"),
            ("reject with icmp port-unreachable", "refused"),
            ("reject with icmp host-unreachable", "unreachable"),
            ("reject with icmp net-unreachable", "unreachable"),
            ("reject with icmp admin-prohibited", "unreachable"),
        ];
        let routes = ["prohibit", "unreachable", "blackhole"];
        let failed =
            |result: &str| ringway.metric("ringway_server_connects_total", &[("server", "s0"), ("result", result)]);
        let passes_over = |why: &str, result: &str| {
            let (before, spent, began) = (failed(result), cpu_of(ringway.pid()), Instant::now());
            for _ in 0..6 {
                assert_eq!(net.client.inside(|| ask(front)), "two", "{why}");
            }
            assert!(failed(result) >= before + 2.0, "{why}: {} {result}, {before} before", failed(result));
            let (spent, length) = (cpu_of(ringway.pid()) - spent, began.elapsed().max(Duration::from_millis(500)));
            assert!(spent < length / 4, "{why}: {spent:?} of CPU time in {length:?}");
        };
        for (how, result) in filters {
            net.one.filter(&format!("ip saddr 10.77.2.1 meta l4proto tcp {how}"));
            passes_over(how, result);
            net.one.let_all_in();
        }
        for kind in routes {
            net.balancer.command("ip", &format!("route add {kind} {}", one.address().ip()));
            passes_over(kind, "unreachable");
            net.balancer.command("ip", &format!("route del {kind} {}", one.address().ip()));
        }
        let failures = ["refused", "unreachable"].map(failed).iter().sum::<f64>();
        assert_eq!(ringway.metric("ringway_retries_total", &[]), failures, "each tried again once");
        ringway.await_ended("done", 6.0 * 8.0);
        // All is well again, and nothing is held against the server.
        let names: Vec<String> = (0..4).map(|_| net.client.inside(|| ask(front))).collect();
        assert_eq!(names.iter().filter(|name| *name == "one").count(), 2, "{names:?}");
        baseline.holds_again(&mut ringway);
    });
}

/// Fewer ports to connect from than clients: those that find none are told so at once, at no cost, and when ports are
/// free again there is no trace of it.
#[test]
fn t13_ephemeral_ports_gone() {
    on_a_network(|net| {
        let ground = Ground::new();
        let server = net.one.serve(80, echo);
        let front = net.balancer.port(FRONT);
        net.balancer.set("ip_local_port_range", "50000 50063");
        let mut ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
        let baseline = Baseline::of(&ringway);

        let (began, before) = (Instant::now(), cpu_of(ringway.pid()));
        // The reset may be there before the client looks.
        let mut clients: Vec<TcpStream> =
            net.client.inside(|| (0..300).filter_map(|_| try_connect(front).ok()).collect());
        let served = clients.iter_mut().map(|client| exchange(client, b"x")).filter(Result::is_ok).count();
        assert_eq!(served, 64, "one for each port");
        ringway.await_ended("no_ports", 236.0);
        assert_eq!(ringway.record("no_ports")["code"], "RC");
        let (spent, length) = (cpu_of(ringway.pid()) - before, began.elapsed().max(Duration::from_secs(1)));
        assert!(spent < length / 5, "{spent:?} of CPU time in {length:?}");
        let told = || ringway.events().iter().filter(|event| event.contains("\"event\":\"no_ports\"")).count();
        await_that("a word about it", || told() > 0);
        assert!(told() <= 8, "{} lines of log about one and the same", told());

        // With a reset, or each port would wait a minute for late segments (TIME_WAIT).
        clients.into_iter().for_each(reset);
        await_that("all to end", || ringway.sessions() == 0.0);
        let mut clients: Vec<TcpStream> = (0..64).map(|_| net.client.connect(front)).collect();
        for client in &mut clients {
            exchange(client, b"x").expect("a port is free again");
        }
        clients.into_iter().for_each(reset);
        baseline.holds_again(&mut ringway);
    });
}

/// A server that comes and goes every 300 ms: no client notices, each is tried no more often than allowed, and the log
/// does not tell of every time.
#[test]
fn t35_flapping_server() {
    on_a_network(|net| {
        let ground = Ground::new();
        let (one, two) = (net.one.serve(80, say("one")), net.two.serve(80, say("two")));
        let front = net.balancer.port(FRONT);
        let lines = "connect_attempts = 2\nconnect_timeout = \"100ms\"";
        let mut ringway = Ringway::start(&ground, &one_pool(front, &[one.address(), two.address()], lines));
        let baseline = Baseline::of(&ringway);
        let told = ringway.events().len();

        let (flapping, met_both) = (AtomicBool::new(true), AtomicU32::new(0));
        let asking = || {
            let mut names = BTreeMap::new();
            while flapping.load(Ordering::SeqCst) {
                let known = names.len();
                *names.entry(ask(front)).or_insert(0) += 1;
                met_both.fetch_add(u32::from(known < 2 && names.len() == 2), Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(1));
            }
            names
        };
        let answers: Vec<BTreeMap<String, u32>> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..2).map(|_| scope.spawn(|| net.client.inside(asking))).collect();
            // One that flaps is soon ejected, and not seen again here.
            await_that("both clients to meet both servers", || met_both.load(Ordering::SeqCst) == 2);
            for how in ["reject with tcp reset", "drop"].iter().cycle().take(6) {
                std::thread::sleep(Duration::from_millis(300));
                // Only newcomers: a session that is cut is another fault.
                net.one.filter(&format!("ip saddr 10.77.2.1 tcp flags & (syn | ack) == syn {how}"));
                std::thread::sleep(Duration::from_millis(300));
                net.one.let_all_in();
            }
            flapping.store(false, Ordering::SeqCst);
            clients.into_iter().map(|client| client.join().expect("no panic")).collect()
        });
        for names in &answers {
            assert_eq!(names.keys().collect::<Vec<_>>(), ["one", "two"], "{answers:?}");
        }
        let sessions = ringway.metric("ringway_listener_accepted_total", &[]);
        let retries = ringway.metric("ringway_retries_total", &[]);
        assert!((1.0..=sessions).contains(&retries), "{retries} retries of {sessions} sessions");
        ringway.await_ended("done", sessions);
        let told = ringway.events().len() - told;
        assert!(told <= 12, "{told} lines of log beside the records");
        baseline.holds_again(&mut ringway);
    });
}

/// Three packets in a hundred are lost on their way to the balancer, on either side, and the way back to the client is
/// narrow: all of it arrives, and nobody is tried a second time for it.
#[test]
fn t47_loss_on_a_narrow_link() {
    on_a_network(|net| {
        let ground = Ground::new();
        let (tell, told) = channel();
        let server = net.one.serve(80, move |stream| {
            let _ = tell.send(both_ways(stream, 0xd0, 3 << 20, 1 << 20).map_err(|error| error.kind()));
        });
        let front = net.balancer.port(FRONT);
        let mut ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
        let baseline = Baseline::of(&ringway);
        net.slow_towards(&net.client, "rate 100mbit burst 32kb latency 50ms");
        net.balancer.filter("iifname { \"front\", \"back\" } numgen random mod 100 < 3 counter drop");

        let run = || both_ways(connect(front), 0x0b, 1 << 20, 3 << 20).expect("all of it, whatever is lost on the way");
        let clients: Vec<(u64, u64)> = net.client.inside(|| {
            std::thread::scope(|scope| {
                let running: Vec<_> = (0..6).map(|_| scope.spawn(run)).collect();
                running.into_iter().map(|client| client.join().expect("no panic")).collect()
            })
        });
        for (up, down) in clients {
            let (sent, came) = told.recv_timeout(PATIENCE).expect("the server").expect("its side");
            assert_eq!((came, down), (up, sent), "what came, and what was sent");
        }
        assert!(net.balancer.counted() > 30, "{} packets were lost", net.balancer.counted());
        net.balancer.let_all_in();
        ringway.await_ended("done", 6.0);
        assert_eq!(ringway.metric("ringway_bytes_total", &[("direction", "in")]), 6.0 * (1 << 20) as f64);
        assert_eq!(ringway.metric("ringway_bytes_total", &[("direction", "out")]), 6.0 * (3 << 20) as f64);
        assert_eq!(ringway.metric("ringway_retries_total", &[]), 0.0);
        baseline.holds_again(&mut ringway);
    });
}
