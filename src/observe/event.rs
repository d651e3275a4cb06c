//! What the daemon says of itself: start, reloads, trouble. In the log beside the access records, told from them by the
//! field `event`.

use std::time::SystemTime;

use crate::dataplane::record::Note;

use super::line::{Line, Stamp, Syntax};

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Info,
    /// Works, but not as somebody may expect.
    Warn,
    /// Something did not work.
    Error,
}

impl Level {
    /// The word in the log.
    pub const fn word(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    level: Level,
    name: &'static str,
    message: String,
    unix_ns: u64,
    fields: Vec<(&'static str, Value)>,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A count.
    Number(u64),
    /// True or false.
    Flag(bool),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Value::Number(number)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Value::Flag(flag)
    }
}

impl Event {
    /// An event that happened now. `name` is one lower-case word that scripts look for; `message` is for people.
    pub fn new(level: Level, name: &'static str, message: impl Into<String>) -> Self {
        Self { level, name, message: message.into(), unix_ns: unix_ns(SystemTime::now()), fields: Vec::new() }
    }

    /// As it should be.
    pub fn info(name: &'static str, message: impl Into<String>) -> Self {
        Self::new(Level::Info, name, message)
    }

    /// Works, but not as somebody may expect.
    pub fn warn(name: &'static str, message: impl Into<String>) -> Self {
        Self::new(Level::Warn, name, message)
    }

    /// Something did not work.
    pub fn error(name: &'static str, message: impl Into<String>) -> Self {
        Self::new(Level::Error, name, message)
    }

    /// Adds a field.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.fields.push((key, value.into()));
        self
    }

    /// The word that scripts look for.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What there is to say, for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// How much it matters.
    pub fn level(&self) -> Level {
        self.level
    }

    /// When it happened, in nanoseconds since 1970.
    pub fn unix_ns(&self) -> u64 {
        self.unix_ns
    }

    /// What a worker noted.
    pub fn of_note(worker: usize, note: &Note) -> Self {
        let event = match note {
            Note::AcceptPaused { listener, errno, pause_ms } => Event::warn(
                "accept_paused",
                format!(
                    "accept failed ({}); trying again in {pause_ms} ms, connections wait meanwhile",
                    errno_text(*errno)
                ),
            )
            .with("listener", &*listener.name)
            .with("errno", u64::from(errno.unsigned_abs()))
            .with("pause_ms", u64::from(*pause_ms)),
            Note::MaxConnections { listener } => {
                Event::warn("max_connections", "connections are refused: max_connections sessions are open")
                    .with("listener", &*listener.name)
            }
            Note::NoPorts { listener, server } => {
                let pool = &listener.pool;
                let name = pool.servers.get(*server as usize).map(|s| &*s.name);
                Event::warn(
                    "no_ports",
                    "no local port is left towards the server: list more addresses in `source` of its pool, or widen \
                     net.ipv4.ip_local_port_range",
                )
                .with("listener", &*listener.name)
                .with("pool", &*pool.name)
                .with("server", name.unwrap_or("?"))
            }
            Note::NoPipes { errno: 0 } => Event::warn(
                "no_pipes",
                "no full-size pipe is left for splice, bulk is copied instead: raise fs.pipe-user-pages-soft",
            ),
            Note::NoPipes { errno } => Event::warn(
                "no_pipes",
                format!("no pipe for splice could be had ({}); bulk is copied instead", errno_text(*errno)),
            )
            .with("errno", u64::from(errno.unsigned_abs())),
        };
        event.with("worker", worker as u64)
    }

    /// Appends its line.
    pub fn write(&self, out: &mut Vec<u8>, syntax: Syntax, stamp: &mut Stamp) {
        let mut line = Line::begin(out, syntax);
        line.word("ts", stamp.text(self.unix_ns));
        self.tell(&mut line);
        line.end();
    }

    /// Adds all but its time to `line`.
    pub fn tell(&self, line: &mut Line<'_>) {
        line.word("level", self.level.word().as_bytes());
        line.word("event", self.name.as_bytes());
        line.text("message", &self.message);
        for (key, value) in &self.fields {
            match value {
                Value::Text(text) => line.text(key, text),
                Value::Number(number) => line.number(key, *number),
                Value::Flag(flag) => line.flag(key, *flag),
            }
        }
    }
}

fn errno_text(errno: i32) -> &'static str {
    nix::errno::Errno::from_raw(errno).desc()
}

/// Nanoseconds since 1970; 0 for a clock that is set before that.
pub fn unix_ns(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).ok().and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::observe::panel::tests::plan;

    fn text(event: &Event, syntax: Syntax) -> String {
        let mut out = Vec::new();
        event.write(&mut out, syntax, &mut Stamp::default());
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn an_event_is_one_line() {
        let mut event = Event::error("reload", "ringway.toml:3:1: \"no\"\nsecond line")
            .with("generation", 4_u64)
            .with("applied", false);
        event.unix_ns = 0;
        assert_eq!(
            text(&event, Syntax::Json),
            concat!(
                r#"{"ts":"1970-01-01T00:00:00.000000Z","level":"error","event":"reload","#,
                r#""message":"ringway.toml:3:1: \"no\"\nsecond line","generation":4,"applied":false}"#,
                "\n"
            )
        );
        assert_eq!(
            text(&event, Syntax::Logfmt),
            "ts=1970-01-01T00:00:00.000000Z level=error event=reload \
             message=\"ringway.toml:3:1: \\\"no\\\"\\nsecond line\" generation=4 applied=false\n"
        );
    }

    #[test]
    fn every_note_names_its_subject() {
        let listener = Arc::clone(&plan().listeners[0]);
        let notes = [
            Note::AcceptPaused { listener: Arc::clone(&listener), errno: 24, pause_ms: 10 },
            Note::MaxConnections { listener: Arc::clone(&listener) },
            Note::NoPorts { listener, server: 0 },
            Note::NoPipes { errno: 0 },
            Note::NoPipes { errno: 24 },
        ];
        for note in &notes {
            let line = text(&Event::of_note(3, note), Syntax::Json);
            let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!(read["worker"], 3);
            assert_eq!(read["level"], "warn");
        }
        let line = text(&Event::of_note(0, &notes[2]), Syntax::Json);
        assert!(line.contains(r#""server":"web1""#), "{line}");
    }
}
