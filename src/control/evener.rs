//! The evener brings a pool into balance (`ringway rebalance`): sessions that live for long sit where they were put while a
//! server was away, and nobody would move them when it is back.
//!
//! ```text
//! count ──▶ who holds more than its share? ──nobody──▶ done
//!   ▲                    │ idle sessions of these leave, evenly over the time that was given
//!   └── every second, ◀──┘ never more than were too many at first, nor than are too many now
//!       and when the servers that may be chosen are others
//! ```
//!
//! While it is counted nobody leaves, so a count is never older than what was done by it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::balance::level::{Level, levels, takers};
use crate::base::limits::PACED_MAX;
use crate::config::ledger::ServerLedger;
use crate::config::plan::{Plan, Policy, Pool, RoleWish, ServerRole};
use crate::dataplane::census::Census;
use crate::dataplane::commons::monotonic_ns;
use crate::dataplane::exodus::{Exodus, Group, Whose};
use crate::dataplane::roll::Roll;
use crate::observe::event::Event;
use crate::observe::writer::Log;

use super::fleet::Fleet;
use super::shepherd::STEP;
use super::span::Span;
use super::steer::{Refused, pool_of};
use super::tempo::Tempo;

/// How long a count holds.
const COUNT_HOLDS: Duration = Duration::from_secs(1);
/// Over which time sessions are ended unless another is given.
const SPAN_DEFAULT: Span = Span::of_seconds(60);

/// `POST /v1/rebalance`: a pool that is to be brought into balance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rebalance {
    /// Its name.
    pub pool: String,
    /// Over which time sessions are ended; a minute when absent.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub over: Option<Span>,
    /// Nothing is done; the answer says what would be.
    #[serde(default)]
    pub dry_run: bool,
    /// No more sessions are ended.
    #[serde(default)]
    pub stop: bool,
}

/// What comes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebalanced {
    /// The pool.
    pub pool: String,
    /// Sessions that are too many where they are: as many are ended at most, or would be.
    pub excess: u64,
    /// Sessions that were ended before it was stopped.
    pub ended: u64,
    /// The servers that have sessions, or are to have some; by role, where listeners want one.
    pub servers: Vec<Uneven>,
}

/// How a server stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uneven {
    /// Its name.
    pub server: String,
    /// What the listeners want whose sessions these are: `primary`, `replica` or `replica_or_primary`; `null`: any server.
    pub role: Option<String>,
    /// Sessions it has.
    pub sessions: u64,
    /// What of all such sessions is its share.
    pub share: u64,
    /// Sessions that are too many.
    pub excess: u64,
    /// Sessions that are idle now, of all it has.
    pub idle: u64,
}

/// Takes the answer.
pub(super) type Reply = Box<dyn FnOnce(Result<Rebalanced, Refused>) + Send>;

/// All pools that are being brought into balance.
#[derive(Debug)]
pub(super) struct Evener {
    evenings: Vec<Evening>,
    last: Instant,
}

/// One of them.
struct Evening {
    pool: Arc<str>,
    over: Span,
    dry_run: bool,
    /// Who wants to know what the first count came to.
    reply: Option<Reply>,
    /// A count that is under way; there is one at the beginning.
    count: Option<Count>,
    march: Option<March>,
}

impl std::fmt::Debug for Evening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evening").field("pool", &self.pool).field("march", &self.march).finish_non_exhaustive()
    }
}

struct Count {
    pool: Arc<Pool>,
    wishes: Vec<Option<RoleWish>>,
    census: Arc<Census>,
    /// Set when it is over: whether every worker was asked.
    done: Arc<OnceLock<bool>>,
}

/// Sessions that leave.
#[derive(Debug)]
struct March {
    order: Arc<Exodus>,
    /// Where they leave from, in the order of its groups.
    sources: Vec<Origin>,
    tempo: Tempo,
    /// When it was counted last, and who could be chosen then, by wish.
    counted: Instant,
    takers: Vec<(Option<RoleWish>, Vec<bool>)>,
    /// Sessions that were too many at first.
    excess: u64,
}

