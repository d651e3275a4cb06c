//! The plan: a validated configuration, compiled for the workers. Immutable; a reload makes another.
//!
//! Everything a worker needs for a session hangs off its [`Listener`] (`Arc<Listener>` → `Arc<Pool>` → servers), so a
//! session that began under an old plan keeps what it began with and nothing else of that plan.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ledger::{ListenerLedger, PoolLedger, ServerLedger, Standing};

use crate::base::bucket::Rate;
pub use crate::base::limits::{SERVERS_MAX, WEIGHT_MAX, WORKERS_MAX};
use crate::proxy_protocol::Version;

/// A whole configuration, ready to run.
#[derive(Debug)]
pub struct Plan {
    /// Counts up by one with each reload that was applied; the first plan is 1.
    pub generation: u64,
    /// Daemon-wide settings.
    pub global: Global,
    /// Where and how to log.
    pub log: Log,
    /// Where the admin server listens.
    pub admin: Admin,
    /// In order of their names.
    pub listeners: Vec<Arc<Listener>>,
    /// In order of their names; a pool no listener uses is here too.
    pub pools: Vec<Arc<Pool>>,
}

/// `[global]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Worker threads. Fixed for the life of the process.
    pub workers: Workers,
    /// What drives the workers. Fixed for the life of the process.
    pub engine: Engine,
    /// Most sessions at once; `None`: as many as the fd limit allows.
    pub max_connections: Option<u32>,
    /// User to become after binding when started as root; `None`: stay.
    pub user: Option<String>,
    /// Group to become; `None`: the primary group of `user`.
    pub group: Option<String>,
    /// How long a graceful stop waits for sessions, in milliseconds.
    pub drain_ms: u32,
    /// Where the overlay is kept; `None`: beside the file. Fixed for the life of the process.
    pub state_dir: Option<PathBuf>,
}

/// `global.workers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One per core the process may run on.
    Auto,
    /// This many, 1 to [`WORKERS_MAX`].
    Count(u16),
}

/// `global.engine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// io_uring where the kernel allows it.
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// epoll.
    Epoll,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Where records go.
    pub target: LogTarget,
    /// How a record is written.
    pub format: LogFormat,
    /// Whether sessions are recorded at all (events of the daemon always are).
    pub access: bool,
}

/// `log.target`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// A file, opened for appending, reopened on SIGUSR1.
    File(PathBuf),
    /// Datagrams of syslog (RFC 3164, as syslog(3) sends them) to this unix socket.
    Syslog(PathBuf),
    /// Entries of the systemd journal, in its native protocol, to this unix socket.
    Journald(PathBuf),
}

impl LogTarget {
    /// `log.socket`: where syslog or the journal listens.
    pub fn socket(&self) -> Option<&Path> {
        match self {
            LogTarget::Stdout | LogTarget::File(_) => None,
            LogTarget::Syslog(path) | LogTarget::Journald(path) => Some(path),
        }
    }
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// `key=value` pairs.
    Logfmt,
    /// The tcplog of HAProxy (its configuration manual, §8.2.2).
    Haproxy,
}

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Unix socket with full rights, mode 0600.
    pub socket: Option<PathBuf>,
    /// TCP address, read-only.
    pub http: Option<SocketAddr>,
    /// Unix socket that speaks HAProxy's runtime protocol, mode 0600.
    pub haproxy_socket: Option<PathBuf>,
}

/// `[listeners.NAME]`.
#[derive(Debug)]
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// Where it listens: one or more.
    pub binds: Vec<Address>,
    /// Where its sessions go.
    pub pool: Arc<Pool>,
    /// To servers of which role there; `None`: to any.
    pub role: Option<RoleWish>,
    /// Its counts.
    pub ledger: Arc<ListenerLedger>,
}

/// A place to listen on or to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// IPv4 or IPv6.
    Inet(SocketAddr),
    /// A unix stream socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Inet(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `[pools.NAME]`.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Its name.
    pub name: Arc<str>,
    /// What its servers speak.
    pub kind: Kind,
    /// How a server is chosen.
    pub policy: Policy,
    /// Its servers, in the order of the file; a session names one by its index here.
    pub servers: Vec<Server>,
    /// The rotation over the servers that are no backups: server indices, each as often as its weight (divided by the
    /// greatest common divisor) and evenly spread. Empty when every server is a backup or has weight 0.
    pub rotation: Vec<u16>,
    /// The table of [`Policy::Maglev`] over the same servers; empty for other policies.
    pub table: Vec<u16>,
    /// Timeouts, attempts and socket options.
    pub terms: Terms,
    /// How its servers are looked after.
    pub care: Care,
    /// Some server has a `connect_rate`.
    pub is_paced: bool,
    /// How long a server that comes into service takes to its full share, in milliseconds; 0: it has it at once.
    pub slow_start_ms: u32,
    /// Its counts.
    pub ledger: Arc<PoolLedger>,
}

impl Pool {
    /// A copy on which a pick can be tried: it claims and counts nothing that others see.
    pub fn shadow(&self) -> Self {
        let mut copy = self.clone();
        copy.ledger = Arc::new(self.ledger.shadow());
        for server in &mut copy.servers {
            server.ledger = Arc::new(server.ledger.shadow());
        }
        copy
    }
}

