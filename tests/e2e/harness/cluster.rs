//! Three MariaDB servers that replicate by GTID, behind a port for writes and one for reads; and a client of theirs.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;

use ringway::health::mysql::{Happening, Line, Login, Password, Security, Table};

use super::facts::{PATIENCE, await_that, uninterrupted};
use super::ground::Ground;
use super::peers::MariaDb;
use super::ringway::{Ringway, listener, pool};

/// Three servers; db1 is the primary.
pub struct Cluster {
    /// db1, db2 and db3.
    pub servers: Vec<MariaDb>,
    /// The port for writes.
    pub write: SocketAddr,
    /// The port for reads.
    pub read: SocketAddr,
}

impl Cluster {
    /// Starts them; db2 and db3 follow db1, which takes writes.
    pub fn start(ground: &Ground) -> Self {
        let servers: Vec<MariaDb> = (1..=3)
            .map(|n| {
                let id = format!("--server-id={n}");
                let mut command = Command::new("mariadbd");
                command.args(["--no-defaults", "--skip-name-resolve", "--log-bin=binlog", "--log-slave-updates"]);
                command.args(["--gtid-strict-mode=1", "--binlog-format=ROW", "--read-only=1", &id]);
                MariaDb::start_at(ground, &format!("db{n}"), ground.address(), &mut command)
            })
            .collect();
        for server in &servers {
            server.sql(
                "CREATE USER lb@'%' IDENTIFIED BY 'geheim'; GRANT REPLICA MONITOR ON *.* TO lb@'%';
                 CREATE USER repl@'%' IDENTIFIED BY 'repl'; GRANT REPLICATION SLAVE ON *.* TO repl@'%';
                 CREATE TABLE shop.log (n INT PRIMARY KEY, server INT); RESET MASTER; SET GLOBAL gtid_slave_pos = ''",
            );
        }
        let cluster = Self { servers, write: ground.address(), read: ground.address() };
        cluster.follow(1, 0);
        cluster.follow(2, 0);
        cluster.servers[0].sql("SET GLOBAL read_only = 0");
        cluster
    }

    /// Makes a server a replica of another.
    pub fn follow(&self, replica: usize, primary: usize) {
        let at = self.servers[primary].address();
        self.servers[replica].sql(&format!(
            "STOP SLAVE; CHANGE MASTER TO MASTER_HOST = '{}', MASTER_PORT = {}, MASTER_USER = 'repl',
             MASTER_PASSWORD = 'repl', MASTER_CONNECT_RETRY = 1, MASTER_USE_GTID = slave_pos; START SLAVE",
            at.ip(),
            at.port()
        ));
    }

    /// Makes a replica the primary, as operators and their tools do.
    pub fn promote(&self, server: usize) {
        self.servers[server].sql("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = 0");
    }

    /// Waits until a replica has all that a primary has.
    pub fn caught_up(&self, replica: usize, primary: usize) {
        let position = self.servers[primary].sql("SELECT @@gtid_binlog_pos");
        let wait = format!("SELECT MASTER_GTID_WAIT('{position}', 20)");
        assert_eq!(self.servers[replica].sql(&wait), "0", "db{} follows", replica + 1);
    }

    /// A configuration of both ports, with more of the check and of the port for reads.
    pub fn config(&self, ground: &Ground, check: &str, read: &str) -> String {
        let password = ground.file("password");
        fs::write(&password, "geheim\n").expect("own directory");
        let entry = |(n, server): (usize, &MariaDb)| {
            format!("{{ name = \"db{}\", address = \"{}\" }}", n + 1, server.address())
        };
        let servers: Vec<String> = self.servers.iter().enumerate().map(entry).collect();
        let lines = format!(
            "kind = \"mysql\"\ncheck = {{ type = \"mysql\", user = \"lb\", password_file = \"{}\", \
             interval = \"100ms\", timeout = \"800ms\", fall = 3, {check} }}",
            password.display()
        );
        listener("write", &self.write.to_string(), "db").trim_end().to_owned()
            + "\nrole = \"primary\"\n\n"
            + listener("read", &self.read.to_string(), "db").trim_end()
            + &format!("\nrole = \"replica\"\n{read}\n\n")
            + &pool("db", &servers, &lines)
    }
}

/// A client that stays connected.
pub struct Client {
    stream: TcpStream,
    line: Line,
}

impl Client {
    /// Logs in.
    pub fn connect(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let password = Password::new("app".to_owned()).expect("no NUL");
        let login = Arc::new(Login { user: "app".to_owned(), password });
        let mut client = Self { stream, line: Line::new(login, Security::Off) };
        client.listen()?;
        Ok(client)
    }

    /// Asks one thing.
    pub fn ask(&mut self, sql: &str) -> io::Result<Table> {
        self.line.ask(sql);
        match self.listen()? {
            Happening::Answer(Ok(table)) => Ok(table),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }

    /// The server's id.
    pub fn server(&mut self) -> io::Result<usize> {
        let table = self.ask("SELECT @@server_id")?;
        let id = table.rows().next().and_then(|row| row.values().next().flatten()).map(str::parse);
        Ok(id.expect("a row").expect("a number"))
    }

    fn listen(&mut self) -> io::Result<Happening> {
        let broken = |fault: ringway::health::mysql::Fault| io::Error::other(fault.to_string());
        loop {
            let happened = self.line.advance();
            self.stream.write_all(&self.line.take_out())?;
            if let Some(happening) = happened.map_err(broken)? {
                return Ok(happening);
            }
            let mut bytes = [0; 4096];
            match uninterrupted(|| self.stream.read(&mut bytes))? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.line.received(&bytes[..count]).map_err(broken)?,
            }
        }
    }
}

/// Whether a server has a role now.
pub fn role(ringway: &Ringway, server: usize, role: &str) -> bool {
    let server = format!("db{server}");
    ringway.metric("ringway_server_role", &[("server", &server), ("role", role)]) == 1.0
}

/// Waits until each has its role.
pub fn await_roles(ringway: &Ringway, roles: [&str; 3]) {
    await_that(&format!("roles {roles:?}"), || (1..=3).all(|n| role(ringway, n, roles[n - 1])));
}
