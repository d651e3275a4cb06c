//! Steering a running daemon: a server is taken out and put back, and a reload is taken back.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;

use crate::harness::facts::{await_that, http_over, lines_of};
use crate::harness::ground::Ground;
use crate::harness::peers::{Server, connect, end_of, exchange, read_exactly};
use crate::harness::ringway::{Ringway, Setup, one_pool};

/// Who answers `count` newcomers.
fn answers(front: SocketAddr, count: usize) -> BTreeSet<String> {
    let name = |_| read_exactly(&mut connect(front), 1).expect("a name");
    (0..count).map(name).map(|name| String::from_utf8(name).expect("a letter")).collect()
}

fn names(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn a_server_is_drained_and_comes_back() {
    let ground = Ground::new();
    let (a, b) = (Server::named_echo(&ground, "a"), Server::named_echo(&ground, "b"));
    let front = ground.address();
    let config = one_pool(front, &[a.address(), b.address()], "");
    let ringway = Ringway::start(&ground, &config);
    let mut clients = [connect(front), connect(front)];
    for client in &mut clients {
        read_exactly(client, 1).expect("a name");
    }

    let (code, said) = ringway.said(&["server", "set", "pool/s0", "--state", "drain"]);
    assert_eq!((code, said.as_str()), (0, "pool/s0: drain (was ready), weight 1, 1 session\n"));
    assert_eq!(answers(front, 6), names(&["b"]), "no newcomer gets the one that drains");
    for client in &mut clients {
        exchange(client, b"x").expect("sessions go on");
    }
    let (code, said) = ringway.said(&["server", "set", "pool/s0", "--state", "maint", "--wait", "--timeout", "1"]);
    assert!(code == 1 && said.contains("still has 1 session after 1 s"), "{said}");
    let status: Value = serde_json::from_str(&ringway.said(&["status", "--json"]).1).expect("JSON");
    assert_eq!(status["pools"][0]["servers"][0]["state"], "maint", "{status}");

    // A reload has no opinion on it.
    ringway.reload_with(&(config.clone() + "\n# the same\n"));
    assert_eq!(answers(front, 4), names(&["b"]));
    let (_, said) = ringway.said(&["server", "set", "pool/s1", "--state", "drain"]);
    assert!(said.contains("pool pool has no server now that takes sessions"), "{said}");
    drop(clients);
    let (code, said) = ringway.said(&["server", "set", "pool/s0", "--state", "ready", "--wait"]);
    assert!(code == 0 && said.ends_with("pool/s0: no sessions left\n"), "{said}");
    ringway.said(&["server", "set", "pool/s1", "--state", "ready"]);
    assert_eq!(answers(front, 6), names(&["a", "b"]));

    let (code, said) = ringway.said(&["server", "set", "pool/s9", "--state", "ready"]);
    assert!(code == 1 && said.contains("there are \"s0\", \"s1\""), "{said}");
    await_that("each wish to be on record with its user", || {
        let ours = ["\"event\":\"admin\"", "\"message\":\"server\"", "\"uid\":0", "\"pid\":"];
        lines_of(ringway.log()).iter().filter(|line| ours.iter().all(|part| line.contains(part))).count() == 6
    });
    ringway.end_well();
}

/// How many of `count` newcomers server `name` answers.
fn share(front: SocketAddr, name: &[u8], count: usize) -> usize {
    (0..count).filter(|_| read_exactly(&mut connect(front), 1).expect("a name") == name).count()
}

#[test]
fn weight_and_limit_are_set_until_the_file_says_otherwise() {
    let ground = Ground::new();
    let (a, b) = (Server::named_echo(&ground, "a"), Server::named_echo(&ground, "b"));
    let front = ground.address();
    let config = one_pool(front, &[a.address(), b.address()], "");
    let ringway = Ringway::start(&ground, &config);
    assert_eq!(share(front, b"a", 20), 10);
    ringway.await_metric("ringway_server_sessions", &[], |sessions| sessions == 0.0);
    let (code, said) = ringway.said(&["server", "set", "pool/s0", "--weight", "3"]);
    assert_eq!((code, said.as_str()), (0, "pool/s0: ready, weight 3, 0 sessions\n"));
    assert_eq!(share(front, b"a", 40), 30);

    // What is wrong is refused, and what was set stays.
    let (code, said) = ringway.said(&["server", "set", "pool/s1", "--weight", "257"]);
    assert!(code == 2 && said.contains("0..=256"), "{said}");
    ringway.said(&["server", "set", "pool/s0", "--weight", "0"]);
    assert_eq!(share(front, b"a", 4), 0);
    let (code, said) = ringway.said(&["server", "set", "pool/s1", "--weight", "0"]);
    assert!(code == 1 && said.contains("nobody would be served"), "{said}");
    ringway.said(&["server", "set", "pool/s0", "--weight", "3"]);

    // A reload that leaves the line alone leaves it; one that changes it means the file.
    ringway.reload_with(&(config.clone() + "\n# the same\n"));
    assert_eq!(share(front, b"a", 40), 30);
    let line = format!("address = \"{}\"", a.address());
    ringway.reload_with(&config.replace(&line, &format!("{line}, weight = 4")));
    assert_eq!(share(front, b"a", 40), 32);
    let (_, said) = ringway.said(&["rollback"]);
    assert!(said.contains("weight 4 → 1"), "{said}");

    ringway.await_metric("ringway_server_sessions", &[], |sessions| sessions == 0.0);
    let (_, said) = ringway.said(&["server", "set", "pool/s0", "--max-connections", "1", "--state", "ready"]);
    assert_eq!(said, "pool/s0: ready, weight 1, 0 sessions of at most 1\n");
    let held: Vec<_> = (0..6).map(|_| connect(front)).collect();
    ringway.await_metric("ringway_server_sessions", &[("server", "s1")], |sessions| sessions == 5.0);
    drop(held);
    ringway.end_well();
}

#[test]
fn sessions_are_listed_and_killed() {
    let ground = Ground::new();
    let (a, b) = (Server::named_echo(&ground, "a"), Server::named_echo(&ground, "b"));
    let front = ground.address();
    let config = one_pool(front, &[a.address(), b.address()], "");
    let ringway = Setup::on(&ground).global("workers = 2").start(&config);
    let mut clients: Vec<_> = (0..40).map(|_| connect(front)).collect();
    for client in &mut clients {
        read_exactly(client, 1).expect("a name");
        exchange(client, b"hello").expect("an echo");
    }
    let listed = |words: &[&str]| -> Value {
        let (code, said) = ringway.said(&[&["sessions", "--json"], words].concat());
        assert_eq!(code, 0, "{said}");
        serde_json::from_str(&said).expect("JSON")
    };
    let all = listed(&[]);
    assert_eq!((&all["found"], &all["complete"]), (&40.into(), &true.into()));
    let sessions = all["sessions"].as_array().expect("a list");
    let known: BTreeSet<String> =
        clients.iter().map(|client| client.local_addr().expect("bound").to_string()).collect();
    let told: BTreeSet<String> = sessions.iter().map(|each| each["client"].as_str().expect("one").to_owned()).collect();
    assert_eq!(told, known);
    for each in sessions {
        assert_eq!((&each["listener"], &each["state"]), (&"front".into(), &"relaying".into()), "{each}");
        assert_eq!((&each["bytes_in"], &each["bytes_out"]), (&5.into(), &6.into()), "{each}");
    }
    assert_eq!(listed(&["--server", "pool/s0"])["found"], 20);
    assert_eq!(listed(&["--source", "127.0.0.0/8", "--limit", "3"])["sessions"].as_array().map(Vec::len), Some(3));
    assert_eq!(listed(&["--source", "10.0.0.0/8"])["found"], 0);
    for (words, part) in [
        (["--listener", "other"], "no listener named \"other\"; there are \"front\""),
        (["--listener", "a name&limit=%"], "no listener named \"a name&limit=%\""),
        (["--server", "pool/s2"], "no server in pool \"pool\" named \"s2\"; there are \"s0\", \"s1\""),
        (["--server", "pol/s0"], "no pool named \"pol\""),
    ] {
        let (code, said) = ringway.said(&[&["sessions"], &words[..]].concat());
        assert!(code == 1 && said.contains(part), "{said}");
    }
    let (_, table) = ringway.said(&["sessions", "--limit", "2"]);
    assert!(table.starts_with("SESSION ") && table.contains("2 of 40 sessions"), "{table}");

    let of = |client: &std::net::TcpStream| {
        let address = client.local_addr().expect("bound").to_string();
        let found = sessions.iter().find(|each| each["client"] == *address).expect("it is listed");
        found["session"].as_str().expect("a name").to_owned()
    };
    let mut victim = clients.swap_remove(7);
    let name = of(&victim);
    let (code, said) = ringway.said(&["kill", &name, "1-99999"]);
    assert!(
        code == 1 && said.contains(&format!("{name}: ended")) && said.contains("1-99999: there is no such"),
        "{said}"
    );
    assert_eq!(end_of(&mut victim), Err(std::io::ErrorKind::ConnectionReset));
    let record = ringway.record("killed");
    assert_eq!((&record["session"], &record["code"]), (&name.clone().into(), &"KD".into()));
    let (code, said) = ringway.said(&["kill", "nobody"]);
    assert!(code == 1 && said.contains("is no session's name"), "{said}");
    for client in &mut clients {
        exchange(client, b"x").expect("the others go on");
    }
    assert_eq!(listed(&[])["found"], 39);
    drop(clients);
    ringway.end_well();
}

#[test]
fn it_is_explained_who_serves_and_who_does_not() {
    let ground = Ground::new();
    let (a, b) = (Server::named_echo(&ground, "a"), Server::named_echo(&ground, "b"));
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[a.address(), b.address()], "policy = \"source-hash\""));
    let served = String::from_utf8(read_exactly(&mut connect(front), 1).expect("a name")).expect("a letter");
    let (chosen, other) = if served == "a" { ("s0", "s1") } else { ("s1", "s0") };
    let question = ["explain", "--listener", "front", "--source", "127.0.0.1"];
    let (code, said) = ringway.said(&question);
    assert!(code == 0 && said.contains(&format!("it gets {chosen}: this address goes there")), "{said}");
    assert!(said.contains("usable, and not its turn"), "{said}");

    ringway.said(&["server", "set", &format!("pool/{chosen}"), "--state", "drain"]);
    let (_, said) = ringway.said(&question);
    assert!(said.contains(&format!("it gets {other}:")) && said.contains("it drains: set so by an operator"), "{said}");
    ringway.said(&["server", "set", &format!("pool/{other}"), "--state", "maint"]);
    let (code, said) = ringway.said(&[&question[..], &["--json"]].concat());
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((code, &said["server"]), (1, &Value::Null), "{said}");
    assert_eq!(said["outcome"], "no server is to be had: it ends as no_server");
    let (code, said) = ringway.said(&["explain", "--listener", "the front"]);
    assert!(code == 1 && said.contains("no listener named \"the front\"; there are \"front\""), "{said}");
    ringway.end_well();
}

