//! End to end: the real binary with real peers, seen from outside only.
//!
//! A test owns its ground: a directory, a loopback address, and every process on it, all gone when it ends. It waits for
//! facts, never for time to pass. Each ends with what must hold at the end of every run: no session left, everything
//! accepted accounted for, no descriptor lost ([`harness::ringway::Ringway::end_well`]).
//!
//! Every test runs twice: with `RINGWAY_TEST_ENGINE=io_uring` (the default) and with `=epoll`; see [`harness::engine`].
//!
//! Needs root (network namespaces, low ports, other users) and what `scripts/setup` installs.

mod balance;
mod checks;
mod engine;
mod failover;
mod faults;
mod fleet;
mod gate;
mod harness;
mod limits;
mod logs;
mod mysql;
mod pace;
mod page;
mod probe;
mod prometheus;
mod proxy_header;
mod queue;
mod relay;
mod reload;
mod runtime;
mod sight;
mod steer;
mod stop;
mod tls;
mod top;
mod web;
