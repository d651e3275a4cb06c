//! Carries the log to a socket of this machine, one datagram an entry: syslog's, or the journal's.
//!
//! The reader may be slow, gone, not yet there, or another than before. A full socket is waited for a moment (this is the
//! log thread, nobody waits for it); a missing one is an error each time, and connected to again the next time.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

use super::pen::Envelope;

/// Longest datagram to syslog, in bytes: what rsyslog and syslog-ng take by default. A longer line is cut.
const SYSLOG_BYTES_MAX: usize = 8 << 10;
/// How long a full socket is waited for, in milliseconds, once a call.
const PATIENCE_MS: u16 = 20;

/// The way to a socket.
#[derive(Debug)]
pub struct Courier {
    path: PathBuf,
    envelope: Envelope,
    socket: Option<UnixDatagram>,
    lost: u64,
}

impl Courier {
    /// A courier to `path`. That nobody listens there yet is no error: somebody may, by and by.
    pub fn new(path: &Path, envelope: Envelope) -> Self {
        Self { path: path.to_owned(), envelope, socket: None, lost: 0 }
    }

    /// Forgets the connection; the next entry makes another.
    pub fn reconnect(&mut self) {
        self.socket = None;
    }

    /// Entries that no datagram could carry, since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Sends whole entries from the front of `bytes` and says how many bytes they are; 0: no room now.
    ///
    /// # Errors
    /// What socket(2), connect(2) or sendmsg(2) said, with the path.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (mut sent, mut waited) = (0, false);
        while let Some(length) = self.envelope.first(&bytes[sent..]) {
            match self.carry(&bytes[sent..sent + length]) {
                Ok(()) => sent += length,
                Err(error) if is_full(&error) => {
                    if waited || !self.has_room() {
                        break;
                    }
                    waited = true;
                }
                Err(_) if sent > 0 => break, // it will fail again, and then be said
                Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))),
            }
        }
        Ok(sent)
    }

    /// Sends one entry, on a new connection if the old one is broken.
    fn carry(&mut self, entry: &[u8]) -> io::Result<()> {
        if let Some(socket) = &self.socket {
            match send(socket, self.envelope, entry) {
                Err(error) if is_full(&error) => return Err(error),
                Err(error) if is_too_long(&error) => {
                    self.lost += 1;
                    return Ok(());
                }
                Err(_) => self.socket = None,
                Ok(()) => return Ok(()),
            }
        }
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(&self.path)?;
        let answer = send(&socket, self.envelope, entry);
        self.socket = Some(socket);
        match answer {
            Err(error) if is_too_long(&error) => {
                self.lost += 1;
                Ok(())
            }
            answer => answer,
        }
    }

    /// Waits until the socket takes something, for a moment.
    fn has_room(&self) -> bool {
        self.socket.as_ref().is_some_and(|socket| {
            let mut asked = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            poll(&mut asked, PollTimeout::from(PATIENCE_MS)).is_ok_and(|ready| ready > 0)
        })
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
        || error.raw_os_error() == Some(libc::ENOBUFS)
}

fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

fn send(socket: &UnixDatagram, envelope: Envelope, entry: &[u8]) -> io::Result<()> {
    let datagram = match envelope {
        Envelope::Journal => &entry[..entry.len() - 1],
        Envelope::Lines | Envelope::Syslog => cut(entry.strip_suffix(b"\n").unwrap_or(entry)),
    };
    match plain(socket, datagram) {
        Err(Errno::EMSGSIZE) if envelope == Envelope::Journal => by_memfd(socket, datagram),
        answer => Ok(answer?),
    }
}

fn plain(socket: &UnixDatagram, datagram: &[u8]) -> Result<(), Errno> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(datagram)], &[], flags, None).map(drop)
}

