//! Servers that an operator has added and removed, and what he has set of them, while the daemon runs, beside the file.
//!
//! ```text
//! file ──▶ + what was persisted: the overlay, a file of its own ──▶ + what was not ──▶ what is in force
//!            must fit, or it is complained of                         forgotten where the file has changed
//! ```
//!
//! What was persisted is part of the configuration, so that nothing about it is guessed. What was not holds as a tuning does
//! (`super::tuning`), as long as the file says what it said: whoever changes the line means the file.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::complaints::{At, Complaints, Located, quote};
use super::draft::{Draft, PoolDraft, ServerDraft};
use super::keys::{self, Keys};
use super::ledger::Standing;
use super::limits::{CONNECTIONS, FILE_BYTES_MAX, OVERLAY_MAX, SERVERS_MAX, WEIGHT};
use super::plan::Address;
use super::print::{connect_rate, string};
use super::read::{Reader, Section, kind};
use super::sections::Seen;
use super::{pools, rules, syntax, value};

mod set;

pub use self::set::Setting;

/// Looks variables of the environment up.
type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// A text, and what complaints call it.
#[derive(Clone, Copy, Debug)]
pub struct Sheet<'t> {
    /// Where it came from.
    pub name: &'t str,
    /// The text.
    pub text: &'t str,
}

/// A server that is to be added.
#[derive(Clone, Debug)]
pub struct Newcomer<'n> {
    /// The pool it is to be in.
    pub pool: &'n str,
    /// Its name.
    pub name: &'n str,
    /// Its address, as in the file.
    pub address: &'n str,
    /// Its weight, 0 to 256.
    pub weight: u32,
    /// Sessions it may have, up to 10 million; 0: any number.
    pub max_connections: u32,
    /// It gets sessions only when no other can.
    pub backup: bool,
}

/// All that is laid over the file.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    /// What was persisted: the text of the overlay's file.
    pub kept: String,
    passing: Edits,
}

/// Servers that come and go.
#[derive(Clone, Debug, Default)]
struct Edits {
    removed: Vec<Removed>,
    added: Vec<Added>,
    /// What is set of servers; only ever kept, for what is set for now is a tuning.
    set: Vec<set::Entry>,
}

#[derive(Clone, Debug)]
struct Removed {
    pool: Located<String>,
    name: Located<String>,
    address: Located<Address>,
}

#[derive(Clone, Debug)]
struct Added {
    pool: Located<String>,
    server: ServerDraft,
}

/// Lays an overlay over a file.
///
/// # Errors
/// What is wrong with the overlay, or with the two together.
pub fn lay(file: Draft, sheet: Sheet<'_>, overlay: Sheet<'_>, env: Environment<'_>) -> Result<Draft, Complaints> {
    if overlay.text.is_empty() {
        return Ok(file);
    }
    let mut complaints = Complaints::new(sheet.name, sheet.text);
    let begin = complaints.end();
    complaints = complaints.and(overlay.name, overlay.text);
    if overlay.text.len() > FILE_BYTES_MAX {
        complaints.add(begin..begin, format!("the overlay has more than {FILE_BYTES_MAX} bytes (4 MiB)"), None);
        return Err(complaints);
    }
    let mut reader = Reader::new(complaints, env);
    let mut draft = file;
    if let Some(edits) = Edits::read(&mut reader, begin, overlay.text) {
        edits.put(&mut draft, &mut reader);
    }
    if reader.complaints.is_empty() {
        rules::check(&mut reader, &draft, &seen(&draft));
    }
    match reader.complaints.is_empty() {
        true => Ok(draft),
        false => Err(reader.complaints.finish()),
    }
}

impl Overlay {
    /// One that was read from its file, and nothing beside it.
    pub fn kept(text: String) -> Self {
        Self { kept: text, passing: Edits::default() }
    }

    /// Lays what was not persisted over `base`, which is the file with what was; what no longer fits is forgotten.
    pub fn pass_over(&mut self, base: Draft) -> Draft {
        if self.passing.is_empty() {
            return base;
        }
        let (fitting, draft) = self.passing.fitting(&base, |_| true);
        if wrong(&draft).is_none() {
            self.passing = fitting;
            return draft;
        }
        // The file has changed so that the two do not go together; pool by pool, what does is kept.
        let pools: BTreeSet<String> = fitting.pools().map(str::to_owned).collect();
        let (mut draft, mut kept) = (base, Edits::default());
        for name in pools {
            let (mut edits, next) = fitting.fitting(&draft, |pool| pool == name);
            if wrong(&next).is_none() {
                draft = next;
                kept.removed.append(&mut edits.removed);
                kept.added.append(&mut edits.added);
            }
        }
        self.passing = kept;
        draft
    }

