//! What is written of a record or an event, and what stands around it: nothing, the head of a syslog line, or the fields
//! of a journal entry.

use crate::config::plan::{Log, LogFormat, LogTarget};
use crate::dataplane::record::Record;

use super::access_log;
use super::event::{Event, Level};
use super::line::{Line, Stamp, Syntax, decimal};
use super::tcplog::{self, LocalClock};

/// The name under which syslog and the journal know us.
const NAME: &[u8] = b"ringway";
/// Facilities of syslog (RFC 3164, §4.1.1): records of sessions go to `local0`, as HAProxy's usually do, events to `daemon`.
const LOCAL0: u64 = 16;
const DAEMON: u64 = 3;
/// Severity "informational".
const INFO: u64 = 6;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// In which format.
    pub format: LogFormat,
    /// For which kind of reader.
    pub envelope: Envelope,
    /// Whether sessions are recorded.
    pub access: bool,
}

/// What separates one entry of the log from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// Lines.
    Lines,
    /// Datagrams of syslog, each a line with its priority, time and name (RFC 3164, §4.1, without the host, as syslog(3)).
    Syslog,
    /// Entries of the systemd journal, each closed by an empty line.
    Journal,
}

impl Style {
    /// The style that `[log]` asks for.
    pub fn of(log: &Log) -> Self {
        Self { format: log.format, envelope: Envelope::of(&log.target), access: log.access }
    }
}

impl Envelope {
    /// What `target` expects.
    pub fn of(target: &LogTarget) -> Self {
        match target {
            LogTarget::Stdout | LogTarget::File(_) => Envelope::Lines,
            LogTarget::Syslog(_) => Envelope::Syslog,
            LogTarget::Journald(_) => Envelope::Journal,
        }
    }

    /// How long the first entry of `bytes` is, its end included; `None` when there is no whole one.
    pub fn first(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Envelope::Lines | Envelope::Syslog => bytes.iter().position(|&byte| byte == b'\n').map(|at| at + 1),
            // No field is empty, and none has a line break in it: two in a row end an entry and nothing else.
            Envelope::Journal => bytes.windows(2).position(|pair| pair == b"\n\n").map(|at| at + 2),
        }
    }

    /// How many entries there are, the last perhaps broken.
    pub fn count(self, mut bytes: &[u8]) -> u64 {
        let mut count = 0;
        while !bytes.is_empty() {
            bytes = &bytes[self.first(bytes).unwrap_or(bytes.len())..];
            count += 1;
        }
        count
    }
}

/// Writes records and events.
#[derive(Debug)]
pub struct Pen {
    style: Style,
    stamp: Stamp,
    clock: LocalClock,
    /// `ringway[PID]: `
    tag: Vec<u8>,
    /// Ours, up to its first dot.
    host: Vec<u8>,
}

impl Pen {
    /// One that writes in `style`.
    pub fn new(style: Style) -> Self {
        let mut tag = NAME.to_vec();
        tag.push(b'[');
        decimal(&mut tag, std::process::id().into());
        tag.extend_from_slice(b"]: ");
        Self { style, stamp: Stamp::default(), clock: LocalClock::default(), tag, host: host() }
    }

    /// How it writes.
    pub fn style(&self) -> Style {
        self.style
    }

    /// Writes differently from now on.
    pub fn restyle(&mut self, style: Style) {
        self.style = style;
    }

    /// Appends a record of a session, if records are wanted. HAProxy knows none of a session that goes on.
    pub fn record(&mut self, out: &mut Vec<u8>, offset_ns: u64, record: &Record) {
        let Style { format, envelope, access } = self.style;
        if !access || format == LogFormat::Haproxy && record.ending.is_none() {
            return;
        }
        self.begin(out, record.made_ns.wrapping_add(offset_ns), LOCAL0, INFO);
        match syntax(format) {
            Some(syntax) => access_log::write(out, syntax, &mut self.stamp, offset_ns, record),
            None => {
                tcplog::write(out, &mut self.clock, offset_ns, record);
                out.push(b'\n');
            }
        }
        if envelope == Envelope::Journal {
            self.fields(out, INFO);
            access_log::write(out, Syntax::Journal, &mut self.stamp, offset_ns, record);
        }
    }

    /// Appends an event.
    pub fn event(&mut self, out: &mut Vec<u8>, event: &Event) {
        let severity = match event.level() {
            Level::Info => INFO,
            Level::Warn => 4,
            Level::Error => 3,
        };
        if self.style.envelope == Envelope::Journal {
            // Its message is MESSAGE.
            self.fields(out, severity);
            event.write(out, Syntax::Journal, &mut self.stamp);
            return;
        }
        self.begin(out, event.unix_ns(), DAEMON, severity);
        match syntax(self.style.format) {
            Some(syntax) => event.write(out, syntax, &mut self.stamp),
            None => {
                // The head has the time.
                let mut line = Line::begin(out, Syntax::Logfmt);
                event.tell(&mut line);
                line.end();
            }
        }
    }

    /// What stands before an entry.
    fn begin(&mut self, out: &mut Vec<u8>, unix_ns: u64, facility: u64, severity: u64) {
        match (self.style.envelope, self.style.format) {
            (Envelope::Lines, LogFormat::Json | LogFormat::Logfmt) => {}
            (Envelope::Lines, LogFormat::Haproxy) => {
                self.clock.syslog(out, unix_ns);
                out.push(b' ');
                out.extend_from_slice(&self.host);
                out.push(b' ');
                out.extend_from_slice(&self.tag);
            }
            (Envelope::Syslog, _) => {
                out.push(b'<');
                decimal(out, facility * 8 + severity);
                out.push(b'>');
                self.clock.syslog(out, unix_ns);
                out.push(b' ');
                out.extend_from_slice(&self.tag);
            }
            (Envelope::Journal, _) => out.extend_from_slice(b"MESSAGE="),
        }
    }

