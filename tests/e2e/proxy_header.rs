//! Servers that are told whose connection it is (`send_proxy`): real nginx, HAProxy and MariaDB, and servers of our own that
//! insist on the header, the whole header and nothing before it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::gate::{error, greeting};
use crate::harness::certificates::Authority;
use crate::harness::facts::{await_that, http_over, lines_of};
use crate::harness::ground::{Ground, in_own_network, need};
use crate::harness::network::on_a_network;
use crate::harness::peers::{MariaDb, Nginx, Server, connect, echo, exchange, read_exactly, reset};
use crate::harness::process::Process;
use crate::harness::ringway::{Ringway, listener, one_pool, pool};

const VERSIONS: [&str; 2] = ["v1", "v2"];
/// Checks as quick as makes sense on a busy machine.
const QUICK: &str = "interval = \"60ms\", fast_interval = \"20ms\", timeout = \"5s\"";

/// What a header says; `None`: that of a connection without a client.
type Told = Option<(SocketAddr, SocketAddr)>;

/// Reads a header and not a byte more; an error if something else comes first.
fn hear_header(stream: &mut impl Read) -> io::Result<Told> {
    let no_header = || io::Error::other("no header");
    let mut begin = [0; 6];
    stream.read_exact(&mut begin)?;
    match &begin {
        b"PROXY " => {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                line.push(byte[0]);
            }
            let line = String::from_utf8(line).map_err(|_| no_header())?;
            let words: Vec<&str> = line.trim_end().split(' ').collect();
            let [family, from, to, from_port, to_port] = words[..] else {
                return if words == ["UNKNOWN"] { Ok(None) } else { Err(no_header()) };
            };
            let ends = [(from, from_port), (to, to_port)].map(|(ip, port)| {
                let ip: IpAddr = ip.parse().expect("an address");
                assert_eq!(family, if ip.is_ipv4() { "TCP4" } else { "TCP6" });
                SocketAddr::new(ip, port.parse().expect("a port"))
            });
            Ok(Some((ends[0], ends[1])))
        }
        b"\r\n\r\n\0\r" => {
            let mut rest = [0; 10];
            stream.read_exact(&mut rest)?;
            let [b'\n', b'Q', b'U', b'I', b'T', b'\n', command, family, high, low] = rest else {
                return Err(no_header());
            };
            let mut addresses = vec![0; usize::from(u16::from_be_bytes([high, low]))];
            stream.read_exact(&mut addresses)?;
            let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
            let four = |at: usize| <[u8; 4]>::try_from(&addresses[at..at + 4]).expect("four");
            let sixteen = |at: usize| <[u8; 16]>::try_from(&addresses[at..at + 16]).expect("sixteen");
            match (command, family, addresses.len()) {
                (0x20, 0, 0) => Ok(None),
                (0x21, 0x11, 12) => Ok(Some(((four(0), port(8)).into(), (four(4), port(10)).into()))),
                (0x21, 0x21, 36) => Ok(Some(((sixteen(0), port(32)).into(), (sixteen(16), port(34)).into()))),
                _ => Err(no_header()),
            }
        }
        _ => Err(no_header()),
    }
}

/// A server that wants a header first, tells who is said to have connected, as `source destination` and a line's end, and
/// echoes. Who brings no header gets nothing.
fn insists(mut stream: TcpStream) {
    let Ok(told) = hear_header(&mut stream) else { return };
    let line = told.map_or_else(|| "nobody\n".to_owned(), |(source, destination)| format!("{source} {destination}\n"));
    if stream.write_all(line.as_bytes()).is_ok() {
        echo(stream);
    }
}

/// The line of [`insists`], without its end.
fn line_of(stream: &mut impl Read) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a line to its end");
        line.push(byte[0]);
    }
    String::from_utf8(line).expect("UTF-8").trim_end().to_owned()
}

/// The line that tells the truth of a client's connection.
fn truth(client: &TcpStream) -> String {
    format!("{} {}", client.local_addr().expect("connected"), client.peer_addr().expect("connected"))
}

fn sends(version: &str) -> String {
    format!("send_proxy = \"{version}\"\n")
}

fn await_state(ringway: &Ringway, server: &str, state: &str) {
    ringway.await_metric("ringway_server_state", &[("server", server), ("state", state)], |is| is == 1.0);
}

