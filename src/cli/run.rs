//! `ringway run`: the daemon, in the foreground.

use std::path::PathBuf;
use std::process::ExitCode;

use super::exit;
use super::out::complain;
use crate::base::words::many;
use crate::config::file::DEFAULT_PATH;
use crate::control::conductor;
use crate::control::failure::{Failure, Kind};

/// Runs the daemon in the foreground.
///
/// HUP reloads, TERM and QUIT drain (a second one, or INT, stops now), USR1 opens the log again.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The configuration.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_PATH)]
    config: PathBuf,
}

/// Runs the verb: 0 stopped as told, 1 failure, 3 configuration wrong, 69 no engine, 77 not permitted, 78 unreadable.
pub fn run(run: &Run) -> ExitCode {
    match conductor::run(&run.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure);
            ExitCode::from(code(failure.kind()))
        }
    }
}

fn report(failure: &Failure) {
    match failure {
        Failure::Invalid(complaints) => {
            complain(format_args!("{complaints}{}", many(complaints.len(), "complaint")));
        }
        Failure::Engine(refused) => complain(format_args!("ringway: {refused}\n  remedy: {}", refused.remedy)),
        other => complain(format_args!("ringway: {other}")),
    }
}

/// The exit code of a kind of failure.
pub(super) fn code(kind: Kind) -> u8 {
    match kind {
        Kind::Runtime => exit::FAILURE,
        Kind::Config => exit::CONFIG,
        Kind::Unavailable => exit::UNAVAILABLE,
        Kind::Permission => exit::PERMISSION,
        Kind::Unreadable => exit::UNREADABLE,
    }
}
