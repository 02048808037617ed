"""The work directory of a run."""

import fcntl
import shutil
import sys

_locks = []


def claim(directory):
    """Creates the directory, locks it until the end of the process, and removes the logs of the previous run."""
    directory.mkdir(parents=True, exist_ok=True)
    # Concurrent runs on a machine would distort each other, and concurrent runs in a directory
    # would break each other.
    lock = open(directory / "lock", "w")
    _locks.append(lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(f"another run uses {directory}")
    shutil.rmtree(directory / "run", ignore_errors=True)
