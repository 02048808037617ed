"""The objects of all servers, written once and hard-linked into the layout of each server.

All servers share the page cache of each inode, so no server has more cached pages than another.
"""

import hashlib
import json
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
REPOSITORY = "bench/image"
TAG = "v1"
# The registry name of warm objects. No such upstream exists, so a miss cannot pass for a hit.
WARM_REGISTRY = "registry.example"
# The registry name that the configuration maps to a loopback upstream.
UPSTREAM_REGISTRY = "bench.test"
BLOBS = {"2k": 2 * KIB, "64k": 64 * KIB, "1m": MIB, "16m": 16 * MIB, "1g": GIB}
HUGE = {"4g": 4 * GIB}
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
MANIFEST_SIZE = 2 * KIB


@dataclass(frozen=True)
class Object:
    name: str
    kind: str  # "blobs" or "manifests"
    hex: str
    size: int
    file: Path

    @property
    def digest(self):
        return f"sha256:{self.hex}"

    def path(self, registry=None):
        prefix = f"/v2/{registry}" if registry else "/v2"
        return f"{prefix}/{REPOSITORY}/{self.kind}/{self.digest}"


def prepare(directory, with_huge):
    """Writes missing objects, builds the layouts, and returns the objects by name."""
    sizes = dict(BLOBS, **(HUGE if with_huge else {}))
    blobs = {name: blob(directory, name, size) for name, size in sizes.items()}
    manifest = _manifest(directory, blobs)
    objects = dict(blobs, manifest=manifest)
    for item in objects.values():
        into_store(directory / "store", item)
        into_store(directory / "store-before", item)
        _into_nginx(directory / "nginx", item)
        _into_registry(directory / "registry", item)
    _link_file(directory / "registry", f"_manifests/tags/{TAG}/current/link", manifest.digest)
    _link_file(directory / "registry", f"_manifests/tags/{TAG}/index/sha256/{manifest.hex}/link", manifest.digest)
    return objects


def blob(directory, name, size):
    """Writes the blob if it is missing."""
    record = directory / "objects" / f"{name}.json"
    if record.exists():
        known = json.loads(record.read_text())
        file = directory / "objects" / known["hex"]
        if file.exists() and file.stat().st_size == size:
            return Object(name, "blobs", known["hex"], size, file)
    print(f"writing the {name} object", flush=True)
    record.parent.mkdir(parents=True, exist_ok=True)
    block = random.Random(name).randbytes(min(size, MIB))
    hasher = hashlib.sha256()
    unnamed = record.with_suffix(".new")
    with open(unnamed, "wb") as out:
        for number in range(max(1, size // MIB)):
            # A counter in every block prevents a file system or host from sharing blocks.
            piece = number.to_bytes(8, "little") + block[8:]
            hasher.update(piece)
            out.write(piece)
        out.flush()
        # Dirty pages cannot be evicted, and their write-back would distort a measurement.
        os.fsync(out.fileno())
    file = record.parent / hasher.hexdigest()
    unnamed.rename(file)
    record.write_text(json.dumps({"hex": hasher.hexdigest()}))
    return Object(name, "blobs", hasher.hexdigest(), size, file)


def _manifest(directory, blobs):
    def descriptor(item, media_type):
        return {"mediaType": media_type, "digest": item.digest, "size": item.size}

    layer = "application/vnd.oci.image.layer.v1.tar"
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(blobs["2k"], "application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor(blobs[name], layer) for name in BLOBS if name != "2k"],
        "annotations": {"padding": ""},
    }
    document["annotations"]["padding"] = "x" * (MANIFEST_SIZE - len(json.dumps(document)))
    data = json.dumps(document).encode()
    assert len(data) == MANIFEST_SIZE
    digest = hashlib.sha256(data).hexdigest()
    file = directory / "objects" / digest
    file.write_bytes(data)
    return Object("manifest", "manifests", digest, len(data), file)


def many(directory, name, sizes):
    """Writes one random blob per size, and links all into the upstream's tree. Returns the objects."""
    folder = directory / "many" / name.replace(" ", "-").replace(",", "")
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, size in enumerate(sizes):
        data = random.Random(f"{name} {number}").randbytes(size)
        item = Object(f"{name} {number}", "blobs", hashlib.sha256(data).hexdigest(), size, folder / str(number))
        if not item.file.exists() or item.file.stat().st_size != size:
            with open(item.file, "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
        _into_nginx(directory / "nginx", item)
        found.append(item)
    return found


def point_tag(root, manifest):
    """Writes a tag pointer with the current time into the store `root`. Returns the tag's path."""
    into_store(root, manifest)
    place = root / "manifests" / WARM_REGISTRY / REPOSITORY / "_tags" / TAG
    place.parent.mkdir(parents=True, exist_ok=True)
    pointer = {
        "digest": manifest.digest,
        "mediaType": MANIFEST_TYPE,
        "size": manifest.size,
        "checkedAtMs": int(time.time() * 1000),
    }
    place.write_text(json.dumps(pointer))
    return f"/v2/{WARM_REGISTRY}/{REPOSITORY}/manifests/{TAG}"


def link_into(root, item):
    """Adds `item` to the store `root`."""
    into_store(root, item)


def _link(source, place):
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    os.link(source, place)


def _link_file(root, path, digest):
    place = root / "docker/registry/v2/repositories" / REPOSITORY / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(digest)


def into_store(root, item):
    """Writes the format of the cache: data file and sidecar."""
    folder = root / "blobs" if item.kind == "blobs" else root / "manifests" / WARM_REGISTRY / REPOSITORY
    _link(item.file, folder / f"sha256-{item.hex}")
    (folder / f"sha256-{item.hex}.meta.json").write_text(sidecar(item.kind, item.digest, item.size))


def sidecar(kind, digest, size):
    """Returns the text of the file beside the data file of an entry."""
    fields = {
        "Content-Type": [MANIFEST_TYPE if kind == "manifests" else "application/octet-stream"],
        "Content-Length": [str(size)],
        "Docker-Content-Digest": [digest],
        "X-Cache-Verified": ["sha256"],
        "X-Cache-Public": ["true"],
        "X-Cache-Created": [str(int(time.time()))],
    }
    return json.dumps(fields)


def _into_nginx(root, item):
    """Links a tree that nginx serves with `root` alone. nginx uses the second name in place of the cache."""
    _link(item.file, root / item.path().lstrip("/"))
    _link(item.file, root / item.path(WARM_REGISTRY).lstrip("/"))
    if item.kind == "manifests":
        _link(item.file, root / "v2" / REPOSITORY / "manifests" / TAG)


def _into_registry(root, item):
    """Links the file system layout of docker-registry."""
    _link(item.file, root / "docker/registry/v2/blobs/sha256" / item.hex[:2] / item.hex / "data")
    folder = "_layers" if item.kind == "blobs" else "_manifests/revisions"
    _link_file(root, f"{folder}/sha256/{item.hex}/link", item.digest)
