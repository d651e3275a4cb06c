//! Changing what runs without a new configuration: whether a server gets sessions, and how many.
//!
//! Its state is kept with the server's counters; its weight and limit beside the file (`config::tuning`). Both outlive
//! reloads, but not the daemon.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::balance;
use crate::config::ledger::Standing;
use crate::config::overlay::Setting;
use crate::config::plan::{Plan, Pool, Server};
use crate::config::tuning::Wish;

use super::shepherd::{Owner, Way};
use super::span::Span;

/// `POST /v1/server`: what is to become of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerChange {
    /// The name of its pool.
    pub pool: String,
    /// Its name.
    pub server: String,
    /// Its new state; as it was when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Standing>,
    /// Its new weight, 0 to 256; as it was when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Its new limit on sessions, 0 for none; as it was when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// With state `drain` or `maint`: its sessions are ended over this time, the idle first; they go on when absent.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub over: Option<Span>,
    /// At the end of that time those that are busy are ended, too.
    #[serde(default)]
    pub close: bool,
    /// What is set of state, weight and limit is so after a restart, too.
    #[serde(default)]
    pub persist: bool,
}

impl ServerChange {
    /// What of it is kept.
    pub(super) fn setting(&self) -> Setting {
        let Self { state, weight, max_connections, .. } = *self;
        Setting { standing: state, weight, max_connections }
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    /// Why not, in words for whoever asked.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.state.is_none() && self.wish().is_none() {
            return Err("nothing to change; give state, weight or max_connections");
        }
        if self.over.is_some() && !matches!(self.state, Some(Standing::Drain | Standing::Maint)) {
            return Err("`for` is for a server that is set to drain or to maint");
        }
        is_whole(self.over, self.close)
    }

    /// How its sessions are to be ended.
    pub(super) fn way(&self) -> Option<Way> {
        self.over.map(|over| Way { over, close: self.close })
    }

    /// What of it is set beside the file.
    pub(super) fn wish(&self) -> Option<Wish> {
        let Self { weight, max_connections, .. } = *self;
        (weight.is_some() || max_connections.is_some()).then_some(Wish { weight, max_connections })
    }
}

/// `POST /v1/drain`: whether traffic should come to this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// It should come again, and sessions that are being ended go on.
    #[serde(default)]
    pub undo: bool,
    /// Sessions are ended over this time, the idle first; they go on when absent.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub over: Option<Span>,
    /// At the end of that time those that are busy are ended, too.
    #[serde(default)]
    pub close: bool,
}

impl Drain {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// Why not, in words for whoever asked.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.undo && self.over.is_some() {
            return Err("`undo` and `for` are opposites");
        }
        is_whole(self.over, self.close)
    }

    /// How sessions are to be ended.
    pub(super) fn way(&self) -> Option<Way> {
        self.over.map(|over| Way { over, close: self.close })
    }
}

fn is_whole(over: Option<Span>, close: bool) -> Result<(), &'static str> {
    if close && over.is_none() {
        return Err("`close` is for the end of a time; give `for`, too");
    }
    Ok(())
}

/// What has become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// What `/readyz` says now.
    pub ready: bool,
    /// Sessions there are.
    pub sessions: u64,
}

/// Why a server is not changed, in words for whoever asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such server.
    NotFound(String),
    /// It cannot be made so.
    Unfit(String),
}

/// What has become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerChanged {
    /// Its state before.
    pub was: Standing,
    /// Its state now.
    pub state: Standing,
    /// Its weight now.
    pub weight: u64,
    /// Sessions it may have now; 0: any number.
    pub max_connections: u64,
    /// Sessions it has.
    pub sessions: u64,
    /// No server of the pool takes sessions now.
    pub pool_is_down: bool,
    /// The file that keeps what was set; `null`: the state holds until the daemon ends, the rest until the file says otherwise.
    pub kept_in: Option<String>,
}

impl ServerChanged {
    /// What was set, in words for the log.
    pub(super) fn told(&self, change: &ServerChange) -> String {
        let mut words = Vec::new();
        if change.state.is_some() {
            words.push(format!("{} (was {})", self.state.word(), self.was.word()));
        }
        if change.weight.is_some() {
            words.push(format!("weight {}", self.weight));
        }
        match (change.max_connections, self.max_connections) {
            (None, _) => {}
            (Some(_), 0) => words.push("no max_connections".into()),
            (Some(_), most) => words.push(format!("max_connections {most}")),
        }
        words.join(", ")
    }
}

/// Whose sessions a change is about.
///
/// # Errors
/// As [`find`].
pub(super) fn owner(plan: &Plan, change: &ServerChange) -> Result<Owner, String> {
    let (pool, server) = find(plan, change)?;
    let (pool, name) = (Arc::clone(&pool.name), Arc::clone(&server.name));
    Ok(Owner::Server { pool, server: name, ledger: Arc::clone(&server.ledger) })
}

/// The server a change is about, and its pool.
///
/// # Errors
/// There is no such pool, or no such server in it; in words for whoever asked.
pub(super) fn find<'a>(plan: &'a Plan, change: &ServerChange) -> Result<(&'a Pool, &'a Server), String> {
    let pool = pool_of(plan, &change.pool)?;
    Ok((pool, server_of(pool, &change.server)?))
}

