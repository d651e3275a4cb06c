//! A running ringway, seen as its operator sees it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::engine;
use super::facts::{Metrics, await_fact, await_some, await_that, fds_of, http_get_unix, lines_of};
use super::ground::Ground;
use super::process::Process;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_ringway");

/// The daemon, with its files and its baseline.
pub struct Ringway {
    process: Process,
    start: Command,
    config: PathBuf,
    log: PathBuf,
    admin: SocketAddr,
    socket: PathBuf,
    global: String,
    target: String,
    log_extra: String,
    fds_before: usize,
}

/// How to start it, where the defaults do not serve.
pub struct Setup<'a> {
    ground: &'a Ground,
    global: String,
    target: Option<String>,
    log_extra: String,
    wrapper: Vec<String>,
    before_exec: Option<fn() -> io::Result<()>>,
}

impl<'a> Setup<'a> {
    /// Two workers, JSON log to a file, metrics.
    pub fn on(ground: &'a Ground) -> Self {
        Self {
            ground,
            global: "workers = 2".to_owned(),
            target: None,
            log_extra: String::new(),
            wrapper: Vec::new(),
            before_exec: None,
        }
    }

    /// Other lines for `[global]`.
    pub fn global(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.global);
        self
    }

    /// Another target of the log than a file.
    pub fn target(mut self, target: &str) -> Self {
        self.target = Some(target.to_owned());
        self
    }

    /// Further lines for `[log]`.
    pub fn log(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.log_extra);
        self
    }

    /// A command that starts it (`prlimit …`, `strace …`).
    pub fn wrapped(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// A fault it is to make of itself (`base::rehearsal`).
    pub fn rehearsing(self, fault: &str) -> Self {
        self.wrapped(&["env", &format!("RINGWAY_REHEARSE={fault}")])
    }

    /// What the child does before it becomes ringway. Only async-signal-safe calls.
    pub fn before_exec(mut self, step: fn() -> io::Result<()>) -> Self {
        self.before_exec = Some(step);
        self
    }

    /// Writes the configuration, starts the daemon and waits until it serves.
    pub fn start(self, rest_of_config: &str) -> Ringway {
        let mut ringway = self.launch(rest_of_config);
        ringway.await_service();
        ringway
    }

    /// Starts a daemon that is expected to end by itself; how it ended, and all it said.
    pub fn start_in_vain(self, rest_of_config: &str) -> (ExitStatus, String) {
        let mut ringway = self.launch(rest_of_config);
        let status = ringway.process.wait();
        let mut said = ringway.process.said();
        said.extend(lines_of(&ringway.log));
        (status, said.join("\n"))
    }

    fn launch(self, rest_of_config: &str) -> Ringway {
        let ground = self.ground;
        let admin = ground.address();
        let mut ringway_config = Files {
            config: ground.file("ringway.toml"),
            log: ground.file("ringway.log"),
            socket: ground.file("admin.sock"),
        };
        // A second daemon on the same ground gets files of its own.
        for n in 2.. {
            if !ringway_config.config.exists() {
                break;
            }
            ringway_config = Files {
                config: ground.file(&format!("ringway{n}.toml")),
                log: ground.file(&format!("ringway{n}.log")),
                socket: ground.file(&format!("admin{n}.sock")),
            };
        }
        let Files { config, log, socket } = ringway_config;
        let target = self.target.unwrap_or_else(|| log.display().to_string());
        let text = prelude(&self.global, &target, &self.log_extra, &socket, admin) + rest_of_config;
        fs::write(&config, text).expect("own directory");
        let mut command = self.wrapper.iter().map(String::as_str).chain([BINARY, "run", "-c"]);
        let mut start = Command::new(command.next().expect("not empty"));
        start.args(command).arg(&config);
        if let Some(step) = self.before_exec {
            // SAFETY: whoever gave it promised to make async-signal-safe calls only.
            unsafe { start.pre_exec(step) };
        }
        let output = config.with_extension("out");
        Ringway {
            process: Process::start("ringway", &mut start, &output),
            start,
            config,
            log,
            admin,
            socket,
            global: self.global,
            target,
            log_extra: self.log_extra,
            fds_before: 0,
        }
    }
}

struct Files {
    config: PathBuf,
    log: PathBuf,
    socket: PathBuf,
}