/// Sessions of one wish with one server that has too many.
#[derive(Debug)]
struct Origin {
    ledger: Arc<ServerLedger>,
    wish: Option<RoleWish>,
    /// How many, at first.
    excess: u64,
}

impl Evener {
    /// One with nothing to do.
    pub(super) fn new() -> Self {
        Self { evenings: Vec::new(), last: Instant::now() }
    }

    /// Begins with a pool, or ends with it; the answer comes when its sessions are counted.
    pub(super) fn even(&mut self, wish: &Rebalance, plan: &Plan, fleet: &mut Fleet, log: &Log, reply: Reply) {
        let pool = match check(wish, plan) {
            Ok(pool) => pool,
            Err(refused) => return reply(Err(refused)),
        };
        let mut ended = 0;
        if !wish.dry_run {
            let earlier = self.evenings.iter().position(|evening| !evening.dry_run && evening.pool == pool.name);
            if let Some(earlier) = earlier.map(|at| self.evenings.swap_remove(at)) {
                ended = earlier.stop("it was told to", log);
            }
        }
        if wish.stop {
            return reply(Ok(Rebalanced { pool: wish.pool.clone(), excess: 0, ended, servers: Vec::new() }));
        }
        if self.evenings.len() >= PACED_MAX {
            return reply(Err(Refused::Unfit(format!("{PACED_MAX} pools are being rebalanced already; wait"))));
        }
        if self.evenings.is_empty() {
            self.last = Instant::now();
        }
        let count = Some(Count::begin(plan, pool, fleet));
        let (over, dry_run) = (wish.over.unwrap_or(SPAN_DEFAULT), wish.dry_run);
        let evening = Evening { pool: Arc::clone(&pool.name), over, dry_run, reply: Some(reply), count, march: None };
        self.evenings.push(evening);
    }

    /// When to step next; `None`: never.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.evenings.is_empty()).then(|| self.last + STEP)
    }

    /// Goes on.
    pub(super) fn step(&mut self, plan: &Plan, fleet: &mut Fleet, log: &Log) {
        let now = Instant::now();
        self.last = now;
        for mut evening in std::mem::take(&mut self.evenings) {
            match evening.step(now, plan, fleet, log) {
                Ok(()) => self.evenings.push(evening),
                Err(why) => {
                    evening.stop(why, log);
                }
            }
        }
    }

    /// Ends with all.
    pub(super) fn leave_all(&mut self, log: &Log) {
        for evening in self.evenings.drain(..) {
            evening.stop("the daemon stops", log);
        }
    }
}

/// The pool, if it can be brought into balance.
fn check<'a>(wish: &Rebalance, plan: &'a Plan) -> Result<&'a Arc<Pool>, Refused> {
    let pool = pool_of(plan, &wish.pool).map_err(Refused::NotFound)?;
    let comes_back = match pool.policy {
        Policy::SourceHash | Policy::Maglev => "a client that comes back gets the same server",
        Policy::First => "the first server with room gets everybody",
        Policy::RoundRobin | Policy::LeastConnections | Policy::RandomTwo => return Ok(pool),
    };
    let (name, policy) = (&pool.name, pool.policy.name());
    Err(Refused::Unfit(format!("there is nothing to even out in pool \"{name}\": by policy \"{policy}\" {comes_back}")))
}

