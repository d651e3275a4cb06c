//! What operators ask of a conductor, one function a wish.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::dataplane::roll::{Roll, Task, Whose};
use crate::observe::event::Event;

use super::{Conductor, Wishes};
use crate::control::admin::{Peer, Reply, RollReply};
use crate::control::evener::{self, Rebalance};
use crate::control::failure::Failure;
use crate::control::fleet::Word;
use crate::control::reload::Answer;
use crate::control::roster::{self, Edit, Edited};
use crate::control::shepherd::{Owner, Way};
use crate::control::source::read_overlay;
use crate::control::steer::{self, Drain, Drained, Refused, ServerChange, ServerChanged};

impl Conductor {
    /// Says who asked for something over the admin socket.
    pub(super) fn audit(&self, what: &'static str, by: Option<Peer>) {
        let Some(Peer { uid, pid }) = by else { return };
        let event = Event::info("admin", what).with("uid", u64::from(uid));
        self.log.say(match pid.and_then(|pid| u64::try_from(pid).ok()) {
            Some(pid) => event.with("pid", pid),
            None => event,
        });
    }

    pub(super) async fn change_server(
        &mut self,
        change: &ServerChange,
        by: Option<Peer>,
    ) -> Result<ServerChanged, Refused> {
        self.audit("server", by);
        let commons = Arc::clone(&self.board.panel.commons);
        let owner = steer::owner(&commons.scene.load().plan, change).map_err(Refused::NotFound)?;
        let was = steer::find(&commons.scene.load().plan, change).map_err(Refused::NotFound)?.1.ledger.standing();
        if change.over.is_some() {
            self.shepherd.admit(&owner).map_err(Refused::Unfit)?;
        }
        let (running, text) = (commons.scene.load_full(), self.board.text.load().to_string());
        let whom = (&*change.pool, &*change.server);
        let mut kept_in = None;
        if change.persist {
            let path = self.place_to_keep()?;
            let setting = change.setting();
            let prepared = self.workshop.persist((&self.source.name(), text), whom, setting, &running).await;
            let prepared = prepared.map_err(unfit)?;
            self.keep(&path, &prepared.overlay.kept).await.map_err(Refused::Unfit)?;
            self.apply(prepared);
            kept_in = Some(path.display().to_string());
        } else if let Some(wish) = change.wish() {
            let prepared = self.workshop.retune((&self.source.name(), text), whom, wish, &running).await;
            self.apply(prepared.map_err(unfit)?);
        }
        // What is kept of the state is in force already.
        let changed = steer::change(&commons.scene.load().plan, change).map_err(Refused::NotFound)?;
        let changed = ServerChanged { was, kept_in, ..changed };
        let message = format!("server {} of pool {} is set to {}", change.server, change.pool, changed.told(change));
        let event = Event::info("server", message).with("pool", &*change.pool).with("server", &*change.server);
        self.log.say(event.with("sessions", changed.sessions));
        if change.state.is_some() {
            self.lead(owner, change.way());
        }
        self.prober.survey(&self.board.panel.commons.scene.load().plan, &change.pool);
        // Those who wait for a server look again.
        self.fleet.tell(Word::NewScene);
        Ok(changed)
    }

    /// Has sessions led elsewhere, or no more.
    fn lead(&mut self, owner: Owner, way: Option<Way>) {
        let commons = &self.board.panel.commons;
        match way {
            Some(way) => self.shepherd.lead(owner, way, &mut self.fleet, commons, &self.log),
            None => self.shepherd.leave(&owner, commons, &self.log),
        }
    }

    /// Brings a pool into balance.
    pub(super) fn rebalance(&mut self, wish: &Rebalance, by: Option<Peer>, reply: evener::Reply) {
        if !wish.dry_run {
            self.audit("rebalance", by);
        }
        let plan = Arc::clone(&self.board.panel.commons.scene.load().plan);
        self.evener.even(wish, &plan, &mut self.fleet, &self.log, reply);
    }

