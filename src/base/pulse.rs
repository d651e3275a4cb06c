//! The pulse of a thread that must not get stuck: a promise of when it will be heard of again.
//!
//! A thread that works has promised to be done by now; one that waits has promised to be back when its wait ends, or has
//! promised nothing if it waits for something to happen. Whoever breaks a promise for long is stuck. Two plain stores a
//! turn, by one writer; anybody may look.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// One thread's pulse.
#[derive(Debug)]
pub struct Pulse {
    /// The kernel's id of the thread; 0 before it has begun and after it has left.
    thread: AtomicI32,
    due_ns: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { thread: AtomicI32::new(0), due_ns: AtomicU64::new(u64::MAX) }
    }
}

impl Pulse {
    /// The thread (gettid(2)) begins.
    pub fn begin(&self, thread: i32) {
        self.thread.store(thread, Ordering::Release);
    }

    /// It is awake, since `now`.
    #[inline]
    pub fn works(&self, now_ns: u64) {
        self.due_ns.store(now_ns, Ordering::Relaxed);
    }

    /// It waits, and will be back by `until_ns` at the latest; `None`: when something happens.
    #[inline]
    pub fn waits(&self, until_ns: Option<u64>) {
        self.due_ns.store(until_ns.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// It has left for good.
    pub fn end(&self) {
        self.waits(None);
        self.thread.store(0, Ordering::Release);
    }

    /// The thread, while there is one.
    pub fn thread(&self) -> Option<i32> {
        Some(self.thread.load(Ordering::Acquire)).filter(|&thread| thread != 0)
    }

    /// When it has promised to be heard of again; `u64::MAX` for no promise.
    pub fn due_ns(&self) -> u64 {
        self.due_ns.load(Ordering::Relaxed)
    }
}
