"""What telemetry adds to the bootstrap."""

from __future__ import annotations

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.extensions.stat_sinks.open_telemetry.v3.open_telemetry_pb2 import SinkConfig

from moongate.xds.bootstraps import IN_FLIGHT, BootstrapParts, bootstrap_parts
from moongate.xds.clusters import load_assignment
from moongate.xds.sinks import metric_keys
from tests.core import EG_FLEET, ON_HOST, Core
from tests.xds.test_sinks import COLLECTOR, GRANT, SLICE, TO_COLLECTOR, of_gateway


def reporting(metrics: str) -> Core:
    return of_gateway(f"{{metrics: {metrics}}}", COLLECTOR, SLICE, GRANT, config=ON_HOST)


def parts(core: Core) -> Bootstrap:
    return Bootstrap.FromString(bootstrap_parts(core.db, EG_FLEET).telemetry)


def test_a_sink_has_a_static_cluster_whose_endpoints_come_by_eds() -> None:
    more = "reportCountersAsDeltas: true, headers: [{name: token, value: t}], resourceAttributes: {a: b}"
    message = parts(
        reporting(f"{{sinks: [{{type: OpenTelemetry, openTelemetry: {{{TO_COLLECTOR}, {more}}}}}]}}")
    )
    [cluster], [sink], config = message.static_resources.clusters, message.stats_sinks, SinkConfig()
    assert sink.typed_config.Unpack(config)

    assert (cluster.name, cluster.type) == ("otel_metric_sink_0", Cluster.EDS)
    assert config.grpc_service.envoy_grpc.cluster_name == "otel_metric_sink_0"
    assert config.grpc_service.envoy_grpc.authority == "collector.monitoring.svc"
    assert config.grpc_service.initial_metadata[0].key == "token"
    assert config.report_counters_as_deltas
    assert not config.report_histograms_as_deltas
    assert len(config.resource_detectors) == 1


def test_a_collector_that_moves_does_not_change_the_bootstrap() -> None:
    """A changed bootstrap restarts Envoy."""
    core = reporting(f"{{sinks: [{{type: OpenTelemetry, openTelemetry: {{{TO_COLLECTOR}}}}}]}}")
    before = bootstrap_parts(core.db, EG_FLEET)
    core.apply(SLICE.replace("10.0.0.1", "10.0.0.2"))
    assert bootstrap_parts(core.db, EG_FLEET) == before
    core.delete("Service", "monitoring", "collector")

    assert bootstrap_parts(core.db, EG_FLEET) == before


def test_a_collector_with_tls_has_its_endpoints_under_the_name_of_its_cluster() -> None:
    """A cluster of the bootstrap asks for them by that name as long as its Envoy runs."""
    core = reporting(f"{{sinks: [{{type: OpenTelemetry, openTelemetry: {{{TO_COLLECTOR}}}}}]}}")
    target = "{group: '', kind: Service, name: collector}"
    checks = "{wellKnownCACertificates: System, hostname: collector.internal}"
    core.apply(f"""
        apiVersion: gateway.networking.k8s.io/v1
        kind: BackendTLSPolicy
        metadata: {{name: collector, namespace: monitoring}}
        spec: {{targetRefs: [{target}], validation: {checks}}}
    """)
    [key] = metric_keys(core.db, EG_FLEET)
    [cluster] = parts(core).static_resources.clusters
    assignment = load_assignment(core.db, key)

    assert len(cluster.transport_socket_matches) == 1
    assert assignment is not None
    assert assignment.name == cluster.eds_cluster_config.service_name == key.name


def test_of_the_statistics_only_some_may_be_kept() -> None:
    """And those by which an Envoy that is to end knows that it may."""
    message = parts(
        reporting(
            "{matches: [{type: Prefix, value: http}, {value: a.b}, {type: RegularExpression, value: c+}]}"
        )
    )
    patterns = message.stats_config.stats_matcher.inclusion_list.patterns

    assert [pattern.WhichOneof("match_pattern") for pattern in patterns] == [
        "prefix",
        "exact",
        "safe_regex",
        "safe_regex",
    ]
    assert patterns[3].safe_regex.regex == IN_FLIGHT


def test_without_metrics_there_is_nothing() -> None:
    assert bootstrap_parts(of_gateway("{}", config=ON_HOST).db, EG_FLEET) == BootstrapParts()
