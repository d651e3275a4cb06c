//! `show sess`: the sessions that live.
//!
//! HAProxy names a session by its address in memory, ringway by its number in the same form; `id=` is its name in the log, and
//! either may be given back. Behind the fields that scripts look for (`proto`, `src`, `fe`, `be`, `srv`, `age`) HAProxy has its
//! own innards; here are ringway's.

use std::fmt::Write;
use std::time::Duration;

use crate::dataplane::record::session_name;
use crate::dataplane::roll::{Called, Row};

/// A line for each, the oldest first; and one more when there are too many to show.
pub(super) fn lines(called: Called) -> String {
    write_all(called, |row, out| {
        let (_, server, source) = around(row);
        let _ = writeln!(
            out,
            "{}: proto={} src={source} fe={} be={} srv={server} age={} idle={} id={} state={} bin={} bout={}",
            pointer(row),
            protocol(row),
            row.listener.name,
            row.listener.pool.name,
            seconds(row.age_ns),
            seconds(row.idle_ns),
            session_name(row.session),
            row.phase,
            row.bytes_in,
            row.bytes_out
        );
    })
}

/// All about each.
pub(super) fn details(called: Called) -> String {
    write_all(called, |row, out| {
        let (index, server, source) = around(row);
        let _ = writeln!(
            out,
            "{}: id={} proto={} source={source}\n  frontend={} (mode=tcp)\n  backend={} (mode=tcp)\n  server={server} \
             (id={index})\n  state={} age={} idle={}\n  bytes_in={} bytes_out={}",
            pointer(row),
            session_name(row.session),
            protocol(row),
            row.listener.name,
            row.listener.pool.name,
            row.phase,
            seconds(row.age_ns),
            seconds(row.idle_ns),
            row.bytes_in,
            row.bytes_out
        );
    })
}

fn write_all(called: Called, one: impl Fn(&Row, &mut String)) -> String {
    let Called { mut rows, found, complete } = called;
    rows.sort_by_key(|row| (std::cmp::Reverse(row.age_ns), row.session));
    let mut out = String::new();
    rows.iter().for_each(|row| one(row, &mut out));
    if found > rows.len() as u64 {
        let _ = writeln!(out, "# {} of {found} sessions", rows.len());
    }
    if !complete {
        out.push_str("# a worker is too busy to say which sessions it has; ask again\n");
    }
    out
}

fn pointer(row: &Row) -> String {
    format!("{:#x}", row.session)
}

/// Number and name of its server, and where it comes from.
fn around(row: &Row) -> (i64, &str, String) {
    let server = row.server.and_then(|index| row.listener.pool.servers.get(usize::from(index)));
    let index = row.server.map_or(-1, |index| i64::from(index) + 1);
    let source = row.client.map_or("unix:1".to_owned(), |client| client.to_string());
    (index, server.map_or("<none>", |server| &*server.name), source)
}

fn protocol(row: &Row) -> &'static str {
    match row.client {
        Some(client) if client.is_ipv4() => "tcpv4",
        Some(_) => "tcpv6",
        None => "unix_stream",
    }
}

/// As HAProxy writes ages: the two largest units.
fn seconds(ns: u64) -> String {
    let s = Duration::from_nanos(ns).as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m{}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{}m", s / 3_600, s / 60 % 60),
        _ => format!("{}d{}h", s / 86_400, s / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::observe::panel::tests::plan;

    fn called(ages_s: &[u64]) -> Called {
        let listener = Arc::clone(&plan().listeners[0]);
        let row = |(index, &age_s): (usize, &u64)| Row {
            session: (1 << 48) + index as u64,
            listener: Arc::clone(&listener),
            server: if index == 0 { None } else { Some(1) },
            client: if index == 0 { None } else { Some("10.0.0.9:4000".parse().expect("an address")) },
            phase: "relaying",
            age_ns: age_s * 1_000_000_000,
            idle_ns: 0,
            bytes_in: 3,
            bytes_out: 4,
        };
        Called { rows: ages_s.iter().enumerate().map(row).collect(), found: ages_s.len() as u64, complete: true }
    }

    #[test]
    fn a_line_for_each() {
        let said = lines(called(&[5, 3_700]));
        assert_eq!(
            said,
            "0x1000000000001: proto=tcpv4 src=10.0.0.9:4000 fe=web be=web srv=web2 age=1h1m idle=0s id=1-1 state=relaying \
             bin=3 bout=4\n0x1000000000000: proto=unix_stream src=unix:1 fe=web be=web srv=<none> age=5s idle=0s id=1-0 \
             state=relaying bin=3 bout=4\n"
        );
        let cut = Called { found: 9, complete: false, ..called(&[1]) };
        let said = lines(cut);
        assert!(said.contains("\n# 1 of 9 sessions\n# a worker is too busy"), "{said}");
        assert_eq!(lines(called(&[])), "");
    }

    #[test]
    fn all_about_one() {
        let said = details(called(&[5, 61]));
        assert!(said.starts_with("0x1000000000001: id=1-1 proto=tcpv4 source=10.0.0.9:4000\n  frontend=web"), "{said}");
        assert!(said.contains("server=web2 (id=2)\n  state=relaying age=1m1s"), "{said}");
    }
}
