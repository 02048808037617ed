"""The cost of the management of a store: for small hits, and for hits beside evictions."""

import os
import re
import shutil
import time

import contest
import measure
import objects
from contest import Goal
from machine import CLIENT_CPU, SERVER_CPU
from measure import median
from objects import GIB
from report import Row, notes
from server import Failed, free_port

OFF = {"ADMIN_ADDR": "off", "CACHE_MAX_SIZE": "0", "SCRUB_INTERVAL": "0"}
CONNECTIONS = (16, 256)
COST_GOAL = Goal(at_least=0.98)

EVICTED_FILES = 10
EVICTED_HOURS_AGO = 5
RATE = 4_000
SECONDS = 4.0
P99_GOAL = 2.0
STALL_GOAL_MS = 20.0
# A core reports its longest delay each 10 s.
REPORT_SECONDS = 15
DELAY = re.compile(r'msg="core loop delay".* delay_us_max=([0-9]+)')


def management_cost(setup):
    """Small hits of the cache with a bound, a scrub and an admin listener, against the cache without them."""
    item = setup.objects["manifest"]
    settings = {"ADMIN_ADDR": f"127.0.0.1:{free_port()}", "CACHE_MAX_SIZE": "90%"}
    ours = setup.stage.cache("ours", setup.store, {SERVER_CPU}, settings=settings)
    other = setup.stage.cache("ours", setup.store.with_name("store-before"), {SERVER_CPU}, settings=OFF)
    other.name = "off"
    for connections in CONNECTIONS:

        def sample(server, connections=connections):
            return measure.load(server, item, connections, setup.seconds, CLIENT_CPU, clients=1)

        for server in (ours, other):
            measure.load(server, item, 16, 0.2, CLIENT_CPU)
        runs = contest.measured([ours, other], sample, setup.rounds, [item.file])
        yield contest.row(f"management-cost, manifest-2k, {connections} connections", item, runs, "off", COST_GOAL)


def evict_beside_hits(setup):
    """Small hits while the cache unlinks files of 1 GiB."""
    rounds = [_round(setup) for _ in range(setup.latency_rounds)]
    alone, beside = (min(one[when] for one in rounds) for when in ("alone", "beside"))
    stall_alone, stall = (min(one[when] for one in rounds) for when in ("stall_alone", "stall"))
    seconds = median([one["seconds"] for one in rounds])
    yield Row(
        case="evict-beside-hits, longest stall of the core's loop",
        ours=f"{stall:.1f} ms, alone {stall_alone:.1f}",
        goal=f"<= {STALL_GOAL_MS:.0f} ms",
        met=stall <= STALL_GOAL_MS,
        note=notes(f"least of {len(rounds)} rounds, because the machine itself pauses in some of them"),
    )
    yield Row(
        case="evict-beside-hits, p99 of small hits",
        ours=f"{beside:.2f} ms, alone {alone:.2f}",
        ratio=f"{beside / alone:.2f} x alone",
        goal=f"<= {P99_GOAL} x alone",
        met=beside / alone <= P99_GOAL,
        note=notes(f"least of {len(rounds)} rounds; {EVICTED_FILES} files of 1 GiB are gone {seconds:.1f} s after the start"),
    )


def _round(setup):
    root = setup.stage.directory / "evicted-store"
    shutil.rmtree(root, ignore_errors=True)
    item = setup.objects["manifest"]
    objects.into_store(root, item)
    files = [_unused_blob(setup, root, number) for number in range(EVICTED_FILES)]
    try:
        alone, stall_alone = _hits(setup, root, {"CACHE_MAX_SIZE": "0"}, lambda: True)
        if not all(file.exists() for file in files):
            raise Failed("files were evicted without a bound")
        bounded = {"CACHE_MAX_SIZE": "64m", "CACHE_MIN_FREE": "0"}
        started = time.monotonic()
        gone = []

        def is_evicted():
            while any(file.exists() for file in files):
                if time.monotonic() > started + 60:
                    raise Failed("the files were not evicted within 60 s")
                time.sleep(0.01)
            gone.append(time.monotonic() - started)

        beside, stall = _hits(setup, root, bounded, is_evicted)
        return {"alone": alone, "beside": beside, "seconds": gone[0], "stall_alone": stall_alone, "stall": stall}
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _hits(setup, root, settings, then):
    """Returns the p99 of hits in the first seconds of a cache, and the longest stall of its core, in milliseconds."""
    server = setup.stage.cache("ours", root, settings={"LOG_LEVEL": "debug", **settings})
    figures = measure.load(server, setup.objects["manifest"], 4, SECONDS, CLIENT_CPU, rate=RATE)
    then()
    stall = _longest_stall(server)
    setup.stage.stop(server)
    return figures.latency_ms["p99"], stall


def _longest_stall(server):
    """Waits for the next report of the core, and returns the largest delay of all reports in milliseconds."""
    known, deadline = len(DELAY.findall(server.log.read_text())), time.monotonic() + REPORT_SECONDS
    while len(delays := DELAY.findall(server.log.read_text())) == known:
        if time.monotonic() > deadline:
            raise Failed(f"no report of the core within {REPORT_SECONDS} s, log {server.log}")
        time.sleep(0.1)
    return max(int(delay) for delay in delays) / 1e3


def _unused_blob(setup, root, number):
    """Adds a blob of 1 GiB without a use for hours. Only its digest is not that of its content."""
    name = f"{number:064x}"
    file = setup.stage.directory / f"unused-{number}"
    with open(file, "wb") as out:
        os.posix_fallocate(out.fileno(), 0, GIB)
    blob = objects.Object(f"unused {number}", "blobs", name, GIB, file)
    objects.into_store(root, blob)
    stored = root / "blobs" / f"sha256-{name}"
    file.unlink()
    past = time.time() - EVICTED_HOURS_AGO * 3600
    os.utime(stored, (past, past))
    return stored


CASES = {"management-cost": management_cost, "evict-beside-hits": evict_beside_hits}
