//! Conversations of a probe with a server that is played, and with bytes of no server at all.

use proptest::prelude::*;

use super::super::packet;
use super::super::testing::hex;
use super::super::{Password, ServerError};
use super::*;
use crate::health::mysql::report::Replication;
use crate::health::tls::Trust;

/// Greeting and what followed, recorded from MySQL 8.4.8; the account `sha` of the recording is known to the server.
const GREETING: &str = "0a382e342e382d307562756e7475310010000000 2c4008584c39280f00ffffff0200ffdf1500000000000000000000\
    77663d0f107862071a285f66 0063616368696e675f736861325f70617373776f726400";
const OK: &str = "00000002000000";

fn login() -> Arc<Login> {
    let password = Password::new("secret".to_owned()).expect("no NUL");
    Arc::new(Login { user: "sha".to_owned(), password })
}

fn probe() -> Probe {
    Probe::new(login(), Security::Off)
}

fn orders(probe: &mut Probe) -> Vec<Order> {
    std::iter::from_fn(|| probe.order()).collect()
}

/// What was sent on a socket, without the packets' heads; `None` for a close.
fn said(probe: &mut Probe, id: SocketId) -> Vec<Option<Vec<u8>>> {
    let mut said = Vec::new();
    for order in orders(probe) {
        match order {
            Order::Send(to, bytes) if to == id => {
                let mut rest = bytes.as_slice();
                while let [a, b, c, _, tail @ ..] = rest {
                    let (payload, next) = tail.split_at(u32::from_le_bytes([*a, *b, *c, 0]) as usize);
                    said.push(Some(payload.to_vec()));
                    rest = next;
                }
            }
            Order::Close(of) if of == id => said.push(None),
            other => panic!("{other:?}"),
        }
    }
    said
}

fn packets(first: u8, payloads: &[&str]) -> Vec<u8> {
    let mut wire = Vec::new();
    for (number, payload) in (first..).zip(payloads) {
        packet::put(&mut wire, number, &hex(payload));
    }
    wire
}

/// A table of one row, whose end has this status.
fn table(status: &str, columns: &[&str], values: &[&str]) -> Vec<Vec<u8>> {
    let string = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    let mut payloads = vec![vec![u8::try_from(columns.len()).expect("few")]];
    payloads.extend(columns.iter().map(|name| [string("def"), vec![0, 0, 0], string(name), vec![0; 14]].concat()));
    payloads.push(hex("fe00000200"));
    payloads.push(values.iter().flat_map(|value| string(value)).collect());
    payloads.push(hex(&format!("fe0000{status}")));
    payloads
}

/// What an answer is followed by.
const MORE: &str = "0a00";
const NO_MORE: &str = "0200";

fn read_only(status: &str, values: [&str; 3]) -> Vec<Vec<u8>> {
    table(status, &["r", "i", "s"], &values)
}

/// No replication.
fn nothing() -> Vec<Vec<u8>> {
    ["01", "0364656600000001610c3f000100000008000000", "fe00000200", "fe00000200"].map(hex).to_vec()
}

/// As it is on the wire.
fn wire(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut wire = Vec::new();
    for (number, payload) in (1..).zip(payloads) {
        packet::put(&mut wire, number, payload);
    }
    wire
}

/// Both answers of a server that replicates from nobody.
fn both(values: [&str; 3]) -> Vec<u8> {
    wire(&[read_only(MORE, values), nothing()].concat())
}

fn opened(probe: &mut Probe) -> SocketId {
    match orders(probe).as_slice() {
        [Order::Open(id)] => *id,
        other => panic!("{other:?}"),
    }
}

/// A probe that has answered a server's greeting.
fn greeted() -> (Probe, SocketId) {
    let mut probe = probe();
    probe.begin(0);
    let id = opened(&mut probe);
    probe.connected(id);
    probe.received(id, &packets(0, &[GREETING]), 0);
    orders(&mut probe);
    (probe, id)
}

/// A whole first round with a writable server.
fn log_in(probe: &mut Probe, now: u64) -> SocketId {
    probe.begin(now);
    let id = opened(probe);
    shake_hands(probe, id, now);
    answer_round(probe, id, now);
    id
}

fn shake_hands(probe: &mut Probe, id: SocketId, now: u64) {
    probe.connected(id);
    probe.received(id, &packets(0, &[GREETING]), now);
    let response = said(probe, id);
    let [Some(response)] = response.as_slice() else { panic!("{response:?}") };
    let proof = hex("5743d2f27b22f250d8277388767ac90a6f4d38be3bb1d985ad4ae1e45063171e");
    let expected = [b"sha\0\x20".as_slice(), &proof, b"caching_sha2_password\0"].concat();
    assert_eq!(response[32..32 + expected.len()], expected, "as the client of the recording said it");
    probe.received(id, &packets(2, &["0103", OK]), now);
}

