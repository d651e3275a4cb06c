//! Checks through TLS, against real nginx and against servers that do it wrong.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;

use crate::harness::certificates::Authority;
use crate::harness::facts::await_that;
use crate::harness::ground::Ground;
use crate::harness::peers::{Nginx, Server};
use crate::harness::ringway::{Ringway, Setup, listener, pool};

/// A pool with one server of the same name, asked through TLS.
fn asked(name: &str, address: SocketAddr, keys: &str) -> String {
    const QUICK: &str = "interval = \"60ms\", fast_interval = \"20ms\"";
    let entry = format!("{{ name = \"{name}\", address = \"{address}\" }}");
    pool(name, &[entry], &format!("check = {{ type = \"http\", tls = true, {QUICK}, {keys} }}"))
}

fn await_state(ringway: &Ringway, server: &str, state: &str) {
    ringway.await_metric("ringway_server_state", &[("server", server), ("state", state)], |is| is == 1.0);
}

/// Waits until a server is down for this reason.
fn await_reason(ringway: &Ringway, server: &str, reason: &str) {
    let quoted = serde_json::to_string(reason).expect("a string");
    await_that(&format!("{server} to be down: {reason}"), || {
        let is_it = |line: &String| line.contains(&format!("\"server\":\"{server}\"")) && line.contains(&quoted);
        ringway.events().iter().any(is_it)
    });
    await_state(ringway, server, "down");
}

#[test]
fn a_server_must_be_who_it_says() {
    let ground = Ground::new();
    let (ours, other) = (Authority::new(&ground, "ours"), Authority::new(&ground, "other"));
    let address = ground.address();
    let own = format!("IP:{}", address.ip());
    let (a, b) = (ours.issue(&["DNS:a.example.com", &own], 30), ours.issue(&["DNS:b.example.com"], 30));
    let old = ours.issue(&["DNS:old.example.com"], 0);
    let host = |name: &str, lines: &str| format!("server_name {name}; {lines}\n");
    let _web = Nginx::start_secure(
        &ground,
        "web",
        address,
        &[
            (host("a.example.com", "return 200 a;"), Some(&a)),
            (host("b.example.com", "return 202 b;"), Some(&b)),
            (host("old.example.com", "return 200 old;"), Some(&old)),
            (host("no.example.com", "ssl_reject_handshake on;"), None),
        ],
    );
    let plain = Nginx::start(&ground, "plain");
    let deaf = Server::new(&ground, |mut stream| while stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {});
    let curt = Server::new(&ground, |mut stream| drop(stream.read(&mut [0; 4096])));
    let ca = format!("verify = \"{}\"", ours.file().display());
    let stranger = format!("sni = \"a.example.com\", verify = \"{}\"", other.file().display());
    let config = listener("front", &ground.address().to_string(), "right")
        + &asked("right", address, &format!("sni = \"a.example.com\", {ca}"))
        // Its certificate is not that of who has no name to go by, and its answer is another.
        + &asked("second", address, &format!("host = \"b.example.com:8443\", expect = 202, {ca}"))
        + &asked("numbered", address, &ca)
        + &asked("trusted", address, "sni = \"c.example.com\", verify = \"none\"")
        + &asked("misnamed", address, &format!("sni = \"c.example.com\", {ca}"))
        + &asked("stranger", address, &stranger)
        + &asked("unknown", address, "sni = \"a.example.com\"")
        + &asked("old", address, &format!("sni = \"old.example.com\", {ca}"))
        + &asked("refused", address, &format!("sni = \"no.example.com\", {ca}"))
        + &asked("status", address, &format!("sni = \"b.example.com\", {ca}"))
        + &asked("plain", plain.address(), &ca)
        + &asked("deaf", deaf.address(), &format!("timeout = \"300ms\", {ca}"))
        + &asked("curt", curt.address(), &ca);
    let ringway = Ringway::start(&ground, &config);
    for server in ["right", "second", "numbered", "trusted"] {
        await_state(&ringway, server, "up");
    }
    let of_a = format!("a.example.com, {}", address.ip());
    for (server, reason) in [
        ("misnamed", format!("the server's certificate: it is not for c.example.com, but for {of_a}")),
        // Both authorities of this test have the same name.
        ("stranger", "the server's certificate: the authority it names is trusted, but has not signed it".to_owned()),
        ("unknown", "the server's certificate: it is signed by nobody who is trusted".to_owned()),
        ("old", "the server's certificate: it has expired".to_owned()),
        ("refused", "TLS: the server has nothing of that name".to_owned()),
        ("status", "HTTP 202 where 200 was expected".to_owned()),
        ("deaf", "timeout after 300ms waiting for the TLS handshake".to_owned()),
        ("curt", "TLS: the server closed the connection in the handshake".to_owned()),
    ] {
        await_reason(&ringway, server, &reason);
    }
    await_state(&ringway, "plain", "down");
    let status = String::from_utf8(ringway.verb(&["status"]).stdout).expect("UTF-8");
    assert!(status.contains("TLS: the server does not speak it, but says \"HTTP/1.1 400 Bad Request"), "{status}");
    for (server, result) in [("stranger", "tls"), ("refused", "tls"), ("deaf", "timeout"), ("status", "status")] {
        let counted = ringway.metric("ringway_check_total", &[("server", server), ("result", result)]);
        assert!(counted >= 1.0, "{server} {result}");
    }
    ringway.end_well();
}

#[test]
fn authorities_are_the_systems_or_in_a_file() {
    let ground = Ground::new();
    let ours = Authority::new(&ground, "ours");
    let address = ground.address();
    let issued = ours.issue(&["DNS:a.example.com"], 30);
    let host = "server_name a.example.com; return 200 a;\n".to_owned();
    let _web = Nginx::start_secure(&ground, "web", address, &[(host, Some(&issued))]);
    let later = ground.file("later.pem");
    let config = listener("front", &ground.address().to_string(), "system")
        + &asked("system", address, "sni = \"a.example.com\"")
        + &asked("filed", address, &format!("sni = \"a.example.com\", verify = \"{}\"", later.display()));
    let system = format!("SSL_CERT_FILE={}", ours.file().display());
    let ringway = Setup::on(&ground).wrapped(&["env", &system]).start(&config);
    await_state(&ringway, "system", "up");
    let complaint = format!("no check was possible: {}: no such file or directory", later.display());
    ringway.await_event(&complaint);
    await_state(&ringway, "filed", "unknown");
    let status = String::from_utf8(ringway.verb(&["status"]).stdout).expect("UTF-8");
    assert!(status.contains("! filed/filed is unknown for ") && status.contains(&complaint), "{status}");
    fs::copy(ours.file(), &later).expect("own directory");
    await_state(&ringway, "filed", "up");
    ringway.end_well();
}
