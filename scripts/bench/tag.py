"""The cost of a tag: `HEAD` by tag against `HEAD` by digest, both stored."""

import measure
import objects
from machine import CLIENT_CPU, SERVER_CPU
from measure import Ratios, median
from report import Row

CONNECTIONS = 16


def tag_head(setup):
    """With a fresh tag, and with an unreachable registry."""
    for name, ttl, at_least in [
        ("tag-head, a fresh tag", "1d", 0.95),
        ("tag-head, a tag of an unreachable registry", "0s", None),
    ]:
        root = setup.stage.directory / f"tag-store-{ttl}"
        path = objects.point_tag(root, setup.objects["manifest"])
        server = setup.stage.ours(root, {SERVER_CPU}, settings={"TAG_TTL": ttl})
        yield _row(setup, name, server, path, at_least)


def _row(setup, name, server, path, at_least):
    manifest = setup.objects["manifest"]
    runs = {"tag": [], "digest": []}
    for _ in range(setup.rounds):
        for what, place in (("tag", path), ("digest", None)):
            sample = measure.load(server, manifest, CONNECTIONS, setup.seconds, CLIENT_CPU, method="HEAD", path=place)
            runs[what].append(sample)
    ratio = Ratios(*([sample.requests_per_second for sample in runs[what]] for what in ("tag", "digest")))
    by_tag, by_digest = (median([s.requests_per_second for s in runs[what]]) for what in ("tag", "digest"))
    p95, p98 = (min(sample.latency_ms[part] for sample in runs["tag"]) for part in ("p95", "p98"))
    return Row(
        case=name,
        ours=f"{by_tag:,.0f}/s by tag",
        other=f"{by_digest:,.0f}/s by digest",
        ratio=ratio.text(),
        goal=f">= {at_least}" if at_least else "",
        met=ratio.median >= at_least if at_least else None,
        note=f"by tag p95 {p95:.2f} ms, p98 {p98:.2f} ms",
    )


CASES = {"tag-head": tag_head}
