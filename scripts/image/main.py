"""Writes a container image with the given binaries as an OCI image layout. Equal inputs give equal bytes.

usage: main.py OUTPUT VERSION ARCHITECTURE=BINARY...

OUTPUT is a directory that does not exist. `skopeo`, `podman pull oci:OUTPUT` and `oras` read the layout. With several
architectures, the index has one manifest for each. Dockerfile describes the same image.
"""

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
from pathlib import Path

USER = 65532
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def labels(version):
    return {
        "org.opencontainers.image.title": "oci-pull-through",
        "org.opencontainers.image.description": "A pull-only, pull-through cache for OCI registries",
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.version": version,
    }


def add(archive, name, mode, content=None, owner=0):
    """Adds a file, or without `content` a directory."""
    entry = tarfile.TarInfo(name)
    entry.mode, entry.uid, entry.gid = mode, owner, owner
    if content is None:
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
    else:
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))


def layer(binary):
    """The only layer: the program, the authorities of registries, and the directories that the program writes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for directory in ("data", "tmp"):
            add(archive, directory, 0o1777 if directory == "tmp" else 0o700, owner=USER)
        for directory in ("etc", "etc/ssl", "etc/ssl/certs", "usr", "usr/local", "usr/local/bin"):
            add(archive, directory, 0o755)
        add(archive, "etc/passwd", 0o644, f"cache:x:{USER}:{USER}:cache:/data:/sbin/nologin\n".encode())
        add(archive, "etc/group", 0o644, f"cache:x:{USER}:\n".encode())
        add(archive, "etc/ssl/certs/ca-certificates.crt", 0o644, AUTHORITIES.read_bytes())
        add(archive, "usr/local/bin/oci-pull-through", 0o755, Path(binary).read_bytes())
    return buffer.getvalue()


class Layout:
    """An OCI image layout (https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md)."""

    def __init__(self, directory):
        self.directory = Path(directory)
        (self.directory / "blobs/sha256").mkdir(parents=True)

    def write(self, media_type, content):
        """Writes a blob, and returns its descriptor."""
        if not isinstance(content, bytes):
            content = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256(content).hexdigest()
        (self.directory / "blobs/sha256" / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def finish(self, descriptor):
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}
        (self.directory / "index.json").write_text(json.dumps(index, sort_keys=True))
        (self.directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def image(layout, version, architecture, binary):
    """Writes the image of one architecture, and returns its descriptor."""
    content = layer(binary)
    packed = gzip.compress(content, 9, mtime=0)
    platform = {"architecture": architecture, "os": "linux"}
    config = {
        **platform,
        "config": {
            "User": f"{USER}:{USER}",
            "ExposedPorts": {"8080/tcp": {}},
            "Env": ["PATH=/usr/local/bin", "FS_ROOT=/data"],
            "Entrypoint": ["/usr/local/bin/oci-pull-through"],
            "Volumes": {"/data": {}},
            "WorkingDir": "/data",
            "Labels": labels(version),
            # Docker reads this field, and the specification permits further fields.
            "Healthcheck": {"Test": ["CMD", "oci-pull-through", "healthcheck"], "Interval": 10_000_000_000, "Timeout": 5_000_000_000},
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(content).hexdigest()]},
        "history": [{"created_by": "scripts/image.sh"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": layout.write("application/vnd.oci.image.config.v1+json", config),
        "layers": [layout.write("application/vnd.oci.image.layer.v1.tar+gzip", packed)],
        "annotations": labels(version),
    }
    return {**layout.write(MANIFEST, manifest), "platform": platform}


def main():
    output, version, *binaries = sys.argv[1:]
    if os.path.exists(output) or not binaries:
        sys.exit(__doc__)
    layout = Layout(output)
    manifests = [image(layout, version, *binary.split("=", 1)) for binary in binaries]
    if len(manifests) > 1:
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests, "annotations": labels(version)}
        descriptor = layout.write(INDEX, index)
    else:
        descriptor = manifests[0]
    layout.finish({**descriptor, "annotations": {"org.opencontainers.image.ref.name": version}})
    size = sum(file.stat().st_size for file in (layout.directory / "blobs/sha256").iterdir())
    print(f"{output}: {len(manifests)} architectures, {size} bytes, {descriptor['digest']}")


main()
