//! Looks after servers: checks them, and gives those to which connects fail a rest.
//!
//! Everything here runs on the control thread, a small task for each server that is checked and one for the rests. What a
//! server is asked and what its answers mean is in [`crate::health`]; here are its sockets, clocks and consequences: the
//! state in the ledger (which the next pick sees), one event for each change of it, and orders to end sessions, which the
//! conductor passes on.
//!
//! ```text
//! attend ──▶ wire (one check) ──▶ office.hear ──▶ ledger, log, orders
//!             ▲ gather (its socket has something to say)
//! alarm of the workers ──▶ rests ──▶ office.eject, office.readmit
//! ```

mod attend;
mod council;
mod gather;
mod library;
mod mysql;
mod office;
mod rests;
mod ward;
mod wire;

use std::collections::HashSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};

use crate::config::ledger::{Health, PoolLedger};
use crate::config::plan::{Check, Plan, Pool};
use crate::dataplane::commons::Commons;
use crate::dataplane::evict::Eviction;
use crate::health::schedule;
use crate::observe::writer::Log;

use gather::Gatherer;
pub use library::Library;
use office::Office;
use ward::{Errand, Ward};

/// How long the end of the daemon waits for connections that were kept to be closed as their protocol wants it.
const FAREWELL: Duration = Duration::from_millis(250);

/// What the workers are to be told.
#[derive(Debug)]
pub(super) enum Order {
    /// The sessions of a server are to end.
    Evict(Arc<Eviction>),
    /// Sessions that wait for a server of this pool may find one.
    Look(Arc<PoolLedger>),
}

/// Whoever looks after the servers of the plan in force.
pub(super) struct Prober {
    office: Rc<Office>,
    /// For the conductor to pass on.
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    /// Told when workers have rung the alarm.
    pub(super) called: Arc<Notify>,
}

impl Prober {
    /// Looks after nobody yet.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn new(log: Log, commons: &Arc<Commons>) -> io::Result<Self> {
        // Not bounded by itself: an order takes a change of state, which takes checks.
        let (orders_in, orders) = mpsc::unbounded_channel();
        let office = Rc::new(Office::new(log, Arc::clone(commons), orders_in, Gatherer::new()?));
        Ok(Self { office, orders, called: Arc::default() })
    }

    /// Begins to listen to the workers, and to servers. Call it once, within a `LocalSet`.
    pub(super) fn begin(&self) {
        tokio::task::spawn_local(Rc::clone(&self.office.gatherer).run());
        tokio::task::spawn_local(rests::watch(Rc::clone(&self.office), Arc::clone(&self.called)));
    }

    /// Looks after the servers of `plan` from now on. Call it within a `LocalSet`, before `plan` is published, so that a
    /// server that has to be checked first is not chosen before. A server that stays keeps its state; one that is asked something else is asked
    /// anew.
    pub(super) fn adopt(&self, plan: &Plan) {
        let mut present = HashSet::new();
        let mut begin = Vec::new();
        for pool in &plan.pools {
            for (index, server) in pool.servers.iter().enumerate() {
                if pool.care.check.is_none() && pool.care.eject.is_none() {
                    // Nobody is left who could take back what was said of it.
                    server.ledger.set_health(Health::Unchecked);
                    server.ledger.set_ejected(false);
                    continue;
                }
                let ward = self.office.ward_of(pool, index);
                present.insert(ward.id());
                if pool.care.eject.is_none() {
                    self.office.readmit(&ward, "`eject` is off now");
                }
                begin.extend(appoint(&ward, pool.care.check.as_ref(), pool));
            }
        }
        self.office.retain(&present);
        self.office.council.adopt(plan, &self.office);
        let count = begin.len();
        for (position, (ward, errand)) in begin.into_iter().enumerate() {
            let delay_ns = schedule::first_delay_ns(position, count, errand.first_interval_ms);
            let office = Rc::clone(&self.office);
            tokio::task::spawn_local(attend::attend(office, ward, errand, Duration::from_nanos(delay_ns)));
        }
        plan.pools.iter().for_each(|pool| self.office.survey(pool));
    }

    /// The operator has changed something about a server of a pool.
    pub(super) fn survey(&self, plan: &Plan, pool: &str) {
        plan.pools.iter().filter(|found| *found.name == *pool).for_each(|pool| self.office.survey(pool));
    }

    /// Ends all checks; one that is under way comes to its end, and nobody hears it. Those that keep a connection take leave of
    /// their servers first, if that is quickly done.
    pub(super) async fn dismiss(&self) {
        self.office.retain(&HashSet::new());
        let deadline = Instant::now() + FAREWELL;
        while self.office.kept.get() > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Makes sure that a server is asked what its pool wants; the errand to begin, if there is a new one.
fn appoint(ward: &Rc<Ward>, check: Option<&Check>, pool: &Pool) -> Option<(Rc<Ward>, Rc<Errand>)> {
    let Some(check) = check else {
        ward.dismiss();
        ward.forget();
        return None;
    };
    let errand = Errand::new(check, pool, &ward.place().1);
    if let Some(current) = ward.errand()
        && current.asks_the_same(&errand)
    {
        // It may have another pace.
        current.changed.notify_one();
        return None;
    }
    ward.dismiss();
    let errand = Rc::new(errand);
    ward.begin(Rc::clone(&errand));
    Some((Rc::clone(ward), errand))
}
