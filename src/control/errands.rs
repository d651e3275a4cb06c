//! What workers leave for this thread to do.
//!
//! A task that waits is woken through descriptors of its runtime, and a worker has those of its own table only: woken from
//! there it would not be, or somebody's connection would get the bytes. So workers leave errands and ring a bell that all
//! tables have ([`Alarm`](crate::dataplane::commons::Alarm)); here they are run.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::Notify;

use crate::dataplane::commons::Commons;

/// Begins to run errands, and to tell `called` whenever a worker has rung. Call it once, within a `LocalSet`.
///
/// # Errors
/// `EMFILE`, `ENOSPC`: the bell cannot be listened to.
pub(super) fn begin(commons: &Arc<Commons>, called: Arc<Notify>) -> io::Result<()> {
    if let Some(bell) = commons.alarm.bell() {
        let bell = UnixStream::from_std(bell.try_clone()?)?;
        tokio::task::spawn_local(run(bell, Arc::clone(commons), called));
    }
    Ok(())
}

async fn run(bell: UnixStream, commons: Arc<Commons>, called: Arc<Notify>) {
    let mut rings = [0; 64];
    while bell.readable().await.is_ok() {
        match bell.try_read(&mut rings) {
            // Some have rung: what they have left is there.
            Ok(1..) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            // Workers ring as long as the process lives.
            Ok(0) | Err(_) => return,
        }
        while let Some(errand) = commons.alarm.take() {
            errand();
        }
        called.notify_one();
    }
}
