"""Clusters and their load assignments, each from its key.

Theory of operation
===================
A cluster's settings and its endpoints are separate queries, so a changed EndpointSlice rebuilds one load
assignment and no cluster. Endpoints with hostnames are part of their cluster (DNS); endpoints with addresses
come by EDS. The features of BackendTrafficPolicy add their settings to the cluster.

Source: envoy/config/cluster/v3/cluster.proto; the reference's constants.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

from envoy.config.cluster.v3.cluster_pb2 import Cluster, LoadBalancingPolicy
from envoy.config.core.v3.base_pb2 import DataSource, TransportSocket
from envoy.config.core.v3.config_source_pb2 import ApiVersion
from envoy.config.core.v3.health_check_pb2 import HealthStatus
from envoy.config.core.v3.protocol_pb2 import Http1ProtocolOptions
from envoy.config.endpoint.v3.endpoint_components_pb2 import LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.clusters.common.dns.v3.dns_pb2 import DnsLookupFamily
from envoy.extensions.clusters.dns.v3.dns_cluster_pb2 import DnsCluster
from envoy.extensions.filters.http.upstream_codec.v3.upstream_codec_pb2 import UpstreamCodec
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.extensions.load_balancing_policies.least_request.v3.least_request_pb2 import LeastRequest
from envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2 import RawBuffer
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    SubjectAltNameMatcher,
    TlsParameters,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, UpstreamTlsContext
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from moongate import names
from moongate.api.route import Route
from moongate.attach.backends import Backend, Endpoint, endpoints, is_ip
from moongate.attach.gateways import OWN_AUTHORITIES, OWN_CERTIFICATE, config, fleet_proxy, system_authorities
from moongate.attach.patch_policies import named_resources
from moongate.attach.policies import Applied
from moongate.attach.route_kinds import route_kind
from moongate.attach.routes import attached_hosts
from moongate.engine import Contained, Failed, query
from moongate.features.base import ClusterEdit, Lookup, Zones
from moongate.features.shared import by_zone, over_ads
from moongate.policies.effective import (
    cluster_settings,
    connection_cluster_settings,
    connection_policies,
    endpoint_settings,
    extended,
    gateway_policies,
    lookup_of,
    rule_policies,
    shapes_clusters,
    shared_cluster_settings,
    shared_endpoint_settings,
    zones,
    zones_of,
)
from moongate.policies.http_listeners import gateway_cluster_settings, listener_cluster_settings
from moongate.store import get
from moongate.xds import sinks, statistics
from moongate.xds.cluster_keys import (
    BackendCluster,
    MirrorCluster,
    PolicyCluster,
    RuleCluster,
    SinkCluster,
    StableRule,
)
from moongate.xds.cluster_members import (
    OF_CONNECTIONS,
    Member,
    backends_of,
    is_of_connections,
    listener_of,
    members_of,
    reached_by,
    request_members,
    section_of,
)
from moongate.xds.destinations import index_of
from moongate.xds.dynamic_resolvers import guarded, lookup_family, resolve_requests
from moongate.xds.fallbacks import Concern
from moongate.xds.filter_chains import TLS_SOCKET
from moongate.xds.metadata import holders, metadata, shown
from moongate.xds.served_listeners import served_on
from moongate.xds.upstream_tls import form, mark, negotiates, secure, secure_requests
from moongate.xds.wire import CLUSTER, ENDPOINT, XdsResource, encode, packed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from moongate.api.base import FleetId, Ref
    from moongate.api.cluster_settings import PreferLocal
    from moongate.api.health_checks import HealthCheckLog
    from moongate.engine import Db, Query
    from moongate.features.base import ExtraCluster
    from moongate.policies.effective import Settings
    from moongate.xds.cluster_keys import ClusterKey, SecretServerCluster
    from moongate.xds.patches import Call

BUFFER_LIMIT: Final = 32768
CONNECT_TIMEOUT_S: Final = 10
_HTTP2: Final = Backend(protocol="HTTP2")
_OVER_HTTP2: Final = ("HTTP2", "GRPC")
_CODEC: Final = "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
"""The last of a cluster's own HTTP filters, as the reference calls it."""
_NO_OPTIONS: Final = Http1ProtocolOptions()
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@query
def cluster(db: Db, key: ClusterKey) -> XdsResource | None:
    """The cluster of a key; ``None`` if its rule or backend is gone."""
    if isinstance(key, PolicyCluster) and key.made_of.own_service and not key.made_of.host:
        # Calls to it fail at once.
        return XdsResource.of(CLUSTER, key.name, encode(Cluster(name=key.name, type=Cluster.STATIC)))
    if isinstance(key, PolicyCluster) and key.made_of.host:
        return XdsResource.of(CLUSTER, key.name, encode(_of_host(db, key.made_of)))
    if isinstance(key, SinkCluster):
        return _sink_cluster(db, key)
    members = members_of(db, key)
    if members is None:
        return None
    backends = backends_of(db, key, members)
    settings = _settings(db, key)
    lookup = lookup_of(settings)
    message = _base(key.name, next((b.families for b in backends), ()), lookup.family)
    if "cluster" in holders(db, key.fleet):
        _describe(db, key, message)
    usable = [b for b in backends if b.problem is None]
    of_requests = any(b.dynamic for b in usable)
    if _are_names(usable):
        _resolve(message, lookup)
        message.load_assignment.CopyFrom(_assignment(db, key, members, key.name, of_names=True))
    elif not of_requests:
        _discover(message, _assignment_name(db, key, backends))
    message.alt_stat_name = _stat_name(db, key)
    http = HttpProtocolOptions()
    edit = ClusterEdit(
        message,
        http,
        backends=len(members),
        http2=any(b.protocol in _OVER_HTTP2 for b in usable) and not any(b.http1 for b in usable),
        host=lambda: _host(db, key, members),
        health_check_log=lambda: _health_check_log(db, key.fleet),
        local=usable[0].local if len(members) == 1 and usable else None,
    )
    if edit.local is not None:
        message.load_balancing_policy.CopyFrom(_least_request(edit.local))
    if isinstance(key, RuleCluster):
        http.http_filters.extend(_own_filters(db, key))
    _set(edit, (*settings, *_settings_of_listeners(db, key)))
    if of_requests:
        secure_requests(message, *backends)
        resolve_requests(message, http if not is_of_connections(key) else None, lookup, guard=guarded(db))
    else:
        secure(message, http, backends)
    _wrap(edit)
    if http.http_filters:
        http.http_filters.append(HttpFilter(name=_CODEC, typed_config=packed(UpstreamCodec())))
    _speak(edit, usable)
    _track(db, key, message)
    return XdsResource.of(CLUSTER, key.name, encode(message))


