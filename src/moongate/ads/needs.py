"""What a resource needs: a cluster its endpoints, a listener its routes, scopes and addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.address_pb2 import SocketAddress
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.filters.udp.udp_proxy.v3.route_pb2 import Route as UdpRoute
from envoy.extensions.filters.udp.udp_proxy.v3.udp_proxy_pb2 import UdpProxyConfig
from google.protobuf.message import DecodeError

from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SCOPE, has_string

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from moongate.xds.wire import XdsResource


def needs_endpoints(resource: XdsResource) -> str | None:
    """The name with which a cluster subscribes to its endpoints; None if it does not."""
    try:
        cluster = Cluster.FromString(resource.body)
    except DecodeError:
        return None  # Envoy will refuse it, and its message names the resource
    if cluster.type != Cluster.EDS or not cluster.eds_cluster_config.eds_config.HasField("ads"):
        return None
    return cluster.eds_cluster_config.service_name or cluster.name


def needs_routes(resource: XdsResource) -> frozenset[str]:
    """The names of the route configurations that a listener subscribes to."""
    return frozenset(
        manager.rds.route_config_name
        for manager in _managers(resource)
        if manager.rds.config_source.HasField("ads")
    )


def needs_scopes(resource: XdsResource) -> frozenset[str]:
    """The names of the collections of scopes that a listener subscribes to."""
    all_scoped = (manager.scoped_routes.scoped_rds for manager in _managers(resource))
    return frozenset(
        scoped.srds_resources_locator
        for scoped in all_scoped
        if scoped.scoped_rds_config_source.HasField("ads") and scoped.srds_resources_locator
    )


def sends_to(resource: XdsResource, cluster: str) -> bool:
    """Whether a route table, a part of one, or a proxy of a listener sends requests to a cluster.

    The other clusters that a listener names, such as that of its access log, or of a filter that asks who may
    pass, get no requests of clients.
    """
    if not has_string(resource.body, cluster):
        return False
    return resource.type_url != LISTENER or cluster in _proxied(resource)


def _proxied(resource: XdsResource) -> Iterator[str]:
    """The clusters that the proxies of a listener pass connections and datagrams on to."""
    try:
        listener = Listener.FromString(resource.body)
        for chain in (*listener.filter_chains, listener.default_filter_chain):
            for network_filter in chain.filters:
                proxy = TcpProxy()
                if network_filter.typed_config.Unpack(proxy):
                    yield proxy.cluster
                    yield from (each.name for each in proxy.weighted_clusters.clusters)
        for listener_filter in listener.listener_filters:
            datagrams, to = UdpProxyConfig(), UdpRoute()
            if listener_filter.typed_config.Unpack(datagrams):
                datagrams.matcher.on_no_match.action.typed_config.Unpack(to)
                yield to.cluster
    except DecodeError:
        pass


def _managers(resource: XdsResource) -> Iterator[HttpConnectionManager]:
    """The HTTP connection managers of a listener; those before a part that cannot be read."""
    try:
        listener = Listener.FromString(resource.body)
        for chain in (*listener.filter_chains, listener.default_filter_chain):
            for network_filter in chain.filters:
                manager = HttpConnectionManager()
                if network_filter.typed_config.Unpack(manager):
                    yield manager
    except DecodeError:
        pass


class Needed(NamedTuple):
    """Which resources need those of a type.

    Args:
        by: their type.
        names: the names that one of them needs.
    """

    by: str
    names: Callable[[XdsResource], str | Collection[str] | None]


NEEDED_BY: Final[Mapping[str, Needed]] = {
    ENDPOINT: Needed(CLUSTER, needs_endpoints),
    ROUTE: Needed(LISTENER, needs_routes),
    SCOPE: Needed(LISTENER, needs_scopes),
}
"""The types that Envoy requests only if it has resources that need them."""


class Socket(NamedTuple):
    """What a listener is opened on.

    Args:
        host: the address.
        port: its number.
        is_udp: whether it is a port of UDP. The same number is another port of TCP.
    """

    host: str
    port: int
    is_udp: bool


def addresses(resource: XdsResource) -> frozenset[Socket]:
    """The addresses and ports that a listener is opened on."""
    try:
        listener = Listener.FromString(resource.body)
    except DecodeError:
        return frozenset()
    sockets = (
        address.socket_address
        for address in (listener.address, *(more.address for more in listener.additional_addresses))
    )
    return frozenset(
        Socket(socket.address, socket.port_value, socket.protocol == SocketAddress.UDP)
        for socket in sockets
        if socket.port_value
    )
