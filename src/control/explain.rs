//! `GET /v1/explain`: which server a client would get now, and why no other.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::balance::foresight::{Why, foresee, reasons};
use crate::balance::{Caller, Pick, Tried};
use crate::base::words::many;
use crate::config::ledger::{Health, Office};
use crate::config::line::{Lane, Line};
use crate::config::plan::{Listener, Plan, Policy, Pool, Server};
use crate::dataplane::commons::monotonic_ns;
use crate::dataplane::ending::Ending;
use crate::observe::metrics::state;

/// Who asks where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The listener's name.
    pub listener: String,
    /// The client's address; `None`: one of a unix socket.
    pub source: Option<IpAddr>,
}

/// What would become of a session that began now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The listener.
    pub listener: String,
    /// Where it listens.
    pub binds: Vec<String>,
    /// The client's address.
    pub source: Option<IpAddr>,
    /// Where its sessions go.
    pub pool: String,
    /// How that chooses.
    pub policy: String,
    /// The role its servers must have; empty: any.
    pub role: String,
    /// The server it would get; `None`: none now.
    pub server: Option<String>,
    /// What would become of it, in a sentence.
    pub outcome: String,
    /// Every server of the pool, in the order of the file.
    pub servers: Vec<Standing>,
}

/// How a server stands to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: String,
    /// As `ringway_server_state` has it.
    pub state: String,
    /// One word: `chosen`, `usable`, or what speaks against it.
    pub why: String,
    /// The same for people.
    pub text: String,
}

/// Reads the query `listener=NAME&source=IP`.
///
/// # Errors
/// What is missing or wrong, for whoever asked.
pub fn question(query: &str) -> Result<Question, String> {
    let (mut listener, mut source) = (None, None);
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "listener" => listener = Some(value.into_owned()),
            "source" => source = Some(value.parse().map_err(|_| format!("source: \"{value}\" is no IP address"))?),
            _ => return Err(format!("no parameter \"{key}\"; there are listener and source")),
        }
    }
    let listener = listener.ok_or("the parameter listener is missing: listener=NAME&source=IP")?;
    Ok(Question { listener, source })
}

/// Answers it.
///
/// # Errors
/// There is no such listener; in words for whoever asked.
pub fn explain(plan: &Plan, question: &Question) -> Result<Explanation, String> {
    let Some(listener) = plan.listeners.iter().find(|listener| *listener.name == *question.listener) else {
        let names: Vec<&str> = plan.listeners.iter().map(|listener| &*listener.name).collect();
        return Err(super::steer::no_such("listener", &question.listener, &names));
    };
    let pool = &listener.pool;
    let now_ns = monotonic_ns();
    let random = crate::base::digest::mix(now_ns);
    let tried = Tried::default();
    let caller = Caller { tried: &tried, address: question.source, random, wish: listener.role, now_ns };
    let waits = pool.terms.queue.limit > 0 && line(listener).is_waited_in();
    let chosen = match foresee(pool, &caller) {
        Pick::Server(_) if waits => Pick::Full,
        chosen => chosen,
    };
    let server = match chosen {
        Pick::Server(index) => pool.servers.get(usize::from(index)),
        Pick::Full | Pick::None => None,
    };
    let standings = pool.servers.iter().zip(reasons(pool, &caller, chosen));
    Ok(Explanation {
        listener: listener.name.to_string(),
        binds: listener.binds.iter().map(ToString::to_string).collect(),
        source: question.source,
        pool: pool.name.to_string(),
        policy: pool.policy.name().into(),
        role: listener.role.map_or("", |wish| wish.role.name()).into(),
        server: server.map(|server| server.name.to_string()),
        outcome: outcome(listener, chosen, server),
        servers: standings.map(|(server, why)| standing(listener, server, why)).collect(),
    })
}

/// Where its sessions wait.
fn line(listener: &Listener) -> &Line {
    listener.pool.ledger.line.of(Lane::of(listener.role, false))
}

fn outcome(listener: &Listener, chosen: Pick, server: Option<&Server>) -> String {
    let pool = &listener.pool;
    match (chosen, server) {
        (_, Some(server)) => format!("it gets {}: {}", server.name, how(pool)),
        (Pick::None, _) if listener.role.is_some() && pool.terms.queue.limit > 0 => {
            format!("no server has the role: it waits in the queue, behind {} others", line(listener).waiting())
        }
        (Pick::None, _) => format!("no server is to be had: it ends as {}", Ending::NoServer.reason()),
        _ if pool.terms.queue.limit > 0 => {
            format!("every server is full: it waits in the queue, behind {} others", line(listener).waiting())
        }
        _ if pool.is_paced => {
            format!("every server has all it may have for now: it ends as {}", Ending::ConnectRate.reason())
        }
        _ => format!("every server is full: it ends as {}", Ending::ServersFull.reason()),
    }
}

/// How much the answer is worth a moment later.
fn how(pool: &Pool) -> &'static str {
    match pool.policy {
        Policy::RoundRobin => "the next in turn, unless another client comes first",
        Policy::LeastConnections => "the least loaded for its weight at this moment",
        Policy::RandomTwo => "the less loaded of two drawn at random; another draw may choose another",
        Policy::SourceHash => "this address goes there as long as it is to be had (rendezvous of the servers' names)",
        Policy::Maglev => "this address goes there as long as it is to be had (maglev table)",
        Policy::First => "the first of the file that is to be had",
    }
}

