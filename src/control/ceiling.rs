//! The ceiling: how many sessions descriptors and memory hold in the worst case.
//!
//! It is worked out once, at start, and looked up at every reload. A balancer that finds out under load that it has
//! promised too much drops connections, or is killed; one that knows refuses to start, or to reload, and says what it takes.

use crate::base::limits::{
    ADDRESSES_PER_THREAD, BYTES_FIXED, BYTES_PER_SESSION, BYTES_PER_WORKER, LOCKED_PER_WORKER, PIPES_MAX,
};
use crate::config::plan::Plan;
use crate::dataplane::shard::SESSION_BYTES;
use crate::sys::limits::{self, Needs};
use crate::sys::memory::{self, Allowance};

use super::failure::Failure;

/// Threads besides the workers: the conductor, the log, the watchdog.
const OTHER_THREADS: u64 = 3;
const MIB: u64 = 1 << 20;

/// What bounds the number of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ceiling {
    /// The soft limit on descriptors.
    descriptors: u64,
    /// The tightest limit on memory; `None`: nobody says.
    memory: Option<Allowance>,
    workers: u64,
}

/// More sessions are configured than memory holds in the worst case, or not even one fits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{wanted} sessions and {workers} workers may need {needed_mib} MiB of memory, and {by} allows {allowed_mib} MiB, enough \
     for {possible} sessions: raise it, or set max_connections in [global] lower"
)]
pub struct TooLittle {
    wanted: u32,
    workers: u64,
    needed_mib: u64,
    allowed_mib: u64,
    by: String,
    possible: u32,
}

impl Ceiling {
    /// Raises the limits as far as that is allowed, and looks what holds then. Call it before root is given up.
    pub(super) fn raise(plan: &Plan, workers: usize) -> Result<Self, Failure> {
        let workers = workers as u64;
        let wanted = plan.global.max_connections.map_or(0, |most| needs(plan, workers).descriptors(most));
        let descriptors = limits::raise_open_files(wanted).map_err(Failure::Limit)?;
        // Where that is refused, the kernel refuses the ring, with a remedy of its own.
        let _ = limits::raise_locked_memory((workers + 2) * LOCKED_PER_WORKER);
        Ok(Self { descriptors, memory: memory::allowance((workers + OTHER_THREADS) * ADDRESSES_PER_THREAD), workers })
    }

    /// A ceiling of descriptors alone.
    #[cfg(test)]
    pub(super) fn of_descriptors(descriptors: u64, workers: u64) -> Self {
        Self { descriptors, memory: None, workers }
    }

    /// Most sessions under `plan`.
    pub(super) fn sessions(&self, plan: &Plan) -> Result<u32, Failure> {
        let configured = plan.global.max_connections;
        let by_descriptors = limits::sessions(configured, self.descriptors, needs(plan, self.workers))?;
        Ok(self.within_memory(configured, by_descriptors)?)
    }

    /// The same, cut to what memory holds; what is configured is never cut but refused.
    fn within_memory(&self, configured: Option<u32>, most: u32) -> Result<u32, TooLittle> {
        let Some(Allowance { bytes, in_use, by }) = &self.memory else { return Ok(most) };
        let possible = bytes.saturating_sub(in_use + self.bytes(0)) / (self.bytes(1) - self.bytes(0));
        let possible = u32::try_from(possible).unwrap_or(u32::MAX);
        if possible >= most || (configured.is_none() && possible > 0) {
            return Ok(most.min(possible));
        }
        let wanted = configured.unwrap_or(1);
        Err(TooLittle {
            wanted,
            workers: self.workers,
            needed_mib: (in_use + self.bytes(wanted)).div_ceil(MIB),
            allowed_mib: bytes / MIB,
            by: (*by).to_owned(),
            possible,
        })
    }

    /// The most memory `sessions` can take, in bytes. A slot counts three times: a table that grows holds its old half
    /// beside up to twice what is needed.
    fn bytes(&self, sessions: u32) -> u64 {
        let per_session = BYTES_PER_SESSION + 3 * SESSION_BYTES;
        BYTES_FIXED + self.workers * BYTES_PER_WORKER + u64::from(sessions) * per_session
    }
}

/// Sessions that memory holds with so many workers; how many bytes that is, and whose limit. `None`: nobody says.
pub fn held_by_memory(workers: u64) -> Option<(u32, u64, &'static str)> {
    let memory = memory::allowance((workers + OTHER_THREADS) * ADDRESSES_PER_THREAD);
    let ceiling = Ceiling { descriptors: 0, memory, workers };
    let Allowance { bytes, by, .. } = *ceiling.memory.as_ref()?;
    Some((ceiling.within_memory(None, u32::MAX).unwrap_or(0), bytes, by))
}

/// Descriptors besides sessions.
fn needs(plan: &Plan, workers: u64) -> Needs {
    let addresses = plan.listeners.iter().map(|listener| listener.binds.len() as u64).sum();
    let checked = plan.pools.iter().filter(|pool| pool.care.check.is_some());
    let checks = checked.map(|pool| pool.servers.len() as u64).sum();
    Needs { workers, addresses, pipes: workers * PIPES_MAX as u64, checks }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ceiling(mib: u64) -> Ceiling {
        let memory = Some(Allowance { bytes: mib * MIB, in_use: 10 * MIB, by: "RLIMIT_AS" });
        Ceiling { descriptors: 20_000, memory, workers: 1 }
    }

    #[test]
    fn memory_cuts_the_default_and_refuses_what_is_configured() {
        let roomy = ceiling(4_096);
        assert_eq!(roomy.within_memory(None, 8_000), Ok(8_000));
        assert_eq!(roomy.within_memory(Some(8_000), 8_000), Ok(8_000));
        let tight = ceiling(320);
        let possible = tight.within_memory(None, 8_000).expect("some fit");
        assert!((1_000..8_000).contains(&possible), "{possible}");
        assert_eq!(tight.within_memory(Some(possible), possible), Ok(possible));
        let refused = tight.within_memory(Some(8_000), 8_000).expect_err("too many");
        assert_eq!((refused.wanted, refused.allowed_mib, refused.possible), (8_000, 320, possible));
        assert!(refused.to_string().contains("RLIMIT_AS allows 320 MiB"), "{refused}");
        let needed = refused.needed_mib;
        assert_eq!(ceiling(needed).within_memory(Some(8_000), 8_000), Ok(8_000), "what it says suffices");
        let hopeless = ceiling(64).within_memory(None, 8_000).expect_err("not even one");
        assert_eq!((hopeless.wanted, hopeless.possible), (1, 0));
    }
}
