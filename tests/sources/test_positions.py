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


def test_the_places_of_many_faults_cost_no_more_than_one_reading_of_the_document() -> None:
    """A list of resources may have a fault in each; to read it anew for each would take minutes."""
    text = f"items: [{'x,' * 5_000}]"

    places = [position(text, f"items[{n}]") for n in range(5_000)]

    assert places[-1] == (1, 9 + 2 * 4_999)


def test_the_places_of_many_keys_cost_no_more_than_the_keys() -> None:
    text = "".join(f"key.{n}: {{a: 1}}\n" for n in range(5_000))

    assert [position(text, f"key.{n}.a")[0] for n in range(5_000)] == list(range(1, 5_001))


def test_what_aliases_lead_to_has_one_place() -> None:
    """An alias of aliases comes to more values than any memory holds."""
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]

    assert position("\n".join(lines), "a59[1][0]" + "[0]" * 58) == (1, 10)