fn standing(listener: &Listener, server: &Server, why: Why) -> Standing {
    let bulletin = server.ledger.bulletin().clone();
    let because = if bulletin.reason.is_empty() { String::new() } else { format!(": {}", bulletin.reason) };
    let text = match why {
        Why::Chosen => "chosen".into(),
        Why::Usable => "usable, and not its turn".into(),
        Why::Backup => "a backup: for when no other is usable".into(),
        Why::NoWeight => "weight 0: it gets no new sessions".into(),
        Why::Drain => "it drains: set so by an operator".into(),
        Why::Maint => "in maintenance: set so by an operator".into(),
        Why::Role => {
            let wanted = listener.role.map_or("", |wish| wish.role.name());
            let because = match (server.ledger.office(), server.ledger.health(), bulletin.no_role) {
                (Office::None, Health::Checking | Health::Down, _) => because,
                (Office::Primary | Office::Replica { .. }, ..) | (.., "") => String::new(),
                (Office::None, _, no_role) => format!(": {no_role}"),
            };
            format!("it is not a {wanted}, which the listener wants{because}")
        }
        Why::Down => format!("down{because}"),
        Why::Checking if bulletin.reason.is_empty() => "not checked to an end yet".into(),
        Why::Checking => bulletin.reason,
        Why::Ejected => format!("ejected for a while{because}"),
        Why::Full => format!("full: it has {}, all it may have", many(server.max_connections, "session")),
        Why::Paced => "connect_rate: it has all the connects it may have for now".into(),
    };
    Standing {
        name: server.name.to_string(),
        address: server.address.to_string(),
        state: state(server).into(),
        why: why.word().into(),
        text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ledger::{Health, Registry, Standing as Wanted};
    use std::sync::atomic::Ordering;

    fn plan(policy: &str) -> Plan {
        let text = format!(
            "[listeners.web]\nbind = '127.0.0.1:80'\npool = 'web'\n[pools.web]\npolicy = '{policy}'\nservers = [\n\
             {{ name = 'a', address = '127.0.0.1:1', max_connections = 1 }},\n{{ name = 'b', address = '127.0.0.1:2' }},\n\
             {{ name = 'c', address = '127.0.0.1:3', backup = true }}]\n"
        );
        let draft = crate::config::parse("test", &text, &|_| None).unwrap_or_else(|complaints| panic!("{complaints}"));
        draft.compile(&mut Registry::new(1), None)
    }

    fn answer(plan: &Plan, source: &str) -> Explanation {
        let question = question(&format!("listener=web&source={source}")).expect("right");
        explain(plan, &question).expect("there")
    }

    fn whys(answer: &Explanation) -> Vec<&str> {
        answer.servers.iter().map(|server| &*server.why).collect()
    }

    #[test]
    fn the_answer_is_what_comes_next_and_asking_changes_nothing() {
        let plan = plan("round-robin");
        for _ in 0..3 {
            assert_eq!(whys(&answer(&plan, "10.0.0.1")), ["chosen", "usable", "backup"]);
        }
        let pool = &plan.pools[0];
        assert_eq!(pool.servers[0].ledger.active.load(Ordering::Relaxed), 0);
        pool.ledger.rotation.fetch_add(1, Ordering::Relaxed);
        assert_eq!(answer(&plan, "::1").server.as_deref(), Some("b"));
        pool.ledger.rotation.fetch_add(1, Ordering::Relaxed);
        pool.servers[0].ledger.active.store(1, Ordering::Relaxed);
        let full = answer(&plan, "10.0.0.1");
        assert_eq!(whys(&full), ["full", "chosen", "backup"]);
        assert_eq!(full.servers[0].text, "full: it has 1 session, all it may have");
    }

    #[test]
    fn what_speaks_against_a_server_is_named() {
        let plan = plan("first");
        let [a, b, c] = [0, 1, 2].map(|at| &plan.pools[0].servers[at].ledger);
        a.set_standing(Wanted::Drain);
        b.set_health(Health::Down);
        assert_eq!(whys(&answer(&plan, "10.0.0.1")), ["drain", "down", "chosen"]);
        c.set_standing(Wanted::Maint);
        let none = answer(&plan, "10.0.0.1");
        assert_eq!((none.server, &*none.outcome), (None, "no server is to be had: it ends as no_server"));
    }

    #[test]
    fn by_source_it_is_the_same_for_an_address() {
        let plan = plan("source-hash");
        let chosen: Vec<_> = (0..20).map(|i| answer(&plan, &format!("10.0.0.{i}")).server).collect();
        let again: Vec<_> = (0..20).map(|i| answer(&plan, &format!("10.0.0.{i}")).server).collect();
        assert_eq!(chosen, again);
        assert!(chosen.contains(&Some("a".into())) && chosen.contains(&Some("b".into())), "{chosen:?}");
    }

    #[test]
    fn wrong_questions() {
        for (query, part) in [
            ("", "listener is missing"),
            ("listener=web&source=nobody", "\"nobody\" is no IP address"),
            ("listener=web&who=me", "no parameter \"who\""),
        ] {
            let error = question(query).expect_err(query);
            assert!(error.contains(part), "{error}");
        }
        let error = explain(&plan("first"), &question("listener=wep").expect("right")).expect_err("no such");
        assert_eq!(error, "there is no listener named \"wep\"; there are \"web\"");
    }
}
