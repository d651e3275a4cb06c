//! Exact bytes: everything arrives, in order, to the end, and an end is told as the end it was.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use socket2::SockRef;

use crate::harness::facts::uninterrupted;
use crate::harness::ground::Ground;
use crate::harness::noise::{both_ways, read_noise, send_noise};
use crate::harness::peers::{Server, connect, end_of, exchange, read_exactly, reset};
use crate::harness::ringway::{Ringway, listener, one_pool, pool};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

#[test]
fn a_gibibyte_each_way_arrives_byte_for_byte() {
    let ground = Ground::new();
    let (tell, told) = channel();
    let server = Server::new(&ground, move |stream| {
        drop(tell.send(both_ways(stream, 0xfeed, GIB, GIB)));
    });
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));

    let (up, down) = both_ways(connect(front), 0xbeef, GIB, GIB).expect("the client's side");
    let (sent, came) = told.recv().expect("the server").expect("the server's side");
    assert_eq!(came, up, "from client to server");
    assert_eq!(down, sent, "from server to client");

    let record = ringway.record("done");
    assert_eq!(record["bytes_in"], GIB);
    assert_eq!(record["bytes_out"], GIB);
    assert_eq!(ringway.metric("ringway_bytes_total", &[]), 2.0 * GIB as f64);
    ringway.end_well();
}

#[test]
fn many_sessions_of_odd_sizes_at_once() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
    let sizes = [0, 1, 2, 1447, 16_383, 16_384, 16_385, 65_537, 262_145, 3 * MIB + 7];
    std::thread::scope(|scope| {
        for n in 0..40 {
            scope.spawn(move || {
                let stream = connect(front);
                let bytes = sizes[n % sizes.len()];
                if n % 3 == 0 && bytes < 20_000 {
                    // The smallest buffers the kernel gives: few writes of ringway's are taken whole. (More bytes take long:
                    // TCP waits 40 ms for every window that is smaller than a segment.)
                    SockRef::from(&stream).set_recv_buffer_size(1).expect("a socket");
                    SockRef::from(&stream).set_send_buffer_size(1).expect("a socket");
                }
                let (sent, came) = both_ways(stream, n as u64, bytes, bytes).expect("an echo");
                assert_eq!(sent, came, "{bytes} bytes");
            });
        }
    });
    ringway.await_ended("done", 40.0);
    ringway.end_well();
}

#[test]
fn the_client_may_finish_first() {
    let ground = Ground::new();
    let server = Server::new(&ground, |mut stream| {
        let mut request = Vec::new();
        stream.read_to_end(&mut request).expect("the client's end");
        assert_eq!(request, b"all of it");
        send_noise(&mut stream, 7, 8 * MIB).expect("the answer");
    });
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));

    let mut client = connect(front);
    client.write_all(b"all of it").expect("sent");
    client.shutdown(Shutdown::Write).expect("half closed");
    read_noise(&mut client, 8 * MIB).expect("the whole answer after our end");
    assert_eq!(end_of(&mut client), Ok(()));
    let record = ringway.record("done");
    assert_eq!(record["bytes_in"], 9);
    assert_eq!(record["bytes_out"], 8 * MIB);
    ringway.end_well();
}

#[test]
fn the_server_may_finish_first() {
    let ground = Ground::new();
    let (tell, told) = channel();
    let server = Server::new(&ground, move |mut stream| {
        stream.write_all(b"that is all").expect("sent");
        stream.shutdown(Shutdown::Write).expect("half closed");
        drop(tell.send(read_noise(&mut stream, 8 * MIB).and_then(|hash| {
            let end = uninterrupted(|| stream.read(&mut [0; 1]))?;
            Ok((hash, end))
        })));
    });
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));

    let mut client = connect(front);
    let mut said = Vec::new();
    client.read_to_end(&mut said).expect("the server's end");
    assert_eq!(said, b"that is all");
    let sent = send_noise(&mut client, 9, 8 * MIB).expect("sent after the server's end");
    drop(client);
    assert_eq!(told.recv().expect("the server").expect("its side"), (sent, 0));
    assert_eq!(ringway.record("done")["bytes_in"], 8 * MIB);
    ringway.end_well();
}

