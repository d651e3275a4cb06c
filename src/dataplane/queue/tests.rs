//! Sessions that wait, on workers whose kernel is paper: it writes down whom it is to connect to, and nothing comes of it.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use socket2::SockAddr;

use super::super::commons::{Commons, Mail, Scene};
use super::super::shard::Shard;
use crate::config::ledger::{Registry, Standing};
use crate::config::plan::{Listener, Plan};
use crate::kernel::{
    Bell, Close, ConnectOptions, Errno, Event, Hatch, Interest, KeepaliveOptions, Kernel, Pipe, Request, Sock, Ticket,
    Token, WakeTarget,
};

const MS: u64 = 1_000_000;
const BEGIN_NS: u64 = 1_000 * MS;

#[derive(Default)]
struct Paper {
    sockets: RawFd,
    /// The last part of the address of each server it was to connect to.
    connects: Vec<u8>,
}

/// Workers that share a configuration, in a time of their own.
struct House {
    commons: Arc<Commons>,
    registry: Registry,
    plan: Arc<Plan>,
    workers: Vec<(Shard, Paper)>,
    now: u64,
}

/// Listeners that lead to the one pool, and its servers: the last part of the address, and what else is said of each.
fn text(listeners: &[&str], servers: &[(u8, &str)]) -> String {
    text_of("p", 1, listeners, servers)
}

/// The same for a pool among several, whose listeners have the ports from this one on.
fn text_of(pool: &str, port: u16, listeners: &[&str], servers: &[(u8, &str)]) -> String {
    let listeners: String = (port..)
        .zip(listeners)
        .map(|(port, name)| format!("[listeners.{name}]\nbind = '127.0.0.1:{port}'\npool = '{pool}'\n"))
        .collect();
    let servers: String =
        servers.iter().map(|(n, more)| format!("{{ name = 's{n}', address = '10.0.0.{n}:80', {more} }},")).collect();
    let queue = "queue = { limit = 10, timeout = '60s' }";
    format!("{listeners}[pools.{pool}]\npolicy = 'first'\nservers = [{servers}]\nconnect_timeout = '60s'\n{queue}\n")
}

fn compile(text: &str, registry: &mut Registry, before: Option<&Plan>) -> Arc<Plan> {
    let draft = crate::config::parse("test", text, &|_| None).unwrap_or_else(|complaints| panic!("{complaints}"));
    Arc::new(draft.compile(registry, before))
}

impl House {
    fn new(workers: usize, text: &str) -> Self {
        let mut registry = Registry::new(workers);
        let plan = compile(text, &mut registry, None);
        let scene = Scene { plan: Arc::clone(&plan), doors: Vec::new() };
        let commons = Arc::new(Commons::new(workers, scene, 1_000));
        let shard = |index| Shard::new(index, Arc::clone(&commons), BEGIN_NS, 1);
        let workers = (0..workers).map(|index| (shard(index), Paper::default())).collect();
        Self { commons, registry, plan, workers, now: BEGIN_NS }
    }

    fn reload(&mut self, text: &str) {
        self.plan = compile(text, &mut self.registry, Some(&self.plan));
        self.commons.scene.store(Arc::new(Scene { plan: Arc::clone(&self.plan), doors: Vec::new() }));
        for (worker, (_, paper)) in self.workers.iter_mut().enumerate() {
            self.commons.post(worker, Mail::NewScene, paper).expect("the box is empty");
        }
        self.turn_all();
    }

    /// A client comes to a worker.
    fn comes(&mut self, worker: usize, listener: &str) {
        let listener = self.listener(listener);
        self.comes_to(worker, listener);
    }

    /// A client comes to a listener that may be gone: it was accepted before that.
    fn comes_to(&mut self, worker: usize, listener: Arc<Listener>) {
        let (shard, paper) = &mut self.workers[worker];
        shard.desk().sessions.fetch_add(1, Ordering::Relaxed);
        let client = paper.socket();
        shard.open(client, listener, self.now, self.now, paper);
        self.turn_all();
    }

    fn listener(&self, name: &str) -> Arc<Listener> {
        let listener = self.plan.listeners.iter().find(|listener| &*listener.name == name);
        Arc::clone(listener.expect("it is in the plan"))
    }

    /// Each worker has its turns until none has anything to do now.
    fn turn_all(&mut self) {
        for _ in 0..100 {
            let now = self.now;
            for (worker, (shard, paper)) in self.workers.iter_mut().enumerate() {
                let desk = &self.commons.desks[worker];
                shard.expire(now, paper);
                desk.hush();
                while let Some(mail) = desk.take() {
                    shard.obey(mail, now, paper);
                }
                shard.attend(now, paper);
            }
            let works = |(shard, _): &(Shard, Paper)| shard.patience_ns(now) == Some(0);
            if !self.workers.iter().any(works) && !self.commons.desks.iter().any(|desk| desk.is_rung()) {
                return;
            }
        }
        panic!("the workers do not come to rest");
    }

