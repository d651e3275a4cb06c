//! Which engine drives the workers, and which runtime the conductor runs on.

use std::future::Future;
use std::io;

use crate::config::plan::Engine;
use crate::kernel::uring::{self, Abilities, Refused};
use crate::observe::panel::EngineChoice;

use super::failure::Failure;

/// What the conductor runs on. The async code is the same; only files are read differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// tokio-uring: files go through a ring.
    Uring,
    /// tokio on one thread.
    Plain,
}

/// Entries of the conductor's ring: it reads one file now and then.
const RING_ENTRIES: u32 = 8;

/// The engine that is used, and what it can do.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// For metrics and status.
    pub choice: EngineChoice,
    /// What the ring can do, where there is one.
    pub abilities: Option<Abilities>,
}

/// Chooses the engine by asking the kernel.
///
/// # Errors
/// The kernel refuses a ring, or an engine is asked for that this version does not have.
pub fn choose(configured: Engine) -> Result<Chosen, Failure> {
    decide(configured, uring::probe)
}

fn decide(configured: Engine, probe: impl Fn() -> Result<Abilities, Refused>) -> Result<Chosen, Failure> {
    let reason = match configured {
        Engine::Auto => "preferred",
        Engine::IoUring => "configured",
        Engine::Epoll => return Err(Failure::NoEpoll),
    };
    let abilities = probe()?;
    Ok(Chosen { choice: EngineChoice { name: "io_uring", reason }, abilities: Some(abilities) })
}

impl Chosen {
    /// What the conductor runs on beside this engine.
    pub fn runtime(&self) -> Runtime {
        if self.abilities.is_some() { Runtime::Uring } else { Runtime::Plain }
    }
}

impl Runtime {
    /// Runs `future` and what it spawns on the current thread.
    ///
    /// # Errors
    /// The runtime cannot be made: no descriptor is left, or the ring is refused.
    pub fn block_on<F: Future>(self, future: F) -> io::Result<F::Output> {
        match self {
            Runtime::Uring => {
                let mut builder = tokio_uring::builder();
                builder.entries(RING_ENTRIES);
                Ok(tokio_uring::Runtime::new(&builder)?.block_on(future))
            }
            Runtime::Plain => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let local = tokio::task::LocalSet::new();
                Ok(local.block_on(&runtime, future))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_chosen_by_configuration_and_kernel() {
        let willing = || Ok(Abilities { flags: "SINGLE_ISSUER" });
        let refusing = || {
            Err(Refused {
                errno: crate::kernel::Errno::EPERM,
                reason: "seccomp",
                cause: "a filter".into(),
                remedy: "allow it".into(),
            })
        };
        let chosen = decide(Engine::Auto, willing).expect("willing");
        assert_eq!(chosen.choice, EngineChoice { name: "io_uring", reason: "preferred" });
        assert_eq!(decide(Engine::IoUring, willing).expect("willing").choice.reason, "configured");
        let refused = decide(Engine::IoUring, refusing).expect_err("refused");
        assert!(refused.to_string().ends_with("; allow it"), "{refused}");
        assert!(matches!(decide(Engine::Epoll, willing), Err(Failure::NoEpoll)));
    }
}
