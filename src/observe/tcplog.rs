//! The access log as HAProxy writes it in TCP mode: its configuration manual, §8.2.2,
//! `%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq`.
//!
//! Where ringway has no such thing, the line says what HAProxy says of its absence: `0/0` for the lengths of queues, -1 for a step that was not reached, `<NOSRV>` for a server that was not chosen. Names need no look: the
//! configuration allows letters, digits, `.`, `_` and `-`.

use std::io::Write;
use std::net::SocketAddr;

use crate::dataplane::record::Record;
use crate::sys::zone;

use super::line::{civil, decimal, digits, ipv4};

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
/// Offsets from UTC change at a quarter of an hour, so one is good for that long.
const QUARTER_S: u64 = 900;

/// Local time, the way syslog and HAProxy show it.
#[derive(Debug, Default)]
pub struct LocalClock {
    quarter: Option<u64>,
    offset_s: i32,
}

impl LocalClock {
    /// `Feb  6 12:14:14`, as syslog begins its lines (RFC 3164, §4.1.2).
    pub fn syslog(&mut self, out: &mut Vec<u8>, unix_ns: u64) {
        let (days, clock_s) = self.local(unix_ns / 1_000_000_000);
        let (_, month, day) = civil(days);
        out.extend_from_slice(MONTHS[month as usize - 1]);
        out.push(b' ');
        if day < 10 {
            out.push(b' ');
        }
        decimal(out, day);
        out.push(b' ');
        clock(out, clock_s);
    }

    /// `06/Feb/2009:12:14:14.655`, HAProxy's `%t`.
    fn haproxy(&mut self, out: &mut Vec<u8>, unix_ns: u64) {
        let (days, clock_s) = self.local(unix_ns / 1_000_000_000);
        let (year, month, day) = civil(days);
        padded::<2>(out, day);
        out.push(b'/');
        out.extend_from_slice(MONTHS[month as usize - 1]);
        out.push(b'/');
        padded::<4>(out, year);
        out.push(b':');
        clock(out, clock_s);
        out.push(b'.');
        padded::<3>(out, unix_ns % 1_000_000_000 / 1_000_000);
    }

    /// Days since 1970 and seconds of the day.
    fn local(&mut self, unix_s: u64) -> (u64, u64) {
        let quarter = unix_s / QUARTER_S;
        if self.quarter != Some(quarter) {
            self.quarter = Some(quarter);
            self.offset_s = zone::offset_s(unix_s);
        }
        let local_s = unix_s.saturating_add_signed(self.offset_s.into());
        (local_s / 86_400, local_s % 86_400)
    }
}

fn clock(out: &mut Vec<u8>, clock_s: u64) {
    padded::<2>(out, clock_s / 3_600);
    out.push(b':');
    padded::<2>(out, clock_s / 60 % 60);
    out.push(b':');
    padded::<2>(out, clock_s % 60);
}

fn padded<const WIDTH: usize>(out: &mut Vec<u8>, value: u64) {
    let mut text = [b'0'; WIDTH];
    digits(&mut text, value);
    out.extend_from_slice(&text);
}

/// Appends the record of a session that has ended, without an end of line. `offset_ns` as in [`super::access_log`].
pub fn write(out: &mut Vec<u8>, clock: &mut LocalClock, offset_ns: u64, record: &Record) {
    let pool = &record.listener.pool;
    let server = record.server.and_then(|index| pool.servers.get(index as usize));
    client(out, record.client);
    out.extend_from_slice(b" [");
    clock.haproxy(out, record.accepted_ns.wrapping_add(offset_ns));
    out.extend_from_slice(b"] ");
    out.extend_from_slice(record.listener.name.as_bytes());
    out.push(b' ');
    out.extend_from_slice(pool.name.as_bytes());
    out.push(b'/');
    out.extend_from_slice(server.map_or(b"<NOSRV>", |server| server.name.as_bytes()));
    out.push(b' ');
    // Who waited in vain has waited all the same.
    let queued = server.is_some() || record.queue_us > 0;
    let queue_ms = queued.then_some(u64::from(record.queue_us) / 1_000);
    reached(out, queue_ms);
    out.push(b'/');
    reached(out, record.connect_us.map(|us| u64::from(us) / 1_000));
    out.push(b'/');
    decimal(out, record.made_ns.saturating_sub(record.accepted_ns) / 1_000_000);
    out.push(b' ');
    decimal(out, record.bytes_out);
    out.push(b' ');
    out.extend_from_slice(record.ending.map_or("--", |ending| ending.code()).as_bytes());
    out.push(b' ');
    let crowd = record.crowd.unwrap_or_default();
    for count in [crowd.process, crowd.listener, crowd.pool, crowd.server] {
        decimal(out, count.into());
        out.push(b'/');
    }
    // HAProxy marks retries that went to another server, as ours all do, with a plus.
    let retries = record.attempts.saturating_sub(1);
    if retries > 0 {
        out.push(b'+');
    }
    decimal(out, retries.into());
    out.extend_from_slice(b" 0/0");
}

