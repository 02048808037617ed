"""The bounds of every count, per hit. A change that needs more of a count must raise its bound here, with a reason."""

from dataclasses import dataclass

KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Bound:
    protocol: str
    driver: str
    size: int
    hits: int
    calls: float  # system calls of the core
    copied: int  # file bytes copied to user space
    connections: int = 1  # with one request each at the same time


# A hit over HTTP/1.1 up to 16 KiB: receive, send, wait. Many connections share one wait. Up to 1 MiB, also one
# call for the body. Above, two calls per MiB, two for the cork, and waits for the client, which depend on its
# speed. HTTP/2 copies the body once, and corks the socket for each part of 64 KiB. With epoll, one or two polls find
# the next request, by the timing of the client. A timer of the core adds a call now and then.
BOUNDS = [
    Bound("h1", "io_uring", 2 * KIB, 200, 3.5, 0),
    Bound("h1", "io_uring", 2 * KIB, 960, 2.5, 0, connections=32),
    Bound("h1", "io_uring", 64 * KIB, 200, 5.5, 64),
    Bound("h1", "io_uring", MIB, 50, 8, 64),
    Bound("h1", "io_uring", 16 * MIB, 10, 70, 1_024),
    Bound("h1", "epoll", 2 * KIB, 200, 5.5, 0),
    Bound("h1", "epoll", 64 * KIB, 200, 6.5, 64),
    Bound("h1", "epoll", MIB, 50, 9.5, 64),
    Bound("h1", "epoll", 16 * MIB, 10, 85, 1_024),
    Bound("h2c", "io_uring", 2 * KIB, 200, 4.5, 0),
    Bound("h2c", "io_uring", 64 * KIB, 200, 11, 64 * KIB),
    Bound("h2c", "io_uring", MIB, 50, 135, MIB),
    Bound("h2c", "epoll", 2 * KIB, 200, 6, 0),
    Bound("h2c", "epoll", 64 * KIB, 200, 13, 64 * KIB),
    Bound("h2c", "epoll", MIB, 50, 138, MIB),
]

# A hit of 2 KiB over HTTP/1.1 in the release binary, by driver.
INSTRUCTIONS = {"io_uring": 6_200, "epoll": 6_200}
ALLOCATIONS = 0
