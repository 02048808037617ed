"""The cache under load: a generated store, a process, and its figures in /proc."""

import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
REPOSITORY = "load/image"
REGISTRY = "registry.example"
START_SECONDS = 20
STOP_SECONDS = 40
MIB = 1 << 20


class Failed(Exception):
    """A check failed, or a server did not start. The message is the reason."""


def write_blob(folder, name, size):
    """Writes a file of `size` bytes. Returns the hexadecimal digest and the path."""
    block = random.Random(name).randbytes(min(size, MIB))
    data = b"".join(number.to_bytes(8, "little") + block[8:] for number in range(max(1, size // MIB)))
    digest = hashlib.sha256(data).hexdigest()
    file = folder / digest
    file.write_bytes(data)
    return digest, file


def store_blob(root, digest, file):
    """Links a file into a store, with a sidecar in the format of the cache."""
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    os.link(file, root / "blobs" / f"sha256-{digest}")
    sidecar = {
        "Content-Type": ["application/octet-stream"],
        "Content-Length": [str(file.stat().st_size)],
        "Docker-Content-Digest": [f"sha256:{digest}"],
        "X-Cache-Verified": ["sha256"],
        "X-Cache-Public": ["true"],
        "X-Cache-Created": [str(int(time.time()))],
    }
    (root / "blobs" / f"sha256-{digest}.meta.json").write_text(json.dumps(sidecar))


def blob_path(digest, registry=REGISTRY):
    return f"/v2/{registry}/{REPOSITORY}/blobs/sha256:{digest}"


class Server:
    """A running cache."""

    def __init__(self, binary, folder, root, cores=2, settings=None, config=None):
        folder.mkdir(parents=True)
        self.log = folder / "log"
        (folder / "config.yaml").write_text(config or "registries: []\n")
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(folder),
            "IO_DRIVER": os.environ.get("IO_DRIVER", "auto"),
            "LISTEN_ADDR": "127.0.0.1:0",
            "FS_ROOT": str(root),
            "STORAGE_BACKEND": "fs",
            "CORES": str(cores),
            "ACCESS_LOG": "off",
            "MAX_CONNECTIONS_PER_CLIENT": "0",
            "CONFIG_FILE": str(folder / "config.yaml"),
            **(settings or {}),
        }
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen(
                [str(binary)], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            found = re.search(r"msg=listening .*address=http://127\.0\.0\.1:(\d+)", self.text())
            if found:
                self.address = ("127.0.0.1", int(found.group(1)))
                return
            time.sleep(0.01)
        self.stop()
        raise Failed(f"the server did not start: {self.text()[-600:]}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def text(self):
        return self.log.read_text(errors="replace")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def _proc(self, name):
        return Path(f"/proc/{self.process.pid}/{name}")

    def rss(self):
        for line in self._proc("status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise Failed("/proc has no VmRSS of the server; the server may have exited")

    def files(self):
        return len(os.listdir(self._proc("fd")))

    def threads(self):
        """Returns the names of all threads, including kernel workers."""
        names = []
        for task in self._proc("task").iterdir():
            try:
                names.append((task / "comm").read_text().strip())
            except FileNotFoundError:
                pass
        return names

    def cpu(self):
        """Returns the CPU time of the process in seconds."""
        return _ticks(self._proc("stat")) / TICKS

    def cpu_of_cores(self):
        """Returns the CPU time of each core's thread in seconds."""
        found = {}
        for task in self._proc("task").iterdir():
            name = (task / "comm").read_text().strip()
            if name.startswith("core-"):
                found[name] = _ticks(task / "stat") / TICKS
        return found

    def idle_share(self, seconds):
        """Returns the CPU utilization of the idle server during `seconds`."""
        before = self.cpu()
        time.sleep(seconds)
        return (self.cpu() - before) / seconds


def _ticks(stat):
    fields = stat.read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def upstream(files):
    """Starts a process that serves `files` (digest to path) as a registry. Returns the process ID and the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    port = listener.getsockname()[1]
    pid = os.fork()
    if pid:
        listener.close()
        return pid, port
    import threading

    def serve(stream):
        with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = stream.recv(65536)
                if not piece:
                    return
                head += piece
            target = head.split(b" ", 2)[1].decode()
            file = next((file for digest, file in files.items() if digest in target), None)
            if file is None:
                stream.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            size = file.stat().st_size
            stream.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n".encode())
            with open(file, "rb") as body:
                stream.sendfile(body)

    try:
        while True:
            stream, _ = listener.accept()
            threading.Thread(target=serve, args=(stream,), daemon=True).start()
    finally:
        os._exit(0)
