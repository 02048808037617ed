"""Overloads a cache and checks that other clients are not affected. See scripts/overload.sh."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import clients
from clients import Child
from server import MIB, Failed, Server, blob_path, store_blob, upstream, write_blob

# The longest permitted wait of a bystander. In seconds, because a slow machine does not mean a
# broken server.
BYSTANDER_MAX_MS = 2_000.0
# Longer than the idle timeout of threads for blocking work, which is ten seconds.
SETTLE_SECONDS = 20.0
# Number of CPU samples of an idle server. A busy server is busy in every sample. Other load on the
# machine only affects single samples.
IDLE_SAMPLES = 5


class Run:
    """The directory, binary and blobs of all cases."""

    def __init__(self, folder, binary, quick):
        self.folder, self.binary, self.quick = folder, binary, quick
        self.number = 0
        objects = folder / "objects"
        objects.mkdir()
        self.small, self.small_file = write_blob(objects, "small", 2048)
        self.large, self.large_file = write_blob(objects, "large", 64 * MIB)
        self.cold = [write_blob(objects, f"cold-{number}", (32 if quick else 256) * MIB) for number in range(4)]

    def server(self, cores=2, config=None, settings=None):
        """Starts a cache that has stored the small and the large blob."""
        self.number += 1
        root = self.folder / f"store-{self.number}"
        store_blob(root, self.small, self.small_file)
        store_blob(root, self.large, self.large_file)
        server = Server(self.binary, self.folder / f"server-{self.number}", root, cores, settings, config)
        # A first pull of each blob, so that persistent resources exist.
        for digest in (self.small, self.large):
            child = Child(clients.pull, server.address, blob_path(digest))
            if child.next() != 200:
                raise Failed("the cache does not serve a stored blob")
        return server

    def bystander(self, server):
        return Child(clients.bystander, server.address, blob_path(self.small))


def quantile(times, part):
    return times[min(len(times) - 1, int(len(times) * part))]


def expect(holds, what):
    if not holds:
        raise Failed(what)


def check_bystander(alone, beside):
    """Returns the durations of the bystander as text. Fails after a failed or slow request of the bystander."""
    times, refused = beside
    text = f"bystander p99 {quantile(times, 0.99):.1f} ms (alone {quantile(alone[0], 0.99):.1f}), max {times[-1]:.0f}"
    expect(refused == 0, f"{refused} requests of the bystander failed; {text}")
    expect(times[-1] <= BYSTANDER_MAX_MS, f"the bystander waited more than {BYSTANDER_MAX_MS:.0f} ms; {text}")
    return text


def alone(run, server):
    child = run.bystander(server)
    time.sleep(2)
    return child.stop()


def wait_until_at_most(what, measure, most):
    """Waits until `measure` returns at most `most`. Returns the last value."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (found := measure()) > most:
        expect(time.monotonic() < deadline, f"{what}: {found} after {SETTLE_SECONDS:.0f} s, expected at most {most}")
        time.sleep(0.1)
    return found


def check_idle_cpu(server, seconds, most):
    """Returns the CPU utilization of the idle server. Fails if every sample is at least `most`."""
    used = []
    while not used or (min(used) >= most and len(used) < IDLE_SAMPLES):
        used.append(server.idle_share(seconds))
    expect(min(used) < most, f"the idle server uses the CPU: {', '.join(f'{share:.3f}' for share in used)}")
    return min(used)


def idle(run):
    # Memory comes in huge pages, so with few connections the last huge pages weigh as much as the
    # connections.
    count, most = (2_000, 8 + 6) if run.quick else (10_000, 40)
    with run.server() as server:
        before = server.rss()
        holder = Child(clients.idle, server.address, blob_path(run.small), count)
        holder.next(120)
        time.sleep(1)
        grown = (server.rss() - before) / MIB
        used = check_idle_cpu(server, 2 if run.quick else 10, 0.01)
        kept = holder.stop()
    expect(kept == count, f"the server kept only {kept} of {count} connections")
    expect(grown <= most, f"memory grew by {grown:.1f} MiB for {count} idle connections, expected at most {most}")
    return f"{count} idle connections: {grown:.1f} MiB, {used * 100:.2f} % CPU"