/// HAProxy with these sections.
fn haproxy(ground: &Ground, sections: &str, ready: &[SocketAddr]) -> Process {
    need("haproxy");
    let config = ground.file("haproxy.cfg");
    let timeouts = "defaults\n timeout connect 20s\n timeout client 60s\n timeout server 60s\n";
    fs::write(&config, format!("{timeouts}{sections}")).expect("own directory");
    let mut command = Command::new("haproxy");
    let mut process = Process::start("haproxy", command.arg("-db").arg("-f").arg(&config), &ground.file("haproxy.out"));
    await_that("haproxy to serve", || {
        process.must_live();
        ready.iter().all(|address| TcpStream::connect(address).is_ok())
    });
    process
}

/// An address of this network's loopback device that nobody listens on.
fn address6() -> SocketAddr {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound")
}

/// What a web server says it was told, and the sizes of the request and of the answer.
fn web(mut stream: impl Read + Write) -> (String, usize) {
    let request = "GET / HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
    let (status, body) = http_over(&mut stream, "GET", "/").expect("an answer");
    assert_eq!(status, 200, "{body}");
    (body.trim().to_owned(), request.len())
}

#[test]
fn nginx_and_haproxy_learn_who_the_client_is() {
    in_own_network(|| {
        let ground = Ground::new();
        let [nginx, other, h] = [ground.address(), address6(), ground.address()];
        let said = "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port";
        let server = format!(
            "server {{ listen {nginx} proxy_protocol; listen {other} proxy_protocol; return 200 \"{said}\"; }}"
        );
        let _nginx = Nginx::start_with(&ground, "nginx", nginx, &server);
        let sections = format!(
            "listen h\n mode http\n bind {h} accept-proxy\n http-request return status 200 content-type text/plain \
             lf-string \"%[src] %[src_port] %[dst] %[dst_port]\"\n"
        );
        let _haproxy = haproxy(&ground, &sections, &[h]);

        let mut config = String::new();
        let mut fronts = Vec::new();
        for version in VERSIONS {
            for (name, server) in [("nginx", nginx), ("other", other), ("haproxy", h)] {
                let [four, six, unix] = [
                    ground.address().to_string(),
                    address6().to_string(),
                    format!("unix:{}", ground.file(&format!("{name}-{version}")).display()),
                ];
                let name = format!("{name}-{version}");
                let entry = format!("{{ name = \"s\", address = \"{server}\" }}");
                config += &format!(
                    "[listeners.{name}]\nbind = [\"{four}\", \"{six}\", \"{unix}\"]\npool = \"{name}\"\n\n{}",
                    pool(&name, &[entry], &sends(version))
                );
                fronts.push((name, [four, six, unix]));
            }
        }
        let ringway = Ringway::start(&ground, &config);
        for (name, [four, six, unix]) in &fronts {
            for front in [four, six] {
                let client = connect(front.parse().expect("an address"));
                let [from, to] = [client.local_addr(), client.peer_addr()].map(|end| end.expect("connected"));
                let expected = format!("{} {} {} {}", from.ip(), from.port(), to.ip(), to.port());
                let (told, length) = web(client);
                assert_eq!(told, expected, "{name} at {front}");
                let mine = |record: &serde_json::Value| record["client"] == from.to_string();
                await_that("a record", || ringway.records().iter().any(mine));
                let record = ringway.records().into_iter().find(mine).expect("it is there");
                assert_eq!(
                    record["bytes_in"].as_u64(),
                    Some(length as u64),
                    "the header is not the client's: {record}"
                );
            }
            // A client without an address: a server of the web goes by the connection it sees.
            let (told, _) = web(UnixStream::connect(unix.trim_start_matches("unix:")).expect("it listens"));
            match name.starts_with("haproxy") {
                true => assert!(told.ends_with(&format!("{} {}", h.ip(), h.port())), "{name}: {told}"),
                false => assert_eq!(told, "", "{name}"),
            }
        }
        let complaints = lines_of(&ground.file("nginx").join("error.log"));
        assert!(!complaints.iter().any(|line| line.contains("broken header")), "{complaints:?}");
        ringway.end_well();
    });
}

