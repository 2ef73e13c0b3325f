"""The bootstrap configuration of Envoy: the address of its control plane, and little else.

All other configuration comes by xDS. This module reads no file, no clock and no state of the machine, so
the same arguments give the same bootstrap.

Source: envoy.config.bootstrap.v3; the form is that of Envoy Gateway, but with Unix sockets instead
of mutual TLS over TCP, and instead of a TCP port for admin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from google.protobuf.json_format import MessageToJson
from google.protobuf.struct_pb2 import Struct as ProtoStruct
from google.protobuf.wrappers_pb2 import BoolValue
from msgspec import Struct

from moongate.names import STATISTICS_CLUSTER
from moongate.xds.wire import packed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

XDS_CLUSTER = "xds_cluster"

# Labels that Envoy Gateway extracts from the names of statistics. The expressions are the same as there,
# because they also determine the names of the metrics.
STATS_TAGS = (
    ("from_zone", r"\.zone(\.(([^\.]+)\.))"),
    ("to_zone", r"\.zone\.[^\.]+\.(([^\.]+)\.)"),
    ("socket_match_name", r"^cluster(\..+\.(.+))\.total_match_count$"),
    ("priority", r"circuit_breakers\.((.+?)\.).+"),
)


class EnvoyOptions(Struct, frozen=True, kw_only=True):
    """How to run an Envoy, apart from its xDS configuration.

    Args:
        log_levels: level by component, as EnvoyProxy ``spec.logging.level`` has it; ``default`` is
            the level of all components that are not named.
        concurrency: worker threads; None for one per CPU, four at the most.
        drain_s: how long to wait for requests in flight when Envoy ends, in seconds.
        listener_drain_s: how long open connections of a changed or deleted listener may stay, in seconds. New
            connections go to the changed listener at once. Long downloads and WebSockets are cut after this
            time. Envoy also keeps the former listener in memory for this time.
        extra_args: more arguments for Envoy; they override ours.
    """

    log_levels: Mapping[str, str] = {}
    concurrency: int | None = None
    drain_s: int = 5
    listener_drain_s: int = 60
    extra_args: tuple[str, ...] = ()


def bootstrap(
    fleet: str,
    node_id: str,
    *,
    xds_socket: Path,
    admin_socket: Path,
    zone: str = "",
    max_connections: int = 50_000,
    stats_tags: bool = False,
    parts: bytes = b"",
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
        parts: an encoded ``Bootstrap`` that is merged into it.
    """
    message = Bootstrap(
        node=Node(id=node_id, cluster=fleet, locality=Locality(zone=zone) if zone else None),
        admin=Admin(
            address=Address(pipe=Pipe(path=str(admin_socket), mode=0o600)),
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
    message.MergeFromString(parts)
    if message.stats_sinks:
        message.ClearField("stats_flush_on_admin")
    return message


def as_json(message: Bootstrap) -> bytes:
    """The bootstrap as the content of the file that Envoy reads: equal ones have equal content."""
    return MessageToJson(message, indent=2, sort_keys=True).encode() + b"\n"


def arguments(bootstrap_file: Path, options: EnvoyOptions, *, cpus: int, log_format: str) -> tuple[str, ...]:
    """Envoy's command line after the binary's name; a flag and its value are two entries.

    Args:
        bootstrap_file: the file of the bootstrap; its name ends in ``.json``.
        options: the options from the EnvoyProxy.
        cpus: CPUs that this process may use.
        log_format: format of Envoy's own log, in spdlog's terms.
    """
    components = [
        f"{name}:{level}" for name, level in sorted(options.log_levels.items()) if name != "default"
    ]
    ours: dict[str, str | None] = {
        "--config-path": str(bootstrap_file),
        "--log-level": options.log_levels.get("default", "warn"),
        "--component-log-level": ",".join(components),
        "--log-format": log_format,
        "--concurrency": str(options.concurrency or max(1, min(cpus, 4))),
        "--drain-strategy": "immediate",
        "--drain-time-s": str(options.listener_drain_s),
        # The default of ten seconds is too long for a user who waits for a line.
        "--file-flush-interval-msec": "100",
        # Without the shared memory and the socket of a hot restart, several Envoys can run on one machine.
        "--disable-hot-restart": None,
        # Otherwise Envoy checks all fields of a changed route table for unknown and deprecated ones, a
        # quarter of its work. We use only fields of the messages that it is built with.
        "--ignore-unknown-dynamic-fields": None,
        # A crash is one log entry, not one for each stack frame.
        "--log-stacktrace-single-entry": None,
    }
    theirs = {_ALIASES.get(argument, argument) for argument in options.extra_args}
    flags: list[str] = []
    for flag, value in ours.items():
        # Envoy refuses a repeated flag.
        if flag not in theirs and value != "":
            flags += [flag] if value is None else [flag, value]
    return (*flags, *options.extra_args)


_ALIASES = {"-c": "--config-path", "-l": "--log-level"}


def _ads() -> ConfigSource:
    # Zero means: wait for the control plane without a limit, instead of serving with nothing.
    return ConfigSource(
        ads=AggregatedConfigSource(), initial_fetch_timeout=Duration(), resource_api_version=ApiVersion.V3
    )


def _xds_service() -> GrpcService.EnvoyGrpc:
    # An Envoy that outlived its control plane is to know soon when there is one again; asking costs little.
    back_off = BackoffStrategy(base_interval=Duration(nanos=50_000_000), max_interval=Duration(seconds=1))
    return GrpcService.EnvoyGrpc(cluster_name=XDS_CLUSTER, retry_policy=RetryPolicy(retry_back_off=back_off))


def _xds_cluster(xds_socket: Path) -> Cluster:
    http2 = Http2ProtocolOptions(
        connection_keepalive=KeepaliveSettings(interval=Duration(seconds=30), timeout=Duration(seconds=5))
    )
    protocol = HttpProtocolOptions(
        explicit_http_config=HttpProtocolOptions.ExplicitHttpConfig(http2_protocol_options=http2)
    )
    endpoint = LbEndpoint(endpoint=Endpoint(address=Address(pipe=Pipe(path=str(xds_socket)))))
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


def _own_statistics(admin_socket: Path) -> Cluster:
    """Where the listener for Prometheus sends its requests; there is one if the EnvoyProxy asks for it."""
    endpoint = LbEndpoint(endpoint=Endpoint(address=Address(pipe=Pipe(path=str(admin_socket)))))
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
