//! Reads and writes what only pools of `kind = "mysql"` have: the check of that type, and the roles listeners ask for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::complaints::{Located, quote};
use super::draft::{Draft, ListenerDraft, PoolDraft};
use super::limits;
use super::plan::{Check, Kind, MysqlQuestion, MysqlTls, OnSplit, Question, RoleTerms, RoleWish, ServerRole};
use super::print::{duration, string};
use super::read::{Reader, Section};

/// Keys of a check of this type.
pub(super) const CHECK_KEYS: &[&str] =
    &["user", "password_file", "tls", "tls_ca", "tls_name", "max_lag", "lag_soft", "on_split", "role_grace"];

/// Reads `check` of `type = "mysql"`.
pub(super) fn question(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Option<(Question, RoleTerms)> {
    let user = match section.table.get("user") {
        Some(value) => reader.string("user", value).filter(|user| account_fits(reader, user)),
        None => {
            let help = "add `user = \"lbcheck\"`, an account with REPLICATION CLIENT (MariaDB: REPLICA MONITOR)";
            reader.advise(&section.at, "`check` of type \"mysql\" has no `user`", help);
            None
        }
    };
    let password_file = path(reader, section, "password_file");
    let tls = tls(reader, section);
    let roles = roles(reader, section);
    let question = MysqlQuestion { user: user?.value.into(), password_file: password_file?, tls: tls? };
    Some((Question::Mysql(question), roles?))
}

fn account_fits(reader: &mut Reader<'_>, user: &Located<String>) -> bool {
    let fits = !user.value.is_empty()
        && user.value.chars().count() <= limits::MYSQL_USER_CHARACTERS_MAX
        && !user.value.contains(char::is_control);
    if !fits {
        let most = limits::MYSQL_USER_CHARACTERS_MAX;
        reader.complain(&user.at, format!("{} is no MySQL account of 1 to {most} characters", quote(&user.value)));
    }
    fits
}

/// An absolute path. Outer `None`: what is written there is none.
fn path(reader: &mut Reader<'_>, section: &Section<'_, '_>, key: &str) -> Option<Option<Arc<Path>>> {
    let Some(value) = section.table.get(key) else { return Some(None) };
    let text = reader.string(key, value)?;
    let path = PathBuf::from(&text.value);
    if !path.is_absolute() || text.value.contains('\0') {
        let message = format!("`{key}` is {}, no absolute path", quote(&text.value));
        reader.advise(&text.at, message, "write it from the root: \"/etc/ringway/lbcheck.password\"");
        return None;
    }
    Some(Some(path.into()))
}

fn tls(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Option<MysqlTls> {
    let ca = path(reader, section, "tls_ca")?;
    let name = match section.table.get("tls_name") {
        Some(value) => Some(reader.string("tls_name", value)?),
        None => None,
    };
    if let Some(name) = &name {
        let fits = |c: char| c.is_ascii_alphanumeric() || ".-:_".contains(c);
        if name.value.is_empty() || name.value.len() > limits::TLS_NAME_MAX || !name.value.chars().all(fits) {
            reader.complain(&name.at, format!("{} is no name of a host", quote(&name.value)));
            return None;
        }
    }
    let words = [("off", 0), ("require", 1), ("verify-ca", 2), ("verify-full", 3)];
    let chosen = match section.table.contains_key("tls") {
        true => reader.choice(section, "tls", &words, &[])?,
        false => 0,
    };
    let mut complain = |message: &str, help: &str| {
        reader.advise(&section.at, message, help);
        None
    };
    match (chosen, ca, name) {
        (0, None, None) => Some(MysqlTls::Off),
        (1, None, None) => Some(MysqlTls::Require),
        (2, Some(ca), None) => Some(MysqlTls::VerifyCa { ca }),
        (3, Some(ca), Some(name)) => Some(MysqlTls::VerifyFull { ca, name: name.value.into() }),
        (0 | 1, ..) => complain(
            "`tls_ca` and `tls_name` are for `tls = \"verify-ca\"` and \"verify-full\"",
            "take them out, or choose one of these",
        ),
        (2, Some(_), Some(_)) => {
            complain("`tls_name` is for `tls = \"verify-full\"`", "take it out, or choose \"verify-full\"")
        }
        (_, None, _) => complain(
            "`tls` needs the authority that signed the servers' certificates",
            "add `tls_ca = \"/etc/ringway/mysql-ca.pem\"`",
        ),
        (_, Some(_), None) => complain(
            "`tls = \"verify-full\"` needs the name that the servers' certificates are for",
            "add `tls_name = \"db.example.com\"`, or write \"verify-ca\"",
        ),
        (_, Some(_), Some(_)) => None,
    }
}

fn roles(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Option<RoleTerms> {
    let mut seconds = |key: &str, limit: &limits::Millis| -> Option<Option<Located<u32>>> {
        if !section.table.contains_key(key) {
            return Some(None);
        }
        let ms = reader.duration(section, key, limit)?;
        if ms.value % 1_000 != 0 {
            let help = "servers tell it in seconds (Seconds_Behind_Source)";
            reader.advise(&ms.at, format!("`{key}` is no whole number of seconds"), help);
            return None;
        }
        Some(Some(Located::new(ms.value / 1_000, ms.at)))
    };
    let (most, soft) = (seconds("max_lag", &limits::MAX_LAG)?, seconds("lag_soft", &limits::LAG_SOFT)?);
    let lag_max_s = most.map(|most| most.value).filter(|&most| most > 0);
    let lag_soft_s = match (soft, lag_max_s) {
        (None, most) => most.map_or(0, |most| most / 2),
        (Some(soft), None) => {
            reader.advise(&soft.at, "`lag_soft` without `max_lag`", "add `max_lag`, or take `lag_soft` out");
            return None;
        }
        (Some(soft), Some(most)) if soft.value > most => {
            let message = format!("`lag_soft` is longer than `max_lag` ({})", duration(most * 1_000));
            reader.advise(&soft.at, message, "from `lag_soft` on a replica's share falls, at `max_lag` it is nothing");
            return None;
        }
        (Some(soft), Some(_)) => soft.value,
    };
    let words = OnSplit::ALL.map(|word| (word.name(), word));
    let on_split = match section.table.contains_key("on_split") {
        true => reader.choice(section, "on_split", &words, &[])?,
        false => OnSplit::KeepLast,
    };
    let grace = reader.duration(section, "role_grace", &limits::ROLE_GRACE);
    let grace_ms = grace.map_or(limits::ROLE_GRACE.default, |grace| grace.value);
    Some(RoleTerms { lag_soft_s, lag_max_s, on_split, grace_ms })
}

/// `user = …` to `role_grace = …` as they stand in the file.
pub(super) fn print(question: &MysqlQuestion, roles: Option<&RoleTerms>) -> Vec<String> {
    let MysqlQuestion { user, password_file, tls } = question;
    let path = |path: &Path| string(&path.to_string_lossy());
    let mut parts = vec!["type = \"mysql\"".to_owned(), format!("user = {}", string(user))];
    parts.extend(password_file.as_deref().map(|file| format!("password_file = {}", path(file))));
    parts.push(match tls {
        MysqlTls::Off => "tls = \"off\"".to_owned(),
        MysqlTls::Require => "tls = \"require\"".to_owned(),
        MysqlTls::VerifyCa { ca } => format!("tls = \"verify-ca\", tls_ca = {}", path(ca)),
        MysqlTls::VerifyFull { ca, name } => {
            format!("tls = \"verify-full\", tls_ca = {}, tls_name = {}", path(ca), string(name))
        }
    });
    if let Some(RoleTerms { lag_soft_s, lag_max_s, on_split, grace_ms }) = roles {
        if let Some(most) = lag_max_s {
            let [soft, most] = [*lag_soft_s, *most].map(|s| duration(s * 1_000));
            parts.push(format!("max_lag = {most}, lag_soft = {soft}"));
        }
        parts.push(format!("on_split = \"{}\", role_grace = {}", on_split.name(), duration(*grace_ms)));
    }
    parts
}

/// Reads `role` and `fallback` of a listener.
pub(super) fn wish(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Option<Located<RoleWish>> {
    let at = section.table.get("role").or_else(|| section.table.get("fallback"))?.span();
    let words = [("primary", ServerRole::Primary), ("replica", ServerRole::Replica)];
    let fallbacks = [("none", false), ("primary", true)];
    let fallback = match section.table.contains_key("fallback") {
        true => reader.choice(section, "fallback", &fallbacks, &[])?,
        false => false,
    };
    if section.table.contains_key("role") {
        let role = reader.choice(section, "role", &words, &[])?;
        if !fallback || role == ServerRole::Replica {
            return Some(Located::new(RoleWish { role, fallback }, at));
        }
    }
    let help = "it says where reads go while no replica can take them";
    reader.advise(&at, "`fallback` is for a listener with `role = \"replica\"`", help);
    None
}

/// What is wrong between kind, check and role.
pub(super) fn rules(reader: &mut Reader<'_>, draft: &Draft) {
    for pool in &draft.pools {
        check_fits_kind(reader, pool);
    }
    for listener in &draft.listeners {
        role_can_be_had(reader, draft, listener);
    }
}

fn is_mysql(check: Option<&Check>) -> bool {
    check.is_some_and(|check| matches!(check.question, Question::Mysql(_)))
}

fn check_fits_kind(reader: &mut Reader<'_>, pool: &PoolDraft) {
    const HELP: &str =
        "write check = { type = \"mysql\", user = \"lbcheck\", password_file = \"/etc/ringway/lbcheck.password\" }";
    let name = quote(&pool.name.value);
    match (pool.kind, &pool.care.check, &pool.check_at) {
        (Kind::Mysql, None, None) => {
            let message = format!("pool {name} is of kind \"mysql\" and has no `check`");
            reader.advise(&pool.name.at, message, format!("{HELP}, or check = \"off\""));
        }
        (Kind::Mysql, Some(check), Some(at)) if !is_mysql(Some(check)) => {
            let message = format!("pool {name} is of kind \"mysql\"; this check would leave handshakes unfinished");
            // For which servers lock out the host they come from, after max_connect_errors of them.
            reader.advise(at, message, format!("{HELP}: others get this host locked out (error 1129)"));
        }
        (Kind::Tcp, Some(check), Some(at)) if is_mysql(Some(check)) => {
            let message = format!("a check of type \"mysql\", and pool {name} is not of kind \"mysql\"");
            reader.advise(at, message, "add `kind = \"mysql\"` to the pool");
        }
        _ => {}
    }
}

fn role_can_be_had(reader: &mut Reader<'_>, draft: &Draft, listener: &ListenerDraft) {
    let Some(wish) = &listener.role else { return };
    let Some(pool) = draft.pools.iter().find(|pool| *pool.name.value == *listener.pool.value) else { return };
    let could_not_be_read = pool.care.check.is_none() && pool.check_at.is_some() && !pool.check_off;
    if is_mysql(pool.care.check.as_ref()) || could_not_be_read {
        return;
    }
    let message = format!(
        "listener {} wants a {}, and nobody asks the servers of pool {} what they are",
        quote(&listener.name.value),
        wish.value.role.name(),
        quote(&pool.name.value)
    );
    reader.advise(&wish.at, message, "give the pool `kind = \"mysql\"` and a `check` of type \"mysql\"");
}
