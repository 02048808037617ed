#!/usr/bin/env python3
"""A token service for docker-registry: `token_service.py KEY CERTIFICATE USER PASSWORD REPOSITORY-PREFIX`.

Signs with OpenSSL and listens on a free loopback port. Issues tokens to USER for pulls of repositories with the prefix.
Without credentials, issues a token without access, like public registries. Rejects a wrong password with 401.
"""

import base64
import http.server
import json
import subprocess
import sys
import time
import urllib.parse

key, certificate, user, password, prefix = sys.argv[1:]
expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
with open(certificate, encoding="ascii") as pem:
    chain = ["".join(line.strip() for line in pem if not line.startswith("-----"))]


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(service, account, access):
    now = int(time.time())
    head = {"typ": "JWT", "alg": "RS256", "x5c": chain}
    claims = {"iss": "clients", "sub": account, "aud": service, "exp": now + 300, "nbf": now - 5, "iat": now,
              "jti": str(time.monotonic_ns()), "access": access}
    text = encoded(json.dumps(head).encode()) + "." + encoded(json.dumps(claims).encode())
    signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", key], input=text.encode(), check=True,
                               capture_output=True).stdout
    return text + "." + encoded(signature)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        given = self.headers.get("Authorization")
        if given not in (None, expected):
            self.answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong password"}]})
            return
        access = []
        for scope in " ".join(query.get("scope", [])).split():
            kind, name, actions = scope.split(":")
            if given and name.startswith(prefix) and "pull" in actions.split(","):
                access.append({"type": kind, "name": name, "actions": ["pull"]})
        signed = token(query.get("service", [""])[0], user if given else "", access)
        self.answer(200, {"token": signed, "expires_in": 300})

    # Clients with an identity token try POST first and then use GET.
    def do_POST(self):
        self.answer(404, {})

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler).serve_forever()
