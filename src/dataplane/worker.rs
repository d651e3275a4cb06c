//! The worker: one pinned thread, one ring, one loop.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::commons::Commons;
use crate::kernel::uring::Refused;

/// Starts worker `index` on a thread of its own, pinned to `cpu` if one is given, and returns once its engine runs and
/// its desk is open for mail.
///
/// # Errors
/// Why the kernel refused a ring; the thread has ended then.
pub fn start(
    index: usize,
    cpu: Option<usize>,
    commons: Arc<Commons>,
) -> Result<JoinHandle<()>, Refused> {
    let _ = (index, cpu, commons);
    Err(Refused::stub())
}
