"""What an EnvoyProxy asks for and Envoy is told at its start only: which statistics it has, and their sinks.

The clusters of these sinks are static, as Envoy wants them, but their endpoints come by EDS: a collector that
moves restarts no Envoy.

Source: EnvoyProxy, ``spec.telemetry.metrics``; envoy.config.bootstrap.v3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.metrics.v3.stats_pb2 import StatsSink
from envoy.extensions.stat_sinks.open_telemetry.v3.open_telemetry_pb2 import SinkConfig
from envoy.type.matcher.v3.string_pb2 import ListStringMatcher

from moongate import names
from moongate.api.shared import StringMatch
from moongate.attach.gateways import fleet_proxy
from moongate.engine import query
from moongate.features.shared import string_matcher
from moongate.xds.clusters import cluster
from moongate.xds.sinks import authority, grpc_service, metric_keys
from moongate.xds.tracing import static_attributes
from moongate.xds.wire import Encoded, encode, packed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.base import FleetId
    from moongate.api.envoyproxy import ProxyBootstrap
    from moongate.api.telemetry import ProxyMetrics, ProxyTelemetry
    from moongate.engine import Db

IN_FLIGHT: Final = r"(http\..*\.downstream_(rq|cx)_active|listener\..*\.downstream_cx_active)"
"""The statistics that say whether an Envoy may end; it has them whatever ``metrics.matches`` says."""


class BootstrapParts(Encoded, frozen=True):
    """What an EnvoyProxy asks of a bootstrap.

    Args:
        telemetry: an encoded ``Bootstrap`` that is merged into our own.
        changes: what is made of the whole then.
    """

    telemetry: bytes = b""
    changes: ProxyBootstrap | None = None


@query
def bootstrap_parts(db: Db, fleet: FleetId) -> BootstrapParts:
    """What an EnvoyProxy asks of the bootstrap of a fleet's Envoys."""
    spec = fleet_proxy(db, fleet).spec
    return BootstrapParts(_of_telemetry(db, fleet, spec.telemetry), spec.bootstrap)


def _of_telemetry(db: Db, fleet: FleetId, telemetry: ProxyTelemetry | None) -> bytes:
    metrics = telemetry.metrics if telemetry is not None else None
    if metrics is None:
        return b""
    message = Bootstrap(stats_sinks=_sinks(db, fleet, metrics))
    for key in metric_keys(db, fleet):
        built = cluster(db, key)
        if built is not None:
            message.static_resources.clusters.append(Cluster.FromString(built.body))
    if metrics.matches:
        matches = (*metrics.matches, StringMatch(type="RegularExpression", value=IN_FLIGHT))
        patterns = [string_matcher(match) for match in matches]
        message.stats_config.stats_matcher.inclusion_list.CopyFrom(ListStringMatcher(patterns=patterns))
    return encode(message)


def _sinks(db: Db, fleet: FleetId, metrics: ProxyMetrics) -> Iterator[StatsSink]:
    clusters = {key.name for key in metric_keys(db, fleet)}
    for n, sink in enumerate(metrics.sinks):
        name, settings = names.metric_sink(n), sink.open_telemetry
        if settings is None or name not in clusters:
            continue
        config = SinkConfig(
            grpc_service=grpc_service(name, authority(db, fleet, name), settings.headers),
            report_counters_as_deltas=bool(settings.report_counters_as_deltas),
            report_histograms_as_deltas=bool(settings.report_histograms_as_deltas),
        )
        if settings.resource_attributes:
            config.resource_detectors.append(static_attributes(settings.resource_attributes))
        yield StatsSink(name="envoy.stat_sinks.open_telemetry", typed_config=packed(config))
