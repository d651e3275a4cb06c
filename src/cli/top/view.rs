//! Draws a model on a buffer of cells: from 80 columns by 24 lines up, with or without colours.
//!
//! What a colour says is said by a sign and a word, too.

use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::border;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Widget};

use crate::base::words::many;
use crate::config::ledger::Standing;
use crate::control::steer::ServerChange;
use crate::observe::history::Sample;
use crate::observe::recent::Told;
use crate::observe::status::{bytes, duration, micros};

use super::model::{Dialog, Manner, Model, Page};
use super::reading::{PoolReading, Reading, ServerReading};

/// Below this nothing can be shown.
const LEAST: (u16, u16) = (40, 8);
/// From this height on there are sparklines, and from that on events.
const SPARKS_FROM: u16 = 14;
const EVENTS_FROM: u16 = 18;
/// Events at the end of a picture.
const EVENTS_SHOWN: usize = 12;

/// Draws all of it.
pub(super) fn draw(model: &Model, area: Rect, buffer: &mut Buffer) {
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let words = format!("at least {} x {}, please", LEAST.0, LEAST.1);
        return Paragraph::new(words).render(area, buffer);
    }
    let Some(reading) = &model.reading else { return };
    let mut sheet = Sheet { manner: model.manner, area, buffer };
    sheet.heading(model, reading);
    if !model.manner.live {
        return sheet.picture(reading);
    }
    let sparks = area.height >= SPARKS_FROM;
    if sparks {
        sheet.sparks(2, &reading.samples);
    }
    let body = rows(area, if sparks { 5 } else { 2 }, area.height - 2);
    match model.page {
        Page::Servers => sheet.servers_and_events(model, reading, body),
        Page::Listeners => sheet.listeners(model.scrolled, reading, body),
        Page::Events => sheet.events(&reading.events, model.scrolled, body),
        Page::Help => sheet.help(body),
    }
    sheet.foot(model, reading);
    if let Some(dialog) = &model.dialog {
        sheet.dialog(dialog, reading);
    }
}

