//! `ringway top` in a real terminal.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::facts::await_that;
use crate::harness::ground::Ground;
use crate::harness::peers::{Server, ask};
use crate::harness::ringway::{BINARY, Ringway, all_of, one_pool};
use crate::harness::terminal::{Goes, Terminal, in_a_terminal_that_goes};

fn top(ringway: &Ringway, words: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("top").args(words).arg("-c").arg(ringway.config());
    command.env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8").env_remove("NO_COLOR");
    command
}

fn server(ringway: &Ringway, place: usize) -> Value {
    let output = ringway.verb(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    status["pools"][0]["servers"][place].clone()
}

fn was_given_back(terminal: &Terminal) {
    let last = |sequence: &str| terminal.written().rfind(sequence);
    await_that("the screen of before to be back", || last("\u{1b}[?1049l") > last("\u{1b}[?1049h"));
    await_that("and its cursor", || last("\u{1b}[?25h") > last("\u{1b}[?25l"));
    assert!(terminal.is_cooked(), "and its keyboard");
}

#[test]
fn a_server_is_drained_by_hand() {
    let ground = Ground::new();
    let servers = [Server::named(&ground, "a"), Server::named(&ground, "b")];
    let front = ground.address();
    let text = one_pool(front, &servers.each_ref().map(Server::address), "");
    let mut ringway = Ringway::start(&ground, &text);
    let mut terminal = Terminal::start(&mut top(&ringway, &["--interval", "200ms"]), 80, 24);
    terminal.await_words(&["s0", "s1", "▲ up", "2 of 2 servers up", "EVENTS", "is ready", "d drain"]);
    assert!(!terminal.is_cooked());
    assert!(terminal.written().contains("\u{1b}[38;5;"), "with colours");

    terminal.press("d");
    terminal.await_words(&["Drain pool/s0?"]);
    terminal.press("n");
    terminal.await_words(&["nothing was changed"]);
    assert_eq!(server(&ringway, 0)["state"], "up");
    terminal.press("dy");
    terminal.await_words(&["pool/s0: drain (was ready)", "◇ drain", "1 of 2 servers up"]);
    assert_eq!(server(&ringway, 0)["state"], "drain");
    for _ in 0..4 {
        assert_eq!(ask(front), "b", "nobody gets it");
    }
    terminal.press("\u{1b}[Bw7\ry");
    terminal.await_words(&["pool/s1: ready, weight 7"]);
    assert_eq!(server(&ringway, 1)["weight"], 7);

    terminal.resize(120, 40);
    terminal.await_words(&["IN/S", "OUT/S"]);

    // The daemon dies and comes back; the one who watches stays.
    ringway.signal(Signal::SIGKILL);
    terminal.await_words(&["! no daemon answers"]);
    ringway.kill_and_start_again();
    terminal.await_words(&["ringway answers again", "2 of 2 servers up"]);
    terminal.press("q");
    assert_eq!(terminal.wait().code(), Some(0));
    was_given_back(&terminal);
    ringway.end_well();
}

/// Nobody sends a signal to a program that its terminal does not control.
#[test]
fn a_terminal_that_goes_away_ends_it() {
    let ground = Ground::new();
    let server_a = Server::named(&ground, "a");
    let ringway = Ringway::start(&ground, &one_pool(ground.address(), &[server_a.address()], ""));
    let status = in_a_terminal_that_goes(&mut top(&ringway, &[]), Goes::Whole, "EVENTS");
    assert_eq!(status.code(), Some(129), "{status}");
    let status = in_a_terminal_that_goes(&mut top(&ringway, &[]), Goes::Screen, "EVENTS");
    assert_eq!(status.code(), Some(1), "{status}");
    ringway.end_well();
}

#[test]
fn read_only_shows_and_a_signal_gives_the_terminal_back() {
    let ground = Ground::new();
    let server_a = Server::named(&ground, "a");
    let ringway = Ringway::start(&ground, &one_pool(ground.address(), &[server_a.address()], ""));
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129), (Signal::SIGINT, 130)] {
        let mut command = top(&ringway, &["--read-only"]);
        command.env("NO_COLOR", "1").env("LC_ALL", "C");
        let mut terminal = Terminal::start(&mut command, 80, 24);
        terminal.await_words(&["s0", "+ up", "read-only"]);
        terminal.press("yd");
        terminal.await_words(&["nothing is changed"]);
        assert_eq!(server(&ringway, 0)["state"], "up");
        let written = terminal.written();
        let colored = ["[38;", "[48;", "[31m", "[32m"].into_iter().find(|color| written.contains(color));
        assert_eq!(colored, None, "NO_COLOR: {written:?}");
        terminal.signal(signal);
        assert_eq!(terminal.wait().code(), Some(code));
        was_given_back(&terminal);
    }
    let mut terminal = Terminal::start(&mut top(&ringway, &[]), 80, 24);
    terminal.await_words(&["s0"]);
    terminal.press("\u{3}");
    assert_eq!(terminal.wait().code(), Some(0), "Ctrl-C");
    was_given_back(&terminal);

    // Even a mistake of its own leaves a terminal that can be used, and a message in it.
    let mut terminal = Terminal::start(top(&ringway, &[]).env("RINGWAY_REHEARSE", "panic_key=1"), 80, 24);
    terminal.await_words(&["s0"]);
    terminal.press("j");
    assert_eq!(terminal.wait().signal(), Some(Signal::SIGABRT as i32));
    was_given_back(&terminal);
    await_that("what went wrong", || terminal.written().contains("a panic on order"));
    ringway.end_well();
}

#[test]
fn once_is_for_programs_and_for_paper() {
    let ground = Ground::new();
    let server_a = Server::named(&ground, "a");
    let front = ground.address();
    let ringway = Ringway::start(&ground, &one_pool(front, &[server_a.address()], ""));
    let mut rate = 0.0;
    await_that("connections in one look", || {
        let looking = top(&ringway, &["--once", "--json", "--interval", "300ms"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("the binary under test");
        for _ in 0..50 {
            ask(front);
        }
        let output = looking.wait_with_output().expect("it ends");
        let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(json["pools"][0]["servers"][0]["state"], "up");
        assert_eq!(json["workers"].as_array().map(Vec::len), Some(2));
        rate = json["connections_s"].as_f64().expect("a number");
        rate > 0.0 && json["pools"][0]["servers"][0]["connections_s"] != 0.0
    });
    let output = top(&ringway, &["--once", "--interval", "200ms"]).output().expect("the binary under test");
    let text = all_of(&output);
    assert!(output.status.success() && text.contains("1 of 1 servers up") && text.contains("LISTENER"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");

    // Where nothing can be drawn it says so, and what to do instead.
    let output = top(&ringway, &[]).output().expect("the binary under test");
    assert_eq!(output.status.code(), Some(2));
    assert!(all_of(&output).contains("--once"), "{}", all_of(&output));
    let mut terminal = Terminal::start(top(&ringway, &[]).env("TERM", "dumb"), 80, 24);
    assert_eq!(terminal.wait().code(), Some(2));
    await_that("the reason", || terminal.written().contains("TERM=dumb") && terminal.written().contains("--once"));
    assert!(!terminal.written().contains("\u{1b}"), "{:?}", terminal.written());
    let nobody = Command::new(BINARY).args(["top", "--once", "--socket"]).arg(ground.file("none.sock")).output();
    let output = nobody.expect("the binary under test");
    assert_eq!(output.status.code(), Some(1), "{}", all_of(&output));
    ringway.end_well();
}
