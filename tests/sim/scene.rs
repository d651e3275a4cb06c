//! Configurations: drawn, written as text, compiled, and changed while they run.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use ringway::config::ledger::{Health, ListenerLedger, Registry, ServerLedger, Standing};
use ringway::config::plan::{Plan, Policy, Pool};
use ringway::dataplane::commons::{Door, Mail, Scene};
use ringway::dataplane::ending::Ending;
use ringway::dataplane::evict::{Eviction, Whom};
use ringway::kernel::Ticket;
use ringway::proxy_protocol::Version;

use crate::oracle::Pair;
use crate::rng::Rng;
use crate::roles::{Keeps, wish_text};
use crate::world::{SimDoor, World, note};

const MS: u64 = 1_000_000;

/// How a pool's sessions are run, for all of a run.
#[derive(Debug)]
pub struct PoolTerms {
    pub policy: &'static str,
    pub connect_ns: u64,
    pub attempts: u64,
    /// 0: none.
    pub idle_ns: u64,
    pub half_ns: u64,
    /// 0: none.
    pub lifetime_ns: u64,
    pub sources: usize,
    /// Its servers speak first, and are heard before the client is (`kind = "mysql"`).
    pub gate: bool,
    /// Sessions that may wait for a place; 0: none.
    pub queue_limit: usize,
    pub queue_ns: u64,
    /// 0: none.
    pub slow_start_ms: u32,
    /// How many of its servers, in a thousand, have a `connect_rate`.
    pub paced: u32,
    /// What its servers are told first.
    pub header: Option<Version>,
}

impl PoolTerms {
    fn draw(rng: &mut Rng, extra: &mut Rng, classic: bool) -> Self {
        let ms = |rng: &mut Rng, low: u64, high: u64| (low + rng.size(high - low)) * MS;
        Self {
            policy: rng.one_of(&Policy::ALL).name(),
            connect_ns: ms(rng, 1, 400),
            attempts: rng.range(1, 4),
            idle_ns: if rng.chance(200) { 0 } else { ms(rng, 10, 5_000) },
            half_ns: ms(rng, 10, 3_000),
            lifetime_ns: if rng.chance(700) { 0 } else { ms(rng, 10, 5_000) },
            sources: rng.below(3) as usize,
            gate: !classic && extra.chance(400),
            queue_limit: if classic || extra.chance(400) { 0 } else { extra.size(20) as usize },
            queue_ns: ms(extra, 1, 2_000),
            paced: if classic || extra.chance(700) { 0 } else { 700 },
            slow_start_ms: if classic || extra.chance(500) { 0 } else { extra.range(1_000, 4_000) as u32 },
            header: None,
        }
    }

    /// The longest a quiet session can live; `None`: for ever.
    pub fn longest_ns(&self) -> u64 {
        let greetings = if self.gate { self.connect_ns * self.attempts } else { 0 };
        let connects = self.connect_ns * self.attempts * (self.sources as u64 + 1);
        let waits = if self.queue_limit > 0 { self.queue_ns * self.attempts } else { 0 };
        connects + greetings + waits + self.idle_ns.max(self.half_ns) + self.lifetime_ns
    }
}

/// A server that some plan names.
#[derive(Debug)]
pub struct Target {
    pub name: String,
    pub address: SocketAddr,
    pub pool: usize,
    pub weight: u64,
    pub max: u32,
    /// Connects in a second, and at once; `None`: any number.
    pub rate: Option<(u32, u32)>,
    /// When the next connect would be due if they came evenly.
    pub due_ns: u64,
    pub backup: bool,
    pub standing: Standing,
    /// What checks found.
    pub health: Health,
    pub ejected: bool,
    /// Whose sessions may stay with it, by its role.
    pub keeps: Keeps,
    /// Checks of it that have passed.
    pub proofs: u64,
    /// When workers were last told to end its sessions, and to give up connects to it; 0: never.
    pub evicted_ns: u64,
    /// Not in the published plan; connections accepted after this many are not for it.
    pub removed_at: Option<u64>,
    pub ledger: Option<Arc<ServerLedger>>,
}

impl Target {
    /// From the first choice to the last resort.
    pub fn grade(&self) -> (bool, bool, bool) {
        (self.ejected, self.backup, !self.ejected && self.health == Health::Checking)
    }

    /// Time from one connect to the next, and how early one may be.
    pub fn pace_ns(&self) -> (u64, u64) {
        let (rate, burst) = self.rate.unwrap_or((1_000_000_000, u32::MAX));
        let interval_ns = 1_000_000_000 / u64::from(rate);
        (interval_ns, interval_ns * u64::from(burst - 1))
    }

