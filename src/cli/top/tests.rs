//! A model is led by keys and drawn on a backend without a terminal.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::{Color, Modifier};

use super::model::{Dialog, Key, Page, Wish};
use super::*;
use crate::config::ledger::Standing;
use crate::control::steer::ServerChange;
use crate::observe::history::Sample;
use crate::observe::panel::tests::panel;
use crate::observe::recent::Told;
use crate::observe::status::{Latency, status};

const MANNER: Manner = Manner { color: true, unicode: true, read_only: false, live: true };

/// Two servers, the second of them down, with a past.
fn reading(servers: usize) -> Reading {
    let mut then = status(&panel());
    let server = then.pools[0].servers[1].clone();
    for n in 2..servers {
        then.pools[0]
            .servers
            .push(crate::observe::status::ServerStatus { name: format!("web{}", n + 1), ..server.clone() });
    }
    let mut now = then.clone();
    now.listeners[0].accepted = 50;
    now.pools[0].servers[0].connects = 50;
    now.pools[0].servers[0].sessions = 3;
    now.pools[0].servers[0].role = "replica".into();
    now.pools[0].servers[0].lag_s = Some(4);
    now.pools[0].servers[1].state = "down".into();
    now.pools[0].servers[1].reason = "connection refused\u{1b}[2J".into();
    now.pools[0].connect_lately = Latency { count: 9, p50_us: Some(180), p99_us: Some(2_500) };
    let sample = |number| Sample {
        number,
        unix_ms: number * 1000,
        sessions: 3,
        accepted_s: if number == 200 { 200.0 } else { (number % 20) as f64 * 10.0 },
        failed_s: 0.0,
        bytes_in_s: 0.0,
        bytes_out_s: 0.0,
        connect: Latency::default(),
        first_byte: Latency::default(),
    };
    let told = |number, message: &str| Told {
        number,
        unix_ms: 3_723_000,
        level: "warn".into(),
        event: "server".into(),
        message: message.into(),
    };
    let events = vec![told(1, "the older"), told(2, "server web2 is down\u{1b}]0;x\u{7}")];
    let history = History { samples: (1..=200).map(sample).collect(), events, reload: None };
    Reading::new(&now, &history, Some((&then, Duration::from_secs(2))))
}

fn model(manner: Manner) -> Model {
    let mut model = Model::new(manner);
    model.hear(reading(2));
    model
}

fn drawn(model: &Model, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a backend in memory");
    terminal.draw(|frame| view::draw(model, frame.area(), frame.buffer_mut())).expect("drawn");
    terminal.backend().buffer().clone()
}

fn shown(model: &Model, width: u16, height: u16) -> String {
    view::text_of(&drawn(model, width, height))
}

fn change(server: &str, state: Option<Standing>, weight: Option<u32>) -> ServerChange {
    ServerChange { pool: "web".into(), server: server.into(), state, weight, ..ServerChange::default() }
}

