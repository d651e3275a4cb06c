//! `ringway server`: takes a server of a running daemon out of service, puts it back, adds and removes some.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::client::{ClientError, Target};
use super::drain::{fate, going_on};
use super::exit;
use super::out::{complain, print, print_line};
use crate::base::words::many;
use crate::config::ledger::Standing;
use crate::control::roster::{Edited, ServerAdd, ServerRemove};
use crate::control::span::Span;
use crate::control::steer::{ServerChange, ServerChanged};
use crate::observe::status::Status;

/// How often `--wait` looks.
const LOOK: Duration = Duration::from_millis(200);

/// Adds, removes and changes servers of a running daemon.
#[derive(Debug, clap::Args)]
pub struct Server {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Set whether a server gets new sessions, and how many.
    ///
    /// The sessions it has go on, unless `--for` says otherwise. What is set outlives reloads, but not the daemon, unless it is
    /// kept (`--persist`); weight and limit hold until the file says something else than it did.
    Set(Set),
    /// Add a server, as a reload would: it is checked first, and warms up if its pool has `slow_start`.
    ///
    /// It holds until the daemon ends, or until the file has a server of that name or address in the pool.
    Add(Add),
    /// Remove a server, as a reload would: the sessions it has go on, and it gets no new ones.
    ///
    /// It holds until the daemon ends, or until the file has no such server at that address.
    Remove(Remove),
}

#[derive(Debug, clap::Args)]
struct Add {
    /// The pool it is to be in, and its name.
    #[arg(value_name = "POOL/SERVER", value_parser = parse_name)]
    server: (String, String),
    /// Where it listens: an address and a port, or `unix:/path`.
    #[arg(long, value_name = "ADDRESS")]
    address: String,
    /// Its share of new sessions beside that of others: 0 to 256.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=256))]
    weight: Option<u32>,
    /// Sessions it may have at once: up to 10 million, or 0 for any number.
    #[arg(long, value_name = "N")]
    max_connections: Option<u32>,
    /// It gets sessions only when no other can.
    #[arg(long)]
    backup: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
struct Remove {
    /// Which server.
    #[arg(value_name = "POOL/SERVER", value_parser = parse_name)]
    server: (String, String),
    #[command(flatten)]
    how: How,
}

#[derive(Debug, clap::Args)]
struct How {
    /// Keep it beyond a restart, in the overlay beside the configuration, or in `state_dir`.
    #[arg(long)]
    persist: bool,
    /// The answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
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
    /// With state drain or maint: end its sessions that are idle, evenly over this time, 1s to 24h.
    ///
    /// Those first that have been silent for longest; they end as `moved`, by a reset. `--state` stops it.
    #[arg(long = "for", value_name = "DURATION", requires = "state")]
    over: Option<Span>,
    /// At the end of that time, end the busy ones, too.
    #[arg(long, requires = "over")]
    close: bool,
    /// Keep what is set beyond a restart, in the overlay beside the configuration, or in `state_dir`.
    #[arg(long)]
    persist: bool,
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
    let done = match &verb.action {
        Action::Set(set) => change(set),
        Action::Add(add) => self::add(add),
        Action::Remove(remove) => self::remove(remove),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => error.report(),
    }
}

fn add(add: &Add) -> Result<u8, ClientError> {
    let (pool, server) = add.server.clone();
    let wish = ServerAdd {
        pool,
        server,
        address: add.address.clone(),
        weight: add.weight,
        max_connections: add.max_connections,
        backup: add.backup,
        persist: add.how.persist,
    };
    edit(&add.how, "/v1/server/add", &wish)
}

fn remove(remove: &Remove) -> Result<u8, ClientError> {
    let (pool, server) = remove.server.clone();
    edit(&remove.how, "/v1/server/remove", &ServerRemove { pool, server, persist: remove.how.persist })
}

/// Asks for it, and shows what has come of it.
fn edit(how: &How, path: &str, wish: &impl Serialize) -> Result<u8, ClientError> {
    let wish = serde_json::to_string(wish).expect("our own types serialise");
    let body = how.target.post_with(path, wish)?.accepted()?;
    if how.json {
        print(&body);
        return Ok(exit::OK);
    }
    let edited: Edited = serde_json::from_str(&body).map_err(|error| ClientError::strange(&error))?;
    let mut text: String = edited.changes.iter().map(|line| format!("{line}\n")).collect();
    if edited.sessions > 0 {
        text.push_str(&format!("{}\n", going_on(edited.sessions)));
    }
    text.push_str(&match edited.kept_in {
        Some(path) => format!("configuration {} is in force, kept in {path}\n", edited.generation),
        None => format!("configuration {} is in force\n", edited.generation),
    });
    print(&text);
    Ok(exit::OK)
}

fn change(set: &Set) -> Result<u8, ClientError> {
    let (pool, server) = set.server.clone();
    let state = set.state.as_deref().map(|state| match state {
        "drain" => Standing::Drain,
        "maint" => Standing::Maint,
        _ => Standing::Ready,
    });
    let change = ServerChange {
        pool,
        server,
        state,
        weight: set.weight,
        max_connections: set.max_connections,
        over: set.over,
        close: set.close,
        persist: set.persist,
    };
    let wish = serde_json::to_string(&change).expect("our own types serialise");
    let body = set.target.post_with("/v1/server", wish)?.accepted()?;
    if set.json {
        print(&body);
        return Ok(exit::OK);
    }
    let ServerChanged { was, state, weight, max_connections, sessions, pool_is_down, kept_in } =
        serde_json::from_str(&body).map_err(|error| ClientError::strange(&error))?;
    let (pool, server) = &set.server;
    let was = if was == state { String::new() } else { format!(" (was {})", was.word()) };
    let most = if max_connections > 0 { format!(" of at most {max_connections}") } else { String::new() };
    let sessions = many(sessions, "session");
    print_line(format_args!("{pool}/{server}: {}{was}, weight {weight}, {sessions}{most}", state.word()));
    if let Some(path) = kept_in {
        print_line(format_args!("{pool}/{server}: kept in {path}"));
    }
    if let Some(over) = set.over {
        print_line(format_args!("{pool}/{server}: {}", fate(over, set.close)));
    }
    if pool_is_down {
        complain(format_args!("ringway: pool {pool} has no server now that takes sessions"));
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
                print_line(format_args!("{pool}/{server}: no sessions left"));
                return Ok(exit::OK);
            }
            left if start.elapsed() >= Duration::from_secs(set.timeout) => {
                complain(format_args!(
                    "ringway: {pool}/{server} still has {} after {} s",
                    many(left, "session"),
                    set.timeout
                ));
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
