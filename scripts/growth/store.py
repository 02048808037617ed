"""First hits by the number of objects in the store."""

import hashlib
import os
import time

import machine
import measure
import objects
from objects import KIB, MIB
from server import Failed

COUNTS = [1_000, 10_000, 100_000, 1_000_000]
# The objects that are read. Each further object has a link to one of their data files, and a separate sidecar.
READ = 1_000
SIZE = 2 * KIB
CONNECTIONS = 4
# Links to a file in one store. All stores together stay below ext4's limit of 65,000.
LINKS_MAX = 15_000
WALK_SECONDS = 240


def objects_in_store(stage, _):
    read = objects.many(stage.directory, "store", [SIZE] * READ)
    for count in COUNTS:
        root = stage.directory / f"growth-store-{count}"
        _fill(root, read, count)
        begun = time.monotonic()
        server = stage.ours(root, cores=len(machine.CPUS))
        listening = time.monotonic() - begun
        cpu = server.cpu_seconds()
        report = measure.listed(server, read, CONNECTIONS, stage.directory)
        used = server.cpu_seconds() - cpu
        # The walk of the store, which continues beside the hits.
        walk, peak = _walk(server)
        walked = time.monotonic() - begun
        yield {
            "objects": count,
            "listening_ms": listening * 1e3,
            "first_hit_p50_ms": report["latency_ms"]["p50"],
            "first_hit_p95_ms": report["latency_ms"]["p95"],
            "cpu_us_per_hit": used / len(read) * 1e6,
            "walk_s": walked,
            "cpu_s_until_walked": walk,
            "rss_peak_mib": peak / MIB,
            "rss_mib": server.rss_bytes() / MIB,
        }
        stage.stop(server)


def _fill(root, read, count):
    """Adds objects until the store contains `count`."""
    folder = root / "blobs"
    folder.mkdir(parents=True, exist_ok=True)
    present = sum(1 for entry in os.scandir(folder) if entry.name.endswith(".meta.json"))
    if present == 0:
        for item in read:
            objects.link_into(root, item)
        present = len(read)
    for number in range(present, count):
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        place = f"{folder}/sha256-{digest}"
        os.link(f"{folder}/sha256-{read[number // LINKS_MAX].hex}", place)
        with open(f"{place}.meta.json", "w") as out:
            out.write(objects.sidecar("blobs", f"sha256:{digest}", SIZE))
    # Writes of dirty pages would disturb the measurement.
    os.sync()


def _walk(server):
    """Waits for the end of the walk. Returns the CPU seconds since the start, and the peak of the memory."""
    deadline, peak = time.monotonic() + WALK_SECONDS, 0
    while "store scanned" not in server.log.read_text():
        if time.monotonic() > deadline:
            raise Failed(f"the walk of the store did not end within {WALK_SECONDS} s, log {server.log}")
        peak = max(peak, server.rss_bytes())
        time.sleep(0.1)
    return server.cpu_seconds(), max(peak, server.rss_bytes())
