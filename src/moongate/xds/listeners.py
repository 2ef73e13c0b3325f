"""Envoy's listeners: the ports, their TLS, their connection managers.

Theory of operation
===================
One resource per port of a Gateway. Plain HTTP listeners of a port share the default filter chain; each HTTPS
listener has a chain of its own, picked by the hostname in the TLS handshake. A chain's settings are those of
the ClientTrafficPolicy that holds for its (first) listener, written by the features' ``listener`` hooks over
the defaults below.

Certificates and routes are named, not held: a rotated certificate or an edited route does not change a
listener, so Envoy keeps its connections.

Source: the reference's defaults, chosen after Envoy's "Configuring Envoy as an edge proxy".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.config.core.v3.config_source_pb2 import V3, AggregatedConfigSource, ConfigSource
from envoy.config.core.v3.protocol_pb2 import Http2ProtocolOptions, HttpProtocolOptions
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain, ListenerFilter
from envoy.config.listener.v3.listener_pb2 import AdditionalAddress, Listener
from envoy.config.route.v3.route_components_pb2 import (
    DirectResponseAction,
    HeaderMatcher,
    Route,
    RouteMatch,
    VirtualHost,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.health_check.v3.health_check_pb2 import HealthCheck
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import TlsParameters
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from moongate import names
from moongate.attach.envoy_listeners import EnvoyListener, envoy_listeners
from moongate.attach.gateways import ALL_IPV6, bind_addresses, managed, on_host, proxy, rejection
from moongate.attach.listeners import listener_at
from moongate.engine import query
from moongate.features.base import ListenerEdit
from moongate.policies import EffectivePolicy, effective_gateway_policy, effective_listener_policy
from moongate.policies.http_listeners import port_conflict
from moongate.xds.access_logs import access_logs
from moongate.xds.filters import http_filters, mark
from moongate.xds.wire import LISTENER, XdsResource, encode, packed

if TYPE_CHECKING:
    from moongate.api.base import ListenerId, Ref
    from moongate.engine import Db

HCM: Final = "envoy.filters.network.http_connection_manager"
ROUTER: Final = "envoy.filters.http.router"
TLS_INSPECTOR: Final = "envoy.filters.listener.tls_inspector"

READINESS_PORT: Final = 19003
READINESS_PATH: Final = "/ready"

BUFFER_LIMIT: Final = 32 * 1024
"""Bytes that are held for a connection before its reader is slowed down."""


@query
def listener_names(db: Db, gateway: Ref) -> tuple[str, ...]:
    """The listener resources of a Gateway's Envoys, the readiness listener first."""
    if not managed(db, gateway) or rejection(db, gateway) is not None:
        return ()
    # On a host, several Gateways' Envoys share the ports, and whoever started them asks the admin interface.
    ready = () if on_host(db) else (_readiness_name(db, gateway),)
    return ready + tuple(envoy.name for envoy in envoy_listeners(db, gateway))


@query
def listener(db: Db, gateway: Ref, name: str) -> XdsResource | None:
    """One of ``listener_names``, built; ``None`` for any other."""
    if name == _readiness_name(db, gateway):
        return XdsResource.of(LISTENER, name, encode(_readiness(db, gateway, name)))
    found = next((envoy for envoy in envoy_listeners(db, gateway) if envoy.name == name), None)
    if found is None:
        return None
    return XdsResource.of(LISTENER, name, encode(_listener(db, gateway, found)))


def _listener(db: Db, gateway: Ref, envoy: EnvoyListener) -> Listener:
    first, *others = (
        _address(db, gateway, host, envoy.container_port) for host in bind_addresses(db, gateway)
    )
    message = Listener(
        name=envoy.name,
        address=first,
        additional_addresses=[AdditionalAddress(address=other) for other in others],
        per_connection_buffer_limit_bytes=UInt32Value(value=BUFFER_LIMIT),
        # Accepted connections are spread over the workers, instead of one worker taking a burst.
        max_connections_to_accept_per_socket_event=UInt32Value(value=1),
        access_log=_logs(access_logs(db, gateway, "Listener")),
    )
    if on_host(db):
        # With it, a second process would bind the port too, and take a share of the connections unnoticed.
        message.enable_reuse_port.value = False
    if envoy.tls:
        for n, member in enumerate(envoy.members):
            chain = _chain(db, envoy, (member,), message, first=n == 0)
            message.filter_chains.append(chain)
    else:
        message.default_filter_chain.CopyFrom(_chain(db, envoy, envoy.members, message, first=True))
    return message


def _chain(
    db: Db, envoy: EnvoyListener, members: tuple[ListenerId, ...], message: Listener, *, first: bool
) -> FilterChain:
    """The chain of some listeners; what they need of the Envoy listener is added to ``message``."""
    name = names.listener(members[0]) if envoy.tls else envoy.chain
    stat_prefix = f"{'https' if envoy.tls else 'http'}-{envoy.stat_port}"
    chain = FilterChain(name=name, filters=[Filter(name=HCM)])
    hcm = _connection_manager(db, members[0].gateway, stat_prefix, name)
    hostname, tls = "", None
    if envoy.tls and (found := listener_at(db, members[0])) is not None:
        hostname = found.hostname
        tls = _tls(found.certificates, ("http/1.1",) if found.http1_only else ("h2", "http/1.1"))
    _apply_policy(_policy(db, members), ListenerEdit(message, chain, hcm, tls, stat_prefix, first))
    own = list(hcm.http_filters)
    del hcm.http_filters[:]
    filters = http_filters(db, name, members)
    hcm.http_filters.extend(HttpFilter.FromString(one.body) for one in filters)
    hcm.http_filters.extend(own)
    if (marking := mark(filters)) is not None:
        chain.filters.insert(len(chain.filters) - 1, marking)
    chain.filters[-1].typed_config.CopyFrom(packed(hcm))
    if tls is not None:
        chain.transport_socket.CopyFrom(
            TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(tls))
        )
    if hostname:
        chain.filter_chain_match.server_names.append(hostname)
        if all(f.name != TLS_INSPECTOR for f in message.listener_filters):
            message.listener_filters.append(
                ListenerFilter(name=TLS_INSPECTOR, typed_config=packed(TlsInspector()))
            )
    return chain