/// The text of a buffer, a line each, without blanks at the ends.
pub(super) fn text_of(buffer: &Buffer) -> String {
    let area = buffer.area;
    let mut text = String::new();
    for y in area.top()..area.bottom() {
        let line: String = (area.left()..area.right()).map(|x| buffer[(x, y)].symbol()).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Lines `from` to `to` of an area.
fn rows(area: Rect, from: u16, to: u16) -> Rect {
    Rect { y: area.y + from.min(area.height), height: to.saturating_sub(from), ..area }
}

/// Where it is drawn, and how.
struct Sheet<'a> {
    manner: Manner,
    area: Rect,
    buffer: &'a mut Buffer,
}

/// A column of the servers: its title, its width, whether it is figures.
type Column = (&'static str, u16, bool);

fn columns(width: u16, has_roles: bool) -> Vec<Column> {
    let mut columns = vec![("SERVER", if width >= 110 { 28 } else { 18 }, false), ("STATE", 11, false)];
    if has_roles {
        columns.extend([("ROLE", 8, false), ("LAG", 5, true)]);
    }
    columns.extend([("SESSIONS", 10, true), ("CONN/S", 8, true), ("FAIL/S", 7, true), ("WEIGHT", 6, true)]);
    if width >= 110 {
        columns.extend([("IN/S", 11, true), ("OUT/S", 11, true)]);
    }
    if width >= 140 {
        columns.push(("ADDRESS", 26, false));
    }
    columns
}

fn figures(pool: &PoolReading, server: &ServerReading, column: &str, manner: Manner) -> String {
    let rates = &server.flow;
    match column {
        "SERVER" => format!("  {}", server.name),
        "STATE" => format!("{} {}", sign(&server.state, manner), server.state),
        "ROLE" => server.role.clone(),
        "LAG" => server.lag_s.map_or_else(String::new, |lag_s| format!("{lag_s}s")),
        "SESSIONS" if server.max_connections > 0 => format!("{}/{}", server.sessions, server.max_connections),
        "SESSIONS" => server.sessions.to_string(),
        "CONN/S" => rate(rates.connections_s),
        "FAIL/S" => rate(rates.failed_s),
        "WEIGHT" if server.backup => format!("{} b", server.weight),
        "WEIGHT" => server.weight.to_string(),
        "IN/S" => bytes(rates.bytes_in_s as u64),
        "OUT/S" => bytes(rates.bytes_out_s as u64),
        "ADDRESS" => server.address.clone(),
        _ => pool.name.clone(),
    }
}

fn rate(value: f64) -> String {
    if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn sign(state: &str, manner: Manner) -> &'static str {
    match (state, manner.unicode) {
        ("up", true) => "▲",
        ("up", false) => "+",
        ("down", true) => "▼",
        ("down", false) => "X",
        ("drain", true) => "◇",
        ("drain", false) => "~",
        ("maint", true) => "■",
        ("maint", false) => "#",
        ("ejected", true) => "⊘",
        ("ejected", false) => "!",
        _ => "?",
    }
}

impl Sheet<'_> {
    fn color(&self, color: Color) -> Style {
        if self.manner.color { Style::new().fg(color) } else { Style::new() }
    }

    fn bold(&self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn state_style(&self, state: &str) -> Style {
        match state {
            "up" => self.color(Color::Green),
            "down" => self.color(Color::Red).add_modifier(Modifier::BOLD),
            "drain" => self.color(Color::Cyan),
            "maint" => self.color(Color::Yellow),
            "ejected" => self.color(Color::Magenta).add_modifier(Modifier::BOLD),
            _ => Style::new(),
        }
    }

    fn line(&mut self, y: u16, line: &Line<'_>) {
        if y < self.area.bottom() {
            self.buffer.set_line(self.area.x, y, line, self.area.width);
        }
    }

    fn title(&mut self, y: u16, text: &str) {
        let style = self.bold().add_modifier(Modifier::UNDERLINED);
        self.line(y, &Line::styled(format!("{text:<width$}", width = usize::from(self.area.width)), style));
    }

    fn heading(&mut self, model: &Model, reading: &Reading) {
        let uptime = duration(Duration::from_secs_f64(reading.uptime_s.clamp(0.0, 1e12)));
        let state = match reading.state.as_str() {
            "running" => self.color(Color::Green),
            _ => self.color(Color::Yellow).add_modifier(Modifier::BOLD),
        };
        let mut spans = vec![
            Span::styled(format!("ringway {} ", reading.version), self.bold()),
            Span::styled(reading.state.clone(), state),
            Span::raw(format!(" for {uptime}, {}, configuration {}", reading.engine, reading.generation)),
        ];
        if !reading.last_reload_successful {
            spans.push(Span::styled("  a newer one was refused", self.color(Color::Red).add_modifier(Modifier::BOLD)));
        }
        self.line(self.area.y, &Line::from(spans));
        if let Some(why) = &model.silence {
            let style = self.color(Color::Red).add_modifier(Modifier::BOLD | Modifier::REVERSED);
            return self.line(self.area.y + 1, &Line::styled(format!("! {why}"), style));
        }
        let all = reading.pools.iter().flat_map(|pool| &pool.servers);
        let (up, count) = all.fold((0, 0), |(up, all), server| (up + usize::from(server.state == "up"), all + 1));
        let style = if up < count { self.color(Color::Red).add_modifier(Modifier::BOLD) } else { Style::new() };
        let line = Line::from(vec![
            Span::raw(format!("{} sessions of {}, ", reading.sessions, reading.max_connections)),
            Span::styled(format!("{up} of {count} servers up"), style),
            Span::raw(format!(", {} descriptors of {}", reading.descriptors, reading.descriptors_max)),
        ]);
        self.line(self.area.y + 1, &line);
    }

    /// Four figures with what they were lately, side by side; two lines, and one that is empty.
    fn sparks(&mut self, y: u16, samples: &[Sample]) {
        type Plot = (&'static str, fn(&Sample) -> f64, fn(f64) -> String);
        const PLOTS: [Plot; 4] = [
            ("conn/s", |s| s.accepted_s, rate),
            ("sessions", |s| s.sessions as f64, |value| format!("{value:.0}")),
            ("bytes/s", |s| s.bytes_in_s + s.bytes_out_s, |value| bytes(value as u64)),
            ("p99", |s| s.first_byte.p99_us.unwrap_or(0) as f64, |us| micros((us > 0.0).then_some(us as u64))),
        ];
        let y = self.area.y + y;
        let columns = ratatui::layout::Layout::horizontal([Constraint::Fill(1); 4]).spacing(2);
        let places: [Rect; 4] = columns.areas(Rect { y, height: 1, ..self.area });
        let levels: Vec<char> = if self.manner.unicode { " ▁▂▃▄▅▆▇█" } else { " .:-=+*#@" }.chars().collect();
        for ((name, read, show), place) in PLOTS.into_iter().zip(places) {
            let last = samples.last().map_or(0.0, read);
            self.buffer.set_stringn(place.x, y, format!("{name} {}", show(last)), place.width.into(), self.bold());
            let shown = &samples[samples.len().saturating_sub(place.width.into())..];
            let most = shown.iter().map(read).fold(0.0, f64::max);
            let bar = |sample: &Sample| match read(sample) / most {
                part if part > 0.0 => levels[((part * 8.0).ceil() as usize).clamp(1, 8)],
                _ => levels[0],
            };
            let bars: String = shown.iter().map(bar).collect();
            let free = place.width.saturating_sub(u16::try_from(shown.len()).unwrap_or(u16::MAX));
            self.buffer.set_stringn(place.x + free, y + 1, bars, place.width.into(), self.color(Color::Blue));
        }
    }

    fn servers_and_events(&mut self, model: &Model, reading: &Reading, body: Rect) {
        let events = if self.area.height < EVENTS_FROM { 0 } else { (body.height / 3).clamp(3, 14) };
        let table = Rect { height: body.height - events, ..body };
        self.servers(reading, model.place(), table);
        if events > 0 {
            let below = Rect { y: table.bottom(), height: events, ..body };
            self.events(&reading.events, 0, below);
        }
    }

    /// Pools with their servers below them; as many as there is room for, the chosen one among them.
    fn servers(&mut self, reading: &Reading, chosen: Option<usize>, area: Rect) {
        let has_roles = reading.pools.iter().flat_map(|pool| &pool.servers).any(|server| !server.role.is_empty());
        let columns = columns(self.area.width, has_roles);
        self.title(area.y, "");
        let mut x = area.x;
        for (title, width, right) in &columns {
            let style = self.bold().add_modifier(Modifier::UNDERLINED);
            self.cell(x, area.y, *width, *right, title, style);
            x += width + 1;
        }
        let mut lines: Vec<(&PoolReading, Option<(usize, &ServerReading)>)> = Vec::new();
        let mut count = 0;
        for pool in &reading.pools {
            lines.push((pool, None));
            for server in &pool.servers {
                lines.push((pool, Some((count, server))));
                count += 1;
            }
        }
        let room = usize::from(area.height.saturating_sub(1));
        let at =
            lines.iter().position(|(_, server)| server.is_some_and(|(place, _)| Some(place) == chosen)).unwrap_or(0);
        let first = at.saturating_sub(room * 2 / 3).min(lines.len().saturating_sub(room));
        for ((pool, server), y) in lines.into_iter().skip(first).take(room).zip(area.y + 1..) {
            match server {
                None => self.pool(pool, y),
                Some((place, server)) => {
                    self.server(pool, server, &columns, self.manner.live && Some(place) == chosen, y)
                }
            }
        }
    }

    fn pool(&mut self, pool: &PoolReading, y: u16) {
        let both = |latency: crate::observe::status::Latency| {
            format!("{} / {}", micros(latency.p50_us), micros(latency.p99_us))
        };
        let mut terms = format!("  {}, connect p50 / p99 {}", pool.policy, both(pool.connect));
        if self.area.width >= 100 {
            terms += &format!(", first byte {}", both(pool.first_byte));
        }
        if pool.waiting > 0 {
            terms += &format!(", {} waiting", pool.waiting);
        }
        if pool.retries > 0 {
            terms += &format!(", {} retries", pool.retries);
        }
        self.line(y, &Line::from(vec![Span::styled(pool.name.clone(), self.bold()), Span::raw(terms)]));
    }

    fn server(&mut self, pool: &PoolReading, server: &ServerReading, columns: &[Column], chosen: bool, y: u16) {
        let mut x = self.area.x;
        for (title, width, right) in columns {
            let text = figures(pool, server, title, self.manner);
            let failing = *title == "FAIL/S" && server.flow.failed_s > 0.0;
            let style = match *title {
                "STATE" => self.state_style(&server.state),
                _ if failing => self.color(Color::Red).add_modifier(Modifier::BOLD),
                _ => Style::new(),
            };
            self.cell(x, y, *width, *right, &text, style);
            x += width + 1;
        }
        if server.state != "up" && x < self.area.right() && self.area.width >= 140 {
            let room = usize::from(self.area.right() - x);
            self.buffer.set_stringn(x, y, &server.reason, room, self.state_style(&server.state));
        }
        if chosen {
            self.buffer.set_style(Rect { y, height: 1, ..self.area }, Style::new().add_modifier(Modifier::REVERSED));
        }
    }

    fn cell(&mut self, x: u16, y: u16, width: u16, right: bool, text: &str, style: Style) {
        let room = width.min(self.area.right().saturating_sub(x));
        if room == 0 || y >= self.area.bottom() {
            return;
        }
        let long = u16::try_from(text.chars().count()).unwrap_or(u16::MAX);
        let x = if right { x + room.saturating_sub(long) } else { x };
        self.buffer.set_stringn(x, y, text, room.into(), style);
    }

    fn events(&mut self, events: &[Told], skipped: usize, area: Rect) {
        self.title(area.y, "EVENTS");
        let newest = events.iter().rev().skip(skipped);
        for (event, y) in newest.zip(area.y + 1..area.bottom()) {
            self.event(event, y);
        }
    }

    fn event(&mut self, event: &Told, y: u16) {
        let s = event.unix_ms / 1000 % 86_400;
        let style = match event.level.as_str() {
            "error" => self.color(Color::Red).add_modifier(Modifier::BOLD),
            "warn" => self.color(Color::Yellow).add_modifier(Modifier::BOLD),
            _ => Style::new(),
        };
        // Whatever a peer said may be in it: no control character gets to the terminal.
        let message: String = event.message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.line(
            y,
            &Line::from(vec![
                Span::raw(format!("{:02}:{:02}:{:02}Z ", s / 3600, s / 60 % 60, s % 60)),
                Span::styled(format!("{:<5} ", event.level), style),
                Span::raw(message),
            ]),
        );
    }

    fn listeners(&mut self, skipped: usize, reading: &Reading, area: Rect) {
        self.listener_lines(skipped, reading, Rect { height: area.height.saturating_sub(2), ..area });
        self.workers(reading, area.bottom().saturating_sub(1));
    }

    fn listener_lines(&mut self, skipped: usize, reading: &Reading, area: Rect) {
        let row = |texts: [&str; 8]| {
            let [name, pool, sessions, accepted, failed, bytes_in, bytes_out, bind] = texts;
            format!(
                "{name:<16} {pool:<14} {sessions:>8} {accepted:>8} {failed:>7} {bytes_in:>10} {bytes_out:>10} {bind}"
            )
        };
        self.title(area.y, &row(["LISTENER", "POOL", "SESSIONS", "CONN/S", "FAIL/S", "IN/S", "OUT/S", "ADDRESS"]));
        for (listener, y) in reading.listeners.iter().skip(skipped).zip(area.y + 1..area.bottom()) {
            let flow = &listener.flow;
            let figures = [
                listener.sessions.to_string(),
                rate(flow.connections_s),
                rate(flow.failed_s),
                bytes(flow.bytes_in_s as u64),
                bytes(flow.bytes_out_s as u64),
            ];
            let [sessions, accepted, failed, bytes_in, bytes_out] = figures.each_ref().map(String::as_str);
            let binds = listener.binds.join(" ");
            let texts = [&*listener.name, &*listener.pool, sessions, accepted, failed, bytes_in, bytes_out, &*binds];
            self.line(y, &Line::raw(row(texts)));
        }
    }

    fn workers(&mut self, reading: &Reading, y: u16) {
        let each = reading.workers.iter().enumerate().map(|(i, sessions)| format!("{i}: {sessions}"));
        let all = each.collect::<Vec<_>>().join("  ");
        self.line(y, &Line::from(vec![Span::styled("sessions by worker  ", self.bold()), Span::raw(all)]));
    }

    fn help(&mut self, area: Rect) {
        const KEYS: [&str; 8] = [
            "up, down, page up, page down, home, end   choose a server",
            "d   drain it: it keeps its sessions and gets no new ones",
            "m   maintenance: the same, for one that is being worked on",
            "r   ready: it gets sessions again",
            "w   change its weight",
            "Tab   servers, listeners and workers, events",
            "?   this help        Escape   back to the servers",
            "q, Ctrl-C   leave",
        ];
        self.title(area.y, "KEYS");
        for (key, y) in KEYS.iter().zip(area.y + 1..area.bottom()) {
            self.line(y, &Line::raw(*key));
        }
    }

    /// What there is to say, or what is to be said of the chosen server; and the keys.
    fn foot(&mut self, model: &Model, reading: &Reading) {
        let y = self.area.bottom() - 2;
        let all = || reading.pools.iter().flat_map(|pool| pool.servers.iter().map(move |server| (pool, server)));
        let chosen = model.place().and_then(|place| all().nth(place)).filter(|_| model.page == Page::Servers);
        if !model.note.is_empty() {
            self.line(y, &Line::styled(model.note.clone(), self.bold()));
        } else if let Some((pool, server)) = chosen {
            let why = if server.reason.is_empty() { String::new() } else { format!(": {}", server.reason) };
            let text = format!("{}/{} at {} is {}{why}", pool.name, server.name, server.address, server.state);
            self.line(y, &Line::raw(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>()));
        }
        let keys = match model.manner.read_only {
            true => " q quit  Tab next page  ? help   read-only ",
            false => " q quit  Tab next page  d drain  m maint  r ready  w weight  ? help ",
        };
        let line = format!("{keys:<width$}", width = usize::from(self.area.width));
        self.line(y + 1, &Line::styled(line, Style::new().add_modifier(Modifier::REVERSED)));
    }

    fn dialog(&mut self, dialog: &Dialog, reading: &Reading) {
        let sessions = |pool: &str, name: &str| {
            let pool = reading.pools.iter().find(|each| each.name == pool);
            pool.and_then(|pool| pool.servers.iter().find(|each| each.name == name)).map_or(0, |server| server.sessions)
        };
        let (title, text) = match dialog {
            Dialog::Question(change) => {
                let what = question(change, sessions(&change.pool, &change.server));
                (" Sure? ", format!("{what}\n\ny: yes      any other key: no"))
            }
            Dialog::Weight { pool, server, typed } => {
                (" Weight ", format!("{pool}/{server}, 0 to 256: {typed}_\n\nEnter: go on      Escape: no"))
            }
        };
        let width = self.area.width.saturating_sub(4).min(64);
        let height = 7.min(self.area.height);
        let area = Rect {
            x: self.area.x + (self.area.width - width) / 2,
            y: self.area.y + (self.area.height - height) / 2,
            width,
            height,
        };
        let ascii = border::Set {
            top_left: "+",
            top_right: "+",
            bottom_left: "+",
            bottom_right: "+",
            vertical_left: "|",
            vertical_right: "|",
            horizontal_top: "-",
            horizontal_bottom: "-",
        };
        let frame = if self.manner.unicode { border::PLAIN } else { ascii };
        let block = Block::bordered().border_set(frame).title(title).style(self.bold());
        Clear.render(area, self.buffer);
        Paragraph::new(text).wrap(ratatui::widgets::Wrap { trim: false }).block(block).render(area, self.buffer);
    }

    /// Everything, one below the other, for paper.
    fn picture(&mut self, reading: &Reading) {
        self.sparks(2, &reading.samples);
        let servers: usize = reading.pools.iter().map(|pool| pool.servers.len() + 1).sum();
        let lines = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
        let mut top = self.area.y + 5;
        let mut next = |height: u16| {
            let area = Rect { y: top, height, ..self.area }.intersection(self.area);
            top = top.saturating_add(height + 1);
            area
        };
        let (servers, listeners) = (next(lines(servers + 1)), next(lines(reading.listeners.len() + 1)));
        let (workers, events) = (next(1), next(lines(EVENTS_SHOWN + 1)));
        self.servers(reading, None, servers);
        self.listener_lines(0, reading, listeners);
        self.workers(reading, workers.y);
        self.events(&reading.events, 0, events);
    }
}

fn question(change: &ServerChange, sessions: u64) -> String {
    let ServerChange { pool, server, state, weight, .. } = change;
    match (state, weight) {
        (Some(Standing::Drain), _) => {
            format!("Drain {pool}/{server}? It keeps {} and gets no new ones.", many(sessions, "session"))
        }
        (Some(Standing::Maint), _) => {
            format!("Set {pool}/{server} to maintenance? It keeps {} and gets no new ones.", many(sessions, "session"))
        }
        (Some(Standing::Ready), _) => format!("Make {pool}/{server} ready? It gets sessions again."),
        (None, weight) => format!("Give {pool}/{server} the weight {}?", weight.unwrap_or_default()),
    }
}
