//! Taking up a new configuration: everything is read, checked, compiled and bound beside what runs; only then one swap.
//!
//! Whatever goes wrong on the way changes nothing. What can no longer go wrong comes after the swap.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::diff::{Diff, diff};
use crate::config::ledger::Registry;
use crate::config::overlay::{self, Overlay, Setting, Sheet};
use crate::config::plan::Plan;
use crate::config::tuning::{Tunings, Wish};
use crate::config::{self, Draft, file};
use crate::dataplane::commons::Scene;
use crate::observe::sink::Sink;

use super::ceiling::Ceiling;
use super::doors::{Doorman, Pairing, Placed, pair};
use super::failure::{Failure, Kind};
use super::roster::{Edit, InForce};

/// How long an address that is in use may take to become free. Bounded tightly: the conductor answers nobody meanwhile.
const BIND_PATIENCE: Duration = Duration::from_millis(500);
/// Time between two tries.
const BIND_RETRY: Duration = Duration::from_millis(20);

/// How a reload went: what `POST /v1/reload` answers and `ringway reload` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether the new configuration is in force.
    pub applied: bool,
    /// The configuration in force now.
    pub generation: u64,
    /// What changed, one line each.
    pub changes: Vec<String>,
    /// What the file asks for and only a restart brings, one line each.
    pub needs_restart: Vec<String>,
    /// Why it was refused, one line each; with file, line and column where it is the file's fault.
    pub complaints: Vec<String>,
    /// The complaints as a terminal shows them, with the lines they are about.
    pub report: String,
    /// What kind of fault it was.
    pub kind: Option<Kind>,
}

impl Answer {
    /// It was refused.
    pub fn refused(generation: u64, failure: &Failure) -> Self {
        Self {
            applied: false,
            generation,
            changes: Vec::new(),
            needs_restart: Vec::new(),
            complaints: failure.lines(),
            report: failure.to_string().trim_end().to_owned(),
            kind: Some(failure.kind()),
        }
    }
}

/// A configuration that is ready to be put into force.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) text: String,
    pub(super) scene: Scene,
    pub(super) pairing: Pairing,
    pub(super) max_connections: u32,
    /// The new log, when it goes elsewhere.
    pub(super) sink: Option<Sink>,
    pub(super) diff: Diff,
    /// What is set beside the text and still holds.
    pub(super) tunings: Tunings,
    /// What is laid over the text and still holds.
    pub(super) overlay: Overlay,
}

/// What it takes to prepare one.
#[derive(Debug)]
pub(super) struct Workshop {
    pub(super) registry: Registry,
    pub(super) doorman: Doorman,
    pub(super) ceiling: Ceiling,
    /// What is set beside the text in force.
    pub(super) tunings: Tunings,
    /// What is laid over the text in force.
    pub(super) overlay: Overlay,
    /// Where what lasts of it is kept; `None`: nowhere. Fixed for the life of the process.
    pub(super) overlay_path: Option<PathBuf>,
}

impl Workshop {
    /// Prepares `text`, called `name`, with the overlay `kept`, to follow `running`.
    pub(super) async fn prepare(
        &mut self,
        name: &str,
        (text, kept): (String, String),
        running: &Scene,
    ) -> Result<Prepared, Failure> {
        let mut overlay = self.overlay.clone();
        overlay.kept = kept;
        let (draft, overlay) = self.draft(name, &text, overlay)?;
        self.prepare_draft(draft, overlay, self.tunings.clone(), text, running).await
    }

    /// Prepares the text in force, with a server more or less.
    pub(super) async fn edit(
        &mut self,
        (name, text): (&str, String),
        edit: &Edit,
        running: &Scene,
    ) -> Result<Prepared, Failure> {
        let file = config::parse(name, &text, &file::environment)?;
        let mut overlay = self.overlay.clone();
        edit.apply(&mut overlay, &file).map_err(Failure::Untunable)?;
        let (draft, overlay) = self.draft(name, &text, overlay)?;
        self.prepare_draft(draft, overlay, self.tunings.clone(), text, running).await
    }

    /// What is laid over the text in force, for whoever asks.
    pub(super) fn laid_over(&self) -> InForce {
        InForce {
            path: self.overlay_path.clone(),
            kept: self.overlay.kept.clone(),
            passing: self.overlay.passing_text(),
        }
    }

