"""A minimal HTTP/2 connection."""

import socket

from server import Failed

DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
ACK, END_STREAM, END_HEADERS = 1, 1, 4


def _frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _field(name, value):
    # Lengths of seven bits. Lengths up to 254 continue in another byte.
    length = bytes([len(value)]) if len(value) < 127 else bytes([127, len(value) - 127])
    return b"\0" + bytes([len(name)]) + name + length + value


class Connection:
    """An HTTP/2 connection with at most one request."""

    def __init__(self, server):
        host, port = server.address.split(":")
        self.socket = socket.create_connection((host, int(port)), 10)
        self.received = b""
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0))
        self.until(SETTINGS, ACK)
        self.socket.sendall(_frame(SETTINGS, ACK, 0))

    def get(self, path):
        """Sends the only request of this connection and reads the response."""
        block = b"\x82\x86" + _field(b":path", path.encode()) + _field(b":authority", b"bench.test")
        self.socket.sendall(_frame(HEADERS, END_STREAM | END_HEADERS, 1, block))
        self.until(DATA, END_STREAM)

    def ping(self):
        """Checks that the server answers on this connection."""
        self.socket.sendall(_frame(PING, 0, 0, b"sequence"))
        self.until(PING, ACK)

    def until(self, kind, flag):
        """Reads up to a frame of `kind` with `flag`."""
        while True:
            while len(self.received) >= 9 and len(self.received) >= 9 + (length := int.from_bytes(self.received[:3], "big")):
                head, self.received = self.received[3:5], self.received[9 + length :]
                if head[0] == kind and head[1] & flag:
                    return
            more = self.socket.recv(64 * 1024)
            if not more:
                raise Failed("the server closed an HTTP/2 connection")
            self.received += more
