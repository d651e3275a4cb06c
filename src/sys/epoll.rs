//! epoll(7) and eventfd(2).
//!
//! Registrations are named by bare descriptors, as in [`super::bytes`], and carry 64 bits of the caller's that come back
//! with each report. Closing the last descriptor of a socket takes it out of every epoll instance it is in.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An epoll instance.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
    /// The kernel has no epoll_pwait2(2) (Linux 5.11), or a filter that does not know it: timeouts are whole milliseconds.
    coarse: Cell<bool>,
}

/// An instance that tokio watches.
pub struct Lent<'a>(AsyncFd<Borrowed<'a>>);

struct Borrowed<'a>(&'a Epoll);

/// What [`Epoll::wait`] writes its reports to: room for a fixed number, used again for each call.
pub struct Reports {
    room: Box<[libc::epoll_event]>,
    count: usize,
}

impl std::fmt::Debug for Reports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reports").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Reports {
    /// Room for `count` reports a call.
    pub fn with_room(count: usize) -> Self {
        Self { room: vec![libc::epoll_event { events: 0, u64: 0 }; count].into(), count: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// One of them: the events (`EPOLLIN` …) and the data of the registration.
    #[inline]
    pub fn of(&self, index: usize) -> (u32, u64) {
        let libc::epoll_event { events, u64: data } = self.room[index];
        (events, data)
    }
}

impl Epoll {
    /// epoll_create1(2), close-on-exec.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: takes an integer only.
        let fd = Errno::result(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, coarse: Cell::new(false) })
    }

    /// Registers `fd` for `events`, to be reported with `data` (`EPOLL_CTL_ADD`).
    ///
    /// # Errors
    /// `ENOSPC` (`fs.epoll.max_user_watches`), `ENOMEM`, `EEXIST`, `EBADF`.
    #[inline]
    pub fn add(&self, fd: RawFd, events: i32, data: u64) -> Result<(), Errno> {
        self.control(libc::EPOLL_CTL_ADD, fd, events, data)
    }

    /// Changes what `fd` is registered for (`EPOLL_CTL_MOD`); what is so already is reported again.
    ///
    /// # Errors
    /// `ENOENT`, `ENOMEM`, `EBADF`.
    #[inline]
    pub fn change(&self, fd: RawFd, events: i32, data: u64) -> Result<(), Errno> {
        self.control(libc::EPOLL_CTL_MOD, fd, events, data)
    }

    /// Takes `fd` out (`EPOLL_CTL_DEL`). An error says that it was not in.
    pub fn remove(&self, fd: RawFd) {
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, 0);
    }

    fn control(&self, operation: libc::c_int, fd: RawFd, events: i32, data: u64) -> Result<(), Errno> {
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: data };
        // SAFETY: epoll_ctl reads `event`, which lives to the end of the call.
        let done = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, ptr::from_mut(&mut event)) };
        Errno::result(done).map(drop)
    }

    /// Waits until there is something to report, as long as `timeout` says (`None`: for ever), and writes the reports to
    /// `reports`, in place of those of the last call.
    ///
    /// # Errors
    /// `EINTR`, and what should not happen (`EBADF`, `EFAULT`).
    pub fn wait(&self, timeout: Option<Duration>, reports: &mut Reports) -> Result<(), Errno> {
        reports.count = 0;
        if !self.coarse.get() {
            match self.wait_fine(timeout, reports) {
                Err(Errno::ENOSYS | Errno::EPERM) => self.coarse.set(true),
                done => return done,
            }
        }
        self.wait_coarse(timeout, reports)
    }

    fn wait_fine(&self, timeout: Option<Duration>, reports: &mut Reports) -> Result<(), Errno> {
        let timespec = timeout.map(|timeout| libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let room = libc::c_int::try_from(reports.room.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the kernel writes at most `room` events to `reports.room`, which has as many; the timespec, if any, lives
        // to the end of the call; a null mask asks for none.
        let done = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                reports.room.as_mut_ptr(),
                room,
                timespec.as_ref().map_or(ptr::null(), ptr::from_ref),
                ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        reports.count = usize::try_from(Errno::result(done)?).unwrap_or(0);
        Ok(())
    }

    /// Lends it to tokio, within a runtime, until what is returned is dropped.
    ///
    /// # Errors
    /// `ENOMEM`, `ENOSPC`.
    pub fn lend(&self) -> io::Result<Lent<'_>> {
        // SAFETY: the descriptor is that of `self`, which is borrowed as long as what is made here lives, and keeps it open.
        let registered = unsafe { AsyncFd::register_with_interest(Borrowed(self), Interest::READABLE) };
        registered.map(Lent).map_err(|refused| refused.into_parts().1)
    }

    /// Rounded up: a deadline is never too early.
    fn wait_coarse(&self, timeout: Option<Duration>, reports: &mut Reports) -> Result<(), Errno> {
        let ms = |timeout: Duration| libc::c_int::try_from(timeout.as_nanos().div_ceil(1_000_000));
        let timeout = timeout.map_or(-1, |timeout| ms(timeout).unwrap_or(libc::c_int::MAX));
        let room = libc::c_int::try_from(reports.room.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the kernel writes at most `room` events to `reports.room`, which has as many.
        let done = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), reports.room.as_mut_ptr(), room, timeout) };
        reports.count = usize::try_from(Errno::result(done)?).unwrap_or(0);
        Ok(())
    }
}

