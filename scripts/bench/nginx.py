"""nginx with its fastest settings for files, and as a cache."""

import os
import shutil

import objects
from server import Missing, free_port


def start(stage, cpus=None, workers=1, log=False, http="", locations="", name="nginx", listen=""):
    """Starts nginx on the files of the benchmark.

    With `log`, nginx writes one line per request to `requests.log`. `listen` are additional parameters of the listener.
    """
    if not shutil.which("nginx"):
        raise Missing("nginx is not installed")
    port, folder = free_port(), stage.folder(name)
    # With several workers, each has a separate listener, like the cores of this cache. Connections
    # spread equally.
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
  open_file_cache max=10000 inactive=1h; open_file_cache_valid 1h;
  client_body_temp_path {folder}/tmp-body; proxy_temp_path {folder}/tmp-proxy; fastcgi_temp_path {folder}/tmp-fastcgi;
  uwsgi_temp_path {folder}/tmp-uwsgi; scgi_temp_path {folder}/tmp-scgi;
  {http}
  server {{
    listen 127.0.0.1:{port} backlog=4096{reuse}{listen};
    root {stage.directory}/nginx;
    {locations}
  }}
}}
"""
    )
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    return stage.start(name, command, port, folder, cpus)


def cache(stage, upstream, root, cpus=None, workers=1, name="nginx proxy_cache"):
    """Starts nginx as a cache of `upstream` that stores in `root`. nginx neither hashes nor syncs a stored file."""
    http = (
        f"proxy_cache_path {root} keys_zone=z:10m max_size=9g use_temp_path=off;"
        f" upstream origin {{ server {upstream.address}; keepalive 64; }}"
    )
    locations = (
        f"location /v2/{objects.UPSTREAM_REGISTRY}/ {{ proxy_pass http://origin/v2/; proxy_cache z; proxy_cache_valid 1h;"
        ' proxy_http_version 1.1; proxy_set_header Connection "";'
        " proxy_cache_lock on; proxy_max_temp_file_size 4096m; }"
    )
    server = start(stage, cpus, workers, http=http, locations=locations, name=name)
    server.registry = objects.UPSTREAM_REGISTRY
    return server
