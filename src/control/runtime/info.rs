//! `show info`: the process, under HAProxy's names and numbers as far as it has them.
//!
//! `Maxpipes` and the two behind it count pipes of all workers; `Run_queue` is always 0, for workers have none.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use crate::base::limits::PIPES_MAX;
use crate::dataplane::commons::WorkerTally;
use crate::observe::process::usage;

use super::field::{Field, Format, Value};
use super::stat::Around;

/// Answers whole: it is short.
pub(super) fn info(around: &Around<'_>, format: Format) -> String {
    let fields = fields(around);
    let mut out = String::with_capacity(8 * 1024);
    match format {
        Format::Plain => {
            for (_, (name, _), value) in &fields {
                out.push_str(name);
                out.push_str(": ");
                value.plain(&mut out);
                out.push('\n');
            }
        }
        Format::Typed => {
            for (position, field, value) in &fields {
                out.push_str(&format!("{position}."));
                value.typed(*field, &mut out);
            }
        }
        Format::Json => {
            for (count, (position, field, value)) in fields.iter().enumerate() {
                out.push(if count == 0 { '[' } else { ',' });
                value.json("", *position, *field, &mut out);
            }
            out.push_str("]\n");
        }
    }
    out
}

fn fields(around: &Around<'_>) -> Vec<(usize, Field, Value)> {
    let panel = around.panel;
    let commons = &panel.commons;
    let plan = &commons.scene.load().plan;
    let usage = usage(commons.workers());
    let uptime_s = panel.uptime().as_secs();
    let most = u64::from(commons.max_connections.load(Ordering::Relaxed));
    let sessions = u64::from(commons.sessions());
    let pipes = |figure: fn(&WorkerTally) -> u32| -> u64 {
        commons.desks.iter().map(|desk| u64::from(figure(&desk.tally))).sum()
    };
    let tallies = || plan.listeners.iter().map(|listener| &listener.ledger.tally);
    let accepted: u64 = tallies().map(|tally| tally.sum(|t| t.accepted.read())).sum();
    let opened: u64 = tallies().map(|tally| tally.sum(|t| t.opened.read())).sum();
    let bytes_out: u64 = tallies().map(|tally| tally.sum(|t| t.bytes_out.read())).sum();
    let dropped: u64 = commons.desks.iter().map(|desk| desk.tally.records_dropped.read()).sum();
    let binds: usize = plan.listeners.iter().map(|listener| listener.binds.len()).sum();
    let (rate, rate_max) = around.trends.connections(plan);
    let started = panel.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let node = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    let number = Value::Number;
    let version = || Value::text(env!("CARGO_PKG_VERSION"));
    vec![
        (0, ("Name", "POS"), Value::text("ringway")),
        (1, ("Version", "POS"), version()),
        (2, ("Release_date", "POS"), Value::text("-")),
        (3, ("Nbthread", "CGS"), number(commons.desks.len() as u64)),
        (4, ("Nbproc", "CGS"), number(1)),
        (5, ("Process_num", "KGP"), number(1)),
        (6, ("Pid", "SGP"), number(std::process::id().into())),
        (7, ("Uptime", "MDP"), Value::text(uptime(uptime_s))),
        (8, ("Uptime_sec", "MDP"), number(uptime_s)),
        (13, ("Ulimit-n", "CLP"), number(usage.descriptors_max)),
        (14, ("Maxsock", "CLP"), number(usage.descriptors_max)),
        (15, ("Maxconn", "CLP"), number(most)),
        (16, ("Hard_maxconn", "CLP"), number(most)),
        (17, ("CurrConns", "MGP"), number(sessions)),
        (18, ("CumConns", "MCP"), number(accepted)),
        (19, ("CumReq", "MCP"), number(opened)),
        (23, ("Maxpipes", "CLP"), number((PIPES_MAX * commons.desks.len()) as u64)),
        (24, ("PipesUsed", "MGP"), number(pipes(|tally| tally.pipes_used.load(Ordering::Relaxed)))),
        (25, ("PipesFree", "MGP"), number(pipes(|tally| tally.pipes_idle.load(Ordering::Relaxed)))),
        (26, ("ConnRate", "MRP"), number(rate)),
        (27, ("ConnRateLimit", "CLP"), number(0)),
        (28, ("MaxConnRate", "MMP"), number(rate_max)),
        (29, ("SessRate", "MRP"), number(rate)),
        (30, ("SessRateLimit", "CLP"), number(0)),
        (31, ("MaxSessRate", "MRP"), number(rate_max)),
        (47, ("Tasks", "MGP"), number(sessions)),
        (48, ("Run_queue", "MGP"), number(0)),
        (50, ("node", "COS"), Value::text(if node.is_empty() { "-".into() } else { node })),
        (52, ("Stopping", "MGP"), number(panel.is_draining().into())),
        (53, ("Jobs", "MGP"), number(sessions + binds as u64)),
        (55, ("Listeners", "MGP"), number(binds as u64)),
        (58, ("DroppedLogs", "MGP"), number(dropped + panel.log.events_dropped())),
        (61, ("TotalBytesOut", "MGP"), Value::Count(bytes_out)),
        (66, ("Build info", "POS"), version()),
        (70, ("Start_time_sec", "MDP"), number(started.as_secs())),
    ]
}

fn uptime(seconds: u64) -> String {
    format!("{}d {}h{:02}m{:02}s", seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::super::trends::Trends;
    use super::*;
    use crate::observe::panel::tests::panel;

    fn told(format: Format) -> String {
        let (panel, trends) = (panel(), Trends::default());
        info(&Around { panel: &panel, trends: &trends }, format)
    }

    #[test]
    fn three_forms() {
        let plain = told(Format::Plain);
        assert!(plain.starts_with("Name: ringway\nVersion: "), "{plain}");
        assert!(plain.contains("\nMaxconn: 1000\n"), "{plain}");
        let typed = told(Format::Typed);
        assert!(typed.contains("\n15.Maxconn.1:CLP:u32:1000\n"), "{typed}");
        let json: serde_json::Value = serde_json::from_str(&told(Format::Json)).expect("JSON");
        let fields = json.as_array().expect("fields");
        assert_eq!((fields.len(), fields.len()), (plain.lines().count(), typed.lines().count()));
        assert_eq!(fields[11]["value"]["value"], 1000);
    }

    #[test]
    fn times() {
        assert_eq!(uptime(2), "0d 0h00m02s");
        assert_eq!(uptime(90_061), "1d 1h01m01s");
    }
}