#[test]
fn the_header_comes_once_and_first_on_every_connection() {
    let ground = Ground::new();
    let server = Server::new(&ground, insists);
    let fronts = [ground.address(), ground.address()];
    let entry = [format!("{{ name = \"s\", address = \"{}\" }}", server.address())];
    let config: String = VERSIONS
        .iter()
        .zip(fronts)
        .map(|(version, front)| {
            listener(version, &front.to_string(), version) + &pool(version, &entry, &sends(version))
        })
        .collect();
    let ringway = Ringway::start(&ground, &config);
    for front in fronts {
        // Who ends with a reset leaves a socket for the next.
        for turn in 0..40 {
            let mut client = connect(front);
            let is_early = turn % 2 == 0;
            if is_early {
                client.write_all(b"hello").expect("connected");
            }
            assert_eq!(line_of(&mut client), truth(&client), "turn {turn}");
            if is_early {
                assert_eq!(read_exactly(&mut client, 5).expect("an echo"), b"hello");
            }
            assert_eq!(exchange(&mut client, b"PROXY TCP4").expect("an echo"), b"PROXY TCP4");
            reset(client);
        }
        // A client that has said all before anybody is connected.
        let mut client = connect(front);
        let truth = truth(&client);
        client.write_all(&[b'x'; 100_000]).expect("connected");
        client.shutdown(std::net::Shutdown::Write).expect("connected");
        assert_eq!(line_of(&mut client), truth);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).expect("a clean end");
        assert!(rest == [b'x'; 100_000], "{} bytes", rest.len());
    }
    let records = ringway.await_records(82);
    let sizes: BTreeSet<u64> = records.iter().filter_map(|record| record["bytes_in"].as_u64()).collect();
    assert_eq!(sizes, BTreeSet::from([10, 15, 100_000]), "bytes of clients");
    ringway.end_well();
}

#[test]
fn another_server_gets_it_too_and_in_one_piece_with_the_first_words() {
    let ground = Ground::new();
    let gone = ground.address();
    let first = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&first);
    // What comes with the first read is what came in one segment, or in more; never in less.
    let server = Server::new(&ground, move |mut stream| {
        let mut bytes = vec![0; 4096];
        let Ok(count) = stream.read(&mut bytes) else { return };
        seen.lock().expect("no panic").push(bytes[..count].to_vec());
        let mut rest = &bytes[..count];
        let Ok(told) = hear_header(&mut rest) else { return };
        if told.is_some() && stream.write_all(rest).is_ok() {
            echo(stream);
        }
    });
    for version in VERSIONS {
        let front = ground.address();
        let entries = [
            format!("{{ name = \"gone\", address = \"{gone}\" }}"),
            format!("{{ name = \"s\", address = \"{}\", max_connections = 1 }}", server.address()),
        ];
        let lines = "policy = \"first\"\neject = \"off\"\nqueue = { limit = 5, timeout = \"1m\" }\n";
        let config = listener("front", &front.to_string(), "pool") + &pool("pool", &entries, &(sends(version) + lines));
        let ringway = Ringway::start(&ground, &config);
        let mut holder = connect(front);
        assert_eq!(exchange(&mut holder, b"mine").expect("an echo"), b"mine");
        // He waits, behind a server that is gone and one that is full, and has spoken by the time it is not.
        let mut waits = connect(front);
        waits.write_all(b"hello").expect("connected");
        ringway.await_metric("ringway_queue_sessions", &[], |waiting| waiting == 1.0);
        drop(holder);
        assert_eq!(read_exactly(&mut waits, 5).expect("an echo"), b"hello");
        drop(waits);
        let heard = std::mem::take(&mut *first.lock().expect("no panic"));
        assert_eq!(heard.len(), 2, "{heard:?}");
        assert!(heard[1].ends_with(b"hello"), "in one piece: {heard:?}");
        let records = ringway.await_records(2);
        assert!(records.iter().all(|record| record["attempts"] == 2 && record["server"] == "s"), "{records:?}");
        ringway.end_well();
    }
}

