//! `ringway plan`: what would a reload do?

use std::path::PathBuf;
use std::process::ExitCode;

use super::check::{self, Wrong};
use super::client::{ClientError, Reply, Target};
use super::exit;
use super::out::{complain, print, print_line};
use crate::config::diff::{Diff, diff};
use crate::config::file::{self, DEFAULT_PATH};
use crate::config::ledger::Registry;
use crate::config::overlay::{self, Overlay, Sheet};
use crate::config::{self, Complaints, Draft};
use crate::control::roster::InForce;

/// Shows what a reload would do: listeners opened and closed, servers added, removed and changed.
#[derive(Debug, clap::Args)]
pub struct Plan {
    /// The file a reload would read; without it, that of `--config`, or /etc/ringway/ringway.toml.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// With FILE: what to take for the running configuration, instead of asking the daemon. Without: the daemon's file.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Plan {
    /// What a reload would read.
    fn file(&self) -> PathBuf {
        self.file.as_ref().or(self.config.as_ref()).map_or_else(|| DEFAULT_PATH.into(), PathBuf::clone)
    }

    /// What to take for the running configuration; `None`: that of the daemon.
    fn running(&self) -> Option<&PathBuf> {
        self.file.as_ref().and(self.config.as_ref())
    }
}

/// Runs the verb: 0 shown, 1 the running configuration is not to be had, else as `ringway check`.
pub fn run(plan: &Plan) -> ExitCode {
    let path = plan.file();
    let (running, laid_over) = match running(plan) {
        Ok(found) => found,
        Err(failure) => return failure,
    };
    let kept = laid_over.path.as_deref().map(file::read_overlay).transpose();
    let (text, kept) = match file::read(&path).and_then(|text| Ok((text, kept?.unwrap_or_default()))) {
        Ok(found) => found,
        Err(error) => return Wrong::File(error).report(),
    };
    let called = laid_over.path.as_ref().map_or_else(String::new, |path| path.display().to_string());
    let new =
        Version { file: (path.display().to_string(), text), kept: (called, kept), passing: running.passing.clone() };
    match compare(&running, &new) {
        Ok(diff) => show(&diff, plan.json),
        Err(complaints) => Wrong::Content(complaints).report(),
    }
}

/// A configuration as its texts: each with what complaints call it.
#[derive(Clone, Debug, Default)]
pub struct Version {
    /// The file.
    pub file: (String, String),
    /// The overlay.
    pub kept: (String, String),
    /// What lies over both and is in no file.
    pub passing: String,
}

impl Version {
    fn draft(&self) -> Result<Draft, Complaints> {
        let (name, text) = &self.file;
        let file = config::parse(name, text, &file::environment)?;
        let kept = Sheet { name: &self.kept.0, text: &self.kept.1 };
        let base = overlay::lay(file, Sheet { name, text }, kept, &file::environment)?;
        Ok(Overlay::default().with_passing(&self.passing, &file::environment).pass_over(base))
    }
}

/// The running configuration: that of the daemon, unless a file is named. Which daemon, the new file says.
fn running(plan: &Plan) -> Result<(Version, InForce), ExitCode> {
    let Some(path) = plan.running() else {
        let target = Target::of_config(plan.file());
        let ask = |path| target.get(path).and_then(Reply::accepted).map_err(|error| error.report());
        let text = ask("/v1/config")?;
        let laid_over: InForce =
            serde_json::from_str(&ask("/v1/overlay")?).map_err(|error| ClientError::strange(&error).report())?;
        let running = Version {
            file: ("the running configuration".into(), text),
            kept: ("its overlay".into(), laid_over.kept.clone()),
            passing: laid_over.passing.clone(),
        };
        return Ok((running, laid_over));
    };
    let draft = check::load_file(path).map_err(|wrong| wrong.report())?;
    let place = file::overlay_path(path, draft.global().state_dir.as_deref());
    let read = file::read(path).and_then(|text| Ok((text, file::read_overlay(&place)?)));
    let (text, kept) = read.map_err(|error| Wrong::File(error).report())?;
    let running = Version {
        file: (path.display().to_string(), text),
        kept: (place.display().to_string(), kept.clone()),
        passing: String::new(),
    };
    Ok((running, InForce { path: Some(place), kept, passing: String::new() }))
}

/// What changing from the one to the other would do.
///
/// # Errors
///
/// The complaints about the first of the two that is wrong.
pub fn compare(old: &Version, new: &Version) -> Result<Diff, Complaints> {
    let (old, new) = (old.draft()?, new.draft()?);
    let mut registry = Registry::new(1);
    let old = old.compile(&mut registry, None);
    let new = new.compile(&mut registry, Some(&old));
    Ok(diff(&old, &new))
}

/// Prints `diff` for a reader or for a program.
fn show(diff: &Diff, json: bool) -> ExitCode {
    match json {
        false => print(diff),
        true => match serde_json::to_string_pretty(diff) {
            Ok(text) => print_line(text),
            Err(error) => {
                complain(format_args!("ringway plan: {error}"));
                return ExitCode::from(exit::FAILURE);
            }
        },
    }
    ExitCode::SUCCESS
}
