//! What the brain decides: conversations, and properties of all of them.

use proptest::prelude::*;

use super::*;

const RULES: Rules = Rules { fall: 3, lag_soft_s: 2, lag_max_s: Some(10), on_split: OnSplit::KeepLast };

fn writer() -> Report {
    Report { writable: true, replication: Replication::None, version: String::new() }
}

fn read_only() -> Report {
    Report { writable: false, ..writer() }
}

fn replica(connected: bool, applying: bool, lag_s: Option<u32>) -> Report {
    Report { replication: Replication::From { connected, applying, lag_s }, ..read_only() }
}

fn well() -> Report {
    replica(true, true, Some(0))
}

/// A brain of three: 0 is the primary, 1 and 2 replicas.
fn three(rules: Rules) -> Brain {
    let mut brain = Brain::new(rules, 3);
    brain.hear(1, well());
    brain.hear(2, well());
    assert_eq!(brain.primary(), None);
    assert_eq!(
        brain.hear(0, writer()),
        [News::Primary { from: None, to: Some(0) }],
        "the last of them to be heard decides"
    );
    brain
}

#[test]
fn a_start_waits_until_everybody_was_asked() {
    let mut brain = Brain::new(RULES, 3);
    brain.reconsider();
    assert_eq!(brain.hear(0, writer()), [], "nothing is wrong with it");
    brain.hear(1, well());
    assert_eq!(brain.primary(), None, "2 might take writes as well");
    assert_eq!(brain.role(0), Role::None(Why::Unheard));
    assert_eq!(brain.role(2), Role::None(Why::Unheard));
    brain.miss(2, false);
    assert_eq!(brain.primary(), Some(0), "one that does not answer holds nobody up");
    assert_eq!(brain.role(1), Role::Replica { share: WHOLE });
}

#[test]
fn two_writers_at_a_start_are_none() {
    for on_split in [OnSplit::KeepLast, OnSplit::Deny] {
        let mut brain = Brain::new(Rules { on_split, ..RULES }, 2);
        brain.hear(0, writer());
        brain.hear(1, writer());
        assert_eq!(brain.primary(), None);
        let news = brain.hear(0, writer());
        assert_eq!(news, [News::SplitBegan(vec![0, 1])]);
        let news = brain.hear(1, well());
        assert!(
            news.contains(&News::Primary { from: None, to: Some(0) }) && news.contains(&News::SplitEnded),
            "{news:?}"
        );
    }
}

#[test]
fn a_dead_primary_stays_until_another_takes_writes() {
    let mut brain = three(RULES);
    for _ in 0..10 {
        assert!(brain.miss(0, false).is_empty());
    }
    assert_eq!(brain.role(0), Role::Primary);
    let promoted = brain.hear(1, writer());
    assert_eq!(promoted[0], News::Primary { from: Some(0), to: Some(1) });
    // It comes back and knows nothing of all that.
    brain.hear(0, writer());
    assert_eq!((brain.role(0), brain.role(1)), (Role::None(Why::Split), Role::Primary));
    assert_eq!(brain.hear(1, writer()), [News::SplitBegan(vec![0, 1])]);
    brain.hear(0, read_only());
    assert_eq!((brain.is_split(), brain.role(0)), (false, Role::None(Why::Detached)));
    // And nothing brings it back by force.
    brain.hear(0, well());
    assert_eq!((brain.primary(), brain.role(0)), (Some(1), Role::Replica { share: WHOLE }));
}

#[test]
fn a_primary_that_misses_fewer_than_fall_keeps_its_place() {
    let mut brain = three(RULES);
    brain.miss(0, false);
    brain.miss(0, false);
    brain.hear(1, writer());
    assert_eq!((brain.primary(), brain.is_split()), (Some(0), false), "it may take writes still; nobody knows");
    brain.miss(0, false);
    assert_eq!(brain.primary(), Some(1));
}

#[test]
fn a_switch_over_happens_at_once_and_alarms_nobody() {
    // The old one is heard first…
    let mut brain = three(RULES);
    assert_eq!(brain.hear(0, read_only())[0], News::Primary { from: Some(0), to: None });
    assert_eq!(brain.hear(1, writer())[0], News::Primary { from: None, to: Some(1) });
    // …or the new one.
    for on_split in [OnSplit::KeepLast, OnSplit::Deny] {
        let mut brain = three(Rules { on_split, ..RULES });
        brain.hear(1, writer());
        assert!(!brain.is_split());
        assert_eq!(brain.doubtful(), [0], "asked at once");
        brain.hear(0, read_only());
        assert_eq!((brain.primary(), brain.is_split()), (Some(1), false), "{on_split:?}");
    }
}