/// Answers the questions of a round; the outcome is for the caller.
fn answer_round(probe: &mut Probe, id: SocketId, now: u64) {
    assert_eq!(said(probe, id), question(&format!("{VARIABLES}; SHOW REPLICA STATUS")));
    let answers = both(["0", "0", "0"]);
    let (first, second) = answers.split_at(answers.len() / 2);
    probe.received(id, first, now);
    assert_eq!(said(probe, id), [], "it waits for the other answer");
    probe.received(id, second, now);
}

const VARIABLES: &str = "SELECT @@global.read_only, @@global.innodb_read_only, @@global.super_read_only";

fn question(text: &str) -> Vec<Option<Vec<u8>>> {
    vec![Some([&[3], text.as_bytes()].concat())]
}

#[test]
fn a_server_that_answers_only_one_of_two_is_asked_for_the_other() {
    let mut probe = probe();
    let id = log_in(&mut probe, 0);
    probe.outcome();
    probe.begin(1_000);
    said(&mut probe, id);
    probe.received(id, &wire(&read_only(NO_MORE, ["0", "0", "0"])), 1_000);
    assert_eq!(said(&mut probe, id), question("SHOW REPLICA STATUS"));
    probe.received(id, &wire(&nothing()), 1_000);
    assert_eq!(probe.outcome(), good());

    // One that takes a question at a time is asked so from then on.
    probe.begin(2_000);
    said(&mut probe, id);
    probe.received(id, &packets(1, &["ff28042334323030306e6f"]), 2_000);
    for now in [2_000, 3_000] {
        assert_eq!(said(&mut probe, id), question(VARIABLES));
        probe.received(id, &wire(&read_only(NO_MORE, ["0", "0", "0"])), now);
        assert_eq!(said(&mut probe, id), question("SHOW REPLICA STATUS"));
        probe.received(id, &wire(&nothing()), now);
        assert_eq!(probe.outcome(), good());
        probe.begin(3_000);
    }
}

#[test]
fn a_third_answer_to_two_questions_is_none() {
    let mut probe = probe();
    let id = log_in(&mut probe, 0);
    probe.outcome();
    probe.begin(1_000);
    said(&mut probe, id);
    let replica = table(MORE, &["a"], &["b"]);
    probe.received(
        id,
        &wire(&[read_only(MORE, ["0", "0", "0"]), nothing()[..3].to_vec(), replica[4..].to_vec()].concat()),
        1_000,
    );
    assert_eq!(said(&mut probe, id), [None], "given up");
}

fn writable() -> Report {
    Report { writable: true, replication: Replication::None, version: "8.4.8-0ubuntu1".to_owned() }
}

fn good() -> Option<Outcome> {
    Some(Outcome { report: Some(writable()), fault: None })
}

#[test]
fn a_connection_is_kept_and_a_fresh_one_made_every_ten_seconds() {
    let mut probe = probe();
    let first = log_in(&mut probe, 0);
    assert_eq!(probe.outcome(), good());
    assert_eq!(probe.outcome(), None, "told once");
    for now in [1_000, 2_000, 9_999] {
        probe.begin(now);
        answer_round(&mut probe, first, now);
        assert_eq!(probe.outcome(), good());
        assert_eq!(orders(&mut probe), [], "no other connection");
    }
    probe.begin(10_000);
    let all = orders(&mut probe);
    let [Order::Send(_, _), Order::Open(second)] = all.as_slice() else { panic!("{all:?}") };
    let second = *second;
    probe.received(first, &both(["0", "0", "0"]), 10_001);
    assert_eq!(probe.outcome(), None, "the fresh one belongs to this round");
    shake_hands(&mut probe, second, 10_002);
    assert_eq!(probe.outcome(), good());
    assert_eq!(said(&mut probe, first), [Some(vec![1]), None], "the old one says farewell (COM_QUIT)");
    probe.begin(11_000);
    answer_round(&mut probe, second, 11_000);
    assert_eq!(probe.outcome(), good());
    probe.leave();
    assert_eq!(said(&mut probe, second), [Some(vec![1]), None]);
    assert!(!probe.has_sockets());
}

