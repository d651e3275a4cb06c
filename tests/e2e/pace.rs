//! Sessions that are to go elsewhere, over a time: the idle first, and no more of them at once than need be.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::cluster::{Client, Cluster, await_roles};
use crate::harness::ground::Ground;
use crate::harness::peers::{Server, connect, end_of, exchange, read_exactly};
use crate::harness::ringway::{Ringway, one_pool};

/// So many who have asked something and had their answer, and who serves each.
fn crowd(front: SocketAddr, count: usize) -> Vec<(Vec<u8>, TcpStream)> {
    let newcomer = |_| {
        let mut client = connect(front);
        let name = read_exactly(&mut client, 1).expect("a name");
        exchange(&mut client, b"hello").expect("an echo");
        (name, client)
    };
    (0..count).map(newcomer).collect()
}

/// How many of them are reset, when all that are to be have been.
fn count_reset(clients: &mut [(Vec<u8>, TcpStream)]) -> usize {
    clients.iter_mut().filter_map(|(_, client)| exchange(client, b"x").err()).count()
}

#[test]
fn a_node_is_drained_over_a_time() {
    let ground = Ground::new();
    // `b` reads and never answers: who has asked it something is busy.
    let (a, b) = (
        Server::named_echo(&ground, "a"),
        Server::new(&ground, |mut stream| drop(std::io::copy(&mut stream, &mut std::io::sink()))),
    );
    let front = ground.address();
    let mut ringway = Ringway::start(&ground, &one_pool(front, &[a.address()], ""));
    let mut idle = crowd(front, 20);
    ringway.reload_with(&one_pool(front, &[b.address()], ""));
    let mut busy = connect(front);
    std::io::Write::write_all(&mut busy, b"a question").expect("it is read");
    ringway.await_metric("ringway_bytes_total", &[("direction", "in")], |bytes| bytes >= 110.0);

    let begun = Instant::now();
    let said = ringway.done(&["drain", "--for", "2s"]);
    assert_eq!(said, "not ready; 21 sessions: the idle ones are ended over 2s, the busy ones go on\n");
    assert_eq!(ringway.page("/readyz").0, 503);
    ringway.reload_with(&one_pool(front, &[a.address()], "# who comes now is served\n"));
    let mut late = crowd(front, 1);
    ringway.await_ended("moved", 20.0);
    // The last of twenty comes in the last twentieth of a second and a half: they were not ended all at once.
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    ringway.await_event("the time is up: 20 sessions were ended, those that were busy go on");
    assert_eq!(count_reset(&mut idle), 20);
    assert_eq!(count_reset(&mut late), 0, "who came later has been sent here all the same");
    let record = ringway.record("moved");
    assert_eq!((&record["code"], &record["bytes_in"]), (&"KD".into(), &5.into()));

    // Those that are busy, too, when that is asked for; and it can be taken back.
    let said = ringway.done(&["drain", "--for", "1h", "--close"]);
    assert!(said.contains("2 sessions: the idle ones are ended over 1h, then the others"), "{said}");
    assert_eq!(ringway.done(&["drain", "--undo"]), "ready; 2 sessions go on\n");
    ringway.await_event("no more sessions are ended; 0 were");
    ringway.done(&["drain", "--for", "1s", "--close"]);
    assert_eq!(end_of(&mut busy), Err(ErrorKind::ConnectionReset));
    ringway.await_event("everybody is ended, 2 sessions in all");
    ringway.done(&["drain", "--undo"]);
    drop((idle, late));
    ringway.settles();
    ringway.end_well();
}

#[test]
fn the_sessions_of_a_server_are_led_to_the_others() {
    let ground = Ground::new();
    let (a, b) = (Server::named_echo(&ground, "a"), Server::named_echo(&ground, "b"));
    let front = ground.address();
    let mut ringway = Ringway::start(&ground, &one_pool(front, &[a.address(), b.address()], ""));
    let mut clients = crowd(front, 20);
    let said = ringway.done(&["server", "set", "pool/s0", "--state", "drain", "--for", "1h"]);
    assert!(said.contains("pool/s0: the idle ones are ended over 1h, the busy ones go on"), "{said}");
    ringway.done(&["server", "set", "pool/s0", "--state", "ready"]);
    ringway.await_event("no more sessions are ended; 0 were");
    let said = ringway.done(&["server", "set", "pool/s0", "--state", "maint", "--for", "2s", "--wait"]);
    assert!(said.ends_with("pool/s0: no sessions left\n"), "{said}");
    ringway.await_event("no session is left of those that were to go; 10 of them were ended");
    let (mut theirs, mut others): (Vec<_>, Vec<_>) = clients.drain(..).partition(|(name, _)| name == b"a");
    assert_eq!((count_reset(&mut theirs), count_reset(&mut others)), (10, 0));
    ringway.await_ended("moved", 10.0);
    let mut back = crowd(front, 10);
    assert!(back.iter().all(|(name, _)| name == b"b"), "they come back to the other");
    assert_eq!(count_reset(&mut back), 0);

    for (words, exit, part) in [
        (vec!["server", "set", "pool/s0", "--state", "ready", "--for", "2s"], 1, "set to drain"),
        (vec!["server", "set", "pool/s0", "--weight", "1", "--for", "2s"], 2, "--state"),
        (vec!["server", "set", "pool/s0", "--state", "drain", "--for", "2"], 2, "no unit"),
        (vec!["server", "set", "pool/s0", "--state", "drain", "--for", "2d"], 2, "to 24h"),
        (vec!["server", "set", "pool/s0", "--state", "drain", "--close"], 2, "--for"),
        (vec!["drain", "--undo", "--for", "2s"], 2, "--undo"),
        (vec!["drain", "--close"], 2, "--for"),
    ] {
        let (code, said) = ringway.said(&words);
        assert!(code == exit && said.contains(part), "{words:?}: {code} {said}");
    }
    let status: Value = serde_json::from_str(&ringway.done(&["status", "--json"])).expect("JSON");
    assert_eq!(status["state"], "running", "nothing of it came into force");
    drop((theirs, others, back));
    ringway.settles();
    ringway.end_well();
}

