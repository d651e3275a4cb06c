//! Reloading: no session is lost, nothing that did not change is touched, and a bad file changes nothing.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::facts::{await_that, is_listening, status_words, watch_for};
use crate::harness::ground::{Ground, in_own_network};
use crate::harness::invariants::Baseline;
use crate::harness::peers::{Server, ask, connect, exchange};
use crate::harness::ringway::{BINARY, Ringway, Setup, all_of, listener, one_pool, pool};

fn entry(name: &str, address: SocketAddr) -> String {
    format!("{{ name = \"{name}\", address = \"{address}\" }}")
}

fn generation(ringway: &Ringway) -> f64 {
    ringway.metric("ringway_config_generation", &[])
}

#[test]
fn fifty_sessions_survive_twenty_reloads() {
    let ground = Ground::new();
    let (a, b) = (Server::echo(&ground), Server::echo(&ground));
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[a.address(), b.address()], ""));
    let mut clients: Vec<TcpStream> = (0..50).map(|_| connect(front)).collect();
    for round in 0..20 {
        // Every second plan differs.
        let lines = if round % 2 == 0 { "connect_attempts = 2" } else { "" };
        ringway.reload_with(&one_pool(front, &[a.address(), b.address()], lines));
        for client in &mut clients {
            exchange(client, b"still here").expect("the session lives on");
        }
    }
    assert_eq!(generation(&ringway), 21.0);
    assert_eq!(ringway.sessions(), 50.0);
    drop(clients);
    ringway.await_ended("done", 50.0);
    ringway.end_well();
}

#[test]
fn the_rotation_and_the_counters_go_on() {
    let ground = Ground::new();
    let (a, b) = (Server::named(&ground, "a"), Server::named(&ground, "b"));
    let front = ground.address();
    let config = one_pool(front, &[a.address(), b.address()], "");
    let ringway = Ringway::start(&ground, &config);
    let mut shares: BTreeMap<String, u32> = BTreeMap::new();
    for n in 0..100 {
        // After an odd number of connections each time.
        if n % 7 == 0 {
            ringway.reload_with(&config);
        }
        *shares.entry(ask(front)).or_default() += 1;
    }
    assert_eq!(shares, BTreeMap::from([("a".to_owned(), 50), ("b".to_owned(), 50)]));
    assert_eq!(ringway.metric("ringway_listener_accepted_total", &[("listener", "front")]), 100.0);
    assert_eq!(ringway.metric("ringway_server_connects_total", &[("server", "s0")]), 50.0);
    ringway.end_well();
}

#[test]
fn a_listener_comes_and_goes() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let (one, two) = (ground.address(), ground.address());
    let servers = pool("pool", &[entry("s", server.address())], "");
    let first = listener("one", &one.to_string(), "pool");
    let second = listener("two", &two.to_string(), "pool");
    let ringway = Ringway::start(&ground, &(first.clone() + &servers));
    assert!(!is_listening(two));

    ringway.reload_with(&(first.clone() + &second + &servers));
    let mut client = connect(two);
    exchange(&mut client, b"new").expect("an echo");

    ringway.reload_with(&(first + &servers));
    await_that("the listener to close", || !is_listening(two));
    exchange(&mut client, b"what was accepted is served").expect("the session lives on");
    exchange(&mut connect(one), b"the other one").expect("an echo");
    drop(client);
    ringway.end_well();
}

#[test]
fn a_listener_moves_to_another_address() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let (old, new) = (ground.address(), ground.address());
    let ringway = Ringway::start(&ground, &one_pool(old, &[server.address()], ""));
    let mut client = connect(old);
    exchange(&mut client, b"x").expect("an echo");
    ringway.reload_with(&one_pool(new, &[server.address()], ""));
    exchange(&mut connect(new), b"x").expect("an echo");
    await_that("the old address to close", || !is_listening(old));
    exchange(&mut client, b"x").expect("the session lives on");
    drop(client);
    ringway.end_well();
}

