"""Hits over HTTP/2 against nginx, in plain text and over TLS, by h2load."""

import contest
import h2load
import nginx
import tls
from contest import Goal
from machine import SERVER_CPU

# By connections, and streams per connection.
SMALL = {"2 KiB": ("manifest", {(1, 100): Goal(1.0), (16, 32): Goal(1.0)})}
H2C = {
    "64 KiB": ("64k", {(16, 8): Goal(1.2, or_cpu=True)}),
    "1 MiB": ("1m", {(16, 4): Goal(1.0, or_cpu=True)}),
    "1 GiB": ("1g", {(1, 1): Goal(0.9, or_cpu=True)}),
}
TLS = {
    "1 MiB": ("1m", {(16, 4): Goal(1.15, or_cpu=True)}),
    "1 GiB": ("1g", {(1, 1): Goal(1.0, or_cpu=True)}),
}


def _plain(setup):
    core = {SERVER_CPU}
    return [*setup.stage.caches(setup.store, core), nginx.start(setup.stage, core, listen=" http2")]


def _case(name, scheme, table):
    def case(setup):
        h2load.need(("h2load", "nghttp2-client"))
        servers = _plain(setup) if scheme == "http" else tls.pair(setup, http2=True)
        for label, (which, goals) in table.items():
            item = setup.objects[which]
            for (connections, streams), goal in goals.items():

                def sample(server, seconds=setup.whole_seconds):
                    return h2load.load(server, item, scheme, connections, streams, seconds)

                for server in servers:
                    sample(server, 1)
                runs = contest.measured(servers, sample, setup.rounds, [item.file])
                yield contest.row(f"{name}, {label}, {connections} x {streams} streams", item, runs, "nginx", goal)

    return case


CASES = {
    "h2c-small": _case("h2c-small", "http", SMALL),
    "h2c-large": _case("h2c-large", "http", H2C),
    "h2-tls-small": _case("h2-tls-small", "https", SMALL),
    "h2-tls-large": _case("h2-tls-large", "https", TLS),
}
