//! `show stat`: a row for each listener (`FRONTEND`), server, and pool (`BACKEND`).
//!
//! Columns are those of HAProxy 2.6, all of them and in its order; a field that ringway has nothing for is empty. Averages of
//! time are over all sessions since the start, where HAProxy's are over the last 1024; `chkfail` counts every check that
//! failed, HAProxy's only those of a server that was up.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::histogram::Histogram;
use crate::config::ledger::PoolTally;
use crate::config::plan::{Listener, Plan, Policy, Pool, Server};
use crate::dataplane::ending::{ConnectResult, Ending, Refusal};
use crate::health::CheckResult;
use crate::observe::metrics::{merged, sessions_open};
use crate::observe::panel::Panel;

use super::command::{Proxy, Selection};
use super::field::{Field, Format, Value};
use super::states::Sight;
use super::trends::{Trend, Trends};

/// The columns: name, and origin, nature and scope.
const FIELDS: [Field; 127] = [
    ("pxname", "KNS"),
    ("svname", "KNS"),
    ("qcur", "MGP"),
    ("qmax", "MMP"),
    ("scur", "MGP"),
    ("smax", "MMP"),
    ("slim", "CLP"),
    ("stot", "MCP"),
    ("bin", "MCP"),
    ("bout", "MCP"),
    ("dreq", "MCP"),
    ("dresp", "MCP"),
    ("ereq", "MCP"),
    ("econ", "MCP"),
    ("eresp", "MCP"),
    ("wretr", "MCP"),
    ("wredis", "MCP"),
    ("status", "SGP"),
    ("weight", "MaP"),
    ("act", "MGP"),
    ("bck", "MGP"),
    ("chkfail", "MCP"),
    ("chkdown", "MCP"),
    ("lastchg", "MAP"),
    ("downtime", "MCP"),
    ("qlimit", "CLS"),
    ("pid", "KGP"),
    ("iid", "KGS"),
    ("sid", "KGS"),
    ("throttle", "MaP"),
    ("lbtot", "MCP"),
    ("tracked", "CLS"),
    ("type", "CGS"),
    ("rate", "MGP"),
    ("rate_lim", "CLP"),
    ("rate_max", "MGP"),
    ("check_status", "MOP"),
    ("check_code", "MOP"),
    ("check_duration", "MDP"),
    ("hrsp_1xx", "MCP"),
    ("hrsp_2xx", "MCP"),
    ("hrsp_3xx", "MCP"),
    ("hrsp_4xx", "MCP"),
    ("hrsp_5xx", "MCP"),
    ("hrsp_other", "MCP"),
    ("hanafail", "MOP"),
    ("req_rate", "MRP"),
    ("req_rate_max", "MMP"),
    ("req_tot", "MCP"),
    ("cli_abrt", "MCP"),
    ("srv_abrt", "MCP"),
    ("comp_in", "MCP"),
    ("comp_out", "MCP"),
    ("comp_byp", "MCP"),
    ("comp_rsp", "MCP"),
    ("lastsess", "MAP"),
    ("last_chk", "MOP"),
    ("last_agt", "MOP"),
    ("qtime", "MaP"),
    ("ctime", "MaP"),
    ("rtime", "MaP"),
    ("ttime", "MaP"),
    ("agent_status", "MOP"),
    ("agent_code", "MOP"),
    ("agent_duration", "MDP"),
    ("check_desc", "MOP"),
    ("agent_desc", "MOP"),
    ("check_rise", "CGS"),
    ("check_fall", "CGS"),
    ("check_health", "CGS"),
    ("agent_rise", "CGS"),
    ("agent_fall", "CGS"),
    ("agent_health", "CGS"),
    ("addr", "CGS"),
    ("cookie", "CNS"),
    ("mode", "CGS"),
    ("algo", "CGS"),
    ("conn_rate", "MRP"),
    ("conn_rate_max", "MMP"),
    ("conn_tot", "MCP"),
    ("intercepted", "MCP"),
    ("dcon", "MCP"),
    ("dses", "MCP"),
    ("wrew", "MCP"),
    ("connect", "MCP"),
    ("reuse", "MCP"),
    ("cache_lookups", "MCP"),
    ("cache_hits", "MCP"),
    ("srv_icur", "MGP"),
    ("src_ilim", "CLP"),
    ("qtime_max", "MMP"),
    ("ctime_max", "MMP"),
    ("rtime_max", "MMP"),
    ("ttime_max", "MMP"),
    ("eint", "MCP"),
    ("idle_conn_cur", "MGP"),
    ("safe_conn_cur", "MGP"),
    ("used_conn_cur", "MGP"),
    ("need_conn_est", "MGP"),
    ("uweight", "MaP"),
    ("agg_server_status", "MGP"),
    ("agg_server_check_status", "MGP"),
    ("agg_check_status", "MGP"),
    ("ssl_sess", "MCP"),
    ("ssl_reused_sess", "MCP"),
    ("ssl_failed_handshake", "MCP"),
    ("h2_headers_rcvd", "MCP"),
    ("h2_data_rcvd", "MCP"),
    ("h2_settings_rcvd", "MCP"),
    ("h2_rst_stream_rcvd", "MCP"),
    ("h2_goaway_rcvd", "MCP"),
    ("h2_detected_conn_protocol_errors", "MCP"),
    ("h2_detected_strm_protocol_errors", "MCP"),
    ("h2_rst_stream_resp", "MCP"),
    ("h2_goaway_resp", "MCP"),
    ("h2_open_connections", "MGP"),
    ("h2_backend_open_streams", "MGP"),
    ("h2_total_connections", "MCP"),
    ("h2_backend_total_streams", "MCP"),
    ("h1_open_connections", "MGP"),
    ("h1_open_streams", "MGP"),
    ("h1_total_connections", "MCP"),
    ("h1_total_streams", "MCP"),
    ("h1_bytes_in", "MCP"),
    ("h1_bytes_out", "MCP"),
    ("h1_spliced_bytes_in", "MCP"),
    ("h1_spliced_bytes_out", "MCP"),
];

