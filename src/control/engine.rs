//! Which engine drives the workers, and which runtime the conductor runs on.
//!
//! The kernel is asked twice: at the very start, so that a daemon that insists on io_uring ends before it has touched
//! anything, and when the workers are hired, because what root is given may be refused to the user it has become.

use std::future::Future;
use std::io;

use crate::config::plan::Engine;
use crate::kernel::Refused;
use crate::kernel::uring::{self, Abilities};
use crate::observe::event::Event;
use crate::observe::panel::EngineChoice;

use super::failure::Failure;

/// What drives the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drive {
    /// A ring each.
    Ring,
    /// An epoll instance each.
    Epoll,
}

impl Drive {
    /// Its name in the configuration, metrics and status.
    pub fn name(self) -> &'static str {
        match self {
            Drive::Ring => "io_uring",
            Drive::Epoll => "epoll",
        }
    }
}

/// The engine that is used, and why.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The engine.
    pub drive: Drive,
    configured: Engine,
    /// What the ring can do.
    abilities: Option<Abilities>,
    /// Why there is none, though one was preferred.
    refusal: Option<Refused>,
}

/// Chooses the engine by asking the kernel.
///
/// # Errors
/// The configuration insists on io_uring, and the kernel refuses a ring.
pub fn choose(configured: Engine) -> Result<Chosen, Failure> {
    decide(configured, uring::probe)
}

fn decide(configured: Engine, probe: impl Fn() -> Result<Abilities, Refused>) -> Result<Chosen, Failure> {
    let ring = Chosen { drive: Drive::Ring, configured, abilities: None, refusal: None };
    if configured == Engine::Epoll {
        return Ok(Chosen { drive: Drive::Epoll, ..ring });
    }
    match probe() {
        Ok(abilities) => Ok(Chosen { abilities: Some(abilities), ..ring }),
        Err(refusal) => ring.instead(refusal),
    }
}

impl Chosen {
    /// What is used now that the kernel has refused this one: epoll in place of a ring that was only preferred.
    ///
    /// # Errors
    /// There is nothing else.
    pub fn instead(self, refusal: Refused) -> Result<Self, Failure> {
        match (self.configured, self.drive) {
            (Engine::Auto, Drive::Ring) => {
                Ok(Self { drive: Drive::Epoll, abilities: None, refusal: Some(refusal), ..self })
            }
            _ => Err(Failure::Engine(refusal)),
        }
    }

    /// For metrics and status.
    pub fn choice(&self) -> EngineChoice {
        let reason = match (&self.refusal, self.configured) {
            (Some(refusal), _) => refusal.reason,
            (None, Engine::Auto) => "preferred",
            (None, Engine::IoUring | Engine::Epoll) => "configured",
        };
        EngineChoice { name: self.drive.name(), reason }
    }

    /// For the log: a warning when it is not the preferred one.
    pub fn event(&self) -> Event {
        let EngineChoice { name, reason } = self.choice();
        let event = match &self.refusal {
            Some(refusal) => Event::warn(
                "engine",
                format!("epoll drives the workers: {refusal}; to have io_uring: {}", refusal.remedy),
            ),
            None => Event::info("engine", format!("{name} drives the workers")),
        };
        let event = event.with("engine", name).with("reason", reason);
        match &self.abilities {
            Some(abilities) => event.with("flags", abilities.flags),
            None => event,
        }
    }

    /// What the conductor runs on beside this engine.
    pub fn runtime(&self) -> Runtime {
        match self.drive {
            Drive::Ring => Runtime::Uring,
            Drive::Epoll => Runtime::Plain,
        }
    }
}

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

/// A [`Runtime`] that is ready.
pub enum Open {
    /// See [`Runtime::Uring`].
    Uring(tokio_uring::Runtime),
    /// See [`Runtime::Plain`].
    Plain(tokio::runtime::Runtime),
}

impl Runtime {
    /// Makes it. Where one more ring is refused to a daemon whose workers have theirs, it is the plain one: the conductor
    /// loses nothing by it.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn open(self) -> io::Result<(Self, Open)> {
        if self == Runtime::Uring {
            let mut builder = tokio_uring::builder();
            builder.entries(RING_ENTRIES);
            if let Ok(runtime) = tokio_uring::Runtime::new(&builder) {
                return Ok((self, Open::Uring(runtime)));
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok((Runtime::Plain, Open::Plain(runtime)))
    }
}

impl Open {
    /// Runs `future` and what it spawns on the current thread.
    pub fn block_on<F: Future>(self, future: F) -> F::Output {
        match self {
            Open::Uring(runtime) => runtime.block_on(future),
            Open::Plain(runtime) => tokio::task::LocalSet::new().block_on(&runtime, future),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> Refused {
        Refused {
            engine: "io_uring",
            errno: crate::kernel::Errno::EPERM,
            reason: "seccomp",
            cause: "a filter".into(),
            remedy: "allow it".into(),
        }
    }

    #[test]
    fn the_engine_is_chosen_by_configuration_and_kernel() {
        let willing = || Ok(Abilities { flags: "SINGLE_ISSUER" });
        let refusing = || Err(refusal());
        let table = [
            (Engine::Auto, true, "io_uring", "preferred"),
            (Engine::Auto, false, "epoll", "seccomp"),
            (Engine::IoUring, true, "io_uring", "configured"),
            (Engine::Epoll, true, "epoll", "configured"),
            (Engine::Epoll, false, "epoll", "configured"),
        ];
        for (configured, rings, name, reason) in table {
            let chosen = if rings { decide(configured, willing) } else { decide(configured, refusing) };
            assert_eq!(chosen.expect("one of the two").choice(), EngineChoice { name, reason }, "{configured:?}");
        }
        let refused = decide(Engine::IoUring, refusing).expect_err("refused");
        assert!(refused.to_string().ends_with("; allow it"), "{refused}");
    }

    #[test]
    fn a_ring_refused_to_the_workers_gives_way_once_and_only_when_it_may() {
        let willing = || Ok(Abilities { flags: "SINGLE_ISSUER" });
        let instead = decide(Engine::Auto, willing).expect("willing").instead(refusal()).expect("auto gives way");
        assert_eq!(instead.choice(), EngineChoice { name: "epoll", reason: "seccomp" });
        assert_eq!(instead.runtime(), Runtime::Plain);
        assert!(instead.instead(refusal()).is_err(), "nothing is left after epoll");
        assert!(decide(Engine::IoUring, willing).expect("willing").instead(refusal()).is_err());
    }
}
