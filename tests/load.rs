//! `ringway load`: the real binary as server and as client, over loopback.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Far more than anything here takes, so that a hang is told from a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn ringway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    command.arg("load").stdin(Stdio::null());
    command
}

/// A running `serve`, killed when dropped.
struct Server {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    address: String,
}

impl Server {
    fn start(arguments: &str) -> Self {
        Self::start_at("127.0.0.1:0", arguments)
    }

    fn start_at(listen: &str, arguments: &str) -> Self {
        let mut child = ringway()
            .args(["serve", "--json", "--listen", listen])
            .args(arguments.split_whitespace())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("serve says something");
        let ready: Value = serde_json::from_str(&line).expect("serve says JSON");
        let address = ready["listening"].as_str().expect("an address").to_owned();
        Self { child, lines, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("serve accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    /// Ends it as an init system would, and returns its report.
    fn finish(mut self) -> Value {
        let id = i32::try_from(self.child.id()).expect("a process id fits");
        kill(Pid::from_raw(id), Signal::SIGTERM).expect("it still runs");
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).expect("a report");
        let status = self.child.wait().expect("it ends");
        let report: Value = serde_json::from_str(rest.trim()).expect("one JSON object");
        let clean = report["errors"]["mismatch"] == 0;
        assert_eq!(status.code(), Some(i32::from(!clean)), "{report}");
        report
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a generator to its end; `{}` in `arguments` is the server's address.
fn generate(server: &Server, arguments: &str) -> (i32, Value) {
    let output = output(&arguments.replace("{}", &server.address));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let report = serde_json::from_str(text.trim()).unwrap_or_else(|_| panic!("not one JSON object: {text:?}"));
    (output.status.code().expect("no signal"), report)
}

fn output(arguments: &str) -> Output {
    ringway().args(arguments.split_whitespace()).arg("--json").output().expect("the binary starts")
}

/// The same, when all is to go well.
fn generate_well(server: &Server, arguments: &str) -> Value {
    let (code, report) = generate(server, arguments);
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["errors_total"], 0, "{report}");
    report
}

fn number(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("{field} in {report}"))
}

#[test]
fn requests_are_answered_counted_and_timed() {
    let server = Server::start("--mode reply --request 100 --response 3000");
    let report = generate_well(&server, "request {} -c 4 --count 200 --request 100 --response 3000 --verify");
    assert_eq!(report["kind"], "request");
    assert_eq!(report["target"], server.address.as_str());
    assert_eq!(number(&report, "ops"), 200);
    assert_eq!(number(&report, "connections_opened"), 4);
    assert_eq!(number(&report, "bytes_out"), 200 * 100);
    assert_eq!(number(&report, "bytes_in"), 200 * 3000);
    let latency = &report["latency_us"];
    let value = |name: &str| latency[name].as_f64().expect("a number");
    assert!(value("p50") > 0.0 && value("p50") <= value("p99"));
    assert!(value("p99") <= value("p999") && value("p999") <= value("max") * 1.01);
    assert!(report["service_us"].is_null(), "a closed loop has but one");
    assert!(report["elapsed_seconds"].as_f64() > Some(0.0));
    assert!(report["rate"].as_f64() > Some(0.0));
    assert!(report["cpu_seconds"].as_f64() > Some(0.0));

    let served = server.finish();
    assert_eq!(number(&served, "ops"), 200);
    assert_eq!(number(&served, "connections_opened"), 4);
    assert_eq!(number(&served, "bytes_in"), 200 * 100);
    assert_eq!(number(&served, "bytes_out"), 200 * 3000);
    assert_eq!(number(&served, "errors_total"), 0);
}

#[test]
fn large_requests_and_responses_come_whole_on_two_threads() {
    let server = Server::start("--mode reply --request 700KiB --response 1MB --threads 2");
    let report =
        generate_well(&server, "request {} -c 3 --threads 2 --count 12 --request 700KiB --response 1MB --verify");
    assert_eq!(number(&report, "ops"), 12);
    assert_eq!(number(&report, "bytes_in"), 12_000_000);
    assert_eq!(number(&report, "bytes_out"), 12 * 700 * 1024);
}

#[test]
fn a_fixed_rate_is_kept_and_shows_a_slow_server() {
    let server = Server::start("--mode reply --delay 5ms");
    let report = generate_well(&server, "request {} -c 8 --rate 400/s --duration 300ms");
    assert_eq!(number(&report, "ops") + number(&report, "missed"), 120);
    assert!(report["service_us"]["p50"].as_f64() >= Some(5000.0));

    // One connection that needs 5 ms each cannot do 1000/s: what waits is told, and waits longer and longer.
    let report = generate_well(&server, "request {} -c 1 --rate 1000/s --duration 300ms");
    assert!(number(&report, "missed") > 100, "{report}");
    assert!(number(&report, "backlog_max") > 100, "{report}");
    let (latency, service) = (&report["latency_us"]["p90"], &report["service_us"]["p90"]);
    assert!(latency.as_f64() > service.as_f64().map(|us| us * 2.0), "{report}");
}

#[test]
fn connects_with_and_without_a_request() {
    let server = Server::start("--mode echo");
    let report = generate_well(&server, "connect {} -c 8 --count 100 --close reset");
    assert_eq!(number(&report, "ops"), 100);
    assert!(report["connect_us"]["p50"].as_f64() > Some(0.0));

    let line = "connect {} -c 8 --count 100 --request 64 --response 64 --verify --source 127.0.0.2,127.0.0.3";
    let report = generate_well(&server, line);
    assert_eq!(number(&report, "ops"), 100);
    assert_eq!(number(&report, "connections_opened"), 100);
    assert_eq!(number(&report, "bytes_in"), 6400);
    assert_eq!(number(&server.finish(), "bytes_out"), 6400);
}

#[test]
fn streams_both_ways_to_the_last_byte() {
    let bytes = 20_000_003;
    let source = Server::start(&format!("--mode source --bytes {bytes}"));
    let report = generate_well(&source, &format!("stream {{}} -c 2 --bytes {bytes} --verify"));
    assert_eq!(number(&report, "bytes_in"), 2 * bytes);
    assert_eq!(number(&source.finish(), "bytes_out"), 2 * bytes);

    let endless = Server::start("--mode source");
    let report = generate_well(&endless, "stream {} --bytes 1000003 --verify");
    assert_eq!(number(&report, "bytes_in"), 1_000_003);

    let sink = Server::start("--mode sink --verify");
    let report = generate_well(&sink, &format!("stream {{}} -c 2 --direction up --bytes {bytes}"));
    assert_eq!(number(&report, "bytes_out"), 2 * bytes);
    assert_eq!(number(&sink.finish(), "bytes_in"), 2 * bytes);

    let echo = Server::start("--mode echo");
    let report = generate_well(&echo, &format!("stream {{}} -c 2 --direction both --bytes {bytes} --verify"));
    assert_eq!(number(&report, "bytes_out"), 2 * bytes);
    assert_eq!(number(&report, "bytes_in"), 2 * bytes);
}

#[test]
fn streams_end_with_their_duration() {
    for (mode, direction) in [("source", "down"), ("sink", "up"), ("echo", "both")] {
        let server = Server::start(&format!("--mode {mode}"));
        let report = generate_well(&server, &format!("stream {{}} -c 2 --direction {direction} --duration 100ms"));
        assert_eq!(number(&report, "ops"), 2, "{report}");
        assert!(number(&report, "bytes_in") + number(&report, "bytes_out") > 0, "{report}");
    }
}

#[test]
fn held_connections_are_pinged_and_counted() {
    let server = Server::start("--mode echo");
    let line = "hold {} -c 50 --ramp 1000/s --duration 1s --ping 50ms";
    let report = generate_well(&server, line);
    assert_eq!(number(&report, "alive"), 50);
    let (pings, sent, back) = (number(&report, "ops"), number(&report, "bytes_out"), number(&report, "bytes_in"));
    assert!(pings > 50, "every connection more than once: {report}");
    // A ping has eight bytes; the last of each connection may be on its way.
    assert!((8 * pings..=8 * pings + 8 * 50).contains(&sent), "{report}");
    assert!((8 * pings..=sent).contains(&back), "{report}");
}

#[test]
fn a_server_that_leaves_early_is_reported() {
    let closing = Server::start("--mode reply --response 1000 --close-after 1500");
    let (code, report) = generate(&closing, "request {} --count 4 --response 1000");
    assert_eq!(code, 1);
    assert_eq!(number(&report, "ops"), 2, "{report}");
    assert_eq!(report["errors"]["closed_early"], 2, "{report}");
    let first = report["first_error"].as_str().expect("words");
    assert!(first.contains("500 of 1000 bytes"), "{first}");

    let resetting = Server::start("--mode source --reset-after 100000");
    let (code, report) = generate(&resetting, "stream {} --bytes 1MB");
    assert_eq!(code, 1);
    assert_eq!(report["errors"]["reset"], 1, "{report}");

    let (code, _) = generate(&resetting, "stream {} --bytes 1MB --allow-errors");
    assert_eq!(code, 0);

    let dropping = Server::start("--mode echo --close-after 0");
    let (code, report) = generate(&dropping, "hold {} -c 5 --duration 5s");
    assert_eq!(code, 1);
    assert_eq!(report["errors"]["closed_early"], 5, "{report}");
    assert_eq!(number(&report, "alive"), 0);
}

#[test]
fn refusals_timeouts_and_wrong_bytes_are_told_apart() {
    let gone = Server::start("--mode echo");
    let address = gone.address.clone();
    drop(gone);
    let silent = Server::start("--mode sink");
    let kinds = [
        (format!("connect {address} --count 3"), "refused", 3),
        (format!("request {address} --count 3"), "refused", 1),
        (format!("stream {address} --bytes 1"), "refused", 1),
        (format!("request {} --count 1 --timeout 100ms", silent.address), "timeout", 1),
        (format!("stream {} --bytes 10 --timeout 100ms", silent.address), "timeout", 1),
    ];
    for (line, kind, times) in kinds {
        let (code, report) = generate(&silent, &line);
        assert_eq!(code, 1, "{line}");
        assert_eq!(report["errors"][kind], times, "{line}: {report}");
        assert_eq!(report["errors_total"], times, "{line}: {report}");
    }

    // A greeting before the echo shifts the stream: the very first byte is wrong.
    let greeter = Server::start("--mode greet --name wrong");
    let (code, report) = generate(&greeter, "stream {} --direction both --bytes 1kB --verify");
    assert_eq!(code, 1);
    assert_eq!(report["errors"]["mismatch"], 1);
    let first = report["first_error"].as_str().expect("words");
    assert!(first.contains("offset 0"), "{first}");
}

#[test]
fn a_server_can_speak_first_and_tell_its_name() {
    let server = Server::start("--mode greet --response 5 --name web1");
    let mut stream = server.connect();
    let mut greeting = [0; 10];
    stream.read_exact(&mut greeting).expect("a greeting");
    assert_eq!(&greeting[..5], b"web1\n");
    stream.write_all(b"hello").expect("it reads");
    stream.shutdown(std::net::Shutdown::Write).expect("half-close");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("an echo, then the end");
    assert_eq!(rest, "hello");

    let connect = Server::start("--mode greet --response 5");
    let report = generate_well(&connect, "connect {} --count 5 --response 5 --verify");
    assert_eq!(number(&report, "bytes_in"), 25);
}

#[test]
fn an_echo_outlives_the_half_close() {
    let server = Server::start("--mode echo --delay 20ms");
    let mut stream = server.connect();
    let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i / 7) as u8).collect();
    let mut writer = stream.try_clone().expect("a second handle");
    let copy = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&copy).expect("all is taken");
        writer.shutdown(std::net::Shutdown::Write).expect("half-close");
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).expect("a clean end");
    writing.join().expect("the writer ends");
    assert!(received == sent, "{} bytes came back", received.len());
}

