"""A listener as the translation hands it to ``listener`` hooks: with the defaults that policies change."""

from __future__ import annotations

from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from moongate.api.base import Ref
from moongate.features.base import ListenerEdit

OWNER = Ref("ClientTrafficPolicy", "default", "clients")
HCM = "envoy.filters.network.http_connection_manager"


def plain() -> ListenerEdit:
    """A plaintext HTTP listener without a policy."""
    return ListenerEdit(
        listener=Listener(
            per_connection_buffer_limit_bytes=UInt32Value(value=32768),
            max_connections_to_accept_per_socket_event=UInt32Value(value=1),
        ),
        chain=FilterChain(filters=[Filter(name=HCM)]),
        hcm=HttpConnectionManager(use_remote_address=BoolValue(value=True), merge_slashes=True),
        tls=None,
        stat_prefix="http-8080",
    )


def https() -> ListenerEdit:
    """A TLS listener without a policy."""
    given = plain()
    given.tls = DownstreamTlsContext(
        common_tls_context=CommonTlsContext(alpn_protocols=["h2", "http/1.1"]),
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
    )
    return given
