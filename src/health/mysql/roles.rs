//! Which server of a pool holds which role: the brain that hears every report and decides.
//!
//! | heard | what it does |
//! |---|---|
//! | the primary says it is read-only | it is primary no longer, at once |
//! | the primary says nothing, `fall` times | it stays primary until another has shown that it takes writes |
//! | another takes writes, while the primary does | split brain: the primary stays (`keep-last`), or there is none (`deny`) |
//! | the only one that takes writes, and no other primary | it is the primary, at once |
//! | one that was primary comes back | nothing: there is no forced way back |
//!
//! A split is told (and alarms) only when the servers have said so of the same moment: each has been heard since the last
//! of them began to take writes. So a planned switch-over, whose two halves are heard one after the other, alarms nobody.
//!
//! A replica must be connected to its source, apply what it gets, and know how far it is behind. One that has lost its
//! source keeps its role while the primary has not been heard since: when a primary dies, its replicas are not to blame. Nor
//! are they when another is promoted, until they have been asked again: to be pointed to it takes them a moment.
//!
//! A server that answers and does not let the check in (a wrong password, say) is not silent: it keeps the role it has. Only
//! a primary must make room for another that has shown to take writes, as if it were.
//!
//! Pure: no clock, no socket. What a server is told to be never depends on anything but what was heard, and in which order.

use super::report::{Replication, Report};
use crate::config::plan::{Check, OnSplit, ServerRole};

/// What the servers of a pool are held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// So many rounds without an answer mean that a server is silent.
    pub fall: u32,
    /// Up to this lag a replica has its whole share, in seconds.
    pub lag_soft_s: u32,
    /// From this lag on it has none; `None`: lag does not matter as long as it is known.
    pub lag_max_s: Option<u32>,
    /// What to do when more than one server takes writes.
    pub on_split: OnSplit,
}

impl Rules {
    /// The rules of a check, if it asks for roles at all.
    pub fn of(check: &Check) -> Option<Self> {
        check.roles.map(|terms| Self {
            fall: check.pace.fall.into(),
            lag_soft_s: terms.lag_soft_s,
            lag_max_s: terms.lag_max_s,
            on_split: terms.on_split,
        })
    }
}

/// What a server is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that gets the writes.
    Primary,
    /// One that gets reads: its share, 1 to [`WHOLE`].
    Replica {
        /// In thousandths of its weight.
        share: u16,
    },
    /// Neither.
    None(Why),
}

impl Role {
    /// For which role sessions may stay with the server: one that is only behind keeps those it has.
    pub const fn keeps(self) -> Option<ServerRole> {
        match self {
            Role::Primary => Some(ServerRole::Primary),
            Role::Replica { .. } | Role::None(Why::Behind) => Some(ServerRole::Replica),
            Role::None(_) => None,
        }
    }

    /// Whether the sessions of a server that was `before` are to go, now that it is this.
    pub fn sends_away(self, before: Role) -> bool {
        before.keeps().is_some_and(|kept| self.keeps() != Some(kept))
    }
}

/// The share of a replica that is not behind.
pub const WHOLE: u16 = 1000;

/// Why a server has no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has not been heard yet; or it takes writes, and others that might have not been heard yet.
    Unheard,
    /// It has been silent for `fall` rounds.
    Silent,
    /// It takes writes, and another is the primary, or nobody may be.
    Split,
    /// It takes no writes, and replicates from nobody.
    Detached,
    /// The account may not see its replication.
    Hidden,
    /// A thread of its replication does not run, or its lag is unknown.
    Broken,
    /// It is too far behind.
    Behind,
}

impl Why {
    /// The word in status and log.
    pub const fn word(self) -> &'static str {
        match self {
            Why::Unheard => "unheard",
            Why::Silent => "silent",
            Why::Split => "split",
            Why::Detached => "detached",
            Why::Hidden => "hidden",
            Why::Broken => "broken",
            Why::Behind => "behind",
        }
    }
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Another primary, or none.
    Primary {
        /// Who was.
        from: Option<usize>,
        /// Who is.
        to: Option<usize>,
    },
    /// These take writes, all at the same time.
    SplitBegan(Vec<usize>),
    /// No more.
    SplitEnded,
    /// A server became a replica, or is none any more, or is none for another reason.
    Role {
        /// Which.
        server: usize,
        /// As it is now.
        role: Role,
    },
}

/// What is known of the servers of one pool.
#[derive(Debug)]
pub struct Brain {
    rules: Rules,
    seats: Vec<Seat>,
    primary: Option<usize>,
    /// The turn in which it became that, or the last one ceased to be.
    primary_since: u64,
    /// The last primary there was.
    last: Option<usize>,
    split: bool,
    /// Counts what is heard: the only time there is.
    turn: u64,
}

