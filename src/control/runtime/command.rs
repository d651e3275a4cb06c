//! The commands: what the words of one ask for, and what is said of those that are none.
//!
//! Words that a command does not look at are ignored, as HAProxy does; so is a comment behind it.

use std::time::Duration;

use crate::config::ledger::Standing;
use crate::dataplane::record::session_number;

use super::field::Format;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// A text that needs nobody's help: a list of commands, or what is wrong.
    Say(String),
    /// A prompt from now on, or none.
    Prompt,
    /// The end.
    Quit,
    /// Silence may last so long from now on.
    Patience(Duration),
    /// `show info`.
    Info(Format),
    /// `show stat`.
    Stat(Selection),
    /// `show servers state`, of all backends or of one.
    ServersState(Option<String>),
    /// `show servers conn`, likewise.
    ServersConn(Option<String>),
    /// `show sess`: a line for each.
    Sessions,
    /// `show sess ID`, or `all` of them: all about each.
    Session(Option<u64>),
    /// `show backend`.
    Backends,
    /// `show errors`.
    Errors,
    /// `get weight`.
    Weight(Whom),
    /// A change of a server.
    Change(Whom, Change),
    /// `shutdown session`.
    End(u64),
    /// `shutdown sessions server`.
    EndAll(Whom),
}

/// A backend and a server of it, each by name, or by number as `#1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Whom {
    pub(super) backend: String,
    pub(super) server: String,
}

/// What is to become of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Another state.
    State(Standing),
    /// Out of maintenance; one that drains goes on draining.
    Enable,
    /// Another weight.
    Weight(u32),
    /// A weight in hundredths of what the file says.
    Share(u32),
    /// Another limit on sessions, 0 for none.
    Limit(u32),
}

/// Which rows of `show stat`, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    /// The proxy: by name, or by number; `None` is every one.
    pub(super) proxy: Option<Proxy>,
    /// 1 for frontends, 2 for backends, 4 for servers, or their sum; `None` is everything.
    pub(super) kinds: Option<u32>,
    /// The server; `None` is every one.
    pub(super) server: Option<u32>,
    pub(super) format: Format,
    /// Only servers that are up.
    pub(super) up: bool,
    /// No servers in maintenance.
    pub(super) no_maint: bool,
}

/// A frontend or a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Proxy {
    /// By number.
    Number(u32),
    /// By name.
    Name(String),
}

/// The longest silence that `set timeout cli` grants, in seconds.
const PATIENCE_MAX_S: u64 = 24 * 3600;

/// What there is, as `help` shows it: the words a command begins with, how it goes on, and what it does.
const HELP: [(&str, &str, &str); 20] = [
    ("disable server", "<bk>/<srv>", "disable a server for maintenance (use 'set server' instead)"),
    ("enable server", "<bk>/<srv>", "enable a disabled server (use 'set server' instead)"),
    ("get weight", "<bk>/<srv>", "report a server's current weight"),
    ("set maxconn server", "<bk>/<srv> <n>", "change a server's maxconn setting"),
    ("set server", "<bk>/<srv> [opts]", "change a server's state or weight"),
    ("set timeout", "[cli] <delay>", "change a timeout setting"),
    ("set weight", "<bk>/<srv> <n>[%]", "change a server's weight (use 'set server' instead)"),
    ("show backend", "", "list backends in the current running config"),
    ("show cli level", "", "display the level of the current CLI session"),
    ("show errors", "", "report last request and response errors (there are none in TCP)"),
    ("show info", "[json|typed]", "report information about the running process"),
    ("show servers conn", "[<backend>]", "dump server connections status (all or for a single backend)"),
    ("show servers state", "[<backend>]", "dump volatile server information (all or for a single backend)"),
    ("show sess", "[<id>|all]", "report the list of current sessions or dump this exact session"),
    ("show stat", "[json|no-maint|typed|up]*", "report counters for each proxy and server"),
    ("show version", "", "show version of the current process"),
    ("shutdown session", "<id>", "kill a specific session"),
    ("shutdown sessions server", "<bk>/<srv>", "kill sessions on a server"),
    ("help", "[<command>]", "list matching or all commands"),
    ("prompt", "", "toggle interactive mode with prompt"),
];
const QUIT: (&str, &str, &str) = ("quit", "", "disconnect");

