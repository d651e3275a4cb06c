//! `GET /v1/sessions` and `POST /v1/kill`: the sessions that live, and the end of some.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::steer::{no_such, pool_of, server_of};
use crate::base::limits::{KILLS_MAX, ROLL_MAX};
use crate::config::plan::Plan;
use crate::dataplane::record::{session_name, session_number};
use crate::dataplane::roll::{Called, Row, Whose};

/// Sessions that are listed unless another number is asked for.
const LIMIT_DEFAULT: usize = 100;

/// `/v1/sessions`: sessions, the oldest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sessions {
    /// How many suit.
    pub found: u64,
    /// Every worker was asked; if not, ask again.
    pub complete: bool,
    /// Those that are shown.
    pub sessions: Vec<SessionStatus>,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// What it goes by, in the access log too.
    pub session: String,
    /// The client's address and port; `null` for one of a unix socket.
    pub client: Option<String>,
    /// Where it came in.
    pub listener: String,
    /// Its pool.
    pub pool: String,
    /// Its server; `null` while it has none.
    pub server: Option<String>,
    /// `connecting`, `queued`, `greeting` or `relaying`.
    pub state: String,
    /// Seconds since it was accepted.
    pub age_s: f64,
    /// Seconds since a byte last moved.
    pub idle_s: f64,
    /// Bytes from client to server.
    pub bytes_in: u64,
    /// Bytes from server to client.
    pub bytes_out: u64,
}

/// `POST /v1/kill`: the sessions to end, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    /// Their names.
    pub sessions: Vec<String>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Killed {
    /// Those that were ended.
    pub ended: Vec<String>,
    /// Those that nobody has: they have ended already.
    pub unknown: Vec<String>,
}

/// Reads a query such as `listener=web&server=pool/a&source=10.0.0.0/8&limit=10`.
///
/// # Errors
/// What is wrong with it, for whoever asked.
pub fn question(query: &str) -> Result<(Whose, usize), String> {
    let (mut whose, mut limit) = (Whose::default(), LIMIT_DEFAULT);
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "listener" => whose.listener = Some(value.into_owned()),
            "server" => {
                let (pool, server) = value.split_once('/').ok_or("server: name the pool too, as in web/web1")?;
                whose.server = Some((pool.to_owned(), server.to_owned()));
            }
            "source" => whose.source = Some(network(&value)?),
            "limit" => {
                let number = value.parse().ok().filter(|limit| (1..=ROLL_MAX).contains(limit));
                limit = number.ok_or_else(|| format!("limit: \"{value}\" is not from 1 to {ROLL_MAX}"))?;
            }
            _ => return Err(format!("no parameter \"{key}\"; there are listener, server, source and limit")),
        }
    }
    Ok((whose, limit))
}

/// Reads an address, or a network in CIDR notation (RFC 4632).
///
/// # Errors
/// What is wrong with it.
pub fn network(text: &str) -> Result<(IpAddr, u8), String> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let wrong = || format!("source: \"{text}\" is neither an address nor a network such as 10.0.0.0/8");
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| wrong()))?;
    if bits > most {
        return Err(wrong());
    }
    Ok((address, bits))
}

/// Whether there are a listener and a server of these names. Asked when nobody was found: what has gone may have sessions yet.
///
/// # Errors
/// There are none; in words for whoever asked.
pub(super) fn exist(whose: &Whose, plan: &Plan) -> Result<(), String> {
    if let Some(name) = &whose.listener
        && !plan.listeners.iter().any(|listener| *listener.name == **name)
    {
        let names: Vec<&str> = plan.listeners.iter().map(|listener| &*listener.name).collect();
        return Err(no_such("listener", name, &names));
    }
    match &whose.server {
        Some((pool, server)) => server_of(pool_of(plan, pool)?, server).map(drop),
        None => Ok(()),
    }
}

/// What the workers called out.
pub fn listed(called: Called, limit: usize) -> Sessions {
    let Called { mut rows, found, complete } = called;
    rows.sort_by_key(|row| std::cmp::Reverse(row.age_ns));
    rows.truncate(limit);
    Sessions { found, complete, sessions: rows.iter().map(session).collect() }
}

fn session(row: &Row) -> SessionStatus {
    let pool = &row.listener.pool;
    let server = row.server.and_then(|server| pool.servers.get(usize::from(server)));
    SessionStatus {
        session: session_name(row.session),
        client: row.client.map(|client| client.to_string()),
        listener: row.listener.name.to_string(),
        pool: pool.name.to_string(),
        server: server.map(|server| server.name.to_string()),
        state: row.phase.into(),
        age_s: row.age_ns as f64 / 1e9,
        idle_s: row.idle_ns as f64 / 1e9,
        bytes_in: row.bytes_in,
        bytes_out: row.bytes_out,
    }
}

/// The sessions that are to end.
///
/// # Errors
/// One of them is no session's name, or there are none, or too many.
pub fn condemned(kill: &Kill) -> Result<Whose, String> {
    if kill.sessions.is_empty() || kill.sessions.len() > KILLS_MAX {
        return Err(format!("name 1 to {KILLS_MAX} sessions"));
    }
    let sessions = kill.sessions.iter().map(|name| number(name)).collect::<Result<_, _>>()?;
    Ok(Whose { sessions, ..Whose::default() })
}

fn number(name: &str) -> Result<u64, String> {
    session_number(name).ok_or_else(|| format!("\"{name}\" is no session's name: they look like 0-1234"))
}

/// Who of those that were to end has ended.
pub fn killed(kill: &Kill, called: &Called) -> Killed {
    let ended: Vec<String> = called.rows.iter().map(|row| session_name(row.session)).collect();
    let unknown = kill.sessions.iter().filter(|name| !ended.contains(name)).cloned().collect();
    Killed { ended, unknown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions() {
        let (whose, limit) = question("listener=web&server=pool/a&source=10.0.0.0/8&limit=7").expect("right");
        assert_eq!((whose.listener.as_deref(), limit), (Some("web"), 7));
        assert_eq!(whose.server, Some(("pool".into(), "a".into())));
        assert_eq!(whose.source, Some(([10, 0, 0, 0].into(), 8)));
        // As a browser or a library writes it (URL Standard, section 5.1).
        let written = question("listener=web&server=pool%2Fa&source=10.0.0.0%2F8&limit=%37").expect("right");
        assert_eq!(written, (whose, limit));
        assert_eq!(question("").expect("all"), (Whose::default(), 100));
        assert_eq!(network("::1"), Ok(("::1".parse().expect("an address"), 128)));
        for (query, part) in [
            ("server=a", "name the pool too"),
            ("source=10.0.0.0/33", "neither an address nor a network"),
            ("source=x", "neither an address"),
            ("limit=0", "not from 1 to 1000"),
            ("limit=1001", "not from 1 to 1000"),
            ("age=1", "no parameter \"age\""),
        ] {
            let error = question(query).expect_err(query);
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn names_and_numbers() {
        for name in ["0-1", "3-1234", "255-281474976710655"] {
            assert_eq!(session_name(number(name).expect("right")), name);
        }
        for wrong in ["", "1", "-", "a-1", "1-a", "65536-1", "0-281474976710656", "0-1-2"] {
            assert!(number(wrong).is_err(), "{wrong}");
        }
        assert!(condemned(&Kill { sessions: Vec::new() }).is_err());
        assert!(condemned(&Kill { sessions: vec!["0-1".into(); 1001] }).is_err());
    }
}
