//! Scripts about streams: bytes, pipes, and every way a connection can end.

use ringway::kernel::{Close, Interest, Pipe, Sock};

use crate::Script;
use crate::play::{Far, Heard, Play};

/// Bytes that need several of the pieces a stream comes in.
const MUCH: usize = 200_000;
/// What pipe2(2) gives.
const PIPE: usize = 1 << 16;

pub const ALL: [Script; 22] = [
    ("bytes there and back", bytes),
    ("bytes are gathered", gathered),
    ("an end behind data", end_behind_data),
    ("a half-closed client is answered", half_closed_by_the_far_end),
    ("we finish first", half_closed_by_us),
    ("both finish", both_finish),
    ("a reset: recv hears of it first", |play| reset(play, First::Recv)),
    ("a reset: send hears of it first", |play| reset(play, First::Send)),
    ("a reset: the socket's error is asked for first", |play| reset(play, First::Error)),
    ("a reset: splice hears of it first", |play| reset(play, First::Fill)),
    ("a reset behind data", reset_behind_data),
    ("a reset behind a FIN", reset_behind_a_fin),
    ("a reset by a server", reset_by_a_server),
    ("the far end has left and is written to", written_to_nobody),
    ("close: clean", |play| close(play, Close::Clean, false)),
    ("close: clean, with bytes unread", |play| close(play, Close::Clean, true)),
    ("close: reset", |play| close(play, Close::Reset, false)),
    ("a spare socket is as good as new", spared),
    ("splice through a pipe", splice),
    ("splice until the receiver is full", splice_full),
    ("splice at the end of a stream", splice_end),
    ("a pipe that is closed with bytes in it", pipe_thrown_away),
];

fn bytes(play: &mut Play) {
    let (far, sock) = play.client();
    play.watch(sock, Interest::Readable, "client");
    let _ = play.recv(sock, 100);
    play.far_says(far, 1000);
    play.tell();
    let _ = play.recv(sock, 600);
    let _ = play.recv(sock, 600);
    let _ = play.recv(sock, 600);
    let _ = play.send(sock, 3000);
    play.far_hears(far, 3000, Heard::Open);
    play.tell();
}

fn gathered(play: &mut Play) {
    let (far, sock) = play.client();
    play.watch(sock, Interest::Readable, "client");
    play.tell();
    play.gather(sock, 5000);
    play.far_says(far, 3000);
    play.tell();
    play.far_says(far, 3000);
    play.tell();
    let _ = play.recv(sock, 4000);
    play.far_says(far, 100);
    play.tell();
    play.gather(sock, 1);
    play.tell();
    let _ = play.recv(sock, 4000);
    play.far_says(far, 100);
    play.tell();
    play.gather(sock, 5000);
    play.far_finishes(far);
    play.tell();
    let _ = play.recv(sock, 4000);
    let _ = play.recv(sock, 4000);
}

fn end_behind_data(play: &mut Play) {
    let (far, sock) = play.client();
    play.watch(sock, Interest::Readable, "client");
    play.tell();
    play.far_says(far, 5);
    play.far_finishes(far);
    play.tell();
    let _ = play.recv(sock, 100);
    let _ = play.recv(sock, 100);
    let _ = play.recv(sock, 100);
    play.error(sock);
}

fn half_closed_by_the_far_end(play: &mut Play) {
    let (far, sock) = play.client();
    play.watch(sock, Interest::Readable, "read");
    play.watch(sock, Interest::Writable, "write");
    play.tell();
    play.far_finishes(far);
    play.tell();
    let _ = play.recv(sock, 100);
    let _ = play.send(sock, 2000);
    play.far_hears(far, 2000, Heard::Open);
    play.tell();
    play.finish(sock);
    play.far_hears(far, 0, Heard::Fin);
    play.tell();
}

fn half_closed_by_us(play: &mut Play) {
    let (far, sock) = play.server();
    play.watch(sock, Interest::Readable, "read");
    let _ = play.send(sock, 10);
    play.finish(sock);
    play.far_hears(far, 10, Heard::Fin);
    play.tell();
    play.far_says(far, 500);
    play.tell();
    let _ = play.recv(sock, 100);
    let _ = play.recv(sock, 1000);
    play.far_finishes(far);
    play.tell();
    let _ = play.recv(sock, 100);
    play.error(sock);
}

