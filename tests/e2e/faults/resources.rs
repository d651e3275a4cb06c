//! Shortages and stuck neighbours: descriptors, memory, completion entries, locked memory, the log's sink.
//!
//! T17 of the catalogue (provided buffers run out) has no test: ringway gives the kernel no buffers, it reads when told
//! that there is something to read.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;

use crate::harness::engine;
use crate::harness::facts::{await_that, cpu_by_thread, fds_of, lines_of, watch_for};
use crate::harness::ground::{Ground, command_succeeds, need, need_root};
use crate::harness::invariants::Baseline;
use crate::harness::peers::{Server, connect, end_of, exchange, try_connect};
use crate::harness::ringway::{Ringway, Setup, listener, one_pool};

/// One whole session; the port of its client.
fn session(front: SocketAddr) -> u16 {
    let mut client = connect(front);
    exchange(&mut client, b"through").expect("an echo");
    client.shutdown(Shutdown::Write).expect("half closed");
    assert_eq!(end_of(&mut client), Ok(()));
    client.local_addr().expect("connected").port()
}

/// T15: no descriptor is left. Doors pause, those who come wait in the kernel's queue, and hardly anybody is accepted only to
/// be reset; when there is room again, they are served.
#[test]
fn t15_descriptors_run_out_and_come_back() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let (front, late) = (ground.address(), ground.address());
    let config = one_pool(front, &[server.address()], "");
    let mut ringway = Ringway::start(&ground, &config);
    let pid = ringway.pid();
    limit_descriptors(pid, fds_of(pid) + 40);
    // An accept keeps the limit of the moment it was armed (io_uring), so the door under test is opened now.
    ringway.reload_with(&(config + &listener("late", &late.to_string(), "pool")));

    let mut served: Vec<TcpStream> = (0..5).map(|_| connect(late)).collect();
    for client in &mut served {
        exchange(client, b"x").expect("there is room");
    }
    // A session takes two descriptors. When one is left, a connection is accepted and reset, once; when none is left,
    // accept fails. A descriptor more or less (a caller of the admin server) makes the one of the other.
    let paused = || ringway.events().iter().any(|line| line.contains("accept_paused"));
    let mut waiting: Vec<TcpStream> = Vec::new();
    let mut callers = Vec::new();
    await_that("accept to fail", || {
        waiting.extend((0..60).filter_map(|_| try_connect(late).ok()));
        callers.push(UnixStream::connect(ringway.socket()).expect("a listening socket"));
        std::thread::sleep(Duration::from_millis(200));
        paused()
    });

    let reset = ringway.ended("resource");
    let (told, before) = (ringway.events().len(), cpu_by_thread(pid));
    let length = Duration::from_secs(3);
    watch_for(length, || drop(exchange(&mut served[0], b"x").expect("an accepted session works")));
    let after = cpu_by_thread(pid);
    let spent = after.values().sum::<Duration>() - before.values().sum::<Duration>();
    assert!(spent < length / 4, "{spent:?} of CPU time in {length:?} with nothing to do: {before:?} to {after:?}");
    let told = ringway.events().len() - told;
    assert!(told <= 20, "{told} lines of log in {length:?}");

    let reset = ringway.ended("resource") - reset;
    assert!(reset <= 4.0, "{reset} more clients were accepted and reset while there was no descriptor for them");

    // When there is room again, those that still wait are served.
    drop(callers);
    limit_descriptors(pid, 20_000);
    let answers = waiting.iter_mut().map(|client| exchange(client, b"y"));
    let served_late = answers.filter(Result::is_ok).count();
    let reset = ringway.ended("resource");
    assert!(served_late > 0, "nobody who waited was served");
    assert!((waiting.len() - served_late) as f64 <= reset, "{served_late} of {} served, {reset} reset", waiting.len());
    assert!(ringway.metric("ringway_listener_rejected_total", &[("reason", "accept_failed")]) >= 1.0);
    drop((served, waiting));
    exchange(&mut connect(late), b"z").expect("as ever");
    ringway.must_live();
    ringway.reload_with(&one_pool(front, &[server.address()], ""));
    ringway.end_well();
}

