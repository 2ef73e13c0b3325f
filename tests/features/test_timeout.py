"""Timeouts of policies and of routes, and which of them holds."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.api.httproute import HTTPRouteRetry, HTTPRouteRule, HTTPRouteTimeouts
from moongate.features.base import ListenerFacts
from moongate.features.timeout import FEATURE
from tests.features.backends import faults, on_cluster, on_route


def action(
    http: dict[str, Any], rule: HTTPRouteRule | None = None, *, listener: ListenerFacts | None = None
) -> Any:
    return on_route(FEATURE, {"http": http}, rule, listener=listener).get("route")


def test_a_request_timeout_keeps_the_stream_from_idling_out_before_it() -> None:
    """Envoy idles streams out after five minutes, also those whose request may take longer."""
    assert action({"requestTimeout": "23s"}) == {"timeout": "23s", "idle_timeout": "3600s"}
    assert action({"requestTimeout": "2h"}) == {"timeout": "7200s", "idle_timeout": "7200s"}


def test_a_request_without_time_limit_may_idle_without_limit() -> None:
    assert action({"requestTimeout": "0s"}) == {"timeout": "0s", "idle_timeout": "0s"}


def test_the_policys_stream_idle_timeout_wins_over_what_would_be_derived() -> None:
    assert action({"requestTimeout": "18s", "streamIdleTimeout": "20s"}) == {
        "timeout": "18s",
        "idle_timeout": "20s",
    }


def test_the_listeners_stream_idle_timeout_is_left_alone() -> None:
    assert action({"requestTimeout": "18s"}, listener=ListenerFacts(stream_idle=True)) == {"timeout": "18s"}


@pytest.mark.parametrize(
    ("own", "timeout"),
    [
        (HTTPRouteTimeouts(request="1s"), "1s"),
        (HTTPRouteTimeouts(backend_request="500ms"), "0.500s"),
        (HTTPRouteTimeouts(request="1s", backend_request="500ms"), "0.500s"),
        (HTTPRouteTimeouts(request="1s", backend_request="0s"), "1s"),
        (HTTPRouteTimeouts(backend_request="0s"), "0s"),
        (HTTPRouteTimeouts(request="0s"), "0s"),
        (HTTPRouteTimeouts(), "23s"),
        (None, "23s"),
    ],
)
def test_the_routes_own_request_timeout_wins(own: HTTPRouteTimeouts | None, timeout: str) -> None:
    assert action({"requestTimeout": "23s"}, HTTPRouteRule(timeouts=own))["timeout"] == timeout


def test_with_retries_the_backend_request_timeout_is_not_the_requests() -> None:
    rule = HTTPRouteRule(timeouts=HTTPRouteTimeouts(backend_request="1s"), retry=HTTPRouteRetry(attempts=2))

    assert action({"requestTimeout": "23s"}, rule)["timeout"] == "23s"


def test_a_stream_duration_of_zero_means_unlimited_and_is_said() -> None:
    """Said, because a listener may have a limit of its own."""
    assert action({"maxStreamDuration": "0s"}) == {"max_stream_duration": {"max_stream_duration": "0s"}}


def test_timeouts_of_connections_are_the_clusters() -> None:
    cluster, http = on_cluster(
        FEATURE,
        {
            "tcp": {"connectTimeout": "20s"},
            "http": {
                "connectionIdleTimeout": "21s",
                "maxConnectionDuration": "22s",
                "maxStreamDuration": "1s",
            },
        },
    )

    assert cluster["connect_timeout"] == "20s"
    assert http == {"common_http_protocol_options": {"idle_timeout": "21s", "max_connection_duration": "22s"}}


def test_without_times_nothing_is_set() -> None:
    """An empty message would make Envoy's HTTP options appear on the cluster."""
    cluster, http = on_cluster(FEATURE, {"tcp": {}, "http": {}})

    assert (cluster["connect_timeout"], http) == ("10s", {})
    assert action({}) == {}


def test_a_connect_timeout_of_zero_is_a_fault() -> None:
    """Envoy would refuse the cluster."""
    assert faults(FEATURE, {"tcp": {"connectTimeout": "0s"}}) == ["tcp.connectTimeout"]
    assert faults(FEATURE, {"tcp": {"connectTimeout": "1ms"}, "http": {}}) == []
