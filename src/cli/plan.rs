//! `ringway plan`: what would a reload do?

use std::path::PathBuf;
use std::process::ExitCode;

use super::check::Wrong;
use super::client::{Reply, Target};
use super::exit;
use crate::config::diff::{Diff, diff};
use crate::config::file::{self, DEFAULT_PATH};
use crate::config::ledger::Registry;
use crate::config::{self, Complaints};

/// Shows what a reload would do: listeners opened and closed, servers added, removed and changed.
#[derive(Debug, clap::Args)]
pub struct Plan {
    /// The file a reload would read.
    #[arg(value_name = "FILE", default_value = DEFAULT_PATH)]
    file: PathBuf,
    /// The file to take for the running configuration; without it, the running daemon is asked.
    #[arg(short, long, value_name = "RUNNING_FILE")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the verb: 0 shown, 1 the running configuration is not to be had, else as `ringway check`.
pub fn run(plan: &Plan) -> ExitCode {
    let (running_name, running) = match running_text(plan) {
        Ok(found) => found,
        Err(failure) => return failure,
    };
    let new = match file::read(&plan.file) {
        Ok(text) => text,
        Err(error) => return Wrong::File(error).report(),
    };
    match compare(&running_name, &running, &plan.file.display().to_string(), &new) {
        Ok(diff) => show(&diff, plan.json),
        Err(complaints) => Wrong::Content(complaints).report(),
    }
}

/// The text of the running configuration and where it is from: the daemon, unless a file is named. Which daemon, the new
/// file says.
fn running_text(plan: &Plan) -> Result<(String, String), ExitCode> {
    match &plan.config {
        Some(path) => {
            let text = file::read(path).map_err(|error| Wrong::File(error).report())?;
            Ok((path.display().to_string(), text))
        }
        None => {
            let reply = Target::of_config(plan.file.clone()).get("/v1/config").and_then(Reply::accepted);
            let text = reply.map_err(|error| error.report())?;
            Ok(("the running configuration".into(), text))
        }
    }
}

/// What changing from the one text to the other would do.
///
/// # Errors
///
/// The complaints about the first of the two that is wrong.
pub fn compare(old_name: &str, old_text: &str, new_name: &str, new_text: &str) -> Result<Diff, Complaints> {
    let old = config::parse(old_name, old_text, &file::environment)?;
    let new = config::parse(new_name, new_text, &file::environment)?;
    let mut registry = Registry::new(1);
    let old = old.compile(&mut registry, None);
    let new = new.compile(&mut registry, Some(&old));
    Ok(diff(&old, &new))
}

/// Prints `diff` for a reader or for a program.
fn show(diff: &Diff, json: bool) -> ExitCode {
    match json {
        false => print!("{diff}"),
        true => match serde_json::to_string_pretty(diff) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("ringway plan: {error}");
                return ExitCode::from(exit::FAILURE);
            }
        },
    }
    ExitCode::SUCCESS
}
