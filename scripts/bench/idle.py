"""The memory of idle connections."""

import socket
import ssl
import subprocess
import time

import machine
import measure
import nginx
import tls
from h2_connection import Connection
from objects import MIB
from report import Row
from server import Failed

COUNT = 10_000
GOAL_MIB = 60
H2C_GOAL_MIB = 200
H2C_ANSWERED_GOAL_MIB = 230
TLS_GOAL_MIB = 250


def idle_10k(setup):
    rows = [("ours", setup.stage.ours(setup.store, cores=len(machine.CPUS)))]
    rows.append(("nginx", nginx.start(setup.stage, workers=len(machine.CPUS))))
    grown = {}
    for name, server in rows:
        item = setup.objects["manifest"]
        measure.load(server, item, 16, 0.2)
        before = server.rss_bytes()
        words = measure.command(server, item, {"idle": COUNT})
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
        goal=f"<= {GOAL_MIB} MiB",
        met=during - before <= GOAL_MIB and kept == f"kept {COUNT}",
        note=f"ours {before:.1f} MiB before, {during:.1f} MiB with {COUNT} connections, {kept}",
    )


def idle_h2c(setup):
    server = setup.stage.ours(setup.store, cores=len(machine.CPUS))
    path = server.path(setup.objects["manifest"])
    Connection(server).get(path)
    before = server.rss_bytes()
    idle = [Connection(server) for _ in range(COUNT)]
    yield _h2c_row("idle-h2c, without a request", server, before, H2C_GOAL_MIB)
    for one in idle:
        one.get(path)
    yield _h2c_row("idle-h2c, after one response each", server, before, H2C_ANSWERED_GOAL_MIB)
    for one in idle:
        one.ping()
        one.socket.close()


def _h2c_row(case, server, before, goal):
    # The server may still have work to do after a response.
    time.sleep(1)
    grown = (server.rss_bytes() - before) / MIB
    return Row(
        case=case,
        ours=f"{grown:.1f} MiB",
        goal=f"<= {goal} MiB",
        met=grown <= goal,
        note=f"RSS above {before / MIB:.1f} MiB, {COUNT} connections",
    )


def _tls_session(server, item, context, session):
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


def idle_tls(setup):
    item, grown = setup.objects["manifest"], {}
    for server in tls.pair(setup):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        first = _tls_session(server, item, context, None)
        before = server.rss_bytes()
        held = [_tls_session(server, item, context, first.session) for _ in range(COUNT)]
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
        goal=f"<= {TLS_GOAL_MIB} MiB",
        met=grown["ours"] <= TLS_GOAL_MIB,
        note=f"{COUNT} connections, each after one response",
    )


CASES = {"idle-10k": idle_10k, "idle-h2c": idle_h2c, "idle-tls": idle_tls}