@query
def concern(db: Db, key: ClusterKey) -> Concern:
    """Whom a cluster concerns that Envoys refuse: its route, and the policies with settings of clusters."""
    own = isinstance(key, RuleCluster | MirrorCluster)
    if isinstance(key, BackendCluster):
        policies = gateway_policies(db, key.fleet.owner)
    else:
        policies = _policies(db, key)
    owners: dict[Ref, None] = {}
    for policy in policies:
        for owner in policy:
            if owner is not None and shapes_clusters(db, Applied(owner, None)):
                owners[owner] = None
    return Concern(f"cluster {key.name}", (key.route,) if own else (), policies=tuple(owners))


def _sink_cluster(db: Db, key: SinkCluster) -> XdsResource | None:
    """The cluster of a sink, also while none of its backends can be reached: the chains that report to it
    stay as they are, and so do their connections."""
    sink = sinks.sink(db, key.fleet, key.name)
    if sink is None:
        return None
    members = request_members(db, key)
    backends = backends_of(db, key, members)
    usable = [b for b in backends if b.problem is None]
    settings = sinks.sink_settings(db, key.fleet, key.name)
    lookup = lookup_of(settings)
    message = _base(key.name, next((b.families for b in backends), ()), lookup.family)
    owner = fleet_proxy(db, key.fleet).owner
    if owner is not None and "cluster" in holders(db, key.fleet):
        message.metadata.MergeFromString(metadata(owner))
    if sink.host and not is_ip(sink.host):
        _resolve(message, lookup)
        message.load_assignment.CopyFrom(_assignment_of_host(key.name, sink.host, sink.port))
    elif _are_names(usable):
        _resolve(message, lookup)
        message.load_assignment.CopyFrom(_assignment(db, key, members, key.name, of_names=True))
    else:
        _discover(message, _assignment_name(db, key, backends))
    http = HttpProtocolOptions()
    edit = ClusterEdit(
        message,
        http,
        backends=len(members),
        http2=sink.grpc,
        host=lambda: sinks.authority(db, key.fleet, key.name),
        health_check_log=lambda: _health_check_log(db, key.fleet),
    )
    _set(edit, settings)
    secure(message, http, backends)
    _wrap(edit)
    _speak(edit, [_HTTP2] if sink.grpc else [])
    _track(db, key, message)
    return XdsResource.of(CLUSTER, key.name, encode(message))


