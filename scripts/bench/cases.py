"""The cases, in the order of the table. Each case yields rows, and starts and stops servers."""

import json
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import http2
import machine
import measure
import objects
import tls
from machine import CLIENT_CPU, SERVER_CPU
from measure import CLIENT_LIMIT, Ratios, median
from objects import GIB, MIB
from report import Row
from servers import Failed, Stage


class Skip(Exception):
    """The case cannot run on this machine. The message is the reason."""


@dataclass
class Setup:
    stage: Stage
    objects: dict
    quick: bool
    rounds: int

    @property
    def seconds(self):
        return 1.5 if self.quick else 4.0


# -- Warm hits ---------------------------------------------------------------------------------------------------------


@dataclass
class Cell:
    name: str
    item: str
    connections: int
    at_least: float = None  # throughput, as a multiple of nginx
    at_most: float = None  # CPU per unit, as a multiple of nginx
    registry: bool = False  # also a short run of docker-registry, which is a hundred times slower


def _compare(setup, cells, ours, nginx, registry, cpu, clients):
    for cell in cells:
        item = setup.objects[cell.item]
        machine.warm(item.file)
        for server in (ours, nginx):
            measure.load(server, item, min(cell.connections, 16), 0.2, cpu)
        mine, theirs = [], []
        for _ in range(setup.rounds):
            mine.append(measure.load(ours, item, cell.connections, setup.seconds, cpu, clients=clients))
            theirs.append(measure.load(nginx, item, cell.connections, setup.seconds, cpu, clients=clients))
        yield _warm_row(cell, item, mine, theirs, _slow(registry, item, cell, cpu))


def _slow(registry, item, cell, cpu):
    if registry is None or not cell.registry:
        return ""
    try:
        return _speed(item, [measure.load(registry, item, cell.connections, 1.0, cpu)])
    except Failed as error:
        # A failure of docker-registry loses only its column, not the row.
        print(f"   {error}", flush=True)
        return "failed"


def _small(item):
    return item.size < MIB


def _speed(item, samples):
    if _small(item):
        return f"{median([sample.requests_per_second for sample in samples]) / 1e3:.1f} k/s"
    return f"{median([sample.bytes_per_second for sample in samples]) / 1e9:.2f} GB/s"


def _cost(item, samples):
    if _small(item):
        return f"{median([sample.cpu_per_request() for sample in samples]) * 1e6:.2f} us"
    return f"{median([sample.cpu_per_gib() for sample in samples]) * 1e3:.0f} ms/GiB"


def _warm_row(cell, item, mine, theirs, registry):
    speed = Ratios([sample.bytes_per_second for sample in mine], [sample.bytes_per_second for sample in theirs])
    cost = Ratios([sample.cpu_per_gib() for sample in mine], [sample.cpu_per_gib() for sample in theirs])
    whole = Ratios(
        [sample.machine_cpu / sample.bytes for sample in mine], [sample.machine_cpu / sample.bytes for sample in theirs]
    )
    goals, met = [], None
    if cell.at_least is not None:
        goals.append(f">= {cell.at_least}")
        met = speed.median >= cell.at_least
    if cell.at_most is not None:
        goals.append(f"CPU <= {cell.at_most}")
        met = met is not False and cost.median <= cell.at_most
    client = max(sample.client_cpu for sample in mine), max(sample.client_cpu for sample in theirs)
    return Row(
        case=cell.name,
        ours=_speed(item, mine),
        other=_speed(item, theirs),
        ratio=speed.text(),
        cpu=f"{_cost(item, mine)} / {_cost(item, theirs)}",
        cpu_ratio=cost.text(),
        machine=f"{whole.median:.2f}",
        registry=registry,
        client=f"{client[0]:.2f} / {client[1]:.2f}",
        goal=", ".join(goals),
        met=met,
        note="the client was the bottleneck" if max(client) > CLIENT_LIMIT else "",
    )