#[test]
fn a_pool_is_brought_into_balance() {
    let ground = Ground::new();
    let servers = ["a", "b", "c"].map(|name| Server::named_echo(&ground, name));
    let front = ground.address();
    let addresses: Vec<SocketAddr> = servers.iter().map(Server::address).collect();
    let mut ringway = Ringway::start(&ground, &one_pool(front, &addresses, "policy = \"least-connections\""));
    ringway.done(&["server", "set", "pool/s2", "--state", "maint"]);
    let mut clients = crowd(front, 20);
    let said = ringway.done(&["rebalance", "pool", "--dry-run"]);
    assert!(said.ends_with("pool: nothing to even out\n") && !said.contains("s2"), "{said}");
    ringway.done(&["server", "set", "pool/s2", "--state", "ready"]);
    let said = ringway.done(&["rebalance", "pool", "--dry-run", "--for", "2s"]);
    assert_eq!(
        said,
        "pool/s0: 10 sessions, share 7, 3 too many (10 of all are idle now)\n\
         pool/s1: 10 sessions, share 7, 3 too many (10 of all are idle now)\n\
         pool/s2: 0 sessions, share 7\n\
         pool: 6 sessions would be ended, if idle, over 2s\n"
    );
    // It goes on only as long as it makes sense, and until it is stopped.
    ringway.done(&["rebalance", "pool", "--for", "1h"]);
    ringway.done(&["server", "set", "pool/s2", "--state", "drain"]);
    ringway.await_event("nobody has too many that might move; 0 of 6 sessions were ended");
    ringway.done(&["server", "set", "pool/s2", "--state", "ready"]);
    ringway.done(&["rebalance", "pool", "--for", "1h"]);
    assert_eq!(ringway.done(&["rebalance", "pool", "--stop"]), "pool: no more sessions are ended; 0 were\n");
    assert_eq!(ringway.done(&["rebalance", "pool", "--stop"]), "pool: no more sessions are ended; 0 were\n");
    assert_eq!(count_reset(&mut clients), 0);

    let begun = Instant::now();
    let said = ringway.done(&["rebalance", "pool", "--for", "2s"]);
    assert!(said.ends_with("pool: 6 sessions are ended, if idle, over 2s\n"), "{said}");
    ringway.await_ended("moved", 6.0);
    assert!(begun.elapsed() >= Duration::from_secs(1), "one after the other: {:?}", begun.elapsed());
    ringway.await_event("6 of 6 sessions were ended");
    assert_eq!(count_reset(&mut clients), 6);
    let back = crowd(front, 6);
    assert!(back.iter().all(|(name, _)| name == b"c"), "they are where there is room");
    let said: Value = serde_json::from_str(&ringway.done(&["rebalance", "pool", "--json"])).expect("JSON");
    assert_eq!((&said["excess"], &said["servers"][2]["sessions"]), (&0.into(), &6.into()), "{said}");
    ringway.await_ended("moved", 6.0);

    ringway.reload_with(&one_pool(front, &addresses, "policy = \"maglev\""));
    for (words, exit, part) in [
        (vec!["rebalance", "pool"], 1, "nothing to even out in pool \"pool\": by policy \"maglev\""),
        (vec!["rebalance", "pol"], 1, "there are \"pool\""),
        (vec!["rebalance", "pool", "--stop", "--dry-run"], 2, "--dry-run"),
        (vec!["rebalance", "pool", "--for", "0s"], 2, "from 1s"),
    ] {
        let (code, said) = ringway.said(&words);
        assert!(code == exit && said.contains(part), "{words:?}: {code} {said}");
    }
    drop((clients, back));
    ringway.settles();
    ringway.end_well();
}