impl Evening {
    /// Goes on; the error is why it is over.
    fn step(&mut self, now: Instant, plan: &Plan, fleet: &mut Fleet, log: &Log) -> Result<(), &'static str> {
        let pool = plan.pools.iter().find(|pool| pool.name == self.pool).ok_or("the pool is gone")?;
        if let Some(count) = &self.count {
            let Some(complete) = count.done.get() else { return Ok(()) };
            if !*complete || !Arc::ptr_eq(&count.pool, pool) {
                // A worker had too much mail, or the servers are others: once more.
                self.count = Some(Count::begin(plan, pool, fleet));
                return Ok(());
            }
            return match &mut self.march {
                Some(march) => {
                    march.weigh(now, count)?;
                    self.count = None;
                    Ok(())
                }
                None => self.begin(now, fleet, log),
            };
        }
        let march = self.march.as_mut().ok_or("there is nothing to do")?;
        let left = march.allowed();
        if march.tempo.is_over(now, left) {
            return Err("its time is up");
        }
        let changed = || march.takers.iter().any(|(wish, before)| takers(pool, *wish) != *before);
        if left == 0 || now >= march.counted + COUNT_HOLDS || changed() {
            march.order.hold();
            self.count = Some(Count::begin(plan, pool, fleet));
            return Ok(());
        }
        let measure = march.tempo.measure(now, left);
        march.order.spare(measure.quiet_ns);
        march.order.admit(measure.more, measure.most);
        Ok(())
    }

    /// The first count is over.
    fn begin(&mut self, now: Instant, fleet: &mut Fleet, log: &Log) -> Result<(), &'static str> {
        let count = self.count.take().ok_or("there is nothing to do")?;
        let (answer, sources) = count.outcome();
        let (excess, sessions) = (answer.excess, answer.servers.iter().map(|server| server.sessions).sum::<u64>());
        if let Some(reply) = self.reply.take() {
            reply(Ok(answer));
        }
        if self.dry_run || excess == 0 {
            return Err("there is nothing to do");
        }
        let (pool, over) = (&self.pool, self.over);
        let message =
            format!("{excess} sessions of pool {pool} are too many where they are: idle ones are ended over {over}");
        log.say(Event::info("rebalance", message).with("pool", &**pool).with("sessions", sessions));
        let group =
            |origin: &Origin| Group::new(Arc::clone(&origin.ledger), Whose::Wishing(origin.wish), origin.excess);
        let order = Arc::new(Exodus::of_groups(sources.iter().map(group).collect(), monotonic_ns()));
        fleet.lead_out(&order);
        let tempo = Tempo::new(now, over.duration());
        self.march = Some(March { order, sources, tempo, counted: now, takers: count.takers(), excess });
        Ok(())
    }

    /// Ends it; how many sessions were ended.
    fn stop(self, why: &'static str, log: &Log) -> u64 {
        if let Some(reply) = self.reply {
            reply(Err(Refused::Unfit(format!("pool \"{}\" is not rebalanced: {why}", self.pool))));
        }
        let Some(march) = self.march else { return 0 };
        march.order.call_off();
        let (pool, gone, excess) = (&self.pool, march.order.gone(), march.excess);
        let message = format!("pool {pool} is not rebalanced any more: {why}; {gone} of {excess} sessions were ended");
        log.say(Event::info("rebalance", message).with("pool", &**pool).with("ended", gone));
        gone
    }
}

impl March {
    /// How many may leave yet, in all.
    fn allowed(&self) -> u64 {
        self.order.groups().iter().map(Group::allowed).sum()
    }

    /// Says anew how many may leave: never more than were too many at first.
    fn weigh(&mut self, now: Instant, count: &Count) -> Result<(), &'static str> {
        let (_, origins) = count.outcome();
        for (group, source) in self.order.groups().iter().zip(&self.sources) {
            let is_it = |origin: &&Origin| Arc::ptr_eq(&origin.ledger, &source.ledger) && origin.wish == source.wish;
            let too_many = origins.iter().find(is_it).map_or(0, |origin| origin.excess);
            group.allow(too_many.min(source.excess.saturating_sub(group.gone())));
        }
        (self.counted, self.takers) = (now, count.takers());
        if self.allowed() == 0 { Err("nobody has too many that might move") } else { Ok(()) }
    }
}

