//! A latency histogram with fixed buckets and one writer, cheap enough for every session.

use super::counter::Counter;

/// Upper bounds of the buckets in microseconds; the last bucket (not listed) holds the rest.
pub const BOUNDS_US: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
    30_000_000,
];

/// Counts of durations by bucket, their number and their sum.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS_US.len() + 1],
    sum_us: Counter,
}

impl Histogram {
    /// Counts one duration.
    #[inline]
    pub fn record(&self, us: u64) {
        let bucket = BOUNDS_US.partition_point(|&bound| bound < us);
        self.buckets[bucket].bump();
        self.sum_us.add(us);
    }

    /// How many durations fell into each bucket (not cumulated), the overflow bucket last.
    pub fn counts(&self) -> [u64; BOUNDS_US.len() + 1] {
        std::array::from_fn(|i| self.buckets[i].read())
    }

    /// The sum of all durations, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_inclusive_and_the_last_bucket_takes_the_rest() {
        let h = Histogram::default();
        for us in [0, 50, 51, 30_000_000, 30_000_001] {
            h.record(us);
        }
        let counts = h.counts();
        assert_eq!((counts[0], counts[1], counts[15], counts[16]), (2, 1, 1, 1));
        assert_eq!(h.sum_us(), 60_000_102);
    }
}
