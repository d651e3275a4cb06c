//! What the tests stand on.

pub mod browser;
pub mod certificates;
pub mod cluster;
pub mod engine;
pub mod facts;
pub mod ground;
pub mod invariants;
pub mod network;
pub mod noise;
pub mod peers;
pub mod process;
pub mod ringway;
pub mod terminal;
