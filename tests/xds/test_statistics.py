"""Which statistics Envoy keeps."""

from __future__ import annotations

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.compressor.v3.compressor_pb2 import Compressor
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from moongate.api.envoygateway import EnvoyGateway
from moongate.api.telemetry import PrometheusCompression
from moongate.xds.cluster_keys import RuleCluster
from moongate.xds.clusters import cluster
from moongate.xds.listeners import listener, listener_names
from moongate.xds.routes import route_configuration
from moongate.xds.statistics import compressor, virtual_cluster
from tests.core import EG_FLEET, IN_CLUSTER, ON_HOST, Core
from tests.routes import http_route, route_ref, service
from tests.xds.test_sinks import of_gateway

WEB = "default/eg/web"
STATS = "envoy-gateway-proxy-stats-0.0.0.0-19001"


def counting(metrics: str) -> Core:
    shop = http_route(hostnames=("a.test",))
    return of_gateway(f"{{metrics: {metrics}}}", shop, service())


def cluster_of(core: Core) -> Cluster:
    key = RuleCluster("httproute/default/shop/rule/0", EG_FLEET, route_ref(), 0)
    built = cluster(core.db, key)
    assert built is not None
    return Cluster.FromString(built.body)


def test_a_cluster_is_counted_under_the_name_of_the_pattern() -> None:
    pattern = (
        "%ROUTE_KIND%.%ROUTE_NAMESPACE%.%ROUTE_NAME%.%ROUTE_RULE_NAME%.%ROUTE_RULE_NUMBER%.%BACKEND_REFS%"
    )

    assert cluster_of(counting(f"{{clusterStatName: '{pattern}'}}")).alt_stat_name == (
        "httproute.default.shop.-.0.default/shop"
    )


def test_without_a_pattern_it_is_counted_under_its_name() -> None:
    assert cluster_of(counting("{}")).alt_stat_name == ""
    assert not cluster_of(counting("{}")).HasField("track_cluster_stats")


def test_endpoints_and_sizes_are_counted_when_asked_for() -> None:
    tracked = cluster_of(
        counting("{enablePerEndpointStats: true, enableRequestResponseSizesStats: true}")
    ).track_cluster_stats

    assert tracked.per_endpoint_stats
    assert tracked.request_response_sizes


def test_each_virtual_host_is_counted_when_asked_for() -> None:
    built = route_configuration(counting("{enableVirtualHostStats: true}").db, EG_FLEET, WEB)
    assert built is not None
    [host] = RouteConfiguration.FromString(built.body).virtual_hosts
    [counted] = host.virtual_clusters

    assert counted.name == "a_test"
    assert counted.headers[0].string_match.prefix == "a.test"


@pytest.mark.parametrize("host", ["*", "*.test"])
def test_a_wildcard_is_counted_too(host: str) -> None:
    """The reference asks for an authority that begins with an asterisk, which none does."""
    assert virtual_cluster(host).headers[0].present_match


def test_prometheus_is_served_on_a_host_only_if_asked_for() -> None:
    """The fleets of a host share its ports."""

    def named(metrics: str) -> tuple[str, ...]:
        core = of_gateway(f"{{metrics: {metrics}}}", config=ON_HOST)
        return listener_names(core.db, EG_FLEET)

    assert named("{}") == (WEB,)
    assert named("{prometheus: {disable: true}}") == (WEB,)
    assert named("{prometheus: {}}") == (STATS, WEB)


def test_in_a_cluster_it_is_a_part_of_the_bootstrap() -> None:
    assert STATS not in listener_names(counting("{prometheus: {}}").db, EG_FLEET)


def test_prometheus_sees_the_statistics_alone() -> None:
    core = of_gateway("{metrics: {prometheus: {compression: {type: Zstd}}}}", config=ON_HOST)
    built = listener(core.db, EG_FLEET, STATS)
    assert built is not None
    message, manager = Listener.FromString(built.body), HttpConnectionManager()
    assert message.filter_chains[0].filters[0].typed_config.Unpack(manager)
    [route] = manager.route_config.virtual_hosts[0].routes

    assert route.match.path == "/stats/prometheus"
    assert route.match.headers[0].string_match.exact == "GET"
    assert route.route.cluster == "prometheus_stats"
    assert manager.http_filters[0].name == "envoy.filters.http.compressor"


def test_small_answers_may_stay_as_they_are() -> None:
    body = compressor(PrometheusCompression(type="Gzip", min_content_length="1Ki")).typed_config.value

    assert b"text_optimized" not in body
    assert b"gzip" in body


@pytest.mark.parametrize("config", [IN_CLUSTER, ON_HOST])
@pytest.mark.parametrize(("said", "counted"), [("true", True), ("false", False)])
def test_calls_are_counted_on_all_listeners_or_on_none(
    config: EnvoyGateway, said: str, counted: bool
) -> None:
    core = of_gateway(f"{{metrics: {{enableGRPCStats: {said}}}}}", config=config)
    built = listener(core.db, EG_FLEET, WEB)
    assert built is not None
    [chain], manager = [Listener.FromString(built.body).default_filter_chain], HttpConnectionManager()
    assert any(each.typed_config.Unpack(manager) for each in chain.filters)
    stats = [each for each in manager.http_filters if each.name == "envoy.filters.http.grpc_stats"]

    assert [not each.disabled for each in stats] == ([True] if counted else [])


@pytest.mark.parametrize(("said", "written"), [("-5", 0), ("-1E", 0), ("1E", 2**32 - 1)])
def test_a_length_that_envoy_cannot_have_is_the_nearest_that_it_can(said: str, written: int) -> None:
    body = compressor(PrometheusCompression(type="Gzip", min_content_length=said)).typed_config.value

    common = Compressor.FromString(body).response_direction_config.common_config
    assert common.min_content_length.value == written
