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

/// Reads a duration as the file has it, in milliseconds.
///
/// # Errors
/// What is wrong with it, and what to do.
pub fn duration_ms(text: &str) -> Result<u64, String> {
    value::duration(text).map_err(value::Fault::words)
}

/// Milliseconds as the file has them.
pub fn duration_text(ms: u64) -> String {
    value::duration_text(ms)
}

pub use complaints::Complaints;
pub use draft::{Draft, parse};
