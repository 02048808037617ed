"""Cold pulls by the number of clients of one blob, and by the number of registries."""

import shutil

import machine
import measure
import nginx
import objects
from measure import median
from objects import KIB, MIB
from warm import peak_of

ROUNDS = 3
FOLLOWERS = [1, 10, 100, 1_000]
REGISTRIES = [1, 10, 100, 1_000]
BLOBS = 1_000
CONNECTIONS = 16
# 2 Gbit/s, so that every client joins before the end of the fill.
UPSTREAM_RATE = "256m"


def followers(stage, items):
    upstream = nginx.start(stage, log=True, locations=f"limit_rate {UPSTREAM_RATE};", name="upstream")
    item = items["16m"]
    for count in FOLLOWERS:
        rounds = [_follow(stage, upstream, item, count) for _ in range(ROUNDS)]
        yield {"clients": count, **_medians(rounds)}
    stage.stop(upstream)


def _medians(rounds):
    return {name: median([one[name] for one in rounds]) for name in rounds[0]}


def _follow(stage, upstream, item, count):
    root = stage.folder("followers")
    server = stage.ours(root, cores=len(machine.CPUS), upstream=upstream)
    log = upstream.log.parent / "requests.log"
    seen, cpu = log.read_text().count(item.digest), server.cpu_seconds()
    report, _, peak = peak_of(server, lambda: measure.listed(server, [item] * count, count, root.parent))
    used = server.cpu_seconds() - cpu
    stage.stop(server)
    shutil.rmtree(root)
    return {
        "seconds": report["seconds"],
        "p95_ms": report["latency_ms"]["p95"],
        "cpu_ms_per_client": used / count * 1e3,
        "rss_peak_mib": peak,
        "upstream_requests": log.read_text().count(item.digest) - seen,
    }


class _Through:
    """A blob of one of many registries."""

    def __init__(self, item, registry):
        self.item, self.registry, self.size = item, registry, item.size

    def path(self, _):
        return self.item.path(self.registry)


def registries(stage, _):
    upstream = nginx.start(stage, name="upstream")
    items = objects.many(stage.directory, "registries", [16 * KIB] * BLOBS)
    for count in REGISTRIES:
        rounds = [_pull_from(stage, upstream, items, count) for _ in range(ROUNDS)]
        yield {"registries": count, **_medians(rounds)}
    stage.stop(upstream)


def _pull_from(stage, upstream, items, count):
    root = stage.folder("registries")
    names = [f"r{number}.test" for number in range(count)]
    server = stage.ours(root, cores=len(machine.CPUS), upstream=upstream, registries=names)
    idle, cpu = server.rss_bytes(), server.cpu_seconds()
    through = [_Through(item, names[number % count]) for number, item in enumerate(items)]
    report = measure.listed(server, through, CONNECTIONS, root.parent)
    used, after = server.cpu_seconds() - cpu, server.rss_bytes()
    stage.stop(server)
    shutil.rmtree(root)
    return {
        "seconds": report["seconds"],
        "p95_ms": report["latency_ms"]["p95"],
        "cpu_us_per_pull": used / len(items) * 1e6,
        "rss_idle_mib": idle / MIB,
        "rss_mib": after / MIB,
    }
