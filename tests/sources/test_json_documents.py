"""JSON is read as JSON, and its faults have a place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.sources.json_documents import parsed_json
from moongate.sources.yaml_documents import Malformed


def fault(text: str) -> tuple[int, int, str]:
    with pytest.raises(Malformed) as caught:
        parsed_json(text)
    return caught.value.line, caught.value.column, caught.value.message


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s, max_size=3)))
def test_json_is_read_as_json_reads_it(value: Any) -> None:
    assert parsed_json(json.dumps({"a": value})) == {"a": value}


@pytest.mark.parametrize("half", [r"\ud800", r"a\uDFFF", r"\ud83d\ude00\ud83d", r"\\\ud83d", r"\ude00\ud83d"])
def test_half_a_character_is_refused_where_it_stands(half: str) -> None:
    """No status and no message to Envoy could hold it."""
    line, column, message = fault(f'{{"a":\n "{half}"}}')

    assert (line, "half of a surrogate pair" in message) == (2, True)
    assert column >= 3


def test_whole_characters_and_what_looks_like_an_escape_are_not() -> None:
    assert parsed_json(r'["\ud83d\ude00", "\\ud800", "\u00e9"]') == ["\U0001f600", r"\ud800", "é"]


@pytest.mark.parametrize(
    ("text", "column"),
    [("[" * 100_000, 202), ("[" * 500 + "]" * 500, 202), ('{"a":' * 500 + "1" + "}" * 500, 1006)],
)
def test_json_without_a_bottom_is_refused_where_it_gets_too_deep(text: str, column: int) -> None:
    assert fault(text) == (1, column, "The document is nested deeper than 200 levels.")


def test_a_number_of_more_digits_than_python_reads_is_refused_where_it_stands() -> None:
    many = "9" * 5_000

    assert fault(f'{{"a": "{many}",\n "b": {many}.5, "c": -{many}}}') == (
        2,
        5_016,
        "The number has more than 4300 digits.",
    )


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ('{"a": 1,\n "b": [1, 2,],\n}', 2, 12, "',' stands before the closing ']'"),
        ('{"a": 1,\n}', 1, 8, "',' stands before the closing '}'"),
        ("{'a': 1}", 1, 2, "double quotes"),
        ('{"a": 1', 1, 8, "last bracket"),
        ('{"a": {{ .x }}}', 1, 8, "helm template"),
        ('{"a": 1,\n "a": 2}', 2, 2, "'a' stands twice"),
        ('{"a": flase}', 1, 7, "a word without quotes other than true"),
    ],
)
def test_a_fault_in_json_is_shown(text: str, line: int, column: int, words: str) -> None:
    problem = fault(text)

    assert problem[:2] == (line, column)
    assert words in problem[2]


@pytest.mark.parametrize("number", ["80.0", "8e1", "8.0E+1", "800e-1"])
def test_a_whole_number_may_be_written_with_a_point_or_an_exponent(number: str) -> None:
    """It loses them on its way to an API server, in YAML and in JSON."""
    value = parsed_json(f'{{"port": {number}}}')["port"]

    assert (type(value), value) == (int, 80)


def test_other_numbers_stay_as_they_are() -> None:
    assert parsed_json("[0.5, 1e300, -2.25]") == [0.5, 1e300, -2.25]


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_json_has_no_words_for_numbers(word: str) -> None:
    assert fault(f'{{"a": "NaN Infinity -Infinity",\n "b": {word}}}') == (
        2,
        7,
        f"This is not JSON: {word} is not a number.",
    )