fn client(out: &mut Vec<u8>, client: Option<SocketAddr>) {
    match client {
        Some(SocketAddr::V4(v4)) => ipv4(out, *v4.ip()),
        // Without brackets, as HAProxy does; writing to a Vec cannot fail.
        Some(SocketAddr::V6(v6)) => drop(write!(out, "{}", v6.ip())),
        None => out.extend_from_slice(b"unix"),
    }
    out.push(b':');
    // HAProxy gives the number of the listener here, which for us has only a name.
    decimal(out, client.map_or(1, |client| client.port().into()));
}

fn reached(out: &mut Vec<u8>, ms: Option<u64>) {
    match ms {
        Some(ms) => decimal(out, ms),
        None => out.extend_from_slice(b"-1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::ending::Ending;
    use crate::dataplane::record::Crowd;
    use crate::observe::access_log::tests::record;

    /// A clock that shows UTC in the quarter of the test's moment, wherever the test runs.
    fn clock() -> LocalClock {
        LocalClock { quarter: Some(951_827_694 / QUARTER_S), offset_s: 0 }
    }

    fn text(record: &Record) -> String {
        let mut out = Vec::new();
        write(&mut out, &mut clock(), 951_827_696_123_456_789 - 7_000_000_000, record);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn a_whole_session() {
        let mut record = record();
        record.crowd = Some(Crowd { process: 9, listener: 5, pool: 4, server: 3 });
        assert_eq!(
            text(&record),
            "192.0.2.9:51234 [29/Feb/2000:12:34:54.888] web web/web2 0/0/1234 18446744073709551615 SD 9/5/4/3/+1 0/0"
        );
    }

    #[test]
    fn steps_that_were_not_reached() {
        let mut record = record();
        record.server = None;
        record.connect_us = None;
        record.attempts = 0;
        record.bytes_out = 0;
        record.ending = Some(Ending::NoServer);
        record.client = Some("[2001:db8::9]:80".parse().expect("an address"));
        let line = text(&record);
        assert!(line.starts_with("2001:db8::9:80 ["), "{line}");
        assert!(line.ends_with(" web web/<NOSRV> -1/-1/1234 0 SC 0/0/0/0/0 0/0"), "{line}");
        record.ending = Some(Ending::QueueTimeout);
        record.queue_us = 1_230_999;
        assert!(text(&record).ends_with(" web web/<NOSRV> 1230/-1/1234 0 sQ 0/0/0/0/0 0/0"), "{}", text(&record));
        record.client = None;
        assert!(text(&record).starts_with("unix:1 ["));
    }

    #[test]
    fn syslog_pads_days_with_blanks() {
        let mut out = Vec::new();
        let moment_s: u64 = 1_233_922_454;
        let mut clock = LocalClock { quarter: Some(moment_s / QUARTER_S), offset_s: 0 };
        clock.syslog(&mut out, moment_s * 1_000_000_000);
        assert_eq!(String::from_utf8_lossy(&out), "Feb  6 12:14:14");
    }

    #[test]
    fn local_time_is_shifted_by_its_offset() {
        let (moment_s, mut out) = (951_868_800_u64, Vec::new());
        let mut clock = LocalClock { quarter: Some(moment_s / QUARTER_S), offset_s: -3_600 };
        clock.haproxy(&mut out, moment_s * 1_000_000_000 + 7_000_000);
        assert_eq!(String::from_utf8_lossy(&out), "29/Feb/2000:23:00:00.007");
    }
}
