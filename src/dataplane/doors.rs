//! Doors: a worker's listening sockets, from arming to the last connection in their queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::commons::Door;
use super::ending::Refusal;
use super::record::Note;
use super::session::Role;
use super::shard::{Mode, Shard, ms};
use crate::base::limits::{BACKLOG, PIPE_SMALL};
use crate::base::slab::Key;
use crate::config::plan::Listener;
use crate::kernel::{Close, Errno, Kernel, Request, Sock, Ticket};

/// First pause after accept failed for want of something, in milliseconds; it doubles up to the last.
const PAUSE_FIRST_MS: u32 = 10;
/// Longest pause.
const PAUSE_LAST_MS: u32 = 500;
/// So many are let in at a door at once after a pause; sessions that run have their turn between.
const LET_IN_MAX: usize = 64;
/// A door as one worker has it.
///
/// ```text
/// Open ──accept fails, all of it──────────────▶ Paused ──time is up; whoever waits is in──▶ Open
///   ├────a server's socket is not to be had──▶ Resting ──last event of the accept──▶ Paused
///   └────removed──▶ Closing ──last event of the accept──▶ gone
/// ```
#[derive(Debug)]
pub struct DoorSlot {
    door: Arc<Door>,
    /// This worker's; `None` while there is no descriptor for it. Then the door is paused.
    socket: Option<Sock>,
    listener: Arc<Listener>,
    state: DoorState,
    pause_ms: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DoorState {
    /// An accept is in flight.
    Open,
    /// Descriptors or memory ran short, and the accept is being cancelled; its last event makes it pause.
    Resting { until_ns: u64 },
    /// No accept is in flight; again at this time.
    Paused { until_ns: u64 },
    /// The accept is being cancelled; its last event frees the slot.
    Closing,
}

impl Shard {
    /// Takes up the published scene: opens doors that are new, gives kept ones their new listener, and closes those that
    /// are gone, after the connections in their queues have been taken.
    pub fn adopt(&mut self, now: u64, kernel: &mut impl Kernel) {
        // Sockets are passed when their scene has been published: that of any that is in now is this one or an older one.
        let taken = kernel.take_in();
        let scene = self.commons.scene.load_full();
        let serving = self.mode == Mode::Serving;
        let keys: Vec<Key> = self.doors.keys().collect();
        for key in keys {
            let Some(slot) = self.doors.of(key) else { continue };
            match scene.doors.iter().find(|(door, _)| door.id == slot.door.id) {
                // A closing door too: a connection may be on its way from it.
                Some((_, listener)) => slot.listener = Arc::clone(listener),
                None if serving => self.close_door(key, now, kernel),
                None => {}
            }
        }
        for (door, listener) in scene.doors.iter().filter(|_| serving) {
            if !self.has_door(door.id) {
                self.furnish(door, listener, taken, now, kernel);
            }
        }
        let known = |ticket| scene.doors.iter().any(|(door, _)| Ticket::of_door(door.id) == ticket);
        for stale in kernel.unclaimed().into_iter().filter(|&ticket| ticket.is_door() && !(serving && known(ticket))) {
            kernel.discard(stale);
        }
        self.desk().doors.store(self.doors.len(), Ordering::Release);
        self.scene = scene;
        self.renew_queues();
    }

    /// Opens a door that is new, if its socket has come; if not, there will be another letter about it. `taken`: what has
    /// kept it from coming in.
    fn furnish(
        &mut self,
        door: &Arc<Door>,
        listener: &Arc<Listener>,
        taken: Result<(), Errno>,
        now: u64,
        kernel: &mut impl Kernel,
    ) {
        let ticket = Ticket::of_door(door.id);
        let (door, listener) = (Arc::clone(door), Arc::clone(listener));
        let slot = |socket| DoorSlot { door, socket, listener, state: DoorState::Open, pause_ms: PAUSE_FIRST_MS };
        match (kernel.claim(ticket), taken) {
            (Some(socket), _) => {
                let key = self.doors.insert(slot(Some(socket)));
                kernel.accept(socket, Role::Door.token(key));
            }
            (None, Err(errno)) => {
                let key = self.doors.insert(slot(None));
                self.pause(key, errno, now);
            }
            (None, Ok(())) => {}
        }
    }

    /// Stops taking connections.
    pub(super) fn leave(&mut self, mode: Mode, now: u64, kernel: &mut impl Kernel) {
        // What waits in the queues is served as the published plan says, even if the letter about it comes after this one.
        self.adopt(now, kernel);
        self.mode = mode;
        self.desk().leaving.store(true, Ordering::Relaxed);
        let keys: Vec<Key> = self.doors.keys().collect();
        for key in keys {
            self.close_door(key, now, kernel);
        }
    }

    /// Takes up a new scene before the letter about it is read: who is accepted from now on is served as it says.
    fn catch_up(&mut self, now: u64, kernel: &mut impl Kernel) {
        if !std::ptr::eq(Arc::as_ptr(&self.commons.scene.load()), Arc::as_ptr(&self.scene)) {
            self.adopt(now, kernel);
        }
    }

