//! ringway: a Layer-4 TCP load balancer for Linux. Start reading here.
//!
//! # The map
//!
//! | room | what lives there | may use |
//! |---|---|---|
//! | [`base`] | counters, slab, timer wheel, histogram: knows nothing of load balancing | – |
//! | [`sys`] | one small file per man-page family; the first home of `unsafe` | `base` |
//! | [`kernel`] | the only door from a worker to the kernel: `trait Kernel`, and behind it io_uring (the second home of `unsafe`) and epoll | `sys`, `base` |
//! | [`proxy_protocol`] | the header that tells a server whose connection it is: pure | – |
//! | [`config`] | the file, the complaints about it, the immutable plan it compiles to, and the ledgers that outlive a plan | `proxy_protocol`, `base` |
//! | [`health`] | what to ask a server, what its answers mean (with the client of MySQL, and roles), when to ask again: no clock or socket | `config`, `base` |
//! | [`balance`] | which server gets the next session: pure, no clock, socket, lock or allocation | `config`, `base` |
//! | [`dataplane`] | a worker: the loop, the shard that decides everything, sessions, pumps, pipes, drain, mail | `balance`, `kernel`, `config`, `proxy_protocol`, `sys`, `base` |
//! | [`observe`] | what an operator sees: access log, metrics, status | `dataplane`, `health`, `config`, `sys`, `base` |
//! | [`control`] | boot, signals, reload, the fleet of workers, the admin server | everything above |
//! | [`cli`] | one file a verb | everything above |
//!
//! `tests/tidy.rs` holds the same table and fails the build of anyone who draws an arrow the other way.
//!
//! # What others have written for us
//!
//! io-uring (the workers' rings), tokio-uring and tokio (the control thread), socket2, nix and libc (system calls),
//! backtrace (where a stuck worker is), arc-swap (the published scene), crossbeam (mail, queues, padding), toml and serde (the
//! file), strsim ("did you mean"), clap (the command line; clap_mangen and clap_complete its manual pages and completions),
//! hyper (the admin server and its client), form_urlencoded (its queries), prometheus-client (the text of `/metrics`),
//! sd-notify and caps (systemd, root), rustls, rustls-native-certs, aws-lc-rs and ed25519-dalek (TLS and logins of checks), mio
//! and hdrhistogram (`ringway load`), ratatui (`ringway top`), thiserror and anyhow (errors).
//!
//! # The decisions
//!
//! * A worker is one pinned thread with one engine: a ring, or epoll where rings are refused. The engine tells it *when*
//!   (accept, connect, readiness, mail); the worker itself moves the bytes with `recv`, `send` and `splice`, which beats
//!   asking the ring to.
//! * The *shard* decides, the *kernel* acts. Time comes in as an argument; nothing else on a worker reads a clock.
//! * What is configured is an immutable [`config::plan::Plan`], swapped as a whole. What must outlive a plan (counts,
//!   rotation, statistics) is a ledger keyed by identity, which the next plan points to again.
//! * Every session ends with one [`dataplane::ending::Ending`] out of a closed list.

// These pages are for whoever works on ringway: a caption may point at what only its own room can see.
#![allow(rustdoc::private_intra_doc_links)]

pub mod balance;
pub mod base;
pub mod cli;
pub mod config;
pub mod control;
pub mod dataplane;
pub mod health;
pub mod kernel;
pub mod observe;
pub mod proxy_protocol;
pub mod sys;