/// What is too long for a datagram goes to the journal as a sealed memory file, as sd_journal_sendv(3) does it. Where
/// even that cannot be had, the entry is too long.
fn by_memfd(socket: &UnixDatagram, entry: &[u8]) -> io::Result<()> {
    let sealed = || -> io::Result<File> {
        let mut file =
            File::from(memfd_create(c"ringway-journal", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
        file.write_all(entry)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
        Ok(file)
    };
    let file = sealed().map_err(|_| io::Error::from(Errno::EMSGSIZE))?;
    let fds = [file.as_raw_fd()];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &[], &[ControlMessage::ScmRights(&fds)], flags, None)?;
    Ok(())
}

/// As much of a line as syslog takes, cut between two characters.
fn cut(line: &[u8]) -> &[u8] {
    if line.len() <= SYSLOG_BYTES_MAX {
        return line;
    }
    let is_inner = |byte: u8| byte & 0xc0 == 0x80;
    let end = (0..=SYSLOG_BYTES_MAX).rev().find(|&at| !is_inner(line[at])).unwrap_or(SYSLOG_BYTES_MAX);
    &line[..end]
}

#[cfg(test)]
mod tests {
    use std::io::{IoSliceMut, Read};

    use nix::sys::socket::{ControlMessageOwned, recvmsg};

    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = vec![0; 64 << 10];
        let length = socket.recv(&mut buffer).expect("a datagram");
        String::from_utf8(buffer[..length].to_vec()).expect("UTF-8")
    }

    #[test]
    fn each_line_is_a_datagram_and_a_long_one_is_cut() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let reader = UnixDatagram::bind(&path).expect("bound");
        let mut courier = Courier::new(&path, Envelope::Syslog);
        let long = "é".repeat(SYSLOG_BYTES_MAX);
        let bytes = format!("<134>one\n<28>two\nx{long}\nhalf");
        assert_eq!(courier.write(bytes.as_bytes()).expect("sent"), bytes.len() - 4);
        assert_eq!(receive(&reader), "<134>one");
        assert_eq!(receive(&reader), "<28>two");
        assert_eq!(receive(&reader), format!("x{}", "é".repeat(SYSLOG_BYTES_MAX / 2 - 1)));
        assert_eq!(courier.take_lost(), 0);
    }

    #[test]
    fn a_reader_may_come_late_and_come_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let mut courier = Courier::new(&path, Envelope::Syslog);
        let error = courier.write(b"early\n").expect_err("nobody there");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        for round in 0..3 {
            let reader = UnixDatagram::bind(&path).expect("bound");
            let line = format!("round {round}");
            assert_eq!(courier.write(format!("{line}\n").as_bytes()).expect("sent"), line.len() + 1);
            assert_eq!(receive(&reader), line);
            drop(reader);
            std::fs::remove_file(&path).expect("there");
        }
        courier.write(b"late\n").expect_err("nobody there any more");
    }

    #[test]
    fn a_reader_that_sleeps_stops_it_after_a_while_and_not_for_ever() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let reader = UnixDatagram::bind(&path).expect("bound");
        let mut courier = Courier::new(&path, Envelope::Syslog);
        let lines = b"line\n".repeat(10_000);
        let sent = courier.write(&lines).expect("no error");
        assert!(sent > 0 && sent < lines.len() && sent.is_multiple_of(5), "{sent}");
        assert_eq!(courier.write(&lines).expect("no error"), 0);
        assert_eq!(receive(&reader), "line");
        assert_eq!(courier.write(b"line\n").expect("no error"), 5, "room again");
    }

    #[test]
    fn an_entry_too_long_for_a_datagram_comes_in_a_sealed_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("journal");
        let reader = UnixDatagram::bind(&path).expect("bound");
        let mut courier = Courier::new(&path, Envelope::Journal);
        let long = format!("MESSAGE={}\nPRIORITY=6\n\n", "x".repeat(4 << 20));
        let bytes = format!("MESSAGE=short\n\n{long}");
        assert_eq!(courier.write(bytes.as_bytes()).expect("sent"), bytes.len());
        assert_eq!(receive(&reader), "MESSAGE=short\n");
        let (mut nothing, mut space) = ([0; 16], nix::cmsg_space!([i32; 1]));
        let mut parts = [IoSliceMut::new(&mut nothing)];
        let message = recvmsg::<UnixAddr>(reader.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())
            .expect("a message");
        assert_eq!(message.bytes, 0);
        let passed = message.cmsgs().expect("whole").find_map(|part| match part {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
        let passed = passed.expect("a descriptor");
        let mut file = File::open(format!("/proc/self/fd/{passed}")).expect("it may be read");
        nix::unistd::close(passed).expect("ours");
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS).expect("a memory file");
        assert_eq!(SealFlag::from_bits_truncate(seals), SealFlag::all());
        let mut text = String::new();
        file.read_to_string(&mut text).expect("text");
        assert_eq!(text, long[..long.len() - 1]);
        assert_eq!(courier.take_lost(), 0);
    }
}
