//! Boot, as a checklist: each step can fail and says why; nothing is served before the last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::ledger::Registry;
use crate::config::overlay::{self, Overlay, Sheet};
use crate::config::plan::{Address, Plan, WORKERS_MAX, Workers};
use crate::config::tuning::Tunings;
use crate::config::{self, file};
use crate::dataplane::commons::{Commons, Scene};
use crate::observe::event::Event;
use crate::observe::panel::Panel;
use crate::observe::pen::Style;
use crate::observe::sink::Sink;
use crate::observe::writer::{self, Log, LogThread};
use crate::sys::privilege::{self, Identity};
use crate::sys::{affinity, listen};

use super::admin::AdminSockets;
use super::ceiling::Ceiling;
use super::conductor::Habits;
use super::doors::{Doorman, Placed, mention_absent, pair};
use super::engine::{self, Chosen, Runtime};
use super::failure::Failure;
use super::fleet::{Crew, Fleet};
use super::reload::Workshop;
use super::roster;
use super::source::Source;
use super::steer;

/// How long an address that is in use may take to become free: after a kill -9 the kernel lets go of sockets only when the
/// last ring request on them has ended.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
/// Time between two tries.
const BIND_RETRY: Duration = Duration::from_millis(20);

/// A daemon whose workers run.
pub(super) struct Booted {
    pub(super) text: String,
    pub(super) runtime: Runtime,
    pub(super) panel: Arc<Panel>,
    pub(super) log: Log,
    pub(super) log_thread: LogThread,
    pub(super) fleet: Fleet,
    pub(super) workshop: Workshop,
    pub(super) admin: AdminSockets,
}

/// The checklist.
pub(super) fn boot(source: &Source, habits: &Habits) -> Result<Booted, Failure> {
    let text = source.read()?;
    let file = config::parse(&source.name(), &text, &file::environment)?;
    let overlay_path = source.overlay_path(file.global().state_dir.as_deref());
    let kept = overlay_path.as_deref().map(file::read_overlay).transpose()?.unwrap_or_default();
    let called = overlay_path.as_ref().map_or_else(String::new, |path| path.display().to_string());
    let sheets = [Sheet { name: &source.name(), text: &text }, Sheet { name: &called, text: &kept }];
    let draft = overlay::lay(file, sheets[0], sheets[1], &file::environment)?;
    let engine = engine::choose(draft.global().engine)?;
    let workers = worker_count(draft.global().workers);
    let mut registry = Registry::new(workers);
    let plan = Arc::new(draft.compile(&mut registry, None));
    steer::settle(&plan, None);
    let ceiling = Ceiling::raise(&plan, workers)?;
    let max_connections = ceiling.sessions(&plan)?;
    let become_whom = habits.privileges.then(|| identity(&plan)).transpose()?;
    let admin = if habits.admin { AdminSockets::bind(&plan.admin)? } else { AdminSockets::default() };
    let mut doorman = Doorman::new(workers);
    let doors = open_doors(&mut doorman, &plan)?;
    let sink = if habits.log { Sink::open(&plan.log.target)? } else { Sink::nowhere() };
    let (log, inbox) = writer::open();
    if let Some(changed) = draft.overlaid() {
        log.say(Event::info("overlay", format!("servers by {called}: {changed}")));
    }
    if let Some(directory) = draft.global().state_dir.as_ref().filter(|_| habits.privileges)
        && let Some(event) = roster::make_home(directory, become_whom.as_ref())
    {
        log.say(event);
    }
    if let Some(whom) = &become_whom {
        drop_root(whom, (&doorman, &doors), &sink, &admin, &log)?;
    }
    let commons = Arc::new(Commons::new(workers, Scene { plan: Arc::clone(&plan), doors }, max_connections));
    commons.alarm.install().map_err(|cause| Failure::Start { what: "the workers", cause })?;
    let (crew, engine) = hire(&commons, &cores(workers, habits), engine)?;
    let panel = Panel::new(Arc::clone(&commons), engine.choice(), log.tally());
    let style = Style::of(&plan.log);
    let log_thread = inbox
        .start(&log, Arc::clone(&commons), style, sink)
        .map_err(|cause| Failure::Start { what: "the log thread", cause })?;
    let parcels = doorman.parcels(commons.scene.load().doors.iter().map(|(door, _)| door));
    let fleet = Fleet::begin(crew, Arc::clone(&commons), parcels);
    announce(&log, &commons, &engine, &plan);
    let workshop = Workshop {
        registry,
        doorman,
        ceiling,
        tunings: Tunings::default(),
        overlay: Overlay::kept(kept),
        overlay_path,
    };
    let runtime = engine.runtime();
    Ok(Booted { text, runtime, panel: Arc::new(panel), log, log_thread, fleet, workshop, admin })
}

