//! What an operator sees: records, metrics, status, complaints, advice.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use ringway::dataplane::ending::Ending;
use serde_json::Value;

use crate::harness::facts::{await_some, await_that, http_get, http_over, lines_of};
use crate::harness::ground::{Ground, in_own_network};
use crate::harness::peers::{Server, ask, connect, exchange, read_exactly};
use crate::harness::ringway::{BINARY, Ringway, Setup, all_of, one_pool};

/// The fields of an access record (README: "Access log").
const FIELDS: [&str; 18] = [
    "ts",
    "session",
    "listener",
    "client",
    "pool",
    "server",
    "address",
    "local_port",
    "queue_us",
    "connect_us",
    "first_byte_us",
    "total_ms",
    "bytes_in",
    "bytes_out",
    "attempts",
    "reason",
    "code",
    "errno",
];

#[test]
fn a_record_tells_the_whole_story_in_json() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
    let mut client = connect(front);
    let own = client.local_addr().expect("connected");
    exchange(&mut client, b"hello").expect("an echo");
    drop(client);

    let record = ringway.record("done");
    for field in FIELDS {
        assert!(record.get(field).is_some(), "{field}: {record}");
    }
    assert_eq!(record["listener"], "front");
    assert_eq!(record["client"], own.to_string());
    assert_eq!(record["pool"], "pool");
    assert_eq!(record["server"], "s0");
    assert_eq!(record["address"], server.address().to_string());
    assert_eq!(record["bytes_in"], 5);
    assert_eq!(record["bytes_out"], 5);
    assert_eq!(record["attempts"], 1);
    assert_eq!(record["code"], Ending::Done.code());
    assert_eq!(record["errno"], 0);
    assert!(record["local_port"].as_u64().is_some_and(|port| port > 0), "{record}");
    assert!(record["connect_us"].is_u64() && record["first_byte_us"].is_u64(), "{record}");
    ringway.end_well();
}

#[test]
fn a_record_tells_the_whole_story_in_logfmt() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let front = ground.address();
    let ringway = Setup::on(&ground).log("format = \"logfmt\"").start(&one_pool(front, &[server.address()], ""));
    assert_eq!(ask(front), "a");
    let line = await_some("a record", || lines_of(ringway.log()).into_iter().find(|line| line.contains("reason=done")));
    for field in FIELDS {
        assert!(line.split(' ').any(|pair| pair.starts_with(&format!("{field}="))), "{field}: {line}");
    }
    assert!(line.contains("listener=front") && line.contains("bytes_out=1 "), "{line}");
}

#[test]
fn access_records_can_be_left_out() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let front = ground.address();
    let ringway = Setup::on(&ground).log("access = false").start(&one_pool(front, &[server.address()], ""));
    assert_eq!(ask(front), "a");
    ringway.await_ended("done", 1.0);
    assert!(ringway.records().is_empty());
    ringway.end_well();
}

#[test]
fn metrics_name_all_that_is_promised() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
    assert_eq!(ask(front), "a");
    ringway.await_ended("done", 1.0);
    let metrics = ringway.metrics();
    for name in [
        "ringway_build_info",
        "ringway_engine_info",
        "ringway_listener_accepted_total",
        "ringway_listener_rejected_total",
        "ringway_sessions",
        "ringway_sessions_ended_total",
        "ringway_bytes_total",
        "ringway_server_connects_total",
        "ringway_server_sessions",
        "ringway_server_bytes_total",
        "ringway_server_state",
        "ringway_retries_total",
        "ringway_connect_seconds_count",
        "ringway_first_byte_seconds_count",
        "ringway_session_seconds_count",
        "ringway_config_generation",
        "ringway_config_last_reload_successful",
        "ringway_config_last_reload_timestamp_seconds",
        "ringway_fds",
        "ringway_worker_loop_lag_seconds",
        "ringway_worker_sessions",
        "ringway_pipes",
        "ringway_log_dropped_total",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.has(name, &[]), "{name} in\n{}", metrics.text());
    }
    for ending in Ending::ALL {
        let labels = [("listener", "front"), ("reason", ending.reason())];
        assert!(metrics.has("ringway_sessions_ended_total", &labels), "{labels:?}");
    }
    assert_eq!(metrics.sum("ringway_connect_seconds_count", &[("pool", "pool")]), 1.0);
    assert_eq!(metrics.sum("ringway_server_state", &[("server", "s0")]), 1.0, "one state at a time");
    // Neither here nor anywhere: who the clients are.
    assert!(!metrics.text().contains("client=\""), "{}", metrics.text());
    // What the format asks for (prometheus.io, exposition formats).
    assert!(metrics.text().contains("# TYPE ringway_sessions gauge"), "{}", metrics.text());
    ringway.end_well();
}

