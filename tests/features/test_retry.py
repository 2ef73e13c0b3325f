"""Retries of policies and of routes, and which of them hold."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.api.admission import checked
from moongate.api.httproute import HTTPRouteRetry, HTTPRouteRule, HTTPRouteTimeouts
from moongate.features.retry import FEATURE, native
from tests.features.backends import faults, on_route

STANDARD = {
    "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
    "retriable_status_codes": [503],
    "num_retries": 2,
    "retry_host_predicate": [
        {
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/"
                "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            },
        }
    ],
    "host_selection_retry_max_attempts": "5",
}


OF_ROUTES = {
    **STANDARD,
    "retry_on": "cancelled,connect-failure,refused-stream,reset,retriable-status-codes,unavailable",
}


def built(spec: dict[str, Any], rule: HTTPRouteRule | None = None) -> Any:
    return on_route(FEATURE, spec, rule)["route"]["retry_policy"]


def test_an_empty_retry_tries_twice_more_what_surely_did_no_work() -> None:
    assert built({}) == STANDARD


def test_retry_on_replaces_triggers_and_codes() -> None:
    """A code that is not listed is not retried: 503 is gone."""
    spec = {"retryOn": {"triggers": ["reset", "5xx", "reset"]}, "numRetries": 5}

    expected = {**STANDARD, "retry_on": "5xx,reset", "num_retries": 5}
    del expected["retriable_status_codes"]
    assert built(spec) == expected


def test_codes_alone_keep_the_standard_triggers() -> None:
    assert built({"retryOn": {"httpStatusCodes": [503, 429]}}) == {
        **STANDARD,
        "retriable_status_codes": [429, 503],
    }


@pytest.mark.parametrize("empty", [{}, {"triggers": []}])
def test_an_empty_retry_on_says_nothing(empty: dict[str, Any]) -> None:
    assert built({"retryOn": empty}) == STANDARD


def test_zero_retries_are_said() -> None:
    """Absent would mean one to Envoy."""
    assert built({"numRetries": 0})["num_retries"] == 0


def test_attempts_per_priority_reach_other_priorities() -> None:
    assert built({"numAttemptsPerPriority": 4})["retry_priority"]["typed_config"]["update_frequency"] == 4
    assert "retry_priority" not in built({"numAttemptsPerPriority": 0})


@pytest.mark.parametrize(
    ("back_off", "expected"),
    [
        ({"baseInterval": "100ms"}, {"base_interval": "0.100s"}),
        ({"baseInterval": "100ms", "maxInterval": "10s"}, {"base_interval": "0.100s", "max_interval": "10s"}),
        ({"maxInterval": "10s"}, {"base_interval": "0.025s", "max_interval": "10s"}),
        ({"maxInterval": "10ms"}, {"base_interval": "0.010s", "max_interval": "0.010s"}),
        ({}, None),
    ],
)
def test_a_back_off_is_one_that_envoy_takes(
    back_off: dict[str, str], expected: dict[str, str] | None
) -> None:
    """Envoy refuses a maximum without a base, and a base above the maximum."""
    assert built({"perRetry": {"backOff": back_off}}).get("retry_back_off") == expected


def test_each_try_may_have_a_timeout() -> None:
    assert built({"perRetry": {"timeout": "250ms"}})["per_try_timeout"] == "0.250s"


@pytest.mark.parametrize(
    ("back_off", "where"),
    [
        ({"baseInterval": "0s"}, ["baseInterval"]),
        ({"maxInterval": "0s"}, ["maxInterval"]),
        ({"baseInterval": "2s", "maxInterval": "1s"}, ["maxInterval"]),
        ({"baseInterval": "0s", "maxInterval": "0s"}, ["baseInterval", "maxInterval"]),
        ({"baseInterval": "1s", "maxInterval": "1s"}, []),
        ({"baseInterval": "900ms", "maxInterval": "1s"}, []),
        ({"baseInterval": "1m", "maxInterval": "2s"}, ["maxInterval"]),
    ],
)
def test_a_back_off_of_nothing_or_shrinking_is_a_fault(back_off: dict[str, str], where: list[str]) -> None:
    assert faults(FEATURE, {"perRetry": {"backOff": back_off}}) == [
        f"perRetry.backOff.{name}" for name in where
    ]


def test_the_routes_own_retry_replaces_the_policys() -> None:
    rule = HTTPRouteRule(retry=HTTPRouteRetry())

    assert built({"numRetries": 5, "retryOn": {"triggers": ["5xx"]}}, rule) == OF_ROUTES


def test_the_routes_own_retry_bounds_each_try_by_the_backend_timeout() -> None:
    rule = HTTPRouteRule(
        timeouts=HTTPRouteTimeouts(request="10s", backend_request="2s"),
        retry=HTTPRouteRetry(attempts=3, codes=(502, 500), backoff="100ms"),
    )

    assert built({}, rule) == {
        **OF_ROUTES,
        "num_retries": 3,
        "retriable_status_codes": [500, 502],
        "per_try_timeout": "2s",
        "retry_back_off": {"base_interval": "0.100s"},
    }


def test_a_route_without_retry_has_no_retry_policy_of_its_own() -> None:
    assert native(HTTPRouteRule(timeouts=HTTPRouteTimeouts(backend_request="2s"))) is None


def test_a_routes_back_off_of_zero_is_left_to_envoy() -> None:
    """Envoy would refuse the whole route configuration."""
    assert "retry_back_off" not in built({}, HTTPRouteRule(retry=HTTPRouteRetry(backoff="0s")))


def test_a_route_names_the_statuses_to_retry_and_breaks_are_retried_whatever_it_names() -> None:
    """Source: Gateway API, ``HTTPRouteRetry``."""
    policy = built({}, HTTPRouteRule(retry=HTTPRouteRetry(codes=(500,))))

    assert policy == {**OF_ROUTES, "retriable_status_codes": [500]}


@pytest.mark.parametrize("attempts", [0, -1])
def test_a_route_cannot_ask_for_less_than_one_attempt(attempts: int) -> None:
    rule, problems = checked(HTTPRouteRetry, {"attempts": attempts})

    assert rule is None
    assert [problem.path for problem in problems] == ["attempts"]