    /// An accept has an answer.
    pub(super) fn accepted(
        &mut self,
        key: Key,
        result: Result<Sock, Errno>,
        more: bool,
        now: u64,
        kernel: &mut impl Kernel,
    ) {
        self.catch_up(now, kernel);
        let Some(slot) = self.doors.of(key) else {
            // Unreachable: a door goes with the last event of its accept. A socket is never left behind all the same.
            let _ = result.map(|sock| kernel.close(sock, Close::Reset));
            return;
        };
        let listener = Arc::clone(&slot.listener);
        let open = slot.state == DoorState::Open;
        match result {
            Ok(sock) => self.admit(sock, listener, self.least_loaded(), now, kernel),
            Err(errno) if !more && open && !is_of_one_connection(errno) => self.pause(key, errno, now),
            Err(_) => {}
        }
        if more {
            return;
        }
        let Some(slot) = self.doors.of(key) else { return };
        match slot.state {
            DoorState::Closing => self.remove_door(key, kernel),
            DoorState::Resting { until_ns } => {
                slot.state = DoorState::Paused { until_ns };
                self.doors_paused += 1;
            }
            DoorState::Paused { .. } => {}
            DoorState::Open => slot.open(key, kernel),
        }
    }

    /// Lets in those who wait at doors whose pause is over, and opens a door when nobody waits any more.
    pub(super) fn wake_doors(&mut self, now: u64, kernel: &mut impl Kernel) {
        if self.doors_paused == 0 {
            return;
        }
        self.catch_up(now, kernel);
        let is_over = |slot: &DoorSlot| matches!(slot.state, DoorState::Paused { until_ns } if until_ns <= now);
        let keys: Vec<Key> = self.doors.keys().collect();
        for key in keys {
            if self.doors.of(key).is_some_and(|slot| is_over(slot)) {
                self.wake_door(key, now, kernel);
            }
        }
    }

    /// Takes those who wait one by one, each only while a session could be had; when it could not, the door pauses for
    /// longer. An accept in the kernel would take as many as there are descriptors, and leave none for their servers:
    /// they could only be reset, and wait better where they are.
    fn wake_door(&mut self, key: Key, now: u64, kernel: &mut impl Kernel) {
        for _ in 0..LET_IN_MAX {
            let Some(slot) = self.doors.of(key) else { return };
            let listener = Arc::clone(&slot.listener);
            let taken =
                slot.obtain(kernel).and_then(|socket| two_descriptors(kernel).and_then(|()| kernel.accept_now(socket)));
            match taken {
                // Not handed over: its server's socket is had before the next one is taken.
                Ok(sock) => self.admit(sock, listener, self.index, now, kernel),
                Err(Errno::EAGAIN) => return self.open_door(key, kernel),
                Err(errno) if is_of_one_connection(errno) => {}
                Err(errno) => return self.pause(key, errno, now),
            }
        }
        // The others have their turn first; its time is still up.
    }

    /// A server's socket could not be had for want of descriptors or memory: no more is accepted for a while, so that
    /// others wait in the kernel's queue instead of being reset one after the other.
    pub(super) fn rest(&mut self, errno: Errno, now: u64, kernel: &mut impl Kernel) {
        let keys: Vec<Key> = self.doors.keys().collect();
        for key in keys {
            let Some(slot) = self.doors.of(key).filter(|slot| slot.state == DoorState::Open) else { continue };
            let (listener, pause_ms) = (Arc::clone(&slot.listener), slot.lengthen());
            slot.state = DoorState::Resting { until_ns: now + ms(pause_ms) };
            if let Some(socket) = slot.socket {
                kernel.cancel(Request::Accept, socket, Role::Door.token(key));
            }
            self.mention_pause(listener, errno, pause_ms, now);
        }
    }

    /// A session has got both its sockets: the next shortage begins with the shortest pause.
    pub(super) fn relax(&mut self) {
        if std::mem::take(&mut self.short) {
            let keys: Vec<Key> = self.doors.keys().collect();
            for key in keys {
                self.doors.of(key).into_iter().for_each(|slot| slot.pause_ms = PAUSE_FIRST_MS);
            }
        }
    }

    /// When the next pause is over.
    pub(super) fn next_door_ns(&self) -> Option<u64> {
        if self.doors_paused == 0 {
            return None;
        }
        self.doors
            .iter()
            .filter_map(|slot| if let DoorState::Paused { until_ns } = slot.state { Some(until_ns) } else { None })
            .min()
    }

    /// A new connection for `worker`: refuse it, hand it over, or open a session.
    fn admit(&mut self, sock: Sock, listener: Arc<Listener>, worker: usize, now: u64, kernel: &mut impl Kernel) {
        let tally = listener.ledger.tally.of(self.index);
        tally.accepted.bump();
        if self.commons.memory_short.load(Ordering::Relaxed) {
            // The conductor has said so.
            tally.rejected[Refusal::Memory as usize].bump();
            kernel.close(sock, Close::Reset);
            return;
        }
        if self.commons.sessions() >= self.commons.max_connections.load(Ordering::Relaxed) {
            tally.rejected[Refusal::MaxConnections as usize].bump();
            kernel.close(sock, Close::Reset);
            self.quiet.full_ns = self.note(self.quiet.full_ns, now, || Note::MaxConnections { listener });
            return;
        }
        let handed = worker != self.index && self.hand_over(sock, &listener, worker, now, kernel);
        if !handed {
            self.desk().sessions.fetch_add(1, Ordering::Relaxed);
            self.open(sock, listener, now, now, kernel);
        }
    }

