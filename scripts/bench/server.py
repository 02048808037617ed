"""A running server, its child processes, and their figures."""

import os
import signal
import socket
import subprocess
from pathlib import Path

from machine import TICKS

STOP_SECONDS = 10


class Failed(Exception):
    """A server failed. The message names the server and the path of its log."""


class Missing(Exception):
    """A required program is not installed."""


class Server:
    """A running server with its child processes."""

    def __init__(self, name, process, port, log):
        self.name, self.process, self.port, self.log = name, process, port, log
        # The registry name in front of the repository. Only for this cache, because the others have
        # at most one upstream.
        self.registry = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def path(self, item):
        return item.path(self.registry)

    def pids(self):
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            try:
                todo += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            except FileNotFoundError:
                pass
        return found

    def cpu_seconds(self):
        """Returns the CPU time of all threads, including ended threads and the kernel's io_uring workers."""
        total = 0
        for pid in self.pids():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            except FileNotFoundError:
                continue
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def rss_bytes(self):
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
        return total

    def affinities(self):
        """Returns the distinct CPU sets of the server's threads."""
        return sorted({tuple(sorted(os.sched_getaffinity(task))) for task in self._tasks()})

    def pin(self, cpus):
        """Sets the CPUs of all threads of the server. Later threads inherit the setting."""
        for task in self._tasks():
            try:
                os.sched_setaffinity(task, cpus)
            except ProcessLookupError:
                # The task has ended meanwhile. All connections come from a single address.
                pass

    def _tasks(self):
        return [int(task.name) for pid in self.pids() for task in Path(f"/proc/{pid}/task").iterdir()]

    def stop(self):
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False
