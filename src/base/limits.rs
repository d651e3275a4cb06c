//! Every bound of the daemon, in one place: its unit, what it costs, and what happens when it is reached.
//!
//! What an operator may set, and within which range, is in [`crate::config::limits`]; how many sessions descriptors and
//! memory allow is worked out at start (`control::ceiling`). Durations stand beside the code that waits. [`TABLE`] is the
//! same for readers; `tests/tidy.rs` holds the README to it.

// The configuration.

/// Largest file, in bytes. Ten thousand servers take about 1 MiB; parsing needs some thirty times the file.
pub const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most complaints that are kept and shown; the rest are counted.
pub const COMPLAINTS_MAX: usize = 200;
/// Most listeners; each worker holds one socket for each bind.
pub const LISTENERS_MAX: usize = 1024;
/// Most binds of a listener.
pub const BINDS_MAX: usize = 64;
/// Most pools.
pub const POOLS_MAX: usize = 1024;
/// Most servers in a pool.
pub const SERVERS_MAX: usize = 10_000;
/// Most servers that are added and removed beside the file, of each kind.
pub const OVERLAY_MAX: usize = 1000;
/// Largest weight of a server; 0 means no new sessions.
pub const WEIGHT_MAX: u16 = 256;
/// Longest rotation of a pool, in entries of two bytes.
pub const ROTATION_MAX: usize = 65_536;
/// Lengths a table of `policy = "maglev"` may have, in entries of two bytes: the primes of the paper, and one for more than
/// 6 553 servers.
pub const MAGLEV_SIZES: [usize; 3] = [65_537, 655_373, 1_000_003];
/// Entries that all tables of `policy = "maglev"` may have together: 16 MiB, and twice that during a reload.
pub const MAGLEV_ENTRIES_MAX: usize = 8 << 20;
/// Most local addresses a pool connects from; 64 give 1.8 million ports to one server.
pub const SOURCES_MAX: usize = 64;

// Workers.

/// Most worker threads.
pub const WORKERS_MAX: u16 = 256;
/// Entries of a worker's submission queue, of 64 bytes; more are submitted in several calls.
pub const SUBMISSIONS: u32 = 1024;
/// Entries of its completion queue, of 16 bytes. When it overflows nothing is lost, but multishot requests end and are made
/// again.
pub const COMPLETIONS: u32 = 16 * 1024;
/// Letters that may wait for one worker. A full box refuses: the sender keeps what it has and goes on.
pub const MAIL_MAX: usize = 1024;
/// Connections that may wait to be taken in by one worker they are handed to; those beyond stay where they were accepted.
/// More than there may be workers, each of which may add one at a time.
pub const NEWCOMERS_MAX: usize = 512;
/// Access records that may wait for the log thread, per worker, at about 200 bytes each; more are dropped and counted.
pub const RECORDS_MAX: usize = 16 * 1024;
/// Notes that may wait for the log thread, per worker.
pub const NOTES_MAX: usize = 256;

// Sessions.

