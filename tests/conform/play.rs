//! What a script can do: call the kernel, move the peers, and wait until everything that has happened has been told.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::rc::Rc;

use ringway::kernel::{Close, ConnectOptions, Errno, Event, Interest, Kernel, Pipe, Request, Sock, Token};
use socket2::SockAddr;

/// Turns a fence may take to come through: far more than any does.
const TURNS_MAX: u32 = 2_000;
/// Calls that move bytes, at most, until something is full, empty or done.
const MOVES_MAX: u32 = 100_000;
/// Bytes of one call.
const CHUNK: usize = 64 * 1024;

/// A far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Far(pub usize);

/// How an address answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Somebody listens.
    Listens,
    /// Nobody does.
    Refuses,
    /// Nothing answers.
    Silent,
}

/// How the stream towards a far end stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    Open,
    Fin,
    Reset,
}

/// Where scripts are played: a kernel, and everything at the other end of its sockets.
pub trait Ground {
    /// Lets a script call the kernel.
    fn call(&mut self, act: &mut dyn FnMut(&mut dyn Kernel));
    /// Waits a little for events; less if there are some, not at all if `now`.
    fn turn(&mut self, now: bool, events: &mut Vec<Event>);
    /// A listening socket of the worker.
    fn door(&mut self) -> Sock;
    /// A client connects to a door.
    fn knock(&mut self, door: Sock) -> Far;
    /// An address for the next connect.
    fn target(&mut self, target: Target) -> SocketAddr;
    /// The server's end of a connection that was made.
    fn answer(&mut self, sock: Sock) -> Far;
    /// A far end writes.
    fn say(&mut self, far: Far, bytes: usize);
    /// A far end reads until it has `bytes`, and the end of the stream if it `ends`: how many came, and how it stands.
    fn hear(&mut self, far: Far, bytes: usize, ends: bool) -> (usize, Heard);
    /// A far end sends its FIN, and reads on.
    fn finish(&mut self, far: Far);
    /// A far end resets.
    fn reset(&mut self, far: Far);
    /// A far end is closed: a FIN, but for what it has not read.
    fn leave(&mut self, far: Far);
    /// Somebody else rings this worker.
    fn ring(&mut self);
}

/// Events of one request since they were last told: how many they were is nobody's business.
#[derive(Debug, Default)]
struct News {
    readable: bool,
    writable: bool,
    ended: bool,
    broken: bool,
    accepted: usize,
    connected: bool,
    errno: Option<Errno>,
    over: bool,
}

/// A script in progress.
pub struct Play {
    ground: Box<dyn Ground>,
    trace: Vec<String>,
    news: BTreeMap<u64, News>,
    mail: bool,
    names: BTreeMap<u64, &'static str>,
    /// What each token was given to, for its cancellation.
    asked: BTreeMap<u64, (Request, Sock)>,
    accepted: Vec<Sock>,
    /// Where the kernel reads them until a connect has its answer.
    targets: Vec<Rc<SockAddr>>,
    door: Sock,
    door_token: Token,
    fence: (Far, Sock),
    fence_token: Token,
    through: bool,
    tokens: u64,
}

impl Play {
    /// Opens a door that accepts, and a connection for fences.
    pub fn begin(mut ground: Box<dyn Ground>) -> Self {
        let door = ground.door();
        let mut play = Self {
            ground,
            trace: Vec::new(),
            news: BTreeMap::new(),
            mail: false,
            names: BTreeMap::new(),
            asked: BTreeMap::new(),
            accepted: Vec::new(),
            targets: Vec::new(),
            door,
            door_token: Token(0),
            fence: (Far(0), door),
            fence_token: Token(0),
            through: false,
            tokens: 0,
        };
        play.door_token = play.accept("the door");
        let far = play.ground.knock(door);
        for _ in 0..TURNS_MAX {
            if play.accepted.is_empty() {
                play.turn(false);
            }
        }
        let sock = play.accepted.pop().expect("a door that accepts gets the client that knocks");
        play.fence = (far, sock);
        play.fence_token = play.token("the fence");
        let token = play.fence_token;
        play.call(|kernel| kernel.watch(sock, Interest::Readable, token));
        play.settle();
        play.news.clear();
        play
    }

