"""The cases over TLS: HTTP/1.1 with h2load, handshakes with `openssl s_time`. Both servers use one certificate."""

import re
import resource
import shutil
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass

import machine
from machine import CLIENT_CPU, SERVER_CPU
from measure import CLIENT_LIMIT, Ratios, median
from objects import GIB, MIB
from report import Row
from servers import Failed, Missing


@dataclass
class Run:
    """The figures of one server in one round."""

    units: float  # requests, bytes, or handshakes
    seconds: float
    server_cpu: float
    client_cpu: float  # utilization of the client's CPU

    @property
    def speed(self):
        return self.units / self.seconds

    @property
    def cost(self):
        return self.server_cpu / max(1, self.units)


def _need(*tools):
    for tool, package in tools:
        if not shutil.which(tool):
            raise Missing(f"{tool} is not installed ({package})")


def _pair(setup):
    """Starts both servers on the same CPU, to be measured in turn, with one ECDSA certificate, the most common kind."""
    _need(("h2load", "nghttp2-client"), ("openssl", "openssl"))
    key, certificate = (setup.stage.directory / name for name in ("tls.key", "tls.crt"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    settings = {"TLS_CERT_FILE": str(certificate), "TLS_KEY_FILE": str(key)}
    directives = f"ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_session_cache shared:all:20m;"
    # By default, older nginx versions leave out TLS 1.3.
    directives += " ssl_protocols TLSv1.2 TLSv1.3;"
    ours = setup.stage.ours(setup.stage.directory / "store", {SERVER_CPU}, settings=settings)
    return ours, setup.stage.nginx({SERVER_CPU}, listen=" ssl", locations=directives)


def _children_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _timed(server, commands):
    """Runs `commands` concurrently on the client's CPU.

    Returns the outputs, the server's CPU time, the utilization of the client's CPU, and the duration in seconds.
    """
    before, usage, begun = server.cpu_seconds(), _children_seconds(), time.monotonic()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running = [subprocess.Popen(["taskset", "-c", str(CLIENT_CPU), *words], **pipes) for words in commands]
    said = [process.communicate()[0] for process in running]
    elapsed = time.monotonic() - begun
    return said, server.cpu_seconds() - before, (_children_seconds() - usage) / elapsed, elapsed


def _whole(seconds):
    # The tools measure in whole seconds.
    return max(2, round(seconds))


def _h2load(server, item, connections, seconds):
    words = ["h2load", "--h1", f"--clients={connections}", f"--duration={seconds}", f"https://{server.address}{server.path(item)}"]
    (said,), cpu, client, _ = _timed(server, [words])
    codes = re.search(r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", said)
    total = re.search(r"^traffic: .*?\((\d+)\) total", said, re.MULTILINE)
    if not codes or not total or "0 failed, 0 errored, 0 timeout" not in said:
        raise Failed(f"{server.name}: h2load: {said[-600:].strip()}, log {server.log}")
    # For a large body, received bytes count even if the body is incomplete.
    return Run(int(codes[1]) if item.size < MIB else int(total[1]), seconds, cpu, client)


def _row(name, mine, theirs, goal, speed, cost):
    ratio = Ratios([run.speed for run in mine], [run.speed for run in theirs])
    costs = Ratios([run.cost for run in mine], [run.cost for run in theirs])
    limited = max(run.client_cpu for run in mine + theirs) > CLIENT_LIMIT
    # If the client is saturated, compare CPU costs instead of throughput.
    reached = 1 / costs.median if limited else ratio.median
    return Row(
        case=name,
        ours=speed(median([run.speed for run in mine])),
        other=speed(median([run.speed for run in theirs])),
        ratio=ratio.text(),
        cpu=f"{cost(median([run.cost for run in mine]))} / {cost(median([run.cost for run in theirs]))}",
        cpu_ratio=costs.text(),
        client=f"{max(run.client_cpu for run in mine):.2f} / {max(run.client_cpu for run in theirs):.2f}",
        goal=f">= {goal}",
        met=reached >= goal,
        note=f"the client was the bottleneck: ratio by CPU {reached:.2f}" if limited else "",
    )


def _against_nginx(setup, name, which, counts):
    ours, nginx = _pair(setup)
    item = setup.objects[which]
    machine.warm(item.file)
    seconds = _whole(setup.seconds)
    for connections in counts:
        mine, theirs = [], []
        for server in (ours, nginx):
            _h2load(server, item, connections, 1)
        for _ in range(setup.rounds):
            mine.append(_h2load(ours, item, connections, seconds))
            theirs.append(_h2load(nginx, item, connections, seconds))
        label = f"{name}, {connections} connection{'s' if connections > 1 else ''}"
        if item.size < MIB:
            yield _row(
                label, mine, theirs, 1.0, lambda speed: f"{speed / 1e3:.1f} k/s", lambda cost: f"{cost * 1e6:.2f} us"
            )
        else:
            yield _row(
                label, mine, theirs, 1.0, lambda speed: f"{speed / 1e9:.2f} GB/s", lambda cost: f"{cost * GIB * 1e3:.0f} ms/GiB"
            )


def small(setup):
    yield from _against_nginx(setup, "tls-small, 2 KiB", "manifest", (16, 256))


def blob_64k(setup):
    yield from _against_nginx(setup, "tls-64k", "64k", (16, 256))


def blob_1g(setup):
    yield from _against_nginx(setup, "tls-1g", "1g", (1, 16))


# -- Handshakes --------------------------------------------------------------------------------------------------------

# Number of concurrent clients. Each sends a request, reads to the end, closes, and reconnects.
HANDSHAKING = 8


def _handshakes(server, item, version, resumed, seconds):
    words = ["openssl", "s_time", "-connect", server.address, "-www", server.path(item), version]
    words += ["-reuse" if resumed else "-new", "-time", str(seconds)]
    said, cpu, client, elapsed = _timed(server, [words] * HANDSHAKING)
    counts = [re.search(r"^(\d+) connections in \d+ real seconds, (\d+) bytes", text, re.MULTILINE) for text in said]
    if not all(counts) or any(int(count[2]) < item.size for count in counts):
        raise Failed(f"{server.name}: openssl s_time: {said[0][-600:].strip()}, log {server.log}")
    total = sum(int(count[1]) for count in counts)
    # openssl s_time prints a letter for each connection.
    kept = sum(line.count("r") for text in said for line in text.splitlines() if set(line) <= set("r*t"))
    if resumed and kept < 0.9 * total:
        raise Failed(f"{server.name}: {kept} of {total} sessions were resumed, log {server.log}")
    return Run(total, elapsed, cpu, client)


def handshakes(setup):
    ours, nginx = _pair(setup)
    item = setup.objects["manifest"]
    machine.warm(item.file)
    seconds = _whole(setup.seconds)
    for label, version, resumed, goal in [
        ("TLS 1.3, resumed", "-tls1_3", True, 0.9),
        ("TLS 1.2, resumed", "-tls1_2", True, 0.9),
        ("TLS 1.3, full", "-tls1_3", False, 0.9),
    ]:
        mine, theirs = [], []
        for _ in range(setup.rounds):
            mine.append(_handshakes(ours, item, version, resumed, seconds))
            theirs.append(_handshakes(nginx, item, version, resumed, seconds))
        yield _row(
            f"tls-handshakes, {label}",
            mine,
            theirs,
            goal,
            lambda speed: f"{speed:,.0f}/s",
            lambda cost: f"{cost * 1e6:.0f} us",
        )


# -- Idle connections --------------------------------------------------------------------------------------------------

IDLE_CONNECTIONS = 10_000
IDLE_GOAL_MIB = 250


def _open(server, item, context, session):
    """Opens a session, resumed with `session` unless None, and reads one response."""
    host, port = server.address.split(":")
    stream = context.wrap_socket(socket.create_connection((host, int(port)), 10), session=session)
    stream.sendall(f"GET {server.path(item)} HTTP/1.1\r\nHost: bench.test\r\n\r\n".encode())
    received = b""
    while len(received) < item.size or len(received) < received.find(b"\r\n\r\n") + 4 + item.size:
        more = stream.recv(64 * 1024)
        if not more:
            raise Failed(f"{server.name}: the server closed a connection, log {server.log}")
        received += more
    return stream


def idle(setup):
    item, grown = setup.objects["manifest"], {}
    for server in _pair(setup):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        first = _open(server, item, context, None)
        before = server.rss_bytes()
        held = [_open(server, item, context, first.session) for _ in range(IDLE_CONNECTIONS)]
        time.sleep(1)
        grown[server.name] = (server.rss_bytes() - before) / MIB
        for stream in held:
            stream.setblocking(False)
            try:
                if not stream.recv(1):
                    raise Failed(f"{server.name}: the server closed an idle connection, log {server.log}")
            except ssl.SSLWantReadError:
                pass
            stream.close()
        first.close()
    yield Row(
        case="idle-tls, RSS above idle",
        ours=f"{grown['ours']:.1f} MiB",
        other=f"nginx {grown['nginx']:.1f} MiB",
        goal=f"<= {IDLE_GOAL_MIB} MiB",
        met=grown["ours"] <= IDLE_GOAL_MIB,
        note=f"{IDLE_CONNECTIONS} connections, each after one response",
    )
