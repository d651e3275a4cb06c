//! The questions that tell what a server is, and what its answers mean.
//!
//! | question | of | tells |
//! |---|---|---|
//! | `@@global.read_only`, `innodb_read_only`, and on MySQL `super_read_only` | all | whether it takes writes: all are off |
//! | `SHOW ALL SLAVES STATUS` | MariaDB | its replication: the threads, and how far behind it is |
//! | `SHOW REPLICA STATUS` | MySQL from 8.0.22 | the same |
//! | `SHOW SLAVE STATUS` | MySQL before that | the same |
//!
//! Both are asked at once (`CLIENT_MULTI_STATEMENTS`), where the server takes that: it saves one of two waits of each check.
//! `innodb_read_only` is what tells a reader of Aurora. A form the server does not know is given up for a simpler one, and
//! the connection remembers which; so a fork is understood, too, at the cost of two questions more.

use std::borrow::Cow;

use super::greeting::{Flavour, Greeting};
use super::table::{Answer, Row, Table};
use super::{Fault, ServerError};

/// Error 1193: a variable the server does not have.
const UNKNOWN_VARIABLE: u16 = 1193;
/// Errors 1064 and 1235: a statement the server does not have.
const SYNTAX: [u16; 2] = [1064, 1235];
/// Errors 1227, 1045, 1142: the account may not ask.
const FORBIDDEN: [u16; 3] = [1227, 1045, 1142];
/// The first MySQL that has replicas.
const REPLICAS_SINCE: (u32, u32, u32) = (8, 0, 22);

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// It takes writes.
    pub writable: bool,
    /// Where its data comes from.
    pub replication: Replication,
    /// Its version, as it calls itself.
    pub version: String,
}

/// A server's replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// It replicates from nobody.
    None,
    /// The account may not ask (it lacks `REPLICATION CLIENT`, on MariaDB `REPLICA MONITOR`).
    Hidden,
    /// It replicates, from one source or several: what holds of all, and the worst of it.
    From {
        /// It is connected to its source.
        connected: bool,
        /// It applies what it has got.
        applying: bool,
        /// How far it is behind, in seconds; `None` (NULL) when it cannot tell.
        lag_s: Option<u32>,
    },
}

impl Replication {
    /// How far it is behind, in seconds, where it says so and can know: one that is cut off from its source, or applies
    /// nothing, may name the lag it had before.
    pub fn lag_s(&self) -> Option<u32> {
        match *self {
            Replication::From { connected: true, applying: true, lag_s } => lag_s,
            Replication::From { .. } | Replication::None | Replication::Hidden => None,
        }
    }
}

/// Which forms of the questions a server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialect {
    variables: &'static str,
    status: &'static str,
    /// Both in one.
    at_once: bool,
}

const ALL_VARIABLES: &str = "SELECT @@global.read_only, @@global.innodb_read_only, @@global.super_read_only";
const NO_SUPER: &str = "SELECT @@global.read_only, @@global.innodb_read_only";
const READ_ONLY: &str = "SELECT @@global.read_only";
const ALL_SLAVES: &str = "SHOW ALL SLAVES STATUS";
const REPLICA: &str = "SHOW REPLICA STATUS";
const SLAVE: &str = "SHOW SLAVE STATUS";

impl Dialect {
    /// What a server of this greeting should know.
    pub(super) fn of(greeting: &Greeting) -> Self {
        let (variables, status) = match greeting.flavour {
            Flavour::MariaDb => (NO_SUPER, ALL_SLAVES),
            Flavour::MySql if greeting.number() >= REPLICAS_SINCE => (ALL_VARIABLES, REPLICA),
            Flavour::MySql => (ALL_VARIABLES, SLAVE),
        };
        Self { variables, status, at_once: greeting.takes_many() }
    }

    /// One after the other, if they went together.
    fn one_by_one(&mut self) -> bool {
        std::mem::take(&mut self.at_once)
    }

    /// Simpler variables, if there are any.
    fn simpler_variables(&mut self) -> bool {
        let simpler = match self.variables {
            ALL_VARIABLES => NO_SUPER,
            NO_SUPER => READ_ONLY,
            _ => return false,
        };
        self.variables = simpler;
        true
    }

    fn simpler_status(&mut self) -> bool {
        let simpler = self.status != SLAVE;
        self.status = SLAVE;
        simpler
    }
}

/// One round of questions.
#[derive(Debug)]
pub(super) struct Round {
    version: String,
    writable: Option<bool>,
}