def _policy(db: Db, members: tuple[ListenerId, ...]) -> EffectivePolicy | None:
    """The ClientTrafficPolicy of a chain: of the first member whose own is not refused, or the Gateway's."""
    for member in members:
        if port_conflict(db, member) is None:
            return effective_listener_policy(db, "ClientTrafficPolicy", member)
    return effective_gateway_policy(db, "ClientTrafficPolicy", members[0].gateway)


def _apply_policy(policy: EffectivePolicy | None, edit: ListenerEdit) -> None:
    if policy is None:
        return
    if edit.tls is not None:
        edit.tls.common_tls_context.tls_params.CopyFrom(
            TlsParameters(
                tls_minimum_protocol_version=TlsParameters.TLSv1_2,
                tls_maximum_protocol_version=TlsParameters.TLSv1_3,
            )
        )
    for feature, effective in policy.features():
        if feature.listener is not None and not policy.faults_of(feature):
            feature.listener(edit, effective)


def _connection_manager(
    db: Db, gateway: Ref, stat_prefix: str, route_configuration: str
) -> HttpConnectionManager:
    return HttpConnectionManager(
        stat_prefix=stat_prefix,
        rds=Rds(config_source=_over_ads(), route_config_name=route_configuration),
        access_log=_logs(access_logs(db, gateway, "Route")),
        # The upstream's Server header is none of our business.
        server_header_transformation=HttpConnectionManager.PASS_THROUGH,
        http2_protocol_options=Http2ProtocolOptions(
            max_concurrent_streams=UInt32Value(value=100),
            initial_stream_window_size=UInt32Value(value=64 * 1024),
            initial_connection_window_size=UInt32Value(value=1024 * 1024),
        ),
        use_remote_address=BoolValue(value=True),
        normalize_path=BoolValue(value=True),
        merge_slashes=True,
        path_with_escaped_slashes_action=HttpConnectionManager.UNESCAPE_AND_REDIRECT,
        common_http_protocol_options=HttpProtocolOptions(
            headers_with_underscores_action=HttpProtocolOptions.HeadersWithUnderscoresAction.REJECT_REQUEST
        ),
        http_filters=[_router(access_logs(db, gateway, "Upstream"))],
    )


def _router(logs: tuple[bytes, ...]) -> HttpFilter:
    router = Router(suppress_envoy_headers=True, upstream_log=_logs(logs))
    if logs:
        router.upstream_log_options.flush_upstream_log_on_upstream_stream = True
    return HttpFilter(name=ROUTER, typed_config=packed(router))


def _tls(certificates: tuple[Ref, ...], alpn: tuple[str, ...]) -> DownstreamTlsContext:
    return DownstreamTlsContext(
        common_tls_context=CommonTlsContext(
            alpn_protocols=alpn,
            tls_certificate_sds_secret_configs=[
                SdsSecretConfig(name=names.secret(ref), sds_config=_over_ads()) for ref in certificates
            ],
        ),
        # Resumed sessions outlive a change of certificates or of client validation.
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
    )


def _over_ads() -> ConfigSource:
    # No time limit: a listener waits for its routes and certificates instead of opening without them.
    return ConfigSource(
        ads=AggregatedConfigSource(), initial_fetch_timeout=Duration(), resource_api_version=V3
    )


def _address(db: Db, gateway: Ref, host: str, port: int) -> Address:
    both = host == ALL_IPV6 and proxy(db, gateway).spec.ip_family == "DualStack"
    return Address(socket_address=SocketAddress(address=host, port_value=port, ipv4_compat=both))


def _logs(encoded: tuple[bytes, ...]) -> list[AccessLog]:
    return [AccessLog.FromString(body) for body in encoded]


@query
def _readiness_name(db: Db, gateway: Ref) -> str:
    return f"envoy-gateway-proxy-ready-{bind_addresses(db, gateway)[0]}-{READINESS_PORT}"


def _readiness(db: Db, gateway: Ref, name: str) -> Listener:
    """Answers probes of the pod; it comes over xDS, so an Envoy that answers has had its configuration."""
    check = HealthCheck(
        pass_through_mode=BoolValue(value=False),
        headers=[HeaderMatcher(name=":path", string_match=StringMatcher(exact=READINESS_PATH))],
    )
    other = Route(match=RouteMatch(prefix="/"), direct_response=DirectResponseAction(status=500))
    hcm = HttpConnectionManager(
        stat_prefix="eg-ready-http",
        route_config=RouteConfiguration(
            name="ready_route",
            virtual_hosts=[VirtualHost(name="ready_route", domains=["*"], routes=[other])],
        ),
        http_filters=[
            HttpFilter(name="envoy.filters.http.health_check", typed_config=packed(check)),
            _router(()),
        ],
    )
    message = Listener(
        name=name,
        address=_address(db, gateway, bind_addresses(db, gateway)[0], READINESS_PORT),
        filter_chains=[FilterChain(filters=[Filter(name=HCM, typed_config=packed(hcm))])],
        bypass_overload_manager=True,
    )
    if message.address.socket_address.address == "::":
        message.address.socket_address.ipv4_compat = True
    return message