#[derive(Clone, Debug, Default)]
struct Seat {
    report: Option<Report>,
    misses: u32,
    /// Those of them that say something of the server: that it does not answer.
    silences: u32,
    /// The turn of its last report.
    heard: u64,
    /// The turn of its first report that said it takes writes, of the unbroken series up to now.
    writable_since: u64,
    /// The turn of the first report that said it has lost its source, of the series up to now.
    lost_since: Option<u64>,
    /// The last lag it knew.
    lag_s: u32,
    role: Option<Role>,
}

impl Brain {
    /// A brain for `servers` servers, of which nothing is known.
    pub fn new(rules: Rules, servers: usize) -> Self {
        Self {
            rules,
            seats: vec![Seat::default(); servers],
            primary: None,
            primary_since: 0,
            last: None,
            split: false,
            turn: 0,
        }
    }

    /// The brain that follows this one in another plan: server `i` is who was `before[i]`, or is new.
    pub fn follow(&self, rules: Rules, before: &[Option<usize>]) -> Self {
        let place = |old: Option<usize>| old.and_then(|old| before.iter().position(|&b| b == Some(old)));
        let seat = |old: &Option<usize>| old.and_then(|old| self.seats.get(old)).cloned().unwrap_or_default();
        Self {
            rules,
            seats: before.iter().map(seat).collect(),
            primary: place(self.primary),
            primary_since: self.primary_since,
            last: place(self.last),
            split: self.split,
            turn: self.turn,
        }
    }

    /// Who is primary.
    pub fn primary(&self) -> Option<usize> {
        self.primary
    }

    /// Whether more than one server takes writes.
    pub fn is_split(&self) -> bool {
        self.split
    }

    /// What a server is.
    pub fn role(&self, server: usize) -> Role {
        self.seats.get(server).and_then(|seat| seat.role).unwrap_or(Role::None(Why::Unheard))
    }

    /// The last report of a server.
    pub fn report(&self, server: usize) -> Option<&Report> {
        self.seats.get(server)?.report.as_ref()
    }

    /// The rules may be others: what the roles are now.
    pub fn reconsider(&mut self) -> Vec<News> {
        self.decide()
    }

    /// A server has told what it is.
    pub fn hear(&mut self, server: usize, report: Report) -> Vec<News> {
        self.turn += 1;
        let turn = self.turn;
        let Some(seat) = self.seats.get_mut(server) else { return Vec::new() };
        let was_writable = seat.report.as_ref().is_some_and(|report| report.writable) && seat.misses < self.rules.fall;
        if report.writable && !was_writable {
            seat.writable_since = turn;
        }
        match report.replication {
            Replication::From { connected: true, lag_s, .. } => {
                seat.lost_since = None;
                seat.lag_s = lag_s.unwrap_or(seat.lag_s);
            }
            Replication::From { connected: false, .. } => {
                seat.lost_since.get_or_insert(turn);
            }
            Replication::None | Replication::Hidden => seat.lost_since = None,
        }
        seat.misses = 0;
        seat.silences = 0;
        seat.heard = turn;
        seat.report = Some(report);
        self.decide()
    }

    /// A round with a server brought no report. `answers`: it is there all the same, and does not let us in.
    pub fn miss(&mut self, server: usize, answers: bool) -> Vec<News> {
        let Some(seat) = self.seats.get_mut(server) else { return Vec::new() };
        seat.misses = seat.misses.saturating_add(1);
        if !answers {
            seat.silences = seat.silences.saturating_add(1);
        }
        self.decide()
    }

    /// Servers whose word is older than that of one who takes writes since then, and that were said to take writes, too:
    /// to ask them tells a switch-over from a split.
    pub fn doubtful(&self) -> Vec<usize> {
        let writers = self.writers();
        if writers.len() < 2 || self.split {
            return Vec::new();
        }
        let last_began = writers.iter().map(|&server| self.seats[server].writable_since).max().unwrap_or(0);
        writers.into_iter().filter(|&server| self.seats[server].heard < last_began).collect()
    }

