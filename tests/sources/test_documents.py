from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.sources.documents import (
    Chunk,
    Malformed,
    chunks,
    parsed_json,
    parsed_yaml,
    position,
    recut,
    values,
)


def texts(stream: str) -> list[str]:
    return [chunk.text for chunk in chunks(stream)]


def fault(text: str, *, is_json: bool = False) -> tuple[int, int, str]:
    with pytest.raises(Malformed) as caught:
        (parsed_json if is_json else parsed_yaml)(text)
    return caught.value.line, caught.value.column, caught.value.message


class TestCutting:
    def test_a_stream_is_cut_at_its_markers(self) -> None:
        assert texts("a: 1\n---\nb: 2\n--- # more\nc: 3\n") == ["a: 1\n", "---\nb: 2\n", "--- # more\nc: 3\n"]

    def test_dashes_that_only_begin_a_line_are_no_marker(self) -> None:
        assert texts("---a: 1\n----\n") == ["---a: 1\n----\n"]

    def test_indented_markers_belong_to_the_text_they_stand_in(self) -> None:
        assert texts("a: |\n  ---\n  b\n") == ["a: |\n  ---\n  b\n"]

    def test_three_dots_end_a_document(self) -> None:
        assert [parsed_yaml(text) for text in texts("a: 1\n...\n---\nb: 2\n")] == [{"a": 1}, None, {"b": 2}]

    def test_three_dots_may_come_before_directives(self) -> None:
        stream = "a: 1\n...\n# so\n%YAML 1.1\n---\nb: 2\n"

        assert [parsed_yaml(text) for text in texts(stream)] == [{"a": 1}, {"b": 2}]

    def test_a_directive_belongs_to_the_document_after_it(self) -> None:
        assert [parsed_yaml(text) for text in texts("%YAML 1.1\n---\na: 1\n---\nb: 2\n")] == [
            {"a": 1},
            {"b": 2},
        ]

    def test_each_chunk_knows_its_line(self) -> None:
        assert [chunk.line for chunk in chunks("a: 1\n---\nb: 2\n\n---\nc: 3\n")] == [0, 1, 4]

    def test_windows_line_ends_are_line_ends(self) -> None:
        assert [parsed_yaml(text) for text in texts("a: 1\r\n---\r\nb: x\r\n")] == [{"a": 1}, {"b": "x"}]

    def test_json_values_stand_one_after_another(self) -> None:
        assert list(values('{"a": 1} {"b": 2}\n{"c": 3}')) == [
            Chunk('{"a": 1}', 0, 0),
            Chunk('{"b": 2}', 0, 9),
            Chunk('{"c": 3}', 1, 0),
        ]

    pieces = st.lists(
        st.sampled_from(
            ["a: 1\n", "b: 2\n", "---\n", "--- # x\n", "...\n", "%YAML 1.1\n", "# c\n", "\n", "x"]
        ),
        max_size=12,
    ).map("".join)

    @given(pieces, pieces)
    def test_an_edited_text_is_cut_as_a_new_one_would_be(self, before: str, after: str) -> None:
        """What is reused of the former cut never shows."""
        old = list(chunks(before))

        cut = recut(after, old)

        tail = [c._replace(line=c.line + cut.moved) for c in old[len(old) - cut.tail :]]
        assert [*old[: cut.head], *cut.middle, *tail] == list(chunks(after))

    def test_an_edit_cuts_its_neighbourhood_only(self) -> None:
        before = "".join(f"---\na: {n}\n" for n in range(1000))

        cut = recut(before.replace("a: 500\n", "a: five\nb: 1\n"), list(chunks(before)))

        assert len(cut.middle) <= 3
        assert cut.moved == 1


class TestValues:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("yes", True),
            ("off", False),
            ("y", "y"),
            ("~", None),
            ("", None),
            ("12", 12),
            ("0x1F", 31),
            ("0644", 420),
            ("1_000", 1000),
            ("089", 89),
            ("1e3", 1000),
            ("1e-3", 0.001),
            ("-1.5", -1.5),
            ("1.2.3", "1.2.3"),
            ("12:30:45", "12:30:45"),
            ("2024-01-02", "2024-01-02"),
            ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05Z"),
            ("=", "="),
            ("'12'", "12"),
            ("!!str 12", "12"),
            ("-x", "-x"),
        ],
    )
    def test_a_scalar_means_what_it_means_to_kubectl(self, text: str, value: object) -> None:
        found = parsed_yaml(f"a: {text}\n")["a"]

        assert found == value
        assert type(found) is type(value)

    def test_keys_are_strings(self) -> None:
        assert parsed_yaml("80: a\non: b\n1.5: c\n") == {"80": "a", "true": "b", "1.5": "c"}

    def test_merged_keys_yield_to_those_of_the_object(self) -> None:
        text = "base: &b {x: 1, y: 2}\nother: &o {y: 3, z: 4}\nall:\n  y: 0\n  <<: [*b, *o]\n"

        assert parsed_yaml(text)["all"] == {"x": 1, "y": 0, "z": 4}

    @given(
        st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s, max_size=3))
    )
    def test_json_is_read_as_json_reads_it(self, value: Any) -> None:
        assert parsed_json(json.dumps({"a": value})) == {"a": value}


