//! The configuration: file → [`raw`] reading with [`complaints`] → immutable [`plan`], with the [`ledger`]s that outlive it.

pub mod ledger;
pub mod plan;
