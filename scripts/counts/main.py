"""Counts the hits of each driver, and compares the counts with their bounds."""

import os
import shutil
import sys
from pathlib import Path

os.environ["BENCH_OURS"] = str(Path(sys.argv[1]).resolve())
sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

import objects  # noqa: E402
import steps  # noqa: E402
import syscalls  # noqa: E402
from bounds import ALLOCATIONS, BOUNDS, INSTRUCTIONS, KIB  # noqa: E402
from client import PROTOCOLS, Concurrent, Http1  # noqa: E402
from stage import Stage  # noqa: E402

# Hits before the first counted hit: the caches of the server and the window of the connection are then at their size.
WARM_UP = 20


class Tally:
    """The compared counts."""

    def __init__(self):
        self.passed = self.failed = 0

    def compare(self, name, found, bound, detail=""):
        sound = found <= bound
        self.passed += sound
        self.failed += not sound
        print(f"{'ok  ' if sound else 'FAIL'}  {name}: {found:,.2f}, bound {bound:,}{detail}", flush=True)


def main():
    binary, drivers = Path(os.environ["BENCH_OURS"]), sys.argv[2:]
    directory = Path(os.environ["COUNTS_DIR"]).resolve()
    shutil.rmtree(directory / "run", ignore_errors=True)
    sizes = sorted({bound.size for bound in BOUNDS})
    items = {size: objects.blob(directory, f"{size // KIB}k", size) for size in sizes}
    for item in items.values():
        objects.link_into(directory / "store", item)
    tally = Tally()
    with Stage(directory) as stage:
        for driver in drivers:
            server = stage.ours(directory / "store", settings={"IO_DRIVER": driver})
            for bound in BOUNDS:
                if bound.driver == driver:
                    _count_calls(tally, server, bound, items[bound.size])
            _count_steps(tally, server, driver, items[2 * KIB], binary)
            stage.stop(server)
    print(f"{tally.passed} passed, {tally.failed} failed")
    sys.exit(1 if tally.failed else 0)


def _count_calls(tally, server, bound, item):
    connection = _connect(server, bound)
    for _ in range(WARM_UP):
        connection.get(server.path(item), item.size)
    calls, copied, names = syscalls.per_hit(server, connection, item, bound)
    connection.close()
    name = f"{bound.driver}, {bound.protocol}, {bound.size // KIB:,} KiB"
    if bound.connections > 1:
        name += f", {bound.connections} connections"
    by_name = ", ".join(f"{call} {count:.2f}" for call, count in names.items() if count >= 0.05)
    tally.compare(f"{name}, system calls", calls, bound.calls, f" ({by_name})")
    tally.compare(f"{name}, file bytes copied", copied, bound.copied)


def _connect(server, bound):
    connect = PROTOCOLS[bound.protocol]
    if bound.connections == 1:
        return connect(server)
    return Concurrent([connect(server) for _ in range(bound.connections)])


def _count_steps(tally, server, driver, item, binary):
    name = f"{driver}, h1, {item.size // KIB} KiB"
    if "debug" in binary.parts:
        print(f"SKIP  {name}, instructions and allocations: expected a release binary")
        return
    connection = Http1(server)
    for _ in range(WARM_UP):
        connection.get(server.path(item), item.size)
    try:
        instructions, allocations = steps.per_hit(server, connection, item, binary, INSTRUCTIONS[driver], ALLOCATIONS)
    except steps.Unavailable as reason:
        print(f"SKIP  {name}, instructions and allocations: {reason}")
        return
    finally:
        connection.close()
    tally.compare(f"{name}, instructions", instructions, INSTRUCTIONS[driver])
    if allocations is None:
        print(f"SKIP  {name}, allocations: {binary} has no symbols; scripts/release.sh writes them beside the binary")
    else:
        tally.compare(f"{name}, allocations", allocations, ALLOCATIONS)


if __name__ == "__main__":
    main()
