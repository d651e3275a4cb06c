//! What the parts of ringway cost: a pick, the timer wheel, compiling a plan, a line of the access log, a scrape, and a whole
//! step of a worker's shard on a kernel that answers at once. `cargo bench`, or `cargo bench -- pick` for one of them.
//!
//! A pick must cost the same among 10 000 servers as among two, but for what caches do (up to 4 times, all below 100 ns), and
//! except where the policy says that every server is looked at: `least-connections` and `source-hash` grow with their number.

use std::fmt::Write;
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ringway::balance::{self, Caller, Pick, Tried};
use ringway::base::wheel::Wheel;
use ringway::config::ledger::Registry;
use ringway::config::plan::{Address, Plan, Policy, Pool};
use ringway::dataplane::commons::{Commons, Door, Scene};
use ringway::dataplane::ending::Ending;
use ringway::dataplane::record::{COUNT_BITS, Record};
use ringway::dataplane::shard::Shard;
use ringway::kernel::{
    Bell, Close, ConnectOptions, Errno, Event, Hatch, Interest, KeepaliveOptions, Kernel, Pipe, Readiness, Request,
    Sock, Ticket, Token, WakeTarget,
};
use ringway::observe::access_log;
use ringway::observe::line::{Stamp, Syntax};
use ringway::observe::metrics::{self, Dialect};
use ringway::observe::panel::{EngineChoice, Panel};
use socket2::SockAddr;

fn text(servers: usize, policy: Policy) -> String {
    let mut text = String::from("[log]\naccess = false\n[listeners.l]\nbind = '127.0.0.1:1'\npool = 'p'\n[pools.p]\n");
    writeln!(text, "policy = '{}'\nservers = [", policy.name()).expect("a string takes all");
    for i in 0..servers {
        let (third, fourth) = (i / 250, i % 250 + 1);
        writeln!(text, "{{ name = 's{i}', address = '10.0.{third}.{fourth}:80', weight = {} }},", i % 3 + 1)
            .expect("a string takes all");
    }
    text.push_str("]\n");
    text
}

fn plan(servers: usize, policy: Policy) -> Plan {
    let draft = ringway::config::parse("bench", &text(servers, policy), &|_| None).expect("the text is right");
    draft.compile(&mut Registry::new(1), None)
}

fn pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick");
    // One after another client asks; `least-connections` and `source-hash` look at every server, the others must not.
    for policy in Policy::ALL {
        for servers in [2, 100, 1_000, 10_000] {
            let plan = plan(servers, policy);
            let id = BenchmarkId::new(policy.name(), servers);
            group.bench_with_input(id, &plan.pools[0], |b, pool: &Arc<Pool>| {
                let mut turn = 0_u32;
                b.iter(|| {
                    turn = turn.wrapping_add(0x9E37_79B9);
                    let address = Some(IpAddr::from(turn.to_be_bytes()));
                    let caller =
                        Caller { tried: &Tried::default(), address, random: turn.into(), now_ns: 0, wish: None };
                    match balance::pick(black_box(pool), &caller) {
                        Pick::Server(server) => balance::release(&pool.servers[usize::from(server)]),
                        Pick::Full | Pick::None => unreachable!("all servers are ready"),
                    }
                });
            });
        }
    }
    group.finish();
}

fn wheel(c: &mut Criterion) {
    c.bench_function("wheel/set-and-move-on", |b| {
        let mut wheel = Wheel::new(0);
        let mut now = 0;
        let mut key = 0;
        let mut due = Vec::new();
        b.iter(|| {
            key = (key + 1) % 10_000;
            now += 100_000;
            wheel.set(key, now + 3_000_000_000);
            wheel.expire(now, &mut due);
            due.clear();
        });
    });
}

fn compile(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile");
    for (policy, servers) in [
        (Policy::RoundRobin, 10),
        (Policy::RoundRobin, 1_000),
        (Policy::Maglev, 10),
        (Policy::Maglev, 1_000),
        (Policy::Maglev, 10_000),
    ] {
        let text = text(servers, policy);
        let id = BenchmarkId::new(format!("parse-and-compile/{}", policy.name()), servers);
        group.bench_with_input(id, &text, |b, text| {
            b.iter(|| {
                let draft = ringway::config::parse("bench", text, &|_| None).expect("the text is right");
                draft.compile(&mut Registry::new(1), None)
            });
        });
    }
    group.finish();
}