#[test]
fn a_reset_by_the_client_is_a_reset_for_the_server() {
    let ground = Ground::new();
    let (tell, told) = channel();
    let server = Server::new(&ground, move |mut stream| {
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).expect("the first bytes");
        stream.write_all(&bytes).expect("echoed");
        let _ = tell.send(end_of(&mut stream));
    });
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));

    let mut client = connect(front);
    exchange(&mut client, b"ping").expect("an echo");
    reset(client);
    let seen = told.recv().expect("the server");
    assert_eq!(seen, Err(ErrorKind::ConnectionReset));
    assert_eq!(ringway.record("client_reset")["code"], "CD");
    ringway.end_well();
}

#[test]
fn a_reset_by_the_server_is_a_reset_for_the_client() {
    let ground = Ground::new();
    let server = Server::new(&ground, |mut stream| {
        read_exactly(&mut stream, 4).expect("the first bytes");
        reset(stream);
    });
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));

    let mut client = connect(front);
    client.write_all(b"ping").expect("sent");
    assert_eq!(end_of(&mut client), Err(ErrorKind::ConnectionReset));
    assert_eq!(ringway.record("server_reset")["code"], "SD");
    ringway.end_well();
}

#[test]
fn a_reset_in_the_middle_of_bulk_is_no_clean_end() {
    let ground = Ground::new();
    let server = Server::new(&ground, |mut stream| {
        send_noise(&mut stream, 1, 4 * MIB).expect("the first part");
        reset(stream);
    });
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
    for _ in 0..10 {
        let mut client = connect(front);
        let mut got = Vec::new();
        let end = client.read_to_end(&mut got).map_err(|error| error.kind());
        assert_eq!(end, Err(ErrorKind::ConnectionReset), "after {} bytes", got.len());
    }
    ringway.await_ended("server_reset", 10.0);
    ringway.end_well();
}

#[test]
fn ipv6_and_unix_sockets_on_both_sides() {
    let ground = Ground::new();
    let free_v6 = || {
        let probe = std::net::TcpListener::bind("[::1]:0").expect("IPv6 on loopback");
        probe.local_addr().expect("bound")
    };
    let (front_v6, server_v6): (SocketAddr, SocketAddr) = (free_v6(), free_v6());
    let front_v4 = ground.address();
    let (front_unix, server_unix) = (ground.file("front.sock"), ground.file("server.sock"));

    let _six = Server::at(server_v6, |mut stream| drop(stream.write_all(b"six")));
    let accepting = UnixListener::bind(&server_unix).expect("own directory");
    std::thread::spawn(move || {
        for mut stream in accepting.incoming().flatten() {
            drop(stream.write_all(b"unix"));
        }
    });
    let unix = |path: &std::path::Path| format!("unix:{}", path.display());
    let config = format!(
        "[listeners.six]\nbind = [\"{front_v4}\", \"{front_v6}\", \"{}\"]\npool = \"six\"\n\n",
        unix(&front_unix)
    ) + &pool("six", &[format!("{{ name = \"six\", address = \"{server_v6}\" }}")], "")
        + &listener("local", &ground.address().to_string(), "local")
        + &pool("local", &[format!("{{ name = \"u\", address = \"{}\" }}", unix(&server_unix))], "");
    let local = config
        .split("[listeners.local]\nbind = \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .and_then(|address| address.parse().ok())
        .expect("as written above");
    let ringway = Ringway::start(&ground, &config);

    let all = |mut stream: TcpStream| {
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("the whole answer");
        said
    };
    assert_eq!(all(connect(front_v4)), "six");
    assert_eq!(all(connect(front_v6)), "six");
    assert_eq!(all(connect(local)), "unix");
    let mut client = UnixStream::connect(&front_unix).expect("a unix listener");
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    let mut said = String::new();
    client.read_to_string(&mut said).expect("the whole answer");
    assert_eq!(said, "six");
    drop(client);

    let clients: Vec<String> = ringway.await_records(4).iter().map(|record| record["client"].to_string()).collect();
    assert!(clients.iter().any(|client| client.contains("[::1]:")), "{clients:?}");
    ringway.end_well();
    assert!(!front_unix.exists(), "the socket file of a listener goes with the daemon");
}
