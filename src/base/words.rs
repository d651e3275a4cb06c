//! Numbers in sentences.

/// `1 session`, `2 sessions`.
pub fn many(count: impl TryInto<u64>, what: &str) -> String {
    // What does not fit is a great many.
    let count = count.try_into().unwrap_or(u64::MAX);
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        assert_eq!(
            [many(0, "server"), many(1, "server"), many(2_usize, "server")],
            ["0 servers", "1 server", "2 servers"]
        );
    }
}
