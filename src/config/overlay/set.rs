//! What an operator has set of a server for good: whether it gets sessions, its weight, its limit. It stands in the overlay,
//! and takes the place of what the file says, or of what the overlay itself says where it adds the server.

use std::fmt::Write as _;

use toml::de::DeTable;

use super::{
    At, Environment, Located, Overlay, Reader, Section, at_same, gone, keys, pool_of, quote, servers_of, word,
};
use crate::config::draft::{Before, Draft, ServerDraft};
use crate::config::ledger::Standing;
use crate::config::limits::{CONNECTIONS, OVERLAY_MAX, WEIGHT};
use crate::config::plan::Address;
use crate::config::print::string;
use crate::config::value;

/// What is to be set of a server; `None` is left as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Whether it gets sessions.
    pub standing: Option<Standing>,
    /// Its weight, 0 to 256.
    pub weight: Option<u32>,
    /// Sessions it may have, up to 10 million; 0: any number.
    pub max_connections: Option<u32>,
}

/// An entry `[[set]]`.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pool: Located<String>,
    name: Located<String>,
    address: Located<Address>,
    setting: Setting,
}

const STATES: [(&str, Standing); 2] = [("drain", Standing::Drain), ("maint", Standing::Maint)];

impl Overlay {
    /// Sets something of a server for good; the overlay's file is then to be written. `file` is the file alone. What is set to
    /// what the configuration says anyway is set no more.
    ///
    /// # Errors
    /// Why not, in words for whoever asked; then nothing has changed.
    pub fn set(
        &mut self,
        file: &Draft,
        (pool, name): (&str, &str),
        wish: Setting,
        env: Environment<'_>,
    ) -> Result<(), String> {
        let (base, now) = self.both(file, env)?;
        let named = |draft| servers_of(draft, pool).find(|each| *each.name.value == *name);
        let running = named(&now).ok_or_else(|| format!("there is no server \"{name}\" in a pool \"{pool}\""))?;
        let server = named(&base).filter(|server| at_same(server, running)).ok_or_else(|| {
            format!(
                "server \"{name}\" of pool \"{pool}\" is there only for now; remove it and add it again with --persist"
            )
        })?;
        let mut next = self.clone();
        let mut kept = next.edits(env);
        let before = kept.set.iter().position(|entry| entry.is(pool, name)).map(|at| kept.set.remove(at));
        let before = before.map_or_else(Setting::default, |entry| entry.setting);
        let plain = server.set.clone().unwrap_or_default();
        let (weight, most) = (plain.weight.unwrap_or(server.weight), plain.max_connections);
        let setting = Setting {
            standing: wish.standing.or(before.standing).filter(|standing| *standing != Standing::Ready),
            weight: wish.weight.or(before.weight).filter(|set| *set != u32::from(weight)),
            max_connections: wish
                .max_connections
                .or(before.max_connections)
                .filter(|set| *set != most.unwrap_or(server.max_connections)),
        };
        if let Some(weight) = setting.weight.filter(|weight| *weight > WEIGHT.most) {
            return Err(format!("the weight {weight} is not from 0 to {}", WEIGHT.most));
        }
        if let Some(most) = setting.max_connections.filter(|most| *most > CONNECTIONS.most) {
            return Err(format!("max_connections {most} is above {}; 0 is no limit", CONNECTIONS.most));
        }
        if setting != Setting::default() {
            kept.set.push(Entry {
                pool: Located::new(pool.to_owned(), 0..0),
                name: Located::new(name.to_owned(), 0..0),
                address: server.address.clone(),
                setting,
            });
        }
        if kept.set.len() > OVERLAY_MAX {
            return Err(format!("{OVERLAY_MAX} servers are set beside the file; more is too many"));
        }
        next.kept = kept.text();
        next.settle(file, env)?;
        *self = next;
        Ok(())
    }
}

impl Entry {
    pub(super) fn is(&self, pool: &str, name: &str) -> bool {
        self.pool.value == pool && self.name.value == name
    }

    /// Reads one.
    pub(super) fn read(reader: &mut Reader<'_>, table: &DeTable<'_>, at: &At) -> Option<Self> {
        let section = Section { called: keys::SET.place.into(), table, at: at.clone() };
        reader.keys(&section, &keys::SET);
        let [pool, name, address] = ["pool", "name", "address"].map(|key| word(reader, &section, &keys::SET, key));
        let address = address.and_then(|text| reader.check(&text.at, value::address(&text.value)));
        let setting = Setting {
            standing: reader.choice(&section, "state", &STATES, &[]),
            weight: reader.count(&section, "weight", WEIGHT).map(|weight| weight.value),
            max_connections: reader.count(&section, "max_connections", CONNECTIONS).map(|most| most.value),
        };
        let is_said = ["state", "weight", "max_connections"].iter().any(|key| table.contains_key(*key));
        if !is_said {
            let help = "add `state`, `weight` or `max_connections`, or take it out";
            reader.advise(at, "[[set]] sets nothing".to_owned(), help);
            return None;
        }
        Some(Self { pool: pool?, name: name?, address: address?, setting })
    }

    /// Puts it into a configuration that it must fit.
    pub(super) fn put(self, draft: &mut Draft, reader: &mut Reader<'_>) {
        let Self { pool, name, address, setting } = self;
        let (in_pool, named) = (quote(&pool.value), quote(&name.value));
        let Some(found) = pool_of(draft, &pool.value) else {
            return gone(reader, &pool, "set");
        };
        let Some(server) = found.servers.iter_mut().find(|server| *server.name.value == *name.value) else {
            let message = format!("server {named} is set, and pool {in_pool} has none of that name");
            let help = "the file has it no more: take this [[set]] out of the overlay";
            return reader.advise(&name.at, message, help);
        };
        if server.address.value != address.value {
            let message = format!("server {named} of pool {in_pool} is at {} now", server.address.value);
            let help = "it is not the one that was set: take this [[set]] out of the overlay, or give it that address";
            return reader.advise(&address.at, message, help);
        }
        if server.set.is_some() {
            let message = format!("server {named} of pool {in_pool} is set twice");
            return reader.advise(&name.at, message, "make one [[set]] of them");
        }
        setting.apply(server);
    }

    /// As the text of an overlay.
    pub(super) fn write(&self, out: &mut String) {
        let Self { pool, name, address, setting } = self;
        // Writing to a String cannot fail.
        let _ = write!(out, "\n[[set]]\npool = {}\nname = {}\n", string(&pool.value), string(&name.value));
        let _ = writeln!(out, "address = {}", string(&address.value.to_string()));
        if let Some(standing) = setting.standing {
            let _ = writeln!(out, "state = {}", string(standing.word()));
        }
        if let Some(weight) = setting.weight {
            let _ = writeln!(out, "weight = {weight}");
        }
        if let Some(most) = setting.max_connections {
            let _ = writeln!(out, "max_connections = {most}");
        }
    }
}

impl Setting {
    fn apply(self, server: &mut ServerDraft) {
        let weight = self.weight.and_then(|weight| u16::try_from(weight).ok());
        server.set = Some(Before {
            weight: weight.map(|_| server.weight),
            max_connections: self.max_connections.map(|_| server.max_connections),
        });
        if let Some(standing) = self.standing {
            server.standing = standing;
        }
        if let Some(weight) = weight {
            (server.weight, server.weight_in_file) = (weight, weight);
        }
        if let Some(most) = self.max_connections {
            server.max_connections = most;
        }
    }
}
