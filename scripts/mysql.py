"""A client of MySQL's protocol, as small as scripts/failover needs it: a login by mysql_native_password, a statement, its
answer.

A server's own error is a `ServerError`: the statement was refused. Everything else that goes wrong is an `OSError`: nobody
knows what became of the statement, and the connection is of no use any more.
"""

import hashlib
import socket
import struct

PLUGIN = "mysql_native_password"
PACKET_MAX = 0xFFFFFF
# LONG_PASSWORD, CONNECT_WITH_DB, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, PLUGIN_AUTH.
ABILITIES = 1 | 1 << 3 | 1 << 9 | 1 << 13 | 1 << 15 | 1 << 19
UTF8MB4 = 45
COM_QUIT, COM_QUERY = b"\x01", b"\x03"
OK, SWITCH, ERROR = 0x00, 0xFE, 0xFF


class ServerError(Exception):
    """`ERR_Packet`."""

    def __init__(self, payload):
        self.code = int.from_bytes(payload[1:3], "little")
        message = payload[9:] if payload[3:4] == b"#" else payload[3:]
        super().__init__(f"error {self.code}: {message.decode(errors='replace')}")


class Connection:
    """Logged in; `address` is a pair for TCP, or the path of a socket. No wait is longer than `timeout_s`."""

    def __init__(self, address, user, password="", database="", timeout_s=5):
        is_path = not isinstance(address, tuple)
        self.socket = socket.socket(socket.AF_UNIX if is_path else socket.AF_INET)
        self.number = 0
        self.columns = []
        try:
            self.socket.settimeout(timeout_s)
            self.socket.connect(str(address) if is_path else address)
            if not is_path:
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.stream = self.socket.makefile("rb")
            self.log_in(user, password, database)
        except BaseException:
            self.socket.close()
            raise

    def log_in(self, user, password, database):
        greeting = self.take()
        _version, _, rest = greeting[1:].partition(b"\0")
        # Thread, the nonce's first part, filler, abilities and status, length of the nonce, filler, its second part.
        nonce = rest[4:12] + rest[31:43]
        self.put(struct.pack("<IIB23x", ABILITIES, PACKET_MAX, UTF8MB4) + user.encode() + b"\0"
                 + counted(answer(password, nonce)) + database.encode() + b"\0" + PLUGIN.encode() + b"\0")
        said = self.take()
        if said[0] == SWITCH:
            plugin, _, data = said[1:].partition(b"\0")
            if plugin.decode() != PLUGIN:
                raise ConnectionError(f"{user} logs in by {plugin.decode()}")
            self.put(answer(password, data[:20]))
            said = self.take()
        if said[0] != OK:
            raise ConnectionError(f"not understood in a login: {said[:20]!r}")

    def rows(self, sql):
        """The rows of the answer, as tuples of `str` or `None`; `columns` has their names. [] when there are none."""
        self.number = 0
        self.put(COM_QUERY + sql.encode())
        head = self.take()
        if head[0] == OK:
            return []
        self.columns = []
        for _ in range(head[0]):
            self.columns.append(list(strings(self.take()))[4])
        self.take()  # EOF_Packet
        rows = []
        while not is_end(row := self.take()):
            rows.append(tuple(strings(row)))
        return rows

    def value(self, sql):
        """The first value of the first row."""
        return self.rows(sql)[0][0]

    def record(self, sql):
        """The first row by the names of its columns; {} when there is none."""
        rows = self.rows(sql)
        return dict(zip(self.columns, rows[0])) if rows else {}

    def close(self):
        try:
            self.number = 0
            self.put(COM_QUIT)
        except OSError:
            pass  # It has gone already.
        self.stream.close()
        self.socket.close()

    def put(self, payload):
        self.socket.sendall(len(payload).to_bytes(3, "little") + bytes([self.number]) + payload)
        self.number = (self.number + 1) % 256

    def take(self):
        head = self.exactly(4)
        length, self.number = int.from_bytes(head[:3], "little"), (head[3] + 1) % 256
        if not 0 < length < PACKET_MAX:
            raise ConnectionError(f"a packet of {length} bytes")
        payload = self.exactly(length)
        if payload[0] == ERROR:
            raise ServerError(payload)
        return payload

    def exactly(self, length):
        taken = self.stream.read(length)
        if len(taken) < length:
            raise ConnectionResetError("the connection was closed")
        return taken


def answer(password, nonce):
    """What `mysql_native_password` says instead of the password."""
    if not password:
        return b""
    once = hashlib.sha1(password.encode()).digest()
    mask = hashlib.sha1(nonce + hashlib.sha1(once).digest()).digest()
    return bytes(a ^ b for a, b in zip(once, mask))


def counted(text):
    return bytes([len(text)]) + text


def is_end(packet):
    """`EOF_Packet`; a row that begins with the same byte is longer."""
    return packet[0] == SWITCH and len(packet) < 9


def strings(packet):
    """The length-encoded strings a packet consists of."""
    at = 0
    while at < len(packet):
        length, at = packet[at], at + 1
        if length == 0xFB:
            yield None
            continue
        if length > 0xFB:
            width = {0xFC: 2, 0xFD: 3, 0xFE: 8}[length]
            length, at = int.from_bytes(packet[at:at + width], "little"), at + width
        yield packet[at:at + length].decode(errors="replace")
        at += length
