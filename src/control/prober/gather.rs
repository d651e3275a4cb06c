//! The sockets of all checks, in an epoll instance of their own: those that are ready share a wake.
//!
//! To wake the thread for an answer costs more than to read it, and a thousand servers answer at a thousand moments. So while
//! more than a few checks are under way, a socket that is ready wakes the thread, which then looks only after a pause again, at
//! all of them at once. With few of them each is heard at once; so it is while a check is under way that has little time.
//! Whose time runs out looks once more before it gives up, so that nothing fails because of a pause.
//!
//! ```text
//! sockets ──▶ instance ──▶ bell ──▶ tokio ──▶ run: look, pause, look, …: who waits for a socket that is ready is woken
//! ```
//!
//! The bell is an epoll instance as well, in which the other is registered to be reported once (`EPOLLONESHOT`): a pause is
//! one only if the sockets do not ring meanwhile, and to take an instance out and put it in again means that the kernel walks
//! through all sockets in it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::errno::Errno;
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::base::slab::{Key, Slab};
use crate::sys::bytes;
use crate::sys::epoll::{Epoll, Reports};

/// Checks under way up to which each is heard at once.
const FEW: u32 = 8;
/// From one look to the next. README speaks of it.
const PAUSE: Duration = Duration::from_millis(3);
/// A check with less time than this keeps everybody from pausing: it may take ten steps, with a pause before each.
const HASTY_MS: u32 = 500;
/// How the instance is registered with the bell.
const RING: i32 = libc::EPOLLIN | libc::EPOLLONESHOT;
/// From one try to have tokio listen to the next.
const RETRY: Duration = Duration::from_millis(50);
/// Reports taken at once.
const REPORTS: usize = 256;
/// Bytes read at once.
const READ: usize = 4096;

/// Who listens to the sockets of all checks.
pub(super) struct Gatherer {
    instance: Epoll,
    /// Rings once when a socket of the instance is ready.
    bell: Epoll,
    reports: RefCell<Reports>,
    ears: RefCell<Slab<Rc<Ear>>>,
    under_way: Cell<u32>,
    /// Of those, who have little time.
    hasty: Cell<u32>,
    /// What was read last: one for all, so that it stays warm.
    read: RefCell<[u8; READ]>,
}

/// What is known of a socket.
#[derive(Default)]
struct Ear {
    readable: Cell<bool>,
    writable: Cell<bool>,
    /// The peer has ended: it stays so.
    ended: Cell<bool>,
    /// The connection is no more: it stays so.
    broken: Cell<bool>,
    /// The task that waits for it.
    waker: Cell<Option<Waker>>,
}

/// A socket that is listened to. One task at a time may wait for it.
pub(super) struct Socket {
    fd: socket2::Socket,
    ear: Rc<Ear>,
    key: Key,
    gatherer: Rc<Gatherer>,
}

/// A check that is under way, until this is dropped.
pub(super) struct UnderWay<'a> {
    gatherer: &'a Gatherer,
    is_hasty: bool,
}

impl Gatherer {
    /// Listens to nobody yet.
    ///
    /// # Errors
    /// No descriptor is left, or no memory.
    pub(super) fn new() -> io::Result<Self> {
        let (instance, bell) = (Epoll::new()?, Epoll::new()?);
        bell.add(instance.as_raw_fd(), RING, 0)?;
        Ok(Self {
            instance,
            bell,
            reports: RefCell::new(Reports::with_room(REPORTS)),
            ears: RefCell::default(),
            under_way: Cell::new(0),
            hasty: Cell::new(0),
            read: RefCell::new([0; READ]),
        })
    }

