//! The check of MySQL servers against real ones, with the bytes moved by hand: logins of every kind, and that no check is
//! ever held against the host it comes from.

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringway::health::mysql::probe::{FRESH_MS, Order, Outcome, Probe, SocketId};
use ringway::health::mysql::report::Replication;
use ringway::health::mysql::{Fault, Login, Password, Security};
use ringway::health::tls::{Authorities, Trust};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::harness::facts::PATIENCE;
use crate::harness::ground::{Ground, need};
use crate::harness::network::{BALANCER_BACK, on_a_network};
use crate::harness::peers::{MariaDb, MySql, connect};

/// A probe and its sockets.
struct Hand<'a> {
    probe: Probe,
    sockets: HashMap<SocketId, TcpStream>,
    dial: &'a dyn Fn() -> TcpStream,
    now_ms: u64,
}

impl<'a> Hand<'a> {
    fn new(user: &str, password: &str, security: Security, dial: &'a dyn Fn() -> TcpStream) -> Self {
        let password = Password::new(password.to_owned()).expect("no NUL");
        let login = Arc::new(Login { user: user.to_owned(), password });
        Self { probe: Probe::new(login, security), sockets: HashMap::new(), dial, now_ms: 0 }
    }

    /// One round, which is given all the time it wants.
    fn round(&mut self) -> Outcome {
        self.probe.begin(self.now_ms);
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.obey();
            if let Some(outcome) = self.probe.outcome() {
                self.obey();
                return outcome;
            }
            assert!(Instant::now() < deadline, "a round without an end");
            self.listen();
        }
    }

    /// A round with a connection of its own.
    fn fresh_round(&mut self) -> Outcome {
        self.now_ms += FRESH_MS;
        self.round()
    }

    fn obey(&mut self) {
        while let Some(order) = self.probe.order() {
            match order {
                Order::Open(id) => {
                    let socket = (self.dial)();
                    socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a socket");
                    self.sockets.insert(id, socket);
                    self.probe.connected(id);
                }
                Order::Send(id, bytes) => {
                    // It may have closed already; reading tells.
                    let _ = self.sockets.get_mut(&id).expect("open").write_all(&bytes);
                }
                Order::Close(id) => drop(self.sockets.remove(&id)),
            }
        }
    }

    fn listen(&mut self) {
        let mut buffer = [0; 16 * 1024];
        let ids: Vec<SocketId> = self.sockets.keys().copied().collect();
        for id in ids {
            let Some(socket) = self.sockets.get_mut(&id) else { continue };
            match socket.read(&mut buffer) {
                Ok(0) => self.probe.ended(id, self.now_ms),
                Ok(read) => self.probe.received(id, &buffer[..read], self.now_ms),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => self.probe.ended(id, self.now_ms),
            }
            self.obey();
        }
    }
}

impl Drop for Hand<'_> {
    fn drop(&mut self) {
        self.probe.leave();
        self.obey();
    }
}

fn check(user: &str, password: &str, security: Security, server: SocketAddr) -> Outcome {
    Hand::new(user, password, security, &|| connect(server)).round()
}

fn certificates(server: &MySql, file: &str) -> Authorities {
    let pem = fs::read(server.data().join(file)).expect("a file of the server's");
    Authorities::of(vec![CertificateDer::from_pem_slice(&pem).expect("a certificate")]).expect("one that is understood")
}

fn writable(outcome: &Outcome) -> bool {
    let Outcome { report: Some(report), fault: None } = outcome else { panic!("{outcome:?}") };
    report.writable
}

fn refused(outcome: &Outcome) -> u16 {
    let Outcome { report: None, fault: Some(Fault::Refused(error)) } = outcome else { panic!("{outcome:?}") };
    error.code
}