def heads_and_readers(run):
    heads, readers = (500, 200) if run.quick else (5_000, 5_000)
    with run.server() as server:
        before = alone(run, server)
        files = server.files()
        bystander = run.bystander(server)
        slow = Child(clients.slow_heads, server.address, heads)
        reading = Child(clients.stalled_readers, server.address, blob_path(run.large), readers)
        slow.next(60)
        reading.next(60)
        lasted = slow.next(60)
        expect(lasted is not None and lasted <= 15, f"connections with slow heads were open for {lasted} s, expected at most 15")
        if not run.quick:
            # The clients stay connected. The server must close after a minute and a few seconds.
            deadline = time.monotonic() + 70
            while server.files() > files + 200 and time.monotonic() < deadline:
                time.sleep(0.5)
            left = server.files() - files
            expect(left <= 200, f"{left} descriptors are open for stalled readers, expected at most 200")
        text = check_bystander(before, bystander.stop())
        reading.stop()
    return f"{heads} slow heads closed after {lasted:.0f} s, {readers} stalled readers: {text}"


def stalled(run):
    count = 500 if run.quick else 5_000
    with run.server() as server:
        before = alone(run, server)
        reading = Child(clients.stalled_readers, server.address, blob_path(run.large), count)
        reading.next(60)
        bystander = run.bystander(server)
        time.sleep(2 if run.quick else 10)
        workers = sum(name.startswith("iou-") for name in server.threads())
        text = check_bystander(before, bystander.stop())
        expect(workers <= 64, f"{workers} io_uring workers for {count} stalled readers")
        # Concurrent opens of the file may have needed many threads briefly. Waiting needs none.
        threads = wait_until_at_most("threads for stalled readers", lambda: len(server.threads()), 32)
        used = check_idle_cpu(server, 2, 0.05)
        reading.stop()
    return f"{count} stalled readers: {threads} threads, {workers} io_uring workers, {used * 100:.1f} % CPU, {text}"


def ends(run):
    count, warm = (10_000, 3_000) if run.quick else (1_000_000, 50_000)
    digest, file = run.cold[0]
    child_pid, port = upstream({digest: file})
    config = f'registries:\n  - {{name: up.test, insecure: true, url: "http://127.0.0.1:{port}"}}\n'
    try:
        with run.server(config=config) as server:
            paths = blob_path(run.small), blob_path(run.large), blob_path(digest, "up.test")

            def some(number, seed):
                share = number // clients.cpus()
                children = [
                    Child(clients.ends, server.address, *paths, share, seed + index) for index in range(clients.cpus())
                ]
                return sum(sum(child.next(3_600)) for child in children)

            some(warm, 1)
            # Threads for blocking work end after ten idle seconds.
            wait_until_at_most("threads", lambda: len(server.threads()), 40)
            time.sleep(1)
            files, rss, threads = server.files(), server.rss(), len(server.threads())
            begun = time.monotonic()
            done = some(count, 100)
            seconds = time.monotonic() - begun
            wait_until_at_most("descriptors", server.files, files + 16)
            grown = (server.rss() - rss) / MIB
            wait_until_at_most("threads", lambda: len(server.threads()), max(threads + 8, 40))
            # Memory retained by the allocator is not a leak. A leak of a hundred bytes per
            # connection would be a hundred MiB.
            expect(grown <= 24, f"memory grew by {grown:.1f} MiB after {done} connections, expected at most 24")
            left = server.files() - files
    finally:
        os.kill(child_pid, 9)
        os.waitpid(child_pid, 0)
    return f"{done} connections in {seconds:.0f} s: {left:+d} descriptors, {grown:+.1f} MiB"


def at_once(run):
    count = 2_000 if run.quick else 10_000
    with run.server(cores=1) as server:
        files = server.files()
        holder = Child(clients.idle, server.address, blob_path(run.small), count)
        holder.next(120)
        bystander = run.bystander(server)
        time.sleep(0.5)
        holder.kill()
        wait_until_at_most("descriptors", server.files, files + 8)
        times, refused = bystander.stop()
        used = check_idle_cpu(server, 2, 0.02)
    expect(refused == 0, f"{refused} requests of the bystander failed")
    return f"{count} connections closed at once: no open descriptor, {used * 100:.2f} % CPU, bystander max {times[-1]:.0f} ms"


def jain(counts):
    """Returns Jain's fairness index: 1 if all counts are equal, 1/n if only one count is positive."""
    return sum(counts) ** 2 / (len(counts) * sum(count * count for count in counts))


