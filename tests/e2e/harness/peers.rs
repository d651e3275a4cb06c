//! Clients and servers: scripted ones of our own, nginx and MariaDB.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::Signal;
use socket2::SockRef;

use super::certificates::Issued;
use super::facts::{PATIENCE, await_that};
use super::ground::{Ground, command_succeeds, need};
use super::process::Process;

/// A server in this process: one thread a connection, running a script.
pub struct Server {
    address: SocketAddr,
    door: TcpListener,
    closing: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on an address of the ground and runs `script` with each connection.
    pub fn new(ground: &Ground, script: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::at(ground.address(), script)
    }

    /// The same at a given address.
    pub fn at(address: SocketAddr, script: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = listen(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        let door = listener.try_clone().expect("a second handle");
        let closing = Arc::new(AtomicBool::new(false));
        let script = Arc::new(script);
        let accepting = std::thread::spawn({
            let closing = Arc::clone(&closing);
            move || {
                for stream in listener.incoming() {
                    if closing.load(Ordering::SeqCst) {
                        return;
                    }
                    let Ok(stream) = stream else { continue };
                    patient(&stream);
                    let script = Arc::clone(&script);
                    std::thread::spawn(move || script(stream));
                }
            }
        });
        Self { address, door, closing, accepting: Some(accepting) }
    }

    /// Gives back what it gets.
    pub fn echo(ground: &Ground) -> Self {
        Self::new(ground, echo)
    }

    /// Says its name to whoever connects, and hangs up.
    pub fn named(ground: &Ground, name: &'static str) -> Self {
        Self::new(ground, move |mut stream| drop(stream.write_all(name.as_bytes())))
    }

    /// Says its name to whoever connects, then echoes.
    pub fn named_echo(ground: &Ground, name: &'static str) -> Self {
        Self::new(ground, move |mut stream| {
            if stream.write_all(name.as_bytes()).is_ok() {
                echo(stream);
            }
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        // Ends the accept of a listening socket (Linux; accept(2) says EINVAL).
        SockRef::from(&self.door).shutdown(Shutdown::Both).expect("a listening socket");
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// A listening socket with a queue for a crowd. (The standard library's holds 128; a client that finds it full is connected
/// as far as it knows, and a server that speaks first does so seconds later.)
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Gives back what it gets, to its end.
pub fn echo(mut stream: TcpStream) {
    let Ok(mut out) = stream.try_clone() else {
        return;
    };
    // An error is how a connection may end; the client's side of the test judges it.
    let _ = io::copy(&mut stream, &mut out);
    let _ = out.shutdown(Shutdown::Write);
}

/// No read or write of a test waits for ever.
pub fn patient(stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
}

/// A connection that does not wait for ever.
pub fn connect(address: SocketAddr) -> TcpStream {
    try_connect(address).unwrap_or_else(|error| panic!("{address}: {error}"))
}

/// The same where it may be reset at once.
pub fn try_connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    patient(&stream);
    Ok(stream)
}

/// Connects and reads to the end: what a [`Server::named`] said, or "reset".
pub fn ask(address: SocketAddr) -> String {
    let mut said = String::new();
    match try_connect(address).and_then(|mut stream| stream.read_to_string(&mut said)) {
        Ok(_) => said,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => "reset".to_owned(),
        Err(error) => panic!("{address}: {error}"),
    }
}

/// Sends bytes and reads as many back.
pub fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(bytes)?;
    read_exactly(stream, bytes.len())
}

/// Reads so many bytes.
pub fn read_exactly(stream: &mut TcpStream, count: usize) -> io::Result<Vec<u8>> {
    let mut got = vec![0; count];
    stream.read_exact(&mut got)?;
    Ok(got)
}

/// Closes with an RST.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(stream);
}

/// What a read at the end of a connection says: 0 bytes, or the error.
pub fn end_of(stream: &mut TcpStream) -> Result<(), io::ErrorKind> {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(0) => Ok(()),
        Ok(n) => panic!("{n} bytes where the end was expected"),
        Err(error) => Err(error.kind()),
    }
}

/// A listening socket that nobody accepts from and whose queue is full: its SYNs are dropped, as by a host that is gone.
pub struct BlackHole {
    address: SocketAddr,
    _listener: socket2::Socket,
    _waiting: Vec<socket2::Socket>,
}

impl BlackHole {
    /// Fills the queue of a fresh listening socket.
    pub fn new(ground: &Ground) -> Self {
        let address = ground.address();
        let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let listener = socket();
        listener.bind(&address.into()).expect("a free address");
        listener.listen(0).expect("a queue of one");
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let filler = socket();
                filler.set_nonblocking(true).expect("a socket");
                // In progress, or dropped: both are meant.
                let _ = filler.connect(&address.into());
                filler
            })
            .collect();
        await_that("a full queue", || TcpStream::connect_timeout(&address, Duration::from_millis(150)).is_err());
        Self { address, _listener: listener, _waiting: waiting }
    }

    /// Where nobody answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// nginx as a web server that says its name in every answer.