#[test]
fn servers_that_speak_first_hear_it_before() {
    let ground = Ground::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    // Each says nothing before it has its header.
    let after = |words: Vec<u8>, goes_on: bool| {
        let heard = Arc::clone(&heard);
        Server::new(&ground, move |mut stream| {
            let Ok(Some((source, _))) = hear_header(&mut stream) else { return };
            heard.lock().expect("no panic").push(source);
            if stream.write_all(&words).is_ok() && goes_on {
                echo(stream);
            }
        })
    };
    let (full, curt, right) = (after(error(1040), false), after(Vec::new(), false), after(greeting(), true));
    for version in VERSIONS {
        let front = ground.address();
        let servers = [full.address(), curt.address(), right.address()];
        let lines = "kind = \"mysql\"\npolicy = \"first\"\ncheck = \"off\"\n";
        let ringway = Ringway::start(&ground, &one_pool(front, &servers, &(sends(version) + lines)));
        let mut client = connect(front);
        // Said too soon, it waits until the server has greeted.
        client.write_all(b"hello").expect("connected");
        assert_eq!(read_exactly(&mut client, greeting().len()).expect("a greeting"), greeting());
        assert_eq!(read_exactly(&mut client, 5).expect("an echo"), b"hello");
        assert_eq!(exchange(&mut client, b"more").expect("an echo"), b"more");
        let source = client.local_addr().expect("connected");
        assert_eq!(std::mem::take(&mut *heard.lock().expect("no panic")), [source; 3], "each once");
        drop(client);
        let record = ringway.record("done");
        assert_eq!((&record["attempts"], &record["bytes_in"]), (&3.into(), &9.into()), "{record}");
        ringway.end_well();
    }
}

/// USER() is part of who somebody is to MariaDB, which takes a header from those it trusts.
#[test]
fn mariadb_knows_its_clients_by_their_own_addresses() {
    on_a_network(|net| {
        let ground = Ground::new();
        let mut command = Command::new("mariadbd");
        command.args(["--no-defaults", "--skip-name-resolve", "--proxy-protocol-networks=127.0.0.0/8"]);
        let db = MariaDb::start_at(&ground, "db", ground.address(), &mut command);
        db.sql("CREATE USER lb@'%'; GRANT REPLICA MONITOR ON *.* TO lb@'%'");
        // In front of it somebody who lets nobody in without a header, and sends one of his own.
        let strict = ground.address();
        let sections = format!(
            "listen strict\n mode tcp\n bind {strict} accept-proxy\n server db {} send-proxy-v2\n",
            db.address()
        );
        let _haproxy = haproxy(&ground, &sections, &[strict]);
        for (turn, version) in VERSIONS.iter().enumerate() {
            let fronts = [0, 10].map(|more| net.balancer.port(3306 + more + u16::try_from(turn).expect("few")));
            let mut config = String::new();
            for (front, (name, server)) in fronts.iter().zip([("plain", db.address()), ("strict", strict)]) {
                let lines = format!(
                    "kind = \"mysql\"\ncheck = {{ type = \"mysql\", user = \"lb\", {QUICK} }}\n{}",
                    sends(version)
                );
                config += &format!(
                    "[listeners.{name}]\nbind = \"{front}\"\npool = \"{name}\"\nrole = \"primary\"\n\n{}",
                    pool(name, &[format!("{{ name = \"{name}\", address = \"{server}\" }}")], &lines)
                );
            }
            let ringway = Ringway::start(&ground, &config);
            for (name, front) in ["plain", "strict"].iter().zip(fronts) {
                ringway.await_metric("ringway_server_role", &[("server", *name), ("role", "primary")], |primary| {
                    primary == 1.0
                });
                let sql = "SELECT USER(), (SELECT HOST FROM information_schema.PROCESSLIST WHERE ID = CONNECTION_ID())";
                let said = net.client.inside(|| crate::mysql::mysql(front, sql));
                let (user, host) = said.split_once('\t').expect("two columns");
                assert_eq!(user, format!("app@{}", net.client.port(0).ip()), "{version} {name}");
                // Its port, too.
                let port = |address: &str| address.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
                let record = ringway.await_records(if *name == "plain" { 1 } else { 2 }).pop().expect("there is one");
                assert_eq!(port(host), port(record["client"].as_str().expect("a client")), "{host} {record}");
                assert!(host.starts_with(&net.client.port(0).ip().to_string()), "{host}");
            }
            // The check's own connections are ringway's, and none of them was broken off.
            let checks = db.sql(
                "SELECT DISTINCT SUBSTRING_INDEX(HOST, ':', 1) FROM information_schema.PROCESSLIST WHERE USER = 'lb'",
            );
            assert!(checks.lines().all(|host| host.starts_with("127.")), "{checks}");
            assert_eq!(ringway.metric("ringway_greeting_errors_total", &[]), 0.0);
            let metrics = ringway.metrics();
            let checks = |labels| metrics.sum("ringway_check_total", labels);
            assert_eq!(checks(&[]), checks(&[("result", "ok")]), "{version}");
            ringway.end_well();
        }
        assert_eq!(db.sql("SHOW GLOBAL STATUS LIKE 'Aborted_connects'"), "Aborted_connects\t0");
    });
}