/// The pool of that name.
///
/// # Errors
/// There is none; in words for whoever asked.
pub(super) fn pool_of<'a>(plan: &'a Plan, name: &str) -> Result<&'a Arc<Pool>, String> {
    let names = || plan.pools.iter().map(|pool| &*pool.name).collect::<Vec<_>>();
    let found = plan.pools.iter().find(|pool| *pool.name == *name);
    found.ok_or_else(|| no_such("pool", name, &names()))
}

/// The server of that name.
///
/// # Errors
/// There is none; in words for whoever asked.
pub(super) fn server_of<'a>(pool: &'a Pool, name: &str) -> Result<&'a Server, String> {
    let names = || pool.servers.iter().map(|server| &*server.name).collect::<Vec<_>>();
    let found = pool.servers.iter().find(|server| *server.name == *name);
    found.ok_or_else(|| no_such(&format!("server in pool \"{}\"", pool.name), name, &names()))
}

/// Sessions of a server that is about to go, or 0 for one that is about to come.
///
/// # Errors
/// There is no such pool, or no such server to go; in words for whoever asked.
pub(super) fn sessions_of(plan: &Plan, (pool, server): (&str, &str), goes: bool) -> Result<u64, String> {
    let pool = pool_of(plan, pool)?;
    if !goes {
        return Ok(0);
    }
    Ok(server_of(pool, server)?.ledger.active.load(std::sync::atomic::Ordering::Relaxed).into())
}

/// Changes the state of a server, and says how it stands.
///
/// # Errors
/// As [`find`].
pub(super) fn change(plan: &Plan, change: &ServerChange) -> Result<ServerChanged, String> {
    let (pool, server) = find(plan, change)?;
    let was = server.ledger.standing();
    if let Some(state) = change.state {
        server.ledger.set_standing(state);
    }
    Ok(ServerChanged {
        was,
        state: change.state.unwrap_or(was),
        weight: server.weight.into(),
        max_connections: server.max_connections.into(),
        sessions: server.ledger.active.load(std::sync::atomic::Ordering::Relaxed).into(),
        pool_is_down: !balance::is_usable(pool),
        kept_in: None,
    })
}

/// Puts into force what a plan says of the states of its servers, where that is something else than `old` says: what an
/// operator has said since holds.
pub(super) fn settle(plan: &Plan, old: Option<&Plan>) {
    let servers = |plan: &Plan| {
        let servers = plan.pools.iter().flat_map(|pool| &pool.servers);
        servers.map(|server| (Arc::as_ptr(&server.ledger), server.standing)).collect::<HashMap<_, _>>()
    };
    let before = old.map(servers).unwrap_or_default();
    for server in plan.pools.iter().flat_map(|pool| &pool.servers) {
        let before = before.get(&Arc::as_ptr(&server.ledger)).copied().unwrap_or(Standing::Ready);
        if server.standing != before {
            server.ledger.set_standing(server.standing);
        }
    }
}

/// Names that are shown when one is not among them.
const NAMES_SHOWN: usize = 20;

pub(super) fn no_such(what: &str, name: &str, names: &[&str]) -> String {
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
        ServerChange { pool: pool.into(), server: server.into(), state: Some(state), ..ServerChange::default() }
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
    fn what_was_set_is_told() {
        let plan = plan();
        let mut wish = wish("web", "a", Standing::Drain);
        let told = |wish: &ServerChange| change(&plan, wish).expect("there").told(wish);
        assert_eq!(told(&wish), "drain (was ready)");
        (wish.weight, wish.max_connections) = (Some(1), Some(0));
        assert_eq!(told(&wish), "drain (was drain), weight 1, no max_connections");
        (wish.state, wish.max_connections) = (None, None);
        assert_eq!(told(&wish), "weight 1");
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
        let wish = read(r#"{"pool":"web","server":"a","weight":3}"#).expect("right");
        assert_eq!((wish.state, wish.wish().and_then(|wish| wish.weight)), (None, Some(3)));
        for (half, part) in [
            (r#"{"pool":"web","server":"a"}"#, "nothing to change"),
            (r#"{"pool":"web","server":"a","state":"ready","for":"2m"}"#, "set to drain"),
            (r#"{"pool":"web","server":"a","weight":1,"for":"2m"}"#, "set to drain"),
            (r#"{"pool":"web","server":"a","state":"drain","close":true}"#, "give `for`"),
        ] {
            let error = read(half).expect("it is read").check().expect_err(half);
            assert!(error.contains(part), "{error}");
        }
        let wish = read(r#"{"pool":"web","server":"a","state":"drain","for":"2m","close":true}"#).expect("right");
        assert_eq!((wish.check(), wish.way().map(|way| way.over.to_string())), (Ok(()), Some("2m".into())));
        let drain = |text| serde_json::from_str::<Drain>(text).expect("it is read").check();
        assert_eq!((drain("{}"), drain(r#"{"for":"2m","close":true}"#)), (Ok(()), Ok(())));
        assert!(drain(r#"{"undo":true,"for":"2m"}"#).is_err() && drain(r#"{"close":true}"#).is_err());
        for wrong in [
            r#"{"pool":"web","server":"a","state":"gone"}"#,
            r#"{"pool":"web","server":"a","state":"drain","wait":1}"#,
            r#"{"pool":"web","server":"a","state":"drain","for":"120"}"#,
            r#"{"pool":"web","server":"a","state":"drain","for":120}"#,
            r#"{"pool":"web","server":"a","weight":-1}"#,
            r#"{"pool":"web","state":"drain"}"#,
            "",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