def _track(db: Db, key: ClusterKey, message: Cluster) -> None:
    """Say which statistics of a cluster Envoy keeps besides those that it always has."""
    if (tracked := statistics.tracked(db, key.fleet)) is not None:
        message.track_cluster_stats.MergeFromString(tracked)


def _stat_name(db: Db, key: ClusterKey) -> str:
    """What a cluster is called in statistics; "" for its name."""
    if not isinstance(key, RuleCluster) or not (pattern := statistics.cluster_stat_name(db, key.fleet)):
        return ""
    route = get(db, Route, key.route)
    index = index_of(route, key.rule) if route is not None and isinstance(key.rule, StableRule) else key.rule
    if route is None or not isinstance(index, int) or index >= len(route.spec.rules):
        return ""
    return statistics.stat_name(pattern, key.route, index, route.spec.rules[index])


def _wrap(edit: ClusterEdit) -> None:
    """Wrap all transport sockets of a cluster, where a feature wants it."""
    if edit.wrap_socket is None:
        return
    for match in edit.message.transport_socket_matches:
        match.transport_socket.CopyFrom(edit.wrap_socket(match.transport_socket))
    if not edit.message.HasField("transport_socket"):
        edit.message.transport_socket.name = "envoy.transport_sockets.raw_buffer"
        edit.message.transport_socket.typed_config.CopyFrom(packed(RawBuffer()))
    edit.message.transport_socket.CopyFrom(edit.wrap_socket(edit.message.transport_socket))


def _settings(db: Db, key: ClusterKey) -> Settings:
    """The settings of policies for a cluster."""
    if isinstance(key, RuleCluster) and is_of_connections(key):
        transport = "UDP" if route_kind(key.route.kind).upstream == "UDP" else "TCP"
        return connection_cluster_settings(db, _policies(db, key), transport)
    if isinstance(key, BackendCluster):
        return shared_cluster_settings(db, key.fleet.owner)
    return cluster_settings(db, _policies(db, key))


def _set(edit: ClusterEdit, settings: Settings) -> None:
    for feature, effective in settings:
        if feature.cluster is not None:
            feature.cluster(edit, effective)


@query
def secret_server(db: Db, key: SecretServerCluster) -> XdsResource:
    """The cluster of a server that Envoy asks for secrets, with nothing but what the reference says."""
    del db
    message = Cluster(name=key.name, type=Cluster.STATIC)
    message.connect_timeout.seconds = CONNECT_TIMEOUT_S
    message.http2_protocol_options.SetInParent()
    message.load_assignment.cluster_name = key.name
    at = message.load_assignment.endpoints.add().lb_endpoints.add()
    at.endpoint.address.pipe.path = key.socket
    return XdsResource.of(CLUSTER, key.name, encode(message))


@query
def load_assignment(db: Db, key: ClusterKey) -> XdsResource | None:
    """The load assignment of a cluster; ``None`` for a DNS cluster, or if there is no such cluster."""
    members = members_of(db, key)
    if members is None:
        return _assignment_without_members(db, key)
    backends = backends_of(db, key, members)
    usable = [b for b in backends if b.problem is None]
    if _are_names(usable) or (len(members) == 1 and usable and usable[0].dynamic):
        return None
    name = _assignment_name(db, key, backends)
    return XdsResource.of(ENDPOINT, name, encode(_assignment(db, key, members, name, of_names=False)))


@query
def _cluster_beside_failure(db: Db, key: RuleCluster | MirrorCluster) -> XdsResource | None:
    return _as_first_known(db, cluster, key)


@query
def _assignment_beside_failure(db: Db, key: RuleCluster | MirrorCluster) -> XdsResource | None:
    return _as_first_known(db, load_assignment, key)


