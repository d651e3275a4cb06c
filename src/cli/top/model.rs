//! What `ringway top` shows, and what keys mean.
//!
//! ```text
//! looking ──d, m, r──▶ question ──y──▶ a wish ──answer──▶ looking, with a line that says how it went
//!    │  ▲                 ▲  └──any other key──▶ looking
//!    └──┘ arrows, Tab     │
//!    └──w──▶ weight ──Enter
//! ```

use crate::config::ledger::Standing;
use crate::control::steer::ServerChange;

use super::reading::{Reading, ServerReading};

/// How it shows and behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    /// With colours.
    pub(super) color: bool,
    /// With more than ASCII.
    pub(super) unicode: bool,
    /// Keys change nothing.
    pub(super) read_only: bool,
    /// There are keys at all.
    pub(super) live: bool,
}

/// What fills the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// Pools with their servers, and the last events.
    Servers,
    /// Listeners and workers.
    Listeners,
    /// Events.
    Events,
    /// Keys.
    Help,
}

/// What the user is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dialog {
    /// Whether to do that.
    Question(ServerChange),
    /// Which weight this server is to have; what was typed so far.
    Weight { pool: String, server: String, typed: String },
}

/// A key, as far as it means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Tab,
    Enter,
    Escape,
    Backspace,
    Char(char),
}

/// What the user wants that is not the model's to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Leave,
    Change(ServerChange),
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) manner: Manner,
    pub(super) reading: Option<Reading>,
    /// Why the daemon does not answer, while it does not.
    pub(super) silence: Option<String>,
    pub(super) page: Page,
    pub(super) dialog: Option<Dialog>,
    /// How the last wish went.
    pub(super) note: String,
    /// The chosen server, by pool and name: it may move.
    chosen: Option<(String, String)>,
    /// The first line shown of a page that has only lines.
    pub(super) scrolled: usize,
}

/// Lines that a page key moves by.
const PAGE_LINES: usize = 10;

impl Model {
    /// One that knows nothing yet.
    pub(super) fn new(manner: Manner) -> Self {
        Self {
            manner,
            reading: None,
            silence: None,
            page: Page::Servers,
            dialog: None,
            note: String::new(),
            chosen: None,
            scrolled: 0,
        }
    }

    /// The daemon has answered.
    pub(super) fn hear(&mut self, reading: Reading) {
        if self.silence.take().is_some() {
            self.note = "ringway answers again".into();
        }
        self.reading = Some(reading);
        if self.place().is_none() {
            self.choose(0);
        }
    }

    /// The daemon has not answered.
    pub(super) fn miss(&mut self, why: String) {
        self.silence = Some(why);
    }

    /// How a wish went.
    pub(super) fn tell(&mut self, note: String) {
        self.note = note;
    }

    /// All servers with their pools, in order.
    fn servers(&self) -> impl Iterator<Item = (&str, &ServerReading)> {
        let pools = self.reading.iter().flat_map(|reading| &reading.pools);
        pools.flat_map(|pool| pool.servers.iter().map(|server| (&*pool.name, server)))
    }

    /// The place of the chosen server among all.
    pub(super) fn place(&self) -> Option<usize> {
        let (pool, name) = self.chosen.as_ref()?;
        self.servers().position(|(of, server)| of == pool && server.name == *name)
    }

    fn choose(&mut self, place: usize) {
        let chosen = self.servers().nth(place).map(|(pool, server)| (pool.to_owned(), server.name.clone()));
        self.chosen = chosen;
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: Key) -> Option<Wish> {
        match self.dialog.take() {
            Some(Dialog::Question(change)) => return self.answer(change, key),
            Some(Dialog::Weight { pool, server, typed }) => {
                self.weigh(pool, server, typed, key);
                return None;
            }
            None => {}
        }
        self.note.clear();
        match key {
            Key::Char('q') => return Some(Wish::Leave),
            Key::Escape if self.page == Page::Servers => {}
            Key::Escape => self.turn(Page::Servers),
            Key::Char('?' | 'h') => self.turn(Page::Help),
            Key::Tab => self.turn(match self.page {
                Page::Servers => Page::Listeners,
                Page::Listeners => Page::Events,
                Page::Events | Page::Help => Page::Servers,
            }),
            Key::Up | Key::Char('k') => self.step(|place| place.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.step(|place| place + 1),
            Key::PageUp => self.step(|place| place.saturating_sub(PAGE_LINES)),
            Key::PageDown => self.step(|place| place + PAGE_LINES),
            Key::Home => self.step(|_| 0),
            Key::End => self.step(|_| usize::MAX),
            Key::Char(word @ ('d' | 'm' | 'r' | 'w')) => self.ask(word),
            Key::Char(_) | Key::Enter | Key::Backspace => {}
        }
        None
    }

    fn turn(&mut self, page: Page) {
        self.page = page;
        self.scrolled = 0;
    }

    fn step(&mut self, to: impl Fn(usize) -> usize) {
        if self.page == Page::Servers {
            let last = self.servers().count().saturating_sub(1);
            self.choose(to(self.place().unwrap_or(0)).min(last));
        } else {
            let lines = self.reading.as_ref().map_or(0, |reading| match self.page {
                Page::Listeners => reading.listeners.len(),
                Page::Events => reading.events.len(),
                Page::Servers | Page::Help => 0,
            });
            self.scrolled = to(self.scrolled).min(lines.saturating_sub(1));
        }
    }

    /// Begins to change the chosen server.
    fn ask(&mut self, word: char) {
        if self.page != Page::Servers {
            return;
        }
        if self.manner.read_only {
            self.note = "nothing is changed: this is --read-only".into();
            return;
        }
        let Some((pool, server)) = self.chosen.clone() else { return };
        let state = match word {
            'd' => Standing::Drain,
            'm' => Standing::Maint,
            'r' => Standing::Ready,
            _ => {
                self.dialog = Some(Dialog::Weight { pool, server, typed: String::new() });
                return;
            }
        };
        let change = ServerChange { pool, server, state: Some(state), ..ServerChange::default() };
        self.dialog = Some(Dialog::Question(change));
    }

    fn answer(&mut self, change: ServerChange, key: Key) -> Option<Wish> {
        if matches!(key, Key::Char('y' | 'Y')) {
            self.note = format!("asking ringway about {}/{} …", change.pool, change.server);
            return Some(Wish::Change(change));
        }
        self.note = "nothing was changed".into();
        None
    }

    fn weigh(&mut self, pool: String, server: String, mut typed: String, key: Key) {
        match key {
            Key::Char(digit) if digit.is_ascii_digit() && typed.len() < 3 => typed.push(digit),
            Key::Backspace => drop(typed.pop()),
            Key::Escape => {
                self.note = "nothing was changed".into();
                return;
            }
            Key::Enter => {
                let weight = typed.parse().ok().filter(|weight| *weight <= u32::from(crate::base::limits::WEIGHT_MAX));
                if weight.is_some() {
                    let change = ServerChange { pool, server, weight, ..ServerChange::default() };
                    self.dialog = Some(Dialog::Question(change));
                    return;
                }
                self.note = "a weight is a number from 0 to 256".into();
            }
            _ => {}
        }
        self.dialog = Some(Dialog::Weight { pool, server, typed });
    }
}
