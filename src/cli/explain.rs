//! `ringway explain`: which server a client of a running daemon would get, and why no other.

use std::net::IpAddr;
use std::process::ExitCode;

use super::client::{ClientError, Target};
use super::exit;
use super::out::print;
use crate::control::explain::Explanation;

/// Shows which server a client would get now, and why no other. Asking changes nothing.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// The listener it comes to.
    #[arg(long, value_name = "NAME")]
    listener: String,
    /// Its address. Without one: a client of a unix socket.
    #[arg(long, value_name = "IP")]
    source: Option<IpAddr>,
    /// The answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// Runs the verb: 0 it would get a server, 1 it would not, or nobody answers.
pub fn run(verb: &Explain) -> ExitCode {
    match show(verb) {
        Ok(code) => ExitCode::from(code),
        Err(error) => error.report(),
    }
}

fn show(verb: &Explain) -> Result<u8, ClientError> {
    let source = verb.source.map(|source| ("source", source.to_string()));
    let asked = [("listener", verb.listener.clone())].into_iter().chain(source);
    let body = verb.target.query("/v1/explain", asked)?.accepted()?;
    let answer: Explanation = serde_json::from_str(&body).map_err(|error| ClientError::strange(&error))?;
    print(&if verb.json { body } else { table(&answer) });
    Ok(if answer.server.is_some() { exit::OK } else { exit::FAILURE })
}

fn table(answer: &Explanation) -> String {
    let Explanation { listener, binds, pool, policy, role, outcome, servers, .. } = answer;
    let role = if role.is_empty() { String::new() } else { format!(", only a {role}") };
    let mut text = format!("listener {listener} ({}) → pool {pool}, {policy}{role}\n{outcome}\n", binds.join(", "));
    let width = |part: fn(&crate::control::explain::Standing) -> &str| {
        servers.iter().map(|server| part(server).chars().count()).max().unwrap_or(0)
    };
    let (name, address) = (width(|server| &server.name), width(|server| &server.address));
    for server in servers {
        text += &format!("  {:name$}  {:address$}  {}\n", server.name, server.address, server.text);
    }
    text
}
