//! Reads and writes `check`, `eject`, `fail_open` and `on_down` of a pool.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use toml::de::DeValue;

use super::complaints::{At, Located, quote};
use super::keys::{self, Keys};
use super::limits;
use super::mysql;
use super::plan::{Care, Check, CheckPace, Eject, HttpQuestion, HttpTls, Kind, OnDown, Question, Verify};
use super::pools::send_proxy;
use super::print::{self, duration, string};
use super::read::{Reader, Section, Value, kind, tick};
use super::value;
use crate::proxy_protocol::Version;

/// Reads all of them, and where `check` was given. `sends` is what servers of the pool are told first.
pub(super) fn care(
    reader: &mut Reader<'_>,
    section: &Section<'_, '_>,
    pool: Kind,
    sends: Option<Version>,
) -> (Care, Option<At>, bool) {
    let mut care = Care { eject: Some(limits::EJECT_DEFAULT), ..Care::default() };
    let mut check_at = None;
    let mut check_off = false;
    if let Some(value) = section.table.get("check") {
        check_off = matches!(value.get_ref(), DeValue::String(text) if text == "off");
        care.check = if check_off { None } else { check(reader, value, sends) };
        check_at = Some(value.span());
    }
    if let Some(value) = section.table.get("eject") {
        care.eject = eject(reader, value);
    }
    care.fail_open = reader.boolean(section, "fail_open").unwrap_or(false);
    if let (true, Kind::Mysql, Some(value)) = (care.fail_open, pool, section.table.get("fail_open")) {
        let help = "take it out: a database that is down, or of the wrong role, must not be written to";
        reader.advise(&value.span(), "`fail_open` is not for a pool of kind \"mysql\"", help);
    }
    let words = [("keep", OnDown::Keep), ("close", OnDown::Close)];
    let profile = match pool {
        Kind::Tcp => OnDown::Keep,
        Kind::Mysql => OnDown::Close,
    };
    care.on_down = reader.choice(section, "on_down", &words, &[]).unwrap_or(profile);
    (care, check_at, check_off)
}

/// An inline table with keys of its own.
fn inline<'t, 'd>(
    reader: &mut Reader<'_>,
    key: &str,
    value: &'t Value<'d>,
    keys: &Keys,
    help: &str,
) -> Option<Section<'t, 'd>> {
    let DeValue::Table(table) = value.get_ref() else {
        let message = format!("`{key}` must be a table, found {}", kind(value.get_ref()));
        reader.advise(&value.span(), message, help);
        return None;
    };
    let section = Section { called: format!("`{key}`"), table, at: value.span() };
    reader.keys(&section, keys);
    Some(section)
}