#[test]
fn checks_of_every_kind_send_it() {
    let ground = Ground::new();
    let heard: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let seen = Arc::clone(&heard);
    // Says what it heard of the check's connection. One that only wants to know whether somebody accepts may be gone by now.
    let strict = Server::new(&ground, move |mut stream| {
        let peer = stream.peer_addr();
        let told = match hear_header(&mut stream) {
            Ok(None) => "own".to_owned(),
            Ok(Some((source, _))) if peer.as_ref().is_ok_and(|peer| *peer == source) => "own address".to_owned(),
            _ if peer.is_err() => return,
            other => format!("{other:?}"),
        };
        // The end of the check's connection is not the matter.
        let _ = stream.write_all(b"+READY\r\n");
        seen.lock().expect("no panic").insert(told);
    });
    let ours = Authority::new(&ground, "ours");
    let (base, secure, plain, unaware) = (ground.address(), ground.address(), ground.address(), ground.address());
    let issued = ours.issue(&["DNS:a.example.com"], 30);
    let _web = Nginx::start_secure(
        &ground,
        "web",
        base,
        &[(
            format!(
                "listen {secure} ssl proxy_protocol; listen {plain} proxy_protocol; listen {unaware}; return 200 a;"
            ),
            Some(&issued),
        )],
    );
    let tls = format!("tls = true, sni = \"a.example.com\", verify = \"{}\"", ours.file().display());
    let mut config = listener("front", &ground.address().to_string(), "tcp-v1");
    for version in VERSIONS {
        for (kind, address, check) in [
            ("tcp", strict.address(), "type = \"tcp\"".to_owned()),
            ("said", strict.address(), "type = \"send-expect\", expect = \"+READY\"".to_owned()),
            ("http", plain, "type = \"http\"".to_owned()),
            ("https", secure, format!("type = \"http\", {tls}")),
            // Elsewhere nobody is told, unless that is wanted.
            ("elsewhere", plain, format!("type = \"http\", port = {}", unaware.port())),
            ("told", unaware, format!("type = \"http\", port = {}, send_proxy = \"{version}\"", plain.port())),
        ] {
            let name = format!("{kind}-{version}");
            let entry = format!("{{ name = \"{name}\", address = \"{address}\" }}");
            let lines = format!("check = {{ {check}, {QUICK} }}\n{}", sends(version));
            config += &pool(&name, &[entry], &lines);
        }
    }
    let names = config.lines().filter_map(|line| line.strip_prefix("[pools.")?.strip_suffix(']'));
    let names: Vec<String> = names.map(str::to_owned).collect();
    assert_eq!(names.len(), 12);
    let ringway = Ringway::start(&ground, &config);
    for name in &names {
        await_state(&ringway, name, "up");
    }
    await_that("checks in both versions", || heard.lock().expect("no panic").len() >= 2);
    let told: Vec<String> = heard.lock().expect("no panic").iter().cloned().collect();
    assert_eq!(told, ["own", "own address"], "LOCAL in version 2, the addresses themselves in version 1");
    let complaints = lines_of(&ground.file("web").join("error.log"));
    assert!(!complaints.iter().any(|line| line.contains("broken header")), "{complaints:?}");

    // Without it the same servers do not answer; the reload has them asked anew.
    let silent = config.replace("send_proxy = \"v1\"", "send_proxy = \"off\"");
    ringway.reload_with(&silent.replace("send_proxy = \"v2\"", "send_proxy = \"off\""));
    for name in ["said-v1", "http-v2", "https-v1", "told-v2"] {
        await_state(&ringway, name, "down");
    }
    ringway.reload_with(&config);
    for name in &names {
        await_state(&ringway, name, "up");
    }
    ringway.end_well();
}