/// `pools.*.kind`: what the servers speak, as far as ringway makes use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Anything over TCP.
    Tcp,
    /// MySQL and MariaDB. The server speaks first: a session is the client's only after a proper greeting.
    Mysql,
}

/// `pools.*.policy`; `balance` says how each chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// One atomic counter a pool, weights by a precomputed rotation.
    RoundRobin,
    /// The server with the fewest sessions for its weight.
    LeastConnections,
    /// The less loaded of two drawn at random.
    RandomTwo,
    /// By the client's address: the highest of a hash over each server's name (rendezvous).
    SourceHash,
    /// By the client's address, through a precomputed table.
    Maglev,
    /// The first in the order of the file that has room.
    First,
}

impl Policy {
    /// All of them, in the order in which they are told.
    pub const ALL: [Policy; 6] = [
        Policy::RoundRobin,
        Policy::LeastConnections,
        Policy::RandomTwo,
        Policy::SourceHash,
        Policy::Maglev,
        Policy::First,
    ];

    /// Whether it chooses by the client's address.
    pub fn is_by_source(self) -> bool {
        matches!(self, Policy::SourceHash | Policy::Maglev)
    }
}

/// How sessions of a pool are run; a session keeps the terms it began with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Longest wait for one connect, in milliseconds.
    pub connect_ms: u32,
    /// Servers tried for one session, 1 to 16; each attempt goes to another server.
    pub connect_attempts: u8,
    /// A session with no byte in either direction for this long ends, in milliseconds; 0 is none.
    pub idle_ms: u32,
    /// The same once one direction has finished, in milliseconds.
    pub half_close_ms: u32,
    /// Longest life of a session, in milliseconds, less up to 10 % of jitter; 0 is none.
    pub lifetime_ms: u32,
    /// Local addresses to connect from, in turn; empty: the kernel chooses.
    pub sources: Vec<std::net::IpAddr>,
    /// TCP keepalive towards clients and servers.
    pub keepalive: Option<Keepalive>,
    /// `TCP_USER_TIMEOUT` (tcp(7)) on both sides, in milliseconds; 0 leaves the kernel's default.
    pub user_timeout_ms: u32,
    /// How sessions wait when every server is full.
    pub queue: Queue,
    /// Servers are told first whose connection it is, in this version of the PROXY protocol; `None`: they are not.
    pub send_proxy: Option<Version>,
}

/// `pools.*.queue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Most sessions that wait at once, over all workers; 0: nobody waits.
    pub limit: u32,
    /// How long each may wait, in milliseconds.
    pub timeout_ms: u32,
}

/// How the servers of a pool are looked after, and what follows from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Care {
    /// `check`; `None`: they are not checked.
    pub check: Option<Check>,
    /// `eject`; `None`: nothing is ejected.
    pub eject: Option<Eject>,
    /// When no server is usable, give sessions to those found down rather than to none.
    pub fail_open: bool,
    /// What becomes of the sessions of a server that goes down.
    pub on_down: OnDown,
}

/// `pools.*.on_down`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDown {
    /// They go on as long as they can.
    #[default]
    Keep,
    /// They are ended.
    Close,
}

/// `pools.*.eject`: a server to which connects fail in a row gets a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eject {
    /// Connects in a row that must fail.
    pub failures: u32,
    /// The first rest, in milliseconds; each that follows soon is twice as long.
    pub for_ms: u32,
    /// The longest, in milliseconds.
    pub for_ms_max: u32,
}

/// `pools.*.check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked of a server, and which answer is right.
    pub question: Question,
    /// Ask at this address instead of the server's.
    pub address: Option<std::net::IpAddr>,
    /// Ask at this port instead of the server's.
    pub port: Option<u16>,
    /// Whoever is asked is told first that it is us, in this version of the PROXY protocol; `None`: he does not want to know.
    pub send_proxy: Option<Version>,
    /// How often, and what a result means.
    pub pace: CheckPace,
    /// What follows from the roles that servers say they have; of [`Question::Mysql`] only.
    pub roles: Option<RoleTerms>,
}

/// A role of a MySQL server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerRole {
    /// It takes writes.
    Primary,
    /// It follows the primary, closely enough.
    Replica,
}

impl ServerRole {
    /// The word in file, log and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            ServerRole::Primary => "primary",
            ServerRole::Replica => "replica",
        }
    }
}

/// `listeners.*.role` and `fallback`: whom sessions go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RoleWish {
    /// Servers of this role only.
    pub role: ServerRole,
    /// The primary, while no replica can be had.
    pub fallback: bool,
}

/// What a pool makes of the roles of its servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleTerms {
    /// Up to this lag a replica has its whole share, in seconds.
    pub lag_soft_s: u32,
    /// From this lag on it has none; `None`: any lag that is known will do.
    pub lag_max_s: Option<u32>,
    /// What to do when more than one server takes writes.
    pub on_split: OnSplit,
    /// How long a busy session may stay with a server that has lost its role, in milliseconds.
    pub grace_ms: u32,
}