fn eject(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Eject> {
    const HELP: &str = "write { failures = 5, for = \"10s\", max_for = \"5m\" }, or \"off\"";
    if matches!(value.get_ref(), DeValue::String(_)) {
        let text = reader.string("eject", value)?;
        if text.value != "off" {
            reader.advise(&text.at, format!("`eject` cannot be {}", quote(&text.value)), HELP);
        }
        return None;
    }
    let section = inline(reader, "eject", value, &keys::EJECT, HELP)?;
    let mut eject = limits::EJECT_DEFAULT;
    if let Some(failures) = reader.count(&section, "failures", limits::EJECT_FAILURES) {
        eject.failures = failures.value;
    }
    if let Some(first) = reader.duration(&section, "for", &limits::EJECT_FOR) {
        eject.for_ms = first.value;
    }
    match reader.duration(&section, "max_for", &limits::EJECT_FOR_MAX) {
        Some(most) if most.value < eject.for_ms => {
            let message = format!("`max_for` is shorter than `for` ({})", duration(eject.for_ms));
            reader.advise(&most.at, message, "the first rest takes `for`, each that follows soon twice as long");
        }
        Some(most) => eject.for_ms_max = most.value,
        None => eject.for_ms_max = eject.for_ms_max.max(eject.for_ms),
    }
    Some(eject)
}

/// The types of a check, with the keys that only they have.
const TYPES: [(&str, &[&str]); 4] = [
    ("tcp", &[]),
    ("send-expect", &["send", "send_hex", "expect", "expect_hex"]),
    ("http", &["path", "method", "host", "expect", "tls", "sni", "verify"]),
    ("mysql", mysql::CHECK_KEYS),
];

fn check(reader: &mut Reader<'_>, value: &Value<'_>, sends: Option<Version>) -> Option<Check> {
    const HELP: &str = "write { type = \"tcp\" }, or { type = \"http\", path = \"/healthz\" }";
    let section = inline(reader, "check", value, &keys::CHECK, HELP)?;
    let Some(written) = section.table.get("type") else {
        reader.advise(
            &section.at,
            "`check` has no `type`",
            "add `type = \"tcp\"`, \"send-expect\", \"http\" or \"mysql\"",
        );
        return None;
    };
    let word = reader.string("type", written)?;
    let Some((word, _)) = TYPES.into_iter().find(|(name, _)| *name == word.value) else {
        reader.refuse_word("type", &word, &TYPES.map(|(name, _)| name), &[]);
        return None;
    };
    others_keys(reader, &section, word);
    let pace = pace(reader, &section, word);
    let address = section.table.get("address").and_then(|value| {
        let text = reader.string("address", value)?;
        if let Ok(socket) = text.value.parse::<SocketAddr>() {
            let help = format!("write address = \"{}\", port = {}", socket.ip(), socket.port());
            reader.advise(&text.at, format!("{} has a port", quote(&text.value)), help);
            return None;
        }
        reader.check(&text.at, value::ip(&text.value)).map(|address| address.value)
    });
    let port = reader.count(&section, "port", limits::PORT).and_then(|port| u16::try_from(port.value).ok());
    // Whoever answers for a server elsewhere is another program, and perhaps takes no header: HAProxy's checks send none then.
    let is_elsewhere = section.table.contains_key("address") || section.table.contains_key("port");
    let usual = if is_elsewhere { None } else { sends };
    let send_proxy = send_proxy(reader, &section).unwrap_or(usual);
    let mut roles = None;
    let question = match word {
        "mysql" => {
            let (question, terms) = mysql::question(reader, &section)?;
            roles = Some(terms);
            question
        }
        "http" => Question::Http(http(reader, &section)?),
        "send-expect" => send_expect(reader, &section)?,
        _ => Question::Tcp,
    };
    Some(Check { question, address, port, send_proxy, pace, roles })
}

/// Refuses keys that belong to another type.
fn others_keys(reader: &mut Reader<'_>, section: &Section<'_, '_>, word: &str) {
    for (key, _) in section.table.iter() {
        let name: &str = key.get_ref();
        let owners = || TYPES.into_iter().filter(|(_, keys)| keys.contains(&name));
        if owners().next().is_some() && !owners().any(|(owner, _)| owner == word) {
            let owners: Vec<String> = owners().map(|(owner, _)| format!("\"{owner}\"")).collect();
            let message = format!("{} is for a check of type {}, not \"{word}\"", tick(name), owners.join(" or "));
            reader.advise(&key.span(), message, "take it out, or change `type`");
        }
    }
}

fn pace(reader: &mut Reader<'_>, section: &Section<'_, '_>, word: &str) -> CheckPace {
    let (interval_limit, timeout_limit) = match word {
        "mysql" => (&limits::CHECK_INTERVAL_MYSQL, &limits::CHECK_TIMEOUT_MYSQL),
        _ => (&limits::CHECK_INTERVAL, &limits::CHECK_TIMEOUT),
    };
    let mut ms = |key: &str, limit: &limits::Millis| reader.duration(section, key, limit);
    let interval = ms("interval", interval_limit);
    let fast = ms("fast_interval", &limits::CHECK_FAST);
    let timeout = ms("timeout", timeout_limit);
    let interval_ms = interval.map_or(interval_limit.default, |found| found.value);
    let fast_ms = match fast {
        Some(fast) if fast.value > interval_ms => {
            let message = format!("`fast_interval` is longer than `interval` ({})", duration(interval_ms));
            reader.advise(&fast.at, message, "it is the interval while a server may be about to change its state");
            interval_ms
        }
        Some(fast) => fast.value,
        None => limits::CHECK_FAST.default.min(interval_ms),
    };
    let mut times = |key: &str, default: u8| {
        let read = reader.count(section, key, limits::CHECK_TIMES);
        read.and_then(|count| u8::try_from(count.value).ok()).unwrap_or(default)
    };
    CheckPace {
        interval_ms,
        fast_ms,
        timeout_ms: timeout.map_or(timeout_limit.default, |found| found.value),
        rise: times("rise", limits::CHECK_RISE_DEFAULT),
        fall: times("fall", limits::CHECK_FALL_DEFAULT),
    }
}

fn send_expect(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Option<Question> {
    let send = bytes(reader, section, "send", "send_hex")?;
    let expect = bytes(reader, section, "expect", "expect_hex")?;
    if expect.is_empty() {
        const HELP: &str =
            "add `expect = \"...\"` or `expect_hex`; a check that expects nothing is one of type \"tcp\"";
        reader.advise(&section.at, "`check` has nothing to `expect`", HELP);
        return None;
    }
    Some(Question::SendExpect { send: send.into(), expect: expect.into() })
}

/// The bytes of `text`, or those of `hex`; none when neither is there, `None` when something is wrong.
fn bytes(reader: &mut Reader<'_>, section: &Section<'_, '_>, text: &str, hex: &str) -> Option<Vec<u8>> {
    let bytes = match (section.table.get(text), section.table.get(hex)) {
        (Some(value), None) => {
            let found = reader.string(text, value)?;
            Located::new(found.value.into_bytes(), found.at)
        }
        (None, Some(value)) => {
            let found = reader.string(hex, value)?;
            reader.check(&found.at, value::hex(&found.value))?
        }
        (None, None) => return Some(Vec::new()),
        (Some(_), Some(value)) => {
            reader.advise(&value.span(), format!("both `{text}` and `{hex}` are given"), "take one of the two out");
            return None;
        }
    };
    if bytes.value.len() > limits::CHECK_BYTES_MAX {
        let message = format!("{} bytes; most is {}", bytes.value.len(), limits::CHECK_BYTES_MAX);
        reader.complain(&bytes.at, message);
        return None;
    }
    Some(bytes.value)
}

fn http(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Option<HttpQuestion> {
    let mut word = |key: &str, most: usize, fine: &dyn Fn(&str) -> bool, what: &str, help: &str| {
        let Some(value) = section.table.get(key) else { return Some(None) };
        let text = reader.string(key, value)?;
        if text.value.is_empty() || text.value.len() > most || !fine(&text.value) {
            reader.advise(&text.at, format!("{} is no {what}", quote(&text.value)), help);
            return None;
        }
        Some(Some(Arc::from(text.value)))
    };
    let visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let path = |text: &str| text.starts_with('/') && visible(text);
    let method = |text: &str| text.bytes().all(|byte| byte.is_ascii_uppercase());
    let path_help = format!("it begins with `/`, has no space, and up to {} bytes", limits::CHECK_PATH_MAX);
    let path = word("path", limits::CHECK_PATH_MAX, &path, "path of an HTTP request", &path_help);
    let method =
        word("method", limits::CHECK_METHOD_MAX, &method, "HTTP method", "write \"GET\", \"HEAD\" or \"OPTIONS\"");
    let host_help = "write a name, or an address, with a port perhaps: \"www.example.com\"";
    let host = word("host", limits::CHECK_HOST_MAX, &visible, "host of an HTTP request", host_help);
    let expect = match section.table.get("expect") {
        Some(value) => statuses(reader, value),
        None => Some(vec![limits::CHECK_STATUS_DEFAULT]),
    };
    let host = host?;
    let tls = tls(reader, section, host.as_deref());
    Some(HttpQuestion {
        method: method?.unwrap_or_else(|| "GET".into()),
        path: path?.unwrap_or_else(|| "/".into()),
        host,
        expect: expect?,
        tls: tls?,
    })
}

/// Whether and how the request goes through TLS. Outer `None`: that is written wrong.
fn tls(reader: &mut Reader<'_>, section: &Section<'_, '_>, host: Option<&str>) -> Option<Option<HttpTls>> {
    let wanted = match section.table.contains_key("tls") {
        true => reader.boolean(section, "tls")?,
        false => false,
    };
    let sni = match section.table.get("sni") {
        Some(value) => Some(reader.string("sni", value)?),
        None => None,
    };
    let verify = verify(reader, section)?;
    if !wanted {
        for key in ["sni", "verify"] {
            if let Some(value) = section.table.get(key) {
                reader.advise(&value.span(), format!("`{key}` without `tls`"), "add `tls = true`, or take it out");
                return None;
            }
        }
        return Some(None);
    }
    if let Some(text) = &sni
        && !value::is_server_name(&text.value)
    {
        let message = format!("{} is neither a DNS name nor an address", quote(&text.value));
        let help = "write the name that the server's certificate is for: \"www.example.com\"";
        reader.advise(&text.at, message, help);
        return None;
    }
    let name = match &sni {
        Some(text) => Some(text.value.as_str()),
        None => host.map(value::without_port).filter(|name| value::is_server_name(name)),
    };
    Some(Some(HttpTls { name: name.map(Arc::from), verify }))
}

/// `"system"`, `"none"`, or the path of a file.
fn verify(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Option<Verify> {
    let Some(value) = section.table.get("verify") else { return Some(Verify::System) };
    let text = reader.string("verify", value)?;
    match text.value.as_str() {
        "system" => Some(Verify::System),
        "none" => Some(Verify::Nothing),
        path if path.starts_with('/') && !path.contains('\0') => Some(Verify::Authorities(Path::new(path).into())),
        other => {
            let message = format!("`verify` cannot be {}", quote(other));
            let help =
                "write \"system\", \"none\", or the absolute path of a PEM file with certificates of authorities";
            reader.advise(&text.at, message, help);
            None
        }
    }
}

/// `200`, `"200-399"`, or a list of such.
fn statuses(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Vec<(u16, u16)>> {
    const HELP: &str = "write a status like 200, a range like \"200-399\", or a list of both";
    let one = |reader: &mut Reader<'_>, value: &Value<'_>| -> Option<(u16, u16)> {
        let (shown, found) = match value.get_ref() {
            DeValue::Integer(number) => {
                let status = u16::from_str_radix(number.as_str(), number.radix()).ok();
                (number.to_string(), status.map(|status| (status, status)))
            }
            DeValue::String(_) => {
                let text = reader.string("expect", value)?.value;
                let range = text.split_once('-').unwrap_or((&text, &text));
                let [from, to] = [range.0, range.1].map(|part| part.trim().parse::<u16>().ok());
                (text.clone(), from.zip(to))
            }
            other => {
                reader.advise(&value.span(), format!("`expect` cannot be {}", kind(other)), HELP);
                return None;
            }
        };
        let sound = found.filter(|(from, to)| 100 <= *from && from <= to && *to <= 599);
        if sound.is_none() {
            let message = format!("{} is no HTTP status from 100 to 599, nor a range of them", quote(&shown));
            reader.advise(&value.span(), message, HELP);
        }
        sound
    };
    let DeValue::Array(items) = value.get_ref() else {
        return one(reader, value).map(|range| vec![range]);
    };
    if items.is_empty() || items.len() > limits::CHECK_STATUSES_MAX {
        let message = format!("`expect` has {} entries; it must have 1 to {}", items.len(), limits::CHECK_STATUSES_MAX);
        reader.advise(&value.span(), message, HELP);
        return None;
    }
    let read: Vec<_> = items.iter().map(|item| one(reader, item)).collect();
    read.into_iter().collect()
}

/// `eject` as its value in the file.
pub(super) fn print_eject(eject: Option<Eject>) -> String {
    let Some(Eject { failures, for_ms, for_ms_max }) = eject else { return "\"off\"".into() };
    format!("{{ failures = {failures}, for = {}, max_for = {} }}", duration(for_ms), duration(for_ms_max))
}

/// `check` as its value in the file, in a pool that sends its servers such headers; `None` when there is none.
pub(super) fn print_check(check: Option<&Check>, sends: Option<Version>) -> Option<String> {
    let Check { question, address, port, send_proxy, pace, roles } = check?;
    let mut parts = Vec::new();
    match question {
        Question::Mysql(question) => parts.extend(mysql::print(question, roles.as_ref())),
        Question::Tcp => parts.push("type = \"tcp\"".to_owned()),
        Question::SendExpect { send, expect } => {
            parts.push("type = \"send-expect\"".to_owned());
            if !send.is_empty() {
                parts.push(print_bytes("send", send));
            }
            parts.push(print_bytes("expect", expect));
        }
        Question::Http(HttpQuestion { method, path, host, expect, tls }) => {
            parts.push("type = \"http\"".to_owned());
            parts.push(format!("method = {}, path = {}", string(method), string(path)));
            parts.extend(host.as_deref().map(|host| format!("host = {}", string(host))));
            parts.push(format!("expect = {}", print_statuses(expect)));
            parts.extend(tls.as_ref().map(print_tls));
        }
    }
    parts.extend(address.map(|address: IpAddr| format!("address = \"{address}\"")));
    parts.extend(port.map(|port| format!("port = {port}")));
    if sends.is_some() || send_proxy.is_some() {
        parts.push(format!("send_proxy = \"{}\"", print::send_proxy(*send_proxy)));
    }
    let CheckPace { interval_ms, fast_ms, timeout_ms, rise, fall } = *pace;
    let [interval, fast, timeout] = [interval_ms, fast_ms, timeout_ms].map(duration);
    parts.push(format!("interval = {interval}, fast_interval = {fast}, timeout = {timeout}"));
    parts.push(format!("rise = {rise}, fall = {fall}"));
    Some(format!("{{ {} }}", parts.join(", ")))
}

fn print_tls(HttpTls { name, verify }: &HttpTls) -> String {
    let name = name.as_deref().map_or_else(String::new, |name| format!("sni = {}, ", string(name)));
    let verify = match verify {
        Verify::System => "\"system\"".to_owned(),
        Verify::Nothing => "\"none\"".to_owned(),
        Verify::Authorities(file) => string(&file.to_string_lossy()),
    };
    format!("tls = true, {name}verify = {verify}")
}

/// As text where it is some, else in hexadecimal.
fn print_bytes(key: &str, bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        // A string with line ends would print as one of several lines, which an inline table cannot hold.
        Ok(text) if !text.chars().any(char::is_control) => format!("{key} = {}", string(text)),
        _ => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{key}_hex = \"{hex}\"")
        }
    }
}

/// Statuses as their value in the file.
pub(super) fn print_statuses(expect: &[(u16, u16)]) -> String {
    let one = |&(from, to): &(u16, u16)| if from == to { from.to_string() } else { format!("\"{from}-{to}\"") };
    match expect {
        [only] => one(only),
        several => format!("[{}]", several.iter().map(one).collect::<Vec<_>>().join(", ")),
    }
}

impl OnDown {
    /// Its word in the file.
    pub fn name(self) -> &'static str {
        match self {
            OnDown::Keep => "keep",
            OnDown::Close => "close",
        }
    }
}
