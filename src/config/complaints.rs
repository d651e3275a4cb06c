//! What is wrong with a file, all at once: where, what, and what to do.
//!
//! A complaint shows as three parts:
//!
//! ```text
//! ringway.toml:12:9: unknown key `polcy` in [pools.web]
//!    12 | polcy = "round-robin"
//!       | ^^^^^
//!   help: did you mean `policy`?
//! ```

use std::fmt;
use std::ops::Range;

use super::limits::COMPLAINTS_MAX;

/// Where something stands in the text, in bytes.
pub type At = Range<usize>;

/// A value with the place it was read from.
#[derive(Clone, Debug)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub at: At,
}

impl<T> Located<T> {
    /// Joins the two.
    pub fn new(value: T, at: At) -> Self {
        Self { value, at }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    at: At,
    message: String,
    help: Option<String>,
}

/// All that is wrong with a file, or with one and another that is laid over it: the offsets of the second then begin behind
/// those of the first. [`fmt::Display`] renders every complaint, in the order of the files.
#[derive(Clone, Debug)]
pub struct Complaints {
    /// Never empty.
    texts: Vec<Text>,
    list: Vec<Complaint>,
    omitted: usize,
}

/// A file that is complained of.
#[derive(Clone, Debug)]
struct Text {
    file: String,
    text: String,
    /// Byte offsets at which lines begin.
    lines: Vec<usize>,
    /// The offset of its first byte among those of all.
    begin: usize,
}

impl Text {
    fn new(file: &str, text: &str, begin: usize) -> Self {
        let mut lines = vec![0];
        lines.extend(text.match_indices('\n').map(|(at, _)| at + 1));
        Self { file: file.to_owned(), text: text.to_owned(), lines, begin }
    }

    /// The line `offset` of this text is on, from 1.
    fn line_of(&self, offset: usize) -> usize {
        self.lines.partition_point(|&start| start <= offset)
    }

    /// The text of line `number` (from 1), without its line break.
    fn line(&self, number: usize) -> &str {
        let start = self.lines.get(number - 1).copied().unwrap_or(0);
        let end = self.lines.get(number).copied().unwrap_or(self.text.len());
        self.text[start..end].trim_end_matches(['\n', '\r'])
    }

    /// Line and column, both from 1; a column is a character.
    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.line_of(offset);
        let start = self.lines[line - 1];
        (line, self.text[start..offset].chars().count() + 1)
    }
}

/// Columns of a source line that are shown; a longer line is cut around the caret.
const COLUMNS_SHOWN: usize = 96;
/// Columns kept before the caret when a line is cut.
const COLUMNS_BEFORE: usize = 40;
/// Characters of the user's own words that are repeated in a message.
const CHARS_QUOTED: usize = 64;
/// Columns a tab is shown as.
const TAB_COLUMNS: usize = 4;

impl Complaints {
    /// None yet, about `text`, which came from `file`.
    pub(super) fn new(file: &str, text: &str) -> Self {
        Self { texts: vec![Text::new(file, text, 0)], list: Vec::new(), omitted: 0 }
    }

    /// About `text` from `file`, too. Its offsets begin at what [`Complaints::end`] was before.
    pub(super) fn and(mut self, file: &str, text: &str) -> Self {
        self.texts.push(Text::new(file, text, self.end()));
        self
    }

    /// The first offset behind all texts.
    pub(super) fn end(&self) -> usize {
        // A place at the very end of a text is still one of it.
        self.texts.last().map_or(0, |last| last.begin + last.text.len() + 1)
    }

    /// The text `offset` is in.
    fn home(&self, offset: usize) -> &Text {
        let index = self.texts.partition_point(|text| text.begin <= offset).saturating_sub(1);
        &self.texts[index]
    }

    /// Adds one; beyond [`COMPLAINTS_MAX`] it is only counted.
    pub(super) fn add(&mut self, at: At, message: impl Into<String>, help: Option<String>) {
        if self.list.len() == COMPLAINTS_MAX {
            self.omitted += 1;
            return;
        }
        let home = self.home(at.start);
        let floor = |offset: usize| home.begin + floor_boundary(&home.text, offset.saturating_sub(home.begin));
        let start = floor(at.start);
        let end = floor(at.end).max(start);
        // Either may have parts of the file in it.
        let harmless = |text: String| text.chars().map(printable).collect();
        let (message, help) = (harmless(message.into()), help.map(harmless));
        self.list.push(Complaint { at: start..end, message, help });
    }

    /// Sorts by position and drops what was said twice.
    pub(super) fn finish(mut self) -> Self {
        self.list.sort_by_key(|complaint| (complaint.at.start, complaint.at.end));
        self.list.dedup();
        self
    }