class TestFaults:
    def test_a_tab_is_shown_where_it_stands(self) -> None:
        assert fault("spec:\n  a: 1\n\tb: 2\n") == (
            3,
            1,
            "The line is indented with a tab; YAML takes spaces only.",
        )

    @pytest.mark.parametrize(
        ("text", "line", "column"),
        [
            ("metadata:\n  name: {{ .Release.Name }}\n", 2, 10),
            ("{{- if .Values.on }}\na: 1\n{{- end }}\n", 1, 3),
            ("spec:\n  {{- toYaml .Values.x | nindent 2 }}\n  a: b\n", 2, 5),
        ],
    )
    def test_a_helm_template_is_told_from_a_manifest(self, text: str, line: int, column: int) -> None:
        found = fault(text)

        assert found[:2] == (line, column)
        assert "helm template" in found[2]

    def test_a_second_key_of_a_name_is_an_error(self) -> None:
        assert fault("a:\n  b: 1\n  b: 2\n") == (
            3,
            3,
            "The key 'b' stands twice in one object; keep one of them.",
        )

    def test_a_second_colon_is_shown(self) -> None:
        line, column, message = fault("a: 1\nb: c: d\n")

        assert (line, column) == (2, 5)
        assert "put the value in quotes" in message

    def test_an_open_quote_is_shown_where_it_opens(self) -> None:
        assert fault('a: 1\nb: "c\nd: e\n')[:2] == (2, 4)

    def test_a_tag_that_constructs_is_refused(self) -> None:
        line, column, message = fault("a: !!python/object:os.system x\n")

        assert (line, column) == (1, 4)
        assert "leave it out" in message

    def test_a_control_character_is_shown(self) -> None:
        assert fault("ä: 1\nb: \x01\n") == (2, 4, "There is a character that YAML does not allow, U+0001.")

    def test_aliases_of_aliases_do_not_fill_the_memory(self) -> None:
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]

        assert "aliases" in fault("\n".join(lines))[2]

    @pytest.mark.parametrize("text", ["a: &a\n  b: *a\n", "a: &a\n  <<: *a\n", "[" * 900 + "]" * 900])
    def test_what_has_no_bottom_is_refused(self, text: str) -> None:
        assert "deeper than 200 levels" in fault(text)[2]

    @pytest.mark.parametrize(
        "half", [r"\ud800", r"a\uDFFF", r"\ud83d\ude00\ud83d", r"\\\ud83d", r"\ude00\ud83d"]
    )
    def test_half_a_character_is_refused_where_it_stands(self, half: str) -> None:
        """No status and no message to Envoy could hold it."""
        line, column, message = fault(f'{{"a":\n "{half}"}}', is_json=True)

        assert (line, "half of a surrogate pair" in message) == (2, True)
        assert column >= 3

    def test_whole_characters_and_what_looks_like_an_escape_are_not(self) -> None:
        assert parsed_json(r'["\ud83d\ude00", "\\ud800", "\u00e9"]') == ["\U0001f600", r"\ud800", "é"]

    def test_json_without_a_bottom_is_refused(self) -> None:
        assert "deeper than 200 levels" in fault("[" * 100_000, is_json=True)[2]

    @pytest.mark.parametrize(
        ("text", "line", "column", "words"),
        [
            ('{"a": 1,\n "b": [1, 2,],\n}', 2, 12, "',' stands before the closing ']'"),
            ('{"a": 1,\n}', 1, 8, "',' stands before the closing '}'"),
            ("{'a': 1}", 1, 2, "double quotes"),
            ('{"a": 1', 1, 8, "last bracket"),
            ('{"a": {{ .x }}}', 1, 8, "helm template"),
            ('{"a": 1,\n "a": 2}', 2, 2, "'a' stands twice"),
            ('{"a": flase}', 1, 7, "expecting value"),
        ],
    )
    def test_a_fault_in_json_is_shown(self, text: str, line: int, column: int, words: str) -> None:
        found = fault(text, is_json=True)

        assert found[:2] == (line, column)
        assert words in found[2]


class TestPositions:
    TEXT = (
        "---\nmetadata:\n  labels:\n    a.b/c: d\n    a: {e: f}\n"
        "spec:\n  rules:\n    - name: x\n      port: 80\n"
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
    def test_a_path_leads_to_its_value_or_as_near_as_there_is(
        self, path: str, place: tuple[int, int]
    ) -> None:
        assert position(self.TEXT, path) == place

    def test_the_name_of_a_field_can_be_asked_for(self) -> None:
        assert position(self.TEXT, "spec.rules[0].port", key=True) == (9, 7)

    def test_json_has_positions_too(self) -> None:
        assert position('{\n\t"a": [\n\t\t{"b": 1}\n\t]\n}', "a[0].b") == (3, 9)
