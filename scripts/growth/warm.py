"""Warm hits by the number of connections, of cores, and by the size of the blob."""

import threading
import time

import machine
import measure
import objects
from machine import CLIENT_CPU, SERVER_CPU
from measure import median
from objects import GIB, KIB, MIB

ROUNDS = 3
SECONDS = 2.0
RATE = 5_000
CONNECTIONS = [1, 10, 100, 1_000, 10_000]
SIZES = [1, 4, 16, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20]


class _Peak:
    """The largest resident set of a server during a load."""

    def __init__(self, server):
        self.server, self.bytes, self.done = server, 0, threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def _watch(self):
        while True:
            self.bytes = max(self.bytes, self.server.rss_bytes())
            if self.done.wait(0.1):
                return


def connections(stage, items):
    for count in CONNECTIONS:
        server = stage.ours(stage.directory / "store", {SERVER_CPU})
        with _Peak(server) as peak:
            samples = [
                measure.load(server, items["manifest"], count, SECONDS + 1, CLIENT_CPU, rate=min(RATE, 2_000 * count))
                for _ in range(ROUNDS)
            ]
        stage.stop(server)
        yield {
            "connections": count,
            "requests_per_s": median([sample.requests_per_second for sample in samples]),
            "p50_ms": min(sample.latency_ms["p50"] for sample in samples),
            "p95_ms": min(sample.latency_ms["p95"] for sample in samples),
            "cpu_us_per_request": median([sample.cpu_per_request() for sample in samples]) * 1e6,
            "rss_mib": peak.bytes / MIB,
        }


def cores(stage, items):
    for count in range(1, len(machine.CPUS) + 1):
        server = stage.ours(stage.directory / "store", cores=count)
        small, large = (
            [measure.load(server, items[name], 64, SECONDS, clients=2) for _ in range(ROUNDS)] for name in ("manifest", "1m")
        )
        requests = median([sample.requests_per_second for sample in small])
        yield {
            "cores": count,
            "requests_per_s_2k": requests,
            "small_hits_us": 1e6 / requests,
            "gb_per_s_1m": median([sample.bytes_per_second for sample in large]) / 1e9,
            "cpu_us_per_request": median([sample.cpu_per_request() for sample in small]) * 1e6,
            "cpu_ms_per_gib_1m": median([sample.cpu_per_gib() for sample in large]) * 1e3,
            "rss_mib": server.rss_bytes() / MIB,
        }
        stage.stop(server)


def sizes(stage, items):
    for kib in SIZES:
        item = objects.blob(stage.directory, f"growth-{kib}k", kib * KIB)
        objects.link_into(stage.directory / "store", item)
        server = stage.ours(stage.directory / "store", {SERVER_CPU})
        count, samples = 16 if item.size <= 16 * MIB else 2, []
        for _ in range(ROUNDS):
            machine.reread(item.file)
            samples.append(measure.load(server, item, count, SECONDS, CLIENT_CPU))
        speed = median([sample.bytes_per_second for sample in samples])
        cost = median([sample.cpu_per_gib() for sample in samples])
        yield {
            "kib": kib,
            "connections": count,
            "hits_per_s": speed / item.size,
            "ms_per_hit": item.size / speed * 1e3,
            "gb_per_s": speed / 1e9,
            "cpu_us_per_hit": cost * item.size / GIB * 1e6,
            "cpu_ms_per_gib": cost * 1e3,
            "rss_mib": server.rss_bytes() / MIB,
        }
        stage.stop(server)


def peak_of(server, action):
    """Runs `action` and returns its result, its duration, and the peak of the server's memory in MiB."""
    begun = time.monotonic()
    with _Peak(server) as peak:
        result = action()
    return result, time.monotonic() - begun, peak.bytes / MIB