/// Understands a command.
pub(super) fn understand(words: &[String]) -> Ask {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let rest = |from: usize| words.get(from).copied();
    match words.as_slice() {
        ["help", about @ ..] => Ask::Say(help("The following commands are valid at this level:", about)),
        ["prompt", ..] => Ask::Prompt,
        ["quit", ..] => Ask::Quit,
        ["set", "timeout", "cli", ..] => patience(rest(3)),
        ["show", "version", ..] => Ask::Say(format!("{}\n", env!("CARGO_PKG_VERSION"))),
        ["show", "cli", "level", ..] => Ask::Say("admin\n".into()),
        ["show", "info", how @ ..] => Ask::Info(format(how)),
        ["show", "stat", how @ ..] => stat(how),
        ["show", "servers", "state", ..] => Ask::ServersState(rest(3).map(str::to_owned)),
        ["show", "servers", "conn", ..] => Ask::ServersConn(rest(3).map(str::to_owned)),
        ["show", "sess", "all", ..] => Ask::Session(None),
        ["show", "sess", name, ..] => session(name).map_or(Ask::Sessions, |number| Ask::Session(Some(number))),
        ["show", "sess"] => Ask::Sessions,
        ["show", "backend", ..] => Ask::Backends,
        ["show", "errors", ..] => Ask::Errors,
        ["get", "weight", ..] => on(rest(2), Ask::Weight),
        ["disable", "server", ..] => on(rest(2), |whom| Ask::Change(whom, Change::State(Standing::Maint))),
        ["enable", "server", ..] => on(rest(2), |whom| Ask::Change(whom, Change::Enable)),
        ["set", "server", ..] => set_server(rest(2), words.get(3..).unwrap_or_default()),
        ["set", "weight", ..] => changed(rest(2), weight(rest(3))),
        ["set", "maxconn", "server", ..] => changed(rest(3), limit(rest(4))),
        ["shutdown", "sessions", "server", ..] => on(rest(3), Ask::EndAll),
        ["shutdown", "session", ..] => match rest(2).and_then(session) {
            Some(number) => Ask::End(number),
            None => say("Session pointer expected (use 'show sess')."),
        },
        unknown => Ask::Say(no_command(unknown)),
    }
}

fn say(line: &str) -> Ask {
    Ask::Say(format!("{line}\n"))
}

fn on(whom: Option<&str>, ask: impl FnOnce(Whom) -> Ask) -> Ask {
    match whom.and_then(|whom| whom.split_once('/')) {
        Some((backend, server)) => ask(Whom { backend: backend.to_owned(), server: server.to_owned() }),
        None => say("Require 'backend/server'."),
    }
}

fn changed(whom: Option<&str>, change: Result<Change, &'static str>) -> Ask {
    on(whom, |whom| match change {
        Ok(change) => Ask::Change(whom, change),
        Err(wrong) => say(wrong),
    })
}

fn set_server(whom: Option<&str>, words: &[&str]) -> Ask {
    const USAGE: &str = "usage: set server <backend>/<server> state | weight";
    match words {
        ["state", state, ..] => {
            let states = [Standing::Ready, Standing::Drain, Standing::Maint];
            let wrong = "'set server <srv> state' expects 'ready', 'drain' and 'maint'.";
            let wanted = states.into_iter().find(|each| each.word() == *state);
            changed(whom, wanted.map(Change::State).ok_or(wrong))
        }
        ["state"] => changed(whom, Err("'set server <srv> state' expects 'ready', 'drain' and 'maint'.")),
        ["weight", ..] => changed(whom, weight(words.get(1).copied())),
        // Of HAProxy's; an operator should not wonder whether it was done.
        ["addr" | "agent" | "agent-addr" | "agent-port" | "agent-send", ..]
        | ["check-addr" | "check-port" | "fqdn" | "health" | "ssl", ..] => {
            changed(whom, Err("ringway sets only the state and the weight of a server here."))
        }
        _ => changed(whom, Err(USAGE)),
    }
}

/// A weight, 0 to 256, or one in hundredths of what the file says. The words are HAProxy's.
fn weight(text: Option<&str>) -> Result<Change, &'static str> {
    let Some(text) = text else {
        return Err("Require <weight> or <weight%>.");
    };
    let (number, after) = number(text).ok_or("Empty weight string empty or preceded by garbage")?;
    match (u32::try_from(number), after) {
        (Ok(number), "") if number <= 256 => Ok(Change::Weight(number)),
        (Ok(number), "%") => Ok(Change::Share(number)),
        (Err(_), "%") => Err("Relative weight must be positive."),
        (_, "") => Err("Absolute weight can only be between 0 and 256 inclusive."),
        _ => Err("Trailing garbage in weight string"),
    }
}

fn limit(text: Option<&str>) -> Result<Change, &'static str> {
    let Some(text) = text else {
        return Err("Require <maxconn>.");
    };
    let (number, after) = number(text).ok_or("maxconn string empty or preceded by garbage")?;
    match (u32::try_from(number), after) {
        (Ok(number), "") => Ok(Change::Limit(number)),
        (Err(_), "") => Err("maxconn is a number from 0 (no limit)."),
        _ => Err("Trailing garbage in maxconn string"),
    }
}

