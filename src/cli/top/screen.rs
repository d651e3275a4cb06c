//! The terminal of `ringway top`: taken, drawn on, given back whatever happens.
//!
//! Four threads: this one draws and reads keys; one asks the daemon, and may wait for it; one hears signals; one waits for the
//! end of the terminal. They talk by messages, so a daemon that hangs never makes the keys hang.

use std::io::{self, IsTerminal};
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use ratatui::DefaultTerminal;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use tokio::signal::unix::{SignalKind, signal};

use super::model::{Key, Model, Wish};
use super::reading::Reading;
use super::{Look, look, view};
use crate::base::rehearsal;
use crate::base::words::many;
use crate::cli::client::{ClientError, Target};
use crate::control::steer::{ServerChange, ServerChanged};

/// How long a key may wait to be seen.
const PATIENCE: Duration = Duration::from_millis(50);
/// After so long without an answer the user is told.
const SILENCE: Duration = Duration::from_secs(5);

enum Message {
    Looked(Box<Look>, Instant),
    Missed(String),
    Changed(String),
    Signal(Signal),
}

/// Shows the daemon until the user leaves, or a signal says so.
///
/// # Errors
/// The terminal refuses.
pub(super) fn run(model: Model, first: Look, target: Target, interval: Duration) -> io::Result<ExitCode> {
    let (out, messages) = channel();
    let (orders, wanted) = channel();
    let told = out.clone();
    thread::Builder::new().name("ask".into()).spawn(move || ask(&target, interval, &wanted, &told))?;
    thread::Builder::new().name("signals".into()).spawn(move || hear_signals(&out))?;
    if io::stdin().is_terminal() {
        thread::Builder::new().name("hang-up".into()).spawn(await_hang_up)?;
    }
    show_cursor_on_panic();
    // A panic gives the terminal back, too: this sets a hook for all but the cursor. It is not dropped: that would complain on
    // a standard error that may be gone with the terminal, and panic.
    let mut terminal = ManuallyDrop::new(ratatui::try_init()?);
    let shown = Screen { model, last: (first, Instant::now()), interval, orders }.show(&mut terminal, &messages);
    // The terminal may be gone (SIGHUP): then there is nobody to give it back to, or to complain to.
    let restored = ratatui::try_restore().and_then(|()| execute!(io::stdout(), Show));
    let left = match shown {
        Err(_) if hangs_up(PollTimeout::ZERO) => Some(Signal::SIGHUP),
        shown => shown?,
    };
    if let Some(signal) = left {
        return Ok(ExitCode::from(128 + u8::try_from(signal as i32).unwrap_or(0)));
    }
    restored.map(|()| ExitCode::SUCCESS)
}

/// A panic aborts, so nothing is dropped that would show the cursor again.
fn show_cursor_on_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // What can still be done when that fails is to say what went wrong.
        let _ = execute!(io::stdout(), Show);
        usual(panic);
    }));
}

/// Waits until the terminal is gone, and leaves. Only whom it controls gets SIGHUP for that; others read its end for ever, and
/// so does the wait for a key.
fn await_hang_up() {
    if hangs_up(PollTimeout::NONE) {
        // There is nothing to give back, and nobody to tell.
        std::process::exit(128 + Signal::SIGHUP as i32);
    }
}

