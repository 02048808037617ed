"""Runs parts of clients.sh on several drivers, JOBS at a time. Started by ../clients.sh.

    parallel.py SCRIPT PART,PART... BINARY

The output of a part is printed when the part ends, and a line of results for each part at the end.
"""

import concurrent.futures
import os
import re
import signal
import subprocess
import sys
import time

# Longest first, so that no long part runs alone at the end.
LONGEST = ("signatures", "public", "private", "tls", "auth", "h2")


def run(script, part, driver, binary, children):
    started = time.monotonic()
    child = subprocess.Popen(
        [script, part, binary],
        env=os.environ | {"DRIVERS": driver, "IO_DRIVER": driver},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    children.append(child)
    output, _ = child.communicate()
    return output, child.returncode, round(time.monotonic() - started)


def main():
    script, parts, binary = sys.argv[1:]
    parts = sorted(parts.split(","), key=lambda part: LONGEST.index(part) if part in LONGEST else -1)
    drivers = os.environ.get("DRIVERS", "auto").split()
    children, results, failed = [], [], False

    def stop(*_):
        # Each part stops its daemons and unmounts its file systems itself.
        for child in children:
            if child.poll() is None:
                child.terminate()
        for child in children:
            child.wait()
        os._exit(130)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("JOBS", "2"))) as pool:
        names = {
            pool.submit(run, script, part, driver, binary, children): f"{part} on {driver}"
            for part in parts
            for driver in drivers
        }
        for future in concurrent.futures.as_completed(names):
            name = names[future]
            output, status, seconds = future.result()
            print(f"-- {name} ({seconds} s)", output, sep="\n", end="", flush=True)
            counts = re.findall(r"^\d+ passed, \d+ failed, \d+ skipped$", output, re.MULTILINE)
            failed |= status != 0 or not counts
            results.append(f"{name}: {counts[-1] if counts else f'exit {status}'} ({seconds} s)")
    print(*sorted(results), sep="\n")
    sys.exit(failed)


main()