/// Columns up to here are of proxies; behind them, and behind a column `-`, come those of HAProxy's modules, which are about
/// TLS and HTTP: always 0 here.
const OWN: usize = 103;
/// The first of those that only proxies have, not servers.
const OF_PROXIES: usize = 106;

/// The number of the first frontend: HAProxy keeps 1 for itself.
const FIRST: usize = 2;

/// The place of a column, known when this is compiled.
const fn at(name: &str) -> usize {
    let mut place = 0;
    while place < FIELDS.len() {
        if same(FIELDS[place].0.as_bytes(), name.as_bytes()) {
            return place;
        }
        place += 1;
    }
    panic!("no such column")
}

const fn same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let mut place = 0;
    while place < one.len() {
        if one[place] != other[place] {
            return false;
        }
        place += 1;
    }
    true
}

/// Sets columns by name.
macro_rules! set {
    ($row:expr, $($name:literal: $value:expr,)*) => {
        $($row.values[const { at($name) }] = $value;)*
    };
}

/// What is known besides the plan.
#[derive(Debug)]
pub(super) struct Around<'a> {
    pub(super) panel: &'a Panel,
    pub(super) trends: &'a Trends,
}

/// The numbers of backends: they come behind the listeners.
pub(super) fn backend_number(plan: &Plan, index: usize) -> usize {
    FIRST + plan.listeners.len() + index
}

/// `show stat`, row by row.
#[derive(Debug)]
pub(super) struct Stat {
    plan: Arc<Plan>,
    selection: Selection,
    /// Which proxy is next, listeners first.
    proxy: usize,
    /// Which server of it; one past the last is the pool itself.
    server: usize,
    begun: bool,
    /// A row has been written.
    has_rows: bool,
}

