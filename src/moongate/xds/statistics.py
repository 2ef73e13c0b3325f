"""Which statistics Envoy keeps of virtual hosts and clusters, as an EnvoyProxy asks for them.

Source: EnvoyProxy, ``spec.telemetry.metrics``; the reference's names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.cluster.v3.cluster_pb2 import TrackClusterStats
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, VirtualCluster
from envoy.extensions.compression.brotli.compressor.v3.brotli_pb2 import Brotli
from envoy.extensions.compression.gzip.compressor.v3.gzip_pb2 import Gzip
from envoy.extensions.compression.zstd.compressor.v3.zstd_pb2 import Zstd
from envoy.extensions.filters.http.compressor.v3.compressor_pb2 import Compressor
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpFilter,
)
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from moongate import names
from moongate.api.shared import quantity
from moongate.attach.gateways import ROUTE_STAT_OPERATORS, STAT_OPERATORS, fleet_proxy
from moongate.engine import query
from moongate.xds.wire import encode, packed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from moongate.api.base import FleetId, Ref
    from moongate.api.route import RouteRule
    from moongate.api.telemetry import Prometheus, PrometheusCompression, ProxyMetrics
    from moongate.engine import Db


@query
def has_virtual_host_stats(db: Db, fleet: FleetId) -> bool:
    """Whether each virtual host is counted by itself."""
    settings = _settings(db, fleet)
    return settings is not None and bool(settings.enable_virtual_host_stats)


def virtual_cluster(host: str) -> VirtualCluster:
    """What counts all requests of a virtual host."""
    match = HeaderMatcher(name=":authority", string_match=StringMatcher(prefix=host))
    if "*" in host:
        # No authority begins with an asterisk; whatever meets this virtual host is to be counted.
        match = HeaderMatcher(name=":authority", present_match=True)
    return VirtualCluster(name=names.underscored(host), headers=[match])


@query
def tracked(db: Db, fleet: FleetId) -> bytes | None:
    """The encoded ``TrackClusterStats`` of a fleet's clusters; ``None`` for what Envoy counts anyway."""
    settings = _settings(db, fleet)
    if settings is None or not (
        settings.enable_per_endpoint_stats or settings.enable_request_response_sizes_stats
    ):
        return None
    config = TrackClusterStats(
        per_endpoint_stats=bool(settings.enable_per_endpoint_stats),
        request_response_sizes=bool(settings.enable_request_response_sizes_stats),
    )
    return encode(config)


@query
def counts_calls(db: Db, fleet: FleetId) -> bool | None:
    """Whether all listeners count calls of gRPC, or none; ``None`` for those that serve GRPCRoutes."""
    settings = _settings(db, fleet)
    return settings.enable_grpc_stats if settings is not None else None


@query
def cluster_stat_name(db: Db, fleet: FleetId) -> str:
    """The pattern of the names of rules' clusters in statistics; "" for the names of the clusters."""
    settings = _settings(db, fleet)
    return (settings.cluster_stat_name if settings is not None else None) or ""


def stat_name(pattern: str, route: Ref, index: int, rule: RouteRule) -> str:
    """The name in statistics of a rule's cluster."""
    backends = (f"{ref.namespace or route.namespace}/{ref.name}" for ref in rule.backend_refs)
    values = {"%ROUTE_RULE_NUMBER%": str(index), "%BACKEND_REFS%": "|".join(backends)}
    assert values.keys() | ROUTE_STAT_OPERATORS == STAT_OPERATORS, (
        "an operator that is accepted has a meaning"
    )
    return _with(values, route_stat_name(pattern, route, rule))


def route_stat_name(pattern: str, route: Ref, rule: RouteRule) -> str:
    """The name in statistics of a rule."""
    values = {
        "%ROUTE_NAME%": route.name,
        "%ROUTE_NAMESPACE%": route.namespace,
        "%ROUTE_KIND%": route.kind.lower(),
        "%ROUTE_RULE_NAME%": rule.name or "-",
    }
    assert values.keys() == ROUTE_STAT_OPERATORS, "an operator that is accepted has a meaning"
    return _with(values, pattern)


def _with(values: Mapping[str, str], pattern: str) -> str:
    for operator, value in values.items():
        pattern = pattern.replace(operator, value)
    return pattern


@query
def prometheus(db: Db, fleet: FleetId) -> Prometheus | None:
    """How Prometheus gets the statistics from a host; ``None`` unless the EnvoyProxy says that it does.

    Elsewhere it does unless the EnvoyProxy says otherwise, but all fleets of a host share its ports.
    """
    settings = _settings(db, fleet)
    exporter = settings.prometheus if settings is not None else None
    return exporter if exporter is not None and not exporter.disable else None


def compressor(compression: PrometheusCompression) -> HttpFilter:
    """The HTTP filter that compresses what Prometheus gets."""
    libraries: Mapping[str, tuple[str, Message]] = {
        "Gzip": ("gzip", Gzip()),
        "Brotli": ("brotli", Brotli()),
        "Zstd": ("zstd", Zstd()),
    }
    name, library = libraries[compression.type]
    config = Compressor(
        compressor_library=TypedExtensionConfig(
            name=f"envoy.compression.{name}.compressor", typed_config=packed(library)
        )
    )
    if compression.min_content_length is not None:
        least = config.response_direction_config.common_config.min_content_length
        least.value = min(max(quantity(compression.min_content_length), 0), 2**32 - 1)
    return HttpFilter(name="envoy.filters.http.compressor", typed_config=packed(config))


def _settings(db: Db, fleet: FleetId) -> ProxyMetrics | None:
    telemetry = fleet_proxy(db, fleet).spec.telemetry
    return telemetry.metrics if telemetry is not None else None