fn both_finish(play: &mut Play) {
    let (far, sock) = play.client();
    let read = play.watch(sock, Interest::Readable, "read");
    let write = play.watch(sock, Interest::Writable, "write");
    play.tell();
    play.finish(sock);
    play.tell();
    play.far_finishes(far);
    play.tell();
    let _ = play.recv(sock, 100);
    play.cancel(read);
    play.cancel(write);
    play.tell();
    play.far_hears(far, 0, Heard::Fin);
    play.close(sock, Close::Clean);
    play.tell();
}

/// Which call is the first to meet a reset: it gets the error, and the others what is left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Recv,
    Send,
    Error,
    Fill,
}

fn reset(play: &mut Play, first: First) {
    let (far, sock) = play.client();
    play.watch(sock, Interest::Readable, "read");
    play.watch(sock, Interest::Writable, "write");
    play.tell();
    play.far_resets(far);
    play.tell();
    match first {
        First::Recv => drop(play.recv(sock, 100)),
        First::Send => drop(play.send(sock, 100)),
        First::Error => play.error(sock),
        First::Fill => {
            let pipe = pipe(play);
            let filled = play.call(|kernel| kernel.fill(&pipe, sock, PIPE));
            play.note(format!("fill: {filled:?}"));
            shut(play, pipe);
        }
    }
    let _ = play.recv(sock, 100);
    let _ = play.send(sock, 100);
    let _ = play.recv(sock, 100);
    play.error(sock);
    play.tell();
}

fn reset_behind_data(play: &mut Play) {
    let (far, sock) = play.client();
    play.watch(sock, Interest::Readable, "read");
    play.tell();
    play.far_says(far, 300);
    play.far_resets(far);
    play.tell();
    let _ = play.recv(sock, 200);
    let _ = play.recv(sock, 200);
    let _ = play.recv(sock, 200);
    let _ = play.recv(sock, 200);
}

fn reset_behind_a_fin(play: &mut Play) {
    let (far, sock) = play.client();
    play.watch(sock, Interest::Readable, "read");
    play.tell();
    play.far_says(far, 300);
    play.far_finishes(far);
    play.tell();
    play.far_resets(far);
    play.tell();
    // Reading never tells of it.
    let _ = play.recv(sock, 1000);
    let _ = play.recv(sock, 1000);
    play.error(sock);
    let _ = play.send(sock, 100);
    let _ = play.recv(sock, 1000);
}

fn reset_by_a_server(play: &mut Play) {
    let (far, sock) = play.server();
    play.watch(sock, Interest::Readable, "read");
    play.tell();
    let _ = play.send(sock, 100);
    play.far_hears(far, 100, Heard::Open);
    play.far_resets(far);
    play.tell();
    let _ = play.send(sock, 100);
    let _ = play.recv(sock, 100);
}

fn written_to_nobody(play: &mut Play) {
    let (far, sock) = play.server();
    play.watch(sock, Interest::Readable, "read");
    play.tell();
    play.far_leaves(far);
    play.tell();
    let _ = play.recv(sock, 100);
    // It is taken; the answer is a reset.
    let _ = play.send(sock, 100);
    play.tell();
    let _ = play.send(sock, 100);
    let _ = play.send(sock, 100);
    let _ = play.recv(sock, 100);
}

fn close(play: &mut Play, how: Close, unread: bool) {
    let (far, sock) = play.client();
    let _ = play.send(sock, 100);
    play.far_hears(far, 100, Heard::Open);
    if unread {
        play.far_says(far, 100);
    }
    play.close(sock, how);
    play.tell();
    play.far_hears(far, 0, if how == Close::Clean && !unread { Heard::Fin } else { Heard::Reset });
}

