//! A child that ends with the test, whatever happens.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::facts::{await_some, lines_of};

/// A running child whose output goes to a file.
pub struct Process {
    child: Child,
    output: PathBuf,
    name: String,
}

impl Process {
    /// Starts it. It is killed when it is dropped, and by the kernel when the thread that started it ends.
    pub fn start(name: &str, command: &mut Command, output: &Path) -> Self {
        let out = File::options().create(true).append(true).open(output).expect("a file for the output");
        command
            .env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin")
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a second handle"))
            .stderr(out);
        // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
        }
        let child =
            command.spawn().unwrap_or_else(|error| panic!("{name} does not start ({error}): run scripts/setup"));
        Self { child, output: output.to_owned(), name: name.to_owned() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).unwrap_or_else(|error| panic!("{}: {signal}: {error}", self.name));
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours")
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let what = format!("{} to end", self.name);
        await_some(&what, || self.ended())
    }

    /// Fails with its output if it has ended.
    pub fn must_live(&mut self) {
        if let Some(status) = self.ended() {
            panic!("{} ended ({status}):\n{}", self.name, self.said().join("\n"));
        }
    }

    /// What it has printed.
    pub fn said(&self) -> Vec<String> {
        lines_of(&self.output)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended long ago: then there is nothing to kill, and nothing wrong.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let said = self.said();
            let last = said.len().saturating_sub(60);
            eprintln!("--- {} said:\n{}", self.name, said[last..].join("\n"));
        }
    }
}
