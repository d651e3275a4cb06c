//! A web server small enough for a demo: it answers every request with its name.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Longest silence a connection is kept for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that runs until it is dropped.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    open: Arc<Open>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Open {
    closing: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Backend {
    /// Starts on a free port, or on the one it had before.
    pub(super) fn start(name: &'static str, port: u16) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let address = listener.local_addr()?;
        let open = Arc::new(Open::default());
        let shared = Arc::clone(&open);
        let thread =
            thread::Builder::new().name(format!("web-{name}")).spawn(move || serve(name, &listener, &shared))?;
        Ok(Self { address, open, thread: Some(thread) })
    }
}

impl Drop for Backend {
    /// Dies as a process does: the port refuses, and open connections end.
    fn drop(&mut self) {
        self.open.closing.store(true, Ordering::SeqCst);
        // Wakes the accept.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for connection in self.open.connections.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn serve(name: &'static str, listener: &TcpListener, open: &Open) {
    for connection in listener.incoming() {
        if open.closing.load(Ordering::SeqCst) {
            return;
        }
        let Ok(connection) = connection else { continue };
        let Ok(kept) = connection.try_clone() else { continue };
        let mut connections = open.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|one| one.peer_addr().is_ok());
        connections.push(kept);
        drop(connections);
        // A thread per connection is plenty for a demo; each ends with its connection or its patience.
        let _ = thread::Builder::new().spawn(move || drop(converse(name, connection)));
    }
}

/// Answers requests until the client has enough or says `Connection: close`.
fn converse(name: &str, mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection.try_clone()?);
    loop {
        let mut last = false;
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        while line.trim() != "" {
            last |= line.trim().eq_ignore_ascii_case("connection: close");
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
        }
        let colour = if name == "coral" { "coral" } else { "slateblue" };
        let page = format!(
            "<!doctype html><title>{name}</title><body style='background:{colour};color:white;font:4em sans-serif;\
             display:grid;place-items:center;height:90vh'><p>{name}</p>\n"
        );
        write!(
            connection,
            "HTTP/1.1 200 OK\r\nServer: {name}\r\nContent-Type: text/html\r\nContent-Length: {}\r\nCache-Control: no-store\r\n{}\r\n{page}",
            page.len(),
            if last { "Connection: close\r\n" } else { "" },
        )?;
        if last {
            return connection.shutdown(Shutdown::Both);
        }
    }
}
