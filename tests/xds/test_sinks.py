"""What Envoys report to: clusters, permission, and what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext

from moongate.api.envoygateway import EnvoyGateway
from moongate.attach.gateways import fleet_proxy
from moongate.xds.cluster_keys import SinkCluster
from moongate.xds.clusters import cluster, load_assignment
from moongate.xds.sinks import authority, metric_keys, sink_keys, sink_problems, sinks
from tests.core import EG_FLEET, IN_CLUSTER, ON_HOST, Core, extension, gateway, http

OWN = {"parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "own"}}
COLLECTOR = """
    apiVersion: v1
    kind: Service
    metadata: {name: collector, namespace: monitoring}
    spec: {ports: [{name: grpc, port: 4317}]}
"""
SLICE = """
    apiVersion: discovery.k8s.io/v1
    kind: EndpointSlice
    metadata:
      name: collector
      namespace: monitoring
      labels: {kubernetes.io/service-name: collector}
    addressType: IPv4
    endpoints: [{addresses: [10.0.0.1]}]
    ports: [{name: grpc, port: 4317}]
"""
GRANT = """
    apiVersion: gateway.networking.k8s.io/v1beta1
    kind: ReferenceGrant
    metadata: {name: grant, namespace: monitoring}
    spec:
      from: [{group: gateway.envoyproxy.io, kind: EnvoyProxy, namespace: default}]
      to: [{group: '', kind: Service}]
