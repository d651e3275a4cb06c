//! Signals (signal(7)), as requests to the conductor. SIGPIPE is ignored: Rust's runtime sees to that before `main`.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// HUP: read the configuration again.
    Reload,
    /// TERM or QUIT: take no more connections, let sessions end, stop. The second time: stop now.
    Drain,
    /// INT: stop now.
    Stop,
    /// USR1: open the log again.
    ReopenLog,
    /// USR2: hand over to a new binary.
    Upgrade,
}

/// The signals the daemon hears; or none, when it is a guest in another program.
#[derive(Debug)]
pub struct Signals {
    streams: Option<[(Stream, Signal); 6]>,
}

impl Signals {
    /// Hears all of them from now on.
    ///
    /// # Errors
    /// What sigaction(2) said.
    pub fn all() -> io::Result<Self> {
        let hear = |kind, meaning| Ok::<_, io::Error>((signal(kind)?, meaning));
        Ok(Self {
            streams: Some([
                hear(SignalKind::terminate(), Signal::Drain)?,
                hear(SignalKind::quit(), Signal::Drain)?,
                hear(SignalKind::interrupt(), Signal::Stop)?,
                hear(SignalKind::hangup(), Signal::Reload)?,
                hear(SignalKind::user_defined1(), Signal::ReopenLog)?,
                hear(SignalKind::user_defined2(), Signal::Upgrade)?,
            ]),
        })
    }

    /// Hears nothing.
    pub fn none() -> Self {
        Self { streams: None }
    }

    /// The next one. Cancelling the wait loses nothing.
    pub async fn next(&mut self) -> Signal {
        let Some(streams) = &mut self.streams else {
            return std::future::pending().await;
        };
        std::future::poll_fn(|context| {
            for (stream, meaning) in streams.iter_mut() {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*meaning);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
