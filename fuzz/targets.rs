//! What is fuzzed: one function for each parser of bytes that somebody else wrote. Each must end, and must keep what it
//! promises; that it does not panic goes without saying.
//!
//! cargo-fuzz drives them (`scripts/fuzz`), and `tests/corpus.rs` replays the corpus and small changes to it on stable.

use std::sync::{Arc, OnceLock};

use ringway::config::ledger::Registry;
use ringway::config::{Draft, diff, file, parse};
use ringway::control::admin::{Problem, conversation};
use ringway::control::reload::Answer;
use ringway::control::runtime;
use ringway::dataplane::commons::{Commons, Scene};
use ringway::health::mysql::probe::{Order, Probe, SocketId};
use ringway::health::mysql::{Login, Password, Security};
use ringway::observe::line::{Line, Syntax};
use ringway::observe::panel::{EngineChoice, Panel};
use ringway::observe::status::Status;

/// A target: its name, and what it does with some bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 8] = [
    ("config", config),
    ("value", value),
    ("admin", admin),
    ("log_line", log_line),
    ("answer", answer),
    ("command_line", command_line),
    ("mysql", mysql),
    ("runtime", runtime),
];

fn environment(name: &str) -> Option<String> {
    match name {
        "HOST" => Some("127.0.0.1".to_owned()),
        "NASTY" => Some("\u{1b}[31m\n\"${HOST}".to_owned()),
        _ => None,
    }
}

/// A whole file: refused with complaints that say where, or compiled; what is printed of it reads back as the same, and a
/// reload of the same changes nothing.
pub fn config(data: &[u8]) {
    let Ok(text) = file::text("f.toml".as_ref(), data.to_vec()) else { return };
    match parse("f.toml", &text, &environment) {
        Ok(draft) => accepted(&draft),
        Err(complaints) => {
            assert!(!complaints.is_empty(), "refused without a complaint");
            for line in complaints.lines() {
                assert!(line.starts_with("f.toml"), "{line:?} does not say where");
                assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
            }
        }
    }
}

fn accepted(draft: &Draft) {
    let printed = draft.print();
    let again = parse("printed.toml", &printed, &|_| None);
    let again = again.unwrap_or_else(|complaints| panic!("what was printed is refused:\n{printed}\n{complaints}"));
    assert_eq!(again.print(), printed, "what was printed reads back as something else");
    let mut registry = Registry::new(2);
    let first = draft.compile(&mut registry, None);
    let second = again.compile(&mut registry, Some(&first));
    let change = diff::diff(&first, &second);
    assert!(change.is_empty(), "the same, and yet: {change}");
}

/// One string where the configuration wants a quantity, an address, a name or a path.
pub fn value(data: &[u8]) {
    let Some((&which, data)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(data) else { return };
    let quoted = serde_json::to_string(text).expect("a string");
    // JSON's escapes are TOML's but for DEL, which TOML wants escaped.
    let quoted = quoted.replace('\u{7f}', "\\u007f");
    let (pool, server) = (
        "servers = [{ name = \"s\", address = \"127.0.0.1:1\" }]",
        "[listeners.l]\nbind = \"127.0.0.1:9\"\npool = \"p\"",
    );
    let text = match which % 8 {
        0 => format!("{server}\n[pools.p]\n{pool}\nidle_timeout = {quoted}\n"),
        1 => format!("{server}\n[pools.p]\n{pool}\nconnect_timeout = {quoted}\n"),
        2 => format!("[listeners.l]\nbind = {quoted}\npool = \"p\"\n[pools.p]\n{pool}\n"),
        3 => format!("{server}\n[pools.p]\nservers = [{{ name = \"s\", address = {quoted} }}]\n"),
        4 => format!("{server}\n[pools.p]\nservers = [{{ name = {quoted}, address = \"127.0.0.1:1\" }}]\n"),
        5 => format!("[log]\ntarget = {quoted}\n{server}\n[pools.p]\n{pool}\n"),
        6 => format!("[admin]\nsocket = {quoted}\n{server}\n[pools.p]\n{pool}\n"),
        _ => format!("{server}\n[pools.p]\n{pool}\nsource = [{quoted}]\n"),
    };
    config(text.as_bytes());
}

const SECRET: &str = "# nobody on the TCP port may see this";

fn panel() -> &'static Arc<Panel> {
    static PANEL: OnceLock<Arc<Panel>> = OnceLock::new();
    PANEL.get_or_init(|| {
        let text = "[listeners.l]\nbind = '127.0.0.1:9'\npool = 'p'\n[pools.p]\nservers = [{ name = 's', address = '127.0.0.1:1' }]\n";
        let draft = parse("f.toml", text, &|_| None).unwrap_or_else(|complaints| panic!("{complaints}"));
        let plan = Arc::new(draft.compile(&mut Registry::new(1), None));
        let commons = Arc::new(Commons::new(1, Scene { plan, doors: Vec::new() }, 10));
        Arc::new(Panel::new(commons, EngineChoice { name: "io_uring", reason: "preferred" }, Arc::default()))
    })
}