impl Round {
    pub(super) fn new(version: &str) -> Self {
        Self { version: version.to_owned(), writable: None }
    }

    /// What to ask next, once all that was asked has been answered.
    pub(super) fn question(&self, dialect: &Dialect) -> Cow<'static, str> {
        match self.writable {
            None if dialect.at_once => format!("{}; {}", dialect.variables, dialect.status).into(),
            None => dialect.variables.into(),
            Some(_) => dialect.status.into(),
        }
    }

    /// Takes the next answer; the report when it was the last.
    pub(super) fn answered(&mut self, answer: Answer, dialect: &mut Dialect) -> Result<Option<Report>, Fault> {
        let Some(writable) = self.writable else {
            match answer {
                Ok(table) => self.writable = Some(is_writable(&table)?),
                Err(error) if error.code == UNKNOWN_VARIABLE && dialect.simpler_variables() => {}
                // Something between us and the server takes one at a time, whatever the server said.
                Err(_) if dialect.one_by_one() => {}
                Err(error) => return Err(unanswered(dialect.variables, error)),
            }
            return Ok(None);
        };
        let replication = match answer {
            Ok(table) => replication(&table)?,
            Err(error) if SYNTAX.contains(&error.code) && dialect.simpler_status() => return Ok(None),
            Err(error) if FORBIDDEN.contains(&error.code) => Replication::Hidden,
            Err(error) => return Err(unanswered(dialect.status, error)),
        };
        Ok(Some(Report { writable, replication, version: std::mem::take(&mut self.version) }))
    }
}

fn unanswered(question: &'static str, error: ServerError) -> Fault {
    Fault::Question { question, error }
}

/// All of them are off. MariaDB 12 has more words for on than one.
fn is_writable(table: &Table) -> Result<bool, Fault> {
    let row = table.rows().next().ok_or(Fault::Malformed("an empty answer about read_only"))?;
    let off = |value: Option<&str>| value.is_some_and(|word| word == "0" || word.eq_ignore_ascii_case("off"));
    Ok(row.values().all(off))
}

fn replication(table: &Table) -> Result<Replication, Fault> {
    let mut whole = Replication::None;
    for row in table.rows() {
        let (connected, applying, lag_s) = source(row).ok_or(Fault::Malformed("the status of a replica"))?;
        whole = match whole {
            Replication::From { connected: c, applying: a, lag_s: l } => Replication::From {
                connected: connected && c,
                applying: applying && a,
                lag_s: lag_s.zip(l).map(|(one, other)| one.max(other)),
            },
            Replication::None | Replication::Hidden => Replication::From { connected, applying, lag_s },
        };
    }
    Ok(whole)
}

