//! The conductor: one thread that runs the balancer from boot to exit.
//!
//! ```text
//! boot ──▶ serving ──TERM, QUIT──▶ draining ──no sessions left, or time is up, or again──▶ stopping ──▶ exit
//!             │ ▲                                                                             ▲
//!             └─┘ HUP: reload                                                 INT ────────────┘
//! ```

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval, interval_at, sleep, sleep_until};

use crate::base::pulse::Pulse;
use crate::dataplane::commons::{Door, Scene, monotonic_ns};
use crate::observe::event::Event;
use crate::observe::panel::{LastReload, Panel};
use crate::observe::pen::Style;
use crate::observe::writer::{Log, LogThread};
use crate::sys::limits;

use super::admin::{self, AdminSockets, Board, COMMANDS_MAX, Command, Reply};
use super::boot::{Booted, boot};
use super::doors::mention_absent;
use super::engine::Runtime;
use super::errands;
use super::evener::Evener;
use super::failure::Failure;
use super::fleet::{Fleet, Word};
use super::pace::Pace;
use super::prober::{Order, Prober};
use super::ramps::Ramps;
use super::reload::{Answer, Prepared, Workshop, changes, needs_restart, places};
use super::runtime;
use super::shepherd::Shepherd;
use super::shortage;
use super::signals::{Signal, Signals};
use super::source::{Source, read_overlay};
use super::steer;
use super::systemd;
use super::watchdog;

mod steering;

/// How long the workers may take to begin before the daemon says that it is ready all the same, and how often they are looked at.
const IN_PLACE: Duration = Duration::from_secs(1);
const IN_PLACE_LOOK: Duration = Duration::from_millis(1);
/// How often letters that a full mailbox refused are sent again.
const RETRY: Duration = Duration::from_millis(10);
/// How often the workers are looked after.
const LOOK: Duration = Duration::from_secs(1);
/// How often a drain looks whether sessions are left.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// How long a drain without sessions waits for workers to empty the queues of their doors.
const DRAIN_GRACE: Duration = Duration::from_millis(500);
/// How long workers may take to end their sessions once they are told to stop.
const STOPPING: Duration = Duration::from_secs(5);
/// How long a reload that waits, waits for removed addresses to close.
const CLOSING: Duration = Duration::from_secs(5);
/// Lines of one reload that are logged; the rest are counted.
const LINES_MAX: usize = 20;

/// What a conductor does besides balancing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Habits {
    /// Hears signals and talks to the service manager.
    pub(super) signals: bool,
    /// Gives up root.
    pub(super) privileges: bool,
    /// Ties workers to cores.
    pub(super) pin: bool,
    /// Runs the admin server.
    pub(super) admin: bool,
    /// Writes the log.
    pub(super) log: bool,
    /// Ends the process when a thread of it panics or is stuck.
    pub(super) watchdog: bool,
}

impl Habits {
    /// A process of its own.
    const DAEMON: Self = Self { signals: true, privileges: true, pin: true, admin: true, log: true, watchdog: true };
}

/// `ringway run`: runs the daemon with the configuration at `path` until a signal ends it.
///
/// # Errors
/// Why it could not start, or what made it stop.
pub fn run(path: &Path) -> Result<(), Failure> {
    watchdog::end_on_panic();
    let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
    conduct(Source::File(path.to_owned()), Habits::DAEMON, commands, inbox, |_| {})
}

/// Boots, says so, and conducts to the end, all on the current thread.
pub(super) fn conduct(
    source: Source,
    habits: Habits,
    commands: mpsc::Sender<Command>,
    inbox: mpsc::Receiver<Command>,
    booted: impl FnOnce(&Arc<Panel>),
) -> Result<(), Failure> {
    let Booted { text, runtime, panel, log, log_thread, fleet, workshop, admin } = boot(&source, &habits)?;
    let board = Arc::new(Board::new(panel, text, source.name(), commands));
    board.overlay.store(Arc::new(workshop.laid_over()));
    let start = |cause| Failure::Start { what: "the conductor", cause };
    let wanted = runtime;
    let (runtime, open) = wanted.open().map_err(start)?;
    if runtime != wanted {
        log.say(Event::info("conductor", "one more ring is refused to the control thread; it does without"));
    }
    let prober = Prober::new(log.clone(), &board.panel.commons).map_err(start)?;
    let ramps = Ramps::of(&board.panel.commons.scene.load().plan);
    let conductor = Conductor {
        source,
        habits,
        board,
        inbox,
        log,
        log_thread,
        fleet,
        workshop,
        admin,
        prober,
        ramps,
        shepherd: Shepherd::new(),
        evener: Evener::new(),
        runtime,
        before: None,
        turns: Vec::new(),
        pulse: Arc::default(),
    };
    if habits.watchdog {
        let commons = Arc::clone(&conductor.board.panel.commons);
        watchdog::start(commons, Arc::clone(&conductor.pulse), conductor.log.clone())
            .map_err(|cause| Failure::Start { what: "the watchdog", cause })?;
    }
    open.block_on(conductor.run(booted))
}