    /// Lets time pass, with a turn whenever one is due, until `ms` after the beginning.
    fn wait_until(&mut self, ms: u64) {
        let end_ns = BEGIN_NS + ms * MS;
        for _ in 0..10_000 {
            let patience = self.workers.iter().filter_map(|(shard, _)| shard.patience_ns(self.now)).min();
            self.now = patience.map_or(end_ns, |patience_ns| end_ns.min(self.now + patience_ns));
            self.turn_all();
            if self.now == end_ns {
                return;
            }
        }
        panic!("{ms} ms do not pass");
    }

    fn connects(&self, worker: usize) -> &[u8] {
        &self.workers[worker].1.connects
    }
}

impl Paper {
    fn socket(&mut self) -> Sock {
        self.sockets += 1;
        Sock(self.sockets)
    }
}

impl Bell for Paper {
    fn ring(&mut self, _: WakeTarget) {}
}

impl Kernel for Paper {
    fn connect(&mut self, target: &SockAddr, _: ConnectOptions, _: Token) -> Result<Sock, Errno> {
        let Some(SocketAddr::V4(address)) = target.as_socket() else { panic!("the servers have IPv4 addresses") };
        self.connects.push(address.ip().octets()[3]);
        Ok(self.socket())
    }
    fn peer(&mut self, _: Sock) -> Option<SocketAddr> {
        None
    }
    fn watch(&mut self, _: Sock, _: Interest, _: Token) {}
    fn take_in(&mut self) -> Result<(), Errno> {
        Ok(())
    }
    fn unclaimed(&self) -> Vec<Ticket> {
        Vec::new()
    }

    // Nobody is accepted, connected or closed here.
    fn wait(&mut self, _: Option<u64>, _: &mut Vec<Event>) -> Result<(), Errno> {
        unreachable!()
    }
    fn accept(&mut self, _: Sock, _: Token) {
        unreachable!()
    }
    fn cancel(&mut self, _: Request, _: Sock, _: Token) {
        unreachable!()
    }
    fn accept_now(&mut self, _: Sock) -> Result<Sock, Errno> {
        unreachable!()
    }
    fn pass(&mut self, _: Sock, _: Ticket, _: Hatch) -> Result<(), Errno> {
        unreachable!()
    }
    fn claim(&mut self, _: Ticket) -> Option<Sock> {
        unreachable!()
    }
    fn discard(&mut self, _: Ticket) {
        unreachable!()
    }
    fn close_listener(&mut self, _: Sock) {
        unreachable!()
    }
    fn recv(&mut self, _: Sock, _: &mut [u8]) -> Result<usize, Errno> {
        unreachable!()
    }
    fn send(&mut self, _: Sock, _: &[u8]) -> Result<usize, Errno> {
        unreachable!()
    }
    fn fill(&mut self, _: &Pipe, _: Sock, _: usize) -> Result<usize, Errno> {
        unreachable!()
    }
    fn pour(&mut self, _: &Pipe, _: Sock, _: usize) -> Result<usize, Errno> {
        unreachable!()
    }
    fn open_pipe(&mut self, _: usize) -> Result<Pipe, Errno> {
        unreachable!()
    }
    fn close_pipe(&mut self, _: Pipe) {
        unreachable!()
    }
    fn finish(&mut self, _: Sock) {
        unreachable!()
    }
    fn close(&mut self, _: Sock, _: Close) {
        unreachable!()
    }
    fn error(&mut self, _: Sock) -> Option<Errno> {
        unreachable!()
    }
    fn unsent(&mut self, _: Sock) -> usize {
        unreachable!()
    }
    fn local(&mut self, _: Sock) -> Option<SocketAddr> {
        unreachable!()
    }
    fn acknowledge(&mut self, _: Sock) {
        unreachable!()
    }
    fn send_promptly(&mut self, _: Sock) {
        unreachable!()
    }
    fn gather(&mut self, _: Sock, _: usize) {
        unreachable!()
    }
    fn keep_alive(&mut self, _: Sock, _: KeepaliveOptions) {
        unreachable!()
    }
}

const SLOW: &str = "connect_rate = '1/s', connect_burst = 1";
const FAST: &str = "connect_rate = '10/s', connect_burst = 1";

#[test]
fn who_waits_behind_somebody_with_an_older_plan_is_served_in_time() {
    let mut house = House::new(1, &text(&["old", "new"], &[(1, SLOW)]));
    house.comes(0, "old");
    house.comes(0, "old");
    assert_eq!(house.connects(0), [1], "and one waits");
    // Its listener is gone: it keeps its plan, which has no second server.
    house.reload(&text(&["new"], &[(1, SLOW), (2, FAST)]));
    (0..3).for_each(|_| house.comes(0, "new"));
    assert_eq!(house.connects(0), [1, 2], "and two more wait");
    house.wait_until(101);
    assert_eq!(house.connects(0), [1, 2, 2]);
    house.wait_until(202);
    assert_eq!(house.connects(0), [1, 2, 2, 2]);
    house.wait_until(1_001);
    assert_eq!(house.connects(0), [1, 2, 2, 2, 1], "who came first, with the older plan");
}

