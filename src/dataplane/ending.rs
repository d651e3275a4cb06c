//! Why a session ended: the closed list that log, metrics and README share.

use crate::config::ledger::{CONNECT_RESULTS_MAX, ENDINGS_MAX, GREETING_ERRORS_MAX, REFUSALS_MAX};

/// Why a session ended. Each session ends with exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ending {
    /// Both sides finished sending and got everything.
    Done,
    /// The client reset the connection while bytes could flow.
    ClientReset,
    /// The client went away before a server was connected.
    ClientGone,
    /// The server reset the connection while bytes could flow.
    ServerReset,
    /// No server accepted: the last attempt was refused.
    ConnectRefused,
    /// No server accepted: the last attempt took longer than `connect_timeout`.
    ConnectTimeout,
    /// No server accepted: the last attempt found no route, or the network said no.
    ConnectUnreachable,
    /// No local port was left to connect from (`EADDRNOTAVAIL`).
    NoPorts,
    /// The pool has no server that takes new sessions.
    NoServer,
    /// Every usable server is at its `max_connections`.
    ServersFull,
    /// Every usable server has had all the connects its `connect_rate` allows, and the pool has no queue.
    ConnectRate,
    /// Every usable server is full, and so is the queue (`queue.limit`).
    QueueFull,
    /// It waited for a place for `queue.timeout`, in vain.
    QueueTimeout,
    /// The client went away while it waited for a place.
    QueueLeft,
    /// No server greeted: the last one tried sent an error instead, or hung up (`kind = "mysql"`).
    GreetingRefused,
    /// No server greeted: the last one tried said nothing within `connect_timeout`.
    GreetingTimeout,
    /// No byte in either direction for `idle_timeout`.
    IdleTimeout,
    /// One direction had finished, and the other was silent for `half_close_timeout`.
    HalfCloseTimeout,
    /// The session reached `max_lifetime`.
    Lifetime,
    /// The peer stopped answering: keepalive or `user_timeout` gave up on it (`ETIMEDOUT`), or its network went away.
    PeerVanished,
    /// The server was found down, and the pool has `on_down = "close"`.
    ServerDown,
    /// The server has lost the role that the listener wants.
    RoleLost,
    /// An operator has sessions go elsewhere, and it was its turn (`drain --for`, `server set --for`, `rebalance`).
    Moved,
    /// An operator ended it (`ringway kill`).
    Killed,
    /// The daemon stopped before the session did.
    Shutdown,
    /// Out of a local resource: descriptors, memory, buffers.
    Resource,
    /// Something that should not happen; the errno says what.
    Internal,
}

impl Ending {
    /// All of them, in the order of their numbers.
    pub const ALL: [Ending; 27] = [
        Ending::Done,
        Ending::ClientReset,
        Ending::ClientGone,
        Ending::ServerReset,
        Ending::ConnectRefused,
        Ending::ConnectTimeout,
        Ending::ConnectUnreachable,
        Ending::NoPorts,
        Ending::NoServer,
        Ending::ServersFull,
        Ending::ConnectRate,
        Ending::QueueFull,
        Ending::QueueTimeout,
        Ending::QueueLeft,
        Ending::GreetingRefused,
        Ending::GreetingTimeout,
        Ending::IdleTimeout,
        Ending::HalfCloseTimeout,
        Ending::Lifetime,
        Ending::PeerVanished,
        Ending::ServerDown,
        Ending::RoleLost,
        Ending::Moved,
        Ending::Killed,
        Ending::Shutdown,
        Ending::Resource,
        Ending::Internal,
    ];

