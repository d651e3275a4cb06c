//! Talks to probes through TLS, with a server of rustls at the other end.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::{ServerConfig, ServerConnection};

use super::*;
use crate::health::http::Http;

/// Made by openssl(1): an authority, and a server of it for `a.example.com` and 127.0.0.1; both from 2020 to 2119.
const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBVDCB+6ADAgECAgEBMAoGCCqGSM49BAMCMBkxFzAVBgNVBAMMDnRlc3QgYXV0
aG9yaXR5MCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAZMRcwFQYD
VQQDDA50ZXN0IGF1dGhvcml0eTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABB3w
347SQF8vaswSWx+74jd+oESw1fCsJQLlmeRio4vb62TDwLBZv+4lF161kpj82UCE
bep1A4srH59Eny4rY9mjMjAwMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYEFFfR
WxH/fYhB8UuCEvZBPaijPyTPMAoGCCqGSM49BAMCA0gAMEUCIGfXJaWXVL6j2P4k
5v6pAcc03ZL1hDDecIDUe7tt8zOEAiEA23fWPgTTtBeGb4HGdUHw1GWmLKiqsTq9
BW2B1L12r60=
-----END CERTIFICATE-----
";
const SERVER: &str = "\
-----BEGIN CERTIFICATE-----
MIIBizCCATGgAwIBAgIBAjAKBggqhkjOPQQDAjAZMRcwFQYDVQQDDA50ZXN0IGF1
dGhvcml0eTAgFw0yMDAxMDEwMDAwMDBaGA8yMTE5MDEwMTAwMDAwMFowETEPMA0G
A1UEAwwGc2VydmVyMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAESX8piPjKmmka
8B/b/SDH76cCeWd/YOpbKRWUrrFO32fWfn9M2Ig0aiO+vE70q1LlkkucF8CZZXmX
KmXAWWfTxaNwMG4wHgYDVR0RBBcwFYINYS5leGFtcGxlLmNvbYcEfwAAATAMBgNV
HRMBAf8EAjAAMB0GA1UdDgQWBBTGSldT2+jCv6/ABP7iP2nt5onwgjAfBgNVHSME
GDAWgBRX0VsR/32IQfFLghL2QT2ooz8kzzAKBggqhkjOPQQDAgNIADBFAiEAiNzX
wZnKP9fmbhhL7Z2cjyNXmEb2oRmpFInNutrOEZQCIEdS0dlisR0GvQ+U5V4hU8Ni
g/XTrr0KD2wlayp2fjHL
-----END CERTIFICATE-----
";
const KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgjvyNE+xLk+EfTy1+
eoMN00ZO4KXTNZ+gip9BbGiwVfShRANCAARJfymI+MqaaRrwH9v9IMfvpwJ5Z39g
6lspFZSusU7fZ9Z+f0zYiDRqI768TvSrUuWSS5wXwJlleZcqZcBZZ9PF
-----END PRIVATE KEY-----
";

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

fn authorities(pem: &str) -> Authorities {
    Authorities::of(vec![certificate(pem)]).expect("an authority")
}

fn named(name: &str) -> Arc<Tls> {
    Arc::new(Tls::new(Trust::Named(authorities(AUTHORITY)), Some(name)).expect("a name"))
}

fn http(tls: Arc<Tls>) -> Secured {
    Secured::new(Box::new(Http::new("GET", "/", "a.example.com", vec![(200, 200)])), tls)
}

fn server() -> ServerConnection {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).expect("a key");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("both versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate(SERVER)], key)
        .expect("a key of its certificate");
    ServerConnection::new(Arc::new(config)).expect("a server")
}

/// What became of a check.
struct Talk {
    /// What the server was told, plain.
    heard: Vec<u8>,
    /// What the check waited for, in turn.
    waited: Vec<&'static str>,
    outcome: Result<(), String>,
}

/// One check of a server that says `answer` once it was told something, and hangs up. Bytes go to the probe `cut` at a time.
fn talk(mut probe: Secured, answer: &[u8], cut: usize) -> Talk {
    let mut server = server();
    let (mut heard, mut waited) = (Vec::new(), Vec::new());
    let mut step = probe.connected();
    let mut has_answered = false;
    let mut is_over = false;
    loop {
        let out = match step {
            Step::Done { outcome, .. } => {
                return Talk { heard, waited, outcome: outcome.map_err(|fault| fault.to_string()) };
            }
            Step::Send(out) => out,
            Step::Read => Vec::new(),
        };
        waited.push(probe.waiting_for());
        let mut rest = &out[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).expect("memory");
            server.process_new_packets().expect("a client of rustls");
        }
        let mut plain = [0; 4096];
        let said = server.reader().read(&mut plain).unwrap_or(0);
        heard.extend_from_slice(&plain[..said]);
        if !heard.is_empty() && !has_answered {
            has_answered = true;
            server.writer().write_all(answer).expect("memory");
            server.send_close_notify();
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).expect("memory");
        }
        step = match bytes.is_empty() {
            false => pieces(&mut probe, &bytes, cut),
            true => {
                assert!(!is_over, "it wants more after the end");
                is_over = true;
                probe.closed()
            }
        };
    }
}

/// Hands bytes to a probe in pieces; what it wants in the end, with all it has to send.
fn pieces(probe: &mut Secured, bytes: &[u8], cut: usize) -> Step {
    let mut out = Vec::new();
    for piece in bytes.chunks(cut) {
        match probe.received(piece) {
            Step::Send(more) => out.extend(more),
            Step::Read => {}
            done @ Step::Done { .. } => return done,
        }
    }
    if out.is_empty() { Step::Read } else { Step::Send(out) }
}