    /// What was not persisted, as the text of an overlay.
    pub fn passing_text(&self) -> String {
        if self.passing.is_empty() { String::new() } else { self.passing.text() }
    }

    /// One more whose text was made by [`Overlay::passing_text`].
    #[must_use]
    pub fn with_passing(mut self, text: &str, env: Environment<'_>) -> Self {
        let mut reader = Reader::new(Complaints::new("", text), env);
        self.passing = Edits::read(&mut reader, 0, text).unwrap_or_default();
        self
    }

    /// Adds a server; `persist`: in the overlay's file, which is then to be written. `file` is the file alone.
    ///
    /// # Errors
    /// Why not, in words for whoever asked; then nothing has changed.
    pub fn add(&mut self, file: &Draft, new: &Newcomer<'_>, persist: bool, env: Environment<'_>) -> Result<(), String> {
        let server = new.server()?;
        let (base, now) = self.both(file, env)?;
        stranger(&now, new.pool, &server)?;
        let mut next = self.clone();
        let mut kept = next.edits(env);
        let added = Added { pool: Located::new(new.pool.to_owned(), 0..0), server };
        let out = |each: &ServerDraft| each.name.value == added.server.name.value || at_same(each, &added.server);
        // What it takes the place of is out only for now, and may have to be out for good, too.
        let before: Vec<ServerDraft> = servers_of(&base, new.pool).filter(|each| out(each)).cloned().collect();
        let same = |each: &ServerDraft| is_same(each, &added.server);
        if !persist {
            match before.iter().find(|each| same(each)) {
                Some(back) => next.passing.removed.retain(|removed| !removed.is(new.pool, back)),
                None => next.passing.added.push(added),
            }
        } else {
            for each in &before {
                next.passing.removed.retain(|removed| !removed.is(new.pool, each));
                kept.take_out(file, new.pool, each);
            }
            match servers_of(file, new.pool).find(|each| same(each)) {
                Some(back) => kept.removed.retain(|removed| !removed.is(new.pool, back)),
                None => kept.added.push(added),
            }
            next.kept = kept.text();
        }
        next.settle(file, env)?;
        *self = next;
        Ok(())
    }

    /// Removes a server; as [`Overlay::add`].
    ///
    /// # Errors
    /// Why not, in words for whoever asked; then nothing has changed.
    pub fn remove(
        &mut self,
        file: &Draft,
        (pool, name): (&str, &str),
        persist: bool,
        env: Environment<'_>,
    ) -> Result<(), String> {
        let (base, now) = self.both(file, env)?;
        if !servers_of(&now, pool).any(|each| *each.name.value == *name) {
            return Err(format!("there is no server \"{name}\" in a pool \"{pool}\""));
        }
        let mut next = self.clone();
        let added = next.passing.added.len();
        next.passing.added.retain(|added| !added.is(pool, name));
        let was_passing = next.passing.added.len() < added;
        if let Some(server) = servers_of(&base, pool).find(|each| *each.name.value == *name) {
            if persist {
                let mut kept = next.edits(env);
                next.passing.removed.retain(|removed| !removed.is(pool, server));
                kept.take_out(file, pool, server);
                next.kept = kept.text();
            } else if !was_passing {
                next.passing.removed.push(Removed::of(pool, server));
            }
        }
        next.settle(file, env)?;
        *self = next;
        Ok(())
    }

    /// The file with what was persisted, and with all.
    fn both(&self, file: &Draft, env: Environment<'_>) -> Result<(Draft, Draft), String> {
        let base = self.base(file, env)?;
        let now = self.clone().pass_over(base.clone());
        Ok((base, now))
    }

    fn base(&self, file: &Draft, env: Environment<'_>) -> Result<Draft, String> {
        let sheet = Sheet { name: "", text: "" };
        lay(file.clone(), sheet, Sheet { name: "", text: &self.kept }, env).map_err(|wrong| wrong.messages())
    }

    fn edits(&self, env: Environment<'_>) -> Edits {
        let mut reader = Reader::new(Complaints::new("", &self.kept), env);
        Edits::read(&mut reader, 0, &self.kept).unwrap_or_default()
    }

