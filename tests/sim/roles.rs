//! Servers with roles: who has which, how that changes, and what must hold of sessions that want one.
//!
//! What `control::prober` makes of reports is played here by chance: a pool has at most one primary, roles go and come back, and
//! who holds a session's role no more is to lose the session, by an order like those of its council. That the shard goes by it
//! is held against the truth: what the ledgers say at each moment.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringway::config::ledger::{Office, SHARE_WHOLE, Standing};
use ringway::config::plan::{RoleWish, ServerRole};
use ringway::dataplane::ending::Ending;
use ringway::dataplane::evict::{Eviction, Whom};
use ringway::kernel::Errno;

use crate::oracle::{Attempt, Pair, TICK_NS};
use crate::rng::Rng;
use crate::scene::Target;
use crate::socket::Far;
use crate::world::{World, note};

const MS: u64 = 1_000_000;

/// Keeps what is drawn for roles apart from all else.
const ROLES: u64 = 0xA54F_F53A_5F1D_36F1;
/// How often it is looked whether a busy session has become idle, and the pause after some were sent away (`dataplane::evict`).
const SWEEP_NS: u64 = 100 * MS;
const PAUSE_NS: u64 = 10 * MS;
const LEAVE_A_TURN: u64 = 32;

/// What a few hundred seeds with roles must have met.
pub const RARE: [&str; 8] = [
    BUSY,
    FALLS_BACK,
    IDLE,
    OUTRUN,
    "a server gets a role",
    "a server loses its role",
    AGAIN,
    "a session waits for a role",
];
const BUSY: &str = "a busy session is sent away after its grace";
const FALLS_BACK: &str = "a read falls back to the primary";
const IDLE: &str = "an idle session is sent away";
const OUTRUN: &str = "a connect outruns its cancellation, and the role is lost";
const AGAIN: &str = "a session tries a server again that has proven itself";

/// What a run with roles has beside the others.
#[derive(Debug)]
pub struct Roles {
    pub rng: Rng,
    /// In the order they were given.
    pub orders: Vec<Order>,
}

/// An order to send away who is astray with a server.
#[derive(Debug)]
pub struct Order {
    pub eviction: Arc<Eviction>,
    target: usize,
    given_ns: u64,
    grace_ns: u64,
    /// When each worker read it.
    obeyed_ns: Vec<Option<u64>>,
}

/// What a server is to the sessions it has: one that is only behind keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keeps {
    #[default]
    Nobody,
    Writers,
    Readers,
}

impl Roles {
    pub fn new(rng: &Rng) -> Self {
        Self { rng: Rng::new(rng.peek() ^ ROLES), orders: Vec::new() }
    }

    /// Whom a listener wants.
    pub fn draw_wish(&mut self) -> Option<RoleWish> {
        let wish = |role, fallback| Some(RoleWish { role, fallback });
        self.rng.one_of(&[
            None,
            wish(ServerRole::Primary, false),
            wish(ServerRole::Primary, false),
            wish(ServerRole::Replica, false),
            wish(ServerRole::Replica, true),
        ])
    }

    /// A worker reads an order.
    pub fn obey(&mut self, lane: usize, eviction: &Arc<Eviction>, now: u64) {
        for order in self.orders.iter_mut().filter(|order| Arc::ptr_eq(&order.eviction, eviction)) {
            order.obeyed_ns[lane] = Some(now);
        }
    }
}

impl Target {
    /// Whether a session of this wish may be with it, by its ledger.
    pub fn suits(&self, wish: RoleWish) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| ledger.suits(wish))
    }

    fn holds(&self, role: ServerRole) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| ledger.holds(role))
    }
}

/// A listener's wish, as its section of the configuration says it.
pub fn wish_text(wish: Option<RoleWish>) -> &'static str {
    match wish {
        None => "",
        Some(RoleWish { role: ServerRole::Primary, .. }) => "role = 'primary'",
        Some(RoleWish { role: ServerRole::Replica, fallback: false }) => "role = 'replica'",
        Some(RoleWish { role: ServerRole::Replica, fallback: true }) => "role = 'replica'\nfallback = 'primary'",
    }
}

