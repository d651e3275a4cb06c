//! The sockets of the admin server and of the runtime protocol, made before root is given up.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::config::plan::Admin;
use crate::control::doors::SocketFile;
use crate::control::failure::Failure;
use crate::sys::listen::{self, Heritage, ListenError, Neighbours, Presence};

/// Mode of the unix socket: whoever may write to it may do everything.
const MODE: u32 = 0o600;

/// What the admin server and the runtime protocol listen on; each may be missing.
#[derive(Debug, Default)]
pub(in crate::control) struct AdminSockets {
    pub(super) unix: Option<(UnixListener, SocketFile)>,
    pub(super) http: Option<TcpListener>,
    /// That of HAProxy's runtime protocol.
    pub(in crate::control) runtime: Option<(UnixListener, SocketFile)>,
    /// The directories of the unix sockets that were made here.
    directories: Vec<PathBuf>,
}

impl AdminSockets {
    /// Listens. The unix socket doubles as a lock: while a daemon answers on it, a second one with the same file does not
    /// start.
    ///
    /// # Errors
    /// Where it cannot listen, and why.
    pub(in crate::control) fn bind(admin: &Admin) -> Result<Self, Failure> {
        let (unix, runtime) = (admin.socket.as_deref(), admin.haproxy_socket.as_deref());
        Ok(Self {
            directories: [unix, runtime].into_iter().flatten().filter_map(make_directory).collect(),
            unix: unix.map(|path| bind_unix(path, "socket")).transpose()?,
            http: admin.http.map(bind_http).transpose()?,
            runtime: runtime.map(|path| bind_unix(path, "haproxy_socket")).transpose()?,
        })
    }

    /// Passes them on to another owner.
    pub(in crate::control) fn pass_on(&self, owner: (Option<u32>, Option<u32>)) -> Result<(), Failure> {
        for (key, (socket, file)) in [("socket", &self.unix), ("haproxy_socket", &self.runtime)]
            .into_iter()
            .filter_map(|(key, at)| Some((key, at.as_ref()?)))
        {
            let socket = socket.as_fd().try_clone_to_owned().map_err(|cause| ListenError::Other { call: "dup", cause });
            socket
                .and_then(|socket| listen::pass_on(&[socket], Some(file.path()), owner))
                .map_err(|cause| failure(file.path().display().to_string(), cause, key))?;
        }
        // The owner has to remove the sockets one day.
        for directory in &self.directories {
            listen::pass_on(&[], Some(directory), owner)
                .map_err(|cause| failure(directory.display().to_string(), cause, "socket"))?;
        }
        Ok(())
    }
}

/// Makes the directory of a socket if it is missing: /run is empty after each boot. Only the last part is made, and a
/// failure shows in the bind.
fn make_directory(socket: &Path) -> Option<PathBuf> {
    let directory = socket.parent()?;
    std::fs::create_dir(directory).ok().map(|()| directory.to_owned())
}

fn bind_unix(path: &Path, key: &'static str) -> Result<(UnixListener, SocketFile), Failure> {
    let socket = only(listen::unix(path, 1, MODE)).map_err(|cause| failure(path.display().to_string(), cause, key))?;
    Ok((UnixListener::from(socket), SocketFile::new(path)))
}

fn bind_http(address: SocketAddr) -> Result<TcpListener, Failure> {
    let socket = only(listen::tcp(address, 1, Heritage::default(), Neighbours::Refuse, Presence::Now));
    socket.map(TcpListener::from).map_err(|cause| failure(address.to_string(), cause, "http"))
}

fn only(sockets: Result<Vec<OwnedFd>, ListenError>) -> Result<OwnedFd, ListenError> {
    Ok(sockets?.pop().expect("one was asked for"))
}

/// Why it cannot listen where `key` says.
fn failure(address: String, cause: ListenError, key: &'static str) -> Failure {
    let hint = match cause {
        ListenError::Answered => "; is ringway running already?",
        ListenError::PathDenied | ListenError::NoDirectory if key == "haproxy_socket" => {
            "; make its directory for the user that runs ringway, or set `haproxy_socket` in [admin]"
        }
        ListenError::PathDenied | ListenError::NoDirectory => {
            "; make its directory for the user that runs ringway, or set `socket` in [admin]"
        }
        ListenError::InUse
        | ListenError::Denied
        | ListenError::NotLocal
        | ListenError::NotASocket
        | ListenError::Other { .. } => "",
    };
    Failure::Admin { address, cause, hint }
}
