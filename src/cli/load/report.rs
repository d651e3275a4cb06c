//! The result of a run: one JSON object, or a table to read.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::tally::{Fault, Latencies, Tally};

/// A finished run.
pub struct Report<'a> {
    /// Which subcommand ran.
    pub kind: &'static str,
    /// What it was asked to do, for the record; keys go into the JSON object as they are.
    pub asked: Map<String, Value>,
    /// What it counted.
    pub tally: &'a Tally,
    /// True when a signal ended it.
    pub interrupted: bool,
}

impl Report<'_> {
    /// Writes one line of JSON, or a table, to stdout.
    ///
    /// # Errors
    ///
    /// When stdout does not take it.
    pub fn print(&self, as_json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match as_json {
            true => writeln!(out, "{}", self.json())?,
            false => out.write_all(self.table().as_bytes())?,
        }
        out.flush()
    }

    fn elapsed_seconds(&self) -> f64 {
        self.tally.elapsed_ns as f64 / 1e9
    }

    fn cpu_seconds(&self) -> f64 {
        self.tally.cpu_ns as f64 / 1e9
    }

    /// `figure` a second of elapsed time; zero when no time has passed.
    fn per_second(&self, figure: u64) -> f64 {
        match self.tally.elapsed_ns {
            0 => 0.0,
            _ => figure as f64 / self.elapsed_seconds(),
        }
    }

    fn json(&self) -> Value {
        let tally = self.tally;
        let errors: Map<String, Value> =
            Fault::ALL.iter().map(|fault| (fault.name().to_owned(), tally.faults_of(*fault).into())).collect();
        let mut object = Map::new();
        object.insert("kind".to_owned(), self.kind.into());
        object.extend(self.asked.clone());
        let figures = json!({
            "ops": tally.ops,
            "connections_opened": tally.connections,
            "errors": errors,
            "errors_total": tally.faults(),
            "first_error": tally.first_fault,
            "bytes_in": tally.bytes_in,
            "bytes_out": tally.bytes_out,
            "elapsed_seconds": self.elapsed_seconds(),
            "rate": self.per_second(tally.ops),
            "bytes_in_per_second": self.per_second(tally.bytes_in),
            "bytes_out_per_second": self.per_second(tally.bytes_out),
            "missed": tally.missed,
            "backlog_max": tally.backlog_max,
            "alive": tally.alive,
            "latency_us": percentiles(&tally.latency),
            "service_us": percentiles(&tally.service),
            "connect_us": percentiles(&tally.connect),
            "cpu_seconds": self.cpu_seconds(),
            "interrupted": self.interrupted,
        });
        if let Value::Object(figures) = figures {
            object.extend(figures);
        }
        Value::Object(object)
    }

    fn table(&self) -> String {
        let tally = self.tally;
        let mut lines = vec![format!(
            "{:<12} {} in {:.2} s, {:.1}/s",
            self.kind,
            tally.ops,
            self.elapsed_seconds(),
            self.per_second(tally.ops),
        )];
        let mut line = |label: &str, text: String| lines.push(format!("{label:<12} {text}"));
        if tally.alive > 0 {
            line("alive", tally.alive.to_string());
        }
        line(
            "bytes",
            format!(
                "{} in ({:.1} MB/s), {} out ({:.1} MB/s)",
                tally.bytes_in,
                self.per_second(tally.bytes_in) / 1e6,
                tally.bytes_out,
                self.per_second(tally.bytes_out) / 1e6,
            ),
        );
        if tally.missed + tally.backlog_max > 0 {
            line("behind", format!("{} missed, backlog {}", tally.missed, tally.backlog_max));
        }
        for (label, latencies) in
            [("latency", &tally.latency), ("service", &tally.service), ("connect", &tally.connect)]
        {
            if latencies.count() > 0 {
                line(label, percentiles_line(latencies));
            }
        }
        line("own cpu", format!("{:.3} s", self.cpu_seconds()));
        line("errors", self.errors_line());
        lines.push(String::new());
        lines.join("\n")
    }

    fn errors_line(&self) -> String {
        let mut parts: Vec<String> = Fault::ALL
            .iter()
            .filter(|fault| self.tally.faults_of(**fault) > 0)
            .map(|fault| format!("{} {}", self.tally.faults_of(*fault), fault.name()))
            .collect();
        if let Some(first) = &self.tally.first_fault {
            parts.push(format!("the first: {first}"));
        }
        match parts.is_empty() {
            true => "none".to_owned(),
            false => parts.join(", "),
        }
    }
}

/// The percentiles of the report in microseconds; null when nothing was recorded.
fn percentiles(latencies: &Latencies) -> Value {
    if latencies.count() == 0 {
        return Value::Null;
    }
    json!({
        "p50": latencies.percentile_us(50.0),
        "p90": latencies.percentile_us(90.0),
        "p99": latencies.percentile_us(99.0),
        "p999": latencies.percentile_us(99.9),
        "max": latencies.max_us(),
        "mean": latencies.mean_us(),
    })
}

fn percentiles_line(latencies: &Latencies) -> String {
    format!(
        "p50 {:.0} µs, p90 {:.0}, p99 {:.0}, p99.9 {:.0}, max {:.0}, mean {:.1}",
        latencies.percentile_us(50.0),
        latencies.percentile_us(90.0),
        latencies.percentile_us(99.0),
        latencies.percentile_us(99.9),
        latencies.max_us(),
        latencies.mean_us(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_every_promised_field() {
        let mut tally = Tally::default();
        tally.fault(Fault::ClosedEarly, || "gone");
        tally.latency.record(1_500_000);
        tally.ops = 2;
        tally.elapsed_ns = 500_000_000;
        let report = Report { kind: "request", asked: Map::new(), tally: &tally, interrupted: false };
        let json = report.json();
        assert_eq!(json["rate"], 4.0);
        assert_eq!(json["errors"]["closed_early"], 1);
        assert_eq!(json["errors"]["refused"], 0);
        assert_eq!(json["first_error"], "gone");
        assert!((json["latency_us"]["p99"].as_f64().expect("a number") - 1500.0).abs() < 2.0);
        assert!(json["service_us"].is_null());
        assert!(report.table().contains("1 closed_early"));
    }
}
