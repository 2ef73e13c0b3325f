"""The manifests of ``moongate run --to``: a Gateway that sends all requests to one upstream."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

from moongate.cli.usage_errors import UsageError


def forwarding(upstream: str, port: int, namespace: str) -> str:
    """Manifests of a Gateway that sends everything to one upstream.

    Raises:
        UsageError: ``upstream`` is not ``HOST:PORT``.
    """
    if "://" in upstream:
        bare = upstream.partition("://")[2].rstrip("/")
        raise UsageError(f"The upstream is {upstream!r}; it must be HOST:PORT alone, such as {bare}.")
    host, _, upstream_port = upstream.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not upstream_port.isdecimal() or not 0 < int(upstream_port) < 65536:
        raise UsageError(f"The upstream is {upstream!r}; it must be HOST:PORT, such as localhost:3000.")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        # The schema of Backend does not accept shortened IPv6 addresses such as "::1".
        endpoint = {"ip": {"address": ip_address(host).exploded, "port": int(upstream_port)}}
    except ValueError:
        endpoint = {"fqdn": {"hostname": host, "port": int(upstream_port)}}
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