/// A conversation with the admin server: on the TCP port for an even first byte, on the unix socket for an odd one.
pub fn admin(data: &[u8]) {
    let Some((&which, request)) = data.split_first() else { return };
    let all_rights = which % 2 == 1;
    let answer = conversation(panel(), SECRET, request, all_rights);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answer));
    let told = answer.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
    assert!(all_rights || !told, "the configuration went out to the TCP port");
}

/// A conversation on the socket of HAProxy's runtime protocol: every answer is text, and ends as answers do.
pub fn runtime(data: &[u8]) {
    let said = runtime::conversation(panel(), data);
    let said = String::from_utf8(said).expect("UTF-8");
    assert!(said.is_empty() || said.ends_with('\n') || said.ends_with("\n> "), "{said:?}");
    assert!(!said.contains(|c: char| c.is_control() && c != '\n'), "{said:?}");
}

/// A value in a line of the log: it stays on its line and in its place, and reads back as it was.
pub fn log_line(data: &[u8]) {
    let value = String::from_utf8_lossy(data);
    for syntax in [Syntax::Json, Syntax::Logfmt, Syntax::Journal] {
        let mut out = Vec::new();
        let mut line = Line::begin(&mut out, syntax);
        line.number("before", 1);
        line.text("value", &value);
        line.number("after", 2);
        line.end();
        let text = String::from_utf8(out).expect("UTF-8");
        if syntax == Syntax::Journal {
            let inner = text.strip_prefix("BEFORE=1\nVALUE=").and_then(|text| text.strip_suffix("\nAFTER=2\n\n"));
            let inner = inner.expect("its place");
            assert!(!inner.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')), "{inner:?}");
            continue;
        }
        let line = text.strip_suffix('\n').expect("a whole line");
        assert!(!line.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')), "{line:?}");
        let quoted = match syntax {
            Syntax::Json => {
                let whole: serde_json::Value = serde_json::from_str(line).expect("JSON");
                assert_eq!((&whole["before"], &whole["after"]), (&1.into(), &2.into()));
                whole["value"].as_str().expect("a text").to_owned()
            }
            Syntax::Logfmt | Syntax::Journal => {
                let inner = line.strip_prefix("before=1 value=").and_then(|line| line.strip_suffix(" after=2"));
                let inner = inner.expect("its place");
                match inner.starts_with('"') {
                    true => serde_json::from_str(inner).expect("a quoted text"),
                    false => {
                        assert!(!inner.contains([' ', '=', '"']), "{inner:?}");
                        inner.to_owned()
                    }
                }
            }
        };
        assert_eq!(quoted, value);
    }
}

/// What a daemon answered a verb with: shown, or refused as not understood.
pub fn answer(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(status) = serde_json::from_str::<Status>(text) {
        assert!(!status.table().is_empty());
    }
    let _ = serde_json::from_str::<Answer>(text);
    let _ = serde_json::from_str::<Problem>(text);
}

/// A command line, its words one a line.
pub fn command_line(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(refusal) = ringway::cli::understand(std::iter::once("ringway").chain(text.lines())) {
        assert!(!refusal.is_empty());
    }
}

/// What a MySQL server says to a check, in two rounds: the first byte says where the second piece begins.
pub fn mysql(data: &[u8]) {
    let Some((&cut, data)) = data.split_first() else { return };
    let (first, second) = data.split_at(usize::from(cut).min(data.len()));
    let password = Password::new("secret".to_owned()).expect("no NUL");
    let mut probe = Probe::new(Arc::new(Login { user: "sha".to_owned(), password }), Security::Off);
    let mut open: Vec<SocketId> = Vec::new();
    for (now_ms, piece) in [(0, first), (10_000, second)] {
        probe.begin(now_ms);
        obey(&mut probe, &mut open);
        for id in open.clone() {
            probe.received(id, piece, now_ms);
            obey(&mut probe, &mut open);
        }
        probe.late();
        let outcome = probe.outcome().expect("every round comes to something");
        assert!(outcome.report.is_some() || outcome.fault.is_some());
    }
}

fn obey(probe: &mut Probe, open: &mut Vec<SocketId>) {
    while let Some(order) = probe.order() {
        match order {
            Order::Open(id) => {
                open.push(id);
                probe.connected(id);
            }
            Order::Send(id, bytes) => assert!(open.contains(&id) && !bytes.is_empty()),
            Order::Close(id) => open.retain(|&other| other != id),
        }
    }
    assert!(open.len() <= 2, "{open:?}");
}
