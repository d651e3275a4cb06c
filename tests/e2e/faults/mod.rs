//! Faults: everything a network, a peer or an operator can do to the daemon, one test each, called by its number in the
//! catalogue of faults. Each ends with [`crate::harness::invariants`]: afterwards the daemon is as it was before. Numbers
//! that are missing here stand in the doc comments of the tests that cover them.

use std::io::Write;
use std::net::TcpStream;

mod admin;
mod bytes;
mod clock;
mod crowds;
mod life;
mod links;
mod own;
mod resources;

/// Where ringway listens on a network of hosts.
const FRONT: u16 = 8000;

/// A server that says a name to whoever connects, and hangs up.
fn say(name: &'static str) -> impl Fn(TcpStream) + Send + Sync + 'static {
    move |mut stream| drop(stream.write_all(name.as_bytes()))
}
