//! One line of the log, written into a buffer that is used again and again: no allocation per line.
//!
//! Most of a line is keys, and most values are short. What writes them is inlined, so that their lengths are known where they
//! are copied; that more than halves the time a line takes.
//!
//! Whatever a value contains, it stays on its line and inside its quotes: control characters (those of Unicode too, and
//! its line separators) are escaped in both formats, so nobody can forge a record or paint an operator's terminal.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};

/// How keys and values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// A JSON object.
    Json,
    /// `key=value` pairs with blanks between them.
    Logfmt,
    /// Fields of a journal entry: `KEY=value`, one a line, and an empty line behind the last. Values are shown as they
    /// are, but for control characters and the backslash that escapes them.
    Journal,
}

/// A line under construction at the end of `out`.
#[derive(Debug)]
pub struct Line<'a> {
    out: &'a mut Vec<u8>,
    syntax: Syntax,
    first: bool,
}

impl<'a> Line<'a> {
    /// Begins a line.
    #[inline]
    pub fn begin(out: &'a mut Vec<u8>, syntax: Syntax) -> Self {
        if syntax == Syntax::Json {
            out.push(b'{');
        }
        Self { out, syntax, first: true }
    }

    /// Ends it. A line that is dropped instead has no end.
    #[inline]
    pub fn end(self) {
        let end: &[u8] = match self.syntax {
            Syntax::Json => b"}\n",
            Syntax::Logfmt => b"\n",
            Syntax::Journal => b"\n\n",
        };
        self.out.extend_from_slice(end);
    }

    #[inline(always)]
    fn key(&mut self, key: &str) {
        let first = std::mem::replace(&mut self.first, false);
        match self.syntax {
            Syntax::Json => {
                self.out.extend_from_slice(if first { b"\"" } else { b",\"" });
                self.out.extend_from_slice(key.as_bytes());
                self.out.extend_from_slice(b"\":");
            }
            Syntax::Logfmt => {
                if !first {
                    self.out.push(b' ');
                }
                self.out.extend_from_slice(key.as_bytes());
                self.out.push(b'=');
            }
            Syntax::Journal => {
                if !first {
                    self.out.push(b'\n');
                }
                self.out.extend(key.bytes().map(|byte| byte.to_ascii_uppercase()));
                self.out.push(b'=');
            }
        }
    }

    /// A text.
    #[inline(always)]
    pub fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        match self.syntax {
            Syntax::Json => quoted(self.out, value),
            Syntax::Logfmt if is_bare(value) => self.out.extend_from_slice(value.as_bytes()),
            Syntax::Logfmt => quoted(self.out, value),
            Syntax::Journal => value.chars().for_each(|c| match c {
                '"' => self.out.push(b'"'),
                c => escaped(self.out, c),
            }),
        }
    }

    /// A text that needs no look: no quotes, blanks, equals signs or anything beyond printable ASCII.
    #[inline(always)]
    pub fn word(&mut self, key: &str, value: &[u8]) {
        debug_assert!(value.iter().all(|&byte| is_plain(byte)), "{value:?}");
        self.key(key);
        self.quote();
        self.out.extend_from_slice(value);
        self.quote();
    }

    /// A number.
    #[inline(always)]
    pub fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        decimal(self.out, value);
    }

    /// True or false.
    pub fn flag(&mut self, key: &str, value: bool) {
        self.key(key);
        let word: &[u8] = if value { b"true" } else { b"false" };
        self.out.extend_from_slice(word);
    }

    /// A value that is not there: `null`, or `-`; the journal does not get the field.
    #[inline(always)]
    pub fn absent(&mut self, key: &str) {
        let word: &[u8] = match self.syntax {
            Syntax::Json => b"null",
            Syntax::Logfmt => b"-",
            Syntax::Journal => return,
        };
        self.key(key);
        self.out.extend_from_slice(word);
    }

    /// A number that may not be there.
    #[inline(always)]
    pub fn number_if(&mut self, key: &str, value: Option<u64>) {
        match value {
            Some(value) => self.number(key, value),
            None => self.absent(key),
        }
    }

    /// Two numbers with a dash between them: the id of a session, by worker and count.
    #[inline(always)]
    pub fn pair(&mut self, key: &str, a: u64, b: u64) {
        self.key(key);
        self.quote();
        decimal(self.out, a);
        self.out.push(b'-');
        decimal(self.out, b);
        self.quote();
    }

    /// An address with its port.
    #[inline(always)]
    pub fn address(&mut self, key: &str, address: SocketAddr) {
        self.key(key);
        self.quote();
        match address {
            SocketAddr::V4(v4) => {
                ipv4(self.out, *v4.ip());
                self.out.push(b':');
                decimal(self.out, u64::from(v4.port()));
            }
            // Writing to a Vec cannot fail.
            SocketAddr::V6(_) => drop(write!(self.out, "{address}")),
        }
        self.quote();
    }

    #[inline(always)]
    fn quote(&mut self) {
        if self.syntax == Syntax::Json {
            self.out.push(b'"');
        }
    }
}

/// Bytes that stand for themselves, quoted or bare.
fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e) && !matches!(byte, b'"' | b'\\' | b'=')
}

fn is_bare(value: &str) -> bool {
    !value.is_empty() && value != "-" && value.bytes().all(is_plain)
}

/// A JSON string; the same escapes serve logfmt.
fn quoted(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    let harmless = |byte: u8| matches!(byte, 0x20..=0x7e) && byte != b'"' && byte != b'\\';
    if value.bytes().all(harmless) {
        out.extend_from_slice(value.as_bytes());
    } else {
        value.chars().for_each(|c| escaped(out, c));
    }
    out.push(b'"');
}

