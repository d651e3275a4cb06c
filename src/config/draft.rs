//! A draft: a configuration that was read and found right, not yet tied to anything that runs.
//!
//! [`parse`] goes through three passes, each of which gathers what it finds wrong: the syntax (`syntax`), the sections one by one
//! (`sections`), and what only shows between them (`rules`).

use std::sync::Arc;

use toml::de::DeTable;

use crate::base::words::many;

use super::complaints::{At, Complaints, Located};
use super::ledger::Standing;
use super::limits::FILE_BYTES_MAX;
use super::plan::{Address, Admin, Care, ConnectRate, Global, Kind, Log, Policy, Question, RoleWish, Terms};
use super::read::Reader;
use super::{rules, sections, syntax};

/// A valid configuration. [`Draft::compile`] makes a plan of it.
#[derive(Clone, Debug)]
pub struct Draft {
    pub(super) global: Global,
    pub(super) log: Log,
    pub(super) admin: Admin,
    /// Where `admin.http` was given.
    pub(super) admin_http_at: At,
    /// Where `admin.haproxy_socket` was given.
    pub(super) haproxy_socket_at: At,
    /// In order of their names.
    pub(super) listeners: Vec<ListenerDraft>,
    /// In order of their names.
    pub(super) pools: Vec<PoolDraft>,
}

#[derive(Clone, Debug)]
pub(super) struct ListenerDraft {
    pub(super) name: Located<Arc<str>>,
    pub(super) binds: Vec<Located<Address>>,
    pub(super) pool: Located<String>,
    /// With where it was given.
    pub(super) role: Option<Located<RoleWish>>,
}

#[derive(Clone, Debug)]
pub(super) struct PoolDraft {
    pub(super) name: Located<Arc<str>>,
    pub(super) kind: Kind,
    pub(super) policy: Policy,
    pub(super) servers: Vec<ServerDraft>,
    /// Those of the file that an overlay has taken out.
    pub(super) removed: Vec<ServerDraft>,
    pub(super) servers_at: At,
    /// Something about its servers could not be read: what is missing here may stand in the file.
    pub(super) broken: bool,
    pub(super) terms: Terms,
    pub(super) slow_start_ms: u32,
    /// Where `terms.queue` was given.
    pub(super) queue_at: At,
    /// Where each of `terms.sources` was given.
    pub(super) sources_at: Vec<At>,
    pub(super) care: Care,
    /// Where `check` was given.
    pub(super) check_at: Option<At>,
    /// `check = "off"`.
    pub(super) check_off: bool,
}

#[derive(Clone, Debug)]
pub(super) struct ServerDraft {
    pub(super) name: Located<Arc<str>>,
    pub(super) address: Located<Address>,
    pub(super) weight: u16,
    /// The same as the file says it, whatever is set beside it.
    pub(super) weight_in_file: u16,
    pub(super) max_connections: u32,
    pub(super) connect_rate: Option<ConnectRate>,
    pub(super) backup: bool,
    /// Whether it gets sessions when it comes; the overlay may say.
    pub(super) standing: Standing,
    /// It is not in the file.
    pub(super) overlaid: bool,
    /// The overlay has set something of it.
    pub(super) set: Option<Before>,
}

/// What the configuration said of a server where the overlay has set something else.
#[derive(Clone, Debug, Default)]
pub(super) struct Before {
    pub(super) weight: Option<u16>,
    pub(super) max_connections: Option<u32>,
}

impl Draft {
    /// `[global]` with its defaults.
    pub fn global(&self) -> &Global {
        &self.global
    }

    /// `[log]` with its defaults.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// `[admin]` with its defaults.
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// How much it configures: `2 listeners, 1 pool, 3 servers`.
    pub fn summary(&self) -> String {
        let servers: usize = self.pools.iter().map(|pool| pool.servers.len()).sum();
        [many(self.listeners.len(), "listener"), many(self.pools.len(), "pool"), many(servers, "server")].join(", ")
    }

    /// What servers are asked, with the names of their pools.
    pub fn questions(&self) -> impl Iterator<Item = (&str, &Question)> {
        self.pools.iter().filter_map(|pool| Some((&*pool.name.value, &pool.care.check.as_ref()?.question)))
    }

    /// What an overlay has changed: `1 added, 2 removed`, with `, 1 set` if any is; `None`: nothing.
    pub fn overlaid(&self) -> Option<String> {
        let servers = self.pools.iter().flat_map(|pool| &pool.servers);
        let added = servers.filter(|server| server.overlaid).count();
        let removed: usize = self.pools.iter().map(|pool| pool.removed.len()).sum();
        let set = self.pools.iter().flat_map(|pool| &pool.servers).filter(|server| server.set.is_some()).count();
        let also = if set > 0 { format!(", {set} set") } else { String::new() };
        (added + removed + set > 0).then(|| format!("{added} added, {removed} removed{also}"))
    }
}

/// Reads `text`, which came from the file `name`; `${VAR}` in strings is what `env` says.
///
/// # Errors
///
/// All that is wrong with it, as far as it could be understood.
pub fn parse(name: &str, text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Draft, Complaints> {
    if text.len() > FILE_BYTES_MAX {
        let mut complaints = Complaints::new(name, "");
        let message = format!("the file has more than {FILE_BYTES_MAX} bytes (4 MiB)");
        complaints.add(0..0, message, None);
        return Err(complaints);
    }
    let mut reader = Reader::new(Complaints::new(name, text), env);
    let Some(readable) = syntax::check(&mut reader, text) else {
        return Err(reader.complaints.finish());
    };
    let (document, _) = DeTable::parse_recoverable(&readable);
    let (draft, seen) = sections::read(&mut reader, document.get_ref());
    rules::check(&mut reader, &draft, &seen);
    match reader.complaints.is_empty() {
        true => Ok(draft),
        false => Err(reader.complaints.finish()),
    }
}
