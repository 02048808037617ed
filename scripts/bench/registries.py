"""Registries to compare with: Debian's docker-registry, and others if their binaries are given.

The environment names the binaries: BENCH_DISTRIBUTION (distribution v3), BENCH_ZOT and BENCH_ANGOS.
"""

import http.client
import json
import os
import shutil

import objects
from server import Failed, Missing, free_port


def docker_registry(stage, root=None, cpus=None, log=False, upstream=None, name="docker-registry", binary="docker-registry"):
    """Starts Debian's docker-registry on the same objects, or as a pull-through cache of `upstream`."""
    if not shutil.which(binary):
        raise Missing(f"{binary} is not installed")
    port, folder = free_port(), stage.folder(name)
    proxy = f"proxy: {{remoteurl: 'http://{upstream.address}'}}" if upstream else ""
    (folder / "config.yml").write_text(
        f"""
version: 0.1
log: {{level: error, accesslog: {{disabled: {"false" if log else "true"}}}}}
storage: {{filesystem: {{rootdirectory: '{root or stage.directory / "registry"}'}}, delete: {{enabled: true}}}}
http: {{addr: '127.0.0.1:{port}', secret: bench}}
{proxy}
"""
    )
    return stage.start(name, [binary, "serve", str(folder / "config.yml")], port, folder, cpus)


def warm(stage, items, cpus):
    """Starts every available registry with the objects of the benchmark."""
    found = []
    if shutil.which("docker-registry"):
        found.append(docker_registry(stage, cpus=cpus))
    if binary := os.environ.get("BENCH_DISTRIBUTION"):
        # The third version has the configuration and the layout of the second.
        found.append(docker_registry(stage, cpus=cpus, name="distribution", binary=binary))
    for name, variable, start in (("zot", "BENCH_ZOT", _zot), ("Angos", "BENCH_ANGOS", _angos)):
        if binary := os.environ.get(variable):
            server = start(stage, name, binary, cpus)
            _push(server, items)
            found.append(server)
    return found


def _zot(stage, name, binary, cpus):
    port, folder = free_port(), stage.folder(name)
    settings = {
        "storage": {"rootDirectory": str(folder / "data"), "gc": False},
        "http": {"address": "127.0.0.1", "port": str(port)},
        "log": {"level": "error"},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return stage.start(name, [binary, "serve", str(folder / "config.json")], port, folder, cpus)


def _angos(stage, name, binary, cpus):
    port, folder = free_port(), stage.folder(name)
    repository = objects.REPOSITORY.split("/")[0]
    (folder / "config.toml").write_text(
        f"""
[server]
bind_address = "127.0.0.1"
port = {port}
[blob_store.fs]
root_dir = "{folder}/data"
[global.access_policy]
default = "allow"
[repository."{repository}"]
"""
    )
    return stage.start(name, [binary, "-c", str(folder / "config.toml"), "server"], port, folder, cpus)


def _push(server, items):
    """Pushes the objects, because the layout of these stores is not documented. The manifest refers to the blobs."""
    blobs = [item for item in items.values() if item.kind == "blobs" and item.name in objects.BLOBS]
    for item in blobs:
        opened = _request(server, "POST", f"/v2/{objects.REPOSITORY}/blobs/uploads/")
        place = opened.split(server.address, 1)[-1]
        with open(item.file, "rb") as body:
            _request(server, "PUT", f"{place}{'&' if '?' in place else '?'}digest={item.digest}", body, item.size)
    manifest = items["manifest"]
    with open(manifest.file, "rb") as body:
        _request(server, "PUT", manifest.path(), body, manifest.size, objects.MANIFEST_TYPE)


def _request(server, method, path, body=None, size=0, kind="application/octet-stream"):
    """Returns the field `Location` of the response."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request(method, path, body, {"Content-Length": str(size), "Content-Type": kind})
    response = connection.getresponse()
    said = response.read(600)
    connection.close()
    if response.status not in (201, 202):
        raise Failed(f"{server.name}: {method} {path}: {response.status} {said}, log {server.log}")
    return response.getheader("Location", "")
