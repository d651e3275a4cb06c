//! The engine on io_uring by itself: what becomes of spare sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use super::*;
use crate::base::limits::SPARES_MAX;

const OPTIONS: ConnectOptions = ConnectOptions { source: None };

fn engine() -> Uring {
    Uring::new().unwrap_or_else(|refused| panic!("{refused}: {}", refused.remedy))
}

/// What the next event says of a connect.
fn answer(engine: &mut Uring) -> Result<(), Errno> {
    let (mut events, end) = (Vec::new(), Instant::now() + Duration::from_secs(10));
    while events.is_empty() {
        assert!(Instant::now() < end, "the connect has no answer");
        engine.wait(Some(100_000_000), &mut events).expect("it waits");
    }
    match events[..] {
        [Event::Connected { token: Token(7), result }] => result,
        _ => panic!("{events:?}"),
    }
}

/// Connects: the engine's end, and the far one.
fn connection(engine: &mut Uring, listener: &TcpListener, target: &SockAddr) -> (Sock, TcpStream) {
    let sock = engine.connect(target, OPTIONS, Token(7)).expect("a socket");
    assert_eq!(answer(engine), Ok(()));
    // The far end has it once the last acknowledgement is there.
    engine.acknowledge(sock);
    let (far, _) = listener.accept().expect("it has connected");
    (sock, far)
}

fn submit(engine: &mut Uring) {
    let mut events = Vec::new();
    engine.wait(Some(0), &mut events).expect("it waits");
    assert_eq!(events, []);
}

fn listen(host: &str) -> (TcpListener, SockAddr) {
    let listener = TcpListener::bind(host).expect("loopback");
    let target = SockAddr::from(listener.local_addr().expect("bound"));
    (listener, target)
}

#[test]
fn a_kept_socket_resets_its_connection_and_makes_the_next() {
    let mut engine = engine();
    for host in ["127.0.0.1:0", "[::1]:0"] {
        let (listener, target) = listen(host);
        let (first, mut far) = connection(&mut engine, &listener, &target);
        far.write_all(b"never read").expect("there is room");
        engine.spare(first, &target);
        // The next connect is requested before the disconnect is submitted.
        let (second, mut next) = connection(&mut engine, &listener, &target);
        assert_eq!(second, first);
        assert!(engine.spares.is_empty());
        let gone = far.read(&mut [0; 8]).expect_err("it was reset");
        assert_eq!(gone.kind(), ErrorKind::ConnectionReset);
        assert_eq!(engine.error(second), None);
        next.write_all(b"read").expect("there is room");
        let mut buffer = [0; 16];
        assert_eq!(engine.recv(second, &mut buffer), Ok(4), "loopback delivers at once");
        engine.close(second, Close::Clean);
        submit(&mut engine);
    }
}

#[test]
fn the_last_acknowledgement_is_held_back_by_a_spare_socket_too() {
    let (listener, target) = listen("127.0.0.1:0");
    listener.set_nonblocking(true).expect("a socket");
    // It is held back for 200 ms at most, which a busy machine may have spent elsewhere.
    assert!((0..20).any(|_| holds_back(&mut engine(), &listener, &target)));
    let mut engine = engine();
    holds_back(&mut engine, &listener, &target);
    assert!((0..20).any(|_| !engine.spares.is_empty() && holds_back(&mut engine, &listener, &target)));
}

/// Whether the far end of a connection has nothing to accept before the first bytes are there. Loopback delivers within the
/// call. The socket becomes a spare one.
fn holds_back(engine: &mut Uring, listener: &TcpListener, target: &SockAddr) -> bool {
    let sock = engine.connect(target, OPTIONS, Token(7)).expect("a socket");
    assert_eq!(answer(engine), Ok(()));
    let early = listener.accept();
    assert_eq!(engine.send(sock, b"first"), Ok(5));
    let held_back = early.is_err();
    early.or_else(|_| listener.accept()).expect("the acknowledgement has come along");
    engine.spare(sock, target);
    submit(engine);
    held_back
}

#[test]
fn so_many_are_kept_and_no_more() {
    let (mut engine, (listener, target)) = (engine(), listen("127.0.0.1:0"));
    let mut all: Vec<_> = (0..=SPARES_MAX).map(|_| connection(&mut engine, &listener, &target)).collect();
    for (sock, _) in &all {
        engine.spare(*sock, &target);
    }
    submit(&mut engine);
    for (_, far) in &mut all {
        let gone = far.read(&mut [0; 1]).expect_err("kept or not, it was reset");
        assert_eq!(gone.kind(), ErrorKind::ConnectionReset);
    }
    assert!(engine.spares.take(&SockAddr::unix("/nowhere").expect("a path")).is_none(), "not of another family");
    assert_eq!(std::iter::from_fn(|| engine.spares.take(&target)).count(), SPARES_MAX);
}

#[test]
fn one_that_cannot_be_disconnected_is_closed() {
    let (mut engine, (_listener, target)) = (engine(), listen("127.0.0.1:0"));
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let fd = std::os::fd::IntoRawFd::into_raw_fd(ours);
    // A unix socket refuses it; the engine is told that it is one of TCP.
    engine.spare(Sock(fd), &target);
    submit(&mut engine);
    assert!(engine.spares.is_empty());
    submit(&mut engine);
    assert_eq!(theirs.read(&mut [0; 1]).expect("an end"), 0, "it was closed");
}
