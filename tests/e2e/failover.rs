//! A MySQL pool that follows its primary: three MariaDB servers replicate by GTID behind a port for writes and one for
//! reads, and change their roles in every way there is.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::cluster::{Client, Cluster, await_roles, role};
use crate::harness::facts::await_that;
use crate::harness::ground::Ground;
use crate::harness::peers::MariaDb;
use crate::harness::ringway::{Ringway, listener, pool};

const INTERVAL: Duration = Duration::from_millis(100);
/// What a busy machine may add to a time that is promised; with it still less than the 10 s after which a check logs in anew.
const MARGIN: Duration = Duration::from_secs(8);

/// Writes one row after the other, as fast as it goes, and connects again when that fails.
struct Writer {
    stop: Arc<AtomicBool>,
    /// When each row was acknowledged, and by whom.
    acknowledged: Arc<Mutex<Vec<(Instant, u64, usize)>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    fn start(to: SocketAddr) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, list) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        let thread = std::thread::spawn(move || {
            let mut client: Option<(Client, usize)> = None;
            for n in 1.. {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let open = || Client::connect(to).and_then(|mut client| client.server().map(|id| (client, id)));
                let Some((mut writer, id)) = client.take().or_else(|| open().ok()) else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                if writer.ask(&format!("INSERT INTO shop.log VALUES ({n}, {id})")).is_ok() {
                    list.lock().expect("not poisoned").push((Instant::now(), n, id));
                    client = Some((writer, id));
                }
            }
        });
        Self { stop, acknowledged, thread: Some(thread) }
    }

    fn rows(&self) -> Vec<(Instant, u64, usize)> {
        self.acknowledged.lock().expect("not poisoned").clone()
    }

    /// Waits until a server takes writes; when it took the first.
    fn first_on(&self, id: usize) -> Instant {
        let first = || self.rows().iter().find(|row| row.2 == id).map(|row| row.0);
        await_that(&format!("a write on server {id}"), || first().is_some());
        first().expect("just seen")
    }

    /// Ends it; all that was acknowledged.
    fn end(mut self) -> Vec<(Instant, u64, usize)> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().expect("not ended").join().expect("no panic");
        self.rows()
    }
}

/// How far a server is behind, as the status has it.
fn lag_s(ringway: &Ringway, server: usize) -> Option<u64> {
    let status: serde_json::Value = serde_json::from_str(&ringway.page("/v1/status").1).expect("JSON");
    let servers = status["pools"][0]["servers"].as_array().expect("servers");
    let name = format!("db{server}");
    servers.iter().find(|found| found["name"] == name.as_str()).expect("it is there")["lag_s"].as_u64()
}

/// What a verb says.
fn told(ringway: &Ringway, words: &[&str]) -> String {
    String::from_utf8(ringway.verb(words).stdout).expect("UTF-8")
}