#[test]
fn a_full_server_still_tells_its_role() {
    let mut probe = probe();
    let first = log_in(&mut probe, 0);
    probe.outcome();
    probe.begin(10_000);
    let all = orders(&mut probe);
    let [Order::Send(_, _), Order::Open(second)] = all.as_slice() else { panic!("{all:?}") };
    let second = *second;
    probe.connected(second);
    // Recorded from MySQL 8.4.8 at its max_connections.
    probe.received(second, &packets(0, &["ff1004546f6f206d616e7920636f6e6e656374696f6e73"]), 10_001);
    assert_eq!(said(&mut probe, second), [None]);
    assert_eq!(probe.outcome(), None, "the kept one is asked");
    probe.received(first, &both(["1", "0", "0"]), 10_002);
    let outcome = probe.outcome().expect("an outcome");
    assert!(!outcome.report.expect("a report").writable);
    let full = ServerError { code: 1040, message: "Too many connections".to_owned() };
    assert_eq!(outcome.fault, Some(Fault::Refused(full)));
    probe.begin(11_000);
    let again = orders(&mut probe);
    assert!(matches!(again.as_slice(), [Order::Send(..), Order::Open(_)]), "tried again at once: {again:?}");
}

#[test]
fn a_connection_the_server_has_ended_is_replaced_within_the_round() {
    let mut probe = probe();
    let first = log_in(&mut probe, 0);
    probe.outcome();
    // Between two rounds: wait_timeout.
    probe.ended(first, 500);
    assert_eq!(said(&mut probe, first), [None]);
    assert_eq!(probe.outcome(), None);
    probe.begin(1_000);
    let second = opened(&mut probe);
    shake_hands(&mut probe, second, 1_001);
    answer_round(&mut probe, second, 1_002);
    assert_eq!(probe.outcome(), good());
    // In the middle of one: a restart.
    probe.begin(2_000);
    orders(&mut probe);
    probe.ended(second, 2_001);
    let all = orders(&mut probe);
    let [Order::Close(_), Order::Open(third)] = all.as_slice() else { panic!("{all:?}") };
    let third = *third;
    probe.failed(third, "refused".to_owned(), 2_002);
    assert_eq!(probe.outcome(), Some(Outcome { report: None, fault: Some(Fault::Connect("refused".to_owned())) }));
}

/// T37: a handshake is ended, even when its time is over.
#[test]
fn a_handshake_goes_on_after_the_time_of_its_round() {
    let mut probe = probe();
    probe.begin(0);
    let id = opened(&mut probe);
    probe.connected(id);
    probe.late();
    let late = probe.outcome().expect("an outcome");
    assert_eq!(late, Outcome { report: None, fault: Some(Fault::Late("it does not greet")) });
    assert_eq!(orders(&mut probe), [], "not closed");
    probe.begin(1_000);
    assert_eq!(orders(&mut probe), [], "nor another begun");
    shake_hands(&mut probe, id, 1_500);
    answer_round(&mut probe, id, 1_500);
    assert_eq!(probe.outcome(), good());

    let mut probe = super::tests::probe();
    probe.begin(0);
    let id = opened(&mut probe);
    probe.connected(id);
    probe.late();
    probe.leave();
    assert!(probe.is_shaking_hands() && orders(&mut probe).is_empty(), "who leaves waits, too");
    probe.begin(HANDSHAKE_MS_MAX);
    let all = orders(&mut probe);
    assert!(matches!(all.as_slice(), [Order::Close(old), Order::Open(_)] if *old == id), "{all:?}");
}

#[test]
fn an_account_of_another_plugin_ends_the_handshake_without_a_password() {
    let (mut probe, id) = greeted();
    probe.received(id, &switch("dialog", 32), 0);
    assert_eq!(said(&mut probe, id), [Some(Vec::new())]);
    assert_eq!(probe.outcome(), None);
    probe.received(id, &packets(4, &["ff150423323830303041636365737320"]), 0);
    let outcome = probe.outcome().expect("an outcome");
    assert_eq!(outcome.fault, Some(Fault::Plugin("dialog".to_owned())));
    assert_eq!(said(&mut probe, id), [None]);
}

/// A switch to a plugin, with a challenge of so many bytes.
fn switch(plugin: &str, length: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    packet::put(&mut wire, 2, &[b"\xfe", plugin.as_bytes(), b"\0", &vec![7; length]].concat());
    wire
}

#[test]
fn an_account_of_ed25519_signs() {
    let (mut probe, id) = greeted();
    probe.received(id, &switch("client_ed25519", 32), 0);
    let answer = said(&mut probe, id);
    assert!(matches!(answer.as_slice(), [Some(signature)] if signature.len() == 64), "{answer:?}");
    probe.received(id, &packets(4, &[OK]), 0);
    answer_round(&mut probe, id, 0);
    assert_eq!(probe.outcome(), good());

    let (mut probe, id) = greeted();
    probe.received(id, &switch("client_ed25519", 20), 0);
    let outcome = probe.outcome().expect("an outcome");
    assert_eq!(outcome.fault, Some(Fault::Malformed("the challenge of a plugin")));
}

