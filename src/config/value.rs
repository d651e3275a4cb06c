//! What stands inside a string: durations, addresses, names and `${VAR}`. Pure functions from text to value, or to a
//! message and what to do.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use rustls::pki_types::ServerName;

use super::complaints::quote;
use super::limits::{CONNECT_RATE, Count, NAME_BYTES_MAX, STRING_BYTES_MAX, UNIX_PATH_BYTES_MAX};
use super::plan::{Address, Per};

/// What is wrong with a string, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Fault {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: Some(help.into()) }
    }

    /// In one line.
    pub(super) fn words(self) -> String {
        match self.help {
            Some(help) => format!("{}; {help}", self.message),
            None => self.message,
        }
    }
}

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads `"250ms"`, `"5m"`, `"1h30m"` as milliseconds. Units go from large to small, each once.
pub(super) fn duration(text: &str) -> Result<u64, Fault> {
    const HELP: &str = "write whole numbers with units, like \"250ms\", \"5m\" or \"1h30m\" (ms, s, m, h, d)";
    let bad = || Fault::new(format!("{} is no duration", quote(text)), HELP);
    if text.is_empty() {
        return Err(bad());
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let help = match text.trim_start_matches('0') {
            "" => "write \"0s\"".to_owned(),
            n if n.len() <= 9 => {
                format!("write \"{n}s\" for seconds, or \"{n}ms\" for milliseconds")
            }
            _ => HELP.to_owned(),
        };
        return Err(Fault::new(format!("duration {} has no unit", quote(text)), help));
    }
    let (mut rest, mut total, mut above) = (text, 0_u64, u64::MAX);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (_, unit) = UNITS.into_iter().find(|(name, _)| *name == &rest[..letters]).ok_or_else(bad)?;
        if unit >= above {
            return Err(bad());
        }
        above = unit;
        rest = &rest[letters..];
        total = number.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
    }
    Ok(total)
}

