"""Hits from a bucket, and from a disk in front of a bucket."""

import socket
import time

import engine as s3
import machine
import measure
import nginx
import objects
import upstream_log
import warm
from contest import Goal, cost_text
from machine import CLIENT_CPU, SERVER_CPU
from measure import Ratios, median
from objects import GIB, MIB
from report import Row
from server import Failed

S3_CONNECTIONS = 16
UPLOAD_SECONDS = 300


def s3_hit(setup):
    """Content of the bucket, through a cache without a local copy, and directly from the engine with the SDK."""
    items = {name: setup.objects[name] for name in ("1g", "64k", "16m")}
    for item in items.values():
        machine.warm(item.file)
    engine = s3.start(setup.stage)
    upstream = nginx.start(setup.stage, log=True, name="upstream")
    filler = _bucket_cache(setup, engine, upstream, "s3")
    for item in items.values():
        measure.once(filler, item)
    for item in items.values():
        _wait_in_bucket(engine, item)
    setup.stage.stop(filler)
    cache = _bucket_cache(setup, engine, upstream, "s3")
    before = {name: upstream_log.requests(upstream, item) for name, item in items.items()}
    yield from _bucket_large(setup, engine, cache, items["1g"], "every process on all CPUs")
    yield from _bucket_small(setup, engine, cache, items["64k"])
    yield from _bucket_readers(setup, cache, items["16m"])
    setup.stage.stop(cache)
    # In production, the engine is a separate machine. Here the engine gets at least a separate CPU.
    engine.pin({SERVER_CPU})
    cache = _bucket_cache(setup, engine, upstream, "s3", cpu=CLIENT_CPU)
    yield from _bucket_large(setup, engine, cache, items["1g"], "engine on one CPU, the other processes on another", CLIENT_CPU)
    more = sum(upstream_log.requests(upstream, item) - before[name] for name, item in items.items())
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
        cpu=cost_text(item, through),
        note=f"p95 {min(sample.latency_ms['p95'] for sample in through):.1f} ms; concurrent requests share a response",
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
    engine = s3.start(setup.stage)
    root = setup.stage.directory / "run" / "tiered-store"
    items = [setup.objects[name] for name in ("manifest", "64k", "1m", "16m")]
    for item in items:
        objects.link_into(root, item)
    settings = dict(engine.settings, STORAGE_BACKEND="tiered", S3_LIFECYCLE_DAYS="0")
    ours = setup.stage.ours(root, {SERVER_CPU}, settings=settings)
    plain = setup.stage.ours(setup.store, {SERVER_CPU})
    for item in items:
        measure.once(ours, item)
    for item in items[1:]:
        # The cache copies locally found content to the bucket. Wait for the copy, so that only hits
        # are measured.
        _wait_in_bucket(engine, item)
    plain.name = "without a bucket"
    wanted = [
        warm.Cell(f"tiered-warm {label}, {S3_CONNECTIONS} connections", name, S3_CONNECTIONS, Goal(0.95))
        for label, name in [("manifest-2k", "manifest"), ("blob-64k", "64k"), ("blob-1m", "1m"), ("blob-16m", "16m")]
    ]
    yield from warm.compare(setup, wanted, [ours, plain], plain.name, CLIENT_CPU, 1)


CASES = {"s3-hit": s3_hit, "tiered-warm": tiered_warm}