impl Stat {
    /// A table of what is selected.
    ///
    /// # Errors
    /// There is no such proxy; in words for whoever asked.
    pub(super) fn new(plan: Arc<Plan>, mut selection: Selection) -> Result<Self, &'static str> {
        if let Some(Proxy::Name(name)) = &selection.proxy {
            let listener =
                plan.listeners.iter().position(|listener| *listener.name == **name).map(|index| FIRST + index);
            let pool =
                plan.pools.iter().position(|pool| *pool.name == **name).map(|index| backend_number(&plan, index));
            let number = listener.or(pool).and_then(|number| u32::try_from(number).ok());
            selection.proxy = Some(Proxy::Number(number.ok_or("No such proxy.")?));
        }
        Ok(Self { plan, selection, proxy: 0, server: 0, begun: false, has_rows: false })
    }

    /// Writes on, until `out` has `enough` bytes or nothing is left; whether something is.
    pub(super) fn write(&mut self, around: &Around<'_>, out: &mut String, enough: usize) -> bool {
        if !self.begun {
            self.begun = true;
            match self.selection.format {
                Format::Plain => header(out),
                Format::Json => out.push('['),
                Format::Typed => {}
            }
        }
        while out.len() < enough {
            let Some(row) = self.next(around) else {
                if self.selection.format == Format::Json {
                    out.push_str("]\n");
                }
                return false;
            };
            if let Some(row) = row {
                self.write_row(&row, out);
            }
        }
        true
    }

    /// The next row; `Some(None)` is one that was not asked for, `None` the end.
    fn next(&mut self, around: &Around<'_>) -> Option<Option<Row>> {
        let plan = Arc::clone(&self.plan);
        let number = FIRST + self.proxy;
        let wants_kind = |kind: u32| self.selection.kinds.is_none_or(|kinds| kinds & kind != 0);
        let wants_proxy = match self.selection.proxy {
            Some(Proxy::Number(wanted)) => usize::try_from(wanted) == Ok(number),
            Some(Proxy::Name(_)) | None => true,
        };
        if let Some(listener) = plan.listeners.get(self.proxy) {
            self.proxy += 1;
            return Some((wants_proxy && wants_kind(1)).then(|| listener_row(listener, number, around)));
        }
        let pool = plan.pools.get(self.proxy - plan.listeners.len())?;
        let index = self.server;
        let Some(server) = pool.servers.get(index).filter(|_| wants_proxy) else {
            self.proxy += 1;
            self.server = 0;
            return Some((wants_proxy && wants_kind(2)).then(|| pool_row(&plan, pool, number, around)));
        };
        self.server += 1;
        let is_wanted = self.selection.server.is_none_or(|wanted| usize::try_from(wanted) == Ok(index + 1));
        if !(wants_kind(4) && is_wanted) {
            return Some(None);
        }
        let sight = Sight::of(pool, server);
        let hidden = self.selection.up && !sight.is_up() || self.selection.no_maint && sight.administration() & 1 != 0;
        Some((!hidden).then(|| server_row(&sight, number, index + 1, around)))
    }

    fn write_row(&mut self, row: &Row, out: &mut String) {
        let filled = row.values.iter().enumerate().filter(|(_, value)| !value.is_empty());
        match self.selection.format {
            Format::Plain => row.csv(out),
            Format::Typed => {
                for (place, value) in filled {
                    let (name, tags) = FIELDS[place];
                    out.push_str(&format!("{}.{}.{}.{place}.", row.kind.letter(), row.number, row.server));
                    value.typed((name, row.kind.tags(name, tags)), out);
                }
            }
            Format::Json => {
                out.push_str(if self.has_rows { ",[" } else { "[" });
                let (word, number, server) = (row.kind.word(), row.number, row.server);
                let about = format!("\"objType\":\"{word}\",\"proxyId\":{number},\"id\":{server},");
                for (count, (place, value)) in filled.enumerate() {
                    out.push_str(if count > 0 { "," } else { "" });
                    let (name, tags) = FIELDS[place];
                    value.json(&about, place, (name, row.kind.tags(name, tags)), out);
                }
                out.push(']');
            }
        }
        self.has_rows = true;
    }
}

/// The first line, as HAProxy has it: each column with a comma behind it.
fn header(out: &mut String) {
    out.push_str("# ");
    for (place, (name, _)) in FIELDS.iter().enumerate() {
        if place == OWN {
            out.push_str("-,");
        }
        out.push_str(name);
        out.push(',');
    }
    out.push('\n');
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Frontend,
    Server,
    Backend,
}