_BESIDE_FAILURE: Final[Mapping[Query[..., Any], Query[..., Any]]] = {
    cluster: _cluster_beside_failure,
    load_assignment: _assignment_beside_failure,
}


def beside_failure(call: Call) -> Call:
    """What builds a resource in place of a call that fails, and always has; the call itself if nothing else.

    Listeners that share a cluster have that of the first of them. If of this one it was never known, maybe
    because of a policy of another Gateway, they have it as the next one says.
    """
    builder, args = call
    key = args[0] if builder in _BESIDE_FAILURE else None
    if isinstance(key, RuleCluster | MirrorCluster) and key.listener is None and not is_of_connections(key):
        return _BESIDE_FAILURE[builder], args
    return call


def _as_first_known(
    db: Db, built: Query[[ClusterKey], XdsResource | None], key: RuleCluster | MirrorCluster
) -> XdsResource | None:
    """What a call builds or last built; if it always failed, what it builds for another listener."""
    own = built.last_good(db, key)
    if not isinstance(own, Failed):
        return own
    for listener in served_on(db, key.fleet, key.route)[1:]:
        other = built.attempt(db, key._replace(listener=listener))
        if not isinstance(other, Failed):
            return other
    raise Contained(own)


def _are_names(usable: list[Backend]) -> bool:
    """Whether the endpoints of a cluster are hostnames; a backend without any has none of either."""
    of_some = [each for each in usable if not each.empty] or usable
    return bool(usable) and all(each.dns for each in of_some)


def _assignment_name(db: Db, key: ClusterKey, backends: list[Backend]) -> str:
    """The name by which Envoy asks for the endpoints of a cluster: another one for each way to speak TLS.

    It is the cluster's where a patch names them, and where the cluster is in the bootstrap.
    """
    if (how := form(key.name, backends)) == "" or not config(db).runtime_flags.on("EndpointsByTLS"):
        return key.name
    of = sinks.sink(db, key.fleet, key.name) if isinstance(key, SinkCluster) else None
    if of is not None and of.what == sinks.METRICS:
        return key.name
    if (ENDPOINT, key.name) in named_resources(db, key.fleet):
        return key.name
    return names.secure_assignment(key.name, how)


def _assignment_without_members(db: Db, key: ClusterKey) -> XdsResource | None:
    """The load assignment of a sink: its address, or no endpoint yet."""
    sink = sinks.sink(db, key.fleet, key.name) if isinstance(key, SinkCluster) else None
    if sink is None or (sink.host and not is_ip(sink.host)):
        return None
    message = ClusterLoadAssignment(cluster_name=key.name)
    if sink.host:
        message = _assignment_of_host(key.name, sink.host, sink.port)
    return XdsResource.of(ENDPOINT, key.name, encode(message))


def _own_filters(db: Db, key: RuleCluster) -> Iterator[HttpFilter]:
    """The HTTP filters of a cluster that HTTPRouteFilters ask for."""
    for feature, effective in extended(db, key.extensions, key.route.namespace):
        if feature.http_filter is not None:
            name, chain = feature.http_filter.instance(effective.owner), feature.http_filter.chain
            yield HttpFilter(name=name, typed_config=packed(chain(db, effective)))


@query
def _route_annotations(db: Db, route: Ref) -> tuple[tuple[str, str], ...]:
    resource = get(db, Route, route)
    return () if resource is None else shown(resource.metadata.annotations)


def _policies(db: Db, key: RuleCluster | MirrorCluster | PolicyCluster | SinkCluster) -> tuple[Applied, ...]:
    """The policies of a cluster that is not shared: those of its rule, or none."""
    if isinstance(key, PolicyCluster | SinkCluster):
        return ()
    listener = listener_of(db, key)
    if listener is None:
        return ()
    if key.rule in OF_CONNECTIONS:
        return connection_policies(db, listener, key.route, section_of(db, key))
    return rule_policies(db, listener, key.route, section_of(db, key))


def _settings_of_listeners(db: Db, key: ClusterKey) -> Settings:
    """What the policy about clients says of a cluster, of the listener whose policies it has."""
    if isinstance(key, BackendCluster):
        return gateway_cluster_settings(db, key.fleet.owner)
    if not isinstance(key, RuleCluster) or key.rule in OF_CONNECTIONS:
        return ()
    listener = listener_of(db, key)
    return listener_cluster_settings(db, listener) if listener is not None else ()