impl Count {
    fn begin(plan: &Plan, pool: &Arc<Pool>, fleet: &mut Fleet) -> Self {
        let mut wishes: Vec<Option<RoleWish>> = Vec::new();
        for listener in plan.listeners.iter().filter(|listener| listener.pool.name == pool.name) {
            if !wishes.contains(&listener.role) {
                wishes.push(listener.role);
            }
        }
        let census = Arc::new(Census::new(pool, &wishes));
        let done: Arc<OnceLock<bool>> = Arc::default();
        let tell = Arc::clone(&done);
        let roll = Roll::of_census(Arc::clone(&census), move |called| {
            // It is told once, so nobody has set it before.
            let _ = tell.set(called.complete);
        });
        fleet.call_roll(&Arc::new(roll));
        Self { pool: Arc::clone(pool), wishes, census, done }
    }

    fn takers(&self) -> Vec<(Option<RoleWish>, Vec<bool>)> {
        self.wishes.iter().map(|wish| (*wish, takers(&self.pool, *wish))).collect()
    }

    /// What it came to, and who has too many.
    fn outcome(&self) -> (Rebalanced, Vec<Origin>) {
        let (mut servers, mut origins) = (Vec::new(), Vec::new());
        for (at, wish) in self.wishes.iter().enumerate() {
            let (held, idle) = self.census.of(at);
            let levels = levels(&self.pool, *wish, &held);
            for ((server, level), idle) in self.pool.servers.iter().zip(levels).zip(idle) {
                let Some(Level { held, part, over }) = level.filter(|level| level.held + level.part > 0) else {
                    continue;
                };
                if over > 0 {
                    origins.push(Origin { ledger: Arc::clone(&server.ledger), wish: *wish, excess: over });
                }
                servers.push(Uneven {
                    server: server.name.to_string(),
                    role: wish.map(|wish| word(wish).to_owned()),
                    sessions: held,
                    share: part,
                    excess: over,
                    idle,
                });
            }
        }
        let excess = origins.iter().map(|origin| origin.excess).sum();
        (Rebalanced { pool: self.pool.name.to_string(), excess, ended: 0, servers }, origins)
    }
}

fn word(wish: RoleWish) -> &'static str {
    match wish.role {
        ServerRole::Primary => "primary",
        ServerRole::Replica if wish.fallback => "replica_or_primary",
        ServerRole::Replica => "replica",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ledger::Registry;

    fn plan(policy: &str) -> Plan {
        let text = format!(
            "[listeners.l]\nbind = '127.0.0.1:80'\npool = 'web'\n[pools.web]\npolicy = '{policy}'\nservers = [{{ name = 'a', \
             address = '127.0.0.1:1' }}]\n"
        );
        let draft = crate::config::parse("test", &text, &|_| None).unwrap_or_else(|complaints| panic!("{complaints}"));
        draft.compile(&mut Registry::new(1), None)
    }

    #[test]
    fn where_clients_come_back_to_the_same_server_there_is_nothing_to_even_out() {
        let wish = |pool: &str| Rebalance { pool: pool.into(), ..Rebalance::default() };
        for policy in Policy::ALL {
            let plan = plan(policy.name());
            let refused = check(&wish("web"), &plan).err();
            let sticks = matches!(policy, Policy::SourceHash | Policy::Maglev | Policy::First);
            assert_eq!(refused.is_some(), sticks, "{policy:?}: {refused:?}");
            let said =
                |refused: Refused| matches!(refused, Refused::Unfit(words) if words.contains("nothing to even out"));
            assert!(refused.is_none_or(said));
        }
        assert!(matches!(check(&wish("wep"), &plan("first")), Err(Refused::NotFound(_))));
    }

    #[test]
    fn the_wish_is_read_strictly() {
        let read = serde_json::from_str::<Rebalance>;
        let wish = read(r#"{"pool":"web","for":"90s","dry_run":true}"#).expect("right");
        assert_eq!((wish.over, wish.dry_run, wish.stop), (Some(Span::of_seconds(90)), true, false));
        for wrong in ["{}", r#"{"pool":"web","for":"0s"}"#, r#"{"pool":"web","max":3}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