/// Connections that may wait to be accepted, per socket. The kernel cuts it to `net.core.somaxconn`.
pub const BACKLOG: u16 = 4096;
/// Most servers one session may try.
pub const ATTEMPTS_MAX: usize = 16;
/// Largest first packet of a MySQL server that is waited for, in bytes: a greeting has about a hundred, an error at most 521
/// (`MYSQL_ERRMSG_SIZE`). A longer one is passed on as it comes.
pub const GREETING_MAX: usize = 1024;
/// The copy buffer of a worker, in bytes, and with it the most a spill can hold.
pub const BUFFER: usize = 16 * 1024;
/// Bytes one run of a pump may move before others get their turn. Not more, for the pump's own good: chasing what arrives
/// while it writes, it would move ever smaller pieces; let it gather meanwhile.
pub const BUDGET: usize = 1 << 18;
/// Bytes the socket of a long stream gathers before it tells of them. The kernel lets its buffer grow to twice as much
/// (tcp_set_rcvlowat), within `net.ipv4.tcp_rmem`.
pub const GATHERED: usize = 1 << 20;
/// The same for one that fills that between two visits: most of what the kernel's own tuning gives so fast a stream.
pub const GATHERED_MOST: usize = 3 << 20;
/// Sockets that a worker keeps to connect anew, per family. No descriptors are set aside for them: where there are none left,
/// these are let go.
pub const SPARES_MAX: usize = 32;
/// Spills a worker keeps for reuse, [`BUFFER`] bytes each.
pub const SPILLS_IDLE_MAX: usize = 64;
/// Pipes a worker has at most, large and small; two descriptors each.
pub const PIPES_MAX: usize = 512;
/// Large pipes a worker has at most.
pub const PIPES_LARGE_MAX: usize = 24;
/// Empty pipes a worker keeps.
pub const PIPES_IDLE_MAX: usize = 32;
/// Size of a large pipe, in bytes: `fs.pipe-max-size` allows that much by default.
pub const PIPE_LARGE: usize = 1 << 20;
/// Size of a small pipe, and the least a pipe must have to be of use, in bytes: what pipe2(2) gives.
pub const PIPE_SMALL: usize = 1 << 16;

// The log.

/// Events and orders that may wait for the log thread.
pub const LETTERS_MAX: usize = 1_024;
/// Bytes of lines that may wait for the log's sink.
pub const BUFFERED_MAX: usize = 256 * 1024;
/// Records taken from one worker before the next one's turn.
pub const RECORDS_TURN_MAX: usize = 1_024;

// The admin server and its client.

/// Connections at once, on each socket. More wait in the kernel's queue.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Longest head of a request, in bytes (hyper's least).
pub const ADMIN_HEAD_MAX: usize = 8 * 1024;
/// Requests a second, on each socket…
pub const ADMIN_REQUESTS_A_SECOND: u32 = 200;
/// …and at once after a pause.
pub const ADMIN_REQUESTS_BURST: u32 = 400;
/// Largest body of a request, in bytes.
pub const ADMIN_BODY_MAX: usize = 1024 * 1024;
/// Most sessions that are listed at once.
pub const ROLL_MAX: usize = 1000;
/// Most sessions that are named in one request to end them.
pub const KILLS_MAX: usize = 1000;
/// Commands that may wait for the conductor.
pub const COMMANDS_MAX: usize = 64;
/// Events that are kept for whoever looks.
pub const EVENTS_MAX: usize = 200;
/// Samples of what goes on that are kept, one a second: five minutes, at some 150 bytes each.
pub const SAMPLES_MAX: usize = 300;
/// Clients that may watch at once (`/v1/events`), on both sockets together: enough connections are left to ask for something.
pub const WATCHERS_MAX: usize = 16;
/// Frames of a second that may wait for one of them.
pub const FRAMES_MAX: usize = 4;
/// Lines of the difference a reload made that are kept; the rest are counted.
pub const CHANGES_MAX: usize = 100;
/// Longest line on the socket of HAProxy's runtime protocol, in bytes: as HAProxy's (`tune.bufsize`).
pub const RUNTIME_LINE_MAX: usize = 16 * 1024;
/// Largest answer a verb takes from a daemon, in bytes: metrics of ten thousand servers are some 20 MB.
pub const ANSWER_MAX: usize = 64 * 1024 * 1024;

// Checks of MySQL servers.

/// Largest packet a check takes, in bytes. A row of the status of a replica is some 4 KiB.
pub const MYSQL_PACKET_MAX: usize = 64 * 1024;
/// Bytes that may wait to be read by a check: a packet, and what came with it.
pub const MYSQL_BUFFERED_MAX: usize = 2 * MYSQL_PACKET_MAX;
/// Most columns of an answer; the status of a replica has some 60.
pub const MYSQL_COLUMNS_MAX: usize = 256;
/// Most rows of an answer: a replica has one for each source.
pub const MYSQL_ROWS_MAX: usize = 256;
/// Most bytes of the values of an answer.
pub const MYSQL_ANSWER_MAX: usize = 256 * 1024;

// What all of that comes to, in the worst case.

