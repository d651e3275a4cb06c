//! The access log: one line a session, at its end; one every five minutes of a long life, with `reason` "running".

use crate::config::plan::Address;
use crate::dataplane::record::{COUNT_BITS, Record};

use super::line::{Line, Stamp, Syntax};

/// What `reason` says of a session that goes on.
pub const RUNNING: &str = "running";

/// Appends `record`. `offset_ns` is the wall clock less the monotonic one, at about the time of the record.
///
/// In JSON a field without a value is `null`, in logfmt `-`; both have every field in every line.
pub fn write(out: &mut Vec<u8>, syntax: Syntax, stamp: &mut Stamp, offset_ns: u64, record: &Record) {
    let pool = &record.listener.pool;
    let server = record.server.and_then(|index| pool.servers.get(index as usize));
    let mut line = Line::begin(out, syntax);
    line.word("ts", stamp.text(record.made_ns.wrapping_add(offset_ns)));
    line.pair("session", record.session >> COUNT_BITS, record.session & ((1 << COUNT_BITS) - 1));
    line.text("listener", &record.listener.name);
    match record.client {
        Some(client) => line.address("client", client),
        None => line.word("client", b"unix"),
    }
    line.text("pool", &pool.name);
    match server {
        Some(server) => {
            line.text("server", &server.name);
            match &server.address {
                Address::Inet(address) => line.address("address", *address),
                Address::Unix(_) => line.text("address", &server.address.to_string()),
            }
        }
        None => {
            line.absent("server");
            line.absent("address");
        }
    }
    let local_port = (record.local_port != 0).then_some(record.local_port.into());
    line.number_if("local_port", local_port);
    line.number("queue_us", record.queue_us.into());
    line.number_if("connect_us", record.connect_us.map(u64::from));
    line.number_if("first_byte_us", record.first_byte_us.map(u64::from));
    let lasted_ns = record.made_ns.saturating_sub(record.accepted_ns);
    line.number("total_ms", lasted_ns / 1_000_000);
    line.number("bytes_in", record.bytes_in);
    line.number("bytes_out", record.bytes_out);
    line.number("attempts", record.attempts.into());
    let (reason, code) = record.ending.map_or((RUNNING, "--"), |ending| (ending.reason(), ending.code()));
    line.word("reason", reason.as_bytes());
    line.word("code", code.as_bytes());
    line.number("errno", record.errno.unsigned_abs().into());
    line.end();
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::dataplane::ending::Ending;
    use crate::observe::panel::tests::plan;

    pub(in crate::observe) fn record() -> Record {
        Record {
            session: (1 << COUNT_BITS) | 162,
            made_ns: 7_000_000_000,
            accepted_ns: 5_765_432_100,
            listener: Arc::clone(&plan().listeners[0]),
            server: Some(1),
            client: Some("192.0.2.9:51234".parse().expect("an address")),
            local_port: 40_001,
            queue_us: 0,
            connect_us: Some(312),
            first_byte_us: None,
            bytes_in: 1_024,
            bytes_out: u64::MAX,
            attempts: 2,
            ending: Some(Ending::ServerReset),
            errno: 104,
            crowd: None,
        }
    }

    fn text(syntax: Syntax, record: &Record) -> String {
        let mut out = Vec::new();
        let offset_ns = 951_827_696_123_456_789 - 7_000_000_000;
        write(&mut out, syntax, &mut Stamp::default(), offset_ns, record);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn json() {
        assert_eq!(
            text(Syntax::Json, &record()),
            concat!(
                r#"{"ts":"2000-02-29T12:34:56.123456Z","session":"1-162","listener":"web","#,
                r#""client":"192.0.2.9:51234","pool":"web","server":"web2","address":"10.0.0.22:80","#,
                r#""local_port":40001,"queue_us":0,"connect_us":312,"first_byte_us":null,"total_ms":1234,"#,
                r#""bytes_in":1024,"bytes_out":18446744073709551615,"attempts":2,"#,
                r#""reason":"server_reset","code":"SD","errno":104}"#,
                "\n"
            )
        );
    }

    #[test]
    fn logfmt() {
        assert_eq!(
            text(Syntax::Logfmt, &record()),
            concat!(
                "ts=2000-02-29T12:34:56.123456Z session=1-162 listener=web client=192.0.2.9:51234 pool=web ",
                "server=web2 address=10.0.0.22:80 local_port=40001 queue_us=0 connect_us=312 first_byte_us=- ",
                "total_ms=1234 bytes_in=1024 bytes_out=18446744073709551615 attempts=2 reason=server_reset ",
                "code=SD errno=104\n"
            )
        );
    }

    #[test]
    fn what_is_not_known_is_said_to_be_unknown() {
        let mut record = record();
        record.server = None;
        record.client = None;
        record.local_port = 0;
        record.connect_us = None;
        record.ending = None;
        record.errno = 0;
        let line = text(Syntax::Json, &record);
        let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(read["client"], "unix");
        for field in ["server", "address", "local_port", "connect_us"] {
            assert!(read[field].is_null(), "{field}");
        }
        assert_eq!(read["reason"], RUNNING);
        assert!(text(Syntax::Logfmt, &record).contains(" server=- address=- local_port=- "));
    }
}
