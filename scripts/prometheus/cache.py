"""A running cache, and pulls through the cache."""

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import time

import upstream

START_SECONDS, STOP_SECONDS, REQUEST_SECONDS = 30, 30, 10


class Failed(Exception):
    """A check failed, or a process did not start. The message is the reason."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Cache:
    def __init__(self, binary, home, name, upstreams, settings, tls=False):
        self.name, self.tls, self.binary = name, tls, binary
        self.home = home / name
        self.home.mkdir(exist_ok=True)
        self.port, self.metrics = free_port(), free_port()
        registries = [{"name": upstream.name, "url": upstream.url} for upstream in upstreams]
        # JSON is YAML.
        (self.home / "config.yaml").write_text(json.dumps({"registries": registries}))
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LISTEN_ADDR": f"127.0.0.1:{self.port}",
            "METRICS_ADDR": f"127.0.0.1:{self.metrics}",
            "ADMIN_ADDR": "off",
            "FS_ROOT": str(self.home / "store"),
            "STORAGE_BACKEND": "fs",
            "CONFIG_FILE": str(self.home / "config.yaml"),
            "CORES": "1",
            "ACCESS_LOG": "off",
            **settings,
        }

        self.log = self.home / "log"
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen(
                [binary], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environment
            )
        deadline = time.monotonic() + START_SECONDS
        while "msg=listening " not in self.text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise Failed(f"the cache {name} did not start: {self.text()[-800:]}")
            time.sleep(0.05)

    def text(self):
        return self.log.read_text(errors="replace")

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def break_disk(self):
        """Replaces the directory of the blobs by a file. Permissions would not stop a cache of root."""
        blobs = self.home / "store" / "blobs"
        blobs.rename(blobs.with_name("away"))
        blobs.write_bytes(b"")

    def age(self, seconds):
        """Makes the content of the stopped cache look unused for `seconds`."""
        then = time.time() - seconds
        for folder, _, files in os.walk(self.home / "store"):
            for file in files:
                os.utime(os.path.join(folder, file), (then, then))

    def pause(self, seconds):
        """Stops the process for some time, as a blocked core would stop."""
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    def get(self, path):
        """Returns the status of a response, or None without a whole response."""
        if self.tls:
            context = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=REQUEST_SECONDS, context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_SECONDS)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            return response.status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def pull(self, registry, tag):
        """Pulls an image. Returns the statuses of the manifest and of the blobs."""
        base = f"/v2/{registry.name}/{upstream.REPOSITORY}"
        blobs = registry.image(tag)
        return [self.get(f"{base}/manifests/{tag}"), *(self.get(f"{base}/blobs/{digest}") for digest in blobs)]

    def command(self, *arguments):
        """Runs a command of the cache for the running process."""
        return subprocess.run(
            [self.binary, *arguments], env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