impl Kind {
    fn letter(self) -> char {
        match self {
            Kind::Frontend => 'F',
            Kind::Server => 'S',
            Kind::Backend => 'B',
        }
    }

    fn word(self) -> &'static str {
        match self {
            Kind::Frontend => "Frontend",
            Kind::Server => "Server",
            Kind::Backend => "Backend",
        }
    }

    /// HAProxy sees a few of a backend's as other things than a server's.
    fn tags(self, name: &str, tags: &'static str) -> &'static str {
        match (self, name) {
            (Kind::Backend, "act" | "bck" | "rate" | "rate_max") => "MGP",
            (_, "act" | "bck") => "SGP",
            (_, "rate") => "MRP",
            (_, "rate_max") => "MMP",
            _ => tags,
        }
    }
}

#[derive(Debug)]
struct Row {
    kind: Kind,
    number: usize,
    server: usize,
    values: Vec<Value>,
}

impl Row {
    fn new(kind: Kind, name: &str, number: usize, server: usize) -> Self {
        let mut values = vec![Value::Empty; FIELDS.len()];
        let to = if matches!(kind, Kind::Server) { OF_PROXIES } else { FIELDS.len() };
        values[OWN..to].fill(Value::Count(0));
        let mut row = Self { kind, number, server, values };
        let kind = match kind {
            Kind::Frontend => 0,
            Kind::Backend => 1,
            Kind::Server => 2,
        };
        set!(row,
            "pxname": Value::text(name),
            "pid": Value::Number(1),
            "iid": Value::Number(number as u64),
            "sid": Value::Number(server as u64),
            "type": Value::Number(kind),
            "mode": Value::text("tcp"),
        );
        row
    }

    fn csv(&self, out: &mut String) {
        for (place, value) in self.values.iter().enumerate() {
            if place == OWN {
                out.push_str("-,");
            }
            value.csv(out);
            out.push(',');
        }
        out.push('\n');
    }

    /// What was seen once a second.
    fn trend(&mut self, trend: Option<&Trend>, current: u64) {
        let Some(trend) = trend else { return };
        set!(self,
            "smax": Value::Number(trend.current_max.max(current)),
            "rate": Value::Number(trend.rate),
            "rate_max": Value::Number(trend.rate_max),
        );
    }
}

fn listener_row(listener: &Listener, number: usize, around: &Around<'_>) -> Row {
    let tally = &listener.ledger.tally;
    let sessions = sessions_open(listener);
    let opened = tally.sum(|t| t.opened.read());
    let rejected: u64 = Refusal::ALL.iter().map(|&why| tally.sum(|t| t.rejected[why as usize].read())).sum();
    let limit = around.panel.commons.max_connections.load(Ordering::Relaxed);
    let mut row = Row::new(Kind::Frontend, &listener.name, number, 0);
    set!(row,
        "svname": Value::text("FRONTEND"),
        "scur": Value::Number(sessions),
        "slim": Value::Number(limit.into()),
        "stot": Value::Count(opened),
        "bin": Value::Count(tally.sum(|t| t.bytes_in.read())),
        "bout": Value::Count(tally.sum(|t| t.bytes_out.read())),
        "dreq": Value::Count(0),
        "dresp": Value::Count(0),
        "ereq": Value::Count(0),
        "status": Value::text(if around.panel.is_draining() { "STOP" } else { "OPEN" }),
        "rate_lim": Value::Number(0),
        "conn_tot": Value::Count(tally.sum(|t| t.accepted.read())),
        "dcon": Value::Count(rejected),
        "dses": Value::Count(0),
    );
    let trend = around.trends.listener(listener);
    row.trend(trend, sessions);
    if let Some(trend) = trend {
        set!(row, "conn_rate": Value::Number(trend.rate), "conn_rate_max": Value::Number(trend.rate_max),);
    }
    row
}

/// Connects to a server: those that worked, and those that did not.
pub(super) fn connects(server: &Server) -> (u64, u64) {
    let count = |result: ConnectResult| server.ledger.tally.sum(|t| t.connects[result as usize].read());
    let worked = count(ConnectResult::Ok);
    (worked, ConnectResult::ALL.into_iter().map(count).sum::<u64>().saturating_sub(worked))
}