    /// A door whose accept has failed waits; so does one whose pause has brought nothing.
    fn pause(&mut self, key: Key, errno: Errno, now: u64) {
        let Some(slot) = self.doors.of(key) else { return };
        let (listener, pause_ms) = (Arc::clone(&slot.listener), slot.lengthen());
        let was = std::mem::replace(&mut slot.state, DoorState::Paused { until_ns: now + ms(pause_ms) });
        self.doors_paused += usize::from(!matches!(was, DoorState::Paused { .. }));
        self.mention_pause(listener, errno, pause_ms, now);
    }

    /// The pause of a door is over, and nobody waits in its queue.
    fn open_door(&mut self, key: Key, kernel: &mut impl Kernel) {
        let Some(slot) = self.doors.of(key) else { return };
        slot.state = DoorState::Open;
        slot.open(key, kernel);
        self.doors_paused -= 1;
    }

    /// Counts a pause that begins, and says so.
    fn mention_pause(&mut self, listener: Arc<Listener>, errno: Errno, pause_ms: u32, now: u64) {
        self.short = true;
        listener.ledger.tally.of(self.index).rejected[Refusal::AcceptFailed as usize].bump();
        self.quiet.accept_ns =
            self.note(self.quiet.accept_ns, now, || Note::AcceptPaused { listener, errno: errno as i32, pause_ms });
    }

    fn close_door(&mut self, key: Key, now: u64, kernel: &mut impl Kernel) {
        let Some(slot) = self.doors.of(key) else { return };
        let (ticket, socket, listener) = (Ticket::of_door(slot.door.id), slot.socket, Arc::clone(&slot.listener));
        let state = std::mem::replace(&mut slot.state, DoorState::Closing);
        self.doors_paused -= usize::from(matches!(state, DoorState::Paused { .. }));
        let Some(socket) = socket else {
            kernel.discard(ticket);
            return drop(self.doors.remove(key));
        };
        // What the kernel has accepted for us is ours to serve. Bounded by the longest queue: a flood of newcomers is not.
        for _ in 0..BACKLOG {
            match kernel.accept_now(socket) {
                Ok(sock) => self.admit(sock, Arc::clone(&listener), self.least_loaded(), now, kernel),
                Err(errno) if is_of_one_connection(errno) => {}
                Err(_) => break,
            }
        }
        match state {
            DoorState::Open => kernel.cancel(Request::Accept, socket, Role::Door.token(key)),
            DoorState::Paused { .. } => self.remove_door(key, kernel),
            DoorState::Resting { .. } | DoorState::Closing => {}
        }
    }

    fn has_door(&mut self, id: u64) -> bool {
        self.doors.iter().any(|slot| slot.door.id == id && slot.state != DoorState::Closing)
    }

    /// Lets go of a door whose accept has ended.
    fn remove_door(&mut self, key: Key, kernel: &mut impl Kernel) {
        if let Some(DoorSlot { door, socket, .. }) = self.doors.remove(key) {
            socket.into_iter().for_each(|socket| kernel.close_listener(socket));
            // Whoever waits for the door to be closed waits for this.
            drop(door);
        }
    }
}

impl DoorSlot {
    /// Arms its accept.
    fn open(&self, key: Key, kernel: &mut impl Kernel) {
        if let Some(socket) = self.socket {
            kernel.accept(socket, Role::Door.token(key));
        }
    }

    /// Its socket, taken in now if there was no descriptor for it before.
    fn obtain(&mut self, kernel: &mut impl Kernel) -> Result<Sock, Errno> {
        if let Some(socket) = self.socket {
            return Ok(socket);
        }
        let taken = kernel.take_in();
        self.socket = kernel.claim(Ticket::of_door(self.door.id));
        self.socket.ok_or(taken.err().unwrap_or(Errno::EMFILE))
    }

    /// The pause that begins now; the one after it is twice as long.
    fn lengthen(&mut self) -> u32 {
        let pause_ms = self.pause_ms;
        self.pause_ms = (pause_ms * 2).min(PAUSE_LAST_MS);
        pause_ms
    }
}

/// Whether two more descriptors are to be had, as a session needs; a pipe takes two at once.
fn two_descriptors(kernel: &mut impl Kernel) -> Result<(), Errno> {
    kernel.open_pipe(PIPE_SMALL).map(|pipe| kernel.close_pipe(pipe))
}

/// Errnos of accept4(2) that speak of a connection that was gone before it was taken, not of the listening socket: the
/// next one may be had at once. All others are waited out, a shortage of descriptors as well as what should not happen.
fn is_of_one_connection(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ECONNABORTED
            | Errno::EINTR
            | Errno::EPROTO
            | Errno::ENOPROTOOPT
            | Errno::ENETDOWN
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::EHOSTUNREACH
    )
}