def _pinned(setup, cells):
    core = {SERVER_CPU}
    ours = setup.stage.ours(setup.stage.directory / "store", core)
    nginx = setup.stage.nginx(core)
    registry = None
    if any(cell.registry for cell in cells) and shutil.which("docker-registry"):
        registry = setup.stage.docker_registry(cpus=core)
    yield from _compare(setup, cells, ours, nginx, registry, CLIENT_CPU, 1)


def manifest_2k(setup):
    yield from _pinned(
        setup,
        [
            Cell("manifest-2k, 16 connections", "manifest", 16, 1.5, 0.65, registry=True),
            Cell("manifest-2k, 256 connections", "manifest", 256, 1.5, 0.65, registry=not setup.quick),
        ],
    )


def blob_64k(setup):
    yield from _pinned(
        setup,
        [
            Cell("blob-64k, 16 connections", "64k", 16, 1.2, 0.85, registry=True),
            Cell("blob-64k, 256 connections", "64k", 256, 1.2, 0.85, registry=not setup.quick),
        ],
    )


def blob_1m(setup):
    cells = [Cell("blob-1m, 16 connections", "1m", 16, 1.05, 0.95, registry=True)]
    if not setup.quick:
        cells.append(Cell("blob-16m, 16 connections", "16m", 16))
    yield from _pinned(setup, cells)


def blob_1g(setup):
    yield from _pinned(
        setup,
        [
            Cell("blob-1g, 1 connection", "1g", 1, 1.02, 1.0, registry=True),
            Cell("blob-1g, 16 connections", "1g", 16, 1.02, 1.0),
        ],
    )


def two_cores(setup):
    """Pins no process. Two generators share the two CPUs with the servers, so that no generator is the bottleneck."""
    if len(machine.CPUS) < 2:
        raise Skip("the machine has one CPU; expected two")
    ours = setup.stage.ours(setup.stage.directory / "store", cores=2)
    nginx = setup.stage.nginx(workers=2)
    cells = []
    for label, item, counts in [
        ("manifest-2k", "manifest", (16, 256)),
        ("blob-64k", "64k", (16, 256)),
        ("blob-1m", "1m", (16,) if setup.quick else (16, 256)),
        ("blob-1g", "1g", (2, 16)),
    ]:
        cells += [Cell(f"two-cores {label}, {count} connections", item, count, 1.3) for count in counts]
    if not setup.quick:
        cells.insert(-2, Cell("two-cores blob-16m, 16 connections", "16m", 16))
    yield from _compare(setup, cells, ours, nginx, None, None, 2)


# -- Cost of a tag -----------------------------------------------------------------------------------------------------

TAG_CONNECTIONS = 16


def tag_head(setup):
    """`HEAD` by tag against `HEAD` by digest, both stored: with a fresh tag, and with an unreachable registry."""
    for name, ttl, at_least in [
        ("tag-head, a fresh tag", "1d", 0.95),
        ("tag-head, a tag of an unreachable registry", "0s", None),
    ]:
        root = setup.stage.directory / f"tag-store-{ttl}"
        path = objects.point_tag(root, setup.objects["manifest"])
        server = setup.stage.ours(root, {SERVER_CPU}, settings={"TAG_TTL": ttl})
        yield _tag_row(setup, name, server, path, at_least)


def _tag_row(setup, name, server, path, at_least):
    manifest = setup.objects["manifest"]
    runs = {"tag": [], "digest": []}
    for _ in range(setup.rounds):
        for what, place in (("tag", path), ("digest", None)):
            sample = measure.load(
                server, manifest, TAG_CONNECTIONS, setup.seconds, CLIENT_CPU, method="HEAD", path=place
            )
            runs[what].append(sample)
    ratio = Ratios(*([sample.requests_per_second for sample in runs[what]] for what in ("tag", "digest")))
    by_tag, by_digest = (median([s.requests_per_second for s in runs[what]]) for what in ("tag", "digest"))
    p99_ms = median([sample.p99_ms for sample in runs["tag"]])
    return Row(
        case=name,
        ours=f"{by_tag:,.0f}/s by tag",
        other=f"{by_digest:,.0f}/s by digest",
        ratio=ratio.text(),
        goal=f">= {at_least}" if at_least else "",
        met=ratio.median >= at_least if at_least else None,
        note=f"p99 by tag {p99_ms:.2f} ms",
    )


