//! Giving up root (credentials(7), capabilities(7), prctl(2)).
//!
//! Started as root, the daemon binds its ports and opens its files, then becomes an ordinary user who keeps one thing:
//! `CAP_NET_BIND_SERVICE`, so that a reload can add port 81. Capabilities belong to threads, and new threads inherit them:
//! [`become_user`] must run before any thread is started.

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Gid, Group, Uid, User, geteuid, setgid, setgroups, setuid};

/// Who to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user, by the name or number that was asked for; `None`: stay who we are.
    pub user: Option<(String, Uid)>,
    /// The group; `None`: keep ours.
    pub group: Option<(String, Gid)>,
}

/// Why privileges could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The user is not known to this machine.
    #[error("there is no user {0:?}: create it (useradd --system {0}), or change `user` in [global]")]
    UnknownUser(String),
    /// The group is not known to this machine.
    #[error("there is no group {0:?}: create it (groupadd --system {0}), or change `group` in [global]")]
    UnknownGroup(String),
    /// The user database could not be read.
    #[error("cannot look up {name:?}: {errno}")]
    LookUp {
        /// Whom.
        name: String,
        /// What the lookup said.
        errno: Errno,
    },
    /// A step was refused, as it is for a root without `CAP_SETUID` in a container.
    #[error("cannot become {name}: {call}: {cause}; start as that user instead")]
    Refused {
        /// Whom.
        name: String,
        /// The call.
        call: &'static str,
        /// What it said.
        cause: String,
    },
}

/// True when the process runs with root's user id.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Finds the ids of `user` and `group`, each a name or a number. A user without a group brings its primary one.
///
/// # Errors
/// Unknown names, and a user database that cannot be read.
pub fn identity(user: Option<&str>, group: Option<&str>) -> Result<Identity, PrivilegeError> {
    let account = user.map(find_user).transpose()?;
    let group = match (group, &account) {
        (Some(name), _) => Some((name.to_owned(), find_group(name)?)),
        (None, Some((name, _, Some(primary)))) => Some((name.clone(), *primary)),
        (None, _) => None,
    };
    Ok(Identity { user: account.map(|(name, uid, _)| (name, uid)), group })
}

fn find_user(name: &str) -> Result<(String, Uid, Option<Gid>), PrivilegeError> {
    let look_up = |errno| PrivilegeError::LookUp { name: name.to_owned(), errno };
    if let Some(user) = User::from_name(name).map_err(look_up)? {
        return Ok((name.to_owned(), user.uid, Some(user.gid)));
    }
    let number: u32 = name.parse().map_err(|_| PrivilegeError::UnknownUser(name.to_owned()))?;
    let uid = Uid::from_raw(number);
    let primary = User::from_uid(uid).map_err(look_up)?.map(|user| user.gid);
    Ok((name.to_owned(), uid, primary.or(Some(Gid::from_raw(number)))))
}

fn find_group(name: &str) -> Result<Gid, PrivilegeError> {
    let found = Group::from_name(name).map_err(|errno| PrivilegeError::LookUp { name: name.to_owned(), errno })?;
    match (found, name.parse()) {
        (Some(group), _) => Ok(group.gid),
        (None, Ok(number)) => Ok(Gid::from_raw(number)),
        (None, Err(_)) => Err(PrivilegeError::UnknownGroup(name.to_owned())),
    }
}

impl Identity {
    /// True when becoming it changes nothing.
    pub fn is_current(&self) -> bool {
        self.user.as_ref().is_none_or(|(_, uid)| *uid == geteuid())
            && self.group.as_ref().is_none_or(|(_, gid)| *gid == nix::unistd::getegid())
    }

    /// The numbers for chown(2); `None` leaves one alone.
    pub fn owner(&self) -> (Option<u32>, Option<u32>) {
        (self.user.as_ref().map(|(_, uid)| uid.as_raw()), self.group.as_ref().map(|(_, gid)| gid.as_raw()))
    }
}

/// Becomes `who` for good: supplementary groups, group, user; keeps `CAP_NET_BIND_SERVICE` if there was one; no program
/// started from here can gain privileges (`PR_SET_NO_NEW_PRIVS`), and memory is not for other processes to read
/// (`PR_SET_DUMPABLE`). Call it before any thread is started.
///
/// # Errors
/// The step that was refused. Then the process is half way: end it.
pub fn become_user(who: &Identity) -> Result<(), PrivilegeError> {
    let name = match (&who.user, &who.group) {
        (Some((name, _)), _) => format!("user {name:?}"),
        (None, Some((name, _))) => format!("group {name:?}"),
        (None, None) => return Ok(()),
    };
    let refused = |call: &'static str| {
        let name = name.clone();
        move |cause: Errno| PrivilegeError::Refused { name, call, cause: cause.desc().to_owned() }
    };
    if let Some((_, gid)) = &who.group {
        setgroups(&[*gid]).map_err(refused("setgroups"))?;
        setgid(*gid).map_err(refused("setgid"))?;
    }
    if let Some((_, uid)) = &who.user {
        prctl::set_keepcaps(true).map_err(refused("PR_SET_KEEPCAPS"))?;
        setuid(*uid).map_err(refused("setuid"))?;
        keep_bind_service().map_err(|cause| PrivilegeError::Refused {
            name: name.clone(),
            call: "capset",
            cause: cause.to_string(),
        })?;
    }
    prctl::set_no_new_privs().map_err(refused("PR_SET_NO_NEW_PRIVS"))?;
    prctl::set_dumpable(false).map_err(refused("PR_SET_DUMPABLE"))
}

/// Drops every capability but `CAP_NET_BIND_SERVICE`, and does without it where there was none (a container).
fn keep_bind_service() -> Result<(), caps::errors::CapsError> {
    let had = caps::has_cap(None, CapSet::Permitted, Capability::CAP_NET_BIND_SERVICE)?;
    let kept: CapsHashSet = had.then_some(Capability::CAP_NET_BIND_SERVICE).into_iter().collect();
    caps::set(None, CapSet::Effective, &CapsHashSet::new())?;
    caps::set(None, CapSet::Permitted, &kept)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found() {
        let root = identity(Some("root"), None).expect("root is everywhere");
        assert_eq!(root.owner(), (Some(0), Some(0)));
        let number = identity(Some("4294"), Some("4295")).expect("numbers need no entry");
        assert_eq!(number.owner(), (Some(4294), Some(4295)));
        assert_eq!(identity(None, None).expect("nobody").owner(), (None, None));
    }

    #[test]
    fn an_unknown_name_is_named_with_a_remedy() {
        let unknown = identity(Some("nobody-here"), None).expect_err("not there");
        assert!(unknown.to_string().contains("useradd --system nobody-here"));
        let unknown = identity(None, Some("nobody-here")).expect_err("not there");
        assert!(matches!(unknown, PrivilegeError::UnknownGroup(_)));
    }
}
