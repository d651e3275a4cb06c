//! The log as other programs read it: halog, syslog, the systemd journal.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::facts::{await_some, await_that, lines_of};
use crate::harness::ground::{Ground, need};
use crate::harness::peers::{Server, ask, connect, exchange, try_connect};
use crate::harness::ringway::{Ringway, Setup, all_of, listener, one_pool, pool};

/// What halog says of `log`, asked with `options`: its lines.
fn halog(log: &Path, options: &[&str]) -> Vec<String> {
    let input = std::fs::File::open(log).expect("ringway writes it");
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    let output = Command::new("halog").env("PATH", path).arg("-q").args(options).stdin(input).output().expect("halog");
    assert!(output.status.success(), "halog {options:?}: {}", all_of(&output));
    String::from_utf8(output.stdout).expect("ASCII").lines().map(str::to_owned).collect()
}

/// The tcplog lines of sessions.
fn sessions_in(log: &Path) -> Vec<String> {
    lines_of(log).into_iter().filter(|line| line.ends_with(" 0/0")).collect()
}

/// What stands behind `ringway[PID]: ` in a line.
fn body<'a>(ringway: &Ringway, line: &'a str) -> &'a str {
    let tag = format!(" ringway[{}]: ", ringway.pid());
    line.split_once(tag.as_str()).unwrap_or_else(|| panic!("no {tag:?} in {line:?}")).1
}

#[test]
fn halog_reads_what_haproxy_would_have_written() {
    need("halog");
    let ground = Ground::new();
    let servers = [Server::named(&ground, "a"), Server::named(&ground, "b")];
    let (front, dead_end) = (ground.address(), ground.address());
    let nobody = ground.address();
    let config = one_pool(front, &servers.each_ref().map(Server::address), "")
        + &listener("nowhere", &dead_end.to_string(), "dead")
        + &pool("dead", &[format!("{{ name = \"gone\", address = \"{nobody}\" }}")], "");
    let ringway = Setup::on(&ground).log("format = \"haproxy\"").start(&config);
    for _ in 0..20 {
        ask(front);
    }
    for _ in 0..3 {
        // It may be reset before we know that we are connected.
        if let Ok(mut client) = try_connect(dead_end) {
            exchange(&mut client, b"x").expect_err("no server");
        }
    }
    await_that("23 sessions in the log", || sessions_in(ringway.log()).len() == 23);

    // halog is made for HTTP logs; of a tcplog, HAProxy's own too, it reads what stands in the same place: not the code.
    let by_server = halog(ringway.log(), &["-srv"]);
    for server in ["pool/s0", "pool/s1", "dead/gone"] {
        assert!(by_server.iter().any(|row| row.starts_with(&format!("{server} "))), "{server} in {by_server:?}");
    }
    // Where it looks for a status, we have the bytes of the answer.
    let by_status = halog(ringway.log(), &["-st"]);
    for (bytes, sessions) in [("1", "20"), ("0", "3")] {
        assert!(
            by_status.iter().any(|row| *row == format!("{bytes} {sessions}")),
            "{bytes} {sessions} in {by_status:?}"
        );
    }
    ringway.end_well();
}

