//! The engine on epoll by itself: every request answers once, every edge is told, and to nobody else.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::IntoRawFd;
use std::time::Instant;

use super::*;

const OPTIONS: ConnectOptions = ConnectOptions { source: None };

fn engine() -> Epoll {
    Epoll::new().expect("epoll is to be had")
}

/// A connection: the engine's end, and the peer's.
fn pair(listener: &TcpListener) -> (Sock, TcpStream) {
    let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (ours, _) = listener.accept().expect("one is queued");
    ours.set_nonblocking(true).expect("a socket");
    (Sock(ours.into_raw_fd()), peer)
}

fn loopback() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("loopback")
}

/// Events until there is one.
fn some(engine: &mut Epoll) -> Vec<Event> {
    let (mut events, end) = (Vec::new(), Instant::now() + Duration::from_secs(10));
    while events.is_empty() {
        assert!(Instant::now() < end, "nothing happens");
        engine.wait(Some(100_000_000), &mut events).expect("it waits");
    }
    events
}

/// Events that are there now.
fn now(engine: &mut Epoll) -> Vec<Event> {
    let mut events = Vec::new();
    engine.wait(Some(0), &mut events).expect("it waits");
    events
}

fn over(token: Token) -> Event {
    Event::Ready { token, readiness: Readiness::default(), more: false }
}

#[test]
fn a_cancelled_watch_answers_once_and_is_silent_then() {
    let (mut engine, listener) = (engine(), loopback());
    let (sock, mut peer) = pair(&listener);
    for interest in [Interest::Readable, Interest::Writable] {
        engine.watch(sock, interest, Token(7));
        engine.cancel(Request::Watch(interest), sock, Token(7));
        peer.write_all(b"x").expect("sent");
        assert_eq!(some(&mut engine), [over(Token(7))]);
        peer.write_all(b"x").expect("sent");
        assert_eq!(now(&mut engine), []);
    }
    // And it can be watched again, also in the turn in which it was cancelled.
    engine.watch(sock, Interest::Readable, Token(8));
    engine.cancel(Request::Watch(Interest::Readable), sock, Token(8));
    engine.watch(sock, Interest::Readable, Token(9));
    let events = some(&mut engine);
    assert_eq!(events[0], over(Token(8)));
    assert!(matches!(events[1], Event::Ready { token: Token(9), more: true, .. }), "{events:?}");
    engine.cancel(Request::Watch(Interest::Readable), sock, Token(9));
    engine.close(sock, Close::Clean);
    assert_eq!(now(&mut engine), [over(Token(9))]);
}

#[test]
fn each_direction_is_told_by_its_own_token_and_once_an_edge() {
    let (mut engine, listener) = (engine(), loopback());
    let (sock, mut peer) = pair(&listener);
    engine.watch(sock, Interest::Readable, Token(1));
    while engine.send(sock, &[0; 1 << 16]).is_ok() {}
    engine.watch(sock, Interest::Writable, Token(2));
    assert_eq!(now(&mut engine), []);
    peer.write_all(b"x").expect("sent");
    let readable = Readiness { readable: true, ..Readiness::default() };
    assert_eq!(some(&mut engine), [Event::Ready { token: Token(1), readiness: readable, more: true }]);
    assert_eq!(now(&mut engine), [], "an edge is told once");
    let reading = std::thread::spawn(move || {
        peer.set_nonblocking(true).expect("a socket");
        let (mut room, end) = ([0; 1 << 16], Instant::now() + Duration::from_millis(200));
        while Instant::now() < end {
            if peer.read(&mut room).is_err() {
                std::thread::yield_now();
            }
        }
        peer
    });
    let writable = Readiness { writable: true, ..Readiness::default() };
    assert_eq!(some(&mut engine), [Event::Ready { token: Token(2), readiness: writable, more: true }]);
    drop(reading.join().expect("the reader ends"));
    let events = some(&mut engine);
    assert!(
        events.iter().any(|event| matches!(event, Event::Ready { readiness: Readiness { ended: true, .. }, .. })),
        "{events:?}"
    );
    engine.close(sock, Close::Clean);
}

#[test]
fn a_connect_answers_once_whenever_it_is_cancelled() {
    let (mut engine, listener) = (engine(), loopback());
    let target = SockAddr::from(listener.local_addr().expect("bound"));
    let sock = engine.connect(&target, OPTIONS, Token(1)).expect("begun");
    engine.cancel(Request::Connect, sock, Token(1));
    let cancelled = Event::Connected { token: Token(1), result: Err(Errno::ECANCELED) };
    assert_eq!(some(&mut engine), [cancelled]);
    assert_eq!(now(&mut engine), []);
    engine.close(sock, Close::Clean);
    let sock = engine.connect(&target, OPTIONS, Token(2)).expect("begun");
    assert_eq!(some(&mut engine), [Event::Connected { token: Token(2), result: Ok(()) }]);
    engine.cancel(Request::Connect, sock, Token(2));
    assert_eq!(now(&mut engine), []);
    // The registration goes on to the watch.
    engine.watch(sock, Interest::Readable, Token(3));
    assert_eq!(now(&mut engine), []);
    drop(listener);
    assert!(matches!(some(&mut engine)[..], [Event::Ready { token: Token(3), .. }]));
    engine.close(sock, Close::Clean);
    let sock = engine.connect(&target, OPTIONS, Token(4)).expect("begun");
    assert_eq!(some(&mut engine), [Event::Connected { token: Token(4), result: Err(Errno::ECONNREFUSED) }]);
    engine.close(sock, Close::Clean);
    assert!(engine.connects.is_empty() && engine.leaving.is_empty());
}

