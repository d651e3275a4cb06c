"""What scripts/compare, scripts/failover and scripts/soak stand on: children that end with us, free ports, facts to wait for."""

import contextlib
import ctypes
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time

NOFILE = 20_000  # what a small machine allows; 9000 sessions fit
WAIT_S = 10  # for anything to start, appear or end
PR_SET_PDEATHSIG = 1  # prctl(2)
CLONE_NEWNET = 0x40000000  # unshare(2), setns(2)
LIBC = ctypes.CDLL(None)


class Failure(Exception):
    """What goes wrong and can be said in one line."""


def need(*tools):
    for tool in tools:
        if not (shutil.which(tool) or os.path.exists(tool)):
            raise Failure(f"{tool} is missing: run scripts/setup")


def await_fact(what, fact, seconds=WAIT_S):
    """Waits until `fact()` is true."""
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            raise Failure(f"gave up waiting for {what}")
        time.sleep(0.01)


def accepts(address):
    with contextlib.suppress(OSError), socket.create_connection(address, 1):
        return True
    return False


class Children:
    """Everything that was started, and ends with us, however we end."""

    def __init__(self):
        self.running = []

    def start(self, command, cores, log, **options):
        def before_exec():
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if cores:
                os.sched_setaffinity(0, cores)
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            limit = NOFILE if hard == resource.RLIM_INFINITY else min(NOFILE, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

        with open(log, "ab") as out:
            child = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stderr=out,
                stdout=options.pop("stdout", out), preexec_fn=before_exec, **options)
        self.running.append(child)
        return child

    def stop(self, *children):
        for child in children or list(self.running):
            if child.poll() is None:
                child.send_signal(signal.SIGINT if child.args[0].endswith("ringway") else signal.SIGTERM)
        for child in children or list(self.running):
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            if child in self.running:
                self.running.remove(child)


def free_port(host, run=1):
    """The first of `run` ports in a row nobody listens on, below those the kernel gives to clients."""
    for port in range(12_000, 30_000, 7):
        try:
            for offset in range(run):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((host, port + offset))
            return port
        except OSError:
            continue
    raise Failure(f"no free port on {host}")


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


# What the kernel says of a process.


def cpu_ns(pid):
    """CPU time of all threads, in nanoseconds (the scheduler's own count: /proc/PID/stat has ticks of 10 ms)."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as f:
            total += int(f.read().split()[0])
    return total


def anonymous_bytes(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        for line in f:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    raise Failure(f"/proc/{pid}/status has no RssAnon")


def open_files(pid):
    """Descriptors in the process's table, and in those that ringway's workers have of their own."""
    total = len(os.listdir(f"/proc/{pid}/fd"))
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/task/{task}/comm", encoding="ascii") as f:
            if re.match(r"ringway-w\d", f.read()):
                total += len(os.listdir(f"/proc/{pid}/task/{task}/fd"))
    return total


def children_of(pid):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as f:
                if int(f.read().rsplit(")", 1)[1].split()[1]) == pid:
                    found.append(int(entry))
    return found
