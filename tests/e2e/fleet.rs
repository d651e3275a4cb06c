//! Servers that are added to a running daemon and removed from it, for now or for good.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use serde_json::Value;

use crate::harness::facts::{await_that, http_over, lines_of};
use crate::harness::ground::{Ground, need_root};
use crate::harness::peers::{Server, connect, exchange, read_exactly};
use crate::harness::ringway::{BINARY, Ringway, Setup, one_pool};

/// Who answers `count` newcomers.
fn answers(front: SocketAddr, count: usize) -> String {
    let name = |_| read_exactly(&mut connect(front), 1).expect("a name");
    let names: BTreeSet<Vec<u8>> = (0..count).map(name).collect();
    names.into_iter().map(|name| String::from_utf8(name).expect("a letter")).collect()
}

/// What a reload of its file would do.
fn planned(ringway: &Ringway) -> String {
    let output = Command::new(BINARY).arg("plan").arg(ringway.config()).output().expect("the binary under test");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_server_is_added_and_removed_without_losing_a_session() {
    let ground = Ground::new();
    let (a, b) = (Server::named_echo(&ground, "a"), Server::named_echo(&ground, "b"));
    let front = ground.address();
    let config = one_pool(front, &[a.address()], "");
    let mut ringway = Ringway::start(&ground, &config);
    let mut old = connect(front);
    read_exactly(&mut old, 1).expect("a name");
    let address = b.address().to_string();
    let said = ringway.done(&["server", "add", "pool/new", "--address", &address, "--weight", "2"]);
    assert!(said.contains(&format!("+ server pool/new at {address}: weight 2")), "{said}");
    assert!(said.ends_with("configuration 2 is in force\n"), "{said}");
    assert_eq!(answers(front, 6), "ab");
    assert!(!planned(&ringway).contains("server"), "a reload leaves it: {}", planned(&ringway));

    // One of the file goes, and its sessions go on.
    let said = ringway.done(&["server", "remove", "pool/s0"]);
    assert!(said.contains("- server pool/s0") && said.contains("1 session goes on"), "{said}");
    assert_eq!(answers(front, 4), "b");
    exchange(&mut old, b"x").expect("it goes on");
    let (code, said) = ringway.said(&["server", "remove", "pool/new"]);
    assert!(code == 1 && said.contains("has no servers"), "the last stays: {said}");
    assert_eq!(answers(front, 4), "b");

    // A reload of the same file has no opinion; what is asked of the server that was added holds, too.
    ringway.reload_with(&(config.clone() + "\n# the same\n"));
    assert_eq!(answers(front, 4), "b");
    ringway.done(&["server", "set", "pool/new", "--weight", "3"]);
    let page: Value = serde_json::from_str(&ringway.page("/v1/overlay").1).expect("JSON");
    assert!(page["passing"].as_str().is_some_and(|text| text.contains("[[remove]]")), "{page}");
    assert_eq!(page["kept"], "", "{page}");
    // Whoever changes the line means the file.
    ringway.reload_with(&one_pool(front, &[b.address(), a.address()], ""));
    assert_eq!(answers(front, 6), "ab");
    let status: Value = serde_json::from_str(&ringway.done(&["status", "--json"])).expect("JSON");
    let servers = status["pools"][0]["servers"].as_array().expect("a list");
    assert_eq!(servers.iter().map(|server| &server["name"]).collect::<Vec<_>>(), ["s0", "s1"]);
    assert!(!ringway.config().with_extension("overlay.toml").exists(), "nothing was to be kept");
    await_that("both wishes to be on record", || {
        let is_ours = |line: &&String| line.contains("\"event\":\"admin\"") && line.contains("\"uid\":");
        let lines = lines_of(ringway.log());
        let of = |what: &str| lines.iter().filter(is_ours).filter(|line| line.contains(what)).count();
        (of("\"server add\""), of("\"server remove\"")) == (1, 2)
    });
    drop(old);
    ringway.settles();
    ringway.end_well();
}

#[test]
fn a_server_that_is_added_is_checked_before_it_serves() {
    let ground = Ground::new();
    let a = Server::named_echo(&ground, "a");
    let front = ground.address();
    let check = "check = { type = \"tcp\", interval = \"100ms\", fast_interval = \"50ms\" }";
    let ringway = Ringway::start(&ground, &one_pool(front, &[a.address()], check));
    ringway.await_metric("ringway_server_state", &[("server", "s0"), ("state", "up")], |up| up == 1.0);
    ringway.done(&["server", "add", "pool/dead", "--address", &ground.address().to_string()]);
    ringway.await_metric("ringway_server_state", &[("server", "dead"), ("state", "down")], |down| down == 1.0);
    assert_eq!(answers(front, 6), "a");
    assert_eq!(ringway.metric("ringway_retries_total", &[]), 0.0, "nobody was sent there");
    ringway.done(&["server", "remove", "pool/dead"]);
    assert_eq!(ringway.metrics().by("ringway_server_sessions", "server").len(), 1, "nothing of it is left");
    ringway.end_well();
}

#[test]
fn what_is_persisted_outlives_the_daemon() {
    let ground = Ground::new();
    let (a, b) = (Server::named_echo(&ground, "a"), Server::named_echo(&ground, "b"));
    let front = ground.address();
    let config = one_pool(front, &[a.address()], "");
    let mut ringway = Ringway::start(&ground, &config);
    let overlay = ringway.config().with_extension("overlay.toml");
    let address = b.address().to_string();
    let said = ringway.done(&["server", "add", "pool/new", "--address", &address, "--persist"]);
    assert!(said.contains(&format!("in force, kept in {}", overlay.display())), "{said}");
    ringway.done(&["server", "remove", "pool/s0", "--persist"]);
    assert_eq!(answers(front, 4), "b");
    let printed = ringway.done(&["check", "--print"]);
    assert!(printed.contains("# added by the overlay") && printed.contains("removed by the overlay"), "{printed}");
    let said = ringway.done(&["check"]);
    assert!(said.contains("(1 added, 1 removed by ") && said.contains("1 server"), "{said}");
    assert_eq!(planned(&ringway).lines().filter(|line| line.contains("server")).count(), 0);

    ringway.kill_and_start_again();
    assert_eq!(answers(front, 4), "b");
    assert!(ringway.done(&["reload"]).contains("nothing changed"));

    // The file has it now: that is a mistake with a place, and nothing changes.
    ringway.write_config(&one_pool(front, &[a.address(), b.address()], ""));
    let (code, said) = ringway.said(&["reload"]);
    assert!(code == 3 && said.contains(&format!("{}:", overlay.display())), "{said}");
    assert!(said.contains("is the address of server \"s1\"") && said.contains("take this [[add]] out"), "{said}");
    assert_eq!(ringway.said(&["check"]).0, 3);
    assert_eq!(answers(front, 4), "b");
    // Somebody changes the overlay by hand: it is not written over before it was read.
    let kept = fs::read_to_string(&overlay).expect("written");
    fs::remove_file(&overlay).expect("own file");
    let (code, said) = ringway.said(&["server", "add", "pool/s0", "--address", &a.address().to_string(), "--persist"]);
    assert!(code == 1 && said.contains("run `ringway reload` first"), "{said}");
    assert!(!overlay.exists());
    ringway.done(&["reload"]);
    assert_eq!(answers(front, 6), "ab");

    // Back to the file and the overlay of before; both files are left alone.
    ringway.done(&["rollback"]);
    assert_eq!(answers(front, 4), "b");
    let page: Value = serde_json::from_str(&ringway.page("/v1/overlay").1).expect("JSON");
    assert_eq!((&page["kept"], overlay.exists()), (&Value::from(kept), false));
    ringway.done(&["reload"]);
    assert_eq!(answers(front, 6), "ab");
    ringway.done(&["server", "remove", "pool/s0", "--persist"]);
    ringway.kill_and_start_again();
    assert_eq!(answers(front, 4), "b");
    ringway.end_well();
}

#[test]
fn what_is_set_of_a_server_may_outlive_the_daemon() {
    let ground = Ground::new();
    let (a, b) = (Server::named_echo(&ground, "a"), Server::named_echo(&ground, "b"));
    let front = ground.address();
    let config = one_pool(front, &[a.address(), b.address()], "");
    let mut ringway = Ringway::start(&ground, &config);
    let overlay = ringway.config().with_extension("overlay.toml");
    // For now one thing, for good another: it gives way.
    ringway.done(&["server", "set", "pool/s1", "--weight", "7"]);
    let said = ringway.done(&["server", "set", "pool/s1", "--weight", "3", "--max-connections", "50", "--persist"]);
    let kept = format!("pool/s1: kept in {}\n", overlay.display());
    assert_eq!(said, format!("pool/s1: ready, weight 3, 0 sessions of at most 50\n{kept}"));
    let said = ringway.done(&["server", "set", "pool/s0", "--state", "drain", "--persist"]);
    assert!(said.starts_with("pool/s0: drain (was ready), weight 1") && said.contains("kept in"), "{said}");
    assert_eq!(answers(front, 6), "b");
    let printed = ringway.done(&["check", "--print"]);
    assert!(printed.contains("# set by the overlay: state drain\n"), "{printed}");
    assert!(printed.contains("weight (without it 1), max_connections (without it none)"), "{printed}");
    assert!(ringway.done(&["check"]).contains("0 added, 0 removed, 2 set by "));
    assert!(!planned(&ringway).contains("server"), "{}", planned(&ringway));

    ringway.kill_and_start_again();
    assert_eq!(answers(front, 6), "b", "it boots with it");
    ringway.await_metric("ringway_server_sessions", &[], |sessions| sessions == 0.0);
    let said = ringway.done(&["server", "set", "pool/s1", "--state", "ready"]);
    assert_eq!(said, "pool/s1: ready, weight 3, 0 sessions of at most 50\n");
    // What is said for now outlives a reload, and no restart.
    ringway.done(&["server", "set", "pool/s0", "--state", "ready"]);
    assert!(ringway.done(&["reload"]).contains("nothing changed"));
    assert_eq!(answers(front, 8), "ab");
    ringway.kill_and_start_again();
    assert_eq!(answers(front, 6), "b");
    // Whoever changes the overlay by hand, or goes back, means it.
    let text = fs::read_to_string(&overlay).expect("written");
    fs::write(&overlay, text.replace("state = \"drain\"\n", "weight = 2\n")).expect("own file");
    let said = ringway.done(&["reload"]);
    assert!(said.contains("state drain → ready"), "{said}");
    assert_eq!(answers(front, 8), "ab");
    ringway.done(&["rollback"]);
    assert_eq!(answers(front, 6), "b");
    ringway.done(&["reload"]);
    let (code, said) = ringway.said(&["server", "set", "pool/s0", "--weight", "0", "--persist"]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = ringway.said(&["server", "set", "pool/s1", "--weight", "0", "--persist"]);
    assert!(code == 1 && said.contains("weight"), "{said}");
    assert_eq!(answers(front, 6), "b", "nothing has changed");

    let address = a.address().to_string();
    ringway.done(&["server", "remove", "pool/s0"]);
    ringway.done(&["server", "add", "pool/now", "--address", &address]);
    let (code, said) = ringway.said(&["server", "set", "pool/now", "--state", "drain", "--persist"]);
    assert!(code == 1 && said.contains("only for now"), "{said}");
    assert_eq!(answers(front, 8), "ab");
    ringway.end_well();
}

#[test]
fn a_daemon_without_root_keeps_it_where_it_may() {
    need_root();
    let ground = Ground::new();
    let (a, b) = (Server::named_echo(&ground, "a"), Server::named_echo(&ground, "b"));
    let front = ground.address();
    fs::set_permissions(ground.dir(), fs::Permissions::from_mode(0o755)).expect("own directory");
    let config = one_pool(front, &[a.address()], "");
    let nobody = "workers = 1\nuser = \"nobody\"\ngroup = \"nogroup\"";
    let ringway = Setup::on(&ground).global(nobody).start(&config);
    let address = b.address().to_string();
    let add = ["server", "add", "pool/new", "--address", &address, "--persist"];
    let (code, said) = ringway.said(&add);
    assert!(code == 1 && said.contains("nothing is changed") && said.contains("set `state_dir`"), "{said}");
    assert_eq!(answers(front, 2), "a", "nothing is");
    ringway.end_well();

    let front = ground.address();
    let config = one_pool(front, &[a.address()], "");
    let state = ground.file("state");
    let global = format!("{nobody}\nstate_dir = \"{}\"", state.display());
    let mut ringway = Setup::on(&ground).global(&global).start(&config);
    ringway.done(&add);
    let overlay = state.join(ringway.config().with_extension("overlay.toml").file_name().expect("a name"));
    let (home, file) = (fs::metadata(&state).expect("made"), fs::metadata(&overlay).expect("written"));
    assert_eq!((home.mode() & 0o777, file.mode() & 0o777), (0o700, 0o600));
    assert!(home.uid() != 0 && home.uid() == file.uid(), "they are the daemon's");
    ringway.kill_and_start_again();
    assert_eq!(answers(front, 4), "ab");
    ringway.await_event("\"event\":\"overlay\"");
    ringway.end_well();
}

#[test]
fn a_node_that_drains_says_so_and_turns_nobody_away() {
    let ground = Ground::new();
    let a = Server::named_echo(&ground, "a");
    let front = ground.address();
    let config = one_pool(front, &[a.address()], "");
    let mut ringway = Ringway::start(&ground, &config);
    let mut old = connect(front);
    read_exactly(&mut old, 1).expect("a name");
    assert_eq!((ringway.page("/readyz").0, ringway.metric("ringway_ready", &[])), (200, 1.0));
    assert_eq!(ringway.done(&["drain"]), "not ready; 1 session goes on\n");
    assert_eq!((ringway.page("/readyz").0, ringway.page("/livez").0), (503, 200));
    assert_eq!(ringway.metric("ringway_ready", &[]), 0.0);
    assert_eq!((ringway.said(&["health", "--ready"]).0, ringway.said(&["health", "--live"]).0), (1, 0));
    let status: Value = serde_json::from_str(&ringway.done(&["status", "--json"])).expect("JSON");
    assert_eq!(status["state"], "draining", "{status}");
    exchange(&mut old, b"x").expect("it goes on");
    assert_eq!(answers(front, 2), "a", "who comes is served");
    ringway.reload_with(&(config + "\n# the same\n"));
    assert_eq!(ringway.page("/readyz").0, 503, "a reload has no opinion");
    assert_eq!(ringway.done(&["drain", "--undo"]), "ready; 1 session goes on\n");
    assert_eq!((ringway.page("/readyz").0, ringway.said(&["health", "--ready"]).0), (200, 0));
    ringway.done(&["drain"]);
    drop(old);
    ringway.settles();
    ringway.kill_and_start_again();
    assert_eq!(ringway.page("/readyz").0, 200, "a restart has forgotten it");
    await_that("who asked to be on record", || {
        let lines = lines_of(ringway.log());
        let asked = ["\"event\":\"admin\"", "\"message\":\"drain", "\"uid\":"];
        lines.iter().filter(|line| asked.iter().all(|part| line.contains(part))).count() == 3
    });
    ringway.end_well();
}

#[test]
fn a_wrong_wish_is_answered_with_what_is_wrong() {
    let ground = Ground::new();
    let a = Server::named_echo(&ground, "a");
    let ringway = Ringway::start(&ground, &one_pool(ground.address(), &[a.address()], ""));
    let taken = a.address().to_string();
    for (words, exit, part) in [
        (vec!["add", "pol/b", "--address", "127.0.0.1:1"], 1, "there are \"pool\""),
        (vec!["add", "pool/s0", "--address", "127.0.0.1:1"], 1, "has a server \"s0\" already"),
        (vec!["add", "pool/b", "--address", taken.as_str()], 1, "already: \"s0\""),
        (vec!["add", "pool/b", "--address", "127.0.0.1"], 1, "127.0.0.1"),
        (vec!["add", "pool/b"], 2, "--address"),
        (vec!["add", "pool/b", "--address", "127.0.0.1:1", "--weight", "257"], 2, "0..=256"),
        (vec!["remove", "pool/b"], 1, "there are \"s0\""),
        (vec!["remove", "pool/s0", "--persist"], 1, "has no servers"),
    ] {
        let (code, said) = ringway.said(&[&["server"], &words[..]].concat());
        assert!(code == exit && said.contains(part), "{words:?}: {code} {said}");
    }
    for path in ["/v1/server/add", "/v1/server/remove"] {
        let stream = std::net::TcpStream::connect(ringway.admin()).expect("it listens");
        assert_eq!(http_over(stream, "POST", path).expect("an answer").0, 403, "{path}");
        let stream = std::os::unix::net::UnixStream::connect(ringway.socket()).expect("it listens");
        assert_eq!(http_over(stream, "POST", path).expect("an answer").0, 400, "{path}");
    }
    let info: Value = serde_json::from_str(&ringway.page("/v1/info").1).expect("JSON");
    assert_eq!(info["generation"], 1, "nothing has changed");
    ringway.end_well();
}