#[test]
fn only_the_unix_socket_steers() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let ringway = Ringway::start(&ground, &one_pool(ground.address(), &[server.address()], ""));
    for path in ["/v1/server", "/v1/rollback", "/v1/reload", "/v1/kill", "/v1/sessions"] {
        let stream = std::net::TcpStream::connect(ringway.admin()).expect("it listens");
        assert_eq!(http_over(stream, "POST", path).expect("an answer").0, 403, "{path}");
    }
    let stream = std::os::unix::net::UnixStream::connect(ringway.socket()).expect("it listens");
    let (status, said) = http_over(stream, "POST", "/v1/server").expect("an answer");
    assert!(status == 400 && said.contains("the body"), "{status} {said}");
    ringway.end_well();
}

#[test]
fn a_reload_is_taken_back() {
    let ground = Ground::new();
    let (a, b) = (Server::named(&ground, "a"), Server::named(&ground, "b"));
    let front = ground.address();
    let first = one_pool(front, &[a.address()], "");
    let ringway = Ringway::start(&ground, &first);
    let (code, said) = ringway.said(&["rollback"]);
    assert!(code == 1 && said.contains("no earlier configuration"), "{said}");
    // No configuration was refused, and nobody is told so.
    assert_eq!(ringway.metric("ringway_config_last_reload_successful", &[]), 1.0);

    ringway.reload_with(&one_pool(front, &[b.address()], ""));
    assert_eq!(answers(front, 2), names(&["b"]));
    let (code, said) = ringway.said(&["rollback"]);
    assert!(code == 0 && said.contains("configuration 3 is in force"), "{said}");
    assert_eq!(answers(front, 2), names(&["a"]));
    let (_, said) = ringway.said(&["rollback"]);
    assert!(said.contains("configuration 4 is in force"), "{said}");
    assert_eq!(answers(front, 2), names(&["b"]), "a second one goes forward again");
    // The file was never touched.
    let (_, said) = ringway.said(&["reload"]);
    assert!(said.contains("nothing changed"), "{said}");
    ringway.end_well();
}
