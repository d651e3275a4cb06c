//! Links that lose, delay or refuse.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::harness::facts::{PATIENCE, await_that, cpu_of};
use crate::harness::ground::Ground;
use crate::harness::invariants::Baseline;
use crate::harness::network::{Network, on_a_network};
use crate::harness::noise::both_ways;
use crate::harness::peers::{connect, end_of, exchange, reset, try_connect};
use crate::harness::ringway::{Ringway, one_pool};

/// Where ringway listens in these tests.
const FRONT: u16 = 8000;

/// Gives back what it gets.
fn echo(mut stream: TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(got @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..got]).is_err() {
            return;
        }
    }
}

/// Sockets of the balancer towards a host that are not closed.
fn sockets_towards(net: &Network, host: SocketAddr) -> String {
    net.balancer.command("ss", &format!("-Htano dst {host}")).trim().to_owned()
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
        await_that("four endings", || ringway.ended("peer_vanished") == 4.0);
        assert_eq!(ringway.record("peer_vanished")["code"], "sD");
        await_that("no socket that sends again and again", || sockets_towards(net, server.address()).is_empty());

        net.one.let_all_in();
        exchange(&mut net.client.connect(front), b"x").expect("served again");
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
        ringway.await_metric("ringway_sessions_ended_total", &[("reason", "no_ports")], |count| count == 236.0);
        assert_eq!(ringway.record("no_ports")["code"], "RC");
        let (spent, length) = (cpu_of(ringway.pid()) - before, began.elapsed().max(Duration::from_secs(1)));
        assert!(spent < length / 5, "{spent:?} of CPU time in {length:?}");
        let told = ringway.events().iter().filter(|event| event.contains("no_ports")).count();
        assert!((1..=8).contains(&told), "{told} lines of log about one and the same");

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
        await_that("six clean ends", || ringway.ended("done") == 6.0);
        assert_eq!(ringway.metric("ringway_bytes_total", &[("direction", "in")]), 6.0 * (1 << 20) as f64);
        assert_eq!(ringway.metric("ringway_bytes_total", &[("direction", "out")]), 6.0 * (3 << 20) as f64);
        assert_eq!(ringway.metric("ringway_retries_total", &[]), 0.0);
        baseline.holds_again(&mut ringway);
    });
}
