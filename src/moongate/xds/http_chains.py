"""The filter chains of HTTP and HTTPS listeners: TLS and a connection manager, with safe defaults.

Theory of operation
===================
A chain's settings are those of the ClientTrafficPolicy that holds for its listeners, written by the hooks of
features over the defaults below. Certificates and routes are named, not held: a rotated certificate or an
edited route does not change a listener, so Envoy keeps its connections.

Source: the reference's defaults, chosen after Envoy's "Configuring Envoy as an edge proxy".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3.protocol_pb2 import Http2ProtocolOptions, HttpProtocolOptions
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
    RequestIDExtension,
)
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from moongate.attach.default_hosts import default_host
from moongate.attach.fleets import fleet_of
from moongate.attach.listener_certificates import listener_certificates
from moongate.attach.listeners import listener_at
from moongate.attach.tls_overlaps import overlap
from moongate.engine import query
from moongate.features.base import ChainEdit, ManagerEdit
from moongate.features.shared import over_ads
from moongate.policies.http_listeners import chain_policy, clients_of
from moongate.xds.access_logs import access_logs
from moongate.xds.client_certificates import check_clients
from moongate.xds.filter_chains import (
    ChainSettings,
    chain_settings,
    downstream_tls,
    pinned_versions,
    settings,
)
from moongate.xds.scoped_chains import scoped_routes
from moongate.xds.tracing import request_id, tracing
from moongate.xds.wire import encode, packed

if TYPE_CHECKING:
    from moongate.api.base import FleetId
    from moongate.attach.envoy_listeners import ChainGroup
    from moongate.engine import Db

ROUTER: Final = "envoy.filters.http.router"


@query
def http_settings(db: Db, group: ChainGroup) -> ChainSettings:
    """The settings of the chain of plaintext listeners: of all connections to their port."""
    return _settings(db, group, ChainEdit(FilterChain(name=group.name), None, group.stat_prefix))


@query
def https_settings(db: Db, group: ChainGroup) -> ChainSettings:
    """The settings of the chain of one TLS listener: of the connections that ask for its hostname."""
    [member] = group.members
    listener = listener_at(db, member)
    assert listener is not None, "a group is of listeners that there are"
    overlaps = overlap(db, member)
    alpn = ("http/1.1",) if overlaps is not None and overlaps.http1_only else ("h2", "http/1.1")
    match = chain_match(group.name, listener.hostname)
    tls = downstream_tls(listener_certificates(db, member), alpn)
    edit = ChainEdit(FilterChain.FromString(match.chain), tls, group.stat_prefix)
    edit.inspector = TlsInspector() if match.inspector is not None else None
    if (validation := clients_of(db, member)) is not None:
        check_clients(db, edit.message, tls, validation)
    return _settings(db, group, edit)


def chain_match(name: str, hostname: str) -> ChainSettings:
    """A chain that only says which TLS connections it takes: those that ask for a hostname, "" for any."""
    chain = FilterChain(name=name)
    if hostname:
        chain.filter_chain_match.server_names.append(hostname)
    return ChainSettings(name, encode(chain), inspector=encode(TlsInspector()) if hostname else None)


def _settings(db: Db, group: ChainGroup, edit: ChainEdit) -> ChainSettings:
    fleet = fleet_of(db, group.members[0].gateway)
    policy = chain_policy(db, group.members)
    hcm = _connection_manager(db, fleet, group)
    if policy is not None and edit.tls is not None:
        edit.tls.common_tls_context.tls_params.CopyFrom(pinned_versions())
    last = _router(access_logs(db, fleet, "Upstream"))
    manager = ManagerEdit(hcm, last, lambda: default_host(db, group.members[0]).host)
    for feature, effective in settings(policy):
        if feature.filter_chain is not None:
            feature.filter_chain(edit, effective)
        if feature.connection_manager is not None:
            feature.connection_manager(manager, effective)
    return chain_settings(edit, hcm, _last(last), default=edit.tls is None, scoped=group.scoped)


def _connection_manager(db: Db, fleet: FleetId, group: ChainGroup) -> HttpConnectionManager:
    source = over_ads()
    traced, identified = tracing(db, fleet), request_id(db, fleet)
    return HttpConnectionManager(
        stat_prefix=group.stat_prefix,
        rds=None if group.scoped else Rds(config_source=source, route_config_name=group.name),
        scoped_routes=scoped_routes(group.name, group.table.name, source) if group.scoped else None,
        access_log=[AccessLog.FromString(body) for body in access_logs(db, fleet, "Route")],
        tracing=HttpConnectionManager.Tracing.FromString(traced) if traced is not None else None,
        request_id_extension=RequestIDExtension.FromString(identified) if identified is not None else None,
        # The Server header of the upstream is passed on as it is.
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
    )


def router() -> HttpFilter:
    """The last HTTP filter of a chain without settings of its own, which sends a request on."""
    return _last(_router(()))


def _router(logs: tuple[bytes, ...]) -> Router:
    """The config of the router.

    Args:
        logs: encoded ``AccessLog`` entries that it writes.
    """
    config = Router(suppress_envoy_headers=True, upstream_log=[AccessLog.FromString(body) for body in logs])
    if logs:
        config.upstream_log_options.flush_upstream_log_on_upstream_stream = True
    return config


def _last(config: Router) -> HttpFilter:
    return HttpFilter(name=ROUTER, typed_config=packed(config))