/// Writes milliseconds the way [`duration`] reads them: `90_000` is `1m30s`.
pub(super) fn duration_text(ms: u64) -> String {
    if ms == 0 {
        return "0s".into();
    }
    let (mut rest, mut text) = (ms, String::new());
    for (name, unit) in UNITS.into_iter().rev() {
        if rest >= unit {
            text.push_str(&format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    text
}

/// Whether a certificate may be for it: a DNS name, or an address.
pub(super) fn is_server_name(text: &str) -> bool {
    ServerName::try_from(text).is_ok()
}

/// A host without its port: `www.example.com` of `www.example.com:8080`, `::1` of `[::1]:80`.
pub(super) fn without_port(host: &str) -> &str {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    }
}

/// Reads `"200/s"` or `"30/m"`.
pub(super) fn rate(text: &str) -> Result<(u32, Per), Fault> {
    let bad = || {
        Fault::new(
            format!("{} is no rate", quote(text)),
            "write a number a second or a minute, like \"200/s\" or \"30/m\"",
        )
    };
    let (count, per) = text.split_once('/').ok_or_else(bad)?;
    let per = match per {
        "s" => Per::Second,
        "m" => Per::Minute,
        _ => return Err(bad()),
    };
    let digits = !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
    let count = count.parse().ok().filter(|_| digits).ok_or_else(bad)?;
    let Count { least, most, .. } = CONNECT_RATE;
    if !(least..=most).contains(&count) {
        return Err(Fault { message: format!("{} is out of range: {least} to {most}", quote(text)), help: None });
    }
    Ok((count, per))
}

/// Replaces `${VAR}` by what `env` says; `$${` stands for `${`. What was put in is not looked at again.
pub(super) fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, Fault> {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(found) = rest.find("${") {
        let (before, after) = (&rest[..found], &rest[found + 2..]);
        if let Some(kept) = before.strip_suffix('$') {
            out.push_str(kept);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let Some(end) = after.find('}') else {
            return Err(Fault::new("`${` is never closed", "close it with `}`, or write `$${` for the two characters"));
        };
        let name = &after[..end];
        if !is_variable(name) {
            return Err(Fault::new(
                format!("{} is no name of an environment variable", quote(name)),
                "write `${NAME}` with letters, digits and `_`, or `$${` for the two characters `${`",
            ));
        }
        let Some(value) = env(name) else {
            return Err(Fault::new(
                format!("environment variable `{name}` is not set"),
                "set it where ringway is started, or write the value here",
            ));
        };
        out.push_str(&value);
        rest = &after[end + 1..];
        if out.len() > STRING_BYTES_MAX {
            break;
        }
    }
    out.push_str(rest);
    if out.len() > STRING_BYTES_MAX {
        return Err(Fault {
            message: format!("this string has {} bytes; most is {STRING_BYTES_MAX}", out.len()),
            help: None,
        });
    }
    Ok(out)
}

/// Undoes [`expand`] for a string that must come back as it is.
pub(super) fn unexpanded(text: &str) -> String {
    text.replace("${", "$${")
}

fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 128
        && bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Checks the name of a `what` ("listener", "pool", "server").
pub(super) fn name(what: &str, text: &str) -> Result<(), Fault> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if text.is_empty() {
        return Err(Fault::new(format!("the name of a {what} is empty"), NAME_HELP));
    }
    if text.len() > NAME_BYTES_MAX {
        let message = format!("the name of a {what} has {} bytes; most is {NAME_BYTES_MAX}", text.len());
        return Err(Fault { message, help: None });
    }
    match text.bytes().all(fine) {
        true => Ok(()),
        false => Err(Fault::new(format!("{} cannot name a {what}", quote(text)), NAME_HELP)),
    }
}

const NAME_HELP: &str = "a name has letters, digits, `.`, `_` and `-`";

/// Reads `10.0.0.1:80`, `[::1]:80` or `unix:/path`.
pub(super) fn address(text: &str) -> Result<Address, Fault> {
    match text.strip_prefix("unix:") {
        Some(path) => unix_path(path).map(Address::Unix),
        None => inet(text).map(Address::Inet),
    }
}

/// Reads an absolute path that fits into a `sockaddr_un`.
pub(super) fn unix_path(path: &str) -> Result<PathBuf, Fault> {
    if path.len() > UNIX_PATH_BYTES_MAX {
        return Err(Fault::new(
            format!("the path of this socket has {} bytes; most is {UNIX_PATH_BYTES_MAX}", path.len()),
            "the kernel allows no more (unix(7)); use a shorter directory",
        ));
    }
    absolute(path)
}

/// Reads an absolute path.
pub(super) fn absolute(path: &str) -> Result<PathBuf, Fault> {
    if path.chars().any(char::is_control) {
        return Err(Fault::new(
            format!("{} has a control character", quote(path)),
            "in double quotes a backslash begins an escape; write `\\\\` for the character",
        ));
    }
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(Fault::new(
            format!("{} is no absolute path of a file", quote(path)),
            "begin it with `/`; the daemon has no directory of its own",
        ));
    }
    Ok(PathBuf::from(path))
}

/// Reads `10.0.0.1:80` or `[::1]:80`; the port is never 0.
pub(super) fn inet(text: &str) -> Result<SocketAddr, Fault> {
    let address: SocketAddr = text.parse().map_err(|_| not_inet(text))?;
    if address.port() == 0 {
        return Err(Fault::new(format!("{} has port 0", quote(text)), "a port is from 1 to 65535"));
    }
    plain(address.ip())?;
    Ok(address)
}

/// Reads bytes in hexadecimal, two digits each; spaces between them do not matter.
pub(super) fn hex(text: &str) -> Result<Vec<u8>, Fault> {
    const HELP: &str = "write two hexadecimal digits a byte, like \"0d0a\" or \"0d 0a\"";
    let digits: Vec<char> = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some((high.to_digit(16)? << 4 | low.to_digit(16)?) as u8),
        _ => None,
    });
    pairs.collect::<Option<_>>().ok_or_else(|| Fault::new(format!("{} is no hexadecimal", quote(text)), HELP))
}

/// Reads an IP address without a port.
pub(super) fn ip(text: &str) -> Result<IpAddr, Fault> {
    let address: IpAddr = text.parse().map_err(|_| match text.parse::<SocketAddr>() {
        Ok(socket) => Fault::new(
            format!("{} has a port", quote(text)),
            format!("write \"{}\"; the kernel chooses the port", socket.ip()),
        ),
        Err(_) => Fault::new(format!("{} is no IP address", quote(text)), "write it like \"10.0.0.1\" or \"fd00::1\""),
    })?;
    plain(address)?;
    Ok(address)
}

/// One address has one spelling, and it belongs to one host.
fn plain(address: IpAddr) -> Result<(), Fault> {
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Err(Fault::new(format!("{v6} is an IPv4 address in IPv6 dress"), format!("write {v4}")));
    }
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_multicast() || broadcast {
        return Err(Fault::new(
            format!("{address} is a multicast or broadcast address"),
            "TCP needs the address of one host",
        ));
    }
    Ok(())
}