    /// How many there are, those beyond the limit included.
    pub fn len(&self) -> usize {
        self.list.len() + self.omitted
    }

    /// Whether the file is fine.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether more would only be counted.
    pub(super) fn is_full(&self) -> bool {
        self.list.len() == COMPLAINTS_MAX
    }

    /// One line each, without the source: for logs and answers of the admin server.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.list.iter().map(|complaint| {
            let home = self.home(complaint.at.start);
            let (line, column) = home.position(complaint.at.start - home.begin);
            let help = complaint.help.as_deref();
            let join = if help.is_some() { "; " } else { "" };
            format!("{}:{line}:{column}: {}{join}{}", home.file, complaint.message, help.unwrap_or(""))
        })
    }

    /// What is wrong, without where: for somebody who asked for something that is in no file.
    pub(super) fn messages(&self) -> String {
        let messages: Vec<&str> = self.list.iter().map(|complaint| complaint.message.as_str()).collect();
        messages.join("; ")
    }

    /// The line `offset` is on in its text, from 1.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        let home = self.home(offset);
        home.line_of(offset - home.begin)
    }

    fn render(&self, complaint: &Complaint, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let home = self.home(complaint.at.start);
        let at = complaint.at.start - home.begin..complaint.at.end - home.begin;
        let (line, column) = home.position(at.start);
        writeln!(f, "{}:{line}:{column}: {}", home.file, complaint.message)?;
        let start = home.lines[line - 1];
        let source = home.line(line);
        let from = (at.start - start).min(source.len());
        let to = (at.end - start).clamp(from, source.len());
        let (shown, before, under) = excerpt(source, from..to);
        writeln!(f, "{line:>5} | {shown}")?;
        let (pad, carets) = (" ".repeat(before), "^".repeat(under.max(1)));
        writeln!(f, "      | {pad}{carets}")?;
        if let Some(help) = &complaint.help {
            writeln!(f, "  help: {help}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for complaint in &self.list {
            self.render(complaint, f)?;
        }
        match self.omitted {
            0 => Ok(()),
            n => writeln!(f, "{}: and {n} more", self.texts[0].file),
        }
    }
}

impl std::error::Error for Complaints {}

/// What the user wrote, on one line, harmless to a terminal, and cut where it grows long.
pub(super) fn short(text: &str) -> String {
    let mut shown: String = text.chars().take(CHARS_QUOTED).map(printable).collect();
    if text.chars().nth(CHARS_QUOTED).is_some() {
        shown.push('…');
    }
    shown
}

/// The same in double quotes.
pub(super) fn quote(text: &str) -> String {
    format!("\"{}\"", short(text))
}

/// What HAProxy, nginx and older MySQL call it, in lower case with `_`; and what it is called here.
const OTHER_WORDS: [(&str, &str); 26] = [
    ("backend", "pool"),
    ("backend", "pools"),
    ("backends", "pools"),
    ("balance", "policy"),
    ("default_backend", "pool"),
    ("fastinter", "fast_interval"),
    ("frontend", "listeners"),
    ("frontends", "listeners"),
    ("inter", "interval"),
    ("ip_hash", "source-hash"),
    ("least_conn", "least-connections"),
    ("leastconn", "least-connections"),
    ("master", "primary"),
    ("max_conns", "max_connections"),
    ("maxconn", "max_connections"),
    ("nbthread", "workers"),
    ("password", "password_file"),
    ("proxy_connect_timeout", "connect_timeout"),
    ("proxy_pass", "pool"),
    ("proxy_timeout", "idle_timeout"),
    ("random", "random-two"),
    ("retries", "connect_attempts"),
    ("slave", "replica"),
    ("source", "source-hash"),
    ("upstream", "pools"),
    ("worker_processes", "workers"),
];

/// The candidate that `wrong` was probably meant to be.
pub(super) fn did_you_mean<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if wrong.len() > 64 {
        return None;
    }
    let folded = wrong.to_ascii_lowercase().replace('-', "_");
    let candidates: Vec<&str> = candidates.into_iter().collect();
    let is_other_word = |candidate: &&&str| OTHER_WORDS.contains(&(folded.as_str(), **candidate));
    if let Some(same) = candidates.iter().find(is_other_word) {
        return Some(same);
    }
    candidates
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(wrong.len()) <= candidate.len().max(3) / 3)
        .map(|candidate| {
            let other = candidate.to_ascii_lowercase().replace('-', "_");
            let steps = strsim::damerau_levenshtein(&folded, &other);
            // One keystroke in three may be wrong; a word that grew (`timeout` for `idle_timeout`) is no typing error.
            (steps, steps <= other.chars().count().max(3) / 3, candidate)
        })
        .filter(|(_, near, _)| *near)
        .min_by_key(|(steps, _, _)| *steps)
        .map(|(_, _, candidate)| candidate)
}

