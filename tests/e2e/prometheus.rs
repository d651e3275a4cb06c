//! A real Prometheus: it understands the metrics, the alerts shipped are right, and whatever they and the dashboard ask for is
//! there.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::facts::{await_some, http_get};
use crate::harness::ground::{Ground, command_succeeds, need};
use crate::harness::peers::{Server, ask};
use crate::harness::process::Process;
use crate::harness::ringway::{Ringway, listener, pool};

fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(path)
}

fn text_of(path: &str) -> String {
    fs::read_to_string(shipped(path)).expect("a file of ours")
}

/// What is not there while nobody knows it, as is the case of a server that answers no check.
const MAY_BE_ABSENT: [&str; 1] = ["ringway_server_lag_seconds"];

/// A Prometheus that scrapes one daemon by the configuration that is shipped, only more often.
struct Prometheus {
    address: SocketAddr,
    _process: Process,
}

impl Prometheus {
    fn start(ground: &Ground, ringway: &Ringway) -> Self {
        need("prometheus");
        let address = ground.address();
        let config = text_of("prometheus/prometheus.yml")
            .replace("127.0.0.1:9145", &ringway.admin().to_string())
            .replace("scrape_interval: 15s", "scrape_interval: 1s");
        fs::write(ground.file("prometheus.yml"), config).expect("own directory");
        fs::write(ground.file("ringway.rules.yml"), text_of("prometheus/ringway.rules.yml")).expect("own directory");
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", ground.file("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", ground.file("prometheus").display()))
            .arg(format!("--web.listen-address={address}"));
        let process = Process::start("prometheus", &mut command, &ground.file("prometheus.log"));
        Self { address, _process: process }
    }

    /// The series an expression has now; `Err` is what is wrong with the expression.
    fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let (_, body) =
            http_get(self.address, &format!("/api/v1/query?query={encoded}")).map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        match answer["data"]["result"].as_array() {
            Some(series) if answer["status"] == "success" => Ok(series.clone()),
            _ => Err(format!("{expression}: {}", answer["error"])),
        }
    }
}

#[test]
fn prometheus_takes_the_metrics_and_finds_what_rules_and_dashboard_ask_for() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let front = ground.address();
    // With something of everything that is asked for: sessions may wait, and servers have roles.
    let database = [format!("{{ name = \"db1\", address = \"{}\" }}", ground.address())];
    let entry = [format!("{{ name = \"s0\", address = \"{}\", max_connections = 100 }}", server.address())];
    let config = listener("front", &front.to_string(), "pool")
        + &pool("pool", &entry, "queue = { limit = 5, timeout = \"5s\" }\ncheck = { type = \"tcp\" }")
        + &format!("[listeners.write]\nbind = \"{}\"\npool = \"db\"\nrole = \"primary\"\n\n", ground.address())
        + &pool("db", &database, "kind = \"mysql\"\ncheck = { type = \"mysql\", user = \"check\" }");
    let ringway = Ringway::start(&ground, &config);
    assert_eq!(ask(front), "a");
    ringway.await_ended("done", 1.0);

    ringway.await_metric("ringway_check_last_success_timestamp_seconds", &[("pool", "pool")], |at| at > 0.0);

    need("promtool");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is there");
    let page = ringway.page("/metrics").1;
    promtool.stdin.take().expect("piped").write_all(page.as_bytes()).expect("promtool reads");
    let said = promtool.wait_with_output().expect("promtool ends");
    let complaints = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && complaints.is_empty(), "{complaints}");

    let prometheus = Prometheus::start(&ground, &ringway);
    await_some("the first scrape", || {
        let up = prometheus.query("up{job=\"ringway\"}").ok()?;
        (up.first()?["value"][1] == "1").then_some(())
    });
    let (rules, dashboard) = (text_of("prometheus/ringway.rules.yml"), text_of("grafana/ringway.json"));
    let asked_for = metrics_in(&rules).into_iter().chain(metrics_in(&dashboard)).collect::<BTreeSet<_>>();
    assert!(asked_for.len() > 15, "{asked_for:?}");
    for metric in asked_for {
        let series = prometheus.query(&metric).expect("a name");
        let is_known = page.contains(&format!("# TYPE {metric} "));
        let may_be_absent = MAY_BE_ABSENT.contains(&metric.as_str()) && is_known;
        assert!(!series.is_empty() || may_be_absent, "nobody ever made {metric}");
    }
    let panels: Value = serde_json::from_str(&dashboard).expect("JSON");
    for expression in expressions_of(&panels["panels"]) {
        let expression = expression
            .replace("$__rate_interval", "1m")
            .replace("$instance", ".*")
            .replace("$listener", ".*")
            .replace("$pool", ".*");
        prometheus.query(&expression).unwrap_or_else(|error| panic!("the dashboard: {error}"));
    }
    let loaded = http_get(prometheus.address, "/api/v1/rules").expect("an answer").1;
    assert!(loaded.contains("RingwayPoolDown"), "{loaded}");
    drop(prometheus);
    ringway.end_well();
}

#[test]
fn the_alerts_are_right() {
    need("promtool");
    command_succeeds(Command::new("promtool").args(["check", "config"]).arg(shipped("prometheus/prometheus.yml")));
    command_succeeds(
        Command::new("promtool").args(["test", "rules"]).arg(shipped("prometheus/ringway.rules.test.yml")),
    );
    let (rules, tests) = (text_of("prometheus/ringway.rules.yml"), text_of("prometheus/ringway.rules.test.yml"));
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let fires = format!("alertname: {alert}\n        exp_alerts:\n          - exp_labels:");
        assert!(tests.contains(&fires), "no test in which {alert} fires");
    }
}

/// Names of metrics in expressions.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_part(c)).filter(|word| word.len() > "ringway_".len());
    words.filter(|word| word.starts_with("ringway_") || word.starts_with("process_")).map(str::to_owned).collect()
}

/// Every `expr` below.
fn expressions_of(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(expressions_of).collect(),
        Value::Object(fields) => {
            let own = fields.get("expr").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(fields.values().flat_map(expressions_of)).collect()
        }
        _ => Vec::new(),
    }
}
