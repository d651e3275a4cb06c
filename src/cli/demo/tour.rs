//! The scenes of the tour. Each says what it is about to do, does it, and checks what came of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::backend::Backend;
use super::stage::Stage;
use crate::cli::out::print;
use crate::control::guest::{Guest, Options};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything on stage.
#[derive(Debug)]
pub(super) struct Theatre {
    guest: Guest,
    address: SocketAddr,
    admin: SocketAddr,
    directory: std::path::PathBuf,
    coral: Backend,
    indigo: Option<Backend>,
    indigo_address: SocketAddr,
}

/// Starts two servers and the balancer.
pub(super) fn open(stage: &Stage) -> anyhow::Result<Theatre> {
    stage.scene("Two web servers and ringway, all on loopback");
    let coral = Backend::start("coral", 0).context("cannot start a web server")?;
    let indigo = Backend::start("indigo", 0).context("cannot start a web server")?;
    let (address, admin) = (free_address(8080)?, free_address(9145)?);
    let directory = std::env::temp_dir().join(format!("ringway-demo-{}", std::process::id()));
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let indigo_address = indigo.address;
    let theatre = Theatre {
        guest: Guest::start(
            "demo.toml",
            &text(address, admin, &directory, &[("coral", coral.address), ("indigo", indigo_address)]),
            Options { admin: true, log: false },
        )?,
        address,
        admin,
        directory,
        coral,
        indigo: Some(indigo),
        indigo_address,
    };
    stage.line(&format!("  coral    {}", theatre.coral.address));
    stage.line(&format!("  indigo   {}", theatre.indigo_address));
    let status = theatre.guest.status();
    let workers = status.workers.len();
    let engine = &status.engine;
    stage.line(&format!(
        "  ringway  {}  ({workers} {}, {engine})",
        theatre.address,
        if workers == 1 { "worker" } else { "workers" }
    ));
    Ok(theatre)
}

impl Theatre {
    /// The whole tour.
    pub(super) fn play(&mut self, stage: &Stage) -> anyhow::Result<()> {
        self.requests_alternate(stage).context("requests were to alternate")?;
        self.a_server_dies(stage).context("a dying server was to go unnoticed")?;
        self.it_comes_back(stage).context("the server was to come back")?;
        self.a_reload_under_load(stage).context("a reload was to lose nothing")?;
        self.a_wrong_configuration(stage).context("a wrong configuration was to change nothing")
    }

    /// Where the balancer serves.
    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Where its status page is.
    pub(super) fn status_url(&self) -> String {
        format!("http://{}/", self.admin)
    }

    /// Drains and says what there was.
    pub(super) fn close(self, stage: &Stage) -> anyhow::Result<()> {
        let status = self.guest.status();
        let accepted: u64 = status.listeners.iter().map(|listener| listener.accepted).sum();
        let retries: u64 = status.pools.iter().map(|pool| pool.retries).sum();
        let outcome = self.guest.drain();
        let _ = std::fs::remove_dir_all(&self.directory);
        outcome?;
        stage.line(&format!("{accepted} sessions served, {retries} moved on to another server when one refused."));
        Ok(())
    }

    fn requests_alternate(&self, stage: &Stage) -> anyhow::Result<()> {
        stage.scene("Ten requests, each on a connection of its own");
        let shares = self.ask(stage, 10)?;
        ensure!(shares["coral"] == 5 && shares["indigo"] == 5, "got {shares:?}");
        stage.good("round robin: five each, exactly");
        Ok(())
    }

    fn a_server_dies(&mut self, stage: &Stage) -> anyhow::Result<()> {
        stage.scene("indigo dies");
        self.indigo = None;
        let shares = self.ask(stage, 10)?;
        ensure!(shares.get("coral") == Some(&10), "got {shares:?}");
        let retries: u64 = self.guest.status().pools.iter().map(|pool| pool.retries).sum();
        ensure!(retries >= 1, "no connect was tried again");
        stage.good(&format!("no request failed: {retries} were refused by indigo and went on to coral"));
        Ok(())
    }

    fn it_comes_back(&mut self, stage: &Stage) -> anyhow::Result<()> {
        stage.scene("indigo comes back");
        let indigo = Backend::start("indigo", self.indigo_address.port()).context("cannot start it again")?;
        self.indigo = Some(indigo);
        let shares = self.ask(stage, 10)?;
        ensure!(shares.get("indigo") == Some(&5), "got {shares:?}");
        stage.good("it has its share again");
        Ok(())
    }

