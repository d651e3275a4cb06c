//! Taking connections, and bounding them.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::sleep_until;

use crate::base::limits::{ADMIN_CONNECTIONS_MAX, ADMIN_HEAD_MAX};
use crate::observe::panel::Panel;

use super::feed;
use super::routes::{self, Rights};
use super::{AdminSockets, Board, Peer};

/// Longest time for the head of a request, and for its body.
pub(super) const READING: Duration = Duration::from_secs(5);
/// Longest life of a connection, which serves one request: over TCP, and on the unix socket, where a reload may wait for
/// doors to close.
const LIFE_TCP: Duration = Duration::from_secs(15);
const LIFE_UNIX: Duration = Duration::from_secs(60);
/// How long one who watches may take nothing.
const WATCHING: Duration = Duration::from_secs(10);
/// What the kernel keeps for a client over TCP that does not read, in bytes; it doubles it.
const SEND_BUFFER: usize = 64 * 1024;
/// Pause after accept failed for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until the runtime ends. Call it within a `LocalSet`.
///
/// # Errors
/// The sockets cannot be given to the runtime.
pub(in crate::control) fn serve(sockets: &AdminSockets, board: &Arc<Board>) -> io::Result<()> {
    let spare = Spare::default();
    if sockets.unix.is_some() || sockets.http.is_some() {
        tokio::task::spawn_local(feed::run(Arc::clone(&board.feed), Arc::clone(&board.panel)));
    }
    if let Some((unix, _)) = &sockets.unix {
        let listener = UnixListener::from_std(unix.try_clone()?)?;
        let (board, spare) = (Arc::clone(board), spare.clone());
        tokio::task::spawn_local(async move {
            let slots = Slots::new(spare);
            loop {
                let slot = slots.take().await;
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let by = stream.peer_cred().ok().map(|peer| Peer { uid: peer.uid(), pid: peer.pid() });
                        converse(stream, Rights::All { by }, LIFE_UNIX, Arc::clone(&board), slot);
                    }
                    Err(error) => {
                        drop(slot);
                        slots.recover(&error).await;
                    }
                }
            }
        });
    }
    if let Some(http) = &sockets.http {
        let listener = TcpListener::from_std(http.try_clone()?)?;
        let board = Arc::clone(board);
        tokio::task::spawn_local(async move {
            let slots = Slots::new(spare);
            loop {
                let slot = slots.take().await;
                match listener.accept().await {
                    Ok((stream, _)) => {
                        // Where it cannot be set, the kernel keeps more: its own limit holds.
                        let _ = socket2::SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
                        converse(stream, Rights::Read, LIFE_TCP, Arc::clone(&board), slot);
                    }
                    Err(error) => {
                        drop(slot);
                        slots.recover(&error).await;
                    }
                }
            }
        });
    }
    Ok(())
}

/// Serves one connection in a task of its own; `slot` is free again when it ends.
fn converse<S>(stream: S, rights: Rights, life: Duration, board: Arc<Board>, slot: Slot)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    tokio::task::spawn_local(async move {
        talk(stream, rights, life, board).await;
        drop(slot);
    });
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, rights: Rights, life: Duration, board: Arc<Board>) {
    let lease = Rc::new(Lease::new(life));
    let held = Rc::clone(&lease);
    let service = service_fn(move |request| routes::answer(request, rights, Arc::clone(&board), Rc::clone(&held)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READING)
        .max_buf_size(ADMIN_HEAD_MAX)
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // What goes wrong with one conversation is the affair of whoever led it.
        _ = connection => {}
        () = lease.end() => {}
    }
}

/// How long a connection may last: so long from its beginning, and while somebody watches, from the last time that was
/// seen to read.
#[derive(Debug)]
pub(super) struct Lease {
    until: Cell<Instant>,
}

impl Lease {
    /// One that begins now.
    pub(super) fn new(life: Duration) -> Self {
        Self { until: Cell::new(Instant::now() + life) }
    }

    /// The client reads.
    pub(super) fn renew(&self) {
        self.until.set(Instant::now() + WATCHING);
    }

    async fn end(&self) {
        while self.until.get() > Instant::now() {
            sleep_until(self.until.get().into()).await;
        }
    }
}

/// All that the admin server says to a client that sends `said` and no more, while the configuration `text` is in force and
/// the conductor is gone. For tests and fuzzing; nothing listens.
pub fn conversation(panel: &Arc<Panel>, text: &str, said: &[u8], all_rights: bool) -> Vec<u8> {
    let (commands, _) = mpsc::channel(1);
    let board = Arc::new(Board::new(Arc::clone(panel), text.to_owned(), "text".into(), commands));
    let rights = if all_rights { Rights::All { by: None } } else { Rights::Read };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
        return Vec::new();
    };
    let mut answer = Vec::new();
    runtime.block_on(async {
        let (mut near, far) = tokio::io::duplex(said.len().max(1) + ADMIN_HEAD_MAX);
        let client = async {
            let _ = near.write_all(said).await;
            let _ = near.shutdown().await;
            let _ = near.read_to_end(&mut answer).await;
        };
        tokio::join!(client, talk(far, rights, LIFE_TCP, board));
    });
    answer
}

/// The connections one socket may have.
pub(in crate::control) struct Slots {
    free: Arc<Semaphore>,
    spare: Spare,
}

/// One of them.
pub(in crate::control) struct Slot {
    _permit: OwnedSemaphorePermit,
    spare: Spare,
}

impl Slots {
    /// All free.
    pub(in crate::control) fn new(spare: Spare) -> Self {
        spare.refill();
        Self { free: Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX)), spare }
    }

    /// Waits for a free one.
    pub(in crate::control) async fn take(&self) -> Slot {
        let permit = Arc::clone(&self.free).acquire_owned().await.expect("nobody closes the semaphore");
        Slot { _permit: permit, spare: self.spare.clone() }
    }

    /// Makes the next accept possible where it can be: when sessions hold every descriptor, an operator has to look.
    pub(in crate::control) async fn recover(&self, error: &io::Error) {
        let exhausted = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
        if !(exhausted && self.spare.release()) {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.spare.refill();
    }
}

/// Descriptors held so that they can be let go of.
#[derive(Clone, Default)]
pub(in crate::control) struct Spare(Rc<RefCell<Vec<File>>>);

impl Spare {
    /// One for a connection, two for what its answer reads below /proc.
    const COUNT: usize = 3;

    /// Takes as many as there are to be had.
    fn refill(&self) {
        let mut held = self.0.borrow_mut();
        while held.len() < Self::COUNT {
            let Ok(file) = File::open("/dev/null") else { break };
            held.push(file);
        }
    }

    /// Lets go of all; false when there are none.
    fn release(&self) -> bool {
        let held = std::mem::take(&mut *self.0.borrow_mut());
        !held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spare_descriptors_are_let_go_of_and_taken_again() {
        let spare = Spare::default();
        assert!(!spare.release());
        spare.refill();
        assert_eq!(spare.0.borrow().len(), Spare::COUNT);
        assert!(spare.release() && !spare.release());
        spare.clone().refill();
        assert!(spare.release());
    }
}
