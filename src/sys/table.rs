//! A thread's own table of descriptors: close_range(2), `CLOSE_RANGE_UNSHARE`.
//!
//! While threads share a table, each system call on a descriptor takes a reference to its file and gives it back: two atomic
//! operations on a line other cores may hold (`__fget_light` in fs/file.c). In a table of its own it takes none.

use std::os::fd::RawFd;

use nix::errno::Errno;

/// Gives the calling thread a table of its own, with those descriptors of the process that it keeps and no others. Whoever
/// closes one of them from now on closes it in one table only.
///
/// # Errors
/// `ENOSYS` before Linux 5.9, `EPERM` by a seccomp filter, `ENOMEM`: the table stays as it was.
pub fn own(mut keep: Vec<RawFd>) -> Result<(), Errno> {
    keep.sort_unstable();
    keep.dedup();
    let above = keep.last().map_or(0, |&last| last + 1);
    close_range(above, RawFd::MAX, libc::CLOSE_RANGE_UNSHARE)?;
    let mut next = 0;
    for kept in keep {
        if next < kept {
            // What has worked once does not fail: these are numbers of ours, in order.
            close_range(next, kept - 1, 0)?;
        }
        next = kept + 1;
    }
    Ok(())
}

fn close_range(first: RawFd, last: RawFd, flags: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: only numbers are passed. Descriptors are closed in a table nobody else sees: `own` unshares it first.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    Errno::result(done).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read, Write};
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::sys::bytes;

    #[test]
    fn a_thread_with_its_own_table_has_what_it_keeps_and_disturbs_nobody() {
        let pipe = || -> (PipeReader, PipeWriter) { std::io::pipe().expect("descriptors are to be had") };
        let (mut kept, mut left) = (pipe(), pipe());
        let (keeps, leaves) = (kept.1.as_raw_fd(), left.1.as_raw_fd());
        let done = std::thread::spawn(move || {
            own(vec![2, keeps, 0, 1, keeps])?;
            assert_eq!(bytes::peer(leaves), None);
            assert_eq!(nix::fcntl::fcntl(borrowed(leaves), nix::fcntl::FcntlArg::F_GETFD), Err(Errno::EBADF));
            assert!(nix::fcntl::fcntl(borrowed(keeps), nix::fcntl::FcntlArg::F_GETFD).is_ok());
            bytes::close(keeps);
            Ok::<(), Errno>(())
        });
        done.join().expect("it runs through").expect("this kernel has close_range");
        kept.1.write_all(b"a").expect("closed in the other table only");
        left.1.write_all(b"b").expect("closed in the other table only");
        let mut got = [0; 2];
        kept.0.read_exact(&mut got[..1]).and_then(|()| left.0.read_exact(&mut got[1..])).expect("they were written");
        assert_eq!(&got, b"ab");
    }

    fn borrowed(fd: RawFd) -> std::os::fd::BorrowedFd<'static> {
        // SAFETY: it is only asked about, and may be closed: that is what is asked.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
    }
}