    /// A check begins that may take so long.
    pub(super) fn begin(&self, timeout_ms: u32) -> UnderWay<'_> {
        let is_hasty = timeout_ms < HASTY_MS;
        self.under_way.set(self.under_way.get() + 1);
        self.hasty.set(self.hasty.get() + u32::from(is_hasty));
        UnderWay { gatherer: self, is_hasty }
    }

    /// Listens, for ever.
    pub(super) async fn run(self: Rc<Self>) {
        let bell = loop {
            match self.bell.lend() {
                Ok(bell) => break bell,
                // Not enough memory: until there is some, it looks unasked.
                Err(_) => sleep(RETRY).await,
            }
            self.look();
        };
        while bell.ready().await.is_ok() {
            // Taken note of, and so not rung any more.
            let _ = self.bell.wait(Some(Duration::ZERO), &mut self.reports.borrow_mut());
            while self.look() > 0 {
                // Who was woken goes on, and may be done.
                yield_now().await;
                if !self.pauses() {
                    break;
                }
                sleep(PAUSE).await;
            }
            let _ = self.bell.change(self.instance.as_raw_fd(), RING, 0);
        }
    }

    fn pauses(&self) -> bool {
        self.under_way.get() > FEW && self.hasty.get() == 0
    }

    /// Wakes the tasks whose sockets are ready; how many sockets are.
    pub(super) fn look(&self) -> usize {
        let reports = &mut *self.reports.borrow_mut();
        let mut ready = 0;
        loop {
            if self.instance.wait(Some(Duration::ZERO), reports).is_err() {
                return ready;
            }
            ready += reports.len();
            for index in 0..reports.len() {
                let (events, data) = reports.of(index);
                let ear = self.ears.borrow_mut().of(key_of(data)).map(|ear| Rc::clone(ear));
                if let Some(ear) = ear {
                    ear.hear(events.cast_signed());
                }
            }
            if reports.len() < REPORTS {
                return ready;
            }
        }
    }

    /// Listens to a socket, which must not block.
    ///
    /// # Errors
    /// `ENOSPC` (`fs.epoll.max_user_watches`), `ENOMEM`.
    pub(super) fn watch(self: &Rc<Self>, fd: socket2::Socket) -> io::Result<Socket> {
        let ear = Rc::new(Ear::default());
        let key = self.ears.borrow_mut().insert(Rc::clone(&ear));
        let socket = Socket { fd, ear, key, gatherer: Rc::clone(self) };
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        self.instance.add(socket.fd.as_raw_fd(), events, data_of(key))?;
        Ok(socket)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let Gatherer { under_way, hasty, .. } = self.gatherer;
        under_way.set(under_way.get() - 1);
        hasty.set(hasty.get() - u32::from(self.is_hasty));
    }
}

impl Ear {
    fn hear(&self, events: i32) {
        let note = |flag: &Cell<bool>, of: i32| flag.set(flag.get() || events & of != 0);
        note(&self.readable, libc::EPOLLIN);
        note(&self.writable, libc::EPOLLOUT);
        note(&self.ended, libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR);
        note(&self.broken, libc::EPOLLHUP | libc::EPOLLERR);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(&self, is_ready: bool, context: &mut Context<'_>) -> Poll<()> {
        if is_ready {
            return Poll::Ready(());
        }
        let waker = self.waker.take().filter(|waker| waker.will_wake(context.waker()));
        self.waker.set(Some(waker.unwrap_or_else(|| context.waker().clone())));
        Poll::Pending
    }
}

impl Socket {
    /// The socket, to be asked of and told what is not read or sent.
    pub(super) fn fd(&self) -> &socket2::Socket {
        &self.fd
    }

    /// Ready when there may be something to read, or the end.
    pub(super) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.ear.poll(self.ear.readable.get() || self.ear.ended.get(), context)
    }

