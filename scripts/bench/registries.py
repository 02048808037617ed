"""Registries to compare with."""

import shutil

from server import Missing, free_port


def docker_registry(stage, root=None, cpus=None, log=False, upstream=None, name="docker-registry"):
    """Starts Debian's docker-registry on the same objects, or as a pull-through cache of `upstream`."""
    if not shutil.which("docker-registry"):
        raise Missing("docker-registry is not installed")
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
    command = ["docker-registry", "serve", str(folder / "config.yml")]
    return stage.start(name, command, port, folder, cpus)