fn prelude(global: &str, target: &str, log_extra: &str, socket: &Path, admin: SocketAddr) -> String {
    let engine = match global.contains("engine = ") {
        true => String::new(),
        false => format!("engine = \"{}\"\n", engine::name()),
    };
    format!(
        "[global]\n{global}\n{engine}\n[log]\ntarget = \"{target}\"\n{log_extra}\n\n[admin]\nsocket = \"{}\"\nhttp = \"{admin}\"\n\n",
        socket.display()
    )
}

/// The usual configuration: one listener `front`, one pool `pool` with servers `s0`, `s1`, …, and further lines for the pool.
pub fn one_pool(front: SocketAddr, servers: &[SocketAddr], pool_lines: &str) -> String {
    let entries: Vec<String> = servers
        .iter()
        .enumerate()
        .map(|(i, address)| format!("{{ name = \"s{i}\", address = \"{address}\" }}"))
        .collect();
    listener("front", &front.to_string(), "pool") + &pool("pool", &entries, pool_lines)
}

/// A listener's section.
pub fn listener(name: &str, bind: &str, pool: &str) -> String {
    format!("[listeners.{name}]\nbind = \"{bind}\"\npool = \"{pool}\"\n\n")
}

/// A pool's section; each server as an inline table.
pub fn pool(name: &str, servers: &[String], lines: &str) -> String {
    format!("[pools.{name}]\nservers = [\n  {}\n]\n{lines}\n\n", servers.join(",\n  "))
}

impl Ringway {
    /// The daemon with defaults, serving.
    pub fn start(ground: &Ground, rest_of_config: &str) -> Self {
        Setup::on(ground).start(rest_of_config)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn await_service(&mut self) {
        await_that("ringway to serve", || {
            self.process.must_live();
            http_get_unix(&self.socket, "/readyz").is_ok_and(|(status, _)| status == 200)
        });
        self.fds_before = fds_of(self.pid());
    }

    /// Kills it without a chance to tidy up, starts it again on the same files as a supervisor does, and waits until it
    /// serves; how long that took.
    pub fn kill_and_start_again(&mut self) -> Duration {
        self.signal(Signal::SIGKILL);
        self.wait();
        let began = Instant::now();
        let output = self.config.with_extension("out");
        self.process = Process::start("ringway", &mut self.start, &output);
        self.await_service();
        began.elapsed()
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait()
    }

    /// Fails if it has ended.
    pub fn must_live(&mut self) {
        self.process.must_live();
    }

    /// A page of the admin server.
    pub fn page(&self, path: &str) -> (u16, String) {
        http_get_unix(&self.socket, path).unwrap_or_else(|error| panic!("{}{path}: {error}", self.socket.display()))
    }

    /// Where the admin server listens with full rights.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where the admin server listens on TCP.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The metrics now.
    pub fn metrics(&self) -> Metrics {
        let (status, body) = self.page("/metrics");
        assert_eq!(status, 200, "{body}");
        Metrics::parse(&body)
    }

    /// Sum of the series of one metric now.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().sum(name, labels)
    }

    /// Waits until a metric is what it should be.
    pub fn await_metric(&self, name: &str, labels: &[(&str, &str)], right: impl Fn(f64) -> bool) {
        await_fact(|| {
            let value = self.metric(name, labels);
            if right(value) { Ok(()) } else { Err(format!("{name}{labels:?}, which is {value}")) }
        });
    }

    /// Sessions that are open now.
    pub fn sessions(&self) -> f64 {
        self.metric("ringway_sessions", &[])
    }

    /// Waits until so many sessions have ended with this reason: a client may see the end of its own before it is counted.
    pub fn await_ended(&self, reason: &str, count: f64) {
        self.await_metric("ringway_sessions_ended_total", &[("reason", reason)], |ended| ended == count);
    }

    /// Ended sessions with this reason.
    pub fn ended(&self, reason: &str) -> f64 {
        self.metric("ringway_sessions_ended_total", &[("reason", reason)])
    }