/// The example of "Protocol::AuthSwitchRequest", with an account of `mysql_native_password`.
#[test]
fn a_switch_of_plugins() {
    let (mut probe, id) = greeted();
    let switch = "fe6d7973716c5f6e61746976655f70617373776f7264007a51673469 6f4e79363d72484e2f3e2d62294100";
    probe.received(id, &packets(2, &[switch]), 0);
    let answer = said(&mut probe, id);
    assert!(matches!(answer.as_slice(), [Some(proof)] if proof.len() == 20), "{answer:?}");
    probe.received(id, &packets(4, &[OK]), 0);
    answer_round(&mut probe, id, 0);
    assert_eq!(probe.outcome(), good());
}

#[test]
fn a_server_without_tls_is_told_no_secret() {
    let security = Security::tls(Trust::Anybody, None).expect("TLS with anybody");
    let mut probe = Probe::new(login(), security);
    probe.begin(0);
    let id = opened(&mut probe);
    probe.connected(id);
    let without = GREETING.replace("00ffffff0200ffdf", "00fff7ff0200ffdf");
    probe.received(id, &packets(0, &[&without]), 0);
    let response = said(&mut probe, id);
    let [Some(response)] = response.as_slice() else { panic!("{response:?}") };
    assert_eq!(response[32..34], [0, 0], "no user, no answer");
    // Nobody of that name is known, and asked like somebody who is.
    probe.received(id, &switch("client_ed25519", 32), 0);
    assert_eq!(said(&mut probe, id), [Some(vec![0; 64])], "no signature, but as long as one");
    probe.received(id, &packets(4, &["ff150423323830303041636365737320"]), 0);
    assert_eq!(probe.outcome().expect("an outcome").fault, Some(Fault::NoTls));
}

#[test]
fn what_was_said_before_tls_is_not_taken_for_said_inside() {
    let security = Security::tls(Trust::Anybody, None).expect("TLS with anybody");
    let mut probe = Probe::new(login(), security);
    probe.begin(0);
    let id = opened(&mut probe);
    probe.connected(id);
    probe.received(id, &packets(0, &[GREETING, OK, OK]), 0);
    let fault = probe.outcome().expect("an outcome").fault;
    assert_eq!(fault, Some(Fault::Malformed("bytes between greeting and TLS")));
}

#[test]
fn a_server_that_says_it_ends_is_heard() {
    let mut probe = probe();
    let id = log_in(&mut probe, 0);
    probe.outcome();
    // "ER_CLIENT_INTERACTION_TIMEOUT", which MySQL 8.0.24 says unasked.
    probe.received(id, &packets(0, &["ffbf0f2348593030306964 6c65"]), 400);
    assert_eq!(said(&mut probe, id), [None]);
    assert!(!probe.has_sockets());
}

proptest! {
    /// Whatever bytes come, in whatever pieces and whenever: no panic, and every round has an outcome by its end.
    #[test]
    fn any_bytes_at_all(
        pieces in proptest::collection::vec(
            (0..6_u8, proptest::collection::vec(any::<u8>(), 0..40), 0..12_000_u64), 1..40,
        ),
        tls in any::<bool>(),
    ) {
        let security = if tls { Security::tls(Trust::Anybody, None).expect("TLS with anybody") } else { Security::Off };
        let mut probe = Probe::new(login(), security);
        let (mut now, mut open) = (0, Vec::new());
        for (what, bytes, later) in pieces {
            match what {
                0 => {
                    now += later;
                    probe.begin(now);
                }
                1 => {
                    probe.begin(now);
                    probe.late();
                    let outcome = probe.outcome().expect("an outcome");
                    prop_assert!(outcome.report.is_some() || outcome.fault.is_some());
                }
                2 => open.iter().for_each(|&id| probe.received(id, &packets(0, &[GREETING]), now)),
                3 => open.iter().for_each(|&id| probe.received(id, &packets(2, &["0103", OK]), now)),
                4 => {
                    // A packet of its own, in any order.
                    let mut wire = Vec::new();
                    packet::put(&mut wire, bytes.first().copied().unwrap_or(1) % 8, &bytes);
                    open.iter().for_each(|&id| probe.received(id, &wire, now));
                }
                _ => open.iter().for_each(|&id| probe.received(id, &bytes, now)),
            }
            for order in orders(&mut probe) {
                match order {
                    Order::Open(id) => {
                        open.push(id);
                        probe.connected(id);
                    }
                    Order::Send(id, bytes) => prop_assert!(open.contains(&id) && !bytes.is_empty()),
                    Order::Close(id) => {
                        prop_assert!(open.contains(&id), "closed twice");
                        open.retain(|&other| other != id);
                    }
                }
            }
            prop_assert!(open.len() <= 2);
        }
    }
}