/// Who answers at a port, of some connections.
fn answering(port: SocketAddr) -> Vec<usize> {
    let mut ids: Vec<usize> =
        (0..8).map(|_| Client::connect(port).and_then(|mut client| client.server()).expect("a server")).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Rows that servers have, and who they were written on.
fn written(server: &MariaDb) -> HashMap<u64, usize> {
    let rows = server.sql("SELECT n, server FROM shop.log");
    let number = |word: Option<&str>| word.and_then(|word| word.parse::<u64>().ok()).expect("a number");
    rows.lines()
        .map(|row| {
            let mut words = row.split('\t');
            (number(words.next()), usize::try_from(number(words.next())).expect("small"))
        })
        .collect()
}

/// Each port leads to its role; a switch-over takes an interval, not one write goes to both, and the sessions that were on
/// the old primary are let go of; then the new primary crashes.
#[test]
fn writes_follow_the_primary() {
    let ground = Ground::new();
    let mut cluster = Cluster::start(&ground);
    let ringway = Ringway::start(&ground, &cluster.config(&ground, "max_lag = \"60s\", role_grace = \"1s\"", ""));
    await_roles(&ringway, ["primary", "replica", "replica"]);
    assert_eq!((answering(cluster.write), answering(cluster.read)), (vec![1], vec![2, 3]));

    // A planned switch-over, under writes, with a session that does nothing and one that is busy all the time.
    let mut idle = Client::connect(cluster.write).expect("the primary");
    let mut reader = Client::connect(cluster.read).expect("a replica");
    let reads_from = reader.server().expect("a replica");
    let writer = Writer::start(cluster.write);
    writer.first_on(1);
    cluster.servers[0].sql("SET GLOBAL read_only = 1");
    await_that("db1 to be demoted", || role(&ringway, 1, "none"));
    let why = "! db/db1 has no role: it is read-only, and replicates from nobody";
    await_that("the status to say why", || told(&ringway, &["status"]).contains(why));
    cluster.caught_up(1, 0);
    cluster.promote(1);
    let writable = Instant::now();
    let first = writer.first_on(2);
    assert!(first < writable + INTERVAL + Duration::from_millis(100) + MARGIN, "{:?}", first - writable);
    cluster.follow(0, 1);
    cluster.follow(2, 1);
    await_roles(&ringway, ["replica", "primary", "replica"]);
    let rows = writer.end();
    let last_old = rows.iter().filter(|row| row.2 == 1).map(|row| row.0).max().expect("some");
    assert!(last_old < first, "the old primary took a write after the new one");
    assert!(idle.server().is_err(), "an idle session was closed");
    assert!(ringway.metric("ringway_sessions_ended_total", &[("reason", "role_lost")]) >= 1.0);
    // A check may have come while it was told to follow another, and found that it replicates from nobody.
    if reads_from == 3 && !ringway.events().iter().any(|event| event.contains("server db3 of pool db has no role")) {
        assert_eq!(reader.server().expect("it has lost nothing"), 3);
    }
    assert_eq!(ringway.metric("ringway_split_brain", &[]), 0.0);
    assert!(!ringway.events().iter().any(|event| event.contains("split_brain")), "{:?}", ringway.events());
    for replica in [0, 2] {
        cluster.caught_up(replica, 1);
    }
    let held = written(&cluster.servers[1]);
    assert!(rows.iter().all(|(_, n, id)| held.get(n) == Some(id)), "every write that was acknowledged is there");

    // The primary crashes. Nothing is to be had until another is promoted, and replicas go on.
    // (What a replica has not got when its source dies is lost, and not for a balancer to save: so it has all.)
    let mut cut_off = Client::connect(cluster.write).expect("the primary");
    assert_eq!(cut_off.server().expect("the primary"), 2);
    [0, 2].into_iter().for_each(|replica| cluster.caught_up(replica, 1));
    cluster.servers[1].crash();
    assert!(cut_off.server().is_err(), "its sessions end with it");
    let writer = Writer::start(cluster.write);
    await_that("db2 to be silent", || {
        ringway.metric("ringway_server_state", &[("server", "db2"), ("state", "down")]) == 1.0
    });
    assert!(role(&ringway, 2, "primary"), "the last primary stays until another is proven");
    let mut ids = answering(cluster.read);
    ids.retain(|id| *id == 2);
    assert!(ids.is_empty(), "reads go on without it");
    cluster.promote(2);
    let writable = Instant::now();
    let first = writer.first_on(3);
    let promised = INTERVAL * 3 + Duration::from_millis(500);
    assert!(first < writable + promised + MARGIN, "{:?}", first - writable);
    cluster.follow(0, 2);
    await_roles(&ringway, ["replica", "none", "primary"]);
    writer.end();

    // It comes back as it was: two take writes. The last primary stays, and everybody is told.
    cluster.servers[1].start_again();
    cluster.servers[1].sql("SET GLOBAL read_only = 0");
    ringway.await_metric("ringway_split_brain", &[("pool", "db")], |split| split == 1.0);
    assert_eq!(answering(cluster.write), [3]);
    ringway.await_event("split brain in pool db");
    cluster.servers[1].sql("SET GLOBAL read_only = 1");
    ringway.await_metric("ringway_split_brain", &[("pool", "db")], |split| split == 0.0);
    assert_eq!(answering(cluster.write), [3], "no way back by force");
    ringway.end_well();
}

/// Replicas come and go, and fall behind; reads fall back to the primary only where they may.
#[test]
fn reads_follow_the_replicas() {
    let ground = Ground::new();
    let cluster = Cluster::start(&ground);
    let check = "max_lag = \"4s\", lag_soft = \"1s\", on_split = \"deny\", role_grace = \"200ms\"";
    let ringway = Ringway::start(&ground, &cluster.config(&ground, check, ""));
    await_roles(&ringway, ["primary", "replica", "replica"]);

    // One falls behind: its share falls, then it is none; the sessions it has stay.
    cluster.servers[1].sql("STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = 3600; START SLAVE");
    // A check may have seen it stopped.
    let checks = || ringway.metric("ringway_check_total", &[("server", "db2")]);
    let until_now = checks();
    await_that("later checks", || checks() >= until_now + 2.0 && role(&ringway, 2, "replica"));
    let mut held: Vec<Client> = (0..8).map(|_| Client::connect(cluster.read).expect("a replica")).collect();
    cluster.servers[0].sql("INSERT INTO shop.log VALUES (1, 1)");
    let share = || ringway.metric("ringway_server_share", &[("server", "db2")]);
    await_that("db2 to lose a part of its share", || share() > 0.0 && share() < 1.0);
    await_that("db2 to be too far behind", || role(&ringway, 2, "none"));
    assert!(lag_s(&ringway, 2) >= Some(4), "and how far it is: {:?}", lag_s(&ringway, 2));
    let lag = |server: &str| ringway.metrics().by("ringway_server_lag_seconds", "server").get(server).copied();
    assert!(lag("db2") >= Some(4.0), "{:?}", lag("db2"));
    assert_eq!((lag_s(&ringway, 1), lag("db1")), (None, None), "a primary is behind nobody");
    assert_eq!(answering(cluster.read), [3]);
    let ids: Vec<usize> = held.iter_mut().filter_map(|client| client.server().ok()).collect();
    assert!(ids.contains(&2) && ids.contains(&3), "{ids:?}");
    // Behind it keeps what it has; broken, too, it does not.
    cluster.servers[1].sql("STOP SLAVE SQL_THREAD");
    await_that("the sessions of db2 to go", || held.iter_mut().all(|client| client.server().ok() != Some(2)));
    held.retain_mut(|client| client.server().is_ok());
    cluster.servers[1].sql("STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = 0; START SLAVE");
    await_that("db2 to catch up", || role(&ringway, 2, "replica") && share() == 1.0);
    await_that("its lag to say so", || lag_s(&ringway, 2) == Some(0));

    // Broken replication is no replication; its sessions go.
    let mut on_three = loop {
        // Those who are elsewhere stay, too: the least loaded is chosen.
        let mut client = Client::connect(cluster.read).expect("a replica");
        if client.server().expect("a replica") == 3 {
            break client;
        }
        held.push(client);
    };
    cluster.servers[2].sql("STOP SLAVE SQL_THREAD");
    await_that("db3 to have no role", || role(&ringway, 3, "none"));
    let why = "! db/db3 has no role: its replication is broken";
    await_that("the status to say why", || told(&ringway, &["status"]).contains(why));
    let explained = told(&ringway, &["explain", "--listener", "read"]);
    assert!(
        explained.contains("it is not a replica, which the listener wants: its replication is broken"),
        "{explained}"
    );
    assert_eq!(answering(cluster.read), [2]);
    await_that("its sessions to go", || on_three.server().is_err());
    assert_eq!((lag_s(&ringway, 3), lag("db3")), (None, None), "how far it is behind nobody knows");

    // None is left: reads are refused, and after a reload go to the primary. Roles are kept over it.
    cluster.servers[1].sql("STOP SLAVE");
    await_that("db2 to have no role", || role(&ringway, 2, "none"));
    assert!(Client::connect(cluster.read).is_err());
    ringway.reload_with(&cluster.config(&ground, check, "fallback = \"primary\""));
    assert_eq!(answering(cluster.read), [1]);
    assert_eq!(answering(cluster.write), [1]);
    for replica in [1, 2] {
        cluster.servers[replica].sql("START SLAVE");
    }
    await_roles(&ringway, ["primary", "replica", "replica"]);
    assert_eq!(answering(cluster.read), [2, 3]);

    // Two take writes, and on_split = "deny": nobody gets any until one gives in.
    cluster.servers[1].sql("STOP SLAVE; SET GLOBAL read_only = 0");
    ringway.await_metric("ringway_split_brain", &[], |split| split == 1.0);
    assert!(role(&ringway, 1, "none") && role(&ringway, 2, "none"));
    assert!(Client::connect(cluster.write).is_err());
    cluster.servers[1].sql("SET GLOBAL read_only = 1; START SLAVE");
    await_roles(&ringway, ["primary", "replica", "replica"]);
    assert_eq!(answering(cluster.write), [1]);

    // A password that is wrong takes nobody's role away.
    fs::write(ground.file("password"), "falsch\n").expect("own directory");
    cluster.servers[0].sql("KILL USER lb");
    cluster.servers[1].sql("KILL USER lb");
    await_that("checks to be refused", || {
        ringway.metric("ringway_server_state", &[("server", "db1"), ("state", "down")]) == 1.0
            && ringway.metric("ringway_server_state", &[("server", "db2"), ("state", "down")]) == 1.0
    });
    assert_eq!((answering(cluster.write), answering(cluster.read)), (vec![1], vec![2, 3]));
    drop(held);
    ringway.end_well();
}

/// T37 and T38 through the daemon: what a server sees of it are whole logins and farewells.
#[test]
fn a_server_sees_whole_logins_only() {
    let ground = Ground::new();
    let cluster = Cluster::start(&ground);
    let config = cluster.config(&ground, "max_lag = \"10s\"", "");
    let mut ringway = Ringway::start(&ground, &config);
    await_roles(&ringway, ["primary", "replica", "replica"]);
    let count = |name: &str| cluster.servers[0].sql(&format!("SHOW GLOBAL STATUS LIKE '{name}'"));
    let (connects, clients) = (count("Aborted_connects"), count("Aborted_clients"));
    let checks = || ringway.metric("ringway_check_total", &[("server", "db1"), ("result", "ok")]);
    let begun = checks();
    await_that("forty rounds", || checks() >= begun + 40.0);
    let users = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'lb'";
    assert_eq!(cluster.servers[0].sql(users), "1", "one connection for all of them");
    // A reload that changes the question leaves with a farewell, and so does the end.
    ringway.reload_with(&config.replace("user = \"lb\"", "user = \"repl\""));
    await_that("the connection to be gone", || cluster.servers[0].sql(users) == "0");
    ringway.reload_with(&config);
    await_roles(&ringway, ["primary", "replica", "replica"]);
    await_that("a connection", || cluster.servers[0].sql(users) == "1");
    ringway.signal(Signal::SIGTERM);
    assert!(ringway.wait().success());
    await_that("the connection to be gone", || cluster.servers[0].sql(users) == "0");
    assert_eq!(count("Aborted_clients"), clients);
    // `repl` has another password: refused, each counts as such.
    let refused = |text: String| text.rsplit('\t').next().and_then(|n| n.parse::<u64>().ok()).expect("a number");
    assert!(refused(count("Aborted_connects")) <= refused(connects) + 40, "refused logins only");
}

/// While there is no primary writes wait for one, and none of them fails; reads do not wait for them.
#[test]
fn writes_wait_for_a_primary() {
    let ground = Ground::new();
    let mut cluster = Cluster::start(&ground);
    let config = cluster.config(&ground, "role_grace = \"1s\"", "");
    let queue = "kind = \"mysql\"\nqueue = { limit = 100, timeout = \"1m\" }\n";
    let ringway = Ringway::start(&ground, &config.replace("kind = \"mysql\"\n", queue));
    await_roles(&ringway, ["primary", "replica", "replica"]);
    let await_waiting = |count: f64| {
        ringway.await_metric("ringway_queue_sessions", &[("pool", "db")], |waiting| waiting == count);
    };
    let write = cluster.write;
    let ask = move || Client::connect(write).and_then(|mut client| client.server());

    [1, 2].into_iter().for_each(|replica| cluster.caught_up(replica, 0));
    cluster.servers[0].crash();
    std::thread::scope(|scope| {
        // Those who come before it is found out are refused by it, and wait for another.
        let early: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        await_waiting(4.0);
        ringway.await_metric("ringway_server_state", &[("server", "db1"), ("state", "down")], |is| is == 1.0);
        let late: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        await_waiting(8.0);
        assert_eq!(answering(cluster.read), [2, 3], "reads wait for nobody");
        assert_eq!(ringway.metric("ringway_queue_sessions", &[("pool", "db")]), 8.0);
        cluster.promote(1);
        for client in early.into_iter().chain(late) {
            assert_eq!(client.join().expect("no panic").expect("the promoted one"), 2);
        }
    });
    cluster.follow(2, 1);
    await_roles(&ringway, ["none", "primary", "replica"]);

    // Between two primaries nobody has the role, and there is nothing to be tried.
    cluster.servers[1].sql("SET GLOBAL read_only = 1");
    await_that("db2 to be demoted", || role(&ringway, 2, "none"));
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
        await_waiting(3.0);
        assert_eq!(answering(cluster.read), [3]);
        let told = ringway.verb(&["explain", "--listener", "write", "--source", "10.0.0.1"]).stdout;
        let told = String::from_utf8(told).expect("UTF-8");
        assert!(told.contains("no server has the role: it waits in the queue, behind 3 others"), "{told}");
        cluster.servers[1].sql("SET GLOBAL read_only = 0");
        for client in writers {
            assert_eq!(client.join().expect("no panic").expect("the primary again"), 2);
        }
    });
    ringway.await_event("writes wait in the queue");
    for reason in ["no_server", "connect_refused", "queue_full", "queue_timeout"] {
        assert_eq!(ringway.ended(reason), 0.0, "{reason}");
    }
    assert_eq!(ringway.metric("ringway_queued_total", &[]), 11.0);
    ringway.end_well();
}

