//! Typed readers over a spanned TOML document. A reader that finds something wrong complains and goes on, so that one
//! run shows everything.

use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::complaints::{At, Complaints, Located, did_you_mean, quote, short};
use super::keys::Keys;
use super::limits::{Count, Millis};
use super::value::{self, Fault};

/// A value of the document with its place.
pub(super) type Value<'d> = Spanned<DeValue<'d>>;

/// Reads values and gathers complaints.
pub(super) struct Reader<'e> {
    pub(super) complaints: Complaints,
    env: &'e dyn Fn(&str) -> Option<String>,
    /// Lines with a syntax error. What was recovered from them is a guess, and nobody is blamed for a guess.
    damaged: BTreeSet<usize>,
}

/// A table and how to speak of it.
pub(super) struct Section<'t, 'd> {
    /// `[pools.web]`, or `server "a" of pool "web"`.
    pub(super) called: String,
    pub(super) table: &'t DeTable<'d>,
    /// The table's header or braces.
    pub(super) at: At,
}

impl<'e> Reader<'e> {
    pub(super) fn new(complaints: Complaints, env: &'e dyn Fn(&str) -> Option<String>) -> Self {
        Self { complaints, env, damaged: BTreeSet::new() }
    }

    /// From here on nothing is said about the line `at` is on.
    pub(super) fn damage(&mut self, at: &At) {
        self.damaged.insert(self.complaints.line_of(at.start));
    }

    pub(super) fn is_damaged(&self, at: &At) -> bool {
        self.damaged.contains(&self.complaints.line_of(at.start))
    }

    /// Complains without help.
    pub(super) fn complain(&mut self, at: &At, message: impl Into<String>) {
        if !self.is_damaged(at) {
            self.complaints.add(at.clone(), message, None);
        }
    }

    /// Complains and says what to do.
    pub(super) fn advise(&mut self, at: &At, message: impl Into<String>, help: impl Into<String>) {
        if !self.is_damaged(at) {
            self.complaints.add(at.clone(), message, Some(help.into()));
        }
    }

    /// Passes a fault on with its place.
    pub(super) fn check<T>(&mut self, at: &At, result: Result<T, Fault>) -> Option<Located<T>> {
        match result {
            Ok(value) => Some(Located::new(value, at.clone())),
            Err(fault) => {
                if !self.is_damaged(at) {
                    self.complaints.add(at.clone(), fault.message, fault.help);
                }
                None
            }
        }
    }

    /// Refuses every key of `section` that does not work.
    pub(super) fn keys(&mut self, section: &Section<'_, '_>, keys: &Keys) {
        for (key, _) in section.table.iter() {
            let name: &str = key.get_ref();
            if keys.now.contains(&name) {
                continue;
            }
            if keys.later.contains(&name) {
                self.advise(
                    &key.span(),
                    format!("`{name}` is not supported yet"),
                    "take it out: nothing would heed it",
                );
                continue;
            }
            let message = format!("unknown key {} in {}", tick(name), section.called);
            match self.complaints.is_full() {
                true => self.complain(&key.span(), message),
                false => self.advise(&key.span(), message, keys.help_for(name)),
            }
        }
    }

