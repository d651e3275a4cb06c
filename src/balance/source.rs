//! Policies that go by the client's address. A client keeps its server while the server can take it, on every node that has
//! servers of the same names and weights, whatever their order and addresses.
//!
//! # What never changes
//!
//! Nodes of different versions must agree, so this is a format as much as an algorithm; a test pins it.
//!
//! * The client is [`digest_of_client`](crate::base::digest::digest_of_client) of its address, a server
//!   [`Server::key`], the digest of its name.
//! * `source-hash`: the server with the least `-ln(u) / weight`, where `u = (h / 2^12 + 1/2) / 2^52` and
//!   `h = mix(server ^ client)`: weighted rendezvous hashing (Schindelhauer and Schomaker 2005). Such a wait is exponentially
//!   distributed with the weight as its rate, so a server is the least in exactly its share of all cases, and when it goes,
//!   or comes, only its own clients move.
//! * `maglev`: entry `client % length` of the table; when its server is not to be had, the entry of `mix(client + g)` and
//!   so on (`g` is [`STRIDE`]), at last the rendezvous.
//!
//! While a server ramps (`slow_start`) it has a share of its weight, on each node its own.

use super::room::is_spared_for;
use super::{Caller, DRAWS_MAX, Pick, candidates, claim, first_usable, has_place, usable};
use crate::base::digest::mix;
use crate::config::ledger::WARM;
use crate::config::plan::{Pool, Server};

/// The stride of splitmix64.
const STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;

/// The server, or the backup, that waits least for this client.
///
/// It looks at every server of the pool; `maglev` does not.
pub(super) fn rendezvous(pool: &Pool, caller: &Caller<'_>, client: u64, backup: bool) -> Pick {
    for _ in 0..DRAWS_MAX {
        let waits = candidates(pool, caller, backup).map(|(index, server)| (index, server.key, wait(server, client)));
        // Keys part those of equal waits, so that the order of the file does not.
        let least = waits.min_by(|(_, a, wait_a), (_, b, wait_b)| wait_a.total_cmp(wait_b).then(a.cmp(b)));
        let Some((server, _, _)) = least else { break };
        if claim(&pool.servers[usize::from(server)], caller.now_ns) {
            return Pick::Server(server);
        }
    }
    first_usable(pool, caller, backup)
}

/// The server of the client's entry.
pub(super) fn maglev(pool: &Pool, caller: &Caller<'_>, client: u64) -> Pick {
    let table = &pool.table;
    let mut entry = client;
    for _ in 0..DRAWS_MAX.min(table.len()) {
        let index = table[(entry % table.len() as u64) as usize];
        let server = &pool.servers[usize::from(index)];
        let room = !is_spared_for(server, client) && has_place(server, caller.now_ns);
        if room && usable(pool, index, caller.tried) && claim(server, caller.now_ns) {
            return Pick::Server(index);
        }
        entry = mix(entry.wrapping_add(STRIDE));
    }
    rendezvous(pool, caller, client, false)
}

fn wait(server: &Server, client: u64) -> f64 {
    // 52 bits and a half: exact, and neither 0 nor 1.
    let u = ((mix(server.key ^ client) >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
    let share = server.ledger.warmth();
    // One that ramps has its share of the weight; all others have the very number the format says.
    let weight = f64::from(server.weight);
    -ln(u) / if share < WARM { weight * f64::from(share) / f64::from(WARM) } else { weight }
}

/// The natural logarithm of a normal number above 0. That of the standard library is as good as the platform's; this one
/// uses only what IEEE 754 defines to the last bit, so it is the same everywhere.
fn ln(x: f64) -> f64 {
    const FRACTION: u64 = (1 << 52) - 1;
    const BIAS: u64 = 1023;
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as f64 - BIAS as f64;
    let mut part = f64::from_bits(bits & FRACTION | BIAS << 52);
    if part > std::f64::consts::SQRT_2 {
        part /= 2.0;
        exponent += 1.0;
    }
    // ln(part) = 2 artanh(s), and |s| < 0.172: the next term would be below 1e-16.
    let s = (part - 1.0) / (part + 1.0);
    let square = s * s;
    let series = (0..10).rev().fold(0.0, |sum, term| sum * square + 1.0 / f64::from(2 * term + 1));
    exponent * std::f64::consts::LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_the_logarithm(bits in any::<u64>()) {
            let u = ((bits >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
            prop_assert!(u > 0.0 && u < 1.0 && (ln(u) - u.ln()).abs() <= 1e-14 * (1.0 + u.ln().abs()), "ln {}", u);
        }
    }

    #[test]
    fn its_ends_are_finite() {
        let least = 0.5 / (1_u64 << 52) as f64;
        assert!((ln(least) - least.ln()).abs() < 1e-12);
        assert!(ln(1.0 - least) < 0.0);
    }
}
