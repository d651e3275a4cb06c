//! Where another thread is, and an end that nothing can hold up: signal-safety(7), tgkill(2), alarm(2).
//!
//! A thread that is stuck cannot be asked where it is, but it can be interrupted. The signal's handler walks its stack and
//! leaves bare addresses in static memory; it takes no lock and allocates nothing: `_Unwind_Backtrace` finds its tables
//! by `_dl_find_object` (glibc 2.35), and what it initialises once is initialised by [`arm`]. Names are looked up
//! later, on the thread that asked. Should the walk never end, only the stuck thread is stuck in it: [`capture`] waits for
//! a bounded time.

use std::ffi::c_int;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::stderr::{self, PIECE};

/// Deepest stack that is shown.
const FRAMES_MAX: usize = 64;
/// How long an interrupted thread may take to walk its stack.
const WALK: Duration = Duration::from_millis(500);

/// What the handler is at: one of the values below, or the id of the thread that is to walk.
static STATE: AtomicI32 = AtomicI32::new(IDLE);
const IDLE: i32 = 0;
const WALKING: i32 = -1;
const DONE: i32 = -2;

static FRAMES: [AtomicUsize; FRAMES_MAX] = [const { AtomicUsize::new(0) }; FRAMES_MAX];
static FOUND: AtomicUsize = AtomicUsize::new(0);

/// The signal that asks a thread where it is. Workers block all others.
pub(super) fn question() -> c_int {
    libc::SIGRTMIN()
}

/// Makes ready for [`capture`]: installs the handler and lets the unwinder initialise what it does once.
///
/// # Errors
/// What sigaction(2) said.
pub fn arm() -> Result<(), Errno> {
    // SAFETY: the closure stores nothing and runs on this thread alone; the walk itself has no other precondition than
    // that no second one runs at once, and before the handler is installed none can.
    unsafe { backtrace::trace_unsynchronized(|_| true) };
    handle(question(), answer)
}

/// The instruction addresses of a thread of this process (its gettid(2)), innermost first; `None` when it does not
/// answer, as in an uninterruptible system call.
pub fn capture(thread: i32) -> Option<Vec<usize>> {
    if STATE.load(Ordering::Acquire) == WALKING {
        return None; // an earlier walk never ended
    }
    STATE.store(thread, Ordering::Release);
    // SAFETY: takes integers only; the handler of the signal is installed by `arm`.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, question()) };
    let deadline = Instant::now() + WALK;
    while sent == 0 && STATE.load(Ordering::Acquire) != DONE && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    if STATE.compare_exchange(DONE, IDLE, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        // A signal that comes now finds that nobody wants to know any more; a walk under way is left to itself.
        let _ = STATE.compare_exchange(thread, IDLE, Ordering::AcqRel, Ordering::Relaxed);
        return None;
    }
    let found = FOUND.load(Ordering::Acquire).min(FRAMES_MAX);
    Some(FRAMES[..found].iter().map(|frame| frame.load(Ordering::Relaxed)).collect())
}

/// The handler: walks the stack it interrupts.
extern "C" fn answer(_: c_int) {
    let errno = Errno::last_raw();
    // SAFETY: gettid takes nothing and cannot fail.
    let thread = unsafe { libc::syscall(libc::SYS_gettid) } as i32;
    if STATE.compare_exchange(thread, WALKING, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        let mut found = 0;
        // SAFETY: `STATE` lets one walk run at a time; the closure takes no lock and allocates nothing.
        unsafe {
            backtrace::trace_unsynchronized(|frame| {
                FRAMES[found].store(frame.ip() as usize, Ordering::Relaxed);
                found += 1;
                found < FRAMES_MAX
            });
        }
        FOUND.store(found, Ordering::Release);
        STATE.store(DONE, Ordering::Release);
    }
    Errno::set_raw(errno);
}