fn worker_count(workers: Workers) -> usize {
    match workers {
        Workers::Auto => affinity::share().min(WORKERS_MAX.into()),
        Workers::Count(count) => count.into(),
    }
}

/// The cores to pin workers to: none when they are fewer than the workers, or when a quota gives the process less than the
/// cores it sees, which it then shares with others.
fn cores(workers: usize, habits: &Habits) -> Vec<usize> {
    let cores = affinity::allowed();
    let pin = habits.pin && workers <= cores.len() && affinity::share() == cores.len();
    if pin { cores } else { Vec::new() }
}

/// Hires the workers, on another engine if they are refused the one that was chosen.
fn hire(commons: &Arc<Commons>, cores: &[usize], engine: Chosen) -> Result<(Crew, Chosen), Failure> {
    match Crew::hire(commons, cores, engine.drive) {
        Ok(crew) => Ok((crew, engine)),
        Err(refused) => {
            let engine = engine.instead(refused)?;
            Ok((Crew::hire(commons, cores, engine.drive)?, engine))
        }
    }
}

/// Whom to become. Asked early: a name that does not exist is found before anything is bound.
fn identity(plan: &Plan) -> Result<Identity, Failure> {
    Ok(privilege::identity(plan.global.user.as_deref(), plan.global.group.as_deref())?)
}

fn open_doors(doorman: &mut Doorman, plan: &Plan) -> Result<Vec<Placed>, Failure> {
    let pairing = pair(plan, &[]);
    let deadline = Instant::now() + BIND_PATIENCE;
    loop {
        match doorman.open(&pairing.missing, &[]) {
            Err(failure) if failure.may_pass() && Instant::now() < deadline => std::thread::sleep(BIND_RETRY),
            answer => return answer,
        }
    }
}

/// Root gives everything it opened to the user it becomes, and becomes it. No thread runs yet.
fn drop_root(
    whom: &Identity,
    (doorman, doors): (&Doorman, &[Placed]),
    sink: &Sink,
    admin: &AdminSockets,
    log: &Log,
) -> Result<(), Failure> {
    if !privilege::is_root() {
        if !whom.is_current() {
            log.say(Event::warn(
                "privileges",
                "`user` and `group` in [global] are for a start as root; staying who we are",
            ));
        }
        return Ok(());
    }
    if whom.is_current() {
        log.say(Event::warn("privileges", "running as root: set `user` in [global] to give that up after binding"));
        return Ok(());
    }
    for (door, listener) in doors {
        let path = match &door.address {
            Address::Inet(_) => None,
            Address::Unix(path) => Some(path.as_path()),
        };
        listen::pass_on(doorman.sockets(door), path, whom.owner()).map_err(|cause| Failure::Door {
            listener: listener.name.to_string(),
            address: door.address.to_string(),
            cause,
        })?;
    }
    admin.pass_on(whom.owner())?;
    if let Err(error) = sink.pass_on(whom.owner()) {
        log.say(Event::warn("privileges", format!("the log file stays with root: {error}")));
    }
    privilege::become_user(whom)?;
    let name = whom.user.as_ref().map_or("root", |(name, _)| name);
    log.say(Event::info("privileges", format!("became user {name}; kept CAP_NET_BIND_SERVICE")).with("user", name));
    Ok(())
}

fn announce(log: &Log, commons: &Commons, engine: &Chosen, plan: &Plan) {
    log.say(engine.event());
    for (door, listener) in &commons.scene.load().doors {
        let event = Event::info("listening", format!("listening on {}", door.address));
        log.say(event.with("listener", &*listener.name).with("address", door.address.to_string()));
    }
    mention_absent(log, commons.scene.load().doors.iter());
    let max = u64::from(commons.max_connections.load(std::sync::atomic::Ordering::Relaxed));
    log.say(
        Event::info("started", format!("ringway {} is ready", env!("CARGO_PKG_VERSION")))
            .with("pid", u64::from(std::process::id()))
            .with("workers", commons.desks.len() as u64)
            .with("max_connections", max)
            .with("generation", plan.generation),
    );
}