#[test]
fn servers_come_go_and_move() {
    let ground = Ground::new();
    let names = ["a", "b", "c", "d"].map(|name| Server::named_echo(&ground, name));
    let [a, b, c, d] = names.each_ref().map(Server::address);
    let front = ground.address();
    let config = |servers: &[(&str, SocketAddr)]| {
        let entries: Vec<String> = servers.iter().map(|(name, address)| entry(name, *address)).collect();
        listener("front", &front.to_string(), "pool") + &pool("pool", &entries, "")
    };
    let ringway = Ringway::start(&ground, &config(&[("a", a), ("b", b)]));
    let meet = || {
        let mut stream = connect(front);
        let name = crate::harness::peers::read_exactly(&mut stream, 1).expect("a name");
        (stream, char::from(name[0]))
    };
    let four = || {
        let mut names: Vec<char> = (0..4).map(|_| meet().1).collect();
        names.sort_unstable();
        names
    };
    let (mut kept, first) = meet();
    assert!("ab".contains(first));

    // The server of a living session is taken out: it gets nothing new and keeps the session.
    let (left, left_address) = if first == 'a' { ("b", b) } else { ("a", a) };
    ringway.reload_with(&config(&[(left, left_address), ("c", c)]));
    let expected: String = format!("{left}{left}cc");
    assert_eq!(four().into_iter().collect::<String>(), expected);
    exchange(&mut kept, b"drains, not cut").expect("the session lives on");

    // The same name at another address is another server.
    ringway.reload_with(&config(&[(left, left_address), ("c", d)]));
    assert_eq!(four().into_iter().collect::<String>(), format!("{left}{left}dd"));
    drop(kept);
    ringway.end_well();
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let front = ground.address();
    let good = one_pool(front, &[server.address()], "");
    let ringway = Ringway::start(&ground, &good);
    let success = || ringway.metric("ringway_config_last_reload_successful", &[]);
    assert_eq!(success(), 1.0);

    let bad = [
        ("[listeners.front", "syntax"),
        ("[listeners.front]\nbind = \"127.0.0.1:1\"\npool = \"nowhere\"\n", "nowhere"),
        ("[listeners.front]\nbnd = \"127.0.0.1:1\"\n", "bind"),
        ("", "listener"),
    ];
    for (n, (text, expected)) in bad.iter().enumerate() {
        ringway.write_config(text);
        let output = ringway.reload();
        assert_eq!(output.status.code(), Some(3), "{text:?}: {}", all_of(&output));
        let said = all_of(&output);
        assert!(said.contains("ringway.toml"), "where: {said}");
        if n > 0 {
            assert!(said.contains(expected), "{expected}: {said}");
        }
        assert_eq!(success(), 0.0);
        assert_eq!(generation(&ringway), 1.0);
        assert_eq!(ask(front), "a");
    }

    // The same by signal: it can only be seen in the log.
    ringway.await_refusals(bad.len());
    ringway.signal(Signal::SIGHUP);
    ringway.await_refusals(bad.len() + 1);
    assert_eq!(ask(front), "a");

    // And the next good one is taken.
    ringway.reload_with(&good);
    assert_eq!(success(), 1.0);
    assert_eq!(generation(&ringway), 2.0);
    ringway.end_well();
}

#[test]
fn a_bind_that_fails_changes_nothing_and_says_why() {
    let ground = Ground::new();
    let (a, b) = (Server::named(&ground, "a"), Server::named(&ground, "b"));
    let taken = Server::echo(&ground);
    let (front, free) = (ground.address(), ground.address());
    let ringway = Ringway::start(&ground, &one_pool(front, &[a.address()], ""));

    // One address is free, one is not, and the pool would change: all or nothing.
    let config =
        format!("[listeners.front]\nbind = [\"{front}\", \"{free}\", \"{}\"]\npool = \"pool\"\n\n", taken.address())
            + &pool("pool", &[entry("b", b.address())], "");
    ringway.write_config(&config);
    let output = ringway.reload();
    let said = all_of(&output);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains(&taken.address().to_string()), "{said}");
    assert_eq!(ask(front), "a");
    assert!(!is_listening(free));
    assert_eq!(ringway.metric("ringway_config_last_reload_successful", &[]), 0.0);
    assert_eq!(generation(&ringway), 1.0);

    // When the address is free again, the same file is good.
    drop(taken);
    let output = ringway.reload();
    assert!(output.status.success(), "{}", all_of(&output));
    assert_eq!(ask(front), "b");
    ringway.reload_with(&one_pool(front, &[a.address()], ""));
    ringway.end_well();
}

#[test]
fn what_is_fixed_for_life_is_refused_not_ignored() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let front = ground.address();
    let config = one_pool(front, &[server.address()], "");
    let ringway = Ringway::start(&ground, &config);
    let text = std::fs::read_to_string(ringway.config()).expect("our own file");
    std::fs::write(ringway.config(), text.replace("workers = 2", "workers = 1")).expect("own directory");
    let output = ringway.reload();
    let said = all_of(&output);
    assert!(said.contains("workers"), "a change that cannot be made is told: {said}");
    assert_eq!(ask(front), "a");
    ringway.reload_with(&config);
    ringway.end_well();
}