    /// The word in log and metrics.
    pub const fn reason(self) -> &'static str {
        match self {
            Ending::Done => "done",
            Ending::ClientReset => "client_reset",
            Ending::ClientGone => "client_gone",
            Ending::ServerReset => "server_reset",
            Ending::ConnectRefused => "connect_refused",
            Ending::ConnectTimeout => "connect_timeout",
            Ending::ConnectUnreachable => "connect_unreachable",
            Ending::NoPorts => "no_ports",
            Ending::NoServer => "no_server",
            Ending::ServersFull => "servers_full",
            Ending::ConnectRate => "connect_rate",
            Ending::QueueFull => "queue_full",
            Ending::QueueTimeout => "queue_timeout",
            Ending::QueueLeft => "queue_left",
            Ending::GreetingRefused => "greeting_refused",
            Ending::GreetingTimeout => "greeting_timeout",
            Ending::IdleTimeout => "idle_timeout",
            Ending::HalfCloseTimeout => "half_close_timeout",
            Ending::Lifetime => "lifetime",
            Ending::PeerVanished => "peer_vanished",
            Ending::ServerDown => "server_down",
            Ending::RoleLost => "role_lost",
            Ending::Moved => "moved",
            Ending::Killed => "killed",
            Ending::Shutdown => "shutdown",
            Ending::Resource => "resource",
            Ending::Internal => "internal",
        }
    }

    /// HAProxy's two letters (its configuration manual, §8.5): who ended it, and in which state it was.
    pub const fn code(self) -> &'static str {
        match self {
            Ending::Done => "--",
            Ending::ClientReset => "CD",
            Ending::ClientGone => "CC",
            Ending::ServerReset => "SD",
            Ending::ConnectRefused | Ending::ConnectUnreachable | Ending::NoServer => "SC",
            Ending::ConnectTimeout => "sC",
            Ending::NoPorts => "RC",
            Ending::ServersFull | Ending::ConnectRate | Ending::QueueFull => "SQ",
            Ending::QueueTimeout => "sQ",
            Ending::QueueLeft => "CQ",
            Ending::GreetingRefused => "SH",
            Ending::GreetingTimeout => "sH",
            Ending::IdleTimeout => "cD",
            Ending::HalfCloseTimeout => "cL",
            Ending::Lifetime => "LD",
            Ending::PeerVanished => "sD",
            Ending::ServerDown | Ending::RoleLost => "DD",
            Ending::Moved | Ending::Killed | Ending::Shutdown => "KD",
            Ending::Resource => "RD",
            Ending::Internal => "ID",
        }
    }
}

/// Why a connection was refused before it became a session: it is accepted and reset at once, and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// `max_connections` sessions are open.
    MaxConnections,
    /// Accept failed, or was not tried, for want of descriptors or memory (EMFILE, ENFILE, ENOBUFS, ENOMEM); connections
    /// wait in the kernel's queue, and the listener tries again after a pause. Counted once a pause.
    AcceptFailed,
    /// A limit on memory is nearly reached.
    Memory,
}

impl Refusal {
    /// All of them, in the order of their numbers.
    pub const ALL: [Refusal; 3] = [Refusal::MaxConnections, Refusal::AcceptFailed, Refusal::Memory];

    /// The word in metrics.
    pub const fn reason(self) -> &'static str {
        match self {
            Refusal::MaxConnections => "max_connections",
            Refusal::AcceptFailed => "accept_failed",
            Refusal::Memory => "memory",
        }
    }
}

/// How one connect to a server went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ConnectResult {
    /// Connected.
    Ok,
    /// Refused (`ECONNREFUSED`, or no such unix socket).
    Refused,
    /// Took longer than `connect_timeout`.
    Timeout,
    /// No route, or the network said no.
    Unreachable,
    /// No local port left.
    NoPorts,
    /// Out of descriptors or memory.
    Resource,
    /// The client went away meanwhile.
    Abandoned,
}

impl ConnectResult {
    /// All of them, in the order of their numbers.
    pub const ALL: [ConnectResult; 7] = [
        ConnectResult::Ok,
        ConnectResult::Refused,
        ConnectResult::Timeout,
        ConnectResult::Unreachable,
        ConnectResult::NoPorts,
        ConnectResult::Resource,
        ConnectResult::Abandoned,
    ];