#[test]
fn an_interval_has_a_unit_and_bounds() {
    assert_eq!(parse_interval("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(parse_interval("2s"), Ok(Duration::from_secs(2)));
    assert_eq!(parse_interval("0.5"), Ok(Duration::from_millis(500)));
    for wrong in ["", "s", "0s", "100ms", "61s", "-1s", "NaN", "1h", "1e99"] {
        assert!(parse_interval(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_smallest_usual_terminal_shows_what_matters() {
    let text = shown(&model(MANNER), 80, 24);
    for part in [
        "ringway ",
        "1 of 2 servers up",
        "conn/s 200.0",
        "▂",
        "█",
        "web1",
        "▲ up",
        "▼ down",
        "replica",
        "4s",
        "25.0",
        "connect p50 / p99 180 µs / 2.5 ms",
        "WEIGHT",
        "EVENTS",
        "01:02:03Z warn  server web2 is down",
        "d drain",
        "web/web1 at 10.0.0.21:80 is up",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    assert_eq!(text.lines().count(), 24);
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "what peers say moves no cursor");
}

#[test]
fn a_large_one_shows_more() {
    let text = shown(&model(MANNER), 200, 50);
    for part in ["IN/S", "OUT/S", "ADDRESS", "10.0.0.22:80", "connection refused", "first byte", "the older"] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
}

#[test]
fn no_size_is_too_odd() {
    let mut model = model(MANNER);
    for page in [Page::Servers, Page::Listeners, Page::Events, Page::Help] {
        model.page = page;
        for dialog in [None, Some(Dialog::Question(change("web1", Some(Standing::Drain), None)))] {
            model.dialog = dialog;
            for width in [1, 39, 40, 79, 110, 300] {
                for height in [1, 7, 8, 13, 14, 18, 100] {
                    let text = shown(&model, width, height);
                    assert_eq!(text.lines().count(), usize::from(height));
                }
            }
        }
    }
    assert!(shown(&model, 39, 7).contains("at least 40"));
}

#[test]
fn without_colour_and_unicode_the_same_is_said() {
    let model = model(Manner { color: false, unicode: false, ..MANNER });
    let buffer = drawn(&model, 80, 24);
    assert!(buffer.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    let text = view::text_of(&buffer).replace('µ', "u");
    assert!(text.is_ascii(), "{text}");
    assert!(text.contains("X down") && text.contains("+ up"), "{text}");
    let colored = drawn(&self::model(MANNER), 80, 24);
    assert!(colored.content.iter().any(|cell| cell.fg == Color::Red));
}

#[test]
fn a_change_is_asked_for_twice() {
    let mut model = model(MANNER);
    model.press(Key::Down);
    assert_eq!(model.press(Key::Char('d')), None);
    assert!(shown(&model, 80, 24).contains("Drain web/web2?"));
    assert_eq!(model.press(Key::Char('n')), None);
    assert_eq!((model.dialog.clone(), model.note.as_str()), (None, "nothing was changed"));
    model.press(Key::Char('m'));
    let wish = model.press(Key::Char('y'));
    assert_eq!(wish, Some(Wish::Change(change("web2", Some(Standing::Maint), None))));

    model.press(Key::Up);
    model.press(Key::Char('w'));
    for key in [Key::Char('9'), Key::Char('9'), Key::Char('x'), Key::Char('9'), Key::Char('9'), Key::Enter] {
        assert_eq!(model.press(key), None);
    }
    assert!(model.note.contains("0 to 256"), "{}", model.note);
    model.press(Key::Backspace);
    model.press(Key::Enter);
    assert!(shown(&model, 80, 24).contains("Give web/web1 the weight 99?"));
    assert_eq!(model.press(Key::Char('y')), Some(Wish::Change(change("web1", None, Some(99)))));
    model.press(Key::Char('w'));
    assert_eq!(model.press(Key::Escape), None);
    assert_eq!(model.dialog, None);
    assert_eq!(model.press(Key::Char('q')), Some(Wish::Leave));
}

#[test]
fn read_only_changes_nothing() {
    let mut model = model(Manner { read_only: true, ..MANNER });
    for key in ['d', 'm', 'r', 'w'] {
        assert_eq!(model.press(Key::Char(key)), None);
        assert_eq!(model.dialog, None);
        assert!(shown(&model, 80, 24).contains("--read-only"));
        assert_eq!(model.press(Key::Char('y')), None);
    }
}

#[test]
fn the_chosen_server_stays_chosen_and_in_sight() {
    let mut model = model(MANNER);
    model.hear(reading(500));
    model.press(Key::End);
    assert_eq!(model.place(), Some(499));
    let buffer = drawn(&model, 80, 24);
    let reversed = |y| buffer[(4, y)].modifier.contains(Modifier::REVERSED);
    let row = (0..22).find(|y| reversed(*y)).expect("it is shown");
    let line: String = (0..12).map(|x| buffer[(x, row)].symbol()).collect();
    assert!(line.contains("web500"), "{line}");
    model.press(Key::PageUp);
    assert_eq!(model.place(), Some(489));
    model.hear(reading(3));
    assert_eq!(model.place(), Some(0), "it is gone: the first is chosen");
    model.press(Key::PageDown);
    assert_eq!(model.place(), Some(2));
}

#[test]
fn silence_is_said_and_its_end_too() {
    let mut model = model(MANNER);
    model.miss("no daemon answers".into());
    assert!(shown(&model, 80, 24).contains("! no daemon answers"));
    assert!(shown(&model, 80, 24).contains("web1"), "what was known last stays");
    model.hear(reading(2));
    assert!(shown(&model, 80, 24).contains("ringway answers again"));
}

#[test]
fn pages_turn() {
    let mut model = model(MANNER);
    model.press(Key::Tab);
    assert!(shown(&model, 80, 24).contains("sessions by worker  0: 0  1: 0"));
    model.press(Key::Tab);
    model.press(Key::Down);
    let text = shown(&model, 80, 24);
    assert!(text.contains("the older") && !text.contains("server web2 is down"), "scrolled by one:\n{text}");
    model.press(Key::Char('?'));
    assert!(shown(&model, 80, 24).contains("Ctrl-C"));
    model.press(Key::Escape);
    assert_eq!(model.page, Page::Servers);
}

#[test]
fn the_picture_has_all_servers_and_is_plain() {
    let text = picture(reading(300));
    assert!(text.contains("web300") && text.contains("LISTENER") && text.contains("sessions by worker"), "{text}");
    assert!(text.contains("EVENTS") && !text.contains('\u{1b}') && text.ends_with('\n'));
    let json = serde_json::to_value(reading(2)).expect("plain data");
    assert_eq!(json["connections_s"], 25.0);
    assert_eq!(json["pools"][0]["servers"][0]["connections_s"], 25.0);
    assert_eq!(json["pools"][0]["servers"][1]["state"], "down");
    assert_eq!(json["interval_s"], 2.0);
}
