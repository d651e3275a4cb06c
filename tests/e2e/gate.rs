//! The greeting gate of `kind = "mysql"`: a server that cannot serve says so in its first packet, and the client never
//! hears of it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::facts::await_that;
use crate::harness::ground::{Ground, need};
use crate::harness::peers::{MariaDb, Server, ask, connect, echo, end_of, read_exactly, reset};
use crate::harness::ringway::{Ringway, all_of, listener, pool};
use crate::mysql::mysql;

/// The servers of one pool, in this order, the first that can serves.
fn gated(front: SocketAddr, servers: &[(&str, SocketAddr)], lines: &str) -> String {
    let entries: Vec<String> =
        servers.iter().map(|(name, address)| format!("{{ name = \"{name}\", address = \"{address}\" }}")).collect();
    let lines = format!("kind = \"mysql\"\npolicy = \"first\"\ncheck = \"off\"\n{lines}");
    listener("front", &front.to_string(), "db") + &pool("db", &entries, &lines)
}

/// A packet with sequence number 0.
fn packet(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_le_bytes();
    [&length[..3], &[0], payload].concat()
}

/// An error packet with this number.
pub fn error(number: u16) -> Vec<u8> {
    packet(&[&[0xff][..], &number.to_le_bytes(), b"#HY000no"].concat())
}

/// A greeting like MariaDB's.
pub fn greeting() -> Vec<u8> {
    packet(b"\x0a5.5.5-10.11.6-MariaDB\0\x01\0\0\0salt")
}

/// A server that says this first, and then echoes.
fn says(ground: &Ground, words: Vec<u8>) -> Server {
    Server::new(ground, move |mut stream| {
        if stream.write_all(&words).is_ok() {
            echo(stream);
        }
    })
}

/// A server that sends an error and hangs up, as MySQL does.
fn refuses(ground: &Ground, number: u16) -> Server {
    Server::new(ground, move |mut stream| drop(stream.write_all(&error(number))))
}

fn errors(ringway: &Ringway, server: &str, error: &str) -> f64 {
    ringway.metric("ringway_greeting_errors_total", &[("server", server), ("error", error)])
}

/// Takes all places of a MariaDB server: one more than `max_connections`, for its administrator's is kept free.
fn fill(db: &MariaDb, most: usize) -> Vec<TcpStream> {
    db.sql(&format!("SET GLOBAL max_connections = {most}; SET GLOBAL connect_timeout = 600"));
    let mut held = Vec::new();
    await_that("a server that is full", || {
        let mut stream = connect(db.address());
        let first = read_exactly(&mut stream, 5).expect("a greeting or an error");
        held.push(stream);
        assert!(held.len() < 10 * most, "it takes more and more");
        first[4] == 0xff
    });
    held
}

#[test]
fn a_full_mariadb_is_passed_over() {
    let ground = Ground::new();
    let (db1, db2) = (MariaDb::start(&ground, "db1"), MariaDb::start(&ground, "db2"));
    let front = ground.address();
    let config = gated(front, &[("db1", db1.address()), ("db2", db2.address())], "");
    let ringway = Ringway::start(&ground, &config);
    assert_eq!(mysql(front, "SELECT name FROM who"), "db1");

    let held = fill(&db1, 10);
    for _ in 0..10 {
        assert_eq!(mysql(front, "SELECT name FROM who"), "db2");
    }
    assert_eq!(errors(&ringway, "db1", "1040"), 10.0);
    assert_eq!(ringway.metric("ringway_greeting_errors_total", &[]), 10.0, "nothing else");
    assert_eq!(ringway.metric("ringway_retries_total", &[]), 10.0);
    let records = ringway.await_records(11);
    assert!(records[1..].iter().all(|record| record["server"] == "db2" && record["attempts"] == 2), "{records:?}");
    assert!(records.iter().all(|record| record["reason"] == "done"), "{records:?}");

    drop(held);
    await_that("db1 to serve again", || mysql(front, "SELECT name FROM who") == "db1");
    ringway.end_well();
}

#[test]
fn the_last_error_is_shown_to_the_client() {
    let ground = Ground::new();
    need("mariadb");
    let db = MariaDb::start(&ground, "db1");
    let gone = ground.address();
    let front = ground.address();
    // The one that is asked last does not even accept.
    let ringway = Ringway::start(&ground, &gated(front, &[("db1", db.address()), ("gone", gone)], ""));
    let _held = fill(&db, 10);
    let mut client = Command::new("mariadb");
    client
        .args(["--no-defaults", "--user=app", "--password=app", "--protocol=tcp", "-e", "SELECT 1"])
        .arg(format!("--host={}", front.ip()))
        .arg(format!("--port={}", front.port()));
    let said = client.output().expect("it is installed");
    assert!(!said.status.success());
    // The client library words it by its version.
    assert!(all_of(&said).contains("1040") && all_of(&said).contains("Too many connections"), "{}", all_of(&said));
    let record = ringway.record("connect_refused");
    assert_eq!((&record["attempts"], &record["server"]), (&2.into(), &"gone".into()), "the reason is the last try's");
    assert!(record["bytes_out"].as_u64() > Some(20) && record["connect_us"].is_null(), "{record}");
    ringway.end_well();
}

