//! Shares, limits and spares, over tables of pools.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::base::digest::mix;
use crate::config::ledger::{Health, Registry, Standing};

/// A pool of servers given as (weight, max_connections or 0, backup).
fn pool(servers: &[(u16, u32, bool)]) -> Arc<Pool> {
    ordered(Policy::RoundRobin, servers, 0)
}

/// The same under a policy, with the list in the file turned by so many places.
fn ordered(policy: Policy, servers: &[(u16, u32, bool)], turn: usize) -> Arc<Pool> {
    written(policy, servers, turn, "")
}

/// The same with more lines for the pool.
fn written(policy: Policy, servers: &[(u16, u32, bool)], turn: usize, lines: &str) -> Arc<Pool> {
    let mut text = String::from("[listeners.l]\nbind = '127.0.0.1:1'\npool = 'p'\n[pools.p]\n");
    write!(text, "policy = '{}'\nservers = [\n", policy.name()).expect("a string takes all");
    let mut list: Vec<_> = servers.iter().enumerate().collect();
    list.rotate_left(turn);
    for (i, (weight, max, backup)) in list {
        let limit = if *max > 0 { format!("max_connections = {max}, ") } else { String::new() };
        let port = 1000 + i;
        writeln!(
            text,
            "{{ name = 's{i}', address = '127.0.0.1:{port}', weight = {weight}, {limit}backup = {backup} }},"
        )
        .expect("a string takes all");
    }
    text.push_str("]\n");
    text.push_str(lines);
    let draft = crate::config::parse("test", &text, &|_| None).unwrap_or_else(|complaints| panic!("{complaints}"));
    Arc::clone(&draft.compile(&mut Registry::new(1), None).pools[0])
}

fn of(policy: Policy, servers: &[(u16, u32, bool)]) -> Arc<Pool> {
    ordered(policy, servers, 0)
}

fn ask(pool: &Pool, tried: &Tried) -> Pick {
    ask_as(pool, tried, 0)
}

/// The `n`th client, and the `n`th number.
fn ask_as(pool: &Pool, tried: &Tried, n: u32) -> Pick {
    let address = Some(IpAddr::from(Ipv4Addr::from(0x0A00_0000 + n)));
    pick(pool, &Caller { tried, address, random: mix(n.into()), now_ns: 0, wish: None })
}

#[test]
fn room_is_what_a_pick_finds() {
    for policy in Policy::ALL {
        let pool = of(policy, &[(1, 1, false), (2, 2, false), (0, 0, false), (1, 1, true)]);
        let mut tried = Tried::default();
        for left in (0..3).rev() {
            assert!(has_room(&pool, &tried, None, 0), "{policy:?}");
            assert!(matches!(ask_as(&pool, &tried, left), Pick::Server(0 | 1)), "{policy:?}");
        }
        assert!(
            !has_room(&pool, &tried, None, 0) && ask(&pool, &tried) == Pick::Full,
            "{policy:?}: a backup is no overflow"
        );
        tried.add(0);
        assert!(!has_room(&pool, &tried, None, 0), "{policy:?}");
        release(&pool.servers[0]);
        assert!(!has_room(&pool, &tried, None, 0) && has_room(&pool, &Tried::default(), None, 0), "{policy:?}");
        tried.add(1);
        assert!(
            has_room(&pool, &tried, None, 0) && ask(&pool, &tried) == Pick::Server(3),
            "{policy:?}: a backup at last"
        );
        tried.add(3);
        assert!(!has_room(&pool, &tried, None, 0) && ask(&pool, &tried) == Pick::None, "{policy:?}");
    }
}

/// The server of client `n`, whose place is given back.
fn server_of(pool: &Pool, n: u32) -> usize {
    match ask_as(pool, &Tried::default(), n) {
        Pick::Server(server) => {
            release(&pool.servers[usize::from(server)]);
            server.into()
        }
        other => panic!("{other:?}"),
    }
}

fn name_of(pool: &Pool, n: u32) -> &str {
    &pool.servers[server_of(pool, n)].name
}

