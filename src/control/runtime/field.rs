//! A field of a row in each of the formats: as CSV, typed, and as JSON (HAProxy's management manual, §9.1 to §9.3).

use std::fmt::Write;

/// How rows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Format {
    /// `show stat` as CSV, `show info` as `name: value`.
    #[default]
    Plain,
    /// A line a field, with its type and nature.
    Typed,
    /// One JSON array.
    Json,
}

/// What a field is called, and what kind of thing it is: one letter each for origin, nature and scope.
pub(super) type Field = (&'static str, &'static str);

/// What stands in a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing: it does not apply, or is not known.
    #[default]
    Empty,
    /// Text.
    Text(String),
    /// A number of 32 bits; larger ones count as the largest.
    Number(u64),
    /// A number of 64 bits.
    Count(u64),
}

impl Value {
    /// A text.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Value::Text(text.into())
    }

    /// Bounded to its type.
    fn number(&self) -> Option<(&'static str, u64)> {
        match *self {
            Value::Number(number) => Some(("u32", number.min(u32::MAX.into()))),
            Value::Count(number) => Some(("u64", number)),
            Value::Empty | Value::Text(_) => None,
        }
    }

    /// As it stands in CSV: quoted where it must be (RFC 4180).
    pub(super) fn csv(&self, out: &mut String) {
        match self {
            Value::Text(text) if text.contains(['"', ',', '\n', '\r']) => {
                let _ = write!(out, "\"{}\"", text.replace('"', "\"\"").replace(['\n', '\r'], " "));
            }
            value => value.plain(out),
        }
    }

    /// As it stands in `show info`.
    pub(super) fn plain(&self, out: &mut String) {
        match self {
            Value::Text(text) => out.push_str(text),
            value => {
                if let Some((_, number)) = value.number() {
                    let _ = write!(out, "{number}");
                }
            }
        }
    }

    /// `name.1:tags:type:value`, behind whatever names the row; nothing when it is empty.
    pub(super) fn typed(&self, (name, tags): Field, out: &mut String) {
        let kind = self.number().map_or("str", |(kind, _)| kind);
        let _ = write!(out, "{name}.1:{tags}:{kind}:");
        self.plain(out);
        out.push('\n');
    }

    /// A JSON object; `about` stands before the rest.
    pub(super) fn json(&self, about: &str, position: usize, (name, tags): Field, out: &mut String) {
        let word = |letter: Option<char>| match letter {
            Some('M') => "Metric",
            Some('S') => "Status",
            Some('K') => "Key",
            Some('C') => "Config",
            _ => "Product",
        };
        let nature = |letter: Option<char>| match letter {
            Some('A') => "Age",
            Some('a') => "Avg",
            Some('C') => "Counter",
            Some('D') => "Duration",
            Some('G') => "Gauge",
            Some('L') => "Limit",
            Some('M') => "Max",
            Some('N') => "Name",
            Some('R') => "Rate",
            _ => "Output",
        };
        let mut letters = tags.chars();
        let (origin, nature) = (word(letters.next()), nature(letters.next()));
        let scope = if letters.next() == Some('P') { "Process" } else { "Service" };
        let _ = write!(
            out,
            "{{{about}\"field\":{{\"pos\":{position},\"name\":\"{name}\"}},\"processNum\":1,\"tags\":{{\"origin\":\
             \"{origin}\",\"nature\":\"{nature}\",\"scope\":\"{scope}\"}},\"value\":",
        );
        let _ = match (self, self.number()) {
            (_, Some((kind, number))) => write!(out, "{{\"type\":\"{kind}\",\"value\":{number}}}}}"),
            (Value::Text(text), None) => {
                let quoted = serde_json::Value::from(text.as_str());
                write!(out, "{{\"type\":\"str\",\"value\":{quoted}}}}}")
            }
            (_, None) => write!(out, "{{\"type\":\"str\",\"value\":\"\"}}}}"),
        };
    }

    /// Whether there is anything.
    pub(super) fn is_empty(&self) -> bool {
        *self == Value::Empty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csv(value: &Value) -> String {
        let mut out = String::new();
        value.csv(&mut out);
        out
    }

    #[test]
    fn a_field_stays_in_its_place() {
        assert_eq!(csv(&Value::Empty), "");
        assert_eq!(csv(&Value::text("plain")), "plain");
        assert_eq!(csv(&Value::text("a, \"b\"\nc")), "\"a, \"\"b\"\" c\"");
        assert_eq!(csv(&Value::Number(u64::MAX)), "4294967295");
        assert_eq!(csv(&Value::Count(u64::MAX)), u64::MAX.to_string());
    }

    /// Byte for byte what HAProxy 2.6 writes.
    #[test]
    fn typed_and_json() {
        let mut out = String::new();
        Value::Number(7).typed(("scur", "MGP"), &mut out);
        assert_eq!(out, "scur.1:MGP:u32:7\n");
        out.clear();
        Value::text("fe").json("", 0, ("pxname", "KNS"), &mut out);
        assert_eq!(
            out,
            r#"{"field":{"pos":0,"name":"pxname"},"processNum":1,"tags":{"origin":"Key","nature":"Name","scope":"Service"},"value":{"type":"str","value":"fe"}}"#
        );
    }
}
