//! `ringway check`: is this file right?

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::exit;
use crate::config::file::{self, DEFAULT_PATH, ReadError};
use crate::config::{self, Draft};

/// Validates a configuration and shows every complaint at once.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// The file to check.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_PATH)]
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
    match load(&check.config) {
        Ok(draft) => {
            if check.print {
                print!("{}", draft.print());
            } else if !check.quiet {
                println!("{}: right: {}", check.config.display(), draft.summary());
            }
            ExitCode::SUCCESS
        }
        Err(wrong) => wrong.report(),
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
            Wrong::File(error) => eprintln!("{error}"),
            Wrong::Content(complaints) => {
                let n = complaints.len();
                eprintln!("{complaints}{n} complaint{}", if n == 1 { "" } else { "s" });
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

/// Reads and parses the file at `path`.
///
/// # Errors
///
/// It cannot be read, or it is wrong.
pub fn load(path: &Path) -> Result<Draft, Wrong> {
    let text = file::read(path).map_err(Wrong::File)?;
    let name = path.display().to_string();
    config::parse(&name, &text, &file::environment).map_err(Wrong::Content)
}