    /// Whether it is right: as it would be read after a restart, and with what was not persisted.
    fn settle(&self, file: &Draft, env: Environment<'_>) -> Result<(), String> {
        let sides = [self.passing.removed.len(), self.passing.added.len()];
        if sides.into_iter().any(|count| count > OVERLAY_MAX) {
            return Err(format!("{OVERLAY_MAX} servers are added or removed beside the file; more is too many"));
        }
        let base = self.base(file, env)?;
        let (fitting, draft) = self.passing.fitting(&base, |_| true);
        if [fitting.removed.len(), fitting.added.len()] != sides {
            return Err(format!("a pool would have more than {SERVERS_MAX} servers"));
        }
        wrong(&draft).map_or(Ok(()), Err)
    }
}

impl Newcomer<'_> {
    fn server(&self) -> Result<ServerDraft, String> {
        value::name("server", self.name).map_err(value::Fault::words)?;
        let address = value::address(self.address).map_err(value::Fault::words)?;
        if let Address::Inet(inet) = &address
            && inet.ip().is_unspecified()
        {
            return Err(format!("{} is no address of a server", quote(self.address)));
        }
        let weight = u16::try_from(self.weight).ok().filter(|weight| u32::from(*weight) <= WEIGHT.most);
        let weight = weight.ok_or(format!("the weight {} is not from 0 to {}", self.weight, WEIGHT.most))?;
        if self.max_connections > CONNECTIONS.most {
            return Err(format!("max_connections {} is above {}", self.max_connections, CONNECTIONS.most));
        }
        Ok(ServerDraft {
            name: Located::new(Arc::from(self.name), 0..0),
            address: Located::new(address, 0..0),
            weight,
            weight_in_file: weight,
            max_connections: self.max_connections,
            connect_rate: None,
            backup: self.backup,
            standing: Standing::Ready,
            overlaid: true,
            set: None,
        })
    }
}

/// Whether a pool has room for a server: neither its name nor its address is taken.
fn stranger(draft: &Draft, pool: &str, server: &ServerDraft) -> Result<(), String> {
    if !draft.pools.iter().any(|each| *each.name.value == *pool) {
        return Err(format!("there is no pool \"{pool}\""));
    }
    for each in servers_of(draft, pool) {
        let (name, address) = (&each.name.value, &each.address.value);
        if *name == server.name.value {
            return Err(format!("pool \"{pool}\" has a server \"{name}\" already, at {address}"));
        }
        if at_same(each, server) {
            return Err(format!("pool \"{pool}\" has a server at {address} already: \"{name}\""));
        }
    }
    Ok(())
}

fn servers_of<'d>(draft: &'d Draft, pool: &str) -> impl Iterator<Item = &'d ServerDraft> {
    let found = draft.pools.iter().find(|each| *each.name.value == *pool);
    found.into_iter().flat_map(|pool| &pool.servers)
}

fn pool_of<'d>(draft: &'d mut Draft, name: &str) -> Option<&'d mut PoolDraft> {
    draft.pools.iter_mut().find(|pool| *pool.name.value == *name)
}

fn at_same(one: &ServerDraft, other: &ServerDraft) -> bool {
    one.address.value == other.address.value
}

fn is_same(one: &ServerDraft, other: &ServerDraft) -> bool {
    one.name.value == other.name.value
        && at_same(one, other)
        && one.weight == other.weight
        && one.max_connections == other.max_connections
        && one.connect_rate == other.connect_rate
        && one.backup == other.backup
}

/// What the rules have seen of a draft that is right.
fn seen(draft: &Draft) -> Seen {
    let pools = draft.pools.iter().map(|pool| pool.name.value.to_string()).collect();
    Seen { listeners: draft.listeners.len(), listeners_at: 0..0, pools: Some(pools) }
}

/// What the rules say against a draft.
fn wrong(draft: &Draft) -> Option<String> {
    let mut reader = Reader::new(Complaints::new("", ""), &|_| None);
    rules::check(&mut reader, draft, &seen(draft));
    (!reader.complaints.is_empty()).then(|| reader.complaints.finish().messages())
}

impl Removed {
    fn of(pool: &str, server: &ServerDraft) -> Self {
        Self {
            pool: Located::new(pool.to_owned(), 0..0),
            name: Located::new(server.name.value.to_string(), 0..0),
            address: server.address.clone(),
        }
    }

    fn is(&self, pool: &str, server: &ServerDraft) -> bool {
        self.pool.value == pool && *self.name.value == *server.name.value && self.address.value == server.address.value
    }
}

impl Added {
    fn is(&self, pool: &str, name: &str) -> bool {
        self.pool.value == pool && *self.server.name.value == *name
    }
}

