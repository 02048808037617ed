"""A first pull of an image, against docker-registry as a pull-through cache."""

import shutil
import subprocess
import time

import machine
import measure
import objects
import registries
import upstream_log
from measure import Ratios, median
from report import Row
from server import Failed
from setup import Skip


def registry_cold(setup):
    """One image from a docker-registry, through a second docker-registry as a cache and through this cache."""
    if not shutil.which("docker-registry"):
        raise Skip("docker-registry is not installed")
    for item in setup.objects.values():
        if item.name != "4g":
            machine.warm(item.file)
    upstream = registries.docker_registry(setup.stage, log=True, name="upstream-registry")
    mine, theirs = [], []
    for _ in range(setup.rounds):
        for kind, runs in (("ours", mine), ("docker-registry", theirs)):
            root = setup.stage.directory / "run" / f"cold-{kind}-{setup.stage.number}"
            root.mkdir(parents=True)
            try:
                if kind == "ours":
                    cache = setup.stage.ours(root, cores=len(machine.CPUS), upstream=upstream)
                else:
                    cache = registries.docker_registry(setup.stage, root, upstream=upstream, name="docker-registry-cache")
                before = upstream_log.registry_requests(upstream), cache.cpu_seconds()
                seconds = _pull_image(setup, cache)
                # The server writes the access log after the response.
                time.sleep(0.2)
                runs.append((seconds, upstream_log.registry_requests(upstream) - before[0], cache.cpu_seconds() - before[1]))
                setup.stage.stop(cache)
            finally:
                shutil.rmtree(root, ignore_errors=True)
    ratios = Ratios([1 / run[0] for run in mine], [1 / run[0] for run in theirs])
    costs = Ratios([run[2] for run in mine], [run[2] for run in theirs])
    yield Row(
        case="registry-cold, image of 5 blobs, 1.1 GB",
        ours=f"{median([run[0] for run in mine]):.2f} s",
        other=f"docker-registry {median([run[0] for run in theirs]):.2f} s",
        ratio=ratios.text(),
        cpu=f"{median([run[2] for run in mine]):.2f} s / {median([run[2] for run in theirs]):.2f} s",
        cpu_ratio=costs.text(),
        goal="> 1",
        met=ratios.median > 1.0,
        note=f"upstream requests: ours {[run[1] for run in mine]}, docker-registry {[run[1] for run in theirs]}; "
        "CPU until the last byte",
    )


def _pull_image(setup, cache):
    """Pulls the manifest by tag, then all blobs concurrently, and checks every digest, as runtimes do. Returns seconds."""
    manifest = setup.objects["manifest"]
    start = time.monotonic()
    by_tag = cache.path(manifest).rsplit("/", 1)[0] + "/" + objects.TAG
    measure.once(cache, manifest, True, path=by_tag)
    pulls = []
    for name in objects.BLOBS:
        item = setup.objects[name]
        options = {"once": True, "digest": item.digest, "length": item.size}
        words = measure.command(cache, item, options)
        pulls.append((name, subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)))
    answers = [(name, pull.communicate()[0].strip(), pull.returncode) for name, pull in pulls]
    seconds = time.monotonic() - start
    for name, answer, code in answers:
        if code != 0:
            raise Failed(f"{cache.name}: pull of the {name} blob: {answer}, log {cache.log}")
    return seconds


CASES = {"registry-cold": registry_cold}
