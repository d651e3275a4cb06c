//! The command line: one file a verb.

pub mod check;
pub mod client;
pub mod demo;
pub mod doctor;
pub mod drain;
pub mod explain;
pub mod health;
pub mod load;
pub mod man;
mod out;
pub mod plan;
pub mod rebalance;
pub mod reload;
pub mod run;
pub mod server;
pub mod sessions;
pub mod status;
pub mod top;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exit codes, as in sysexits(3) where it has one.
pub mod exit {
    /// All went well.
    pub const OK: u8 = 0;
    /// Something failed while running.
    pub const FAILURE: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// The configuration is wrong.
    pub const CONFIG: u8 = 3;
    /// The kernel lacks a feature, or the engine is not to be had.
    pub const UNAVAILABLE: u8 = 69;
    /// Not permitted.
    pub const PERMISSION: u8 = 77;
    /// The configuration cannot be read.
    pub const UNREADABLE: u8 = 78;
}

/// A Layer-4 TCP load balancer for Linux.
#[derive(Parser)]
#[command(name = "ringway", version, max_term_width = 100, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the daemon in the foreground.
    Run(run::Run),
    /// Validate a configuration.
    Check(check::Check),
    /// Show the main job with embedded servers; needs nothing.
    Demo(demo::Demo),
    /// Show what a reload would do.
    Plan(plan::Plan),
    /// Generate load, or serve it: connect rate, request/response, bulk, idle connections
    Load(load::arguments::Arguments),
    /// Make a running daemon read its configuration again.
    Reload(reload::Reload),
    /// Go back to the configuration before the last reload.
    Rollback(reload::Rollback),
    /// Take servers out of service, put them back, add and remove some.
    Server(server::Server),
    /// Have traffic go to another node, or come again.
    Drain(drain::DrainVerb),
    /// Move long-lived sessions to servers that have come back.
    Rebalance(rebalance::RebalanceVerb),
    /// Show how a running daemon is doing.
    Status(status::StatusVerb),
    /// Watch a running daemon in the terminal, and take servers out or in.
    Top(top::Top),
    /// List sessions that live.
    Sessions(sessions::SessionsVerb),
    /// End sessions.
    Kill(sessions::KillVerb),
    /// Show which server a client would get, and why no other.
    Explain(explain::Explain),
    /// Say by the exit code whether a daemon lives or is ready.
    Health(health::Health),
    /// Look for what keeps ringway from running well here.
    Doctor(doctor::Doctor),
    /// Write the manual pages
    Man(man::ManVerb),
    /// Write the completions for a shell
    Completions(man::Completions),
}

/// Whether a command line would be run; the refusal as its user would see it. For tests and fuzzing.
///
/// # Errors
/// What is wrong with it, or the help that it asks for.
pub fn understand<'a>(words: impl Iterator<Item = &'a str>) -> Result<(), String> {
    Arguments::try_parse_from(words).map(drop).map_err(|refusal| refusal.to_string())
}

/// Runs the verb the command line names.
pub fn main() -> ExitCode {
    out::closed(obey(Arguments::parse().verb))
}

fn obey(verb: Verb) -> ExitCode {
    match verb {
        Verb::Check(verb) => check::run(&verb),
        Verb::Demo(verb) => demo::main(&verb),
        Verb::Plan(verb) => plan::run(&verb),
        Verb::Load(arguments) => load::main(&arguments),
        Verb::Run(verb) => run::run(&verb),
        Verb::Reload(verb) => reload::run(&verb),
        Verb::Rollback(verb) => reload::roll_back(&verb),
        Verb::Server(verb) => server::run(&verb),
        Verb::Drain(verb) => drain::run(&verb),
        Verb::Rebalance(verb) => rebalance::run(&verb),
        Verb::Status(verb) => status::run(&verb),
        Verb::Top(verb) => top::run(&verb),
        Verb::Sessions(verb) => sessions::run(&verb),
        Verb::Kill(verb) => sessions::kill(&verb),
        Verb::Explain(verb) => explain::run(&verb),
        Verb::Health(verb) => health::run(&verb),
        Verb::Doctor(verb) => doctor::run(&verb),
        Verb::Man(verb) => man::man(&verb),
        Verb::Completions(verb) => man::completions(&verb),
    }
}
