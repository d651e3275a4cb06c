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
        let habits = Habits {
            signals: false,
            privileges: false,
            pin: false,
            admin: options.admin,
            log: options.log,
            watchdog: false,
        };
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
        let command = Command::Reload { text: Some(text.to_owned()), wait: true, by: None, reply };
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    /// A backend that says its name to everybody and then hangs up.
    fn backend(name: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.write_all(name.as_bytes());
            }
        });
        address
    }

    fn free() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("loopback")
    }

    fn text(bind: SocketAddr, servers: &[(&str, SocketAddr)]) -> String {
        let servers: Vec<String> =
            servers.iter().map(|(name, address)| format!("{{ name = \"{name}\", address = \"{address}\" }}")).collect();
        format!(
            "[global]\nworkers = 2\n[listeners.web]\nbind = \"{bind}\"\npool = \"web\"\n[pools.web]\nservers = [{}]\n",
            servers.join(", ")
        )
    }

    fn ask(address: SocketAddr) -> String {
        let mut answer = String::new();
        let mut stream = TcpStream::connect(address).expect("somebody listens");
        stream.read_to_string(&mut answer).expect("a clean end");
        answer
    }

    #[test]
    fn a_guest_serves_reloads_and_leaves() {
        let (a, b, first, second) = (backend("a"), backend("b"), free(), free());
        let guest = match Guest::start("t.toml", &text(first, &[("a", a)]), Options::default()) {
            Ok(guest) => guest,
            // Where the kernel refuses io_uring there is nothing to test.
            Err(Failure::Engine(refused)) => return eprintln!("{refused}"),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(ask(first), "a");

        let refused = guest.reload("[pools.web]\nservers = []\n");
        assert!(!refused.applied && !refused.complaints.is_empty(), "{refused:?}");
        assert_eq!(ask(first), "a");
        assert!(!guest.status().config.last_reload_successful);

        let applied = guest.reload(&text(second, &[("a", a), ("b", b)]));
        assert!(applied.applied && applied.generation == 2, "{applied:?}");
        let mut answers = [ask(second), ask(second)];
        answers.sort();
        assert_eq!(answers, ["a", "b"]);
        assert!(TcpStream::connect(first).is_err(), "a reload that has answered has closed what was removed");
        let status = guest.status();
        assert_eq!((status.config.generation, status.listeners[0].accepted), (2, 4));
        guest.drain().expect("nothing is left to wait for");
        assert!(TcpStream::connect(second).is_err());
    }

    #[test]
    fn a_guest_that_cannot_start_says_why() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let bind = taken.local_addr().expect("bound");
        let failure = Guest::start("t.toml", &text(bind, &[("a", bind)]), Options::default()).expect_err("taken");
        assert!(matches!(failure, Failure::Door { .. } | Failure::Engine(_)), "{failure}");
        let failure = Guest::start("t.toml", "nonsense", Options::default()).expect_err("wrong");
        assert!(matches!(failure, Failure::Invalid(_)), "{failure}");
    }
}
