"""The bootstrap configuration of Envoy: the address of its control plane, and little else.

All other configuration comes by xDS. An EnvoyProxy may change the bootstrap.

What must stay
==============
An Envoy with another control plane, node or admin interface could not be configured or observed. So a
bootstrap that changes them is refused. A bootstrap that replaces ours as a whole may have been written for
Envoy Gateway: if it has there what Envoy Gateway has, our own take that place.

Source: envoy.config.bootstrap.v3; the form is that of Envoy Gateway, but with Unix sockets instead of mutual
TLS over TCP, and instead of a TCP port for admin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import yaml
from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.bootstrap.v3.bootstrap_pb2 import Admin, Bootstrap, LayeredRuntime, RuntimeLayer
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.address_pb2 import Address, Pipe
from envoy.config.core.v3.backoff_pb2 import BackoffStrategy
from envoy.config.core.v3.base_pb2 import Locality, Node, RetryPolicy
from envoy.config.core.v3.config_source_pb2 import (
    AggregatedConfigSource,
    ApiConfigSource,
    ApiVersion,
    ConfigSource,
)
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.config.core.v3.protocol_pb2 import Http2ProtocolOptions, KeepaliveSettings
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.metrics.v3.stats_pb2 import StatsConfig, TagSpecifier
from envoy.config.overload.v3.overload_pb2 import OverloadManager, ResourceMonitor
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.resource_monitors.downstream_connections.v3.downstream_connections_pb2 import (
    DownstreamConnectionsConfig,
)
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct as ProtoStruct
from google.protobuf.wrappers_pb2 import BoolValue

from moongate.json_patch import PatchError, patched, read
from moongate.message_documents import as_document
from moongate.names import STATISTICS_CLUSTER
from moongate.problem import Problem
from moongate.xds.wire import packed

if TYPE_CHECKING:
    from moongate.api.envoyproxy import ProxyBootstrap

XDS_CLUSTER: Final = "xds_cluster"

# Labels that Envoy Gateway extracts from the names of statistics. The expressions are the same as there,
# because they also determine the names of the metrics.
STATS_TAGS: Final = (
    ("from_zone", r"\.zone(\.(([^\.]+)\.))"),
    ("to_zone", r"\.zone\.[^\.]+\.(([^\.]+)\.)"),
    ("socket_match_name", r"^cluster(\..+\.(.+))\.total_match_count$"),
    ("priority", r"circuit_breakers\.((.+?)\.).+"),
)


_OWN_CLUSTERS: Final = (XDS_CLUSTER, STATISTICS_CLUSTER)
_MOST_ALIASES: Final = 32


def default_bootstrap(
    fleet: str,
    node_id: str,
    *,
    xds_socket: str,
    admin_socket: str,
    zone: str = "",
    max_connections: int = 50_000,
    stats_tags: bool = False,
) -> Bootstrap:
    """The bootstrap of one Envoy that gets everything from ``xds_socket``.

    Args:
        fleet: the name of the fleet. The control plane knows it from ``xds_socket``, and refuses an Envoy
            that has another.
        node_id: distinguishes the Envoys of a fleet.
        xds_socket: Unix socket on which delta ADS is served to this fleet.
        admin_socket: Unix socket that Envoy creates for its admin interface; only its owner can use it.
        zone: availability zone, for zone aware routing.
        max_connections: downstream connections over all listeners; more are refused.
        stats_tags: extract Envoy Gateway's four extra labels from the names of statistics. Each is a regular
            expression that Envoy tries on every statistic: with 5,000 clusters Envoy takes 16 s of CPU until
            it is ready, and 1.7 s without. So only users whose dashboards need the labels should set this.
    """
    return Bootstrap(
        node=Node(id=node_id, cluster=fleet, locality=Locality(zone=zone) if zone else None),
        admin=Admin(
            address=Address(pipe=Pipe(path=admin_socket, mode=0o600)),
            access_log=[
                AccessLog(
                    name="envoy.access_loggers.file", typed_config=packed(FileAccessLog(path="/dev/null"))
                )
            ],
        ),
        dynamic_resources=Bootstrap.DynamicResources(
            ads_config=ApiConfigSource(
                api_type=ApiConfigSource.DELTA_GRPC,
                transport_api_version=ApiVersion.V3,
                grpc_services=[GrpcService(envoy_grpc=_xds_service())],
                set_node_on_first_message_only=True,
            ),
            lds_config=_ads(),
            cds_config=_ads(),
        ),
        static_resources=Bootstrap.StaticResources(
            clusters=[_xds_cluster(xds_socket), _own_statistics(admin_socket)]
        ),
        # Nobody gets statistics but those who ask. Otherwise Envoy goes through those of all clusters every
        # five seconds: with 5,000 of them its main thread, which also takes what is sent, stands still then.
        stats_flush_on_admin=True,
        deferred_stat_options=Bootstrap.DeferredStatOptions(enable_deferred_creation_stats=True),
        stats_config=StatsConfig(
            use_all_default_tags=BoolValue(value=True),
            stats_tags=[TagSpecifier(tag_name=name, regex=regex) for name, regex in STATS_TAGS]
            if stats_tags
            else (),
        ),
        layered_runtime=LayeredRuntime(layers=[_runtime()]),
        overload_manager=OverloadManager(
            refresh_interval=Duration(nanos=250_000_000),
            resource_monitors=[
                ResourceMonitor(
                    name="envoy.resource_monitors.global_downstream_max_connections",
                    typed_config=packed(
                        DownstreamConnectionsConfig(max_active_downstream_connections=max_connections)
                    ),
                )
            ],
        ),
    )


def _ads() -> ConfigSource:
    # Zero means: wait for the control plane without a limit, instead of serving with nothing.
    return ConfigSource(
        ads=AggregatedConfigSource(), initial_fetch_timeout=Duration(), resource_api_version=ApiVersion.V3
    )


def _xds_service() -> GrpcService.EnvoyGrpc:
    # An Envoy that outlived its control plane is to know soon when there is one again; asking costs little.
    back_off = BackoffStrategy(base_interval=Duration(nanos=50_000_000), max_interval=Duration(seconds=1))
    return GrpcService.EnvoyGrpc(cluster_name=XDS_CLUSTER, retry_policy=RetryPolicy(retry_back_off=back_off))


def _xds_cluster(xds_socket: str) -> Cluster:
    http2 = Http2ProtocolOptions(
        connection_keepalive=KeepaliveSettings(interval=Duration(seconds=30), timeout=Duration(seconds=5))
    )
    protocol = HttpProtocolOptions(
        explicit_http_config=HttpProtocolOptions.ExplicitHttpConfig(http2_protocol_options=http2)
    )
    endpoint = LbEndpoint(endpoint=Endpoint(address=Address(pipe=Pipe(path=xds_socket))))
    return Cluster(
        name=XDS_CLUSTER,
        type=Cluster.STATIC,
        connect_timeout=Duration(seconds=10),
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(protocol),
        },
        load_assignment=ClusterLoadAssignment(
            cluster_name=XDS_CLUSTER, endpoints=[LocalityLbEndpoints(lb_endpoints=[endpoint])]
        ),
    )


def _own_statistics(admin_socket: str) -> Cluster:
    """Where the listener for Prometheus sends its requests; there is one if the EnvoyProxy asks for it."""
    endpoint = LbEndpoint(endpoint=Endpoint(address=Address(pipe=Pipe(path=admin_socket))))
    return Cluster(
        name=STATISTICS_CLUSTER,
        type=Cluster.STATIC,
        connect_timeout=Duration(nanos=250_000_000),
        load_assignment=ClusterLoadAssignment(
            cluster_name=STATISTICS_CLUSTER, endpoints=[LocalityLbEndpoints(lb_endpoints=[endpoint])]
        ),
    )


def _runtime() -> RuntimeLayer:
    layer = ProtoStruct()
    # The size of a compiled regular expression: Envoy never refuses it, because moongate checks it before,
    # and warns from 1,000 on.
    layer.update({"re2.max_program_size.error_level": 2**32 - 1, "re2.max_program_size.warn_level": 1000})
    return RuntimeLayer(name="global_config", static_layer=layer)


# -- what an EnvoyProxy changes -------------------------------------------------


def with_parts(base: Bootstrap, parts: bytes) -> Bootstrap:
    """A bootstrap with what telemetry adds to it.

    Args:
        base: the bootstrap; changed.
        parts: an encoded ``Bootstrap``.
    """
    base.MergeFromString(parts)
    _flush(base)
    return base


def amended(base: Bootstrap, changes: ProxyBootstrap) -> Bootstrap:
    """A bootstrap as an EnvoyProxy changes it.

    Args:
        base: our own; not changed.
        changes: what the EnvoyProxy says.

    Raises:
        PatchError: it is no bootstrap, or changes what must stay.
    """
    match changes.type:
        case "Merge":
            result = Bootstrap()
            result.CopyFrom(base)
            result.MergeFrom(_written(changes.value or ""))
        case "JSONPatch":
            document: Any = as_document(base, snake_case=True)
            for n, operation in enumerate(changes.json_patches):
                try:
                    document = patched(document, operation)
                except PatchError as error:
                    raise PatchError(f"jsonPatches[{n}]: {error}") from None
            result = read(Bootstrap, document)
        case "Replace":
            return _in_our_place(base, _written(changes.value or ""))
    _check(base, result)
    _flush(result)
    return result


def bootstrap_problem(changes: ProxyBootstrap) -> Problem | None:
    """Why an EnvoyProxy cannot change the bootstrap as it asks for; ``None`` if it can."""
    base = default_bootstrap("fleet", "node", xds_socket="/xds", admin_socket="/admin")
    try:
        amended(base, changes)
    except PatchError as error:
        where = "jsonPatches" if changes.type == "JSONPatch" else "value"
        return Problem(f"spec.bootstrap.{where}", str(error), "InvalidParameters")
    return None


def _flush(message: Bootstrap) -> None:
    """Let Envoy send its statistics, if it is to send them anywhere; it takes one of the two settings."""
    if message.stats_sinks or message.HasField("stats_flush_interval"):
        message.ClearField("stats_flush_on_admin")


def _written(text: str) -> Bootstrap:
    try:
        # Each alias may stand for many others.
        aliases = sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.CSafeLoader))
        document: Any = yaml.load(text, yaml.CSafeLoader) if aliases <= _MOST_ALIASES else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        problem: str = getattr(error, "problem", None) or "it is nested too deep, or a value is too long"
        raise PatchError(f"It is no YAML{where}: {problem}.") from None
    if aliases > _MOST_ALIASES:
        raise PatchError(f"It has {aliases} aliases; it may have {_MOST_ALIASES}.")
    if not isinstance(document, dict):
        raise PatchError(
            "It is no bootstrap: the YAML must be an object, with fields such as static_resources."
        )
    return read(Bootstrap, document)


def _check(base: Bootstrap, result: Bootstrap) -> None:
    """Raise ``PatchError`` if a bootstrap is changed where it must not be."""
    if _without_patience(result) != _without_patience(base):
        raise PatchError("dynamic_resources cannot be modified, except for initial_fetch_timeout.")
    ours, theirs = (_clusters(each, XDS_CLUSTER) for each in (base, result))
    if len(theirs) != 1:
        raise PatchError(f"static_resources must have one cluster {XDS_CLUSTER}; it has {len(theirs)}.")
    if theirs[0].load_assignment != ours[0].load_assignment:
        raise PatchError(f"The load_assignment of {XDS_CLUSTER} cannot be modified.")
    if (result.node.id, result.node.cluster) != (base.node.id, base.node.cluster):
        raise PatchError("node.id and node.cluster cannot be modified: they say whose Envoy it is.")
    if result.admin.address != base.admin.address:
        raise PatchError("admin.address cannot be modified: the Envoy is watched and ended over it.")


def _in_our_place(base: Bootstrap, written: Bootstrap) -> Bootstrap:
    """A bootstrap that was written as a whole, with what is ours put in."""
    dynamic = _without_patience(written)
    for service in dynamic.ads_config.grpc_services:
        service.envoy_grpc.ClearField("retry_policy")
    ours = _without_patience(base)
    for service in ours.ads_config.grpc_services:
        service.envoy_grpc.ClearField("retry_policy")
    if dynamic != ours:
        raise PatchError(
            "dynamic_resources cannot be modified, except for initial_fetch_timeout: listeners and clusters "
            f"come by ads, which is a DELTA_GRPC service of version V3 in the cluster {XDS_CLUSTER}."
        )
    theirs = _clusters(written, XDS_CLUSTER)
    if len(theirs) != 1:
        raise PatchError(f"static_resources must have one cluster {XDS_CLUSTER}; it has {len(theirs)}.")
    hosts = {
        endpoint.endpoint.address.socket_address.address
        for locality in theirs[0].load_assignment.endpoints
        for endpoint in locality.lb_endpoints
    }
    if foreign := sorted(host for host in hosts if host.partition(".")[0] != "envoy-gateway"):
        raise PatchError(f"The load_assignment of {XDS_CLUSTER} cannot be modified: it names {foreign[0]!r}.")
    result = Bootstrap()
    result.CopyFrom(written)
    result.node.id, result.node.cluster = base.node.id, base.node.cluster
    if result.node.locality.zone.startswith("$("):
        # A placeholder that Kubernetes would replace.
        result.node.ClearField("locality")
    result.admin.address.CopyFrom(base.admin.address)
    result.dynamic_resources.ads_config.CopyFrom(base.dynamic_resources.ads_config)
    kept = [each for each in written.static_resources.clusters if each.name not in _OWN_CLUSTERS]
    del result.static_resources.clusters[:]
    result.static_resources.clusters.extend(each for name in _OWN_CLUSTERS for each in _clusters(base, name))
    result.static_resources.clusters.extend(kept)
    return result


def _without_patience(message: Bootstrap) -> Bootstrap.DynamicResources:
    """The dynamic resources without the time that Envoy waits for the first of them."""
    dynamic = Bootstrap.DynamicResources()
    dynamic.CopyFrom(message.dynamic_resources)
    for source in (dynamic.lds_config, dynamic.cds_config):
        source.ClearField("initial_fetch_timeout")
    return dynamic


def _clusters(message: Bootstrap, name: str) -> list[Cluster]:
    return [each for each in message.static_resources.clusters if each.name == name]
