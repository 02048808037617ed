"""Warm hits over HTTP/1.1 against nginx, by the size of the object."""

from dataclasses import dataclass

import contest
import machine
import measure
import nginx
import registries
from contest import Goal
from machine import CLIENT_CPU, SERVER_CPU
from server import Failed
from setup import Skip

ON_ONE_CORE = {
    "manifest-2k": [("manifest", 16, Goal(1.9, 0.52)), ("manifest", 256, Goal(1.8, 0.52))],
    "blob-64k": [("64k", 16, Goal(1.22, 0.85)), ("64k", 256, Goal(1.2, 0.85))],
    "blob-1m": [("1m", 16, Goal(1.08, 0.93))],
    "blob-16m": [("16m", 16, Goal(1.1))],
    "blob-1g": [("1g", 1, Goal(1.03, 0.95)), ("1g", 16, Goal(1.03, 0.95))],
}
ON_TWO_CORES = {
    "manifest-2k": [("manifest", 16, Goal(1.6)), ("manifest", 256, Goal(1.6))],
    "blob-64k": [("64k", 16, Goal(1.3)), ("64k", 256, Goal(1.3))],
    "blob-1m": [("1m", 16, Goal(1.35)), ("1m", 256, Goal(1.35))],
    "blob-16m": [("16m", 16, Goal())],
    "blob-1g": [("1g", 2, Goal(1.4)), ("1g", 16, Goal(1.4))],
}


@dataclass
class Cell:
    name: str
    item: str
    connections: int
    goal: Goal


def cells(table, prefix=""):
    return [
        Cell(f"{prefix}{label}, {connections} connection{'s' if connections > 1 else ''}", item, connections, goal)
        for label, rows in table.items()
        for item, connections, goal in rows
    ]


def compare(setup, wanted, servers, other, cpu, clients, slow=()):
    """Yields a row per cell. The server named `other` is the base of the ratios; `slow` servers run once for a second."""
    for cell in wanted:
        item = setup.objects[cell.item]

        def sample(server):
            return measure.load(server, item, cell.connections, setup.seconds, cpu, clients=clients)

        for server in servers:
            measure.load(server, item, min(cell.connections, 16), 0.2, cpu)
        runs = contest.measured(servers, sample, setup.rounds, [item.file])
        yield contest.row(cell.name, item, runs, other, cell.goal, _slow(slow, item, cell, cpu))


def _slow(servers, item, cell, cpu):
    """Returns the column of the registries, which are up to a hundred times slower."""
    texts = []
    for server in servers:
        try:
            speed = contest.speed_text(item, [measure.load(server, item, cell.connections, 1.0, cpu)])
        except Failed as error:
            # A failure of another registry loses only its column, not the row.
            print(f"   {error}", flush=True)
            speed = "failed"
        texts.append(f"{server.name} {speed}")
    return ", ".join(texts)


def _pinned(label):
    def case(setup):
        core = {SERVER_CPU}
        servers = [*setup.stage.caches(setup.store, core), nginx.start(setup.stage, core)]
        slow = registries.warm(setup.stage, setup.objects, core)
        wanted = cells({label: ON_ONE_CORE[label]})
        yield from compare(setup, wanted, servers, "nginx", CLIENT_CPU, 1, slow)

    return case


def two_cores(setup):
    """Pins no process. Two generators share the two CPUs with the servers, so that no generator is the bottleneck."""
    if len(machine.CPUS) < 2:
        raise Skip("the machine has one CPU; expected two")
    servers = [*setup.stage.caches(setup.store, cores=2), nginx.start(setup.stage, workers=2)]
    yield from compare(setup, cells(ON_TWO_CORES, "two-cores "), servers, "nginx", None, 2)


CASES = {**{label: _pinned(label) for label in ON_ONE_CORE}, "two-cores": two_cores}
