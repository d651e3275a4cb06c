//! What a row of results means.
//!
//! | from | when | to |
//! |---|---|---|
//! | `Checking` | the first result | `Up` or `Down`, as it says |
//! | `Up` | `fall` checks in a row fail | `Down` |
//! | `Down` | `rise` checks in a row pass | `Up` |

use crate::config::ledger::Health;
use crate::config::plan::CheckPace;

/// The verdict on one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    state: State,
    /// Results in a row that speak against it.
    doubts: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Checking,
    Up,
    Down,
}

impl Verdict {
    /// None yet.
    pub fn open() -> Self {
        Self { state: State::Checking, doubts: 0 }
    }

    /// What it says.
    pub fn health(&self) -> Health {
        match self.state {
            State::Checking => Health::Checking,
            State::Up => Health::Up,
            State::Down => Health::Down,
        }
    }

    /// Results in a row that speak against it.
    pub fn doubts(&self) -> u8 {
        self.doubts
    }

    /// Takes a result in; true if the verdict is another now.
    pub fn hear(&mut self, passed: bool, pace: &CheckPace) -> bool {
        let (other, needed) = match self.state {
            State::Checking => (if passed { State::Up } else { State::Down }, 1),
            State::Up if passed => return self.settle(),
            State::Up => (State::Down, pace.fall),
            State::Down if !passed => return self.settle(),
            State::Down => (State::Up, pace.rise),
        };
        self.doubts = self.doubts.saturating_add(1);
        if self.doubts < needed {
            return false;
        }
        *self = Self { state: other, doubts: 0 };
        true
    }

    fn settle(&mut self) -> bool {
        self.doubts = 0;
        false
    }

    /// Time until the next check, in milliseconds.
    pub fn interval_ms(&self, pace: &CheckPace) -> u32 {
        let changing = self.doubts > 0 || self.state == State::Checking;
        if changing { pace.fast_ms } else { pace.interval_ms }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACE: CheckPace = CheckPace { interval_ms: 2_000, fast_ms: 500, timeout_ms: 2_000, rise: 2, fall: 3 };

    /// Results as `+` and `-`; the states after each as letters, upper case when it changed.
    fn states(results: &str) -> String {
        let mut verdict = Verdict::open();
        let letter = |result: char| {
            let changed = verdict.hear(result == '+', &PACE);
            let letter = match verdict.health() {
                Health::Up => 'u',
                Health::Down => 'd',
                Health::Checking | Health::Unchecked => '?',
            };
            if changed { letter.to_ascii_uppercase() } else { letter }
        };
        results.chars().map(letter).collect()
    }

    #[test]
    fn the_first_result_decides_and_later_ones_in_a_row() {
        assert_eq!(states("+++"), "Uuu");
        assert_eq!(states("-+-++"), "DdddU");
        assert_eq!(states("+--+---"), "UuuuuuD");
        assert_eq!(states("+-+-+-"), "Uuuuuu");
    }

    #[test]
    fn it_hurries_while_in_doubt() {
        let mut verdict = Verdict::open();
        assert_eq!(verdict.interval_ms(&PACE), 500);
        for (passed, ms) in [(true, 2_000), (false, 500), (false, 500), (false, 2_000), (true, 500), (true, 2_000)] {
            verdict.hear(passed, &PACE);
            assert_eq!(verdict.interval_ms(&PACE), ms, "{verdict:?}");
        }
    }

    proptest! {
        /// However a server flaps, each change takes a whole row of results.
        #[test]
        fn changes_are_bounded(results in prop::collection::vec(any::<bool>(), 1..200), rise in 1_u8..5, fall in 1_u8..5) {
            let pace = CheckPace { rise, fall, ..PACE };
            let mut verdict = Verdict::open();
            let mut row = 0_u32;
            for passed in results {
                let before = verdict.health();
                let against = match before {
                    Health::Up => !passed,
                    Health::Down => passed,
                    Health::Checking | Health::Unchecked => true,
                };
                row = if against { row + 1 } else { 0 };
                let needed = match before {
                    Health::Up => u32::from(fall),
                    Health::Down => u32::from(rise),
                    Health::Checking | Health::Unchecked => 1,
                };
                let changed = verdict.hear(passed, &pace);
                prop_assert_eq!(changed, row == needed);
                prop_assert_eq!(changed, verdict.health() != before);
                if changed {
                    row = 0;
                }
            }
        }
    }
}