#[test]
fn a_question_goes_through_tls_however_the_bytes_are_cut() {
    for cut in [1, 7, 100_000] {
        let talk = talk(http(named("a.example.com")), b"HTTP/1.1 200 OK\r\n\r\n", cut);
        assert_eq!(talk.outcome, Ok(()), "{cut}");
        assert!(talk.heard.starts_with(b"GET / HTTP/1.1\r\nHost: a.example.com\r\n"), "{cut}");
        assert_eq!((talk.waited.first(), talk.waited.last()), (Some(&"the TLS handshake"), Some(&"an answer")));
    }
    let unwell = talk(http(named("127.0.0.1")), b"HTTP/1.1 503 No\r\n\r\n", 4096);
    assert_eq!(unwell.outcome, Err("HTTP 503 where 200 was expected".to_owned()));
    let mute = talk(http(named("a.example.com")), b"", 4096);
    assert_eq!(mute.outcome, Err("connection closed before an answer".to_owned()));
    let again = &mut http(named("a.example.com"));
    assert!(matches!(again.connected(), Step::Send(_)) && matches!(again.connected(), Step::Send(_)), "a new check");
}

/// And nothing is said to it.
#[test]
fn a_server_that_is_not_the_right_one() {
    let wrong_name = talk(http(named("b.example.com")), b"HTTP/1.1 200 OK\r\n\r\n", 4096);
    let reason = "the server's certificate: it is not for b.example.com, but for a.example.com, 127.0.0.1";
    assert_eq!(wrong_name.outcome, Err(reason.to_owned()));
    assert!(wrong_name.heard.is_empty());

    let stranger = Tls::new(Trust::Named(authorities(SERVER)), Some("c.example.com")).expect("a name");
    let stranger = talk(http(Arc::new(stranger)), b"HTTP/1.1 200 OK\r\n\r\n", 4096);
    let reason = "the server's certificate: it is signed by nobody who is trusted";
    assert_eq!(stranger.outcome, Err(reason.to_owned()));
    assert!(stranger.heard.is_empty());

    for trust in [Trust::Anybody, Trust::Signed(authorities(AUTHORITY))] {
        let tls = Tls::new(trust, Some("b.example.com")).expect("a name");
        assert_eq!(talk(http(Arc::new(tls)), b"HTTP/1.1 200 OK\r\n\r\n", 4096).outcome, Ok(()));
    }
}

#[test]
fn a_certificate_has_its_time() {
    let tls = named("a.example.com");
    let at = |s: u64| {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(s));
        tls.verify(&[certificate(SERVER)], now).map_err(|fault| fault.to_string())
    };
    let year = 31_557_600;
    assert_eq!(at(55 * year), Ok(()), "2025");
    assert_eq!(at(49 * year), Err("the server's certificate: it is not valid yet".to_owned()), "2019");
    assert_eq!(at(149 * year + year / 2), Err("the server's certificate: it has expired".to_owned()), "2119");
    assert_eq!(tls.verify(&[], UnixTime::now()), Err(Fault::Certificate("there is none".to_owned())));
}

#[test]
fn what_is_no_tls() {
    let reason = |step: Step| match step {
        Step::Done { outcome: Err(CheckFault::Tls(reason)), .. } => reason,
        other => panic!("{other:?}"),
    };
    let begun = || {
        let mut probe = http(named("a.example.com"));
        assert!(matches!(probe.connected(), Step::Send(_)));
        probe
    };
    let plain = "TLS: the server does not speak it, but says \"HTTP/1.1 400 Bad Request\\r\\n\"";
    assert_eq!(reason(begun().received(b"HTTP/1.1 400 Bad Request\r\n")), plain);
    assert_eq!(reason(begun().closed()), "TLS: the server closed the connection in the handshake");
    // An alert: level fatal; handshake_failure, unrecognized_name (RFC 8446 section 6).
    let alert = |number: u8| [21, 3, 3, 0, 2, 2, number];
    assert_eq!(reason(begun().received(&alert(40))), "TLS: the server breaks it off: HandshakeFailure");
    assert_eq!(reason(begun().received(&alert(112))), "TLS: the server has nothing of that name");
    // A message of the handshake that there is not.
    assert!(reason(begun().received(&[22, 3, 3, 0, 4, 255, 0, 0, 0])).starts_with("TLS: "));
    assert!(Tls::new(Trust::Anybody, Some("a b")).is_err());
    assert!(Authorities::of(Vec::new()).is_err());
    assert!(Authorities::of(vec![CertificateDer::from(vec![1, 2, 3])]).is_err());
    assert!(Authorities::of_some(vec![CertificateDer::from(vec![1, 2, 3]), certificate(AUTHORITY)]).is_ok());
}

proptest::proptest! {
    #[test]
    fn no_bytes_upset_it(pieces in proptest::collection::vec(proptest::collection::vec(0_u8..=255, 1..80), 0..20), record: bool) {
        let mut probe = http(named("a.example.com"));
        probe.connected();
        for (index, mut piece) in pieces.into_iter().enumerate() {
            if index == 0 && record {
                piece.splice(0..0, [22, 3, 3]);
            }
            if let Step::Done { .. } = probe.received(&piece) {
                break;
            }
        }
        probe.closed();
    }
}
