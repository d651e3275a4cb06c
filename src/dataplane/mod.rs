//! A worker and all it does: accept, choose, connect, relay, end.
//!
//! Files, in the order of a session's life: [`worker`] (the loop) → [`shard`] (all decisions) → `session` and `pump` (one
//! session, one direction) → [`ending`] → [`record`]. [`commons`] is what workers share with each other and with the
//! control thread; nothing else is shared.

pub mod census;
mod closing;
pub mod commons;
mod connect;
mod doors;
pub mod ending;
pub mod evict;
pub mod exodus;
mod gate;
mod gather;
mod handover;
pub mod pipes;
mod pump;
mod queue;
pub mod record;
pub mod roll;
mod session;
pub mod shard;
pub mod worker;

#[cfg(test)]
mod tests;