impl Edits {
    fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }

    fn pools(&self) -> impl Iterator<Item = &str> {
        let removed = self.removed.iter().map(|removed| removed.pool.value.as_str());
        removed.chain(self.added.iter().map(|added| added.pool.value.as_str()))
    }

    /// Reads an overlay whose first byte has the offset `begin`.
    fn read(reader: &mut Reader<'_>, begin: usize, text: &str) -> Option<Self> {
        // Behind as many blanks as there are offsets before it, every place is found where it is.
        let text = " ".repeat(begin) + text;
        let readable = syntax::check(reader, &text)?;
        let (document, _) = DeTable::parse_recoverable(&readable);
        let root = Section { called: keys::OVERLAY.place.into(), table: document.get_ref(), at: begin..begin };
        reader.keys(&root, &keys::OVERLAY);
        let mut edits = Self::default();
        for (table, at) in entries(reader, &root, "remove") {
            edits.removed.extend(removed(reader, table, &at));
        }
        for (table, at) in entries(reader, &root, "add") {
            edits.added.extend(added(reader, table, at));
        }
        for (table, at) in entries(reader, &root, "set") {
            edits.set.extend(set::Entry::read(reader, table, &at));
        }
        Some(edits)
    }

    /// Puts them into a file that they must fit.
    fn put(self, draft: &mut Draft, reader: &mut Reader<'_>) {
        for Removed { pool, name, address } in self.removed {
            let (in_pool, named) = (quote(&pool.value), quote(&name.value));
            let Some(found) = pool_of(draft, &pool.value) else {
                gone(reader, &pool, "remove");
                continue;
            };
            match found.servers.iter().position(|server| *server.name.value == *name.value) {
                None => reader.advise(
                    &name.at,
                    format!("server {named} is to be removed, and pool {in_pool} has none of that name"),
                    "the file has it no more: take this [[remove]] out of the overlay",
                ),
                Some(at) if found.servers[at].address.value != address.value => reader.advise(
                    &address.at,
                    format!("server {named} of pool {in_pool} is at {} in the file", found.servers[at].address.value),
                    "it is not the one that was removed: take this [[remove]] out of the overlay, or give it that address",
                ),
                Some(at) => found.removed.push(found.servers.remove(at)),
            }
        }
        for Added { pool, server } in self.added {
            let (in_pool, named) = (quote(&pool.value), quote(&server.name.value));
            let Some(found) = pool_of(draft, &pool.value) else {
                gone(reader, &pool, "add");
                continue;
            };
            let by_name = found.servers.iter().find(|each| each.name.value == server.name.value);
            let other = by_name.or_else(|| found.servers.iter().find(|each| at_same(each, &server)));
            let Some(other) = other else {
                found.servers.push(server);
                continue;
            };
            let place = if other.overlaid { "in the overlay" } else { "in the file" };
            let (at, message) = match other.name.value == server.name.value {
                true => (&server.name.at, format!("server {named} of pool {in_pool} is {place} already")),
                false => (
                    &server.address.at,
                    format!(
                        "{} is the address of server {} of pool {in_pool} {place} already",
                        server.address.value,
                        quote(&other.name.value)
                    ),
                ),
            };
            let line = reader.complaints.line_of(other.name.at.start);
            reader.advise(at, message, format!("see line {line} there; take this [[add]] out of the overlay"));
        }
        for entry in self.set {
            entry.put(draft, reader);
        }
        let crowded = draft.pools.iter().find(|pool| pool.servers.len() > SERVERS_MAX);
        if let Some(pool) = crowded {
            let message =
                format!("with the overlay pool {} has more than {SERVERS_MAX} servers", quote(&pool.name.value));
            reader.complain(&pool.name.at, message);
        }
    }

    /// Those of the pools `whose` that fit a draft, and the draft with them.
    fn fitting(&self, draft: &Draft, whose: impl Fn(&str) -> bool) -> (Self, Draft) {
        let (mut fitting, mut draft) = (Self::default(), draft.clone());
        for removed in self.removed.iter().filter(|removed| whose(&removed.pool.value)) {
            let Some(pool) = pool_of(&mut draft, &removed.pool.value) else { continue };
            let found = pool.servers.iter().position(|server| removed.is(&removed.pool.value, server));
            if let Some(at) = found {
                pool.removed.push(pool.servers.remove(at));
                fitting.removed.push(removed.clone());
            }
        }
        for added in self.added.iter().filter(|added| whose(&added.pool.value)) {
            if stranger(&draft, &added.pool.value, &added.server).is_err() {
                continue;
            }
            if let Some(pool) = pool_of(&mut draft, &added.pool.value).filter(|pool| pool.servers.len() < SERVERS_MAX) {
                pool.servers.push(added.server.clone());
                fitting.added.push(added.clone());
            }
        }
        (fitting, draft)
    }

    /// Makes sure that a server of the file, or of this, is no more.
    fn take_out(&mut self, file: &Draft, pool: &str, server: &ServerDraft) {
        self.added.retain(|added| !added.is(pool, &server.name.value));
        self.set.retain(|entry| !entry.is(pool, &server.name.value));
        if servers_of(file, pool).any(|each| each.name.value == server.name.value && at_same(each, server))
            && !self.removed.iter().any(|removed| removed.is(pool, server))
        {
            self.removed.push(Removed::of(pool, server));
        }
    }

    /// As the text of an overlay.
    fn text(&self) -> String {
        let mut out = String::from(
            "# What was changed of servers while ringway ran, with --persist. Part of the configuration beside it.\n\
             # ringway writes this file anew; a change by hand holds from the next reload.\n",
        );
        for Removed { pool, name, address } in &self.removed {
            // Writing to a String cannot fail.
            let _ = write!(out, "\n[[remove]]\npool = {}\nname = {}\n", string(&pool.value), string(&name.value));
            let _ = writeln!(out, "address = {}", string(&address.value.to_string()));
        }
        for Added { pool, server } in &self.added {
            let (name, address) = (&server.name.value, server.address.value.to_string());
            let _ = write!(out, "\n[[add]]\npool = {}\nname = {}\n", string(&pool.value), string(name));
            let _ = write!(out, "address = {}\nweight = {}\n", string(&address), server.weight);
            if server.max_connections > 0 {
                let _ = writeln!(out, "max_connections = {}", server.max_connections);
            }
            if let Some(rate) = server.connect_rate {
                let _ = writeln!(out, "connect_rate = {}\nconnect_burst = {}", connect_rate(rate), rate.burst);
            }
            let _ = writeln!(out, "backup = {}", server.backup);
        }
        self.set.iter().for_each(|entry| entry.write(&mut out));
        out
    }
}