#[test]
fn whatever_is_no_greeting_sends_on() {
    let ground = Ground::new();
    let servers = [
        ("full", refuses(&ground, 1040)),
        ("stops", refuses(&ground, 1053)),
        ("blocks", refuses(&ground, 1129)),
        ("closes", Server::new(&ground, drop)),
        ("breaks-off", Server::new(&ground, |mut stream| drop(stream.write_all(&greeting()[..20])))),
        ("resets", Server::new(&ground, reset)),
        ("silent", says(&ground, Vec::new())),
        ("stammers", says(&ground, greeting()[..3].to_vec())),
        ("well", says(&ground, greeting())),
    ];
    let front = ground.address();
    let list: Vec<_> = servers.iter().map(|(name, server)| (*name, server.address())).collect();
    let ringway = Ringway::start(&ground, &gated(front, &list, "connect_attempts = 16\nconnect_timeout = \"300ms\""));
    let mut client = connect(front);
    // Early words do no harm: they go to the server that greets, and to no other.
    client.write_all(b"too early").expect("open");
    assert_eq!(read_exactly(&mut client, greeting().len()).expect("a greeting"), greeting());
    assert_eq!(read_exactly(&mut client, 9).expect("an echo"), b"too early");
    client.shutdown(Shutdown::Write).expect("open");
    assert_eq!(end_of(&mut client), Ok(()));

    for (server, error) in [
        ("full", "1040"),
        ("stops", "1053"),
        ("blocks", "1129"),
        ("closes", "closed"),
        ("breaks-off", "closed"),
        ("resets", "reset"),
        ("silent", "timeout"),
        ("stammers", "timeout"),
    ] {
        assert_eq!(errors(&ringway, server, error), 1.0, "{server}");
    }
    assert_eq!(ringway.metric("ringway_greeting_errors_total", &[]), 8.0, "one each");
    let record = ringway.record("done");
    assert_eq!((&record["attempts"], &record["server"], &record["bytes_in"]), (&9.into(), &"well".into(), &9.into()));
    ringway.end_well();
}

#[test]
fn who_finds_no_server_gets_the_last_packet_and_its_end() {
    let ground = Ground::new();
    let (full, stops) = (refuses(&ground, 1040), refuses(&ground, 1053));
    let silent = says(&ground, Vec::new());
    let (front, quiet) = (ground.address(), ground.address());
    let alone = gated(quiet, &[("silent", silent.address())], "connect_timeout = \"200ms\"");
    let config = gated(front, &[("full", full.address()), ("stops", stops.address())], "")
        + &alone
            .replace("listeners.front", "listeners.quiet")
            .replace("pools.db", "pools.quiet")
            .replace("pool = \"db\"", "pool = \"quiet\"");
    let ringway = Ringway::start(&ground, &config);
    for early in [false, true] {
        let mut client = connect(front);
        if early {
            client.write_all(b"too early").expect("open");
        }
        let mut said = Vec::new();
        client.read_to_end(&mut said).expect("an end, not a reset");
        assert_eq!(said, error(1053));
    }
    let records = ringway.await_records(2);
    for record in &records {
        assert_eq!((&record["reason"], &record["code"]), (&"greeting_refused".into(), &"SH".into()), "{record}");
        assert_eq!((&record["attempts"], &record["bytes_out"]), (&2.into(), &15.into()), "{record}");
    }
    assert_eq!(ask(quiet), "reset");
    assert_eq!(ringway.record("greeting_timeout")["code"], "sH");
    ringway.end_well();
}

#[test]
fn other_errors_and_other_protocols_are_passed_on() {
    let ground = Ground::new();
    let denies = refuses(&ground, 1130);
    let web = says(&ground, b"HTTP/1.0 400 Bad Request\r\n\r\n".to_vec());
    let well = says(&ground, greeting());
    let fronts = [ground.address(), ground.address()];
    let config = gated(fronts[0], &[("denies", denies.address()), ("well", well.address())], "")
        + &gated(fronts[1], &[("web", web.address())], "connect_timeout = \"1m\"")
            .replace("listeners.front", "listeners.web")
            .replace("pools.db", "pools.web")
            .replace("pool = \"db\"", "pool = \"web\"");
    let ringway = Ringway::start(&ground, &config);
    let mut client = connect(fronts[0]);
    let mut said = Vec::new();
    client.read_to_end(&mut said).expect("its end comes as it is");
    assert_eq!(said, error(1130));
    drop(client);
    assert_eq!(errors(&ringway, "denies", "other"), 1.0);
    assert_eq!(ringway.metric("ringway_retries_total", &[]), 0.0);

    let began = Instant::now();
    let answer = read_exactly(&mut connect(fronts[1]), 12).expect("what it says");
    assert_eq!(answer, b"HTTP/1.0 400");
    assert!(began.elapsed() < Duration::from_secs(30), "nobody waits for a packet that is none");
    ringway.end_well();
}

#[test]
fn a_greeting_in_pieces_is_shown_whole_and_the_relay_goes_on() {
    let ground = Ground::new();
    let server = Server::new(&ground, |mut stream| {
        stream.set_nodelay(true).expect("a socket");
        for byte in greeting() {
            if stream.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::yield_now();
        }
        echo(stream);
    });
    let front = ground.address();
    let ringway = Ringway::start(&ground, &gated(front, &[("db1", server.address())], ""));
    let mut client = connect(front);
    assert_eq!(read_exactly(&mut client, greeting().len()).expect("a greeting"), greeting());
    let much: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    let mut out = client.try_clone().expect("a second handle");
    let sender = std::thread::spawn({
        let much = much.clone();
        move || {
            out.write_all(&much).expect("open");
            out.shutdown(Shutdown::Write).expect("open");
        }
    });
    let mut back = Vec::new();
    client.read_to_end(&mut back).expect("a clean end");
    sender.join().expect("no panic");
    assert!(back == much, "{} bytes came back", back.len());
    let record = ringway.record("done");
    assert_eq!(record["bytes_out"], much.len() + greeting().len());
    ringway.end_well();
}
