//! `ringway doctor`: what keeps ringway from running, or from running well, on this machine, each with a remedy.
//!
//! [`Facts`] are read from the machine; [`examine()`] judges them and touches nothing. It speaks of the user who asks: whoever is
//! to run the daemon should ask.

mod examine;
mod facts;

use std::process::ExitCode;

use serde::Serialize;

use super::exit;
use super::out::{print, print_line};

use examine::examine;
use facts::Facts;

/// Looks for what keeps ringway from running well here, and says what to do about it. Exit code 1 when it would not run
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the verb: 0 nothing is in the way, 1 something is.
pub fn run(doctor: &Doctor) -> ExitCode {
    let findings = examine(&Facts::read());
    let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
    if doctor.json {
        let text = serde_json::to_string_pretty(&findings).expect("our own types serialise");
        print_line(text);
    } else {
        print(report(&findings));
    }
    ExitCode::from(if failed { exit::FAILURE } else { exit::OK })
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    verdict: Verdict,
    /// What was looked at.
    subject: &'static str,
    /// What was found.
    found: String,
    /// What to do about it.
    remedy: Option<String>,
}

impl Finding {
    fn ok(subject: &'static str, found: String) -> Self {
        Self { verdict: Verdict::Ok, subject, found, remedy: None }
    }

    fn warn(subject: &'static str, found: String, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, subject, found, remedy: Some(remedy.into()) }
    }

    fn fail(subject: &'static str, found: String, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, subject, found, remedy: Some(remedy.into()) }
    }
}

fn report(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let verdict = match finding.verdict {
            Verdict::Ok => "OK",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        text.push_str(&format!("{verdict:<5} {:<14} {}\n", finding.subject, finding.found));
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!("{:>20} → {remedy}\n", ""));
        }
    }
    text
}
