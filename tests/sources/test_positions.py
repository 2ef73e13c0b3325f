"""A field of a document has a place in its text."""

from __future__ import annotations

import pytest

from moongate.sources.positions import position

TEXT = (
    "---\nmetadata:\n  labels:\n    a.b/c: d\n    a: {e: f}\nspec:\n  rules:\n    - name: x\n      port: 80\n"
)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("", (2, 1)),
        ("metadata.labels[a.b/c]", (4, 12)),
        ("metadata.labels.a.b/c", (4, 12)),
        ("metadata.labels[a].e", (5, 12)),
        ("spec.rules", (7, 3)),
        ("spec.rules[0]", (8, 7)),
        ("spec.rules[0].port", (9, 13)),
        ("spec.rules[0].missing.deep", (8, 7)),
        ("spec.rules[7].name", (7, 3)),
        ("spec.missing", (6, 1)),
        ("missing", (2, 1)),
    ],
)
def test_a_path_leads_to_its_value_or_as_near_as_there_is(path: str, place: tuple[int, int]) -> None:
    assert position(TEXT, path) == place


def test_the_name_of_a_field_can_be_asked_for() -> None:
    assert position(TEXT, "spec.rules[0].port", key=True) == (9, 7)


def test_json_has_positions_too() -> None:
    assert position('{\n\t"a": [\n\t\t{"b": 1}\n\t]\n}', "a[0].b") == (3, 9)
