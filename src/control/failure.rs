//! Why the daemon cannot start, or cannot take up a new configuration.

use std::io;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::config::Complaints;
use crate::config::file::ReadError;
use crate::kernel::Refused;
use crate::observe::sink::SinkError;
use crate::sys::limits::TooFew;
use crate::sys::listen::ListenError;
use crate::sys::privilege::PrivilegeError;

pub use super::ceiling::TooLittle;

/// Why not: every way in which a start or a reload can fail.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration cannot be read.
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    /// The configuration is wrong.
    #[error(transparent)]
    Invalid(#[from] Complaints),
    /// More sessions are configured than descriptors allow.
    #[error(transparent)]
    TooFew(#[from] TooFew),
    /// More sessions are configured than memory holds in the worst case.
    #[error(transparent)]
    TooLittle(#[from] TooLittle),
    /// `RLIMIT_NOFILE` cannot be read or raised.
    #[error("cannot raise the limit on open files: {0}")]
    Limit(Errno),
    /// The engine that is asked for, or the only one there is, cannot be had.
    #[error("{0}; {remedy}", remedy = .0.remedy)]
    Engine(#[from] Refused),
    /// An address cannot be listened on.
    #[error("listener {listener:?}: cannot listen on {address}: {cause}")]
    Door {
        /// The listener's name.
        listener: String,
        /// The address.
        address: String,
        /// Why.
        cause: ListenError,
    },
    /// The admin server cannot listen.
    #[error("the admin server cannot listen on {address}: {cause}{hint}")]
    Admin {
        /// Where.
        address: String,
        /// Why.
        cause: ListenError,
        /// What to do, beginning with a separator; may be empty.
        hint: &'static str,
    },
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] SinkError),
    /// Root cannot be given up.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// A thread or the runtime of the conductor cannot be started.
    #[error("cannot start {what}: {cause}")]
    Start {
        /// What.
        what: &'static str,
        /// Why.
        cause: io::Error,
    },
    /// A worker left its loop though nobody told it to.
    #[error("worker {0} has ended by itself")]
    WorkerGone(usize),
    /// Workers did not end when told to.
    #[error("{0} workers did not end within the time allowed")]
    WorkersStuck(usize),
    /// What was to be set of a server cannot be.
    #[error("{0}")]
    Untunable(String),
    /// No reload has changed anything yet.
    #[error("there is no earlier configuration to go back to: no reload has changed anything since the start")]
    NoEarlier,
    /// No more is taken up: the daemon is on its way out.
    #[error("the daemon is stopping")]
    Stopping,
}

/// The kind of a [`Failure`], which decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Something failed while running: exit code 1.
    Runtime,
    /// The configuration is wrong: 3.
    Config,
    /// The kernel or its engine lacks something: 69.
    Unavailable,
    /// Not permitted: 77.
    Permission,
    /// The configuration cannot be read: 78.
    Unreadable,
}

impl Failure {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Failure::Unreadable(ReadError::Denied(_)) => Kind::Permission,
            Failure::Unreadable(ReadError::Unreadable { .. }) => Kind::Unreadable,
            Failure::Unreadable(ReadError::NotText { .. }) | Failure::Invalid(_) => Kind::Config,
            Failure::Privilege(PrivilegeError::UnknownUser(_) | PrivilegeError::UnknownGroup(_)) => Kind::Config,
            Failure::Privilege(_) => Kind::Permission,
            Failure::Door { cause, .. } | Failure::Admin { cause, .. } if cause.is_permission() => Kind::Permission,
            Failure::Log(error) if error.cause.kind() == io::ErrorKind::PermissionDenied => Kind::Permission,
            Failure::Engine(_) => Kind::Unavailable,
            Failure::TooFew(_)
            | Failure::TooLittle(_)
            | Failure::Limit(_)
            | Failure::Door { .. }
            | Failure::Admin { .. }
            | Failure::Log(_)
            | Failure::Start { .. }
            | Failure::WorkerGone(_)
            | Failure::WorkersStuck(_)
            | Failure::Untunable(_)
            | Failure::NoEarlier
            | Failure::Stopping => Kind::Runtime,
        }
    }

    /// One line each: every complaint about a file, or the one thing that failed.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Failure::Invalid(complaints) => complaints.lines().collect(),
            other => vec![other.to_string()],
        }
    }

    /// True when the same may succeed a moment later (see [`ListenError::may_pass`]).
    pub fn may_pass(&self) -> bool {
        matches!(self, Failure::Door { cause, .. } | Failure::Admin { cause, .. } if cause.may_pass())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_and_where_and_has_a_kind() {
        let door = |cause| Failure::Door { listener: "web".into(), address: "0.0.0.0:80".into(), cause };
        assert_eq!(door(ListenError::Denied).kind(), Kind::Permission);
        assert_eq!(door(ListenError::InUse).kind(), Kind::Runtime);
        assert!(door(ListenError::InUse).may_pass() && !door(ListenError::NotLocal).may_pass());
        let text = door(ListenError::Denied).to_string();
        assert!(text.starts_with("listener \"web\": cannot listen on 0.0.0.0:80: permission denied"), "{text}");
        let unknown = Failure::from(PrivilegeError::UnknownUser("x".into()));
        assert_eq!(unknown.kind(), Kind::Config);
        let wrong = crate::config::parse("t.toml", "[pools.a]\nx = 1\n[foo]\n", &|_| None).expect_err("wrong");
        let failure = Failure::from(wrong);
        assert_eq!(failure.kind(), Kind::Config);
        assert!(failure.lines().len() > 1 && failure.lines().iter().all(|line| line.starts_with("t.toml:")));
    }
}