#[test]
fn what_answers_at_once_is_told_by_the_next_wait() {
    let mut engine = engine();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("door");
    let missing = SockAddr::unix(&path).expect("a short path");
    let sock = engine.connect(&missing, OPTIONS, Token(1)).expect("begun");
    assert_eq!(now(&mut engine), [Event::Connected { token: Token(1), result: Err(Errno::ENOENT) }]);
    engine.close(sock, Close::Clean);
    let _listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
    let sock = engine.connect(&missing, OPTIONS, Token(2)).expect("begun");
    // It has answered, and the answer has not been read: cancelling comes too late.
    engine.cancel(Request::Connect, sock, Token(2));
    assert_eq!(now(&mut engine), [Event::Connected { token: Token(2), result: Ok(()) }]);
    assert_eq!(now(&mut engine), []);
    engine.close(sock, Close::Clean);
}

#[test]
fn whoever_takes_over_a_closed_sockets_number_hears_nothing_of_it() {
    let (mut engine, listener) = (engine(), loopback());
    let (sock, mut peer) = pair(&listener);
    engine.watch(sock, Interest::Readable, Token(1));
    engine.watch(sock, Interest::Writable, Token(2));
    peer.write_all(b"x").expect("sent");
    for (interest, token) in [(Interest::Readable, Token(1)), (Interest::Writable, Token(2))] {
        engine.cancel(Request::Watch(interest), sock, token);
    }
    engine.close(sock, Close::Reset);
    // Other tests open descriptors too: the number is taken as soon as it is free.
    let (other, mut its_peer) = pair(&listener);
    engine.watch(other, Interest::Readable, Token(3));
    its_peer.write_all(b"x").expect("sent");
    let mut events = some(&mut engine);
    assert_eq!(events.drain(..2).collect::<Vec<_>>(), [over(Token(1)), over(Token(2))]);
    events.extend(now(&mut engine));
    assert!(matches!(events[..], [Event::Ready { token: Token(3), more: true, .. }]), "{events:?}");
    engine.close(other, Close::Clean);
}

#[test]
fn what_cannot_be_watched_is_broken_and_that_is_the_end_of_it() {
    let mut engine = engine();
    // epoll_ctl refuses files with EPERM.
    let file = tempfile::tempfile().expect("a file");
    let (sock, token) = (Sock(file.as_raw_fd()), Token(5));
    let broken = Event::Ready { token, readiness: Readiness { broken: true, ..Readiness::default() }, more: false };
    engine.watch(sock, Interest::Readable, token);
    engine.cancel(Request::Watch(Interest::Readable), sock, token);
    assert_eq!(now(&mut engine), [broken]);
    assert_eq!(now(&mut engine), []);
}

#[test]
fn a_door_gives_a_few_more_each_turn_and_forgets_none() {
    let (mut engine, listener) = (engine(), loopback());
    listener.set_nonblocking(true).expect("a socket");
    let door = Sock(listener.as_raw_fd());
    let address = listener.local_addr().expect("bound");
    let peers: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    engine.accept(door, Token(9));
    let mut counts = Vec::new();
    while counts.iter().sum::<usize>() < peers.len() {
        let events = some(&mut engine);
        counts.push(events.len());
        for event in events {
            let Event::Accepted { token: Token(9), result: Ok(sock), more: true } = event else { panic!("{event:?}") };
            engine.close(sock, Close::Clean);
        }
    }
    assert!(counts.windows(2).all(|two| two[1] <= 2 * two[0]) && counts.len() < 10, "{counts:?}");
    engine.cancel(Request::Accept, door, Token(9));
    let _late = TcpStream::connect(address).expect("it listens");
    assert_eq!(some(&mut engine), [Event::Accepted { token: Token(9), result: Err(Errno::ECANCELED), more: false }]);
    assert_eq!(now(&mut engine), []);
    engine.cancel(Request::Accept, door, Token(9));
    assert_eq!(now(&mut engine), []);
    assert!(engine.accept_now(door).is_ok(), "it waits for whoever accepts next");
}

#[test]
fn a_ring_that_comes_too_late_reaches_nobody_else() {
    let mut worker = engine();
    let (target, rope) = (worker.wake_target(), worker.rope().expect("given once"));
    EventBell.ring(target);
    assert_eq!(some(&mut worker), [Event::Mail]);
    drop(worker);
    engine().ring(target);
    let mut counted = [0; 8];
    assert_eq!(nix::unistd::read(&rope, &mut counted), Ok(8));
    assert_eq!(u64::from_ne_bytes(counted), 2);
}
