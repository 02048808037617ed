"""Runs the load generator, and computes the figures of a server from its reports."""

import json
import os
import statistics
import subprocess
from dataclasses import dataclass

import machine
from objects import GIB, MANIFEST_TYPE
from server import Failed

# Above this share of its core, the load generator is the bottleneck, not the server.
CLIENT_LIMIT = 0.97


@dataclass
class Sample:
    """The figures of one cell in one round."""

    requests_per_second: float
    bytes_per_second: float
    server_cpu: float  # CPU seconds during the cell
    machine_cpu: float
    requests: int
    bytes: int
    client_cpu: float
    latency_ms: dict  # by the names of the generator: p50, p95, p98, p99. Empty if h2load is the client.

    def cpu_per_request(self):
        return self.server_cpu / max(1, self.requests)

    def cpu_per_gib(self):
        return self.server_cpu / max(1, self.bytes) * GIB


def command(server, item, options, path=None):
    """Returns the command line of the load generator for `item` at `server`."""
    words = [os.environ["BENCH_LOAD"], "--addr", server.address, "--path", path or server.path(item), "--json"]
    if item.kind == "manifests":
        # docker-registry returns OCI manifests only if `Accept` names their type, even with `*/*`.
        words += ["--header", f"Accept: {MANIFEST_TYPE}"]
    for name, value in options.items():
        if value is None or value is False:
            continue
        words.append("--" + name)
        if value is not True:
            words.append(str(value))
    return words


def once(server, item, digest=False, cpu=None, path=None):
    """Runs one pull on a new connection. Returns the generator's report."""
    options = {"once": True, "length": item.size, "digest": item.digest if digest else None, "cpu": cpu}
    done = subprocess.run(command(server, item, options, path), capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{server.name}: GET {path or server.path(item)}: {(done.stderr or done.stdout).strip()}, log {server.log}")
    return json.loads(done.stdout)


def listed(server, items, connections, folder):
    """Pulls each of `items` once over `connections` connections. Returns the generator's report."""
    file = folder / "list"
    file.write_text("".join(f"{item.size} {server.path(item)}\n" for item in items))
    words = [os.environ["BENCH_LOAD"], "--addr", server.address, "--list", str(file)]
    done = subprocess.run(words + ["--connections", str(connections)], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{server.name}: pull of a list: {(done.stderr or done.stdout).strip()[-600:]}, log {server.log}")
    return json.loads(done.stdout)


def sdk(engine, key, length=None, **options):
    """Reads the object `key` with the SDK, directly from the engine. Returns the generator's report."""
    words = [os.environ["BENCH_LOAD"], "--sdk", "--json", "--addr", engine.address, "--path", engine.object(key)]
    if length is not None:
        words += ["--length", str(length)]
    for name, value in options.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ, **engine.settings))
    if done.returncode != 0:
        raise Failed(f"{engine.name}: {key}: {(done.stderr or done.stdout).strip()}, log {engine.log}")
    return json.loads(done.stdout)


def load(server, item, connections, seconds, cpu=None, rate=None, clients=1, method=None, path=None):
    """Runs one cell with `clients` concurrent generators. Returns the sum of their figures."""
    share = connections // clients
    options = {"connections": share, "seconds": seconds, "length": item.size, "cpu": cpu, "rate": rate}
    if method:
        options["method"] = method
    server_before, machine_before = server.cpu_seconds(), machine.busy_seconds()
    words = command(server, item, options, path)
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(clients)]
    reports = []
    for process in running:
        out, error = process.communicate()
        if not out:
            raise Failed(f"{server.name}: {error.strip()}, log {server.log}")
        reports.append(json.loads(out))
    for report in reports:
        if report["errors"]:
            raise Failed(f"{server.name}: {report['errors']} wrong responses, first: {report['first_error']}, log {server.log}")

    def total(key):
        return sum(report[key] for report in reports)

    return Sample(
        requests_per_second=total("requests_per_second"),
        bytes_per_second=total("bytes_per_second"),
        server_cpu=server.cpu_seconds() - server_before,
        machine_cpu=machine.busy_seconds() - machine_before,
        requests=total("requests"),
        bytes=total("bytes"),
        client_cpu=max(report["client_cpu"] for report in reports),
        latency_ms={part: max(report["latency_ms"][part] for report in reports) for part in reports[0]["latency_ms"]},
    )


class Ratios:
    """The ratios of one figure, `ours` / `theirs`, one per round."""

    def __init__(self, ours, theirs):
        self.values = [mine / other if other else float("nan") for mine, other in zip(ours, theirs)]

    @property
    def median(self):
        return statistics.median(self.values)

    def text(self):
        return f"{self.median:.2f} ({min(self.values):.2f}-{max(self.values):.2f})"


def median(values):
    return statistics.median(values)
