"""Small hits on a core that also serves a cold stream."""

import json
import subprocess
import time

import contest
import machine
import measure
import nginx
from machine import CLIENT_CPU, SERVER_CPU
from measure import median
from objects import GIB
from report import Row, notes
from server import Failed
from setup import Skip

CONNECTIONS = 4
RATE = 4_000
# A fast disk delivers the 4 GiB file in about this time.
SECONDS = 2.0
GOAL = 1.5
PARTS = ("p95", "p98", "p99")


class Stall:
    """One round of one server."""

    def __init__(self, alone, beside, stream, cost):
        self.alone, self.beside, self.stream, self.cost = alone, beside, stream, cost


def cold_stall(setup):
    """The cache runs and pins one core. As in production, kernel workers and helper threads may use the other CPU."""
    if len(machine.CPUS) < 2:
        raise Skip("the machine has one CPU; expected two")
    caches = setup.stage.caches(setup.store, cores=1)
    servers = [*caches, nginx.start(setup.stage, {SERVER_CPU})]
    runs = contest.measured(servers, lambda server: _round(setup, server), setup.latency_rounds)
    cpus = " and ".join(str(set(cpus)) for cpus in caches[0].affinities())
    for part in PARTS:
        yield _row(runs, part, cpus)


def _row(runs, part, cpus):
    # The least of the rounds, because the machine itself pauses in some of them.
    least = {
        name: tuple(min(getattr(one, when)[part] for one in rounds) for when in ("beside", "alone"))
        for name, rounds in runs.samples.items()
    }
    ratios = {name: beside / alone for name, (beside, alone) in least.items()}
    stream = {name: median([one.stream for one in rounds]) for name, rounds in runs.samples.items()}
    mine, theirs = (median([one.cost for one in runs[name]]) for name in ("ours", "nginx"))
    goal = part != "p99"
    before = ""
    if "before" in least:
        before = f"{least['before'][0]:.2f} ms = {ratios['before']:.1f} x alone, stream {stream['before'] / 1e9:.2f} GB/s"
    return Row(
        case=f"cold-stall, {part} of small hits beside a cold stream",
        ours="{:.2f} ms, alone {:.2f}".format(*least["ours"]),
        other="{:.2f} ms, alone {:.2f}".format(*least["nginx"]),
        ratio=f"{ratios['ours']:.2f} x alone",
        cpu=f"{mine * 1e3:.0f} / {theirs * 1e3:.0f} ms/GiB",
        before=before,
        goal=f"<= {GOAL} x alone" if goal else "",
        met=ratios["ours"] <= GOAL if goal else None,
        note=notes(
            f"least of {len(runs['ours'])} rounds; nginx {ratios['nginx']:.2f} x alone; cold stream "
            f"{stream['ours'] / 1e9:.2f} GB/s, nginx {stream['nginx'] / 1e9:.2f}; CPU includes the small hits; "
            f"CPUs of the threads: {cpus}",
            runs.load_note(),
        ),
    )


def _round(setup, server):
    small, huge = setup.objects["manifest"], setup.objects["4g"]

    def hits():
        return measure.load(server, small, CONNECTIONS, SECONDS, CLIENT_CPU, rate=RATE)

    machine.evict(huge.file)
    hits()
    alone = hits()
    before = server.cpu_seconds()
    options = {"connections": 1, "seconds": SECONDS + 0.3, "length": huge.size, "cpu": CLIENT_CPU}
    # The reader yields to the generator of small hits, so that only stalls of the server are
    # measured.
    words = ["nice", "-n", "19"] + measure.command(server, huge, options)
    reader = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    time.sleep(0.1)
    beside = hits()
    report = json.loads(reader.communicate()[0])
    used = server.cpu_seconds() - before
    machine.evict(huge.file)
    if report["errors"]:
        raise Failed(f"{server.name}: {report['first_error']}, log {server.log}")
    return Stall(alone.latency_ms, beside.latency_ms, report["bytes_per_second"], used / report["bytes"] * GIB)


CASES = {"cold-stall": cold_stall}
