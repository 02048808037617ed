"""The cases over HTTP/2: small hits of h2load against nginx, in plain text and over TLS, and idle connections."""

import re
import resource
import shutil
import socket
import subprocess
import time

import machine
from machine import CLIENT_CPU, SERVER_CPU
from measure import CLIENT_LIMIT, Ratios, median
from objects import MIB
from report import Row
from servers import Failed, Missing

# Connections, and streams per connection.
LOADS = [(1, 100), (16, 32)]
GOAL = 1.0


def _h2load(server, scheme, path, connections, streams, seconds):
    """Returns requests per second, the server's CPU per request, and the utilization of the client's CPU."""
    words = ["taskset", "-c", str(CLIENT_CPU), "h2load", f"--clients={connections}", f"--max-concurrent-streams={streams}"]
    words += [f"--duration={seconds}", f"{scheme}://{server.address}{path}"]
    before, begun = server.cpu_seconds(), time.monotonic()
    usage = _children_seconds()
    done = subprocess.run(words, capture_output=True, text=True)
    used, client = server.cpu_seconds() - before, _children_seconds() - usage
    elapsed = time.monotonic() - begun
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", done.stdout)
    codes = re.search(r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", done.stdout)
    if not rate or not codes or "0 failed, 0 errored, 0 timeout" not in done.stdout:
        raise Failed(f"{server.name}: h2load: {(done.stdout + done.stderr)[-600:].strip()}, log {server.log}")
    return float(rate[1]), used / max(1, int(codes[1])), client / elapsed


def _children_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _against_nginx(setup, name, scheme, settings, listen, directives):
    if not shutil.which("h2load"):
        raise Missing("h2load is not installed (nghttp2-client)")
    item, core = setup.objects["manifest"], {SERVER_CPU}
    machine.warm(item.file)
    ours = setup.stage.ours(setup.stage.directory / "store", core, settings=settings)
    nginx = setup.stage.nginx(core, listen=listen, locations=directives)
    # h2load measures in whole seconds.
    seconds = max(2, round(setup.seconds))
    for connections, streams in LOADS:
        runs = {"ours": [], "nginx": []}
        for server in (ours, nginx):
            _h2load(server, scheme, server.path(item), connections, streams, 1)
        for _ in range(setup.rounds):
            for which, server in (("ours", ours), ("nginx", nginx)):
                runs[which].append(_h2load(server, scheme, server.path(item), connections, streams, seconds))
        (mine, my_cost, my_client), (theirs, their_cost, their_client) = (zip(*runs[which]) for which in runs)
        speed, cost = Ratios(mine, theirs), Ratios(my_cost, their_cost)
        yield Row(
            case=f"{name}, {connections} connections of {streams} streams",
            ours=f"{median(mine) / 1e3:.1f} k/s",
            other=f"{median(theirs) / 1e3:.1f} k/s",
            ratio=speed.text(),
            cpu=f"{median(my_cost) * 1e6:.2f} us / {median(their_cost) * 1e6:.2f} us",
            cpu_ratio=cost.text(),
            client=f"{max(my_client):.2f} / {max(their_client):.2f}",
            goal=f">= {GOAL}",
            met=speed.median >= GOAL,
            note="the client was the bottleneck" if max(my_client + their_client) > CLIENT_LIMIT else "",
        )


def h2c_small(setup):
    yield from _against_nginx(setup, "h2c-small, 2 KiB", "http", {}, " http2", "")


def h2_tls_small(setup):
    """Both servers use one ECDSA certificate, the most common kind."""
    key, certificate = (setup.stage.directory / name for name in ("tls.key", "tls.crt"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    settings = {"TLS_CERT_FILE": str(certificate), "TLS_KEY_FILE": str(key)}
    directives = f"ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;"
    yield from _against_nginx(setup, "h2-tls-small, 2 KiB", "https", settings, " ssl http2", directives)


# -- Idle connections --------------------------------------------------------------------------------------------------

IDLE_CONNECTIONS = 10_000
IDLE_GOAL_MIB = 200

DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
ACK, END_STREAM, END_HEADERS = 1, 1, 4


def _frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _field(name, value):
    # Lengths of seven bits. Lengths up to 254 continue in another byte.
    length = bytes([len(value)]) if len(value) < 127 else bytes([127, len(value) - 127])
    return b"\0" + bytes([len(name)]) + name + length + value


class _Idle:
    """An HTTP/2 connection."""

    def __init__(self, server):
        host, port = server.address.split(":")
        self.socket = socket.create_connection((host, int(port)), 10)
        self.received = b""
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0))
        self.until(SETTINGS, ACK)
        self.socket.sendall(_frame(SETTINGS, ACK, 0))

    def get(self, path):
        """Sends the only request of this connection and reads the response."""
        block = b"\x82\x86" + _field(b":path", path.encode()) + _field(b":authority", b"bench.test")
        self.socket.sendall(_frame(HEADERS, END_STREAM | END_HEADERS, 1, block))
        self.until(DATA, END_STREAM)

    def until(self, kind, flag):
        """Reads up to a frame of `kind` with `flag`."""
        while True:
            while len(self.received) >= 9 and len(self.received) >= 9 + (length := int.from_bytes(self.received[:3], "big")):
                head, self.received = self.received[3:5], self.received[9 + length :]
                if head[0] == kind and head[1] & flag:
                    return
            more = self.socket.recv(64 * 1024)
            if not more:
                raise Failed("the server closed an HTTP/2 connection")
            self.received += more


def idle_h2c(setup):
    server = setup.stage.ours(setup.stage.directory / "store", cores=len(machine.CPUS))
    path = server.path(setup.objects["manifest"])
    _Idle(server).get(path)
    before = server.rss_bytes()
    idle = [_Idle(server) for _ in range(IDLE_CONNECTIONS)]
    yield _idle_row("idle-h2c, without a request", server, before, IDLE_GOAL_MIB)
    for one in idle:
        one.get(path)
    yield _idle_row("idle-h2c, after one response each", server, before, None)
    for one in idle:
        one.socket.sendall(_frame(PING, 0, 0, b"sequence"))
        one.until(PING, ACK)
        one.socket.close()


def _idle_row(case, server, before, goal):
    # The server may still have work to do after a response.
    time.sleep(1)
    grown = (server.rss_bytes() - before) / MIB
    return Row(
        case=case,
        ours=f"{grown:.1f} MiB",
        goal=f"<= {goal} MiB" if goal else "",
        met=grown <= goal if goal else None,
        note=f"RSS above {before / MIB:.1f} MiB, {IDLE_CONNECTIONS} connections",
    )
