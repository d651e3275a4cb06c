//! How fast sessions are led out: evenly over a time, and those first who have been silent for longest.

use std::time::{Duration, Instant};

/// The most silence that is asked for, which is at the beginning.
const QUIET_MOST: Duration = Duration::from_secs(1);
/// All are to be gone so long before the end: who was busy until then has a last chance.
const SLACK: Duration = Duration::from_millis(500);

/// The tempo of one order.
#[derive(Debug)]
pub(super) struct Tempo {
    begun: Instant,
    /// When all are to be gone.
    aim: Instant,
    /// When it is over; later than promised where nobody was let go between the aim and that.
    end: Instant,
    /// The last chance lasts for so long at least, however late it comes.
    chance: Duration,
    /// When it was asked last.
    last: Instant,
    /// What was left over then, of one session.
    carry: f64,
}

/// Who may leave now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measure {
    /// So many more than before.
    pub(super) more: u64,
    /// With those who might have left before and have not: at most so many.
    pub(super) most: u64,
    /// Who has been silent for so long, in nanoseconds.
    pub(super) quiet_ns: u64,
}

impl Tempo {
    /// One that begins now and takes so long.
    pub(super) fn new(now: Instant, span: Duration) -> Self {
        let slack = SLACK.min(span / 4);
        Self { begun: now, aim: now + (span - slack), end: now + span, chance: slack / 2, last: now, carry: 0.0 }
    }

    /// Whether its time is up, and those who are left, so many, have had their last chance.
    pub(super) fn is_over(&self, now: Instant, left: u64) -> bool {
        now >= self.end && (left == 0 || self.last >= self.aim)
    }

    /// Who may leave, with so many who are to.
    pub(super) fn measure(&mut self, now: Instant, left: u64) -> Measure {
        if self.last < self.aim && now >= self.aim {
            self.end = self.end.max(now + self.chance);
        }
        let now = now.clamp(self.last, self.aim.max(self.last));
        let whole = self.aim.saturating_duration_since(self.last);
        let part = if whole.is_zero() { 1.0 } else { (now - self.last).div_duration_f64(whole) };
        self.last = now;
        let fair = (left as f64).mul_add(part, self.carry);
        let more = fair.floor();
        self.carry = fair - more;
        Measure { more: more as u64, most: (fair.ceil() as u64).max(1), quiet_ns: self.quiet_ns(now) }
    }

    /// The silence that is asked for: less and less, until at the end an answer is all.
    fn quiet_ns(&self, now: Instant) -> u64 {
        let whole = self.aim - self.begun;
        let left = self.aim.saturating_duration_since(now).div_duration_f64(whole);
        QUIET_MOST.min(whole / 4).mul_f64(left).as_nanos().try_into().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are gone by each step of `step_ms`, if everybody who may leave does.
    fn gone(sessions: u64, span: Duration, step_ms: u64) -> Vec<u64> {
        let begun = Instant::now();
        let mut tempo = Tempo::new(begun, span);
        let (mut left, mut gone) = (sessions, Vec::new());
        for step in 1.. {
            let now = begun + Duration::from_millis(step * step_ms);
            if tempo.is_over(now, left) {
                break;
            }
            left -= tempo.measure(now, left).more.min(left);
            gone.push(sessions - left);
        }
        gone
    }

    #[test]
    fn sessions_leave_evenly_and_all_of_them() {
        for (sessions, seconds, step_ms) in
            [(10_000, 120, 100), (7, 120, 100), (1, 2, 100), (500, 1, 100), (90, 10, 730)]
        {
            let steps = gone(sessions, Duration::from_secs(seconds), step_ms);
            assert_eq!(steps.last(), Some(&sessions), "{sessions} in {seconds} s");
            let aim_ms = seconds * 1_000 - 500.min(seconds * 250);
            for (step, gone) in (1..).zip(&steps) {
                let passed_ms = (step * step_ms).min(aim_ms);
                let fair = sessions as f64 * passed_ms as f64 / aim_ms as f64;
                assert!((*gone as f64 - fair).abs() <= 1.0, "{gone} of {sessions} gone after {passed_ms} ms: {fair}");
            }
        }
    }

    /// As on a machine that stood still for a while.
    #[test]
    fn whoever_is_asked_too_late_gives_a_last_chance_all_the_same() {
        let begun = Instant::now();
        let mut tempo = Tempo::new(begun, Duration::from_secs(2));
        let at = |ms| begun + Duration::from_millis(ms);
        assert_eq!(tempo.measure(at(1_000), 30).more, 20);
        assert!(!tempo.is_over(at(2_400), 10) && tempo.is_over(at(2_400), 0));
        assert_eq!(tempo.measure(at(2_400), 10), Measure { more: 10, most: 10, quiet_ns: 0 });
        assert!(!tempo.is_over(at(2_649), 1) && tempo.is_over(at(2_650), 1));
    }

    #[test]
    fn what_was_missed_is_spread_over_what_is_left() {
        let begun = Instant::now();
        let mut tempo = Tempo::new(begun, Duration::from_millis(10_500));
        let at = |ms| begun + Duration::from_millis(ms);
        assert_eq!(tempo.measure(at(1_000), 100), Measure { more: 10, most: 10, quiet_ns: 900_000_000 });
        // Nobody has left: there are as many as before, for less time.
        let Measure { more, most, quiet_ns } = tempo.measure(at(5_500), 100);
        assert_eq!((more, most, quiet_ns), (50, 50, 450_000_000));
        let Measure { more, most, .. } = tempo.measure(at(5_600), 100);
        assert!(more == 2 && most == 3, "{more} {most}");
        assert_eq!(tempo.measure(at(10_000), 98).quiet_ns, 0);
        let last = tempo.measure(at(10_200), 3);
        assert!(last.more >= 3 && last.quiet_ns == 0 && !tempo.is_over(at(10_499), 3) && tempo.is_over(at(10_500), 3));
        // A clock that was asked before is no trouble.
        assert!(tempo.measure(at(9_000), 0).most >= 1);
    }
}
