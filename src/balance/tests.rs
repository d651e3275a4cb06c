//! Shares, limits and spares, over tables of pools.

use std::fmt::Write;
use std::sync::Arc;

use super::*;
use crate::config::ledger::Registry;

/// A pool of servers given as (weight, max_connections or 0, backup).
fn pool(servers: &[(u16, u32, bool)]) -> Arc<Pool> {
    let mut text = String::from("[listeners.l]\nbind = '127.0.0.1:1'\npool = 'p'\n[pools.p]\nservers = [\n");
    for (i, (weight, max, backup)) in servers.iter().enumerate() {
        let limit = if *max > 0 { format!("max_connections = {max}, ") } else { String::new() };
        let port = 1000 + i;
        writeln!(
            text,
            "{{ name = 's{i}', address = '127.0.0.1:{port}', weight = {weight}, {limit}backup = {backup} }},"
        )
        .unwrap();
    }
    text.push_str("]\n");
    let draft = crate::config::parse("test", &text, &|_| None).unwrap_or_else(|complaints| panic!("{complaints}"));
    Arc::clone(&draft.compile(&mut Registry::new(1), None).pools[0])
}

fn shares(pool: &Pool, picks: usize) -> Vec<usize> {
    let mut shares = vec![0; pool.servers.len()];
    for _ in 0..picks {
        match pick(pool, &Tried::default()) {
            Pick::Server(i) => shares[usize::from(i)] += 1,
            other => panic!("{other:?}"),
        }
    }
    shares
}

#[test]
fn equal_servers_alternate_exactly_over_threads() {
    let pool = pool(&[(1, 0, false), (1, 0, false)]);
    let counts: Vec<Vec<usize>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| shares(&pool, 2_500))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(counts.iter().map(|c| c[0]).sum::<usize>(), 5_000);
}

#[test]
fn the_share_of_a_server_that_is_out_is_spread_evenly() {
    let pool = pool(&[(1, 0, false), (1, 0, false), (1, 0, false)]);
    pool.servers[1].ledger.set_standing(Standing::Drain);
    assert_eq!(shares(&pool, 600), [300, 0, 300]);
}

#[test]
fn a_backup_stands_in_only_when_nothing_else_is_usable() {
    let pool = pool(&[(1, 0, false), (1, 0, true), (1, 0, true)]);
    assert_eq!(shares(&pool, 10), [10, 0, 0]);
    let mut tried = Tried::default();
    tried.add(0);
    assert_eq!(pick(&pool, &tried), Pick::Server(1));
    tried.add(1);
    assert_eq!(pick(&pool, &tried), Pick::Server(2));
    tried.add(2);
    assert_eq!(pick(&pool, &tried), Pick::None);
    pool.servers[0].ledger.set_standing(Standing::Maint);
    assert_eq!(pick(&pool, &Tried::default()), Pick::Server(1));
}

#[test]
fn a_full_server_is_passed_over_and_does_not_spill_onto_the_backup() {
    let pool = pool(&[(1, 2, false), (1, 1, false), (1, 0, true)]);
    assert_eq!(shares(&pool, 3), [2, 1, 0]);
    assert_eq!(pick(&pool, &Tried::default()), Pick::Full);
    release(&pool.servers[1]);
    assert_eq!(pick(&pool, &Tried::default()), Pick::Server(1));
}

#[test]
fn the_last_usable_of_many_is_found() {
    let mut servers = vec![(1, 0, false); 500];
    servers.push((1, 0, true));
    let pool = pool(&servers);
    for server in &pool.servers[..499] {
        server.ledger.set_standing(Standing::Maint);
    }
    assert_eq!(pick(&pool, &Tried::default()), Pick::Server(499));
}

#[test]
fn claims_under_contention_never_exceed_the_limit() {
    let pool = pool(&[(1, 7, false)]);
    let got: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| (0..100).filter(|_| matches!(pick(&pool, &Tried::default()), Pick::Server(_))).count())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(got, 7);
    assert_eq!(pool.servers[0].ledger.active.load(Ordering::Relaxed), 7);
}

#[test]
fn sessions_do_not_all_begin_at_the_dead_one_of_two() {
    let pool = pool(&[(1, 0, false), (1, 0, false)]);
    let mut first_at_dead = 0;
    for _ in 0..100 {
        if pick(&pool, &Tried::default()) == Pick::Server(0) {
            first_at_dead += 1;
            let mut tried = Tried::default();
            tried.add(0);
            assert_eq!(pick(&pool, &tried), Pick::Server(1));
        }
    }
    assert_eq!(first_at_dead, 50);
}
