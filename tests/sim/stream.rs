//! Bytes that say where they belong: each stream differs from every other, and from itself at every other offset.
//!
//! A table of random bytes whose length is a prime, so that a shift by any buffer's size shows.

use std::sync::OnceLock;

use crate::rng::Rng;

const PERIOD: usize = 65_521;

fn table() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut rng = Rng::new(1);
        (0..PERIOD).map(|_| rng.next() as u8).collect()
    })
}

/// Runs of the table that make up `len` bytes of stream `stream` from offset `from`.
fn runs(stream: usize, from: u64, len: usize) -> impl Iterator<Item = &'static [u8]> {
    let mut at = ((from + stream as u64 * 40_503) % PERIOD as u64) as usize;
    let mut left = len;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let run = left.min(PERIOD - at);
        let slice = &table()[at..at + run];
        at = (at + run) % PERIOD;
        left -= run;
        Some(slice)
    })
}

/// Writes what stands at `from` of a stream.
pub fn write(stream: usize, from: u64, into: &mut [u8]) {
    let mut done = 0;
    for run in runs(stream, from, into.len()) {
        into[done..done + run.len()].copy_from_slice(run);
        done += run.len();
    }
}

/// Whether `bytes` are what stands at `from` of a stream.
pub fn is(stream: usize, from: u64, bytes: &[u8]) -> bool {
    let mut done = 0;
    for run in runs(stream, from, bytes.len()) {
        if bytes[done..done + run.len()] != *run {
            return false;
        }
        done += run.len();
    }
    true
}