#[test]
fn bytes_are_counted_while_a_session_runs() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
    let mut client = connect(front);
    exchange(&mut client, &[1; 1000]).expect("an echo");
    ringway.await_metric("ringway_bytes_total", &[("direction", "in")], |bytes| bytes == 1000.0);
    ringway.await_metric("ringway_bytes_total", &[("direction", "out")], |bytes| bytes == 1000.0);
    ringway.await_metric("ringway_server_bytes_total", &[], |bytes| bytes == 2000.0);
    assert_eq!(ringway.sessions(), 1.0);
    assert_eq!(ringway.metric("ringway_server_sessions", &[("server", "s0")]), 1.0);
    drop(client);
    ringway.end_well();
}

#[test]
fn status_shows_pools_and_servers() {
    let ground = Ground::new();
    let (a, b) = (Server::named_echo(&ground, "a"), Server::named(&ground, "b"));
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[a.address(), b.address()], ""));
    let mut client = connect(front);
    read_exactly(&mut client, 1).expect("a name");
    let output = ringway.verb(&["status"]);
    let said = all_of(&output);
    assert!(output.status.success(), "{said}");
    for word in ["pool", "s0", "s1", "front", &a.address().to_string()] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let output = ringway.verb(&["status", "--json"]);
    assert!(output.status.success(), "{}", all_of(&output));
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = json.to_string();
    assert!(text.contains("\"s0\"") && text.contains("\"front\""), "{text}");
    drop(client);
    ringway.end_well();
}

#[test]
fn status_without_a_daemon_is_one_clear_line() {
    let ground = Ground::new();
    let config = ground.file("ringway.toml");
    let socket = ground.file("nobody.sock");
    let text =
        format!("[admin]\nsocket = \"{}\"\n", socket.display()) + &one_pool(ground.address(), &[ground.address()], "");
    fs::write(&config, text).expect("own directory");
    for verb in [["status"].as_slice(), &["reload", "--wait"]] {
        let output = Command::new(BINARY).args(verb).arg("-c").arg(&config).output().expect("the binary under test");
        let said = all_of(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&socket.display().to_string()), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn check_judges_a_file_without_touching_anything() {
    let ground = Ground::new();
    let file = ground.file("some.toml");
    let check = |flags: &[&str]| {
        Command::new(BINARY).arg("check").arg("-c").arg(&file).args(flags).output().expect("the binary under test")
    };

    let output = check(&[]);
    assert_eq!(output.status.code(), Some(78), "a file that is not there: {}", all_of(&output));

    fs::write(&file, one_pool(ground.address(), &[ground.address()], "")).expect("own directory");
    let output = check(&[]);
    assert!(output.status.success(), "{}", all_of(&output));
    let output = check(&["--print"]);
    let said = all_of(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("idle_timeout") && said.contains("drain_timeout"), "with the defaults: {said}");

    fs::write(&file, "[listeners.front]\nbnid = \"127.0.0.1:80\"\npool = \"web\"\n[pools.web]\nservers = []\n")
        .expect("own directory");
    let output = check(&[]);
    let said = all_of(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("some.toml:2:1"), "line and column: {said}");
    assert!(said.contains("did you mean") && said.contains("bind"), "{said}");
    assert!(said.contains("some.toml:5"), "every complaint, not the first: {said}");
}

#[test]
fn doctor_speaks_of_engine_and_limits() {
    let output = Command::new(BINARY).arg("doctor").output().expect("the binary under test");
    let said = all_of(&output);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{said}");
    for word in ["kernel", "io_uring", "pipe"] {
        assert!(said.to_lowercase().contains(word), "{word}: {said}");
    }
}

/// On a network of its own, whose sysctls are its own: what they are set to is found, and each remedy, done as it says,
/// is one.
#[test]
fn the_remedies_of_the_doctor_help() {
    let worse = [
        ("net.core.somaxconn", "128", "accept queue"),
        ("net.ipv4.tcp_syncookies", "0", "handshakes"),
        ("net.ipv4.ip_local_port_range", "50000 50063", "local ports"),
        ("net.ipv4.tcp_tw_reuse", "0", "closed ports"),
        ("net.ipv4.tcp_rmem", "4096 131072 212992", "receive buffer"),
        ("net.ipv6.conf.all.disable_ipv6", "1", "IPv6"),
    ];
    in_own_network(|| {
        let set = |name: &str, value: &str| {
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
        };
        set("net.ipv4.tcp_max_syn_backlog", "128");
        let examined = |subject: &str| -> Value {
            let output = Command::new(BINARY).args(["doctor", "--json"]).output().expect("the binary under test");
            let findings: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
            let found = findings.into_iter().find(|finding| finding["subject"] == subject);
            found.unwrap_or_else(|| panic!("nothing about {subject}: {}", all_of(&output)))
        };
        for (name, value, subject) in worse {
            set(name, value);
            let found = examined(subject);
            let remedy = found["remedy"].as_str().unwrap_or_else(|| panic!("{found}"));
            assert_eq!(found["verdict"], "WARN", "{found}");
            let order = remedy.strip_prefix("sysctl -w ").unwrap_or_else(|| panic!("{remedy}"));
            let (key, rest) = order.split_once('=').expect("a setting");
            let value = match rest.strip_prefix('"') {
                Some(quoted) => quoted.split('"').next(),
                None => rest.split([',', ':', ' ']).next(),
            };
            assert_eq!(key, name);
            set(key, value.expect("a value"));
            assert_eq!(examined(subject)["verdict"], "OK", "after {remedy}");
        }
    });
}

#[test]
fn a_wrong_command_line_is_exit_2() {
    for words in [["no-such-verb"].as_slice(), &["run", "--no-such-flag"], &[]] {
        let output = Command::new(BINARY).args(words).output().expect("the binary under test");
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", all_of(&output));
    }
}

#[test]
fn a_log_on_a_full_disk_does_not_stop_the_traffic() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    // /dev/full takes nothing: every write says ENOSPC.
    std::os::unix::fs::symlink("/dev/full", ground.file("ringway.log")).expect("own directory");
    let config = one_pool(front, &[server.address()], "");
    let serves = |ringway: &mut Ringway| {
        for _ in 0..100 {
            let mut client = connect(front);
            client.write_all(b"x").expect("sent");
            read_exactly(&mut client, 1).expect("an echo");
        }
        ringway.settles();
    };
    let mut ringway = Ringway::start(&ground, &config);
    serves(&mut ringway);
    ringway.await_event("the log cannot be written");
    drop(ringway);

    // Where the daemon would complain the disk is full, too.
    std::os::unix::fs::symlink("/dev/full", ground.file("ringway2.log")).expect("own directory");
    let wrapper = ["sh", "-c", "exec \"$@\" 2>/dev/full", "sh"];
    let mut ringway = Setup::on(&ground).wrapped(&wrapper).start(&config);
    serves(&mut ringway);
}

/// Nothing that cannot be printed ends a verb by a signal, and what is missing from a file does not pass for success.
#[test]
fn a_verb_that_cannot_print_fails_by_its_exit_code() {
    let ground = Ground::new();
    let config = ground.file("ringway.toml");
    let text = one_pool(ground.address(), &[ground.address()], "") + "[admin]\nsocket = \"/no/such.sock\"\n";
    std::fs::write(&config, text).expect("own directory");
    let config = config.to_str().expect("UTF-8");
    let full = || Stdio::from(File::options().write(true).open("/dev/full").expect("Linux has it"));
    let abandoned = || Stdio::from(std::io::pipe().expect("a pipe").1);
    for words in [["check", config].as_slice(), &["check", "--print", config], &["demo", "--once"], &["man"]] {
        let output = Command::new(BINARY).args(words).stdout(full()).output().expect("the binary under test");
        let said = all_of(&output);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        assert_eq!(said.matches("cannot write to standard output").count(), 1, "{words:?}: {said}");
        let output = Command::new(BINARY).args(words).stdout(abandoned()).output().expect("the binary under test");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), complaint.as_ref()), (Some(0), ""), "{words:?} | head");
    }
    for (words, code) in [(["check", "/no/such/file"].as_slice(), 78), (&["status", "-c", config], 1)] {
        let output = Command::new(BINARY).args(words).stderr(full()).output().expect("the binary under test");
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", output.status);
    }
}

