//! Crowds: of slow readers, of idle clients, of transfers that all want a pipe, and of clients nobody serves.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use super::{FRONT, say};
use crate::harness::facts::{await_that, cpu_by_thread, cpu_of, fds_of, http_get, status_of, uninterrupted};
use crate::harness::ground::{Ground, many_descriptors, need};
use crate::harness::invariants::Baseline;
use crate::harness::network::{Network, on_a_network};
use crate::harness::noise::{read_noise, send_noise};
use crate::harness::peers::{ask, connect, echo, end_of, exchange, read_exactly, reset, try_connect};
use crate::harness::ringway::{Ringway, Setup, all_of, listener, one_pool, pool};

/// Keeps the kernel's own buffers small, so that what is measured is ringway's.
fn small_kernel_buffers(net: &Network) {
    for host in [&net.client, &net.balancer, &net.one] {
        host.set("tcp_rmem", "4096 16384 65536");
        host.set("tcp_wmem", "4096 16384 65536");
    }
}

/// The front with one server, and beside it a quick one with another.
fn two_fronts(net: &Network, server: SocketAddr, quick: SocketAddr) -> (SocketAddr, SocketAddr, String) {
    let (front, beside) = (net.balancer.port(FRONT), net.balancer.port(FRONT + 1));
    let config = one_pool(front, &[server], "")
        + &listener("beside", &beside.to_string(), "beside")
        + &pool("beside", &[format!("{{ name = \"quick\", address = \"{quick}\" }}")], "");
    (front, beside, config)
}

