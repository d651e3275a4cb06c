//! The ground of one test: a directory and a loopback address nobody else has.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;

/// Directory and address of one test.
pub struct Ground {
    place: TempDir,
    ip: Ipv4Addr,
    next_port: AtomicU32,
}

/// Below the ports the kernel gives to clients.
const PORTS: std::ops::Range<u32> = 10_000..30_000;

impl Ground {
    /// Fresh ground. Other users may look into the directory: daemons that drop root need to.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let place = TempDir::with_prefix("ringway-e2e-").expect("a directory below TMPDIR");
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o777)).expect("own directory");
        let byte = |value: u32| u8::try_from(value % 250 + 1).expect("below 251");
        Self {
            place,
            ip: Ipv4Addr::new(127, 100 + byte(pid / 250) % 100, byte(pid), byte(count)),
            next_port: AtomicU32::new(PORTS.start),
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.place.path()
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// An address of this test nobody listens on.
    pub fn address(&self) -> SocketAddr {
        loop {
            let port = self.next_port.fetch_add(1, Ordering::Relaxed);
            assert!(PORTS.contains(&port), "no free port on {}", self.ip);
            let address = SocketAddr::from((self.ip, u16::try_from(port).expect("below 30000")));
            if TcpListener::bind(address).is_ok() {
                return address;
            }
        }
    }
}

/// Runs a test on a network of its own, where only the loopback device is: its threads and processes are in it, and it
/// goes when they are gone.
pub fn in_own_network<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    need_root();
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        command_succeeds(Command::new("ip").args(["link", "set", "lo", "up"]));
        body()
    };
    match std::thread::scope(|scope| scope.spawn(run).join()) {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Fails, rather than skips, a test that cannot run as anybody else.
pub fn need_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: sudo ./scripts/test e2e");
}

/// Lets this process, which is both the clients and the servers of a test, have as many descriptors as a crowd needs.
pub fn many_descriptors() {
    need_root();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    let wanted = hard.max(16_384);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).expect("root may raise it");
    }
}

/// Fails a test whose tool is not installed.
pub fn need(tool: &str) {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    assert!(
        path.split(':').any(|dir| Path::new(dir).join(tool).exists()) || Path::new(tool).exists(),
        "{tool} is missing: run scripts/setup"
    );
}

/// Runs a command to its end; its output is the message when it fails.
pub fn command_succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said
}
