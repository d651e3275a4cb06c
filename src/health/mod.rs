//! Whether a server works: what to ask it, what its answers mean, and when to ask again.
//!
//! Nothing here opens a socket or reads a clock. A [`Probe`] is a conversation: somebody else connects, hands in the bytes
//! that arrive, and does what each [`Step`] says; so a probe is tested by talking to it. What a row of results means is a
//! [`verdict`], when the next check is due [`schedule`], and what to think of connects that fail [`eject`].
//!
//! ```text
//! connected ──Send, Read──▶ received, received … ──▶ Done
//!                               └─ closed ─────────────▲
//! ```
//!
//! A probe speaks plainly; where a server wants TLS, [`tls`] is put around it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::config::ledger::CHECK_RESULTS_MAX;
use crate::config::plan::{HttpQuestion, Question};

pub mod eject;
pub mod http;
pub mod mysql;
pub mod schedule;
pub mod send_expect;
pub mod tcp;
pub mod tls;
pub mod verdict;

use tls::{Secured, Tls};

/// One server's conversation, over and over, on a fresh connection each time. (The check of MySQL, which keeps one, is
/// [`mysql`].)
pub trait Probe: fmt::Debug {
    /// A connection was made: a new check begins.
    fn connected(&mut self) -> Step;

    /// Bytes have arrived; never none.
    fn received(&mut self, bytes: &[u8]) -> Step;

    /// The server has sent all it will.
    fn closed(&mut self) -> Step;

    /// What it is waiting for, once it is connected.
    fn waiting_for(&self) -> &'static str {
        "an answer"
    }
}

/// What a probe wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// To send these bytes, then to read.
    Send(Vec<u8>),
    /// More bytes.
    Read,
    /// Nothing more: this is how it came out.
    Done {
        /// Whether the server works.
        outcome: Outcome,
        /// The connection is reset rather than closed: nothing stays behind, here or there.
        reset: bool,
    },
}

impl Step {
    /// The check is over, and its connection is closed.
    pub fn over(outcome: Outcome) -> Self {
        Step::Done { outcome, reset: false }
    }
}

/// How a check came out.
pub type Outcome = Result<(), Fault>;

/// Why a check failed. Its text is the reason in log and status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody listens.
    Refused,
    /// It took longer than it may.
    Timeout {
        /// What was waited for.
        waiting_for: &'static str,
        /// How long.
        after_ms: u32,
    },
    /// No route, or the network said no.
    Unreachable(String),
    /// The connection broke before the check was over.
    Broken {
        /// What was waited for.
        waiting_for: &'static str,
        /// How it broke.
        why: String,
    },
    /// The connection ended before the answer did.
    Ended,
    /// Another HTTP status than is right.
    Status {
        /// The status.
        found: u16,
        /// What is right.
        wanted: String,
    },
    /// Another answer than is right.
    Answer(String),
    /// TLS did not come about, or is with the wrong one.
    Tls(String),
    /// Nothing the server could help: no descriptors, no local port. Says nothing about it.
    Local(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Refused => f.write_str("connection refused"),
            Fault::Timeout { waiting_for, after_ms } => {
                write!(f, "timeout after {:?} waiting for {waiting_for}", Duration::from_millis((*after_ms).into()))
            }
            Fault::Unreachable(why) => write!(f, "unreachable: {why}"),
            Fault::Broken { waiting_for, why } => write!(f, "connection broken waiting for {waiting_for}: {why}"),
            Fault::Ended => f.write_str("connection closed before an answer"),
            Fault::Status { found, wanted } => write!(f, "HTTP {found} where {wanted} was expected"),
            Fault::Answer(what) | Fault::Tls(what) => f.write_str(what),
            Fault::Local(why) => write!(f, "no check was possible: {why}"),
        }
    }
}