    /// The sessions it may have now, as far as it has warmed up; `None`: any number.
    pub fn places(&self) -> Option<u32> {
        let share = self.ledger.as_ref().map_or(1_000, |ledger| ledger.warmth());
        (self.max > 0).then(|| (self.max * share).div_ceil(1_000).max(1))
    }
}

/// Everything that is published, and was.
pub struct Stage {
    registry: Registry,
    listeners: Vec<SimListener>,
    access: bool,
    pub plan: Option<Arc<Plan>>,
    /// Every listener's ledger, by index; kept, so that counts go on.
    pub ledgers: Vec<Option<Arc<ListenerLedger>>>,
    doors: Vec<(Arc<Door>, usize)>,
}

struct SimListener {
    pool: usize,
    present: bool,
    door: Option<usize>,
}

impl Stage {
    /// Draws pools, servers and listeners.
    pub fn draw(world: &mut World) -> Self {
        world.begin_headers();
        let pools = world.rng.range(1, 2) as usize;
        for pool in 0..pools {
            let terms = PoolTerms::draw(&mut world.rng, &mut world.extra, world.classic);
            let header = world.draw_header();
            world.pools.push(PoolTerms { header, ..terms });
            for member in 0..world.rng.range(1, 4) {
                let rng = &mut world.rng;
                let number = world.targets.len();
                let paced = world.extra.chance(world.pools[pool].paced);
                let rate = paced.then(|| (world.extra.range(1, 200) as u32, world.extra.range(1, 4) as u32));
                world.targets.push(Target {
                    name: format!("s{number}"),
                    address: SocketAddr::from(([10, 0, 0, number as u8 + 1], 80)),
                    pool,
                    weight: if member > 0 && rng.chance(100) { 0 } else { rng.range(1, 3) },
                    max: if rng.chance(700) { 0 } else { rng.range(1, 4) as u32 },
                    rate,
                    due_ns: 0,
                    backup: member > 0 && rng.chance(200),
                    standing: Standing::Ready,
                    health: Health::Unchecked,
                    ejected: false,
                    keeps: Keeps::default(),
                    proofs: 0,
                    evicted_ns: 0,
                    removed_at: None,
                    ledger: None,
                });
                let first = &mut world.targets[number];
                if member == 0 && first.max == 0 && world.pools[pool].queue_limit > 0 {
                    first.max = world.extra.range(1, 4) as u32;
                }
            }
        }
        if world.is_in_want {
            make_scarce(world);
        }
        if world.roles.is_some() {
            make_databases(world);
        }
        let listeners: Vec<SimListener> = (0..world.rng.range(1, 3))
            .map(|_| SimListener { pool: world.rng.index(pools), present: true, door: None })
            .collect();
        world.wishes = match &mut world.roles {
            Some(roles) => listeners.iter().map(|_| roles.draw_wish()).collect(),
            None => vec![None; listeners.len()],
        };
        let ledgers = listeners.iter().map(|_| None).collect();
        let workers = world.lanes.len();
        let access = !world.rng.chance(100) && !world.forgets();
        world.records = access;
        Self { registry: Registry::new(workers), listeners, access, plan: None, ledgers, doors: Vec::new() }
    }

    /// Whether sessions are recorded.
    pub fn records(&self) -> bool {
        self.access
    }

