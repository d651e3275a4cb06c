//! `ringway drain`: has traffic go to another node.

use std::process::ExitCode;

use super::client::{ClientError, Target};
use super::exit;
use super::out::print;
use crate::base::words::many;
use crate::control::span::Span;
use crate::control::steer::{Drain, Drained};

/// Has traffic go to another node: `/readyz` says 503, and `ringway health --ready` exits 1, from now on.
///
/// That is for what stands before it, such as keepalived, which then moves the address or stops sending. Sessions go on, and
/// whoever comes all the same is served. It outlives reloads, but not the daemon.
///
/// With `--for`, those sessions that are there now are ended, evenly over that time: the idle ones, for which nothing is
/// under way, those first that have been silent for longest. They end as `moved`, by a reset.
#[derive(Debug, clap::Args)]
pub struct DrainVerb {
    /// Have traffic come again, and sessions that have not been ended yet go on.
    #[arg(long)]
    undo: bool,
    /// End the sessions that are idle, evenly over this time: 1s to 24h.
    #[arg(long = "for", value_name = "DURATION", conflicts_with = "undo")]
    over: Option<Span>,
    /// At the end of that time, end the busy ones, too.
    #[arg(long, requires = "over")]
    close: bool,
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
    let wish = Drain { undo: verb.undo, over: verb.over, close: verb.close };
    let wish = serde_json::to_string(&wish).expect("our own types serialise");
    let body = verb.target.post_with("/v1/drain", wish)?.accepted()?;
    if verb.json {
        print(&body);
        return Ok(());
    }
    let Drained { ready, sessions } = serde_json::from_str(&body).map_err(|error| ClientError::strange(&error))?;
    let state = if ready { "ready" } else { "not ready" };
    print(&match verb.over {
        Some(over) => format!("{state}; {}: {}\n", many(sessions, "session"), fate(over, verb.close)),
        None => format!("{state}; {}\n", going_on(sessions)),
    });
    Ok(())
}

/// `1 session goes on`, `2 sessions go on`.
pub(super) fn going_on(sessions: u64) -> String {
    format!("{} {}", many(sessions, "session"), if sessions == 1 { "goes on" } else { "go on" })
}

/// What becomes of sessions that are ended over a time.
pub(super) fn fate(over: Span, close: bool) -> String {
    let busy = if close { "then the others" } else { "the busy ones go on" };
    format!("the idle ones are ended over {over}, {busy}")
}
