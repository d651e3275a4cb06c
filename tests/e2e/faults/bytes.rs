//! Bytes and their end, between hosts: all of them, in order, with the end they had.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::{FRONT, say};
use crate::harness::facts::{PATIENCE, await_that};
use crate::harness::ground::Ground;
use crate::harness::invariants::Baseline;
use crate::harness::network::on_a_network;
use crate::harness::noise::{Dice, both_ways, read_noise, send_noise};
use crate::harness::peers::{connect, end_of, read_exactly, reset};
use crate::harness::ringway::{Ringway, one_pool};

const MIB: u64 = 1 << 20;
/// What is passed on at once, and not when some timeout is over, comes within this time on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// Reads what is left, which must be nothing but the peer's end, soon.
fn ends_soon(stream: &mut TcpStream) {
    let began = Instant::now();
    assert_eq!(end_of(stream), Ok(()));
    assert!(began.elapsed() < SOON, "a FIN {:?} after the last byte", began.elapsed());
}

/// Either side may finish first and still get everything, little (copied) or much (spliced), and no reset is seen on
/// any wire.
#[test]
fn t01_half_close_both_ways() {
    on_a_network(|net| {
        let ground = Ground::new();
        let (tell, told) = channel();
        // The first byte says who finishes first, the next eight how much the other side sends then.
        let server = net.one.serve(80, move |mut stream| {
            let said = read_exactly(&mut stream, 9).expect("the order");
            let bytes = u64::from_le_bytes(said[1..].try_into().expect("eight bytes"));
            let hash = if said[0] == b'c' {
                ends_soon(&mut stream);
                send_noise(&mut stream, bytes, bytes).expect("sent after the client's end")
            } else {
                stream.write_all(b"that is all").expect("sent");
                stream.shutdown(Shutdown::Write).expect("half closed");
                let hash = read_noise(&mut stream, bytes).expect("all of it after our end");
                ends_soon(&mut stream);
                hash
            };
            tell.send(hash).expect("a test that waits");
        });
        let front = net.balancer.port(FRONT);
        let mut ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
        let baseline = Baseline::of(&ringway);
        for host in [&net.client, &net.balancer, &net.one] {
            host.filter("tcp flags & rst == rst counter");
        }

        for bytes in [1, 10_000, 64 * MIB] {
            let mut client = net.client.connect(front);
            client.write_all(&[b"c".as_slice(), &bytes.to_le_bytes()].concat()).expect("the order");
            client.shutdown(Shutdown::Write).expect("half closed");
            let came = read_noise(&mut client, bytes).expect("all of it after our end");
            ends_soon(&mut client);
            assert_eq!(came, told.recv_timeout(PATIENCE).expect("the server"), "{bytes} bytes to the client");

            let mut client = net.client.connect(front);
            client.write_all(&[b"s".as_slice(), &bytes.to_le_bytes()].concat()).expect("the order");
            assert_eq!(read_exactly(&mut client, 11).expect("the server's last words"), b"that is all");
            ends_soon(&mut client);
            let sent = send_noise(&mut client, bytes, bytes).expect("sent after the server's end");
            drop(client);
            assert_eq!(sent, told.recv_timeout(PATIENCE).expect("the server"), "{bytes} bytes to the server");
        }
        ringway.await_ended("done", 6.0);
        for host in [&net.client, &net.balancer, &net.one] {
            assert_eq!(host.counted(), 0, "resets that arrived");
            host.let_all_in();
        }
        baseline.holds_again(&mut ringway);
    });
}

/// Whoever resets, in whatever state the transfer is, the other side sees a reset within a second, the slot is free, and
/// the record says who it was.
#[test]
fn t02_reset_propagation() {
    on_a_network(|net| {
        let ground = Ground::new();
        let (tell, told) = channel();
        let server = net.one.serve(80, move |mut stream| {
            let block = vec![7; 65_536];
            match read_exactly(&mut stream, 1).expect("the order")[0] {
                // Sends for ever; how it ended, and when.
                b'd' => {
                    while stream.write_all(&block).is_ok() {}
                    let _ = tell.send(Instant::now());
                }
                // Receives a while, then resets.
                b'u' => {
                    read_exactly(&mut stream, 4 << 20).expect("a part");
                    let _ = tell.send(Instant::now());
                    reset(stream);
                }
                // Has the last word.
                _ => {
                    stream.write_all(&block[..1000]).expect("sent");
                    reset(stream);
                }
            }
        });
        let front = net.balancer.port(FRONT);
        let mut ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
        let baseline = Baseline::of(&ringway);
        let ordered = |order: &[u8]| {
            let mut client = net.client.connect(front);
            client.write_all(order).expect("the order");
            client
        };
        let soon = |from: Instant, to: Instant| {
            let took = to.saturating_duration_since(from);
            assert!(took < SOON, "{took:?} for a reset to come through");
        };

        // The client, in the middle of a download.
        let mut client = ordered(b"d");
        read_exactly(&mut client, 4 << 20).expect("a part");
        let began = Instant::now();
        reset(client);
        soon(began, told.recv_timeout(PATIENCE).expect("the server was told"));

        // The client again, when it has not read for so long that everything stands still.
        let client = ordered(b"d");
        let moved = || ringway.metric("ringway_server_bytes_total", &[("direction", "out")]);
        let mut last = -1.0;
        await_that("the download to stand still", || {
            std::thread::sleep(Duration::from_millis(100));
            std::mem::replace(&mut last, moved()) == last
        });
        let began = Instant::now();
        reset(client);
        soon(began, told.recv_timeout(PATIENCE).expect("the server was told"));
        ringway.await_ended("client_reset", 2.0);
        assert_eq!(ringway.record("client_reset")["code"], "CD");

        // The server, in the middle of an upload.
        let mut client = ordered(b"u");
        let error = loop {
            if let Err(error) = client.write_all(&[7; 65_536]) {
                break error;
            }
        };
        soon(told.recv_timeout(PATIENCE).expect("the server"), Instant::now());
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");

        // The server, after its last words: they arrive, and the reset behind them.
        for _ in 0..50 {
            let mut client = ordered(b"w");
            read_exactly(&mut client, 1000).expect("what was said before the reset");
            assert_eq!(end_of(&mut client), Err(ErrorKind::ConnectionReset));
        }
        ringway.await_ended("server_reset", 51.0);
        assert_eq!(ringway.record("server_reset")["code"], "SD");
        baseline.holds_again(&mut ringway);
    });
}

