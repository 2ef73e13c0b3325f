"""Quantities and label selectors are read as Kubernetes reads them."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.api.shared import LabelSelector, LabelSelectorRequirement, quantity


@pytest.mark.parametrize(
    ("text", "units"),
    [
        *[("32Ki", 32768), ("500m", 1), ("1.5", 2), ("2k", 2000), ("1e3", 1000), ("0", 0), ("-1500m", -1)],
        *[(7, 7), ("1e99999999999999999999", 2**63 - 1), ("-" + "9" * 99, 1 - 2**63), ("1e-999999999", 1)],
        *[(10**30, 2**63 - 1), (-(10**30), 1 - 2**63)],
    ],
)
def test_a_quantity_is_read_in_whole_units_rounded_up(text: str | int, units: int) -> None:
    assert quantity(text) == units


@pytest.mark.parametrize("text", ["", "Ki", "1mi", "1 k", "1k\n", "1.1.1", "1e1.5"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantity(text)


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ({}, True),
        ({"match_labels": {"a": "1"}}, True),
        ({"match_labels": {"a": "2"}}, False),
        ({"match_expressions": ("a", "In", ("1", "2"))}, True),
        ({"match_expressions": ("b", "NotIn", ("1",))}, True),
        ({"match_expressions": ("a", "NotIn", ("1",))}, False),
        ({"match_expressions": ("a", "Exists", ())}, True),
        ({"match_expressions": ("a", "DoesNotExist", ())}, False),
        ({"match_expressions": ("a", "Like", ("1",))}, False),
    ],
)
def test_a_label_selector_selects_as_kubernetes_does(selector: dict[str, Any], selected: bool) -> None:
    if "match_expressions" in selector:
        key, operator, values = selector["match_expressions"]
        requirement = LabelSelectorRequirement(key=key, operator=operator, values=values)
        selector = {"match_expressions": (requirement,)}

    assert LabelSelector(**selector).selects({"a": "1"}) is selected