#[test]
fn the_tcp_port_only_shows() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let ringway = Ringway::start(&ground, &one_pool(ground.address(), &[server.address()], ""));
    for path in ["/metrics", "/livez", "/readyz", "/", "/v1/status"] {
        let (status, body) = http_get(ringway.admin(), path).expect("an answer");
        assert_eq!(status, 200, "{path}: {body}");
    }
    let (status, _) = http_over(connect(ringway.admin()), "POST", "/v1/reload").expect("an answer");
    assert_eq!(status, 403);
    assert_eq!(http_get(ringway.admin(), "/no/such/page").expect("an answer").0, 404);
    assert_eq!(ringway.metric("ringway_config_generation", &[]), 1.0);
    ringway.end_well();
}

#[test]
fn health_is_an_exit_code() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let mut ringway = Ringway::start(&ground, &one_pool(front, &[server.address()], ""));
    let health = |ringway: &Ringway, flag| ringway.verb(&["health", flag]).status.code();
    assert_eq!((health(&ringway, "--live"), health(&ringway, "--ready")), (Some(0), Some(0)));
    let mut client = connect(front);
    exchange(&mut client, b"x").expect("an echo");
    ringway.signal(Signal::SIGTERM);
    await_that("readiness to end with the drain", || health(&ringway, "--ready") == Some(1));
    assert_eq!(health(&ringway, "--live"), Some(0));
    drop(client);
    assert!(ringway.wait().success());
    assert_eq!((health(&ringway, "--live"), health(&ringway, "--ready")), (Some(1), Some(1)));
}