fn server_row(sight: &Sight<'_>, number: usize, index: usize, around: &Around<'_>) -> Row {
    let (pool, server) = (sight.pool, sight.server);
    let tally = &server.ledger.tally;
    let (worked, failed) = connects(server);
    let sessions = u64::from(server.ledger.active.load(Ordering::Relaxed));
    let mut row = Row::new(Kind::Server, &pool.name, number, index);
    set!(row,
        "svname": Value::text(&*server.name),
        // Whoever waits, waits for the pool.
        "qcur": Value::Number(0),
        "qmax": Value::Number(0),
        "scur": Value::Number(sessions),
        "stot": Value::Count(worked),
        "bin": Value::Count(tally.sum(|t| t.bytes_in.read())),
        "bout": Value::Count(tally.sum(|t| t.bytes_out.read())),
        "dresp": Value::Count(0),
        "econ": Value::Count(failed),
        "eresp": Value::Count(tally.sum(|t| t.greetings.iter().map(|count| count.read()).sum())),
        "status": Value::text(sight.status()),
        "weight": Value::Number(sight.weight_now()),
        "uweight": Value::Number(server.weight.into()),
        "act": Value::Number((!server.backup).into()),
        "bck": Value::Number(server.backup.into()),
        "lastchg": Value::Number(sight.bulletin.since.elapsed().as_secs()),
        "lbtot": Value::Count(worked + failed),
        "addr": Value::text(server.address.to_string()),
        "connect": Value::Count(worked + failed),
        "used_conn_cur": Value::Number(sessions),
    );
    if server.max_connections > 0 {
        set!(row, "slim": Value::Number(server.max_connections.into()),);
    }
    if let Some(throttle) = sight.throttle() {
        set!(row, "throttle": Value::Number(throttle),);
    }
    row.trend(around.trends.server(server), sessions);
    checks(&mut row, sight);
    row
}

fn checks(row: &mut Row, sight: &Sight<'_>) {
    let (Some((code, _, words)), Some((rise, fall, counter))) = (sight.checked(), sight.counters()) else {
        return;
    };
    let ledger = &sight.server.ledger;
    let all: u64 = ledger.checks.iter().map(|count| count.read()).sum();
    set!(row,
        "chkfail": Value::Count(all.saturating_sub(ledger.checks[CheckResult::Ok as usize].read())),
        "chkdown": Value::Count(sight.bulletin.falls),
        "downtime": Value::Number(sight.down_s()),
        "check_status": Value::text(code),
        "check_duration": Value::Count(u64::try_from(sight.bulletin.last_took.as_millis()).unwrap_or(u64::MAX)),
        "last_chk": if sight.complaint().is_empty() { Value::Empty } else { Value::text(sight.complaint()) },
        "check_desc": Value::text(words),
        "check_rise": Value::Number(rise.into()),
        "check_fall": Value::Number(fall.into()),
        "check_health": Value::Number(counter.into()),
    );
    if let Some(status) = sight.bulletin.last_status {
        set!(row, "check_code": Value::Number(status.into()),);
    }
}