    /// Ends the script: its trace.
    pub fn end(mut self) -> Vec<String> {
        self.tell();
        self.trace
    }

    pub fn note(&mut self, line: impl Into<String>) {
        self.trace.push(line.into());
    }

    /// A token of its own, under a name for the trace.
    pub fn token(&mut self, name: &'static str) -> Token {
        self.tokens += 1;
        self.names.insert(self.tokens, name);
        Token(self.tokens)
    }

    pub fn call<T>(&mut self, mut act: impl FnMut(&mut dyn Kernel) -> T) -> T {
        let mut answer = None;
        self.ground.call(&mut |kernel| answer = Some(act(kernel)));
        answer.expect("the ground lets every call through")
    }

    fn turn(&mut self, now: bool) {
        let mut events = Vec::new();
        self.ground.turn(now, &mut events);
        for event in events {
            self.hear_of(event);
        }
    }

    fn hear_of(&mut self, event: Event) {
        match event {
            Event::Mail => self.mail = true,
            Event::Accepted { token, result, more } => {
                let news = self.news.entry(token.0).or_default();
                news.over |= !more;
                match result {
                    Ok(sock) => {
                        news.accepted += 1;
                        self.accepted.push(sock);
                    }
                    Err(errno) => news.errno = Some(errno),
                }
            }
            Event::Connected { token, result } => {
                let news = self.news.entry(token.0).or_default();
                assert!(!news.over, "a connect has one answer");
                (news.connected, news.errno, news.over) = (result.is_ok(), result.err(), true);
            }
            Event::Ready { token, readiness, more } => {
                let news = self.news.entry(token.0).or_default();
                assert!(!news.over, "{:?} is told of after its end", self.names.get(&token.0));
                news.readable |= readiness.readable;
                news.writable |= readiness.writable;
                news.ended |= readiness.ended;
                news.broken |= readiness.broken;
                news.over |= !more;
                self.through |= token == self.fence_token && readiness.readable;
            }
        }
    }

    /// Waits until all that has happened is known.
    pub fn settle(&mut self) {
        // What was requested is submitted before the fence sets out.
        self.turn(true);
        let (far, sock) = self.fence;
        self.through = false;
        self.ground.say(far, 1);
        for _ in 0..TURNS_MAX {
            if self.through {
                break;
            }
            self.turn(false);
        }
        assert!(self.through, "a fence does not come through");
        let read = self.call(|kernel| kernel.recv(sock, &mut [0; 8]));
        assert_eq!(read, Ok(1), "the fence's byte");
        self.turn(true);
        self.news.remove(&self.fence_token.0);
    }

    /// Waits until all that has happened is known, and writes it down.
    pub fn tell(&mut self) {
        self.settle();
        let mut lines = Vec::new();
        for (token, news) in std::mem::take(&mut self.news) {
            let mut line = format!("  {}:", self.names.get(&token).copied().unwrap_or("an unknown request"));
            let words = [
                (news.readable, "readable"),
                (news.writable, "writable"),
                (news.ended, "ended"),
                (news.broken, "broken"),
                (news.connected, "connected"),
                (news.over, "over"),
            ];
            for (_, word) in words.iter().filter(|(is, _)| *is) {
                let _ = write!(line, " {word}");
            }
            if news.accepted > 0 {
                let _ = write!(line, " {} accepted", news.accepted);
            }
            if let Some(errno) = news.errno {
                let _ = write!(line, " {errno:?}");
            }
            lines.push(line);
        }
        if std::mem::take(&mut self.mail) {
            lines.push("  mail".into());
        }
        if lines.is_empty() {
            lines.push("  nothing".into());
        }
        lines.sort();
        self.trace.append(&mut lines);
    }

