"""Starts the compared servers, and ends them by process ID."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import objects
from machine import TICKS

START_SECONDS = 15
STOP_SECONDS = 10
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class Failed(Exception):
    """A server failed. The message names the server and the path of its log."""


class Missing(Exception):
    """A required program is not installed."""


class Server:
    """A running server with its child processes."""

    def __init__(self, name, process, port, log):
        self.name, self.process, self.port, self.log = name, process, port, log
        # The registry name in front of the repository. Only for this cache, because the others have
        # at most one upstream.
        self.registry = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def path(self, item):
        return item.path(self.registry)

    def pids(self):
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            try:
                todo += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            except FileNotFoundError:
                pass
        return found

    def cpu_seconds(self):
        """Returns the CPU time of all threads, including ended threads and the kernel's io_uring workers."""
        total = 0
        for pid in self.pids():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            except FileNotFoundError:
                continue
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def rss_bytes(self):
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
        return total

    def affinities(self):
        """Returns the distinct CPU sets of the server's threads."""
        return sorted({tuple(sorted(os.sched_getaffinity(task))) for task in self._tasks()})

    def pin(self, cpus):
        """Sets the CPUs of all threads of the server. Later threads inherit the setting."""
        for task in self._tasks():
            try:
                os.sched_setaffinity(task, cpus)
            except ProcessLookupError:
                # The task has ended meanwhile. All connections come from a single address.
                pass

    def _tasks(self):
        return [int(task.name) for pid in self.pids() for task in Path(f"/proc/{pid}/task").iterdir()]

    def stop(self):
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Engine(Server):
    """A running S3 engine, a child of a shell."""

    def __init__(self, name, process, port, log, settings):
        super().__init__(name, process, port, log)
        self.settings = settings

    def object(self, key):
        return f"/{self.settings['S3_BUCKET']}/{key}"

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Stage:
    """Starts servers, and stops every server at the end of the benchmark, also after a failure."""

    def __init__(self, directory):
        self.directory = directory
        self.ours_binary = os.environ["BENCH_OURS"]
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

    def ours(self, root, cpus=None, cores=1, upstream=None, settings=None):
        """Starts the cache on `root`, with `upstream` as the registry `bench.test` and additional `settings`."""
        if self.ours_binary == "nginx":
            return self._stand_in(cpus, cores, upstream)
        port, folder = _free_port(), self._folder("ours")
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
            config.write_text(
                f'registries:\n  - name: "{objects.UPSTREAM_REGISTRY}"\n    insecure: true\n'
                f'    url: "http://{upstream.address}"\n'
            )
            environment["CONFIG_FILE"] = str(config)
        command = [str(Path(self.ours_binary).resolve())]
        server = self._start("ours", command, port, folder, cpus, environment, until="msg=listening ")
        server.registry = objects.UPSTREAM_REGISTRY if upstream else objects.WARM_REGISTRY
        return server

    def nginx(self, cpus=None, workers=1, log=False, http="", locations="", name="nginx", listen=""):
        """Starts nginx with its fastest settings for files.

        With `log`, nginx writes one line per request to `requests.log`. `listen` are additional parameters of the listener.
        """
        if not shutil.which("nginx"):
            raise Missing("nginx is not installed")
        port, folder = _free_port(), self._folder(name)
        # With several workers, each has a separate listener, like the cores of this cache.
        # Connections spread equally.
        reuse = " reuseport" if workers > 1 else ""
        user = "user root;" if os.getuid() == 0 else ""
        access = "access_log off"
        if log:
            access = f'log_format short "$request_method $uri"; access_log {folder}/requests.log short'
        (folder / "nginx.conf").write_text(
            f"""
{user} daemon off; worker_processes {workers}; worker_rlimit_nofile 65536;
pid {folder}/pid; error_log {folder}/error.log warn;
events {{ worker_connections 20480; }}
http {{
  {access};
  default_type application/octet-stream;
  sendfile on; tcp_nopush on; tcp_nodelay on;
  keepalive_requests 1000000000; keepalive_timeout 1h;
  open_file_cache max=1000 inactive=1h; open_file_cache_valid 1h;
  client_body_temp_path {folder}/tmp-body; proxy_temp_path {folder}/tmp-proxy; fastcgi_temp_path {folder}/tmp-fastcgi;
  uwsgi_temp_path {folder}/tmp-uwsgi; scgi_temp_path {folder}/tmp-scgi;
  {http}
  server {{
    listen 127.0.0.1:{port} backlog=4096{reuse}{listen};
    root {self.directory}/nginx;
    {locations}
  }}
}}
"""
        )
        command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
        return self._start(name, command, port, folder, cpus)

    def docker_registry(self, root=None, cpus=None, log=False, upstream=None, name="docker-registry"):
        """Starts Debian's docker-registry on the same objects, or as a pull-through cache of `upstream`."""
        if not shutil.which("docker-registry"):
            raise Missing("docker-registry is not installed")
        port, folder = _free_port(), self._folder(name)
        proxy = f"proxy: {{remoteurl: 'http://{upstream.address}'}}" if upstream else ""
        (folder / "config.yml").write_text(
            f"""
version: 0.1
log: {{level: error, accesslog: {{disabled: {"false" if log else "true"}}}}}
storage: {{filesystem: {{rootdirectory: '{root or self.directory / "registry"}'}}, delete: {{enabled: true}}}}
http: {{addr: '127.0.0.1:{port}', secret: bench}}
{proxy}
"""
        )
        command = ["docker-registry", "serve", str(folder / "config.yml")]
        return self._start(name, command, port, folder, cpus)

    def engine(self):
        """Starts an S3 engine with scripts/s3.sh: Garage if installed, otherwise moto."""
        script = Path(__file__).parent.parent / "s3.sh"
        folder = self._folder("engine")
        # The shell exits and stops the engine when its standard input closes.
        words = f"""
source {script}
trap 'stop_engines; rm -rf "$s3_scratch"' EXIT
if garage_command >/dev/null; then start_garage >&2; echo engine=garage
elif moto_command >/dev/null; then start_moto >&2; echo engine=moto; fi
env | grep -E '^(AWS|S3)_'
echo ready
cat >/dev/null
"""
        environment = dict(os.environ, TMPDIR=str(folder))
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        settings = {}
        for line in process.stdout:
            if line.strip() == "ready":
                break
            name, _, value = line.strip().partition("=")
            settings[name] = value
        else:
            raise Failed(f"the S3 engine did not start, log {folder / 'log'}")
        if "engine" not in settings:
            process.stdin.close()
            process.wait()
            raise Missing("neither garage nor moto is installed (GARAGE, MOTO_SERVER; scripts/s3.sh)")
        name = settings.pop("engine")
        port = int(settings["AWS_ENDPOINT_URL"].rsplit(":", 1)[1])
        engine = Engine(name, process, port, folder / "log", settings)
        self.running.append(engine)
        return engine

    def _stand_in(self, cpus, cores, upstream):
        """Starts nginx in place of the cache, to test the benchmark itself."""
        if not upstream:
            server = self.nginx(cpus, cores, name="stand-in")
            server.registry = objects.WARM_REGISTRY
            return server
        cache = self._folder("stand-in-cache")
        self.leftovers.append(cache)
        http = f"proxy_cache_path {cache} keys_zone=z:1m max_size=9g use_temp_path=off;"
        locations = (
            f"location /v2/{objects.UPSTREAM_REGISTRY}/ {{ proxy_pass http://{upstream.address}/v2/;"
            " proxy_cache z; proxy_cache_valid 1h; proxy_max_temp_file_size 4096m; }"
        )
        server = self.nginx(cpus, cores, http=http, locations=locations, name="stand-in")
        server.registry = objects.UPSTREAM_REGISTRY
        return server

    def _folder(self, name):
        self.number += 1
        folder = self.directory / "run" / f"{self.number}-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _start(self, name, command, port, folder, cpus, environment=None, until=None):
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
            if (until is None or until in log.read_text(errors="replace")) and _accepts(port):
                return server
            time.sleep(0.01)
        tail = log.read_text(errors="replace")[-600:].strip()
        raise Failed(f"{name} did not start ({' '.join(command)}): {tail}")


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False