    /// A table under `key`.
    pub(super) fn table<'t, 'd>(&mut self, parent: &Section<'t, 'd>, key: &str) -> Option<Section<'t, 'd>> {
        let (name, value) = parent.table.get_key_value(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Section { called: format!("[{key}]"), table, at: value.span() }),
            other => {
                let message = format!("`{key}` must be a table, found {}", kind(other));
                self.advise(&name.span(), message, format!("write [{key}] on a line of its own"));
                None
            }
        }
    }

    /// A string, with its variables expanded.
    pub(super) fn string(&mut self, key: &str, value: &Value<'_>) -> Option<Located<String>> {
        match value.get_ref() {
            DeValue::String(text) => {
                let expanded = value::expand(text, self.env);
                self.check(&value.span(), expanded)
            }
            other => {
                let message = format!("`{key}` must be a string, found {}", kind(other));
                let help = "put it into double quotes".to_owned();
                let scalar = matches!(other, DeValue::Integer(_) | DeValue::Float(_));
                match scalar {
                    true => self.advise(&value.span(), message, help),
                    false => self.complain(&value.span(), message),
                }
                None
            }
        }
    }

    /// A string, or a list of strings. `None` when the key is absent or no such thing.
    pub(super) fn strings(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        most: usize,
    ) -> Option<Vec<Located<String>>> {
        let value = section.table.get(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            return match value.get_ref() {
                DeValue::String(_) => self.string(key, value).map(|one| vec![one]),
                other => {
                    let message = format!("`{key}` must be a string or a list of strings, found {}", kind(other));
                    self.complain(&value.span(), message);
                    None
                }
            };
        };
        if items.len() > most {
            let message = format!("`{key}` has {} entries; most is {most}", items.len());
            self.complain(&value.span(), message);
            return None;
        }
        let read: Vec<_> = items.iter().map(|item| self.string(key, item)).collect();
        read.into_iter().collect()
    }

    /// One of the words `now`; those of `later` are refused by name.
    pub(super) fn choice<T: Copy>(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        now: &[(&'static str, T)],
        later: &[&'static str],
    ) -> Option<T> {
        let value = section.table.get(key)?;
        let words: Vec<&str> = now.iter().map(|(word, _)| *word).collect();
        if !matches!(value.get_ref(), DeValue::String(_)) {
            let message = format!("`{key}` must be a string, found {}", kind(value.get_ref()));
            self.advise(&value.span(), message, one_of(&words));
            return None;
        }
        let text = self.string(key, value)?;
        let found = now.iter().find(|(word, _)| *word == text.value);
        if found.is_none() {
            self.refuse_word(key, &text, &words, later);
        }
        found.map(|(_, value)| *value)
    }

    /// Says that `text` is none of the words.
    pub(super) fn refuse_word(&mut self, key: &str, text: &Located<String>, now: &[&str], later: &[&str]) {
        let use_one = one_of(now);
        if later.contains(&text.value.as_str()) {
            let message = format!("{key} {} is not supported yet", quote(&text.value));
            return self.advise(&text.at, message, use_one);
        }
        let near = did_you_mean(&text.value, now.iter().chain(later).copied());
        let help = near.map_or(use_one, |near| format!("did you mean \"{near}\"?"));
        self.advise(&text.at, format!("unknown {key} {}", quote(&text.value)), help);
    }

    /// A whole number within `limit`.
    pub(super) fn count(&mut self, section: &Section<'_, '_>, key: &str, limit: Count) -> Option<Located<u32>> {
        let value = section.table.get(key)?;
        let (at, wanted) = (value.span(), format!("a number from {} to {}", limit.least, grouped(limit.most)));
        let DeValue::Integer(number) = value.get_ref() else {
            let message = format!("`{key}` must be {wanted}, found {}", kind(value.get_ref()));
            match value.get_ref() {
                DeValue::String(text) if text.parse::<u32>().is_ok() => {
                    self.advise(&at, message, format!("write {text} without quotes"));
                }
                _ => self.complain(&at, message),
            }
            return None;
        };
        let read = i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| (limit.least..=limit.most).contains(n));
        if read.is_none() {
            let shown = short(&number.to_string());
            let message = format!("`{key}` is {shown}; it must be {wanted}");
            match limit.instead_of_zero.filter(|_| shown == "0") {
                Some(help) => self.advise(&at, message, help),
                None => self.complain(&at, message),
            }
        }
        read.map(|n| Located::new(n, at))
    }

    /// A duration within `limit`, in milliseconds.
    pub(super) fn duration(&mut self, section: &Section<'_, '_>, key: &str, limit: &Millis) -> Option<Located<u32>> {
        let value = section.table.get(key)?;
        let at = value.span();
        if let DeValue::Integer(number) = value.get_ref() {
            let shown = short(&number.to_string());
            let help = match u32::from_str_radix(number.as_str(), number.radix()) {
                Ok(0) => "write \"0s\"".to_owned(),
                Ok(n) => format!("write \"{n}s\" for seconds, or \"{n}ms\" for milliseconds"),
                Err(_) => "write a string with a unit, like \"1500ms\" or \"5m\"".to_owned(),
            };
            self.advise(&at, format!("`{key}` is {shown}, a duration without a unit"), help);
            return None;
        }
        if !matches!(value.get_ref(), DeValue::String(_)) {
            let message = format!("`{key}` must be a duration, found {}", kind(value.get_ref()));
            self.advise(&at, message, "write a string with a unit, like \"1500ms\" or \"5m\"");
            return None;
        }
        let text = self.string(key, value)?;
        let ms = self.check(&at, value::duration(&text.value))?.value;
        let allowed = (u64::from(limit.least)..=u64::from(limit.most)).contains(&ms);
        match u32::try_from(ms) {
            Ok(ms) if allowed || (ms == 0 && limit.zero.is_some()) => Some(Located::new(ms, at)),
            _ => {
                self.complain(&at, format!("`{key}` is {}; {}", quote(&text.value), range(limit)));
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, section: &Section<'_, '_>, key: &str) -> Option<bool> {
        let value = section.table.get(key)?;
        match value.get_ref() {
            DeValue::Boolean(truth) => Some(*truth),
            other => {
                let message = format!("`{key}` must be true or false, found {}", kind(other));
                let quoted = matches!(other, DeValue::String(text) if text == "true" || text == "false");
                match quoted {
                    true => self.advise(&value.span(), message, "leave the quotes out"),
                    false => self.complain(&value.span(), message),
                }
                None
            }
        }
    }
}

/// What to write where only these words are right.
fn one_of(words: &[&str]) -> String {
    match words {
        [only] => format!("write \"{only}\""),
        _ => format!("write one of \"{}\"", words.join("\", \"")),
    }
}

/// A number the way TOML lets one write it: `10_000_000`.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('_');
        }
        out.push(digit);
    }
    out
}

/// What `limit` allows, in words.
fn range(limit: &Millis) -> String {
    let [least, most] = [limit.least, limit.most].map(|ms| value::duration_text(ms.into()));
    match limit.zero {
        Some(meaning) => format!("it must be from {least} to {most}, or 0s ({meaning})"),
        None => format!("it must be from {least} to {most}"),
    }
}

/// A key in backticks, short and harmless.
pub(super) fn tick(key: &str) -> String {
    format!("`{}`", short(key))
}

/// What kind of value this is, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
