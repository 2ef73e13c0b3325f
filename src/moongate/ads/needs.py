"""What a resource needs: a cluster its endpoints, a listener its routes and its addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf.message import DecodeError

from moongate.names import SCOPES

if TYPE_CHECKING:
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
    names: set[str] = set()
    try:
        listener = Listener.FromString(resource.body)
        for chain in (*listener.filter_chains, listener.default_filter_chain):
            for network_filter in chain.filters:
                manager = HttpConnectionManager()
                if network_filter.typed_config.Unpack(manager) and manager.rds.config_source.HasField("ads"):
                    names.add(manager.rds.route_config_name)
    except DecodeError:
        pass
    return frozenset(names)


def needs_scopes(resource: XdsResource) -> bool:
    """Whether a listener subscribes to the parts of a scoped table."""
    return SCOPES.encode() in resource.body


def addresses(resource: XdsResource) -> frozenset[tuple[str, int]]:
    """The addresses and ports that a listener is opened on."""
    try:
        listener = Listener.FromString(resource.body)
    except DecodeError:
        return frozenset()
    sockets = (
        address.socket_address
        for address in (listener.address, *(more.address for more in listener.additional_addresses))
    )
    return frozenset((socket.address, socket.port_value) for socket in sockets if socket.port_value)