# -- A cold stream beside small hits -----------------------------------------------------------------------------------

STALL_CONNECTIONS = 4
STALL_RATE = 4_000
# A fast disk delivers the 4 GiB file in about this time.
STALL_SECONDS = 2.0


def cold_stall(setup):
    """The cache runs and pins one core. As in production, kernel workers and helper threads may use the other CPU."""
    if len(machine.CPUS) < 2:
        raise Skip("the machine has one CPU; expected two")
    ours = setup.stage.ours(setup.stage.directory / "store", cores=1)
    nginx = setup.stage.nginx({SERVER_CPU})
    runs = {server.name: [] for server in (ours, nginx)}
    for _ in range(setup.rounds):
        for server in (ours, nginx):
            runs[server.name].append(_stall(setup, server))

    mine, theirs = (_Stalls(runs[server.name]) for server in (ours, nginx))
    cpus = " and ".join(str(set(cpus)) for cpus in ours.affinities())
    yield Row(
        case="cold-stall, p99 of small hits beside a cold stream",
        ours=mine.text(),
        other=theirs.text(),
        ratio=mine.ratios.text(),
        cpu=f"{mine.cost * 1e3:.0f} / {theirs.cost * 1e3:.0f} ms/GiB",
        goal="<= 2.0 x alone",
        met=mine.ratios.median <= 2.0,
        note=f"ratio: beside the stream / alone, nginx {theirs.ratios.text()}; cold stream "
        f"{mine.stream / 1e9:.2f} GB/s, nginx {theirs.stream / 1e9:.2f}; CPU includes the small hits; "
        f"CPUs of the threads: {cpus}",
    )


class _Stalls:
    """The medians of one server's rounds of `_stall`."""

    def __init__(self, rounds):
        alone, beside, streams, costs = zip(*rounds)
        self.alone, self.beside, self.stream, self.cost = map(median, (alone, beside, streams, costs))
        self.ratios = Ratios(beside, alone)

    def text(self):
        return f"{self.beside:.2f} ms, alone {self.alone:.2f}"


def _stall(setup, server):
    small, huge = setup.objects["manifest"], setup.objects["4g"]

    def hits():
        return measure.load(server, small, STALL_CONNECTIONS, STALL_SECONDS, CLIENT_CPU, rate=STALL_RATE)

    machine.evict(huge.file)
    hits()
    alone = hits()
    before = server.cpu_seconds()
    options = {"connections": 1, "seconds": STALL_SECONDS + 0.3, "length": huge.size, "cpu": CLIENT_CPU}
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
    return alone.p99_ms, beside.p99_ms, report["bytes_per_second"], used / report["bytes"] * GIB


# -- Cold pulls --------------------------------------------------------------------------------------------------------

COMMIT_SECONDS = 60
# 10 Gbit/s, the rate of a good network card.
NETWORK_RATE = "1192m"


def cold_pull(setup):
    """The same pull directly and through an empty cache. Pins no process."""
    machine.warm(setup.objects["1g"].file)
    places = {"disk": setup.stage.directory}
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > 3 * GIB:
        places = {"memory": memory, "disk": setup.stage.directory}
    plain = setup.stage.nginx(log=True, name="upstream")
    limited = setup.stage.nginx(log=True, locations=f"limit_rate {NETWORK_RATE};", name="upstream-10g")
    for place, folder in places.items():
        for hashing in (True, False):
            label = "hashing client" if hashing else "dropping client"
            # The goal does not cover the disk and a client that discards bytes.
            goal = place == "memory" and hashing
            yield _cold_row(setup, f"cold-pull 1 GiB, store in {place}, {label}", plain, folder, hashing, goal)
    place, folder = next(iter(places.items()))
    yield _cold_row(setup, f"cold-pull 1 GiB, store in {place}, 10 Gbit/s upstream", limited, folder, True, False)