/// Many sessions of random sizes at once, some with the smallest buffers there are: every byte is where it was, whoever
/// finishes first.
#[test]
fn t05_integrity_of_random_sizes() {
    const SESSIONS: u64 = 300;
    on_a_network(|net| {
        let ground = Ground::new();
        let (tell, told) = channel();
        // The order: a number, bytes up, bytes down, and the size of the server's send buffer.
        let server = net.one.serve(80, move |mut stream| {
            let order = read_exactly(&mut stream, 32).expect("the order");
            let order: Vec<u64> =
                order.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect();
            shrink(&stream, order[3]);
            let done = both_ways(stream, !order[0], order[2], order[1]).expect("the server's side");
            tell.send((order[0], done)).expect("a test that waits");
        });
        let front = net.balancer.port(FRONT);
        let mut ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
        let baseline = Baseline::of(&ringway);

        let one = |number: u64| {
            let mut dice = Dice::new(number);
            // Sizes of every magnitude. Small buffers wait 40 ms for each window smaller than a segment.
            let small = dice.below(4) == 0;
            let mut size = || match dice.below(if small { 17 } else { 22 }) {
                0 => 0,
                magnitude => (1 << magnitude) + dice.below(1 << magnitude),
            };
            let (up, down, buffer) = (size(), size(), if small { 4608 } else { 0 });
            let mut client = connect(front);
            shrink(&client, buffer);
            let order: Vec<u8> = [number, up, down, buffer].iter().flat_map(|word| word.to_le_bytes()).collect();
            client.write_all(&order).expect("the order");
            (number, both_ways(client, number, up, down).expect("the client's side"), up + down)
        };
        let clients: Vec<(u64, (u64, u64), u64)> = net.client.inside(|| {
            std::thread::scope(|scope| {
                let running: Vec<_> = (0..10)
                    .map(|first| scope.spawn(move || (first..SESSIONS).step_by(10).map(one).collect::<Vec<_>>()))
                    .collect();
                running.into_iter().flat_map(|client| client.join().expect("no panic")).collect()
            })
        });
        let servers: std::collections::BTreeMap<u64, (u64, u64)> =
            (0..SESSIONS).map(|_| told.recv_timeout(PATIENCE).expect("every server")).collect();
        for (number, (sent, came), _) in &clients {
            assert_eq!(servers[number], (*came, *sent), "session {number}");
        }
        let bytes: u64 = clients.iter().map(|(_, _, bytes)| bytes + 32).sum();
        ringway.await_ended("done", SESSIONS as f64);
        assert_eq!(ringway.metric("ringway_bytes_total", &[]), bytes as f64);
        baseline.holds_again(&mut ringway);
    });
}

/// Makes a socket's buffers small; 0 leaves them as they are.
fn shrink(stream: &TcpStream, bytes: u64) {
    if bytes > 0 {
        SockRef::from(stream).set_send_buffer_size(bytes as usize).expect("a socket");
    }
}

/// A server that speaks first does so at once, though the client says nothing: its side of the handshake is not held back
/// for a byte of the client's (a delayed ACK would take 40 ms or more each time). The real thing is in the tests of MySQL.
#[test]
fn t09_server_first() {
    on_a_network(|net| {
        let ground = Ground::new();
        let server = net.one.serve(80, say("welcome"));
        let front = net.balancer.port(FRONT);
        let mut ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
        let baseline = Baseline::of(&ringway);
        let mut quickest = Duration::MAX;
        for _ in 0..30 {
            let began = Instant::now();
            let mut client = net.client.connect(front);
            read_exactly(&mut client, 7).expect("a greeting to somebody silent");
            quickest = quickest.min(began.elapsed());
        }
        assert!(quickest < Duration::from_millis(20), "{quickest:?} for a greeting");
        let silent = ringway.await_records(30).iter().all(|record| record["bytes_in"] == 0);
        assert!(silent, "{:?}", ringway.records());
        baseline.holds_again(&mut ringway);
    });
}