/// The number a text begins with, and what follows it.
fn number(text: &str) -> Option<(i64, &str)> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let end = text.len() - digits.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    // One too large for i64 is too large for everything here.
    let number = text[..end].trim_start_matches('+');
    let most = if number.starts_with('-') { i64::MIN } else { i64::MAX };
    if digits.starts_with(|c: char| c.is_ascii_digit()) {
        Some((number.parse().unwrap_or(most), &text[end..]))
    } else {
        None
    }
}

/// A duration as HAProxy writes it; seconds when it has no unit.
fn patience(text: Option<&str>) -> Ask {
    let wrong = || say("Invalid timeout value.");
    let Some((count, unit)) = text.and_then(number) else {
        return wrong();
    };
    let ms = match unit {
        "us" => 0,
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return wrong(),
    };
    match u64::try_from(count) {
        Ok(count) => {
            Ask::Patience(Duration::from_millis(count.saturating_mul(ms).clamp(1_000, PATIENCE_MAX_S * 1_000)))
        }
        Err(_) => wrong(),
    }
}

/// A session by its name here, or by its name in the log.
fn session(name: &str) -> Option<u64> {
    match name.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => session_number(name),
    }
}

fn format(words: &[&str]) -> Format {
    let of = |word: &&str| match *word {
        "typed" => Some(Format::Typed),
        "json" => Some(Format::Json),
        _ => None,
    };
    words.iter().rev().find_map(of).unwrap_or_default()
}

/// `[{<iid>|<proxy>} <type> <sid>]` come first and all three, as in HAProxy.
fn stat(words: &[&str]) -> Ask {
    let mut selection = Selection {
        format: format(words),
        up: words.contains(&"up"),
        no_maint: words.contains(&"no-maint"),
        ..Selection::default()
    };
    let positive = |text: &str| text.parse::<i64>().ok().and_then(|number| u32::try_from(number).ok());
    if let [proxy, kinds, server, ..] = words {
        let is_number = |text: &str| text.parse::<i64>().is_ok();
        if is_number(kinds) && is_number(server) {
            selection.proxy = match is_number(proxy) {
                true => positive(proxy).map(Proxy::Number),
                false => Some(Proxy::Name((*proxy).to_owned())),
            };
            selection.kinds = positive(kinds);
            selection.server = positive(server);
        }
    }
    Ask::Stat(selection)
}

/// The answer to what is no command: those that begin likewise, or all.
fn no_command(words: &[&str]) -> String {
    if likeness(words) == 0 {
        return help("Unknown command. Please enter one of the following commands only:", &[]);
    }
    help("Unknown command, but maybe one of the following ones is a better match:", words)
}

/// How many words at the beginning are those of some command.
fn likeness(words: &[&str]) -> usize {
    HELP.iter().map(|(command, ..)| alike(command, words)).max().unwrap_or(0)
}

fn alike(command: &str, words: &[&str]) -> usize {
    command.split(' ').zip(words).take_while(|(ours, theirs)| ours == *theirs).count()
}

