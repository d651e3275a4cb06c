//! Adding and removing servers of a running daemon, without another configuration: what is asked for, what is answered, and
//! the file that keeps what is to last.
//!
//! The way is that of a reload: the text in force and what is laid over it (`config::overlay`) are compiled beside what runs,
//! then one swap. What is to last is written before the swap, so that it is never in force without being kept.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Draft;
use crate::config::file;
use crate::config::overlay::{Newcomer, Overlay};
use crate::observe::event::Event;
use crate::sys::privilege::Identity;

/// Longest time the overlay may take to be written: a mount that hangs must not hang the daemon.
const WRITING: Duration = Duration::from_secs(5);

/// `POST /v1/server/add`: a server that is to be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerAdd {
    /// The name of its pool.
    pub pool: String,
    /// Its name.
    pub server: String,
    /// Its address, as in the file.
    pub address: String,
    /// Its weight, 0 to 256; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Its limit on sessions; none when absent, or 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// It gets sessions only when no other can.
    #[serde(default)]
    pub backup: bool,
    /// It is there after a restart, too.
    #[serde(default)]
    pub persist: bool,
}

/// `POST /v1/server/remove`: a server that is to be there no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerRemove {
    /// The name of its pool.
    pub pool: String,
    /// Its name.
    pub server: String,
    /// It is gone after a restart, too.
    #[serde(default)]
    pub persist: bool,
}

/// One of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    Add(ServerAdd),
    Remove(ServerRemove),
}

/// What has come of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edited {
    /// The configuration in force now.
    pub generation: u64,
    /// What changed, one line each.
    pub changes: Vec<String>,
    /// Sessions of the server, which go on when it was removed.
    pub sessions: u64,
    /// The file that keeps it; `null`: it holds until the daemon ends, or the file is changed there.
    pub kept_in: Option<String>,
}

/// `GET /v1/overlay`: what is laid over the configuration in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// The file that keeps what lasts; `null` when there can be none.
    pub path: Option<PathBuf>,
    /// What lasts, as in that file.
    pub kept: String,
    /// What does not, in the same words.
    pub passing: String,
}

impl Edit {
    /// The pool and the server it is about.
    pub(super) fn whom(&self) -> (&str, &str) {
        match self {
            Edit::Add(add) => (&add.pool, &add.server),
            Edit::Remove(remove) => (&remove.pool, &remove.server),
        }
    }

    /// Whether it is to last.
    pub(super) fn persist(&self) -> bool {
        match self {
            Edit::Add(add) => add.persist,
            Edit::Remove(remove) => remove.persist,
        }
    }

    /// What the log calls it.
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Edit::Add(_) => "server add",
            Edit::Remove(_) => "server remove",
        }
    }

    /// Makes it part of what is laid over `file`.
    ///
    /// # Errors
    /// Why not, in words for whoever asked.
    pub(super) fn apply(&self, overlay: &mut Overlay, file: &Draft) -> Result<(), String> {
        match self {
            Edit::Add(add) => {
                let new = Newcomer {
                    pool: &add.pool,
                    name: &add.server,
                    address: &add.address,
                    weight: add.weight.unwrap_or(1),
                    max_connections: add.max_connections.unwrap_or(0),
                    backup: add.backup,
                };
                overlay.add(file, &new, add.persist, &file::environment)
            }
            Edit::Remove(remove) => {
                overlay.remove(file, (&remove.pool, &remove.server), remove.persist, &file::environment)
            }
        }
    }
}

/// Writes `text` to the overlay at `path`, as a whole or not at all, while the conductor goes on.
///
/// # Errors
/// Why not, and what to do, in words for whoever asked.
pub(super) async fn keep(path: &Path, text: &str) -> Result<(), String> {
    let (to, what) = (path.to_owned(), text.to_owned());
    let writing = tokio::task::spawn_blocking(move || write(&to, &what));
    let cause = match tokio::time::timeout(WRITING, writing).await {
        Ok(Ok(Ok(()))) => return Ok(()),
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(_)) => "nobody could be set to it".to_owned(),
        Err(_) => format!("it took longer than {} s", WRITING.as_secs()),
    };
    let who = nix::unistd::geteuid();
    Err(format!(
        "nothing is changed: {} cannot be written by user {who}, as whom the daemon runs ({cause}); set `state_dir` in \
         [global] to a directory of that user, such as /var/lib/ringway, or leave `persist` out",
        path.display()
    ))
}

