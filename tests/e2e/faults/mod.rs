//! Faults: everything a network, a peer or an operator can do to the daemon, one test each, called by its number in the
//! catalogue of faults. Each ends with [`crate::harness::invariants`]: afterwards the daemon is as it was before.

mod links;
mod own;
mod resources;
