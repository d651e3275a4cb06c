//! `ringway server`: takes a server of a running daemon out of service, and puts it back.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::client::{ClientError, Target, print};
use super::exit;
use crate::config::ledger::Standing;
use crate::control::steer::{ServerChange, ServerChanged};
use crate::observe::status::Status;

/// How often `--wait` looks.
const LOOK: Duration = Duration::from_millis(200);

/// Changes a server of a running daemon.
#[derive(Debug, clap::Args)]
pub struct Server {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Set whether a server gets new sessions, and how many.
    ///
    /// The sessions it has go on. What is set outlives reloads, but not the daemon; weight and limit hold until the file
    /// says something else than it did.
    Set(Set),
}

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true)))]
struct Set {
    /// Which server.
    #[arg(value_name = "POOL/SERVER", value_parser = parse_name)]
    server: (String, String),
    /// `ready`: it gets sessions; `drain`: no new ones, to take it out in peace; `maint`: the same, for one that is being
    /// worked on.
    #[arg(long, value_parser = ["ready", "drain", "maint"], group = "what")]
    state: Option<String>,
    /// Its share of new sessions beside that of others: 0 to 256.
    #[arg(long, value_name = "N", group = "what", value_parser = clap::value_parser!(u32).range(0..=256))]
    weight: Option<u32>,
    /// Sessions it may have at once: up to 10 million, or 0 for any number.
    #[arg(long, value_name = "N", group = "what")]
    max_connections: Option<u32>,
    /// Wait until it has no session left.
    #[arg(long, conflicts_with = "json")]
    wait: bool,
    /// How long to wait at most, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, requires = "wait")]
    timeout: u64,
    /// The answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

fn parse_name(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((pool, server)) if !pool.is_empty() && !server.is_empty() => Ok((pool.into(), server.into())),
        _ => Err("name the pool and the server, as in web/web1".into()),
    }
}

/// Runs the verb: 0 done, 1 refused, or sessions were left after the timeout.
pub fn run(verb: &Server) -> ExitCode {
    let Action::Set(set) = &verb.action;
    match change(set) {
        Ok(code) => ExitCode::from(code),
        Err(error) => error.report(),
    }
}

fn change(set: &Set) -> Result<u8, ClientError> {
    let (pool, server) = set.server.clone();
    let state = set.state.as_deref().map(|state| match state {
        "drain" => Standing::Drain,
        "maint" => Standing::Maint,
        _ => Standing::Ready,
    });
    let change = ServerChange { pool, server, state, weight: set.weight, max_connections: set.max_connections };
    let wish = serde_json::to_string(&change).expect("our own types serialise");
    let body = set.target.post_with("/v1/server", wish)?.accepted()?;
    if set.json {
        print(&body);
        return Ok(exit::OK);
    }
    let ServerChanged { was, state, weight, max_connections, sessions, pool_is_down } =
        serde_json::from_str(&body).map_err(|error| ClientError::strange(&error))?;
    let (pool, server) = &set.server;
    let was = if was == state { String::new() } else { format!(" (was {})", was.word()) };
    let most = if max_connections > 0 { format!(" of at most {max_connections}") } else { String::new() };
    print(&format!("{pool}/{server}: {}{was}, weight {weight}, {sessions} sessions{most}\n", state.word()));
    if pool_is_down {
        eprintln!("ringway: pool {pool} has no server now that takes sessions");
    }
    if set.wait { wait(set) } else { Ok(exit::OK) }
}

/// Looks until the server has no session.
fn wait(set: &Set) -> Result<u8, ClientError> {
    let (pool, server) = &set.server;
    let start = Instant::now();
    loop {
        let body = set.target.get("/v1/status")?.accepted()?;
        let status: Status = serde_json::from_str(&body).map_err(|error| ClientError::strange(&error))?;
        let pools = status.pools.iter().filter(|each| each.name == *pool);
        let found = pools.flat_map(|pool| &pool.servers).find(|each| each.name == *server);
        match found.map_or(0, |server| server.sessions) {
            0 => {
                print(&format!("{pool}/{server}: no sessions left\n"));
                return Ok(exit::OK);
            }
            left if start.elapsed() >= Duration::from_secs(set.timeout) => {
                eprintln!("ringway: {pool}/{server} still has {left} sessions after {} s", set.timeout);
                return Ok(exit::FAILURE);
            }
            _ => sleep(LOOK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_two_parts() {
        assert_eq!(parse_name("web/web1"), Ok(("web".into(), "web1".into())));
        assert_eq!(parse_name("web/a/b"), Ok(("web".into(), "a/b".into())));
        for wrong in ["web", "/a", "web/", ""] {
            assert!(parse_name(wrong).is_err(), "{wrong}");
        }
    }
}
