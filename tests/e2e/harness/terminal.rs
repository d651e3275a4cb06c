//! A program in a terminal: a pseudo-terminal, and what is on its screen.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::facts::await_some;

/// A program that runs in a terminal of its own.
pub struct Terminal {
    child: Killed,
    /// The end of the terminal where the keyboard and the screen are.
    near: File,
    /// All that was written to it.
    written: Arc<Mutex<Vec<u8>>>,
    size: (u16, u16),
}

impl Terminal {
    /// Starts a program in a terminal of so many columns and lines.
    pub fn start(command: &mut Command, columns: u16, lines: u16) -> Self {
        let (near, far) = open(columns, lines);
        let end = || far.try_clone().expect("a second handle");
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: between fork and exec only setsid(2), ioctl(2) and prctl(2) are called, which are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                if libc::ioctl(0, libc::TIOCSCTTY, 0) != 0 {
                    return Err(io::Error::last_os_error());
                }
                set_pdeathsig(Signal::SIGKILL).map_err(Into::into)
            });
        }
        let child = Killed(command.spawn().expect("the program under test"));
        // Ours would keep the terminal open when the program has ended: the reader below would never end.
        drop(far);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let written: Arc<Mutex<Vec<u8>>> = Arc::default();
        std::thread::spawn({
            let (mut screen, written) = (near.try_clone().expect("a second handle"), Arc::clone(&written));
            move || {
                let mut bytes = [0; 8192];
                // EIO is how the end of a terminal's other end reads (pty(7)).
                while let Ok(count @ 1..) = screen.read(&mut bytes) {
                    written.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&bytes[..count]);
                }
            }
        });
        Self { child, near, written, size: (columns, lines) }
    }

    /// Presses keys, as the bytes they send.
    pub fn press(&mut self, keys: &str) {
        self.near.write_all(keys.as_bytes()).expect("the terminal is open");
    }

    /// Makes the window another size.
    pub fn resize(&mut self, columns: u16, lines: u16) {
        self.size = (columns, lines);
        // SAFETY: the descriptor is open, and the last argument points to a window size (ioctl_tty(2)).
        let done = unsafe { libc::ioctl(self.near.as_raw_fd(), libc::TIOCSWINSZ, &window(columns, lines)) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
    }

    /// All that the program has written, control sequences included.
    pub fn written(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// The screen now.
    pub fn screen(&self) -> String {
        show(&self.written(), self.size)
    }

    /// Waits until the screen has all these words.
    pub fn await_words(&mut self, words: &[&str]) {
        let mut last = String::new();
        let what = format!("{words:?} on the screen");
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            await_some(&what, || {
                last = self.screen();
                words.iter().all(|word| last.contains(word)).then_some(())
            });
        }));
        assert!(found.is_ok(), "{what}; it shows:\n{last}");
    }

    /// Waits until the screen has a line that `suits`, and returns it.
    pub fn await_line(&self, what: &str, suits: impl Fn(&str) -> bool) -> String {
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            await_some(what, || self.screen().lines().find(|line| suits(line)).map(str::to_owned))
        }));
        found.unwrap_or_else(|_| panic!("gave up waiting for {what}; it shows:\n{}", self.screen()))
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.0.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("it lives");
    }

    /// Waits for the end of the program.
    pub fn wait(&mut self) -> ExitStatus {
        await_some("the program to end", || self.child.0.try_wait().expect("a child of ours"))
    }

    /// Whether lines are edited and echoed, as a shell needs it.
    pub fn is_cooked(&self) -> bool {
        // SAFETY: a termios of zeroes is one; the descriptor is open (termios(3)).
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: as above, and the pointer is to a termios of ours.
        let read = unsafe { libc::tcgetattr(self.near.as_raw_fd(), &mut settings) };
        assert_eq!(read, 0, "{}", io::Error::last_os_error());
        let wanted = libc::ICANON | libc::ECHO;
        settings.c_lflag & wanted == wanted
    }
}

/// Which part of a terminal goes away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Goes {
    /// All of it.
    Whole,
    /// What is written to; keys are read from another, which stays.
    Screen,
}