/// T28: a thousand signals in five seconds.
#[test]
fn a_storm_of_signals_coalesces() {
    let ground = Ground::new();
    let (a, b) = (Server::named(&ground, "a"), Server::named(&ground, "b"));
    let front = ground.address();
    let mut ringway = Ringway::start(&ground, &one_pool(front, &[a.address()], ""));
    let (baseline, pid) = (Baseline::of(&ringway), ringway.pid());
    let began = Instant::now();
    for n in 0..1000 {
        // Each at its moment of five seconds.
        let due = Duration::from_millis(5) * n;
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        if n == 990 {
            ringway.write_config(&one_pool(front, &[b.address()], ""));
        }
        ringway.signal(Signal::SIGHUP);
    }
    await_that("the last file to win", || ask(front) == "b");
    ringway.must_live();
    assert_eq!(ringway.pid(), pid);
    assert!(generation(&ringway) <= 1001.0);
    baseline.holds_again(&mut ringway);
    ringway.end_well();
}

/// T25: with short connections; with long ones of sysbench in `mysql`, with wrk in `web`.
#[test]
fn connections_under_reloads_all_succeed() {
    let ground = Ground::new();
    let (a, b) = (Server::named(&ground, "a"), Server::named(&ground, "b"));
    let front = ground.address();
    let configs = [
        one_pool(front, &[a.address(), b.address()], ""),
        one_pool(front, &[a.address()], ""),
        one_pool(front, &[b.address(), a.address()], "connect_attempts = 2"),
    ];
    let mut ringway = Ringway::start(&ground, &configs[0]);
    let baseline = Baseline::of(&ringway);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    for n in 0..500 {
                        let name = ask(front);
                        assert!(name == "a" || name == "b", "connection {n} got {name:?}");
                    }
                })
            })
            .collect();
        for config in configs.iter().cycle() {
            ringway.reload_with(config);
            if clients.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                break;
            }
        }
    });
    ringway.await_ended("done", 2000.0);
    baseline.holds_again(&mut ringway);
    ringway.end_well();
}

#[test]
fn root_is_dropped_and_low_ports_still_open() {
    in_own_network(|| {
        let ground = Ground::new();
        let server = Server::named(&ground, "a");
        let low = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let servers = pool("pool", &[entry("s", server.address())], "");
        let one = listener("one", &low(81).to_string(), "pool");
        let two = listener("two", &low(82).to_string(), "pool");
        std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "1024").expect("root, own network");
        let ringway = Setup::on(&ground)
            .global("workers = 2\nuser = \"nobody\"\ngroup = \"nogroup\"")
            .start(&(one.clone() + &servers));
        assert_eq!(ask(low(81)), "a");

        let nobody = nix::unistd::User::from_name("nobody").expect("a user database").expect("nobody");
        let uids = status_words(ringway.pid(), "Uid");
        assert_eq!(uids, vec![nobody.uid.to_string(); 4], "real, effective, saved, file system");
        let groups = status_words(ringway.pid(), "Groups");
        assert!(!groups.contains(&"0".to_owned()), "no group of root's is left: {groups:?}");
        let bind_service = 1_u64 << 10;
        for set in ["CapEff", "CapPrm"] {
            let held = u64::from_str_radix(&status_words(ringway.pid(), set)[0], 16).expect("hexadecimal");
            assert_eq!(held, bind_service, "{set}");
        }
        // The same of every thread.
        for task in std::fs::read_dir(format!("/proc/{}/task", ringway.pid())).expect("alive").flatten() {
            let status = std::fs::read_to_string(task.path().join("status")).expect("alive");
            let uid = status.lines().find(|line| line.starts_with("Uid:")).expect("a user");
            assert!(uid.contains(&nobody.uid.to_string()), "{uid}");
        }

        ringway.reload_with(&(one + &two + &servers));
        assert_eq!(ask(low(82)), "a");
        ringway.end_well();
    });
}

#[test]
fn a_plan_says_what_a_reload_would_do() {
    let ground = Ground::new();
    let (a, b) = (Server::echo(&ground), Server::echo(&ground));
    let (front, other) = (ground.address(), ground.address());
    let ringway = Ringway::start(&ground, &one_pool(front, &[a.address()], ""));
    let mut client = connect(front);
    exchange(&mut client, b"x").expect("an echo");
    let config = listener("front", &front.to_string(), "pool")
        + &listener("other", &other.to_string(), "pool")
        + &pool("pool", &[entry("s9", b.address())], "");
    ringway.write_config(&config);
    let config = ringway.config().to_str().expect("UTF-8");
    for words in [&["plan", config][..], &["plan", "-c", config]] {
        let output = Command::new(BINARY).args(words).output().expect("the binary under test");
        let said = all_of(&output);
        assert!(output.status.success(), "{said}");
        for word in ["other", &other.to_string(), "s9", "s0"] {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
    // It only says so.
    watch_for(Duration::from_millis(200), || assert!(!is_listening(other)));
    assert_eq!(generation(&ringway), 1.0);
    drop(client);
    ringway.end_well();
}