/// Every login there is by `caching_sha2_password`, which is all that MySQL 9 has, and those that are not let in.
#[test]
fn logins_of_mysql() {
    let ground = Ground::new();
    let server = MySql::start_at(&ground, ground.address(), &[], &[]);
    server.sql(
        "CREATE USER sha@'%' IDENTIFIED WITH caching_sha2_password BY 'geheim';
         CREATE USER blank@'%' IDENTIFIED WITH caching_sha2_password BY '';
         CREATE USER old@'%' IDENTIFIED WITH sha256_password BY 'geheim';
         GRANT REPLICATION CLIENT ON *.* TO sha@'%'",
    );
    let at = server.address();
    let off = || Security::Off;
    // Nobody has logged in yet: the password itself is asked for, and goes enciphered with the server's RSA key…
    assert!(writable(&check("sha", "geheim", off(), at)));
    // …and is known from then on.
    assert!(writable(&check("sha", "geheim", off(), at)));
    assert!(writable(&check("blank", "", off(), at)));
    assert_eq!(refused(&check("sha", "falsch", off(), at)), 1045);
    // A server that does not want to tell who exists asks for any plugin.
    let nobody = check("nobody", "geheim", off(), at).fault;
    assert!(matches!(nobody, Some(Fault::Refused(_) | Fault::Plugin(_))), "{nobody:?}");
    let strange = check("old", "geheim", off(), at).fault;
    assert_eq!(strange, Some(Fault::Plugin("sha256_password".to_owned())));

    // Through TLS; FLUSH PRIVILEGES makes the server forget whom it knows.
    let trusting = |trust, name| Security::tls(trust, name).expect("a name");
    let signed = |file| Trust::Signed(certificates(&server, file));
    for security in [trusting(Trust::Anybody, None), trusting(signed("ca.pem"), None)] {
        server.sql("FLUSH PRIVILEGES");
        assert!(writable(&check("sha", "geheim", security.clone(), at)), "said aloud, inside");
        assert!(writable(&check("sha", "geheim", security.clone(), at)));
        assert!(writable(&check("blank", "", security, at)));
    }
    // Its own certificate is for no name, and signed by no other server's authority.
    let named = Trust::Named(certificates(&server, "ca.pem"));
    let wrong_name = check("sha", "geheim", trusting(named, Some("db1.example.com")), at);
    assert!(matches!(wrong_name.fault, Some(Fault::Certificate(_))), "{wrong_name:?}");
    let stranger = check("sha", "geheim", trusting(signed("client-cert.pem"), None), at);
    assert!(matches!(stranger.fault, Some(Fault::Certificate(_))), "{stranger:?}");
    server.sql("ALTER USER blank@'%' REQUIRE SSL");
    assert_eq!(refused(&check("blank", "", off(), at)), 1045);
    assert!(writable(&check("blank", "", trusting(Trust::Anybody, None), at)));

    // What it says, on one connection.
    let dial = || connect(at);
    let mut hand = Hand::new("sha", "geheim", off(), &dial);
    let report = hand.round().report.expect("a report");
    assert_eq!((report.writable, report.replication), (true, Replication::None));
    assert!(report.version.starts_with('8') || report.version.starts_with('9'), "{}", report.version);
    server.sql("SET GLOBAL super_read_only = 1");
    assert!(!writable(&hand.round()));
    server.sql("SET GLOBAL super_read_only = 0, GLOBAL read_only = 0");
    assert!(writable(&hand.round()));
    server.sql("CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 1, SOURCE_USER = 'x'");
    let stopped = Replication::From { connected: false, applying: false, lag_s: None };
    assert_eq!(hand.round().report.expect("a report").replication, stopped);
    let ids =
        |user: &str| server.sql(&format!("SELECT COUNT(*) FROM performance_schema.processlist WHERE user = '{user}'"));
    assert_eq!(ids("sha"), "1", "one connection, kept");
    server.sql("ALTER USER blank@'%' REQUIRE NONE");
    let mut humble = Hand::new("blank", "", off(), &dial);
    assert_eq!(humble.round().report.expect("a report").replication, Replication::Hidden);
    // Full for others, and the kept connection still tells.
    server.sql("SET GLOBAL max_connections = 2");
    let full = hand.fresh_round();
    assert!(full.report.is_some(), "{full:?}");
    assert!(matches!(full.fault, Some(Fault::Refused(error)) if error.code == 1040));
}

#[test]
fn logins_of_mariadb() {
    let ground = Ground::new();
    let server = MariaDb::start(&ground, "db");
    server.sql(
        "CREATE USER lb@'%' IDENTIFIED BY 'geheim'; GRANT REPLICA MONITOR ON *.* TO lb@'%';
         INSTALL SONAME 'auth_ed25519'; CREATE USER ed@'%' IDENTIFIED VIA ed25519 USING PASSWORD('geheim')",
    );
    let at = server.address();
    let dial = || connect(at);
    let mut hand = Hand::new("lb", "geheim", Security::Off, &dial);
    let report = hand.round().report.expect("a report");
    assert_eq!((report.writable, report.replication), (true, Replication::None));
    assert!(report.version.starts_with("10.") && report.version.contains("MariaDB"), "{}", report.version);
    server.sql("SET GLOBAL read_only = 1");
    assert!(!writable(&hand.round()));
    server.sql("CHANGE MASTER 'a' TO MASTER_HOST = '127.0.0.1', MASTER_PORT = 1, MASTER_USER = 'x'");
    let stopped = Replication::From { connected: false, applying: false, lag_s: None };
    assert_eq!(hand.round().report.expect("a report").replication, stopped);
    assert_eq!(check("app", "app", Security::Off, at).report.expect("a report").replication, Replication::Hidden);
    assert_eq!(refused(&check("lb", "falsch", Security::Off, at)), 1045);
    assert!(!writable(&check("ed", "geheim", Security::Off, at)), "by a signature");
    assert_eq!(refused(&check("ed", "falsch", Security::Off, at)), 1045);
    assert_eq!(refused(&check("ed", "", Security::Off, at)), 1045);
    server.sql(
        "SET GLOBAL secure_auth = 0; CREATE USER old@'%' IDENTIFIED VIA mysql_old_password USING '7c786c222596437b'",
    );
    let strange = check("old", "geheim", Security::Off, at).fault;
    assert_eq!(strange, Some(Fault::Plugin("mysql_old_password".to_owned())));
    let no_tls = check("lb", "geheim", Security::tls(Trust::Anybody, None).expect("TLS with anybody"), at).fault;
    assert_eq!(no_tls, Some(Fault::NoTls), "this one has no certificate");
}