/// The names of what stands at `frames`, one line each, without those of the interruption itself. Takes locks and memory:
/// not for a handler, and behind [`abort_within`] when the process is in doubt.
pub fn names(frames: &[usize]) -> Vec<String> {
    let mut lines = Vec::with_capacity(frames.len());
    for &address in frames.iter().filter(|&&address| address != 0) {
        let before = lines.len();
        backtrace::resolve(address as *mut _, |symbol| {
            let name = symbol.name().map_or_else(|| "?".to_owned(), |name| format!("{name:#}"));
            let file = symbol.filename().and_then(|file| file.file_name()).map(|file| file.to_string_lossy());
            lines.push(match (file, symbol.lineno()) {
                (Some(file), Some(line)) => format!("{name} ({file}:{line})"),
                _ => name,
            });
        });
        if lines.len() == before {
            lines.push(format!("{address:#x}"));
        }
    }
    // Behind the handler comes the trampoline it returns to (sigreturn(2)), and then what was interrupted.
    match lines.iter().position(|line| line.contains("sys::stack::answer")) {
        Some(handler) if handler + 2 < lines.len() => lines.split_off(handler + 2),
        _ => lines,
    }
}

/// Ends the process by abort(3) after so many seconds, whatever any thread is stuck in by then, unless [`go_on`] is
/// called first.
pub fn abort_within(seconds: u32) {
    extern "C" fn end(_: c_int) {
        // SAFETY: abort(3) is async-signal-safe and has no preconditions.
        unsafe { libc::abort() }
    }
    // It can fail only for a signal that does not exist.
    let _ = handle(libc::SIGALRM, end);
    let mut alarm = nix::sys::signal::SigSet::empty();
    alarm.add(nix::sys::signal::Signal::SIGALRM);
    let _ = alarm.thread_unblock();
    nix::unistd::alarm::set(seconds.max(1));
}

/// Takes [`abort_within`] back.
pub fn go_on() {
    nix::unistd::alarm::cancel();
}

/// Says addresses as offsets into the program, for addr2line(1): without memory or a lock, in case that is what is
/// stuck.
pub fn say_offsets(frames: &[usize]) {
    unsafe extern "C" {
        /// Where the linker put the beginning of the program.
        static __executable_start: u8;
    }
    let base = ptr::addr_of!(__executable_start) as usize;
    let mut text = io::Cursor::new([0_u8; PIECE]);
    let _ = write!(text, "ringway: offsets for addr2line -e:");
    for frame in frames {
        let _ = write!(text, " {:#x}", frame.wrapping_sub(base));
    }
    let _ = writeln!(text);
    let length = usize::try_from(text.position()).unwrap_or(PIECE).min(PIECE);
    stderr::say(std::str::from_utf8(&text.get_ref()[..length]).unwrap_or_default());
}

/// Blocks every signal on the calling thread but the one that asks where it is: they are for the control thread.
///
/// # Errors
/// The errno of pthread_sigmask(3), which has none for this use.
pub fn block_signals() -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set it is given; sigdelset and pthread_sigmask read and change no other memory.
    let done = unsafe {
        libc::sigfillset(set.as_mut_ptr());
        libc::sigdelset(set.as_mut_ptr(), question());
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(done)) }
}

fn handle(signal: c_int, handler: extern "C" fn(c_int)) -> Result<(), Errno> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: an all-zero sigaction is a valid one; its mask is initialised by sigemptyset, and the handler stays where it
    // is for the life of the process. Interrupted calls go on (SA_RESTART) where they can.
    let done = unsafe {
        let action = action.assume_init_mut();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(signal, action, ptr::null_mut())
    };
    Errno::result(done).map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[inline(never)]
    fn stuck_here(gate: &std::sync::mpsc::Receiver<()>) {
        let _ = gate.recv();
        std::hint::black_box(());
    }

    #[test]
    fn a_stuck_thread_is_found_where_it_is() {
        arm().expect("a handler");
        let (tell, told) = channel();
        let (open, gate) = channel();
        let thread = std::thread::spawn(move || {
            block_signals().expect("blocked");
            tell.send(nix::unistd::gettid().as_raw()).expect("heard");
            stuck_here(&gate);
        });
        let id = told.recv().expect("told");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let names = names(&capture(id).expect("it answers"));
            assert!(!names.iter().any(|name| name.contains("answer")), "{names:?}");
            if names.iter().any(|name| name.contains("stuck_here")) {
                break;
            }
            assert!(Instant::now() < deadline, "never found where it is: {names:?}");
        }
        drop(open);
        thread.join().expect("it goes on as if nothing had been");
        assert_eq!(capture(id), None, "a thread that is gone does not answer");
    }

    #[test]
    fn last_words_never_wait() {
        stderr::say("");
        say_offsets(&[0, usize::MAX]);
    }
}