def _host(db: Db, key: ClusterKey, members: list[Member]) -> str:
    """The authority of a cluster's requests: a hostname of its route, or the name of its first backend."""
    if isinstance(key, RuleCluster | MirrorCluster):
        listener = listener_of(db, key)
        hosts = attached_hosts(db, key.route, listener) if listener is not None else ()
        exact = next((host for host in hosts if host and "*" not in host), None)
        if exact is not None:
            return exact
    first = members[0].target.ref if members else None
    return f"{first.name}.{first.namespace}" if first is not None else ""


@query
def _health_check_log(db: Db, fleet: FleetId) -> HealthCheckLog | None:
    """What a fleet's EnvoyProxy says about the log of health checks."""
    telemetry = fleet_proxy(db, fleet).spec.telemetry
    return telemetry.health_check_log if telemetry is not None else None


def eds_cluster(name: str) -> Cluster:
    """A cluster with the common defaults. Its endpoints come by EDS over ADS, under the cluster's name."""
    message = _base(name)
    _discover(message, name)
    return message


def add_endpoint(locality: LocalityLbEndpoints, endpoint: Endpoint) -> LbEndpoint:
    """The entry of an endpoint in its locality; all endpoints have equal weights."""
    entry: LbEndpoint = locality.lb_endpoints.add()
    entry.load_balancing_weight.value = 1
    if endpoint.port:
        entry.endpoint.address.socket_address.address = endpoint.address
        entry.endpoint.address.socket_address.port_value = endpoint.port
    else:
        entry.endpoint.address.pipe.path = endpoint.address
    if endpoint.hostname:
        entry.endpoint.hostname = endpoint.hostname
    if endpoint.draining:
        entry.health_status = HealthStatus.DRAINING
    return entry


def _discover(message: Cluster, assignment: str) -> None:
    message.MergeFromString(_discovered())
    message.eds_cluster_config.service_name = assignment


def _base(name: str, families: tuple[str, ...] = (), lookup: str = "") -> Cluster:
    message = Cluster.FromString(_defaults(families, lookup))
    message.name = name
    return message


# What thousands of clusters have in common is built once: to read its bytes takes a tenth of the time.


@cache
def _discovered() -> bytes:
    """The settings of a cluster whose endpoints come by EDS."""
    message = Cluster(type=Cluster.EDS)
    message.eds_cluster_config.eds_config.ads.SetInParent()
    message.eds_cluster_config.eds_config.resource_api_version = ApiVersion.V3
    return encode(message)


@cache
def _defaults(families: tuple[str, ...], lookup: str) -> bytes:
    """The settings of any cluster for which no policy says otherwise."""
    message = Cluster(ignore_health_on_host_removal=True)
    message.connect_timeout.seconds = CONNECT_TIMEOUT_S
    message.per_connection_buffer_limit_bytes.value = BUFFER_LIMIT
    message.circuit_breakers.thresholds.add().max_retries.value = 1024
    message.dns_lookup_family = lookup_family(lookup, families)
    message.common_lb_config.SetInParent()
    message.load_balancing_policy.CopyFrom(_least_request())
    return encode(message)


@query
def empty_cluster(_db: Db, _fleet: FleetId) -> XdsResource:
    """The cluster without endpoints of a fleet, where connections go that no route takes."""
    message = Cluster(name=names.EMPTY_CLUSTER, type=Cluster.STATIC)
    return XdsResource.of(CLUSTER, message.name, encode(message))


def _of_host(db: Db, made_of: ExtraCluster) -> Cluster:
    """The cluster of one host, which is resolved unless it is an IP address."""
    message = _base(made_of.name)
    if is_ip(made_of.host) or made_of.host.startswith("/"):
        message.type = Cluster.STATIC
    else:
        _resolve(message, Lookup())
    message.load_assignment.CopyFrom(_assignment_of_host(made_of.name, made_of.host, made_of.port))
    _speak(ClusterEdit(message, HttpProtocolOptions()), [_HTTP2] if made_of.http2 else [])
    tls = _trusting(db, made_of.host) if made_of.tls else _to_own_service() if made_of.own_service else None
    if tls is not None:
        message.transport_socket.CopyFrom(TransportSocket(name=TLS_SOCKET, typed_config=packed(tls)))
    return message