/// T16: a burst of more news than the completion queue has room for. Nothing is lost: all are accepted and served.
#[test]
fn t16_completion_queue_overflows() {
    if !engine::in_pass("io_uring") {
        return;
    }
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let mut ringway = Setup::on(&ground).rehearsing("completions=64").start(&one_pool(front, &[server.address()], ""));
    let baseline = Baseline::of(&ringway);
    // While it stands still, the kernel gathers what it will be told at once.
    ringway.signal(Signal::SIGSTOP);
    let mut clients: Vec<TcpStream> = (0..800).map(|_| connect(front)).collect();
    for client in &mut clients {
        client.write_all(b"x").expect("the kernel takes it");
    }
    ringway.signal(Signal::SIGCONT);
    for client in &mut clients {
        let mut echo = [0];
        client.read_exact(&mut echo).expect("an echo");
        exchange(client, b"y").expect("another");
    }
    assert!(ringway.metric("ringway_cq_overflow_total", &[]) > 0.0, "the queue never overflowed");
    assert_eq!(ringway.metric("ringway_listener_accepted_total", &[]), 800.0);
    drop(clients);
    ringway.await_ended("done", 800.0);
    baseline.holds_again(&mut ringway);
}

/// T18: memory is short. A start that promises more than there may ever be is refused, and says what it takes; with just
/// that, every session it allows can be blocked at once, those beyond are shed at accept, and it lives. When a limit is
/// lowered until nine tenths of it are gone, nobody is let in until there is room again.
#[test]
fn t18_memory_pressure() {
    need("prlimit");
    const SESSIONS: usize = 64;
    let ground = Ground::new();
    // Sends as long as anybody takes it.
    let endless = Server::new(&ground, |mut stream| {
        let block = vec![7_u8; 256 * 1024];
        while stream.write_all(&block).is_ok() {}
    });
    let front = ground.address();
    let config = one_pool(front, &[endless.address()], "");
    let global = format!("workers = 1\nmax_connections = {SESSIONS}");
    let little = "prlimit --as=104857600:104857600".split(' ').collect::<Vec<_>>();
    let (status, said) = Setup::on(&ground).global(&global).wrapped(&little).start_in_vain(&config);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("RLIMIT_AS") && said.contains("allows 100 MiB"), "{said}");
    let needed = said.split("may need ").nth(1).and_then(|rest| rest.split(' ').next()).expect("what it takes");
    let needed: u64 = needed.parse().expect("a number of MiB");

    let enough = format!("--as={}", needed << 20);
    let mut ringway = Setup::on(&ground).global(&global).wrapped(&["prlimit", &enough]).start(&config);
    let baseline = Baseline::of(&ringway);
    let mut readers: Vec<TcpStream> = (0..SESSIONS).map(|_| connect(front)).collect();
    for reader in &mut readers {
        // A first bite, and then nothing; what it sends nobody reads either.
        reader.read_exact(&mut [0; 4096]).expect("a first bite");
        reader.set_nonblocking(true).expect("a socket");
        while reader.write(&[1; 65_536]).is_ok() {}
    }
    ringway.await_metric("ringway_sessions", &[], |open| open == SESSIONS as f64);
    for _ in 0..50 {
        let refused = try_connect(front).and_then(|mut more| more.read_exact(&mut [0; 1]));
        assert!(refused.is_err(), "one too many");
    }
    ringway.await_metric("ringway_listener_rejected_total", &[("reason", "max_connections")], |count| count == 50.0);
    ringway.must_live();

    readers.truncate(1);
    await_that("all others to end", || ringway.sessions() == 1.0);
    let pid = ringway.pid();
    limit_memory(pid, address_space_of(pid) * 100 / 92);
    ringway.await_event("memory_short");
    let refused = try_connect(front).and_then(|mut more| more.read_exact(&mut [0; 1]));
    assert!(refused.is_err(), "let in while memory is short");
    assert!(ringway.metric("ringway_listener_rejected_total", &[("reason", "memory")]) >= 1.0);
    readers[0].set_nonblocking(false).expect("a socket");
    readers[0].read_exact(&mut [0; 1 << 20]).expect("a session that is in goes on");
    limit_memory(pid, needed << 20);
    ringway.await_event("memory_enough");
    connect(front).read_exact(&mut [0; 4096]).expect("let in again");
    readers.clear();
    await_that("all to end", || ringway.sessions() == 0.0);
    baseline.holds_again(&mut ringway);
    ringway.end_well();
}