// What the control thread would do.
impl World {
    /// Servers have roles in this run, and sessions may wait for them.
    pub fn begin_roles(&mut self) {
        self.roles = Some(Roles::new(&self.rng));
        self.classic = false;
        self.is_in_want = false;
    }

    /// Servers that the published plan has no more.
    pub fn removed(&self) -> impl Iterator<Item = usize> {
        (0..self.targets.len()).filter(|index| self.targets[*index].removed_at.is_some())
    }

    /// Roles as they may be at a start.
    pub fn draw_roles(&mut self) {
        for pool in 0..self.pools.len() {
            let members: Vec<usize> = self.present(pool);
            let Some(roles) = &mut self.roles else { return };
            let primary = roles.rng.chance(800).then(|| roles.rng.one_of(&members));
            for target in members {
                let office = match primary {
                    Some(primary) if primary == target => Office::Primary,
                    _ => Office::Replica { share: SHARE_WHOLE },
                };
                self.give(target, office, false);
            }
        }
    }

    /// The servers of a pool that the published plan has.
    fn present(&self, pool: usize) -> Vec<usize> {
        let all = self.targets.iter().enumerate();
        all.filter(|(_, target)| target.pool == pool && target.removed_at.is_none()).map(|(index, _)| index).collect()
    }

    /// Something has been heard of a server: it is another's turn to be primary, or one has lost or found its source. The orders that
    /// follow from it.
    pub fn change_roles(&mut self) -> Vec<Arc<Eviction>> {
        let Some(roles) = &mut self.roles else { return Vec::new() };
        let pool = roles.rng.index(self.pools.len());
        let members = self.present(pool);
        let is_primary = |index: &usize| self.targets[*index].holds(ServerRole::Primary);
        let primary = members.iter().copied().find(is_primary);
        let Some(roles) = &mut self.roles else { return Vec::new() };
        let target = roles.rng.one_of(&members);
        let share = if roles.rng.chance(700) { SHARE_WHOLE } else { roles.rng.range(1, 999) as u16 };
        let replica = Office::Replica { share };
        // What becomes of it, and whether it is only behind.
        let change = match roles.rng.below(6) {
            0 | 1 => (Office::Primary, false),
            2 | 3 => (replica, false),
            4 => (Office::None, false),
            _ => (Office::None, true),
        };
        let mut changes = vec![(target, change.0, change.1)];
        match primary {
            Some(primary) if change.0 == Office::Primary && primary != target => {
                let after = roles.rng.one_of(&[Office::None, replica]);
                changes.insert(0, (primary, after, false));
            }
            _ => {}
        }
        // All roles are told before anybody is sent away.
        let lost: Vec<usize> = changes
            .into_iter()
            .filter(|&(target, office, behind)| self.give(target, office, behind))
            .map(|(target, ..)| target)
            .collect();
        lost.into_iter().map(|target| self.send_away(target)).collect()
    }

    /// Servers that the plan has no more are nothing any more; the sessions they have stay.
    pub fn forget_roles(&mut self) {
        for target in self.removed().collect::<Vec<_>>() {
            self.give(target, Office::None, false);
        }
    }

    /// Publishes a role; whether those who are there for the last one are to go. Only a replica can be merely behind.
    fn give(&mut self, index: usize, office: Office, behind: bool) -> bool {
        let target = &mut self.targets[index];
        let Some(ledger) = &target.ledger else { return false };
        let before = target.keeps;
        target.keeps = match office {
            Office::Primary => Keeps::Writers,
            Office::Replica { .. } => Keeps::Readers,
            Office::None if behind && before == Keeps::Readers => Keeps::Readers,
            Office::None => Keeps::Nobody,
        };
        let had = ledger.office();
        ledger.set_office(office);
        let lost = before != Keeps::Nobody && before != target.keeps;
        note!(
            self,
            "server {}: {had:?} → {office:?}{}",
            self.targets[index].name,
            if lost { ", its role is lost" } else { "" }
        );
        if lost {
            self.see("a server loses its role");
        } else if had != office && office != Office::None {
            self.see("a server gets a role");
        }
        let Self { pairs, targets, .. } = self;
        for pair in pairs.iter_mut().filter(|pair| pair.attempts.last().is_some_and(|last| last.target == index)) {
            if pair.wish.is_some_and(|wish| targets[index].suits(wish)) {
                pair.astray = None;
            }
        }
        lost
    }

