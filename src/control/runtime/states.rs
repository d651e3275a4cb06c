//! A server in HAProxy's words: the table in [`super`], as code.

use crate::config::ledger::{Bulletin, Health, Standing, WARM};
use crate::config::plan::{Address, Check, Pool, Question, Server};

/// What a check came to: the code in `show stat`, its number in `show servers state`, and in words.
pub(super) type Checked = (&'static str, u32, &'static str);

const INI: Checked = ("INI", 1, "Initializing");
const SOCKERR: Checked = ("SOCKERR", 5, "Socket error");
const L4OK: Checked = ("L4OK", 6, "Layer4 check passed");
const L4TOUT: Checked = ("L4TOUT", 7, "Layer4 timeout");
const L4CON: Checked = ("L4CON", 8, "Layer4 connection problem");
const L6TOUT: Checked = ("L6TOUT", 10, "Layer6 timeout");
const L6RSP: Checked = ("L6RSP", 11, "Layer6 invalid response");
const L7TOUT: Checked = ("L7TOUT", 12, "Layer7 timeout");
const L7RSP: Checked = ("L7RSP", 13, "Layer7 invalid response");
const L7OK: Checked = ("L7OK", 15, "Layer7 check passed");
const L7STS: Checked = ("L7STS", 17, "Layer7 wrong status");

/// A server at one moment.
#[derive(Debug)]
pub(super) struct Sight<'p> {
    pub(super) pool: &'p Pool,
    pub(super) server: &'p Server,
    pub(super) standing: Standing,
    pub(super) health: Health,
    pub(super) is_ejected: bool,
    pub(super) bulletin: Bulletin,
}

impl<'p> Sight<'p> {
    pub(super) fn of(pool: &'p Pool, server: &'p Server) -> Self {
        let ledger = &server.ledger;
        let bulletin = ledger.bulletin().clone();
        Self {
            pool,
            server,
            standing: ledger.standing(),
            health: ledger.health(),
            is_ejected: ledger.is_ejected(),
            bulletin,
        }
    }

