//! When operations are meant to start.
//!
//! A generator that waits for an answer before it sends the next request slows down together with the server it
//! measures, and so hides just the stalls it is to find ("coordinated omission"). At a fixed rate every operation
//! therefore has an intended start, known before the run; its latency counts from there, whenever it could be sent.

/// Hands out starts. Times are nanoseconds on the clock of one thread.
#[derive(Clone, Debug)]
pub struct Pace {
    schedule: Schedule,
    left: u64,
    until_ns: u64,
}

#[derive(Clone, Copy, Debug)]
enum Schedule {
    /// An operation starts whenever a connection is free.
    Closed,
    /// Operation `next` starts at `origin_ns + next * interval_ns`.
    Fixed { origin_ns: f64, interval_ns: f64, next: u64 },
}

impl Pace {
    /// At most `count` operations before `until_ns`; at `rate` a second, the first at `origin_ns`, or as fast as
    /// connections get free.
    pub fn new(rate: Option<f64>, origin_ns: u64, count: u64, until_ns: u64) -> Self {
        let schedule = match rate {
            None => Schedule::Closed,
            Some(rate) => Schedule::Fixed { origin_ns: origin_ns as f64, interval_ns: 1e9 / rate, next: 0 },
        };
        Self { schedule, left: count, until_ns }
    }

    /// The intended start of an operation that may start now, if there is one.
    #[inline]
    pub fn take(&mut self, now_ns: u64) -> Option<u64> {
        if self.left == 0 {
            return None;
        }
        let intended_ns = match &mut self.schedule {
            Schedule::Closed if now_ns < self.until_ns => now_ns,
            Schedule::Closed => return None,
            Schedule::Fixed { origin_ns, interval_ns, next } => {
                let intended_ns = (*origin_ns + *next as f64 * *interval_ns) as u64;
                if intended_ns > now_ns || intended_ns.max(now_ns) >= self.until_ns {
                    return None;
                }
                *next += 1;
                intended_ns
            }
        };
        self.left -= 1;
        Some(intended_ns)
    }

    /// When the next operation is meant to start; `None` when any moment will do, or there is no next one.
    pub fn next_ns(&self) -> Option<u64> {
        match self.schedule {
            Schedule::Fixed { origin_ns, interval_ns, next } if self.left > 0 => {
                Some((origin_ns + next as f64 * interval_ns) as u64)
            }
            _ => None,
        }
    }

    /// How many operations should have started by `now_ns` and have not.
    pub fn backlog(&self, now_ns: u64) -> u64 {
        match self.schedule {
            Schedule::Closed => 0,
            Schedule::Fixed { origin_ns, interval_ns, next } => {
                let end_ns = now_ns.min(self.until_ns) as f64;
                let due = ((end_ns - origin_ns) / interval_ns).ceil().max(0.0) as u64;
                due.saturating_sub(next).min(self.left)
            }
        }
    }

    /// Does without one operation.
    pub fn forfeit(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// True when no operation will start any more.
    pub fn is_over(&self, now_ns: u64) -> bool {
        self.left == 0 || now_ns >= self.until_ns
    }

    /// Starts nothing from `now_ns` on.
    pub fn stop(&mut self, now_ns: u64) {
        self.until_ns = self.until_ns.min(now_ns);
    }

    /// The moment after which nothing starts.
    pub fn until_ns(&self) -> u64 {
        self.until_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Drives one connection to a server that answers in `service_ns`, but stands still during `stall`.
    /// Returns latencies (from the intended start, from the send) in order, and the largest backlog.
    fn against(mut pace: Pace, service_ns: u64, stall: std::ops::Range<u64>) -> (Vec<(u64, u64)>, u64) {
        let (mut now, mut backlog_max) = (0, 0);
        let mut latencies = Vec::new();
        while !pace.is_over(now) {
            backlog_max = backlog_max.max(pace.backlog(now));
            let Some(intended) = pace.take(now) else {
                now = pace.next_ns().map_or(now + MS, |next| next.max(now + 1));
                continue;
            };
            let sent = now;
            if stall.contains(&now) {
                now = stall.end;
            }
            now += service_ns;
            latencies.push((now - intended, now - sent));
        }
        (latencies, backlog_max)
    }

    fn share_above(latencies: impl Iterator<Item = u64>, limit: u64) -> f64 {
        let (mut above, mut all) = (0, 0);
        for latency in latencies {
            all += 1;
            above += u32::from(latency > limit);
        }
        f64::from(above) / f64::from(all)
    }

    #[test]
    fn a_stall_counts_for_everyone_who_had_to_wait() {
        // 100/s for 10 s, 1 ms each, and one stall of 1 s: a tenth of all requests was meant to start during it.
        let pace = Pace::new(Some(100.0), 0, u64::MAX, 10_000 * MS);
        let (latencies, backlog_max) = against(pace, MS, 3_000 * MS..4_000 * MS);
        assert_eq!(latencies.len(), 1000);
        let corrected = share_above(latencies.iter().map(|l| l.0), 10 * MS);
        let service = share_above(latencies.iter().map(|l| l.1), 10 * MS);
        assert!((0.09..0.13).contains(&corrected), "{corrected}");
        assert!(service <= 0.001, "only the one in flight saw it: {service}");
        assert!((95..=101).contains(&backlog_max), "{backlog_max}");
    }

    #[test]
    fn a_rate_out_of_reach_leaves_a_backlog() {
        let mut pace = Pace::new(Some(1000.0), 0, u64::MAX, 1_000 * MS);
        let mut now = 0;
        while pace.take(now).is_some() {
            now += 4 * MS;
        }
        assert_eq!(pace.backlog(now), 750);
        assert!(pace.is_over(now));
    }

    #[test]
    fn starts_neither_early_nor_late_nor_twice() {
        let mut pace = Pace::new(Some(3.0), 5 * MS, 3, u64::MAX);
        assert_eq!(pace.take(4 * MS), None);
        assert_eq!(pace.take(5 * MS), Some(5 * MS));
        assert_eq!(pace.take(5 * MS), None);
        assert_eq!(pace.next_ns(), Some(338_333_333));
        assert_eq!(pace.take(1_000 * MS), Some(338_333_333));
        assert_eq!(pace.take(1_000 * MS), Some(671_666_666));
        assert_eq!(pace.take(9_000 * MS), None, "the count is used up");
        assert!(pace.is_over(0));
    }

    #[test]
    fn closed_loop_starts_at_once_until_the_end() {
        let mut pace = Pace::new(None, 0, 2, 10);
        assert_eq!(pace.take(9), Some(9));
        assert_eq!(pace.take(10), None);
        pace.stop(3);
        assert!(pace.is_over(3));
        assert_eq!(pace.backlog(100), 0);
    }
}