fn pool_row(plan: &Plan, pool: &Arc<Pool>, number: usize, around: &Around<'_>) -> Row {
    let sum = |figure: fn(&Server) -> u64| Value::Count(pool.servers.iter().map(figure).sum());
    let sights: Vec<Sight<'_>> = pool.servers.iter().map(|server| Sight::of(pool, server)).collect();
    let serving = |backup: bool| sights.iter().filter(move |sight| sight.serves() && sight.server.backup == backup);
    let (active, backups) = (serving(false).count() as u64, serving(true).count() as u64);
    // Backups weigh nothing while they are not needed.
    let weight = |of: fn(&Sight<'_>) -> u64| Value::Number(serving(active == 0).map(of).sum());
    let sessions = pool.ledger.tally.sum(|t| t.sessions.read());
    let (lengths, _) = merged(&pool.ledger, |tally| &tally.session);
    let ends = |endings: &[Ending]| {
        let of_pool = plan.listeners.iter().filter(|listener| Arc::ptr_eq(&listener.pool, pool));
        let count = |listener: &Arc<Listener>| -> u64 {
            endings.iter().map(|&why| listener.ledger.tally.sum(|t| t.ended[why as usize].read())).sum()
        };
        Value::Count(of_pool.map(count).sum())
    };
    let takes = active + backups > 0;
    let mut row = Row::new(Kind::Backend, &pool.name, number, 0);
    set!(row,
        "svname": Value::text("BACKEND"),
        "qcur": Value::Number(pool.ledger.line.waiting().into()),
        "scur": Value::Number(sessions),
        "stot": Value::Count(lengths.iter().sum::<u64>() + sessions),
        "bin": sum(|server| server.ledger.tally.sum(|t| t.bytes_in.read())),
        "bout": sum(|server| server.ledger.tally.sum(|t| t.bytes_out.read())),
        "dreq": Value::Count(0),
        "dresp": Value::Count(0),
        "econ": sum(|server| connects(server).1),
        "eresp": sum(|server| server.ledger.tally.sum(|t| t.greetings.iter().map(|count| count.read()).sum())),
        "wretr": Value::Count(0),
        // Each goes to another server.
        "wredis": Value::Count(pool.ledger.tally.sum(|t| t.retries.read())),
        "status": Value::text(if takes { "UP" } else { "DOWN" }),
        "weight": weight(|sight| sight.weight_now()),
        "uweight": weight(|sight| sight.server.weight.into()),
        "act": Value::Number(active),
        "bck": Value::Number(backups),
        "lbtot": sum(|server| connects(server).0 + connects(server).1),
        "connect": sum(|server| connects(server).0 + connects(server).1),
        "cli_abrt": ends(&[Ending::ClientReset, Ending::ClientGone, Ending::QueueLeft]),
        "srv_abrt": ends(&[Ending::ServerReset]),
        "qtime": mean_ms(pool, |tally| &tally.queue),
        "ctime": mean_ms(pool, |tally| &tally.connect),
        "rtime": mean_ms(pool, |tally| &tally.first_byte),
        "ttime": mean_ms(pool, |tally| &tally.session),
        "algo": Value::text(algorithm(pool.policy)),
    );
    let trend = around.trends.pool(pool);
    row.trend(trend, sessions);
    if let Some(trend) = trend {
        set!(row, "qmax": Value::Number(trend.waiting_max.max(pool.ledger.line.waiting().into())),);
    }
    row
}

fn mean_ms<'p>(pool: &'p Pool, figure: impl Fn(&'p PoolTally) -> &'p Histogram) -> Value {
    let (counts, sum_us) = merged(&pool.ledger, figure);
    let count: u64 = counts.iter().sum();
    Value::Number(sum_us.checked_div(count).unwrap_or(0) / 1_000)
}

/// A policy by the name of HAProxy's that comes nearest.
fn algorithm(policy: Policy) -> &'static str {
    match policy {
        Policy::RoundRobin => "roundrobin",
        Policy::LeastConnections => "leastconn",
        Policy::RandomTwo => "random",
        Policy::SourceHash | Policy::Maglev => "source",
        Policy::First => "first",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ledger::{Health, Standing};
    use crate::observe::panel::tests::panel;

    fn table(selection: Selection) -> String {
        let (panel, trends) = (panel(), Trends::default());
        let plan = Arc::clone(&panel.commons.scene.load().plan);
        let mut stat = Stat::new(plan, selection).expect("a known proxy");
        let mut out = String::new();
        assert!(!stat.write(&Around { panel: &panel, trends: &trends }, &mut out, usize::MAX));
        out
    }

    /// Names of the rows.
    fn rows(selection: Selection) -> Vec<String> {
        let table = table(selection);
        let (head, rows) = table.split_once('\n').expect("a header");
        assert!(head.starts_with("# pxname,svname,qcur,") && head.ends_with(",h1_spliced_bytes_out,"), "{head}");
        for row in rows.lines() {
            assert_eq!(row.split(',').count(), head.split(',').count(), "{row}");
        }
        rows.lines().map(|row| row.split(',').take(2).collect::<Vec<_>>().join("/")).collect()
    }

    #[test]
    fn rows_and_which_of_them() {
        assert_eq!(rows(Selection::default()), ["web/FRONTEND", "web/web1", "web/web2", "web/BACKEND"]);
        let of = |proxy: u32, kinds: u32, server| {
            let proxy = Some(Proxy::Number(proxy));
            rows(Selection { proxy, kinds: Some(kinds), server, ..Selection::default() })
        };
        assert_eq!(of(3, 4, Some(2)), ["web/web2"]);
        assert_eq!(of(3, 6, None), ["web/web1", "web/web2", "web/BACKEND"]);
        assert_eq!(of(2, 7, None), ["web/FRONTEND"]);
        assert_eq!(of(9, 7, None), Vec::<String>::new());
        // A frontend and a backend may share a name; the frontend comes first.
        let named = Selection { proxy: Some(Proxy::Name("web".into())), ..Selection::default() };
        assert_eq!(rows(named), ["web/FRONTEND"]);
        let unknown = Selection { proxy: Some(Proxy::Name("wep".into())), ..Selection::default() };
        let panel = panel();
        let plan = Arc::clone(&panel.commons.scene.load().plan);
        assert_eq!(Stat::new(plan, unknown).map(|_| ()), Err("No such proxy."));
    }

    #[test]
    fn what_is_down_can_be_left_out() {
        let (panel, trends) = (panel(), Trends::default());
        let plan = Arc::clone(&panel.commons.scene.load().plan);
        plan.pools[0].servers[0].ledger.set_standing(Standing::Maint);
        plan.pools[0].servers[1].ledger.set_health(Health::Down);
        let shown = |selection| {
            let (mut out, around) = (String::new(), Around { panel: &panel, trends: &trends });
            Stat::new(Arc::clone(&plan), selection).expect("all").write(&around, &mut out, usize::MAX);
            ["web1", "web2"].map(|name| out.contains(name))
        };
        assert_eq!(shown(Selection::default()), [true, true]);
        assert_eq!(shown(Selection { no_maint: true, ..Selection::default() }), [false, true]);
        assert_eq!(shown(Selection { up: true, ..Selection::default() }), [false, false]);
    }

    #[test]
    fn it_comes_in_pieces() {
        let (panel, trends) = (panel(), Trends::default());
        let around = Around { panel: &panel, trends: &trends };
        let plan = Arc::clone(&panel.commons.scene.load().plan);
        let mut stat = Stat::new(plan, Selection::default()).expect("all");
        let (mut whole, mut pieces) = (String::new(), 0);
        loop {
            let mut piece = String::new();
            let more = stat.write(&around, &mut piece, 10);
            whole.push_str(&piece);
            pieces += 1;
            if !more {
                break;
            }
        }
        assert!(pieces > 3);
        // How long the servers have been up may differ by now.
        assert_eq!(whole.lines().count(), table(Selection::default()).lines().count());
    }

    #[test]
    fn typed_and_json_say_the_same() {
        let typed = table(Selection { format: Format::Typed, ..Selection::default() });
        assert!(typed.starts_with("F.2.0.0.pxname.1:KNS:str:web\nF.2.0.1.svname.1:KNS:str:FRONTEND\n"), "{typed}");
        assert!(typed.contains("\nS.3.2.17.status.1:SGP:str:no check\n"), "{typed}");
        assert!(typed.contains("\nB.3.0.19.act.1:MGP:u32:2\n"), "{typed}");
        let json = table(Selection { format: Format::Json, ..Selection::default() });
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let objects = json.as_array().expect("rows");
        assert_eq!(objects.len(), 4);
        let fields: usize = objects.iter().map(|row| row.as_array().expect("fields").len()).sum();
        assert_eq!(fields, typed.lines().count());
        assert_eq!(objects[1][1]["value"]["value"], "web1");
        assert_eq!((&objects[3][0]["objType"], &objects[3][0]["proxyId"]), (&"Backend".into(), &3.into()));
    }
}