#[test]
fn a_haproxy_line_counts_who_else_is_there() {
    let ground = Ground::new();
    let server = Server::echo(&ground);
    let front = ground.address();
    let ringway = Setup::on(&ground).log("format = \"haproxy\"").start(&one_pool(front, &[server.address()], ""));
    let mut clients: Vec<_> = (0..3).map(|_| connect(front)).collect();
    for client in &mut clients {
        exchange(client, b"hi").expect("an echo");
    }
    let mut own = Vec::new();
    for left in (0..3).rev() {
        let client = clients.remove(0);
        own.push(client.local_addr().expect("connected"));
        drop(client);
        await_that("its line", || sessions_in(ringway.log()).len() == 3 - left);
    }
    // As HAProxy counts: process and frontend with the session that ended, backend and server without it.
    for (line, (own, others)) in sessions_in(ringway.log()).iter().zip(own.iter().zip([2, 1, 0])) {
        let words: Vec<&str> = body(&ringway, line).split(' ').collect();
        assert_eq!(words[0], own.to_string());
        assert_eq!(words[2..4], ["front", "pool/s0"]);
        let times: Vec<u64> = words[4].split('/').map(|time| time.parse().expect("milliseconds")).collect();
        assert!(times.len() == 3 && times[0] == 0 && times[1] <= times[2], "{line}");
        assert_eq!(words[5..7], ["2", "--"]);
        assert_eq!(words[7], format!("{0}/{0}/{others}/{others}/0", others + 1), "{line}");
        assert_eq!(words.len(), 9, "{line}");
    }
    ringway.end_well();
}

/// A syslog daemon, or a journal, as far as its socket goes.
struct Reader(UnixDatagram);

impl Reader {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("own directory");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
        Self(socket)
    }

    /// The next datagram that is `wanted`.
    fn find(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut buffer = vec![0; 256 << 10];
        await_some(what, || {
            let length = self.0.recv(&mut buffer).ok()?;
            let text = String::from_utf8(buffer[..length].to_vec()).expect("UTF-8");
            Some(text).filter(|text| wanted(text))
        })
    }
}

#[test]
fn syslog_gets_a_datagram_a_record() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let (front, path) = (ground.address(), ground.file("syslog"));
    let reader = Reader::at(&path);
    let socket = format!("socket = \"{}\"", path.display());
    let ringway = Setup::on(&ground).target("syslog").log(&socket).start(&one_pool(front, &[server.address()], ""));
    let event = reader.find("an event", |text| text.contains("\"event\":\"started\""));
    assert!(event.starts_with("<30>") && body(&ringway, &event).starts_with('{'), "{event}");
    assert_eq!(ask(front), "a");
    let record = reader.find("a record", |text| text.contains("\"reason\":\"done\""));
    assert!(record.starts_with("<134>"), "{record}");
    let read: serde_json::Value = serde_json::from_str(body(&ringway, &record)).expect("JSON");
    assert_eq!(read["listener"], "front");

    // The daemon goes and comes again; so does its socket.
    drop(reader);
    std::fs::remove_file(&path).expect("there");
    assert_eq!(ask(front), "a");
    let reader = Reader::at(&path);
    let client = connect(front);
    let own = format!("\"client\":\"{}\"", client.local_addr().expect("connected"));
    drop(client);
    reader.find("a later record", |text| text.contains(&own));
    ringway.signal(Signal::SIGUSR1);
    reader.find("a new connection", |text| text.contains("log_reopened"));
    drop(reader);
}

#[test]
fn the_journal_gets_a_field_for_each_key() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let (front, path) = (ground.address(), ground.file("journal"));
    let reader = Reader::at(&path);
    let lines = format!("socket = \"{}\"\nformat = \"haproxy\"", path.display());
    let config = one_pool(front, &[server.address()], "");
    let ringway = Setup::on(&ground).target("journald").log(&lines).start(&config);
    let event = reader.find("an event", |text| text.contains("EVENT=started\n"));
    assert!(event.contains("PRIORITY=6\n") && event.contains("SYSLOG_IDENTIFIER=ringway\n"), "{event}");
    assert_eq!(ask(front), "a");
    let record = reader.find("a record", |text| text.contains("REASON=done\n"));
    assert!(record.starts_with("MESSAGE=127."), "{record}");
    for field in ["LISTENER=front", "POOL=pool", "SERVER=s0", "BYTES_OUT=1", "CODE=--", "ERRNO=0"] {
        assert!(record.lines().any(|line| line == field), "{field} in {record}");
    }

    // What somebody else wrote does not become a field, however long it is.
    let nasty = format!("{}\\nPRIORITY=0\\n\\n", "x".repeat(1_000));
    ringway.write_config(&config.replace("\"pool\"", &format!("\"{nasty}\"")));
    assert!(!ringway.reload().status.success(), "a nasty name");
    let complaint = reader.find("the complaint", |text| text.contains("EVENT=reload"));
    assert!(complaint.contains("\nPRIORITY=3\n") && !complaint.contains("\nPRIORITY=0"), "{complaint}");
    drop(reader);
}

