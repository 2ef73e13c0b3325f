"""Filter chains, as they are joined into listeners; and what stands in for one that an Envoy refused.

Theory of operation
===================
On the wire a repeated field is its entries one after another, so a listener is joined from its own settings
and the bytes of its filter chains, and an HTTP chain from its settings and the bytes of its HTTP filters.
What changed is encoded alone; the others are not touched.

Envoy refuses a listener as a whole. What of it is at fault, a filter, the settings of a chain or the head of
the listener, is found outside (``quarantine``), and kept out of it by itself. ``in_force`` has what becomes
of the settings of a chain, ``filters.http_filters`` what becomes of a filter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.core.v3.config_source_pb2 import ApiConfigSource, ConfigSource
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.direct_response.v3.config_pb2 import Config
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.filters.udp.udp_proxy.v3.udp_proxy_pb2 import UdpProxyConfig
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext, TlsParameters
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext
from google.protobuf.duration_pb2 import Duration
from msgspec import structs

from moongate import names
from moongate.features.shared import over_ads
from moongate.xds.filters import mark
from moongate.xds.scoped_chains import finding
from moongate.xds.walk import visit
from moongate.xds.wire import Encoded, encode, message_field, packed, packed_as, version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.protobuf.message import Message

    from moongate.attach.listener_certificates import ListenerCertificates
    from moongate.attach.secret_servers import ServedSecret
    from moongate.features.base import ChainEdit, Effective, Feature
    from moongate.policies.effective import EffectivePolicy
    from moongate.xds.fallbacks import Fallback
    from moongate.xds.filters import ChainFilter

HCM: Final = "envoy.filters.network.http_connection_manager"
DIRECT_RESPONSE: Final = "envoy.filters.network.direct_response"
TLS_SOCKET: Final = "envoy.transport_sockets.tls"
_PATIENCE_S: Final = 5
"""How long Envoy waits for the secret of another server, before it goes on without. Not the usual 15 s, as
all ports of an Envoy that starts wait for it, and all changes of a port."""


class ChainSettings(Encoded, frozen=True):
    """A filter chain without its HTTP filters.

    Args:
        name: what the chain is known by; no other of the listener has it.
        chain: the encoded ``FilterChain``, without its connection manager.
        manager: the encoded ``HttpConnectionManager``, without filters; empty when the chain has none.
        router: the encoded ``HttpFilter`` that comes last.
        default: whether the chain takes the connections that no other chain of the listener matches.
        inspector: what the TLS inspector must find out for it, encoded; ``None`` when the chain needs none.
        closed: whether it takes its connections only to end them.
        scoped: whether its routes are looked up in the parts of a table.
        is_http: whether requests are looked at.
        filters: the version of its HTTP filters, where they are judged with it and not each by itself.
    """

    name: str
    chain: bytes
    manager: bytes = b""
    router: bytes = b""
    default: bool = False
    inspector: bytes | None = None
    closed: bool = False
    scoped: bool = False
    is_http: bool = True
    filters: str = ""

    @property
    def version(self) -> str:
        """The content version of all of it."""
        return version(b"".join((self.chain, self.manager, self.router, self.filters.encode())))


class ChainEntry(Encoded, frozen=True):
    """One filter chain as it is handed out.

    Args:
        settings: all of it but its HTTP filters.
        filters: its HTTP filters, the router excluded.
        body: the encoded entry of the ``Listener`` message.
        rank: sorts the chains of routes.
    """

    settings: ChainSettings
    filters: tuple[ChainFilter, ...]
    body: bytes
    rank: tuple[Any, ...] = ()


class ChainPart(Encoded, frozen=True):
    """Some filter chains of a listener: as such, and joined."""

    entries: tuple[ChainEntry, ...]
    body: bytes
    inspectors: frozenset[bytes]
    """What the TLS inspector must find out for any of them."""
    failed: bool = False
    """Whether they are closed because they could not be built."""

    @classmethod
    def of(cls, *entries: ChainEntry) -> ChainPart:
        inspectors = (entry.settings.inspector for entry in entries)
        return cls(
            entries,
            b"".join(entry.body for entry in entries),
            frozenset(inspector for inspector in inspectors if inspector is not None),
        )


def in_force(settings: ChainSettings, out: Mapping[str, Fallback]) -> ChainSettings | None:
    """The settings of a chain, or what stands in for them when they are kept out; ``None`` when nothing does.

    Where it is known to be at fault, it is tried without what it reports: an access log whose file cannot be
    opened is no reason to end connections. Its connections are not meant for another chain, which may ask
    less of them: so a chain that never was good takes them and ends them; so does one that demands
    certificates of clients, where its last good form demands others or none. Only if Envoy refuses that as
    well, so that it is the match that is at fault, the chain is left out.
    """
    fallback = out.get(settings.version) if out else None
    if fallback is None:
        return settings
    former = stand_in(fallback, settings)
    if fallback.strict and former is not None and _is_looser(former, settings):
        former = None
    silent = unreported(settings) if fallback.strict else None
    others = (silent, former, closed(settings))
    return next((other for other in others if other is not None and other.version not in out), None)


def stand_in(fallback: Fallback, settings: ChainSettings) -> ChainSettings | None:
    """The last good form of the settings of a chain; ``None`` if there is none."""
    former: ChainSettings | None = fallback.last_good
    # Its filters are as they should be, also where they are judged with it.
    return structs.replace(former, filters=settings.filters) if former is not None else None


def _is_looser(former: ChainSettings, settings: ChainSettings) -> bool:
    """Whether clients may pass a chain that would not pass another, which asks for other certificates."""
    checks, before = _client_checks(settings), _client_checks(former)
    return (checks.require_client_certificate.value or _verifies(checks)) and not (
        former.closed or before == checks
    )


def demands_certificate(settings: ChainSettings) -> bool:
    """Whether nobody passes a chain without a certificate that it has checked."""
    checks = _client_checks(settings)
    return settings.closed or (checks.require_client_certificate.value and _verifies(checks))


def _verifies(checks: DownstreamTlsContext) -> bool:
    """Whether a certificate that a client shows must be valid."""
    common = checks.common_tls_context
    if common.WhichOneof("validation_context_type") is None:
        return False
    contexts = (common.validation_context, common.combined_validation_context.default_validation_context)
    untrusted = CertificateValidationContext.ACCEPT_UNTRUSTED
    return all(context.trust_chain_verification != untrusted for context in contexts)


def _client_checks(settings: ChainSettings) -> DownstreamTlsContext:
    """The part of the TLS of a chain that is about certificates of clients."""
    context, checks = DownstreamTlsContext(), DownstreamTlsContext()
    socket = FilterChain.FromString(settings.chain).transport_socket
    if not socket.typed_config.Unpack(context):
        return checks
    if context.HasField("require_client_certificate"):
        checks.require_client_certificate.CopyFrom(context.require_client_certificate)
    common = context.common_tls_context
    if (kind := common.WhichOneof("validation_context_type")) is not None:
        getattr(checks.common_tls_context, kind).CopyFrom(getattr(common, kind))
    return checks


def unreported(settings: ChainSettings) -> ChainSettings | None:
    """A chain without access logs and traces; ``None`` if it has none."""
    chain, manager, router = (
        silenced(kind, body)
        for kind, body in (
            (FilterChain, settings.chain),
            (HttpConnectionManager, settings.manager),
            (HttpFilter, settings.router),
        )
    )
    if not (chain or manager or router):
        return None
    return structs.replace(
        settings,
        chain=chain or settings.chain,
        manager=manager or settings.manager,
        router=router or settings.router,
    )


def silenced(kind: type[Message], body: bytes) -> bytes | None:
    """An encoded message without the access logs and traces in it; ``None`` if it has none."""
    message, reports = kind.FromString(body), False

    def drop(part: Message) -> None:
        nonlocal reports
        for field in _REPORTS.get(type(part), ()):
            if part.HasField(field) if field == "tracing" else getattr(part, field):
                part.ClearField(field)
                reports = True

    visit(message, drop)
    return encode(message) if reports else None


_REPORTS: Final[Mapping[type[Message], tuple[str, ...]]] = {
    HttpConnectionManager: ("access_log", "tracing"),
    Listener: ("access_log",),
    Router: ("upstream_log",),
    TcpProxy: ("access_log",),
    UdpProxyConfig: ("access_log",),
}
"""What reports connections and requests, by its fields."""


def forms_of(settings: ChainSettings) -> frozenset[str]:
    """The versions of a chain, and of what may stand in for it besides a former form."""
    silent = unreported(settings)
    return frozenset(form.version for form in (settings, silent, closed(settings)) if form is not None)


def closed(settings: ChainSettings) -> ChainSettings:
    """A chain with nothing left but its match, that ends its connections."""
    message = FilterChain.FromString(settings.chain)
    shut = FilterChain(name=message.name)
    if message.HasField("filter_chain_match"):
        shut.filter_chain_match.CopyFrom(message.filter_chain_match)
    shut.filters.add(name=DIRECT_RESPONSE, typed_config=packed(Config()))
    return structs.replace(settings, chain=encode(shut), manager=b"", router=b"", closed=True, scoped=False)


def joined(settings: ChainSettings, filters: tuple[ChainFilter, ...]) -> ChainEntry:
    """A chain with its HTTP filters."""
    # On the wire a repeated field is its entries one after another, so nothing is decoded for it.
    body = settings.chain
    if settings.manager:
        number = HttpConnectionManager.HTTP_FILTERS_FIELD_NUMBER
        first = (finding(filters),) if settings.scoped else ()
        entries = [message_field(number, body) for body in (*first, *(one.body for one in filters))]
        manager = b"".join((settings.manager, *entries, message_field(number, settings.router)))
        last = Filter(name=HCM, typed_config=packed_as(HttpConnectionManager, manager))
        network = [last] if (marking := mark(filters)) is None else [marking, last]
        body += b"".join(message_field(FilterChain.FILTERS_FIELD_NUMBER, encode(each)) for each in network)
    number = (
        Listener.DEFAULT_FILTER_CHAIN_FIELD_NUMBER
        if settings.default
        else Listener.FILTER_CHAINS_FIELD_NUMBER
    )
    return ChainEntry(settings, filters if settings.manager else (), message_field(number, body))


def chain_settings(
    edit: ChainEdit, manager: HttpConnectionManager, router: HttpFilter, *, default: bool, scoped: bool
) -> ChainSettings:
    """The settings of a chain that is whole but for its transport socket and its HTTP filters.

    Args:
        edit: the chain; changed.
        manager: its connection manager.
        router: its last HTTP filter.
        default: whether the chain takes the connections that no other chain of the listener matches.
        scoped: whether its routes are looked up in the parts of a table.
    """
    if edit.tls is not None:
        edit.message.transport_socket.CopyFrom(
            TransportSocket(name=TLS_SOCKET, typed_config=packed(edit.tls))
        )
    return ChainSettings(
        edit.message.name,
        encode(edit.message),
        encode(manager),
        encode(router),
        default,
        encode(edit.inspector) if edit.inspector is not None else None,
        scoped=scoped,
    )


def settings(policy: EffectivePolicy | None) -> Iterator[tuple[Feature[Any], Effective[Any]]]:
    """The features of a policy that are in force."""
    return policy.features() if policy is not None else iter(())


def pinned_versions() -> TlsParameters:
    """The versions of TLS that any policy pins on the TLS listeners that it governs."""
    return TlsParameters(
        tls_minimum_protocol_version=TlsParameters.TLSv1_2,
        tls_maximum_protocol_version=TlsParameters.TLSv1_3,
    )


def secret_from(name: str, server: ServedSecret | None) -> SdsSecretConfig:
    """Where a secret comes from: our stream, under a name of ours, or another server."""
    if server is None:
        return SdsSecretConfig(name=name, sds_config=over_ads())
    service = GrpcService(envoy_grpc=GrpcService.EnvoyGrpc(cluster_name=names.secret_server(server.socket)))
    source = ApiConfigSource(api_type=ApiConfigSource.GRPC, grpc_services=[service])
    wait = Duration(seconds=_PATIENCE_S)
    return SdsSecretConfig(
        name=server.name, sds_config=ConfigSource(api_config_source=source, initial_fetch_timeout=wait)
    )


def downstream_tls(certificates: ListenerCertificates, alpn: tuple[str, ...]) -> DownstreamTlsContext:
    """TLS with clients, with certificates that Envoy fetches.

    Args:
        certificates: those of the listener.
        alpn: the protocols that are offered.
    """
    servers = dict(certificates.servers)
    return DownstreamTlsContext(
        common_tls_context=CommonTlsContext(
            alpn_protocols=alpn,
            tls_certificate_sds_secret_configs=[
                secret_from(names.secret(ref), servers.get(ref)) for ref in certificates.served
            ],
        ),
        # Resumed sessions outlive a change of certificates or of client validation.
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
    )
