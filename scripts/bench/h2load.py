"""h2load as the client, over TLS or HTTP/2."""

import re
import resource
import shutil
import subprocess
import time

import machine
from machine import CLIENT_CPU
from measure import Sample
from objects import MIB
from server import Failed, Missing

# h2load sometimes continues after its duration, on a connection that was established late.
RUN_SECONDS = 40


def need(*tools):
    """Takes pairs of a command and its package."""
    for tool, package in tools:
        if not shutil.which(tool):
            raise Missing(f"{tool} is not installed ({package})")


def load(server, item, scheme, connections, streams, seconds):
    """Runs one cell. Without `streams`, the client speaks HTTP/1.1."""
    need(("h2load", "nghttp2-client"))
    protocol = ["--h1"] if streams is None else [f"--max-concurrent-streams={streams}"]
    words = ["h2load", *protocol, f"--clients={connections}", f"--duration={seconds}"]
    (said,), cpu, whole, client, _ = timed(server, [words + [f"{scheme}://{server.address}{server.path(item)}"]])
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", said)
    codes = re.search(r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", said)
    total = re.search(r"^traffic: .*?\((\d+)\) total", said, re.MULTILINE)
    if not rate or not codes or not total or "0 failed, 0 errored, 0 timeout" not in said:
        raise Failed(f"{server.name}: h2load: {said[-600:].strip()}, log {server.log}")
    # For a large body, received bytes count even if the body is incomplete.
    size = int(codes[1]) * item.size if item.size < MIB else int(total[1])
    return Sample(
        requests_per_second=float(rate[1]),
        bytes_per_second=size / seconds,
        server_cpu=cpu,
        machine_cpu=whole,
        requests=int(codes[1]),
        bytes=size,
        client_cpu=client,
        latency_ms={},
    )


def timed(server, commands):
    """Runs `commands` concurrently on the client's CPU.

    Returns the outputs, the CPU time of the server and of the machine, the utilization of the client's CPU, and the
    duration in seconds.
    """
    before, busy, usage, begun = server.cpu_seconds(), machine.busy_seconds(), _children_seconds(), time.monotonic()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running = [subprocess.Popen(["taskset", "-c", str(CLIENT_CPU), *words], **pipes) for words in commands]
    try:
        said = [process.communicate(timeout=RUN_SECONDS)[0] for process in running]
    except subprocess.TimeoutExpired as expired:
        raise Failed(f"{server.name}: {expired}") from None
    finally:
        for process in running:
            process.kill()
    elapsed = time.monotonic() - begun
    client = (_children_seconds() - usage) / elapsed
    return said, server.cpu_seconds() - before, machine.busy_seconds() - busy, client, elapsed


def _children_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
