//! How often a reload runs: the first at once, those asked for meanwhile together, none too soon after another.

use std::time::{Duration, Instant};

/// Least time from the end of one reload to the beginning of the next. A thousand HUPs in five seconds make at most 25
/// reloads, and the last one sees the last file.
pub const SPACING: Duration = Duration::from_millis(200);

/// The pace of reloads.
#[derive(Debug, Default)]
pub struct Pace {
    wanted: bool,
    ended: Option<Instant>,
}

impl Pace {
    /// Somebody wants a reload. Wanting it twice is wanting it once.
    pub fn want(&mut self) {
        self.wanted = true;
    }

    /// When the next reload is due; `None`: nobody wants one.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let earliest = self.ended.map_or(now, |ended| ended + SPACING);
        self.wanted.then(|| earliest.max(now))
    }

    /// A reload begins: what is asked for from now on asks for another.
    pub fn begin(&mut self) {
        self.wanted = false;
    }

    /// It has ended.
    pub fn end(&mut self, now: Instant) {
        self.ended = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_wishes_in_five_seconds_are_a_few_reloads_and_the_last_is_heard() {
        let begun = Instant::now();
        let mut pace = Pace::default();
        let (mut now, mut reloads, mut last_wish_seen) = (begun, 0, 0);
        assert_eq!(pace.due(now), None);
        for wish in 1..=1_000 {
            now = begun + Duration::from_millis(wish * 5);
            pace.want();
            if pace.due(now).is_some_and(|due| due <= now) {
                pace.begin();
                last_wish_seen = wish;
                reloads += 1;
                pace.end(now + Duration::from_millis(3));
            }
        }
        assert!((20..=26).contains(&reloads), "{reloads}");
        if last_wish_seen < 1_000 {
            let due = pace.due(now).expect("the last wish is still open");
            assert!(due <= now + SPACING);
        }
    }

    #[test]
    fn a_wish_during_a_reload_asks_for_another() {
        let now = Instant::now();
        let mut pace = Pace::default();
        pace.want();
        pace.begin();
        assert_eq!(pace.due(now), None);
        pace.want();
        pace.end(now);
        assert_eq!(pace.due(now), Some(now + SPACING));
    }
}
