"""Delays and aborts on purpose."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.engine import Db
from moongate.features.fault_injection import FEATURE
from tests.features.backends import effective, faults, plain, refused


def route(spec: dict[str, Any]) -> dict[str, Any]:
    assert FEATURE.http_filter is not None
    return plain(FEATURE.http_filter.route(Db(), effective(FEATURE, spec)))


@pytest.mark.parametrize(
    ("percentage", "numerator"),
    [(100, 1_000_000), (0.0001, 1), (12.3456, 123_456), (0.0007, 7), (250, 1_000_000)],
)
def test_a_share_is_exact_to_a_millionth(percentage: float, numerator: int) -> None:
    built = route({"delay": {"fixedDelay": "5400ms", "percentage": percentage}})

    assert built["delay"] == {
        "fixed_delay": "5.400s",
        "percentage": {"numerator": numerator, "denominator": "MILLION"},
    }


@pytest.mark.parametrize("status", [{"httpStatus": 503}, {"grpcStatus": 14}])
def test_an_abort_hits_every_request_by_default(status: dict[str, int]) -> None:
    [(name, code)] = status.items()

    assert route({"abort": status})["abort"] == {
        name.replace("Status", "_status"): code,
        "percentage": {"numerator": 1_000_000, "denominator": "MILLION"},
    }


def test_the_filter_of_the_chain_does_nothing_by_itself() -> None:
    """Routes without the policy pass it untouched."""
    assert FEATURE.http_filter is not None
    spec = effective(FEATURE, {"abort": {"httpStatus": 503}})

    assert plain(FEATURE.http_filter.chain(Db(), spec)) == {}


@pytest.mark.parametrize(
    "spec",
    [{}, {"abort": {}}, {"abort": {"httpStatus": 503, "grpcStatus": 14}}, {"abort": {"httpStatus": 199}}],
)
def test_a_fault_that_says_nothing_or_too_much_is_refused(spec: dict[str, Any]) -> None:
    assert refused(FEATURE, spec) != []


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"delay": {"fixedDelay": "0s"}}, "delay.fixedDelay"),
        ({"delay": {"fixedDelay": "1s", "percentage": -1}}, "delay.percentage"),
        ({"abort": {"httpStatus": 503, "percentage": float("nan")}}, "abort.percentage"),
        ({"abort": {"httpStatus": 600}}, "abort.httpStatus"),
    ],
)
def test_what_envoy_would_refuse_is_a_fault(spec: dict[str, Any], path: str) -> None:
    assert faults(FEATURE, spec) == [path]


def test_a_share_of_nothing_is_no_fault() -> None:
    spec = {"abort": {"httpStatus": 503, "percentage": 0}, "delay": {"fixedDelay": "1ms", "percentage": 0}}

    assert faults(FEATURE, spec) == []
