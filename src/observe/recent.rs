//! The last events of the daemon, for whoever looks: the status page, `/v1/history`, `ringway top`.
//!
//! Read-only clients see them, so what may hold a secret, or tells who did something, is in the log alone.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::base::limits::EVENTS_MAX;

use super::event::Event;

/// Longest message that is kept, in characters.
const MESSAGE_CHARS_MAX: usize = 400;

/// Events that stay in the log: lines of configurations, which may quote one, and who asked for something.
const LOG_ONLY: [&str; 4] = ["change", "complaint", "needs_restart", "admin"];

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Counts up from 1.
    pub number: u64,
    /// When it happened, in milliseconds since 1970.
    pub unix_ms: u64,
    /// `info`, `warn` or `error`.
    pub level: String,
    /// The word in the log.
    pub event: String,
    /// For people.
    pub message: String,
}

/// The last [`EVENTS_MAX`]. Whoever says something to the log adds to it; no worker does.
#[derive(Debug, Default)]
pub struct Recent {
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    told: VecDeque<Told>,
    last: u64,
}

impl Recent {
    /// Keeps an event, unless it is for the log alone.
    pub fn keep(&self, event: &Event) {
        if LOG_ONLY.contains(&event.name()) {
            return;
        }
        let message = event.message().chars().take(MESSAGE_CHARS_MAX).collect();
        let mut ring = self.ring();
        ring.last += 1;
        let told = Told {
            number: ring.last,
            unix_ms: event.unix_ns() / 1_000_000,
            level: event.level().word().to_owned(),
            event: event.name().to_owned(),
            message,
        };
        if ring.told.len() == EVENTS_MAX {
            ring.told.pop_front();
        }
        ring.told.push_back(told);
    }

    /// Those after number `number`, the oldest first; 0: all there are.
    pub fn after(&self, number: u64) -> Vec<Told> {
        let ring = self.ring();
        let from = ring.told.partition_point(|told| told.number <= number);
        ring.told.range(from..).cloned().collect()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Text for people: a ring that somebody left in the middle of a change is still one.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_kept_in_order_and_cut_to_size() {
        let recent = Recent::default();
        for n in 0..EVENTS_MAX + 5 {
            recent.keep(&Event::warn("server", format!("number {n}")));
        }
        let all = recent.after(0);
        assert_eq!((all.len(), all[0].number), (EVENTS_MAX, 6));
        assert_eq!(all[0].message, "number 5");
        let newest = EVENTS_MAX as u64 + 5;
        assert_eq!(recent.after(newest - 2).iter().map(|told| told.number).collect::<Vec<_>>(), [newest - 1, newest]);
        assert!(recent.after(newest).is_empty());
        recent.keep(&Event::info("server", "ü".repeat(10_000)));
        assert_eq!(recent.after(newest)[0].message.chars().count(), MESSAGE_CHARS_MAX);
    }

    #[test]
    fn what_may_hold_a_secret_stays_in_the_log() {
        let recent = Recent::default();
        for name in LOG_ONLY {
            recent.keep(&Event::info(name, "check { send = \"AUTH secret\" }"));
        }
        assert_eq!(recent.after(0), []);
    }
}