/// Says what kept `text` from being an address and a port.
fn not_inet(text: &str) -> Fault {
    const FORMS: &str = "write \"10.0.0.1:80\", \"[fd00::1]:80\" or \"unix:/path\"";
    match text.parse() {
        Ok(IpAddr::V4(v4)) => {
            return Fault::new(format!("{} has no port", quote(text)), format!("write \"{v4}:80\""));
        }
        Ok(IpAddr::V6(_)) => {
            return Fault::new(
                format!("{} is an IPv6 address without a port", quote(text)),
                "write it in brackets with a port, like \"[fd00::1]:80\"",
            );
        }
        Err(_) => {}
    }
    if let Some(rest) = text.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((host, "")) if host.parse::<IpAddr>().is_ok() => {
                Fault::new(format!("{} has no port", quote(text)), format!("write \"[{host}]:80\""))
            }
            _ => Fault::new(format!("{} is no address", quote(text)), FORMS),
        };
    }
    if text.starts_with('/') {
        return Fault::new(
            format!("{} is no address", quote(text)),
            format!("write \"unix:{text}\" for a unix socket"),
        );
    }
    if text.contains("://") {
        return Fault::new(format!("{} is a URL, not an address", quote(text)), FORMS);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    if host.is_empty() || host == "*" {
        let port = if port.is_empty() { "80" } else { port };
        return Fault::new(
            format!("{} does not say which addresses", quote(text)),
            format!("write \"0.0.0.0:{port}\" for all of IPv4, \"[::]:{port}\" for all of IPv6, or both"),
        );
    }
    if host.parse::<IpAddr>().is_ok() {
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let what = if digits { "a port above 65535" } else { "no numeric port" };
        return Fault::new(format!("{} has {what}", quote(text)), "a port is from 1 to 65535");
    }
    let hostlike = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if host.bytes().all(hostlike) && !numeric {
        return Fault::new(
            format!("{} is a host name; DNS is not supported yet", quote(text)),
            "write the IP address, like \"10.0.0.1:80\"",
        );
    }
    Fault::new(format!("{} is no address", quote(text)), FORMS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        for (text, ms) in
            [("250ms", 250), ("5m", 300_000), ("1h30m", 5_400_000), ("0s", 0), ("1d1ms", 86_400_001), ("055s", 55_000)]
        {
            assert_eq!(duration(text), Ok(ms), "{text}");
        }
        for text in [
            "",
            "5",
            "5 s",
            "s",
            "1.5s",
            "-5s",
            "5M",
            "5m5m",
            "5s1m",
            "5s3",
            "99999999999999999999s",
            "18446744073709551615d",
            "1µs",
            "5é",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(
            duration("30").expect_err("no unit").help.as_deref(),
            Some("write \"30s\" for seconds, or \"30ms\" for milliseconds")
        );
    }

    #[test]
    fn rates() {
        assert_eq!(rate("200/s"), Ok((200, Per::Second)));
        assert_eq!(rate("1/m"), Ok((1, Per::Minute)));
        for text in ["", "/", "5", "5/", "/s", "5/h", "5 /s", "+5/s", "-5/s", "0/s", "1000001/s", "1.5/s", "5/s/s"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn variables() {
        let env = |name: &str| match name {
            "A" => Some("1${B}".to_owned()),
            "LONG" => Some("x".repeat(5000)),
            _ => None,
        };
        assert_eq!(expand("${A}:${A}", &env).as_deref(), Ok("1${B}:1${B}"));
        assert_eq!(expand("$${A} $A $", &env).as_deref(), Ok("${A} $A $"));
        for text in ["${B}", "${A", "${}", "${A:-1}", "${LONG}"] {
            assert!(expand(text, &env).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses() {
        for text in ["10.0.0.1:80", "[::1]:80", "[fe80::1%2]:80", "unix:/run/a.sock", "0.0.0.0:65535"] {
            assert_eq!(address(text).expect(text).to_string(), text);
        }
        for (text, part) in [
            ("10.0.0.1", "no port"),
            ("10.0.0.1:0", "port 0"),
            ("10.0.0.1:65536", "above 65535"),
            ("10.0.0.1:", "no numeric port"),
            ("::1:80", "without a port"),
            ("[::1]", "no port"),
            ("[::1", "no address"),
            ("*:80", "which addresses"),
            (":80", "which addresses"),
            ("localhost:80", "host name"),
            ("a.example.com", "host name"),
            ("10.0.0.300:80", "no address"),
            ("http://10.0.0.1:80", "URL"),
            ("/run/a.sock", "no address"),
            ("unix:a.sock", "absolute"),
            ("unix:/run/", "absolute"),
            ("", "which addresses"),
            ("[::ffff:10.0.0.1]:80", "IPv6 dress"),
            ("224.0.0.1:80", "multicast"),
        ] {
            let fault = address(text).expect_err(text);
            assert!(fault.message.contains(part), "{text}: {}", fault.message);
        }
    }

    proptest! {
        #[test]
        fn a_duration_reads_back(ms in 0..u64::from(u32::MAX)) {
            prop_assert_eq!(duration(&duration_text(ms)), Ok(ms));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}|[0-9a-z:.\\[\\]/$\\{\\}*%-]{0,40}") {
            let _ = duration(&text);
            let _ = address(&text);
            let _ = ip(&text);
            let _ = name("pool", &text);
            let escaped = unexpanded(&text);
            let back = expand(&escaped, &|_| None);
            prop_assert_eq!(back, Ok(text));
        }
    }
}
