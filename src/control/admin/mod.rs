//! The admin server: HTTP/1.1 on a unix socket with full rights, and read-only on a TCP address.
//!
//! It is bounded in every direction, because it is the one place where strangers may talk to the conductor: connections,
//! size and time of a request, time of a whole connection. It asks the conductor for things by [`Command`]; it never
//! touches a worker.

mod feed;
mod page;
mod routes;
mod server;
mod sockets;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use crate::base::bucket::Bucket;
use crate::dataplane::roll::{Called, Task, Whose};
use crate::observe::panel::Panel;

use super::evener::{Rebalance, Rebalanced};
use super::reload::Answer;
use super::roster::{Edit, Edited, InForce};
use super::steer::{Drain, Drained, Refused, ServerChange, ServerChanged};

pub(super) use crate::base::limits::COMMANDS_MAX;

use self::feed::Feed;

pub use self::routes::{History, Info, Problem, ROUTES, Route};
pub use self::server::conversation;
pub(super) use self::server::{Slots, Spare, serve};
pub(super) use self::sockets::AdminSockets;

/// What the conductor can be asked for.
pub(super) enum Command {
    /// Take up a new configuration.
    Reload {
        /// The text, when it is not the source's.
        text: Option<String>,
        /// Answer only when closed doors are closed.
        wait: bool,
        /// Who asks, if it is somebody outside.
        by: Option<Peer>,
        /// Who wants to know.
        reply: Reply,
    },
    /// Take up the configuration before the one in force.
    RollBack {
        /// Who asks.
        by: Option<Peer>,
        /// Who wants to know.
        reply: Reply,
    },
    /// Change a server.
    Server {
        /// How.
        change: ServerChange,
        /// Who asks.
        by: Option<Peer>,
        /// Who wants to know.
        reply: Box<dyn FnOnce(Result<ServerChanged, Refused>) + Send>,
    },
    /// Have traffic go elsewhere, or come again.
    Drain {
        /// Which of the two.
        drain: Drain,
        /// Who asks.
        by: Option<Peer>,
        /// Who wants to know.
        reply: Box<dyn FnOnce(Result<Drained, Refused>) + Send>,
    },
    /// Bring a pool into balance.
    Rebalance {
        /// Which, and how.
        wish: Rebalance,
        /// Who asks.
        by: Option<Peer>,
        /// Who wants to know.
        reply: Box<dyn FnOnce(Result<Rebalanced, Refused>) + Send>,
    },
    /// Add or remove a server.
    Edit {
        /// Which, and how.
        edit: Edit,
        /// Who asks.
        by: Option<Peer>,
        /// Who wants to know.
        reply: Box<dyn FnOnce(Result<Edited, Refused>) + Send>,
    },
    /// List sessions, or end them.
    Roll {
        /// Which.
        whose: Whose,
        /// What.
        task: Task,
        /// Who asks.
        by: Option<Peer>,
        /// Who wants to know.
        reply: RollReply,
    },
    /// Stop: now, or after a drain.
    Stop {
        /// Without a drain.
        now: bool,
    },
}

/// The process at the other end of the unix socket (`SO_PEERCRED`, unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    /// Its user.
    pub(super) uid: u32,
    /// Its number, where the kernel knows it.
    pub(super) pid: Option<i32>,
}

/// Takes a called roll; as [`Reply`].
pub(super) type RollReply = Box<dyn FnOnce(Called) + Send + Sync>;

/// Takes the answer; may be called on the conductor's thread, so it must not block.
pub(super) type Reply = Box<dyn FnOnce(Answer) + Send>;

/// What the admin server reads, and how it reaches the conductor.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) panel: Arc<Panel>,
    /// The text of the configuration in force.
    pub(super) text: ArcSwap<String>,
    /// What is laid over it.
    pub(super) overlay: ArcSwap<InForce>,
    /// What the source is called.
    pub(super) source: String,
    pub(super) commands: mpsc::Sender<Command>,
    /// Those who watch.
    feed: Arc<Feed>,
    /// How fast requests come.
    requests: Requests,
}

/// One bucket for each socket: whoever may look cannot keep out whoever may do everything.
#[derive(Debug, Default)]
struct Requests {
    unix: Bucket,
    tcp: Bucket,
}

impl Board {
    /// A board with nobody who watches.
    pub(super) fn new(panel: Arc<Panel>, text: String, source: String, commands: mpsc::Sender<Command>) -> Self {
        Self {
            panel,
            text: ArcSwap::from_pointee(text),
            overlay: ArcSwap::default(),
            source,
            commands,
            feed: Arc::default(),
            requests: Requests::default(),
        }
    }
}
