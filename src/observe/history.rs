//! The last five minutes, one sample a second, so that whoever looks now sees what led here.
//!
//! Counters only count up. A [`History`] remembers what they were a second ago and keeps the differences; it looks at
//! listeners and pools, not at servers, so its cost does not grow with those. Workers never notice: their counters are
//! read, no more.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::base::histogram::{BOUNDS_US, Histogram};
use crate::base::limits::SAMPLES_MAX;
use crate::config::ledger::PoolTally;
use crate::config::plan::{Listener, Plan, Pool};
use crate::dataplane::ending::{Ending, Refusal};

use super::metrics::{merged, sessions_open};
use super::status::{Latency, latency_of};

/// Time between two samples.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Latencies of a pool "lately" are those since the oldest of so many marks, one every [`MARK_EVERY`] samples: a minute.
const MARKS: usize = 6;
const MARK_EVERY: u64 = 10;

/// Durations by bucket.
pub(super) type Buckets = [u64; BOUNDS_US.len() + 1];

/// One second of the daemon as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Counts up from 1.
    pub number: u64,
    /// When it was taken, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Sessions that were open.
    pub sessions: u64,
    /// Connections accepted, per second.
    pub accepted_s: f64,
    /// Sessions that failed and connections that were refused, per second.
    pub failed_s: f64,
    /// Bytes from clients to servers, per second.
    pub bytes_in_s: f64,
    /// Bytes from servers to clients, per second.
    pub bytes_out_s: f64,
    /// Connects to servers that came about in this second.
    pub connect: Latency,
    /// First bytes of servers in this second.
    pub first_byte: Latency,
}

/// Whether an ending is somebody's fault: not that of a client who leaves, nor of time or an operator.
pub const fn is_failure(why: Ending) -> bool {
    match why {
        Ending::Done
        | Ending::ClientReset
        | Ending::ClientGone
        | Ending::QueueLeft
        | Ending::IdleTimeout
        | Ending::HalfCloseTimeout
        | Ending::Lifetime
        | Ending::Moved
        | Ending::Killed
        | Ending::Shutdown => false,
        Ending::ServerReset
        | Ending::ConnectRefused
        | Ending::ConnectTimeout
        | Ending::ConnectUnreachable
        | Ending::NoPorts
        | Ending::NoServer
        | Ending::ServersFull
        | Ending::ConnectRate
        | Ending::QueueFull
        | Ending::QueueTimeout
        | Ending::GreetingRefused
        | Ending::GreetingTimeout
        | Ending::PeerVanished
        | Ending::ServerDown
        | Ending::RoleLost
        | Ending::Resource
        | Ending::Internal => true,
    }
}

/// Sessions of a listener that failed, and connections that it refused.
pub(super) fn failures(listener: &Listener) -> u64 {
    let tally = &listener.ledger.tally;
    let ended = Ending::ALL.into_iter().filter(|&why| is_failure(why));
    ended.map(|why| tally.sum(|t| t.ended[why as usize].read())).sum::<u64>() + rejected(listener)
}

/// Connections that a listener refused.
pub(super) fn rejected(listener: &Listener) -> u64 {
    Refusal::ALL.iter().map(|&why| listener.ledger.tally.sum(|t| t.rejected[why as usize].read())).sum()
}

/// The samples there are.
#[derive(Debug, Default)]
pub struct History {
    samples: VecDeque<Sample>,
    taken: u64,
    last: Option<Reading>,
    pools: HashMap<Arc<str>, Past>,
}

/// What the counters were.
#[derive(Debug)]
struct Reading {
    at: Instant,
    listeners: HashMap<Arc<str>, Traffic>,
    pools: HashMap<Arc<str>, Latencies>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Traffic {
    accepted: u64,
    failed: u64,
    bytes_in: u64,
    bytes_out: u64,
}

/// The distributions of one pool, since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Latencies {
    connect: Buckets,
    first_byte: Buckets,
}

/// What the distributions of one pool were, every [`MARK_EVERY`] samples.
#[derive(Debug, Default)]
struct Past {
    marks: VecDeque<Latencies>,
}

impl History {
    /// Takes a sample. What is new in the plan, or was not there a moment ago, counts from now on.
    pub fn take(&mut self, plan: &Plan, now: Instant, unix_ms: u64) {
        let reading = Reading {
            at: now,
            listeners: plan.listeners.iter().map(|l| (Arc::clone(&l.name), traffic(l))).collect(),
            pools: plan.pools.iter().map(|p| (Arc::clone(&p.name), latencies(p))).collect(),
        };
        self.taken += 1;
        self.mark(&reading);
        let sessions = plan.listeners.iter().map(|l| sessions_open(l)).sum();
        if let Some(before) = &self.last {
            let sample = sample(before, &reading, self.taken, sessions, unix_ms);
            if self.samples.len() == SAMPLES_MAX {
                self.samples.pop_front();
            }
            self.samples.push_back(sample);
        }
        self.last = Some(reading);
    }

    /// Samples after number `number`, the oldest first; 0: all there are.
    pub fn after(&self, number: u64) -> Vec<Sample> {
        let from = self.samples.partition_point(|sample| sample.number <= number);
        self.samples.range(from..).copied().collect()
    }

    /// Connects and first bytes of a pool in the last minute, or as long as it is known.
    pub(super) fn lately(&self, pool: &Pool) -> (Latency, Latency) {
        let now = latencies(pool);
        let then = self.pools.get(&pool.name).and_then(|past| past.marks.front()).copied().unwrap_or_default();
        (latency_of(&less(&now.connect, &then.connect)), latency_of(&less(&now.first_byte, &then.first_byte)))
    }

    fn mark(&mut self, reading: &Reading) {
        self.pools.retain(|name, _| reading.pools.contains_key(name));
        for (name, now) in &reading.pools {
            let past = self.pools.entry(Arc::clone(name)).or_default();
            if past.marks.is_empty() || self.taken.is_multiple_of(MARK_EVERY) {
                if past.marks.len() == MARKS {
                    past.marks.pop_front();
                }
                past.marks.push_back(*now);
            }
        }
    }
}

fn traffic(listener: &Listener) -> Traffic {
    let tally = &listener.ledger.tally;
    Traffic {
        accepted: tally.sum(|t| t.accepted.read()),
        failed: failures(listener),
        bytes_in: tally.sum(|t| t.bytes_in.read()),
        bytes_out: tally.sum(|t| t.bytes_out.read()),
    }
}

fn latencies(pool: &Pool) -> Latencies {
    let buckets = |figure: fn(&PoolTally) -> &Histogram| merged(&pool.ledger, figure).0;
    Latencies { connect: buckets(|tally| &tally.connect), first_byte: buckets(|tally| &tally.first_byte) }
}

fn sample(before: &Reading, now: &Reading, number: u64, sessions: u64, unix_ms: u64) -> Sample {
    let seconds = now.at.saturating_duration_since(before.at).as_secs_f64().max(0.001);
    let mut sum = Traffic::default();
    for (name, traffic) in &now.listeners {
        let Some(old) = before.listeners.get(name) else { continue };
        // A listener that went and came back between two samples counts from nothing.
        sum.accepted += traffic.accepted.saturating_sub(old.accepted);
        sum.failed += traffic.failed.saturating_sub(old.failed);
        sum.bytes_in += traffic.bytes_in.saturating_sub(old.bytes_in);
        sum.bytes_out += traffic.bytes_out.saturating_sub(old.bytes_out);
    }
    let mut whole = Latencies::default();
    for (name, now) in &now.pools {
        let Some(old) = before.pools.get(name) else { continue };
        add(&mut whole.connect, &less(&now.connect, &old.connect));
        add(&mut whole.first_byte, &less(&now.first_byte, &old.first_byte));
    }
    let per_second = |count: u64| tenths(count as f64 / seconds);
    Sample {
        number,
        unix_ms,
        sessions,
        accepted_s: per_second(sum.accepted),
        failed_s: per_second(sum.failed),
        bytes_in_s: per_second(sum.bytes_in),
        bytes_out_s: per_second(sum.bytes_out),
        connect: latency_of(&whole.connect),
        first_byte: latency_of(&whole.first_byte),
    }
}

/// Rounded to one digit behind the point: that is what anybody reads, and it keeps frames short.
pub(super) fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn less(now: &Buckets, then: &Buckets) -> Buckets {
    std::array::from_fn(|i| now[i].saturating_sub(then[i]))
}

fn add(sum: &mut Buckets, more: &Buckets) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::panel::tests::plan;

    #[test]
    fn a_sample_is_what_happened_in_its_second() {
        let plan = plan();
        let (listener, pool) = (&plan.listeners[0].ledger.tally, &plan.pools[0].ledger.tally);
        let (mut history, begin) = (History::default(), Instant::now());
        listener.of(0).accepted.add(1_000_000);
        pool.of(0).connect.record(20_000_000);
        history.take(&plan, begin, 1);
        assert!(history.after(0).is_empty(), "one reading makes no rate");

        listener.of(0).accepted.add(30);
        listener.of(1).accepted.add(10);
        listener.of(1).opened.add(7);
        listener.of(1).ended[Ending::Done as usize].add(2);
        listener.of(1).ended[Ending::ConnectRefused as usize].add(1);
        listener.of(1).rejected[Refusal::ALL[0] as usize].add(3);
        listener.of(0).bytes_out.add(5_000);
        pool.of(1).connect.record(80);
        history.take(&plan, begin + Duration::from_secs(2), 2_001);
        let samples = history.after(0);
        let [sample] = samples.as_slice() else { panic!("{samples:?}") };
        assert_eq!((sample.number, sample.unix_ms, sample.sessions), (2, 2_001, 4));
        assert_eq!((sample.accepted_s, sample.failed_s), (20.0, 2.0));
        assert_eq!((sample.bytes_in_s, sample.bytes_out_s), (0.0, 2_500.0));
        assert_eq!((sample.connect.count, sample.first_byte.count), (1, 0));
        assert!(sample.connect.p99_us.is_some_and(|us| us <= 100), "what was long ago is not in it: {sample:?}");
        assert_eq!(sample.first_byte.p50_us, None);
    }

    #[test]
    fn it_keeps_five_minutes_and_no_more() {
        let (plan, mut history, begin) = (plan(), History::default(), Instant::now());
        for second in 0..=SAMPLES_MAX as u64 + 10 {
            history.take(&plan, begin + Duration::from_secs(second), second);
        }
        let all = history.after(0);
        assert_eq!(all.len(), SAMPLES_MAX);
        let last = all[SAMPLES_MAX - 1].number;
        assert_eq!(history.after(last - 3).len(), 3);
        assert!(history.after(last).is_empty());
    }

    #[test]
    fn lately_is_a_minute_and_forgets() {
        let (plan, mut history, begin) = (plan(), History::default(), Instant::now());
        let pool = &plan.pools[0];
        let mut second = 0;
        let mut pass = |history: &mut History, seconds: u64| {
            for _ in 0..seconds {
                history.take(&plan, begin + Duration::from_secs(second), second);
                second += 1;
            }
        };
        pass(&mut history, 15);
        pool.ledger.tally.of(0).connect.record(1_000_000);
        pass(&mut history, 30);
        let (connect, first_byte) = history.lately(pool);
        assert_eq!((connect.count, first_byte.count), (1, 0));
        pass(&mut history, 60);
        assert_eq!(history.lately(pool).0.count, 0);
        assert!(history.pools.values().all(|past| past.marks.len() <= MARKS));
        history.take(&Plan { pools: Vec::new(), ..plan }, begin, 0);
        assert!(history.pools.is_empty(), "pools that are gone are forgotten");
    }
}
