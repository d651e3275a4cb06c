//! Abuse of the admin sockets: T39.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::harness::facts::{PATIENCE, await_some, await_that, http_get, http_over, status_of};
use crate::harness::ground::{Ground, many_descriptors, need};
use crate::harness::invariants::Baseline;
use crate::harness::peers::{Server, connect, exchange, read_exactly};
use crate::harness::ringway::{Ringway, one_pool};

/// Whoever may look sends single bytes on a thousand connections, asks faster than anybody reads, and announces a gibibyte.
/// It is refused in words, costs little memory, and keeps out neither sessions nor whoever may do everything.
#[test]
fn t39_the_admin_port_is_abused() {
    const CROWD: usize = 1_000;
    many_descriptors();
    let ground = Ground::new();
    let server = Server::named_echo(&ground, "a");
    let front = ground.address();
    let mut ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
    let baseline = Baseline::of(&ringway);
    let before_kb = status_of(ringway.pid(), "RssAnon");
    let mut session = connect(front);
    read_exactly(&mut session, 1).expect("a name");
    let mut all_is_well = |what: &str| {
        exchange(&mut session, b"x").unwrap_or_else(|error| panic!("a session, with {what}: {error}"));
        let newcomer = read_exactly(&mut connect(front), 1).expect("a newcomer is served");
        assert_eq!(newcomer, b"a");
        let output = ringway.verb(&["status", "--json"]);
        assert!(output.status.success(), "the unix socket, with {what}");
    };

    let mut crowd: Vec<TcpStream> = (0..CROWD).map(|_| connect(ringway.admin())).collect();
    for byte in b"GET /metrics HTTP/1.1\r\nx: " {
        // Those whose time is up have been closed on.
        crowd.retain_mut(|stream| stream.write_all(&[*byte]).is_ok());
        all_is_well("a crowd that sends bytes");
    }
    let grown_kb = status_of(ringway.pid(), "RssAnon").saturating_sub(before_kb);
    assert!(grown_kb < 8 * 1024, "{grown_kb} kB for {CROWD} connections");
    drop(crowd);
    await_that("the crowd to be gone", || http_get(ringway.admin(), "/livez").is_ok_and(|(status, _)| status == 200));

    // Many ask for the largest answer there is, and read none of it.
    let deaf: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = connect(ringway.admin());
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("it fits");
            stream
        })
        .collect();
    all_is_well("a hundred that do not read");
    drop(deaf);

    // A body that is announced as a gibibyte, and one that does not say how long it is.
    for head in ["Content-Length: 1073741824", "Transfer-Encoding: chunked"] {
        let mut stream = UnixStream::connect(ringway.socket()).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        write!(stream, "POST /v1/kill HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n").expect("it fits");
        let chunk = [b"10000\r\n".as_slice(), &[b'x'; 65_536], b"\r\n"].concat();
        // It is answered long before the end, and then closed on.
        let sent = (0..64).take_while(|_| stream.write_all(&chunk).is_ok()).count();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let closed = matches!(&read, Err(error) if error.kind() == ErrorKind::ConnectionReset || error.kind() == ErrorKind::BrokenPipe);
        assert!(answer.starts_with("HTTP/1.1 413 ") || closed && sent < 64, "{head}: {sent}, {read:?}, {answer}");
    }

    let refused = await_some("requests to be refused", || {
        let flood =
            || (0..200).filter_map(|_| http_get(ringway.admin(), "/v1/info").ok()).find(|(status, _)| *status != 200);
        let others: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(flood)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        others.into_iter().flatten().next()
    });
    assert_eq!(refused.0, 429);
    let problem: serde_json::Value = serde_json::from_str(&refused.1).expect("JSON");
    assert_eq!((&problem["status"], &problem["title"]), (&429.into(), &"Too Many Requests".into()), "{problem}");
    for path in ["/livez", "/readyz"] {
        assert_eq!(http_get(ringway.admin(), path).expect("an answer").0, 200, "{path}");
    }
    all_is_well("a flood of requests");
    await_that("requests to be answered again", || {
        http_get(ringway.admin(), "/v1/info").is_ok_and(|(status, _)| status == 200)
    });
    drop(session);
    baseline.holds_again(&mut ringway);
    ringway.end_well();
}

/// Whoever is not its owner may not speak to the unix socket.
#[test]
fn t39_the_unix_socket_is_its_owners() {
    need("socat");
    let ground = Ground::new();
    let server = Server::named_echo(&ground, "a");
    let ringway = Ringway::start(&ground, &one_pool(ground.address(), &[server.address()], ""));
    // The directory may be entered: what refuses is the socket.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(ground.dir(), mode).expect("own directory");
    let ask = |uid: u32| {
        Command::new("socat")
            .args(["-u", "OPEN:/dev/null"])
            .arg(format!("UNIX-CONNECT:{}", ringway.socket().display()))
            .uid(uid)
            .stdin(Stdio::null())
            .output()
            .expect("socat")
    };
    let refused = ask(65_534);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("Permission denied"), "{said}");
    assert!(ask(0).status.success());
    let stream = UnixStream::connect(ringway.socket()).expect("it listens");
    assert_eq!(http_over(stream, "GET", "/livez").expect("an answer").0, 200);
    ringway.end_well();
}
