//! The roles of MySQL servers: hears what each says of itself, and acts on what the brain of its pool makes of it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::Notify;

use crate::config::ledger::Office as Held;
use crate::config::plan::{OnDown, OnSplit, Plan, Pool};
use crate::dataplane::commons::monotonic_ns;
use crate::dataplane::ending::Ending;
use crate::dataplane::evict::{Eviction, Whom};
use crate::health::mysql::probe::Outcome;
use crate::health::mysql::roles::{Brain, News, Role, Rules, Why};
use crate::observe::event::Event;

use super::office::Office;
use super::ward::{Ward, id};

/// One brain a pool.
#[derive(Default)]
pub(super) struct Council {
    seats: RefCell<HashMap<Arc<str>, Seating>>,
    /// By server: rung to have it asked at once.
    bells: RefCell<HashMap<usize, Rc<Notify>>>,
}

struct Seating {
    pool: Arc<Pool>,
    brain: Brain,
    /// The servers, by what they go by.
    ids: Vec<usize>,
    /// What each was when that was last acted on.
    told: Vec<Role>,
}

impl Council {
    /// What is rung when a server is to be asked at once.
    pub(super) fn bell(&self, ward: &Ward) -> Rc<Notify> {
        Rc::clone(self.bells.borrow_mut().entry(ward.id()).or_default())
    }

    /// Takes the pools of a new plan up; what is known of servers that stay is kept.
    pub(super) fn adopt(&self, plan: &Plan, office: &Office) {
        let mut old = self.seats.take();
        let before: Vec<Arc<Pool>> = old.values().map(|seating| Arc::clone(&seating.pool)).collect();
        let mut news = Vec::new();
        for pool in &plan.pools {
            let Some(rules) = pool.care.check.as_ref().and_then(Rules::of) else {
                for server in &pool.servers {
                    server.ledger.set_office(Held::None);
                    server.ledger.bulletin().no_role = "";
                }
                pool.ledger.split.store(false, Ordering::Relaxed);
                continue;
            };
            let ids: Vec<usize> = pool.servers.iter().map(|server| id(&server.ledger)).collect();
            let (brain, told) = match old.remove(&pool.name) {
                Some(seating) => {
                    let place = |id: &usize| seating.ids.iter().position(|known| known == id);
                    let places: Vec<Option<usize>> = ids.iter().map(place).collect();
                    let told =
                        |place: &Option<usize>| place.map_or(Role::None(Why::Unheard), |place| seating.told[place]);
                    (seating.brain.follow(rules, &places), places.iter().map(told).collect())
                }
                None => (Brain::new(rules, ids.len()), vec![Role::None(Why::Unheard); ids.len()]),
            };
            let mut seating = Seating { pool: Arc::clone(pool), brain, ids, told };
            // Other rules may mean other roles.
            news.push((Arc::clone(pool), seating.brain.reconsider()));
            self.seats.borrow_mut().insert(Arc::clone(&pool.name), seating);
        }
        let seats = self.seats.borrow();
        let present = |id: &usize| seats.values().any(|seating| seating.ids.contains(id));
        self.bells.borrow_mut().retain(|id, _| present(id));
        // Nobody asks who is gone, so nobody can say that he is still what he was: who goes by an old plan must not take him for
        // the primary beside the new one. The sessions he has stay.
        let gone = before.iter().flat_map(|pool| &pool.servers).filter(|server| !present(&id(&server.ledger)));
        gone.for_each(|server| server.ledger.set_office(Held::None));
        drop(seats);
        for (pool, news) in news {
            self.act(&pool, &news, office);
        }
    }

    /// A round of questions to a server has come to an end.
    pub(super) fn hear(&self, ward: &Ward, outcome: &Outcome, office: &Office) {
        let (pool, _) = ward.place();
        ward.ledger.bulletin().lag_s = outcome.report.as_ref().and_then(|report| report.replication.lag_s());
        let mut seats = self.seats.borrow_mut();
        let Some(seating) = seats.get_mut(&pool.name) else { return };
        let Some(index) = seating.ids.iter().position(|id| *id == ward.id()) else { return };
        let news = match (&outcome.report, &outcome.fault) {
            (Some(report), _) => seating.brain.hear(index, report.clone()),
            (None, fault) => seating.brain.miss(index, fault.as_ref().is_some_and(|fault| fault.answers())),
        };
        let pool = Arc::clone(&seating.pool);
        drop(seats);
        self.act(&pool, &news, office);
    }

    /// Publishes the roles, says what has changed, and sends away who has no business any more where he is.
    fn act(&self, pool: &Arc<Pool>, news: &[News], office: &Office) {
        let mut seats = self.seats.borrow_mut();
        let Some(seating) = seats.get_mut(&pool.name) else { return };
        let mut lost = Vec::new();
        let mut is_news = false;
        for (index, server) in pool.servers.iter().enumerate() {
            let role = seating.brain.role(index);
            let held = match role {
                Role::Primary => Held::Primary,
                Role::Replica { share } => Held::Replica { share },
                Role::None(_) => Held::None,
            };
            let before = server.ledger.office();
            server.ledger.set_office(held);
            is_news |= before != held;
            if role.sends_away(std::mem::replace(&mut seating.told[index], role)) {
                lost.push((index, role));
            }
        }
        // All roles are told before anybody is sent away: who comes back finds the new ones.
        for (index, role) in lost {
            send_away(pool, index, role, office);
        }
        if is_news {
            office.call_waiting(pool);
        }
        pool.ledger.split.store(seating.brain.is_split(), Ordering::Relaxed);
        self.hurry(seating, news);
        news.iter().for_each(|piece| note(seating, piece));
        drop(seats);
        for piece in news {
            say(pool, piece, office);
        }
    }

