"""Starts the compared servers, and stops every server at the end, also after a failure."""

import ctypes
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import nginx
import objects
from server import Failed, Server, accepts, free_port

START_SECONDS = 15
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class Stage:
    """The running servers, and the directory of their files."""

    def __init__(self, directory):
        self.directory = directory
        self.ours_binary = os.environ["BENCH_OURS"]
        # An earlier binary of this cache, measured in the same rounds.
        self.before_binary = os.environ.get("BENCH_BEFORE")
        self.running = []
        self.leftovers = []
        self.number = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop_all()

    def stop_all(self):
        while self.running:
            self.running.pop().stop()
        while self.leftovers:
            shutil.rmtree(self.leftovers.pop(), ignore_errors=True)

    def stop(self, server):
        self.running.remove(server)
        server.stop()

    def caches(self, root, cpus=None, **options):
        """Starts the measured binary, and the binary of BENCH_BEFORE if set, on links to the same files."""
        # A store accepts one process.
        roots = {"ours": root, "before": root.with_name(root.name + "-before")}
        return [self.cache(kind, roots[kind], cpus, **options) for kind in self.kinds()]

    def kinds(self):
        return ["ours", "before"] if self.before_binary else ["ours"]

    def ours(self, root, cpus=None, **options):
        return self.cache("ours", root, cpus, **options)

    def cache(self, kind, root, cpus=None, cores=1, upstream=None, settings=None, registries=(objects.UPSTREAM_REGISTRY,)):
        """Starts the cache on `root`, with `upstream` as each of `registries` and additional `settings`."""
        binary = self.ours_binary if kind == "ours" else self.before_binary
        if binary == "nginx":
            return self._stand_in(cpus, cores, upstream)
        port, folder = free_port(), self.folder(kind)
        environment = {
            "LISTEN_ADDR": f"127.0.0.1:{port}",
            "FS_ROOT": str(root),
            "STORAGE_BACKEND": "fs",
            "CORES": str(cores),
            "ACCESS_LOG": "off",
            # All connections come from one address.
            "MAX_CONNECTIONS_PER_CLIENT": "0",
            **(settings or {}),
        }
        if upstream:
            config = folder / "config.yaml"
            entries = (f'  - name: "{name}"\n    insecure: true\n    url: "http://{upstream.address}"\n' for name in registries)
            config.write_text("registries:\n" + "".join(entries))
            environment["CONFIG_FILE"] = str(config)
        command = [str(Path(binary).resolve())]
        server = self.start(kind, command, port, folder, cpus, environment, until="msg=listening ")
        server.registry = objects.UPSTREAM_REGISTRY if upstream else objects.WARM_REGISTRY
        return server

    def _stand_in(self, cpus, cores, upstream):
        """Starts nginx in place of the cache, to test the benchmark itself."""
        if not upstream:
            server = nginx.start(self, cpus, cores, name="ours")
            server.registry = objects.WARM_REGISTRY
            return server
        root = self.folder("stand-in-cache")
        self.leftovers.append(root)
        return nginx.cache(self, upstream, root, cpus, cores, name="ours")

    def folder(self, name):
        """Creates the folder of a server's configuration and log."""
        self.number += 1
        folder = self.directory / "run" / f"{self.number}-{name.replace(' ', '-')}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def start(self, name, command, port, folder, cpus, environment=None, until=None):
        def prepare():
            # If the benchmark is killed, its servers receive SIGTERM.
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if cpus is not None:
                os.sched_setaffinity(0, cpus)

        log = folder / "log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BENCH_")}
        with open(log, "wb") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=dict(inherited, **(environment or {})),
                preexec_fn=prepare,
            )
        server = Server(name, process, port, log)
        self.running.append(server)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            if (until is None or until in log.read_text(errors="replace")) and accepts(port):
                return server
            time.sleep(0.01)
        tail = log.read_text(errors="replace")[-600:].strip()
        raise Failed(f"{name} did not start ({' '.join(command)}): {tail}")
