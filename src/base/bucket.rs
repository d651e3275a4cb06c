//! A token bucket in one atomic: so many a second, and so many at once after a pause.
//!
//! What is kept is when the next one would be due if they came evenly (the theoretical arrival time of the generic cell rate
//! algorithm, ITU-T I.371). One that comes may be early by as much as the burst allows. No clock runs, and nothing is added
//! up while nobody asks.

use std::sync::atomic::{AtomicU64, Ordering};

/// How fast, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Time from one to the next, in nanoseconds.
    pub interval_ns: u64,
    /// How early one may be, in nanoseconds: the interval for each of the burst but the first.
    pub slack_ns: u64,
}

impl Rate {
    /// `count` in each `per_ns`, and `burst` at once. Neither count nor burst is 0.
    pub fn new(count: u32, per_ns: u64, burst: u32) -> Self {
        let interval_ns = (per_ns / u64::from(count.max(1))).max(1);
        Self { interval_ns, slack_ns: interval_ns * u64::from(burst.saturating_sub(1)) }
    }
}

/// The bucket; a new one is full.
#[derive(Debug, Default)]
pub struct Bucket(AtomicU64);

impl Bucket {
    /// Another that stands as this one does.
    pub fn copy(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }

    /// Takes one, if there is one at `now_ns`.
    pub fn take(&self, rate: Rate, now_ns: u64) -> bool {
        let next = |due: u64| (due <= now_ns + rate.slack_ns).then(|| due.max(now_ns) + rate.interval_ns);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Puts one back that was taken a moment ago and not used.
    pub fn put_back(&self, rate: Rate) {
        self.0.fetch_sub(rate.interval_ns, Ordering::Relaxed);
    }

    /// From when on there is one.
    pub fn ready_ns(&self, rate: Rate) -> u64 {
        self.0.load(Ordering::Relaxed).saturating_sub(rate.slack_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn a_burst_then_evenly() {
        let (bucket, rate) = (Bucket::default(), Rate::new(200, SECOND_NS, 3));
        let start = 7 * SECOND_NS;
        let takes = |at| (0..100).take_while(|_| bucket.take(rate, at)).count();
        assert_eq!(takes(start), 3);
        assert_eq!(bucket.ready_ns(rate), start + 5_000_000);
        assert_eq!(takes(start + 4_999_999), 0);
        assert_eq!(takes(start + 5_000_000), 1);
        assert_eq!(takes(start + 12_000_000), 1);
        assert_eq!(takes(start + SECOND_NS), 3, "no more than the burst, however long nobody came");
        bucket.put_back(rate);
        assert_eq!(takes(start + SECOND_NS), 1);
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_the_burst(
            (count, burst) in (1_u32..5_000, 1_u32..100),
            gaps in prop::collection::vec(0_u64..20_000_000, 1..300),
        ) {
            let (bucket, rate) = (Bucket::default(), Rate::new(count, SECOND_NS, burst));
            let start = 3 * SECOND_NS;
            let (mut now, mut taken) = (start, 0_u64);
            for gap in gaps {
                now += gap;
                let ready = bucket.ready_ns(rate) <= now;
                let took = bucket.take(rate, now);
                prop_assert_eq!(took, ready);
                taken += u64::from(took);
                prop_assert!(taken <= (now - start) / rate.interval_ns + u64::from(burst));
            }
        }
    }
}