#[test]
fn a_split_is_denied_if_so_configured() {
    let mut brain = three(Rules { on_split: OnSplit::Deny, ..RULES });
    brain.hear(1, writer());
    assert_eq!((brain.role(0), brain.role(1)), (Role::None(Why::Split), Role::None(Why::Split)));
    brain.hear(0, writer());
    assert!(brain.is_split());
    brain.hear(0, well());
    assert_eq!((brain.primary(), brain.is_split()), (Some(1), false));
}

#[test]
fn replicas_lose_their_share_as_they_fall_behind() {
    let mut brain = three(RULES);
    let mut share = |lag_s| {
        brain.hear(1, replica(true, true, Some(lag_s)));
        brain.role(1)
    };
    assert_eq!(share(2), Role::Replica { share: 1000 });
    assert_eq!(share(3), Role::Replica { share: 875 });
    assert_eq!(share(6), Role::Replica { share: 500 });
    assert_eq!(share(9), Role::Replica { share: 125 });
    assert_eq!(share(10), Role::None(Why::Behind));
    assert_eq!(share(u32::MAX), Role::None(Why::Behind));
    let mut brain = three(Rules { lag_max_s: None, ..RULES });
    brain.hear(1, replica(true, true, Some(100_000)));
    assert_eq!(brain.role(1), Role::Replica { share: WHOLE });
}

#[test]
fn broken_replicas_are_none() {
    for broken in [replica(true, false, Some(0)), replica(true, true, None), replica(false, false, None)] {
        let mut brain = three(RULES);
        let news = brain.hear(1, broken);
        assert_eq!(news, [News::Role { server: 1, role: Role::None(Why::Broken) }]);
        assert_eq!(brain.role(2), Role::Replica { share: WHOLE });
    }
    let mut brain = three(RULES);
    brain.hear(1, Report { replication: Replication::Hidden, ..read_only() });
    brain.hear(2, read_only());
    assert_eq!((brain.role(1), brain.role(2)), (Role::None(Why::Hidden), Role::None(Why::Detached)));
    for _ in 0..3 {
        brain.miss(1, false);
    }
    assert_eq!(brain.role(1), Role::None(Why::Silent));
}

#[test]
fn a_replica_is_not_to_blame_for_its_dead_source() {
    let cut_off = replica(false, true, None);
    let mut brain = three(RULES);
    assert!(brain.hear(1, cut_off.clone()).is_empty(), "is it the source, or the replica?");
    brain.miss(0, false);
    brain.hear(1, cut_off.clone());
    brain.miss(0, false);
    assert_eq!(brain.role(1), Role::Replica { share: WHOLE }, "the source");
    let mut brain = three(RULES);
    brain.hear(1, cut_off);
    brain.hear(0, writer());
    assert_eq!(brain.role(1), Role::None(Why::Broken), "the replica");
}

#[test]
fn a_new_primary_is_no_reason_to_blame_a_replica_unheard() {
    let cut_off = replica(false, true, None);
    let crash = || {
        let mut brain = three(RULES);
        brain.hear(2, cut_off.clone());
        for _ in 0..RULES.fall {
            brain.miss(0, false);
        }
        let news = brain.hear(1, writer());
        let told = [News::Primary { from: Some(0), to: Some(1) }, News::Role { server: 1, role: Role::Primary }];
        assert_eq!(news, told, "what 2 said was said of the old one");
        assert!(brain.hear(1, writer()).is_empty());
        brain
    };
    let mut brain = crash();
    assert!(brain.hear(2, well()).is_empty(), "it was pointed to the new one meanwhile");
    let mut brain = crash();
    brain.hear(2, cut_off.clone());
    assert_eq!(brain.role(2), Role::None(Why::Broken), "it was not");
    // Another plan changes nothing of that.
    let mut brain = crash().follow(RULES, &[Some(0), Some(1), Some(2)]);
    assert!(brain.reconsider().is_empty());
    assert!(brain.hear(2, well()).is_empty());
}

#[test]
fn a_brain_is_remembered_by_the_plan_that_follows() {
    let brain = three(RULES);
    // A new server in front, the second gone, the others in another order.
    let next = brain.follow(Rules { fall: 5, ..RULES }, &[None, Some(2), Some(0)]);
    assert_eq!(next.primary(), Some(2));
    assert_eq!(next.role(0), Role::None(Why::Unheard));
    assert_eq!(next.role(1), Role::Replica { share: WHOLE });
    let without = brain.follow(RULES, &[Some(1), Some(2)]);
    assert_eq!(without.primary(), None, "its primary is gone");
}

