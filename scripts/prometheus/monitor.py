"""A running Prometheus with the rules of deploy/, with short intervals, and its queries."""

import json
import math
import re
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

from cache import Failed, free_port

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
# The range of all queries of the rules, instead of minutes and hours.
RANGE = "10s"
# The time for which a condition holds before its alert fires. A single late scrape fires no alert.
FOR = "3s"
CONFIG = """\
global: {scrape_interval: 1s, scrape_timeout: 900ms, evaluation_interval: 1s}
rule_files: [alerts.yaml, recording-rules.yaml]
scrape_configs:
  - job_name: oci-pull-through
    file_sd_configs: [{files: [targets.json], refresh_interval: 1s}]
"""


def shortened(rules):
    """Returns the rules with durations that fit into a short test. The conditions stay."""
    rules = re.sub(r"\bfor: \w+", f"for: {FOR}", rules)
    return re.sub(r"\[\d+[mh]\]", f"[{RANGE}]", rules)


class Monitor:
    def __init__(self, home):
        self.home = home / "prometheus"
        self.home.mkdir()
        for name in ("alerts.yaml", "recording-rules.yaml"):
            (self.home / name).write_text(shortened((DEPLOY / "prometheus" / name).read_text()))
        (self.home / "prometheus.yml").write_text(CONFIG)
        self.targets = []
        self._write_targets()
        subprocess.run(["promtool", "check", "config", self.home / "prometheus.yml"], check=True, capture_output=True)
        self.url = f"http://127.0.0.1:{free_port()}"
        with open(self.home / "log", "wb") as out:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self.home / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self.home / 'data'}",
                    f"--web.listen-address={self.url[7:]}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        self.firing, self.lock, self.ended = {}, threading.Lock(), False
        until(30, "Prometheus is ready", self._is_ready)
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()

    def _is_ready(self):
        if self.process.poll() is not None:
            raise Failed(f"Prometheus did not start: {(self.home / 'log').read_text()[-800:]}")
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as response:
                return response.status == 200
        except OSError:
            return False

    def stop(self):
        self.ended = True
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)

    def add(self, cache):
        self.targets.append(f"127.0.0.1:{cache.metrics}")
        self._write_targets()

    def _write_targets(self):
        new = self.home / "targets.new"
        new.write_text(json.dumps([{"targets": self.targets}]))
        new.rename(self.home / "targets.json")

    def _get(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise Failed(f"Prometheus refuses {parameters}: {error.read().decode()}") from error

    def values(self, expression):
        """Returns the values of an instant query, without NaN."""
        result = self._get("query", query=expression)["result"]
        values = [float(sample["value"][1]) for sample in result]
        return [value for value in values if not math.isnan(value)]

    def _watch(self):
        """Records every alert that fires, with its summary."""
        while not self.ended:
            try:
                alerts = self._get("alerts")["alerts"]
            except (OSError, Failed):
                alerts = []
            with self.lock:
                for alert in alerts:
                    if alert["state"] == "firing":
                        self.firing.setdefault(alert["labels"]["alertname"], alert["annotations"]["summary"])
            time.sleep(0.3)

    def fired(self):
        with self.lock:
            return dict(self.firing)

    def forget(self):
        with self.lock:
            self.firing.clear()


def until(seconds, what, condition):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(0.1)
