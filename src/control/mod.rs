//! What runs the balancer: boot, signals, reload, the fleet of workers, the admin server.
//!
//! One thread, the *conductor*, on a small async runtime. It may be slow, and the workers never notice: it talks to them by
//! publishing a scene and posting letters, and it never waits for them except at the very end.
//!
//! ```text
//! boot ──▶ conductor ──┬── signals   HUP, TERM, QUIT, INT, USR1, USR2
//!                      ├── reload    file → plan → doors → one swap; refused as a whole if anything is wrong
//!                      ├── prober    checks of servers, rests for those that fail
//!                      ├── shepherd  sessions that are to go elsewhere, over a time
//!                      ├── evener    pools whose sessions are to be brought into balance
//!                      ├── errands   what workers leave for this thread to do
//!                      ├── fleet     the workers: start, letters, farewell
//!                      ├── admin     metrics, status, health, reload over HTTP
//!                      └── runtime   HAProxy's line protocol, for hatop and operators' scripts
//! ```

pub mod admin;
mod boot;
mod ceiling;
pub mod conductor;
mod doors;
pub mod engine;
mod errands;
pub mod evener;
pub mod explain;
pub mod failure;
mod fleet;
pub mod guest;
mod pace;
mod prober;
mod ramps;
pub mod reload;
pub mod roster;
pub mod runtime;
pub mod sessions;
mod shepherd;
mod shortage;
mod signals;
pub mod source;
pub mod span;
pub mod steer;
mod systemd;
mod tempo;
mod watchdog;

pub use self::ceiling::held_by_memory;
pub use self::prober::Library;