    // Connections.

    /// The door every play has.
    pub fn door(&self) -> Sock {
        self.door
    }

    /// Its accept.
    pub fn door_token(&self) -> Token {
        self.door_token
    }

    pub fn knock(&mut self) -> Far {
        self.note("a client knocks");
        self.ground.knock(self.door)
    }

    /// A connection that was accepted, the first that was not asked for yet.
    pub fn accepted(&mut self) -> Sock {
        assert!(!self.accepted.is_empty(), "nothing was accepted");
        self.accepted.remove(0)
    }

    /// A client that has come in.
    pub fn client(&mut self) -> (Far, Sock) {
        let far = self.ground.knock(self.door);
        self.settle();
        self.news.clear();
        (far, self.accepted())
    }

    /// A connection to a server that has accepted it.
    pub fn server(&mut self) -> (Far, Sock) {
        let token = self.token("a connect");
        let sock = self.connect(Target::Listens, token);
        self.settle();
        assert!(self.news.get(&token.0).is_some_and(|news| news.connected), "a server that listens can be reached");
        self.news.clear();
        self.call(|kernel| kernel.acknowledge(sock));
        (self.ground.answer(sock), sock)
    }

    pub fn connect(&mut self, target: Target, token: Token) -> Sock {
        let address = Rc::new(SockAddr::from(self.ground.target(target)));
        let sock = self.call(|kernel| kernel.connect(&address, ConnectOptions { source: None }, token));
        let sock = sock.expect("there is a socket");
        self.targets.push(address);
        self.asked.insert(token.0, (Request::Connect, sock));
        sock
    }

    pub fn answer(&mut self, sock: Sock) -> Far {
        self.ground.answer(sock)
    }

    // Requests.

    /// Accepts at the door.
    pub fn accept(&mut self, name: &'static str) -> Token {
        let (token, door) = (self.token(name), self.door);
        self.call(|kernel| kernel.accept(door, token));
        self.asked.insert(token.0, (Request::Accept, door));
        token
    }

    pub fn watch(&mut self, sock: Sock, interest: Interest, name: &'static str) -> Token {
        let token = self.token(name);
        self.note(format!("watch: {name}"));
        self.call(|kernel| kernel.watch(sock, interest, token));
        self.asked.insert(token.0, (Request::Watch(interest), sock));
        token
    }

    pub fn cancel(&mut self, token: Token) {
        let (request, sock) = self.asked[&token.0];
        self.note(format!("cancel: {}", self.names[&token.0]));
        self.call(|kernel| kernel.cancel(request, sock, token));
    }

    /// Forgets what came before the end of a cancelled request: how much of it is told is up to the kernel.
    pub fn only_the_end_of(&mut self, token: Token) {
        self.settle();
        let news = self.news.entry(token.0).or_default();
        *news = News { over: news.over, ..News::default() };
    }

    pub fn ring(&mut self) {
        self.note("somebody rings");
        self.ground.ring();
    }

    // Bytes.

    pub fn recv(&mut self, sock: Sock, max: usize) -> Result<usize, Errno> {
        let mut into = vec![0; max];
        let got = self.call(|kernel| kernel.recv(sock, &mut into));
        self.note(format!("recv {max}: {got:?}"));
        got
    }

    pub fn send(&mut self, sock: Sock, bytes: usize) -> Result<usize, Errno> {
        let from = vec![0; bytes];
        let sent = self.call(|kernel| kernel.send(sock, &from));
        self.note(format!("send {bytes}: {sent:?}"));
        sent
    }