def _cold_row(setup, name, upstream, folder, hashing, goal):
    item = setup.objects["1g"]
    direct, through = [], []
    for _ in range(setup.rounds):
        before = upstream.cpu_seconds(), machine.busy_seconds()
        report = measure.once(upstream, item, hashing)
        report["machine"] = machine.busy_seconds() - before[1]
        direct.append(report)
        through.append(_pull_through(setup, upstream, folder, item, hashing))
    ratios = Ratios([1 / run["total_ms"] for run in through], [1 / run["total_ms"] for run in direct])
    first = median([mine["first_byte_ms"] - other["first_byte_ms"] for mine, other in zip(through, direct)])
    whole = Ratios([run["machine"] for run in through], [run["machine"] for run in direct])
    requests = sorted({run["upstream_requests"] for run in through})
    return Row(
        case=name,
        ours=f"{item.size / median([run['total_ms'] for run in through]) / 1e6:.2f} GB/s",
        other=f"direct {item.size / median([run['total_ms'] for run in direct]) / 1e6:.2f} GB/s",
        ratio=ratios.text(),
        cpu=f"{median([run['cpu'] for run in through]) * 1e3:.0f} ms/GiB",
        machine=f"{whole.median:.2f}",
        goal=">= 0.9, first byte <= 5 ms later" if goal else "",
        met=(ratios.median >= 0.9 and first <= 5.0) if goal else None,
        note=f"first byte {first:+.2f} ms; upstream requests per pull {'/'.join(map(str, requests))}; "
        + ("committed" if all(run["committed"] for run in through) else "NOT COMMITTED"),
    )


def _pull_through(setup, upstream, folder, item, hashing):
    """One pull through a running cache that has not stored the object."""
    root = folder / f"bench-cold-{setup.stage.number}"
    try:
        ours = setup.stage.ours(root, cores=len(machine.CPUS), upstream=upstream)
        measure.once(ours, setup.objects["64k"])
        seen = _requests(upstream, item)
        cpu, busy = ours.cpu_seconds(), machine.busy_seconds()
        report = measure.once(ours, item, hashing)
        report["committed"] = _committed(setup, root, item)
        report["cpu"] = ours.cpu_seconds() - cpu
        report["machine"] = machine.busy_seconds() - busy
        report["upstream_requests"] = _requests(upstream, item) - seen
        setup.stage.stop(ours)
        return report
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _requests(upstream, item):
    """The number of requests of any method for the object in the upstream's access log."""
    return (upstream.log.parent / "requests.log").read_text().count(item.digest)


def _committed(setup, root, item):
    """Waits for the sidecar, so that the measurement includes the cost of the commit."""
    if setup.stage.ours_binary == "nginx":
        return True
    deadline = time.monotonic() + COMMIT_SECONDS
    while time.monotonic() < deadline:
        if (root / "blobs" / f"sha256-{item.hex}.meta.json").exists():
            return True
        time.sleep(0.01)
    return False