    /// When the primary is one no more, whoever may be the next is asked at once; and so is a primary when another takes
    /// writes.
    fn hurry(&self, seating: &Seating, news: &[News]) {
        let servers = match news.iter().any(|piece| matches!(piece, News::Primary { to: None, .. })) {
            true => (0..seating.ids.len()).collect(),
            false => seating.brain.doubtful(),
        };
        let bells = self.bells.borrow();
        let bells = servers.iter().filter_map(|&server| bells.get(seating.ids.get(server)?));
        bells.for_each(|bell| bell.notify_one());
    }
}

fn send_away(pool: &Pool, index: usize, role: Role, office: &Office) {
    let terms = pool.care.check.as_ref().and_then(|check| check.roles);
    let is_silent = role == Role::None(Why::Silent);
    if is_silent && pool.care.on_down == OnDown::Keep {
        return;
    }
    // Who is with a server that says nothing more is helped most by being told so.
    let grace_ms = if is_silent { 0 } else { terms.map_or(0, |terms| terms.grace_ms) };
    let whom = Whom::Astray { lost_ns: monotonic_ns(), grace_ns: u64::from(grace_ms) * 1_000_000 };
    office.evict(Eviction { server: Arc::clone(&pool.servers[index].ledger), ending: Ending::RoleLost, whom });
}

/// Keeps why servers have no role, for whoever asks.
fn note(seating: &Seating, piece: &News) {
    let about = match piece {
        News::Primary { from, to } => [*from, *to],
        News::Role { server, .. } => [Some(*server), None],
        News::SplitBegan(_) | News::SplitEnded => [None, None],
    };
    for index in about.into_iter().flatten() {
        let Some(server) = seating.pool.servers.get(index) else { continue };
        server.ledger.bulletin().no_role = match seating.brain.role(index) {
            Role::None(why) => explained(why),
            Role::Primary | Role::Replica { .. } => "",
        };
    }
}

fn say(pool: &Pool, piece: &News, office: &Office) {
    let name = |index: usize| pool.servers.get(index).map_or("?", |server| &*server.name);
    let told = |event: Event| event.with("pool", &*pool.name);
    let event = match piece {
        News::Primary { from, to } => {
            pool.ledger.role_changes.bump();
            let was = from.map_or_else(String::new, |from| format!("; it was {}", name(from)));
            let (message, event) = match to {
                Some(to) => (
                    format!("server {} of pool {} is primary{was}", name(*to), pool.name),
                    Event::info as fn(_, _) -> _,
                ),
                None => {
                    let then = if pool.terms.queue.limit > 0 { "wait in the queue" } else { "are refused" };
                    let message = format!("pool {} has no primary: writes {then}{was}", pool.name);
                    (message, Event::warn as fn(_, _) -> _)
                }
            };
            let event: Event = event("role", message);
            let event = event.with("role", "primary").with("server", to.map_or("", name));
            event.with("before", from.map_or("", name))
        }
        News::Role { server, role } => {
            let who = format!("server {} of pool {}", name(*server), pool.name);
            match role {
                Role::Primary => return,
                Role::Replica { .. } => Event::info("role", format!("{who} is a replica")).with("role", "replica"),
                Role::None(why) => {
                    let message = format!("{who} has no role: {}", explained(*why));
                    Event::warn("role", message).with("role", "none").with("reason", why.word())
                }
            }
            .with("server", name(*server))
        }
        News::SplitBegan(servers) => {
            let names: Vec<&str> = servers.iter().map(|&server| name(server)).collect();
            let deny = pool.care.check.as_ref().and_then(|check| check.roles).map(|terms| terms.on_split);
            let then = match deny {
                Some(OnSplit::Deny) => "nobody gets writes (on_split = \"deny\")",
                _ => "only the last primary gets writes (on_split = \"keep-last\")",
            };
            let message = format!("split brain in pool {}: {} all take writes; {then}", pool.name, names.join(", "));
            Event::error("split_brain", message).with("servers", names.join(" ")).with("split", true)
        }
        News::SplitEnded => {
            let message = format!("pool {} is no longer split", pool.name);
            Event::info("split_brain", message).with("split", false)
        }
    };
    office.tell(told(event));
}

fn explained(why: Why) -> &'static str {
    match why {
        Why::Unheard => "not all servers of its pool have been asked yet",
        Why::Silent => "it does not answer",
        Why::Split => "it takes writes, and is not the primary",
        Why::Detached => "it is read-only, and replicates from nobody",
        Why::Hidden => "the account may not see its replication (grant REPLICATION CLIENT, on MariaDB REPLICA MONITOR)",
        Why::Broken => "its replication is broken",
        Why::Behind => "it is too far behind",
    }
}
