"""xDS resources as messages again, for whoever wants to read them: ``translate``, dumps, tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SCOPE, SECRET

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from moongate.xds.wire import XdsResource

TYPES: dict[str, type[Message]] = {
    CLUSTER: Cluster,
    ENDPOINT: ClusterLoadAssignment,
    LISTENER: Listener,
    ROUTE: RouteConfiguration,
    SCOPE: ScopedRouteConfiguration,
    SECRET: Secret,
}


def message(resource: XdsResource) -> Message:
    """The message that a resource encodes."""
    return TYPES[resource.type_url].FromString(resource.body)