    /// The text with what is laid over it, and what of that still holds.
    fn draft(&self, name: &str, text: &str, mut overlay: Overlay) -> Result<(Draft, Overlay), Failure> {
        let file = config::parse(name, text, &file::environment)?;
        let called = self.overlay_path.as_ref().map_or_else(String::new, |path| path.display().to_string());
        let kept = Sheet { name: &called, text: &overlay.kept };
        let base = overlay::lay(file, Sheet { name, text }, kept, &file::environment)?;
        let draft = overlay.pass_over(base);
        Ok((draft, overlay))
    }

    /// Prepares the text in force, with something else set of a server beside it.
    pub(super) async fn retune(
        &mut self,
        (name, text): (&str, String),
        (pool, server): (&str, &str),
        wish: Wish,
        running: &Scene,
    ) -> Result<Prepared, Failure> {
        let (draft, overlay) = self.draft(name, &text, self.overlay.clone())?;
        let mut tunings = self.tunings.clone();
        tunings.set(&draft, pool, server, wish).map_err(Failure::Untunable)?;
        self.prepare_draft(draft, overlay, tunings, text, running).await
    }

    /// Prepares the text in force, with something else kept of a server; what was set of it for now gives way.
    pub(super) async fn persist(
        &mut self,
        (name, text): (&str, String),
        (pool, server): (&str, &str),
        setting: Setting,
        running: &Scene,
    ) -> Result<Prepared, Failure> {
        let file = config::parse(name, &text, &file::environment)?;
        let mut overlay = self.overlay.clone();
        overlay.set(&file, (pool, server), setting, &file::environment).map_err(Failure::Untunable)?;
        let (draft, overlay) = self.draft(name, &text, overlay)?;
        let mut tunings = self.tunings.clone();
        let Setting { weight, max_connections, .. } = setting;
        tunings.set(&draft, pool, server, Wish { weight, max_connections }).map_err(Failure::Untunable)?;
        self.prepare_draft(draft, overlay, tunings, text, running).await
    }

    async fn prepare_draft(
        &mut self,
        mut draft: Draft,
        overlay: Overlay,
        mut tunings: Tunings,
        text: String,
        running: &Scene,
    ) -> Result<Prepared, Failure> {
        tunings.apply(&mut draft);
        let mut plan = draft.compile(&mut self.registry, Some(&running.plan));
        let diff = diff(&running.plan, &plan);
        keep_fixed(&mut plan, &running.plan);
        let max_connections = self.ceiling.sessions(&plan)?;
        let sink = match plan.log.target == running.plan.log.target {
            true => None,
            false => Some(Sink::open(&plan.log.target)?),
        };
        let pairing = pair(&plan, &running.doors);
        let opened = self.open_patiently(&pairing, &running.doors).await?;
        if let Err(failure) = self.doorman.bequeath(&pairing) {
            self.doorman.forget(opened.iter().map(|(door, _)| door));
            return Err(failure);
        }
        let kept = pairing.kept.iter().map(|(door, listener, _)| (Arc::clone(door), Arc::clone(listener)));
        let scene = Scene { plan: Arc::new(plan), doors: kept.chain(opened).collect() };
        Ok(Prepared { text, scene, pairing, max_connections, sink, diff, tunings, overlay })
    }

    async fn open_patiently(&mut self, pairing: &Pairing, open: &[Placed]) -> Result<Vec<Placed>, Failure> {
        let deadline = Instant::now() + BIND_PATIENCE;
        loop {
            match self.doorman.open(&pairing.missing, open) {
                Err(failure) if failure.may_pass() && Instant::now() < deadline => {
                    tokio::time::sleep(BIND_RETRY).await;
                }
                answer => return answer,
            }
        }
    }
}

/// Puts back what only a restart can change.
fn keep_fixed(plan: &mut Plan, running: &Plan) {
    plan.global.workers = running.global.workers;
    plan.global.engine = running.global.engine;
    plan.global.user = running.global.user.clone();
    plan.global.group = running.global.group.clone();
    plan.global.state_dir = running.global.state_dir.clone();
    plan.admin = running.admin.clone();
}