/// `check.on_split`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnSplit {
    /// The last primary stays, if it is one of them.
    KeepLast,
    /// Nobody is primary.
    Deny,
}

impl OnSplit {
    /// Both.
    pub const ALL: [OnSplit; 2] = [OnSplit::KeepLast, OnSplit::Deny];

    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            OnSplit::KeepLast => "keep-last",
            OnSplit::Deny => "deny",
        }
    }
}

/// `check` of `type = "mysql"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MysqlQuestion {
    /// The account.
    pub user: Arc<str>,
    /// Where its password is; read anew for each connection. `None`: it has none.
    pub password_file: Option<Arc<Path>>,
    /// Whether it logs in through TLS.
    pub tls: MysqlTls,
}

/// `check.tls` of `type = "mysql"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MysqlTls {
    /// No TLS.
    Off,
    /// TLS with whoever answers.
    Require,
    /// The server's certificate must be of these authorities.
    VerifyCa {
        /// Their certificates (PEM).
        ca: Arc<Path>,
    },
    /// And for this name.
    VerifyFull {
        /// Certificates of the authorities (PEM).
        ca: Arc<Path>,
        /// The name.
        name: Arc<str>,
    },
}

/// How often a server is checked, and what a result means. A change of it leaves the verdict as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckPace {
    /// Time from one check to the next, in milliseconds.
    pub interval_ms: u32,
    /// The same while the verdict may be about to change.
    pub fast_ms: u32,
    /// Longest a check may take, in milliseconds.
    pub timeout_ms: u32,
    /// Checks in a row that must pass until a server that was down is up.
    pub rise: u8,
    /// Checks in a row that must fail until a server that was up is down.
    pub fall: u8,
}

/// `check.type` and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Does it accept a connection?
    Tcp,
    /// What does it say, after it was sent something?
    SendExpect {
        /// Sent first; may be empty.
        send: Arc<[u8]>,
        /// Must be in the answer.
        expect: Arc<[u8]>,
    },
    /// Which status has its answer to an HTTP request?
    Http(HttpQuestion),
    /// Which role does it have, and how far is it behind?
    Mysql(MysqlQuestion),
}

/// `check` of `type = "http"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpQuestion {
    /// The method.
    pub method: Arc<str>,
    /// The path, with a query perhaps.
    pub path: Arc<str>,
    /// The `Host` header; `None`: the address that is asked.
    pub host: Option<Arc<str>>,
    /// Statuses that are right, as ranges with both ends.
    pub expect: Vec<(u16, u16)>,
    /// It asks through TLS.
    pub tls: Option<HttpTls>,
}

/// `check.tls` of `type = "http"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTls {
    /// The name the server is told (SNI) and its certificate must be for: a DNS name, or an address, which is not told. `None`:
    /// the address that is asked.
    pub name: Option<Arc<str>>,
    /// Whose word on that counts.
    pub verify: Verify,
}

/// `check.verify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verify {
    /// The authorities of the system.
    System,
    /// Those in this file (PEM).
    Authorities(Arc<Path>),
    /// Nobody's: the server may be anybody.
    Nothing,
}

/// TCP keepalive (tcp(7)): `TCP_KEEPIDLE`, `TCP_KEEPINTVL`, `TCP_KEEPCNT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Quiet time before the first probe, in seconds.
    pub idle_s: u16,
    /// Time between probes, in seconds.
    pub interval_s: u16,
    /// Unanswered probes until the connection is given up.
    pub count: u8,
}

/// `servers[].connect_rate` and `connect_burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectRate {
    /// So many connects…
    pub count: u32,
    /// …in each of these…
    pub per: Per,
    /// …and so many at once after a pause.
    pub burst: u32,
}

/// The unit of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// `/s`
    Second,
    /// `/m`
    Minute,
}

impl Per {
    /// Its length, in seconds.
    pub fn seconds(self) -> u32 {
        match self {
            Per::Second => 1,
            Per::Minute => 60,
        }
    }
}

/// One server of a pool.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its name within the pool.
    pub name: Arc<str>,
    /// The digest of its name, which policies that go by the client's address know it by.
    pub key: u64,
    /// Where it is.
    pub address: Address,
    /// The same as connect(2) wants it.
    pub sockaddr: socket2::SockAddr,
    /// Its share, 0 to [`WEIGHT_MAX`].
    pub weight: u16,
    /// The same as the file says it, whatever an operator has set beside it.
    pub weight_in_file: u16,
    /// Most sessions at once; 0 is no limit.
    pub max_connections: u32,
    /// How fast connects may follow each other; `None` is as fast as they come.
    pub connect_rate: Option<ConnectRate>,
    /// The same as a pick wants it.
    pub rate: Option<Rate>,
    /// Used only when no other server is usable.
    pub backup: bool,
    /// Whether it gets sessions when it comes, or the configuration says something else than before; what holds now, its ledger
    /// says.
    pub standing: Standing,
    /// Its counts, kept over reloads while name and address stay.
    pub ledger: Arc<ServerLedger>,
}
