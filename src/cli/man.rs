//! `ringway man` and `ringway completions`: what packagers install beside the binary, made from the same description of
//! the command line that reads it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::out::{complain, print};
use super::{Arguments, exit};

/// Writes the manual pages.
#[derive(Debug, clap::Args)]
pub struct ManVerb {
    /// Where to: a directory, which gets a page for each verb. Without it, ringway(1) goes to standard output.
    directory: Option<PathBuf>,
}

/// Writes what a shell needs to complete ringway's verbs and options.
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// For which shell.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// What operators look for in a manual and the command line does not describe.
const SECTIONS: [(&str, &[(&str, &str)]); 3] = [
    (
        "SIGNALS",
        &[
            ("HUP", "Reload the configuration."),
            ("TERM, QUIT", "Drain: no new connections, sessions may finish for drain_timeout. A second one: stop now."),
            ("INT", "Stop now."),
            ("USR1", "Open the log again."),
        ],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "All went well."),
            ("1", "Something failed while running."),
            ("2", "The command line is wrong."),
            ("3", "The configuration is invalid."),
            ("69", "A feature of the kernel, or the engine, is not to be had."),
            ("77", "Not permitted."),
            ("78", "The configuration cannot be read."),
        ],
    ),
    (
        "FILES",
        &[
            ("/etc/ringway/ringway.toml", "The configuration, unless -c says otherwise."),
            ("/run/ringway/admin.sock", "The admin socket, unless admin.socket says otherwise."),
            ("/run/ringway/haproxy.sock", "The runtime API of HAProxy, if admin.haproxy_socket says so."),
        ],
    ),
];

/// Runs `ringway man`.
pub fn man(verb: &ManVerb) -> ExitCode {
    let done = match &verb.directory {
        Some(directory) => write_pages(directory),
        None => page(&complete_command(), true).map(|page| print(String::from_utf8_lossy(&page))),
    };
    said(done)
}

/// Runs `ringway completions`.
pub fn completions(verb: &Completions) -> ExitCode {
    use clap_complete::aot::{Bash, Fish, Zsh, generate};
    let (mut command, mut script) = (Arguments::command(), Vec::new());
    match verb.shell {
        Shell::Bash => generate(Bash, &mut command, "ringway", &mut script),
        Shell::Zsh => generate(Zsh, &mut command, "ringway", &mut script),
        Shell::Fish => generate(Fish, &mut command, "ringway", &mut script),
    }
    print(String::from_utf8_lossy(&script));
    ExitCode::from(exit::OK)
}

fn said(done: io::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => {
            complain(format_args!("ringway: {error}"));
            ExitCode::from(exit::FAILURE)
        }
    }
}

/// The command line, with the names of all verbs below it filled in, and without `help`, which explains nothing else.
fn complete_command() -> Command {
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    command
}

fn write_pages(directory: &Path) -> io::Result<()> {
    let at = |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    std::fs::create_dir_all(directory).map_err(|error| at(directory, error))?;
    let mut pending = vec![(complete_command(), true)];
    while let Some((command, is_root)) = pending.pop() {
        let path = directory.join(format!("{}.1", page_name(&command)));
        std::fs::write(&path, page(&command, is_root)?).map_err(|error| at(&path, error))?;
        pending.extend(command.get_subcommands().map(|verb| (verb.clone(), false)));
    }
    Ok(())
}

fn page_name(command: &Command) -> String {
    command.get_display_name().unwrap_or(command.get_name()).to_owned()
}

fn page(command: &Command, is_root: bool) -> io::Result<Vec<u8>> {
    let (mut out, name) = (Vec::new(), page_name(command));
    let man = Man::new(command.clone()).title(name.to_uppercase()).date(" ").manual("ringway");
    man.render(&mut out)?;
    let mut more = Roff::default();
    if is_root {
        for (title, entries) in SECTIONS {
            more.control("SH", [title]);
            for (term, text) in entries {
                more.control("TP", []).text([roman(*term)]).text([roman(*text)]);
            }
        }
    } else {
        more.control("SH", ["SEE ALSO"]).text([roman("ringway(1)")]);
    }
    more.to_writer(&mut out)?;
    Ok(out)
}
