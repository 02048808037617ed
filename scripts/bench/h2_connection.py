"""A minimal HTTP/2 connection."""

import socket

from server import Failed

DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
INITIAL_WINDOW_SIZE = 4
WINDOW_DEFAULT, WINDOW_MAX = (1 << 16) - 1, (1 << 31) - 1
ACK, END_STREAM, END_HEADERS = 1, 1, 4


def _frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _field(name, value):
    # Lengths of seven bits. Lengths up to 254 continue in another byte.
    length = bytes([len(value)]) if len(value) < 127 else bytes([127, len(value) - 127])
    return b"\0" + bytes([len(name)]) + name + length + value


class Connection:
    """An HTTP/2 connection with one stream at a time.

    `prepare` sets options of the socket. With `wide`, the flow control windows have the largest size.
    """

    def __init__(self, server, prepare=None, wide=False):
        host, port = server.address.split(":")
        self.socket = socket.socket()
        if prepare:
            prepare(self.socket)
        self.socket.settimeout(30)
        self.socket.connect((host, int(port)))
        self.received, self.stream = b"", -1
        opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        if wide:
            opening += _frame(SETTINGS, 0, 0, INITIAL_WINDOW_SIZE.to_bytes(2, "big") + WINDOW_MAX.to_bytes(4, "big"))
            opening += _frame(WINDOW_UPDATE, 0, 0, (WINDOW_MAX - WINDOW_DEFAULT).to_bytes(4, "big"))
        else:
            opening += _frame(SETTINGS, 0, 0)
        self.socket.sendall(opening)
        self.until(SETTINGS, ACK)
        self.socket.sendall(_frame(SETTINGS, ACK, 0))

    def get(self, path):
        """Sends a request and reads the response."""
        self.stream += 2
        block = b"\x82\x86" + _field(b":path", path.encode()) + _field(b":authority", b"bench.test")
        self.socket.sendall(_frame(HEADERS, END_STREAM | END_HEADERS, self.stream, block))
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
            more = self.socket.recv(256 * 1024)
            if not more:
                raise Failed("the server closed an HTTP/2 connection")
            self.received += more
