//! Small tools that know nothing of load balancing.

pub mod bucket;
pub mod counter;
pub mod digest;
pub mod histogram;
pub mod limits;
pub mod pulse;
pub mod rehearsal;
pub mod slab;
pub mod wheel;
pub mod words;