#[test]
fn who_is_busy_is_not_moved() {
    let ground = Ground::new();
    // Answers the first question, and thinks about the second for ever.
    let slow = Server::new(&ground, |mut stream| {
        let _ = std::io::Write::write_all(&mut stream, b"a");
        if read_exactly(&mut stream, 5).is_ok() {
            let _ = std::io::Write::write_all(&mut stream, b"hello");
        }
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let other = Server::named_echo(&ground, "b");
    let front = ground.address();
    let mut ringway = Ringway::start(&ground, &one_pool(front, &[slow.address(), other.address()], ""));
    ringway.done(&["server", "set", "pool/s1", "--state", "maint"]);
    let mut clients = crowd(front, 8);
    for (_, client) in &mut clients[2..] {
        std::io::Write::write_all(client, b"and?").expect("it is read");
    }
    ringway.await_metric("ringway_bytes_total", &[("direction", "in")], |bytes| bytes == 64.0);
    ringway.done(&["server", "set", "pool/s1", "--state", "ready"]);
    let said = ringway.done(&["rebalance", "pool", "--for", "1s"]);
    assert!(said.contains("pool/s0: 8 sessions, share 4, 4 too many (2 of all are idle now)"), "{said}");
    ringway.await_event("its time is up; 2 of 4 sessions were ended");
    ringway.await_ended("moved", 2.0);
    let mut idle: Vec<_> = clients.drain(..2).collect();
    assert_eq!(count_reset(&mut idle), 2);
    drop((idle, clients));
    ringway.settles();
    ringway.end_well();
}

/// Readers of a replica that went away sit on the other when it is back, and are brought into balance; writers, who are more
/// than anybody's share of the pool would be, stay where writes are taken.
#[test]
fn readers_are_evened_out_and_writers_stay() {
    let ground = Ground::new();
    let mut cluster = Cluster::start(&ground);
    let ringway = Ringway::start(&ground, &cluster.config(&ground, "role_grace = \"1s\"", ""));
    await_roles(&ringway, ["primary", "replica", "replica"]);
    let (write, read) = (cluster.write, cluster.read);
    let client = |port| Client::connect(port).and_then(|mut client| Ok((client.server()?, client))).expect("a server");
    let mut writers: Vec<_> = (0..12).map(|_| client(write)).collect();
    let mut readers: Vec<_> = (0..8).map(|_| client(read)).collect();
    assert!(writers.iter().all(|(id, _)| *id == 1));
    assert_eq!(on_each(&readers), [0, 4, 4]);

    // One replica dies: its readers come back, to the other.
    cluster.servers[2].crash();
    assert_eq!(come_back(&mut readers, read), 4);
    assert_eq!(on_each(&readers), [0, 8, 0]);
    cluster.servers[2].start_again();
    await_roles(&ringway, ["primary", "replica", "replica"]);
    ringway.await_metric("ringway_server_state", &[("server", "db3"), ("state", "up")], |is| is == 1.0);

    let shown = "db/db2 (replica): 8 sessions, share 4, 4 too many (8 of all are idle now)\n\
         db/db3 (replica): 0 sessions, share 4\n\
         db/db1 (primary): 12 sessions, share 12\n";
    let said = ringway.done(&["rebalance", "db", "--dry-run"]);
    assert_eq!(said, format!("{shown}db: 4 sessions would be ended, if idle, over 1m\n"));
    let said = ringway.done(&["rebalance", "db", "--for", "1s"]);
    assert_eq!(said, format!("{shown}db: 4 sessions are ended, if idle, over 1s\n"));
    ringway.await_event("4 of 4 sessions were ended");
    assert_eq!(come_back(&mut readers, read), 4);
    assert_eq!(on_each(&readers), [0, 4, 4]);
    assert_eq!(come_back(&mut writers, write), 0, "a writer had to come back");
    ringway.await_ended("moved", 4.0);
    assert!(ringway.records().iter().all(|record| record["reason"] != "moved" || record["server"] == "db2"));
    let said = ringway.done(&["rebalance", "db"]);
    assert!(said.ends_with("db: nothing to even out\n"), "{said}");
    drop((readers, writers));
    ringway.end_well();
}

/// How many are on each of three servers.
fn on_each(clients: &[(usize, Client)]) -> [usize; 3] {
    [1, 2, 3].map(|n| clients.iter().filter(|(id, _)| *id == n).count())
}

/// Those whose session has ended connect again; how many.
fn come_back(clients: &mut [(usize, Client)], port: SocketAddr) -> usize {
    let mut count = 0;
    for place in clients {
        match place.1.server() {
            Ok(id) => assert_eq!(id, place.0, "a session stays where it is"),
            Err(_) => {
                let mut client = Client::connect(port).expect("a server");
                *place = (client.server().expect("a server"), client);
                count += 1;
            }
        }
    }
    count
}
