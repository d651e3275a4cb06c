//! When checks are due, so that a thousand of them never fire together.
//!
//! First checks are laid out one after the other; from then on each interval is up to a tenth shorter or longer, by chance,
//! so that what fell together once does not stay together.

/// Time between the first checks of two servers, in nanoseconds, as long as all fit into their interval.
const STAGGER_NS: u64 = 2_000_000;
/// Of an interval, how much chance may add or take away.
const JITTER: u64 = 10;

/// Checks begin at multiples of this, in nanoseconds, or of half of what chance may add, if that is less: those that begin
/// together wake the thread once, and the second of them finds in the caches what the first has brought there.
const BEAT_NS: u64 = 50_000_000;

/// How long the first check of server `index` of `count` waits, in nanoseconds.
pub fn first_delay_ns(index: usize, count: usize, interval_ms: u32) -> u64 {
    let spread = (count as u64 * STAGGER_NS).min(u64::from(interval_ms) * 1_000_000);
    // A product of two such numbers may not fit into 64 bits.
    (u128::from(spread) * index as u128 / count.max(1) as u128) as u64
}

/// When the check after one that began at `begun_ns` and ended at `ended_ns` is due. Checks of a server never overlap.
pub fn next_ns(begun_ns: u64, ended_ns: u64, interval_ms: u32, random: u64) -> u64 {
    due_ns(begun_ns, ended_ns, interval_ms, 2, random)
}

/// The same, with an interval that chance makes shorter only.
pub fn no_later_ns(begun_ns: u64, ended_ns: u64, interval_ms: u32, random: u64) -> u64 {
    due_ns(begun_ns, ended_ns, interval_ms, 1, random)
}

/// Due with one of the beats between a tenth early and so many tenths after that.
fn due_ns(begun_ns: u64, ended_ns: u64, interval_ms: u32, tenths: u64, random: u64) -> u64 {
    let interval = u64::from(interval_ms) * 1_000_000;
    let least = begun_ns.saturating_add(interval - interval / JITTER);
    let room = tenths * interval / JITTER;
    // So that chance has the choice of two at least.
    let beat = BEAT_NS.min(room / 2).max(1);
    let first = least.next_multiple_of(beat);
    let beats = (least + room - first) / beat + 1;
    (first + random % beats * beat).max(ended_ns)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::digest::mix;

    #[test]
    fn a_thousand_checks_never_fire_together() {
        const SECOND: u64 = 1_000_000_000;
        type Next = fn(u64, u64, u32, u64) -> u64;
        // Most in a beat, and all, over a minute. On average a beat has 25 of those every two seconds, and 51 of those every second.
        let table: [(u32, Next, u32, std::ops::RangeInclusive<u32>); 2] =
            [(2_000, next_ns, 50, 29_000..=31_500), (1_000, no_later_ns, 90, 60_000..=63_500)];
        for (interval_ms, next, most, all) in table {
            let mut begun = vec![0_u32; 1_200];
            for server in 0..1_000 {
                let mut at = first_delay_ns(server, 1_000, interval_ms);
                let mut random = mix(server as u64);
                while at < 60 * SECOND {
                    begun[(at / BEAT_NS) as usize] += 1;
                    random = mix(random);
                    at = next(at, at, interval_ms, random);
                    assert_eq!(at % BEAT_NS, 0, "with a beat");
                }
            }
            let found = begun.iter().max().copied();
            assert!(found <= Some(most), "{found:?} in one beat");
            let total: u32 = begun.iter().sum();
            assert!(all.contains(&total), "{total}");
        }
    }

    #[test]
    fn what_fell_together_does_not_stay_together() {
        for interval_ms in [10, 100, 400, 499, 500, 1_000, 2_000] {
            // A little after a beat, as the thread wakes.
            let begun = 7 * BEAT_NS + 90_000;
            let due: std::collections::HashSet<u64> =
                (0..200).map(|server| no_later_ns(begun, begun, interval_ms, mix(server))).collect();
            assert!(due.len() > 1, "all at {due:?} of {interval_ms} ms");
        }
    }

    #[test]
    fn few_servers_do_not_wait() {
        assert_eq!(first_delay_ns(0, 1, 2_000), 0);
        assert_eq!(first_delay_ns(1, 2, 2_000), 2_000_000);
        assert_eq!(first_delay_ns(999, 1_000, 10), 9_990_000);
    }

    proptest! {
        #[test]
        fn an_interval_is_kept_within_a_tenth(
            begun in any::<u32>(), took in any::<u32>(), ms in 10_u32..86_400_000, random in any::<u64>(),
        ) {
            let (begun, ended) = (u64::from(begun), u64::from(begun) + u64::from(took));
            let next = next_ns(begun, ended, ms, random);
            let interval = u64::from(ms) * 1_000_000;
            prop_assert!(next >= ended && next >= begun + interval - interval / 10);
            prop_assert!(next == ended || next <= begun + interval + interval / 10);
            let sooner = no_later_ns(begun, ended, ms, random);
            prop_assert!(sooner >= ended && sooner >= begun + interval - interval / 10);
            prop_assert!(sooner == ended || sooner <= begun + interval);
        }
    }
}
