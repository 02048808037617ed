"""First pulls of many blobs and of an image, through this cache and through nginx proxy_cache."""

import contest
import machine
import measure
import nginx
import objects
from cold import ColdStore, Named
from measure import median
from objects import KIB, MIB
from report import Row, notes

CONNECTIONS = 16
# Default of docker and containerd for concurrent layers.
LAYERS_AT_ONCE = 3
LAYER_SIZES = [64 * MIB, 32 * MIB, 32 * MIB, 16 * MIB, 8 * MIB, 4 * MIB, MIB, 64 * KIB]
SETS = {
    "cold-many, 200 x 1 MiB": [MIB] * 200,
    "cold-many, 2,000 x 16 KiB": [16 * KIB] * 2_000,
}
PULLS_GOAL = 1.0
IMAGE_GOAL = 1 / 1.1


def cold_many(setup):
    """Pins no process. The store is on the disk, because syncing is a large part of the cost."""
    upstream = nginx.start(setup.stage, name="upstream")
    for name, sizes in SETS.items():
        items = objects.many(setup.stage.directory, name.split(", ")[1], sizes)
        runs = _runs(setup, upstream, items, CONNECTIONS)
        yield _row(f"{name}, {CONNECTIONS} connections", runs, f">= {PULLS_GOAL}", PULLS_GOAL, _pulls)


def cold_image(setup):
    upstream = nginx.start(setup.stage, name="upstream")
    items = objects.many(setup.stage.directory, "layers", LAYER_SIZES)
    runs = _runs(setup, upstream, items, LAYERS_AT_ONCE)
    name = f"cold-image, {len(items)} layers, {sum(LAYER_SIZES) // MIB} MiB, {LAYERS_AT_ONCE} at a time"
    yield _row(name, runs, "wall <= 1.1 x nginx", IMAGE_GOAL, _wall)


def _runs(setup, upstream, items, connections):
    def sample(contender):
        with ColdStore(setup, contender.name, upstream, setup.stage.directory) as cache:
            before = cache.server.cpu_seconds()
            report = measure.listed(cache.server, items, connections, setup.stage.directory)
            report["committed"] = cache.wait(items)
            report["cpu"] = cache.server.cpu_seconds() - before
            return report

    contenders = [Named(name) for name in (*setup.stage.kinds(), "nginx")]
    for item in items:
        machine.warm(item.file)
    return contest.measured(contenders, sample, setup.rounds)


def _speed(run):
    return 1 / run["seconds"]


def _cpu(run):
    return run["cpu"]


def _pulls(runs):
    return f"{median([run['requests_per_second'] for run in runs]):,.0f} pulls/s"


def _wall(runs):
    return f"{median([run['seconds'] for run in runs]):.3f} s"


def _row(name, runs, goal, least, text):
    speed = runs.ratios(_speed, "ours", "nginx")
    count = runs["ours"][0]["requests"]
    cost = [median([run["cpu"] for run in runs[which]]) / count * 1e6 for which in ("ours", "nginx")]
    p95 = [min(run["latency_ms"]["p95"] for run in runs[which]) for which in ("ours", "nginx")]
    return Row(
        case=name,
        ours=text(runs["ours"]),
        other=f"nginx {text(runs['nginx'])}",
        ratio=speed.text(),
        cpu=f"{cost[0]:,.0f} / {cost[1]:,.0f} us per pull",
        cpu_ratio=runs.ratios(_cpu, "ours", "nginx").text(),
        before=runs.before(_speed, _cpu),
        goal=goal,
        met=speed.median >= least,
        note=notes(
            f"p95 {p95[0]:.1f} ms, nginx {p95[1]:.1f}",
            "" if all(run["committed"] for run in runs["ours"]) else "NOT COMMITTED",
            runs.load_note(),
        ),
    )


CASES = {"cold-many": cold_many, "cold-image": cold_image}