    /// Changes the configuration a little.
    pub fn change(&mut self, world: &mut World) {
        let accepted = world.accepted;
        for pool in 0..world.pools.len() {
            let members: Vec<usize> = (0..world.targets.len()).filter(|&i| world.targets[i].pool == pool).collect();
            // The first stays: a pool needs a server that is no backup.
            let keep = members[0];
            for index in members {
                let gone = index != keep && world.rng.chance(300);
                let removed_at = &mut world.targets[index].removed_at;
                *removed_at = if gone { removed_at.or(Some(accepted)) } else { None };
            }
        }
        let keep = world.rng.index(self.listeners.len());
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            listener.present = index == keep || !world.rng.chance(300);
            if world.rng.chance(200) {
                listener.pool = world.rng.index(world.pools.len());
            }
        }
    }

    fn text(&self, world: &World) -> String {
        let mut text = format!("[log]\naccess = {}\n", self.access);
        for (index, listener) in self.listeners.iter().enumerate().filter(|(_, listener)| listener.present) {
            let wish = wish_text(world.wishes[index]);
            let _ =
                writeln!(text, "[listeners.l{index}]\nbind = '{}'\npool = 'p{}'\n{wish}", bind(index), listener.pool);
        }
        for (index, terms) in world.pools.iter().enumerate() {
            let _ = writeln!(text, "[pools.p{index}]\nservers = [");
            let members = world.targets.iter().filter(|target| target.pool == index && target.removed_at.is_none());
            for Target { name, address, weight, max, backup, rate, .. } in members {
                let rate = rate.map(|(rate, burst)| format!(", connect_rate = '{rate}/s', connect_burst = {burst}"));
                let rate = rate.unwrap_or_default();
                let max = if *max > 0 { format!(", max_connections = {max}") } else { String::new() };
                let _ = writeln!(
                    text,
                    "{{ name = '{name}', address = '{address}', weight = {weight}, backup = {backup}{max}{rate} }},"
                );
            }
            let ms = |ns: u64| ns / MS;
            let header = terms.header.map_or("off", Version::name);
            let check = if world.roles.is_some() { "{ type = 'mysql', user = 'lb' }" } else { "'off'" };
            let sources: Vec<String> = (0..terms.sources).map(|i| format!("'10.9.0.{}'", i + 1)).collect();
            let _ = writeln!(
                text,
                "]\nkind = '{}'\ncheck = {check}\npolicy = '{}'\nconnect_timeout = '{}ms'\nconnect_attempts = {}\nidle_timeout = '{}ms'\nhalf_close_timeout = \
                 '{}ms'\nmax_lifetime = '{}ms'\nsource = [{}]\n\
                 queue = {{ limit = {}, timeout = '{}ms' }}\nslow_start = '{}ms'\nsend_proxy = '{header}'",
                if terms.gate { "mysql" } else { "tcp" },
                terms.policy,
                ms(terms.connect_ns),
                terms.attempts,
                ms(terms.idle_ns),
                ms(terms.half_ns),
                ms(terms.lifetime_ns),
                sources.join(", "),
                terms.queue_limit,
                ms(terms.queue_ns),
                terms.slow_start_ms
            );
        }
        text
    }

    /// Compiles the configuration as it is now, with doors for it: kept ones stay the same.
    pub fn build(&mut self, world: &mut World) -> Scene {
        let text = self.text(world);
        text.lines().for_each(|line| note!(world, "│ {line}"));
        let draft = ringway::config::parse("simulated", &text, &|_| None)
            .unwrap_or_else(|complaints| panic!("{complaints}\n{text}"));
        let plan = Arc::new(draft.compile(&mut self.registry, self.plan.as_deref()));
        self.warm_up(&plan);
        for (index, target) in world.targets.iter_mut().enumerate() {
            let servers = plan.pools.iter().flat_map(|pool| &pool.servers);
            if let Some(server) = servers.into_iter().find(|server| *server.name == *target.name) {
                server.ledger.set_standing(target.standing);
                // One that comes back long after it was removed is a new one.
                let same = target.ledger.as_ref().is_some_and(|ledger| Arc::ptr_eq(ledger, &server.ledger));
                if !same {
                    (target.health, target.ejected) = (Health::Unchecked, false);
                    target.keeps = Keeps::default();
                    let with_it = |pair: &&mut Pair| pair.attempts.iter().any(|attempt| attempt.target == index);
                    world.pairs.iter_mut().filter(with_it).for_each(|pair| pair.hazy = true);
                }
                target.ledger = Some(Arc::clone(&server.ledger));
            }
        }
        let mut doors = Vec::new();
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let name = format!("l{index}");
            let compiled = plan.listeners.iter().find(|listener| *listener.name == *name);
            let Some(compiled) = compiled else {
                if let Some(door) = listener.door.take() {
                    world.doors[door].open = false;
                }
                continue;
            };
            self.ledgers[index] = Some(Arc::clone(&compiled.ledger));
            let number = *listener.door.get_or_insert_with(|| {
                let number = world.doors.len();
                let door = open_door(number, world, compiled.binds[0].clone());
                self.doors.push((door, number));
                number
            });
            let members = world.targets.iter().enumerate();
            let members = members.filter(|(_, target)| target.pool == listener.pool && target.removed_at.is_none());
            world.doors[number].members = members.map(|(index, _)| index).collect();
            world.doors[number].pool = listener.pool;
            world.doors[number].listener = index;
            world.renew_waiting(number);
            let (door, _) = self.doors.iter().find(|(_, at)| *at == number).expect("doors are kept");
            doors.push((Arc::clone(door), Arc::clone(compiled)));
        }
        self.plan = Some(Arc::clone(&plan));
        world.scenes += 1;
        Scene { plan, doors }
    }

    /// What `control::ramps` does at a reload: a server that comes to a pool begins cold.
    fn warm_up(&self, plan: &Plan) {
        for pool in &plan.pools {
            let before = self.plan.iter().flat_map(|old| &old.pools).find(|before| before.name == pool.name);
            for server in &pool.servers {
                server.ledger.set_slow_start(pool.slow_start_ms);
                let known = |pool: &Pool| pool.servers.iter().any(|known| Arc::ptr_eq(&known.ledger, &server.ledger));
                if before.is_some_and(|before| !known(before)) {
                    server.ledger.ramp();
                }
            }
        }
    }

    /// Changes the standing of a server.
    pub fn set_standing(&mut self, world: &mut World) {
        let index = world.rng.index(world.targets.len());
        let standing = world.rng.one_of(&[Standing::Ready, Standing::Ready, Standing::Drain, Standing::Maint]);
        let target = &mut world.targets[index];
        target.standing = standing;
        if let Some(ledger) = &target.ledger {
            ledger.set_standing(standing);
        }
    }

    /// The control thread learns something of a server; the letter that follows from it, if one does.
    pub fn set_health(&mut self, world: &mut World) -> Option<Mail> {
        let index = world.dice.index(world.targets.len());
        let health = world.dice.one_of(&[Health::Unchecked, Health::Up, Health::Checking, Health::Down]);
        let ejected = world.dice.chance(200);
        let target = &mut world.targets[index];
        let ledger = Arc::clone(target.ledger.as_ref()?);
        (target.health, target.ejected) = (health, ejected);
        ledger.set_health(health);
        ledger.set_ejected(ejected);
        if health != Health::Down || world.dice.chance(500) {
            return None;
        }
        world.condemn(index);
        // Where no listener wants a role, what it is called is all that a lost one changes.
        let ending = world.rng.one_of(&[Ending::ServerDown, Ending::RoleLost]);
        let (ending, whom) = match world.roles {
            Some(_) => (Ending::ServerDown, Whom::Roleless),
            None => (ending, Whom::All),
        };
        Some(Mail::Evict(Arc::new(Eviction { server: ledger, ending, whom })))
    }
}

