"""Fetches all objects of a list twice, concurrently, with httpx and h2, and compares digests.

Arguments: URL CA LIST. CA is empty without TLS.
"""

import asyncio
import hashlib
import ssl
import sys

import httpx


async def get(client, digest, path):
    response = await client.get(path)
    assert response.status_code == 200, f"{path}: status {response.status_code}; expected 200"
    assert response.http_version == "HTTP/2", f"{path}: {response.http_version}; expected HTTP/2"
    found = "sha256:" + hashlib.sha256(response.content).hexdigest()
    assert found == digest, f"{path}: digest {found}; expected {digest}"


async def main(url, ca, file):
    with open(file, encoding="ascii") as lines:
        objects = [line.split() for line in lines]
    verify = ssl.create_default_context(cafile=ca) if ca else True
    async with httpx.AsyncClient(
        base_url=url, http1=bool(ca), http2=True, verify=verify, timeout=60, trust_env=False
    ) as client:
        for _ in range(2):
            await asyncio.gather(*(get(client, digest, path) for digest, path in objects))
            await asyncio.gather(*(get(client, *objects[-1]) for _ in range(90)))


asyncio.run(main(*sys.argv[1:]))