/// Sockets that always have 64 bytes, take everything, and connect at once.
#[derive(Default)]
struct Willing {
    next_sock: i32,
    connecting: Option<Token>,
    watched: Vec<Token>,
}

impl Bell for Willing {
    fn ring(&mut self, _: WakeTarget) {}
}

impl Kernel for Willing {
    fn wait(&mut self, _: Option<u64>, _: &mut Vec<Event>) -> Result<(), Errno> {
        Ok(())
    }
    fn accept(&mut self, _: Sock, _: Token) {}
    fn connect(&mut self, _: &SockAddr, _: ConnectOptions, token: Token) -> Result<Sock, Errno> {
        self.next_sock += 1;
        self.connecting = Some(token);
        Ok(Sock(self.next_sock))
    }
    fn watch(&mut self, _: Sock, _: Interest, token: Token) {
        self.watched.push(token);
    }
    fn cancel(&mut self, _: Request, _: Sock, _: Token) {}
    fn accept_now(&mut self, _: Sock) -> Result<Sock, Errno> {
        Err(Errno::EAGAIN)
    }
    fn pass(&mut self, _: Sock, _: Ticket, _: Hatch) -> Result<(), Errno> {
        Err(Errno::EAGAIN)
    }
    fn take_in(&mut self) -> Result<(), Errno> {
        Ok(())
    }
    fn claim(&mut self, ticket: Ticket) -> Option<Sock> {
        ticket.is_door().then_some(Sock(0))
    }
    fn unclaimed(&self) -> Vec<Ticket> {
        Vec::new()
    }
    fn discard(&mut self, _: Ticket) {}
    fn close_listener(&mut self, _: Sock) {}
    fn recv(&mut self, _: Sock, into: &mut [u8]) -> Result<usize, Errno> {
        into[..64].fill(b'x');
        Ok(64)
    }
    fn send(&mut self, _: Sock, bytes: &[u8]) -> Result<usize, Errno> {
        Ok(black_box(bytes).len())
    }
    fn fill(&mut self, _: &Pipe, _: Sock, _: usize) -> Result<usize, Errno> {
        Err(Errno::EAGAIN)
    }
    fn pour(&mut self, _: &Pipe, _: Sock, held: usize) -> Result<usize, Errno> {
        Ok(held)
    }
    fn open_pipe(&mut self, size: usize) -> Result<Pipe, Errno> {
        Ok(Pipe { out: -1, into: -1, size })
    }
    fn close_pipe(&mut self, _: Pipe) {}
    fn finish(&mut self, _: Sock) {}
    fn close(&mut self, _: Sock, _: Close) {}
    fn error(&mut self, _: Sock) -> Option<Errno> {
        None
    }
    fn peer(&mut self, _: Sock) -> Option<SocketAddr> {
        None
    }
    fn unsent(&mut self, _: Sock) -> usize {
        0
    }
    fn local(&mut self, _: Sock) -> Option<SocketAddr> {
        None
    }
    fn acknowledge(&mut self, _: Sock) {}
    fn send_promptly(&mut self, _: Sock) {}
    fn gather(&mut self, _: Sock, _: usize) {}
    fn keep_alive(&mut self, _: Sock, _: KeepaliveOptions) {}
}

/// A shard with one door, and the kernel it runs on.
fn shard() -> (Shard, Willing) {
    let plan = Arc::new(plan(2, Policy::RoundRobin));
    let listener = Arc::clone(&plan.listeners[0]);
    let door = Arc::new(Door { id: 1, address: Address::Inet(SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 1)) });
    let commons = Arc::new(Commons::new(1, Scene { plan, doors: vec![(door, listener)] }, 1_000_000));
    let mut shard = Shard::new(0, commons, 0, 1);
    let mut kernel = Willing::default();
    shard.adopt(0, &mut kernel);
    (shard, kernel)
}

/// The token of a shard's first door: role 5, generation 0, index 0.
const DOOR: Token = Token(5 << 56);