    /// The fields every journal entry has (systemd.journal-fields(7)).
    fn fields(&self, out: &mut Vec<u8>, severity: u64) {
        out.extend_from_slice(b"SYSLOG_IDENTIFIER=");
        out.extend_from_slice(NAME);
        out.extend_from_slice(b"\nPRIORITY=");
        decimal(out, severity);
        out.push(b'\n');
    }
}

/// The syntax of a format; HAProxy's has none.
fn syntax(format: LogFormat) -> Option<Syntax> {
    match format {
        LogFormat::Json => Some(Syntax::Json),
        LogFormat::Logfmt => Some(Syntax::Logfmt),
        LogFormat::Haproxy => None,
    }
}

/// Our host name up to its first dot, as syslog daemons write it; a name that could break a line is not used.
fn host() -> Vec<u8> {
    let name = nix::unistd::gethostname().unwrap_or_default().into_encoded_bytes();
    let short = name.split(|&byte| byte == b'.').next().unwrap_or_default();
    match !short.is_empty() && short.iter().all(u8::is_ascii_graphic) {
        true => short.to_vec(),
        false => b"localhost".to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::access_log::tests::record;

    const OFFSET_NS: u64 = 951_827_696_123_456_789 - 7_000_000_000;

    fn written(format: LogFormat, envelope: Envelope, say: impl FnOnce(&mut Pen, &mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        say(&mut Pen::new(Style { format, envelope, access: true }), &mut out);
        assert_eq!(envelope.first(&out), Some(out.len()).filter(|&n| n > 0), "one entry, and whole");
        String::from_utf8(out).expect("UTF-8")
    }

    fn of_record(format: LogFormat, envelope: Envelope) -> String {
        written(format, envelope, |pen, out| pen.record(out, OFFSET_NS, &record()))
    }

    fn of_event(format: LogFormat, envelope: Envelope) -> String {
        let event = Event::warn("reload", "no\n<0>Jan  1 00:00:00 forged: \"x\"\nPRIORITY=0\n\n").with("n", 4_u64);
        written(format, envelope, |pen, out| pen.event(out, &event))
    }

    #[test]
    fn haproxy_lines_begin_as_syslog_writes_them_to_a_file() {
        let tag = format!(" {} ringway[{}]: ", String::from_utf8_lossy(&host()), std::process::id());
        let line = of_record(LogFormat::Haproxy, Envelope::Lines);
        let (time, rest) = line.split_at(15);
        assert!(time.contains(':') && rest.starts_with(&tag), "{line}");
        assert!(rest[tag.len()..].starts_with("192.0.2.9:51234 ["), "{line}");
        let line = of_event(LogFormat::Haproxy, Envelope::Lines);
        assert!(line[15 + tag.len()..].starts_with("level=warn event=reload message=\"no\\n<0>Jan"), "{line}");
    }

    #[test]
    fn syslog_datagrams_carry_their_priority() {
        let tag = format!(" ringway[{}]: ", std::process::id());
        for (format, body) in
            [(LogFormat::Json, "{\"ts\":"), (LogFormat::Logfmt, "ts="), (LogFormat::Haproxy, "192.0.2.9:51234 [")]
        {
            let line = of_record(format, Envelope::Syslog);
            assert!(line.starts_with("<134>") && line[20..].starts_with(&(tag.clone() + body)), "{line}");
            let line = of_event(format, Envelope::Syslog);
            assert!(line.starts_with("<28>") && line.matches('\n').count() == 1, "{line}");
        }
    }

    #[test]
    fn journal_entries_have_a_field_for_each_key() {
        let entry = of_record(LogFormat::Haproxy, Envelope::Journal);
        let lines: Vec<&str> = entry.lines().collect();
        assert!(lines[0].starts_with("MESSAGE=192.0.2.9:51234 ["), "{entry}");
        for field in ["SYSLOG_IDENTIFIER=ringway", "PRIORITY=6", "SESSION=1-162", "SERVER=web2", "REASON=server_reset"]
        {
            assert!(lines.contains(&field), "{field} in {entry}");
        }
        assert!(!entry.contains("FIRST_BYTE_US"), "not known, not there: {entry}");
        let entry = of_event(LogFormat::Json, Envelope::Journal);
        assert!(
            entry.contains("\nMESSAGE=no\\n<0>Jan  1 00:00:00 forged: \"x\"\\nPRIORITY=0\\n\\n\nN=4\n\n"),
            "{entry}"
        );
        assert!(entry.contains("\nPRIORITY=4\n") && entry.contains("\nEVENT=reload\n"), "{entry}");
    }

    #[test]
    fn a_session_that_goes_on_is_nothing_haproxy_writes() {
        let mut running = record();
        running.ending = None;
        let text = |format, access| {
            let mut out = Vec::new();
            Pen::new(Style { format, envelope: Envelope::Lines, access }).record(&mut out, OFFSET_NS, &running);
            out
        };
        assert!(text(LogFormat::Haproxy, true).is_empty());
        assert!(text(LogFormat::Json, false).is_empty());
        assert!(!text(LogFormat::Json, true).is_empty());
    }

    #[test]
    fn entries_are_counted() {
        assert_eq!(Envelope::Lines.count(b"a\nb\nc"), 3);
        assert_eq!(Envelope::Journal.count(b"A=1\nB=2\n\nA=3\n\n"), 2);
        assert_eq!(Envelope::Syslog.count(b""), 0);
    }
}