/// T37: a thousand checks, and as many that go wrong as would lock a host out many times over. Loopback is never locked
/// out, and only a host with a name is counted: so the checks come from another network, whose names the servers know.
#[test]
fn no_check_counts_as_a_broken_handshake() {
    need("unshare");
    on_a_network(|net| {
        let ground = Ground::new();
        let hosts = ground.file("hosts");
        fs::write(&hosts, "127.0.0.1 localhost\n10.77.2.11 checker\n").expect("own directory");
        let mount = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
        let wrapper = ["unshare", "--mount", "sh", "-c", &mount, "sh"];
        let limits = ["--max-connect-errors=5", "--max-connections=200"];

        let (mysql, mariadb) = (SocketAddr::from((BALANCER_BACK, 3306)), SocketAddr::from((BALANCER_BACK, 3307)));
        let server = MySql::start_at(&ground, mysql, &wrapper, &limits);
        server.sql("CREATE USER lb@'%' IDENTIFIED BY 'geheim'; CREATE USER old@'%' IDENTIFIED WITH sha256_password");
        let wrong =
            Security::tls(Trust::Named(certificates(&server, "ca.pem")), Some("nobody.example.com")).expect("TLS");
        let forget = || server.sql("TRUNCATE performance_schema.host_cache");
        never_locked_out(&|| net.one.connect(mysql), &forget, &wrong);
        let strange = "10.77.2.11\t0\tYES";
        let cache = "SELECT ip, sum_connect_errors, host_validated FROM performance_schema.host_cache";
        assert_eq!(server.sql(cache), strange, "known by its name, and nothing against it");
        drop(server);

        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).args(["mariadbd", "--no-defaults", limits[0]]);
        let server = MariaDb::start_at(&ground, "mariadb", mariadb, &mut command);
        server.sql(
            "CREATE USER lb@'%' IDENTIFIED BY 'geheim'; SET GLOBAL secure_auth = 0;
             CREATE USER old@'%' IDENTIFIED VIA mysql_old_password USING '7c786c222596437b';
             INSTALL SONAME 'auth_ed25519'; CREATE USER ed@'%' IDENTIFIED VIA ed25519 USING PASSWORD('geheim')",
        );
        let wrong = Security::tls(Trust::Anybody, None).expect("TLS with anybody");
        never_locked_out(&|| net.one.connect(mariadb), &|| server.sql("FLUSH HOSTS"), &wrong);
        let ed = |password| Hand::new("ed", password, Security::Off, &|| net.one.connect(mariadb)).round();
        for _ in 0..20 {
            assert_eq!(refused(&ed("falsch")), 1045);
        }
        assert!(writable(&ed("geheim")), "still let in");
    });
}

/// `forget` lets everybody in again; `wrong` is a security the server does not meet.
fn never_locked_out(dial: &dyn Fn() -> TcpStream, forget: &dyn Fn() -> String, wrong: &Security) {
    const LOCKED_OUT: u16 = 1129;
    let outcome =
        |user: &str, password: &str, security: &Security| Hand::new(user, password, security.clone(), dial).round();
    let good = || outcome("lb", "geheim", &Security::Off);
    // That this server does lock out those who connect and leave.
    assert!(writable(&good()), "so that its name is known");
    for _ in 0..20 {
        let mut head = [0; 4];
        dial().read_exact(&mut head).expect("a greeting, or a refusal");
    }
    assert_eq!(refused(&good()), LOCKED_OUT);
    forget();

    let mut hand = Hand::new("lb", "geheim", Security::Off, dial);
    for _ in 0..1000 {
        assert!(writable(&hand.fresh_round()));
    }
    for _ in 0..20 {
        assert_eq!(refused(&outcome("lb", "falsch", &Security::Off)), 1045);
        let strange = outcome("old", "geheim", &Security::Off);
        assert!(matches!(strange.fault, Some(Fault::Plugin(_))), "{strange:?}");
        let wrong = outcome("lb", "geheim", wrong);
        assert!(matches!(wrong.fault, Some(Fault::NoTls | Fault::Certificate(_))), "{wrong:?}");
    }
    assert!(writable(&good()), "still let in");
}
