"""The form of a filter chain for QUIC, by which HTTP/3 comes.

A listener of HTTPS that has HTTP/3 has a second listener of Envoy at the same port of UDP. Its chains are
those of the first: the same hostnames, certificates, settings, filters and routes. So whatever holds for a
request holds for it by either way.

Envoy may refuse this listener alone. What ``quarantine`` keeps out of the first one is not in the second
either. What it keeps out of the second alone leaves the first as it is. A chain is kept out with all of its
filters, as Envoy has taken each of them over TCP. Its last good form stands in for it, with the filters that
it should have; if Envoy refuses that as well, it is left out, so that its clients go on over TCP.

Source: the reference's shape; Envoy, ``QuicDownstreamTransport``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.quic.v3.quic_transport_pb2 import QuicDownstreamTransport
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext
from google.protobuf.wrappers_pb2 import BoolValue
from msgspec import structs

from moongate.xds.filter_chains import ChainEntry, ChainSettings, in_force, joined
from moongate.xds.wire import encode, packed, version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moongate.xds.fallbacks import Fallback
    from moongate.xds.filters import ChainFilter

_SOCKET = "envoy.transport_sockets.quic"


def quic_chain(entry: ChainEntry, out: Mapping[str, Fallback]) -> ChainEntry | None:
    """A chain of HTTPS for QUIC; ``None`` if QUIC has no form of it that may be in force.

    Args:
        entry: the chain.
        out: what is kept out of the listener for QUIC.
    """
    settings = quic_settings(entry.settings, entry.filters)
    served = in_force(settings, out) if settings is not None else None
    return joined(served, entry.filters) if served is not None and not served.closed else None


def quic_settings(settings: ChainSettings, filters: tuple[ChainFilter, ...]) -> ChainSettings | None:
    """The settings of a chain of HTTPS for QUIC; ``None`` if it is closed, or asks for certificates, which
    QUIC cannot.

    Args:
        settings: those of the chain.
        filters: its HTTP filters.
    """
    chain = FilterChain.FromString(settings.chain)
    tls = DownstreamTlsContext()
    if not settings.manager or not chain.transport_socket.typed_config.Unpack(tls):
        return None
    common = tls.common_tls_context
    if tls.HasField("require_client_certificate") or common.WhichOneof("validation_context_type") is not None:
        return None
    common.alpn_protocols[:] = ["h3"]
    # A request that comes before the handshake is done may be a copy of an earlier one, and the address that
    # it comes from may be invented.
    transport = QuicDownstreamTransport(downstream_tls_context=tls, enable_early_data=BoolValue(value=False))
    chain.transport_socket.CopyFrom(TransportSocket(name=_SOCKET, typed_config=packed(transport)))
    manager = HttpConnectionManager.FromString(settings.manager)
    manager.codec_type = HttpConnectionManager.HTTP3
    manager.http3_protocol_options.SetInParent()
    return structs.replace(
        settings,
        chain=encode(chain),
        manager=encode(manager),
        inspector=None,
        filters=version(b"".join(one.body for one in filters)),
    )
