//! Faults on order: what tests need to see ringway itself at fault. Debug builds only; in a release build every function
//! here is empty, and nothing reads the environment.
//!
//! ```text
//! RINGWAY_REHEARSE="completions=64 hang=3"
//!   completions=N   entries of a worker's completion queue
//!   records=N       access records that may wait for the log thread
//!   hang=N          a worker hangs when it has opened its Nth session
//!   panic=N         a worker panics then
//!   panic_key=1     `ringway top` panics when a key is pressed
//! ```

#[cfg(debug_assertions)]
fn ordered(fault: &str) -> Option<u64> {
    use std::sync::OnceLock;
    static ORDERS: OnceLock<String> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| std::env::var("RINGWAY_REHEARSE").unwrap_or_default());
    orders.split_whitespace().filter_map(|order| order.split_once('=')).find(|(name, _)| *name == fault)?.1.parse().ok()
}

#[cfg(not(debug_assertions))]
const fn ordered(_: &str) -> Option<u64> {
    None
}

/// The limit called `name`: the usual one, unless a smaller one is ordered.
pub fn limit(name: &str, usual: usize) -> usize {
    ordered(name).and_then(|ordered| usize::try_from(ordered).ok()).map_or(usual, |ordered| ordered.clamp(1, usual))
}

/// A worker has opened so many sessions: it may have been ordered to fail now.
#[inline]
pub fn sessions_opened(count: u64) {
    if !cfg!(debug_assertions) {
        return;
    }
    if ordered("hang").is_some_and(|hang| count >= hang) {
        hang_on_order();
    }
    if ordered("panic").is_some_and(|panic| count >= panic) {
        panic!("a panic on order");
    }
}

/// A key was pressed in `ringway top`: it may have been ordered to fail now.
pub fn key_pressed() {
    if ordered("panic_key").is_some() {
        panic!("a panic on order");
    }
}

/// A name to look for in a backtrace.
#[inline(never)]
fn hang_on_order() {
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}
