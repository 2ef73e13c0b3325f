"""Health checks as a cluster and its endpoints have them."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.address_pb2 import Address, Pipe, SocketAddress
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

from moongate.api.health_checks import HealthCheckLog
from moongate.features.base import ClusterEdit
from moongate.features.health_check import FEATURE
from tests.features.backends import effective, faults, on_cluster, plain, refused

TCP: dict[str, Any] = {"type": "TCP", "tcp": {}}


def on_endpoint(spec: dict[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """The health check settings of an endpoint after the hook."""
    assert FEATURE.endpoint is not None
    FEATURE.endpoint(endpoint, effective(FEATURE, spec))
    return plain(endpoint.health_check_config)


def addressed(hostname: str = "") -> Endpoint:
    address = Address(socket_address=SocketAddress(address="127.0.0.1", port_value=80))
    return Endpoint(hostname=hostname, address=address)


def http(**more: Any) -> dict[str, Any]:
    return {"active": {"type": "HTTP", "http": {"path": "/", **more}}}


def test_bytes_that_a_check_sends_are_hexadecimal_however_they_are_written() -> None:
    """Envoy sends nothing of what stands in its field for bytes."""
    for send in ({"type": "Text", "text": "hi"}, {"type": "Binary", "binary": "aGk="}):
        cluster, _ = on_cluster(FEATURE, {"active": {"type": "TCP", "tcp": {"send": send}}})

        [check] = cluster["health_checks"]
        assert check["tcp_health_check"]["send"] == {"text": "6869"}


def test_the_defaults_are_those_of_the_crd() -> None:
    """Envoy demands these four; the others are its own defaults."""
    cluster, options = on_cluster(FEATURE, {"active": TCP, "passive": {}})

    assert cluster["health_checks"] == [
        {
            "timeout": "1s",
            "interval": "3s",
            "no_traffic_interval": "3s",
            "unhealthy_threshold": 3,
            "healthy_threshold": 1,
            "tcp_health_check": {},
        }
    ]
    assert cluster["outlier_detection"] == {"interval": "3s", "base_ejection_time": "30s"}
    assert options == {}


def test_fifty_percent_is_what_envoy_panics_at_anyway() -> None:
    assert on_cluster(FEATURE, {"panicThreshold": 0})[0]["common_lb_config"] == {
        "healthy_panic_threshold": {}
    }
    assert "common_lb_config" not in on_cluster(FEATURE, {"panicThreshold": 50})[0]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], [(200, 201)]),
        ([204], [(204, 205)]),
        ([201, 200, 200], [(200, 202)]),
        ([599, 100, 101, 300, 301, 302], [(100, 102), (300, 303), (599, 600)]),
    ],
)
def test_statuses_are_as_few_ranges_as_possible(statuses: list[int], expected: list[tuple[int, int]]) -> None:
    cluster, _ = on_cluster(FEATURE, http(expectedStatuses=statuses))

    ranges = cluster["health_checks"][0]["http_health_check"]["expected_statuses"]
    assert [(int(each["start"]), int(each["end"])) for each in ranges] == expected


def test_an_endpoint_has_its_own_host_unless_the_check_says_one() -> None:
    assert on_endpoint(http(), addressed("own.test")) == {"hostname": "own.test"}
    assert on_endpoint(http(hostname="said.test"), addressed("own.test")) == {}
    assert on_endpoint({"active": TCP}, addressed("own.test")) == {"hostname": "own.test"}
    assert on_endpoint({"passive": {}}, addressed("own.test")) == {}


def test_a_unix_socket_has_no_other_port() -> None:
    """Envoy would refuse all endpoints of the cluster."""
    spec = {"active": {**TCP, "overrides": {"port": 9000}}}

    assert on_endpoint(spec, addressed()) == {"port_value": 9000}
    assert on_endpoint(spec, Endpoint(address=Address(pipe=Pipe(path="/run/shop.sock")))) == {}


def test_the_log_of_a_policy_takes_the_place_of_the_proxys() -> None:
    assert FEATURE.cluster is not None
    log = HealthCheckLog(matches=("FailureSeriesStart", "HealthyTransition"))
    own: dict[str, Any] = {"sinks": [{"type": "File", "file": {"path": "/tmp/own"}}]}
    for more, path, always in (({}, "/dev/stdout", False), ({"healthCheckLog": own}, "/tmp/own", True)):
        edit = ClusterEdit(Cluster(), HttpProtocolOptions(), health_check_log=lambda: log)
        FEATURE.cluster(edit, effective(FEATURE, {"active": {**TCP, **more}}))

        built = plain(edit.message)["health_checks"][0]
        assert built["event_logger"][0]["typed_config"]["event_log_path"] == path
        assert built.get("always_log_health_check_failures", False) is always
        assert built.get("always_log_health_check_success", False) is always


def test_what_is_ejected_by_default_is_left_to_envoy() -> None:
    """Ejection by gateway errors and by shares is off in Envoy until it is enforced."""
    cluster, _ = on_cluster(
        FEATURE,
        {
            "passive": {
                "splitExternalLocalOriginErrors": True,
                "consecutiveLocalOriginFailures": 2,
                "consecutiveGatewayErrors": 0,
                "consecutive5XxErrors": 4,
                "maxEjectionPercent": 0,
                "failurePercentageThreshold": 90,
                "alwaysEjectOneEndpoint": False,
            }
        },
    )

    assert cluster["outlier_detection"] == {
        "split_external_local_origin_errors": True,
        "interval": "3s",
        "base_ejection_time": "30s",
        "consecutive_local_origin_failure": 2,
        "consecutive_gateway_failure": 0,
        "enforcing_consecutive_gateway_failure": 100,
        "consecutive_5xx": 4,
        "max_ejection_percent": 0,
        "failure_percentage_threshold": 90,
        "enforcing_failure_percentage": 100,
        "always_eject_one_host": False,
    }


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"active": {**TCP, "timeout": "0s"}}, "active.timeout"),
        ({"active": {**TCP, "interval": "0ms"}}, "active.interval"),
        (http(method="CONNECT"), "active.http.method"),
        (http(path="/a b"), "active.http.path"),
        (http(expectedResponse={"type": "Text", "text": ""}), "active.http.expectedResponse"),
        (http(method="post", requestBody={"type": "Text", "text": ""}), "active.http.requestBody"),
        ({"active": {"type": "TCP", "tcp": {"send": {"type": "Text", "text": ""}}}}, "active.tcp.send"),
        ({"active": {"type": "TCP", "tcp": {"receive": {"type": "Text", "text": ""}}}}, "active.tcp.receive"),
        ({"passive": {"interval": "0s"}}, "passive.interval"),
        ({"passive": {"baseEjectionTime": "0s"}}, "passive.baseEjectionTime"),
        ({"passive": {"consecutive5XxErrors": -1}}, "passive.consecutive5XxErrors"),
        ({"passive": {"consecutiveGatewayErrors": -1}}, "passive.consecutiveGatewayErrors"),
        ({"passive": {"consecutiveLocalOriginFailures": -1}}, "passive.consecutiveLocalOriginFailures"),
    ],
)
def test_what_envoy_would_refuse_is_a_fault(spec: dict[str, Any], path: str) -> None:
    assert faults(FEATURE, spec) == [path]


@pytest.mark.parametrize(
    "spec",
    [
        {"active": {"type": "HTTP"}},
        {"active": {"type": "TCP"}},
        {"active": {**TCP, "http": {"path": "/"}}},
        {"active": {**TCP, "grpc": {}}},
        {"active": {**TCP, "healthyThreshold": 0}},
        {"active": {**TCP, "healthCheckLog": {"matches": ["Failure"]}}},
        {"active": {**TCP, "healthCheckLog": {"matches": ["Failure", "Failure", "Success"]}}},
        http(requestBody={"type": "Text", "text": "x"}),
        http(method="PUT", requestBody={"type": "Text", "binary": "eA=="}),
        http(hostname="*.example.com"),
        {"passive": {"maxEjectionPercent": 101}},
        {"panicThreshold": -1},
    ],
)
def test_what_the_crd_refuses(spec: dict[str, Any]) -> None:
    assert refused(FEATURE, spec)


def test_limits_that_eject_nobody_are_pointed_out() -> None:
    assert FEATURE.hints is not None
    for spec, expected in (
        ({"passive": {"maxEjectionPercent": 0}}, ["passive.maxEjectionPercent"]),
        ({"passive": {"maxEjectionPercent": 0, "alwaysEjectOneEndpoint": True}}, []),
        (http(path="ready"), ["active.http.path"]),
        (http(), []),
    ):
        value = effective(FEATURE, spec).value

        assert [hint.path for hint in FEATURE.hints(value)] == expected
