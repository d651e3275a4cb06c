//! Taking connections, and bounding them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::routes::{self, Rights};
use super::{AdminSockets, Board};

/// Connections at once, on each socket. More wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// Longest time for the head of a request, and for its body.
pub(super) const READING: Duration = Duration::from_secs(5);
/// Longest life of a connection, which serves one request: over TCP, and on the unix socket, where a reload may wait for
/// doors to close.
const LIFE_TCP: Duration = Duration::from_secs(15);
const LIFE_UNIX: Duration = Duration::from_secs(60);
/// Longest head of a request, in bytes (hyper's least).
const HEAD_MAX: usize = 8 * 1024;
/// Pause after accept failed for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until the runtime ends. Call it within a `LocalSet`.
///
/// # Errors
/// The sockets cannot be given to the runtime.
pub(in crate::control) fn serve(sockets: &AdminSockets, board: &Arc<Board>) -> io::Result<()> {
    if let Some((unix, _)) = &sockets.unix {
        let listener = UnixListener::from_std(unix.try_clone()?)?;
        let board = Arc::clone(board);
        tokio::task::spawn_local(async move {
            let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            loop {
                let slot = Arc::clone(&slots).acquire_owned().await;
                match listener.accept().await {
                    Ok((stream, _)) => converse(stream, Rights::All, LIFE_UNIX, Arc::clone(&board), slot),
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        });
    }
    if let Some(http) = &sockets.http {
        let listener = TcpListener::from_std(http.try_clone()?)?;
        let board = Arc::clone(board);
        tokio::task::spawn_local(async move {
            let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            loop {
                let slot = Arc::clone(&slots).acquire_owned().await;
                match listener.accept().await {
                    Ok((stream, _)) => converse(stream, Rights::Read, LIFE_TCP, Arc::clone(&board), slot),
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        });
    }
    Ok(())
}

/// Serves one connection in a task of its own; `slot` is free again when it ends.
fn converse<S, G>(stream: S, rights: Rights, life: Duration, board: Arc<Board>, slot: G)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    G: 'static,
{
    tokio::task::spawn_local(async move {
        let service = service_fn(move |request| routes::answer(request, rights, Arc::clone(&board)));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(READING)
            .max_buf_size(HEAD_MAX)
            .keep_alive(false)
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service);
        // What goes wrong with one conversation is the affair of whoever led it.
        let _ = tokio::time::timeout(life, connection).await;
        drop(slot);
    });
}