    fn decide(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        let before = self.primary;
        self.primary = self.choose();
        if self.primary.is_some() {
            self.last = self.primary;
        }
        if self.primary != before {
            self.primary_since = self.turn;
            news.push(News::Primary { from: before, to: self.primary });
        }
        self.look_for_a_split(&mut news);
        for server in 0..self.seats.len() {
            let role = self.judge(server);
            let Some(seat) = self.seats.get_mut(server) else { continue };
            let was = seat.role.replace(role);
            let is_replica = |role: Option<Role>| matches!(role, Some(Role::Replica { .. }));
            let lost_for_another_reason = matches!((was, role), (Some(Role::None(a)), Role::None(b)) if a != b);
            if is_replica(was) != is_replica(Some(role)) || lost_for_another_reason {
                news.push(News::Role { server, role });
            }
        }
        news
    }

    /// Who takes writes, as far as is known: said so, and has not been silent since.
    fn writers(&self) -> Vec<usize> {
        let takes_writes =
            |seat: &Seat| seat.misses < self.rules.fall && seat.report.as_ref().is_some_and(|report| report.writable);
        (0..self.seats.len()).filter(|&server| self.seats.get(server).is_some_and(takes_writes)).collect()
    }

    fn choose(&self) -> Option<usize> {
        let writers = self.writers();
        let says_no = |server: usize| self.seats[server].report.as_ref().is_some_and(|report| !report.writable);
        // Who has gone silent, and nobody has shown to take writes instead, stays.
        let stays = self.primary.filter(|&server| !says_no(server));
        match (writers.as_slice(), stays) {
            ([], stays) => stays,
            (&[only], Some(primary)) if only == primary => Some(primary),
            (&[only], stays) => {
                let proven = self.seats[only].misses == 0 && (stays.is_some() || self.everybody_was_asked());
                if proven { Some(only) } else { stays }
            }
            (several, _) => match self.rules.on_split {
                OnSplit::KeepLast => self.last.filter(|last| several.contains(last)),
                OnSplit::Deny => None,
            },
        }
    }

    /// At a start the first that takes writes may not be the only one.
    fn everybody_was_asked(&self) -> bool {
        self.last.is_some() || self.seats.iter().all(|seat| seat.report.is_some() || seat.misses > 0)
    }

    fn look_for_a_split(&mut self, news: &mut Vec<News>) {
        let writers = self.writers();
        if writers.len() < 2 {
            if std::mem::take(&mut self.split) {
                news.push(News::SplitEnded);
            }
            return;
        }
        let seats = || writers.iter().map(|&server| &self.seats[server]);
        let last_began = seats().map(|seat| seat.writable_since).max();
        let longest_unheard = seats().map(|seat| seat.heard).min();
        if !self.split && longest_unheard >= last_began {
            self.split = true;
            news.push(News::SplitBegan(writers));
        }
    }

    fn judge(&self, server: usize) -> Role {
        if self.primary == Some(server) {
            return Role::Primary;
        }
        let seat = &self.seats[server];
        let Some(report) = &seat.report else {
            return Role::None(if seat.misses > 0 { Why::Silent } else { Why::Unheard });
        };
        if seat.silences >= self.rules.fall {
            return Role::None(Why::Silent);
        }
        if report.writable {
            // At a start nothing is wrong with the first that takes writes.
            return Role::None(if self.everybody_was_asked() { Why::Split } else { Why::Unheard });
        }
        match report.replication {
            Replication::None => Role::None(Why::Detached),
            Replication::Hidden => Role::None(Why::Hidden),
            Replication::From { applying: false, .. } => Role::None(Why::Broken),
            Replication::From { connected: false, .. } if self.is_to_blame(seat) => Role::None(Why::Broken),
            Replication::From { connected: true, lag_s: None, .. } => Role::None(Why::Broken),
            Replication::From { .. } => match self.share(seat.lag_s) {
                0 => Role::None(Why::Behind),
                share => Role::Replica { share },
            },
        }
    }

    /// Whether the primary has been heard since this replica lost its source, and the replica since that is the primary.
    fn is_to_blame(&self, seat: &Seat) -> bool {
        let Some(primary) = self.primary.and_then(|primary| self.seats.get(primary)) else { return false };
        let Some(lost) = seat.lost_since else { return true };
        primary.misses == 0 && primary.heard > lost && seat.heard > self.primary_since
    }

    /// From whole at `lag_soft` in a straight line to nothing at `max_lag`.
    fn share(&self, lag_s: u32) -> u16 {
        let Some(most) = self.rules.lag_max_s else { return WHOLE };
        let soft = self.rules.lag_soft_s.min(most);
        if lag_s >= most {
            return 0;
        }
        if lag_s <= soft {
            return WHOLE;
        }
        let left = u64::from(most - lag_s) * u64::from(WHOLE) / u64::from(most - soft);
        u16::try_from(left).unwrap_or(WHOLE).max(1)
    }
}

#[cfg(test)]
mod tests;
