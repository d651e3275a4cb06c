//! Quantities as a user writes them: durations, sizes, rates and counts, each with its unit.

use std::time::Duration;

/// The longest any run may be asked to take: one day.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
/// The most bytes one stream may be asked to move: 1 PiB.
pub const SIZE_MAX: u64 = 1 << 50;
/// The highest rate that can be asked for, in operations a second.
pub const RATE_MAX: f64 = 10_000_000.0;

const DURATION_UNITS: [(&str, f64); 5] = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
const SIZE_UNITS: [(&str, u64); 9] = [
    ("", 1),
    ("B", 1),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Parses "250ms", "10s", "1.5m"; at most [`DURATION_MAX`].
///
/// # Errors
///
/// A sentence for the user when there is no number, no unit, or too much of it.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let Some((_, factor)) = DURATION_UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(match unit {
            "" => format!("a duration needs a unit: write {number}s or {number}ms"),
            _ => format!("\"{unit}\" is no unit of time; use us, ms, s, m or h"),
        });
    };
    let seconds = decimal(&number)? * factor;
    if seconds > DURATION_MAX.as_secs_f64() {
        return Err("longer than a day; use at most 24h".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Parses a [`duration`] that may not be zero.
///
/// # Errors
///
/// As [`duration`], and for zero.
pub fn duration_above_zero(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be longer than zero".to_owned()),
        some => Ok(some),
    }
}

/// Parses "64", "64B", "1kB", "16KiB" into bytes; at most [`SIZE_MAX`].
///
/// # Errors
///
/// A sentence for the user when there is no whole number, or an unknown unit.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let Some((_, factor)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("\"{unit}\" is no unit of size; use B, kB, MB, GB, KiB, MiB, GiB or TiB"));
    };
    let count: u64 = number.parse().map_err(|_| format!("\"{number}\" is not a whole number"))?;
    match count.checked_mul(*factor) {
        Some(bytes) if bytes <= SIZE_MAX => Ok(bytes),
        _ => Err("larger than 1024TiB".to_owned()),
    }
}

/// Parses a [`size`] that may not be zero.
///
/// # Errors
///
/// As [`size`], and for zero.
pub fn size_above_zero(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("must be at least 1".to_owned()),
        some => Ok(some),
    }
}

/// Parses "20000", "20_000" or "20000/s" into operations a second.
///
/// # Errors
///
/// A sentence for the user when it is no number, zero, or above [`RATE_MAX`].
pub fn rate(text: &str) -> Result<f64, String> {
    let (number, unit) = split(text)?;
    if !matches!(unit, "" | "/s") {
        return Err(format!("\"{unit}\" is no unit of rate; write 500 or 500/s, which are operations a second"));
    }
    match decimal(&number)? {
        zero if zero <= 0.0 => Err("must be above zero".to_owned()),
        much if much > RATE_MAX => Err(format!("above the maximum of {RATE_MAX}/s")),
        rate => Ok(rate),
    }
}

/// Parses a count of at least one; "10_000" is fine.
///
/// # Errors
///
/// A sentence for the user when it is no whole number, or zero.
pub fn count(text: &str) -> Result<u64, String> {
    match text.replace('_', "").parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("not a whole number".to_owned()),
    }
}

/// Parts a quantity into digits (underscores removed) and what follows them.
fn split(text: &str) -> Result<(String, &str), String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
    let number = text[..end].replace('_', "");
    if number.is_empty() {
        return Err("does not start with a number".to_owned());
    }
    Ok((number, text[end..].trim_start()))
}

fn decimal(number: &str) -> Result<f64, String> {
    number.parse().map_err(|_| format!("\"{number}\" is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("24h"), Ok(DURATION_MAX));
        assert!(duration("10").expect_err("no unit").contains("10s"));
        assert!(duration("25h").is_err());
        assert!(duration("ms").is_err());
        assert!(duration("3 parsecs").is_err());
        assert!(duration("1.2.3s").is_err());
        assert!(duration_above_zero("0s").is_err());
    }

    #[test]
    fn sizes_tell_decimal_from_binary() {
        assert_eq!(size("64"), Ok(64));
        assert_eq!(size("64B"), Ok(64));
        assert_eq!(size("1kB"), Ok(1000));
        assert_eq!(size("16KiB"), Ok(16_384));
        assert_eq!(size("1_000"), Ok(1000));
        assert_eq!(size("1024TiB"), Ok(SIZE_MAX));
        assert!(size("1.5kB").is_err());
        assert!(size("4k").is_err());
        assert!(size("99999999999999GiB").is_err());
        assert!(size("-1").is_err());
        assert!(size_above_zero("0").is_err());
    }

    #[test]
    fn rates_and_counts() {
        assert_eq!(rate("500"), Ok(500.0));
        assert_eq!(rate("0.5/s"), Ok(0.5));
        assert!(rate("0").is_err());
        assert!(rate("5/m").is_err());
        assert_eq!(count("10_000"), Ok(10_000));
        assert!(count("0").is_err());
    }
}
