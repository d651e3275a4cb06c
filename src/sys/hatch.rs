//! Passing descriptors from one table to another: `SCM_RIGHTS` of unix(7), one at a time, each with a number its receiver
//! knows it by.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv, recvmsg, sendmsg,
    socketpair,
};

/// A hatch: (outside, where others pass descriptors in; inside, where their receiver takes them).
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn open() -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
}

/// Passes `fd` through the hatch with this outside. It stays open here too.
///
/// # Errors
/// `EAGAIN`: as many are on their way as fit (some 270). `ETOOMANYREFS`: more than `RLIMIT_NOFILE` over all hatches.
/// `EPIPE`, `ECONNRESET`: nobody is inside any more.
pub fn pass(outside: RawFd, ticket: u64, fd: RawFd) -> Result<(), Errno> {
    let rights = [fd];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let content = ticket.to_ne_bytes();
    sendmsg::<()>(outside, &[IoSlice::new(&content)], &[ControlMessage::ScmRights(&rights)], flags, None).map(drop)
}

/// Takes the next one in: its ticket, and its descriptor in the caller's table, close-on-exec. `None`: there is none now.
///
/// # Errors
/// `EMFILE` when the table is full: it stays in the hatch.
pub fn take(inside: RawFd) -> Result<Option<(u64, OwnedFd)>, Errno> {
    let mut ticket = [0; 8];
    // The kernel takes a message out and throws away the descriptors it finds no room for; a look first leaves it there.
    let looked = look(inside, &mut ticket)?;
    let Some(fd) = looked else { return Ok(None) };
    recv(inside, &mut ticket, MsgFlags::MSG_DONTWAIT)?;
    Ok(Some((u64::from_ne_bytes(ticket), fd)))
}

/// The ticket of the next one, which stays where it is.
///
/// # Errors
/// What recv(2) says, but for `EAGAIN`.
pub fn next(inside: RawFd) -> Result<Option<u64>, Errno> {
    receive(inside, MsgFlags::MSG_PEEK)
}

/// Closes the next one, which needs no room in the table: the kernel throws away descriptors that are not asked for.
///
/// # Errors
/// What recv(2) says, but for `EAGAIN`.
pub fn throw_away(inside: RawFd) -> Result<(), Errno> {
    receive(inside, MsgFlags::empty()).map(drop)
}

/// A ticket without its descriptor; `None`: there is none now, or nobody outside any more.
fn receive(inside: RawFd, flags: MsgFlags) -> Result<Option<u64>, Errno> {
    let mut ticket = [0; 8];
    match recv(inside, &mut ticket, flags | MsgFlags::MSG_DONTWAIT) {
        Ok(0) | Err(Errno::EAGAIN) => Ok(None),
        Ok(_) => Ok(Some(u64::from_ne_bytes(ticket))),
        Err(errno) => Err(errno),
    }
}

fn look(inside: RawFd, ticket: &mut [u8]) -> Result<Option<OwnedFd>, Errno> {
    let mut room = cmsg_space!(RawFd);
    let mut content = [IoSliceMut::new(ticket)];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = match recvmsg::<()>(inside, &mut content, Some(&mut room), flags) {
        Ok(message) if message.bytes == 0 => return Ok(None),
        Ok(message) => message,
        Err(Errno::EAGAIN) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let mut passed = message.cmsgs().map_err(|_| Errno::EMFILE)?.filter_map(|part| match part {
        ControlMessageOwned::ScmRights(rights) => rights.first().copied(),
        _ => None,
    });
    let fd = passed.next().ok_or(Errno::EMFILE)?;
    // SAFETY: the kernel has just put this descriptor into our table for us, and nobody else knows of it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_is_passed_comes_out_in_order_and_works() {
        let (outside, inside) = open().expect("descriptors are to be had");
        assert!(take(inside.as_raw_fd()).expect("an empty hatch is no error").is_none());
        let (mut reader, mut writer) = std::io::pipe().expect("descriptors are to be had");
        pass(outside.as_raw_fd(), 7, writer.as_raw_fd()).expect("there is room");
        pass(outside.as_raw_fd(), u64::MAX, reader.as_raw_fd()).expect("there is room");
        writer.write_all(b"one").expect("a pipe holds that");
        drop(writer);
        let (ticket, writer) = take(inside.as_raw_fd()).expect("room").expect("it was passed");
        assert_eq!(ticket, 7);
        assert_eq!(next(inside.as_raw_fd()), Ok(Some(u64::MAX)));
        File::from(writer).write_all(b", two").expect("a pipe holds that");
        let (ticket, _) = take(inside.as_raw_fd()).expect("room").expect("it was passed");
        assert_eq!(ticket, u64::MAX);
        assert!(take(inside.as_raw_fd()).expect("an empty hatch is no error").is_none());
        let mut got = String::new();
        reader.read_to_string(&mut got).expect("no writer is left, neither here nor on its way");
        assert_eq!(got, "one, two");
    }

    #[test]
    fn what_is_thrown_away_is_closed() {
        let (outside, inside) = open().expect("descriptors are to be had");
        assert_eq!((next(inside.as_raw_fd()), throw_away(inside.as_raw_fd())), (Ok(None), Ok(())));
        let (mut reader, writer) = std::io::pipe().expect("descriptors are to be had");
        pass(outside.as_raw_fd(), 7, writer.as_raw_fd()).expect("there is room");
        pass(outside.as_raw_fd(), 8, inside.as_raw_fd()).expect("there is room");
        drop(writer);
        assert_eq!(throw_away(inside.as_raw_fd()), Ok(()));
        assert_eq!(reader.read(&mut [0]).expect("an end"), 0, "nobody can write any more");
        assert_eq!(next(inside.as_raw_fd()), Ok(Some(8)));
    }

    #[test]
    fn a_full_hatch_refuses() {
        let (outside, inside) = open().expect("descriptors are to be had");
        let passed = (0..10_000).find(|&ticket| pass(outside.as_raw_fd(), ticket, 0).is_err()).expect("it fills up");
        assert_eq!(pass(outside.as_raw_fd(), passed, 0), Err(Errno::EAGAIN));
        assert!(passed > 100, "{passed}");
        drop(inside);
        let gone = pass(outside.as_raw_fd(), passed, 0);
        assert!(matches!(gone, Err(Errno::EPIPE | Errno::ECONNRESET)), "{gone:?}");
    }
}
