//! The deterministic stream: what byte stands at which position.
//!
//! Every connection, whoever sends, sends the same endless stream, so that a receiver can check any byte by its position
//! alone. The stream repeats a table of noise whose length is a prime: pieces lost, doubled or swapped at any round
//! distance (a page, a pipe, a megabyte) then no longer match. All senders share the one table, and nothing is copied
//! to prepare a send.

use std::sync::LazyLock;

/// After how many bytes the stream repeats: the largest prime below 64 KiB, so that the table stays in a core's cache.
pub const PERIOD: u64 = 65_521;
/// The longest slice one call returns, in bytes.
pub const SLICE_MAX: usize = 256 * 1024;

/// One period, followed by its own beginning, so that every position starts a whole slice.
static TABLE: LazyLock<Box<[u8]>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let period: Vec<u8> = (0..PERIOD)
        .map(|_| {
            // xorshift64 (Marsaglia 2003); the top byte is the best mixed.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 56) as u8
        })
        .collect();
    let length = PERIOD as usize + SLICE_MAX;
    period.iter().copied().cycle().take(length).collect()
});

/// The stream from `position` on: `bytes` of it, or [`SLICE_MAX`] if that is less.
#[inline]
pub fn slice(position: u64, bytes: u64) -> &'static [u8] {
    let start = (position % PERIOD) as usize;
    let length = bytes.min(SLICE_MAX as u64) as usize;
    &TABLE[start..start + length]
}

/// Checks that `got` is what the stream has at `position`.
///
/// # Errors
///
/// The position of the first byte that differs.
pub fn check(position: u64, got: &[u8]) -> Result<(), u64> {
    let mut at = position;
    for piece in got.chunks(SLICE_MAX) {
        let want = slice(at, piece.len() as u64);
        if piece != want {
            let same = piece.iter().zip(want).take_while(|(a, b)| a == b).count();
            return Err(at + same as u64);
        }
        at += piece.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(position: u64, bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while out.len() < bytes {
            let piece = slice(position + out.len() as u64, (bytes - out.len()) as u64);
            out.extend_from_slice(piece);
        }
        out
    }

    #[test]
    fn any_cut_is_the_same_stream() {
        let whole = stream(0, 700_000);
        for (from, to) in [(0, 1), (65_520, 65_523), (100_000, 700_000), (65_521, 131_042)] {
            assert_eq!(stream(from as u64, to - from), whole[from..to]);
            assert_eq!(check(from as u64, &whole[from..to]), Ok(()));
        }
    }

    #[test]
    fn tells_where_it_differs() {
        let mut got = stream(10, 300_000);
        got[299_000] ^= 1;
        assert_eq!(check(10, &got), Err(299_010));
    }

    #[test]
    fn swapped_lost_and_doubled_pieces_are_found() {
        for piece in [1, 4096, 16_384, 65_536, 1 << 20] {
            let first = stream(0, piece);
            let second = stream(piece as u64, piece);
            assert!(check(0, &second).is_err(), "lost {piece}");
            assert!(check(piece as u64, &first).is_err(), "doubled {piece}");
        }
    }
}
