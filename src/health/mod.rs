//! Whether servers are well.

pub mod mysql;