/// What changes, one line each.
pub(super) fn changes(diff: &Diff) -> Vec<String> {
    if diff.is_empty() {
        return Vec::new();
    }
    diff.to_string().lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// Where a configuration is wrong, for everybody's eyes: what is written there may be a secret. Other failures say nothing
/// of it.
pub(super) fn places(failure: &Failure) -> Vec<String> {
    let lines = failure.lines();
    if !matches!(failure, Failure::Invalid(_)) {
        return lines;
    }
    lines.iter().map(|line| place(line).to_owned()).collect()
}

/// `FILE:LINE:COLUMN` of a complaint.
fn place(line: &str) -> &str {
    line.split_once(": ").map_or("the file", |(place, _)| place)
}

/// What only a restart brings, one line each.
pub(super) fn needs_restart(diff: &Diff) -> Vec<String> {
    diff.needs_restart().map(|setting| format!("{} stays {} until a restart", setting.key, setting.from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A right configuration, on a port that was free a moment ago.
    fn right() -> String {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        format!(
            "[global]\nworkers = 1\n[listeners.a]\nbind = \"{}\"\npool = \"p\"\n[pools.p]\n\
             servers = [{{ name = \"s\", address = \"127.0.0.1:1\" }}]\n",
            free.expect("loopback")
        )
    }

    fn workshop() -> Workshop {
        Workshop {
            registry: Registry::new(1),
            doorman: Doorman::new(1),
            ceiling: Ceiling::of_descriptors(4_096, 1),
            tunings: Tunings::default(),
            overlay: Overlay::default(),
            overlay_path: None,
        }
    }

    /// A text without an overlay.
    fn bare(text: &str) -> (String, String) {
        (text.to_owned(), String::new())
    }

    fn empty() -> Scene {
        let draft = config::parse("t.toml", &right(), &|_| None).expect("right");
        let mut plan = draft.compile(&mut Registry::new(1), None);
        plan.listeners.clear();
        Scene { plan: Arc::new(plan), doors: Vec::new() }
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        super::super::engine::Runtime::Plain.open().expect("a runtime").1.block_on(future)
    }

    #[test]
    fn unchanged_addresses_keep_their_sockets_and_fixed_settings_their_values() {
        block_on(async {
            let (mut workshop, right) = (workshop(), right());
            let first = workshop.prepare("t.toml", bare(&right), &empty()).await.expect("right");
            assert_eq!((first.scene.plan.generation, first.pairing.missing.len()), (2, 1));
            let text =
                right.replace("workers = 1", "workers = 7").replace("[pools.p]", "[pools.p]\nuser_timeout = \"5s\"");
            let second = workshop.prepare("t.toml", bare(&text), &first.scene).await.expect("right");
            assert!(Arc::ptr_eq(&first.scene.doors[0].0, &second.scene.doors[0].0));
            assert_eq!(second.scene.plan.global, first.scene.plan.global);
            assert_eq!(needs_restart(&second.diff), ["global.workers stays 1 until a restart"]);
            assert!(changes(&second.diff).iter().any(|line| line.contains("user_timeout")));
            let socket = socket2::SockRef::from(&workshop.doorman.sockets(&second.scene.doors[0].0)[0]);
            assert_eq!(socket.tcp_user_timeout().expect("readable"), Some(Duration::from_secs(5)));
        });
    }

    #[test]
    fn what_is_wrong_is_refused_as_a_whole() {
        block_on(async {
            let (mut workshop, right) = (workshop(), right());
            let running = workshop.prepare("t.toml", bare(&right), &empty()).await.expect("right").scene;
            let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
            let elsewhere = format!("{}", taken.local_addr().expect("bound"));
            let bound = right.split("bind = ").nth(1).and_then(|rest| rest.split("pool").next()).expect("a bind");
            for (text, kind, part) in [
                (right.replace("pool = ", "pol = "), Kind::Config, "t.toml:5:1: "),
                (right.replace(bound, &format!("\"{elsewhere}\"\n")), Kind::Runtime, "in use"),
                (right.replace("workers = 1", "max_connections = 90_000"), Kind::Runtime, "descriptors"),
                (
                    right.replace("[listeners", "[log]\ntarget = \"/no/such/place\"\n[listeners"),
                    Kind::Runtime,
                    "/no/such",
                ),
            ] {
                let failure = workshop.prepare("t.toml", bare(&text), &running).await.expect_err("wrong");
                let answer = Answer::refused(1, &failure);
                assert_eq!(answer.kind, Some(kind));
                assert!(answer.complaints.iter().any(|line| line.contains(part)), "{answer:?}");
                let shown = places(&failure);
                assert_eq!(shown.iter().any(|line| line == "t.toml:5:1"), kind == Kind::Config, "{shown:?}");
            }
        });
    }
}
