//! `/metrics`: every figure the daemon keeps, rendered when somebody asks. Nothing is registered or updated in between;
//! the counters that workers keep for themselves are summed here.
//!
//! Two dialects of one text: OpenMetrics, which prometheus-client writes and Prometheus asks for, and the older Prometheus
//! text format for everybody else. What there is: of the daemon and its workers (`daemon`), of what flows through listeners,
//! servers and pools (`traffic`), and of what checks have found (`health`). How it is written is in `page`.

mod daemon;
mod health;
mod page;
mod traffic;

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::config::ledger::{Health, Office, Standing};
use crate::config::plan::{Pool, Server};

use super::panel::Panel;
use page::Page;

pub use page::merged;
pub use traffic::sessions_open;

/// Which text to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Prometheus text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Dialect {
    /// The one a scraper asks for with its `Accept` header.
    pub fn of_accept(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Dialect::OpenMetrics } else { Dialect::Prometheus }
    }

    /// The `Content-Type` of the answer.
    pub const fn content_type(self) -> &'static str {
        match self {
            Dialect::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Dialect::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What `state` of `ringway_server_state` can be. One of them is 1.
pub const STATES: [&str; 7] = ["up", "down", "drain", "maint", "starting", "ejected", "unknown"];

/// The state of a server, out of [`STATES`]: what the operator says goes before what checks say, and that before what
/// connects say. A server that is not checked counts as up; before the first check has come to an end it is unknown.
pub fn state(server: &Server) -> &'static str {
    let ledger = &server.ledger;
    match (ledger.standing(), ledger.health(), ledger.is_ejected()) {
        (Standing::Drain, ..) => "drain",
        (Standing::Maint, ..) => "maint",
        (Standing::Ready, Health::Down, _) => "down",
        (Standing::Ready, _, true) => "ejected",
        (Standing::Ready, Health::Checking, false) => "unknown",
        (Standing::Ready, Health::Up | Health::Unchecked, false) => "up",
    }
}

/// What `role` of `ringway_server_role` can be. One of them is 1.
pub const ROLES: [&str; 3] = ["primary", "replica", "none"];

/// The role of a server, out of [`ROLES`].
pub fn role(server: &Server) -> &'static str {
    match server.ledger.office() {
        Office::Primary => "primary",
        Office::Replica { .. } => "replica",
        Office::None => "none",
    }
}

/// All metrics as text.
pub fn render(panel: &Arc<Panel>, dialect: Dialect) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(Arc::clone(panel))));
    let mut text = String::with_capacity(16 * 1024);
    encode(&mut text, &registry).expect("writing to a String cannot fail");
    match dialect {
        Dialect::OpenMetrics => text,
        Dialect::Prometheus => classic(&text),
    }
}

/// OpenMetrics made into the older format: there the name of a counter in `HELP` and `TYPE` has its `_total`, an info
/// is a gauge with its `_info`, and there is no `EOF`.
fn classic(open: &str) -> String {
    let mut text = String::with_capacity(open.len() + 1_024);
    let mut help = "";
    for line in open.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let words = help.strip_prefix(name).unwrap_or(help).trim_start();
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                kind => ("", kind),
            };
            text.push_str(&format!("# HELP {name}{suffix} {words}\n"));
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// One look at a panel.
#[derive(Debug)]
struct Scrape(Arc<Panel>);

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), Error> {
        let scene = self.0.commons.scene.load_full();
        let mut page = Page { encoder };
        daemon::daemon(&mut page, &self.0, &scene.plan)?;
        traffic::listeners(&mut page, &scene.plan.listeners)?;
        traffic::servers(&mut page, &scene.plan.pools)?;
        health::health(&mut page, &scene.plan.pools)?;
        traffic::pools(&mut page, &scene.plan.pools)?;
        daemon::workers(&mut page, &self.0)?;
        daemon::process(&mut page, &self.0)
    }
}

/// All servers, each with its pool.
fn servers_of(pools: &[Arc<Pool>]) -> impl Iterator<Item = (&Pool, &Server)> {
    pools.iter().flat_map(|pool| pool.servers.iter().map(move |server| (&**pool, server)))
}