/// A new file takes the place of the old one, with its permissions; what was there is whole until then.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let new = directory.join(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mode =
        fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file).map(|old| old.permissions().mode() & 0o777);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        if let Some(mode) = mode {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    if written.is_err() {
        // It is of no use to anybody.
        let _ = fs::remove_file(&new);
        return written;
    }
    // The name is there; that it outlives a loss of power, not every file system can promise.
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
    Ok(())
}

/// Makes the directory that `state_dir` names, for whom the daemon becomes. One that is there and empty, as a service manager
/// makes it, is given to that user; any other is left alone. What cannot be done is said, and matters only for `persist`.
pub(super) fn make_home(directory: &Path, owner: Option<&Identity>) -> Option<Event> {
    let made = fs::DirBuilder::new().mode(0o700).create(directory);
    let ready = match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => hand_over(directory, owner),
    };
    let error = ready.err()?;
    let message =
        format!("state_dir {}: {error}; `ringway server` with `--persist` will be refused", directory.display());
    Some(Event::warn("state_dir", message))
}

fn hand_over(directory: &Path, owner: Option<&Identity>) -> io::Result<()> {
    let found = fs::symlink_metadata(directory)?;
    if !found.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is no directory"));
    }
    let Some(owner) = owner.filter(|owner| nix::unistd::geteuid().is_root() && !owner.is_current()) else {
        return Ok(());
    };
    if found.uid() == 0 && fs::read_dir(directory)?.next().is_none() {
        let (user, group) = owner.owner();
        std::os::unix::fs::lchown(directory, user, group)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_is_written_as_a_whole_and_keeps_its_permissions() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ringway.overlay.toml");
        let mode = || fs::metadata(&path).expect("written").permissions().mode() & 0o777;
        write(&path, "# one\n").expect("own directory");
        assert_eq!((fs::read_to_string(&path).expect("written").as_str(), mode()), ("# one\n", 0o600));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("own file");
        fs::write(directory.path().join(".ringway.overlay.toml.new"), "left by a crash").expect("own directory");
        write(&path, "# two\n").expect("own directory");
        assert_eq!((fs::read_to_string(&path).expect("written").as_str(), mode()), ("# two\n", 0o640));
        assert_eq!(fs::read_dir(directory.path()).expect("there").count(), 1, "nothing else is left");

        // Whoever may write there could make it a link: neither what it points to is read, nor is it written to.
        let secret = directory.path().join("secret");
        fs::write(&secret, "secret").expect("own directory");
        fs::remove_file(&path).expect("own file");
        std::os::unix::fs::symlink(&secret, &path).expect("own directory");
        assert!(file::read_overlay(&path).is_err());
        write(&path, "# three\n").expect("own directory");
        assert_eq!(fs::read_to_string(&secret).expect("there"), "secret");
        assert_eq!(file::read_overlay(&path).expect("a file again"), "# three\n");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named_with_what_to_do() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("none/ringway.overlay.toml");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let error = runtime.block_on(keep(&path, "")).expect_err("no such directory");
        assert!(error.contains("nothing is changed") && error.contains("state_dir"), "{error}");
        assert!(error.contains(&path.display().to_string()), "{error}");
    }

    #[test]
    fn a_home_is_made_and_one_in_use_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let home = directory.path().join("state");
        assert!(make_home(&home, None).is_none());
        assert_eq!(fs::metadata(&home).expect("made").permissions().mode() & 0o777, 0o700);
        assert!(make_home(&home, None).is_none(), "it is there");
        fs::write(directory.path().join("file"), "").expect("own directory");
        let said = make_home(&directory.path().join("file"), None).expect("no directory");
        assert!(format!("{said:?}").contains("no directory"), "{said:?}");
        assert!(make_home(&directory.path().join("no/such"), None).is_some());
    }
}
