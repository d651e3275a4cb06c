//! HAProxy's runtime API, on a unix socket of its own: so that `hatop`, and the scripts operators have, work here too.
//!
//! The manual of record is HAProxy's *Management Guide* (2.6), §9.3; what is said to a command that fails is in HAProxy's words
//! where it has some. A listener is a frontend here, a pool a backend. Numbers of proxies are those HAProxy would give: from 2
//! on, listeners before pools, each in order of their names; a reload may change them.
//!
//! How a server stands, in its words:
//!
//! | operator | checks | `status` in `show stat` | `srv_op_state` | `srv_admin_state` |
//! |---|---|---|---|---|
//! | ready | none are made | `no check` | 2 | 0 |
//! | ready | up | `UP`; `UP 1/3` while the last checks failed (1 more and it is down, of `fall` = 3) | 2 | 0 |
//! | ready | up, but ejected for connects that failed | `NOLB` | 3 | 0 |
//! | ready | up, and its slow start not over | `UP`, with `throttle` | 1 | 0 |
//! | ready | none has come to an end yet | `DOWN 0/2`, with `check_status` `INI` | 0 | 0 |
//! | ready | down | `DOWN`; `DOWN 1/2` while the last checks passed (`rise` = 2) | 0 | 0 |
//! | drain | up | `DRAIN`; `DRAIN 1/3` as above | 2 | 8 |
//! | drain | down | `DOWN`, as HAProxy has it | 0 | 8 |
//! | maint | whatever they say | `MAINT` | 0 | 1 |
//!
//! [`line`] and [`command`] know neither socket nor clock; [`server`] reads, asks the conductor as the admin server does, and
//! writes.

mod command;
mod field;
mod info;
mod line;
mod server;
mod servers;
mod sess;
mod stat;
mod states;
mod trends;

pub use self::server::conversation;
pub(super) use self::server::serve;
