//! What operators do to the daemon: start it twice, kill it, feed it bad files, give it addresses that are not there yet.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{FRONT, say};
use crate::harness::facts::{await_some, await_that, http_get_unix, is_listening};
use crate::harness::ground::{Ground, in_own_network};
use crate::harness::invariants::Baseline;
use crate::harness::network::on_a_network;
use crate::harness::peers::{Server, ask, connect, exchange, read_exactly, reset};
use crate::harness::process::Process;
use crate::harness::ringway::{BINARY, Ringway, Setup, all_of, listener, one_pool, pool};

/// Ten thousand connections come and go, a third of them reset, a third without a word: nothing of them is left.
#[test]
fn t06_churn() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let mut ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
    let baseline = Baseline::of(&ringway);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..2500 {
                    let mut client = connect(front);
                    match n % 3 {
                        0 => drop(exchange(&mut client, b"word").expect("an echo")),
                        1 => reset(client),
                        _ => drop(client),
                    }
                }
            });
        }
    });
    ringway.await_metric("ringway_listener_accepted_total", &[("listener", "front")], |count| count == 10_000.0);
    baseline.holds_again(&mut ringway);
    ringway.end_well();
}

/// Listeners come, go, move and change their names under load: nobody at another listener notices, and what a listener had
/// accepted before it went is served.
#[test]
fn t26_listeners_come_and_go_under_load() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let echo = Server::echo(&ground);
    let (steady, here, there) = (ground.address(), ground.address(), ground.address());
    let pools = pool("pool", &[format!("{{ name = \"a\", address = \"{}\" }}", server.address())], "")
        + &pool("echo", &[format!("{{ name = \"e\", address = \"{}\" }}", echo.address())], "");
    let base = listener("steady", &steady.to_string(), "pool") + &pools;
    let with = |name: &str, bind: SocketAddr| base.clone() + &listener(name, &bind.to_string(), "echo");
    let mut ringway = Ringway::start(&ground, &base);
    let baseline = Baseline::of(&ringway);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut asked = 0_u32;
                    while !over.load(Ordering::Relaxed) {
                        assert_eq!(ask(steady), "a", "after {asked} that were served");
                        asked += 1;
                    }
                    asked
                })
            })
            .collect();
        for _ in 0..5 {
            ringway.reload_with(&with("guest", here));
            let mut accepted = connect(here);
            exchange(&mut accepted, b"added").expect("an echo");
            ringway.reload_with(&with("renamed", here));
            exchange(&mut connect(here), b"renamed").expect("an echo");
            ringway.reload_with(&with("renamed", there));
            exchange(&mut connect(there), b"moved").expect("an echo");
            await_that("the old address to close", || !is_listening(here));
            ringway.reload_with(&base);
            await_that("the listener to close", || !is_listening(there));
            exchange(&mut accepted, b"accepted before").expect("an echo");
        }
        over.store(true, Ordering::Relaxed);
        for client in clients {
            assert!(client.join().expect("served every time") > 0, "nobody asked meanwhile");
        }
    });
    baseline.holds_again(&mut ringway);
    ringway.end_well();
}

/// Files that are wrong in every way an operator's tools bring about: what served before goes on serving, the reason is
/// told with its place, and the next good file is taken.
#[test]
fn t27_bad_reloads() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let (front, other) = (ground.address(), ground.address());
    let good = one_pool(front, &[server.address()], "");
    let mut ringway = Ringway::start(&ground, &good);
    let baseline = Baseline::of(&ringway);
    let bind = |name: &str| listener(name, &other.to_string(), "pool");
    let servers = |count: u32| -> Vec<String> {
        (0..count)
            .map(|n| format!("{{ name = \"n{n}\", address = \"10.{}.{}.1:80\" }}", n / 250 % 250, n % 250))
            .collect()
    };
    let table = [
        ("half a file", good[..good.len() / 2].to_owned()),
        ("two listeners on one address", good.clone() + &bind("b") + &bind("c")),
        ("an unknown key", good.replace("bind =", "bnid =")),
        ("many times the size", good.clone() + &"# a comment that goes on and on\n".repeat(200_000)),
        ("a million servers", listener("front", &front.to_string(), "pool") + &pool("pool", &servers(1_000_000), "")),
        ("more servers than a pool may have", one_pool(front, &[], "") + &pool("big", &servers(10_001), "")),
        ("not a text", "\u{0}\u{1}\u{2}".repeat(100)),
    ];
    for (what, text) in &table {
        ringway.write_config(text);
        let output = ringway.reload();
        let said = all_of(&output);
        assert_eq!(output.status.code(), Some(3), "{what}: {}", &said[..said.len().min(2000)]);
        assert!(said.contains("ringway.toml"), "{what}, where? {}", &said[..said.len().min(2000)]);
        assert_eq!(ringway.metric("ringway_config_last_reload_successful", &[]), 0.0, "{what}");
        assert_eq!(ask(front), "a", "{what}");
    }
    ringway.reload_with(&good);
    assert_eq!(ringway.metric("ringway_config_last_reload_successful", &[]), 1.0);

    std::fs::remove_file(ringway.config()).expect("own directory");
    ringway.await_refusals(table.len());
    ringway.signal(Signal::SIGHUP);
    ringway.await_refusals(table.len() + 1);
    assert_eq!(ask(front), "a");
    ringway.write_config(&good);
    ringway.reload_with(&good);
    baseline.holds_again_but_for(&mut ringway, &["reload", "complaint"]);
    ringway.end_well();
}