/// T20: little memory may be locked, against which the kernel counts rings. Root is above that limit; others learn its name.
#[test]
fn t20_memlock() {
    need("prlimit");
    need("setpriv");
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let config = one_pool(front, &[server.address()], "");
    let mut wrapper = vec!["prlimit", "--memlock=65536:65536"];
    let mut ringway = Setup::on(&ground).wrapped(&wrapper).start(&config);
    let baseline = Baseline::of(&ringway);
    session(front);
    baseline.holds_again(&mut ringway);
    ringway.end_well();

    wrapper.extend(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    let global = "workers = 2\nengine = \"io_uring\"";
    let (status, said) = Setup::on(&ground).global(global).wrapped(&wrapper).start_in_vain(&config);
    assert_eq!(status.code(), Some(69), "{said}");
    assert!(said.contains("RLIMIT_MEMLOCK") && said.contains("remedy"), "{said}");
}

/// Runs sessions until the log has dropped records, each served as ever.
fn until_dropped(ringway: &Ringway, front: SocketAddr) {
    let dropped = || ringway.metric("ringway_log_dropped_total", &[]);
    await_that("records to be dropped", || {
        (0..100).for_each(|_| _ = session(front));
        dropped() > 0.0
    });
}

/// T21: nobody reads the log. Sessions are served, records are dropped and counted; when a reader comes, the log goes on.
#[test]
fn t21_a_log_nobody_reads() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let fifo = ground.file("ringway.log");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("own directory");
    let mut ringway = Setup::on(&ground).rehearsing("records=256").start(&one_pool(front, &[server.address()], ""));
    let baseline = Baseline::of(&ringway);
    until_dropped(&ringway, front);
    ringway.must_live();

    let (tell, told) = channel();
    let reader = File::open(&fifo).expect("ringway has it open");
    // Ends when ringway, the only writer, has ended.
    let reading = std::thread::spawn(move || {
        BufReader::new(reader).lines().map_while(Result::ok).for_each(|line| drop(tell.send(line)));
    });
    await_that("a new session's record", || {
        let client = format!(":{}\"", session(front));
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut lines =
            std::iter::from_fn(|| told.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok());
        lines.any(|line| line.contains(&client))
    });
    baseline.holds_again(&mut ringway);
    drop(ringway);
    reading.join().expect("the end of the log");
}