/// The primary goes and comes back as what it was, with nobody promoted in between. Who has been refused by it meanwhile is
/// served by it, whether or not anybody noticed that it was gone.
#[test]
fn writes_wait_for_the_same_primary_too() {
    let ground = Ground::new();
    let mut db = MariaDb::start(&ground, "db1");
    db.sql("CREATE USER lb@'%' IDENTIFIED BY 'geheim'; GRANT REPLICA MONITOR ON *.* TO lb@'%'");
    let (password, write) = (ground.file("password"), ground.address());
    fs::write(&password, "geheim\n").expect("own directory");
    let config = |fall: u32| {
        let server = [format!("{{ name = \"db1\", address = \"{}\" }}", db.address())];
        let lines = format!(
            "kind = \"mysql\"\nqueue = {{ limit = 100, timeout = \"1m\" }}\ncheck = {{ type = \"mysql\", user = \"lb\", \
             password_file = \"{}\", interval = \"100ms\", timeout = \"800ms\", fall = {fall} }}",
            password.display()
        );
        listener("write", &write.to_string(), "db").trim_end().to_owned()
            + "\nrole = \"primary\"\n\n"
            + &pool("db", &server, &lines)
    };
    let (noticed, unnoticed) = (config(3), config(100));
    let ringway = Ringway::start(&ground, &noticed);
    await_that("a primary", || role(&ringway, 1, "primary"));
    let is_down = || ringway.metric("ringway_server_state", &[("server", "db1"), ("state", "down")]) == 1.0;
    let await_waiting = |count: f64| {
        ringway.await_metric("ringway_queue_sessions", &[("pool", "db")], |waiting| waiting == count);
    };
    let ask = move || Client::connect(write).and_then(|mut client| client.server());

    for is_noticed in [true, false] {
        if !is_noticed {
            ringway.reload_with(&unnoticed);
            await_that("it to be up again", || !is_down());
        }
        db.crash();
        std::thread::scope(|scope| {
            let mut waiting: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
            await_waiting(3.0);
            if is_noticed {
                await_that("it to be found out", is_down);
                waiting.extend((0..3).map(|_| scope.spawn(ask)));
                await_waiting(6.0);
            }
            db.start_again();
            for client in waiting {
                assert_eq!(client.join().expect("no panic").expect("the same primary"), 1);
            }
        });
        assert!(is_noticed || !is_down(), "it was away for less than a hundred rounds");
    }
    let records = ringway.await_records(9);
    assert!(
        records.iter().all(|record| record["reason"] == "done" && record["attempts"].as_u64() >= Some(2)),
        "{records:?}"
    );
    ringway.end_well();
}
