//! `ringway drain`: has traffic go to another node.

use std::process::ExitCode;

use super::client::{ClientError, Target, print};
use super::exit;
use crate::control::steer::{Drain, Drained};

/// Has traffic go to another node: `/readyz` says 503, and `ringway health --ready` exits 1, from now on.
///
/// That is for what stands before it, such as keepalived, which then moves the address or stops sending. Sessions go on, and
/// whoever comes all the same is served. It outlives reloads, but not the daemon.
#[derive(Debug, clap::Args)]
pub struct DrainVerb {
    /// Have traffic come again.
    #[arg(long)]
    undo: bool,
    /// The answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Runs the verb: 0 done, 1 nobody answers.
pub fn run(verb: &DrainVerb) -> ExitCode {
    match drain(verb) {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => error.report(),
    }
}

fn drain(verb: &DrainVerb) -> Result<(), ClientError> {
    let wish = serde_json::to_string(&Drain { undo: verb.undo }).expect("our own types serialise");
    let body = verb.target.post_with("/v1/drain", wish)?.accepted()?;
    if verb.json {
        print(&body);
        return Ok(());
    }
    let Drained { ready, sessions } = serde_json::from_str(&body).map_err(|error| ClientError::strange(&error))?;
    print(&format!("{}; {sessions} sessions go on\n", if ready { "ready" } else { "not ready" }));
    Ok(())
}
