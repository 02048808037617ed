"""A registry with generated images and faults, on a loopback port of its own."""

import hashlib
import json
import random
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
REPOSITORY = "team/app"
# The budget that the registry reports: pulls in a window, and seconds until the next window.
BUDGET, WINDOW_LEFT = 200, 600
# Pulls that a manifest costs while the budget is `falling`.
COST = 10


class Upstream:
    """`fault` is None, `falling` (the budget falls with each manifest), `limited` (status 429), `down`, or `corrupt` (bodies
    of blobs have another digest)."""

    def __init__(self, name, blob_size):
        self.name, self.blob_size = name, blob_size
        self.fault = None
        self.left = BUDGET * 3 // 4
        self.content, self.tags = {}, {}
        self.lock = threading.Lock()
        upstream = self

        class Bound(Handler):
            registry = upstream

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def image(self, tag):
        """Generates an image. Returns the digests of its config and its layer."""
        with self.lock:
            blobs = [
                self._keep(random.Random(f"{self.name} {tag} {part}").randbytes(size))
                for part, size in (("config", 500), ("layer", self.blob_size))
            ]
            config = dict(blobs[0], mediaType="application/vnd.oci.image.config.v1+json")
            layers = [dict(blobs[1], mediaType=LAYER)]
            document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
            self.tags[tag] = self._keep(json.dumps(document).encode())["digest"]
            return [blob["digest"] for blob in blobs]

    def _keep(self, content):
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.content[digest] = content
        return {"digest": digest, "size": len(content)}

    def spend(self):
        with self.lock:
            if self.fault == "falling":
                self.left = max(0, self.left - COST)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        registry = self.registry
        if registry.fault == "down":
            # The client receives no response.
            self.close_connection = True
            return
        if self.path == "/v2/":
            return self.reply(200, b"{}", {})
        found = re.fullmatch(rf"/v2/{REPOSITORY}/(blobs|manifests)/(.+)", self.path)
        if found and registry.fault == "limited":
            return self.reply(429, b"{}", {"Retry-After": "2"})
        digest = found and registry.tags.get(found[2], found[2])
        body = registry.content.get(digest)
        if body is None:
            return self.reply(404, b"{}", {})
        fields = {"Docker-Content-Digest": digest}
        if found[1] == "manifests":
            registry.spend()
            fields["Content-Type"] = MANIFEST
        elif registry.fault == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        self.reply(200, body, fields)

    def reply(self, status, body, fields):
        self.send_response(status)
        budget = {
            "RateLimit-Limit": str(BUDGET),
            "RateLimit-Remaining": str(self.registry.left),
            "RateLimit-Reset": str(WINDOW_LEFT),
        }
        for name, value in {"Content-Type": "application/octet-stream", **budget, **fields}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass
