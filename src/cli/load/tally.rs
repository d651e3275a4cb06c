//! What a run counts, one tally a thread, added up at the end.

use std::fmt;
use std::io;

use hdrhistogram::Histogram;

/// The resolution of recorded latencies, in nanoseconds.
const LATENCY_NS_MIN: u64 = 64;
/// The largest latency told apart from larger ones, in nanoseconds: an hour.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
/// Significant decimal digits kept of a latency.
const LATENCY_DIGITS: u8 = 3;

/// What can go wrong with an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody listens there, or their queue is full.
    Refused,
    /// The peer, or somebody between, sent RST.
    Reset,
    /// No answer, or no progress, within the timeout.
    Timeout,
    /// A clean end before all bytes had come.
    ClosedEarly,
    /// Other bytes came, or more, than should.
    Mismatch,
    /// Anything else; the first one is spelled out in the report.
    Other,
}

impl Fault {
    /// All faults, in the order of the report.
    pub const ALL: [Fault; 6] =
        [Fault::Refused, Fault::Reset, Fault::Timeout, Fault::ClosedEarly, Fault::Mismatch, Fault::Other];

    /// The name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Refused => "refused",
            Fault::Reset => "reset",
            Fault::Timeout => "timeout",
            Fault::ClosedEarly => "closed_early",
            Fault::Mismatch => "mismatch",
            Fault::Other => "other",
        }
    }
}

impl From<&io::Error> for Fault {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            // The second is a Unix socket whose file is gone.
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Fault::Refused,
            // A Unix socket whose queue is full answers EAGAIN instead (connect(2)).
            io::ErrorKind::WouldBlock => Fault::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                Fault::Reset
            }
            io::ErrorKind::TimedOut => Fault::Timeout,
            _ => Fault::Other,
        }
    }
}

/// Latencies of one kind.
#[derive(Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(
            Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, LATENCY_DIGITS)
                .expect("the bounds are constants the histogram accepts"),
        )
    }
}

impl Latencies {
    /// Records one latency in nanoseconds.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency in microseconds that `percent` of all stay at or below.
    pub fn percentile_us(&self, percent: f64) -> f64 {
        self.0.value_at_percentile(percent) as f64 / 1e3
    }

    /// The mean in microseconds.
    pub fn mean_us(&self) -> f64 {
        self.0.mean() / 1e3
    }

    /// The largest in microseconds.
    pub fn max_us(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }

    fn absorb(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("histograms of equal bounds add up");
    }
}

/// What one thread did.
#[derive(Debug, Default)]
pub struct Tally {
    /// Operations that succeeded.
    pub ops: u64,
    /// Connections that were established.
    pub connections: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Operations a fixed rate had scheduled that were never sent.
    pub missed: u64,
    /// The most operations that were due and not yet sent at one moment.
    pub backlog_max: u64,
    /// Connections open now.
    pub open: u64,
    /// Connections still open when `hold` ended.
    pub alive: u64,
    /// From the intended start (or the send, in a closed loop) to the end of each operation.
    pub latency: Latencies,
    /// From the real send to the end of each operation.
    pub service: Latencies,
    /// From connect(2) until established.
    pub connect: Latencies,
    /// Wall time measured, in nanoseconds.
    pub elapsed_ns: u64,
    /// Processor time of this thread meanwhile, in nanoseconds.
    pub cpu_ns: u64,
    /// The first fault, spelled out.
    pub first_fault: Option<String>,
    faults: [u64; Fault::ALL.len()],
}

impl Tally {
    /// Counts a fault; `say` is asked for words only the first time.
    pub fn fault<D: fmt::Display>(&mut self, fault: Fault, say: impl FnOnce() -> D) {
        self.faults[fault as usize] += 1;
        if self.first_fault.is_none() {
            self.first_fault = Some(say().to_string());
        }
    }

    /// How often this fault happened.
    pub fn faults_of(&self, fault: Fault) -> u64 {
        self.faults[fault as usize]
    }

    /// All faults together.
    pub fn faults(&self) -> u64 {
        self.faults.iter().sum()
    }

    /// Adds what another thread did at the same time.
    pub fn absorb(&mut self, other: Tally) {
        self.ops += other.ops;
        self.connections += other.connections;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.missed += other.missed;
        self.backlog_max += other.backlog_max;
        self.open += other.open;
        self.alive += other.alive;
        self.latency.absorb(&other.latency);
        self.service.absorb(&other.service);
        self.connect.absorb(&other.connect);
        self.elapsed_ns = self.elapsed_ns.max(other.elapsed_ns);
        self.cpu_ns += other.cpu_ns;
        for (mine, theirs) in self.faults.iter_mut().zip(other.faults) {
            *mine += theirs;
        }
        self.first_fault = self.first_fault.take().or(other.first_fault);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up_and_keep_the_first_fault() {
        let mut one = Tally::default();
        one.latency.record(1_000);
        one.fault(Fault::Reset, || "first");
        one.fault(Fault::Reset, || "second");
        let mut two = Tally::default();
        two.latency.record(3_000);
        two.fault(Fault::Timeout, || "third");
        two.elapsed_ns = 7;
        one.absorb(two);
        assert_eq!(one.faults(), 3);
        assert_eq!(one.faults_of(Fault::Reset), 2);
        assert_eq!(one.first_fault.as_deref(), Some("first"));
        assert_eq!(one.latency.count(), 2);
        assert!((one.latency.mean_us() - 2.0).abs() < 0.1);
        assert_eq!(one.elapsed_ns, 7);
    }

    #[test]
    fn latencies_beyond_the_scale_do_not_panic() {
        let mut latencies = Latencies::default();
        latencies.record(0);
        latencies.record(u64::MAX);
        assert_eq!(latencies.count(), 2);
    }
}