def registry_cold(setup):
    """One image from a docker-registry, through a second docker-registry as a cache and through this cache."""
    if not shutil.which("docker-registry"):
        raise Skip("docker-registry is not installed")
    for item in setup.objects.values():
        if item.name != "4g":
            machine.warm(item.file)
    upstream = setup.stage.docker_registry(log=True, name="upstream-registry")
    mine, theirs = [], []
    for _ in range(setup.rounds):
        for kind, runs in (("ours", mine), ("docker-registry", theirs)):
            root = setup.stage.directory / "run" / f"cold-{kind}-{setup.stage.number}"
            root.mkdir(parents=True)
            try:
                if kind == "ours":
                    cache = setup.stage.ours(root, cores=len(machine.CPUS), upstream=upstream)
                else:
                    cache = setup.stage.docker_registry(root, upstream=upstream, name="docker-registry-cache")
                before = _registry_requests(upstream), cache.cpu_seconds()
                seconds = _pull_image(setup, cache)
                # The server writes the access log after the response.
                time.sleep(0.2)
                runs.append((seconds, _registry_requests(upstream) - before[0], cache.cpu_seconds() - before[1]))
                setup.stage.stop(cache)
            finally:
                shutil.rmtree(root, ignore_errors=True)
    ratios = Ratios([1 / run[0] for run in mine], [1 / run[0] for run in theirs])
    costs = Ratios([run[2] for run in mine], [run[2] for run in theirs])
    yield Row(
        case="registry-cold, image of 5 blobs, 1.1 GB",
        ours=f"{median([run[0] for run in mine]):.2f} s",
        other=f"docker-registry {median([run[0] for run in theirs]):.2f} s",
        ratio=ratios.text(),
        cpu=f"{median([run[2] for run in mine]):.2f} s / {median([run[2] for run in theirs]):.2f} s",
        cpu_ratio=costs.text(),
        goal="> 1",
        met=ratios.median > 1.0,
        note=f"upstream requests: ours {[run[1] for run in mine]}, docker-registry {[run[1] for run in theirs]}; "
        "CPU until the last byte",
    )


def _pull_image(setup, cache):
    """Pulls the manifest by tag, then all blobs concurrently, and checks every digest, as runtimes do. Returns seconds."""
    manifest = setup.objects["manifest"]
    start = time.monotonic()
    by_tag = cache.path(manifest).rsplit("/", 1)[0] + "/" + objects.TAG
    measure.once(cache, manifest, True, path=by_tag)
    pulls = []
    for name in objects.BLOBS:
        item = setup.objects[name]
        options = {"once": True, "digest": item.digest, "length": item.size}
        words = measure.command(cache, item, options)
        pulls.append((name, subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)))
    answers = [(name, pull.communicate()[0].strip(), pull.returncode) for name, pull in pulls]
    seconds = time.monotonic() - start
    for name, answer, code in answers:
        if code != 0:
            raise Failed(f"{cache.name}: pull of the {name} blob: {answer}, log {cache.log}")
    return seconds


def _registry_requests(upstream):
    """The number of content requests. Other requests, such as `/v2/`, do not count against a rate limit."""
    lines = upstream.log.read_text(errors="replace").splitlines()
    return sum(f"/v2/{objects.REPOSITORY}/" in line and "HTTP/1" in line for line in lines)


# -- A bucket ----------------------------------------------------------------------------------------------------------

S3_CONNECTIONS = 16
UPLOAD_SECONDS = 300


def s3_hit(setup):
    """Content of the bucket, through a cache without a local copy, and directly from the engine with the SDK."""
    items = {name: setup.objects[name] for name in ("1g", "64k", "16m")}
    for item in items.values():
        machine.warm(item.file)
    engine = setup.stage.engine()
    upstream = setup.stage.nginx(log=True, name="upstream")
    filler = _bucket_cache(setup, engine, upstream, "s3")
    for item in items.values():
        measure.once(filler, item)
    for item in items.values():
        _wait_in_bucket(engine, item)
    setup.stage.stop(filler)
    cache = _bucket_cache(setup, engine, upstream, "s3")
    before = {name: _requests(upstream, item) for name, item in items.items()}
    yield from _bucket_large(setup, engine, cache, items["1g"], "every process on all CPUs")
    yield from _bucket_small(setup, engine, cache, items["64k"])
    yield from _bucket_readers(setup, cache, items["16m"])
    setup.stage.stop(cache)
    # In production, the engine is a separate machine. Here the engine gets at least a separate CPU.
    engine.pin({SERVER_CPU})
    cache = _bucket_cache(setup, engine, upstream, "s3", cpu=CLIENT_CPU)
    yield from _bucket_large(setup, engine, cache, items["1g"], "engine on one CPU, the other processes on another", CLIENT_CPU)
    more = sum(_requests(upstream, item) - before[name] for name, item in items.items())
    if more:
        raise Failed(f"the cache sent {more} upstream requests for content of the bucket, log {cache.log}")