    /// Has traffic go elsewhere, or come again. Whoever watches `/readyz` sees to it; nobody who comes is turned away.
    pub(super) fn stand_aside(&mut self, drain: &Drain, by: Option<Peer>) -> Result<Drained, Refused> {
        self.audit(if drain.undo { "drain undone" } else { "drain" }, by);
        if drain.over.is_some() {
            self.shepherd.admit(&Owner::Node).map_err(Refused::Unfit)?;
        }
        let panel = Arc::clone(&self.board.panel);
        let sessions = u64::from(panel.commons.sessions());
        if panel.set_ready(drain.undo) != drain.undo {
            let message = match drain.undo {
                false => "not ready: traffic should go elsewhere; who comes all the same is served",
                true => "ready again",
            };
            self.log.say(Event::info("drain", message).with("sessions", sessions));
        }
        self.lead(Owner::Node, drain.way());
        Ok(Drained { ready: panel.is_ready(), sessions })
    }

    /// Adds or removes a server: what is to last is kept before it is in force.
    pub(super) async fn edit_servers(&mut self, edit: &Edit, by: Option<Peer>) -> Result<Edited, Refused> {
        self.audit(edit.verb(), by);
        let running = self.board.panel.commons.scene.load_full();
        let sessions = steer::sessions_of(&running.plan, edit.whom(), matches!(edit, Edit::Remove(_)));
        let sessions = sessions.map_err(Refused::NotFound)?;
        let path = edit.persist().then(|| self.place_to_keep()).transpose()?;
        let text = self.board.text.load().to_string();
        let prepared = self.workshop.edit((&self.source.name(), text), edit, &running).await;
        let prepared = prepared.map_err(unfit)?;
        if let Some(path) = &path {
            self.keep(path, &prepared.overlay.kept).await.map_err(Refused::Unfit)?;
        }
        let (answer, _) = self.apply(prepared);
        let kept_in = path.map(|path| path.display().to_string());
        Ok(Edited { generation: answer.generation, changes: answer.changes, sessions, kept_in })
    }

    /// The file that keeps what is to last.
    fn place_to_keep(&self) -> Result<PathBuf, Refused> {
        let none = || Refused::Unfit("this daemon has no file beside which that could be kept".into());
        self.workshop.overlay_path.clone().ok_or_else(none)
    }

    /// Writes the overlay, unless somebody else has.
    async fn keep(&self, path: &Path, text: &str) -> Result<(), String> {
        let found = read_overlay(path, self.runtime).await.map_err(|error| format!("nothing is changed: {error}"))?;
        if found != self.workshop.overlay.kept {
            return Err(format!(
                "nothing is changed: {} is not the overlay that is in force, after a rollback or a change by hand; run \
                 `ringway reload` first, which reads it",
                path.display()
            ));
        }
        if found == text { Ok(()) } else { roster::keep(path, text).await }
    }

    pub(super) fn call_roll(&mut self, whose: Whose, task: Task, by: Option<Peer>, reply: RollReply) {
        if task == Task::End {
            self.audit("kill", by);
        }
        let commons = Arc::clone(&self.board.panel.commons);
        let tell = move |called| commons.alarm.leave(Box::new(move || reply(called)));
        self.fleet.call_roll(&Arc::new(Roll::new(whose, task, tell)));
    }

    pub(super) fn roll_back(&mut self, by: Option<Peer>, wishes: &mut Wishes, reply: Reply) {
        self.audit("rollback", by);
        match &self.before {
            Some(before) => wishes.add(Some(before.clone()), false, reply),
            None => {
                // No configuration was refused, so nobody is to be alarmed that one was.
                let generation = self.board.panel.commons.scene.load().plan.generation;
                reply(Answer::refused(generation, &Failure::NoEarlier));
            }
        }
    }
}

fn unfit(failure: Failure) -> Refused {
    Refused::Unfit(failure.to_string().trim_end().to_owned())
}