/// The result of a check in `ringway_check_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CheckResult {
    /// Passed.
    Ok,
    /// [`Fault::Refused`].
    Refused,
    /// [`Fault::Timeout`].
    Timeout,
    /// [`Fault::Unreachable`].
    Unreachable,
    /// [`Fault::Broken`] and [`Fault::Ended`].
    Broken,
    /// [`Fault::Status`].
    Status,
    /// [`Fault::Answer`].
    Answer,
    /// [`Fault::Local`].
    Local,
    /// [`Fault::Tls`].
    Tls,
}

impl CheckResult {
    /// All of them, in the order of their numbers.
    pub const ALL: [CheckResult; 9] = [
        CheckResult::Ok,
        CheckResult::Refused,
        CheckResult::Timeout,
        CheckResult::Unreachable,
        CheckResult::Broken,
        CheckResult::Status,
        CheckResult::Answer,
        CheckResult::Local,
        CheckResult::Tls,
    ];

    /// The one of an outcome.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Ok(()) => CheckResult::Ok,
            Err(Fault::Refused) => CheckResult::Refused,
            Err(Fault::Timeout { .. }) => CheckResult::Timeout,
            Err(Fault::Unreachable(_)) => CheckResult::Unreachable,
            Err(Fault::Broken { .. } | Fault::Ended) => CheckResult::Broken,
            Err(Fault::Status { .. }) => CheckResult::Status,
            Err(Fault::Answer(_)) => CheckResult::Answer,
            Err(Fault::Local(_)) => CheckResult::Local,
            Err(Fault::Tls(_)) => CheckResult::Tls,
        }
    }

    /// The word in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            CheckResult::Ok => "ok",
            CheckResult::Refused => "refused",
            CheckResult::Timeout => "timeout",
            CheckResult::Unreachable => "unreachable",
            CheckResult::Broken => "broken",
            CheckResult::Status => "status",
            CheckResult::Answer => "answer",
            CheckResult::Local => "local",
            CheckResult::Tls => "tls",
        }
    }
}

const _: () = assert!(CheckResult::ALL.len() <= CHECK_RESULTS_MAX);

/// The probe that asks `question`, through `tls` if there is one; `address` is where it asks, as a `Host` header may name it.
/// `None`: its probe is another, [`mysql::probe`].
pub fn probe(question: &Question, address: &str, tls: Option<Arc<Tls>>) -> Option<Box<dyn Probe>> {
    let plain: Box<dyn Probe> = match question {
        Question::Mysql(_) => return None,
        Question::Tcp => Box::new(tcp::Tcp),
        Question::SendExpect { send, expect } => Box::new(send_expect::SendExpect::new(send.clone(), expect.clone())),
        Question::Http(HttpQuestion { method, path, host, expect, tls }) => {
            let told = tls.as_ref().and_then(|tls| tls.name.as_deref());
            let host = host.as_deref().or(told).unwrap_or(address);
            Box::new(http::Http::new(method, path, host, expect.clone()))
        }
    };
    Some(match tls {
        Some(tls) => Box::new(Secured::new(plain, tls)),
        None => plain,
    })
}

/// Bytes of an answer for people: the first few, made printable.
fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 40;
    let text: String = bytes.iter().take(SHOWN).flat_map(|byte| byte.escape_ascii()).map(char::from).collect();
    let more = if bytes.len() > SHOWN { "…" } else { "" };
    format!("\"{text}{more}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_whole_and_in_order() {
        for (i, result) in CheckResult::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, i);
        }
        let mut words = CheckResult::ALL.map(CheckResult::word).to_vec();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), CheckResult::ALL.len());
    }

    #[test]
    fn faults_read_well() {
        let timeout = Fault::Timeout { waiting_for: "an answer", after_ms: 1_500 };
        assert_eq!(timeout.to_string(), "timeout after 1.5s waiting for an answer");
        let status = Fault::Status { found: 503, wanted: "200".into() };
        assert_eq!(status.to_string(), "HTTP 503 where 200 was expected");
        assert_eq!(excerpt(b"a\r\n\xff"), r#""a\r\n\xff""#);
    }
}
