//! Every limit and default of the configuration, each with its unit and the reason for its size.
//! Bounds that nobody sets are in [`crate::base::limits`].

use super::plan::{Eject, Keepalive};
pub use crate::base::limits::{
    ATTEMPTS_MAX, BINDS_MAX, COMPLAINTS_MAX, FILE_BYTES_MAX, LISTENERS_MAX, OVERLAY_MAX, POOLS_MAX, ROTATION_MAX,
    SERVERS_MAX, SOURCES_MAX, WEIGHT_MAX, WORKERS_MAX,
};

/// Longest string after `${VAR}` was expanded, in bytes: the longest path the kernel takes (`PATH_MAX`).
pub const STRING_BYTES_MAX: usize = 4096;
/// Longest name of a listener, pool or server, in bytes: it becomes a metrics label.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest name of a user or group, in bytes (useradd(8) takes 32).
pub const ACCOUNT_BYTES_MAX: usize = 32;
/// Where syslog listens, unless `log.socket` says otherwise.
pub const SYSLOG_SOCKET_DEFAULT: &str = "/dev/log";
/// Where the systemd journal listens, unless `log.socket` says otherwise.
pub const JOURNALD_SOCKET_DEFAULT: &str = "/run/systemd/journal/socket";
/// Longest path of a unix socket, in bytes: `sun_path` of unix(7) less its NUL.
pub const UNIX_PATH_BYTES_MAX: usize = 107;

/// A whole number a key may hold.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// Smallest value.
    pub least: u32,
    /// Largest value.
    pub most: u32,
    /// What to do for somebody who writes 0 where it is not allowed.
    pub instead_of_zero: Option<&'static str>,
}

impl Count {
    const fn new(least: u32, most: u32) -> Self {
        Self { least, most, instead_of_zero: None }
    }
}

/// A duration a key may hold.
#[derive(Clone, Copy, Debug)]
pub struct Millis {
    /// What holds when the key is absent, in milliseconds.
    pub default: u32,
    /// Smallest value, in milliseconds.
    pub least: u32,
    /// Largest value, in milliseconds.
    pub most: u32,
    /// What `"0s"` stands for, where it is allowed below `least`.
    pub zero: Option<&'static str>,
}

const SECOND: u32 = 1_000;
const MINUTE: u32 = 60 * SECOND;
const HOUR: u32 = 60 * MINUTE;
const DAY: u32 = 24 * HOUR;

/// `global.workers`, when it is a number.
pub const WORKERS: Count = Count::new(1, WORKERS_MAX as u32);
/// `global.max_connections` and a server's: each takes two descriptors, and no kernel gives more than this.
pub const CONNECTIONS: Count =
    Count { least: 1, most: 10_000_000, instead_of_zero: Some("leave the key out for no limit of its own") };
/// A server's `weight`.
pub const WEIGHT: Count = Count::new(0, WEIGHT_MAX as u32);
/// `connect_attempts`.
pub const CONNECT_ATTEMPTS: Count = Count::new(1, ATTEMPTS_MAX as u32);
/// `connect_attempts` when it is absent.
pub const CONNECT_ATTEMPTS_DEFAULT: u8 = 3;
/// `keepalive.count`: the kernel's own maximum (`MAX_TCP_KEEPCNT`).
pub const KEEPALIVE_COUNT: Count = Count::new(1, 127);

/// `global.drain_timeout`.
pub const DRAIN: Millis = Millis { default: 30 * SECOND, least: 1, most: DAY, zero: Some("stop at once") };
/// `connect_timeout`. The kernel's own limit is about two minutes.
pub const CONNECT: Millis = Millis { default: 3 * SECOND, least: 1, most: 10 * MINUTE, zero: None };
/// `idle_timeout`.
pub const IDLE: Millis = Millis { default: 5 * MINUTE, least: 10, most: 30 * DAY, zero: Some("none") };
/// `idle_timeout` of a pool of `kind = "mysql"`: a minute more than the server's own `wait_timeout`, so that the server
/// closes first and the client library sees a clean end.
pub const IDLE_MYSQL: Millis = Millis { default: 28_860 * SECOND, ..IDLE };
/// `half_close_timeout`.
pub const HALF_CLOSE: Millis = Millis { default: 30 * SECOND, least: 10, most: DAY, zero: None };
/// `max_lifetime`.
pub const LIFETIME: Millis = Millis { default: 0, least: 10, most: 30 * DAY, zero: Some("none") };
/// `queue.limit`: each that waits is a session, with a descriptor of its own.
pub const QUEUE_LIMIT: Count = Count::new(0, 1_000_000);
/// `queue.timeout`.
pub const QUEUE_TIMEOUT: Millis = Millis { default: 5 * SECOND, least: 1, most: HOUR, zero: None };
/// The number in `connect_rate`, and `connect_burst`.
pub const CONNECT_RATE: Count = Count::new(1, 1_000_000);
/// `slow_start`: it is stepped about ten times a second.
pub const SLOW_START: Millis = Millis { default: 0, least: SECOND, most: DAY, zero: Some("none") };
/// `user_timeout`.
pub const USER_TIMEOUT: Millis =
    Millis { default: 55 * SECOND, least: 100, most: DAY, zero: Some("the kernel's default") };
