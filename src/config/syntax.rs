//! Complaints about TOML itself, in words an operator knows, and as many at once as can be told apart.
//!
//! The parser recovers from most faults. One kind it stops at: a line without `=`. Such a line is turned into a comment
//! and the parser asked again, a few times over.

use std::borrow::Cow;

use toml::de::{DeTable, Error};

use super::complaints::{At, quote, short};
use super::read::{Reader, tick};

/// Most times the parser is asked again.
const ROUNDS_MAX: usize = 10;
/// A line the parser stops at.
const STOP: &str = "key with no value";
/// Faults that leave the rest of the document as it was meant; after any other the tables may be mixed up.
const LOCAL: [&str; 8] = [
    STOP,
    "duplicate key",
    "string values must be quoted",
    "invalid boolean",
    "invalid integer",
    "invalid float",
    "invalid datetime",
    "missing escaped value",
];
/// Faults of a value that was meant to be a string.
const UNQUOTED: [&str; 5] =
    ["string values must be quoted", "invalid boolean", "invalid integer", "invalid float", "invalid datetime"];

/// Complains of each line the parser does not understand, once. Gives the text that can be read on, with every place as
/// it was; `None` when nothing in it can be trusted.
pub(super) fn check<'t>(reader: &mut Reader<'_>, text: &'t str) -> Option<Cow<'t, str>> {
    let mut readable = Cow::Borrowed(text);
    let mut errors = DeTable::parse_recoverable(&readable).1;
    for _ in 0..ROUNDS_MAX {
        let stops: Vec<At> = errors.iter().filter(|error| error.message().starts_with(STOP)).map(place).collect();
        if stops.is_empty() {
            break;
        }
        for at in stops {
            if !reader.is_damaged(&at) {
                comment_out(readable.to_mut(), at.start);
            }
            complain(reader, text, &at, STOP);
        }
        errors = DeTable::parse_recoverable(&readable).1;
    }
    let trusted = |error: &Error| LOCAL.iter().any(|local| error.message().starts_with(local));
    let mut shown = Shown::default();
    for error in &errors {
        let at = place(error);
        if !shown.is_echo(text, error.message(), &at) {
            complain(reader, text, &at, error.message());
        }
    }
    errors.iter().all(trusted).then_some(readable)
}

fn place(error: &Error) -> At {
    error.span().unwrap_or(0..0)
}

/// Makes a comment of the line `offset` is on, byte for byte.
fn comment_out(text: &mut String, offset: usize) {
    let offset = offset.min(text.len());
    let start = text.as_bytes()[..offset].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let length = text.as_bytes()[start..].iter().position(|&b| b == b'\n');
    let end = length.map_or(text.len(), |length| start + length);
    text.replace_range(start..end, &"#".repeat(end - start));
}

/// What was complained of so far that other errors may only repeat.
#[derive(Default)]
struct Shown {
    /// A list or inline table that is never closed swallows all that follows.
    unclosed: bool,
    /// Where the last table that was given twice ends: up to there its keys are given twice, too.
    twice_until: usize,
}

impl Shown {
    fn is_echo(&mut self, text: &str, message: &str, at: &At) -> bool {
        if message.contains("array") || message.contains("inline table") {
            return std::mem::replace(&mut self.unclosed, true);
        }
        if !message.starts_with("duplicate key") {
            return self.unclosed;
        }
        if at.start < self.twice_until {
            return true;
        }
        if let Some((start, line)) = line_around(text, at.start).filter(|(_, line)| is_header(line)) {
            let below = start + line.len();
            let next = text[below..].match_indices('\n').find(|(at, _)| is_header(&text[below + at + 1..]));
            self.twice_until = next.map_or(text.len(), |(at, _)| below + at + 1);
        }
        false
    }
}

fn is_header(line: &str) -> bool {
    line.trim_start_matches([' ', '\t']).starts_with('[')
}

/// The line `offset` is on, and where it starts.
fn line_around(text: &str, offset: usize) -> Option<(usize, &str)> {
    let start = text.get(..offset)?.rfind('\n').map_or(0, |at| at + 1);
    Some((start, text.get(start..)?.lines().next().unwrap_or("")))
}

/// Complains unless something was said about the line already; from then on nothing is.
fn complain(reader: &mut Reader<'_>, text: &str, at: &At, message: &str) {
    if reader.is_damaged(at) {
        return;
    }
    if reader.complaints.is_full() {
        // It is only counted; finding the words would cost a search of the file each.
        reader.complain(at, message);
    } else if message.starts_with("duplicate key") {
        duplicate(reader, text, at);
    } else if UNQUOTED.iter().any(|known| message.starts_with(known)) {
        unquoted(reader, text, at);
    } else if message.starts_with(STOP) {
        reader.advise(at, "a key without a value", "write KEY = VALUE, a [table], or a # comment");
    } else if message.contains("array") || message.contains("inline table") {
        reader.advise(at, format!("TOML: {message}"), "is the list or table that begins before this closed?");
    } else {
        reader.complain(at, format!("TOML: {message}"));
    }
    reader.damage(at);
}

fn duplicate(reader: &mut Reader<'_>, text: &str, at: &At) {
    let Some((start, line)) = line_around(text, at.start) else {
        return;
    };
    let before: Vec<&str> = text.get(..start).unwrap_or("").lines().collect();
    let found = text.get(at.clone()).unwrap_or("");
    let (what, first) = if is_header(line) {
        let header = line.trim().split_inclusive(']').next().unwrap_or(line);
        let first = before.iter().position(|line| line.trim_start().starts_with(header));
        (format!("table {}", short(header)), first)
    } else {
        let gives = |line: &&str| {
            let rest = line.trim_start().strip_prefix(found).unwrap_or("");
            rest.trim_start().starts_with('=')
        };
        let section = before.iter().rposition(|line| is_header(line)).unwrap_or(0);
        let first = before[section.min(before.len())..].iter().position(gives);
        (format!("key {}", tick(found)), first.map(|line| line + section))
    };
    let help = match first {
        Some(index) => format!("the first is on line {}; keep one of them", index + 1),
        None => "keep one of them".to_owned(),
    };
    reader.advise(at, format!("{what} is given twice"), help);
}

/// A word where a value should stand; most often a string without its quotes.
fn unquoted(reader: &mut Reader<'_>, text: &str, at: &At) {
    let Some((start, line)) = line_around(text, at.start) else {
        return;
    };
    let edge = |c: char| c.is_whitespace() || "=,[]{}#\"'".contains(c);
    let offset = (at.start - start).min(line.len());
    let (left, right) = (line.get(..offset).unwrap_or(""), line.get(offset..).unwrap_or(""));
    let from = start + left.rfind(edge).map_or(0, |edge| edge + left[edge..].chars().next().map_or(1, char::len_utf8));
    let to = start + offset + right.find(edge).unwrap_or(right.len());
    let word = text.get(from..to).unwrap_or("");
    if word.is_empty() {
        return reader.complain(at, "a value is missing here");
    }
    let quoted = quote(word);
    let message = format!("{} is no number, no boolean and not in quotes", short(word));
    reader.advise(&(from..to), message, format!("write {quoted}"));
}
