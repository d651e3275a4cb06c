//! What the verbs say. `println!` and `eprintln!` panic when nobody can read it; here that is an exit code, or nothing.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use super::exit;

/// Whether something that was to be printed is missing.
static IS_SHORT: AtomicBool = AtomicBool::new(false);

/// Prints to standard output. A reader that has left (`| head`) is no error; any other is told, once, and makes the verb fail.
pub(super) fn print(text: impl Display) {
    note(write!(io::stdout(), "{text}"));
}

/// The same, with the end of a line.
pub(super) fn print_line(text: impl Display) {
    note(writeln!(io::stdout(), "{text}"));
}

/// Tells the user a line on standard error; when even that is gone, nobody.
pub(super) fn complain(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The exit code of a verb that has printed all it wants to: success is a failure when that is not all there.
pub(super) fn closed(code: ExitCode) -> ExitCode {
    note(io::stdout().flush());
    let is_short = IS_SHORT.load(Ordering::Relaxed);
    if is_short && code == ExitCode::SUCCESS { ExitCode::from(exit::FAILURE) } else { code }
}

fn note(written: io::Result<()>) {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe && !IS_SHORT.swap(true, Ordering::Relaxed) => {
            complain(format_args!("ringway: cannot write to standard output: {error}"));
        }
        _ => {}
    }
}