def shares(run):
    cores, connections = 4, 16
    with run.server(cores=cores) as server:
        before = server.cpu_of_cores()
        asking = Child(clients.send_requests, server.address, blob_path(run.small), connections)
        time.sleep(3 if run.quick else 10)
        counts = asking.stop()
        used = [after - before[name] for name, after in server.cpu_of_cores().items()]
    fairness = jain(counts)
    load = max(used) / (sum(used) / cores)
    expect(load <= 1.5, f"one core has {load:.2f} times the mean load, expected at most 1.5: {used}")
    expect(fairness >= 0.9, f"the fairness index is {fairness:.2f}, expected at least 0.9: {sorted(counts)}")
    return f"{connections} clients on {cores} cores: busiest core {load:.2f} times the mean load, fairness {fairness:.3f}"


def streams(run):
    connections, at_once = 100, 100
    seconds = 3 if run.quick else 10
    if not shutil.which("h2load"):
        raise Failed("h2load is not installed (Debian package nghttp2-client)")
    with run.server(cores=1) as server:
        asking = Child(clients.send_requests, server.address, blob_path(run.small), connections)
        time.sleep(seconds)
        alone = asking.stop()
        url = f"http://{server.address[0]}:{server.address[1]}{blob_path(run.small)}"
        greedy = subprocess.Popen(
            ["h2load", "--clients=1", f"--max-concurrent-streams={at_once}", f"--duration={seconds + 3}", url],
            stdout=subprocess.PIPE,
            text=True,
        )
        # Waits for the client to connect.
        time.sleep(1)
        asking = Child(clients.send_requests, server.address, blob_path(run.small), connections)
        time.sleep(seconds)
        counts = asking.stop()
        output = greedy.communicate(timeout=60)[0]
    found = re.search(r"(\d+) succeeded, (\d+) failed", output)
    expect(found and int(found[1]) > 0 and int(found[2]) == 0, f"the HTTP/2 client was not served: {output[-400:]}")
    fairness, part = jain(counts), sum(counts) / sum(alone)
    expect(fairness >= 0.9, f"the fairness index is {fairness:.2f}, expected at least 0.9: {sorted(counts)}")
    # Sharing a core and the clients' CPU costs throughput. Starvation would leave almost nothing.
    expect(part >= 0.1, f"{connections} clients have {part:.2f} of their throughput beside a client with {at_once} streams")
    return (
        f"one client with {at_once} streams ({int(found[1])} responses) beside {connections}: fairness {fairness:.3f}, "
        f"{part:.2f} of the throughput alone"
    )


def fills(run):
    child_pid, port = upstream(dict(run.cold))
    config = f'registries:\n  - {{name: up.test, insecure: true, url: "http://127.0.0.1:{port}"}}\n'
    try:
        with run.server(config=config) as server:
            before = alone(run, server)
            bystander = run.bystander(server)
            pulls = [Child(clients.pull, server.address, blob_path(digest, "up.test")) for digest, _ in run.cold]
            statuses = [child.next(120) for child in pulls]
            expect(statuses == [200] * len(pulls), f"fills ended with {statuses}")
            text = check_bystander(before, bystander.stop())
    finally:
        os.kill(child_pid, 9)
        os.waitpid(child_pid, 0)
    return f"{len(run.cold)} fills at once: {text}"


CASES = {
    "idle": idle,
    "heads-and-readers": heads_and_readers,
    "stalled": stalled,
    "ends": ends,
    "at-once": at_once,
    "shares": shares,
    "streams": streams,
    "fills": fills,
}


def main(size, binary, *names):
    if size not in ("quick", "full"):
        sys.exit(f"overload: unknown size {size}; expected quick or full")
    unknown = [name for name in names if name not in CASES]
    if unknown:
        sys.exit(f"overload: unknown case {', '.join(unknown)}; expected one of {', '.join(CASES)}")
    binary = Path(binary).resolve()
    if not binary.exists():
        sys.exit(f"overload: {binary} does not exist; expected the cache; run cargo build --release")
    folder = Path(tempfile.mkdtemp(prefix="overload."))
    begun, failed = time.monotonic(), []
    try:
        run = Run(folder, binary, size == "quick")
        for name in names or CASES:
            started = time.monotonic()
            try:
                print(f"ok    {name}: {CASES[name](run)} ({time.monotonic() - started:.0f} s)", flush=True)
            except (Failed, OSError) as error:
                failed.append(name)
                print(f"FAIL  {name}: {error} ({time.monotonic() - started:.0f} s)", flush=True)
    finally:
        if os.environ.get("KEEP") == "1":
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    took = time.monotonic() - begun
    if failed:
        sys.exit(f"overload: {', '.join(failed)} failed after {took:.0f} s")
    print(f"{len(names or CASES)} cases passed in {took:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