#[test]
fn a_reload_is_for_those_who_come_after_it() {
    let ground = Ground::new();
    let server = Server::new(&ground, |mut stream| {
        // Whatever comes is told, a header or what a client says.
        let mut first = [0; 6];
        if stream.read_exact(&mut first).is_ok() && stream.write_all(&first).is_ok() {
            echo(stream);
        }
    });
    let front = ground.address();
    let config = |version: &str| one_pool(front, &[server.address()], &sends(version));
    let ringway = Ringway::start(&ground, &config("off"));
    let mut old = connect(front);
    assert_eq!(exchange(&mut old, b"before").expect("an echo"), b"before");
    ringway.write_config(&config("v1"));
    let plan = ringway.done(&["plan"]);
    assert_eq!(plan, "~ pool pool: send_proxy \"off\" → \"v1\"\n");
    ringway.reload_with(&config("v1"));
    assert_eq!(read_exactly(&mut connect(front), 6).expect("its first words"), b"PROXY ");
    assert_eq!(exchange(&mut old, b"PROXY?").expect("an echo"), b"PROXY?");
    ringway.reload_with(&config("off"));
    let mut new = connect(front);
    assert_eq!(exchange(&mut new, b"after ").expect("an echo"), b"after ");
    drop((old, new));
    ringway.end_well();
}

/// Servers that have a second port which wants the header.
#[test]
fn with_a_second_port_it_is_turned_on_without_a_failure() {
    let ground = Ground::new();
    let [plain, told] = [ground.address(), ground.address()];
    let server =
        format!("server {{ listen {plain}; listen {told} proxy_protocol; return 200 \"$proxy_protocol_addr\"; }}");
    let _nginx = Nginx::start_with(&ground, "nginx", plain, &server);
    let front = ground.address();
    let config = |address: SocketAddr, version: &str| {
        let lines = format!("check = {{ type = \"http\", {QUICK} }}\n{}", sends(version));
        listener("front", &front.to_string(), "pool")
            + &pool("pool", &[format!("{{ name = \"s\", address = \"{address}\" }}")], &lines)
    };
    let ringway = Ringway::start(&ground, &config(plain, "off"));
    await_state(&ringway, "s", "up");
    // Before, meanwhile, and a good while after the server has first heard a header.
    let answered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&answered);
    let asking = std::thread::spawn(move || {
        let mut answers = Vec::new();
        while answers.iter().filter(|answer| *answer == "127.0.0.1").count() < 100 && answers.len() < 100_000 {
            answers.push(web(connect(front)).0);
            count.store(answers.len(), Ordering::SeqCst);
        }
        answers
    });
    await_that("answers before the reload", || answered.load(Ordering::SeqCst) >= 20);
    ringway.reload_with(&config(told, "v2"));
    let answers = asking.join().expect("every request has an answer");
    let ends = [answers.first(), answers.last()].map(|answer| answer.map(String::as_str));
    assert_eq!(ends, [Some(""), Some("127.0.0.1")]);
    ringway.end_well();
}

/// Where no record is kept nobody else asks for the address of a client.
#[test]
fn without_a_log_the_client_is_known_all_the_same() {
    let ground = Ground::new();
    let server = Server::new(&ground, insists);
    let front = ground.address();
    let ringway = crate::harness::ringway::Setup::on(&ground).log("access = false").start(&one_pool(
        front,
        &[server.address()],
        &sends("v2"),
    ));
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let IpAddr::V4(ip) = front.ip() else { panic!("{front} is IPv4") };
    let [a, b, c, d] = ip.octets();
    socket.bind(&SocketAddr::from((Ipv4Addr::new(a, b, c, d ^ 1), 0)).into()).expect("an address of loopback");
    socket.connect(&front.into()).expect("it listens");
    let mut client: TcpStream = socket.into();
    assert_eq!(line_of(&mut client), truth(&client));
    drop(client);
    ringway.end_well();
}
