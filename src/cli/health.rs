//! `ringway health`: one bit, for keepalived and orchestrators.

use std::process::ExitCode;

use super::client::Target;
use super::exit;
use super::out::print;

/// Says by its exit code whether a daemon lives, or takes new connections.
#[derive(Debug, clap::Args)]
pub struct Health {
    #[command(flatten)]
    question: Question,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Question {
    /// Whether it lives.
    #[arg(long)]
    live: bool,
    /// Whether it takes new connections (not while it drains).
    #[arg(long)]
    ready: bool,
}

/// Runs the verb: 0 yes, 1 no.
pub fn run(verb: &Health) -> ExitCode {
    let path = if verb.question.ready { "/readyz" } else { "/livez" };
    match verb.target.get(path) {
        Ok(reply) => {
            print(&reply.body);
            ExitCode::from(if reply.status == 200 { exit::OK } else { exit::FAILURE })
        }
        Err(error) => error.report(),
    }
}
