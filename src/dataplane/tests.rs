//! A real worker on each engine, over loopback: what a session does, seen from both ends.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::commons::{Commons, Door, Mail, Scene, monotonic_ns};
use super::ending::{ConnectResult, Ending};
use super::exodus::{Exodus, Group, Whose};
use super::record::Record;
use crate::config::ledger::Registry;
use crate::config::plan::{Address, Listener};
use crate::kernel::epoll::Epoll;
use crate::kernel::uring::Uring;
use crate::kernel::{Engine, Ticket};
use crate::sys::hatch;

/// A worker with one listener and one pool, stopped when dropped.
struct Bench<E: Engine> {
    commons: Arc<Commons>,
    /// Any engine can ring another of its kind.
    bell: E,
    worker: Option<JoinHandle<()>>,
    address: SocketAddr,
    listener: Arc<Listener>,
}

fn bench<E: Engine>(servers: &[SocketAddr], terms: &str) -> Bench<E> {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.set_nonblocking(true).expect("a socket");
    let address = socket.local_addr().expect("bound");
    let servers: String =
        servers.iter().enumerate().map(|(i, server)| format!("{{ name = 's{i}', address = '{server}' }},")).collect();
    let text = format!(
        "[listeners.l]\nbind = '{address}'\npool = 'p'\n[pools.p]\nservers = [{servers}]\nconnect_timeout = '2s'\n{terms}"
    );
    let draft = crate::config::parse("test", &text, &|_| None).unwrap_or_else(|complaints| panic!("{complaints}"));
    let plan = Arc::new(draft.compile(&mut Registry::new(1), None));
    let listener = Arc::clone(&plan.listeners[0]);
    let door = Arc::new(Door { id: 1, address: Address::Inet(address) });
    let commons = Arc::new(Commons::new(1, Scene { plan, doors: vec![(door, Arc::clone(&listener))] }, 10_000));
    let crew = vec![super::worker::hire::<E>(0, None, &commons).expect("both engines are to be had")];
    let worker = super::worker::begin(crew, &commons).pop();
    hatch::pass(commons.desks[0].hatch().0, Ticket::of_door(1).0, socket.as_raw_fd()).expect("room in the hatch");
    let mut bench = Bench { commons, bell: E::new().expect("an engine"), worker, address, listener };
    bench.post(Mail::NewScene);
    bench
}