/// A few places everywhere, so that pools are full, and a server that comes back makes the difference: to those who wait, or
/// where nobody may, to what is cold.
fn make_scarce(world: &mut World) {
    let World { want, pools, targets, .. } = world;
    for terms in pools {
        terms.queue_limit = if want.chance(500) { 0 } else { want.range(5, 30) as usize };
        terms.queue_ns = want.range(50, 2_000) * MS;
        terms.slow_start_ms = if want.chance(500) { 0 } else { want.range(1_000, 4_000) as u32 };
    }
    for target in targets {
        target.max = want.range(1, 4) as u32;
        target.weight = target.weight.max(1);
        target.backup = false;
    }
}

/// Servers that speak first and have roles; sessions may wait for theirs.
fn make_databases(world: &mut World) {
    let World { roles, pools, targets, .. } = world;
    let Some(roles) = roles else { return };
    // One patience for all: a worker that has not heard of a reload yet may lead a session to the pool of before.
    let queue_limit = if roles.rng.chance(350) { 0 } else { roles.rng.range(5, 30) as usize };
    let queue_ns = roles.rng.range(50, 3_000) * MS;
    for (index, terms) in pools.iter_mut().enumerate() {
        terms.gate = true;
        terms.slow_start_ms = 0;
        (terms.queue_limit, terms.queue_ns) = (queue_limit, queue_ns);
        let mut members = targets.iter_mut().filter(|target| target.pool == index);
        let first = members.next().expect("a pool has a server");
        // Where nobody wants a role, a queue must be before somebody who could be full.
        if first.max == 0 && first.rate.is_none() {
            first.max = roles.rng.range(2, 8) as u32;
        }
    }
}

fn bind(listener: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8000 + listener as u16))
}

/// Opens a door; its sockets are on their way to the workers.
fn open_door(number: usize, world: &mut World, address: ringway::config::plan::Address) -> Arc<Door> {
    let workers = world.lanes.len();
    let id = number as u64 + 1;
    for lane in 0..workers {
        let fd = world.hatches.door(number, lane);
        world.door_of.insert(fd, (number, lane));
        world.hatches.send(lane, Ticket::of_door(id), fd);
    }
    world.doors.push(SimDoor {
        queues: vec![Vec::new(); workers],
        open: true,
        given_up: vec![false; workers],
        listener: 0,
        pool: 0,
        members: Vec::new(),
    });
    Arc::new(Door { id, address })
}
