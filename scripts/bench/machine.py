"""The CPUs, the network namespace and the page cache of the machine."""

import ctypes
import fcntl
import os
import platform
import socket
import struct
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
CPUS = sorted(os.sched_getaffinity(0))
SERVER_CPU = CPUS[0]
CLIENT_CPU = CPUS[1] if len(CPUS) > 1 else CPUS[0]
CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
ALLOWED = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
CLONE_NEWNET = 0x40000000
_namespace = "the host's network"


def enter_namespace(congestion):
    """Enters a new network namespace with the congestion control `congestion`, so that the machine keeps its setting.

    With `congestion` "host", or without the permission, keeps the host's network and setting.
    """
    global _namespace
    if congestion == "host" or os.getuid() != 0:
        return
    allowed = ALLOWED.read_text().split()
    # A file that was opened before the namespace change keeps referring to the host's setting. A
    # new namespace may use only the host's allowed algorithms, so the list is extended briefly.
    with open(ALLOWED, "w") as host:
        try:
            if congestion not in allowed:
                _write(host, " ".join([*allowed, congestion]))
            if ctypes.CDLL(None).unshare(CLONE_NEWNET) != 0:
                return
            _namespace = "a separate network namespace"
            _raise_loopback()
            CONGESTION.write_text(congestion)
        except OSError as error:
            print(f"congestion control {congestion} cannot be set: {error}")
        finally:
            if congestion not in allowed:
                _write(host, " ".join(allowed))


def _write(file, text):
    file.seek(0)
    file.write(text)
    file.flush()


def _raise_loopback():
    siocgifflags, siocsifflags, up = 0x8913, 0x8914, 0x1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, siocgifflags, request))[1]
        fcntl.ioctl(control, siocsifflags, struct.pack("16sh14x", b"lo", flags | up))


def description(directory):
    model, flags = "unknown CPU", ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
        if line.startswith(("flags", "Features")):
            flags = line.split(":", 1)[1]
    # Hashing limits cold pulls and is several times slower without these instructions.
    hashing = "with" if {"sha_ni", "sha2"} & set(flags.split()) else "WITHOUT"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return "\n".join(
        [
            f"machine: {model} ({hashing} SHA instructions), {len(CPUS)} CPUs usable, {memory:.0f} GiB, load average {load():.2f} before the start",
            f"kernel: {platform.release()}, congestion control {CONGESTION.read_text().strip()}, loopback in {_namespace}",
            f"files: {directory} ({file_system(directory)}, read_ahead_kb {read_ahead_kb(directory)}); server on CPU {SERVER_CPU}, client on CPU {CLIENT_CPU}"
            f" unless the case names other CPUs; IO_DRIVER {os.environ.get('IO_DRIVER', 'auto')}",
        ]
    )


def load():
    return os.getloadavg()[0]


def read_ahead_kb(path):
    """Returns the read-ahead of the disk below `path`, in KiB, or "unknown" without a disk."""
    device = os.stat(path).st_dev
    place = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    return place.read_text().strip() if place.exists() else "unknown"


def file_system(path):
    """Returns the type of the file system that contains `path`."""
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind = line.split()[:3]
        inside = point == "/" or str(path) == point or str(path).startswith(point + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def busy_seconds():
    """Returns the CPU time of all CPUs, without idle time."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, _steal = fields
    return (user + nice + system + irq + softirq) / TICKS


def warm(path):
    """Reads the file once, so that the page cache contains the file."""
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass


def reread(path):
    """Evicts the file and reads it once in order, so that every sample starts with equal pages.

    Pages of a file read in pieces, or partly evicted meanwhile, cost the servers up to a quarter more.
    """
    evict(path)
    warm(path)


def evict(path):
    """Removes the file from the page cache. Earlier writes must have been synced."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
