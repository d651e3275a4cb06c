//! `ringway rebalance`: brings a pool into balance after a server has come back.

use std::process::ExitCode;

use super::client::{ClientError, Target};
use super::exit;
use super::out::print;
use crate::base::words::many;
use crate::control::evener::{Rebalance, Rebalanced};
use crate::control::span::Span;

/// Brings the sessions of a pool into balance: those that live for long sit where they were put while a server was away.
///
/// Of servers that hold more than their share, by weight, sessions are ended that are idle, evenly over a time, and never more
/// than are too many; their clients come back, and the policy gives them another server. They end as `moved`, by a reset.
#[derive(Debug, clap::Args)]
pub struct RebalanceVerb {
    /// The pool.
    #[arg(value_name = "POOL")]
    pool: String,
    /// Over which time: 1s to 24h.
    #[arg(long = "for", value_name = "DURATION", default_value = "1m")]
    over: Span,
    /// Only show how many sessions of which server would be ended.
    #[arg(long)]
    dry_run: bool,
    /// End no more sessions.
    #[arg(long, conflicts_with_all = ["over", "dry_run"])]
    stop: bool,
    /// The answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Runs the verb: 0 it has begun, or there is nothing to do; 1 refused.
pub fn run(verb: &RebalanceVerb) -> ExitCode {
    match rebalance(verb) {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => error.report(),
    }
}

fn rebalance(verb: &RebalanceVerb) -> Result<(), ClientError> {
    let wish = Rebalance { pool: verb.pool.clone(), over: Some(verb.over), dry_run: verb.dry_run, stop: verb.stop };
    let wish = serde_json::to_string(&wish).expect("our own types serialise");
    let body = verb.target.post_with("/v1/rebalance", wish)?.accepted()?;
    if verb.json {
        print(&body);
        return Ok(());
    }
    let answer: Rebalanced = serde_json::from_str(&body).map_err(|error| ClientError::strange(&error))?;
    print(told(verb, &answer));
    Ok(())
}

fn told(verb: &RebalanceVerb, answer: &Rebalanced) -> String {
    let Rebalanced { pool, excess, ended, servers } = answer;
    if verb.stop {
        return format!("{pool}: no more sessions are ended; {ended} were\n");
    }
    let mut text = String::new();
    for server in servers {
        let role = server.role.as_ref().map_or_else(String::new, |role| format!(" ({role})"));
        let sessions = many(server.sessions, "session");
        text.push_str(&format!("{pool}/{}{role}: {sessions}, share {}", server.server, server.share));
        if server.excess > 0 {
            text.push_str(&format!(", {} too many ({} of all are idle now)", server.excess, server.idle));
        }
        text.push('\n');
    }
    let sessions = many(*excess, "session");
    text.push_str(&match (excess, verb.dry_run) {
        (0, _) => format!("{pool}: nothing to even out\n"),
        (_, true) => format!("{pool}: {sessions} would be ended, if idle, over {}\n", verb.over),
        (1, false) => format!("{pool}: {sessions} is ended, if idle, over {}\n", verb.over),
        (_, false) => format!("{pool}: {sessions} are ended, if idle, over {}\n", verb.over),
    });
    text
}
