//! `ringway status`: how a running daemon is doing.

use std::process::ExitCode;

use super::client::{ClientError, Target};
use super::out::print;
use crate::observe::status::Status;

/// Shows listeners, pools, servers, sessions and latencies of a running daemon.
#[derive(Debug, clap::Args)]
pub struct StatusVerb {
    #[command(flatten)]
    target: Target,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the verb: 0 shown, 1 no daemon answers.
pub fn run(verb: &StatusVerb) -> ExitCode {
    match show(verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

fn show(verb: &StatusVerb) -> Result<(), ClientError> {
    let body = verb.target.get("/v1/status")?.accepted()?;
    if verb.json {
        print(&body);
        return Ok(());
    }
    let status: Status = serde_json::from_str(&body).map_err(|error| ClientError::strange(&error))?;
    print(status.table());
    Ok(())
}