"""
TO_COLLECTOR = "backendRefs: [{name: collector, namespace: monitoring, port: 4317}]"
TRACED = f"{{tracing: {{provider: {{type: OpenTelemetry, {TO_COLLECTOR}}}}}}}"


def proxy(telemetry: str, *, name: str = "own", namespace: str = "default", more: str = "") -> str:
    return f"""
    apiVersion: gateway.envoyproxy.io/v1alpha1
    kind: EnvoyProxy
    metadata: {{name: {name}, namespace: {namespace}}}
    spec: {{{more}telemetry: {telemetry}}}
    """


def gateway_class(proxy: str) -> str:
    return f"""
    apiVersion: gateway.networking.k8s.io/v1
    kind: GatewayClass
    metadata: {{name: eg}}
    spec:
      controllerName: gateway.envoyproxy.io/gatewayclass-controller
      parametersRef: {{group: gateway.envoyproxy.io, kind: EnvoyProxy, name: {proxy}, namespace: system}}
    """


def of_gateway(telemetry: str, *manifests: str, config: EnvoyGateway = IN_CLUSTER) -> Core:
    return Core(gateway(http("web"), infrastructure=OWN), proxy(telemetry), *manifests, config=config)


def of_class(telemetry: str, *manifests: str) -> Core:
    shared = proxy(telemetry, name="shared", namespace="system")
    return Core(gateway(http("web")), gateway_class("shared"), shared, *manifests)


def cluster_of(core: Core, name: str = "tracing") -> Cluster:
    built = cluster(core.db, SinkCluster(name, EG_FLEET))
    assert built is not None
    return Cluster.FromString(built.body)


def addresses(core: Core, name: str = "tracing") -> list[str]:
    built = load_assignment(core.db, SinkCluster(name, EG_FLEET))
    assert built is not None
    message = ClusterLoadAssignment.FromString(built.body)
    return [e.endpoint.address.socket_address.address for at in message.endpoints for e in at.lb_endpoints]


def faults(core: Core, name: str = "tracing") -> list[tuple[str, str]]:
    return [(problem.path, problem.message) for problem in sink_problems(core.db, EG_FLEET, name)]


def test_what_a_class_refers_to_needs_no_grant() -> None:
    """It is that of who runs the gateways; the reference asks for none either."""
    core = of_class(TRACED, COLLECTOR, SLICE)

    assert faults(core) == []
    assert addresses(core) == ["10.0.0.1"]


def test_what_a_gateway_refers_to_in_another_namespace_needs_a_grant() -> None:
    core = of_gateway(TRACED, COLLECTOR, SLICE)
    [(path, message)] = faults(core)

    assert path == "spec.telemetry.tracing.provider.backendRefs[0]"
    assert "no ReferenceGrant in namespace monitoring lets EnvoyProxy default/own refer to" in message
    assert addresses(core) == []

    core.apply(GRANT)
    assert faults(core) == []
    assert addresses(core) == ["10.0.0.1"]


def test_what_a_gateway_inherits_from_its_class_needs_no_grant() -> None:
    core = Core(
        gateway(http("web"), infrastructure=OWN),
        gateway_class("shared"),
        proxy(TRACED, name="shared", namespace="system"),
        proxy("{requestID: {tracing: Pack}}", more="mergeType: JSONMerge, "),
        COLLECTOR,
        SLICE,
    )

    assert faults(core) == []
    assert addresses(core) == ["10.0.0.1"]


def test_an_inherited_reference_means_the_namespace_it_was_written_in() -> None:
    traced = "{tracing: {provider: {type: OpenTelemetry, backendRefs: [{name: collector, port: 4317}]}}}"
    core = Core(
        gateway(http("web"), infrastructure=OWN),
        gateway_class("shared"),
        proxy(traced, name="shared", namespace="system"),
        proxy("{requestID: {tracing: Pack}}", more="mergeType: JSONMerge, "),
    )

    [sink] = sinks(core.db, EG_FLEET)
    assert [at.namespace for at in sink.targets] == ["system"]


def test_the_cluster_stays_while_its_backend_is_gone() -> None:
    """So the listeners that report to it stay as they are, and their connections."""
    core = of_class(TRACED, COLLECTOR, SLICE)
    before = cluster_of(core)
    core.delete("Service", "monitoring", "collector")

    assert cluster_of(core) == before
    assert addresses(core) == []
    assert faults(core)[0][1].endswith(
        "Service monitoring/collector does not exist. Requests are served, but not reported there."
    )


def test_a_host_is_resolved_and_an_address_is_not() -> None:
    def to(host: str) -> Core:
        return of_gateway(f"{{tracing: {{provider: {{type: OpenTelemetry, host: {host}}}}}}}")

    by_name = cluster_of(to("otel.test"))
    [locality] = by_name.load_assignment.endpoints
    assert by_name.cluster_type.name == "envoy.cluster.dns"
    assert locality.lb_endpoints[0].endpoint.address.socket_address.port_value == 4317
    assert cluster_of(to("10.1.1.1")).type == Cluster.EDS
    assert addresses(to("10.1.1.1")) == ["10.1.1.1"]


@pytest.mark.parametrize(
    ("endpoints", "name"),
    [
        ("{fqdn: {hostname: otel.test, port: 443}}", "otel.test"),
        ("{fqdn: {hostname: otel.test, port: 443}}, {fqdn: {hostname: b.test, port: 443}}", ""),
        ("{ip: {address: 10.1.1.1, port: 443}}", ""),
    ],
)
def test_the_certificate_of_a_sink_must_have_its_hostname(endpoints: str, name: str) -> None:
    """No request says a name, and anybody can have a certificate of the CAs of the system."""
    ref = "{group: gateway.envoyproxy.io, kind: Backend, name: otel}"
    core = of_gateway(
        f"{{tracing: {{provider: {{type: OpenTelemetry, backendRefs: [{ref}]}}}}}}",
        extension(
            "Backend", "otel", f"{{endpoints: [{endpoints}], tls: {{wellKnownCACertificates: System}}}}"
        ),
        config=ON_HOST,
    )

    [match] = cluster_of(core).transport_socket_matches
    context = UpstreamTlsContext()
    assert match.transport_socket.typed_config.Unpack(context)

    names = context.common_tls_context.combined_validation_context.default_validation_context
    assert context.sni == name
    assert [each.matcher.exact for each in names.match_typed_subject_alt_names] == ([name] if name else [])
    assert context.auto_sni_san_validation is not bool(name)


@pytest.mark.parametrize(
    ("provider", "words"),
    [
        ("host: ''", "host is empty"),
        ("host: 'a b'", "host is 'a b'"),
        (r'host: "a\nb"', r"host is 'a\nb'"),
        ("host: a.test, port: 0", "port is 0"),
        ("host: a.test, port: 70000", "port is 70000"),
        ("backendRefs: [{name: a, port: 1, weight: 0}]", "weight 0"),
    ],
)
def test_what_cannot_be_a_cluster_is_none(provider: str, words: str) -> None:
    core = of_gateway(f"{{tracing: {{provider: {{type: OpenTelemetry, {provider}}}}}}}")

    assert sink_keys(core.db, EG_FLEET) == ()
    [(_, message)] = faults(core)
    assert words in message


@pytest.mark.parametrize(
    ("telemetry", "name", "path"),
    [
        (
            "tracing: {provider: {type: OpenTelemetry, host: a.test, openTelemetry: {HEADERS}}}",
            "tracing",
            "spec.telemetry.tracing.provider.openTelemetry.headers[1]",
        ),
        (
            "accessLog: {settings: [{sinks: [{type: OpenTelemetry, openTelemetry: {host: a.b, HEADERS}}]}]}",
            "accesslog_otel_0_0",
            "spec.telemetry.accessLog.settings[0].sinks[0].openTelemetry.headers[1]",
        ),
        (
            "metrics: {sinks: [{type: OpenTelemetry, openTelemetry: {host: a.test, HEADERS}}]}",
            "otel_metric_sink_0",
            "spec.telemetry.metrics.sinks[0].openTelemetry.headers[1]",
        ),
    ],
)
@pytest.mark.parametrize(
    ("header", "field"),
    [
        ("name: Host, value: c4n4ry", "name"),
        (r'name: b, value: "c4n4ry\n"', "value"),
        (r'name: b, value: "c4n4ry\0"', "value"),
        *((f'name: b, value: "c4n4ry {percent}"', "value") for percent in ("100%", "%REQ(", "%GONE%", "%%%")),
    ],
)
def test_a_sink_with_a_header_that_envoy_refuses_gets_nothing(
    telemetry: str, name: str, path: str, header: str, field: str
) -> None:
    """Of some of them Envoy does not even survive that it refuses them."""
    headers = f"headers: [{{name: a, value: sound}}, {{{header}}}]"
    core = of_gateway(f"{{{telemetry.replace('HEADERS', headers)}}}", config=ON_HOST)
    assert name in {sink.name for sink in sinks(core.db, EG_FLEET)}

    [(at, message)] = faults(core, name)

    assert at == f"{path}.{field}"
    assert "c4n4ry" not in message
    assert (sink_keys(core.db, EG_FLEET), metric_keys(core.db, EG_FLEET)) == ((), ())


def test_names_and_addresses_do_not_share_a_cluster() -> None:
    """Envoy would refuse a DNS name among endpoints."""

    def backend(name: str, endpoint: str) -> str:
        return f"""
        apiVersion: gateway.envoyproxy.io/v1alpha1
        kind: Backend
        metadata: {{name: {name}, namespace: default}}
        spec: {{endpoints: [{endpoint}]}}
        """

    refs = ", ".join(f"{{group: gateway.envoyproxy.io, kind: Backend, name: {name}}}" for name in "ab")
    core = of_gateway(
        f"{{tracing: {{provider: {{type: Zipkin, backendRefs: [{refs}]}}}}}}",
        backend("a", "{fqdn: {hostname: a.test, port: 1}}"),
        backend("b", "{ip: {address: 10.2.2.2, port: 1}}"),
        config=ON_HOST,
    )

    [(path, message)] = faults(core)
    assert path.endswith(".backendRefs")
    assert "a cluster of Envoy cannot have both" in message
    assert addresses(core) == ["10.2.2.2"]


def test_a_service_without_endpoints_does_not_make_names_addresses() -> None:
    """Its cluster looked for endpoints that nobody sent, so that the sink by its name got nothing either."""
    named = """
    apiVersion: gateway.envoyproxy.io/v1alpha1
    kind: Backend
    metadata: {name: named, namespace: default}
    spec: {endpoints: [{fqdn: {hostname: collector.test, port: 4317}}]}
    """
    service = COLLECTOR.replace("monitoring", "default")
    refs = "{group: gateway.envoyproxy.io, kind: Backend, name: named}, {name: collector, port: 4317}"
    traced = f"{{tracing: {{provider: {{type: OpenTelemetry, backendRefs: [{refs}]}}}}}}"

    core = of_gateway(traced, named, service, config=ON_HOST)

    built = cluster_of(core)
    assert built.cluster_type.name == "envoy.cluster.dns"
    [entry] = [each for at in built.load_assignment.endpoints for each in at.lb_endpoints]
    assert entry.endpoint.address.socket_address.address == "collector.test"
    assert load_assignment(core.db, SinkCluster("tracing", EG_FLEET)) is None
    assert not any("cannot have both" in message for _, message in faults(core))


def test_a_cluster_has_the_settings_of_its_sink() -> None:
    settings = "backendSettings: {circuitBreaker: {maxConnections: 7}, timeout: {tcp: {connectTimeout: 3s}}}"
    core = of_class(f"{{tracing: {{provider: {{type: OpenTelemetry, {settings}, {TO_COLLECTOR}}}}}}}")
    message = cluster_of(core)

    assert message.circuit_breakers.thresholds[0].max_connections.value == 7
    assert message.connect_timeout.seconds == 3


def test_a_setting_with_a_fault_is_reported_and_left_out() -> None:
    settings = "backendSettings: {timeout: {tcp: {connectTimeout: 0s}}}"
    core = of_class(
        f"{{tracing: {{provider: {{type: OpenTelemetry, {settings}, {TO_COLLECTOR}}}}}}}", COLLECTOR
    )

    [(path, _)] = faults(core)
    assert path == "spec.telemetry.tracing.provider.backendSettings.timeout.tcp.connectTimeout"
    assert cluster_of(core).connect_timeout.seconds == 10


@pytest.mark.parametrize(("type_", "grpc"), [("OpenTelemetry", True), ("Zipkin", False), ("Datadog", False)])
def test_what_speaks_grpc_is_spoken_to_in_http2(type_: str, grpc: bool) -> None:
    core = of_class(f"{{tracing: {{provider: {{type: {type_}, {TO_COLLECTOR}}}}}}}", COLLECTOR, SLICE)

    assert bool(cluster_of(core).typed_extension_protocol_options) is grpc


def test_the_authority_is_a_name_of_the_first_backend() -> None:
    def named(provider: str, *manifests: str) -> str:
        core = of_gateway(f"{{tracing: {{provider: {{type: OpenTelemetry, {provider}}}}}}}", *manifests)
        return authority(core.db, EG_FLEET, "tracing")

    assert named(TO_COLLECTOR) == "collector.monitoring.svc"
    assert named(TO_COLLECTOR, COLLECTOR, SLICE) == "collector.monitoring.svc"
    assert named("host: otel.test") == "otel.test"


def test_of_equal_sinks_of_statistics_there_is_one() -> None:
    sink = f"{{type: OpenTelemetry, openTelemetry: {{{TO_COLLECTOR}}}}}"
    core = of_gateway(f"{{metrics: {{sinks: [{sink}, {sink}]}}}}", config=ON_HOST)

    assert [key.name for key in metric_keys(core.db, EG_FLEET)] == ["otel_metric_sink_0"]


def test_the_clusters_of_statistics_are_a_part_of_the_bootstrap() -> None:
    sink = f"{{type: OpenTelemetry, openTelemetry: {{{TO_COLLECTOR}}}}}"

    assert sink_keys(of_gateway(f"{{metrics: {{sinks: [{sink}]}}}}", config=ON_HOST).db, EG_FLEET) == ()


def test_logs_that_are_off_have_no_sinks() -> None:
    als = f"{{type: ALS, als: {{type: TCP, {TO_COLLECTOR}}}}}"
    settings = f"settings: [{{sinks: [{als}]}}]"

    def names_of(logs: str) -> list[str]:
        return [each.name for each in sinks(of_class(f"{{accessLog: {logs}}}").db, EG_FLEET)]

    assert names_of(f"{{{settings}}}") == ["accesslog_als_0_0"]
    assert names_of(f"{{disable: true, {settings}}}") == []


def test_what_a_merged_fleet_reports_to_is_that_of_its_class() -> None:
    core = of_class(TRACED, COLLECTOR, SLICE)
    owner: Any = fleet_proxy(core.db, EG_FLEET).owner

    assert str(owner) == "EnvoyProxy system/shared"