/// The commands that begin with as many of `words` as any do.
fn help(title: &str, words: &[&str]) -> String {
    let most = likeness(words);
    let always = |command: &str| matches!(command, "help" | "prompt");
    let mut text = format!("{title}\n");
    for (command, how, what) in HELP.iter().chain([&QUIT]) {
        if always(command) || *command == QUIT.0 || alike(command, words) == most {
            let usage = format!("{command} {how}");
            text.push_str(&format!("  {:<40}: {what}\n", usage.trim_end()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str) -> Ask {
        understand(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    /// The first line of what is said.
    fn said(line: &str) -> String {
        match ask(line) {
            Ask::Say(text) => text.lines().next().expect("a line").to_owned(),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn whom() -> Whom {
        Whom { backend: "web".into(), server: "a".into() }
    }

    #[test]
    fn changes() {
        for (line, change) in [
            ("set server web/a state drain", Change::State(Standing::Drain)),
            ("set server web/a state maint # for a while", Change::State(Standing::Maint)),
            ("disable server web/a", Change::State(Standing::Maint)),
            ("enable server web/a", Change::Enable),
            ("set server web/a weight 256", Change::Weight(256)),
            ("set weight web/a 0", Change::Weight(0)),
            ("set weight web/a 150%", Change::Share(150)),
            ("set maxconn server web/a 7", Change::Limit(7)),
        ] {
            assert_eq!(ask(line), Ask::Change(whom(), change), "{line}");
        }
        assert_eq!(ask("get weight web/a"), Ask::Weight(whom()));
        assert_eq!(ask("shutdown sessions server web/a"), Ask::EndAll(whom()));
    }

    /// In the words of HAProxy 2.6, where it has some.
    #[test]
    fn what_is_wrong_is_said() {
        for (line, words) in [
            ("set server", "Require 'backend/server'."),
            ("set server web state ready", "Require 'backend/server'."),
            ("set server web/a", "usage: set server <backend>/<server> state | weight"),
            ("set server web/a health up", "ringway sets only the state and the weight of a server here."),
            ("set server web/a state", "'set server <srv> state' expects 'ready', 'drain' and 'maint'."),
            ("set server web/a state gone", "'set server <srv> state' expects 'ready', 'drain' and 'maint'."),
            ("set weight web/a", "Require <weight> or <weight%>."),
            ("set weight web/a x", "Empty weight string empty or preceded by garbage"),
            ("set weight web/a 257", "Absolute weight can only be between 0 and 256 inclusive."),
            ("set weight web/a -1", "Absolute weight can only be between 0 and 256 inclusive."),
            ("set weight web/a 99999999999999999999", "Absolute weight can only be between 0 and 256 inclusive."),
            ("set weight web/a -1%", "Relative weight must be positive."),
            ("set weight web/a 1x", "Trailing garbage in weight string"),
            ("set maxconn server web/a", "Require <maxconn>."),
            ("set maxconn server web/a x", "maxconn string empty or preceded by garbage"),
            ("set maxconn server web/a 1x", "Trailing garbage in maxconn string"),
            ("set maxconn server web/a -1", "maxconn is a number from 0 (no limit)."),
            ("shutdown session", "Session pointer expected (use 'show sess')."),
            ("shutdown session zz", "Session pointer expected (use 'show sess')."),
            ("set timeout cli -5", "Invalid timeout value."),
            ("", "Unknown command. Please enter one of the following commands only:"),
            ("foo", "Unknown command. Please enter one of the following commands only:"),
            ("show", "Unknown command, but maybe one of the following ones is a better match:"),
            ("SHOW INFO", "Unknown command. Please enter one of the following commands only:"),
        ] {
            assert_eq!(said(line), words, "{line}");
        }
    }

    #[test]
    fn questions() {
        assert_eq!(ask("show sess"), Ask::Sessions);
        assert_eq!(ask("show sess 0x10000000000ff"), Ask::Session(Some((1 << 48) + 255)));
        assert_eq!(ask("show sess 1-255"), Ask::Session(Some((1 << 48) + 255)));
        assert_eq!(ask("show sess all"), Ask::Session(None));
        assert_eq!(ask("show sess nobody"), Ask::Sessions, "as HAProxy");
        assert_eq!(ask("shutdown session 0-1"), Ask::End(1));
        assert_eq!(ask("show info json"), Ask::Info(Format::Json));
        assert_eq!(ask("show servers state web"), Ask::ServersState(Some("web".into())));
        assert_eq!(ask("set timeout cli 60"), Ask::Patience(Duration::from_secs(60)));
        assert_eq!(ask("set timeout cli 9999d"), Ask::Patience(Duration::from_secs(PATIENCE_MAX_S)));
        let Ask::Stat(all) = ask("show stat -1 4 -1 typed up") else { panic!("a table") };
        let wanted = Selection { kinds: Some(4), format: Format::Typed, up: true, ..Selection::default() };
        assert_eq!(all, wanted);
        let Ask::Stat(one) = ask("show stat web 6 2 no-maint") else { panic!("a table") };
        assert_eq!((one.proxy, one.kinds, one.server), (Some(Proxy::Name("web".into())), Some(6), Some(2)));
        assert!(one.no_maint);
        assert_eq!(ask("show stat web"), Ask::Stat(Selection::default()), "all three or none");
    }

    #[test]
    fn help_lists_what_there_is() {
        let Ask::Say(all) = ask("help") else { panic!("a text") };
        assert_eq!(all.lines().count(), 1 + HELP.len() + 1);
        assert!(all.starts_with("The following commands are valid at this level:\n  disable server <bk>/<srv>  "));
        assert!(all.ends_with("  quit                                    : disconnect\n"), "{all}");
        for (command, ..) in HELP.iter().chain([&QUIT]) {
            let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
            let unknown = matches!(understand(&words), Ask::Say(text) if text.starts_with("Unknown"));
            // `set timeout` is about the timeout that HAProxy names cli, and only that.
            assert!(!unknown || *command == "set timeout", "{command} is listed and not understood");
        }
        let Ask::Say(some) = ask("help set server") else { panic!("a text") };
        assert_eq!(some.lines().filter(|line| line.starts_with("  set")).count(), 1, "{some}");
        let Ask::Say(some) = ask("show servers") else { panic!("a text") };
        assert_eq!(some.lines().filter(|line| line.starts_with("  show")).count(), 2, "{some}");
    }
}