pub struct Nginx {
    process: Process,
    address: SocketAddr,
}

impl Nginx {
    /// Starts one; `/` is its name, `/big` a mebibyte.
    pub fn start(ground: &Ground, name: &str) -> Self {
        Self::start_at(ground, name, ground.address())
    }

    /// The same at a given address, again perhaps.
    pub fn start_at(ground: &Ground, name: &str, address: SocketAddr) -> Self {
        let root = ground.file(name).join("www");
        fs::create_dir_all(&root).expect("own directory");
        fs::write(root.join("index.html"), name).expect("own directory");
        fs::write(root.join("big"), vec![b'x'; 1 << 20]).expect("own directory");
        let root = root.display();
        let server = format!("server {{ listen {address} backlog=1024; root {root}; add_header X-Served-By {name}; }}");
        Self::start_with(ground, name, address, &server)
    }

    /// One that speaks TLS: for each host some lines, and the certificate it has, if any. The first is for who names none.
    pub fn start_secure(ground: &Ground, name: &str, address: SocketAddr, hosts: &[(String, Option<&Issued>)]) -> Self {
        let mut servers = String::new();
        for (lines, issued) in hosts {
            let _ = write!(servers, "server {{ listen {address} ssl; {lines}");
            if let Some(Issued { certificate, key }) = issued {
                let (certificate, key) = (certificate.display(), key.display());
                let _ = write!(servers, "ssl_certificate {certificate}; ssl_certificate_key {key};");
            }
            servers += " }\n";
        }
        Self::start_with(ground, name, address, &servers)
    }

    /// One with these servers, one of them at the address.
    pub fn start_with(ground: &Ground, name: &str, address: SocketAddr, servers: &str) -> Self {
        need("nginx");
        let dir = ground.file(name);
        fs::create_dir_all(&dir).expect("own directory");
        let config = dir.join("nginx.conf");
        let dir_text = dir.display();
        let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
        fs::write(
            &config,
            format!(
                "daemon off; {user} worker_processes 1; pid {dir_text}/pid; error_log {dir_text}/error.log;\n\
                 events {{ worker_connections 4096; }}\n\
                 http {{ access_log off; keepalive_requests 1000000; client_body_temp_path {dir_text}/body;\n\
                 {servers} }}\n"
            ),
        )
        .expect("own directory");
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&dir).arg("-c").arg(&config).args(["-e", "stderr"]);
        let mut process = Process::start(name, &mut command, &dir.join("output"));
        await_that("nginx to serve", || {
            process.must_live();
            TcpStream::connect(address).is_ok()
        });
        Self { process, address }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its worker on TERM; killed, it would leave it behind.
        if self.process.ended().is_none() {
            self.process.signal(Signal::SIGTERM);
            self.process.wait();
        }
    }
}

/// A MariaDB server with a user `app` (password `app`) and a database `shop`.
pub struct MariaDb {
    process: Process,
    command: Command,
    output: PathBuf,
    address: SocketAddr,
    socket: PathBuf,
}

impl MariaDb {
    /// Makes a fresh one and waits until it answers.
    pub fn start(ground: &Ground, name: &str) -> Self {
        let skip = "--skip-name-resolve";
        Self::start_at(ground, name, ground.address(), Command::new("mariadbd").arg("--no-defaults").arg(skip))
    }

