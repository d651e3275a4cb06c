//! Changing what runs without a new configuration: whether a server gets sessions.
//!
//! What is set here is kept with the server's counters, so it outlives reloads, but not the daemon.

use serde::{Deserialize, Serialize};

use crate::balance;
use crate::config::ledger::Standing;
use crate::config::plan::Plan;

/// `POST /v1/server`: what is to become of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerChange {
    /// The name of its pool.
    pub pool: String,
    /// Its name.
    pub server: String,
    /// Its new state.
    pub state: Standing,
}

/// What has become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerChanged {
    /// Its state before.
    pub was: Standing,
    /// Its state now.
    pub state: Standing,
    /// Sessions it has, which go on whatever its state.
    pub sessions: u64,
    /// No server of the pool takes sessions now.
    pub pool_is_down: bool,
}

/// Changes a server.
///
/// # Errors
/// There is no such pool, or no such server in it; in words for whoever asked.
pub(super) fn change(plan: &Plan, change: &ServerChange) -> Result<ServerChanged, String> {
    let Some(pool) = plan.pools.iter().find(|pool| *pool.name == *change.pool) else {
        let names: Vec<&str> = plan.pools.iter().map(|pool| &*pool.name).collect();
        return Err(no_such("pool", &change.pool, &names));
    };
    let Some(server) = pool.servers.iter().find(|server| *server.name == *change.server) else {
        let names: Vec<&str> = pool.servers.iter().map(|server| &*server.name).collect();
        return Err(no_such(&format!("server in pool \"{}\"", pool.name), &change.server, &names));
    };
    let was = server.ledger.standing();
    server.ledger.set_standing(change.state);
    Ok(ServerChanged {
        was,
        state: change.state,
        sessions: server.ledger.active.load(std::sync::atomic::Ordering::Relaxed).into(),
        pool_is_down: !balance::is_usable(pool),
    })
}

/// Names that are shown when one is not among them.
const NAMES_SHOWN: usize = 20;

fn no_such(what: &str, name: &str, names: &[&str]) -> String {
    let shown = names[..names.len().min(NAMES_SHOWN)].join("\", \"");
    let more = if names.len() > NAMES_SHOWN { " and others" } else { "" };
    format!("there is no {what} named \"{name}\"; there are \"{shown}\"{more}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ledger::Registry;

    fn plan() -> Plan {
        let text = "[listeners.l]\nbind = '127.0.0.1:80'\npool = 'web'\n[pools.web]\nservers = [{ name = 'a', address = \
                    '127.0.0.1:1' }, { name = 'b', address = '127.0.0.1:2' }]\n";
        let draft = crate::config::parse("test", text, &|_| None).unwrap_or_else(|complaints| panic!("{complaints}"));
        draft.compile(&mut Registry::new(1), None)
    }

    fn wish(pool: &str, server: &str, state: Standing) -> ServerChange {
        ServerChange { pool: pool.into(), server: server.into(), state }
    }

    #[test]
    fn a_server_is_taken_out_and_put_back() {
        let plan = plan();
        let changed = change(&plan, &wish("web", "a", Standing::Drain)).expect("there");
        assert_eq!((changed.was, changed.state, changed.pool_is_down), (Standing::Ready, Standing::Drain, false));
        let changed = change(&plan, &wish("web", "b", Standing::Maint)).expect("there");
        assert!(changed.pool_is_down, "that was the last");
        let changed = change(&plan, &wish("web", "a", Standing::Ready)).expect("there");
        assert_eq!((changed.was, changed.pool_is_down), (Standing::Drain, false));
    }

    #[test]
    fn a_wrong_name_is_answered_with_the_right_ones() {
        let plan = plan();
        let pool = change(&plan, &wish("wep", "a", Standing::Drain)).expect_err("no such pool");
        assert_eq!(pool, "there is no pool named \"wep\"; there are \"web\"");
        let server = change(&plan, &wish("web", "c", Standing::Drain)).expect_err("no such server");
        assert_eq!(server, "there is no server in pool \"web\" named \"c\"; there are \"a\", \"b\"");
    }

    #[test]
    fn the_wish_is_read_strictly() {
        let read = serde_json::from_str::<ServerChange>;
        let wish = read(r#"{"pool":"web","server":"a","state":"drain"}"#).expect("right");
        assert_eq!(wish, self::wish("web", "a", Standing::Drain));
        for wrong in [
            r#"{"pool":"web","server":"a","state":"gone"}"#,
            r#"{"pool":"web","server":"a","state":"drain","weight":1}"#,
            r#"{"pool":"web","state":"drain"}"#,
            "",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
