//! Scripts about requests: accept, connect, watch, their ends, and who may wake a worker.

use ringway::kernel::{Close, Interest};

use crate::Script;
use crate::play::{Heard, Play, Target};

pub const ALL: [Script; 14] = [
    ("accept goes on until it is cancelled", accept_goes_on),
    ("connections can be taken one by one", accept_now),
    ("connect: somebody listens", connect),
    ("connect: nobody listens", connect_refused),
    ("connect: nobody answers, until it is cancelled", connect_silent),
    ("connect: cancelled and closed in one turn", connect_abandoned),
    ("watch: something to read", watch_readable),
    ("watch: room to write", watch_writable),
    ("watch: cancelled with nothing to say", cancel_quiet_watches),
    ("watch: cancelled with something to say", cancel_busy_watch),
    ("watch: cancelled and made again in one turn", watch_again),
    ("close with requests in flight", close_with_requests),
    ("ring", ring),
    ("wait with nothing to wait for", wait_in_vain),
];

fn accept_goes_on(play: &mut Play) {
    let door = play.door();
    for _ in 0..3 {
        play.knock();
    }
    play.tell();
    play.knock();
    play.tell();
    let accepted: Vec<_> = (0..4).map(|_| play.accepted()).collect();
    for sock in accepted {
        let known = play.call(|kernel| kernel.peer(sock)).is_some_and(|peer| peer.ip().is_ipv4());
        play.note(format!("has an address: {known}"));
        play.close(sock, Close::Reset);
    }
    let door_token = play.door_token();
    play.cancel(door_token);
    play.tell();
    play.knock();
    play.tell();
    let taken = play.call(|kernel| kernel.accept_now(door)).is_ok();
    play.note(format!("taken from the queue: {taken}"));
    play.accept("the door again");
    play.tell();
    play.knock();
    play.tell();
}

fn accept_now(play: &mut Play) {
    let door = play.door();
    let door_token = play.door_token();
    play.cancel(door_token);
    play.tell();
    for _ in 0..2 {
        play.knock();
    }
    for _ in 0..3 {
        let taken = play.call(|kernel| kernel.accept_now(door)).map(drop);
        play.note(format!("accept now: {taken:?}"));
    }
    play.knock();
    // What waits already is told at once.
    play.accept("the door again");
    play.tell();
}

fn connect(play: &mut Play) {
    let token = play.token("connect");
    let sock = play.connect(Target::Listens, token);
    play.tell();
    let local = play.call(|kernel| kernel.local(sock));
    play.note(format!("has a local port: {}", local.is_some_and(|address| address.port() > 0)));
    play.error(sock);
    // The first bytes carry the last acknowledgement of the handshake.
    let _ = play.send(sock, 100);
    let far = play.answer(sock);
    play.far_hears(far, 100, Heard::Open);
    play.far_says(far, 7);
    let watch = play.watch(sock, Interest::Readable, "server");
    play.tell();
    let _ = play.recv(sock, 100);
    play.cancel(watch);
    play.close(sock, Close::Clean);
    play.tell();
    play.far_hears(far, 0, Heard::Fin);
}

fn connect_refused(play: &mut Play) {
    let token = play.token("connect");
    let sock = play.connect(Target::Refuses, token);
    play.tell();
    // The answer was the error.
    play.error(sock);
    play.close(sock, Close::Clean);
    play.tell();
}

fn connect_silent(play: &mut Play) {
    let token = play.token("connect");
    let sock = play.connect(Target::Silent, token);
    play.tell();
    play.cancel(token);
    play.tell();
    play.close(sock, Close::Clean);
    play.tell();
}

fn connect_abandoned(play: &mut Play) {
    let token = play.token("connect");
    let sock = play.connect(Target::Silent, token);
    play.tell();
    play.cancel(token);
    play.close(sock, Close::Clean);
    play.tell();
}

fn watch_readable(play: &mut Play) {
    let (far, sock) = play.client();
    let early = play.watch(sock, Interest::Readable, "early");
    play.tell();
    play.far_says(far, 10);
    play.tell();
    // An edge is told once, whatever is left.
    let _ = play.recv(sock, 4);
    play.tell();
    play.far_says(far, 1);
    play.tell();
    let _ = play.recv(sock, 100);
    let _ = play.recv(sock, 100);
    play.far_says(far, 1);
    play.tell();
    play.cancel(early);
    play.tell();
    // What is there is told at once.
    play.watch(sock, Interest::Readable, "late");
    play.tell();
}

fn watch_writable(play: &mut Play) {
    let (far, sock) = play.client();
    let room = play.watch(sock, Interest::Writable, "room");
    play.tell();
    let sent = play.send_until_full(sock);
    play.tell();
    play.far_hears(far, sent, Heard::Open);
    play.tell();
    play.cancel(room);
    play.tell();
    let sent = play.send_until_full(sock);
    // A watch on a full socket says nothing before there is room.
    play.watch(sock, Interest::Writable, "more room");
    play.tell();
    play.far_hears(far, sent, Heard::Open);
    play.tell();
}

fn cancel_quiet_watches(play: &mut Play) {
    let (far, sock) = play.client();
    let _ = play.send_until_full(sock);
    let read = play.watch(sock, Interest::Readable, "read");
    let write = play.watch(sock, Interest::Writable, "write");
    play.tell();
    play.cancel(read);
    play.cancel(write);
    play.tell();
    play.far_says(far, 1);
    play.tell();
}

fn cancel_busy_watch(play: &mut Play) {
    let (far, sock) = play.client();
    let read = play.watch(sock, Interest::Readable, "read");
    play.tell();
    play.far_says(far, 1);
    play.cancel(read);
    play.only_the_end_of(read);
    play.tell();
    // The byte is there all the same.
    let _ = play.recv(sock, 100);
}

fn watch_again(play: &mut Play) {
    let (far, sock) = play.client();
    let old = play.watch(sock, Interest::Readable, "old");
    play.tell();
    play.cancel(old);
    play.watch(sock, Interest::Readable, "new");
    play.tell();
    play.far_says(far, 3);
    play.tell();
}

fn close_with_requests(play: &mut Play) {
    for how in [Close::Clean, Close::Reset] {
        let (far, sock) = play.client();
        let read = play.watch(sock, Interest::Readable, "read");
        let write = play.watch(sock, Interest::Writable, "write");
        play.tell();
        play.cancel(read);
        play.cancel(write);
        play.close(sock, how);
        play.tell();
        play.far_hears(far, 0, if how == Close::Clean { Heard::Fin } else { Heard::Reset });
    }
}

fn ring(play: &mut Play) {
    play.ring();
    play.tell();
    play.ring();
    play.ring();
    play.tell();
    play.tell();
}

fn wait_in_vain(play: &mut Play) {
    play.tell();
    let (_, sock) = play.client();
    play.watch(sock, Interest::Readable, "quiet");
    let mut events = Vec::new();
    let waited = play.call(|kernel| kernel.wait(Some(1_000_000), &mut events));
    play.note(format!("wait for a millisecond: {waited:?}, {} events", events.len()));
}