fn shares(pool: &Pool, picks: usize) -> Vec<usize> {
    let mut shares = vec![0; pool.servers.len()];
    for _ in 0..picks {
        match ask(pool, &Tried::default()) {
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
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
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
    assert_eq!(ask(&pool, &tried), Pick::Server(1));
    tried.add(1);
    assert_eq!(ask(&pool, &tried), Pick::Server(2));
    tried.add(2);
    assert_eq!(ask(&pool, &tried), Pick::None);
    pool.servers[0].ledger.set_standing(Standing::Maint);
    assert_eq!(ask(&pool, &Tried::default()), Pick::Server(1));
}

#[test]
fn servers_that_are_down_or_ejected_get_nothing_and_unproven_ones_only_when_no_other_is_left() {
    for policy in Policy::ALL {
        let pool = of(policy, &[(1, 0, false), (1, 0, false), (1, 0, false), (1, 0, true)]);
        let ledger = |index: usize| &pool.servers[index].ledger;
        let chosen = || {
            let mut chosen: Vec<_> = (0..60).map(|n| server_of(&pool, n)).collect();
            chosen.sort_unstable();
            chosen.dedup();
            chosen
        };
        ledger(0).set_health(Health::Checking);
        ledger(1).set_health(Health::Up);
        ledger(2).set_health(Health::Down);
        assert_eq!(chosen(), [1], "{policy:?}");
        ledger(1).set_ejected(true);
        assert_eq!(chosen(), [0], "{policy:?}: better one that is not proven than the backup");
        ledger(0).set_health(Health::Down);
        assert_eq!(chosen(), [3], "{policy:?}");
        ledger(3).set_health(Health::Down);
        assert_eq!(chosen(), [1], "{policy:?}: a rest is no reason to refuse a session");
        ledger(1).set_health(Health::Down);
        assert_eq!(ask(&pool, &Tried::default()), Pick::None, "{policy:?}");
        ledger(1).set_ejected(false);
        ledger(1).set_health(Health::Up);
        assert_eq!(chosen(), [1], "{policy:?}");
    }
}

#[test]
fn with_fail_open_all_that_the_operator_leaves_in_service_may_be_tried_when_none_is_usable() {
    let pool = written(Policy::RoundRobin, &[(1, 0, false), (1, 0, false), (1, 0, false)], 0, "fail_open = true");
    pool.servers[0].ledger.set_health(Health::Down);
    pool.servers[1].ledger.set_health(Health::Down);
    assert_eq!(shares(&pool, 6), [0, 0, 6]);
    pool.servers[2].ledger.set_standing(Standing::Maint);
    assert_eq!(shares(&pool, 6), [3, 3, 0]);
}

#[test]
fn a_full_server_is_passed_over_and_does_not_spill_onto_the_backup() {
    let pool = pool(&[(1, 2, false), (1, 1, false), (1, 0, true)]);
    assert_eq!(shares(&pool, 3), [2, 1, 0]);
    assert_eq!(ask(&pool, &Tried::default()), Pick::Full);
    release(&pool.servers[1]);
    assert_eq!(ask(&pool, &Tried::default()), Pick::Server(1));
}

#[test]
fn the_last_usable_of_many_is_found() {
    let mut servers = vec![(1, 0, false); 500];
    servers.push((1, 0, true));
    let pool = pool(&servers);
    for server in &pool.servers[..499] {
        server.ledger.set_standing(Standing::Maint);
    }
    assert_eq!(ask(&pool, &Tried::default()), Pick::Server(499));
}

#[test]
fn claims_under_contention_never_exceed_the_limit() {
    let pool = pool(&[(1, 7, false)]);
    let got: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| (0..100).filter(|_| matches!(ask(&pool, &Tried::default()), Pick::Server(_))).count())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert_eq!(got, 7);
    assert_eq!(pool.servers[0].ledger.active.load(Ordering::Relaxed), 7);
}

#[test]
fn sessions_do_not_all_begin_at_the_dead_one_of_two() {
    let pool = pool(&[(1, 0, false), (1, 0, false)]);
    let mut first_at_dead = 0;
    for _ in 0..100 {
        if ask(&pool, &Tried::default()) == Pick::Server(0) {
            first_at_dead += 1;
            let mut tried = Tried::default();
            tried.add(0);
            assert_eq!(ask(&pool, &tried), Pick::Server(1));
        }
    }
    assert_eq!(first_at_dead, 50);
}

fn active(pool: &Pool) -> Vec<u32> {
    pool.servers.iter().map(|server| server.ledger.active.load(Ordering::Relaxed)).collect()
}

#[test]
fn held_sessions_go_where_there_are_least() {
    let pool =
        of(Policy::LeastConnections, &[(1, 0, false), (1, 0, false), (2, 0, false), (0, 0, false), (1, 0, true)]);
    for _ in 0..400 {
        ask(&pool, &Tried::default());
    }
    assert_eq!(active(&pool), [100, 100, 200, 0, 0]);
    for _ in 0..50 {
        release(&pool.servers[1]);
    }
    assert_eq!(shares(&pool, 50), [0, 50, 0, 0, 0]);
}

#[test]
fn servers_without_sessions_take_turns() {
    let pool = of(Policy::LeastConnections, &[(1, 0, false), (1, 0, false), (1, 0, false), (1, 0, false)]);
    pool.servers[1].ledger.active.store(1, Ordering::Relaxed);
    let turns: Vec<usize> = (0..6).map(|n| server_of(&pool, n)).collect();
    assert_eq!(turns, [0, 2, 3, 0, 2, 3]);
}

#[test]
fn the_first_with_room_takes_all() {
    let pool = of(Policy::First, &[(0, 0, false), (1, 2, false), (1, 1, false), (1, 0, true)]);
    assert_eq!(shares(&pool, 3), [0, 2, 1, 0]);
    assert_eq!(ask(&pool, &Tried::default()), Pick::Full);
    release(&pool.servers[1]);
    assert_eq!(ask(&pool, &Tried::default()), Pick::Server(1));
}

#[test]
fn two_choices_keep_held_sessions_even() {
    let pool = of(Policy::RandomTwo, &[(1, 0, false); 50]);
    for n in 0..50_000 {
        ask_as(&pool, &Tried::default(), n);
    }
    // One choice would leave some 80 between the fullest and the emptiest.
    let active = active(&pool);
    let spread = active.iter().max().expect("some") - active.iter().min().expect("some");
    assert!(spread <= 12, "{active:?}");
}

#[test]
fn two_choices_share_short_sessions_by_weight() {
    let pool = of(Policy::RandomTwo, &[(1, 0, false), (3, 0, false), (6, 0, false)]);
    let mut got = [0_i32; 3];
    (0..20_000).for_each(|n| got[server_of(&pool, n)] += 1);
    for (got, fair) in got.into_iter().zip([2_000, 6_000, 12_000]) {
        assert!((got - fair).abs() < 400, "{got} of {fair}");
    }
}

#[test]
fn a_client_keeps_its_server_and_clients_are_shared_by_weight() {
    for policy in [Policy::SourceHash, Policy::Maglev] {
        let pool = of(policy, &[(1, 0, false), (2, 0, false), (0, 0, false), (5, 0, false), (9, 0, true)]);
        let mut got = [0_i32; 5];
        for n in 0..20_000 {
            let server = server_of(&pool, n);
            assert_eq!(server, server_of(&pool, n));
            got[server] += 1;
        }
        for (got, fair) in got.into_iter().zip([2_500, 5_000, 0, 12_500, 0]) {
            assert!((got - fair).abs() <= 400.min(fair), "{policy:?}: {got} of {fair}");
        }
    }
}

#[test]
fn only_clients_of_a_server_that_is_out_move_and_they_spread() {
    for policy in [Policy::SourceHash, Policy::Maglev] {
        let pool = of(policy, &[(1, 0, false); 10]);
        let before: Vec<usize> = (0..10_000).map(|n| server_of(&pool, n)).collect();
        pool.servers[3].ledger.set_standing(Standing::Drain);
        let mut heirs = [0; 10];
        for (n, before) in (0..).zip(before) {
            let now = server_of(&pool, n);
            match before {
                3 => heirs[now] += 1,
                before => assert_eq!(now, before, "{policy:?}: client {n}"),
            }
        }
        assert!(heirs[3] == 0 && heirs.iter().filter(|&&got| got > 60).count() == 9, "{policy:?}: {heirs:?}");
    }
}

#[test]
fn clients_of_a_server_that_is_removed_move_and_hardly_any_other() {
    for policy in [Policy::SourceHash, Policy::Maglev] {
        let before = of(policy, &[(1, 0, false); 20]);
        let after = of(policy, &[(1, 0, false); 19]);
        let moved = (0..20_000).filter(|&n| name_of(&before, n) != name_of(&after, n)).count();
        assert!(moved <= 20_000 / 20 + 400, "{policy:?}: {moved} of 20000");
        let strays = (0..20_000).filter(|&n| !["s19", name_of(&after, n)].contains(&name_of(&before, n))).count();
        assert!(policy == Policy::Maglev || strays == 0, "{policy:?}: {strays} moved without need");
    }
}

/// A change of these breaks the agreement with nodes that are not upgraded yet: clients lose their servers.
#[test]
fn the_choice_by_source_never_changes() {
    let servers = [(1, 0, false), (1, 0, false), (2, 0, false), (3, 0, false), (1, 0, false)];
    let chosen =
        |policy| (0..24).map(|n| server_of(&of(policy, &servers), n)).map(|s| s.to_string()).collect::<String>();
    assert_eq!(chosen(Policy::SourceHash), "043330331132323221233122");
    assert_eq!(chosen(Policy::Maglev), "131133023213234333343012");
}

/// Whatever is out, full or tried: a pick is a server that may be had, and there is none only when there is none.
fn is_right(pool: &Pool, tried: &Tried, n: u32) -> Result<(), TestCaseError> {
    let before = active(pool);
    let full = |index: &usize| (1..=before[*index]).contains(&pool.servers[*index].max_connections);
    // From the best to the last resort: who is proven, who is not disproven, and, with `fail_open`, whoever is in service.
    let grade = |index: usize| {
        let server = &pool.servers[index];
        let (ledger, backup) = (&server.ledger, usize::from(server.backup));
        let out = server.weight == 0
            || ledger.standing() != Standing::Ready
            || tried.servers[..usize::from(tried.count)].contains(&u16::try_from(index).expect("few"));
        match (ledger.health(), ledger.is_ejected()) {
            _ if out => None,
            (Health::Unchecked | Health::Up, false) => Some(2 * backup),
            (Health::Checking, false) => Some(2 * backup + 1),
            (Health::Unchecked | Health::Up | Health::Checking, true) => Some(4 + backup),
            (Health::Down, _) => pool.care.fail_open.then_some(6 + backup),
        }
    };
    let all = || (0..pool.servers.len()).filter_map(|index| Some((grade(index)?, index)));
    let best = all().map(|(grade, _)| grade).min();
    let group: Vec<usize> = all().filter(|(grade, _)| Some(*grade) == best).map(|(_, index)| index).collect();
    match ask_as(pool, tried, n) {
        Pick::Server(server) => {
            let server = usize::from(server);
            prop_assert!(group.contains(&server) && !full(&server));
            prop_assert_eq!(active(pool)[server], before[server] + 1);
        }
        Pick::Full => prop_assert!(!group.is_empty() && group.iter().all(full)),
        Pick::None => prop_assert!(group.is_empty()),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_policy_honours_weight_0_limits_backups_standings_and_what_was_tried(
        policy in prop::sample::select(Policy::ALL.to_vec()),
        mut servers in prop::collection::vec((0_u16..4, 0_u32..4, any::<bool>()), 1..7),
        out in prop::collection::vec(any::<bool>(), 7),
        tried in prop::collection::vec(0_u16..7, 0..3),
        health in prop::collection::vec((0_u8..4, any::<bool>()), 7),
        fail_open in any::<bool>(),
        first in any::<u16>(),
    ) {
        servers[0] = (1, servers[0].1, false);
        let pool = written(policy, &servers, 0, &format!("fail_open = {fail_open}"));
        let healths = [Health::Unchecked, Health::Up, Health::Checking, Health::Down];
        for (server, (health, ejected)) in pool.servers.iter().zip(health) {
            server.ledger.set_health(healths[usize::from(health)]);
            server.ledger.set_ejected(ejected && health % 2 == 0);
        }
        for (server, _) in pool.servers.iter().zip(&out).filter(|(_, out)| **out) {
            server.ledger.set_standing(Standing::Maint);
        }
        let mut list = Tried::default();
        tried.iter().for_each(|&server| list.add(server));
        for n in 0..20 {
            let tried = if n % 3 == 0 { list } else { Tried::default() };
            is_right(&pool, &tried, u32::from(first) + n)?;
        }
    }

    #[test]
    fn two_nodes_agree_though_their_files_have_another_order(
        policy in prop::sample::select(vec![Policy::SourceHash, Policy::Maglev]),
        mut servers in prop::collection::vec((0_u16..5, Just(0), any::<bool>()), 1..9),
        turn in any::<prop::sample::Index>(),
        out in any::<prop::sample::Index>(),
    ) {
        servers[0] = (1, 0, false);
        let (here, there) = (of(policy, &servers), ordered(policy, &servers, turn.index(servers.len())));
        for round in 0..2 {
            for n in 0..200 {
                let [here, there] = [&here, &there].map(|pool| match ask_as(pool, &Tried::default(), n) {
                    Pick::Server(server) => Some(&pool.servers[usize::from(server)].name),
                    Pick::Full | Pick::None => None,
                });
                prop_assert_eq!(here, there);
            }
            let gone = format!("s{}", if round == 0 { 0 } else { out.index(servers.len()) });
            for server in here.servers.iter().chain(&there.servers).filter(|server| *server.name == *gone) {
                server.ledger.set_standing(Standing::Drain);
            }
        }
    }
}

/// How many of 1000 sessions, none of which stays, each server gets.
fn shares_of(pool: &Pool, sessions: u32) -> Vec<u32> {
    let mut shares = vec![0; pool.servers.len()];
    (0..sessions).for_each(|n| shares[server_of(pool, n)] += 1);
    shares
}

/// Lets a server ramp, so far.
fn ramp(server: &Server, permille: u32) {
    server.ledger.set_slow_start(1_000);
    server.ledger.ramp();
    server.ledger.ramp_by(permille);
}

#[test]
fn a_server_that_ramps_gets_its_share() {
    // `first` knows no weights, and shares nothing out.
    for policy in [Policy::RoundRobin, Policy::RandomTwo, Policy::SourceHash, Policy::Maglev] {
        for permille in [1, 250, 500, 999] {
            let pool = of(policy, &[(1, 0, false), (1, 0, false), (2, 0, false)]);
            ramp(&pool.servers[0], permille);
            let share = f64::from(permille) / 1_000.0;
            // Of its clients it gets back that share, and of sessions its share beside the weights of the others.
            let fair = if policy == Policy::Maglev { 5_000.0 * share } else { 20_000.0 * share / (share + 3.0) };
            let got = shares_of(&pool, 20_000);
            // Two draws in a row for one session make of a third less than a third.
            let exact = if policy == Policy::RandomTwo { 0.25 } else { 0.12 };
            let near = (f64::from(got[0]) - fair).abs() <= fair * exact + 40.0;
            assert!(near, "{policy:?} at {permille}: {got:?}, fair is {fair}");
            assert_eq!(got.iter().sum::<u32>(), 20_000);
        }
    }
}

#[test]
fn sessions_that_stay_are_shared_as_the_ramp_says() {
    let pool = of(Policy::LeastConnections, &[(1, 0, false), (1, 0, false)]);
    ramp(&pool.servers[0], 250);
    for n in 0..1_000 {
        assert!(matches!(ask_as(&pool, &Tried::default(), n), Pick::Server(_)));
    }
    let active = |server: usize| pool.servers[server].ledger.active.load(Ordering::Relaxed);
    assert_eq!((active(0), active(1)), (200, 800));
}

#[test]
fn a_client_whose_server_ramps_moves_there_once() {
    for policy in [Policy::SourceHash, Policy::Maglev] {
        let pool = of(policy, &[(1, 0, false), (1, 0, false), (1, 0, false)]);
        let warm: Vec<usize> = (0..3_000).map(|n| server_of(&pool, n)).collect();
        let mut home = vec![false; warm.len()];
        for permille in [1, 100, 300, 600, 900, 1_000] {
            ramp(&pool.servers[1], permille);
            for (n, is_home) in (0..).zip(&mut home) {
                let now = server_of(&pool, n);
                let before = std::mem::replace(is_home, now == warm[n as usize]);
                assert!(!before || *is_home, "{policy:?}: client {n} leaves its server at {permille}");
                assert!(warm[n as usize] == 1 || *is_home, "{policy:?}: client {n} has nothing to do with the ramp");
            }
        }
        assert!(home.iter().all(|is_home| *is_home), "{policy:?}");
    }
}

#[test]
fn a_ramp_narrows_places_and_fails_nobody() {
    for policy in Policy::ALL {
        let pool = of(policy, &[(1, 8, false), (1, 8, false)]);
        ramp(&pool.servers[0], 250);
        let active = |server: usize| pool.servers[server].ledger.active.load(Ordering::Relaxed);
        for n in 0..10 {
            assert!(matches!(ask_as(&pool, &Tried::default(), n), Pick::Server(_)), "{policy:?}");
        }
        assert_eq!((active(0), active(1)), (2, 8), "{policy:?}: a quarter of its places, as long as there are others");
        for n in 10..16 {
            assert_eq!(ask_as(&pool, &Tried::default(), n), Pick::Server(0), "{policy:?}: nobody else has room");
        }
        assert_eq!(ask(&pool, &Tried::default()), Pick::Full, "{policy:?}");
    }
}

#[test]
fn who_can_wait_waits_for_a_server_that_ramps() {
    let text = "[listeners.l]\nbind = '127.0.0.1:1'\npool = 'p'\n[pools.p]\nqueue = { limit = 5 }\nservers = \
                [{ name = 'a', address = '127.0.0.1:2', max_connections = 8 }]\n";
    let draft = crate::config::parse("test", text, &|_| None).expect("a right configuration");
    let pool = Arc::clone(&draft.compile(&mut Registry::new(1), None).pools[0]);
    ramp(&pool.servers[0], 1);
    let nobody = Tried::default();
    assert_eq!((ask(&pool, &nobody), ask(&pool, &nobody)), (Pick::Server(0), Pick::Full), "one place at least");
    assert!(!has_room(&pool, &nobody, None, 0));
    pool.servers[0].ledger.ramp_by(500);
    assert!(has_room(&pool, &nobody, None, 0));
    let more = (0..10).filter(|_| ask(&pool, &nobody) == Pick::Server(0)).count();
    assert_eq!(more, 4, "half of its places and one permille, rounded up, less the one that is taken");
}

#[test]
fn connects_come_as_fast_as_their_rate_allows() {
    let text = |queue: &str| {
        format!(
            "[listeners.l]\nbind = '127.0.0.1:1'\npool = 'p'\n[pools.p]\n{queue}servers = [\n\
             {{ name = 'a', address = '127.0.0.1:2', connect_rate = '10/s', connect_burst = 2 }},\n\
             {{ name = 'b', address = '127.0.0.1:3', connect_rate = '10/s', connect_burst = 1, max_connections = 3 }},\n]\n"
        )
    };
    const TENTH_NS: u64 = 100_000_000;
    for policy in Policy::ALL {
        let text = text(&format!("policy = '{}'\n", policy.name()));
        let draft = crate::config::parse("test", &text, &|_| None).unwrap_or_else(|complaints| panic!("{complaints}"));
        let pool = Arc::clone(&draft.compile(&mut Registry::new(1), None).pools[0]);
        let nobody = Tried::default();
        let start = 50 * TENTH_NS;
        let ask = |now_ns, n: u32| {
            let address = Some(IpAddr::from(Ipv4Addr::from(n)));
            pick(&pool, &Caller { tried: &nobody, address, random: mix(n.into()), now_ns, wish: None })
        };
        let taken = |now_ns| (0..20).filter(|n| matches!(ask(now_ns, *n), Pick::Server(_))).count();
        assert_eq!(taken(start), 3, "{policy:?}: a burst of two, and of one");
        assert!(!has_room(&pool, &nobody, None, start), "{policy:?}");
        assert_eq!(next_ns(&pool, &nobody, None, start), Some(start + TENTH_NS), "{policy:?}");
        assert_eq!(taken(start + TENTH_NS / 2), 0, "{policy:?}");
        assert!(has_room(&pool, &nobody, None, start + TENTH_NS), "{policy:?}");
        assert_eq!(taken(start + TENTH_NS), 2, "{policy:?}");
        assert_eq!(taken(start + 9 * TENTH_NS), 3, "{policy:?}");
        // Of two limits both hold; time alone brings no place on a server that is full.
        assert_eq!(taken(start + 99 * TENTH_NS), 2, "{policy:?}");
        assert_eq!(next_ns(&pool, &nobody, None, start + 99 * TENTH_NS), Some(start + 100 * TENTH_NS), "{policy:?}");
        let active = |server: usize| pool.servers[server].ledger.active.load(Ordering::Relaxed);
        assert_eq!((active(0), active(1)), (7, 3), "{policy:?}");
    }
}
