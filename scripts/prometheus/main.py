"""Runs caches with and without faults below a real Prometheus: main.py BINARY HEALTHY_SECONDS."""

import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from cache import Cache, Failed, free_port
from monitor import Monitor, until
from panels import panels, recorded
from upstream import Upstream

MIB = 1 << 20
# The deadline of an alert after its fault, for a slow machine. Alerts fire after some seconds.
FIRE_SECONDS = 120
PREFIX = "OciPullThrough"
# Images of 1 MiB in the store that evicts.
AGED_IMAGES = 24
# Alerts that need a comparison with yesterday, or a slow disk. Only their promtool tests make them fire.
ONLY_PROMTOOL = {"HitRatioDropped", "SlowFirstByte"}
FAULTY = {
    "UpstreamRateLimited", "BudgetLow", "BudgetWillEnd", "UpstreamDown", "ServingStale", "DiskNearlyFull", "CacheTooSmall",
    "IntegrityFailure", "StoreErrors", "BucketUnavailable", "CertificateExpiresSoon", "CertificateExpires", "Overloaded",
    "CoreStalled", "FallbackToEpoll",
}  # fmt: skip
# Alerts that a slow machine, or a kernel without io_uring, makes fire without a fault of the cache.
OF_THE_MACHINE = {"SlowFirstByte", "CoreStalled", "FallbackToEpoll"}
# The alerts after the last pull and the stop of a cache.
AT_LAST = {"NotScraped", "NoPulls"}

passed = 0


def holds(what):
    global passed
    passed += 1
    print(f"ok      {what}", flush=True)


class Traffic:
    """Repeats a function in a thread until `stop`. `number` counts the calls."""

    def __init__(self, pull, pause=0.1):
        self.ended, self.number = threading.Event(), 0

        def run():
            while not self.ended.wait(pause):
                self.number += 1
                pull(self.number)

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def stop(self):
        self.ended.set()
        self.thread.join(30)


class Run:
    def __init__(self, binary, home):
        self.binary, self.home = binary, home
        self.caches, self.traffic = [], []
        self.monitor = Monitor(home)

    def close(self):
        for traffic in self.traffic:
            traffic.ended.set()
        for cache in self.caches:
            cache.stop()
        self.monitor.stop()

    def cache(self, name, upstreams, settings, **options):
        cache = Cache(self.binary, self.home, name, upstreams, settings, **options)
        self.caches.append(cache)
        self.monitor.add(cache)
        return cache

    def repeat(self, pull, pause=0.1):
        self.traffic.append(Traffic(pull, pause))

    def healthy(self, seconds):
        """Pulls without any fault. No alert may fire."""
        good = Upstream("good.example", 200_000)
        settings = {"GENERATE_SELF_SIGNED_TLS": "true", "CACHE_MAX_SIZE": "1g", "CACHE_MIN_FREE": "1m"}
        cache = self.cache("healthy", [good], settings, tls=True)
        statuses = set()

        def pull(number):
            # Two of three pulls are hits.
            statuses.update(cache.pull(good, f"v{number // 3}"))
            statuses.add(cache.get("/v2/"))

        self.repeat(pull)
        # The rules have to see two scrapes and the traffic before their conditions count.
        pulls = "rate(oci_pull_through_cache_lookups_total[10s]) > 0"
        until(60, "Prometheus has scraped the cache", lambda: self.monitor.values(pulls))
        time.sleep(3)
        self.monitor.forget()
        time.sleep(seconds)
        fired = self.monitor.fired()
        for name in OF_THE_MACHINE & {name.removeprefix(PREFIX) for name in fired}:
            print(f"note    this machine makes {name} fire: {fired.pop(PREFIX + name)}")
        if fired or statuses != {200}:
            raise Failed(f"healthy traffic: fired {fired}, statuses {statuses}; expected no alert and status 200")
        holds(f"no alert fires during {seconds} s of healthy traffic")
        return cache

    def start_faults(self):
        """Starts a cache for each fault that excludes others."""
        limited, broken = Upstream("limited.example", 1_000), Upstream("down.example", 1_000)
        corrupt, large = Upstream("corrupt.example", 1_000), Upstream("large.example", MIB)
        limited.fault, corrupt.fault = "falling", "corrupt"
        certificate = self._certificate()
        faulty = self.cache(
            "faulty",
            [limited, broken, corrupt],
            {
                **certificate,
                "IO_DRIVER": "epoll",
                "TAG_TTL": "1s",
                "MAX_CONNECTIONS_PER_CLIENT": "4",
                "STORAGE_BACKEND": "tiered",
                # Nothing listens at this address.
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
                "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "example",
                "AWS_SECRET_ACCESS_KEY": "example",
            },
            tls=True,
        )
        small = self._small_store(large)
        unwritable = self.cache("unwritable", [large], {"CACHE_MIN_FREE": "1m"})
        full = self.cache("full", [large], {"CACHE_MIN_FREE": "99%"})
        for tag in ("v1", "v2"):
            faulty.pull(broken, tag)
        self.repeat(lambda number: faulty.pull(limited, f"v{number}"))
        self.repeat(lambda number: faulty.pull(broken, f"v{number % 2 + 1}"))
        self.repeat(lambda number: faulty.pull(corrupt, f"v{number}"), pause=1)
        self.repeat(lambda number: small.pull(large, f"v{number}"), pause=0.5)
        self.repeat(lambda number: unwritable.pull(large, f"v{number}"), pause=1)
        self.repeat(lambda number: full.pull(large, f"v{number}"), pause=1)
        until(60, "the budget of the registry is spent", lambda: limited.left == 0)
        # The first samples, so that rates have a start.
        time.sleep(5)
        limited.fault, broken.fault = "limited", "down"
        self.repeat(lambda _: refused_connections(faulty), pause=1)
        unwritable.break_disk()
        small.pause(2.5)
        verified = small.command("verify", "--dry-run")
        if verified.returncode != 0:
            raise Failed(f"verify of the running cache: {verified.stderr}")
        return full

    def _small_store(self, large):
        """Starts a cache with content that looks unused for hours, and little room for new content."""
        settings = {"CACHE_MAX_SIZE": f"{AGED_IMAGES + 4}m", "CACHE_MIN_FREE": "1m"}
        before = Cache(self.binary, self.home, "small", [large], settings)
        self.caches.append(before)
        for number in range(AGED_IMAGES):
            before.pull(large, f"aged{number}")
        before.stop()
        before.age(5 * 3600)
        return self.cache("small", [large], settings)

    def _certificate(self):
        """Writes a certificate that expires in two days."""
        key, chain = self.home / "key.pem", self.home / "chain.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=cache.example", "-addext", "subjectAltName=DNS:cache.example", "-keyout", key, "-out", chain],
            check=True, capture_output=True,
        )  # fmt: skip
        return {"TLS_CERT_FILE": str(chain), "TLS_KEY_FILE": str(key)}

    def expect(self, names):
        wanted = {PREFIX + name for name in names}
        try:
            until(FIRE_SECONDS, "alerts fire", lambda: wanted <= self.monitor.fired().keys())
        except Failed:
            missing = sorted(wanted - self.monitor.fired().keys())
            raise Failed(f"{', '.join(missing)}: no alert within {FIRE_SECONDS} s after the fault") from None
        for name in sorted(wanted):
            holds(f"{name}: {self.monitor.fired()[name]}")

    def data_of_dashboards(self):
        """Each panel and each recording rule has to return data."""
        for dashboard, title, expression in panels():
            until(10, f"data of {dashboard}, {title}: {expression}", lambda: self.monitor.values(expression))
        holds(f"each of {len(panels())} queries of the dashboards returns data")
        for name in recorded():
            until(10, f"data of the rule {name}", lambda: self.monitor.values(name))
        holds(f"each of {len(recorded())} recording rules returns data")


