//! `ringway demo`: the main job in one process, with embedded servers; needs nothing.
//!
//! The tour starts two small web servers and the balancer on loopback and plays what an operator fears: a server dies and
//! comes back, the configuration changes under load, a wrong configuration is loaded. Every step checks what it shows;
//! `--once` ends after the tour with 0 or 1, otherwise the balancer stays for a look around.

mod backend;
mod stage;
mod tour;

use std::process::ExitCode;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};

use self::stage::Stage;
use super::exit;
use super::out::complain;

/// Show the main job with embedded servers; needs nothing
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Run the tour as a self-check, without pauses, and exit 0 or 1
    #[arg(long)]
    once: bool,
}

/// Runs the verb.
pub fn main(demo: &Demo) -> ExitCode {
    let stage = Stage::new(!demo.once);
    match play(demo, &stage) {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => {
            complain(format_args!("ringway demo: {error:#}"));
            ExitCode::from(exit::FAILURE)
        }
    }
}

fn play(demo: &Demo, stage: &Stage) -> anyhow::Result<()> {
    // Every thread that starts from here on leaves these to the wait at the end.
    let mut farewell = SigSet::empty();
    farewell.add(Signal::SIGINT);
    farewell.add(Signal::SIGTERM);
    if !demo.once {
        farewell.thread_block().context("cannot hold signals back")?;
    }
    let mut theatre = tour::open(stage)?;
    theatre.play(stage)?;
    if demo.once {
        stage.line("");
        stage.good("The tour is over: everything held.");
        return theatre.close(stage);
    }
    stage.line("");
    stage.line(&format!(
        "The balancer stays at {}: reload the page and the server changes.",
        stage.bold(&theatre.url())
    ));
    let status = theatre.status_url();
    stage.line(&format!("Its status page: {}, and what Prometheus would see: {status}metrics", stage.bold(&status)));
    stage.line("Ctrl-C ends it.");
    farewell.wait().context("cannot wait for Ctrl-C")?;
    stage.line("");
    theatre.close(stage)
}
