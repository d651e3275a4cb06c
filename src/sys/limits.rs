//! `RLIMIT_NOFILE` (getrlimit(2)), and how many sessions it holds.
//!
//! A session costs two descriptors, one towards each side. What is left after the daemon's own needs, halved, is the most
//! sessions there can be; it is worked out once at start, because a balancer that finds out under load drops connections.

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors one session holds.
pub const PER_SESSION: u64 = 2;
/// Descriptors a daemon keeps for itself: standard streams, log, control ring and epoll, signal pipe, the admin listeners
/// and up to 64 connections on each of the three, and spare for listeners that a reload adds. Of a small limit it is an eighth.
pub const FIXED: u64 = 256;
/// What a daemon cannot do without.
pub const FIXED_MIN: u64 = 48;
/// Descriptors of one worker besides sessions, listening sockets and pipes: its ring, or two epoll instances and an
/// eventfd; spare.
pub const PER_WORKER: u64 = 8;
/// As far as the soft limit is raised unasked. Modern hosts allow a thousand million, and tables grow with the limit.
pub const UNASKED_MAX: u64 = 1 << 20;

/// What a daemon needs besides its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Worker threads.
    pub workers: u64,
    /// Addresses listened on; each costs one descriptor a worker.
    pub addresses: u64,
    /// Most pipes over all workers; each costs two descriptors. They are set aside up to an eighth of the limit: without a
    /// pipe bytes are copied, which is slower and not wrong.
    pub pipes: u64,
    /// Servers that are checked; each costs one while a check is under way.
    pub checks: u64,
}

impl Needs {
    /// Descriptors out of `limit` that are not there for sessions.
    pub fn reserve(self, limit: u64) -> u64 {
        let fixed = (limit / 8).clamp(FIXED_MIN, FIXED);
        let pipes = (self.pipes * 2).min(limit / 8);
        fixed + self.workers * (PER_WORKER + self.addresses) + pipes + self.checks
    }

    /// Most sessions that `limit` descriptors hold.
    pub fn sessions_max(self, limit: u64) -> u32 {
        let sessions = limit.saturating_sub(self.reserve(limit)) / PER_SESSION;
        u32::try_from(sessions).unwrap_or(u32::MAX)
    }

    /// The limit that `sessions` need.
    pub fn descriptors(self, sessions: u32) -> u64 {
        u64::from(sessions) * PER_SESSION + self.reserve(u64::MAX)
    }
}

/// The limit cannot hold what it has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooFew {
    /// It holds fewer sessions than are configured.
    #[error(
        "max_connections = {wanted} needs {needed} descriptors, and the limit is {limit}, which holds {possible}: raise \
         it (LimitNOFILE= in the unit, or ulimit -n), or lower max_connections"
    )]
    Sessions {
        /// Sessions that are configured.
        wanted: u32,
        /// Descriptors they need.
        needed: u64,
        /// Descriptors there are.
        limit: u64,
        /// Sessions that would fit.
        possible: u32,
    },
    /// It holds none at all.
    #[error(
        "the limit of {limit} open files holds not a single session: raise it (LimitNOFILE= in the unit, or ulimit -n)"
    )]
    Any {
        /// Descriptors there are.
        limit: u64,
    },
}

/// The most sessions to allow: what is `configured`, or else all that the limit holds.
///
/// # Errors
/// [`TooFew`] when what is configured does not fit, or when nothing fits.
pub fn sessions(configured: Option<u32>, limit: u64, needs: Needs) -> Result<u32, TooFew> {
    let possible = needs.sessions_max(limit);
    match configured {
        _ if possible == 0 => Err(TooFew::Any { limit }),
        None => Ok(possible),
        Some(wanted) if wanted <= possible => Ok(wanted),
        Some(wanted) => Err(TooFew::Sessions { wanted, needed: needs.descriptors(wanted), limit, possible }),
    }
}

/// The limit now, in descriptors: (soft, hard).
///
/// # Errors
/// What getrlimit(2) said.
pub fn open_files() -> Result<(u64, u64), Errno> {
    getrlimit(Resource::RLIMIT_NOFILE)
}

/// Raises the soft limit to the hard one, at most to the larger of `wanted` and [`UNASKED_MAX`], and the hard one too when
/// `wanted` asks for more and the process may (`CAP_SYS_RESOURCE`). Answers the soft limit that holds now.
///
/// # Errors
/// What getrlimit(2) or setrlimit(2) said of the step that needs no privilege.
pub fn raise_open_files(wanted: u64) -> Result<u64, Errno> {
    let (soft, hard) = open_files()?;
    if wanted > hard && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(wanted);
    }
    let goal = hard.min(wanted.max(UNASKED_MAX));
    if goal <= soft {
        return Ok(soft);
    }
    setrlimit(Resource::RLIMIT_NOFILE, goal, hard)?;
    Ok(goal)
}

/// Raises the limit on locked memory, against which rings are counted (io_uring_setup(2)), to `wanted`
/// bytes, or as near as it may be.
///
/// # Errors
/// What getrlimit(2) or setrlimit(2) said.
pub fn raise_locked_memory(wanted: u64) -> Result<(), Errno> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    if soft >= wanted {
        return Ok(());
    }
    if wanted > hard && setrlimit(Resource::RLIMIT_MEMLOCK, wanted, wanted).is_ok() {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_MEMLOCK, wanted.min(hard), hard)
}

/// Gives memory that was freed back to the system (malloc_trim(3)), which the allocator would keep for later. Elsewhere than
/// with glibc it does nothing.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) has no preconditions and may be called from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs = Needs { workers: 2, addresses: 3, pipes: 1_024, checks: 0 };

    #[test]
    fn the_default_is_what_the_limit_holds() {
        // 256 fixed, 2 × (8 + 3) for workers, 2 × 1024 for pipes: 2326 in reserve.
        assert_eq!(NEEDS.reserve(20_000), 2_326);
        assert_eq!(sessions(None, 20_000, NEEDS), Ok(8_837));
        assert!(NEEDS.descriptors(8_837) <= 20_000);
        assert!(NEEDS.descriptors(8_838) > 20_000);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_numbers() {
        assert_eq!(sessions(Some(8_837), 20_000, NEEDS), Ok(8_837));
        let refused = sessions(Some(100_000), 20_000, NEEDS).expect_err("too many");
        assert!(matches!(refused, TooFew::Sessions { needed: 202_326, possible: 8_837, .. }), "{refused:?}");
        assert!(refused.to_string().contains("202326 descriptors"));
    }

    #[test]
    fn a_small_limit_still_holds_some() {
        // 128 fixed, 22 for workers, 128 for pipes.
        assert_eq!(sessions(None, 1_024, NEEDS), Ok(373));
        // 48, 22, 32.
        assert_eq!(sessions(None, 256, NEEDS), Ok(77));
        assert_eq!(sessions(None, 64, NEEDS), Err(TooFew::Any { limit: 64 }));
        assert_eq!(NEEDS.sessions_max(0), 0);
        assert_eq!(NEEDS.sessions_max(u64::MAX), u32::MAX);
    }

    #[test]
    fn raising_never_lowers() {
        let (soft, _) = open_files().expect("readable");
        assert!(raise_open_files(0).expect("raised") >= soft);
    }
}