fn heard() -> impl Strategy<Value = Option<Report>> {
    prop_oneof![
        3 => Just(Some(writer())),
        2 => Just(Some(read_only())),
        3 => (any::<bool>(), any::<bool>(), proptest::option::of(0..15_u32)).prop_map(|(c, a, l)| Some(replica(c, a, l))),
        4 => Just(None),
    ]
}

proptest! {
    /// Whatever is heard, in any order.
    #[test]
    fn never_two_primaries_and_never_a_wrong_one(
        on_split in prop_oneof![Just(OnSplit::KeepLast), Just(OnSplit::Deny)],
        fall in 1..4_u32,
        inputs in proptest::collection::vec((0..4_usize, heard()), 1..120),
    ) {
        let rules = Rules { fall, on_split, ..RULES };
        let mut brain = Brain::new(rules, 4);
        // The same again, without any cleverness: the last word of each, and how often it was silent since.
        let mut words: Vec<(Option<bool>, u32)> = vec![(None, 0); 4];
        let mut told: Option<usize> = None;
        for (server, input) in inputs {
            let before = brain.primary();
            let news = match input {
                Some(report) => {
                    words[server] = (Some(report.writable), 0);
                    brain.hear(server, report)
                }
                None => {
                    words[server].1 += 1;
                    brain.miss(server, false)
                }
            };
            let primaries: Vec<usize> = (0..4).filter(|&s| brain.role(s) == Role::Primary).collect();
            prop_assert_eq!(&primaries, &Vec::from_iter(brain.primary()), "one at most, and the one it says");
            for piece in &news {
                if let News::Primary { from, to } = piece {
                    prop_assert_eq!(*from, told, "every change is told");
                    told = *to;
                }
            }
            prop_assert_eq!(told, brain.primary());
            let might_write = |s: usize| words[s].0 == Some(true) && words[s].1 < fall;
            if let Some(primary) = brain.primary() {
                prop_assert_eq!(words[primary].0, Some(true), "its last word was that it takes writes");
                let others = (0..4).filter(|&s| s != primary && might_write(s)).count();
                if on_split == OnSplit::Deny {
                    prop_assert_eq!(others, 0, "denied");
                }
                if before.is_some_and(|before| before != primary) {
                    prop_assert!(!might_write(before.unwrap_or(0)), "the old one had lost it, or was silent long enough");
                }
                if before != Some(primary) {
                    prop_assert_eq!(words[primary].1, 0, "a new one has just shown that it takes writes");
                }
            }
            if brain.is_split() {
                prop_assert!((0..4).filter(|&s| might_write(s)).count() > 1);
            }
        }
    }

    #[test]
    fn more_lag_is_never_a_larger_share(soft in 0..50_u32, most in 1..50_u32, lag in 0..60_u32) {
        let rules = Rules { lag_soft_s: soft.min(most), lag_max_s: Some(most), ..RULES };
        let share = |lag_s| {
            let mut brain = Brain::new(rules, 1);
            brain.hear(0, replica(true, true, Some(lag_s)));
            match brain.role(0) {
                Role::Replica { share } => share,
                _ => 0,
            }
        };
        prop_assert!(share(lag + 1) <= share(lag));
        prop_assert!(share(lag) <= WHOLE);
    }
}

#[test]
fn a_check_that_is_not_let_in_takes_no_role_away() {
    let mut brain = three(RULES);
    for _ in 0..10 {
        brain.miss(0, true);
        brain.miss(1, true);
    }
    assert_eq!((brain.role(0), brain.role(1)), (Role::Primary, Role::Replica { share: WHOLE }));
    brain.hear(2, writer());
    assert_eq!(brain.primary(), Some(2), "but nobody waits for it either");
}

#[test]
fn who_is_only_behind_keeps_its_reads_and_nothing_else() {
    let replica = Role::Replica { share: WHOLE };
    let (behind, broken, silent) = (Role::None(Why::Behind), Role::None(Why::Broken), Role::None(Why::Silent));
    for (before, now, go) in [
        (replica, Role::Replica { share: 1 }, false),
        (replica, behind, false),
        (behind, replica, false),
        (behind, broken, true),
        (behind, silent, true),
        (behind, Role::Primary, true),
        (replica, Role::Primary, true),
        (Role::Primary, Role::Primary, false),
        (Role::Primary, replica, true),
        (Role::Primary, behind, true),
        (Role::Primary, silent, true),
        (broken, silent, false),
        (broken, behind, false),
    ] {
        assert_eq!(now.sends_away(before), go, "{before:?} → {now:?}");
    }
}
