"""The requests that an upstream received, from its access log."""

import objects


def requests(upstream, item):
    """Returns the number of requests of any method for the object, from the log of nginx."""
    return (upstream.log.parent / "requests.log").read_text().count(item.digest)


def registry_requests(upstream):
    """Returns the number of content requests, from the log of docker-registry.

    Other requests, such as `/v2/`, do not count against a rate limit.
    """
    lines = upstream.log.read_text(errors="replace").splitlines()
    return sum(f"/v2/{objects.REPOSITORY}/" in line and "HTTP/1" in line for line in lines)
