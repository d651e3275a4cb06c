//! The table of a pool with `policy = "maglev"`: which server each of its entries belongs to.
//!
//! Eisenbud and others, *Maglev: A Fast and Reliable Software Network Load Balancer* (NSDI 2016), §3.4. Each server has a
//! permutation of the entries, drawn from its name; in turns everybody takes the next entry of his own that is still
//! free. All get the same number of entries, give or take one, and when one leaves, nearly all entries of the others stay
//! where they were. Turns go by digests of names, so the order of the file is of no account.
//!
//! A server takes part in `weight / heaviest` of the rounds.

use crate::base::digest::mix;
use crate::base::limits::MAGLEV_SIZES;

/// Who takes part in the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// The digest of the server's name.
    pub(super) key: u64,
    /// Its weight; 0 takes no part.
    pub(super) weight: u16,
}

/// How long the table over so many servers is: a prime, and if possible a hundred times their number, so that one entry
/// more or less is no more than 1 % of a share.
pub(super) fn size(servers: usize) -> usize {
    let enough = |size: &&usize| **size >= servers.saturating_mul(100);
    let most = MAGLEV_SIZES[MAGLEV_SIZES.len() - 1];
    if servers == 0 { 0 } else { MAGLEV_SIZES.iter().find(enough).copied().unwrap_or(most) }
}

/// Fills the table over `shares`; an entry of the result is an index into them.
pub(super) fn table(shares: &[Share]) -> Vec<u16> {
    let mut turns: Vec<Turn> = (0_u16..).zip(shares).filter(|(_, share)| share.weight > 0).map(Turn::new).collect();
    let size = size(turns.len());
    let heaviest = u64::from(shares.iter().map(|share| share.weight).max().unwrap_or(0));
    // Two names of one digest would be a marvel; they would share a permutation, and be told apart by their index.
    turns.sort_by_key(|turn| (turn.key, turn.server));
    let step = |turn: &Turn| Step { next: turn.key % size as u64, skip: mix(!turn.key) % (size as u64 - 1) + 1 };
    let mut steps: Vec<Step> = turns.iter().map(step).collect();
    let mut table = vec![FREE; size];
    let mut left = size;
    for round in 1.. {
        for (turn, step) in turns.iter_mut().zip(&mut steps) {
            if left == 0 {
                return table;
            }
            if turn.taken >= round * turn.weight / heaviest {
                continue;
            }
            // A permutation that goes by a constant step in a prime visits all, so a free entry is found.
            while table[step.next as usize] != FREE {
                step.next = (step.next + step.skip) % size as u64;
            }
            table[step.next as usize] = turn.server;
            turn.taken += 1;
            left -= 1;
        }
        if left == 0 {
            break;
        }
    }
    table
}

/// No server has this index: a pool has at most `SERVERS_MAX`.
const FREE: u16 = u16::MAX;

struct Turn {
    server: u16,
    key: u64,
    weight: u64,
    taken: u64,
}

struct Step {
    next: u64,
    skip: u64,
}

impl Turn {
    fn new((server, share): (u16, &Share)) -> Self {
        Self { server, key: share.key, weight: share.weight.into(), taken: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::digest;
    use proptest::prelude::*;

    fn shares(weights: &[u16]) -> Vec<Share> {
        let name = |index: usize| digest(format!("server-{index}").as_bytes());
        weights.iter().enumerate().map(|(index, &weight)| Share { key: name(index), weight }).collect()
    }

    fn entries(table: &[u16], servers: usize) -> Vec<usize> {
        let mut entries = vec![0; servers];
        table.iter().for_each(|&server| entries[usize::from(server)] += 1);
        entries
    }

    #[test]
    fn sizes_are_prime_and_grow_with_the_pool() {
        for size in MAGLEV_SIZES {
            assert!((2..size).take_while(|divisor| divisor * divisor <= size).all(|divisor| size % divisor != 0));
        }
        assert_eq!(
            [0, 1, 655, 656, 6_553, 6_554, 10_000].map(size),
            [0, 65_537, 65_537, 655_373, 655_373, 1_000_003, 1_000_003]
        );
    }

    #[test]
    fn nobody_has_a_percent_more_than_another() {
        for servers in [1, 2, 3, 10, 100, 655, 1_000, 6_553, 10_000] {
            let table = table(&shares(&vec![7; servers]));
            let entries = entries(&table, servers);
            let ideal = table.len() as f64 / servers as f64;
            let worst = entries.iter().map(|&got| (got as f64 - ideal).abs() / ideal).fold(0.0, f64::max);
            assert!(worst <= 0.01, "{servers} servers: {worst}");
        }
    }

    #[test]
    fn when_one_of_many_goes_the_others_keep_what_they_had() {
        for servers in [2, 3, 5, 10, 50, 200, 655, 1_000] {
            let before = table(&shares(&vec![1; servers]));
            for gone in [0, servers / 2, servers - 1] {
                let mut weights = vec![1; servers];
                weights[gone] = 0;
                let after = table(&shares(&weights));
                // The table of one server fewer may be a smaller one; it is not, for these numbers.
                assert_eq!(before.len(), after.len());
                let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
                let moved = moved as f64 / before.len() as f64;
                assert!(moved <= 1.0 / servers as f64 + 0.02, "{servers} servers: {moved} moved");
            }
        }
    }

    #[test]
    fn a_table_of_nobody_is_empty() {
        assert_eq!(table(&[]), [0_u16; 0]);
        assert_eq!(table(&shares(&[0, 0])), [0_u16; 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn shares_follow_the_weights(weights in prop::collection::vec(0_u16..=256, 1..40)) {
            let table = table(&shares(&weights));
            let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            for (&weight, got) in weights.iter().zip(entries(&table, weights.len())) {
                let ideal = table.len() as f64 * f64::from(weight) / total;
                // Each round begun adds one at most, and the last one may be cut short for all. What is a fraction of an
                // entry for each of the others falls to whom it can make whole.
                let of_a_round = f64::from(weight) / f64::from(*weights.iter().max().expect("one at least"));
                let slack = 1.0 + of_a_round + weights.len() as f64 * f64::from(weight) / total;
                prop_assert!(total == 0.0 || (got as f64 - ideal).abs() <= slack, "{} of {}, not {}", got, weight, ideal);
            }
        }

        #[test]
        fn the_order_of_the_file_is_of_no_account(
            weights in prop::collection::vec(0_u16..=3, 1..30),
            turn in any::<prop::sample::Index>(),
        ) {
            let here = shares(&weights);
            let mut there = here.clone();
            there.rotate_left(turn.index(here.len()));
            let (table_here, table_there) = (table(&here), table(&there));
            let same = table_here.iter().zip(&table_there).all(|(&a, &b)| {
                here[usize::from(a)].key == there[usize::from(b)].key
            });
            prop_assert!(same && table_here.len() == table_there.len());
        }
    }
}
