//! What to think of connects that fail in a row: the server gets a rest, longer each time, and then another chance.
//!
//! Workers count; whoever owns an [`Ejection`] decides. That a pool is never left without a server is its owner's part.

use crate::config::plan::Eject;

/// One server's rests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ejection {
    /// Until when it rests; `None`: it is in service.
    until_ns: Option<u64>,
    /// Length of the last rest, in milliseconds; 0 when there was none.
    last_ms: u32,
    /// When the last rest ended.
    ended_ns: u64,
}

impl Ejection {
    /// Begins a rest and says how long it is, in milliseconds: twice the last one if that has ended less than its own length
    /// ago, else the first.
    pub fn begin(&mut self, now_ns: u64, terms: &Eject) -> u32 {
        let soon = now_ns < self.ended_ns.saturating_add(ns(self.last_ms));
        let length = match soon && self.last_ms > 0 {
            true => self.last_ms.saturating_mul(2),
            false => terms.for_ms,
        };
        self.last_ms = length.min(terms.for_ms_max);
        self.until_ns = Some(now_ns.saturating_add(ns(self.last_ms)));
        self.last_ms
    }

    /// Ends a rest.
    pub fn end(&mut self, now_ns: u64) {
        self.until_ns = None;
        self.ended_ns = now_ns;
    }

    /// Until when it rests.
    pub fn until_ns(&self) -> Option<u64> {
        self.until_ns
    }

    /// Whether it has rested long enough.
    pub fn is_over(&self, now_ns: u64) -> bool {
        self.until_ns.is_some_and(|until| until <= now_ns)
    }
}

fn ns(ms: u32) -> u64 {
    u64::from(ms) * 1_000_000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TERMS: Eject = Eject { failures: 5, for_ms: 10_000, for_ms_max: 35_000 };

    #[test]
    fn rests_grow_while_trouble_comes_back_soon() {
        let mut ejection = Ejection::default();
        let mut now = ns(1_000_000);
        let mut rest = |after_ms: u32| {
            now += ns(after_ms);
            let length = ejection.begin(now, &TERMS);
            assert!(!ejection.is_over(now + ns(length) - 1) && ejection.is_over(now + ns(length)));
            now += ns(length);
            ejection.end(now);
            assert!(!ejection.is_over(now));
            length
        };
        assert_eq!([rest(0), rest(9_999), rest(0), rest(0)], [10_000, 20_000, 35_000, 35_000]);
        assert_eq!([rest(34_999), rest(35_000), rest(1)], [35_000, 10_000, 20_000]);
    }

    proptest! {
        #[test]
        fn a_rest_is_within_its_limits(
            gaps in prop::collection::vec(any::<u32>(), 1..30), first in 1_u32..1_000_000, more in 0_u32..1_000_000,
        ) {
            let terms = Eject { failures: 1, for_ms: first, for_ms_max: first + more };
            let (mut ejection, mut now) = (Ejection::default(), 0_u64);
            for gap in gaps {
                now += u64::from(gap);
                let length = ejection.begin(now, &terms);
                prop_assert!((terms.for_ms..=terms.for_ms_max).contains(&length));
                now += ns(length);
                prop_assert!(ejection.is_over(now));
                ejection.end(now);
            }
        }
    }
}