def _bucket_cache(setup, engine, upstream, backend, cpu=None):
    settings = dict(engine.settings, STORAGE_BACKEND=backend, S3_LIFECYCLE_DAYS="0")
    settings["SPOOL_DIR"] = str(setup.stage.directory)
    root = setup.stage.directory / "run" / f"unused-{setup.stage.number}"
    cpus = machine.CPUS if cpu is None else [cpu]
    return setup.stage.ours(root, set(cpus), cores=len(cpus), upstream=upstream, settings=settings)


def _key(item):
    return f"blobs/sha256-{item.hex}"


def _wait_in_bucket(engine, item):
    deadline = time.monotonic() + UPLOAD_SECONDS
    while True:
        try:
            return measure.sdk(engine, _key(item) + ".meta.json", once=True)
        except Failed:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _bucket_large(setup, engine, cache, item, where, cpu=None):
    """A client of the cache against a client of the engine, both on `cpu`."""
    measure.once(cache, item)
    direct, through, costs = [], [], []
    for _ in range(setup.rounds):
        before = engine.cpu_seconds()
        options = {} if cpu is None else {"cpu": cpu}
        direct.append(measure.sdk(engine, _key(item), item.size, once=True, **options))
        between, ours = engine.cpu_seconds(), cache.cpu_seconds()
        through.append(measure.once(cache, item, cpu=cpu))
        costs.append((cache.cpu_seconds() - ours, between - before, engine.cpu_seconds() - between))
    own, engine_direct, engine_through = (median(cost) * GIB / item.size * 1e3 for cost in zip(*costs))
    ratios = Ratios([1 / run["total_ms"] for run in through], [1 / run["total_ms"] for run in direct])
    first = median([mine["first_byte_ms"] - other["first_byte_ms"] for mine, other in zip(through, direct)])
    yield Row(
        case=f"s3-hit 1 GiB, {engine.name}, {where}",
        ours=f"{item.size / median([run['total_ms'] for run in through]) / 1e6:.2f} GB/s",
        other=f"SDK {item.size / median([run['total_ms'] for run in direct]) / 1e6:.2f} GB/s",
        ratio=ratios.text(),
        cpu=f"{own:.0f} ms/GiB",
        goal=">= 0.9, first byte <= 3 ms later",
        met=ratios.median >= 0.9 and first <= 3.0,
        note=f"first byte {first:+.2f} ms; the engine's CPU {engine_through:.0f} / {engine_direct:.0f} ms/GiB",
    )


def _bucket_small(setup, engine, cache, item):
    """The object exceeds the memory cache, so that the cache reads every hit from the bucket."""
    direct, through = [], []
    for _ in range(setup.rounds):
        options = {"connections": S3_CONNECTIONS, "seconds": setup.seconds}
        direct.append(measure.sdk(engine, _key(item), item.size, **options)["requests_per_second"])
        through.append(measure.load(cache, item, S3_CONNECTIONS, setup.seconds))
    ratios = Ratios([sample.requests_per_second for sample in through], direct)
    yield Row(
        case=f"s3-hit 64 KiB, {S3_CONNECTIONS} connections, {engine.name}",
        ours=f"{median([sample.requests_per_second for sample in through]):,.0f}/s",
        other=f"SDK {median(direct):,.0f}/s",
        ratio=ratios.text(),
        cpu=_cost(item, through),
        note=f"p99 {median([sample.p99_ms for sample in through]):.1f} ms; concurrent requests share a response",
    )


S3_READERS = 64


