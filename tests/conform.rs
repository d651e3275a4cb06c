//! The same scripts on every kernel: what a shard may rely on is the same whether io_uring, epoll or the simulator drives
//! it.
//!
//! A script (`conform/scripts.rs`) speaks to a `trait Kernel` and to peers at the far ends, and writes down what it sees: a
//! trace. The traces of all kernels must be equal, so the simulator stays honest. What a kernel is free to do is
//! not in them: how many events an edge comes in, in which order those of two requests come, how many bytes a call moves
//! out of many.
//!
//! Nothing is waited for by the clock: what has happened by the time a *fence* comes through has been told by then. A fence is
//! a byte on a connection of its own; loopback hands packets over in the order in which they were sent, on one core.
//!
//! ```text
//! cargo test --test conform -- --nocapture          all traces
//! ```
//!
//! Files: `play` (what a script can do, and the trace) · `real` (loopback sockets) · `simulated` (the world of `tests/sim`) ·
//! `scripts` (streams and their ends) · `requests` (accept, connect, cancel, wake).

#[path = "conform/play.rs"]
mod play;
#[path = "conform/real.rs"]
mod real;
#[path = "conform/requests.rs"]
mod requests;
#[path = "conform/scripts.rs"]
mod scripts;
#[path = "conform/simulated.rs"]
mod simulated;

// The simulator, of which a script needs the half that is the kernel.
#[allow(dead_code)]
#[path = "sim/faults.rs"]
mod faults;
#[allow(dead_code)]
#[path = "sim/flight.rs"]
mod flight;
#[allow(dead_code)]
#[path = "sim/greeting.rs"]
mod greeting;
#[allow(dead_code)]
#[path = "sim/hatch.rs"]
mod hatch;
#[path = "sim/header.rs"]
mod header;
#[path = "sim/kernel.rs"]
mod kernel;
#[allow(dead_code)]
#[path = "sim/oracle.rs"]
mod oracle;
#[allow(dead_code)]
#[path = "sim/peer.rs"]
mod peer;
#[allow(dead_code)]
#[path = "sim/rng.rs"]
mod rng;
#[allow(dead_code)]
#[path = "sim/roles.rs"]
mod roles;
#[allow(dead_code)]
#[path = "sim/scene.rs"]
mod scene;
#[allow(dead_code)]
#[path = "sim/socket.rs"]
mod socket;
#[allow(dead_code)]
#[path = "sim/stream.rs"]
mod stream;
#[allow(dead_code)]
#[path = "sim/waiting.rs"]
mod waiting;
#[allow(dead_code)]
#[path = "sim/world.rs"]
mod world;

use std::thread;

use play::{Ground, Play};

/// A script, by name.
type Script = (&'static str, fn(&mut Play));

/// Something to play on, made anew for each script.
type Maker = (&'static str, fn() -> Box<dyn Ground>);

const KERNELS: [Maker; 3] = [("io_uring", real::uring), ("epoll", real::epoll), ("simulator", simulated::ground)];

/// Plays a script, on a thread of its own: a ring belongs to the thread that made it.
fn trace(script: Script, kernel: Maker) -> Vec<String> {
    let played = thread::Builder::new().name(format!("{} on {}", script.0, kernel.0)).spawn(move || {
        let mut play = Play::begin((kernel.1)());
        (script.1)(&mut play);
        play.end()
    });
    let trace = played.expect("a thread can be started").join();
    trace.unwrap_or_else(|_| panic!("script \"{}\" on {}: see above", script.0, kernel.0))
}

#[test]
fn every_kernel_tells_the_same_story() {
    let mut differences = String::new();
    for script in scripts::ALL.into_iter().chain(requests::ALL) {
        let [(reference, first), others @ ..] = &KERNELS.map(|kernel| (kernel.0, trace(script, kernel)));
        println!("=== {}\n{}", script.0, first.join("\n"));
        assert!(first.len() > 1, "script \"{}\" shows nothing", script.0);
        for (other, trace) in others.iter().filter(|(_, trace)| trace != first) {
            let at = first.iter().zip(trace).take_while(|(a, b)| a == b).count();
            let line = |trace: &Vec<String>| trace.get(at).cloned().unwrap_or_else(|| "(the end)".into());
            differences += &format!(
                "{}, line {}:\n  {reference}: {}\n  {other}: {}\n",
                script.0,
                at + 1,
                line(first),
                line(trace)
            );
        }
    }
    assert!(differences.is_empty(), "the kernels differ:\n{differences}");
}