#[test]
fn unix_sockets_and_ipv6_work_too() {
    let folder = tempfile::tempdir().expect("a directory");
    let listen = format!("unix:{}/echo.sock", folder.path().display());
    for listen in [listen.as_str(), "[::1]:0"] {
        if listen.starts_with('[') && std::net::TcpListener::bind("[::1]:0").is_err() {
            continue; // This machine has no IPv6.
        }
        let server = Server::start_at(listen, "--mode echo");
        let line = "request {} -c 4 --count 100 --request 4kB --response 4kB --verify";
        assert_eq!(number(&generate_well(&server, line), "ops"), 100);
        let line = "stream {} -c 2 --direction both --bytes 2MB --verify";
        generate_well(&server, line);
        let line = "connect {} -c 2 --count 50 --request 10 --response 10";
        generate_well(&server, line);
        server.finish();
    }
    assert!(!folder.path().join("echo.sock").exists());
}

#[test]
fn a_wrong_command_line_says_what_to_do() {
    for (line, words) in [
        ("request example.com:80", "names are not resolved"),
        ("request 127.0.0.1:80 --duration 10", "needs a unit"),
        ("request 127.0.0.1:80 --request 0", "at least 1"),
        ("hold 127.0.0.1:80 --ramp fast", "number"),
        ("serve --mode echo", "--listen"),
        ("serve --listen 127.0.0.1:99999", "not a port"),
    ] {
        let output = output(line);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{line}: {text}");
        assert!(text.contains(words), "{line}: {text}");
    }
    let server = Server::start("--mode echo");
    let output = output(&format!("serve --listen {}", server.address));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&server.address), "{text}");
}