struct Conductor {
    source: Source,
    habits: Habits,
    board: Arc<Board>,
    inbox: mpsc::Receiver<Command>,
    log: Log,
    log_thread: LogThread,
    fleet: Fleet,
    workshop: Workshop,
    admin: AdminSockets,
    prober: Prober,
    ramps: Ramps,
    shepherd: Shepherd,
    evener: Evener,
    runtime: Runtime,
    /// The configuration before the last reload.
    before: Option<Earlier>,
    /// Turns of each worker when they were last woken to prove that they live.
    turns: Vec<u64>,
    /// What the watchdog feels of this thread.
    pulse: Arc<Pulse>,
}

/// A text, and the overlay that lay over it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Earlier {
    text: String,
    kept: String,
}

/// How serving ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    Drain,
    Now,
    WorkerGone(usize),
}

/// Reloads that were asked for and have not run yet.
#[derive(Default)]
struct Wishes {
    pace: Pace,
    /// Something else than the source says.
    instead: Option<Earlier>,
    replies: Vec<(bool, Reply)>,
}

impl Conductor {
    async fn run(mut self, booted: impl FnOnce(&Arc<Panel>)) -> Result<(), Failure> {
        let start = |what| move |cause| Failure::Start { what, cause };
        let signals = if self.habits.signals { Signals::all() } else { Ok(Signals::none()) };
        let mut signals = signals.map_err(start("listening to signals"))?;
        tokio::task::spawn_local(beat(Arc::clone(&self.pulse)));
        errands::begin(&self.board.panel.commons, Arc::clone(&self.prober.called))
            .map_err(start("listening to workers"))?;
        self.prober.begin();
        self.prober.adopt(&self.board.panel.commons.scene.load().plan);
        self.await_workers().await;
        admin::serve(&self.admin, &self.board).map_err(start("the admin server"))?;
        runtime::serve(&self.admin, &self.board).map_err(start("the runtime socket"))?;
        booted(&self.board.panel);
        self.tell_ready();
        let leave = self.serve(&mut signals).await;
        if self.habits.signals {
            systemd::stopping("stopping");
        }
        if leave == Leave::Drain {
            self.drain(&mut signals).await;
        }
        self.prober.dismiss().await;
        let stopped = self.stop().await;
        let outcome = match leave {
            Leave::WorkerGone(worker) => Err(Failure::WorkerGone(worker)),
            Leave::Drain | Leave::Now => stopped,
        };
        match &outcome {
            Ok(()) => self.log.say(Event::info("stopped", "all sessions have ended")),
            Err(failure) => self.log.say(Event::error("stopped", failure.to_string())),
        }
        self.fleet.dismiss();
        self.log_thread.finish();
        outcome
    }

    /// Waits until the workers accept: who is told that we are ready may come at once.
    async fn await_workers(&mut self) {
        let deadline = Instant::now() + IN_PLACE;
        while !self.fleet.is_in_place() {
            if Instant::now() >= deadline {
                return self
                    .log
                    .say(Event::warn("workers_late", "not every worker accepts yet; who connects may wait"));
            }
            sleep(IN_PLACE_LOOK).await;
            self.fleet.deliver();
        }
    }

    fn tell_ready(&self) {
        if self.habits.signals {
            let generation = self.board.panel.commons.scene.load().plan.generation;
            systemd::ready(&format!("serving, configuration {generation}"));
        }
    }