impl<E: Engine> Bench<E> {
    fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).expect("a listening socket");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
        client
    }

    fn post(&mut self, mail: Mail) {
        self.commons.post(0, mail, &mut self.bell).expect("room for mail");
        self.bell.wait(Some(0), &mut Vec::new()).expect("the bell rings"); // a ring rings when it is entered
    }

    /// Waits until the worker has turned a few times.
    fn let_it_turn(&self) {
        let turns = || self.commons.desks[0].turns.load(Ordering::Relaxed);
        let (before, end) = (turns(), Instant::now() + Duration::from_secs(10));
        while turns() < before + 4 {
            assert!(Instant::now() < end, "the worker does not turn");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn record(&self) -> Record {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(record) = self.commons.desks[0].records.pop() {
                return record;
            }
            assert!(Instant::now() < end, "no record came");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl<E: Engine> Drop for Bench<E> {
    fn drop(&mut self) {
        self.post(Mail::Stop);
        self.worker.take().expect("not joined before").join().expect("no panic");
        let tally = self.listener.ledger.tally.of(0);
        let ended: u64 = tally.ended.iter().map(|count| count.read()).sum();
        assert_eq!(tally.opened.read(), ended, "every session ends once");
        assert_eq!(self.commons.sessions(), 0);
        for server in &self.listener.pool.servers {
            assert_eq!(server.ledger.active.load(Ordering::Relaxed), 0, "every place is given back");
        }
    }
}

fn server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// Bytes that differ at every offset, so that a swap or a gap shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// Each of them, on each engine.
macro_rules! on_both_engines {
    ($($name:ident)*) => {
        mod on_io_uring {
            $(#[test] fn $name() { super::$name::<super::Uring>(); })*
        }
        mod on_epoll {
            $(#[test] fn $name() { super::$name::<super::Epoll>(); })*
        }
    };
}

on_both_engines! {
    bytes_go_both_ways_and_half_close_goes_through
    a_server_that_speaks_first_is_heard
    a_reset_arrives_as_a_reset
    a_refused_connect_goes_to_the_next_server
    when_no_server_accepts_the_client_is_reset
    silence_ends_a_session_by_its_timer
    a_half_closed_session_has_a_timer_of_its_own
    what_a_server_said_before_its_reset_is_delivered
    the_tail_of_a_stream_arrives
    a_reader_that_stops_holds_only_its_own_sender
    who_is_idle_is_led_out_and_who_is_busy_stays
    who_has_not_got_everything_is_not_idle
    no_more_are_led_out_than_may_be
}

fn bytes_go_both_ways_and_half_close_goes_through<E: Engine>() {
    let (backend, address) = server();
    let bench = bench::<E>(&[address], "");
    let sent = pattern(20 << 20);
    let expected = sent.clone();
    let serving = thread::spawn(move || {
        let (mut conn, _) = backend.accept().expect("a connection");
        let mut got = Vec::new();
        conn.read_to_end(&mut got).expect("all of it");
        // The client has finished; the answer still goes through.
        conn.write_all(&got).expect("sent");
    });
    let mut client = bench.client();
    client.write_all(&sent).expect("sent");
    client.shutdown(Shutdown::Write).expect("connected");
    let mut back = Vec::new();
    client.read_to_end(&mut back).expect("all of it");
    serving.join().expect("no panic");
    assert!(back == expected, "got {} bytes", back.len());
    let record = bench.record();
    assert_eq!(record.ending, Some(Ending::Done));
    assert_eq!((record.bytes_in, record.bytes_out), (20 << 20, 20 << 20));
    assert_eq!(record.client, Some(client.local_addr().expect("bound")));
}

fn a_server_that_speaks_first_is_heard<E: Engine>() {
    let (backend, address) = server();
    let bench = bench::<E>(&[address], "");
    let mut client = bench.client();
    let (mut conn, _) = backend.accept().expect("a connection");
    conn.write_all(b"welcome").expect("sent");
    let mut seven = [0; 7];
    client.read_exact(&mut seven).expect("an answer");
    assert_eq!(&seven, b"welcome");
}

fn a_reset_arrives_as_a_reset<E: Engine>() {
    let (backend, address) = server();
    let bench = bench::<E>(&[address], "");
    for from_client in [true, false] {
        let mut client = bench.client();
        let (mut conn, _) = backend.accept().expect("a connection");
        client.write_all(b"x").expect("sent");
        conn.read_exact(&mut [0]).expect("a request");
        let (gone, mut left) = if from_client { (client, conn) } else { (conn, client) };
        socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).expect("a socket");
        drop(gone);
        let error = left.read(&mut [0]).expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let ending = if from_client { Ending::ClientReset } else { Ending::ServerReset };
        assert_eq!(bench.record().ending, Some(ending));
    }
}

fn a_refused_connect_goes_to_the_next_server<E: Engine>() {
    let (backend, address) = server();
    let refusing = { server().1 };
    let bench = bench::<E>(&[refusing, address], "");
    for _ in 0..4 {
        let client = bench.client();
        drop(backend.accept().expect("a connection"));
        drop(client);
        let record = bench.record();
        assert_eq!(record.server, Some(1));
        assert_eq!(record.ending, Some(Ending::Done));
    }
    let dead = &bench.listener.pool.servers[0].ledger.tally.of(0).connects;
    assert!(dead[ConnectResult::Refused as usize].read() >= 2);
}

fn when_no_server_accepts_the_client_is_reset<E: Engine>() {
    let refusing = { server().1 };
    let bench = bench::<E>(&[refusing], "");
    let mut client = bench.client();
    assert_eq!(client.read(&mut [0]).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    assert_eq!(bench.record().ending, Some(Ending::ConnectRefused));
}

fn silence_ends_a_session_by_its_timer<E: Engine>() {
    let (_backend, address) = server();
    let bench = bench::<E>(&[address], "idle_timeout = '50ms'");
    let mut client = bench.client();
    assert_eq!(client.read(&mut [0]).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    assert_eq!(bench.record().ending, Some(Ending::IdleTimeout));
}

fn a_half_closed_session_has_a_timer_of_its_own<E: Engine>() {
    let (backend, address) = server();
    let bench = bench::<E>(&[address], "half_close_timeout = '50ms'");
    let mut client = bench.client();
    client.shutdown(Shutdown::Write).expect("connected");
    let (mut conn, _) = backend.accept().expect("a connection");
    assert_eq!(conn.read(&mut [0]).expect("a clean end"), 0);
    assert_eq!(client.read(&mut [0]).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    assert_eq!(bench.record().ending, Some(Ending::HalfCloseTimeout));
}

fn what_a_server_said_before_its_reset_is_delivered<E: Engine>() {
    let (backend, address) = server();
    let bench = bench::<E>(&[address], "");
    let mut client = bench.client();
    let (mut conn, _) = backend.accept().expect("a connection");
    // Unread input makes the close a reset, as with a web server that refuses an upload.
    client.write_all(b"a request nobody reads").expect("sent");
    conn.peek(&mut [0]).expect("a request");
    let said = pattern(100_000);
    conn.write_all(&said).expect("sent");
    drop(conn);
    let mut got = Vec::new();
    let error = client.read_to_end(&mut got).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(!got.is_empty() && said.starts_with(&got), "{} bytes", got.len());
}

fn the_tail_of_a_stream_arrives<E: Engine>() {
    let (backend, address) = server();
    let bench = bench::<E>(&[address], "");
    let mut client = bench.client();
    let (mut conn, _) = backend.accept().expect("a connection");
    // Long enough for its socket to gather, more than once; each time nothing comes after the tail.
    for _ in 0..3 {
        let said = pattern((8 << 20) + 100);
        let sender = thread::spawn({
            let (mut conn, said) = (conn.try_clone().expect("a descriptor"), said.clone());
            move || conn.write_all(&said).expect("sent")
        });
        let mut heard = vec![0; said.len()];
        client.read_exact(&mut heard).expect("an answer");
        assert!(heard == said, "other bytes");
        sender.join().expect("no panic");
        // The stream has paused: a question and its answer go through at once.
        client.write_all(b"?").expect("sent");
        conn.read_exact(&mut [0]).expect("a request");
        conn.write_all(b"!").expect("sent");
        client.read_exact(&mut [0]).expect("an answer");
    }
}

fn a_reader_that_stops_holds_only_its_own_sender<E: Engine>() {
    let (backend, address) = server();
    let bench = bench::<E>(&[address], "");
    let mut slow = bench.client();
    let (mut source, _) = backend.accept().expect("a connection");
    source.set_write_timeout(Some(Duration::from_millis(300))).expect("a socket");
    let chunk = pattern(1 << 20);
    let mut accepted = 0usize;
    loop {
        match source.write(&chunk) {
            Ok(n) => accepted += n,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => panic!("{error}"),
        }
        assert!(accepted < 64 << 20, "nothing holds the sender back");
    }
    // Another session is served meanwhile.
    let mut other = bench.client();
    let (mut conn, _) = backend.accept().expect("a connection");
    other.write_all(b"hello").expect("sent");
    let mut five = [0; 5];
    conn.read_exact(&mut five).expect("a request");
    drop(source);
    let mut got = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match slow.read(&mut buffer).expect("bytes, or the end") {
            0 => break,
            n => got += n,
        }
    }
    assert_eq!(got, accepted);
    // The turn that emptied the pipe says so.
    let end = Instant::now() + Duration::from_secs(10);
    while bench.commons.desks[0].tally.pipes_used.load(Ordering::Relaxed) > 0 {
        assert!(Instant::now() < end, "a pipe counts as used for ever");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A question and its answer.
fn exchange(client: &mut TcpStream, conn: &mut TcpStream) {
    client.write_all(b"?").expect("sent");
    conn.read_exact(&mut [0]).expect("a request");
    conn.write_all(b"!").expect("sent");
    client.read_exact(&mut [0]).expect("an answer");
}

fn who_is_idle_is_led_out_and_who_is_busy_stays<E: Engine>() {
    let (backend, address) = server();
    let mut bench = bench::<E>(&[address], "");
    let [mut idle, mut asks, mut half] = [(); 3].map(|()| {
        let client = bench.client();
        (client, backend.accept().expect("a connection").0)
    });
    for (client, conn) in [&mut idle, &mut asks, &mut half] {
        exchange(client, conn);
    }
    asks.0.write_all(b"?").expect("sent");
    asks.1.read_exact(&mut [0]).expect("a request");
    half.0.shutdown(Shutdown::Write).expect("connected");
    assert_eq!(half.1.read(&mut [0]).expect("a clean end"), 0);
    let order = Arc::new(Exodus::of_all(monotonic_ns()));
    let mut late = (bench.client(), backend.accept().expect("a connection").0);
    exchange(&mut late.0, &mut late.1);
    bench.post(Mail::Exodus(Arc::clone(&order)));
    order.admit(10, 10);
    bench.let_it_turn();
    assert_eq!(order.gone(), 0, "nobody has been silent for so long");
    order.spare(0);
    assert_eq!(idle.0.read(&mut [0]).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    let record = bench.record();
    assert_eq!((record.ending, record.bytes_out), (Some(Ending::Moved), 1));
    bench.let_it_turn();
    assert_eq!(order.gone(), 1);
    // Who asked gets the answer, and is idle then.
    asks.1.write_all(b"!").expect("sent");
    asks.0.read_exact(&mut [0]).expect("an answer");
    assert_eq!(asks.0.read(&mut [0]).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    assert_eq!(bench.record().ending, Some(Ending::Moved));
    // So do those who have finished; at the very end they leave all the same.
    half.1.write_all(b"!").expect("sent");
    half.0.read_exact(&mut [0]).expect("an answer");
    bench.let_it_turn();
    order.take_everyone();
    assert_eq!(half.0.read(&mut [0]).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    assert_eq!(bench.record().ending, Some(Ending::Moved));
    let end = Instant::now() + Duration::from_secs(10);
    while Arc::strong_count(&order) > 1 {
        assert!(Instant::now() < end, "the worker keeps an order that is done");
        thread::sleep(Duration::from_millis(1));
    }
    exchange(&mut late.0, &mut late.1);
    assert_eq!(order.gone(), 3, "who came after the order stays");
}

fn who_has_not_got_everything_is_not_idle<E: Engine>() {
    let (backend, address) = server();
    let mut bench = bench::<E>(&[address], "");
    let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    client.set_recv_buffer_size(4_096).expect("a socket");
    client.connect(&bench.address.into()).expect("a listening socket");
    let mut client = TcpStream::from(client);
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    let (mut conn, _) = backend.accept().expect("a connection");
    let said = pattern(64 << 10);
    conn.write_all(&said).expect("sent");
    // All of it has left the worker, and most of it waits in the kernel for the client to read.
    let moved = || bench.listener.ledger.tally.of(0).bytes_out.read();
    let end = Instant::now() + Duration::from_secs(10);
    while moved() < said.len() as u64 {
        assert!(Instant::now() < end, "{} bytes moved", moved());
        thread::sleep(Duration::from_millis(1));
    }
    let order = Arc::new(Exodus::of_all(monotonic_ns()));
    order.spare(0);
    order.admit(1, 1);
    bench.post(Mail::Exodus(Arc::clone(&order)));
    bench.let_it_turn();
    assert_eq!(order.gone(), 0);
    let mut heard = vec![0; said.len()];
    client.read_exact(&mut heard).expect("an answer");
    assert!(heard == said, "other bytes");
    assert_eq!(client.read(&mut [0]).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    assert_eq!(bench.record().ending, Some(Ending::Moved));
}

fn no_more_are_led_out_than_may_be<E: Engine>() {
    let ((one, at_one), (two, at_two)) = (server(), server());
    let mut bench = bench::<E>(&[at_one, at_two], "");
    let mut clients: Vec<_> = (0..20).map(|_| bench.client()).collect();
    let conns: Vec<_> =
        (0..10).map(|_| (one.accept().expect("a connection").0, two.accept().expect("a connection").0)).collect();
    for (mut one, mut two) in conns.iter().map(|(one, two)| (one, two)) {
        one.write_all(b"1").expect("sent");
        two.write_all(b"2").expect("sent");
    }
    let mut of_one = 0;
    for client in &mut clients {
        let mut name = [0];
        client.read_exact(&mut name).expect("an answer");
        of_one += u32::from(name == *b"1");
    }
    assert_eq!(of_one, 10);
    let ledger = Arc::clone(&bench.listener.pool.servers[0].ledger);
    let order = Arc::new(Exodus::of_groups(vec![Group::new(ledger, Whose::Wishing(None), 5)], monotonic_ns()));
    order.spare(0);
    order.admit(3, 3);
    bench.post(Mail::Exodus(Arc::clone(&order)));
    (0..3).for_each(|_| assert_eq!(bench.record().server, Some(0)));
    bench.let_it_turn();
    assert_eq!(order.gone(), 3, "there were three tickets");
    order.admit(9, 9);
    (0..2).for_each(|_| assert_eq!(bench.record().ending, Some(Ending::Moved)));
    bench.let_it_turn();
    assert_eq!((order.gone(), order.groups()[0].gone()), (5, 5), "and five of them might go");
    order.call_off();
    let end = Instant::now() + Duration::from_secs(10);
    while Arc::strong_count(&order) > 1 {
        assert!(Instant::now() < end, "the worker keeps an order that was called off");
        thread::sleep(Duration::from_millis(1));
    }
}
