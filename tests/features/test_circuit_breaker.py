"""Limits of a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.features.circuit_breaker import FEATURE
from tests.features.backends import effective, faults, on_cluster, refused


def test_only_limits_that_are_given_are_said() -> None:
    """Envoy's own limit is 1024, as the CRD's; retries keep the cluster's 1024."""
    cluster, http = on_cluster(FEATURE, {"maxConnections": 42, "maxPendingRequests": 0})

    assert cluster["circuit_breakers"] == {
        "thresholds": [{"max_connections": 42, "max_pending_requests": 0, "max_retries": 1024}]
    }
    assert http == {}


def test_parallel_requests_and_retries_may_be_as_many_as_fit() -> None:
    cluster, _ = on_cluster(FEATURE, {"maxParallelRequests": 2**32 - 1, "maxParallelRetries": 24})

    assert cluster["circuit_breakers"]["thresholds"] == [{"max_requests": 2**32 - 1, "max_retries": 24}]


def test_requests_per_connection_are_an_http_option() -> None:
    _, http = on_cluster(FEATURE, {"maxRequestsPerConnection": 1})

    assert http == {"common_http_protocol_options": {"max_requests_per_connection": 1}}


def test_an_endpoint_has_1024_connections_by_default() -> None:
    for spec, limit in (({}, 1024), ({"maxConnections": 2}, 2)):
        cluster, _ = on_cluster(FEATURE, {"perEndpoint": spec})

        assert cluster["circuit_breakers"]["per_host_thresholds"] == [{"max_connections": limit}]


def test_a_retry_budget_is_a_percentage() -> None:
    """Three concurrent retries are Envoy's own minimum, so they are not said."""
    for least, expected in ((None, {}), (3, {}), (1, {"min_retry_concurrency": 1})):
        spec = {"percent": {"numerator": 1, "denominator": 8}} | (
            {"minRetryConcurrency": least} if least else {}
        )
        cluster, _ = on_cluster(FEATURE, {"retryBudget": spec})

        assert cluster["circuit_breakers"]["thresholds"][0]["retry_budget"] == {
            "budget_percent": {"value": 12.5},
            **expected,
        }


def test_a_limit_that_does_not_fit_is_refused() -> None:
    for value in (-1, 2**32):
        assert refused(FEATURE, {"maxConnections": value})[0].startswith("maxConnections: ")


def test_a_negative_minimum_of_retries_is_a_fault() -> None:
    spec = {"retryBudget": {"percent": {"numerator": 1}, "minRetryConcurrency": -1}}

    assert faults(FEATURE, spec) == ["retryBudget.minRetryConcurrency"]


@pytest.mark.parametrize(
    ("limits", "path", "reason"),
    [
        ({"maxPendingRequests": 0}, "maxPendingRequests", "Closed"),
        ({"maxParallelRequests": 0}, "maxParallelRequests", "Closed"),
        ({"maxParallelRetries": 0}, "maxParallelRetries", "Unused"),
        ({"maxConnections": 0}, "maxConnections", "Unused"),
        ({"perEndpoint": {"maxConnections": 0}}, "perEndpoint.maxConnections", "Unused"),
    ],
)
def test_a_limit_of_zero_is_pointed_out_and_one_of_one_is_not(
    limits: dict[str, Any], path: str, reason: str
) -> None:
    assert FEATURE.hints is not None
    [hint] = FEATURE.hints(effective(FEATURE, limits).value)
    assert (hint.path, hint.reason) == (path, reason)

    name = path.rpartition(".")[2]
    one = {name: 1} if name == path else {"perEndpoint": {name: 1}}
    assert list(FEATURE.hints(effective(FEATURE, one).value)) == []
