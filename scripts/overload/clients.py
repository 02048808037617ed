"""Ordinary and abusive clients. Each client is a process, so that no client waits for another's interpreter."""

import multiprocessing
import os
import random
import select
import signal
import socket
import struct
import time

PATIENCE = 30.0
RESET = struct.pack("ii", 1, 0)
IP_BIND_ADDRESS_NO_PORT = 24
_context = multiprocessing.get_context("fork")


class Child:
    """A function in another process. One pipe carries the stop request, another carries the results."""

    def __init__(self, work, *arguments):
        self.results, theirs = _context.Pipe(duplex=False)
        ours, self.end = _context.Pipe(duplex=False)

        def run():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            theirs.send(work(ours, theirs, *arguments))

        self.process = _context.Process(target=run, daemon=True)
        self.process.start()
        theirs.close()
        ours.close()

    def next(self, patience=PATIENCE):
        """Returns the next result of the process."""
        if not self.results.poll(patience):
            self.kill()
            raise TimeoutError(f"a client sent no result within {patience:.0f} s")
        return self.results.recv()

    def stop(self, patience=PATIENCE):
        """Stops the process. Returns the last result."""
        # Not closed, because later children also hold the pipe and would keep it open.
        self.end.send(None)
        result = self.next(patience)
        self.process.join()
        return result

    def kill(self):
        self.process.kill()
        self.process.join()


def stopped(stop, seconds=0.0):
    return stop.poll(seconds)


def request(path, close=False):
    fields = "Connection: close\r\n" if close else ""
    return f"GET {path} HTTP/1.1\r\nHost: cache.test\r\n{fields}\r\n".encode()


def connect(address, source=None, receive_buffer=None):
    stream = socket.socket()
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if receive_buffer:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    if source:
        stream.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        stream.bind((source, 0))
    stream.settimeout(PATIENCE)
    stream.connect(address)
    return stream


def source(number):
    """Returns one of 250 loopback addresses. Each address has a separate range of ports."""
    return f"127.0.1.{2 + number % 250}"


def answer(stream):
    """Reads one response. Returns the status, or None if the connection ended early."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = stream.recv(65536)
        if not piece:
            return None
        head += piece
    head, body = head.split(b"\r\n\r\n", 1)
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    )
    left = length - len(body)
    while left > 0:
        piece = stream.recv(min(left, 1 << 20))
        if not piece:
            return None
        left -= len(piece)
    return int(head.split(b" ", 2)[1])


def bystander(stop, tell, address, path):
    """Sends a hundred requests a second, every tenth on a new connection.

    Returns the sorted durations in milliseconds, and the number of requests without a 200.
    """
    kept, times, refused = connect(address), [], 0
    number = 0
    while not stopped(stop, 0.01):
        number += 1
        begun = time.monotonic()
        try:
            if number % 10:
                kept.sendall(request(path))
                status = answer(kept)
            else:
                with connect(address) as fresh:
                    fresh.sendall(request(path, close=True))
                    status = answer(fresh)
        except OSError:
            status = None
        times.append((time.monotonic() - begun) * 1e3)
        if status != 200:
            refused += 1
            kept.close()
            kept = connect(address)
    return sorted(times), refused


def idle(stop, tell, address, path, count):
    """Holds idle connections after one request each. Returns the number of connections that the server kept."""
    held = []
    for _ in range(count):
        stream = connect(address)
        stream.sendall(request(path))
        answer(stream)
        held.append(stream)
    tell.send(len(held))
    stopped(stop, None)
    kept = 0
    for stream in held:
        stream.setblocking(False)
        try:
            kept += bool(stream.recv(1))
        except BlockingIOError:
            kept += 1
        except OSError:
            pass
    return kept


def slow_heads(stop, tell, address, count):
    """Starts `count` request heads and sends one byte of each head per second.

    Sends the number of open connections. Returns the seconds until the last was closed, or None if one is open.
    """
    poll, held = select.epoll(), {}
    for number in range(count):
        stream = connect(address, source(number))
        stream.sendall(b"GET /v2/ HTTP/1.1\r\nX: ")
        stream.setblocking(False)
        poll.register(stream, select.EPOLLIN | select.EPOLLHUP)
        held[stream.fileno()] = stream
    tell.send(len(held))
    begun, dripped = time.monotonic(), time.monotonic()
    while held and not stopped(stop):
        for number, _ in poll.poll(0.25):
            poll.unregister(number)
            held.pop(number).close()
        if time.monotonic() - dripped >= 1.0:
            dripped = time.monotonic()
            for stream in held.values():
                try:
                    stream.send(b"x")
                except OSError:
                    pass
    return None if held else time.monotonic() - begun


def stalled_readers(stop, tell, address, path, count):
    """Requests a large blob on `count` connections and reads nothing."""
    held = []
    for number in range(count):
        stream = connect(address, source(number), receive_buffer=4096)
        stream.sendall(request(path))
        held.append(stream)
    tell.send(len(held))
    stopped(stop, None)
    return len(held)


WAYS = 12


def ends(stop, tell, address, small, large, cold, count, seed):
    """Opens `count` connections that end in twelve ways. Returns the number of connections per way."""
    chance = random.Random(seed)
    done = [0] * WAYS
    for number in range(count):
        way = chance.randrange(WAYS)
        try:
            _end(way, address, small, large, cold, number)
        except (OSError, TimeoutError):
            # The server may close the connection first.
            pass
        done[way] += 1
        if stopped(stop):
            break
    return done


def _end(way, address, small, large, cold, number):
    with connect(address, source(number)) as stream:
        if way == 0:  # FIN before the first byte
            return
        if way == 1:  # RST before the first byte
            _reset(stream)
            return
        if way in (2, 3):  # FIN or RST in a head
            stream.sendall(b"GET /v2/ HTTP/1.1\r\nHo")
            if way == 3:
                _reset(stream)
            return
        if way == 4:  # not HTTP
            stream.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
            stream.recv(4096)
            _reset(stream)
            return
        if way == 11:  # the server closes
            stream.sendall(request(small, close=True))
            answer(stream)
            _reset(stream)
            return
        stream.sendall(request({8: large, 9: cold}.get(way, small)))
        if way == 5:  # RST before the response
            _reset(stream)
        elif way in (6, 7):  # FIN or RST after the response
            answer(stream)
            if way == 7:
                _reset(stream)
        elif way in (8, 9):  # RST in a file, RST in a fill
            stream.recv(4096)
            _reset(stream)
        elif way == 10:  # half-closed, and the response is read
            stream.shutdown(socket.SHUT_WR)
            answer(stream)
            _reset(stream)


def _reset(stream):
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def send_requests(stop, tell, address, path, connections):
    """Sends requests on kept connections without a pause. Returns the number of responses per connection."""
    poll, held, counts = select.epoll(), {}, {}
    words = request(path)
    for _ in range(connections):
        stream = connect(address)
        poll.register(stream, select.EPOLLIN)
        held[stream.fileno()] = stream
        counts[stream.fileno()] = 0
    for stream in held.values():
        stream.sendall(words)
    while not stopped(stop):
        for number, _ in poll.poll(0.1):
            # Small enough to arrive in a single read.
            if held[number].recv(65536):
                counts[number] += 1
                held[number].sendall(words)
    return list(counts.values())


def pull(stop, tell, address, path):
    """Pulls a blob completely. Returns the status."""
    with connect(address) as stream:
        stream.sendall(request(path))
        return answer(stream)


def cpus():
    return len(os.sched_getaffinity(0))