    /// Writes until no more is taken: how much it was, which is the kernel's to say.
    pub fn send_until_full(&mut self, sock: Sock) -> usize {
        let from = vec![0; CHUNK];
        let mut all = 0;
        for _ in 0..MOVES_MAX {
            match self.call(|kernel| kernel.send(sock, &from)) {
                Ok(sent) => all += sent,
                Err(errno) => {
                    self.note(format!("send until full: some, then {errno:?}"));
                    return all;
                }
            }
        }
        panic!("a socket without a bottom");
    }

    /// Splices until there is nothing to be had, `wanted` bytes have gone, or the receiver is full: how much went, how much
    /// the pipe holds, and why it stopped.
    pub fn splice_all(
        &mut self,
        pipe: &Pipe,
        from: Sock,
        to: Sock,
        wanted: usize,
    ) -> (usize, usize, Result<usize, Errno>) {
        let mut all = 0;
        let mut turns = 0;
        for _ in 0..MOVES_MAX {
            let held = match self.call(|kernel| kernel.fill(pipe, from, pipe.size)) {
                Ok(held @ 1..) => held,
                Err(Errno::EAGAIN) if all < wanted && turns < TURNS_MAX / 10 => {
                    // The window was full; what is behind it is on its way.
                    turns += 1;
                    self.turn(false);
                    continue;
                }
                last => return (all, 0, last),
            };
            let (poured, left, last) = self.pour_all(pipe, to, held);
            all += poured;
            if left > 0 {
                return (all, left, last);
            }
        }
        panic!("a stream without an end");
    }

    /// Pours what a pipe holds: how much went, how much is left, and why.
    pub fn pour_all(&mut self, pipe: &Pipe, to: Sock, held: usize) -> (usize, usize, Result<usize, Errno>) {
        let mut left = held;
        for _ in 0..MOVES_MAX {
            if left == 0 {
                break;
            }
            match self.call(|kernel| kernel.pour(pipe, to, left)) {
                Ok(poured @ 1..) => left -= poured,
                last => return (held - left, left, last),
            }
        }
        (held - left, left, Ok(0))
    }

    pub fn finish(&mut self, sock: Sock) {
        self.note("finish");
        self.call(|kernel| kernel.finish(sock));
    }

    pub fn close(&mut self, sock: Sock, how: Close) {
        self.note(format!("close: {how:?}"));
        self.call(|kernel| kernel.close(sock, how));
    }

    /// Lets go of the socket that was connected last.
    pub fn spare(&mut self, sock: Sock) {
        self.note("spare");
        let target = Rc::clone(self.targets.last().expect("there was a connect"));
        self.call(|kernel| kernel.spare(sock, &target));
    }

    pub fn error(&mut self, sock: Sock) {
        let error = self.call(|kernel| kernel.error(sock));
        self.note(format!("error: {error:?}"));
    }

    // The far ends.

    pub fn far_says(&mut self, far: Far, bytes: usize) {
        self.note(format!("far end: says {bytes}"));
        self.ground.say(far, bytes);
    }

    /// Asks a socket to tell of bytes only when this many wait.
    pub fn gather(&mut self, sock: Sock, bytes: usize) {
        self.note(format!("gather {bytes}"));
        self.call(|kernel| kernel.gather(sock, bytes));
    }

    /// The far end reads `bytes`, after which its stream should be `Open` or at an end.
    pub fn far_hears(&mut self, far: Far, bytes: usize, then: Heard) {
        let (got, heard) = self.ground.hear(far, bytes, then != Heard::Open);
        let all = if got == bytes { "all of it" } else { "other than that" };
        self.note(format!("far end: hears {all}, then {heard:?}"));
    }

    pub fn far_finishes(&mut self, far: Far) {
        self.note("far end: finishes");
        self.ground.finish(far);
    }

    pub fn far_resets(&mut self, far: Far) {
        self.note("far end: resets");
        self.ground.reset(far);
    }

    pub fn far_leaves(&mut self, far: Far) {
        self.note("far end: leaves");
        self.ground.leave(far);
    }
}