    /// Access records so far.
    pub fn records(&self) -> Vec<Value> {
        lines_of(&self.log)
            .iter()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}")))
            .filter(|record: &Value| record.get("session").is_some())
            .collect()
    }

    /// Waits for so many access records, which come a moment after their sessions' ends.
    pub fn await_records(&self, count: usize) -> Vec<Value> {
        let mut records = Vec::new();
        await_that(&format!("{count} access records"), || {
            records = self.records();
            records.len() >= count
        });
        assert_eq!(records.len(), count, "{records:?}");
        records
    }

    /// Lines of the log that are no access records.
    pub fn events(&self) -> Vec<String> {
        lines_of(&self.log)
            .into_iter()
            .chain(self.process.said())
            .filter(|line| !line.contains("\"session\":"))
            .collect()
    }

    /// Waits until the log has an event with these words, which comes a moment after what it tells of.
    pub fn await_event(&self, words: &str) {
        await_that(words, || self.events().iter().any(|line| line.contains(words)));
    }

    /// Waits until the log tells of so many reloads that were refused.
    pub fn await_refusals(&self, count: usize) {
        let refusals = || self.events().iter().filter(|line| line.contains("\"applied\":false")).count();
        await_that(&format!("{count} reloads to be refused"), || refusals() == count);
    }

    /// Waits for the access record of the only session that ended for this reason.
    pub fn record(&self, reason: &str) -> Value {
        let what = format!("an access record with reason {reason}");
        await_some(&what, || self.records().into_iter().find(|record| record["reason"] == reason))
    }

    /// Puts another configuration in place; nothing happens yet.
    pub fn write_config(&self, rest_of_config: &str) {
        let text = prelude(&self.global, &self.target, &self.log_extra, &self.socket, self.admin) + rest_of_config;
        // As an editor or a deployment does it: the daemon never sees half a file.
        let fresh = self.config.with_extension("new");
        fs::write(&fresh, text).expect("own directory");
        fs::rename(&fresh, &self.config).expect("own directory");
    }

    /// Reloads with `ringway reload --wait`.
    pub fn reload(&self) -> Output {
        self.verb(&["reload", "--wait"])
    }

    /// Reloads with another configuration, which must be accepted.
    pub fn reload_with(&self, rest_of_config: &str) {
        self.write_config(rest_of_config);
        let output = self.reload();
        assert!(output.status.success(), "{}", all_of(&output));
    }

    /// Runs a verb of the command line against this daemon.
    pub fn verb(&self, words: &[&str]) -> Output {
        Command::new(BINARY).args(words).arg("-c").arg(&self.config).output().expect("the binary under test")
    }

    /// What a verb said, and its exit code.
    pub fn said(&self, words: &[&str]) -> (i32, String) {
        let output = self.verb(words);
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().expect("no signal"), said)
    }

    /// What a verb said that did what it was told.
    pub fn done(&self, words: &[&str]) -> String {
        let (code, said) = self.said(words);
        assert_eq!(code, 0, "{words:?}: {said}");
        said
    }

    /// What must hold once all is quiet: no session, everything accounted for, no descriptor lost.
    pub fn settles(&mut self) {
        self.process.must_live();
        await_that("all sessions to end", || self.sessions() == 0.0);
        await_fact(|| {
            let metrics = self.metrics();
            let accepted = metrics.sum("ringway_listener_accepted_total", &[]);
            let ended = metrics.sum("ringway_sessions_ended_total", &[]);
            let refused = ["max_connections", "memory"]
                .map(|reason| metrics.sum("ringway_listener_rejected_total", &[("reason", reason)]))
                .iter()
                .sum::<f64>();
            let books = format!("accepted = ended + refused, which are {accepted}, {ended} and {refused}");
            if accepted == ended + refused { Ok(()) } else { Err(books) }
        });
        // Those of listeners that a reload has removed are counted here only.
        self.await_metric("ringway_worker_sessions", &[], |sessions| sessions == 0.0);
        self.await_metric("ringway_server_sessions", &[], |sessions| sessions == 0.0);
        // Empty pipes that are kept for the next session are no loss, but they are two descriptors each. Nor are the sockets of a
        // listener that a reload has added: with two workers four, here and in the control thread's table. Nor one or two of the
        // control thread's own, which it may open a moment after it is ready.
        await_fact(|| {
            let now = fds_of(self.pid());
            let kept = self.metric("ringway_pipes", &[("state", "idle")]);
            let most = self.fds_before as f64 + 2.0 * kept + 6.0;
            if now as f64 <= most { Ok(()) } else { Err(format!("descriptors to be back at {most}, which are {now}")) }
        });
        for event in self.events() {
            assert!(!event.contains("panicked"), "{event}");
        }
    }

    /// [`Ringway::settles`], then a graceful stop: exit code 0.
    pub fn end_well(mut self) {
        self.settles();
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert!(status.success(), "{status} after SIGTERM with no session open");
    }
}

impl Drop for Ringway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = lines_of(&self.log);
            let last = lines.len().saturating_sub(40);
            eprintln!("--- last of {}:\n{}", self.log.display(), lines[last..].join("\n"));
        }
    }
}

/// Standard output and error of a finished command.
pub fn all_of(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