fn connect(shard: &mut Shard, kernel: &mut Willing, now: u64) -> (Token, Token) {
    kernel.watched.clear();
    kernel.next_sock += 1;
    let sock = Sock(kernel.next_sock);
    shard.handle(Event::Accepted { token: DOOR, result: Ok(sock), more: true }, now, kernel);
    let token = kernel.connecting.take().expect("a connect began");
    shard.handle(Event::Connected { token, result: Ok(()) }, now, kernel);
    (kernel.watched[0], kernel.watched[1])
}

fn worker(c: &mut Criterion) {
    const READ: Readiness = Readiness { readable: true, writable: false, ended: false, broken: false };
    const GONE: Readiness = Readiness { readable: false, writable: false, ended: false, broken: true };
    c.bench_function("worker/request-and-response", |b| {
        let (mut shard, mut kernel) = shard();
        let (client, server) = connect(&mut shard, &mut kernel, 0);
        let mut now = 0;
        b.iter(|| {
            now += 10_000;
            for token in [client, server] {
                shard.handle(Event::Ready { token, readiness: READ, more: true }, now, &mut kernel);
            }
            shard.resume(now, &mut kernel);
            shard.expire(now, &mut kernel);
        });
    });
    c.bench_function("worker/connect-and-reset", |b| {
        let (mut shard, mut kernel) = shard();
        let mut now = 0;
        b.iter(|| {
            now += 10_000;
            kernel.watched.clear();
            kernel.next_sock += 1;
            let sock = Sock(kernel.next_sock);
            shard.handle(Event::Accepted { token: DOOR, result: Ok(sock), more: true }, now, &mut kernel);
            let client = kernel.watched[0];
            let token = kernel.connecting.take().expect("a connect began");
            // The client resets while the connect is under way.
            shard.handle(Event::Ready { token: client, readiness: GONE, more: true }, now, &mut kernel);
            let gone = Readiness::default();
            shard.handle(Event::Ready { token: client, readiness: gone, more: false }, now, &mut kernel);
            shard.handle(Event::Connected { token, result: Err(Errno::ECANCELED) }, now, &mut kernel);
            shard.expire(now, &mut kernel);
        });
    });
}

fn log(c: &mut Criterion) {
    let plan = plan(2, Policy::RoundRobin);
    let record = Record {
        session: (1 << COUNT_BITS) | 162,
        made_ns: 7_000_000_000,
        accepted_ns: 5_765_432_100,
        listener: Arc::clone(&plan.listeners[0]),
        server: Some(1),
        client: Some(SocketAddr::from(([192, 0, 2, 9], 51_234))),
        local_port: 40_001,
        queue_us: 0,
        connect_us: Some(312),
        first_byte_us: Some(845),
        bytes_in: 1_024,
        bytes_out: 100_000,
        attempts: 1,
        ending: Some(Ending::Done),
        errno: 0,
        crowd: None,
    };
    for (name, syntax) in [("json", Syntax::Json), ("logfmt", Syntax::Logfmt)] {
        c.bench_function(&format!("log/{name}"), |b| {
            let (mut stamp, mut out) = (Stamp::default(), Vec::new());
            b.iter(|| {
                out.clear();
                access_log::write(&mut out, syntax, &mut stamp, 0, black_box(&record));
                black_box(out.len())
            });
        });
    }
}

fn scrape(c: &mut Criterion) {
    let mut group = c.benchmark_group("scrape");
    for servers in [2, 1_000] {
        let scene = Scene { plan: Arc::new(plan(servers, Policy::RoundRobin)), doors: Vec::new() };
        let engine = EngineChoice { name: "io_uring", reason: "preferred" };
        let panel = Arc::new(Panel::new(Arc::new(Commons::new(2, scene, 1_000)), engine, Arc::default()));
        group.bench_with_input(BenchmarkId::from_parameter(servers), &panel, |b, panel| {
            b.iter(|| metrics::render(black_box(panel), Dialect::Prometheus).len());
        });
    }
    group.finish();
}

criterion_group!(parts, pick, wheel, compile, log, scrape, worker);
criterion_main!(parts);