def _to_own_service() -> UpstreamTlsContext:
    """TLS to a service of the control plane, both ways."""
    certificate = SdsSecretConfig(name=names.secret(OWN_CERTIFICATE), sds_config=over_ads())
    return UpstreamTlsContext(
        common_tls_context=CommonTlsContext(
            tls_params=TlsParameters(tls_maximum_protocol_version=TlsParameters.TLSv1_3),
            tls_certificate_sds_secret_configs=[certificate],
            validation_context=CertificateValidationContext(trusted_ca=DataSource(filename=OWN_AUTHORITIES)),
        )
    )


def _assignment_of_host(name: str, host: str, port: int) -> ClusterLoadAssignment:
    message = ClusterLoadAssignment(cluster_name=name)
    locality = message.endpoints.add()
    locality.locality.region = names.backend(name, -1)
    locality.load_balancing_weight.value = 1
    add_endpoint(locality, Endpoint(host, port))
    return message


def _trusting(db: Db, host: str) -> UpstreamTlsContext:
    """TLS to a public host: its certificate must name the host, and come from a CA that the system trusts."""
    kind = SubjectAltNameMatcher.IP_ADDRESS if is_ip(host) else SubjectAltNameMatcher.DNS
    validation = CertificateValidationContext(
        trusted_ca=DataSource(filename=system_authorities(db)),
        match_typed_subject_alt_names=[
            SubjectAltNameMatcher(san_type=kind, matcher=StringMatcher(exact=host))
        ],
    )
    versions = TlsParameters(tls_maximum_protocol_version=TlsParameters.TLSv1_3)
    return UpstreamTlsContext(
        sni="" if is_ip(host) else host,
        common_tls_context=CommonTlsContext(tls_params=versions, validation_context=validation),
    )


def _resolve(message: Cluster, lookup: Lookup) -> None:
    dns = DnsCluster(respect_dns_ttl=lookup.respects_ttl)
    dns.dns_refresh_rate.FromMilliseconds(lookup.refresh_ms)
    family = Cluster.DnsLookupFamily.Name(message.dns_lookup_family)
    dns.dns_lookup_family = cast("DnsLookupFamily", DnsLookupFamily.Value(family))
    message.cluster_type.name = "envoy.cluster.dns"
    message.cluster_type.typed_config.CopyFrom(packed(dns))


def _speak(edit: ClusterEdit, backends: list[Backend]) -> None:
    """Set the upstream protocol: that of the client if a feature says so, HTTP/1.1 if forced, HTTP/2 if
    requested, HTTP/1.1 if a feature sets options of it, as negotiated with TLS.

    Else leave Envoy's default.
    """
    http, http1 = edit.http, edit.http1_options
    if http.HasField("use_downstream_protocol_config"):
        http.use_downstream_protocol_config.http2_protocol_options.CopyFrom(edit.http2_options)
        if http1.ByteSize():
            http.use_downstream_protocol_config.http_protocol_options.CopyFrom(http1)
    elif any(b.http1 for b in backends):
        http.explicit_http_config.http_protocol_options.CopyFrom(http1)
    elif any(b.protocol in _OVER_HTTP2 for b in backends):
        http.explicit_http_config.http2_protocol_options.CopyFrom(edit.http2_options)
    elif http1.ByteSize() and http.WhichOneof("upstream_protocol_options") is None:
        http.explicit_http_config.http_protocol_options.CopyFrom(http1)
    elif http.WhichOneof("upstream_protocol_options") is None and negotiates(backends):
        http.auto_config.http_protocol_options.SetInParent()
        http.auto_config.http2_protocol_options.CopyFrom(edit.http2_options)
    elif http.ByteSize() and http.WhichOneof("upstream_protocol_options") is None:
        http.explicit_http_config.http_protocol_options.SetInParent()
    if http.ByteSize():
        edit.message.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(packed(http))
    if not _may_speak_http2(http):
        # Envoy refuses checks by calls of gRPC here. What it can find out is whether somebody listens.
        for check in edit.message.health_checks:
            if check.HasField("grpc_health_check"):
                check.tcp_health_check.SetInParent()