/// Five hundred clients that have said all they have to say and read a kibibyte a second from servers that never stop: no
/// memory beyond a buffer for each direction, no thread of the kernel's that works for us, and others are served.
#[test]
fn t03_half_closed_slow_readers() {
    const READERS: u64 = 500;
    /// The copy buffer: the most a blocked direction may hold of ringway's own memory.
    const BUFFER_KIB: u64 = 16;
    many_descriptors();
    on_a_network(|net| {
        let ground = Ground::new();
        small_kernel_buffers(net);
        let endless = net.one.serve(80, |mut stream| {
            static BLOCK: [u8; 65_536] = [7; 65_536];
            while stream.write_all(&BLOCK).is_ok() {}
        });
        let quick = net.two.serve(80, echo);
        let (front, beside, config) = two_fronts(net, endless.address(), quick.address());
        let mut ringway = Ringway::start(&ground, &config);
        let pid = ringway.pid();
        let baseline = Baseline::of(&ringway);
        let memory = status_of(pid, "RssAnon");

        let mut readers: Vec<TcpStream> = net.client.inside(|| (0..READERS).map(|_| connect(front)).collect());
        for reader in &mut readers {
            SockRef::from(&*reader).set_recv_buffer_size(4096).expect("a socket");
            reader.shutdown(Shutdown::Write).expect("half closed");
            read_exactly(reader, 1024).expect("a first bite");
        }
        let mut visitor = net.client.connect(beside);
        let (began, before) = (Instant::now(), cpu_of(pid));
        for second in 1..=4 {
            for reader in &mut readers {
                read_exactly(reader, 1024).expect("the next bite");
            }
            while began.elapsed() < Duration::from_secs(second) {
                let asked = Instant::now();
                exchange(&mut visitor, b"beside them").expect("an echo");
                assert!(asked.elapsed() < Duration::from_secs(10), "{:?} for an echo beside them", asked.elapsed());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let (spent, length) = (cpu_of(pid) - before, began.elapsed());
        assert!(spent < length / 2, "{spent:?} of CPU time in {length:?}");
        let threads = cpu_by_thread(pid);
        assert!(!threads.keys().any(|name| name.starts_with("iou-wrk")), "{threads:?}");
        let grown = status_of(pid, "RssAnon").saturating_sub(memory);
        let most = READERS * 2 * BUFFER_KIB * 11 / 10;
        assert!(grown <= most, "{grown} KiB for {READERS} slow readers, {most} allowed");
        assert_eq!(ringway.sessions(), READERS as f64 + 1.0);

        drop(visitor);
        readers.into_iter().for_each(reset);
        baseline.holds_again(&mut ringway);
    });
}

/// As many idle clients as fit, and more: exactly `max_connections` are let in, the others are told at once, those inside
/// are served, and there are descriptors left for whoever wants to know what is going on.
#[test]
fn t07_idle_hoard() {
    need("prlimit");
    many_descriptors();
    on_a_network(|net| {
        let ground = Ground::new();
        // Its queues take them all, and nobody takes them out: no thread and no descriptor for each.
        let hoard = net.one.inside(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.bind(&net.one.port(80).into()).expect("a free port");
            socket.listen(4096).expect("a free port");
            socket
        });
        let quick = net.two.serve(80, echo);
        let (front, beside, config) = two_fronts(net, net.one.port(80), quick.address());
        let mut ringway = Setup::on(&ground).wrapped(&["prlimit", "--nofile=4096:4096"]).start(&config);
        let pid = ringway.pid();
        let baseline = Baseline::of(&ringway);
        let most = ringway.metric("ringway_max_connections", &[]);
        assert!((1000.0..2048.0).contains(&most), "{most} sessions of two descriptors each out of 4096");

        let mut inside = net.client.connect(beside);
        exchange(&mut inside, b"x").expect("an echo");
        let clients: Vec<TcpStream> =
            net.client.inside(|| (0..most as usize + 199).filter_map(|_| try_connect(front).ok()).collect());
        ringway.await_metric("ringway_listener_rejected_total", &[("reason", "max_connections")], |n| n == 200.0);
        // One that is handed to another worker takes its place at once, and is a session when that worker gets to it.
        ringway.await_metric("ringway_sessions", &[], |sessions| sessions == most);
        assert!(fds_of(pid) < 4096, "{} descriptors", fds_of(pid));
        exchange(&mut inside, b"x").expect("whoever is inside is served");
        for path in ["/metrics", "/livez", "/readyz", "/v1/status"] {
            let (status, body) = http_get(ringway.admin(), path).expect("an answer");
            assert_eq!(status, 200, "{path}: {body}");
        }
        let status = ringway.verb(&["status"]);
        assert!(status.status.success(), "{}", all_of(&status));
        let told = || ringway.events().iter().filter(|event| event.contains("\"event\":\"max_connections\"")).count();
        await_that("a word about it", || told() > 0);
        assert!(told() <= 6, "{} lines of log about one and the same", told());

        drop(clients);
        drop(hoard);
        ringway.await_metric("ringway_sessions", &[], |open| open == 1.0);
        exchange(&mut net.client.connect(beside), b"x").expect("there is room again");
        drop(inside);
        baseline.holds_again(&mut ringway);
    });
}

/// All servers are down: every client is told at once, no server is tried twice for one, and when one comes back it serves
/// the next client.
#[test]
fn t14_all_servers_down() {
    const CLIENTS: u64 = 200;
    on_a_network(|net| {
        let ground = Ground::new();
        let servers = [net.one.port(80), net.two.port(80)];
        let front = net.balancer.port(FRONT);
        let mut ringway = Ringway::start(&ground, &one_pool(front, &servers, "connect_attempts = 5"));
        let baseline = Baseline::of(&ringway);
        for host in [&net.one, &net.two] {
            host.filter("tcp flags & (syn | ack) == syn counter");
        }
        let (began, before) = (Instant::now(), cpu_of(ringway.pid()));
        net.client.inside(|| {
            for _ in 0..CLIENTS {
                // The reset may be there before the client looks.
                if let Ok(mut client) = try_connect(front) {
                    assert!(end_of(&mut client).is_err(), "a clean end");
                }
            }
        });
        let (spent, length) = (cpu_of(ringway.pid()) - before, began.elapsed().max(Duration::from_millis(500)));
        assert!(spent < length / 2, "{spent:?} of CPU time in {length:?}");
        for record in ringway.await_records(CLIENTS as usize) {
            assert_eq!((&record["reason"], &record["attempts"]), (&"connect_refused".into(), &2.into()), "{record}");
            assert!(record["total_ms"].as_u64().is_some_and(|ms| ms < 1000), "{record}");
        }
        for host in [&net.one, &net.two] {
            assert_eq!(host.counted(), CLIENTS, "one SYN a client and server");
            host.let_all_in();
        }
        let _back = net.two.serve(80, say("back"));
        for _ in 0..4 {
            assert_eq!(net.client.inside(|| ask(front)), "back");
        }
        baseline.holds_again(&mut ringway);
    });
}

/// More transfers than the kernel gives pipes to a user who is not root: the rest are copied, the bytes are right, and the
/// log says so without repeating itself.
#[test]
fn t19_pipes_run_out() {
    const TRANSFERS: u64 = 600;
    const BYTES: u64 = 1 << 19;
    many_descriptors();
    on_a_network(|net| {
        let ground = Ground::new();
        small_kernel_buffers(net);
        let server = net.one.serve(80, |mut stream| {
            send_noise(&mut stream, 19, BYTES).expect("a reader in the end");
        });
        let front = net.balancer.port(FRONT);
        let mut ringway = Setup::on(&ground)
            .global("workers = 2\nuser = \"nobody\"\ngroup = \"nogroup\"")
            .start(&one_pool(front, &[server.address()], ""));
        let baseline = Baseline::of(&ringway);
        let began = Instant::now();
        let clients: Vec<TcpStream> = net.client.inside(|| (0..TRANSFERS).map(|_| connect(front)).collect());
        // Nobody reads until all stand still and hold what they have.
        let said = || ringway.events().iter().filter(|event| event.contains("\"event\":\"no_pipes\"")).count();
        await_that("a warning", || said() > 0);
        let moved = || ringway.metric("ringway_bytes_total", &[("direction", "out")]);
        let mut last = -1.0;
        await_that("all to stand still", || {
            std::thread::sleep(Duration::from_millis(100));
            std::mem::replace(&mut last, moved()) == last && ringway.sessions() == TRANSFERS as f64
        });
        let used = ringway.metric("ringway_pipes", &[("state", "used")]);
        assert!((100.0..TRANSFERS as f64).contains(&used), "{used} pipes hold bytes");

        let expected = send_noise(&mut std::io::sink(), 19, BYTES).expect("nothing can fail");
        let mut groups: Vec<Vec<TcpStream>> = (0..8).map(|_| Vec::new()).collect();
        for (n, client) in clients.into_iter().enumerate() {
            groups[n % 8].push(client);
        }
        std::thread::scope(|scope| {
            for group in groups {
                scope.spawn(move || {
                    for mut client in group {
                        assert_eq!(read_noise(&mut client, BYTES).expect("all of it"), expected);
                        assert_eq!(uninterrupted(|| client.read(&mut [0])).expect("the end"), 0);
                    }
                });
            }
        });
        ringway.await_ended("done", TRANSFERS as f64);
        let most = 2 * (began.elapsed().as_secs() as usize + 1);
        assert!(said() <= most, "{} warnings by two workers, {most} allowed", said());
        baseline.holds_again(&mut ringway);
    });
}