/// Killed and started again on the same files, over and over, with sessions open and bytes on their way: each time it
/// serves within two seconds. The kernel may hold the sockets of a dead ring a little longer than those of a dead process.
/// `RINGWAY_KILLS` says how often; 20 times if it is not set.
#[test]
fn t30_kill_and_start_again() {
    let rounds = std::env::var("RINGWAY_KILLS").map_or(20, |text| text.parse().expect("RINGWAY_KILLS is a number"));
    let ground = Ground::new();
    let (echo, endless) =
        (Server::echo(&ground), Server::new(&ground, |mut s| while s.write_all(&[7; 65_536]).is_ok() {}));
    let (front, bulk) = (ground.address(), ground.address());
    let config = one_pool(front, &[echo.address()], "")
        + &listener("bulk", &bulk.to_string(), "bulk")
        + &pool("bulk", &[format!("{{ name = \"b\", address = \"{}\" }}", endless.address())], "");
    let mut ringway = Ringway::start(&ground, &config);
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let mut clients: Vec<TcpStream> = (0..8).map(|_| connect(front)).collect();
        for client in &mut clients {
            exchange(client, b"before").expect("an echo");
        }
        let mut readers: Vec<TcpStream> = (0..4).map(|_| connect(bulk)).collect();
        for reader in &mut readers {
            read_exactly(reader, 1 << 20).expect("a part of what never ends");
        }
        let took = ringway.kill_and_start_again();
        assert!(took < Duration::from_secs(10), "round {round}: {took:?} until it served");
        slowest = slowest.max(took);
        exchange(&mut connect(front), b"after").expect("an echo");
        for client in &mut clients {
            assert!(exchange(client, b"lost").is_err(), "a session outlived its process");
        }
    }
    println!("{rounds} kills, at most {slowest:?} until it served again");
    let baseline = Baseline::of(&ringway);
    exchange(&mut connect(front), b"in the end").expect("an echo");
    baseline.holds_again(&mut ringway);
    ringway.end_well();
}

/// An address that keepalived brings later: the daemon starts without it, says so, and serves as soon as it is there.
#[test]
fn t33_address_that_comes_later() {
    on_a_network(|net| {
        let ground = Ground::new();
        let server = net.one.serve(80, say("one"));
        let wandering = SocketAddr::from(([10, 9, 9, 9], FRONT));
        let config = one_pool(net.balancer.port(FRONT), &[server.address()], "")
            + &listener("wandering", &wandering.to_string(), "pool");
        let mut ringway = Ringway::start(&ground, &config);
        let baseline = Baseline::of(&ringway);
        let told = |event: &String| event.contains("\"event\":\"address_absent\"") && event.contains("10.9.9.9");
        await_that("a warning", || ringway.events().iter().any(told));
        net.client.command("ip", &format!("route add 10.9.9.9 via {}", net.balancer.port(0).ip()));
        net.balancer.command("ip", "address add 10.9.9.9/32 dev lo");
        let heard = net.client.inside(|| ask(wandering));
        assert_eq!(heard, "one");
        baseline.holds_again(&mut ringway);
        ringway.end_well();
    });
}

/// Started twice by mistake: the second is refused and says why, and takes not a single connection from the first.
#[test]
fn t34_second_daemon() {
    in_own_network(|| {
        let ground = Ground::new();
        let (a, b) = (Server::named(&ground, "a"), Server::named(&ground, "b"));
        let front = ground.address();
        let mut ringway = Ringway::start(&ground, &one_pool(front, &[a.address()], ""));
        let baseline = Baseline::of(&ringway);
        let (status, said) = Setup::on(&ground).start_in_vain(&one_pool(front, &[b.address()], ""));
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(&front.to_string()), "which address? {said}");
        assert!(said.contains("in use"), "{said}");
        for _ in 0..50 {
            assert_eq!(ask(front), "a");
        }
        baseline.holds_again(&mut ringway);
        ringway.end_well();
    });
}

/// Two started at the same moment on the same files, as two supervisors do it: one serves and can be talked to, the other
/// ends at once and says why.
#[test]
fn t34_two_daemons_at_the_same_moment() {
    in_own_network(|| {
        let ground = Ground::new();
        let server = Server::named(&ground, "a");
        let front = ground.address();
        // Leaves its files behind.
        let written = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
        let (config, socket) = (written.config().to_owned(), written.socket().to_owned());
        written.end_well();
        for round in 0..10 {
            let mut twins = ["one", "other"].map(|name| {
                let mut command = Command::new(BINARY);
                command.args(["run", "-c"]).arg(&config);
                Process::start(name, &mut command, &ground.file(&format!("{name}{round}.out")))
            });
            let (loser, status) =
                await_some("one of the two to end", || (0..2).find_map(|n| twins[n].ended().map(|status| (n, status))));
            let said = twins[loser].said().join("\n");
            assert_eq!(status.code(), Some(1), "{said}");
            assert!(said.contains("is ringway running already?"), "{said}");
            await_that("the other to serve", || {
                twins[1 - loser].must_live();
                http_get_unix(&socket, "/readyz").is_ok_and(|(status, _)| status == 200)
            });
            assert_eq!(ask(front), "a");
            twins[1 - loser].signal(Signal::SIGTERM);
            assert!(twins[1 - loser].wait().success());
        }
    });
}
