from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.address_pb2 import SocketAddress
from envoy.config.core.v3.config_source_pb2 import ApiConfigSource
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.config.trace.v3.zipkin_pb2 import ZipkinConfig
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext
from google.protobuf.duration_pb2 import Duration
from msgspec import structs

from moongate.api.base import Ref
from moongate.api.httproute import HTTPRoute
from moongate.infra.binary import envoy_binary
from moongate.infra.dry_run import MOST, refusals
from moongate.world import World
from moongate.xds.metadata import resources_of
from moongate.xds.wire import CLUSTER, LISTENER, SECRET, XdsResource, encode, packed
from tests.core import (
    GATEWAY_CLASS,
    ON_HOST,
    extension,
    gateway,
    gateway_class,
    http,
    https,
    policy,
    read,
    tls_secret,
)

Resources = dict[str, dict[str, XdsResource]]
FLEET = "default/eg"

BACKEND = """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: shop}
spec: {endpoints: [{ip: {address: 127.0.0.1, port: 3000}}]}
"""

pytestmark = [pytest.mark.envoy, pytest.mark.slow]


@pytest.fixture(scope="module")
def binary() -> Path:
    return envoy_binary()


def test_what_a_gateway_is_made_of_is_taken(binary: Path) -> None:
    """Certificates by SDS, routes by RDS, endpoints by EDS: in a bootstrap there is none of these."""
    world = translated(
        gateway(https("https", "cert", port=8443), http("http", port=8080)),
        tls_secret("cert", "a.example.com"),
        route("good", "a plain value"),
    )

    assert {len(named) > 0 for named in world.values()} == {True}
    assert len(world) == 5
    assert refusals(binary, FLEET, world) == ()


def test_the_one_refused_route_of_many_is_found(binary: Path) -> None:
    routes = [route(f"r{n}", "%NOSUCH%" if n == 17 else "x") for n in range(40)]

    (refused,) = refusals(binary, FLEET, translated(gateway(http("http", port=8080)), *routes))

    assert (refused.what, refused.names) == ("route", ("httproute/default/r17/rule/0/match/0/*",))
    assert resources_of(refused.metadata) == ((Ref.of(HTTPRoute, "default", "r17"), ""),)
    assert "NOSUCH" in refused.message


def test_a_refused_cluster_is_reported_in_a_few_words(binary: Path) -> None:
    """Envoy puts a dump of its whole configuration before them; it may hold private keys."""
    world = translated(gateway(http("http", port=8080)), route("good", "x"))
    broken = Cluster(name="broken", connect_timeout=Duration(), type=Cluster.STATIC)
    world[CLUSTER]["broken"] = XdsResource.of(CLUSTER, "broken", encode(broken))

    (refused,) = refusals(binary, FLEET, world)

    assert (refused.what, refused.names) == ("cluster", ("broken",))
    assert refused.message == "ClusterValidationError.ConnectTimeout: value must be greater than 0s."


def test_a_listener_is_not_blamed_for_a_cluster_that_is_refused(binary: Path) -> None:
    """Tracers look for theirs when the listener is made."""
    world = translated(gateway(http("http", port=8080)), route("good", "x"))
    tracer = ZipkinConfig(
        collector_cluster="broken", collector_endpoint="/", collector_endpoint_version="HTTP_JSON"
    )
    manager = HttpConnectionManager(stat_prefix="http", route_config=RouteConfiguration(name="r"))
    manager.tracing.provider.name = "zipkin"
    manager.tracing.provider.typed_config.CopyFrom(packed(tracer))
    manager.http_filters.add(name="router").typed_config.CopyFrom(packed(Router()))
    listener = Listener(name="traced")
    listener.address.socket_address.MergeFrom(SocketAddress(address="127.0.0.1", port_value=1))
    listener.filter_chains.add().filters.add(name="http").typed_config.CopyFrom(packed(manager))
    world[LISTENER]["traced"] = XdsResource.of(LISTENER, "traced", encode(listener))
    assert [r.what for r in refusals(binary, FLEET, world)] == ["listener"], "the cluster is not there at all"

    broken = Cluster(name="broken", connect_timeout=Duration(), type=Cluster.STATIC)
    world[CLUSTER]["broken"] = XdsResource.of(CLUSTER, "broken", encode(broken))

    assert [r.names for r in refusals(binary, FLEET, world)] == [("broken",)]


