//! `ringway reload`: the same as SIGHUP, with an answer.

use std::process::ExitCode;

use super::client::{ClientError, Reply, Target};
use super::out::{complain, print, print_line};
use super::{exit, run};
use crate::control::reload::Answer;

/// Makes a running daemon read its configuration again, and says how that went.
#[derive(Debug, clap::Args)]
pub struct Reload {
    #[command(flatten)]
    target: Target,
    /// Wait until removed addresses are closed, too.
    #[arg(long)]
    wait: bool,
    /// The answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Makes a running daemon go back to the configuration before the last reload.
///
/// The file is not touched: the next reload reads it again. A second rollback goes forward again.
#[derive(Debug, clap::Args)]
pub struct Rollback {
    #[command(flatten)]
    target: Target,
    /// The answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the verb: 0 applied, 3 the configuration is wrong (78, 77: cannot be read), 1 anything else.
pub fn run(verb: &Reload) -> ExitCode {
    match ask(verb) {
        Ok(code) => ExitCode::from(code),
        Err(error) => error.report(),
    }
}

/// Runs the verb: 0 applied, 1 there is nothing to go back to, else as for a reload.
pub fn roll_back(verb: &Rollback) -> ExitCode {
    match verb.target.post("/v1/rollback").and_then(|reply| tell(reply, verb.json)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => error.report(),
    }
}

fn ask(verb: &Reload) -> Result<u8, ClientError> {
    let reply = verb.target.post(if verb.wait { "/v1/reload?wait" } else { "/v1/reload" })?;
    tell(reply, verb.json)
}

fn tell(reply: Reply, json: bool) -> Result<u8, ClientError> {
    let Ok(answer) = serde_json::from_str::<Answer>(&reply.body) else {
        return reply.accepted().map(|_| exit::FAILURE);
    };
    if json {
        print(&reply.body);
    } else {
        show(&answer);
    }
    Ok(answer.kind.map_or(exit::OK, run::code))
}

fn show(answer: &Answer) {
    if !answer.applied {
        complain(&answer.report);
        return complain(format_args!("refused; configuration {} goes on", answer.generation));
    }
    let mut text = String::new();
    for line in &answer.changes {
        text.push_str(line);
        text.push('\n');
    }
    for line in &answer.needs_restart {
        text.push_str(&format!("! {line}\n"));
    }
    if answer.changes.is_empty() {
        text.push_str("nothing changed\n");
    }
    print_line(format_args!("{text}configuration {} is in force", answer.generation));
}