#[test]
fn room_that_only_an_older_plan_has_is_found_by_the_clock() {
    let mut house = House::new(2, &text(&["old", "new"], &[(1, SLOW), (2, FAST)]));
    house.comes(0, "old");
    house.comes(0, "old");
    assert_eq!(house.connects(0), [1, 2]);
    house.comes(1, "new");
    house.wait_until(1);
    house.comes(0, "old");
    house.reload(&text(&["new"], &[(1, SLOW)]));
    // The first in the line is on the other worker, and may not have it.
    house.wait_until(101);
    assert_eq!((house.connects(0), house.connects(1)), (&[1, 2, 2][..], &[][..]));
    house.wait_until(1_001);
    assert_eq!(house.connects(1), [1]);
}

#[test]
fn who_has_waited_longest_on_another_worker_goes_before_an_older_plan() {
    let mut house = House::new(2, &text(&["old", "new"], &[(1, FAST), (2, FAST)]));
    house.comes(0, "old");
    house.comes(0, "old");
    house.comes(1, "new");
    house.wait_until(1);
    house.comes(0, "old");
    house.reload(&text(&["new"], &[(1, FAST)]));
    house.wait_until(103);
    assert_eq!((house.connects(0), house.connects(1)), (&[1, 2, 2][..], &[1][..]));
}

#[test]
fn who_comes_late_to_an_older_plan_has_the_room_that_only_this_has() {
    let one = "max_connections = 1";
    let mut house = House::new(2, &text(&["old", "new"], &[(1, one), (2, one)]));
    let old = house.listener("old");
    house.comes(0, "old");
    house.reload(&text(&["new"], &[(1, one)]));
    house.comes(1, "new");
    assert_eq!((house.connects(0), house.connects(1)), (&[1][..], &[][..]), "and one waits");
    house.wait_until(1);
    house.comes_to(0, old);
    assert_eq!((house.connects(0), house.connects(1)), (&[1, 2][..], &[][..]));
}

#[test]
fn a_call_goes_on_to_those_who_go_by_an_older_plan() {
    let (one, three) = ("max_connections = 1", "max_connections = 3");
    let mut house = House::new(2, &text(&["old", "new"], &[(1, one), (2, three)]));
    let pool = Arc::clone(&house.plan.pools[0]);
    pool.servers[1].ledger.set_standing(Standing::Maint);
    house.comes(0, "old");
    house.comes(1, "old");
    house.wait_until(1);
    house.comes(0, "old");
    house.reload(&text(&["new"], &[(1, one)]));
    house.wait_until(2);
    house.comes(1, "new");
    assert_eq!((house.connects(0), house.connects(1)), (&[1][..], &[][..]), "and three wait");
    pool.servers[1].ledger.set_standing(Standing::Ready);
    house.commons.call_waiting(&pool.ledger, &mut Paper::default());
    house.turn_all();
    assert_eq!((house.connects(0), house.connects(1)), (&[1, 2][..], &[2][..]));
}

#[test]
fn workers_do_not_call_each_other_over_and_over() {
    let text = |listeners: [&[&str]; 2], p: &[u8], q: &[u8]| {
        let servers = |numbers: &[u8]| numbers.iter().map(|n| (*n, "max_connections = 1")).collect::<Vec<_>>();
        text_of("p", 1, listeners[0], &servers(p)) + &text_of("q", 5, listeners[1], &servers(q))
    };
    let mut house = House::new(2, &text([&["p_old", "p"], &["q_old", "q"]], &[1], &[3]));
    for (worker, listener) in [(0, "p_old"), (0, "q_old"), (0, "p_old"), (1, "q_old"), (0, "q"), (1, "p")] {
        house.comes(worker, listener);
    }
    assert_eq!((house.connects(0), house.connects(1)), (&[1, 3][..], &[][..]), "and two wait on each worker");
    house.reload(&text([&["p"], &["q"]], &[1, 2], &[3, 4]));
    assert_eq!((house.connects(0), house.connects(1)), (&[1, 3, 4][..], &[2][..]), "those who go by the new plan");
    // There is room that the two who still wait cannot have, and each worker has nobody in the line of the other's.
    house.reload(&text([&["p"], &["q"]], &[1, 2, 5], &[3, 4, 6]));
    house.comes(0, "p");
    house.comes(1, "q");
    assert_eq!((house.connects(0), house.connects(1)), (&[1, 3, 4, 5][..], &[2, 6][..]));
}