/// `keepalive.idle`: whole seconds, up to `MAX_TCP_KEEPIDLE`.
pub const KEEPALIVE_IDLE: Millis = Millis { default: 30 * SECOND, least: SECOND, most: 32_767 * SECOND, zero: None };
/// `keepalive.interval`: whole seconds, up to `MAX_TCP_KEEPINTVL`.
pub const KEEPALIVE_INTERVAL: Millis =
    Millis { default: 10 * SECOND, least: SECOND, most: 32_767 * SECOND, zero: None };
/// `keepalive` when it is absent: a dead peer is noticed after a minute.
pub const KEEPALIVE_DEFAULT: Keepalive = Keepalive { idle_s: 30, interval_s: 10, count: 3 };
/// `check.interval`.
pub const CHECK_INTERVAL: Millis = Millis { default: 2 * SECOND, least: 10, most: DAY, zero: None };
/// `check.fast_interval`; the default is never longer than the interval.
pub const CHECK_FAST: Millis = Millis { default: 500, least: 10, most: DAY, zero: None };
/// `check.timeout`.
pub const CHECK_TIMEOUT: Millis = Millis { default: 2 * SECOND, least: 1, most: 10 * MINUTE, zero: None };
/// `check.interval` and `check.timeout` of `type = "mysql"`: a change of roles should be seen within a second.
pub const CHECK_INTERVAL_MYSQL: Millis = Millis { default: SECOND, ..CHECK_INTERVAL };
/// See [`CHECK_INTERVAL_MYSQL`].
pub const CHECK_TIMEOUT_MYSQL: Millis = Millis { default: 800, ..CHECK_TIMEOUT };
/// `check.max_lag`.
pub const MAX_LAG: Millis = Millis { default: 0, least: SECOND, most: 30 * DAY, zero: Some("any lag will do") };
/// `check.lag_soft`; half of `max_lag` when it is absent.
pub const LAG_SOFT: Millis = Millis { default: 0, least: SECOND, most: 30 * DAY, zero: Some("none") };
/// `check.role_grace`.
pub const ROLE_GRACE: Millis = Millis { default: 5 * SECOND, least: 1, most: DAY, zero: Some("none") };
/// Longest `check.user` (MySQL allows 32, MariaDB 128).
pub const MYSQL_USER_CHARACTERS_MAX: usize = 128;
/// Longest `check.tls_name`, in bytes: a name of the DNS.
pub const TLS_NAME_MAX: usize = 253;
/// `check.rise` and `check.fall`.
pub const CHECK_TIMES: Count = Count::new(1, 100);
/// `check.rise` when it is absent.
pub const CHECK_RISE_DEFAULT: u8 = 2;
/// `check.fall` when it is absent.
pub const CHECK_FALL_DEFAULT: u8 = 3;
/// `check.port`.
pub const PORT: Count = Count::new(1, 65_535);
/// Most bytes of `check.send` and of `check.expect`.
pub const CHECK_BYTES_MAX: usize = 1024;
/// Longest `check.path`, in bytes.
pub const CHECK_PATH_MAX: usize = 1024;
/// Longest `check.method`, in bytes.
pub const CHECK_METHOD_MAX: usize = 16;
/// Longest `check.host`, in bytes: a name of the DNS and a port.
pub const CHECK_HOST_MAX: usize = 260;
/// Most entries of `check.expect`.
pub const CHECK_STATUSES_MAX: usize = 16;
/// `check.expect` of HTTP when it is absent.
pub const CHECK_STATUS_DEFAULT: (u16, u16) = (200, 200);
/// `eject.failures`.
pub const EJECT_FAILURES: Count = Count::new(1, 10_000);
/// `eject.for`.
pub const EJECT_FOR: Millis = Millis { default: 10 * SECOND, least: 10, most: DAY, zero: None };
/// `eject.max_for`.
pub const EJECT_FOR_MAX: Millis = Millis { default: 5 * MINUTE, least: 10, most: DAY, zero: None };
/// `eject` when it is absent.
pub const EJECT_DEFAULT: Eject = Eject { failures: 5, for_ms: EJECT_FOR.default, for_ms_max: EJECT_FOR_MAX.default };
/// `admin.socket` when it is absent.
pub const ADMIN_SOCKET_DEFAULT: &str = "/run/ringway/admin.sock";
