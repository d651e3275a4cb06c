//! The admin server: HTTP/1.1 on a unix socket with full rights, and read-only on a TCP address.
//!
//! It is bounded in every direction, because it is the one place where strangers may talk to the conductor: connections,
//! size and time of a request, time of a whole connection. It asks the conductor for things by [`Command`]; it never
//! touches a worker.

mod routes;
mod server;
mod sockets;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use crate::observe::panel::Panel;

use super::reload::Answer;

pub(super) use crate::base::limits::COMMANDS_MAX;

pub use self::routes::{Info, Problem};
pub use self::server::conversation;
pub(super) use self::server::serve;
pub(super) use self::sockets::AdminSockets;

/// What the conductor can be asked for.
pub(super) enum Command {
    /// Take up a new configuration.
    Reload {
        /// The text, when it is not the source's.
        text: Option<String>,
        /// Answer only when closed doors are closed.
        wait: bool,
        /// Who wants to know.
        reply: Reply,
    },
    /// Stop: now, or after a drain.
    Stop {
        /// Without a drain.
        now: bool,
    },
}

/// Takes the answer; may be called on the conductor's thread, so it must not block.
pub(super) type Reply = Box<dyn FnOnce(Answer) + Send>;

/// What the admin server reads, and how it reaches the conductor.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) panel: Arc<Panel>,
    /// The text of the configuration in force.
    pub(super) text: ArcSwap<String>,
    /// What the source is called.
    pub(super) source: String,
    pub(super) commands: mpsc::Sender<Command>,
}