def test_a_listener_is_not_blamed_for_a_secret_that_is_refused(binary: Path) -> None:
    world = translated(gateway(https("https", "cert", port=8443)), tls_secret("cert", "a.example.com"))
    secret = Secret.FromString(world[SECRET]["default/cert"].body)
    secret.tls_certificate.watched_directory.SetInParent()  # Envoy wants a path in it
    world[SECRET]["default/cert"] = XdsResource.of(SECRET, "default/cert", encode(secret))

    assert [(r.what, r.names) for r in refusals(binary, FLEET, world)] == [("secret", ("default/cert",))]


def test_a_secret_that_another_server_has_is_waited_for(binary: Path) -> None:
    """Envoy asks that server when it runs; here there is none."""
    tls = UpstreamTlsContext()
    secret = tls.common_tls_context.tls_certificate_sds_secret_configs.add(name="elsewhere")
    source = secret.sds_config.api_config_source
    source.api_type = ApiConfigSource.GRPC
    source.grpc_services.add().envoy_grpc.cluster_name = "backend"
    cluster = Cluster(name="backend", type=Cluster.STATIC, connect_timeout=Duration(seconds=1))
    cluster.transport_socket.name = "tls"
    cluster.transport_socket.typed_config.CopyFrom(packed(tls))

    resources = {CLUSTER: {"backend": XdsResource.of(CLUSTER, "backend", encode(cluster))}}
    assert refusals(binary, FLEET, resources) == ()


def test_it_is_not_asked_without_end(binary: Path) -> None:
    routes = [route(f"r{n}", "%NOSUCH%") for n in range(MOST + 5)]

    assert len(refusals(binary, FLEET, translated(gateway(http("http", port=8080)), *routes))) == MOST


def test_nothing_is_left_behind(binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration holds private keys."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    refusals(binary, FLEET, translated(gateway(http("http", port=8080)), route("bad", "%NOSUCH%")))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["", "missing/"])
def test_no_file_of_a_log_is_made(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """Whoever checks manifests wants no files; but for those that Envoy could not make they get its words."""
    monkeypatch.chdir(tmp_path)
    sinks = "[{{type: File, file: {{path: {}}}}}]".format
    settings = f"[{{format: {{type: Text, text: x}}, sinks: {sinks(f'{folder}access.log')}}}]"
    proxy = extension("EnvoyProxy", "logs", f"telemetry: {{accessLog: {{settings: {settings}}}}}")
    log = f"healthCheckLog: {{sinks: {sinks(f'{folder}health.log')}}}"
    checks = policy("BackendTrafficPolicy", f"healthCheck: {{active: {{type: TCP, tcp: {{}}, {log}}}}}")
    named = gateway_class("logs"), gateway(http("http", port=8080))

    refused = refusals(binary, FLEET, translated(*named, proxy, checks, route("shop", "x")))

    assert list(tmp_path.iterdir()) == []
    assert {each.what for each in refused} == ({"cluster", "listener"} if folder else set())


WITH_METADATA = structs.replace(ON_HOST, runtime_flags=ON_HOST.runtime_flags.without("MetadataWhereRead"))
"""As ``validate`` has it: the metadata of what Envoy refuses says where that comes from."""


def translated(*manifests: str) -> Resources:
    resources = [one for text in (GATEWAY_CLASS, BACKEND, *manifests) for one in read(text)]
    return World.of(resources, WITH_METADATA).xds()[FLEET]


def route(name: str, value: str) -> str:
    """A route that sets a header."""
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}}}
spec:
  parentRefs: [{{name: eg}}]
  rules:
  - matches: [{{path: {{value: /{name}}}}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {{set: [{{name: x, value: "{value}"}}]}}
    backendRefs: [{{group: gateway.envoyproxy.io, kind: Backend, name: shop}}]
"""
