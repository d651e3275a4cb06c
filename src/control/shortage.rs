//! Sheds load when a limit on memory is nearly reached: nobody new is let in, and those who are in go on.
//!
//! What sessions may need was worked out at start ([`super::ceiling`]); this is for what nobody can work out, a neighbour in
//! the same cgroup, or a limit that was lowered since. The kernel would end the whole process instead.

use std::sync::atomic::Ordering;

use crate::base::limits::{MEMORY_CALM_PERCENT, MEMORY_SHORT_PERCENT};
use crate::dataplane::commons::Commons;
use crate::observe::event::Event;
use crate::sys::memory::{self, Usage};

const MIB: u64 = 1 << 20;

/// Looks at the limits, lets the workers know, and answers what to say when that has changed.
pub(super) fn look(commons: &Commons) -> Option<Event> {
    let was = commons.memory_short.load(Ordering::Relaxed);
    let usage = memory::usage();
    let is = usage.is_some_and(|usage| is_short(was, usage));
    commons.memory_short.store(is, Ordering::Relaxed);
    let event = match (was, is) {
        (false, true) => Event::warn("memory_short", "memory is nearly used up: new connections are refused"),
        (true, false) => Event::info("memory_enough", "there is memory again: new connections are accepted"),
        _ => return None,
    };
    Some(match usage {
        Some(Usage { used, limit, by }) => {
            event.with("used_mib", used / MIB).with("limit_mib", limit / MIB).with("limited_by", by)
        }
        None => event,
    })
}

/// Once short, it takes a little more for enough, so that it does not change with every session.
fn is_short(was: bool, usage: Usage) -> bool {
    let percent = if was { MEMORY_CALM_PERCENT } else { MEMORY_SHORT_PERCENT };
    u128::from(usage.used) * 100 >= u128::from(usage.limit) * u128::from(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_more_to_be_enough_again() {
        let usage = |used| Usage { used, limit: 1_000, by: "a test" };
        for (was, used, is) in [(false, 899, false), (false, 900, true), (true, 850, true), (true, 849, false)] {
            assert_eq!(is_short(was, usage(used)), is, "{was} {used}");
        }
        assert!(!is_short(false, Usage { used: u64::MAX / 2, limit: u64::MAX, by: "no limit" }));
        assert!(is_short(false, Usage { used: 1, limit: 0, by: "a limit of nothing" }));
    }
}
