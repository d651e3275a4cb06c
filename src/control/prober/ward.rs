//! A server that is looked after: what is known of it beyond its ledger.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::config::ledger::{Health, ServerLedger};
use crate::config::plan::{Address, Check, Pool, Question, Server};
use crate::health::eject::Ejection;
use crate::health::verdict::Verdict;

use super::wire::Target;

/// One server. It stays the same over reloads as long as its ledger does.
#[derive(Debug)]
pub(super) struct Ward {
    pub(super) ledger: Arc<ServerLedger>,
    /// Where it is in the plan in force.
    place: RefCell<(Arc<Pool>, usize)>,
    pub(super) verdict: Cell<Verdict>,
    pub(super) ejection: Cell<Ejection>,
    errand: RefCell<Option<Rc<Errand>>>,
}

/// What a task asks a server, for as long as that is what its pool wants to know.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) question: Question,
    pub(super) target: Target,
    /// Interval that the first checks are spread over, in milliseconds.
    pub(super) first_interval_ms: u32,
    /// Its answer is no longer wanted.
    leaving: Cell<bool>,
    /// Rung when it is to leave, or the pace is another.
    pub(super) changed: Notify,
}

impl Ward {
    pub(super) fn new(pool: &Arc<Pool>, index: usize) -> Self {
        Self {
            ledger: Arc::clone(&pool.servers[index].ledger),
            place: RefCell::new((Arc::clone(pool), index)),
            verdict: Cell::new(Verdict::open()),
            ejection: Cell::default(),
            errand: RefCell::default(),
        }
    }

    /// What it goes by: its ledger, which it keeps alive.
    pub(super) fn id(&self) -> usize {
        id(&self.ledger)
    }

    /// Its pool and itself, as the plan in force has them.
    pub(super) fn place(&self) -> (Arc<Pool>, PlacedServer) {
        let place = self.place.borrow();
        (Arc::clone(&place.0), PlacedServer(Arc::clone(&place.0), place.1))
    }

    /// A new plan has it elsewhere, or under other terms.
    pub(super) fn move_to(&self, pool: &Arc<Pool>, index: usize) {
        self.place.replace((Arc::clone(pool), index));
    }

    pub(super) fn errand(&self) -> Option<Rc<Errand>> {
        self.errand.borrow().clone()
    }

    /// It is asked something new: until the answer nothing is known.
    pub(super) fn begin(&self, errand: Rc<Errand>) {
        self.errand.replace(Some(errand));
        self.verdict.set(Verdict::open());
        self.ledger.set_health(Health::Checking);
        self.ledger.bulletin().forget("no check has come to an end yet");
    }

    /// Nobody asks it any more.
    pub(super) fn dismiss(&self) {
        if let Some(errand) = self.errand.take() {
            errand.leaving.set(true);
            errand.changed.notify_one();
        }
    }

    /// It is not checked: nothing is known, and nothing held against it.
    pub(super) fn forget(&self) {
        if self.ledger.health() != Health::Unchecked {
            self.ledger.set_health(Health::Unchecked);
            self.ledger.bulletin().forget("");
        }
    }
}

/// A server, with the pool that holds it.
#[derive(Debug)]
pub(super) struct PlacedServer(Arc<Pool>, usize);

impl std::ops::Deref for PlacedServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0.servers[self.1]
    }
}

/// What a server goes by, for as long as somebody holds its ledger.
pub(super) fn id(ledger: &Arc<ServerLedger>) -> usize {
    Arc::as_ptr(ledger) as usize
}

impl Errand {
    pub(super) fn new(check: &Check, pool: &Pool, server: &Server) -> Self {
        let address = match (check.address, check.port, &server.address) {
            (Some(ip), Some(port), _) => Address::Inet((ip, port).into()),
            (ip, port, Address::Inet(own)) => {
                Address::Inet((ip.unwrap_or(own.ip()), port.unwrap_or(own.port())).into())
            }
            // The rules refuse half an address for a unix socket.
            (_, _, unix @ Address::Unix(_)) => unix.clone(),
        };
        let is_v6 = |ip: IpAddr| ip.is_ipv6();
        let source = match &address {
            Address::Inet(inet) => pool.terms.sources.iter().copied().find(|source| is_v6(*source) == inet.is_ipv6()),
            Address::Unix(_) => None,
        };
        Self {
            question: check.question.clone(),
            target: Target { address, source, send_proxy: check.send_proxy },
            first_interval_ms: check.pace.interval_ms,
            leaving: Cell::new(false),
            changed: Notify::new(),
        }
    }

    /// Whether the other would learn the same; at which pace does not matter.
    pub(super) fn asks_the_same(&self, other: &Errand) -> bool {
        self.question == other.question && self.target == other.target
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.get()
    }
}