    /// An order that follows from the loss of a role.
    pub fn send_away(&mut self, index: usize) -> Arc<Eviction> {
        let lanes = self.lanes.len();
        let target = &mut self.targets[index];
        target.evicted_ns = self.now;
        let server = Arc::clone(target.ledger.as_ref().expect("it has had a role"));
        let roles = self.roles.as_mut().expect("only runs with roles lose them");
        let grace_ns = if roles.rng.chance(300) { 0 } else { roles.rng.size(2_000) * MS };
        let whom = Whom::Astray { lost_ns: self.now, grace_ns };
        let eviction = Arc::new(Eviction { server, ending: Ending::RoleLost, whom });
        let order = roles.orders.len();
        let obeyed_ns = vec![None; lanes];
        let given_ns = self.now;
        roles.orders.push(Order { eviction: Arc::clone(&eviction), target: index, given_ns, grace_ns, obeyed_ns });
        let Self { pairs, targets, .. } = self;
        for pair in pairs.iter_mut().filter(|pair| !pair.over) {
            let with_it = pair.attempts.last().is_some_and(|last| last.target == index);
            if with_it && pair.wish.is_some_and(|wish| !targets[index].suits(wish)) {
                pair.astray.get_or_insert(order);
            }
        }
        eviction
    }

    /// A check of some server passes. True if there is a server to be asked.
    pub fn prove_one(&mut self) -> bool {
        let present: Vec<usize> = (0..self.pools.len()).flat_map(|pool| self.present(pool)).collect();
        let Some(roles) = &mut self.roles else { return false };
        let index = roles.rng.one_of(&present);
        let target = &mut self.targets[index];
        let Some(ledger) = &target.ledger else { return false };
        ledger.prove();
        target.proofs += 1;
        note!(self, "a check of server {} passes", self.targets[index].name);
        true
    }
}

// What must hold.
impl World {
    /// Whom the listener wants that a client came to.
    pub fn wish_of(&self, client: usize) -> Option<RoleWish> {
        let Far::Client { door } = self.socks[client].far else { return None };
        self.wishes.get(self.doors[door].listener).copied().flatten()
    }

    /// A session connects to a server: it has the role that is wanted. Forgets what it has tried if it may try all again.
    pub fn check_role(&mut self, number: usize, index: usize, again: bool) {
        let pair = &self.pairs[number];
        let Some(wish) = pair.wish else { return };
        let target = &self.targets[index];
        let office = target.ledger.as_ref().map(|ledger| ledger.office());
        assert!(
            target.suits(wish),
            "session {number} wants {wish:?} and connects to {}, which is {office:?}",
            target.name
        );
        if again {
            return;
        }
        let has_proof = |attempt: &Attempt| self.targets[attempt.target].proofs != attempt.proofs;
        let proven = match pair.hazy {
            false => self.has_proof(pair),
            true => pair.attempts.last().is_some_and(has_proof),
        };
        let again = pair.attempts[pair.tried_from..].iter().any(|attempt| attempt.target == index);
        // Who has waited remembers nothing then. Who is with it again has waited; who is not may have chosen at once.
        let forgets = proven && (pair.waited || again && !pair.hazy);
        let is_hazy = !forgets && (pair.hazy || proven);
        let pair = &mut self.pairs[number];
        pair.hazy = is_hazy;
        if forgets {
            pair.tried_from = pair.attempts.len();
        }
        if again {
            self.see(AGAIN);
        }
        self.check_fallback(number, index, wish);
    }

