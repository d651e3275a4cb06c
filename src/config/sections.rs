//! Reads the sections of the file, one function a table. What is wrong is complained of; what is absent gets its default.

use std::path::PathBuf;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::complaints::{At, Located, did_you_mean, quote};
use super::draft::{Draft, ListenerDraft};
use super::keys::{self, Keys};
use super::limits;
use super::mysql;
use super::plan::{Address, Admin, Engine, Global, Log, LogFormat, LogTarget, Workers};
use super::pools::pools;
use super::read::{Reader, Section, kind};
use super::value;

/// What stood in the file, readable or not; rules about absence look here.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Listeners, broken ones too.
    pub(super) listeners: usize,
    /// Where one would look for listeners.
    pub(super) listeners_at: At,
    /// Names of all pools, broken ones too; `None` when their table is misspelt.
    pub(super) pools: Option<Vec<String>>,
}

/// Reads the whole document.
pub(super) fn read(reader: &mut Reader<'_>, document: &DeTable<'_>) -> (Draft, Seen) {
    let root = Section { called: keys::ROOT.place.into(), table: document, at: 0..0 };
    reader.keys(&root, &keys::ROOT);
    let mut seen = Seen::default();
    let (admin, admin_http_at, haproxy_socket_at) = admin(reader, &root);
    let draft = Draft {
        global: global(reader, &root),
        log: log(reader, &root),
        admin,
        admin_http_at,
        haproxy_socket_at,
        listeners: listeners(reader, &root, &mut seen),
        pools: pools(reader, &root, &mut seen),
    };
    (draft, seen)
}

/// Whether the file has table `key`, rightly spelt or nearly so.
pub(super) fn meant(root: &Section<'_, '_>, key: &str) -> bool {
    let near = |found: &str| found == key || did_you_mean(found, [key]).is_some();
    root.table.keys().any(|found| near(found.get_ref()))
}

/// A top-level table with its keys checked; an empty one when it is absent.
fn section<'t, 'd>(reader: &mut Reader<'_>, root: &Section<'t, 'd>, key: &str, keys: &Keys) -> Option<Section<'t, 'd>> {
    let section = reader.table(root, key)?;
    reader.keys(&section, keys);
    Some(section)
}

fn global(reader: &mut Reader<'_>, root: &Section<'_, '_>) -> Global {
    let mut global = Global {
        workers: Workers::Auto,
        engine: Engine::Auto,
        max_connections: None,
        user: None,
        group: None,
        drain_ms: limits::DRAIN.default,
        state_dir: None,
    };
    let Some(section) = section(reader, root, "global", &keys::GLOBAL) else {
        return global;
    };
    let engines = [("auto", Engine::Auto), ("io_uring", Engine::IoUring), ("epoll", Engine::Epoll)];
    global.workers = workers(reader, &section).unwrap_or(Workers::Auto);
    global.engine = reader.choice(&section, "engine", &engines, &[]).unwrap_or(Engine::Auto);
    global.max_connections = reader.count(&section, "max_connections", limits::CONNECTIONS).map(|count| count.value);
    global.user = account(reader, &section, "user");
    global.group = account(reader, &section, "group");
    if let (Some((key, _)), false) = (section.table.get_key_value("group"), section.table.contains_key("user")) {
        reader.advise(&key.span(), "`group` without `user`", "add `user`, or take `group` out");
    }
    if let Some(drain) = reader.duration(&section, "drain_timeout", &limits::DRAIN) {
        global.drain_ms = drain.value;
    }
    let state_dir = section.table.get("state_dir").and_then(|value| reader.string("state_dir", value));
    if let Some(path) = state_dir {
        global.state_dir = reader.check(&path.at, value::absolute(&path.value)).map(|path| path.value);
    }
    global
}