fn escaped(out: &mut Vec<u8>, c: char) {
    match c {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        // Unicode's own line breaks, and the marks that turn the reading direction.
        '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            drop(write!(out, "\\u{:04x}", u32::from(c)));
        }
        c if c.is_control() => drop(write!(out, "\\u{:04x}", u32::from(c))),
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// Appends the four numbers of an address.
pub fn ipv4(out: &mut Vec<u8>, ip: Ipv4Addr) {
    for (i, octet) in ip.octets().into_iter().enumerate() {
        if i > 0 {
            out.push(b'.');
        }
        decimal(out, u64::from(octet));
    }
}

/// Appends `value` in decimal; std's formatting machinery costs several times as much.
#[inline]
pub fn decimal(out: &mut Vec<u8>, value: u64) {
    if value < 10 {
        out.push(b'0' + value as u8);
    } else {
        long_decimal(out, value);
    }
}

/// Makes room for the longest number, which is a copy of a length known beforehand, and gives back what was too much.
fn long_decimal(out: &mut Vec<u8>, value: u64) {
    let (begin, length) = (out.len(), value.ilog10() as usize + 1);
    out.extend_from_slice(&[b'0'; 20]);
    digits(&mut out[begin..begin + length], value);
    out.truncate(begin + length);
}

/// Writes times as RFC 3339 in UTC with microseconds, and remembers the second it wrote last.
#[derive(Debug)]
pub struct Stamp {
    second: u64,
    /// `2026-11-20T12:34:56.123456Z`
    text: [u8; 27],
}

impl Default for Stamp {
    fn default() -> Self {
        Self { second: 0, text: *b"1970-01-01T00:00:00.000000Z" }
    }
}

impl Stamp {
    /// The text of a time in nanoseconds since 1970.
    #[inline(always)]
    pub fn text(&mut self, unix_ns: u64) -> &[u8] {
        let second = unix_ns / 1_000_000_000;
        if second != self.second {
            self.second = second;
            self.write_second();
        }
        digits(&mut self.text[20..26], unix_ns % 1_000_000_000 / 1_000);
        &self.text
    }

    fn write_second(&mut self) {
        let (year, month, day) = civil(self.second / 86_400);
        let clock = self.second % 86_400;
        digits(&mut self.text[0..4], year);
        digits(&mut self.text[5..7], month);
        digits(&mut self.text[8..10], day);
        digits(&mut self.text[11..13], clock / 3_600);
        digits(&mut self.text[14..16], clock / 60 % 60);
        digits(&mut self.text[17..19], clock % 60);
    }
}

/// Fills `at` with the last digits of `value`.
pub fn digits(at: &mut [u8], mut value: u64) {
    for digit in at.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month and day of a number of days since 1970-01-01, by counting in 400-year eras that begin on 1 March of a year
/// divisible by 400, so that the leap day is the last day of a year (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
pub fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(syntax: Syntax, value: &str) -> String {
        let mut out = Vec::new();
        let mut line = Line::begin(&mut out, syntax);
        line.text("a", value);
        line.number("n", 7);
        line.end();
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn values_cannot_leave_their_quotes_or_their_line() {
        let nasty = "a\"b\\c\nd\re\tf\u{1b}[31m\u{9b}g\u{2028}h\u{202e}é \u{0}";
        assert_eq!(
            line(Syntax::Json, nasty),
            concat!(r#"{"a":"a\"b\\c\nd\re\tf\u001b[31m\u009bg\u2028h\u202eé \u0000","n":7}"#, "\n")
        );
        assert_eq!(line(Syntax::Logfmt, "two words\n"), "a=\"two words\\n\" n=7\n");
        assert_eq!(line(Syntax::Logfmt, ""), "a=\"\" n=7\n");
        assert_eq!(line(Syntax::Logfmt, "-"), "a=\"-\" n=7\n");
        assert_eq!(line(Syntax::Logfmt, "x=y"), "a=\"x=y\" n=7\n");
        assert_eq!(line(Syntax::Logfmt, "10.0.0.1:80"), "a=10.0.0.1:80 n=7\n");
        assert_eq!(
            line(Syntax::Journal, "a \"b\"\\\nPRIORITY=0\u{1b}é"),
            "A=a \"b\"\\\\\\nPRIORITY=0\\u001bé\nN=7\n\n"
        );
    }

    proptest! {
        #[test]
        fn every_text_reads_back_as_it_was(value in any::<String>()) {
            let json = line(Syntax::Json, &value);
            prop_assert_eq!(json.matches('\n').count(), 1);
            prop_assert!(!json.trim_end_matches('\n').chars().any(char::is_control));
            let read: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            prop_assert_eq!(read["a"].as_str(), Some(value.as_str()));
            let logfmt = line(Syntax::Logfmt, &value);
            prop_assert_eq!(logfmt.matches('\n').count(), 1);
            let journal = line(Syntax::Journal, &value);
            prop_assert_eq!(journal.matches('\n').count(), 3);
            prop_assert!(journal.ends_with("\nN=7\n\n"));
        }

        #[test]
        fn numbers_are_written_as_std_writes_them(value in any::<u64>()) {
            let mut out = Vec::new();
            decimal(&mut out, value);
            prop_assert_eq!(String::from_utf8(out).expect("ASCII"), value.to_string());
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        let mut stamp = Stamp::default();
        let table = [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_827_696_123_456_789, "2000-02-29T12:34:56.123456Z"),
            (951_868_800_000_000_000, "2000-03-01T00:00:00.000000Z"),
            (1_735_689_599_999_999_999, "2024-12-31T23:59:59.999999Z"),
            (1_735_689_600_000_001_000, "2025-01-01T00:00:00.000001Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000Z"),
        ];
        for (unix_ns, expected) in table {
            assert_eq!(stamp.text(unix_ns), expected.as_bytes());
        }
    }
}