/// Memory that does not grow with sessions or workers, in bytes: the largest configuration while it is compiled, the maglev
/// tables of two plans, and 32 MiB for the program, the log's buffer and the admin server.
pub const BYTES_FIXED: u64 = 30 * FILE_BYTES_MAX as u64 + 2 * 2 * MAGLEV_ENTRIES_MAX as u64 + (32 << 20);
/// Address space a thread takes: its stack, and the arena of the allocator (glibc `HEAP_MAX_SIZE`).
pub const ADDRESSES_PER_THREAD: u64 = (2 << 20) + (64 << 20);
/// Memory of one worker without its sessions, in bytes: ring, queues, mail, stack, buffer and spills of its own, and what
/// the kernel holds for its pipes.
pub const BYTES_PER_WORKER: u64 = SUBMISSIONS as u64 * 64
    + COMPLETIONS as u64 * 16
    + (RECORDS_MAX + NOTES_MAX + MAIL_MAX + NEWCOMERS_MAX) as u64 * 256
    + (2 << 20)
    + (BUFFER * (1 + SPILLS_IDLE_MAX)) as u64
    + (PIPES_LARGE_MAX * PIPE_LARGE + (PIPES_MAX - PIPES_LARGE_MAX) * PIPE_SMALL) as u64;
/// Memory of one session besides its slot, when both its receivers are blocked and no pipe was left, in bytes.
pub const BYTES_PER_SESSION: u64 = 2 * BUFFER as u64;
/// Locked memory of one worker's ring, in bytes (`RLIMIT_MEMLOCK`), with what the kernel adds for pages.
pub const LOCKED_PER_WORKER: u64 = SUBMISSIONS as u64 * 64 + COMPLETIONS as u64 * 16 + (64 << 10);

/// So many hundredths of a limit on memory may be in use before nobody is let in any more…
pub const MEMORY_SHORT_PERCENT: u64 = 90;
/// …and fewer than so many let everybody in again.
pub const MEMORY_CALM_PERCENT: u64 = 85;

/// One line for readers.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// What is bounded.
    pub what: &'static str,
    /// How many, or how much.
    pub most: Most,
    /// What one costs.
    pub cost: &'static str,
    /// What happens when it is reached.
    pub then: &'static str,
}

/// How many.
#[derive(Clone, Copy, Debug)]
pub enum Most {
    /// So many.
    Count(u64),
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of a limit.
    Percent(u64),
    /// What a key of the configuration says.
    Key(&'static str),
}

impl std::fmt::Display for Most {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Most::Count(count) if count >= 10_000 => write!(f, "{} {:03}", count / 1_000, count % 1_000),
            Most::Count(count) => write!(f, "{count}"),
            Most::Bytes(bytes) if bytes >= 1 << 20 => write!(f, "{} MiB", bytes >> 20),
            Most::Bytes(bytes) => write!(f, "{} KiB", bytes >> 10),
            Most::Percent(percent) => write!(f, "{percent} %"),
            Most::Key(key) => write!(f, "`{key}`"),
        }
    }
}

const fn count(most: usize) -> Most {
    Most::Count(most as u64)
}

const fn bytes(most: usize) -> Most {
    Most::Bytes(most as u64)
}

const fn bound(what: &'static str, most: Most, cost: &'static str, then: &'static str) -> Bound {
    Bound { what, most, cost, then }
}

/// Servers whose sessions are ended over a time, at once; and pools that are rebalanced.
pub const PACED_MAX: usize = 64;

