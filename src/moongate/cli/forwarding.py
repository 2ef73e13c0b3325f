"""The manifests of ``moongate run --to``: a Gateway that sends all requests to one upstream."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from moongate.cli.usage_errors import UsageError


def forwarding(upstream: str, port: int, namespace: str, bind: str = "") -> str:
    """Manifests of a Gateway that sends everything to one upstream.

    Raises:
        UsageError: ``upstream`` is not ``HOST:PORT``, or it is the Gateway itself.
    """
    from moongate.attach.backends import is_loopback

    endpoint = _endpoint(upstream)
    at = endpoint.get("ip")
    if at is not None and at["port"] == port and (is_loopback(at["address"]) or at["address"] == bind):
        raise UsageError(
            f"The upstream is {upstream!r}, and moongate itself would listen there: requests would come back "
            "to it again and again. Name the port of the upstream, or another one with --port."
        )
    gateway_api, envoy = "gateway.networking.k8s.io/v1", "gateway.envoyproxy.io/v1alpha1"
    metadata = {"name": "to", "namespace": namespace}
    documents: list[dict[str, Any]] = [
        {
            "apiVersion": gateway_api,
            "kind": "Gateway",
            "metadata": metadata,
            "spec": {
                "gatewayClassName": "moongate",
                "listeners": [{"name": "http", "port": port, "protocol": "HTTP"}],
            },
        },
        {
            "apiVersion": envoy,
            "kind": "Backend",
            "metadata": metadata,
            "spec": {"endpoints": [endpoint]},
        },
        {
            "apiVersion": gateway_api,
            "kind": "HTTPRoute",
            "metadata": metadata,
            "spec": {
                "parentRefs": [{"name": "to"}],
                "rules": [
                    {"backendRefs": [{"group": "gateway.envoyproxy.io", "kind": "Backend", "name": "to"}]}
                ],
            },
        },
    ]
    return "\n---\n".join(map(json.dumps, documents))


def _endpoint(upstream: str) -> dict[str, Any]:
    """The endpoint of a Backend for ``HOST:PORT``."""
    from moongate.api.admission import checked
    from moongate.api.backend import BackendEndpoint

    host, port = _parsed(upstream)
    if host == "localhost":
        host = "127.0.0.1"
    try:
        # The schema of Backend does not accept shortened IPv6 addresses such as "::1".
        endpoint = {"ip": {"address": ip_address(host).exploded, "port": port}}
    except ValueError:
        endpoint = {"fqdn": {"hostname": host, "port": port}}
    _, faults = checked(BackendEndpoint, endpoint)
    if faults:
        raise UsageError(f"The upstream is {upstream!r}; {host!r} is neither a DNS name nor an IP address.")
    return endpoint


def upstream_in(word: str) -> str | None:
    """The ``HOST:PORT`` that a word names, which may be a URL, or a port alone; ``None`` if it names none."""
    if not word.isdecimal() and ":" not in word:
        return None
    host, port = _host_and_port(word)
    if port is None or not port or not (host or word.strip(":").isdecimal()):
        return None
    return f"{_bracketed(host or 'localhost')}:{port}"


def _parsed(upstream: str) -> tuple[str, int]:
    """The host and the port of ``HOST:PORT``.

    Raises:
        UsageError: it has another form; the message names the nearest right one.
    """
    host, port = _host_and_port(upstream)
    if upstream.lower().startswith("https://"):
        raise UsageError(
            f"The upstream is {upstream!r}; it must be HOST:PORT of a server that speaks plain HTTP, such as "
            "localhost:3000. TLS to upstreams is not built yet."
        )
    if not host or not port or upstream.lower() != f"{_bracketed(host)}:{port}":
        usual = 80 if host not in ("", "localhost") else 3000
        number = upstream.rpartition(":")[2]
        wrong = number.isdecimal() and not 0 < int(number) < 65536
        raise UsageError(
            f"The upstream is {upstream!r}; it must be HOST:PORT alone, "
            f"{'with a port from 1 to 65535, ' * wrong}such as "
            f"{_bracketed(host or 'localhost')}:{port or usual}."
        )
    return host, port


def _host_and_port(upstream: str) -> tuple[str, int | None]:
    """Host and port of a URL, or of what stands in one; "" and ``None`` for what is not there."""
    if "://" not in upstream:
        host, _, number = upstream.rpartition(":")
        if number.isdecimal() and ":" in host and not host.startswith("["):
            upstream = f"[{host}]:{number}"  # IPv6 without its brackets
        # A number alone is meant as a port.
        upstream = f"//{':' * upstream.isdecimal()}{upstream}"
    try:
        url = urlsplit(upstream)
        return url.hostname or "", url.port
    except ValueError:  # the port is no number, or a bracket is missing
        host, _, number = upstream.removeprefix("//").rpartition(":")
        return (host, None) if number.isdecimal() and not set(host) & set("[]:/@") else ("", None)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
