"""What Envoy gets of a Gateway's listeners, and policies about them."""

from __future__ import annotations

from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext

from moongate.xds.listeners import listener
from tests.core import EG_FLEET, Core, policy


def sent(core: Core, name: str) -> Listener:
    """A listener as it is sent."""
    resource = listener(core.db, EG_FLEET, name)
    assert resource is not None
    return Listener.FromString(resource.body)


def manager(chain: FilterChain) -> HttpConnectionManager:
    """The connection manager of a chain."""
    hcm = HttpConnectionManager()
    assert chain.filters[-1].typed_config.Unpack(hcm)
    return hcm


def tls_of(chain: FilterChain) -> DownstreamTlsContext:
    """The TLS context of a chain."""
    context = DownstreamTlsContext()
    assert chain.transport_socket.typed_config.Unpack(context)
    return context


def client_traffic_policy(spec: str, section: str = "", name: str = "clients") -> str:
    """A ClientTrafficPolicy for the Gateway of ``tests.core.gateway``, or for one of its listeners."""
    target = f"Gateway/eg/{section}" if section else "Gateway/eg"
    return policy("ClientTrafficPolicy", spec, name=name, target=target)