    /// The same at an address, begun with `command`: the daemon, its first options, and what starts it if need be.
    pub fn start_at(ground: &Ground, name: &str, address: SocketAddr, command: &mut Command) -> Self {
        need("mariadbd");
        need("mariadb-install-db");
        let dir = ground.file(name);
        fs::create_dir_all(&dir).expect("own directory");
        command_succeeds(Command::new("chown").arg("mysql").arg(&dir));
        let data = dir.join("data");
        command_succeeds(
            Command::new("mariadb-install-db")
                .args(["--no-defaults", "--user=mysql", "--skip-test-db"])
                .arg("--auth-root-authentication-method=normal")
                .arg(format!("--datadir={}", data.display()))
                .arg(format!("--tmpdir={}", dir.display())),
        );
        let socket = dir.join("sock");
        command
            .args(["--user=mysql", "--max-connections=300"])
            .args(["--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0"])
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--tmpdir={}", dir.display()))
            .arg(format!("--socket={}", socket.display()))
            .arg(format!("--pid-file={}", dir.join("pid").display()))
            .arg(format!("--bind-address={}", address.ip()))
            .arg(format!("--port={}", address.port()));
        let output = dir.join("output");
        let mut again = Command::new(command.get_program());
        again.args(command.get_args());
        let process = Process::start(name, command, &output);
        let mut made = Self { process, command: again, output, address, socket };
        made.await_answer();
        let mut sql = "CREATE DATABASE shop; CREATE USER app@'%' IDENTIFIED BY 'app'; ".to_owned();
        let _ = write!(sql, "GRANT ALL ON shop.* TO app@'%'; CREATE TABLE shop.who (name TEXT); ");
        let _ = write!(sql, "INSERT INTO shop.who VALUES ('{name}')");
        command_succeeds(&mut client(&made.socket, &sql));
        made
    }

    fn await_answer(&mut self) {
        await_that("MariaDB to answer", || {
            self.process.must_live();
            client(&self.socket, "SELECT 1").output().is_ok_and(|output| output.status.success())
        });
    }

    /// Ends it without a chance to tidy up.
    pub fn crash(&mut self) {
        self.process.signal(Signal::SIGKILL);
        self.process.wait();
    }

    /// Starts it again on the data it had.
    pub fn start_again(&mut self) {
        self.process = Process::start("again", &mut self.command, &self.output);
        self.await_answer();
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs SQL as its administrator; the answer without headings.
    pub fn sql(&self, sql: &str) -> String {
        command_succeeds(&mut client(&self.socket, sql)).trim().to_owned()
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        // Its data goes with the directory: no need to let it write anything down.
        if self.process.ended().is_none() {
            self.process.signal(Signal::SIGKILL);
        }
    }
}

/// MySQL 8 or 9, which scripts/setup unpacks beside everything.
pub struct MySql {
    process: Process,
    address: SocketAddr,
    dir: PathBuf,
}

impl MySql {
    /// Makes a fresh one at an address and waits until it answers; `wrapper` starts it, if it is not empty.
    pub fn start_at(ground: &Ground, address: SocketAddr, wrapper: &[&str], options: &[&str]) -> Self {
        const DAEMON: &str = "/usr/local/lib/ringway-tests/mysql/mysqld";
        need(DAEMON);
        let dir = ground.file("mysql");
        fs::create_dir_all(&dir).expect("own directory");
        command_succeeds(Command::new("chown").arg("mysql").arg(&dir));
        let with = |word: &str| format!("{word}={}", dir.display());
        let common = [
            "--no-defaults".to_owned(),
            "--user=mysql".to_owned(),
            with("--datadir") + "/data",
            with("--tmpdir"),
            "--mysqlx=OFF".to_owned(),
            "--secure-file-priv=".to_owned(),
            "--innodb-buffer-pool-size=32M".to_owned(),
        ];
        command_succeeds(Command::new(DAEMON).args(&common).arg("--initialize-insecure"));
        let mut words = wrapper.iter().copied().chain([DAEMON]);
        let mut command = Command::new(words.next().expect("the daemon at least"));
        command
            .args(words)
            .args(&common)
            .arg(with("--socket") + "/sock")
            .arg(with("--pid-file") + "/pid")
            .arg(format!("--bind-address={}", address.ip()))
            .arg(format!("--port={}", address.port()))
            .args(options);
        let mut process = Process::start("mysqld", &mut command, &dir.join("output"));
        await_that("MySQL to answer", || {
            process.must_live();
            client(&dir.join("sock"), "SELECT 1").output().is_ok_and(|output| output.status.success())
        });
        Self { process, address, dir }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its certificates are.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Runs SQL as its administrator; the answer without headings.
    pub fn sql(&self, sql: &str) -> String {
        command_succeeds(&mut client(&self.dir.join("sock"), sql)).trim().to_owned()
    }
}

impl Drop for MySql {
    fn drop(&mut self) {
        if self.process.ended().is_none() {
            self.process.signal(Signal::SIGKILL);
        }
    }
}

fn client(socket: &Path, sql: &str) -> Command {
    let mut command = Command::new("mariadb");
    command
        .args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"])
        .arg(format!("--socket={}", socket.display()))
        .args(["-e", sql]);
    command
}