/// Both threads and the lag of one source; `None` if the row does not tell of them.
fn source(row: Row<'_>) -> Option<(bool, bool, Option<u32>)> {
    let either = |new: &str, old: &str| row.named(new).or_else(|| row.named(old));
    let runs = |value: Option<&str>| value.is_some_and(|word| word.eq_ignore_ascii_case("yes"));
    let connected = runs(either("Replica_IO_Running", "Slave_IO_Running")?);
    let applying = runs(either("Replica_SQL_Running", "Slave_SQL_Running")?);
    let lag = either("Seconds_Behind_Source", "Seconds_Behind_Master")?;
    Some((connected, applying, lag.and_then(|seconds| seconds.parse().ok())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MYSQL: Dialect = Dialect { variables: ALL_VARIABLES, status: REPLICA, at_once: false };
    const MARIADB: Dialect = Dialect { variables: NO_SUPER, status: ALL_SLAVES, at_once: false };

    fn error(code: u16) -> Answer {
        Err(ServerError { code, message: String::new() })
    }

    fn variables(values: &[&str]) -> Answer {
        let values: Vec<_> = values.iter().copied().map(Some).collect();
        Ok(Table::of(&["a", "b", "c"][..values.len()], &[&values]))
    }

    /// A conversation: which questions were asked, and what came of it.
    fn play(mut dialect: Dialect, answers: &[Answer]) -> (Vec<String>, Result<Option<Report>, Fault>) {
        let mut round = Round::new("v");
        let mut asked = Vec::new();
        for answer in answers {
            asked.push(round.question(&dialect).into_owned());
            match round.answered(answer.clone(), &mut dialect) {
                Ok(None) => {}
                end => return (asked, end),
            }
        }
        (asked, Ok(None))
    }

    fn report(dialect: Dialect, answers: &[Answer]) -> Report {
        play(dialect, answers).1.expect("understood").expect("whole")
    }

    #[test]
    fn a_server_is_writable_when_every_switch_is_off() {
        let none = Ok(Table::default());
        for (values, writable) in [
            (&["0", "0", "0"][..], true),
            (&["OFF", "0", "off"], true),
            (&["1", "0", "0"], false),
            (&["0", "1", "0"], false),
            (&["0", "0", "1"], false),
            (&["NO_LOCK"], false),
        ] {
            let told = report(MYSQL, &[variables(values), none.clone()]);
            assert_eq!((told.writable, told.replication), (writable, Replication::None), "{values:?}");
        }
        assert!(matches!(play(MYSQL, &[Ok(Table::default())]).1, Err(Fault::Malformed(_))));
    }

    #[test]
    fn replicas_by_either_name() {
        let new = ["Replica_IO_Running", "Replica_SQL_Running", "Seconds_Behind_Source"];
        let old = ["Slave_SQL_Running", "Slave_IO_Running", "Seconds_Behind_Master"];
        let told = |columns: &[&str], rows: &[&[Option<&str>]]| {
            report(MARIADB, &[variables(&["1", "0"]), Ok(Table::of(columns, rows))]).replication
        };
        let from = |connected, applying, lag_s| Replication::From { connected, applying, lag_s };
        assert_eq!(told(&new, &[&[Some("Yes"), Some("Yes"), Some("3")]]), from(true, true, Some(3)));
        assert_eq!(told(&old, &[&[Some("Yes"), Some("Connecting"), None]]), from(false, true, None));
        let two: [&[Option<&str>]; 2] = [&[Some("Yes"), Some("Yes"), Some("3")], &[Some("Yes"), Some("No"), Some("8")]];
        assert_eq!(told(&new, &two), from(true, false, Some(8)), "the worst of its sources");
        let null: [&[Option<&str>]; 2] = [&[Some("Yes"), Some("Yes"), None], &[Some("Yes"), Some("Yes"), Some("8")]];
        assert_eq!(told(&new, &null), from(true, true, None));
        let strange = play(MARIADB, &[variables(&["1", "0"]), Ok(Table::of(&["x"], &[&[Some("1")]]))]).1;
        assert!(matches!(strange, Err(Fault::Malformed(_))));
    }

    #[test]
    fn a_form_that_is_not_known_is_given_up_for_a_simpler_one() {
        let none = Ok(Table::default());
        let (asked, end) = play(MYSQL, &[error(1193), error(1193), variables(&["0"]), error(1064), none]);
        assert_eq!(asked, [ALL_VARIABLES, NO_SUPER, READ_ONLY, REPLICA, SLAVE]);
        assert!(end.expect("understood").expect("whole").writable);
        let (_, end) = play(MYSQL, &[error(1193), error(1193), error(1193)]);
        assert!(matches!(end, Err(Fault::Question { question: READ_ONLY, .. })));
        let (_, end) = play(MYSQL, &[variables(&["0"]), error(1064), error(1064)]);
        assert!(matches!(end, Err(Fault::Question { question: SLAVE, .. })));
    }

    #[test]
    fn both_are_asked_at_once_where_that_is_understood() {
        let both = Dialect { at_once: true, ..MYSQL };
        let none = Ok(Table::default());
        let joined = |variables: &str| format!("{variables}; {REPLICA}");
        // Whoever asks waits for the second answer before the next question, which is what it would be alone.
        let (asked, end) = play(both, &[variables(&["0"]), none.clone()]);
        assert_eq!(asked, [&joined(ALL_VARIABLES), REPLICA]);
        assert!(end.expect("understood").expect("whole").writable);
        let (asked, end) = play(both, &[error(1193), variables(&["0"]), none.clone()]);
        assert_eq!(asked, [&joined(ALL_VARIABLES), &joined(NO_SUPER), REPLICA]);
        assert!(end.expect("understood").is_some());
        let (asked, end) = play(both, &[error(1064), variables(&["0"]), none]);
        assert_eq!(asked, [&joined(ALL_VARIABLES), ALL_VARIABLES, REPLICA], "a proxy that takes one at a time");
        assert!(end.expect("understood").is_some());
    }

    #[test]
    fn whoever_may_not_ask_does_not_know() {
        let told = report(MYSQL, &[variables(&["1", "0", "1"]), error(1227)]);
        assert_eq!((told.writable, told.replication), (false, Replication::Hidden));
    }
}