fn gone(reader: &mut Reader<'_>, pool: &Located<String>, key: &str) {
    let message = format!("there is no pool {} in the file", quote(&pool.value));
    reader.advise(&pool.at, message, format!("take this [[{key}]] out of the overlay, or put the pool back"));
}

/// The tables of a list of tables.
fn entries<'t, 'd>(reader: &mut Reader<'_>, root: &Section<'t, 'd>, key: &str) -> Vec<(&'t DeTable<'d>, At)> {
    let Some(value) = root.table.get(key) else { return Vec::new() };
    let DeValue::Array(items) = value.get_ref() else {
        let message = format!("`{key}` must be a list of tables, found {}", kind(value.get_ref()));
        reader.advise(&value.span(), message, format!("write [[{key}]] on a line of its own"));
        return Vec::new();
    };
    if items.len() > OVERLAY_MAX {
        let message = format!("the overlay has {} entries [[{key}]]; most is {OVERLAY_MAX}", items.len());
        reader.advise(&value.span(), message, "write these servers into the file");
        return Vec::new();
    }
    let mut tables = Vec::new();
    for item in items.iter() {
        match item.get_ref() {
            DeValue::Table(table) => tables.push((table, item.span())),
            other => {
                let message = format!("an entry of `{key}` must be a table, found {}", kind(other));
                reader.advise(&item.span(), message, format!("write [[{key}]] on a line of its own"));
            }
        }
    }
    tables
}

fn removed(reader: &mut Reader<'_>, table: &DeTable<'_>, at: &At) -> Option<Removed> {
    let section = Section { called: keys::REMOVED.place.into(), table, at: at.clone() };
    reader.keys(&section, &keys::REMOVED);
    let [pool, name, address] = ["pool", "name", "address"].map(|key| word(reader, &section, &keys::REMOVED, key));
    let address = address.and_then(|text| reader.check(&text.at, value::address(&text.value)));
    Some(Removed { pool: pool?, name: name?, address: address? })
}

fn added(reader: &mut Reader<'_>, table: &DeTable<'_>, at: At) -> Option<Added> {
    let section = Section { called: keys::ADDED.place.into(), table, at: at.clone() };
    let pool = word(reader, &section, &keys::ADDED, "pool");
    let named = pool.as_ref().map_or("", |pool| &pool.value);
    let server = pools::server(reader, named, table, at, &keys::ADDED);
    Some(Added { pool: pool?, server: ServerDraft { overlaid: true, ..server? } })
}

/// A string that must be there.
fn word(reader: &mut Reader<'_>, section: &Section<'_, '_>, keys: &Keys, key: &str) -> Option<Located<String>> {
    let Some(value) = section.table.get(key) else {
        reader.complain(&section.at, format!("{} has no `{key}`", keys.place));
        return None;
    };
    reader.string(key, value)
}
