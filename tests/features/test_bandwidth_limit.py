"""Bytes per second."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.engine import Db
from moongate.features.bandwidth_limit import REQUESTS, RESPONSES
from tests.features.backends import effective, faults, plain, refused


def limit(value: str | int, unit: str = "Second") -> dict[str, Any]:
    return {"limit": {"value": value, "unit": unit}}


@pytest.mark.parametrize(
    ("value", "unit", "kib"),
    [
        ("1Ki", "Second", 1),
        (2047, "Second", 1),
        ("60Ki", "Minute", 1),
        ("1Mi", "Minute", 17),
        ("1Gi", "Hour", 291),
    ],
)
def test_a_limit_is_in_whole_kib_per_second(value: str | int, unit: str, kib: int) -> None:
    assert REQUESTS.http_filter is not None
    spec = effective(REQUESTS, {"request": limit(value, unit)})

    assert plain(REQUESTS.http_filter.route(Db(), spec))["limit_kbps"] == str(kib)


def test_what_is_below_one_kib_per_second_is_refused_where_it_stands() -> None:
    spec = {"request": limit(1023), "response": limit("59Ki", "Minute")}

    assert faults(REQUESTS, spec) == ["request.limit.value", "response.limit.value"]


def test_a_limit_of_nothing_is_refused() -> None:
    assert refused(REQUESTS, {}) == [": Set request, response, or both."]


def test_each_direction_has_a_filter_of_its_own() -> None:
    assert REQUESTS.applies is not None
    assert RESPONSES.applies is not None
    spec = effective(REQUESTS, {"response": limit("1Ki")})

    assert (REQUESTS.applies(spec), RESPONSES.applies(spec)) == (False, True)
