//! The configuration: a file becomes a [`draft`] or [`complaints`], the draft an immutable [`plan`]; [`ledger`]s outlive it.
//!
//! ```text
//! text ── parse ──▶ Draft ── compile(registry, previous) ──▶ Plan ── diff(old, new) ──▶ what a reload would do
//!            └────▶ Complaints                  keeps the objects of what did not change
//!                 overlay: servers added and removed beside the file
//! ```

mod checks;
mod compile;
pub mod complaints;
pub mod diff;
pub mod draft;
pub mod file;
mod keys;
pub mod ledger;
pub mod limits;
pub mod line;
mod maglev;
mod mysql;
pub mod overlay;
pub mod plan;
mod pools;
mod print;
mod read;
mod rotation;
mod rules;
mod sections;
mod syntax;
pub mod tuning;
mod value;

pub use complaints::Complaints;
pub use draft::{Draft, parse};
