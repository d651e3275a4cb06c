//! Doors: which listening sockets a plan wants, which of them are there already, and making the others.
//!
//! [`pair`] is pure: it compares a plan with the doors that are open. [`Doorman`] makes sockets. A door is known by its
//! address alone, so one that moves to another listener, or whose listener gets another name, stays open.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use crate::config::plan::{Address, Listener, Plan, Terms};
use crate::dataplane::commons::Door;
use crate::observe::event::Event;
use crate::observe::writer::Log;
use crate::sys::listen::{self, Heritage, ListenError, Neighbours, Presence};

use super::failure::Failure;
use super::fleet::Parcel;

/// A door with the listener it belongs to, as in a scene.
pub(super) type Placed = (Arc<Door>, Arc<Listener>);

/// What a plan makes of the doors that are open.
#[derive(Debug)]
pub(super) struct Pairing {
    /// Doors that stay, with their new listener and the old one.
    pub(super) kept: Vec<(Arc<Door>, Arc<Listener>, Arc<Listener>)>,
    /// Addresses that have no door yet.
    pub(super) missing: Vec<(Address, Arc<Listener>)>,
    /// Doors that nobody wants any more.
    pub(super) closed: Vec<Arc<Door>>,
}

/// Compares the addresses of `plan` with the doors that are `open`.
pub(super) fn pair(plan: &Plan, open: &[Placed]) -> Pairing {
    let mut by_address: HashMap<&Address, &Placed> = open.iter().map(|placed| (&placed.0.address, placed)).collect();
    let (mut kept, mut missing) = (Vec::new(), Vec::new());
    for listener in &plan.listeners {
        for address in &listener.binds {
            match by_address.remove(address) {
                Some((door, was)) => kept.push((Arc::clone(door), Arc::clone(listener), Arc::clone(was))),
                None => missing.push((address.clone(), Arc::clone(listener))),
            }
        }
    }
    let closed = open
        .iter()
        .filter(|(door, _)| by_address.contains_key(&door.address))
        .map(|(door, _)| Arc::clone(door))
        .collect();
    Pairing { kept, missing, closed }
}

/// What connections accepted under `terms` inherit.
pub(super) fn heritage(terms: &Terms) -> Heritage {
    Heritage { user_timeout_ms: terms.user_timeout_ms }
}

/// Says which of these doors are on addresses that are not on this machine: meant, or a slip of the pen.
pub(super) fn mention_absent<'d>(log: &Log, doors: impl Iterator<Item = &'d Placed>) {
    for (door, listener) in doors {
        if let Address::Inet(address) = door.address
            && !listen::is_present(address.ip())
        {
            let message = format!("{address} is not on this machine (yet): clients reach it once somebody adds it");
            let event = Event::warn("address_absent", message);
            log.say(event.with("listener", &*listener.name).with("address", address.to_string()));
        }
    }
}

/// Makes doors and forgets them.
#[derive(Debug)]
pub(super) struct Doorman {
    workers: usize,
    next_id: u64,
    /// Doors that some worker may still be emptying.
    closing: Vec<Weak<Door>>,
    /// Listening sockets of doors that are open, by the door's id: workers have theirs, and are passed them from here.
    sockets: HashMap<u64, Arc<[OwnedFd]>>,
    /// Files of unix doors, by the door's id.
    files: HashMap<u64, SocketFile>,
}