/// Whether the terminal is gone, or goes in that time.
fn hangs_up(within: PollTimeout) -> bool {
    let input = io::stdin();
    let mut polled = [PollFd::new(input.as_fd(), PollFlags::empty())];
    loop {
        match poll(&mut polled, within) {
            Ok(_) => return polled[0].any().unwrap_or(true),
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

struct Screen {
    model: Model,
    last: (Look, Instant),
    interval: Duration,
    orders: Sender<ServerChange>,
}

impl Screen {
    /// Draws whenever there is something new; ends with the signal that ended it, if one did.
    fn show(&mut self, terminal: &mut DefaultTerminal, messages: &Receiver<Message>) -> io::Result<Option<Signal>> {
        let mut fresh = true;
        loop {
            if fresh {
                terminal.draw(|frame| view::draw(&self.model, frame.area(), frame.buffer_mut()))?;
                fresh = false;
            }
            if event::poll(PATIENCE)? {
                match event::read()? {
                    Event::Key(key) if key.kind != KeyEventKind::Release => {
                        if self.press(key) {
                            return Ok(None);
                        }
                        fresh = true;
                    }
                    Event::Resize(..) => fresh = true,
                    _ => {}
                }
            }
            while let Ok(message) = messages.try_recv() {
                fresh = true;
                match message {
                    Message::Looked(look, at) => self.look(*look, at),
                    Message::Missed(why) => self.model.miss(format!("{why} (trying again)")),
                    Message::Changed(note) => self.model.tell(note),
                    Message::Signal(signal) => return Ok(Some(signal)),
                }
            }
            let silent = self.last.1.elapsed();
            if silent > SILENCE + self.interval && self.model.silence.is_none() {
                self.model.miss(format!("ringway has not answered for {} s", silent.as_secs()));
                fresh = true;
            }
        }
    }

    fn look(&mut self, look: Look, at: Instant) {
        let (before, then) = &self.last;
        let earlier = (&before.status, at.saturating_duration_since(*then));
        self.model.hear(Reading::new(&look.status, &look.history, Some(earlier)));
        self.last = (look, at);
    }

    /// Whether the user leaves.
    fn press(&mut self, key: KeyEvent) -> bool {
        rehearsal::key_pressed();
        let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
        let meant = match key.code {
            KeyCode::Char('c') if with_control => return true,
            KeyCode::Char(_) if with_control => return false,
            KeyCode::Up => Key::Up,
            KeyCode::Down => Key::Down,
            KeyCode::PageUp => Key::PageUp,
            KeyCode::PageDown => Key::PageDown,
            KeyCode::Home => Key::Home,
            KeyCode::End => Key::End,
            KeyCode::Tab => Key::Tab,
            KeyCode::Enter => Key::Enter,
            KeyCode::Esc => Key::Escape,
            KeyCode::Backspace => Key::Backspace,
            KeyCode::Char(letter) => Key::Char(letter),
            _ => return false,
        };
        match self.model.press(meant) {
            Some(Wish::Leave) => return true,
            // Nobody takes it only when the other thread has ended, and then nothing goes on here either.
            Some(Wish::Change(change)) => drop(self.orders.send(change)),
            None => {}
        }
        false
    }
}

/// Asks the daemon once an interval, and at once after it was told to change something.
fn ask(target: &Target, interval: Duration, wanted: &Receiver<ServerChange>, told: &Sender<Message>) {
    loop {
        match wanted.recv_timeout(interval) {
            Ok(change) => {
                let note = self::change(target, &change).unwrap_or_else(|error| error.to_string());
                if told.send(Message::Changed(note)).is_err() {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let message = match look(target) {
            Ok(look) => Message::Looked(Box::new(look), Instant::now()),
            Err(error) => Message::Missed(error.to_string()),
        };
        if told.send(message).is_err() {
            return;
        }
    }
}

fn change(target: &Target, change: &ServerChange) -> Result<String, ClientError> {
    let wish = serde_json::to_string(change).expect("our own types serialise");
    let body = target.post_with("/v1/server", wish)?.accepted()?;
    let ServerChanged { was, state, weight, sessions, pool_is_down, .. } =
        serde_json::from_str(&body).map_err(|error| ClientError::strange(&error))?;
    let was = if was == state { String::new() } else { format!(" (was {})", was.word()) };
    let down = if pool_is_down { "; its pool takes no sessions now" } else { "" };
    let ServerChange { pool, server, .. } = change;
    Ok(format!("{pool}/{server}: {}{was}, weight {weight}, {}{down}", state.word(), many(sessions, "session")))
}

/// Waits for a signal that asks to leave.
fn hear_signals(told: &Sender<Message>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return };
    let heard = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut quit = signal(SignalKind::quit())?;
        Ok::<Signal, io::Error>(tokio::select! {
            _ = terminate.recv() => Signal::SIGTERM,
            _ = hangup.recv() => Signal::SIGHUP,
            _ = interrupt.recv() => Signal::SIGINT,
            _ = quit.recv() => Signal::SIGQUIT,
        })
    });
    if let Ok(signal) = heard {
        // Nobody is left to hear it when the user has left at the same moment.
        let _ = told.send(Message::Signal(signal));
    }
}

/// Whether the locale says that the terminal shows more than ASCII.
pub(super) fn speaks_unicode() -> bool {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default().to_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}
