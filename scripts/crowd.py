"""Clients of a database behind ringway, for scripts/failover: writers and readers, sysbench, and some who only wait."""

import collections
import pathlib
import re
import threading
import time

from mysql import Connection, ServerError

ROOT = pathlib.Path(__file__).resolve().parent.parent
LISTENERS = {"mysql-write": ("10.77.0.10", 3306), "mysql-read": ("10.77.0.10", 3307)}
WRITERS, READERS, IDLERS = 4, 2, 4
PAUSE_S = 0.003  # between two statements of a writer or reader
RETRY_S = 0.005  # until it connects again
BENCH_RETRY_S = 0.3  # until sysbench is started again
BENCH_S = 300  # sysbench ends by itself, should nobody end it
READ_ONLY = 1290  # ER_OPTION_PREVENTS_STATEMENT: surely not taken


class Crowd:
    """Clients of one round."""

    def __init__(self, children, place, numbers):
        self.children, self.place, self.numbers = children, place, numbers
        self.first = next(numbers)
        self.leave, self.counting = threading.Event(), threading.Lock()
        self.acknowledged = []  # (when, number, server, writer)
        self.unsure = []  # numbers of rows that were sent and neither taken nor refused
        self.reads = 0
        self.errors = collections.Counter()  # (listener, "statement" or "connect", what it was)
        self.idlers = [Connection(LISTENERS["mysql-write"], "app", "app", "shop") for _ in range(IDLERS)]
        self.benches = {"mysql-write": "oltp_read_write", "mysql-read": "oltp_read_only"}
        self.ended = collections.Counter()  # sysbench, by listener
        tasks = [(self.write,)] * WRITERS + [(self.read,)] * READERS + [(self.bench, *bench) for bench in self.benches.items()]
        self.threads = [threading.Thread(target=task, args=arguments, daemon=True) for task, *arguments in tasks]
        for thread in self.threads:
            thread.start()

    def bench(self, listener, load):
        """sysbench, which ends when it loses a connection, and is started again, as services are.

        It could connect again by itself, but 1.0.20 crashes when it does so with MariaDB's library.
        """
        host, port = LISTENERS[listener]
        while not self.leave.is_set():
            child = self.children.start(
                [ROOT / "scripts/lab", "exec", "cli", "sysbench", "--db-driver=mysql", f"--mysql-host={host}",
                 f"--mysql-port={port}", "--mysql-user=app", "--mysql-password=app", "--mysql-db=shop", "--tables=4",
                 "--table-size=10000", f"--mysql-ignore-errors={READ_ONLY},1020,1205,1213", "--threads=4", "--rate=30",
                 f"--time={BENCH_S}", "--report-interval=1", load, "run"], None, self.place / f"{listener}.sysbench")
            while child.poll() is None and not self.leave.wait(0.05):
                pass
            if not self.leave.is_set():
                self.ended[listener] += 1
                self.leave.wait(BENCH_RETRY_S)
            self.children.stop(child)

    def stay(self, listener, statement):
        """Connects, and again whenever that fails or a statement does."""
        connection = None
        while not self.leave.is_set():
            step = "connect"
            try:
                connection = connection or Connection(LISTENERS[listener], "app", "app", "shop")
                step = "statement"
                statement(connection)
                self.leave.wait(PAUSE_S)
            except (OSError, ServerError) as error:
                with self.counting:
                    self.errors[listener, step, in_short(error)] += 1
                if connection:
                    connection.close()
                connection = None
                self.leave.wait(RETRY_S)
        if connection:
            connection.close()

    def write(self):
        def insert(connection):
            # A number is used once: a row that may have been taken is not sent again, to whomever.
            number = next(self.numbers)
            try:
                server = connection.value(f"INSERT INTO failover VALUES ({number}, @@server_id % 100) RETURNING server")
            except (OSError, ServerError) as error:
                if getattr(error, "code", 0) != READ_ONLY:
                    self.unsure.append(number)
                raise
            self.acknowledged.append((time.time_ns(), number, int(server), threading.get_ident()))

        self.stay("mysql-write", insert)

    def read(self):
        def select(connection):
            connection.rows("SELECT COUNT(*), MAX(n) FROM failover WHERE n >= (SELECT MAX(n) - 10 FROM failover)")
            with self.counting:
                self.reads += 1

        self.stay("mysql-read", select)

    def at_ease(self):
        """Whether everything goes as it should."""
        return len(self.acknowledged) > 200 and self.reads > 200 and all(self.benched())

    def bench_seen(self, listener):
        """What has become of sysbench, as it reports it each second."""
        file = self.place / f"{listener}.sysbench"
        seconds = re.findall(r"tps: ([\d.]+) .*err/s: ([\d.]+)", file.read_text() if file.exists() else "")
        seen = {name: round(sum(float(second[i]) for second in seconds)) for i, name in enumerate(("transactions", "errors"))}
        return {**seen, "restarts": self.ended[listener]}

    def benched(self):
        """Transactions of sysbench through each port."""
        return [self.bench_seen(listener)["transactions"] for listener in self.benches]

    def waiting(self):
        """Sessions of those who only wait that are still there."""
        return sum(is_open(idler.socket) for idler in self.idlers)

    def stop(self):
        self.leave.set()
        for thread in self.threads:
            thread.join(10)
        for idler in self.idlers:
            idler.close()


def in_short(error):
    """What a client was told."""
    if isinstance(error, ServerError):
        return f"error {error.code}"
    return (error.strerror or str(error)).lower()


def is_open(connection):
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
