"""Tell backends the address of the client, at the beginning of each connection.

Set by:      BackendTrafficPolicy ``spec.proxyProtocol``
Precedence:  the most specific policy wins
Envoy:       ``envoy.transport_sockets.upstream_proxy_protocol``, around each transport socket of the cluster
Cases:       proxy_protocol.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.core.v3.proxy_protocol_pb2 import ProxyProtocolConfig
from envoy.extensions.transport_sockets.proxy_protocol.v3.upstream_proxy_protocol_pb2 import (
    ProxyProtocolUpstreamTransport,
)

from moongate.api.cluster_settings import ProxyProtocol
from moongate.features.base import ClusterEdit, Effective, Feature
from moongate.xds.wire import packed

_VERSIONS = {"V1": ProxyProtocolConfig.V1, "V2": ProxyProtocolConfig.V2}


def cluster(edit: ClusterEdit, protocol: Effective[ProxyProtocol]) -> None:
    config = ProxyProtocolConfig(version=_VERSIONS[protocol.value.version])

    def wrapped(socket: TransportSocket) -> TransportSocket:
        settings = ProxyProtocolUpstreamTransport(config=config, transport_socket=socket)
        return TransportSocket(
            name="envoy.transport_sockets.upstream_proxy_protocol", typed_config=packed(settings)
        )

    edit.wrap_socket = wrapped


FEATURE = Feature(
    kind="BackendTrafficPolicy",
    field="proxy_protocol",
    model=ProxyProtocol,
    transports=("TCP",),
    cluster=cluster,
)