def _bucket_readers(setup, cache, item):
    """Clients that have sent a request and do not read."""
    before = cache.rss_bytes()
    connections = []
    try:
        for _ in range(S3_READERS):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", cache.port))
            connection.sendall(f"GET {cache.path(item)} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
            connections.append(connection)
        for connection in connections:
            connection.recv(16)
        time.sleep(3)
        grown = (cache.rss_bytes() - before) / MIB
    finally:
        for connection in connections:
            connection.close()
    yield Row(
        case=f"s3-hit, {S3_READERS} clients that do not read",
        ours=f"{grown:.0f} MiB more",
        goal=f"<= {4 * S3_READERS} MiB",
        met=grown <= 4 * S3_READERS,
        note=f"of {S3_READERS * item.size // MIB} MiB requested",
    )


def tiered_warm(setup):
    """Content on the local disk in front of a bucket, against the same disk without a bucket."""
    engine = setup.stage.engine()
    root = setup.stage.directory / "run" / "tiered-store"
    items = [setup.objects[name] for name in ("manifest", "64k", "1m", "16m")]
    for item in items:
        objects.link_into(root, item)
    settings = dict(engine.settings, STORAGE_BACKEND="tiered", S3_LIFECYCLE_DAYS="0")
    ours = setup.stage.ours(root, {SERVER_CPU}, settings=settings)
    plain = setup.stage.ours(setup.stage.directory / "store", {SERVER_CPU})
    for item in items:
        measure.once(ours, item)
    for item in items[1:]:
        # The cache copies locally found content to the bucket. Wait for the copy, so that only hits
        # are measured.
        _wait_in_bucket(engine, item)
    cells = [
        Cell("tiered-warm manifest-2k, 16 connections", "manifest", 16, 0.95),
        Cell("tiered-warm blob-64k, 16 connections", "64k", 16, 0.95),
        Cell("tiered-warm blob-1m, 16 connections", "1m", 16, 0.95),
        Cell("tiered-warm blob-16m, 16 connections", "16m", 16, 0.95),
    ]
    yield from _compare(setup, cells, ours, plain, None, CLIENT_CPU, 1)


# -- Idle connections --------------------------------------------------------------------------------------------------

IDLE_CONNECTIONS = 10_000
IDLE_GOAL_MIB = 60


def idle_10k(setup):
    rows = [("ours", setup.stage.ours(setup.stage.directory / "store", cores=len(machine.CPUS)))]
    rows.append(("nginx", setup.stage.nginx(workers=len(machine.CPUS))))
    grown = {}
    for name, server in rows:
        item = setup.objects["manifest"]
        measure.load(server, item, 16, 0.2)
        before = server.rss_bytes()
        words = measure.command(server, item, {"idle": IDLE_CONNECTIONS})
        holder = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        ready = holder.stdout.readline()
        # The server may still have work to do after a response.
        time.sleep(1)
        during = server.rss_bytes()
        rest, error = holder.communicate("")
        if not ready.startswith("ready"):
            raise Failed(f"{name}: {error.strip()}, log {server.log}")
        grown[name] = (before / MIB, during / MIB, rest.strip())
    before, during, kept = grown["ours"]
    yield Row(
        case="idle-10k, RSS above idle",
        ours=f"{during - before:.1f} MiB",
        other=f"nginx {grown['nginx'][1] - grown['nginx'][0]:.1f} MiB",
        goal=f"<= {IDLE_GOAL_MIB} MiB",
        met=during - before <= IDLE_GOAL_MIB and kept == f"kept {IDLE_CONNECTIONS}",
        note=f"ours {before:.1f} MiB before, {during:.1f} MiB with {IDLE_CONNECTIONS} connections, {kept}",
    )


ALL = {
    "manifest-2k": manifest_2k,
    "blob-64k": blob_64k,
    "blob-1m": blob_1m,
    "blob-1g": blob_1g,
    "two-cores": two_cores,
    "tag-head": tag_head,
    "cold-stall": cold_stall,
    "cold-pull": cold_pull,
    "registry-cold": registry_cold,
    "s3-hit": s3_hit,
    "tiered-warm": tiered_warm,
    "idle-10k": idle_10k,
    "tls-small": tls.small,
    "tls-64k": tls.blob_64k,
    "tls-1g": tls.blob_1g,
    "tls-handshakes": tls.handshakes,
    "idle-tls": tls.idle,
    "h2c-small": http2.h2c_small,
    "h2-tls-small": http2.h2_tls_small,
    "idle-h2c": http2.idle_h2c,
}