impl Doorman {
    /// A doorman for doors with `workers` sockets.
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, next_id: 1, closing: Vec::new(), sockets: HashMap::new(), files: HashMap::new() }
    }

    /// Opens all that is missing, or nothing.
    pub(super) fn open(
        &mut self,
        missing: &[(Address, Arc<Listener>)],
        open: &[Placed],
    ) -> Result<Vec<Placed>, Failure> {
        self.closing.retain(|door| door.strong_count() > 0);
        let mut opened: Vec<Placed> = Vec::new();
        for (address, listener) in missing {
            match self.open_one(address, listener, open, &opened) {
                Ok(door) => opened.push((door, Arc::clone(listener))),
                Err(cause) => {
                    self.forget(opened.iter().map(|(door, _)| door));
                    let (listener, address) = (listener.name.to_string(), address.to_string());
                    return Err(Failure::Door { listener, address, cause });
                }
            }
        }
        Ok(opened)
    }

    fn open_one(
        &mut self,
        address: &Address,
        listener: &Listener,
        open: &[Placed],
        opened: &[Placed],
    ) -> Result<Arc<Door>, ListenError> {
        let id = self.next_id;
        let sockets = match address {
            Address::Inet(inet) => {
                let overlaps =
                    |other: &Address| matches!(other, Address::Inet(other) if listen::overlap(*inet, *other));
                let closing = self.closing.iter().filter_map(Weak::upgrade).any(|door| overlaps(&door.address));
                let ours = closing || open.iter().chain(opened).any(|(door, _)| overlaps(&door.address));
                let neighbours = if ours { Neighbours::Ours } else { Neighbours::Refuse };
                listen::tcp(*inet, self.workers, heritage(&listener.pool.terms), neighbours, Presence::Later)?
            }
            Address::Unix(path) => {
                let sockets = listen::unix(path, self.workers, listen::UNIX_MODE)?;
                self.files.insert(id, SocketFile::new(path));
                sockets
            }
        };
        self.next_id += 1;
        self.sockets.insert(id, sockets.into());
        Ok(Arc::new(Door { id, address: address.clone() }))
    }

    /// The sockets of a door, by worker.
    pub(super) fn sockets(&self, door: &Door) -> &[OwnedFd] {
        self.sockets.get(&door.id).map_or(&[], |sockets| sockets)
    }

    /// What workers need of doors that are new to them.
    pub(super) fn parcels<'d>(&self, doors: impl Iterator<Item = &'d Arc<Door>>) -> Vec<Parcel> {
        let parcel = |door: &Arc<Door>| {
            let sockets = Arc::clone(self.sockets.get(&door.id)?);
            Some(Parcel { door: door.id, sockets })
        };
        doors.filter_map(parcel).collect()
    }

    /// Sets on the sockets of doors that stay what their new terms say; connections accepted before keep theirs.
    ///
    /// # Errors
    /// What setsockopt(2) said, with the listener.
    pub(super) fn bequeath(&self, pairing: &Pairing) -> Result<(), Failure> {
        for (door, listener, was) in &pairing.kept {
            let heritage_now = heritage(&listener.pool.terms);
            if matches!(door.address, Address::Unix(_)) || heritage_now == heritage(&was.pool.terms) {
                continue;
            }
            for socket in self.sockets(door) {
                listen::bequeath(socket2::SockRef::from(&socket.as_fd()), heritage_now).map_err(|cause| {
                    Failure::Door { listener: listener.name.to_string(), address: door.address.to_string(), cause }
                })?;
            }
        }
        Ok(())
    }

    /// Lets go of doors: closes their sockets here, removes their files, and remembers that workers may hold them a moment
    /// longer.
    pub(super) fn forget<'d>(&mut self, doors: impl Iterator<Item = &'d Arc<Door>>) {
        for door in doors {
            self.sockets.remove(&door.id);
            self.files.remove(&door.id);
            self.closing.push(Arc::downgrade(door));
        }
    }
}