fn spared(play: &mut Play) {
    let (far, sock) = play.server();
    let read = play.watch(sock, Interest::Readable, "the first");
    let _ = play.send(sock, 100);
    play.far_hears(far, 100, Heard::Open);
    play.far_says(far, 300);
    play.tell();
    play.cancel(read);
    play.tell();
    play.spare(sock);
    play.tell();
    play.far_hears(far, 0, Heard::Reset);
    let (far, sock) = play.server();
    play.watch(sock, Interest::Readable, "the second");
    play.tell();
    play.error(sock);
    let _ = play.recv(sock, 1000);
    let _ = play.send(sock, 3000);
    play.far_hears(far, 3000, Heard::Open);
    play.far_says(far, 50);
    play.tell();
    let _ = play.recv(sock, 1000);
    play.finish(sock);
    play.far_hears(far, 0, Heard::Fin);
    play.far_finishes(far);
    play.tell();
    let _ = play.recv(sock, 1000);
    play.error(sock);
}

fn pipe(play: &mut Play) -> Pipe {
    let pipe = play.call(|kernel| kernel.open_pipe(PIPE)).expect("there is a pipe");
    play.note(format!("a pipe of {} bytes", pipe.size));
    pipe
}

fn shut(play: &mut Play, pipe: Pipe) {
    let mut pipe = Some(pipe);
    play.call(|kernel| kernel.close_pipe(pipe.take().expect("closed once")));
}

fn both(play: &mut Play) -> ((Far, Sock), (Far, Sock)) {
    (play.client(), play.server())
}

fn splice(play: &mut Play) {
    let ((client, from), (server, to)) = both(play);
    let pipe = pipe(play);
    let nothing = play.splice_all(&pipe, from, to, 0);
    play.note(format!("splice: {nothing:?}"));
    play.far_says(client, MUCH);
    play.settle();
    let moved = play.splice_all(&pipe, from, to, MUCH);
    play.note(format!("splice: {moved:?}"));
    play.far_hears(server, MUCH, Heard::Open);
    // No more than asked for.
    play.far_says(client, 100);
    play.settle();
    let filled = play.call(|kernel| kernel.fill(&pipe, from, 60));
    play.note(format!("fill 60: {filled:?}"));
    let poured = play.pour_all(&pipe, to, 60);
    play.note(format!("pour: {poured:?}"));
    let _ = play.recv(from, 100);
    shut(play, pipe);
}

fn splice_full(play: &mut Play) {
    let ((client, from), (server, to)) = both(play);
    let pipe = pipe(play);
    let room = play.watch(to, Interest::Writable, "receiver");
    let stuffed = play.send_until_full(to);
    play.tell();
    play.far_says(client, MUCH);
    play.settle();
    let filled = play.call(|kernel| kernel.fill(&pipe, from, 1000));
    play.note(format!("fill 1000: {filled:?}"));
    // No room at all: the pipe keeps every byte.
    let poured = play.pour_all(&pipe, to, 1000);
    play.note(format!("pour: {poured:?}"));
    play.tell();
    play.far_hears(server, stuffed, Heard::Open);
    play.tell();
    let poured = play.pour_all(&pipe, to, 1000);
    play.note(format!("pour: {poured:?}"));
    let moved = play.splice_all(&pipe, from, to, MUCH - 1000);
    play.note(format!("splice: {moved:?}"));
    play.far_hears(server, MUCH, Heard::Open);
    play.cancel(room);
    play.tell();
    shut(play, pipe);
}

fn splice_end(play: &mut Play) {
    let ((client, from), (server, to)) = both(play);
    let pipe = pipe(play);
    play.far_says(client, 10);
    play.far_finishes(client);
    play.settle();
    let moved = play.splice_all(&pipe, from, to, 10);
    play.note(format!("splice: {moved:?}"));
    play.finish(to);
    play.far_hears(server, 10, Heard::Fin);
    let again = play.call(|kernel| kernel.fill(&pipe, from, PIPE));
    play.note(format!("fill: {again:?}"));
    shut(play, pipe);
}

fn pipe_thrown_away(play: &mut Play) {
    let (client, from) = play.client();
    let pipe = pipe(play);
    play.far_says(client, 10);
    play.settle();
    let filled = play.call(|kernel| kernel.fill(&pipe, from, PIPE));
    play.note(format!("fill: {filled:?}"));
    shut(play, pipe);
    // What was in it is gone, and nothing else.
    let _ = play.recv(from, 100);
    play.far_says(client, 3);
    play.settle();
    let _ = play.recv(from, 100);
}
