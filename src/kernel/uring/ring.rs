//! One ring and the system call that drives it.
//!
//! The `io-uring` crate maps the queues; the call itself is ours, because the crate's safe ones cannot both reap without
//! waiting (`IORING_ENTER_GETEVENTS` with nothing to wait for, which deferred task work needs) and use the registered ring.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::time::Duration;

use io_uring::{IoUring, cqueue, squeue, types};

use super::Errno;

/// A ring with its queues.
pub(super) struct Ring {
    uring: IoUring,
    /// Index of the ring in the thread's registered rings, or its descriptor when registering was refused.
    enter_fd: RawFd,
    enter_flags: u32,
    overflows: u64,
}

/// `struct io_uring_getevents_arg` (io_uring_enter(2), `IORING_ENTER_EXT_ARG`).
#[repr(C)]
struct GetEventsArg {
    sigmask: u64,
    sigmask_size: u32,
    pad: u32,
    timeout: u64,
}

const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const REGISTER_RING_FDS: libc::c_long = 20;

/// `struct io_uring_rsrc_update` (io_uring_register(2), `IORING_REGISTER_RING_FDS`).
#[repr(C)]
struct RingFdUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("fd", &self.descriptor()).finish_non_exhaustive()
    }
}

impl Ring {
    /// Takes a ring that is ready for use by this thread.
    pub(super) fn new(uring: IoUring) -> Self {
        let fd = uring.as_raw_fd();
        match register(fd) {
            Some(index) => Self { uring, enter_fd: index, enter_flags: ENTER_REGISTERED_RING, overflows: 0 },
            None => Self { uring, enter_fd: fd, enter_flags: 0, overflows: 0 },
        }
    }

    /// The ring's descriptor, for `MSG_RING` to it.
    pub(super) fn descriptor(&self) -> RawFd {
        self.uring.as_raw_fd()
    }

    /// Submits `requests` and waits for a completion as long as `timeout` says (`None`: for ever).
    ///
    /// # Errors
    /// Those of io_uring_enter(2) that do not pass by themselves.
    pub(super) fn enter(&mut self, requests: &mut Vec<squeue::Entry>, timeout: Option<Duration>) -> Result<(), Errno> {
        loop {
            let taken = self.push(requests)?;
            requests.drain(..taken);
            let last = requests.is_empty();
            self.call(if last { timeout } else { Some(Duration::ZERO) })?;
            // What does not fit is kept by the kernel until there is room (IORING_FEAT_NODROP), and the next call brings it.
            self.overflows += u64::from(self.uring.submission().cq_overflow());
            // A queue that takes nothing waits for its completions to be read: the next call goes on from here.
            if last || taken == 0 {
                return Ok(());
            }
        }
    }

    fn push(&mut self, requests: &[squeue::Entry]) -> Result<usize, Errno> {
        let mut queue = self.uring.submission();
        let room = (queue.capacity() - queue.len()).min(requests.len());
        // SAFETY: what the entries point to stays valid until they are submitted: only connect has a pointer, to an
        // address whose owner holds it while the connect is in flight (`Kernel::connect`), or to a static one.
        unsafe { queue.push_multiple(&requests[..room]) }.map_err(|_| Errno::EBUSY)?;
        Ok(room)
    }

    /// Calls since the last time this was asked that left completions behind for want of room.
    pub(super) fn take_overflows(&mut self) -> u64 {
        std::mem::take(&mut self.overflows)
    }

    /// The next completion that has arrived.
    #[inline]
    pub(super) fn next(&mut self) -> Option<cqueue::Entry> {
        self.uring.completion().next()
    }

    fn call(&mut self, timeout: Option<Duration>) -> Result<(), Errno> {
        let submit = self.uring.submission().len();
        let seen = !self.uring.completion().is_empty();
        let wait = u32::from(!seen && timeout != Some(Duration::ZERO));
        let timespec = timeout.filter(|_| wait == 1).map(types::Timespec::from);
        let argument = GetEventsArg {
            sigmask: 0,
            sigmask_size: 0,
            pad: 0,
            timeout: timespec.as_ref().map_or(0, |timespec| ptr::from_ref(timespec) as u64),
        };
        // SAFETY: the ring is ours alone; `argument` and the timespec it points to live to the end of the call; its size is
        // stated as IORING_ENTER_EXT_ARG requires.
        let done = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                submit as libc::c_uint,
                wait,
                ENTER_GETEVENTS | ENTER_EXT_ARG | self.enter_flags,
                ptr::from_ref(&argument),
                size_of::<GetEventsArg>(),
            )
        };
        if done >= 0 {
            return Ok(());
        }
        match Errno::last() {
            // Timed out; a signal; completions must be taken, or memory freed, first. What was not submitted is
            // submitted by the next call.
            Errno::ETIME | Errno::EINTR | Errno::EBUSY | Errno::EAGAIN => Ok(()),
            errno => Err(errno),
        }
    }
}

/// Registers the ring for enter calls of this thread; they need not look the descriptor up then.
fn register(fd: RawFd) -> Option<RawFd> {
    let mut update = RingFdUpdate { offset: u32::MAX, reserved: 0, data: u64::try_from(fd).ok()? };
    // SAFETY: one update is passed, as the count says; the kernel writes the index into its `offset`.
    let done =
        unsafe { libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_RING_FDS, ptr::from_mut(&mut update), 1) };
    if done == 1 { RawFd::try_from(update.offset).ok() } else { None }
}

/// The io_uring_setup(2) errno out of the crate's error.
pub(super) fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
