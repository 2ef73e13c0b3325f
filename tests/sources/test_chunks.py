"""Files are cut into documents, and an edited file where it was edited."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.sources.chunks import Chunk, Place, chunks, json_stream, recut, values
from moongate.sources.yaml_documents import parsed_yaml


def texts(stream: str) -> list[str]:
    return [chunk.text for chunk in chunks(stream)]


def test_a_stream_is_cut_at_its_markers() -> None:
    assert texts("a: 1\n---\nb: 2\n--- # more\nc: 3\n") == ["a: 1\n", "---\nb: 2\n", "--- # more\nc: 3\n"]


def test_dashes_that_only_begin_a_line_are_no_marker() -> None:
    assert texts("---a: 1\n----\n") == ["---a: 1\n----\n"]


def test_indented_markers_belong_to_the_text_they_stand_in() -> None:
    assert texts("a: |\n  ---\n  b\n") == ["a: |\n  ---\n  b\n"]


def test_three_dots_end_a_document() -> None:
    assert [parsed_yaml(text) for text in texts("a: 1\n...\n---\nb: 2\n")] == [{"a": 1}, None, {"b": 2}]


def test_three_dots_may_come_before_directives() -> None:
    stream = "a: 1\n...\n# so\n%YAML 1.1\n---\nb: 2\n"

    assert [parsed_yaml(text) for text in texts(stream)] == [{"a": 1}, {"b": 2}]


def test_a_directive_belongs_to_the_document_after_it() -> None:
    assert [parsed_yaml(text) for text in texts("%YAML 1.1\n---\na: 1\n---\nb: 2\n")] == [
        {"a": 1},
        {"b": 2},
    ]


def test_each_chunk_knows_its_line() -> None:
    assert [chunk.line for chunk in chunks("a: 1\n---\nb: 2\n\n---\nc: 3\n")] == [0, 1, 4]


def test_windows_line_ends_are_line_ends() -> None:
    assert [parsed_yaml(text) for text in texts("a: 1\r\n---\r\nb: x\r\n")] == [{"a": 1}, {"b": "x"}]


def test_json_values_stand_one_after_another() -> None:
    assert list(values('{"a": 1} {"b": 2}\n{"c": 3}')) == [
        Chunk('{"a": 1}', 0, 0),
        Chunk('{"b": 2}', 0, 9),
        Chunk('{"c": 3}', 1, 0),
    ]


pieces = st.lists(
    st.sampled_from(["a: 1\n", "b: 2\n", "---\n", "--- # x\n", "...\n", "%YAML 1.1\n", "# c\n", "\n", "x"]),
    max_size=12,
).map("".join)


@given(pieces, pieces)
def test_an_edited_text_is_cut_as_a_new_one_would_be(before: str, after: str) -> None:
    """What is reused of the former cut never shows."""
    old = list(chunks(before))

    cut = recut(after, old)

    tail = [c._replace(line=c.line + cut.moved) for c in old[len(old) - cut.tail :]]
    assert [*old[: cut.head], *cut.middle, *tail] == list(chunks(after))


def test_an_edit_cuts_its_neighbourhood_only() -> None:
    before = "".join(f"---\na: {n}\n" for n in range(1000))

    cut = recut(before.replace("a: 500\n", "a: five\nb: 1\n"), list(chunks(before)))

    assert len(cut.middle) <= 3
    assert cut.moved == 1


def test_the_name_of_a_file_can_be_shown_whatever_it_is() -> None:
    """It may be no UTF-8, which could not be printed, or steer the terminal that it is shown in."""
    name = os.fsdecode(b"\xff\x1b[31m\n.yaml")

    assert str(Place(name, 3, 1)) == r"\xff\x1b[31m\x0a.yaml:3:1"
    assert str(Place("é.yaml", 0, 0)) == "é.yaml"


@given(st.text("1 \n", max_size=30))
def test_each_json_value_knows_its_line_and_column(text: str) -> None:
    starts = [n for n, char in enumerate(text) if char == "1" and text[n - 1 : n] != "1"]

    assert [(chunk.line, chunk.column) for chunk in values(text)] == [
        (text.count("\n", 0, start), start - text.rfind("\n", 0, start) - 1) for start in starts
    ]


@pytest.mark.slow
def test_many_json_values_on_one_line_cost_no_more_than_their_length() -> None:
    """A line counted anew for each would take minutes."""
    assert sum(1 for _ in values("1 " * 200_000)) == 200_000


@pytest.mark.parametrize(
    ("text", "documents"),
    [
        ('{"a": 1}\n{"b": 2}\n', 2),
        (' {"a": 1}{"b": 2}', 2),
        ('{"a": 1}', 1),
        ("{a: 1}", None),
        ('{"a": 1}\n---\nb: 2\n', None),
        ('{"a": 1', None),
        ("a: 1", None),
        ("", None),
    ],
)
def test_json_is_known_by_what_it_is(text: str, documents: int | None) -> None:
    """``kubectl get -o json`` is written into files of any name, and several outputs into one file."""
    stream = json_stream(text, certain=False)

    assert (stream and len(stream)) == documents
    assert len(json_stream(text, certain=True) or ()) >= (documents or 0)