/// The bounds an operator can meet.
pub const TABLE: [Bound; 33] = [
    bound(
        "sessions",
        Most::Key("max_connections"),
        "2 descriptors, 0.5 KiB; up to 32 KiB more while its receivers are blocked",
        "reset at accept, `max_connections`",
    ),
    bound(
        "memory in use, of what a cgroup or `ulimit -v` allows",
        Most::Percent(MEMORY_SHORT_PERCENT),
        "",
        "reset at accept, `memory`, until 85 % are enough; event `memory_short`",
    ),
    bound(
        "sessions of a server",
        Most::Key("servers[].max_connections"),
        "",
        "passed over; if all are full, `servers_full`",
    ),
    bound(
        "sessions that wait for a place on a server, per pool",
        Most::Key("queue.limit"),
        "a session that has no server yet",
        "ended, `queue_full`",
    ),
    bound(
        "connections that wait to be accepted, per socket",
        count(BACKLOG as usize),
        "in the kernel",
        "the kernel drops them",
    ),
    bound("servers tried for a session", count(ATTEMPTS_MAX), "", "the reason of the last try"),
    bound(
        "bytes read and not yet delivered, per direction",
        bytes(PIPE_LARGE),
        "of the kernel, or 16 KiB here",
        "nothing is read until they are",
    ),
    bound("bytes moved before others have their turn", bytes(BUDGET), "", "the rest moves in the next turn"),
    bound(
        "pipes of a worker",
        count(PIPES_MAX),
        "2 descriptors, 64 KiB of the kernel",
        "bulk is copied, event `no_pipes`",
    ),
    bound("large ones among them", count(PIPES_LARGE_MAX), "1 MiB of the kernel", "smaller pipes"),
    bound("workers", count(WORKERS_MAX as usize), "a thread, a ring of 0.3 MiB", "refused"),
    bound(
        "completions that wait for a worker",
        count(COMPLETIONS as usize),
        "16 bytes",
        "the kernel keeps them, `ringway_cq_overflow_total`",
    ),
    bound("letters to a worker", count(MAIL_MAX), "256 bytes", "sent again later"),
    bound("connections handed to a worker", count(NEWCOMERS_MAX), "256 bytes", "they stay where they were accepted"),
    bound(
        "access records that wait, per worker",
        count(RECORDS_MAX),
        "256 bytes",
        "dropped, `ringway_log_dropped_total`",
    ),
    bound("notes that wait, per worker", count(NOTES_MAX), "256 bytes", "dropped; one a second and kind is made"),
    bound("events that wait for the log", count(LETTERS_MAX), "", "dropped, `ringway_log_dropped_total`"),
    bound("lines that wait for the log's file", bytes(BUFFERED_MAX), "", "records wait"),
    bound("configuration file", bytes(FILE_BYTES_MAX), "30 times its size while it is compiled", "refused"),
    bound("listeners", count(LISTENERS_MAX), "a descriptor a bind and worker", "refused"),
    bound("binds of a listener", count(BINDS_MAX), "a descriptor a worker", "refused"),
    bound("pools", count(POOLS_MAX), "", "refused"),
    bound("servers of a pool", count(SERVERS_MAX), "", "refused"),
    bound("servers added, and removed, beside the file", count(OVERLAY_MAX), "", "refused"),
    bound("servers drained over a time, at once; and pools rebalanced", count(PACED_MAX), "", "refused"),
    bound(
        "tables of maglev pools together",
        bytes(2 * MAGLEV_ENTRIES_MAX),
        "128 KiB a pool, 2 MiB one of 10 000 servers",
        "refused",
    ),
    bound(
        "admin connections, per socket",
        count(ADMIN_CONNECTIONS_MAX),
        "a descriptor",
        "they wait in the kernel's queue",
    ),
    bound(
        "clients that watch (`/v1/events`, the status page)",
        count(WATCHERS_MAX),
        "an admin connection, 4 frames",
        "503; one that does not read for 10 s is dropped",
    ),
    bound("line on `haproxy_socket`", bytes(RUNTIME_LINE_MAX), "", "the connection is closed"),
    bound(
        "admin requests a second, per socket",
        count(ADMIN_REQUESTS_A_SECOND as usize),
        "400 at once after a pause",
        "429; `/livez` and `/readyz` are always answered",
    ),
    bound("head of an admin request", bytes(ADMIN_HEAD_MAX), "", "431"),
    bound("body of an admin request", bytes(ADMIN_BODY_MAX), "", "413"),
    bound("answer to a MySQL check", bytes(MYSQL_ANSWER_MAX), "", "the check fails"),
];
