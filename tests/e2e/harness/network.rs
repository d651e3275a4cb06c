//! A network of five hosts, each a network namespace, joined by two bridges:
//!
//! ```text
//! client ─ 10.77.1.2 ─┐                                    ┌─ 10.77.2.11 ─ one
//!                     front ─ 10.77.1.1 ─ balancer ─ 10.77.2.1 ─ back
//!                                                          └─ 10.77.2.12 ─ two
//! ```
//!
//! A test runs *on* the balancer: what it starts and connects is there, unless it says where else. Faults are made with
//! the tools an operator has: filters (`nft`) on a host, slow links (`tc`) towards it, its kernel's settings. All of it
//! is gone when the test has ended, however it ended: a namespace lives as long as a thread, a process or a socket in it.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};

use super::ground::{command_succeeds, need, need_root};
use super::peers::{Server, connect};

/// The hosts of one test.
pub struct Network {
    /// Where clients are.
    pub client: Host,
    /// Where ringway is, and the test.
    pub balancer: Host,
    /// A host of servers.
    pub one: Host,
    /// Another.
    pub two: Host,
    /// Both bridges, and the near end of every link; each is called like the host at its far end.
    wire: Host,
}

/// One host: a network namespace.
pub struct Host {
    name: &'static str,
    ip: Ipv4Addr,
    namespace: File,
}

/// The balancer's address on the side of the servers.
pub const BALANCER_BACK: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 1);

/// Makes a network and runs a test on its balancer.
pub fn on_a_network<T: Send>(body: impl FnOnce(&Network) -> T + Send) -> T {
    need_root();
    for tool in ["ip", "tc", "nft", "ss"] {
        need(tool);
    }
    let net = Network::new();
    net.balancer.inside(|| body(&net))
}

impl Network {
    fn new() -> Self {
        let net = Self {
            client: Host::new("client", Ipv4Addr::new(10, 77, 1, 2)),
            balancer: Host::new("balancer", Ipv4Addr::new(10, 77, 1, 1)),
            one: Host::new("one", Ipv4Addr::new(10, 77, 2, 11)),
            two: Host::new("two", Ipv4Addr::new(10, 77, 2, 12)),
            wire: Host::new("wire", Ipv4Addr::UNSPECIFIED),
        };
        net.wire
            .ip_batch("link add front type bridge\nlink add back type bridge\nlink set front up\nlink set back up\n");
        net.link(&net.client, "client", "front", net.client.ip);
        net.link(&net.balancer, "balancer", "front", net.balancer.ip);
        net.link(&net.balancer, "back-door", "back", BALANCER_BACK);
        net.link(&net.one, "one", "back", net.one.ip);
        net.link(&net.two, "two", "back", net.two.ip);
        // The client knows a way to everywhere, so that an address can be added anywhere.
        net.client.ip_batch("route add default via 10.77.1.1\n");
        net
    }

    /// Ties a host to a bridge; the device on the host is called like the bridge.
    fn link(&self, host: &Host, port: &str, bridge: &str, ip: Ipv4Addr) {
        let there = format!("/proc/{}/fd/{}", std::process::id(), host.namespace.as_raw_fd());
        self.wire.ip_batch(&format!(
            "link add {port} type veth peer name {bridge} netns {there}\nlink set {port} master {bridge}\n\
             link set {port} up\n"
        ));
        host.ip_batch(&format!("link set {bridge} up\naddr add {ip}/24 dev {bridge}\n"));
    }

    /// Slows what goes *to* a host down; in words of tc-tbf(8), such as `rate 256kbit burst 4kb latency 400ms`.
    pub fn slow_towards(&self, host: &Host, how: &str) {
        let words = format!("qdisc replace dev {} root tbf {how}", host.name);
        self.wire.command("tc", &words);
    }
}

impl Host {
    fn new(name: &'static str, ip: Ipv4Addr) -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            File::open("/proc/thread-self/ns/net").expect("our own namespace")
        });
        let host = Self { name, ip, namespace: made.join().expect("root may make namespaces") };
        host.ip_batch("link set lo up\n");
        host
    }

    /// Does something on this host: sockets, threads and settings of the kernel made there belong to it. (Processes are
    /// killed when it returns: see [`super::process::Process::start`].)
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("root may enter");
            work()
        };
        match std::thread::scope(|scope| scope.spawn(enter).join()) {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// A port of this host.
    pub fn port(&self, port: u16) -> SocketAddr {
        SocketAddr::from((self.ip, port))
    }

    /// A server on this host, running `script` with each connection.
    pub fn serve(&self, port: u16, script: impl Fn(TcpStream) + Send + Sync + 'static) -> Server {
        self.inside(|| Server::at(self.port(port), script))
    }

    /// A connection from this host.
    pub fn connect(&self, to: SocketAddr) -> TcpStream {
        self.inside(|| connect(to))
    }

    /// Runs a tool on this host, with words that contain no blanks; what it printed.
    pub fn command(&self, tool: &str, words: &str) -> String {
        self.inside(|| command_succeeds(found(tool).args(words.split(' '))))
    }

    /// Filters what arrives, in words of nft(8), such as `ip saddr 10.77.2.1 drop`, until [`Host::let_all_in`]. Rules with
    /// a counter are read by [`Host::counted`].
    pub fn filter(&self, rule: &str) {
        self.nft(&format!(
            "table ip faults {{\n chain arriving {{\n  type filter hook input priority 0; policy accept;\n  {rule}\n }}\n}}\n"
        ));
    }

    /// Takes all filters away.
    pub fn let_all_in(&self) {
        self.nft("table ip faults\ndelete table ip faults\n");
    }

    /// Packets that filters with a counter have met.
    pub fn counted(&self) -> u64 {
        let rules = self.command("nft", "list ruleset");
        let counts = rules.split("counter packets ").skip(1);
        counts.map(|rest| rest.split(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a number")).sum()
    }

    /// Sets a value below `/proc/sys/net/ipv4`.
    pub fn set(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/ipv4/{name}");
        self.inside(|| std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}")));
    }

    fn ip_batch(&self, lines: &str) {
        self.feed(found("ip").args(["-batch", "-"]), lines);
    }

    fn nft(&self, lines: &str) {
        self.feed(found("nft").args(["-f", "-"]), lines);
    }

    /// Runs a command on this host that reads its orders.
    fn feed(&self, command: &mut Command, orders: &str) {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.inside(|| {
            let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
            let mut input = child.stdin.take().expect("piped");
            input.write_all(orders.as_bytes()).expect("a command that reads");
            drop(input);
            let output = child.wait_with_output().expect("our own child");
            assert!(output.status.success(), "{}: {orders}\n{}", self.name, String::from_utf8_lossy(&output.stderr));
        });
    }
}

/// A tool, wherever Debian keeps it.
fn found(tool: &str) -> Command {
    let mut command = Command::new(tool);
    command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin");
    command
}
