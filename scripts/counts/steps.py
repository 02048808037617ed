"""Instructions and allocations of a hit, from single steps of the core.

The count includes instructions in user space only. Repeated string instructions count once.
"""

import ctypes
import math
import os
import platform
import re
import shutil
import signal
import subprocess
from pathlib import Path

from syscalls import core_task

PTRACE_PEEKUSER, PTRACE_SINGLESTEP, PTRACE_ATTACH, PTRACE_DETACH, PTRACE_SYSCALL = 3, 9, 16, 17, 24
WALL = 0x40000000
SYSCALL = b"\x0f\x05"
RIP, RAX = 16 * 8, 10 * 8  # the places of the registers in `struct user`
WAITS = {232, 281, 426}  # epoll_wait, epoll_pwait, io_uring_enter
# A timer that fires during a hit adds instructions, so the least of several hits counts.
HITS = 32
FIXED_ADDRESSES = 2  # the type ET_EXEC of an ELF file
ALLOCATORS = re.compile(r"^mi_(malloc|zalloc|calloc|realloc|malloc_aligned|zalloc_aligned|realloc_aligned)$")


class Unavailable(Exception):
    """Counting is impossible here. The message is the reason."""


def _library():
    if platform.machine() != "x86_64":
        raise Unavailable(f"the processor is {platform.machine()}; expected x86_64")
    library = ctypes.CDLL(None, use_errno=True)
    library.ptrace.restype = ctypes.c_long
    library.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    return library


def per_hit(server, connection, item, binary, instructions_max, allocations_max):
    """Returns the least number of instructions, and of allocations or None without symbols."""
    entries = _allocators(server, binary)
    stepper = Stepper(_library(), core_task(server), entries)
    instructions, allocations = math.inf, math.inf
    try:
        for _ in range(HITS):
            found = stepper.hit(connection, server.path(item), item.size)
            instructions, allocations = min(instructions, found[0]), min(allocations, found[1])
            if instructions <= instructions_max and allocations <= allocations_max:
                break
    finally:
        stepper.detach()
    return instructions, allocations if entries else None


class Stepper:
    """A traced thread with an event loop."""

    def __init__(self, library, task, entries):
        self.ptrace, self.task, self.entries = library.ptrace, task, entries
        if self.ptrace(PTRACE_ATTACH, task, None, None) != 0:
            raise Unavailable(f"ptrace: {os.strerror(ctypes.get_errno())}")
        os.waitpid(task, WALL)
        self.stat, self.memory = (open(f"/proc/{task}/{name}", "rb", buffering=0) for name in ("stat", "mem"))
        # Addresses of instructions, and whether the instruction is a system call.
        self.calls = {}
        self.ptrace(PTRACE_SYSCALL, task, None, None)

    def hit(self, connection, path, size):
        """Returns the instructions and the allocations from the end of a wait to the next wait after the response."""
        # The encoded head of a response is renewed once per second. A hit without steps renews the head
        # before the counted hit.
        connection.send(path)
        while not connection.arrived(size):
            self._run()
        self._run_to_wait()
        connection.send(path)
        # The wait ends, and its system call returns.
        os.waitpid(self.task, WALL)
        counts = self._step_to_response(connection, size)
        self.ptrace(PTRACE_SYSCALL, self.task, None, None)
        return counts

    def detach(self):
        # A thread must be stopped to be detached.
        self._run_to_wait()
        os.kill(self.task, signal.SIGSTOP)
        os.waitpid(self.task, WALL)
        self.ptrace(PTRACE_DETACH, self.task, None, None)
        os.kill(self.task, signal.SIGCONT)
        self.stat.close()
        self.memory.close()

    def _run_to_wait(self):
        """Runs without steps until the thread sleeps in a system call."""
        # A stop has another state.
        while self._run() or os.pread(self.stat.fileno(), 256, 0).rsplit(b")", 1)[1].split()[0] != b"S":
            pass

    def _run(self):
        """Continues the thread after a stop. Returns whether there was a stop."""
        stopped = os.waitpid(self.task, WALL | os.WNOHANG)[0] != 0
        if stopped:
            self.ptrace(PTRACE_SYSCALL, self.task, None, None)
        return stopped

    def _step_to_response(self, connection, size):
        instructions, allocations, last, entries, calls = 0, 0, None, self.entries, self.calls
        ptrace, task, waitpid = self.ptrace, self.task, os.waitpid
        while True:
            place = ptrace(PTRACE_PEEKUSER, task, RIP, None)
            if place != last:
                instructions += 1
                allocations += place in entries
                if place not in calls:
                    calls[place] = os.pread(self.memory.fileno(), 2, place) == SYSCALL
                if calls[place] and self._waits_next() and connection.arrived(size):
                    return instructions, allocations
            last = place
            ptrace(PTRACE_SINGLESTEP, task, None, None)
            waitpid(task, WALL)

    def _waits_next(self):
        return self.ptrace(PTRACE_PEEKUSER, self.task, RAX, None) in WAITS


def _allocators(server, binary):
    """Returns the addresses of the allocator's functions in the running server."""
    if not shutil.which("nm"):
        return set()
    for file in (binary, Path(f"{binary}.debug")):
        listed = subprocess.run(["nm", str(file)], capture_output=True, text=True).stdout if file.exists() else ""
        offsets = [int(words[0], 16) for words in map(str.split, listed.splitlines()) if ALLOCATORS.match(words[-1])]
        if offsets:
            return {_base(server, binary) + offset for offset in offsets}
    return set()


def _base(server, binary):
    """Returns the difference between addresses in the running server and in the symbols."""
    with open(binary, "rb") as file:
        if file.read(18)[16] == FIXED_ADDRESSES:
            return 0
    for line in Path(f"/proc/{server.process.pid}/maps").read_text().splitlines():
        if line.endswith(str(binary)):
            return int(line.split("-")[0], 16)
    raise LookupError(f"{binary} is not mapped")
