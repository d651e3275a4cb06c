//! io_uring.

use super::{Bell, Errno, WakeTarget};

/// Why io_uring cannot be had here, and what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("io_uring is not available: {cause} ({errno})")]
pub struct Refused {
    /// What the kernel said.
    pub errno: Errno,
    /// One short word for metrics: `sysctl`, `seccomp`, `kernel`, `memlock`, `limit`, `other`.
    pub reason: &'static str,
    /// The cause in a few words.
    pub cause: String,
    /// What an operator can do about it: one sentence.
    pub remedy: String,
}

impl Refused {
    pub(crate) fn stub() -> Self {
        Refused {
            errno: Errno::ENOSYS,
            reason: "other",
            cause: "not built yet".into(),
            remedy: String::new(),
        }
    }
}

/// Which setup flags and features this kernel gave, for `ringway doctor` and the start-up log.
#[derive(Clone, Debug)]
pub struct Abilities {
    /// Setup flags in use, such as `SINGLE_ISSUER|DEFER_TASKRUN`.
    pub flags: String,
}

/// Makes a ring as a worker would and throws it away.
///
/// # Errors
/// Why that is refused.
pub fn probe() -> Result<Abilities, Refused> {
    Err(Refused::stub())
}

/// The control thread's bell: a ring of four entries that only sends `MSG_RING`.
#[derive(Debug)]
pub struct RingBell {}

impl RingBell {
    /// Makes one.
    ///
    /// # Errors
    /// Why the kernel refused it.
    pub fn new() -> Result<Self, Refused> {
        Err(Refused::stub())
    }
}

impl Bell for RingBell {
    fn ring(&mut self, target: WakeTarget) {
        let _ = target;
    }
}
