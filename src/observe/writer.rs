//! The log thread: takes what the workers and the conductor left, makes lines of it, puts them out in batches.
//!
//! It may be slow, and its sink may stand still: a full disk, a pipe nobody reads. Then its buffer fills up to
//! [`BUFFERED_MAX`], it takes no more, the queues of the workers fill up, and they drop records and count them. Nobody
//! ever waits for it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};

use crate::base::limits::{BUFFERED_MAX, LETTERS_MAX, RECORDS_TURN_MAX};
use crate::dataplane::commons::{Commons, monotonic_ns};
use crate::sys::stderr;

use super::event::{Event, unix_ns};
use super::pen::{Pen, Style};
use super::recent::Recent;
use super::sink::Sink;

/// Pauses between rounds: little to do, a lot, and a sink that takes nothing. Long ones are cheap: this thread shares a core
/// with workers, and each time it comes it takes their caches.
const IDLE: Duration = Duration::from_millis(50);
const BUSY: Duration = Duration::from_millis(1);
const BLOCKED: Duration = Duration::from_millis(100);
/// A sink that fails is complained of on standard error once in this time.
const COMPLAINT_EVERY: Duration = Duration::from_secs(60);
/// How long the last lines may take when the daemon ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the log lost, and the last it was told. Records that workers dropped are counted by them.
#[derive(Debug, Default)]
pub struct LogTally {
    /// The last events, whether or not they could be written.
    pub recent: Recent,
    events_dropped: AtomicU64,
}

impl LogTally {
    /// Events that found the queue full, and entries that went out and could not be delivered.
    pub fn events_dropped(&self) -> u64 {
        self.events_dropped.load(Ordering::Relaxed)
    }
}

/// A handle to the log: whoever has one can say something. Never blocks.
#[derive(Clone, Debug)]
pub struct Log {
    letters: Sender<Letter>,
    tally: Arc<LogTally>,
    /// The thread that reads them, once it runs.
    reader: Arc<OnceLock<Thread>>,
}

/// The thread's end of the queue, before the thread runs.
#[derive(Debug)]
pub struct Inbox {
    letters: Receiver<Letter>,
}

/// The running thread.
#[derive(Debug)]
pub struct LogThread {
    letters: Sender<Letter>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Letter {
    Say(Box<Event>),
    Reopen,
    Restyle(Style, Option<Box<Sink>>),
    Finish,
}

/// A log that nobody writes out yet: what is said waits in its queue.
pub fn open() -> (Log, Inbox) {
    let (sender, receiver) = bounded(LETTERS_MAX);
    let log = Log { letters: sender, tally: Arc::default(), reader: Arc::default() };
    (log, Inbox { letters: receiver })
}

impl Log {
    /// Says something.
    pub fn say(&self, event: Event) {
        self.tally.recent.keep(&event);
        self.send(Letter::Say(Box::new(event)));
    }

    /// Opens a log file again (SIGUSR1).
    pub fn reopen(&self) {
        self.send(Letter::Reopen);
    }

    /// Writes differently from now on; with a sink, elsewhere too.
    pub fn restyle(&self, style: Style, sink: Option<Sink>) {
        self.send(Letter::Restyle(style, sink.map(Box::new)));
    }

    /// What was lost.
    pub fn tally(&self) -> Arc<LogTally> {
        Arc::clone(&self.tally)
    }

