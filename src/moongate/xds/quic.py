"""The form of a filter chain for QUIC, by which HTTP/3 comes.

A listener of HTTPS that has HTTP/3 has a second listener of Envoy at the same port of UDP. Its chains are
those of the first: the same hostnames, certificates, settings, filters and routes. So whatever holds for a
request holds for it by either way.

Source: the reference's shape; Envoy, ``QuicDownstreamTransport``.
"""

from __future__ import annotations

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.quic.v3.quic_transport_pb2 import QuicDownstreamTransport
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext
from msgspec import structs

from moongate.xds.filter_chains import ChainEntry, joined
from moongate.xds.wire import encode, packed

_SOCKET = "envoy.transport_sockets.quic"


def quic_chain(entry: ChainEntry) -> ChainEntry | None:
    """A chain of HTTPS for QUIC; ``None`` if it is closed, or asks for certificates, which QUIC cannot."""
    chain = FilterChain.FromString(entry.settings.chain)
    tls = DownstreamTlsContext()
    if not entry.settings.manager or not chain.transport_socket.typed_config.Unpack(tls):
        return None
    common = tls.common_tls_context
    if tls.HasField("require_client_certificate") or common.WhichOneof("validation_context_type") is not None:
        return None
    common.alpn_protocols[:] = ["h3"]
    transport = QuicDownstreamTransport(downstream_tls_context=tls)
    chain.transport_socket.CopyFrom(TransportSocket(name=_SOCKET, typed_config=packed(transport)))
    manager = HttpConnectionManager.FromString(entry.settings.manager)
    manager.codec_type = HttpConnectionManager.HTTP3
    manager.http3_protocol_options.SetInParent()
    settings = structs.replace(entry.settings, chain=encode(chain), manager=encode(manager), inspector=None)
    return joined(settings, entry.filters)