/// The labels of a server, and one more.
fn with<'a>(pool: &'a Pool, server: &'a Server, key: &'a str, value: &'a str) -> [(&'a str, &'a str); 3] {
    [("pool", &*pool.name), ("server", &*server.name), (key, value)]
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::atomic::Ordering;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::config::ledger::Registry;
    use crate::dataplane::commons::{Commons, Scene};
    use crate::dataplane::ending::Ending;
    use crate::observe::panel::EngineChoice;
    use crate::observe::panel::tests::panel;

    /// Family → type, and all samples, after checking that every line is what the format allows.
    fn read(text: &str) -> (BTreeMap<String, String>, BTreeMap<String, f64>) {
        let (mut kinds, mut samples) = (BTreeMap::new(), BTreeMap::new());
        let mut helped = BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a name and a text");
                assert!(help.ends_with('.'), "{line}");
                assert!(helped.insert(name.to_owned()), "twice: {line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                assert!(helped.contains(name), "no HELP before {line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                kinds.insert(name.to_owned(), kind.to_owned());
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a series and a value");
                let value: f64 = value.parse().expect("a number");
                let name = series.split('{').next().expect("a name");
                assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|suffix| name.strip_suffix(suffix))
                    .filter(|family| kinds.contains_key(*family))
                    .unwrap_or(name);
                assert!(kinds.contains_key(family), "no TYPE before {line}");
                if let Some((_, labels)) = series.split_once('{') {
                    assert!(labels.ends_with('}') && labels.contains("=\""), "{line}");
                }
                assert!(samples.insert(series.to_owned(), value).is_none(), "{line}");
            }
        }
        (kinds, samples)
    }

    #[test]
    fn every_metric_of_the_contract_is_there_and_says_what_it_is() {
        let panel = panel();
        let plan = Arc::clone(&panel.commons.scene.load().plan);
        let tally = plan.listeners[0].ledger.tally.of(1);
        tally.accepted.add(5);
        tally.opened.add(4);
        tally.ended[Ending::IdleTimeout as usize].add(3);
        tally.bytes_out.add(1 << 40);
        let pool = &plan.pools[0];
        pool.ledger.tally.of(0).connect.record(200);
        pool.ledger.tally.of(1).connect.record(60_000_000);
        pool.servers[1].ledger.set_standing(Standing::Drain);
        panel.commons.desks[1].tally.lag_ns_max.store(2_500_000, Ordering::Relaxed);

        let (kinds, samples) = read(&render(&panel, Dialect::Prometheus));
        for name in [
            "ringway_build_info",
            "ringway_engine_info",
            "ringway_listener_accepted_total",
            "ringway_listener_rejected_total",
            "ringway_sessions",
            "ringway_sessions_ended_total",
            "ringway_bytes_total",
            "ringway_server_connects_total",
            "ringway_greeting_errors_total",
            "ringway_server_sessions",
            "ringway_server_bytes_total",
            "ringway_server_warmth",
            "ringway_server_state",
            "ringway_server_role",
            "ringway_server_share",
            "ringway_server_lag_seconds",
            "ringway_check_total",
            "ringway_check_last_success_timestamp_seconds",
            "ringway_retries_total",
            "ringway_queue_sessions",
            "ringway_queued_total",
            "ringway_queue_full_total",
            "ringway_queue_timeouts_total",
            "ringway_queue_seconds",
            "ringway_connect_seconds",
            "ringway_first_byte_seconds",
            "ringway_session_seconds",
            "ringway_config_generation",
            "ringway_config_last_reload_successful",
            "ringway_config_last_reload_timestamp_seconds",
            "ringway_fds",
            "ringway_worker_loop_lag_seconds",
            "ringway_worker_sessions",
            "ringway_pipes",
            "ringway_log_dropped_total",
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_open_fds",
        ] {
            assert!(kinds.contains_key(name), "{name} is missing");
        }
        for (series, expected) in [
            (r#"ringway_listener_accepted_total{listener="web"}"#, 5.0),
            (r#"ringway_sessions{listener="web"}"#, 1.0),
            (r#"ringway_sessions_ended_total{listener="web",reason="idle_timeout"}"#, 3.0),
            (r#"ringway_bytes_total{listener="web",direction="out"}"#, 1_099_511_627_776.0),
            (r#"ringway_server_state{pool="web",server="web2",state="drain"}"#, 1.0),
            (r#"ringway_server_state{pool="web",server="web2",state="up"}"#, 0.0),
            (r#"ringway_connect_seconds_bucket{le="0.0001",pool="web"}"#, 0.0),
            (r#"ringway_connect_seconds_bucket{le="0.00025",pool="web"}"#, 1.0),
            (r#"ringway_connect_seconds_bucket{le="30.0",pool="web"}"#, 1.0),
            (r#"ringway_connect_seconds_bucket{le="+Inf",pool="web"}"#, 2.0),
            (r#"ringway_connect_seconds_sum{pool="web"}"#, 60.0002),
            (r#"ringway_connect_seconds_count{pool="web"}"#, 2.0),
            (r#"ringway_worker_loop_lag_seconds{worker="1"}"#, 0.0025),
            ("ringway_config_generation", 1.0),
            ("ringway_log_dropped_total", 0.0),
            (r#"ringway_engine_info{engine="io_uring",reason="preferred"}"#, 1.0),
        ] {
            assert_eq!(samples.get(series), Some(&expected), "{series}");
        }
    }

    #[test]
    fn what_nobody_knows_is_not_there() {
        let text = "[listeners.l]\nbind = '127.0.0.1:9'\npool = 'db'\n[pools.db]\nkind = 'mysql'\nservers = [\n\
                    { name = 'a', address = '127.0.0.1:1' },\n{ name = 'b', address = '127.0.0.1:2' },\n]\n\
                    check = { type = 'mysql', user = 'c' }\n[pools.web]\nservers = [{ name = 'w', address = '127.0.0.1:3' }]\n";
        let draft = crate::config::parse("t.toml", text, &|_| None).unwrap_or_else(|wrong| panic!("{wrong}"));
        let scene = Scene { plan: Arc::new(draft.compile(&mut Registry::new(1), None)), doors: Vec::new() };
        let plan = Arc::clone(&scene.plan);
        let engine = EngineChoice { name: "io_uring", reason: "preferred" };
        let panel = Arc::new(Panel::new(Arc::new(Commons::new(1, scene, 10)), engine, Arc::default()));
        let lag = |server: &str| format!(r#"ringway_server_lag_seconds{{pool="db",server="{server}"}}"#);
        let passed = |server| format!(r#"ringway_check_last_success_timestamp_seconds{{pool="db",server="{server}"}}"#);
        let look = || read(&render(&panel, Dialect::Prometheus));

        let [first, second] = [0, 1].map(|server| &plan.pools[0].servers[server].ledger);
        first.bulletin().lag_s = Some(7);
        first.bulletin().passed = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400));
        // Nobody asks that one for its role.
        plan.pools[1].servers[0].ledger.bulletin().lag_s = Some(9);
        let (kinds, samples) = look();
        assert_eq!(kinds.get("ringway_server_lag_seconds").map(String::as_str), Some("gauge"));
        assert_eq!((samples.get(&lag("a")), samples.get(&passed("a"))), (Some(&7.0), Some(&86_400.0)));
        assert_eq!(samples.keys().filter(|series| series.starts_with("ringway_server_lag_seconds")).count(), 1);
        assert!(!samples.contains_key(&passed("b")), "no check of it has passed");

        second.bulletin().lag_s = Some(0);
        first.bulletin().forget("it is asked something else");
        let samples = look().1;
        assert_eq!((samples.get(&lag("a")), samples.get(&lag("b"))), (None, Some(&0.0)));
        assert!(!samples.contains_key(&passed("a")));
    }

    #[test]
    fn open_metrics_is_for_those_who_ask_for_it() {
        let text = render(&panel(), Dialect::OpenMetrics);
        assert!(text.ends_with("# EOF\n"));
        assert!(text.contains("# TYPE ringway_sessions_ended counter\n"));
        let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2";
        assert_eq!(Dialect::of_accept(accept), Dialect::OpenMetrics);
        assert_eq!(Dialect::of_accept("*/*"), Dialect::Prometheus);
    }
}