def _may_speak_http2(http: HttpProtocolOptions) -> bool:
    return (
        http.explicit_http_config.HasField("http2_protocol_options")
        or http.use_downstream_protocol_config.HasField("http2_protocol_options")
        or http.HasField("auto_config")
    )


def _describe(db: Db, key: ClusterKey, message: Cluster) -> None:
    """Name a cluster's backend or rule in its metadata; others have none."""
    match key:
        case BackendCluster():
            message.metadata.MergeFromString(metadata(key.target.ref, key.target.section))
        case RuleCluster():
            annotations = _route_annotations(db, key.route)
            message.metadata.MergeFromString(metadata(key.route, section_of(db, key), annotations))
        case MirrorCluster() | PolicyCluster() | SinkCluster():
            pass


def _assignment(
    db: Db, key: ClusterKey, members: list[Member], name: str, *, of_names: bool
) -> ClusterLoadAssignment:
    # A cluster has either hostnames or addresses; Envoy refuses a mixture. But a backend that has just
    # changed from one to the other stays a member until its rule is resolved again, and endpoints do not wait
    # for that.
    message = ClusterLoadAssignment(cluster_name=name)
    if isinstance(key, SinkCluster):
        of_sink = sinks.sink_settings(db, key.fleet, key.name)
        settings = tuple(each for each in of_sink if each[0].endpoint is not None)
        zoned = zones_of(of_sink)
    elif isinstance(key, RuleCluster) and is_of_connections(key):
        of_route = _settings(db, key)
        settings = tuple(each for each in of_route if each[0].endpoint is not None)
        zoned = zones_of(of_route)
    elif isinstance(key, BackendCluster):
        settings, zoned = shared_endpoint_settings(db, key.fleet.owner)
    else:
        settings, zoned = endpoint_settings(db, _policies(db, key)), zones(db, _policies(db, key))
    described = "endpoint" in holders(db, key.fleet)
    for n, (at, locality_name, weight, routed, fallback) in enumerate(members):
        judged = reached_by(db, key, at, routed)
        if judged.empty and is_of_connections(key):
            continue  # its share goes to the others
        usable = judged.problem is None and not judged.empty and judged.dns is of_names
        reached = endpoints(db, at, routed) if usable else ()
        for locality, of in _localities(
            message, reached, locality_name, weight, _zones(judged, members, zoned)
        ):
            if not usable:
                continue
            locality.priority = 1 if fallback or judged.fallback else 0
            if described:
                locality.metadata.MergeFromString(metadata(at.ref, at.section))
            for endpoint in of:
                entry = add_endpoint(locality, endpoint)
                if judged.tls is not None:
                    mark(entry, key.name, n)
                for feature, effective in settings:
                    if feature.endpoint is not None:
                        feature.endpoint(entry.endpoint, effective)
    return message


def _zones(judged: Backend, members: list[Member], configured: Zones | None) -> Zones | None:
    """How the endpoints of a backend stand by zones. Where backends share a cluster, localities are these."""
    if len(members) > 1:
        return None
    return configured if configured is not None or judged.local is None else Zones()


def _localities(
    message: ClusterLoadAssignment, of: tuple[Endpoint, ...], name: str, weight: int, zoned: Zones | None
) -> Iterator[tuple[LocalityLbEndpoints, Iterable[Endpoint]]]:
    """Add the localities of a backend: one, or one for each zone, by name."""
    if zoned is None:
        locality = message.endpoints.add()
        locality.locality.region = name
        locality.load_balancing_weight.value = weight
        yield locality, of
        return
    weights = dict(zoned.weights or ())
    for zone in sorted({each.zone for each in of}):
        locality = message.endpoints.add()
        locality.locality.zone = zone
        locality.locality.SetInParent()
        if zoned.weights is not None:
            locality.load_balancing_weight.value = weights.get(zone, 1)
        yield locality, (each for each in of if each.zone == zone)


def _least_request(local: PreferLocal | None = None) -> LoadBalancingPolicy:
    """Envoy's own default, with locality weights, which carry the weights of a rule's backends."""
    policy = LeastRequest(locality_lb_config=by_zone(local))
    message = LoadBalancingPolicy()
    config = message.policies.add().typed_extension_config
    config.name = "envoy.load_balancing_policies.least_request"
    config.typed_config.CopyFrom(packed(policy))
    return message
