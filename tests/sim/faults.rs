//! What goes wrong in one run. Each seed switches a random half of the kinds on, each with a weight of its own: a run in
//! which everything fails at once hides what only shows when most things work (swarm testing: Groce et al., ISSTA 2012).

use crate::rng::Rng;

const MS: u64 = 1_000_000;

/// Chances in a thousand, unless said otherwise.
#[derive(Debug, Default)]
pub struct Faults {
    /// An event takes its time, up to `latency_ns`.
    pub latency: u32,
    pub latency_ns: u64,
    /// A worker comes late to its turn, up to `sluggish_ns`.
    pub sluggish: u32,
    pub sluggish_ns: u64,
    /// Peers act while the worker is in the middle of a turn.
    pub jolt: u32,
    /// A multishot request ends with an event.
    pub lapse: u32,
    /// A multishot request ends without saying anything.
    pub lapse_mute: u32,
    /// An event about nothing.
    pub spurious: u32,
    /// Two edges stay two events.
    pub split: u32,
    /// Wait answers with a few events only.
    pub few: u32,
    /// A cancelled watch swallows what was under way.
    pub swallow: u32,
    /// A socket takes less than it has room for.
    pub squeeze: u32,
    /// Small packets fill a pipe before its bytes do.
    pub short_fill: u32,
    /// Urgent data: splice stops where recv does not.
    pub urgent: u32,
    pub pipe_refused: u32,
    pub pipe_tiny: u32,
    /// Clients come to one worker.
    pub skew: u32,
    /// The hatches of other workers are full when a connection might be handed over.
    pub full_hatch: u32,
    /// EMFILE and its like at accept.
    pub accept_shortage: u32,
    /// The connection was gone before it was accepted.
    pub accept_aborted: u32,
    /// connect(2) says no at once.
    pub connect_at_once: u32,
    pub connect_refused: u32,
    pub connect_silent: u32,
    pub connect_unreachable: u32,
    /// io_uring takes that for a connection at first (`io_connect` after `tcp_v4_err`).
    pub connect_untrue: u32,
    pub connect_no_ports: u32,
    /// The answer takes up to `connect_slow_ns`.
    pub connect_slow: u32,
    pub connect_slow_ns: u64,
    /// A send finds no memory.
    pub no_memory: u32,
    /// A peer resets.
    pub reset: u32,
    /// A peer's network goes away.
    pub vanish: u32,
    /// A peer closes with both hands: what it has not read it never will.
    pub rude: u32,
    /// A peer says nothing more, and closes nothing.
    pub silent: u32,
    /// A peer does not read.
    pub deaf: u32,
    /// A peer stops reading for a while.
    pub pausing: u32,
    /// A peer sends or reads a little at a time.
    pub dribble: u32,
    /// A peer sends much, and buffers are large.
    pub bulk: u32,
}

impl Faults {
    pub fn draw(rng: &mut Rng) -> Self {
        let mut some = |max: u64| match rng.below(4) {
            0 | 1 => 0,
            2 => rng.size(max) as u32,
            _ => rng.range(1, max) as u32,
        };
        let mut faults = Self {
            latency: some(700),
            sluggish: some(300),
            jolt: some(400),
            lapse: some(200),
            lapse_mute: some(50),
            spurious: some(300),
            split: some(1000),
            few: some(500),
            swallow: some(500),
            squeeze: some(400),
            short_fill: some(700),
            urgent: some(20),
            pipe_refused: some(700),
            pipe_tiny: some(700),
            skew: some(1000),
            full_hatch: some(300),
            accept_shortage: some(300),
            accept_aborted: some(200),
            connect_at_once: some(200),
            connect_refused: some(400),
            connect_silent: some(300),
            connect_unreachable: some(200),
            connect_no_ports: some(300),
            connect_slow: some(600),
            no_memory: some(5),
            reset: some(500),
            vanish: some(200),
            rude: some(500),
            silent: some(300),
            deaf: some(200),
            pausing: some(300),
            dribble: some(500),
            bulk: some(500),
            // Of those that find no way, and thrown with other dice.
            connect_untrue: 300,
            ..Self::default()
        };
        faults.latency_ns = rng.size(20 * MS);
        faults.sluggish_ns = rng.size(50 * MS);
        faults.connect_slow_ns = rng.size(400 * MS);
        faults
    }
}
