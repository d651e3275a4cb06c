//! The sockets of the admin server, made before root is given up.

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

/// What the admin server listens on; either may be missing.
#[derive(Debug, Default)]
pub(in crate::control) struct AdminSockets {
    pub(super) unix: Option<(UnixListener, SocketFile)>,
    pub(super) http: Option<TcpListener>,
    /// The directory of the unix socket, when it was made here.
    directory: Option<PathBuf>,
}

impl AdminSockets {
    /// Listens. The unix socket doubles as a lock: while a daemon answers on it, a second one with the same file does not
    /// start.
    ///
    /// # Errors
    /// Where it cannot listen, and why.
    pub(in crate::control) fn bind(admin: &Admin) -> Result<Self, Failure> {
        let directory = admin.socket.as_deref().and_then(make_directory);
        Ok(Self {
            directory,
            unix: admin.socket.as_deref().map(bind_unix).transpose()?,
            http: admin.http.map(bind_http).transpose()?,
        })
    }

    /// Passes them on to another owner.
    pub(in crate::control) fn pass_on(&self, owner: (Option<u32>, Option<u32>)) -> Result<(), Failure> {
        let Some((socket, file)) = &self.unix else {
            return Ok(());
        };
        let socket = socket.as_fd().try_clone_to_owned().map_err(|cause| ListenError::Other { call: "dup", cause });
        socket
            .and_then(|socket| listen::pass_on(&[socket], Some(file.path()), owner))
            // The owner has to remove the socket one day.
            .and_then(|()| listen::pass_on(&[], self.directory.as_deref(), owner))
            .map_err(|cause| failure(file.path().display().to_string(), cause))
    }
}

/// Makes the directory of a socket if it is missing: /run is empty after each boot. Only the last part is made, and a
/// failure shows in the bind.
fn make_directory(socket: &Path) -> Option<PathBuf> {
    let directory = socket.parent()?;
    std::fs::create_dir(directory).ok().map(|()| directory.to_owned())
}

fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile), Failure> {
    let socket = only(listen::unix(path, 1, MODE)).map_err(|cause| failure(path.display().to_string(), cause))?;
    Ok((UnixListener::from(socket), SocketFile::new(path)))
}

fn bind_http(address: SocketAddr) -> Result<TcpListener, Failure> {
    let socket = only(listen::tcp(address, 1, Heritage::default(), Neighbours::Refuse, Presence::Now));
    socket.map(TcpListener::from).map_err(|cause| failure(address.to_string(), cause))
}

fn only(sockets: Result<Vec<OwnedFd>, ListenError>) -> Result<OwnedFd, ListenError> {
    Ok(sockets?.pop().expect("one was asked for"))
}

fn failure(address: String, cause: ListenError) -> Failure {
    let hint = match cause {
        ListenError::Answered => "; is ringway running already?",
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
