//! Counters with one writer.
//!
//! A worker adds to its own counter with a plain load and store (no locked instruction); anyone may read it. Each
//! group of counters sits on cache lines of its own, one group a worker, and is summed when somebody looks.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

/// A monotonic count that exactly one thread writes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call this: two writers would lose counts.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Adds one.
    #[inline]
    pub fn bump(&self) {
        self.add(1);
    }

    /// The value as of some recent moment.
    #[inline]
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down and that exactly one thread writes.
#[derive(Debug, Default)]
pub struct Gauge(Counter);

impl Gauge {
    /// One more. Only the owning thread may call this.
    #[inline]
    pub fn rise(&self) {
        self.0.add(1);
    }

    /// One less. Only the owning thread may call this, once for each [`Gauge::rise`].
    #[inline]
    pub fn fall(&self) {
        self.0.add(u64::MAX);
    }

    /// The value as of some recent moment.
    #[inline]
    pub fn read(&self) -> u64 {
        self.0.read()
    }
}

/// One padded `T` a worker.
#[derive(Debug)]
pub struct PerWorker<T>(Box<[CachePadded<T>]>);

impl<T: Default> PerWorker<T> {
    /// One default `T` for each of `workers`.
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| CachePadded::new(T::default())).collect())
    }
}

impl<T> PerWorker<T> {
    /// The part of worker `index`.
    #[inline]
    pub fn of(&self, index: usize) -> &T {
        &self.0[index]
    }

    /// Sums one figure over all workers.
    pub fn sum(&self, figure: impl Fn(&T) -> u64) -> u64 {
        self.0.iter().map(|part| figure(part)).sum()
    }

    /// All parts, in worker order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|part| &**part)
    }

    /// How many workers there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there are no workers.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
