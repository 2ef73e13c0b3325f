"""What YAML libraries make of a manifest is the same plain data."""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, date, datetime
from types import MappingProxyType
from typing import Any

import pytest

from moongate.api.parsed import items_of, parsed

VALUES: list[tuple[Any, Any]] = [
    ({1: "a", False: "b", 0.5: "c"}, {"1": "a", "false": "b", "0.5": "c"}),
    (OrderedDict(a=MappingProxyType({"b": 1})), {"a": {"b": 1}}),
    ((1, (2,)), [1, [2]]),
    (80.0, 80),
    (0.5, 0.5),
    (float("inf"), float("inf")),
    (date(2026, 1, 31), "2026-01-31"),
    (datetime(2026, 1, 31, 12, tzinfo=UTC), "2026-01-31T12:00:00Z"),
    (b"a", b"a"),
]


@pytest.mark.parametrize(("value", "plain"), VALUES)
def test_values_are_those_of_json_as_far_as_there_are_such(value: Any, plain: Any) -> None:
    """What else there may be is left for admission, which names its place."""
    assert parsed({"a": value}) == [{"a": plain}]


def test_one_manifest_is_as_good_as_several() -> None:
    assert parsed({"a": 1}) == parsed([{"a": 1}, None]) == parsed(iter([None, {"a": 1}])) == [{"a": 1}]


def test_the_items_of_a_list_inherit_its_kind() -> None:
    document: dict[str, Any] = {"apiVersion": "v1", "kind": "ServiceList", "items": [{"metadata": {}}, "a"]}

    assert items_of(document) == [
        ("items[0]", {"apiVersion": "v1", "kind": "Service", "metadata": {}}),
        ("items[1]", "a"),
    ]


NO_LISTS: list[dict[str, Any]] = [
    {},
    {"kind": "Service"},
    {"kind": "ServiceList"},
    {"kind": 5},
    {"kind": "List", "items": {}},
]


@pytest.mark.parametrize("document", NO_LISTS)
def test_what_is_no_list_has_no_items(document: dict[str, Any]) -> None:
    assert items_of(document) is None
