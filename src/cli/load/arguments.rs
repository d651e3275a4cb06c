//! The command lines of `ringway load`.

// clap shows these comments as they stand: `[v6]` is an address, not a link.
#![allow(rustdoc::broken_intra_doc_links)]

use std::net::IpAddr;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::peer::Mode;
use super::socket::Close;
use super::stream::Direction;
use super::target::{self, Target};
use super::units;

/// The most connections one run may ask for.
const CONNECTIONS_MAX: u64 = 1_000_000;
/// The most threads one run may ask for.
const THREADS_MAX: u64 = 64;

/// `ringway load …`.
#[derive(Args)]
pub struct Arguments {
    /// Which of the drills.
    #[command(subcommand)]
    pub drill: Drill,
}

/// The drills.
#[derive(Subcommand)]
pub enum Drill {
    /// Run a test server: echo, request/response, sink, source, or one that speaks first
    Serve(Serve),
    /// Open a connection for every operation, and close it again
    Connect(Connect),
    /// Send requests over lasting connections, and time the responses
    Request(Request),
    /// Move bulk data
    Stream(Stream),
    /// Open idle connections, hold them, and count the survivors
    Hold(Hold),
}

/// What all generators understand.
#[derive(Args)]
pub struct Common {
    /// Where to: ip:port, [v6]:port or unix:/path
    pub target: Target,
    /// How many connections at a time
    #[arg(long, short, default_value = "1", value_name = "N", value_parser = connections)]
    pub connections: u64,
    /// How long one operation (or standing still) may take
    #[arg(long, default_value = "10s", value_parser = units::duration_above_zero)]
    pub timeout: Duration,
    /// Local addresses to connect from, in turn
    #[arg(long, value_name = "IP", value_delimiter = ',', value_parser = target::source)]
    pub source: Vec<IpAddr>,
    /// How connections are closed; `reset` leaves no port in TIME_WAIT
    #[arg(long, value_enum, default_value = "fin")]
    pub close: Close,
    /// Exit with 0 although there were errors
    #[arg(long)]
    pub allow_errors: bool,
    /// What both generators and servers understand.
    #[command(flatten)]
    pub output: Output,
}

/// What generators and servers understand.
#[derive(Args)]
pub struct Output {
    /// How many threads
    #[arg(long, default_value = "1", value_name = "N", value_parser = threads)]
    pub threads: u64,
    /// Print one JSON object at the end, and no table
    #[arg(long)]
    pub json: bool,
    /// Show a line every second, terminal or not
    #[arg(long)]
    pub progress: bool,
}

/// How much to do.
#[derive(Args)]
pub struct Extent {
    /// How many operations
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub count: Option<u64>,
    /// How long to start operations; 10s when no --count is given
    #[arg(long, value_parser = units::duration_above_zero)]
    pub duration: Option<Duration>,
    /// Operations a second, each timed from when it was meant to start; as fast as answers come without
    #[arg(long, value_name = "R", value_parser = units::rate)]
    pub rate: Option<f64>,
    /// Check that responses are the deterministic stream that `serve` sends
    #[arg(long)]
    pub verify: bool,
}

/// `ringway load serve`.
#[derive(Args)]
pub struct Serve {
    /// Where to listen: ip:port, [v6]:port or unix:/path; port 0 takes a free one
    #[arg(long, required = true, value_name = "ADDR")]
    pub listen: Vec<Target>,
    /// What to do with connections
    #[arg(long, value_enum, default_value = "echo")]
    pub mode: Mode,
    /// Bytes of a request (reply)
    #[arg(long, default_value = "64", value_name = "BYTES", value_parser = units::size_above_zero)]
    pub request: u64,
    /// Bytes of a response (reply), or of the greeting (greet)
    #[arg(long, default_value = "64", value_name = "BYTES", value_parser = units::size_above_zero)]
    pub response: u64,
    /// Bytes to send before the end (source); 0 never ends
    #[arg(long, default_value = "0", value_parser = units::size)]
    pub bytes: u64,
    /// Send this and a newline first, to tell who answers
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// Wait this long before each answer
    #[arg(long, default_value = "0s", value_parser = units::duration)]
    pub delay: Duration,
    /// Reset a connection after so many bytes sent (received, for sink)
    #[arg(long, value_name = "BYTES", value_parser = units::size, conflicts_with = "close_after")]
    pub reset_after: Option<u64>,
    /// Send the end after so many bytes sent (received, for sink)
    #[arg(long, value_name = "BYTES", value_parser = units::size)]
    pub close_after: Option<u64>,
    /// Check what comes against the deterministic stream (sink)
    #[arg(long)]
    pub verify: bool,
    /// Stop after this time; without, at SIGTERM or SIGINT
    #[arg(long, value_parser = units::duration_above_zero)]
    pub duration: Option<Duration>,
    /// Threads and reports.
    #[command(flatten)]
    pub output: Output,
}

/// `ringway load connect`.
#[derive(Args)]
pub struct Connect {
    /// Where to, and how many.
    #[command(flatten)]
    pub common: Common,
    /// How much.
    #[command(flatten)]
    pub extent: Extent,
    /// Bytes to send on each connection
    #[arg(long, default_value = "0", value_name = "BYTES", value_parser = units::size)]
    pub request: u64,
    /// Bytes to wait for on each connection
    #[arg(long, default_value = "0", value_name = "BYTES", value_parser = units::size)]
    pub response: u64,
}

/// `ringway load request`.
#[derive(Args)]
pub struct Request {
    /// Where to, and how many.
    #[command(flatten)]
    pub common: Common,
    /// How much.
    #[command(flatten)]
    pub extent: Extent,
    /// Bytes of a request
    #[arg(long, default_value = "64", value_name = "BYTES", value_parser = units::size_above_zero)]
    pub request: u64,
    /// Bytes of a response
    #[arg(long, default_value = "64", value_name = "BYTES", value_parser = units::size_above_zero)]
    pub response: u64,
}

/// `ringway load stream`.
#[derive(Args)]
pub struct Stream {
    /// Where to, and how many.
    #[command(flatten)]
    pub common: Common,
    /// Who sends
    #[arg(long, value_enum, default_value = "down")]
    pub direction: Direction,
    /// Bytes of one transfer on each connection; one transfer each then
    #[arg(long, value_parser = units::size_above_zero)]
    pub bytes: Option<u64>,
    /// How long; 10s when no --bytes is given
    #[arg(long, value_parser = units::duration_above_zero)]
    pub duration: Option<Duration>,
    /// Check every byte against the deterministic stream
    #[arg(long)]
    pub verify: bool,
}

/// `ringway load hold`.
#[derive(Args)]
pub struct Hold {
    /// Where to, and how many.
    #[command(flatten)]
    pub common: Common,
    /// How long to hold, once all are open
    #[arg(long, default_value = "10s", value_parser = units::duration_above_zero)]
    pub duration: Duration,
    /// How many connections to open a second; as fast as they come without
    #[arg(long, value_name = "R", value_parser = units::rate)]
    pub ramp: Option<f64>,
    /// Ping each connection this often, and check the echo
    #[arg(long, value_parser = units::duration_above_zero)]
    pub ping: Option<Duration>,
}

fn connections(text: &str) -> Result<u64, String> {
    match units::count(text)? {
        many if many > CONNECTIONS_MAX => Err(format!("at most {CONNECTIONS_MAX}")),
        count => Ok(count),
    }
}

fn threads(text: &str) -> Result<u64, String> {
    match units::count(text)? {
        many if many > THREADS_MAX => Err(format!("at most {THREADS_MAX}")),
        count => Ok(count),
    }
}