    fn send(&self, letter: Letter) {
        if self.letters.try_send(letter).is_err() {
            self.tally.events_dropped.fetch_add(1, Ordering::Relaxed);
        } else if let Some(reader) = self.reader.get() {
            reader.unpark();
        }
    }
}

impl Inbox {
    /// Starts the thread.
    ///
    /// # Errors
    /// What the thread could not be started for.
    pub fn start(self, log: &Log, commons: Arc<Commons>, style: Style, sink: Sink) -> io::Result<LogThread> {
        let writer = Writer {
            letters: self.letters,
            tally: log.tally(),
            commons,
            pen: Pen::new(style),
            sink,
            buffer: Vec::with_capacity(BUFFERED_MAX),
            written: 0,
            complained: None,
        };
        let thread = std::thread::Builder::new().name("ringway-log".into()).spawn(move || writer.run())?;
        log.reader.get_or_init(|| thread.thread().clone());
        Ok(LogThread { letters: log.letters.clone(), thread })
    }
}

impl LogThread {
    /// Lets the thread write what there is, for a second at most, and end.
    pub fn finish(self) {
        let deadline = Instant::now() + FAREWELL + IDLE;
        // A full queue empties within a round, unless the sink stands still.
        while self.letters.try_send(Letter::Finish).is_err() {
            if Instant::now() > deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.thread.thread().unpark();
        while !self.thread.is_finished() {
            if Instant::now() > deadline {
                return; // stuck in a write: the process ends without it
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The thread's own state.
struct Writer {
    letters: Receiver<Letter>,
    tally: Arc<LogTally>,
    commons: Arc<Commons>,
    pen: Pen,
    sink: Sink,
    buffer: Vec<u8>,
    /// How much of the buffer the sink has taken.
    written: usize,
    complained: Option<Instant>,
}

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    Finish,
}

impl Writer {
    fn run(mut self) {
        let mut pause = IDLE;
        loop {
            let next = self.read_letters(pause);
            let records = self.take_records();
            let more = self.is_full();
            let moved = self.put_out();
            if next == Next::Finish {
                return self.say_farewell();
            }
            pause = match moved {
                Moved::Nothing => BLOCKED,
                Moved::Some => Duration::ZERO,
                // What fills the buffer is not all there is.
                Moved::All if more => Duration::ZERO,
                Moved::All if records > RECORDS_TURN_MAX => BUSY,
                Moved::All => IDLE,
            };
        }
    }

    /// Waits for a letter, for `pause` at most, and reads all there are. The wait of a channel begins with a spin, which takes
    /// the core from the worker that shares it; parking does not.
    fn read_letters(&mut self, pause: Duration) -> Next {
        if self.letters.is_empty() && !pause.is_zero() {
            std::thread::park_timeout(pause);
        }
        loop {
            match self.letters.try_recv() {
                Ok(Letter::Say(event)) => self.write_event(&event),
                Ok(Letter::Reopen) => self.reopen(),
                Ok(Letter::Restyle(style, sink)) => self.restyle(style, sink),
                Ok(Letter::Finish) | Err(TryRecvError::Disconnected) => return Next::Finish,
                Err(TryRecvError::Empty) => return Next::Go,
            }
        }
    }

    fn write_event(&mut self, event: &Event) {
        if self.is_full() {
            self.tally.events_dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.pen.event(&mut self.buffer, event);
    }

    fn reopen(&mut self) {
        // What was said before belongs into the old file.
        self.put_out();
        let event = match self.sink.reopen() {
            Ok(()) => Event::info("log_reopened", "the log was opened again"),
            Err(error) => Event::error("log_reopened", format!("{error}; the old file goes on")),
        };
        self.write_event(&event);
    }

    fn restyle(&mut self, style: Style, sink: Option<Box<Sink>>) {
        self.take_records();
        self.put_out();
        let old = self.pen.style().envelope;
        self.pen.restyle(style);
        let Some(sink) = sink else { return };
        self.sink = *sink;
        if style.envelope != old {
            // What the old sink did not take, the new one would not understand.
            self.tally.events_dropped.fetch_add(old.count(&self.buffer[self.written..]), Ordering::Relaxed);
            self.buffer.clear();
            self.written = 0;
        }
    }

    /// Makes lines of what the workers left; answers how many records there were.
    fn take_records(&mut self) -> usize {
        // Taken anew each round, because the wall clock may be set.
        let offset_ns = unix_ns(SystemTime::now()).saturating_sub(monotonic_ns());
        let commons = Arc::clone(&self.commons);
        let mut total = 0;
        loop {
            let mut turn = 0;
            for (worker, desk) in commons.desks.iter().enumerate() {
                while !self.is_full()
                    && let Some(note) = desk.notes.pop()
                {
                    let event = Event::of_note(worker, &note);
                    self.tally.recent.keep(&event);
                    self.write_event(&event);
                }
                for _ in 0..RECORDS_TURN_MAX {
                    if self.is_full() {
                        return total + turn;
                    }
                    let Some(record) = desk.records.pop() else {
                        break;
                    };
                    turn += 1;
                    self.pen.record(&mut self.buffer, offset_ns, &record);
                }
            }
            total += turn;
            if turn == 0 {
                return total;
            }
        }
    }

    fn is_full(&self) -> bool {
        self.buffer.len() - self.written >= BUFFERED_MAX
    }

    /// Gives the sink as much as it takes.
    fn put_out(&mut self) -> Moved {
        let (mut moved, begun) = (0, Instant::now());
        // A sink that takes a little at a time must not keep us from the letters.
        while self.written < self.buffer.len() && begun.elapsed() < BLOCKED {
            match self.sink.write(&self.buffer[self.written..]) {
                Ok(0) => break,
                Ok(n) => {
                    self.written += n;
                    moved += n;
                }
                Err(error) => {
                    self.complain(&error);
                    break;
                }
            }
        }
        let lost = self.sink.take_lost();
        if lost > 0 {
            self.tally.events_dropped.fetch_add(lost, Ordering::Relaxed);
        }
        if self.written == self.buffer.len() {
            self.buffer.clear();
            self.written = 0;
            return Moved::All;
        }
        // Keep the buffer from growing behind a sink that takes a little at a time.
        if self.written >= BUFFERED_MAX {
            self.buffer.drain(..self.written);
            self.written = 0;
        }
        if moved == 0 { Moved::Nothing } else { Moved::Some }
    }

    fn complain(&mut self, error: &io::Error) {
        if self.complained.is_some_and(|at| at.elapsed() < COMPLAINT_EVERY) {
            return;
        }
        self.complained = Some(Instant::now());
        stderr::say(&format!("ringway: the log cannot be written: {error}; records are dropped while this lasts\n"));
    }

    fn say_farewell(mut self) {
        let deadline = Instant::now() + FAREWELL;
        loop {
            let records = self.take_records();
            if self.put_out() == Moved::All && records == 0 {
                return;
            }
            if Instant::now() > deadline {
                return;
            }
            std::thread::sleep(BUSY);
        }
    }
}

/// How much of what waited the sink took.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moved {
    All,
    Some,
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::{LogFormat, LogTarget};
    use crate::dataplane::ending::Ending;
    use crate::dataplane::record::{Note, Record};
    use crate::observe::line::Stamp;
    use crate::observe::panel::tests::panel;
    use crate::observe::pen::Envelope;

    const STYLE: Style = Style { format: LogFormat::Json, envelope: Envelope::Lines, access: true };

    fn record(commons: &Commons, session: u64) -> Record {
        Record {
            session,
            made_ns: monotonic_ns(),
            accepted_ns: monotonic_ns(),
            listener: Arc::clone(&commons.scene.load().plan.listeners[0]),
            server: Some(0),
            client: None,
            local_port: 1,
            queue_us: 0,
            connect_us: Some(1),
            first_byte_us: Some(2),
            bytes_in: 3,
            bytes_out: 4,
            attempts: 1,
            ending: Some(Ending::Done),
            errno: 0,
            crowd: None,
        }
    }

    fn wait_until(what: &str, mut fact: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !fact() {
            assert!(Instant::now() < deadline, "waited in vain: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn records_notes_and_events_come_out_as_lines() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let sink = Sink::open(&LogTarget::File(path.clone())).expect("opened");
        let commons = Arc::clone(&panel().commons);
        let (log, inbox) = open();
        log.say(Event::info("started", "before the thread ran"));
        let thread = inbox.start(&log, Arc::clone(&commons), STYLE, sink).expect("started");
        for worker in 0..2 {
            for session in 0..3_000 {
                let desk = &commons.desks[worker];
                desk.records.push(record(&commons, session)).expect("there is room");
            }
        }
        commons.desks[1].notes.push(Note::NoPipes { errno: 24 }).expect("there is room");
        thread.finish();
        let text = std::fs::read_to_string(&path).expect("written");
        assert_eq!(text.lines().count(), 6_002);
        let year = SystemTime::now();
        for line in text.lines() {
            let read: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let mut stamp = Stamp::default();
            let today = String::from_utf8_lossy(&stamp.text(unix_ns(year))[..10]).into_owned();
            assert!(read["ts"].as_str().expect("a time") >= &today[..8], "{line}");
        }
        assert!(text.lines().next().expect("one").contains("\"started\""));
        assert!(text.contains("\"no_pipes\""));
    }

    #[test]
    fn a_log_that_stands_still_costs_records_and_nothing_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("made");
        let sink = Sink::open(&LogTarget::File(path)).expect("opened");
        let commons = Arc::clone(&panel().commons);
        let (log, inbox) = open();
        let thread = inbox.start(&log, Arc::clone(&commons), STYLE, sink).expect("started");
        let mut refused = false;
        wait_until("the queue is full", || {
            for session in 0..1_000 {
                refused |= commons.desks[0].records.push(record(&commons, session)).is_err();
            }
            refused
        });
        wait_until("events are dropped", || {
            (0..100).for_each(|_| log.say(Event::info("noise", "noise")));
            log.tally().events_dropped() > 0
        });
        let begun = Instant::now();
        thread.finish();
        assert!(begun.elapsed() < Duration::from_secs(30), "it waits for ever");
    }

    #[test]
    fn the_log_can_be_rotated_and_restyled_while_it_runs() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let rotated = directory.path().join("log.1");
        let sink = Sink::open(&LogTarget::File(path.clone())).expect("opened");
        let commons = Arc::clone(&panel().commons);
        let (log, inbox) = open();
        let thread = inbox.start(&log, Arc::clone(&commons), STYLE, sink).expect("started");
        let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
        log.say(Event::info("old", ""));
        wait_until("the first line", || !read(&path).is_empty());
        std::fs::rename(&path, &rotated).expect("renamed");
        log.reopen();
        wait_until("a new file", || read(&path).contains("log_reopened"));
        assert!(read(&rotated).contains("\"old\""));
        log.restyle(Style { format: LogFormat::Logfmt, envelope: Envelope::Lines, access: false }, None);
        log.say(Event::info("new", ""));
        wait_until("the new style", || read(&path).contains(" event=new "));
        commons.desks[0].records.push(record(&commons, 1)).expect("there is room");
        thread.finish();
        assert!(!read(&path).contains("session="));
    }

    #[test]
    fn a_log_that_moves_to_a_socket_leaves_behind_what_the_socket_would_not_understand() {
        let directory = tempfile::tempdir().expect("a directory");
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("made");
        let commons = Arc::clone(&panel().commons);
        let (log, inbox) = open();
        let thread = inbox
            .start(&log, Arc::clone(&commons), STYLE, Sink::open(&LogTarget::File(fifo)).expect("opened"))
            .expect("started");
        wait_until("the old sink is full", || {
            (0..1_000).any(|session| commons.desks[0].records.push(record(&commons, session)).is_err())
        });
        let path = directory.path().join("syslog");
        let reader = std::os::unix::net::UnixDatagram::bind(&path).expect("bound");
        reader.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        let sink = Sink::open(&LogTarget::Syslog(path)).expect("opened");
        log.restyle(Style { envelope: Envelope::Syslog, ..STYLE }, Some(sink));
        let mut buffer = [0; 4_096];
        for _ in 0..100 {
            let length = reader.recv(&mut buffer).expect("a record");
            assert!(buffer[..length].starts_with(b"<134>"), "{}", String::from_utf8_lossy(&buffer[..length]));
        }
        assert!(log.tally().events_dropped() > 0, "what was left behind is counted");
        drop(reader);
        thread.finish();
    }
}