    /// A session connects to a server, another than before or the same.
    pub fn leave_astray(&mut self, number: usize, index: usize) {
        let pair = &mut self.pairs[number];
        pair.waited = false;
        if pair.attempts.last().is_none_or(|last| last.target != index) {
            pair.astray = None;
        }
    }

    /// A connect that was given up has come about all the same. When the server has lost the role meanwhile, nobody would look at
    /// the session again: it must not stay.
    pub fn outran_for_nothing(&mut self, number: usize) -> Result<(), Errno> {
        let pair = &self.pairs[number];
        let Some(last) = pair.attempts.last().filter(|last| last.cancelled_ns.is_some()) else { return Ok(()) };
        if pair.wish.is_none_or(|wish| self.targets[last.target].suits(wish)) {
            return Ok(());
        }
        self.see(OUTRUN);
        Err(Errno::ECANCELED)
    }

    /// Whether a session may go on with this server from another address. Who wants no role is not with it again for another reason.
    pub fn has_source_left(&self, pair: &Pair, index: usize) -> bool {
        let used = pair.attempts.last().map_or(0, |last| last.sources);
        pair.wish.is_none() || !pair.waited && used < self.terms(index).sources
    }

    /// Whether a server that a session has tried in vain has proven itself since.
    fn has_proof(&self, pair: &Pair) -> bool {
        let is_news = |attempt: &Attempt| self.targets[attempt.target].proofs != attempt.proofs;
        pair.wish.is_some() && pair.attempts[pair.tried_from..].iter().any(is_news)
    }

    /// A read goes to the primary only when no replica can be had.
    fn check_fallback(&mut self, number: usize, index: usize, wish: RoleWish) {
        if wish.role == ServerRole::Primary || !self.targets[index].holds(ServerRole::Primary) {
            return;
        }
        let pair = &self.pairs[number];
        // Which plan others go by is not known here.
        let is_known =
            if pair.attempts.is_empty() { self.socks[pair.client].scene == self.scenes } else { pair.began_at_once };
        if pair.hazy || self.is_stray(pair.client) || !is_known {
            return;
        }
        let tried = self.tried_in_vain(pair);
        for &other in &self.socks[pair.client].members {
            let target = &self.targets[other];
            let usable = target.weight > 0 && target.standing == Standing::Ready && target.holds(ServerRole::Replica);
            let to_be_had = usable && !tried.contains(&other);
            assert!(!to_be_had, "session {number} falls back to the primary, and {} is a replica", target.name);
        }
        self.see(FALLS_BACK);
    }

    /// Servers a session need not try again.
    fn tried_in_vain(&self, pair: &Pair) -> BTreeSet<usize> {
        match self.has_proof(pair) {
            true => BTreeSet::new(),
            false => pair.attempts[pair.tried_from..].iter().map(|attempt| attempt.target).collect(),
        }
    }

    /// A session that waits for a server of its role: there is none with room for it.
    pub fn check_waiting_for(&self, number: usize, wish: RoleWish) {
        let pair = &self.pairs[number];
        if pair.hazy {
            return;
        }
        let tried = self.tried_in_vain(pair);
        let class = |index: &usize| {
            let target = &self.targets[*index];
            match wish.role {
                ServerRole::Replica if target.holds(ServerRole::Replica) => (target.ejected, target.backup, false),
                _ => (true, true, true),
            }
        };
        let takes = |index: &&usize| {
            let target = &self.targets[**index];
            let in_service = target.weight > 0 && target.standing == Standing::Ready;
            in_service && target.suits(wish) && !tried.contains(*index)
        };
        let usable = || self.socks[pair.client].members.iter().filter(takes);
        let best = usable().map(class).min();
        let mut best = usable().filter(|index| Some(class(index)) == best);
        if let Some(&room) = best.find(|index| self.has_room(**index)) {
            panic!("session {number} waits for {wish:?} though there is room on {}", self.targets[room].name);
        }
    }

