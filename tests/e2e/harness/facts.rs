//! Waiting for facts, and reading them: metrics, access records, `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `fact` yields something; while it does not, it says what it waits for.
pub fn await_fact<T>(mut fact: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match fact() {
            Ok(found) => return found,
            Err(what) => assert!(Instant::now() < deadline, "gave up waiting for {what}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `fact` yields something.
pub fn await_some<T>(what: &str, mut fact: impl FnMut() -> Option<T>) -> T {
    await_fact(|| fact().ok_or_else(|| what.to_owned()))
}

/// Makes a system call again when it was interrupted, as reads with a timeout are when the process is stopped and goes on
/// (signal(7)).
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Waits until `fact` is true.
pub fn await_that(what: &str, mut fact: impl FnMut() -> bool) {
    await_some(what, || fact().then_some(()));
}

/// Lets `length` pass in which something must *not* happen. The only use of time as such.
pub fn watch_for(length: Duration, mut check: impl FnMut()) {
    let end = Instant::now() + length;
    while Instant::now() < end {
        check();
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Status and body of an HTTP answer.
pub fn http_get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    http_over(stream, "GET", path)
}

/// The same over a unix socket, which takes no port.
pub fn http_get_unix(socket: &Path, path: &str) -> io::Result<(u16, String)> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    http_over(stream, "GET", path)
}

/// One request and its answer, to the end of the stream.
pub fn http_over(mut stream: impl Read + Write, method: &str, path: &str) -> io::Result<(u16, String)> {
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    Ok((status, body))
}

/// One reading of `/metrics`.
#[derive(Clone, Debug)]
pub struct Metrics {
    series: Vec<(String, BTreeMap<String, String>, f64)>,
    text: String,
}

impl Metrics {
    /// Parses the text format.
    pub fn parse(text: &str) -> Self {
        let series = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').expect("a value");
                let (name, labels) = name.split_once('{').unwrap_or((name, "}"));
                let labels = labels
                    .trim_end_matches('}')
                    .split("\",")
                    .filter(|label| !label.is_empty())
                    .map(|label| {
                        let (key, value) = label.split_once("=\"").expect("key=\"value\"");
                        (key.to_owned(), value.trim_end_matches('"').to_owned())
                    })
                    .collect();
                (name.to_owned(), labels, value.parse().expect("a number"))
            })
            .collect();
        Self { series, text: text.to_owned() }
    }

    /// Sum of all series of `name` that carry these labels; 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).sum()
    }

    /// Whether there is such a series at all.
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.matching(name, labels).next().is_some()
    }

    /// The values of all series of `name`, by the value of one label.
    pub fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut values = BTreeMap::new();
        for (found, labels, value) in &self.series {
            if let (true, Some(key)) = (found == name, labels.get(label)) {
                *values.entry(key.clone()).or_default() += value;
            }
        }
        values
    }

    /// The text as it came.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn matching(&self, name: &str, wanted: &[(&str, &str)]) -> impl Iterator<Item = f64> {
        self.series
            .iter()
            .filter(move |(found, labels, _)| {
                found == name && wanted.iter().all(|(key, value)| labels.get(*key).is_some_and(|held| held == value))
            })
            .map(|(_, _, value)| *value)
    }
}

/// Lines of a file so far that are whole; none when it is not there yet, or is no file one can read to its end.
pub fn lines_of(file: &Path) -> Vec<String> {
    if !fs::metadata(file).is_ok_and(|about| about.is_file()) {
        return Vec::new();
    }
    let bytes = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}

/// Open descriptors of a process, in its table and in those of its workers.
pub fn fds_of(pid: u32) -> usize {
    let entries = |path: String| fs::read_dir(path).into_iter().flatten().flatten();
    let is_worker = |task: &Path| {
        let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
        name.strip_prefix("ringway-w").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    };
    let tasks = entries(format!("/proc/{pid}/task")).map(|task| task.path()).filter(|task| is_worker(task));
    let workers: usize = tasks.map(|task| entries(task.join("fd").display().to_string()).count()).sum();
    entries(format!("/proc/{pid}/fd")).count() + workers
}

/// A figure of `/proc/PID/status`, in kibibytes where it is memory.
pub fn status_of(pid: u32, key: &str) -> u64 {
    status_words(pid, key)
        .first()
        .and_then(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("/proc/{pid}/status has no number {key}"))
}

/// What stands behind a key of `/proc/PID/status`.
pub fn status_words(pid: u32, key: &str) -> Vec<String> {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// CPU time of the threads of a process, by their names.
pub fn cpu_by_thread(pid: u32) -> BTreeMap<String, Duration> {
    let mut spent: BTreeMap<String, Duration> = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("a living process").flatten() {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let times = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let ns = times.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
        *spent.entry(name.trim().to_owned()).or_default() += Duration::from_nanos(ns);
    }
    spent
}

/// CPU time of a process, over all its threads.
pub fn cpu_of(pid: u32) -> Duration {
    cpu_by_thread(pid).values().sum()
}

/// Whether anybody listens on an IPv4 address, without connecting to it.
pub fn is_listening(address: SocketAddr) -> bool {
    const LISTEN: &str = "0A";
    sockets_at(address, LISTEN) > 0
}

/// Connections at this end of an IPv4 address that nobody has closed.
pub fn connections_at(address: SocketAddr) -> usize {
    const ESTABLISHED: &str = "01";
    sockets_at(address, ESTABLISHED)
}

/// Sockets of an address in a state (`/proc/net/tcp`, in the network of this thread).
fn sockets_at(address: SocketAddr, state: &str) -> usize {
    let SocketAddr::V4(v4) = address else {
        panic!("{address} is not IPv4");
    };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port());
    fs::read_to_string("/proc/thread-self/net/tcp")
        .expect("a table of sockets")
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.get(1) == Some(&local.as_str()) && words.get(3) == Some(&state))
        .count()
}
