//! `type = "http"`: a request, and a status that must be right (RFC 9112 §3 and §4).
//!
//! The head of the answer is all that is looked at. The request asks the server to close, so that it, and not we, remembers
//! the connection for a while.

use std::fmt::Write as _;

use super::{Fault, Probe, Step, excerpt};

/// Longest status line, in bytes.
const LINE_MAX: usize = 1024;

/// The probe.
#[derive(Debug)]
pub struct Http {
    request: Vec<u8>,
    expect: Vec<(u16, u16)>,
    line: Vec<u8>,
}

impl Http {
    /// Asks `host` for `path`.
    pub fn new(method: &str, path: &str, host: &str, expect: Vec<(u16, u16)>) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ringway/{version} (check)\r\nAccept: */*\r\n\
             Connection: close\r\n\r\n"
        );
        Self { request: request.into_bytes(), expect, line: Vec::new() }
    }

    fn judge(&self) -> Step {
        let Some(found) = status(&self.line) else { return self.no_http() };
        if self.expect.iter().any(|&(from, to)| (from..=to).contains(&found)) {
            return Step::over(Ok(()));
        }
        Step::over(Err(Fault::Status { found, wanted: wanted(&self.expect) }))
    }

    fn no_http(&self) -> Step {
        Step::over(Err(Fault::Answer(format!("answer {} is no HTTP", excerpt(&self.line)))))
    }
}

impl Probe for Http {
    fn connected(&mut self) -> Step {
        self.line.clear();
        Step::Send(self.request.clone())
    }

    fn received(&mut self, bytes: &[u8]) -> Step {
        match bytes.iter().position(|&byte| byte == b'\n') {
            Some(end) => {
                self.line.extend_from_slice(&bytes[..end]);
                self.judge()
            }
            None => {
                self.line.extend_from_slice(bytes);
                if self.line.len() > LINE_MAX { self.no_http() } else { Step::Read }
            }
        }
    }

    fn closed(&mut self) -> Step {
        if self.line.is_empty() { Step::over(Err(Fault::Ended)) } else { self.no_http() }
    }
}

/// The status of `HTTP/1.1 200 OK`, with or without its line end.
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let [b'0' | b'1', b' ', digits @ ..] = rest else { return None };
    let (digits, after) = digits.split_at_checked(3)?;
    let ends = matches!(after, [] | [b' ' | b'\r', ..]);
    let digits = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    if ends { digits.parse().ok() } else { None }
}

/// `200`, or `200, 301 or 400-499`.
fn wanted(expect: &[(u16, u16)]) -> String {
    let mut text = String::new();
    for (index, &(from, to)) in expect.iter().enumerate() {
        let joint = match index {
            0 => "",
            _ if index + 1 == expect.len() => " or ",
            _ => ", ",
        };
        // Writing to a String cannot fail.
        let _ = match from == to {
            true => write!(text, "{joint}{from}"),
            false => write!(text, "{joint}{from}-{to}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn probe() -> Http {
        Http::new("GET", "/healthz", "www.example.com", vec![(200, 200), (301, 302)])
    }

    #[test]
    fn it_asks_as_rfc_9112_wants() {
        let Step::Send(request) = probe().connected() else { panic!("a request") };
        let text = String::from_utf8(request).expect("ASCII");
        assert!(text.starts_with("GET /healthz HTTP/1.1\r\nHost: www.example.com\r\n"), "{text}");
        assert!(text.ends_with("\r\nConnection: close\r\n\r\n") && text.is_ascii(), "{text}");
    }

    #[test]
    fn the_status_decides() {
        for (answer, right) in [
            ("HTTP/1.1 200 OK\r\nServer: x\r\n\r\nbody", Ok(())),
            ("HTTP/1.0 302 \r\n", Ok(())),
            ("HTTP/1.1 301\n", Ok(())),
            ("HTTP/1.1 503 No\r\n", Err("HTTP 503 where 200 or 301-302 was expected")),
            ("HTTP/1.1 2000 OK\r\n", Err(r#"answer "HTTP/1.1 2000 OK\r" is no HTTP"#)),
            ("HTTP/2 200\r\n", Err(r#"answer "HTTP/2 200\r" is no HTTP"#)),
            ("SSH-2.0-x\r\n", Err(r#"answer "SSH-2.0-x\r" is no HTTP"#)),
            ("\n", Err(r#"answer "" is no HTTP"#)),
        ] {
            let Step::Done { outcome, .. } = probe().received(answer.as_bytes()) else { panic!("{answer}") };
            assert_eq!(outcome.map_err(|fault| fault.to_string()), right.map_err(str::to_owned));
        }
        assert_eq!(wanted(&[(200, 200), (204, 204), (400, 499)]), "200, 204 or 400-499");
    }

    #[test]
    fn what_never_ends_is_cut_and_what_ends_early_fails() {
        let mut probe = probe();
        assert_eq!(probe.received(&[b'H'; LINE_MAX]), Step::Read);
        assert!(matches!(probe.received(b"H"), Step::Done { outcome: Err(Fault::Answer(_)), .. }));
        probe.connected();
        assert_eq!(probe.closed(), Step::over(Err(Fault::Ended)));
        assert_eq!(probe.received(b"HTTP/1.1 200"), Step::Read);
        assert!(matches!(probe.closed(), Step::Done { outcome: Err(Fault::Answer(_)), .. }));
    }

    proptest! {
        #[test]
        fn no_bytes_upset_it(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..80), 0..30)) {
            let mut probe = probe();
            for piece in pieces {
                if let Step::Done { .. } = probe.received(&piece) {
                    break;
                }
            }
            probe.closed();
        }
    }
}
