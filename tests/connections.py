"""Routes of connections, and listeners for them, as manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.filters.udp.udp_proxy.v3.route_pb2 import Route
from envoy.extensions.filters.udp.udp_proxy.v3.udp_proxy_pb2 import UdpProxyConfig

from moongate.api.base import GATEWAY_GROUP, ListenerId, Ref
from tests.core import EG, dump, load
from tests.routes import SHOP

if TYPE_CHECKING:
    from envoy.config.listener.v3.listener_components_pb2 import FilterChain
    from envoy.config.listener.v3.listener_pb2 import Listener

OLD, NEW = "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"


def connection_route(
    kind: str,
    *backends: str,
    name: str = "shop",
    hostnames: tuple[str, ...] = (),
    parent: str = "{name: eg}",
    created: str = "",
    rules: list[dict[str, Any]] | None = None,
    version: str = "v1alpha2",
) -> str:
    """A route of connections to the Gateway that ``tests.core.gateway`` makes; backendRefs are YAML."""
    spec: dict[str, Any] = {"parentRefs": [load(parent)]}
    if hostnames:
        spec["hostnames"] = list(hostnames)
    spec["rules"] = rules or [{"backendRefs": [load(each) for each in backends or (SHOP,)]}]
    metadata: dict[str, Any] = {"name": name, "namespace": "default", "generation": 3}
    if created:
        metadata["creationTimestamp"] = created
    return dump(
        {"apiVersion": f"{GATEWAY_GROUP}/{version}", "kind": kind, "metadata": metadata, "spec": spec}
    )


def connection_ref(kind: str, name: str = "shop") -> Ref:
    return Ref(kind, "default", name, GATEWAY_GROUP)


def listener_id(name: str) -> ListenerId:
    """A listener of the Gateway that ``tests.core.gateway`` makes."""
    return ListenerId(EG, EG, name)


def tls(name: str, hostname: str = "", *secrets: str, port: int = 443) -> str:
    """A listener of protocol TLS, for ``gateway``; it passes TLS on if it has no Secret."""
    refs = ", ".join(f"{{name: {each}}}" for each in secrets)
    how = f"{{certificateRefs: [{refs}]}}" if secrets else "{mode: Passthrough}"
    host = f"hostname: '{hostname}', " if hostname else ""
    return f"{{name: {name}, port: {port}, protocol: TLS, {host}tls: {how}}}"


def raw(name: str, protocol: str, port: int = 9000) -> str:
    """A listener of protocol TCP or UDP, for ``gateway``."""
    return f"{{name: {name}, port: {port}, protocol: {protocol}}}"


def proxied(chain: FilterChain) -> str:
    """The cluster that the connections of a chain go to."""
    proxy = TcpProxy()
    assert chain.filters[-1].typed_config.Unpack(proxy)
    return proxy.cluster


def chains(listener: Listener) -> dict[tuple[str, ...], str]:
    """Hostnames of each chain of a listener → its cluster; "" for a chain that ends connections."""
    return {
        tuple(chain.filter_chain_match.server_names): proxied(chain)
        if chain.filters[-1].name.endswith("tcp_proxy")
        else ""
        for chain in listener.filter_chains
    }


def udp_cluster(listener: Listener) -> str:
    """The cluster that the datagrams of a listener go to."""
    config, route = UdpProxyConfig(), Route()
    assert listener.listener_filters[0].typed_config.Unpack(config)
    assert config.matcher.on_no_match.action.typed_config.Unpack(route)
    return route.cluster
