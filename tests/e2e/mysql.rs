//! MySQL traffic: real MariaDB behind, mariadb and sysbench in front. A protocol in which the server speaks first, and
//! sessions live long.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::facts::await_that;
use crate::harness::ground::{Ground, command_succeeds, need};
use crate::harness::invariants::Baseline;
use crate::harness::peers::{MariaDb, connect, read_exactly};
use crate::harness::process::Process;
use crate::harness::ringway::{Ringway, listener, pool};

/// What a client hears that asks `sql` at `port`.
pub fn mysql(port: SocketAddr, sql: &str) -> String {
    need("mariadb");
    let said = command_succeeds(
        Command::new("mariadb")
            .args(["--no-defaults", "--user=app", "--password=app", "--batch", "--skip-column-names", "--protocol=tcp"])
            .arg(format!("--host={}", port.ip()))
            .arg(format!("--port={}", port.port()))
            .args(["shop", "-e", sql]),
    );
    said.trim().to_owned()
}

fn sysbench(port: SocketAddr) -> Command {
    need("sysbench");
    let mut command = Command::new("sysbench");
    command
        .args(["--db-driver=mysql", "--mysql-user=app", "--mysql-password=app", "--mysql-db=shop"])
        .args(["--tables=1", "--table-size=2000"])
        .arg(format!("--mysql-host={}", port.ip()))
        .arg(format!("--mysql-port={}", port.port()));
    command
}

/// Write port and read port before one server each.
fn two_ports(write: SocketAddr, read: SocketAddr, primary: SocketAddr, replica: SocketAddr) -> String {
    let server = |name: &str, address: SocketAddr| [format!("{{ name = \"{name}\", address = \"{address}\" }}")];
    listener("mysql-write", &write.to_string(), "primary")
        + &listener("mysql-read", &read.to_string(), "replica")
        + &pool("primary", &server("db1", primary), "idle_timeout = \"28860s\"")
        + &pool("replica", &server("db2", replica), "idle_timeout = \"28860s\"")
}

/// T09, the real thing: the server greets a client that has said nothing.
#[test]
fn each_port_leads_to_its_server() {
    let ground = Ground::new();
    let (primary, replica) = (MariaDb::start(&ground, "db1"), MariaDb::start(&ground, "db2"));
    let (write, read) = (ground.address(), ground.address());
    let ringway = Ringway::start(&ground, &two_ports(write, read, primary.address(), replica.address()));
    let greeting = read_exactly(&mut connect(write), 5).expect("a greeting to somebody silent");
    assert_eq!(greeting[3..], [0, 10], "packet 0, protocol 10");
    ringway.await_metric("ringway_sessions_ended_total", &[], |ended| ended == 1.0);
    assert_eq!(mysql(write, "SELECT name FROM who"), "db1");
    assert_eq!(mysql(read, "SELECT name FROM who"), "db2");

    // A row larger than any buffer, there and back.
    mysql(write, "CREATE TABLE big (b LONGTEXT); INSERT INTO big VALUES (REPEAT('ringway ', 500000))");
    assert_eq!(mysql(write, "SELECT MD5(b) FROM big"), primary.sql("SELECT MD5(b) FROM shop.big"));
    let whole = mysql(write, "SELECT b FROM big");
    assert_eq!(whole.len(), "ringway ".len() * 500_000 - 1, "less the last blank, which is trimmed here");
    assert!(
        ringway.records().iter().all(|record| record["reason"] == "done" || record["bytes_in"] == 0),
        "{:?}",
        ringway.records()
    );
    ringway.end_well();
}

/// T25: with long sessions that are never idle.
#[test]
fn fifty_sysbench_sessions_survive_reloads() {
    let ground = Ground::new();
    let db = MariaDb::start(&ground, "db1");
    let (write, read) = (ground.address(), ground.address());
    let config = two_ports(write, read, db.address(), db.address());
    let mut ringway = Ringway::start(&ground, &config);
    let baseline = Baseline::of(&ringway);
    command_succeeds(sysbench(write).args(["oltp_read_write", "prepare"]));
    let before = db.sql("SHOW GLOBAL STATUS LIKE 'Aborted_clients'");

    let mut run = sysbench(write);
    run.args(["--threads=50", "--time=8", "--mysql-ignore-errors=1213,1020,1205", "oltp_read_write", "run"]);
    let mut load = Process::start("sysbench", &mut run, &ground.file("sysbench.out"));
    ringway.await_metric("ringway_sessions", &[("listener", "mysql-write")], |open| open == 50.0);
    let accepted = ringway.metric("ringway_listener_accepted_total", &[]);
    let mut reloads = 0;
    while load.ended().is_none() {
        // Listeners come and go beside it, servers change beside it, and all of it by signal.
        ringway.write_config(&match reloads % 3 {
            0 => {
                listener("mysql-write", &write.to_string(), "primary")
                    + &pool("primary", &[format!("{{ name = \"db1\", address = \"{}\" }}", db.address())], "")
            }
            1 => config.replace("db2", "db3"),
            _ => config.clone(),
        });
        ringway.signal(Signal::SIGHUP);
        reloads += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    let status = load.wait();
    let said = load.said().join("\n");
    assert!(status.success(), "{said}");
    assert!(said.contains("reconnects:                          0"), "{said}");
    assert!(reloads > 20, "{reloads} reloads");
    assert_eq!(ringway.metric("ringway_listener_accepted_total", &[]), accepted, "nobody had to come again");
    await_that("fifty clean ends", || {
        ringway.metric("ringway_sessions_ended_total", &[("listener", "mysql-write"), ("reason", "done")]) >= 50.0
    });
    assert_eq!(db.sql("SHOW GLOBAL STATUS LIKE 'Aborted_clients'"), before, "nobody vanished");
    baseline.holds_again(&mut ringway);
    ringway.end_well();
}

#[test]
fn a_drain_lets_a_transaction_finish() {
    let ground = Ground::new();
    let db = MariaDb::start(&ground, "db1");
    let (write, read) = (ground.address(), ground.address());
    let mut ringway = Ringway::start(&ground, &two_ports(write, read, db.address(), db.address()));
    let mut command = Command::new("mariadb");
    command
        .args(["--no-defaults", "--user=app", "--password=app", "--protocol=tcp", "shop"])
        .arg(format!("--host={}", write.ip()))
        .arg(format!("--port={}", write.port()))
        .args(["-e", "BEGIN; INSERT INTO who VALUES ('late'); SELECT SLEEP(2); COMMIT"]);
    let mut client = Process::start("mariadb", &mut command, &ground.file("client.out"));
    ringway.await_metric("ringway_sessions", &[], |open| open == 1.0);
    ringway.signal(Signal::SIGTERM);
    assert!(client.wait().success(), "{:?}", client.said());
    assert!(ringway.wait().success());
    assert_eq!(db.sql("SELECT COUNT(*) FROM shop.who WHERE name = 'late'"), "1");
}