/// Runs a program in a terminal that does not control it, and takes that away as soon as it shows these words; how it ends.
pub fn in_a_terminal_that_goes(command: &mut Command, what: Goes, words: &str) -> ExitStatus {
    let (mut near, far) = open(80, 24);
    let end = || far.try_clone().expect("a second handle");
    let keyboard = (what == Goes::Screen).then(|| open(80, 24));
    let stdin = keyboard.as_ref().map_or_else(end, |(_, far)| far.try_clone().expect("a second handle"));
    command.stdin(stdin).stdout(end()).stderr(end());
    // SAFETY: between fork and exec only setsid(2) and prctl(2) are called, which are async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            set_pdeathsig(Signal::SIGKILL).map_err(Into::into)
        });
    }
    let mut child = Killed(command.spawn().expect("the program under test"));
    let mut written = Vec::new();
    while !String::from_utf8_lossy(&written).contains(words) {
        let mut bytes = [0; 8192];
        let count = near.read(&mut bytes).expect("the terminal is open at both ends");
        written.extend_from_slice(&bytes[..count]);
    }
    drop((near, far));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    await_some("the program to end", || child.0.try_wait().expect("a child of ours"))
}

/// A process that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended long ago: then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pseudo-terminal: where keyboard and screen are, and where the program is.
fn open(columns: u16, lines: u16) -> (File, File) {
    let (mut near, mut far) = (-1, -1);
    let size = window(columns, lines);
    // SAFETY: the first two point to integers of ours, the last to a window size; the others may be null (openpty(3)).
    let made = unsafe { libc::openpty(&mut near, &mut far, std::ptr::null_mut(), std::ptr::null(), &size) };
    assert_eq!(made, 0, "a pseudo-terminal: {}", io::Error::last_os_error());
    // SAFETY: both were just made, and belong to nobody else.
    let ends = unsafe { (File::from_raw_fd(near), File::from_raw_fd(far)) };
    // The program would keep its own terminal open.
    fcntl(&ends.0, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("an open file");
    fcntl(&ends.1, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("an open file");
    ends
}

fn window(columns: u16, lines: u16) -> libc::winsize {
    libc::winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// What a terminal shows after all that: text, and the few sequences that the programs under test use.
fn show(written: &str, (columns, lines): (u16, u16)) -> String {
    let (columns, lines) = (usize::from(columns), usize::from(lines));
    let blank = || vec![vec![' '; columns]; lines];
    let (mut cells, mut x, mut y) = (blank(), 0_usize, 0_usize);
    let mut rest = written.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => {
                match rest.next() {
                    Some('[') => {}
                    // Another set of characters is named.
                    Some('(' | ')') => {
                        rest.next();
                        continue;
                    }
                    _ => continue,
                }
                let mut arguments = String::new();
                let last = rest.by_ref().find(|c| {
                    let ends = ('@'..='~').contains(c);
                    arguments.extend((!ends).then_some(*c));
                    ends
                });
                let number = |i: usize| arguments.split(';').nth(i).and_then(|n| n.parse::<usize>().ok()).unwrap_or(1);
                match last {
                    Some('H') => (y, x) = (number(0) - 1, number(1) - 1),
                    Some('J') => cells = blank(),
                    Some('A') => y = y.saturating_sub(number(0)),
                    Some('B') => y += number(0),
                    Some('C') => x += number(0),
                    Some('D') => x = x.saturating_sub(number(0)),
                    Some('K') if y < lines => cells[y][x.min(columns)..].fill(' '),
                    _ => {}
                }
            }
            '\r' => x = 0,
            '\u{8}' => x = x.saturating_sub(1),
            '\n' => y += 1,
            c if c.is_control() => {}
            c => {
                if let Some(cell) = cells.get_mut(y).and_then(|line| line.get_mut(x)) {
                    *cell = c;
                }
                x += 1;
            }
        }
    }
    cells.into_iter().map(|line| line.into_iter().collect::<String>().trim_end().to_owned() + "\n").collect()
}
