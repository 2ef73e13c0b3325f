"""Listeners, chains and connection managers as hooks get them: with the defaults that policies change."""

from __future__ import annotations

from typing import Any

from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from moongate.api.base import Ref
from moongate.features.base import ChainEdit, Effective, Feature, ManagerEdit
from moongate.policies.client_traffic_policy import ClientTrafficPolicy

OWNER = Ref.of(ClientTrafficPolicy, "default", "clients")


def plain() -> ChainEdit:
    """The chain of a plaintext listener without a policy."""
    return ChainEdit(FilterChain(), None, "http-8080")


def https() -> ChainEdit:
    """The chain of a TLS listener without a policy."""
    tls = DownstreamTlsContext(
        common_tls_context=CommonTlsContext(alpn_protocols=["h2", "http/1.1"]),
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
    )
    return ChainEdit(FilterChain(), tls, "https-8443")


def listener_with(feature: Feature[Any], value: Any) -> Listener:
    """An Envoy listener with the settings of a feature; ``None`` for the value keeps the defaults."""
    message = Listener(
        per_connection_buffer_limit_bytes=UInt32Value(value=32768),
        max_connections_to_accept_per_socket_event=UInt32Value(value=1),
    )
    if value is not None:
        assert feature.listener is not None
        feature.listener(message, Effective(value, OWNER))
    return message


def chain_with(feature: Feature[Any], value: Any, edit: ChainEdit | None = None) -> ChainEdit:
    """A filter chain with the settings of a feature; a plaintext one unless it is given."""
    edit = edit or plain()
    assert feature.filter_chain is not None
    feature.filter_chain(edit, Effective(value, OWNER))
    return edit


def manager_with(feature: Feature[Any], value: Any) -> HttpConnectionManager:
    """A connection manager with the settings of a feature; ``None`` for the value keeps the defaults."""
    hcm = HttpConnectionManager(use_remote_address=BoolValue(value=True), merge_slashes=True)
    if value is not None:
        assert feature.connection_manager is not None
        feature.connection_manager(ManagerEdit(hcm, Router()), Effective(value, OWNER))
    return hcm
