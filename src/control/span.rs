//! A time over which something is to happen, as an operator gives it.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::{duration_ms, duration_text};

/// The shortest and the longest.
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(24 * 60 * 60);

/// 1 s to 24 h, written as in the configuration: `2m`, `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(Duration);

impl Span {
    /// So many seconds, as far as that is within the bounds.
    pub const fn of_seconds(seconds: u32) -> Self {
        Self(Duration::from_secs(if seconds == 0 { 1 } else { seconds as u64 }))
    }

    /// How long it is.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let span = Duration::from_millis(duration_ms(text)?);
        if (LEAST..=MOST).contains(&span) {
            return Ok(Self(span));
        }
        Err(format!("\"{text}\" is not from 1s to 24h"))
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&duration_text(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_it_is_read() {
        for text in ["1s", "2m", "1h30m", "24h", "1500ms"] {
            let span: Span = text.parse().expect(text);
            assert_eq!(span.to_string().parse::<Span>(), Ok(span), "{text}");
        }
        assert_eq!("2m".parse(), Ok(Span::of_seconds(120)));
        for (wrong, part) in
            [("2", "no unit"), ("", "no duration"), ("0s", "from 1s"), ("25h", "to 24h"), ("soon", "no duration")]
        {
            let error = wrong.parse::<Span>().expect_err(wrong);
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(serde_json::to_string(&Span::of_seconds(90)).expect("a string"), "\"1m30s\"");
        assert!(serde_json::from_str::<Span>("90").is_err());
    }
}
