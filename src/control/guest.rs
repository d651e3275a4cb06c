//! The balancer as a guest in another program: `ringway demo`, tests, embedding.
//!
//! The same conductor as the daemon's, on a thread of its own, with a text for a configuration; it hears no signals, keeps
//! the privileges of its host and ties nothing to cores.

use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::observe::panel::Panel;
use crate::observe::status::{Status, status};

use super::admin::{COMMANDS_MAX, Command};
use super::conductor::{Habits, conduct};
use super::failure::Failure;
use super::reload::Answer;
use super::source::Source;

/// How long a reload of a guest may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a guest does besides balancing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Runs the admin server that the configuration asks for (by default it asks for one).
    pub admin: bool,
    /// Writes the log that the configuration asks for; otherwise it vanishes.
    pub log: bool,
}

/// A balancer that runs in this process. Dropping it ends its sessions.
#[derive(Debug)]
pub struct Guest {
    panel: Arc<Panel>,
    commands: mpsc::Sender<Command>,
    thread: Option<JoinHandle<Result<(), Failure>>>,
}

impl Guest {
    /// Starts with the configuration `text`, which complaints call `name`, and returns when it serves.
    ///
    /// # Errors
    /// Why it could not start.
    pub fn start(name: &str, text: &str, options: Options) -> Result<Self, Failure> {
        let source = Source::Text { name: name.to_owned(), text: text.to_owned() };
        let habits = Habits { signals: false, privileges: false, pin: false, admin: options.admin, log: options.log };
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let (tell, told) = std_mpsc::sync_channel(1);
        let sender = commands.clone();
        let thread = std::thread::Builder::new()
            .name("ringway-control".into())
            .spawn(move || conduct(source, habits, sender, inbox, |panel| drop(tell.send(Arc::clone(panel)))))
            .map_err(|cause| Failure::Start { what: "the conductor", cause })?;
        match told.recv() {
            Ok(panel) => Ok(Self { panel, commands, thread: Some(thread) }),
            // It ended before it served, and says why.
            Err(_) => Err(join(thread).err().unwrap_or(Failure::Stopping)),
        }
    }

    /// How things stand.
    pub fn status(&self) -> Status {
        status(&self.panel)
    }

    /// What observers read: counters, plan, workers.
    pub fn panel(&self) -> &Arc<Panel> {
        &self.panel
    }

    /// Takes up another text, and waits until removed addresses are closed. Blocks the caller meanwhile.
    pub fn reload(&self, text: &str) -> Answer {
        let (tell, told) = std_mpsc::sync_channel(1);
        let reply = Box::new(move |answer| drop(tell.send(answer)));
        let command = Command::Reload { text: Some(text.to_owned()), wait: true, reply };
        let refused = || Answer::refused(self.panel.commons.scene.load().plan.generation, &Failure::Stopping);
        if self.commands.try_send(command).is_err() {
            return refused();
        }
        told.recv_timeout(PATIENCE).unwrap_or_else(|_| refused())
    }

    /// Takes no more connections, waits for the sessions as long as `drain_timeout` says, and ends.
    ///
    /// # Errors
    /// What did not end as it should.
    pub fn drain(mut self) -> Result<(), Failure> {
        self.leave(false)
    }

    /// Ends every session and itself.
    ///
    /// # Errors
    /// What did not end as it should.
    pub fn stop(mut self) -> Result<(), Failure> {
        self.leave(true)
    }

    fn leave(&mut self, now: bool) -> Result<(), Failure> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        // A full queue empties within a reload.
        while let Err(mpsc::error::TrySendError::Full(_)) = self.commands.try_send(Command::Stop { now }) {
            std::thread::sleep(Duration::from_millis(5));
        }
        join(thread)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.leave(true);
    }
}

fn join(thread: JoinHandle<Result<(), Failure>>) -> Result<(), Failure> {
    match thread.join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
