//! The rotation of a pool: a sequence in which each server stands as often as its weight, evenly spread.
//!
//! The order is nginx's smooth weighted round robin: at each step everybody's credit grows by his weight, the richest is
//! taken and pays the total. Over one cycle of `sum(weights)` steps the shares are exact and the credits return to zero,
//! so the cycle can be laid out once and walked by one atomic counter.

use super::limits::ROTATION_MAX;

/// Most steps (servers times entries) the walk below may take; larger pools are sorted instead. A reload stays below a
/// tenth of a second.
const STEPS_MAX: usize = 16_000_000;

/// Lays out one cycle over `weights`; entry `i` of the result is an index into them. Weight 0 does not appear.
///
/// Weights are divided by their greatest common divisor. If the cycle would still exceed [`ROTATION_MAX`] they are
/// scaled down, never to 0.
pub(super) fn rotation(weights: &[u16]) -> Vec<u16> {
    let shares = scaled(weights);
    let total: i64 = shares.iter().sum();
    let everyone: Vec<usize> = (0..shares.len()).filter(|&index| shares[index] > 0).collect();
    if everyone.iter().all(|&index| shares[index] == 1) {
        return everyone.into_iter().map(dense).collect();
    }
    if everyone.len() * usize::try_from(total).unwrap_or(0) > STEPS_MAX {
        return by_turns(&shares);
    }
    let mut credits = vec![0_i64; shares.len()];
    let mut cycle = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    for _ in 0..total {
        let mut richest: Option<usize> = None;
        for &index in &everyone {
            credits[index] += shares[index];
            if richest.is_none_or(|best| credits[index] > credits[best]) {
                richest = Some(index);
            }
        }
        if let Some(index) = richest {
            credits[index] -= total;
            cycle.push(dense(index));
        }
    }
    cycle
}

/// Turn `k` of a server with share `s` falls at `(k + 1/2) / s`; the cycle is all turns in that order. As exact and as
/// even as the above, in a slightly different order, at the cost of a sort.
fn by_turns(shares: &[i64]) -> Vec<u16> {
    let mut turns: Vec<(i64, i64, usize)> = Vec::new();
    for (index, &share) in shares.iter().enumerate() {
        turns.extend((0..share).map(|turn| (2 * turn + 1, 2 * share, index)));
    }
    // a/b < c/d where all are positive: a*d < c*b, without rounding.
    turns.sort_by(|a, b| (a.0 * b.1, a.2).cmp(&(b.0 * a.1, b.2)));
    turns.into_iter().map(|(_, _, index)| dense(index)).collect()
}

fn dense(index: usize) -> u16 {
    u16::try_from(index).expect("a pool has at most SERVERS_MAX servers, which fits")
}

/// The weights in lowest terms, small enough for a cycle of [`ROTATION_MAX`].
fn scaled(weights: &[u16]) -> Vec<i64> {
    let divisor = weights.iter().fold(0, |a, &b| gcd(a, b.into())).max(1);
    let mut shares: Vec<i64> = weights.iter().map(|&w| i64::from(w) / divisor).collect();
    let most = i64::try_from(ROTATION_MAX).unwrap_or(i64::MAX);
    let total: i64 = shares.iter().sum();
    if total > most {
        // Those rounded up to 1 take at most one entry each, which is set aside first.
        let living = i64::try_from(shares.iter().filter(|&&share| share > 0).count()).unwrap_or(most);
        for share in shares.iter_mut().filter(|share| **share > 0) {
            *share = (*share * (most - living) / total).max(1);
        }
    }
    shares
}

fn gcd(a: i64, b: i64) -> i64 {
    match b {
        0 => a,
        _ => gcd(b, a % b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nginx_example() {
        // The order its authors give for 5, 1, 1: a a b a c a a.
        assert_eq!(rotation(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn equal_weights_alternate_in_the_order_of_the_file() {
        assert_eq!(rotation(&[7, 7, 7]), [0, 1, 2]);
        assert_eq!(rotation(&[0, 4, 0, 2]), [1, 3, 1]);
        assert_eq!(rotation(&[0, 0]), [0_u16; 0]);
        assert_eq!(rotation(&[]), [0_u16; 0]);
    }

    #[test]
    fn a_cycle_has_an_end_and_forgets_nobody() {
        let mut weights = vec![256; 9_999];
        weights.push(1);
        let cycle = rotation(&weights);
        assert!(cycle.len() <= ROTATION_MAX, "{}", cycle.len());
        assert!(cycle.contains(&9_999));
    }

    fn assert_spread(weights: &[u16], cycle: &[u16]) -> Result<(), TestCaseError> {
        let total: usize = weights.iter().map(|&w| usize::from(w)).sum();
        prop_assert!(cycle.is_empty() == (total == 0));
        for (index, &weight) in weights.iter().enumerate() {
            let times = cycle.iter().filter(|&&i| usize::from(i) == index).count();
            prop_assert_eq!(times * total, usize::from(weight) * cycle.len());
            // In each prefix a server is never further from its fair share than there are servers.
            let mut got = 0;
            for (steps, &i) in cycle.iter().enumerate() {
                got += usize::from(usize::from(i) == index);
                let fair = (steps + 1) as f64 * f64::from(weight) / total as f64;
                prop_assert!((got as f64 - fair).abs() < weights.len() as f64);
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn shares_are_exact_and_spread(weights in prop::collection::vec(0_u16..=20, 1..12)) {
            assert_spread(&weights, &rotation(&weights))?;
            assert_spread(&weights, &by_turns(&scaled(&weights)))?;
        }
    }
}
