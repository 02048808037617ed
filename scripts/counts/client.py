"""Clients that send one request after another on a connection, and discard the bodies."""

import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
from h2_connection import Connection  # noqa: E402

# Holds the largest object, so that the server waits for the client as rarely as possible.
RECEIVE_BUFFER = 64 << 20
SO_RCVBUFFORCE = 33
TIMEOUT = 30


def widen(stream):
    """Sets the receive buffer. Without privileges, the kernel's limit applies."""
    try:
        stream.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)


class Http1:
    """A keep-alive connection."""

    def __init__(self, server):
        self.socket = socket.socket()
        widen(self.socket)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect(("127.0.0.1", server.port))
        self.buffer = bytearray(1 << 20)
        self.received = 0

    def send(self, path):
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: counts.test\r\n\r\n".encode())
        self.received, self.end = 0, None

    def finish(self, size):
        """Receives the rest of the response. `size` is the length of the body."""
        while not self.complete(size):
            pass

    def arrived(self, size):
        """Returns whether the response is complete, without a wait."""
        self.socket.setblocking(False)
        try:
            return self.end is not None and self.received >= self.end or self.complete(size)
        except BlockingIOError:
            return False
        finally:
            self.socket.settimeout(TIMEOUT)

    def complete(self, size):
        """Receives once. Returns whether the response is complete."""
        count = self.socket.recv_into(self.buffer)
        if not count:
            raise EOFError("the server closed the connection")
        if self.end is None:
            head = self.buffer[:count].find(b"\r\n\r\n")
            if head < 0 or not self.buffer.startswith(b"HTTP/1.1 200 "):
                raise ValueError(f"not a response: {bytes(self.buffer[:200])}")
            self.end = head + 4 + size
        self.received += count
        return self.received >= self.end

    def get(self, path, size):
        self.send(path)
        self.finish(size)

    def close(self):
        self.socket.close()


class Http2:
    """A connection with prior knowledge, and one stream at a time."""

    def __init__(self, server):
        self.connection = Connection(server, prepare=widen, wide=True)

    def get(self, path, size):
        self.connection.get(path)

    def close(self):
        self.connection.socket.close()


class Concurrent:
    """Connections with one request each at the same time."""

    def __init__(self, connections):
        self.connections = connections

    def get(self, path, size):
        for connection in self.connections:
            connection.send(path)
        for connection in self.connections:
            connection.finish(size)

    def close(self):
        for connection in self.connections:
            connection.close()


PROTOCOLS = {"h1": Http1, "h2c": Http2}