    fn check(&self) -> Option<&'p Check> {
        self.pool.care.check.as_ref()
    }

    /// `status` in `show stat`.
    pub(super) fn status(&self) -> String {
        let doubts = self.bulletin.doubts;
        let (rise, fall) = self.check().map_or((1, 1), |check| (check.pace.rise, check.pace.fall));
        match (self.standing, self.health) {
            (Standing::Maint, _) => "MAINT".into(),
            (_, Health::Checking) => format!("DOWN 0/{rise}"),
            (_, Health::Down) if doubts > 0 => format!("DOWN {doubts}/{rise}"),
            (_, Health::Down) => "DOWN".into(),
            (Standing::Drain, _) if doubts > 0 => format!("DRAIN {}/{fall}", fall.saturating_sub(doubts)),
            (Standing::Drain, _) => "DRAIN".into(),
            (Standing::Ready, _) if self.is_ejected => "NOLB".into(),
            (Standing::Ready, Health::Unchecked) => "no check".into(),
            (Standing::Ready, Health::Up) if doubts > 0 => format!("UP {}/{fall}", fall.saturating_sub(doubts)),
            (Standing::Ready, Health::Up) => "UP".into(),
        }
    }

    /// Whether it is one of those that `show stat up` shows.
    pub(super) fn is_up(&self) -> bool {
        self.standing != Standing::Maint && matches!(self.health, Health::Up | Health::Unchecked)
    }

    /// Whether it takes sessions now.
    pub(super) fn serves(&self) -> bool {
        self.is_up() && self.standing == Standing::Ready && !self.is_ejected
    }

    /// `srv_op_state`: 0 down, 1 starting slowly, 2 up, 3 up without new sessions.
    pub(super) fn operation(&self) -> u32 {
        match self.health {
            _ if self.standing == Standing::Maint => 0,
            Health::Checking | Health::Down => 0,
            Health::Unchecked | Health::Up if self.is_ejected => 3,
            Health::Unchecked | Health::Up if self.server.ledger.warmth() < WARM => 1,
            Health::Unchecked | Health::Up => 2,
        }
    }

    /// `srv_admin_state`: 1 for maintenance, 8 for drain.
    pub(super) fn administration(&self) -> u32 {
        match self.standing {
            Standing::Ready => 0,
            Standing::Maint => 1,
            Standing::Drain => 8,
        }
    }

    /// How its last check came out; `None`: it is not checked.
    pub(super) fn checked(&self) -> Option<Checked> {
        let layer4 = matches!(self.check()?.question, Question::Tcp);
        let waited = |what: &str| self.bulletin.last_check.ends_with(what);
        Some(match self.bulletin.last_result {
            "" => INI,
            "ok" if layer4 => L4OK,
            "ok" => L7OK,
            "refused" | "unreachable" => L4CON,
            "timeout" if layer4 || waited("waiting for a connection") => L4TOUT,
            "timeout" if waited("waiting for the TLS handshake") => L6TOUT,
            "timeout" => L7TOUT,
            "broken" if layer4 => L4CON,
            "status" => L7STS,
            "tls" => L6RSP,
            "local" => SOCKERR,
            _ => L7RSP,
        })
    }

    /// What the last check had to say, when it failed.
    pub(super) fn complaint(&self) -> &str {
        if self.bulletin.last_result == "ok" { "" } else { &self.bulletin.last_check }
    }

    /// `rise`, `fall`, and the counter between them: from `rise` on it is up; `None`: it is not checked.
    pub(super) fn counters(&self) -> Option<(u8, u8, u8)> {
        let pace = &self.check()?.pace;
        let doubts = self.bulletin.doubts;
        let counter = match self.health {
            Health::Up => pace.rise.saturating_add(pace.fall).saturating_sub(1).saturating_sub(doubts),
            Health::Down => doubts,
            Health::Checking | Health::Unchecked => 0,
        };
        Some((pace.rise, pace.fall, counter))
    }

    /// How long it has been down in all, in seconds.
    pub(super) fn down_s(&self) -> u64 {
        let now = if self.health == Health::Down { self.bulletin.since.elapsed() } else { Default::default() };
        (self.bulletin.down_before + now).as_secs()
    }

    /// Its weight, less what a slow start or lag takes from it.
    pub(super) fn weight_now(&self) -> u64 {
        let ledger = &self.server.ledger;
        let part = u64::from(ledger.warmth()) * u64::from(ledger.share());
        (u64::from(self.server.weight) * part).div_ceil(1_000_000)
    }

    /// How much of itself a server that starts slowly is given, in hundredths.
    pub(super) fn throttle(&self) -> Option<u64> {
        let warmth = self.server.ledger.warmth();
        (warmth < WARM).then(|| u64::from(warmth / 10))
    }

    /// Address and port as `show servers state` has them; `-` and 0 for a unix socket.
    pub(super) fn place(&self) -> (String, u16) {
        match &self.server.address {
            Address::Inet(inet) => (inet.ip().to_string(), inet.port()),
            Address::Unix(_) => ("-".into(), 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ledger::Registry;
    use crate::config::plan::Plan;

    fn plan() -> Plan {
        let text = "[listeners.l]\nbind = '127.0.0.1:80'\npool = 'p'\n[pools.p]\nservers = [{ name = 'a', address = \
                    '127.0.0.1:1', weight = 10 }]\ncheck = { type = 'http', path = '/', rise = 2, fall = 3 }\n";
        let draft = crate::config::parse("test", text, &|_| None).unwrap_or_else(|complaints| panic!("{complaints}"));
        draft.compile(&mut Registry::new(1), None)
    }

    /// Every row of the table in the module's caption.
    #[test]
    fn every_state_has_its_word() {
        let plan = plan();
        let server = &plan.pools[0].servers[0];
        let (ready, drain, maint) = (Standing::Ready, Standing::Drain, Standing::Maint);
        for (standing, health, is_ejected, doubts, status, operation, administration, counter) in [
            (ready, Health::Up, false, 0, "UP", 2, 0, 4),
            (ready, Health::Up, false, 2, "UP 1/3", 2, 0, 2),
            (ready, Health::Down, false, 0, "DOWN", 0, 0, 0),
            (ready, Health::Down, false, 1, "DOWN 1/2", 0, 0, 1),
            (ready, Health::Checking, false, 0, "DOWN 0/2", 0, 0, 0),
            (ready, Health::Unchecked, false, 0, "no check", 2, 0, 0),
            (ready, Health::Up, true, 0, "NOLB", 3, 0, 4),
            (drain, Health::Up, false, 0, "DRAIN", 2, 8, 4),
            (drain, Health::Up, false, 1, "DRAIN 2/3", 2, 8, 3),
            (drain, Health::Down, false, 0, "DOWN", 0, 8, 0),
            (maint, Health::Up, false, 0, "MAINT", 0, 1, 4),
            (maint, Health::Down, true, 0, "MAINT", 0, 1, 0),
        ] {
            server.ledger.set_standing(standing);
            server.ledger.set_health(health);
            server.ledger.set_ejected(is_ejected);
            server.ledger.bulletin().doubts = doubts;
            let sight = Sight::of(&plan.pools[0], server);
            let found = (sight.status(), sight.operation(), sight.administration());
            assert_eq!(found, (status.to_owned(), operation, administration), "{sight:?}");
            assert_eq!(sight.counters(), Some((2, 3, counter)), "{sight:?}");
            assert_eq!(sight.serves(), matches!(status, "UP" | "UP 1/3" | "no check"));
        }
    }

    #[test]
    fn every_result_of_a_check_has_its_code() {
        let plan = plan();
        let server = &plan.pools[0].servers[0];
        for (result, text, code) in [
            ("", "", "INI"),
            ("ok", "passed", "L7OK"),
            ("refused", "connection refused", "L4CON"),
            ("timeout", "timeout after 1s waiting for a connection", "L4TOUT"),
            ("timeout", "timeout after 1s waiting for the TLS handshake", "L6TOUT"),
            ("timeout", "timeout after 1s waiting for an answer", "L7TOUT"),
            ("unreachable", "unreachable: x", "L4CON"),
            ("broken", "connection closed before an answer", "L7RSP"),
            ("status", "HTTP 503 where 200 was expected", "L7STS"),
            ("answer", "no HTTP", "L7RSP"),
            ("tls", "x", "L6RSP"),
            ("local", "no check was possible: x", "SOCKERR"),
        ] {
            let mut bulletin = server.ledger.bulletin();
            (bulletin.last_result, bulletin.last_check) = (result, text.into());
            drop(bulletin);
            let sight = Sight::of(&plan.pools[0], server);
            assert_eq!(sight.checked().map(|checked| checked.0), Some(code));
            assert_eq!(sight.complaint(), if result == "ok" { "" } else { text });
        }
    }

    #[test]
    fn weight_follows_warmth() {
        let plan = plan();
        let server = &plan.pools[0].servers[0];
        assert_eq!(
            (Sight::of(&plan.pools[0], server).weight_now(), Sight::of(&plan.pools[0], server).throttle()),
            (10, None)
        );
        server.ledger.set_slow_start(1_000);
        server.ledger.ramp();
        server.ledger.ramp_by(510);
        let sight = Sight::of(&plan.pools[0], server);
        assert_eq!((sight.weight_now(), sight.throttle(), sight.operation()), (6, Some(51), 1));
    }
}
