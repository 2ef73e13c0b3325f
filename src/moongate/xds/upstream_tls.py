"""How a cluster speaks TLS to its backends.

Theory of operation
===================
Each backend that has TLS has a transport socket of its own in the cluster, and its endpoints name it
(``transport_socket_match``). So backends with and without TLS share a cluster, each with its own CAs. Where
all have it, an endpoint that names none meets the cluster's own socket: that speaks TLS too, so nothing is
sent in the clear. Clusters of connections have no such socket, as in the reference. Certificates and CAs come
as secrets (``secrets``).

While Envoy warms a changed cluster, the old one still gets all endpoints that come under the name by which
it has asked for them. It would send to the new ones in the clear, or check what the old ones had to show. So
that name tells how TLS is spoken (``form``), and a cluster never has the endpoints of another form.

Source: the reference's shape; Envoy, ``UpstreamTlsContext``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import SubjectAltNameMatcher
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, UpstreamTlsContext
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

from moongate import names
from moongate.features.shared import tls_parameters
from moongate.xds.filter_chains import TLS_SOCKET, secret_from
from moongate.xds.wire import encode, fingerprint, packed

if TYPE_CHECKING:
    from envoy.config.endpoint.v3.endpoint_components_pb2 import LbEndpoint

    from moongate.attach.backend_tls import UpstreamTLS, Validation
    from moongate.attach.backends import Backend

_MATCH: Final = "envoy.transport_socket_match"
_SAN_TYPES: Final = {"Hostname": SubjectAltNameMatcher.DNS, "URI": SubjectAltNameMatcher.URI}


def secure(message: Cluster, http: HttpProtocolOptions, backends: list[Backend]) -> None:
    """Add TLS to a cluster, to those of its backends that have it.

    Args:
        message: the cluster; changed in place.
        http: its HTTP options; changed in place.
        backends: all of its backends, in order; those with a problem get no request.
    """
    everywhere = negotiates(backends)
    of_request = everywhere and not any(
        each.tls.validation.sni or each.tls.validation.sni_of_endpoint
        for each in backends
        if each.tls is not None
    )
    for n, each in enumerate(backends):
        if each.tls is not None:
            match = message.transport_socket_matches.add(name=names.tls_match(message.name, n))
            match.match.fields["name"].string_value = match.name
            match.transport_socket.CopyFrom(_socket(each.tls, of_request=of_request))
    if everywhere:
        # Envoy wants a socket that negotiates protocols, where HTTP options say that they are negotiated.
        dummy = packed(UpstreamTlsContext(common_tls_context=CommonTlsContext()))
        message.transport_socket.CopyFrom(TransportSocket(name="dummy.transport_socket", typed_config=dummy))
    if of_request:
        http.upstream_http_protocol_options.auto_sni = True


def form(cluster: str, backends: list[Backend]) -> str:
    """What tells one way of speaking TLS to the backends of a cluster from all others; "" for no TLS."""
    if all(each.tls is None for each in backends):
        return ""
    message = Cluster(name=cluster)
    secure(message, HttpProtocolOptions(), backends)
    return fingerprint(encode(message))


def secure_requests(message: Cluster, backend: Backend) -> None:
    """Add TLS to a cluster whose hosts are those that requests name, which their certificates must be for."""
    if backend.tls is not None:
        message.transport_socket.CopyFrom(_socket(backend.tls, of_request=False))


def negotiates(backends: list[Backend]) -> bool:
    """Whether all backends of a cluster that may get requests have TLS, so that protocols are negotiated."""
    usable = [each for each in backends if each.problem is None]
    return bool(usable) and all(each.tls is not None and each.protocol != "TCP" for each in usable)


def mark(endpoint: LbEndpoint, cluster: str, index: int) -> None:
    """Let an endpoint name the transport socket of its backend."""
    name = names.tls_match(cluster, index)
    endpoint.metadata.filter_metadata[_MATCH].fields["name"].string_value = name


def _socket(tls: UpstreamTLS, *, of_request: bool) -> TransportSocket:
    checks = tls.validation
    context = UpstreamTlsContext(sni=checks.sni, auto_host_sni=checks.sni_of_endpoint)
    common = context.common_tls_context
    common.tls_params.CopyFrom(tls_parameters(tls.settings))
    if tls.settings.alpn_protocols is not None:
        common.alpn_protocols[:] = tls.settings.alpn_protocols
    if checks.authorities is not None:
        combined = common.combined_validation_context
        combined.validation_context_sds_secret_config.CopyFrom(
            secret_from(checks.authorities.secret, checks.authorities.server)
        )
        combined.default_validation_context.SetInParent()
        for type_, name in _names(checks):
            entry = combined.default_validation_context.match_typed_subject_alt_names.add()
            entry.san_type, entry.matcher.exact = _SAN_TYPES[type_], name
        # Without a name that is known by now, the one that is asked for must be in the certificate.
        context.auto_sni_san_validation = not _names(checks) and (of_request or checks.sni_of_endpoint)
    if tls.certificate is not None:
        shown = secret_from(names.secret(tls.certificate), tls.server)
        common.tls_certificate_sds_secret_configs.append(shown)
    return TransportSocket(name=TLS_SOCKET, typed_config=packed(context))


def _names(checks: Validation) -> tuple[tuple[str, str], ...]:
    """The names of which a certificate must have one."""
    return checks.names or ((("Hostname", checks.sni),) if checks.sni else ())
