#!/usr/bin/env python3
"""A registry with one image, for scripts/s3.sh: `upstream.py DIRECTORY`.

Writes the image into DIRECTORY: one file per digest, and the list `digests` with the manifest last. Then serves the
image on a loopback port, and writes the number to `port`. Writes one line per content request to `requests`.
"""

import hashlib
import json
import os
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
# A config, a small layer, a layer uploaded in one piece, and a layer uploaded in parts.
SIZES = (900, 20_000, 700_000, 70 << 20)

directory = sys.argv[1]


def keep(content):
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    with open(os.path.join(directory, digest), "wb") as out:
        out.write(content)
    return {"digest": digest, "size": len(content)}


def image():
    parts = [keep(os.urandom(size)) for size in SIZES]
    config = dict(parts[0], mediaType="application/vnd.oci.image.config.v1+json")
    layers = [dict(part, mediaType=LAYER) for part in parts[1:]]
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
    return [part["digest"] for part in [*parts, keep(json.dumps(document).encode())]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, with_body):
        if self.path == "/v2/":
            return self.reply(200, b"{}", {}, with_body)
        found = re.fullmatch(r"/v2/team/app/(blobs|manifests)/(.+)", self.path)
        name = found and (digests[-1] if found[2] == "v1" else found[2])
        if name not in digests:
            return self.reply(404, b"{}", {}, with_body)
        with open(os.path.join(directory, "requests"), "a") as log:
            log.write(f"{self.command} {self.path} {self.headers.get('range', '')}\n")
        with open(os.path.join(directory, name), "rb") as file:
            body = file.read()
        fields = {"Docker-Content-Digest": name, "Accept-Ranges": "bytes"}
        if found[1] == "manifests":
            fields["Content-Type"] = MANIFEST
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if not part:
            return self.reply(200, body, fields, with_body)
        start, end = int(part[1]), min(int(part[2] or len(body)), len(body) - 1)
        fields["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
        return self.reply(206, body[start : end + 1], fields, with_body)

    def reply(self, status, body, fields, with_body):
        self.send_response(status)
        for name, value in {"Content-Type": "application/octet-stream", **fields}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


digests = image()
with open(os.path.join(directory, "digests"), "w") as out:
    out.write("\n".join(digests) + "\n")
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
# The port file is written last, so its existence signals that all files exist.
with open(os.path.join(directory, "port.new"), "w") as out:
    out.write(str(server.server_port))
os.rename(os.path.join(directory, "port.new"), os.path.join(directory, "port"))
server.serve_forever()