    /// Serves until something says to stop.
    async fn serve(&mut self, signals: &mut Signals) -> Leave {
        let mut wishes = Wishes::default();
        let mut look = self.looks();
        loop {
            let due = wishes.pace.due(Instant::now());
            let (step, lead) = (self.ramps.due(), self.shepherd.due().into_iter().chain(self.evener.due()).min());
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Reload => wishes.pace.want(),
                    Signal::Drain => return Leave::Drain,
                    Signal::Stop => return Leave::Now,
                    Signal::ReopenLog => self.log.reopen(),
                    Signal::Upgrade => self.say_no_upgrade(),
                },
                command = self.inbox.recv() => match command {
                    Some(Command::Reload { text, wait, by, reply }) => {
                        self.audit("reload", by);
                        wishes.add(text.map(|text| Earlier { text, kept: String::new() }), wait, reply);
                    }
                    Some(Command::RollBack { by, reply }) => self.roll_back(by, &mut wishes, reply),
                    Some(Command::Server { change, by, reply }) => reply(self.change_server(&change, by).await),
                    Some(Command::Drain { drain, by, reply }) => reply(self.stand_aside(&drain, by)),
                    Some(Command::Rebalance { wish, by, reply }) => self.rebalance(&wish, by, reply),
                    Some(Command::Edit { edit, by, reply }) => reply(self.edit_servers(&edit, by).await),
                    Some(Command::Roll { whose, task, by, reply }) => self.call_roll(whose, task, by, reply),
                    Some(Command::Stop { now: false }) => return Leave::Drain,
                    Some(Command::Stop { now: true }) | None => return Leave::Now,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                    self.reload(&mut wishes).await;
                }
                Some(order) = self.prober.orders.recv() => self.pass_on(order),
                () = sleep_until(step.unwrap_or_else(Instant::now).into()), if step.is_some() => {
                    self.ramps.step(&self.board.panel.commons.scene.load().plan, &mut self.fleet);
                }
                () = sleep_until(lead.unwrap_or_else(Instant::now).into()), if lead.is_some() => {
                    let commons = &self.board.panel.commons;
                    self.shepherd.step(commons, &self.log);
                    self.evener.step(&commons.scene.load().plan, &mut self.fleet, &self.log);
                }
                () = sleep(RETRY), if self.fleet.has_unsent() => drop(self.fleet.deliver()),
                _ = look.tick() => {
                    if let Some(worker) = self.fleet.deserter() {
                        return Leave::WorkerGone(worker);
                    }
                    self.prove_life();
                    if let Some(event) = shortage::look(&self.board.panel.commons) {
                        self.log.say(event);
                    }
                }
            }
        }
    }

    /// When to look after the workers.
    fn looks(&self) -> Interval {
        let watchdog = systemd::watchdog_period().filter(|_| self.habits.signals);
        let period = watchdog.unwrap_or(LOOK).min(LOOK);
        let mut looks = interval_at((Instant::now() + period).into(), period);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks
    }

    /// Tells the watchdog that all is well, if every worker has turned since it was last woken. A letter that changes
    /// nothing makes even an idle one turn.
    fn prove_life(&mut self) {
        if !self.habits.signals || systemd::watchdog_period().is_none() {
            return;
        }
        let now = self.fleet.turns();
        match self.turns.iter().zip(&now).position(|(before, now)| before == now) {
            None => systemd::alive(),
            Some(worker) => self.log.say(
                Event::error("worker_stuck", "a worker has not turned since it was last woken")
                    .with("worker", worker as u64),
            ),
        }
        self.turns = now;
        self.fleet.tell(Word::NewScene);
    }

    fn pass_on(&mut self, order: Order) {
        match order {
            Order::Evict(eviction) => self.fleet.evict(&eviction),
            Order::Look(pool) => self.fleet.call_waiting(&pool),
        }
    }

    fn say_no_upgrade(&self) {
        self.log.say(Event::warn("upgrade", "USR2: handing over to a new binary is not part of this version"));
    }

    /// Runs the reload that is due, and answers all who wanted one.
    async fn reload(&mut self, wishes: &mut Wishes) {
        wishes.pace.begin();
        let replies = std::mem::take(&mut wishes.replies);
        if self.habits.signals {
            systemd::reloading();
        }
        let before = Earlier { text: self.board.text.load().to_string(), kept: self.workshop.overlay.kept.clone() };
        let (answer, closed) = match self.prepare(wishes.instead.take()).await {
            Ok(prepared) => {
                // The same again is nothing to go back from.
                if prepared.text != before.text || prepared.overlay.kept != before.kept {
                    self.before = Some(before);
                }
                self.apply(prepared)
            }
            Err(failure) => (self.refuse(&failure), Vec::new()),
        };
        self.tell_ready();
        wishes.pace.end(Instant::now());
        for (wait, reply) in replies {
            reply_to(reply, answer.clone(), if wait { closed.clone() } else { Vec::new() });
        }
        // What reading a large file took is not needed until the next one.
        limits::give_memory_back();
    }

    async fn prepare(&mut self, instead: Option<Earlier>) -> Result<Prepared, Failure> {
        if let (Some(Earlier { text, .. }), Source::Text { text: own, .. }) = (&instead, &mut self.source) {
            own.clone_from(text);
        }
        let (text, kept) = match (instead, &self.workshop.overlay_path) {
            (Some(Earlier { text, kept }), _) => (text, kept),
            (None, None) => (self.source.read_again(self.runtime).await?, String::new()),
            (None, Some(path)) => {
                (self.source.read_again(self.runtime).await?, read_overlay(path, self.runtime).await?)
            }
        };
        let running = self.board.panel.commons.scene.load_full();
        self.workshop.prepare(&self.source.name(), (text, kept), &running).await
    }

    /// Puts a configuration into force: from here on nothing can fail.
    fn apply(&mut self, prepared: Prepared) -> (Answer, Vec<Weak<Door>>) {
        let Prepared { text, scene, pairing, max_connections, sink, diff, tunings, overlay } = prepared;
        let panel = &self.board.panel;
        let plan = Arc::clone(&scene.plan);
        let old = panel.commons.scene.load_full();
        panel.commons.max_connections.store(max_connections, std::sync::atomic::Ordering::Relaxed);
        let known = |id| old.doors.iter().any(|(door, _)| door.id == id);
        mention_absent(&self.log, scene.doors.iter().filter(|(door, _)| !known(door.id)));
        self.prober.adopt(&plan);
        self.ramps.adopt(&plan, &old.plan);
        steer::settle(&plan, Some(&old.plan));
        let new = scene.doors.iter().map(|(door, _)| door).filter(|door| !known(door.id));
        let parcels = self.workshop.doorman.parcels(new);
        self.fleet.publish(scene, parcels);
        self.workshop.doorman.forget(pairing.closed.iter());
        let closed = pairing.closed.iter().map(Arc::downgrade).collect();
        drop((pairing, old));
        self.workshop.registry.sweep();
        self.workshop.tunings = tunings;
        self.workshop.overlay = overlay;
        self.board.text.store(Arc::new(text));
        self.board.overlay.store(Arc::new(self.workshop.laid_over()));
        panel.reloads.applied();
        let shown = changes(&diff.clone().without_secrets());
        panel.reloads.remember(LastReload::now(true, plan.generation, shown));
        self.log.restyle(Style::of(&plan.log), sink);
        let answer = Answer {
            applied: true,
            generation: plan.generation,
            changes: changes(&diff),
            needs_restart: needs_restart(&diff),
            complaints: Vec::new(),
            report: String::new(),
            kind: None,
        };
        self.log_applied(&answer);
        (answer, closed)
    }

    fn log_applied(&self, answer: &Answer) {
        for line in answer.changes.iter().take(LINES_MAX) {
            self.log.say(Event::info("change", line.as_str()).with("generation", answer.generation));
        }
        for line in &answer.needs_restart {
            self.log.say(Event::warn("needs_restart", line.as_str()));
        }
        let message = match answer.changes.len() {
            0 => format!("configuration {} is in force; nothing changed", answer.generation),
            1 => format!("configuration {} is in force: 1 change", answer.generation),
            n => format!("configuration {} is in force: {n} changes", answer.generation),
        };
        self.log.say(Event::info("reload", message).with("applied", true).with("generation", answer.generation));
    }

    /// Says why a configuration is not taken up.
    fn refuse(&self, failure: &Failure) -> Answer {
        let panel = &self.board.panel;
        panel.reloads.refused();
        let answer = Answer::refused(panel.commons.scene.load().plan.generation, failure);
        panel.reloads.remember(LastReload::now(false, answer.generation, places(failure)));
        for line in answer.complaints.iter().take(LINES_MAX) {
            self.log.say(Event::error("complaint", line.as_str()));
        }
        let message = match answer.complaints.len() {
            1 => format!("the new configuration is refused; configuration {} goes on", answer.generation),
            n => format!(
                "the new configuration is refused ({n} complaints); configuration {} goes on",
                answer.generation
            ),
        };
        self.log.say(Event::error("reload", message).with("applied", false).with("generation", answer.generation));
        answer
    }

    /// Takes no more connections and waits for the sessions to end.
    async fn drain(&mut self, signals: &mut Signals) {
        let panel = Arc::clone(&self.board.panel);
        panel.begin_drain();
        self.shepherd.leave_all();
        self.evener.leave_all(&self.log);
        let limit = Duration::from_millis(panel.commons.scene.load().plan.global.drain_ms.into());
        self.log.say(
            Event::info("draining", format!("no more connections are taken; sessions have {limit:?} to end"))
                .with("sessions", u64::from(panel.commons.sessions())),
        );
        let doors = self.close_doors();
        self.fleet.tell(Word::Drain);
        let begun = Instant::now();
        let (mut look, mut life) = (interval(DRAIN_LOOK), self.looks());
        loop {
            tokio::select! {
                _ = life.tick() => {
                    self.prove_life();
                    if self.habits.signals {
                        systemd::still_stopping();
                    }
                }
                signal = signals.next() => match signal {
                    Signal::Drain | Signal::Stop => {
                        let event = Event::warn("draining", "told to stop now");
                        return self.log.say(event.with("sessions", u64::from(panel.commons.sessions())));
                    }
                    Signal::ReopenLog => self.log.reopen(),
                    Signal::Upgrade => self.say_no_upgrade(),
                    Signal::Reload => self.log.say(Event::warn("reload", Failure::Stopping.to_string())),
                },
                command = self.inbox.recv() => match command {
                    Some(Command::Reload { reply, .. } | Command::RollBack { reply, .. }) => {
                        let generation = panel.commons.scene.load().plan.generation;
                        reply(Answer::refused(generation, &Failure::Stopping));
                    }
                    Some(Command::Stop { now: true }) | None => return,
                    // Whoever waits for the reply hears that the daemon is stopping.
                    Some(Command::Roll { whose, task, by, reply }) => self.call_roll(whose, task, by, reply),
                    Some(Command::Stop { now: false } | Command::Server { .. } | Command::Edit { .. }
                    | Command::Drain { .. } | Command::Rebalance { .. }) => {}
                },
                Some(order) = self.prober.orders.recv() => self.pass_on(order),
                _ = look.tick() => {
                    self.fleet.deliver();
                    let closed = doors.iter().all(|door| door.strong_count() == 0);
                    let (waited, sessions) = (begun.elapsed(), panel.commons.sessions());
                    if sessions == 0 && (closed || waited >= DRAIN_GRACE) || self.fleet.running() == 0 {
                        return;
                    }
                    if waited >= limit {
                        let event = Event::warn("draining", "time is up; the sessions that are left are ended");
                        return self.log.say(event.with("sessions", u64::from(sessions)));
                    }
                }
            }
        }
    }

    /// Publishes a scene without doors: they close as soon as the workers let go of them, and newcomers are turned away at
    /// once instead of waiting in a queue that nobody serves.
    fn close_doors(&mut self) -> Vec<Weak<Door>> {
        let scene = self.board.panel.commons.scene.load_full();
        self.workshop.doorman.forget(scene.doors.iter().map(|(door, _)| door));
        self.fleet.publish(Scene { plan: Arc::clone(&scene.plan), doors: Vec::new() }, Vec::new());
        scene.doors.iter().map(|(door, _)| Arc::downgrade(door)).collect()
    }

    /// Ends every session and every worker.
    async fn stop(&mut self) -> Result<(), Failure> {
        self.board.panel.begin_drain();
        self.fleet.tell(Word::Stop);
        let deadline = Instant::now() + STOPPING;
        while self.fleet.running() > 0 {
            if Instant::now() >= deadline {
                return Err(Failure::WorkersStuck(self.fleet.running()));
            }
            sleep(Duration::from_millis(2)).await;
            self.fleet.deliver();
        }
        Ok(())
    }
}

/// Shows that this thread still turns to its tasks.
async fn beat(pulse: Arc<Pulse>) {
    pulse.begin(nix::unistd::gettid().as_raw());
    loop {
        let next = LOOK.as_nanos() as u64;
        pulse.waits(Some(monotonic_ns() + next));
        sleep(LOOK).await;
    }
}

impl Wishes {
    fn add(&mut self, instead: Option<Earlier>, wait: bool, reply: Reply) {
        self.pace.want();
        if instead.is_some() {
            self.instead = instead;
        }
        self.replies.push((wait, reply));
    }
}

/// Answers at once, or when `closed` are closed.
fn reply_to(reply: Reply, answer: Answer, closed: Vec<Weak<Door>>) {
    if closed.is_empty() {
        return reply(answer);
    }
    tokio::task::spawn_local(async move {
        let deadline = Instant::now() + CLOSING;
        while closed.iter().any(|door| door.strong_count() > 0) && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
        reply(answer);
    });
}