    fn a_reload_under_load(&self, stage: &Stage) -> anyhow::Result<()> {
        stage.scene("A reload under load: amber joins, while requests pour in and one long session stays open");
        let amber = Backend::start("amber", 0).context("cannot start a web server")?;
        let two = [("coral", self.coral.address), ("indigo", self.indigo_address)];
        let three = [two[0], two[1], ("amber", amber.address)];
        let mut long = Visitor::enter(self.address)?;
        let host = long.ask()?;
        let (done, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let mut amber_got = 0;
        std::thread::scope(|scope| -> anyhow::Result<()> {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let outcome = if request(self.address).is_ok() { &done } else { &failed };
                        outcome.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let played = (|| {
                for round in 0..10 {
                    let servers: &[_] = if round % 2 == 0 { &three } else { &two };
                    let answer = self.guest.reload(&text(self.address, self.admin, &self.directory, servers));
                    ensure!(answer.applied, "{}", answer.report);
                    if round == 0 {
                        answer.changes.iter().for_each(|change| stage.line(&format!("  {change}")));
                        // The others' requests take turns too: which of these nine go to amber is chance, but of three
                        // in a row, whoever asked, one did.
                        self.ask(stage, 9)?;
                        amber_got = self.connects("amber");
                    }
                    ensure!(long.ask()? == host, "the long session changed servers");
                    stage.pause(100);
                }
                Ok(())
            })();
            over.store(true, Ordering::Relaxed);
            played
        })?;
        let (done, failed) = (done.into_inner(), failed.into_inner());
        ensure!(failed == 0, "{failed} of {} requests failed", done + failed);
        ensure!(amber_got > 0, "amber got nothing");
        stage.good(&format!("10 reloads, {done} requests meanwhile, none failed; the long session never left {host}"));
        Ok(())
    }

    fn a_wrong_configuration(&self, stage: &Stage) -> anyhow::Result<()> {
        stage.scene("A wrong configuration");
        let right = text(self.address, self.admin, &self.directory, &[("coral", self.coral.address)]);
        let answer = self.guest.reload(&right.replace("pool = \"web\"", "pool = \"wbe\""));
        ensure!(!answer.applied, "it was applied");
        answer.report.lines().for_each(|line| stage.line(&format!("  {line}")));
        let shares = self.ask(stage, 4)?;
        ensure!(shares.len() == 2, "got {shares:?}");
        stage.good("refused with the reason; what ran goes on");
        Ok(())
    }

    /// Connections a server has had.
    fn connects(&self, server: &str) -> u64 {
        let pools = self.guest.status().pools;
        let servers = pools.iter().flat_map(|pool| &pool.servers);
        servers.filter(|each| each.name == server).map(|each| each.connects).sum()
    }

    /// Asks `count` times and counts who answered.
    fn ask(&self, stage: &Stage, count: usize) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut shares = BTreeMap::new();
        stage.line("");
        print("  ");
        for _ in 0..count {
            let server = request(self.address)?;
            stage.answer(&server);
            *shares.entry(server).or_default() += 1;
        }
        stage.end_line();
        Ok(shares)
    }
}

/// A client that stays.
struct Visitor {
    stream: BufReader<TcpStream>,
}

impl Visitor {
    fn enter(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).context("cannot connect")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// One request on the connection that is open; the answer is the server's name.
    fn ask(&mut self) -> anyhow::Result<String> {
        self.stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: demo\r\n\r\n")?;
        let mut server = String::new();
        let mut length = 0;
        loop {
            let mut line = String::new();
            ensure!(self.stream.read_line(&mut line)? > 0, "the connection ended early");
            let Some((name, value)) = line.split_once(": ") else {
                if line.trim().is_empty() {
                    break;
                }
                continue;
            };
            match name {
                "Server" => value.trim().clone_into(&mut server),
                "Content-Length" => length = value.trim().parse()?,
                _ => {}
            }
        }
        self.stream.read_exact(&mut vec![0; length])?;
        Ok(server)
    }
}

/// One request on a connection of its own; the answer is the server's name.
fn request(address: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("cannot connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("the answer broke off")?;
    let name = answer.lines().find_map(|line| line.strip_prefix("Server: ")).context("there was no answer")?;
    Ok(name.to_owned())
}

/// The configuration of the demo. Nothing is ejected: each connect that fails is to be seen, and who comes back at once.
fn text(address: SocketAddr, admin: SocketAddr, directory: &std::path::Path, servers: &[(&str, SocketAddr)]) -> String {
    let servers: String =
        servers.iter().map(|(name, at)| format!("  {{ name = \"{name}\", address = \"{at}\" }},\n")).collect();
    format!(
        "[global]\ndrain_timeout = \"1s\"\n\n[admin]\nhttp = \"{admin}\"\nsocket = \"{}\"\n\n[listeners.web]\nbind = \
         \"{address}\"\npool = \"web\"\n\n[pools.web]\nservers = [\n{servers}]\neject = \"off\"\n",
        directory.join("admin.sock").display(),
    )
}

/// The usual port if it is free, else any that is.
fn free_address(usual: u16) -> anyhow::Result<SocketAddr> {
    let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr());
    free(usual).or_else(|_| free(0)).context("no port is free on loopback")
}
