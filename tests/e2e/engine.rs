//! Which engine drives the workers when io_uring is refused, and how that is said.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::engine::in_pass;
use crate::harness::ground::{Ground, need};
use crate::harness::peers::{Server, connect, exchange, reset};
use crate::harness::ringway::{BINARY, Setup, all_of, one_pool};

/// strace -D is the child of what it traces, so that ours is still ringway. `when` may be empty, or `:when=2+`.
fn refusing(errno: &str, when: &str) -> Vec<String> {
    need("strace");
    let inject = format!("inject=io_uring_setup:error={errno}{when}");
    let words = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=io_uring_setup", "-e", &inject];
    words.map(str::to_owned).to_vec()
}

fn wrapped(wrapper: &[String]) -> Vec<&str> {
    wrapper.iter().map(String::as_str).collect()
}

/// What every daemon on epoll must show that would rather have had a ring.
fn falls_back(setup: Setup<'_>, ground: &Ground, errno: &str, reason: &str, remedy: &str) {
    let server = Server::echo(ground);
    let front = ground.address();
    let ringway = setup.global("workers = 2\nengine = \"auto\"").start(&one_pool(front, &[server.address()], ""));
    let mut client = connect(front);
    exchange(&mut client, b"all the same").expect("an echo");
    drop(client);
    assert_eq!(ringway.metric("ringway_engine_info", &[("engine", "epoll"), ("reason", reason)]), 1.0, "{reason}");
    assert_eq!(ringway.metric("ringway_engine_info", &[]), 1.0, "one engine only");
    ringway.await_event("\"event\":\"engine\"");
    let events = ringway.events();
    let warnings: Vec<&String> = events.iter().filter(|event| event.contains("\"level\":\"warn\"")).collect();
    let [warning] = warnings.iter().filter(|event| event.contains("\"engine\"")).collect::<Vec<_>>()[..] else {
        panic!("one warning about the engine, not: {events:#?}");
    };
    for word in ["epoll", errno, remedy, &format!("\"reason\":\"{reason}\"")] {
        assert!(warning.contains(word), "{word} in {warning}");
    }
    assert_eq!(events.iter().filter(|event| event.contains("io_uring")).count(), 1, "{events:#?}");
    let status = all_of(&ringway.verb(&["status"]));
    assert!(status.contains(&format!("epoll (io_uring is refused: {reason})")), "{status}");
    ringway.end_well();
}

#[test]
fn auto_falls_back_and_says_why() {
    if !in_pass("epoll") {
        return;
    }
    for (errno, reason, remedy) in [
        ("EPERM", "other", "security module"),
        ("ENOSYS", "kernel", "run Linux 5.19 or newer"),
        ("ENOMEM", "memlock", "LimitMEMLOCK"),
    ] {
        let ground = Ground::new();
        falls_back(Setup::on(&ground).wrapped(&wrapped(&refusing(errno, ""))), &ground, errno, reason, remedy);
    }
}

#[test]
fn a_ring_may_be_refused_after_the_first() {
    if !in_pass("epoll") {
        return;
    }
    // Counted by thread: the first of the main thread is had, and those of the workers, who then have to go home. Like this
    // it is, a step earlier, for the user root becomes where kernel.io_uring_disabled is 1.
    let ground = Ground::new();
    let setup = Setup::on(&ground).wrapped(&wrapped(&refusing("EPERM", ":when=2+")));
    falls_back(setup, &ground, "EPERM", "other", "security module");
}

/// As on kernels that do not know the newest flags, and refuse them as invalid.
#[test]
fn an_older_kernel_gets_the_flags_it_knows() {
    if !in_pass("io_uring") {
        return;
    }
    for (when, flags) in
        [(":when=1", "SINGLE_ISSUER|COOP_TASKRUN|TASKRUN_FLAG"), (":when=1..2", "\"COOP_TASKRUN|TASKRUN_FLAG")]
    {
        let ground = Ground::new();
        let server = Server::echo(&ground);
        let front = ground.address();
        let setup = Setup::on(&ground).wrapped(&wrapped(&refusing("EINVAL", when)));
        let ringway =
            setup.global("workers = 2\nengine = \"io_uring\"").start(&one_pool(front, &[server.address()], ""));
        ringway.await_event(flags);
        for bytes in [5, 1 << 20] {
            let sent = vec![b'x'; bytes];
            let mut client = connect(front);
            assert!(exchange(&mut client, &sent).expect("an echo") == sent, "{flags}: other bytes");
        }
        reset(connect(front));
        ringway.end_well();
    }
}

#[test]
fn the_conductor_does_without_a_ring_of_its_own() {
    if !in_pass("io_uring") {
        return;
    }
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let config = one_pool(front, &[server.address()], "");
    let ringway = Setup::on(&ground).wrapped(&wrapped(&refusing("ENOMEM", ":when=3+"))).start(&config);
    assert_eq!(ringway.metric("ringway_engine_info", &[("engine", "io_uring")]), 1.0);
    ringway.await_event("\"event\":\"conductor\"");
    ringway.reload_with(&(config + "idle_timeout = \"77s\"\n"));
    let mut client = connect(front);
    exchange(&mut client, b"through rings").expect("an echo");
    drop(client);
    ringway.end_well();
}

#[test]
fn a_seccomp_filter_is_recognised() {
    if !in_pass("epoll") {
        return;
    }
    let ground = Ground::new();
    falls_back(Setup::on(&ground).before_exec(forbid_io_uring), &ground, "EPERM", "seccomp", "seccomp profile");
}

#[test]
fn a_ring_that_is_insisted_on_and_refused_ends_the_start() {
    if !in_pass("io_uring") {
        return;
    }
    for (errno, reason) in [("EPERM", "does not permit"), ("ENOSYS", "no io_uring"), ("ENOMEM", "RLIMIT_MEMLOCK")] {
        let ground = Ground::new();
        let config = one_pool(ground.address(), &[ground.address()], "");
        let began = Instant::now();
        let (status, said) = Setup::on(&ground)
            .global("workers = 1\nengine = \"io_uring\"")
            .wrapped(&wrapped(&refusing(errno, "")))
            .start_in_vain(&config);
        // Within a second; but strace slows it, and the machine may be busy.
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert_eq!(status.code(), Some(69), "{said}");
        for word in ["io_uring is not available", errno, reason, "remedy: "] {
            assert!(said.contains(word), "{word} in {said}");
        }
    }
}

#[test]
fn the_demo_and_the_doctor_do_without_a_ring() {
    if !in_pass("epoll") {
        return;
    }
    let run = |words: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(words).stdin(Stdio::null());
        // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(forbid_io_uring);
        }
        command.output().expect("the binary under test")
    };
    let demo = run(&["demo", "--once"]);
    let said = all_of(&demo);
    assert!(demo.status.success() && said.contains("epoll"), "{said}");
    let said = all_of(&run(&["doctor"]));
    let line = |subject: &str| said.lines().find(|line| line.contains(subject)).unwrap_or_default().to_owned();
    assert!(line(" io_uring ").starts_with("WARN") && line(" io_uring ").contains("seccomp"), "{said}");
    assert!(line(" engine ").starts_with("OK") && line(" engine ").contains("epoll"), "{said}");
}

/// Installs a filter that answers io_uring_setup(2) with EPERM, as Docker's does (seccomp(2)).
fn forbid_io_uring() -> std::io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        step(LOAD, 0, 0, 0), // the number of the call: the first field of struct seccomp_data
        step(IF_EQUAL, 0, 1, libc::SYS_io_uring_setup as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: `filter` points to as many steps as it says, and both live to the end of the calls.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
    };
    if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