impl std::fmt::Debug for Lent<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lent").finish_non_exhaustive()
    }
}

impl Lent<'_> {
    /// Waits until something new is to be reported; [`Epoll::wait`] tells what.
    ///
    /// # Errors
    /// The runtime ends.
    pub async fn ready(&self) -> io::Result<()> {
        self.0.readable().await.map(|mut ready| ready.clear_ready())
    }
}

impl AsRawFd for Borrowed<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsRawFd for Epoll {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// eventfd(2), non-blocking and close-on-exec: a counter that is readable once somebody has added to it.
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn counter() -> Result<OwnedFd, Errno> {
    // SAFETY: takes integers only.
    let fd = Errno::result(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds one to an eventfd, and so wakes whoever waits on it.
pub fn count_up(fd: RawFd) {
    let one = 1_u64;
    // Fails only on a counter that is full, after 2^64 - 2 of these, or on what is no eventfd.
    // SAFETY: write reads the eight bytes of `one`, which lives to the end of the call.
    unsafe { libc::write(fd, ptr::from_ref(&one).cast(), size_of::<u64>()) };
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn both_calls_wait_as_long_as_told_and_report_the_same() {
        for coarse in [false, true] {
            let (bell, mut reports) = (counter().expect("a counter"), Reports::with_room(4));
            let epoll = Epoll { coarse: Cell::new(coarse), ..Epoll::new().expect("an instance") };
            epoll.add(bell.as_raw_fd(), libc::EPOLLIN | libc::EPOLLET, 77).expect("registered");
            let began = Instant::now();
            epoll.wait(Some(Duration::from_micros(1_500)), &mut reports).expect("no signal comes");
            assert!(reports.is_empty() && began.elapsed() >= Duration::from_micros(1_500), "{:?}", began.elapsed());
            for _ in 0..3 {
                // An edge each time, though nobody reads the counter.
                count_up(bell.as_raw_fd());
                epoll.wait(None, &mut reports).expect("no signal comes");
                assert_eq!((reports.len(), reports.of(0)), (1, (libc::EPOLLIN as u32, 77)));
                epoll.wait(Some(Duration::ZERO), &mut reports).expect("no signal comes");
                assert!(reports.is_empty());
            }
            epoll.remove(bell.as_raw_fd());
            assert_eq!(epoll.change(bell.as_raw_fd(), libc::EPOLLIN, 77), Err(Errno::ENOENT));
        }
    }
}
