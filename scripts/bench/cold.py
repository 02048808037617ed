"""First pulls of a large blob: directly, through this cache, and through nginx proxy_cache, each with an empty store."""

import shutil
import time
from pathlib import Path

import contest
import machine
import measure
import nginx
import upstream_log
from measure import median
from objects import GIB
from report import Row, notes

COMMIT_SECONDS = 60
# 10 Gbit/s, the rate of a good network card.
NETWORK_RATE = "1192m"
# The CPU that nginx does not spend, because it does not hash. SHA-256 alone takes 0.6 s per GiB.
HASH_CPU = 0.65
FIRST_BYTE_MS = 2.0
# Wall time of a pull whose client discards the bytes, in seconds.
WALL = {"memory": 0.9, "disk": 0.85}


def cold_pull(setup):
    """Pins no process."""
    machine.warm(setup.objects["1g"].file)
    plain = nginx.start(setup.stage, log=True, name="upstream")
    limited = nginx.start(setup.stage, log=True, locations=f"limit_rate {NETWORK_RATE};", name="upstream-10g")
    places = stores(setup)
    for place, folder in places.items():
        for hashing in (True, False):
            label = f"cold-pull 1 GiB, store {place}, {'hashing' if hashing else 'dropping'} client"
            yield from _rows(label, _runs(setup, plain, folder, hashing), None if hashing else WALL[place])
    place, folder = next(iter(places.items()))
    yield from _rows(f"cold-pull 1 GiB, store {place}, 10 Gbit/s upstream", _runs(setup, limited, folder, True), None)


def stores(setup):
    """Returns the folders of cold stores: on the disk, and in memory if there is enough."""
    memory = Path("/dev/shm")
    found = {"memory": memory} if memory.is_dir() and shutil.disk_usage(memory).free > 3 * GIB else {}
    return {**found, "disk": setup.stage.directory}


class Named:
    """A contender whose server runs only during its samples."""

    def __init__(self, name):
        self.name = name


def _runs(setup, upstream, folder, hashing):
    item = setup.objects["1g"]
    contenders = [Named(name) for name in ("direct", *setup.stage.kinds(), "nginx")]

    def sample(contender):
        if contender.name == "direct":
            busy = machine.busy_seconds()
            report = measure.once(upstream, item, hashing)
            return dict(report, machine=machine.busy_seconds() - busy)
        with ColdStore(setup, contender.name, upstream, folder) as cache:
            return _pull(cache, upstream, item, hashing)

    return contest.measured(contenders, sample, setup.rounds)


class ColdStore:
    """A running cache with an empty store, which is removed at the end."""

    def __init__(self, setup, kind, upstream, folder):
        self.stage, self.kind, self.upstream = setup.stage, kind, upstream
        self.root = folder / f"bench-cold-{setup.stage.number}"
        self.warm_up = setup.objects["64k"]

    def __enter__(self):
        self.stage.leftovers.append(self.root)
        cores = len(machine.CPUS)
        if self.kind == "nginx":
            self.server = nginx.cache(self.stage, self.upstream, self.root, workers=cores)
        else:
            self.server = self.stage.cache(self.kind, self.root, cores=cores, upstream=self.upstream)
        # The first pull opens connections to the upstream.
        measure.once(self.server, self.warm_up)
        return self

    def __exit__(self, *_):
        self.stage.stop(self.server)
        shutil.rmtree(self.root, ignore_errors=True)
        self.stage.leftovers.remove(self.root)

    def wait(self, items):
        """Waits until every item is stored, so that a measurement includes the cost of the commit. Returns success."""
        deadline = time.monotonic() + COMMIT_SECONDS
        while time.monotonic() < deadline:
            if self._stored(items):
                return True
            time.sleep(0.01)
        return False

    def _stored(self, items):
        names = {path.name for path in self.root.rglob("*") if path.is_file()}
        if any(name.endswith(".meta.json") for name in names):
            return all(f"sha256-{item.hex}.meta.json" in names for item in items)
        # nginx stores under the hash of a key, and appends a number to unfinished files. The first
        # stored file is the one of the first pull.
        return sum(len(name) == 32 for name in names) > len(items)


def _pull(cache, upstream, item, hashing):
    server = cache.server
    seen = upstream_log.requests(upstream, item)
    cpu, busy = server.cpu_seconds(), machine.busy_seconds()
    report = measure.once(server, item, hashing)
    report["committed"] = cache.wait([item])
    report["cpu"] = server.cpu_seconds() - cpu
    report["machine"] = machine.busy_seconds() - busy
    report["upstream_requests"] = upstream_log.requests(upstream, item) - seen
    return report


def _first_byte(rounds):
    """Returns the least of the rounds, because the machine itself pauses in some of them."""
    return min(run["first_byte_ms"] for run in rounds)


def _wall(run):
    return run["total_ms"]


def _cpu(run):
    return run["cpu"] / run["bytes"] * GIB


def _speed(run):
    return run["bytes"] / run["total_ms"]


def _rows(name, runs, wall_goal):
    """Two rows: against the direct pull, and against nginx."""
    mine = runs["ours"]
    first = _first_byte(mine) - _first_byte(runs["direct"])
    requests = sorted({run["upstream_requests"] for run in mine})
    own, other = (median([_cpu(run) for run in runs[which]]) for which in ("ours", "nginx"))
    wall = median([_wall(run) for run in mine]) / 1e3
    ours = f"{wall:.3f} s, {mine[0]['bytes'] / wall / 1e9:.2f} GB/s"
    yield Row(
        case=f"{name}, against direct",
        ours=ours,
        other=f"direct {median([_wall(run) for run in runs['direct']]) / 1e3:.3f} s",
        ratio=runs.ratios(_speed, "ours", "direct").text(),
        machine=f"{runs.ratios(lambda run: run['machine'], 'ours', 'direct').median:.2f}",
        goal=f"first byte <= {FIRST_BYTE_MS} ms later",
        met=first <= FIRST_BYTE_MS,
        note=notes(
            f"first byte {first:+.2f} ms; upstream requests per pull {'/'.join(map(str, requests))}; "
            + ("committed" if all(run["committed"] for run in mine) else "NOT COMMITTED"),
            runs.load_note(),
        ),
    )
    goals = [f"CPU <= nginx + {HASH_CPU} s"] + ([f"wall <= {wall_goal} s"] if wall_goal else [])
    yield Row(
        case=f"{name}, against nginx proxy_cache",
        ours=ours,
        other=f"nginx {median([_wall(run) for run in runs['nginx']]) / 1e3:.3f} s",
        ratio=runs.ratios(_speed, "ours", "nginx").text(),
        cpu=f"{own * 1e3:.0f} / {other * 1e3:.0f} ms/GiB",
        cpu_ratio=runs.ratios(_cpu, "ours", "nginx").text(),
        machine=f"{runs.ratios(lambda run: run['machine'], 'ours', 'nginx').median:.2f}",
        before=runs.before(_speed, _cpu),
        goal=", ".join(goals),
        met=own <= other + HASH_CPU and (wall_goal is None or wall <= wall_goal),
        note="first byte "
        + ", ".join(f"{which} {_first_byte(runs[which]):.2f} ms" for which in runs.samples),
    )


CASES = {"cold-pull": cold_pull}
