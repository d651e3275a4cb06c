//! `ringway check`: is this file right?

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::exit;
use super::out::{complain, print, print_line};
use crate::base::words::many;
use crate::config::file::{self, DEFAULT_PATH, ReadError};
use crate::config::overlay::{Sheet, lay};
use crate::config::{self, Draft};
use crate::control::Library;

/// Validates a configuration, with its overlay, and shows every complaint at once.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// The file to check.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same, as for `ringway run`.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_PATH, conflicts_with = "file")]
    config: PathBuf,
    /// Print the effective configuration, every default written out and secrets masked.
    #[arg(long)]
    print: bool,
    /// Say nothing when the file is right.
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the verb: 0 right, 3 wrong, 77 not permitted, 78 unreadable.
pub fn run(check: &Check) -> ExitCode {
    let path = check.file.as_ref().unwrap_or(&check.config);
    match load(path) {
        Ok(draft) => {
            warn(&draft);
            if check.print {
                print(draft.print());
            } else if !check.quiet {
                let overlay = file::overlay_path(path, draft.global().state_dir.as_deref());
                let by = draft.overlaid().map(|changed| format!(" ({changed} by {})", overlay.display()));
                print_line(format_args!("{}: right: {}{}", path.display(), draft.summary(), by.unwrap_or_default()));
            }
            ExitCode::SUCCESS
        }
        Err(wrong) => wrong.report(),
    }
}

/// Tells of what is no fault of the file, and might be right where it is meant for: the exit code says nothing of it.
fn warn(draft: &Draft) {
    let library = Library::default();
    for (pool, question) in draft.questions() {
        if let Some(why) = library.hindrance(question) {
            complain(format_args!("ringway: warning: servers of pool {pool} could not be checked here: {why}"));
        }
    }
}

/// Why a verb that needs a configuration has none.
#[derive(Debug)]
pub enum Wrong {
    /// It cannot be read.
    File(ReadError),
    /// It is wrong.
    Content(config::Complaints),
}

impl Wrong {
    /// Tells the user on standard error, and says how to exit.
    pub fn report(&self) -> ExitCode {
        match self {
            Wrong::File(error) => complain(format_args!("ringway: {error}")),
            Wrong::Content(complaints) => {
                complain(format_args!("{complaints}{}", many(complaints.len(), "complaint")));
            }
        }
        ExitCode::from(self.code())
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Wrong::File(ReadError::Denied(_)) => exit::PERMISSION,
            Wrong::File(ReadError::Unreadable { .. }) => exit::UNREADABLE,
            Wrong::File(ReadError::NotText { .. }) | Wrong::Content(_) => exit::CONFIG,
        }
    }
}

/// Reads and parses the file at `path`, with its overlay.
///
/// # Errors
///
/// One of the two cannot be read, or is wrong.
pub fn load(path: &Path) -> Result<Draft, Wrong> {
    let text = file::read(path).map_err(Wrong::File)?;
    let name = path.display().to_string();
    let draft = config::parse(&name, &text, &file::environment).map_err(Wrong::Content)?;
    let overlay = file::overlay_path(path, draft.global().state_dir.as_deref());
    let kept = file::read_overlay(&overlay).map_err(Wrong::File)?;
    let (called, sheet) = (overlay.display().to_string(), Sheet { name: &name, text: &text });
    lay(draft, sheet, Sheet { name: &called, text: &kept }, &file::environment).map_err(Wrong::Content)
}

/// Reads and parses the file at `path`, for those who want nothing of its pools.
///
/// # Errors
///
/// It cannot be read, or it is wrong.
pub fn load_file(path: &Path) -> Result<Draft, Wrong> {
    let text = file::read(path).map_err(Wrong::File)?;
    config::parse(&path.display().to_string(), &text, &file::environment).map_err(Wrong::Content)
}