fn floor_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// Control and direction characters could rewrite the terminal; they are shown as U+FFFD.
fn printable(c: char) -> char {
    match c {
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

/// Columns a character takes in a terminal: the common cases of Unicode's East Asian Width.
fn columns(c: char) -> usize {
    match c {
        '\t' => TAB_COLUMNS,
        '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// The part of `source` to show, the columns before the mark in it, and the columns the mark covers.
fn excerpt(source: &str, mark: Range<usize>) -> (String, usize, usize) {
    let width = |text: &str| -> usize { text.chars().map(columns).sum() };
    let start = width(&source[..mark.start]);
    let skip = match width(source) > COLUMNS_SHOWN && start > COLUMNS_SHOWN - COLUMNS_BEFORE {
        true => start - COLUMNS_BEFORE,
        false => 0,
    };
    let (mut shown, mut passed, mut used) = (String::new(), 0, 0);
    let (mut before, mut under) = (0, 0);
    if skip > 0 {
        shown.push('…');
        (before, used) = (1, 1);
    }
    for (at, c) in source.char_indices() {
        let wide = columns(c);
        passed += wide;
        if passed <= skip {
            continue;
        }
        if used + wide > COLUMNS_SHOWN {
            shown.push('…');
            break;
        }
        used += wide;
        match c {
            '\t' => shown.push_str(&" ".repeat(TAB_COLUMNS)),
            c => shown.push(printable(c)),
        }
        if at < mark.start {
            before += wide;
        } else if at < mark.end {
            under += wide;
        }
    }
    (shown, before, under)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(text: &str, at: At) -> String {
        let mut complaints = Complaints::new("f", text);
        complaints.add(at, "m", None);
        complaints.finish().to_string()
    }

    #[test]
    fn the_caret_stands_under_the_value() {
        assert_eq!(about("a = 1\n", 4..5), "f:1:5: m\n    1 | a = 1\n      |     ^\n");
        assert_eq!(about("x\r\n\ta = 1\r\n", 8..9), "f:2:6: m\n    2 |     a = 1\n      |         ^\n");
        assert_eq!(about("é = 日本 # c", 5..11), "f:1:5: m\n    1 | é = 日本 # c\n      |     ^^^^\n");
        assert_eq!(about("", 0..0), "f:1:1: m\n    1 | \n      | ^\n");
    }

    #[test]
    fn offsets_outside_the_text_or_inside_a_character_are_harmless() {
        assert!(about("日本", 1..900).starts_with("f:1:1: m"));
        assert!(about("a\n", At { start: 5, end: 3 }).starts_with("f:2:1: m"));
        assert!(about("a = \"\u{1b}[31m\"", 4..6).contains("\"\u{fffd}[31m\""));
        let mut complaints = Complaints::new("f", "a = 1");
        complaints.add(0..1, "no\u{6}", Some("write \u{202e}\n".into()));
        assert_eq!(complaints.finish().lines().next().as_deref(), Some("f:1:1: no\u{fffd}; write \u{fffd}\u{fffd}"));
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let line = format!("a = [{}, 7, {}]", "1, ".repeat(500), "2, ".repeat(500));
        let at = line.find('7').expect("it is there");
        let shown = about(&line, at..at + 1);
        let rows: Vec<&str> = shown.lines().collect();
        assert!(rows[1].chars().count() < 110 && rows[1].contains('…'));
        let caret = rows[2].chars().position(|c| c == '^').expect("a caret");
        assert_eq!(rows[1].chars().nth(caret), Some('7'));
    }

    #[test]
    fn they_come_in_the_order_of_the_file_and_the_rest_is_counted() {
        let text = "a\n".repeat(300);
        let mut complaints = Complaints::new("f", &text);
        for line in (0..300).rev() {
            complaints.add(line * 2..line * 2 + 1, "m", Some("h".into()));
        }
        let complaints = complaints.finish();
        assert_eq!(complaints.len(), 300);
        assert!(complaints.to_string().ends_with("f: and 100 more\n"));
        assert_eq!(complaints.lines().next().as_deref(), Some("f:101:1: m; h"));
    }

    #[test]
    fn near_words_are_offered_and_far_ones_are_not() {
        assert_eq!(did_you_mean("polcy", ["pool", "policy"]), Some("policy"));
        assert_eq!(did_you_mean("io-uring", ["auto", "io_uring"]), Some("io_uring"));
        assert_eq!(did_you_mean("colour", ["pool", "policy"]), None);
        assert_eq!(did_you_mean("balance", ["pool", "policy"]), Some("policy"), "as HAProxy has it");
        assert_eq!(did_you_mean("balance", ["pool"]), None);
    }
}