    /// The word in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            ConnectResult::Ok => "ok",
            ConnectResult::Refused => "refused",
            ConnectResult::Timeout => "timeout",
            ConnectResult::Unreachable => "unreachable",
            ConnectResult::NoPorts => "no_ports",
            ConnectResult::Resource => "resource",
            ConnectResult::Abandoned => "abandoned",
        }
    }

    /// Whether it speaks against the server, or the way to it.
    pub const fn is_fault_of_server(self) -> bool {
        match self {
            ConnectResult::Refused | ConnectResult::Timeout | ConnectResult::Unreachable => true,
            ConnectResult::Ok | ConnectResult::NoPorts | ConnectResult::Resource | ConnectResult::Abandoned => false,
        }
    }

    /// The ending of a session whose last attempt went like this.
    pub const fn ending(self) -> Ending {
        match self {
            ConnectResult::Ok => Ending::Done,
            ConnectResult::Refused => Ending::ConnectRefused,
            ConnectResult::Timeout => Ending::ConnectTimeout,
            ConnectResult::Unreachable => Ending::ConnectUnreachable,
            ConnectResult::NoPorts => Ending::NoPorts,
            ConnectResult::Resource => Ending::Resource,
            ConnectResult::Abandoned => Ending::ClientGone,
        }
    }
}

/// What a server of `kind = "mysql"` did instead of greeting. All but [`GreetingError::Other`] send the session on to another
/// server. The numbers are those of MySQL's errors (its manual, "Server Error Message Reference").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GreetingError {
    /// It has all the connections it may have (`ER_CON_COUNT_ERROR`).
    TooManyConnections,
    /// It is shutting down (`ER_SERVER_SHUTDOWN`).
    ShuttingDown,
    /// It has blocked this host after too many broken handshakes (`ER_HOST_IS_BLOCKED`).
    HostBlocked,
    /// Another error, which the client is told.
    Other,
    /// It finished before its greeting was whole.
    Closed,
    /// It reset the connection before.
    Reset,
    /// Its greeting was not whole within `connect_timeout`.
    Timeout,
}

impl GreetingError {
    /// All of them, in the order of their numbers.
    pub const ALL: [GreetingError; 7] = [
        GreetingError::TooManyConnections,
        GreetingError::ShuttingDown,
        GreetingError::HostBlocked,
        GreetingError::Other,
        GreetingError::Closed,
        GreetingError::Reset,
        GreetingError::Timeout,
    ];

    /// The word in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            GreetingError::TooManyConnections => "1040",
            GreetingError::ShuttingDown => "1053",
            GreetingError::HostBlocked => "1129",
            GreetingError::Other => "other",
            GreetingError::Closed => "closed",
            GreetingError::Reset => "reset",
            GreetingError::Timeout => "timeout",
        }
    }

    /// The ending of a session whose last attempt came to this.
    pub const fn ending(self) -> Ending {
        match self {
            GreetingError::Timeout => Ending::GreetingTimeout,
            GreetingError::TooManyConnections
            | GreetingError::ShuttingDown
            | GreetingError::HostBlocked
            | GreetingError::Other
            | GreetingError::Closed
            | GreetingError::Reset => Ending::GreetingRefused,
        }
    }
}

const _: () = assert!(GreetingError::ALL.len() <= GREETING_ERRORS_MAX);
const _: () = assert!(Ending::ALL.len() <= ENDINGS_MAX);
const _: () = assert!(Refusal::ALL.len() <= REFUSALS_MAX);
const _: () = assert!(ConnectResult::ALL.len() <= CONNECT_RESULTS_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_whole_and_in_order() {
        for (i, ending) in Ending::ALL.into_iter().enumerate() {
            assert_eq!(ending as usize, i, "{ending:?}");
        }
        for (i, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, i);
        }
        for (i, result) in ConnectResult::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, i);
        }
        for (i, error) in GreetingError::ALL.into_iter().enumerate() {
            assert_eq!(error as usize, i);
        }
        let mut words: Vec<_> = Ending::ALL.map(Ending::reason).to_vec();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Ending::ALL.len());
    }
}
