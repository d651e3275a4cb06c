//! What an operator sees: the access log, events of the daemon, metrics, status.
//!
//! Nothing here is ever on a worker's path. Workers leave plain data in bounded queues and counters; the log thread
//! ([`writer`]) makes lines of it ([`pen`]: [`access_log`], [`tcplog`], [`event`], by way of [`mod@line`]) and puts them
//! out ([`sink`], [`courier`]);
//! the admin server renders [`metrics`] and [`status`] from the [`panel`] when somebody asks. It also takes a sample each
//! second ([`history`]), and tells those who watch what has changed ([`live`], [`rates`], [`recent`]).

pub mod access_log;
pub mod courier;
pub mod event;
pub mod history;
pub mod line;
pub mod live;
pub mod metrics;
pub mod panel;
pub mod pen;
pub mod process;
pub mod rates;
pub mod recent;
pub mod sink;
pub mod status;
pub mod tcplog;
pub mod writer;
