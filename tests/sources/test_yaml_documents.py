"""YAML means what it means to ``kubectl``, and its faults have a place."""

from __future__ import annotations

import pytest

from moongate.sources.yaml_documents import Malformed, parsed_yaml


def fault(text: str) -> tuple[int, int, str]:
    with pytest.raises(Malformed) as caught:
        parsed_yaml(text)
    return caught.value.line, caught.value.column, caught.value.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("off", False),
        ("y", True),
        ("N", False),
        ("yEs", "yEs"),
        ("~", None),
        ("", None),
        ("12", 12),
        ("0x1F", 31),
        ("0644", 420),
        ("1_000", 1000),
        ("1_000.5", 1000.5),
        (".1_5", ".1_5"),
        ("0X1F", 31),
        ("1e400", "1e400"),
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
def test_a_scalar_means_what_it_means_to_kubectl(text: str, value: object) -> None:
    scalar = parsed_yaml(f"a: {text}\n")["a"]

    assert scalar == value
    assert type(scalar) is type(value)


def test_keys_are_strings() -> None:
    assert parsed_yaml("80: a\non: b\n1.5: c\n") == {"80": "a", "true": "b", "1.5": "c"}


def test_merged_keys_yield_to_those_of_the_object() -> None:
    text = "base: &b {p: 1, q: 2}\nother: &o {q: 3, r: 4}\nall:\n  q: 0\n  <<: [*b, *o]\n"

    assert parsed_yaml(text)["all"] == {"p": 1, "q": 0, "r": 4}


def test_a_tab_is_shown_where_it_stands() -> None:
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
def test_a_helm_template_is_distinguished_from_a_manifest(text: str, line: int, column: int) -> None:
    problem = fault(text)

    assert problem[:2] == (line, column)
    assert "helm template" in problem[2]


def test_a_second_key_of_a_name_is_an_error() -> None:
    assert fault("a:\n  b: 1\n  b: 2\n") == (
        3,
        3,
        "The key 'b' stands twice in one object, here and 1 line above; keep one of them.",
    )


def test_a_second_colon_is_shown() -> None:
    line, column, message = fault("a: 1\nb: c: d\n")

    assert (line, column) == (2, 5)
    assert "put the value in quotes" in message


def test_an_open_quote_is_shown_where_it_opens() -> None:
    assert fault('a: 1\nb: "c\nd: e\n')[:2] == (2, 4)


def test_a_tag_that_constructs_is_refused() -> None:
    line, column, message = fault("a: !!python/object:os.system x\n")

    assert (line, column) == (1, 4)
    assert "leave it out" in message


def test_a_control_character_is_shown() -> None:
    assert fault("ä: 1\nb: \x01\n") == (
        2,
        4,
        "There is a character that YAML does not allow, U+0001; remove it.",
    )


def test_aliases_of_aliases_do_not_fill_the_memory() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]

    assert "aliases" in fault("\n".join(lines))[2]


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("[" * 900 + "]" * 900, 202),
        ("a: " + "[" * 30_000, 204),
        ("- " * 30_000, 403),
        ("? " * 30_000, 403),
        ("{a: " * 30_000, 805),
    ],
)
def test_what_has_no_bottom_is_refused_where_it_gets_too_deep(text: str, column: int) -> None:
    """The parser calls itself for each level, in C: the process would end at some depth."""
    assert fault(text) == (1, column, "The document is nested deeper than 200 levels.")


@pytest.mark.parametrize("text", ["a: &a\n  b: *a\n", "a: &a\n  <<: *a\n", "a: &a [*a]\n"])
def test_what_holds_itself_is_refused(text: str) -> None:
    assert "deeper than 200 levels" in fault(text)[2]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x85", "\u2028", "\u2029"])
def test_a_fault_is_shown_whatever_ends_a_line(end: str) -> None:
    """YAML has more ends of lines than Python's ``split`` or an editor may know."""
    line, column, message = fault(end.join(("a: 1", "b: 2", "", "c: d: e", "")))

    assert (line, column) == (4, 5)
    assert "second ':'" in message


@pytest.mark.parametrize("text", ["0x" + "F" * 5_000, "9" * 5_000, "0b" + "1" * 99])
def test_a_number_beyond_any_integer_is_no_int(text: str) -> None:
    """Python refuses to write out an int of thousands of digits, in any message."""
    assert not isinstance(parsed_yaml(f"a: {text}")["a"], int)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a: [b\nc: d\n", (1, 4), "This is not YAML: the '[' is not closed with a ']'."),
        ("a: {b: [c]\nd: e\n", (1, 4), "This is not YAML: the '{' is not closed with a '}'."),
        ("a: 1\nb:c4n4ry\nd: 2\n", (2, 1), "This is not YAML: a space is missing after 'b:'."),
        (
            "apiVersion: a\nkind: b\napiVersion: c\n",
            (3, 1),
            "The key 'apiVersion' stands here and 2 lines above: put `---` on a line between two documents.",
        ),
        ("a: 1\nb c4n4ry\n\nd: 2\n", (2, 1), "This is not YAML: this line has no ':' after its key."),
        ("a:\n- b c4n4ry\n  d: 2\n", (2, 1), "This is not YAML: this line has no ':' after its key."),
        ("a\n  b:\n", (1, 1), "This is not YAML: this line has no ':' after its key."),
        (
            "a: c4n4ry\n  b: 2\n",
            (2, 3),
            (
                "This is not YAML: this line is indented further than the one before, whose key has a value "
                "already; begin it where that line begins."
            ),
        ),
        (
            "a: {b: 1, b: 2}\n",
            (1, 11),
            "The key 'b' stands twice in one object, here and before it on this line; keep one of them.",
        ),
    ],
)
def test_a_fault_is_shown_where_it_was_made(text: str, place: tuple[int, int], message: str) -> None:
    """A parser notices many only on a later line, and says so in words of its grammar."""
    assert fault(text) == (*place, message)


def test_keys_of_different_text_that_mean_the_same_stand_twice() -> None:
    """``yes`` and ``true`` are one key, as they are to an API server."""
    assert "The key 'true' stands twice" in fault("yes: 1\na: 2\ntrue: 3\n")[2]