    /// Ready when something may be sent.
    pub(super) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.ear.poll(self.ear.writable.get() || self.ear.broken.get(), context)
    }

    /// Waits until there may be something to read, or the end.
    pub(super) async fn readable(&self) {
        poll_fn(|context| self.poll_readable(context)).await;
    }

    /// Waits until something may be sent.
    pub(super) async fn writable(&self) {
        poll_fn(|context| self.poll_writable(context)).await;
    }

    /// Whatever was heard of it, it is not connected yet.
    pub(super) fn is_not_connected(&self) {
        self.ear.writable.set(false);
        self.ear.broken.set(false);
    }

    /// Reads what there is, not all of it perhaps, and hands it to `take`: nothing at the end. `None`: there is nothing yet.
    pub(super) fn read<T>(&self, take: impl FnOnce(&[u8]) -> T) -> io::Result<Option<T>> {
        let mut room = self.gatherer.read.borrow_mut();
        let read = bytes::recv(self.fd.as_raw_fd(), &mut *room);
        // Less than there is room for: there is no more. What comes meanwhile is told anew: epoll(7), "Do I need to continuously
        // read/write…"; and an end is not forgotten.
        if !matches!(read, Ok(READ) | Err(Errno::EINTR)) {
            self.ear.readable.set(false);
        }
        match read {
            Ok(count) => Ok(Some(take(&room[..count]))),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sends as much as goes now; how many bytes did.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match bytes::send(self.fd.as_raw_fd(), bytes) {
            Err(Errno::EAGAIN) => {
                self.ear.writable.set(false);
                Ok(0)
            }
            Err(Errno::EINTR) => Ok(0),
            sent => Ok(sent?),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The descriptor, which is closed now, takes itself out of the instance.
        self.gatherer.ears.borrow_mut().remove(self.key);
    }
}

fn data_of(key: Key) -> u64 {
    u64::from(key.generation) << 32 | u64::from(key.index)
}

fn key_of(data: u64) -> Key {
    // The lower half is the index, whole.
    Key { index: data as u32, generation: (data >> 32) as u32 }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use tokio::time::timeout;

    use super::*;

    fn pair(gatherer: &Rc<Gatherer>) -> (Socket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("ours");
        (gatherer.watch(ours.into()).expect("room"), theirs)
    }

    fn rings(gatherer: &Gatherer) -> bool {
        let reports = &mut *gatherer.reports.borrow_mut();
        gatherer.bell.wait(Some(Duration::ZERO), reports).expect("no signal comes");
        !reports.is_empty()
    }

    #[test]
    fn what_is_said_is_heard_to_its_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let heard = tokio::task::LocalSet::new().block_on(&runtime, async {
            let gatherer = Rc::new(Gatherer::new().expect("descriptors"));
            tokio::task::spawn_local(Rc::clone(&gatherer).run());
            // Now heard at once, now with a pause.
            for crowd in [0, FEW + 1] {
                let _under_way: Vec<_> = (0..crowd).map(|_| gatherer.begin(HASTY_MS)).collect();
                let (socket, mut peer) = pair(&gatherer);
                let mut all = Vec::new();
                peer.write_all(b"first").expect("room");
                let hear = async {
                    socket.writable().await;
                    loop {
                        socket.readable().await;
                        match socket.read(|bytes| (bytes.len(), all.extend_from_slice(bytes))).expect("alive") {
                            Some((0, ())) => return,
                            // All but the end is said before the first word is read, and it all but fills the room.
                            Some(_) if all.len() == 5 => {
                                peer.write_all(&[b'x'; READ - 1]).expect("room");
                                peer.shutdown(std::net::Shutdown::Write).expect("connected");
                            }
                            _ => {}
                        }
                    }
                };
                timeout(Duration::from_secs(20), hear).await.expect("everything is heard");
                assert_eq!(all.len(), 5 + READ - 1);
                assert_eq!(socket.send(b"well").expect("alive"), 4, "half of it is over");
            }
            gatherer.ears.borrow().len()
        });
        assert_eq!(heard, 0, "nobody listens to what is closed");
    }

    #[test]
    fn the_bell_rings_once_for_all_that_is_said_until_the_look() {
        let gatherer = Rc::new(Gatherer::new().expect("descriptors"));
        let (one, mut at_one) = pair(&gatherer);
        let (other, mut at_other) = pair(&gatherer);
        assert!(rings(&gatherer), "both may be written to");
        gatherer.look();
        gatherer.bell.change(gatherer.instance.as_raw_fd(), RING, 0).expect("registered");
        assert!(!rings(&gatherer), "nothing new");
        at_one.write_all(b"a").expect("room");
        assert!(rings(&gatherer));
        at_other.write_all(b"b").expect("room");
        assert!(!rings(&gatherer), "it has rung");
        gatherer.look();
        for socket in [&one, &other] {
            assert!(socket.ear.readable.get() && !socket.ear.ended.get());
            assert_eq!(socket.read(<[u8]>::len).expect("alive"), Some(1));
            assert_eq!(socket.read(<[u8]>::len).expect("alive"), None);
        }
        gatherer.bell.change(gatherer.instance.as_raw_fd(), RING, 0).expect("registered");
        assert!(!rings(&gatherer), "nothing new");
        drop(at_one);
        assert!(rings(&gatherer));
        gatherer.look();
        assert!(one.ear.ended.get() && !other.ear.ended.get());
    }

    #[test]
    fn it_pauses_for_many_who_have_time() {
        let gatherer = Gatherer::new().expect("descriptors");
        let mut few: Vec<_> = (0..FEW).map(|_| gatherer.begin(HASTY_MS)).collect();
        assert!(!gatherer.pauses(), "few");
        few.push(gatherer.begin(HASTY_MS));
        assert!(gatherer.pauses(), "many");
        let hasty = gatherer.begin(HASTY_MS - 1);
        assert!(!gatherer.pauses(), "one who has no time");
        drop(hasty);
        assert!(gatherer.pauses());
        few.pop();
        assert!(!gatherer.pauses());
    }
}
