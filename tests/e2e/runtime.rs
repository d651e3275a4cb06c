//! HAProxy's runtime API: what operators' scripts say to it with socat, what hatop shows of it, and that a real HAProxy says the
//! same.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::facts::{PATIENCE, await_some, await_that, lines_of, status_of};
use crate::harness::ground::{Ground, many_descriptors, need};
use crate::harness::peers::{Server, connect, end_of, exchange, read_exactly};
use crate::harness::process::Process;
use crate::harness::ringway::{Ringway, Setup, all_of, one_pool, pool};
use crate::harness::terminal::Terminal;

/// The socket of the protocol, and the line that asks for it: the harness ends its lines in `[admin]`.
fn socket(ground: &Ground) -> (PathBuf, String) {
    let path = ground.file("haproxy.sock");
    let line = format!("haproxy_socket = \"{}\"\n\n", path.display());
    (path, line)
}

/// What is answered to a line, as scripts ask it.
fn ask(socket: &Path, line: &str) -> String {
    need("socat");
    let mut socat = Command::new("socat")
        .args(["-t", "20", "-"])
        .arg(format!("UNIX-CONNECT:{}", socket.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("socat");
    writeln!(socat.stdin.take().expect("piped"), "{line}").expect("it reads");
    let output = socat.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", all_of(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Asks for something that is answered with nothing but the empty line.
fn order(socket: &Path, line: &str) {
    assert_eq!(ask(socket, line), "\n", "{line}");
}

type Row = BTreeMap<String, String>;

/// The rows of `show stat` by `pxname/svname`, read by the names in its first line, and that line.
fn table(socket: &Path, line: &str) -> (String, BTreeMap<String, Row>) {
    let csv = ask(socket, line);
    let (head, rows) = csv.split_once('\n').expect("a header");
    let names: Vec<&str> = head.strip_prefix("# ").expect("a comment").split(',').collect();
    let row = |row: &str| -> Row {
        let values: Vec<&str> = row.split(',').collect();
        assert_eq!(values.len(), names.len(), "{row}");
        names.iter().zip(values).map(|(name, value)| ((*name).to_owned(), value.to_owned())).collect()
    };
    let rows = rows.lines().filter(|line| !line.is_empty()).map(row);
    (head.to_owned(), rows.map(|row| (format!("{}/{}", row["pxname"], row["svname"]), row)).collect())
}

fn status(ringway: &Ringway) -> Value {
    let output = ringway.verb(&["status", "--json"]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", all_of(&output)))
}

fn state(ringway: &Ringway, server: usize) -> String {
    status(ringway)["pools"][0]["servers"][server]["state"].as_str().expect("a word").to_owned()
}

/// Who answers `count` newcomers.
fn answers(front: SocketAddr, count: usize) -> BTreeSet<String> {
    let name = |_| read_exactly(&mut connect(front), 1).expect("a name");
    (0..count).map(name).map(|name| String::from_utf8(name).expect("a letter")).collect()
}

fn names(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn scripts_change_servers() {
    let ground = Ground::new();
    let (a, b) = (Server::named_echo(&ground, "a"), Server::named_echo(&ground, "b"));
    let (front, (socket, line)) = (ground.address(), socket(&ground));
    let config = line + &one_pool(front, &[a.address(), b.address()], "");
    let ringway = Ringway::start(&ground, &config);
    let mode = std::fs::metadata(&socket).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    order(&socket, "set server pool/s0 state drain");
    assert_eq!((state(&ringway, 0).as_str(), answers(front, 6)), ("drain", names(&["b"])));
    order(&socket, "enable server pool/s0");
    assert_eq!(state(&ringway, 0), "drain", "as HAProxy: it comes out of maintenance, and drains on");
    order(&socket, "set server pool/s0 state ready");
    assert_eq!(answers(front, 6), names(&["a", "b"]));
    order(&socket, "disable server pool/s1");
    assert_eq!((state(&ringway, 1).as_str(), answers(front, 6)), ("maint", names(&["a"])));
    order(&socket, "enable server #3/#2");
    assert_eq!((state(&ringway, 1).as_str(), answers(front, 6)), ("up", names(&["a", "b"])));

    // The weight the file says is 1 for both.
    order(&socket, "set server pool/s0 weight 300%");
    assert_eq!(ask(&socket, "get weight pool/s0"), "3 (initial 1)\n\n");
    assert_eq!(status(&ringway)["pools"][0]["servers"][0]["weight"], 3);
    let share = (0..40).filter(|_| read_exactly(&mut connect(front), 1).expect("a name") == b"a").count();
    assert_eq!(share, 30);
    order(&socket, "set weight pool/s0 100%");
    order(&socket, "set maxconn server pool/s1 7");
    assert_eq!(status(&ringway)["pools"][0]["servers"][1]["max_connections"], 7);
    order(&socket, "set weight pool/s0 0");
    let refused = ask(&socket, "set weight pool/s1 0");
    assert!(refused.contains("nobody would be served"), "{refused}");
    assert_eq!(ask(&socket, "set weight pool/s9 1"), "No such server.\n\n");

    await_that("each change to be on record with its user", || {
        let ours = ["\"event\":\"admin\"", "\"message\":\"server\"", "\"uid\":0", "\"pid\":"];
        lines_of(ringway.log()).iter().filter(|line| ours.iter().all(|part| line.contains(part))).count() == 9
    });
    // The sockets are bound before root is given up: another one takes a restart.
    ringway.write_config(&config.replacen("haproxy.sock", "other.sock", 1));
    let said = all_of(&ringway.reload());
    assert!(said.contains("admin.haproxy_socket stays") && said.contains("until a restart"), "{said}");
    assert_eq!(ask(&socket, "show backend"), "# name\npool\n\n");
    ringway.end_well();
    assert!(!socket.exists(), "it is taken away");
}

#[test]
fn what_is_shown_is_what_status_shows() {
    let ground = Ground::new();
    let (a, b) = (Server::named_echo(&ground, "a"), Server::named_echo(&ground, "b"));
    let (front, (socket, line)) = (ground.address(), socket(&ground));
    let nobody = ground.address();
    let lines = "check = { type = \"tcp\", interval = \"100ms\", rise = 2, fall = 3 }";
    let config = line + &one_pool(front, &[a.address(), b.address(), nobody], lines);
    let ringway = Ringway::start(&ground, &config);
    await_that("the checks to have found out", || state(&ringway, 0) == "up" && state(&ringway, 2) == "down");
    let mut clients: Vec<_> = (0..4).map(|_| connect(front)).collect();
    for client in &mut clients {
        read_exactly(client, 1).expect("a name");
        exchange(client, b"hello").expect("an echo");
    }
    order(&socket, "set server pool/s1 state maint");

    let (_, rows) = table(&socket, "show stat");
    let status = status(&ringway);
    assert_eq!(rows.keys().collect::<Vec<_>>(), ["front/FRONTEND", "pool/BACKEND", "pool/s0", "pool/s1", "pool/s2"]);
    let words = BTreeMap::from([("up", "UP"), ("maint", "MAINT"), ("down", "DOWN")]);
    for server in status["pools"][0]["servers"].as_array().expect("servers") {
        let row = &rows[&format!("pool/{}", server["name"].as_str().expect("a name"))];
        assert_eq!(row["status"], words[server["state"].as_str().expect("a word")], "{row:?}");
        for (column, figure) in [
            ("scur", "sessions"),
            ("stot", "connects"),
            ("econ", "connects_failed"),
            ("weight", "weight"),
            ("bin", "bytes_in"),
            ("bout", "bytes_out"),
        ] {
            assert_eq!(row[column], server[figure].to_string(), "{column} of {row:?}");
        }
        assert_eq!(row["addr"], server["address"].as_str().expect("an address"));
    }
    let listener = &status["listeners"][0];
    let row = &rows["front/FRONTEND"];
    assert_eq!((row["scur"].as_str(), row["status"].as_str(), row["bin"].as_str()), ("4", "OPEN", "20"));
    assert_eq!(
        (&row["conn_tot"], &row["bout"]),
        (&listener["accepted"].to_string(), &listener["bytes_out"].to_string())
    );
    let row = &rows["pool/BACKEND"];
    assert_eq!((row["scur"].as_str(), row["stot"].as_str(), row["act"].as_str()), ("4", "4", "1"));
    assert_eq!(rows["pool/s2"]["check_status"], "L4CON");
    assert_eq!(rows["pool/s2"]["last_chk"], "connection refused");
    assert_eq!(table(&socket, "show stat 3 4 1").1.keys().collect::<Vec<_>>(), ["pool/s0"]);
    let json: Value = serde_json::from_str(&ask(&socket, "show stat -1 4 -1 json")).expect("JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(3));

    let info = ask(&socket, "show info;show backend");
    assert!(info.contains(&format!("\nPid: {}\n", ringway.pid())) && info.contains("\nCurrConns: 4\n"), "{info}");
    assert!(info.ends_with("\n\n# name\npool\n\n"), "{info}");
    await_that("the rate to have been seen", || {
        table(&socket, "show stat").1["front/FRONTEND"]["rate_max"].parse::<u32>().is_ok_and(|rate| rate > 0)
    });

    // Sessions by the names they are given here and in the log.
    let sessions = ask(&socket, "show sess");
    assert_eq!(sessions.lines().filter(|line| line.contains(" fe=front be=pool srv=s")).count(), 4, "{sessions}");
    let of = |client: &std::net::TcpStream| {
        let source = format!(" src={} ", client.local_addr().expect("bound"));
        sessions.lines().find(|line| line.contains(&source)).expect("it is listed").to_owned()
    };
    let mut victim = clients.pop().expect("four");
    let line = of(&victim);
    let name = line.split_once(':').expect("a name").0;
    let details = ask(&socket, &format!("show sess {name}"));
    assert!(details.starts_with(name) && details.contains("\n  backend=pool "), "{details}");
    order(&socket, &format!("shutdown session {name}"));
    assert_eq!(end_of(&mut victim), Err(std::io::ErrorKind::ConnectionReset));
    let record = ringway.record("killed");
    assert!(line.contains(&format!(" id={} ", record["session"].as_str().expect("a name"))), "{line}: {record}");
    assert_eq!(ask(&socket, &format!("shutdown session {name}")), "No such session (use 'show sess').\n\n");
    assert_eq!(ask(&socket, &format!("show sess {name}")), "Session not found.\n\n");
    assert_eq!(ask(&socket, "shutdown sessions server pool/s0;shutdown sessions server pool/s1"), "\n\n");
    for client in &mut clients {
        assert_eq!(end_of(client), Err(std::io::ErrorKind::ConnectionReset));
    }
    ringway.end_well();
}

/// The socket, and the directory that was made for it, go to the user that the daemon becomes, who can take it away.
#[test]
fn who_gives_up_root_keeps_the_socket() {
    let ground = Ground::new();
    let server = Server::named_echo(&ground, "a");
    let mode = PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(ground.dir(), mode).expect("own directory");
    let socket = ground.file("made").join("haproxy.sock");
    let line = format!("haproxy_socket = \"{}\"\n\n", socket.display());
    let config = line + &one_pool(ground.address(), &[server.address()], "");
    let user = "workers = 2\nuser = \"nobody\"\ngroup = \"nogroup\"";
    let ringway = Setup::on(&ground).global(user).start(&config);
    let about = std::fs::metadata(&socket).expect("it is there");
    assert_eq!((about.uid(), about.permissions().mode() & 0o777), (65_534, 0o600));
    order(&socket, "disable server pool/s0");
    assert_eq!(state(&ringway, 0), "maint");
    ringway.end_well();
    assert!(!socket.exists(), "it is taken away");
}

/// What checks find shows before it counts, and how often and how long a server was down is remembered.
#[test]
fn a_server_goes_down_and_comes_back() {
    let ground = Ground::new();
    let address = ground.address();
    let (socket, line) = socket(&ground);
    let check = "check = { type = \"tcp\", interval = \"30ms\", fast_interval = \"30ms\", rise = 90, fall = 90 }";
    let ringway = Ringway::start(&ground, &(line + &one_pool(ground.address(), &[address], check)));
    let row = || table(&socket, "show stat -1 4 -1").1.remove("pool/s0").expect("it is there");
    let until =
        |what: &str, right: fn(&str) -> bool| await_some(what, || Some(row()).filter(|row| right(&row["status"])));
    let down = until("it to be down", |status| status == "DOWN");
    assert_eq!((down["chkdown"].as_str(), down["check_health"].as_str()), ("1", "0"), "{down:?}");
    let server = Server::at(address, |_| {});
    let rising = until("checks to pass", |status| status.starts_with("DOWN ") && status.ends_with("/90"));
    assert_eq!(rising["status"], format!("DOWN {}/90", rising["check_health"]), "{rising:?}");
    until("it to be up", |status| status == "UP");
    await_that("a second of downtime to be remembered", || row()["downtime"] != "0");
    drop(server);
    let falling = until("checks to fail", |status| status.starts_with("UP ") && status.ends_with("/90"));
    let left: u32 = falling["check_health"].parse().expect("a number");
    assert_eq!(falling["status"], format!("UP {}/90", left - 89), "{falling:?}");
    let down = until("it to be down again", |status| status == "DOWN");
    assert_eq!((down["chkdown"].as_str(), down["act"].as_str()), ("2", "1"), "{down:?}");
    ringway.end_well();
}

/// A real HAProxy with the same frontend, backend and servers.
fn haproxy(ground: &Ground, front: SocketAddr, servers: &[SocketAddr]) -> (Process, PathBuf) {
    need("haproxy");
    let (socket, config) = (ground.file("real.sock"), ground.file("real.cfg"));
    let line = |(i, address): (usize, &SocketAddr)| {
        format!("    server s{i} {address} check inter 100ms rise 2 fall 3 weight {}\n", i + 1)
    };
    let servers: String = servers.iter().enumerate().map(line).collect();
    let text = format!(
        "global\n    stats socket {} level admin\ndefaults\n    mode tcp\n    timeout client 10s\n    timeout server 10s\n    \
         timeout connect 1s\nfrontend front\n    bind {front}\n    default_backend pool\nbackend pool\n{servers}",
        socket.display()
    );
    std::fs::write(&config, text).expect("own directory");
    let process =
        Process::start("haproxy", Command::new("haproxy").arg("-db").arg("-f").arg(&config), &ground.file("real.out"));
    await_that("haproxy to answer", || UnixStream::connect(&socket).is_ok());
    (process, socket)
}

#[test]
fn haproxy_says_the_same() {
    let ground = Ground::new();
    let server = Server::named_echo(&ground, "a");
    let nobody = ground.address();
    let servers = [server.address(), nobody];
    let (theirs, real) = haproxy(&ground, ground.address(), &servers);
    let (socket, line) = socket(&ground);
    let entry = |(i, address): (usize, &SocketAddr)| {
        format!("{{ name = \"s{i}\", address = \"{address}\", weight = {} }}", i + 1)
    };
    let entries: Vec<String> = servers.iter().enumerate().map(entry).collect();
    let check = "check = { type = \"tcp\", interval = \"100ms\", rise = 2, fall = 3 }";
    let listener = crate::harness::ringway::listener("front", &ground.address().to_string(), "pool");
    let ringway = Ringway::start(&ground, &(line + &listener + &pool("pool", &entries, check)));

    let settled = |socket: &Path| {
        await_some("s0 to be up and s1 down", || {
            let (head, rows) = table(socket, "show stat");
            let right = rows["pool/s0"]["check_status"] == "L4OK" && rows["pool/s1"]["status"] == "DOWN";
            // HAProxy marks a check that is under way with a star.
            let still = !rows.values().any(|row| row["check_status"].starts_with('*'));
            (right && still).then_some((head, rows))
        })
    };
    let ((head, ours), (their_head, theirs_rows)) = (settled(&socket), settled(&real));
    assert_eq!(head, their_head);
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs_rows.keys().collect::<Vec<_>>());
    let same = [
        "pxname",
        "svname",
        "qcur",
        "scur",
        "stot",
        "bin",
        "bout",
        "status",
        "weight",
        "uweight",
        "act",
        "bck",
        "chkdown",
        "pid",
        "iid",
        "sid",
        "tracked",
        "type",
        "check_status",
        "check_desc",
        "check_rise",
        "check_fall",
        "check_health",
        "addr",
        "mode",
        "algo",
        "-",
    ];
    let is_number = |text: &str| text.parse::<i64>().is_ok();
    for (name, row) in &ours {
        let theirs = &theirs_rows[name];
        for (column, value) in row {
            let other = &theirs[column];
            if same.contains(&column.as_str()) {
                // How often a pool as a whole went down is not counted here.
                assert!(
                    value == other || column == "chkdown" && name == "pool/BACKEND",
                    "{column} of {name}: {value:?}, {other:?}"
                );
            } else if !value.is_empty() && !other.is_empty() {
                assert_eq!(is_number(value), is_number(other), "{column} of {name}: {value:?}, {other:?}");
            }
        }
    }

    // The same states of servers, but for the time they have been in them.
    order(&socket, "set server pool/s0 state drain");
    order(&real, "set server pool/s0 state drain");
    let states = |socket: &Path| {
        let text = ask(socket, "show servers state pool");
        let line = |line: &str| {
            let words = line.split(' ').enumerate().filter(|(place, _)| *place != 9 || line.starts_with('#'));
            words.map(|(_, word)| word.to_owned()).collect::<Vec<_>>().join(" ")
        };
        text.lines().map(line).collect::<Vec<_>>()
    };
    // HAProxy also tells whether a check is under way at this moment.
    await_that("the same states", || states(&socket) == states(&real));
    let head = |socket: &Path| {
        ask(socket, "show servers conn").lines().next().map(|line| line.split('[').next().map(str::to_owned))
    };
    assert_eq!(head(&socket), head(&real));
    // And the same words when something is wrong.
    for wrong in [
        "set server pool",
        "set server nope/s0 state ready",
        "set server pool/s9 state ready",
        "set server pool/s0 state gone",
        "set server pool/s0 weight",
        "set server pool/s0 weight 257",
        "set weight pool/s0 -1%",
        "set maxconn server pool/s0",
        "disable server",
        "get weight pool/s9",
        "shutdown session",
        "shutdown session 0x77",
        "shutdown sessions server pool/s9",
        "show stat nope -1 -1",
        "show servers state nope",
        "show sess 0x77",
    ] {
        assert_eq!(ask(&socket, wrong), ask(&real, wrong), "{wrong}");
    }
    drop(theirs);
    ringway.end_well();
}

#[test]
fn hatop_shows_and_steers() {
    need("hatop");
    let ground = Ground::new();
    let (a, b) = (Server::named_echo(&ground, "a"), Server::named_echo(&ground, "b"));
    let (front, (socket, line)) = (ground.address(), socket(&ground));
    let check = "check = { type = \"tcp\", interval = \"100ms\" }";
    let ringway = Ringway::start(&ground, &(line + &one_pool(front, &[a.address(), b.address()], check)));
    await_that("both to be up", || state(&ringway, 0) == "up" && state(&ringway, 1) == "up");
    let client = connect(front);

    let mut hatop = Command::new("hatop");
    hatop.args(["-i", "1", "-s"]).arg(&socket).env("TERM", "vt100").env("LC_ALL", "C.UTF-8");
    let mut terminal = Terminal::start(&mut hatop, 110, 30);
    terminal.await_line("its head", |line| line.starts_with(" HATop version"));
    terminal.await_line("our name", |line| {
        line.contains("ringway Version: ") && line.contains(&format!("PID: {}", ringway.pid()))
    });
    terminal.await_line("the frontend", |line| line.starts_with("FRONTEND") && line.contains(" OPEN "));
    for server in ["s0", "s1"] {
        let line = terminal.await_line(server, |line| line.starts_with(&format!("{server} ")));
        assert_eq!(line.split_whitespace().take(4).collect::<Vec<_>>(), [server, "1", "UP", "L4OK"]);
    }
    terminal.await_line("one session", |line| line.contains("Connections: [") && line.contains(" 1/"));

    // Down to the first server, which the foot line shows by its numbers; F10 disables it.
    let place = |terminal: &mut Terminal, wanted: &str| {
        for _ in 0..12 {
            let before = terminal.screen();
            if before.contains(wanted) {
                return;
            }
            terminal.press("\u{1b}OB");
            terminal.await_line("the cursor to move", |line| !before.lines().any(|old| old == line));
        }
        panic!("no {wanted}:\n{}", terminal.screen());
    };
    place(&mut terminal, "[#3/#1]");
    terminal.press("\u{1b}Ox");
    terminal.await_line("s0 in maintenance", |line| line.starts_with("s0 ") && line.contains(" MAINT "));
    assert_eq!((state(&ringway, 0).as_str(), answers(front, 4)), ("maint", names(&["b"])));
    // F9 enables it, F8 adds 10 to its weight.
    terminal.press("\u{1b}Ow");
    terminal.await_line("s0 to be up again", |line| line.starts_with("s0 ") && line.contains(" UP "));
    terminal.press("\u{1b}Ol");
    await_that("another weight", || status(&ringway)["pools"][0]["servers"][0]["weight"] == 11);

    // Its command line.
    terminal.press("\u{1b}5");
    terminal.await_line("its command line", |line| line.contains("haproxy command line"));
    terminal.press("disable server pool/s1\r");
    await_that("s1 to be out", || state(&ringway, 1) == "maint");
    terminal.press("get weight pool/s0\r");
    terminal.await_line("an answer", |line| line.contains("11 (initial 1)"));
    terminal.press("\u{1b}1");
    terminal.await_line("s1 in maintenance", |line| line.starts_with("s1 ") && line.contains(" MAINT "));
    terminal.press("q");
    assert!(terminal.wait().success());
    drop(client);
    ringway.end_well();
}

#[test]
fn who_does_not_read_holds_up_nobody() {
    many_descriptors();
    let ground = Ground::new();
    let server = Server::named_echo(&ground, "a");
    let (front, (socket, line)) = (ground.address(), socket(&ground));
    // A table of some 700 kB.
    let many: Vec<String> = (0..2_000)
        .map(|i| format!("{{ name = \"n{i}\", address = \"127.9.{}.{}:9\" }}", i / 250, i % 250 + 1))
        .collect();
    let config = line + &one_pool(front, &[server.address()], "") + &pool("many", &many, "");
    let mut ringway = Ringway::start(&ground, &config);
    let whole = ask(&socket, "show stat");
    assert_eq!(whole.lines().count(), 1 + 1 + 2 + 2_001 + 1);
    let before_kb = status_of(ringway.pid(), "VmRSS");

    // More than there may be at once: the last wait in the kernel's queue.
    let mut rude: Vec<UnixStream> = (0..80).map(|_| UnixStream::connect(&socket).expect("it listens")).collect();
    for stream in &mut rude {
        let wishes = format!("prompt\n{}", "show stat\n".repeat(500));
        stream.write_all(wishes.as_bytes()).expect("it fits");
    }
    let mut client = connect(front);
    read_exactly(&mut client, 1).expect("a name");
    for _ in 0..20 {
        exchange(&mut client, b"x").expect("sessions go on");
        assert!(status(&ringway)["pools"].is_array());
    }
    let grown_kb = status_of(ringway.pid(), "VmRSS").saturating_sub(before_kb);
    assert!(grown_kb < 16 * 1024, "{grown_kb} kB for 80 clients that do not read");
    drop(rude);

    // One that reads late gets all of it; those above may be too late by now.
    let mut late = await_some("a free place", || UnixStream::connect(&socket).ok());
    late.set_read_timeout(Some(PATIENCE)).expect("a socket");
    late.write_all(b"prompt\nshow stat\n").expect("it fits");
    std::thread::sleep(Duration::from_millis(200));
    let mut first = vec![0; whole.len()];
    late.read_exact(&mut first).expect("a whole table");
    assert!(String::from_utf8_lossy(&first).starts_with("\n> # pxname,"));
    drop(late);

    // A line without end is the end of the connection, and of nothing else.
    let mut endless = await_some("a free place", || UnixStream::connect(&socket).ok());
    endless.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let _ = endless.write_all(&vec![b'a'; 64 * 1024]);
    let mut said = Vec::new();
    // It is closed on with bytes unread: that may be seen as a reset.
    let _ = endless.read_to_end(&mut said);
    assert!(said.is_empty());
    assert_eq!(ask(&socket, "show backend"), "# name\nmany\npool\n\n");
    drop(client);
    ringway.must_live();
    ringway.end_well();
}