/// T21: the disk of the log is full, and then it is not.
#[test]
fn t21_a_full_disk() {
    need_root();
    let ground = Ground::new();
    let body = || {
        // The mount is in this thread's view of files, and ringway's; it goes when they are gone.
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        command_succeeds(Command::new("mount").args(["--make-rprivate", "/"]));
        let disk = ground.file("disk");
        fs::create_dir(&disk).expect("own directory");
        command_succeeds(Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "ringway-e2e"]).arg(&disk));
        fs::write(disk.join("ballast"), vec![0; 160 * 1024]).expect("there is room");
        std::os::unix::fs::symlink(disk.join("log"), ground.file("ringway.log")).expect("own directory");

        let server = Server::echo(&ground);
        let front = ground.address();
        let mut ringway = Setup::on(&ground).rehearsing("records=256").start(&one_pool(front, &[server.address()], ""));
        let baseline = Baseline::of(&ringway);
        until_dropped(&ringway, front);
        ringway.await_event("the log cannot be written");

        fs::remove_file(disk.join("ballast")).expect("there");
        fs::write(disk.join("log"), "").expect("rotated");
        await_that("a new session's record", || {
            let client = format!(":{}\"", session(front));
            // What waited is written first; rotate as often as that takes.
            fs::write(disk.join("log"), "").expect("rotated");
            let again = format!(":{}\"", session(front));
            std::thread::sleep(Duration::from_millis(200));
            lines_of(&disk.join("log")).iter().any(|line| line.contains(&client) || line.contains(&again))
        });
        fs::write(disk.join("log"), "").expect("rotated");
        baseline.holds_again(&mut ringway);
    };
    std::thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// T40: what somebody else wrote stays on its line of the log and paints no terminal.
#[test]
fn t40_log_injection() {
    for format in ["json", "logfmt", "haproxy"] {
        let ground = Ground::new();
        let server = Server::echo(&ground);
        let front = ground.address();
        let config = one_pool(front, &[server.address()], "");
        let mut ringway = Setup::on(&ground).log(&format!("format = \"{format}\"")).start(&config);
        let nasty = "a\\n{\\\"session\\\":\\\"forged\\\"}\\u001b[31m\\u009b\\u2028\\u202e\\r";
        let before = lines_of(ringway.log()).len();
        ringway.write_config(&config.replace("\"pool\"", &format!("\"{nasty}\"")));
        assert!(!ringway.reload().status.success(), "a nasty name");
        let mut lines = Vec::new();
        await_that("the complaint", || {
            lines = lines_of(ringway.log());
            lines.iter().skip(before).any(|line| line.contains("forged"))
        });
        for line in &lines {
            let bad = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}');
            assert!(!line.contains(bad), "{line:?}");
            match format {
                "json" => assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}"),
                "haproxy" => assert!(line.contains(&format!(" ringway[{}]: ", ringway.pid())), "{line}"),
                _ => assert!(line.starts_with("ts="), "{line}"),
            }
        }
        session(front);
        ringway.must_live();
    }
}

/// T45: the call a worker waits in fails in every way that passes by itself.
#[test]
fn t45_wait_fails() {
    need("strace");
    let (call, errors) = match engine::name() {
        "epoll" => ("epoll_pwait2", ["EINTR"].as_slice()),
        _ => ("io_uring_enter", ["EINTR", "EAGAIN", "EBUSY"].as_slice()),
    };
    for error in errors {
        let ground = Ground::new();
        let server = Server::echo(&ground);
        let front = ground.address();
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error={error}:when=20+7"));
        // strace -D is the child of what it traces, so that ours is still ringway. The faults come each seventh time.
        let wrapper = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        let mut ringway =
            Setup::on(&ground).global("workers = 1").wrapped(&wrapper).start(&one_pool(front, &[server.address()], ""));
        let baseline = Baseline::of(&ringway);
        (0..50).for_each(|_| _ = session(front));
        baseline.holds_again(&mut ringway);
        ringway.end_well();
    }
}

/// Sets the limit on descriptors of a running process, as an operator can: it cannot have prepared for this.
fn limit_memory(pid: u32, bytes: u64) {
    command_succeeds(Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--as={bytes}:")]));
}

/// What is counted against the limit on address space, in bytes.
fn address_space_of(pid: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).expect("a process of ours");
    let pages: u64 = statm.split(' ').next().and_then(|pages| pages.parse().ok()).expect("proc_pid_statm(5)");
    pages * nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().expect("known") as u64
}

fn limit_descriptors(pid: u32, nofile: usize) {
    need("prlimit");
    let nofile = format!("--nofile={nofile}:20000");
    command_succeeds(Command::new("prlimit").args(["--pid", &pid.to_string(), &nofile]));
}