fn workers(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Option<Workers> {
    let value = section.table.get("workers")?;
    if let DeValue::String(_) = value.get_ref() {
        let text = reader.string("workers", value)?;
        if text.value == "auto" {
            return Some(Workers::Auto);
        }
        let help = match text.value.parse::<u16>() {
            Ok(n) => format!("write {n} without quotes"),
            Err(_) => format!("write \"auto\", or a number from 1 to {}", limits::WORKERS_MAX),
        };
        let message = format!("`workers` is {}, neither \"auto\" nor a number", quote(&text.value));
        reader.advise(&text.at, message, help);
        return None;
    }
    let count = reader.count(section, "workers", limits::WORKERS)?;
    u16::try_from(count.value).ok().map(Workers::Count)
}

fn account(reader: &mut Reader<'_>, section: &Section<'_, '_>, key: &str) -> Option<String> {
    let text = reader.string(key, section.table.get(key)?)?;
    let fine = |c: char| !c.is_whitespace() && !c.is_control() && !":/,".contains(c);
    if text.value.is_empty() || text.value.len() > limits::ACCOUNT_BYTES_MAX || !text.value.chars().all(fine) {
        reader.complain(&text.at, format!("{} cannot name a {key} of this system", quote(&text.value)));
        return None;
    }
    Some(text.value)
}

fn log(reader: &mut Reader<'_>, root: &Section<'_, '_>) -> Log {
    let mut log = Log { target: LogTarget::Stdout, format: LogFormat::Json, access: true };
    let Some(section) = section(reader, root, "log", &keys::LOG) else {
        return log;
    };
    let socket = log_socket(reader, &section);
    if let Some(target) = log_target(reader, &section, socket.as_ref().map(|path| path.value.clone())) {
        log.target = target;
        if let (Some(path), None) = (socket, log.target.socket()) {
            let help = "write `target = \"syslog\"` or \"journald\", or take `socket` out";
            reader.advise(&path.at, "`socket` is for the targets \"syslog\" and \"journald\"", help);
        }
    }
    let formats = [("json", LogFormat::Json), ("logfmt", LogFormat::Logfmt), ("haproxy", LogFormat::Haproxy)];
    if let Some(format) = reader.choice(&section, "format", &formats, &[]) {
        log.format = format;
    }
    log.access = reader.boolean(&section, "access").unwrap_or(true);
    log
}

fn log_socket(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Option<Located<PathBuf>> {
    let text = reader.string("socket", section.table.get("socket")?)?;
    if let Some(path) = text.value.strip_prefix("unix:") {
        let help = format!("write {}; it is always a unix socket", quote(path));
        reader.advise(&text.at, "`socket` is a path, without `unix:`", help);
        return None;
    }
    reader.check(&text.at, value::unix_path(&text.value))
}

/// The target; without the key, standard output.
fn log_target(reader: &mut Reader<'_>, section: &Section<'_, '_>, socket: Option<PathBuf>) -> Option<LogTarget> {
    const HELP: &str = "write \"stdout\", \"syslog\", \"journald\", or the absolute path of a file";
    let Some(value) = section.table.get("target") else {
        return Some(LogTarget::Stdout);
    };
    let text = reader.string("target", value)?;
    let or = |default: &str| socket.unwrap_or_else(|| PathBuf::from(default));
    match text.value.as_str() {
        "stdout" => return Some(LogTarget::Stdout),
        "syslog" => return Some(LogTarget::Syslog(or(limits::SYSLOG_SOCKET_DEFAULT))),
        "journald" => return Some(LogTarget::Journald(or(limits::JOURNALD_SOCKET_DEFAULT))),
        path if path.contains('/') => {
            return reader.check(&text.at, value::absolute(path)).map(|path| LogTarget::File(path.value));
        }
        _ => {}
    }
    let near = did_you_mean(&text.value, ["stdout", "syslog", "journald"]);
    let help = near.map_or(HELP.to_owned(), |near| format!("did you mean \"{near}\"?"));
    reader.advise(&text.at, format!("unknown target {}", quote(&text.value)), help);
    None
}

fn admin(reader: &mut Reader<'_>, root: &Section<'_, '_>) -> (Admin, At, At) {
    let socket = Some(PathBuf::from(limits::ADMIN_SOCKET_DEFAULT));
    let mut admin = Admin { socket, http: None, haproxy_socket: None };
    let (mut http_at, mut haproxy_at) = (0..0, 0..0);
    let Some(section) = section(reader, root, "admin", &keys::ADMIN) else {
        return (admin, http_at, haproxy_at);
    };
    if let Some((path, _)) = socket_path(reader, &section, "socket") {
        admin.socket = Some(path);
    }
    if let Some((path, at)) = socket_path(reader, &section, "haproxy_socket") {
        admin.haproxy_socket = Some(path);
        haproxy_at = at;
    }
    let http = section.table.get("http");
    if let Some(text) = http.and_then(|value| reader.string("http", value)) {
        let address = match text.value.starts_with("unix:") {
            false => reader.check(&text.at, value::inet(&text.value)),
            true => {
                reader.advise(&text.at, "`http` is a TCP address", "the unix socket is `socket`");
                None
            }
        };
        admin.http = address.map(|address| address.value);
        http_at = text.at;
    }
    (admin, http_at, haproxy_at)
}

/// A key of `[admin]` that names a unix socket, and where.
fn socket_path(reader: &mut Reader<'_>, section: &Section<'_, '_>, key: &'static str) -> Option<(PathBuf, At)> {
    let text = reader.string(key, section.table.get(key)?)?;
    if let Some(path) = text.value.strip_prefix("unix:") {
        let help = format!("write {}; it is always a unix socket", quote(path));
        reader.advise(&text.at, format!("`{key}` is a path, without `unix:`"), help);
        return None;
    }
    let path = reader.check(&text.at, value::unix_path(&text.value))?;
    Some((path.value, text.at))
}

/// The named tables below `key`, with names that may be used.
pub(super) fn named<'t, 'd>(
    reader: &mut Reader<'_>,
    parent: &Section<'t, 'd>,
    key: &str,
    what: &str,
    keys: &Keys,
) -> Vec<(Located<Arc<str>>, Section<'t, 'd>)> {
    let mut found = Vec::new();
    for (name, value) in parent.table.iter() {
        let DeValue::Table(table) = value.get_ref() else {
            let message = format!("{what} {} must be a table, found {}", quote(name.get_ref()), kind(value.get_ref()));
            reader.advise(
                &name.span(),
                message,
                format!("write [{key}.NAME] on a line of its own, with its keys below"),
            );
            continue;
        };
        let section = Section { called: format!("[{key}.{}]", name.get_ref()), table, at: value.span() };
        if reader.check(&name.span(), value::name(what, name.get_ref())).is_none() {
            continue;
        }
        reader.keys(&section, keys);
        found.push((Located::new(Arc::from(name.get_ref().as_ref()), name.span()), section));
    }
    found
}

fn listeners(reader: &mut Reader<'_>, root: &Section<'_, '_>, seen: &mut Seen) -> Vec<ListenerDraft> {
    let Some(parent) = reader.table(root, "listeners") else {
        // A misspelt or mistyped table was complained of already.
        seen.listeners = usize::from(meant(root, "listeners"));
        return Vec::new();
    };
    seen.listeners = parent.table.len();
    seen.listeners_at = parent.at.clone();
    if parent.table.len() > limits::LISTENERS_MAX {
        let message = format!("{} listeners; most is {}", parent.table.len(), limits::LISTENERS_MAX);
        reader.complain(&parent.at, message);
        return Vec::new();
    }
    let mut list = Vec::new();
    for (name, section) in named(reader, &parent, "listeners", "listener", &keys::LISTENER) {
        let binds = binds(reader, &name, &section);
        let pool = match section.table.get("pool") {
            Some(value) => reader.string("pool", value),
            None => {
                let message = format!("listener {} has no `pool`", quote(&name.value));
                reader.advise(&section.at, message, "add `pool = \"NAME\"`, the pool its sessions go to");
                None
            }
        };
        if let Some(pool) = pool {
            let role = mysql::wish(reader, &section);
            list.push(ListenerDraft { name, binds, pool, role });
        }
    }
    list
}

fn binds(reader: &mut Reader<'_>, name: &Located<Arc<str>>, section: &Section<'_, '_>) -> Vec<Located<Address>> {
    const HELP: &str = "add `bind = \"0.0.0.0:80\"`, or a list of addresses";
    let Some(value) = section.table.get("bind") else {
        reader.advise(&section.at, format!("listener {} has no `bind`", quote(&name.value)), HELP);
        return Vec::new();
    };
    if matches!(value.get_ref(), DeValue::Array(items) if items.is_empty()) {
        reader.advise(&value.span(), format!("listener {} binds to nothing", quote(&name.value)), HELP);
    }
    let texts = reader.strings(section, "bind", limits::BINDS_MAX).unwrap_or_default();
    texts.iter().filter_map(|text| reader.check(&text.at, value::address(&text.value))).collect()
}
