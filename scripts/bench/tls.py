"""The certificate of both servers, and the cases over TLS with HTTP/1.1: hits and handshakes."""

import re
import subprocess

import contest
import h2load
import nginx
from contest import Goal
from machine import SERVER_CPU
from measure import median
from report import Row
from server import Failed

# By connections.
SMALL = {"tls-small, 2 KiB": ("manifest", {16: Goal(1.0, or_cpu=True), 256: Goal(1.0, or_cpu=True)})}
MIDDLE = {"tls-64k": ("64k", {16: Goal(1.0, or_cpu=True), 256: Goal(1.0, or_cpu=True)})}
LARGE = {"tls-1g": ("1g", {1: Goal(1.15, or_cpu=True), 16: Goal(1.15, or_cpu=True)})}


def pair(setup, http2=False):
    """Starts the caches and nginx on one CPU with one ECDSA certificate, the most common kind."""
    h2load.need(("openssl", "openssl"))
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
    core, listen = {SERVER_CPU}, " ssl http2" if http2 else " ssl"
    caches = setup.stage.caches(setup.store, core, settings=settings)
    return [*caches, nginx.start(setup.stage, core, listen=listen, locations=directives)]


def _against_nginx(table):
    def case(setup):
        servers = pair(setup)
        for name, (which, goals) in table.items():
            item = setup.objects[which]
            for connections, goal in goals.items():

                def sample(server, seconds=setup.whole_seconds):
                    return h2load.load(server, item, "https", connections, None, seconds)

                for server in servers:
                    sample(server, 1)
                runs = contest.measured(servers, sample, setup.rounds, [item.file])
                label = f"{name}, {connections} connection{'s' if connections > 1 else ''}"
                yield contest.row(label, item, runs, "nginx", goal)

    return case


# -- Handshakes --------------------------------------------------------------------------------------------------------

# Number of concurrent clients. Each sends a request, reads to the end, closes, and reconnects.
CLIENTS = 8
HANDSHAKE_GOAL = 0.9


class Handshakes:
    """The figures of one server in one round."""

    def __init__(self, count, seconds, server_cpu, client_cpu):
        self.speed, self.cost, self.client_cpu = count / seconds, server_cpu / max(1, count), client_cpu


def _handshakes(server, item, version, resumed, seconds):
    words = ["openssl", "s_time", "-connect", server.address, "-www", server.path(item), version]
    words += ["-reuse" if resumed else "-new", "-time", str(seconds)]
    said, cpu, _, client, elapsed = h2load.timed(server, [words] * CLIENTS)
    counts = [re.search(r"^(\d+) connections in \d+ real seconds, (\d+) bytes", text, re.MULTILINE) for text in said]
    if not all(counts) or any(int(count[2]) < item.size for count in counts):
        raise Failed(f"{server.name}: openssl s_time: {said[0][-600:].strip()}, log {server.log}")
    total = sum(int(count[1]) for count in counts)
    # openssl s_time prints a letter for each connection.
    kept = sum(line.count("r") for text in said for line in text.splitlines() if set(line) <= set("r*t"))
    if resumed and kept < 0.9 * total:
        raise Failed(f"{server.name}: {kept} of {total} sessions were resumed, log {server.log}")
    return Handshakes(total, elapsed, cpu, client)


def handshakes(setup):
    servers, item = pair(setup), setup.objects["manifest"]
    for label, version, resumed in [
        ("TLS 1.3, resumed", "-tls1_3", True),
        ("TLS 1.2, resumed", "-tls1_2", True),
        ("TLS 1.3, full", "-tls1_3", False),
    ]:

        def sample(server):
            return _handshakes(server, item, version, resumed, setup.whole_seconds)

        yield _handshake_row(f"tls-handshakes, {label}", contest.measured(servers, sample, setup.rounds))


def _handshake_row(name, runs):
    def speed(one):
        return one.speed

    def cost(one):
        return one.cost

    ratio, costs = (runs.ratios(figure, "ours", "nginx") for figure in (speed, cost))
    limited = max(one.client_cpu for which in ("ours", "nginx") for one in runs[which]) > contest.CLIENT_LIMIT
    goal = Goal(HANDSHAKE_GOAL, or_cpu=True)
    by_name = {which: (median([one.speed for one in runs[which]]), median([one.cost for one in runs[which]])) for which in ("ours", "nginx")}
    return Row(
        case=name,
        ours=f"{by_name['ours'][0]:,.0f}/s",
        other=f"{by_name['nginx'][0]:,.0f}/s",
        ratio=ratio.text(),
        cpu=f"{by_name['ours'][1] * 1e6:.0f} us / {by_name['nginx'][1] * 1e6:.0f} us",
        cpu_ratio=costs.text(),
        before=runs.before(speed, cost),
        goal=goal.text(),
        met=goal.met(ratio.median, costs.median, limited),
        note=f"the client was the bottleneck: ratio by CPU {1 / costs.median:.2f}" if limited else "",
    )


CASES = {
    "tls-small": _against_nginx(SMALL),
    "tls-64k": _against_nginx(MIDDLE),
    "tls-1g": _against_nginx(LARGE),
    "tls-handshakes": handshakes,
}
