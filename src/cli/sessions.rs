//! `ringway sessions` and `ringway kill`: who is connected to a running daemon, and the end of some.

use std::process::ExitCode;

use super::client::{ClientError, Target};
use super::exit;
use super::out::{complain, print, print_line};
use crate::base::words::many;
use crate::control::sessions::{Kill, Killed, SessionStatus, Sessions, network};

/// Lists sessions that live, the oldest first.
#[derive(Debug, clap::Args)]
pub struct SessionsVerb {
    /// Only those of this listener.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Only those with this server.
    #[arg(long, value_name = "POOL/SERVER")]
    server: Option<String>,
    /// Only those of this client, or of clients in this network.
    #[arg(long, value_name = "CIDR", value_parser = |text: &str| network(text).map(|_| text.to_owned()))]
    source: Option<String>,
    /// How many to show, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// As JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Ends sessions: both sides are reset.
#[derive(Debug, clap::Args)]
pub struct KillVerb {
    /// Their names, as `ringway sessions` and the access log have them.
    #[arg(value_name = "ID", required = true)]
    sessions: Vec<String>,
    /// The answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Runs `sessions`: 0 shown, 1 nobody answers.
pub fn run(verb: &SessionsVerb) -> ExitCode {
    match show(verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

/// Runs `kill`: 0 all have ended, 1 some were not there, or nobody answers.
pub fn kill(verb: &KillVerb) -> ExitCode {
    match end(verb) {
        Ok(code) => ExitCode::from(code),
        Err(error) => error.report(),
    }
}

fn show(verb: &SessionsVerb) -> Result<(), ClientError> {
    let limit = Some(verb.limit.to_string());
    let asked = [("listener", &verb.listener), ("server", &verb.server), ("source", &verb.source), ("limit", &limit)];
    let asked = asked.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
    let body = verb.target.query("/v1/sessions", asked)?.accepted()?;
    if verb.json {
        print(&body);
        return Ok(());
    }
    let answer: Sessions = serde_json::from_str(&body).map_err(|error| ClientError::strange(&error))?;
    print(table(&answer));
    if !answer.complete {
        complain("ringway: a worker is too busy to be asked; this is not all");
    }
    Ok(())
}

fn table(answer: &Sessions) -> String {
    let head = ["SESSION", "CLIENT", "LISTENER", "SERVER", "STATE", "AGE", "IDLE", "IN", "OUT"].map(str::to_owned);
    let rows: Vec<[String; 9]> = std::iter::once(head).chain(answer.sessions.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..9).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0..5 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    let shown = answer.sessions.len() as u64;
    text + &match answer.found {
        found if found > shown => format!("{shown} of {found} sessions; --limit shows more, and --json all of each\n"),
        found => format!("{}\n", many(found, "session")),
    }
}

fn row(session: &SessionStatus) -> [String; 9] {
    [
        session.session.clone(),
        session.client.clone().unwrap_or_else(|| "unix".into()),
        session.listener.clone(),
        session.server.as_ref().map_or_else(|| "-".into(), |server| format!("{}/{server}", session.pool)),
        session.state.clone(),
        seconds(session.age_s),
        seconds(session.idle_s),
        bytes(session.bytes_in),
        bytes(session.bytes_out),
    ]
}

/// `0.4s`, `12s`, `5m03s`, `2h07m`, `3d04h`.
fn seconds(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..10 => format!("{seconds:.1}s"),
        10..60 => format!("{whole}s"),
        60..3_600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{}h{:02}m", whole / 3_600, whole / 60 % 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole / 3_600 % 24),
    }
}

/// `512`, `1.5k`, `20M`: in powers of 1000.
fn bytes(bytes: u64) -> String {
    let mut rest = bytes as f64;
    for unit in ["", "k", "M", "G", "T"] {
        if rest < 999.5 {
            return if unit.is_empty() || rest >= 9.95 {
                format!("{rest:.0}{unit}")
            } else {
                format!("{rest:.1}{unit}")
            };
        }
        rest /= 1000.0;
    }
    format!("{rest:.0}P")
}

fn end(verb: &KillVerb) -> Result<u8, ClientError> {
    let wish = serde_json::to_string(&Kill { sessions: verb.sessions.clone() }).expect("our own types serialise");
    let body = verb.target.post_with("/v1/kill", wish)?.accepted()?;
    let Killed { ended, unknown } = serde_json::from_str(&body).map_err(|error| ClientError::strange(&error))?;
    if verb.json {
        print(&body);
    } else {
        ended.iter().for_each(|name| print_line(format_args!("{name}: ended")));
        unknown.iter().for_each(|name| complain(format_args!("ringway: {name}: there is no such session")));
    }
    Ok(if unknown.is_empty() { exit::OK } else { exit::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let said: Vec<String> = [0.44, 9.9, 12.7, 303.0, 7_620.0, 273_600.0].into_iter().map(seconds).collect();
        assert_eq!(said, ["0.4s", "9.9s", "12s", "5m03s", "2h07m", "3d04h"]);
        let said: Vec<String> = [0, 999, 1_000, 1_540, 20_400_000, 999_600, u64::MAX].into_iter().map(bytes).collect();
        assert_eq!(said, ["0", "999", "1.0k", "1.5k", "20M", "1.0M", "18447P"]);
    }
}