/// The file of a unix socket, removed when this is dropped, unless another process has put its own there meanwhile.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    /// The file that was made at `path` just now.
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), identity: identity(path) }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // In a directory that is not ours any more it stays; the next start replaces it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Device and inode.
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ledger::Registry;

    fn plan(text: &str) -> Plan {
        let draft = crate::config::parse("t.toml", text, &|_| None).unwrap_or_else(|wrong| panic!("{wrong}"));
        draft.compile(&mut Registry::new(1), None)
    }

    fn text(listeners: &[(&str, &str)]) -> String {
        let mut text = String::from("[pools.p]\nservers = [{ name = \"s\", address = \"127.0.0.1:1\" }]\n");
        for (name, bind) in listeners {
            text.push_str(&format!("[listeners.{name}]\nbind = {bind}\npool = \"p\"\n"));
        }
        text
    }

    /// Doors without sockets for every address of a plan.
    fn open(plan: &Plan) -> Vec<Placed> {
        let addresses = plan.listeners.iter().flat_map(|l| l.binds.iter().map(move |bind| (bind, l)));
        addresses
            .enumerate()
            .map(|(id, (bind, listener))| {
                let door = Door { id: id as u64, address: bind.clone() };
                (Arc::new(door), Arc::clone(listener))
            })
            .collect()
    }

    fn addresses<'a>(doors: impl IntoIterator<Item = &'a Address>) -> Vec<String> {
        doors.into_iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_first_plan_misses_everything() {
        let plan = plan(&text(&[("a", "[\"127.0.0.1:81\", \"[::1]:81\"]"), ("b", "\"unix:/run/b\"")]));
        let pairing = pair(&plan, &[]);
        assert!(pairing.kept.is_empty() && pairing.closed.is_empty());
        assert_eq!(
            addresses(pairing.missing.iter().map(|(address, _)| address)),
            ["127.0.0.1:81", "[::1]:81", "unix:/run/b"]
        );
    }

    #[test]
    fn doors_are_kept_by_address_even_when_they_move() {
        let old = plan(&text(&[("a", "[\"127.0.0.1:81\", \"127.0.0.1:82\"]"), ("b", "\"127.0.0.1:83\"")]));
        let new = plan(&text(&[("a", "\"127.0.0.1:82\""), ("c", "[\"127.0.0.1:83\", \"127.0.0.1:84\"]")]));
        let doors = open(&old);
        let pairing = pair(&new, &doors);
        let kept: Vec<_> = pairing.kept.iter().map(|(door, now, was)| (door.id, &*now.name, &*was.name)).collect();
        assert_eq!(kept, [(1, "a", "a"), (2, "c", "b")]);
        assert!(Arc::ptr_eq(&pairing.kept[0].0, &doors[1].0));
        assert_eq!(addresses(pairing.missing.iter().map(|(address, _)| address)), ["127.0.0.1:84"]);
        assert_eq!(addresses(pairing.closed.iter().map(|door| &door.address)), ["127.0.0.1:81"]);
    }

    #[test]
    fn a_failed_bind_leaves_nothing_behind() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("door");
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = taken.local_addr().expect("bound");
        let unix = format!("\"unix:{}\"", path.display());
        let plan = plan(&text(&[("a", &unix), ("b", &format!("\"{address}\""))]));
        let mut doorman = Doorman::new(2);
        let pairing = pair(&plan, &[]);
        let failure = doorman.open(&pairing.missing, &[]).expect_err("the second is taken");
        assert!(failure.may_pass(), "{failure}");
        assert!(!path.exists());
        drop(taken);
        let opened = doorman.open(&pairing.missing, &[]).expect("free now");
        assert_eq!(opened.len(), 2);
        assert!(path.exists() && doorman.sockets(&opened[0].0).len() == 2);
        doorman.forget(opened.iter().map(|(door, _)| door));
        assert!(!path.exists());
        // Still held here, as a worker would: the same address may be opened again beside it.
        let again = doorman.open(&pairing.missing[1..], &[]).expect("shared with ourselves");
        assert_ne!(again[0].0.id, opened[1].0.id);
    }

    #[test]
    fn a_socket_file_of_somebody_else_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        std::fs::write(&path, "ours").expect("written");
        let file = SocketFile::new(&path);
        std::fs::rename(&path, directory.path().join("moved")).expect("moved");
        std::fs::write(&path, "theirs").expect("written");
        drop(file);
        assert!(path.exists());
        drop(SocketFile::new(&path));
        assert!(!path.exists());
    }
}