/// T21 for sockets: nobody reads, or nobody is there. Sessions are served; what is lost is counted; then it goes on.
#[test]
fn t21_a_syslog_that_sleeps_or_is_not_there() {
    for is_there in [true, false] {
        let ground = Ground::new();
        let server = Server::named(&ground, "a");
        let (front, path) = (ground.address(), ground.file("syslog"));
        let sleeping = is_there.then(|| Reader::at(&path));
        let socket = format!("socket = \"{}\"", path.display());
        let mut ringway = Setup::on(&ground).target("syslog").log(&socket).rehearsing("records=256").start(&one_pool(
            front,
            &[server.address()],
            "",
        ));
        await_that("records to be dropped", || {
            (0..100).for_each(|_| assert_eq!(ask(front), "a"));
            ringway.metric("ringway_log_dropped_total", &[]) > 0.0
        });
        ringway.must_live();
        let reader = sleeping.unwrap_or_else(|| Reader::at(&path));
        await_some("a new session's record", || {
            let client = connect(front);
            let own = format!("\"client\":\"{}\"", client.local_addr().expect("connected"));
            drop(client);
            let mut buffer = vec![0; 64 << 10];
            let mut datagrams = std::iter::from_fn(|| {
                let length = reader.0.recv(&mut buffer).ok()?;
                Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
            });
            datagrams.find(|text| text.contains(&own))
        });
        if !is_there {
            ringway.await_event("the log cannot be written");
        }
        drop(reader);
    }
}

#[test]
fn the_log_moves_to_another_target_with_a_reload() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let (front, path) = (ground.address(), ground.file("syslog"));
    let config = one_pool(front, &[server.address()], "");
    let ringway = Ringway::start(&ground, &config);
    let reader = Reader::at(&path);
    let text = std::fs::read_to_string(ringway.config()).expect("there");
    let target = format!("target = \"{}\"", ringway.log().display());
    let moved = format!("target = \"syslog\"\nsocket = \"{}\"", path.display());
    std::fs::write(ringway.config(), text.replace(&target, &moved)).expect("own directory");
    let output = ringway.reload();
    assert!(output.status.success(), "{}", all_of(&output));
    assert_eq!(ask(front), "a");
    reader.find("a record", |text| text.starts_with("<134>"));
    drop(reader);
}

#[test]
fn a_daemon_whose_stdout_is_syslog_text_says_nothing_else_there() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let front = ground.address();
    let path = ground.file("plain.toml");
    let config = format!(
        "[global]\nworkers = 1\n[log]\nformat = \"haproxy\"\n[admin]\nsocket = \"{}\"\n",
        ground.file("plain.sock").display()
    ) + &one_pool(front, &[server.address()], "");
    std::fs::write(&path, config).expect("own directory");
    let output = std::fs::File::create(ground.file("plain.out")).expect("own directory");
    let mut child = Command::new(crate::harness::ringway::BINARY)
        .args(["run", "-c"])
        .arg(&path)
        .stdout(Stdio::from(output))
        .spawn()
        .expect("started");
    let lines = || lines_of(&ground.file("plain.out"));
    await_that("it to be ready", || lines().iter().any(|line| line.contains(" event=started ")));
    assert_eq!(ask(front), "a");
    await_that("its record", || lines().iter().any(|line| line.ends_with(" 0/0")));
    let tag = format!(" ringway[{}]: ", child.id());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("it lives");
    child.wait().expect("ours");
    for line in lines() {
        assert!(line.contains(&tag), "{line}");
    }
}
