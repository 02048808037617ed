"""System calls of a core during hits, counted by strace."""

import math
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import machine

CALL = re.compile(r"^(\w+)\(.*\)\s+= (-?\d+|\?)", re.MULTILINE)
# Calls that copy the pages of a file to user space. A ring operation that copies is not visible to strace.
COPIES = {"read", "pread64", "readv", "preadv", "preadv2"}
# An older strace prints numbers of newer calls.
NAMES = {"syscall_0x1c3": "cachestat"}
# A wait for the client or for a timer can only add calls, so the least of several attempts counts. While
# the kernel reclaims pages, the server reads files on other threads, so an attempt follows a pause.
ATTEMPTS = 8
PAUSE_SECONDS = 2


def core_task(server):
    """Returns the thread ID of the only core."""
    for task in Path(f"/proc/{server.process.pid}/task").iterdir():
        if (task / "comm").read_text().startswith("core-"):
            return int(task.name)
    raise LookupError("the server has no thread named core-*")


def per_hit(server, connection, item, bound):
    """Returns calls, copied bytes, and counts by name, all per hit, of the attempt with the least calls."""
    calls, copied, names = math.inf, math.inf, {}
    for _ in range(ATTEMPTS):
        found, bytes_copied = _attempt(server, connection, item, bound.hits // bound.connections)
        if sum(found.values()) / bound.hits < calls:
            calls, copied, names = sum(found.values()) / bound.hits, bytes_copied / bound.hits, found
        if calls <= bound.calls and copied <= bound.copied:
            break
        time.sleep(PAUSE_SECONDS)
    return calls, copied, {name: count / bound.hits for name, count in names.most_common()}


def _attempt(server, connection, item, rounds):
    # Pages that the kernel has reclaimed take another path through the server.
    machine.warm(item.file)
    file = server.log.parent / "strace"
    words = ["strace", "-qq", "-s", "0", "-e", "signal=none", "-o", str(file), "-p", str(core_task(server))]
    file.unlink(missing_ok=True)
    tracer = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        _wait_for(tracer, server)
        for _ in range(rounds):
            connection.get(server.path(item), item.size)
    finally:
        tracer.send_signal(signal.SIGINT)
        said = tracer.communicate()[1]
    if not file.exists():
        raise PermissionError(f"strace: {said.strip()}")
    names, copied = Counter(), 0
    for name, result in CALL.findall(file.read_text()):
        names[NAMES.get(name, name)] += 1
        if name in COPIES and result.isdigit():
            copied += int(result)
    return names, copied


def _wait_for(tracer, server):
    """Waits until the thread is traced."""
    status = Path(f"/proc/{server.process.pid}/task/{core_task(server)}/status")
    while f"TracerPid:\t{tracer.pid}\n" not in status.read_text():
        if tracer.poll() is not None:
            raise PermissionError(f"strace: {tracer.communicate()[1].strip()}")
