"""Everything that can watch a ringway at once, for scripts/compare --observability: a scrape of its metrics a second, its
status page open, and `ringway top` in a terminal.
"""

import fcntl
import os
import pty
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.request

from ground import await_fact

SCRAPE_S = 1
ROWS, COLUMNS = 50, 160


def watch(children, binary, balancer, place, core):
    """Starts all of it; it has begun when this returns."""
    host, port = balancer.front[0], balancer.front[1] + 1
    log = place / "watched"
    children.start([sys.executable, __file__, binary, host, port, place / "admin.sock", log], core, place / "watched.log")
    await_fact(f"watchers of {balancer.name} (see {place}/watched.log)", lambda: log.exists() and log.read_text() == "all")


def scrape(host, port):
    while True:
        with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
            answer.read()
        time.sleep(SCRAPE_S)


def look_at_page(host, port, begun):
    """Its stream, as a browser has it."""
    with socket.create_connection((host, port)) as page:
        page.sendall(f"GET /v1/events HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n".encode())
        while page.recv(1 << 16):
            begun.set()


def look_at_top(binary, admin, begun):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    with subprocess.Popen([binary, "top", "--socket", admin], stdin=theirs, stdout=theirs, stderr=theirs,
                          env=environment):
        os.close(theirs)
        while os.read(ours, 1 << 16):
            begun.set()


def main():
    binary, host, port, admin, log = sys.argv[1:]
    begun = [threading.Event(), threading.Event()]
    watchers = [(scrape, host, port), (look_at_page, host, port, begun[0]), (look_at_top, binary, admin, begun[1])]
    threads = [threading.Thread(target=what, args=args, daemon=True) for what, *args in watchers]
    for thread in threads:
        thread.start()
    if all(event.wait(10) for event in begun):
        with open(log, "w", encoding="ascii") as told:
            told.write("all")
    # It is ended with the balancer it watches; whoever ends before has failed.
    while all(thread.is_alive() for thread in threads):
        time.sleep(0.2)
    print("a watcher has ended", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