    /// Who is with a server that has lost its role goes: at once if idle, else when the grace of the order is over.
    pub fn check_astray(&self, number: usize, pair: &Pair) {
        let (Some(order), Some(roles)) = (pair.astray, &self.roles) else { return };
        let Order { grace_ns, obeyed_ns, .. } = &roles.orders[order];
        let Some(server) = pair.server.map(|id| &self.socks[id]).filter(|server| server.is_open()) else { return };
        let Some(obeyed_ns) = obeyed_ns[pair.lane] else { return };
        let slack = self.eviction_slack_ns();
        let end = obeyed_ns + grace_ns + slack;
        assert!(self.now <= end, "session {number} stays with a server that has lost its role, beyond its grace");
        let client = &self.socks[pair.client];
        let whole = !pair.half && !client.dead && !server.dead && !client.fin_arrived && !server.fin_arrived;
        let silent = client.unread() == 0 && server.unread() == 0 && client.unsent() == 0 && self.holds_nothing(pair);
        if pair.relaying && pair.answered && whole && silent {
            // Nor is it idle as long as its client has not read everything.
            let end = pair.active_ns.max(obeyed_ns).max(client.delivered_ns) + SWEEP_NS + slack;
            assert!(self.now <= end, "session {number} is idle, and stays with a server that has lost its role");
        }
    }

    /// All that was read of either side has been delivered to the other.
    fn holds_nothing(&self, pair: &Pair) -> bool {
        let client = &self.socks[pair.client];
        pair.server
            .map(|id| &self.socks[id])
            .is_some_and(|server| client.read == server.given() && server.read == client.taken)
    }

    /// How long it may take until an order has been seen to, once it is due.
    fn eviction_slack_ns(&self) -> u64 {
        let leaving = self.pairs.iter().filter(|pair| pair.astray.is_some()).count() as u64;
        let turns = 2 + leaving / LEAVE_A_TURN;
        turns * PAUSE_NS + TICK_NS + 4 * (self.faults.latency_ns + self.faults.sluggish_ns)
    }

    /// When the graces are over of those orders by which a session was judged at a moment that had chosen its server at another:
    /// one that is over, and was before it went astray, says nothing any more.
    fn orders_for(&self, pair: &Pair, target: usize, chosen_ns: u64, at_ns: u64) -> Vec<u64> {
        let slack = self.eviction_slack_ns();
        let orders = self.roles.iter().flat_map(|roles| roles.orders.iter().enumerate());
        let meant = orders.filter(|(_, order)| order.target == target && chosen_ns <= order.given_ns);
        let over = meant.filter_map(|(number, order)| {
            let over_ns = order.obeyed_ns[pair.lane]? + order.grace_ns;
            let is_new = pair.astray.is_some_and(|first| number >= first);
            (is_new || at_ns <= over_ns + slack).then_some(over_ns)
        });
        over.collect()
    }

    /// Whether a session that connects, or waits for a greeting, may have been told to go elsewhere.
    pub fn is_called_away(&self, pair: &Pair, at_ns: u64) -> bool {
        let last = pair.attempts.last();
        last.is_some_and(|last| !self.orders_for(pair, last.target, last.began_ns, at_ns).is_empty())
    }

    /// What speaks against the end of a session for the loss of a role.
    pub fn role_contradiction(&mut self, number: usize) -> Option<String> {
        let pair = &self.pairs[number];
        let Some(wish) = pair.wish else { return Some("nobody has wanted a role".into()) };
        let Some(&Attempt { target: index, began_ns, .. }) = pair.attempts.last() else {
            return Some("it has had no server".into());
        };
        if self.targets[index].suits(wish) {
            return Some("its server has the role".into());
        }
        let orders = self.orders_for(pair, index, began_ns, self.now);
        if orders.is_empty() {
            return Some("its server has not lost the role since it came".into());
        }
        if orders.iter().any(|over_ns| *over_ns <= self.now) {
            if !pair.answered {
                self.see(BUSY);
            }
            return None;
        }
        if !pair.answered || !self.holds_nothing(pair) {
            return Some("it was busy, and its grace is not over".into());
        }
        self.see(IDLE);
        None
    }
}