def refused_connections(cache):
    """Opens more connections than the cache accepts from one address, from an address of their own."""
    streams = []
    try:
        for _ in range(8):
            streams.append(socket.create_connection(("127.0.0.1", cache.port), 5, source_address=("127.0.0.2", 0)))
        time.sleep(0.2)
    except OSError:
        pass
    finally:
        for stream in streams:
            stream.close()


def check_metrics(cache):
    """Checks names and help texts. promtool reads the older text format, in which counters end in `_total`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{cache.metrics}/metrics", timeout=10) as response:
        text = response.read().decode()
    counters = re.findall(r"^# TYPE (\S+) counter$", text, re.M)
    for counter in counters:
        text = re.sub(rf"^(# (?:TYPE|HELP)) {counter} ", rf"\1 {counter}_total ", text, flags=re.M)
    text = re.sub(r"^# (UNIT .*|EOF)\n", "", text, flags=re.M)
    found = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    if found.returncode != 0 or found.stdout or found.stderr:
        raise Failed(f"promtool check metrics: {found.stdout}{found.stderr}")
    holds("promtool check metrics")


def main():
    binary, seconds = sys.argv[1], int(sys.argv[2])
    rules = (Path(__file__).parents[2] / "deploy/prometheus/alerts.yaml").read_text()
    names = {name.removeprefix(PREFIX) for name in re.findall(r"alert: (\w+)", rules)}
    if names != ONLY_PROMTOOL | FAULTY | AT_LAST:
        raise Failed(f"this test and the rules differ by {names ^ (ONLY_PROMTOOL | FAULTY | AT_LAST)}")
    with tempfile.TemporaryDirectory(prefix="prometheus.") as home:
        run = Run(binary, Path(home))
        try:
            healthy = run.healthy(seconds)
            check_metrics(healthy)
            full = run.start_faults()
            run.expect(FAULTY)
            run.data_of_dashboards()
            for traffic in run.traffic:
                traffic.stop()
            full.stop()
            run.expect(AT_LAST)
        finally:
            run.close()
    print(f"only promtool has tests of {' and '.join(sorted(ONLY_PROMTOOL))}")
    print(f"{passed} checks of alerts and dashboards passed")


def interrupted(*_):
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupted)
    try:
        main()
    except Failed as error:
        print(f"FAILED  {error}")
        sys.exit(1)
