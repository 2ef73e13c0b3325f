"""The value of a JSON document, as plain data."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Any, cast

from yaml.nodes import MappingNode, SequenceNode

from moongate.sources.mistaken import HELM, seeming
from moongate.sources.yaml_documents import DEEPEST, Malformed, composed, malformed, repeated_key


def parsed_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        Malformed
    """
    for escape in _ESCAPES.finditer(text) if "\\u" in text else ():
        if escape["half"]:
            raise malformed(
                text, escape.start(), f"{escape[0]} is half of a surrogate pair, which is no text."
            )
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_float=_number, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise _json_fault(text, error) from None
    except RecursionError:
        raise _too_deep(text) from None
    except _NoNumberError as error:
        at = next((m.start() for m in _NUMBERS.finditer(text) if m[0] == error.word), 0)
        raise malformed(text, at, f"This is not JSON: {error.word} is not a number.") from None
    except ValueError:
        # An int of Python is the only value with a limit.
        whole = (m for m in _NUMBERS.finditer(text) if m[0].removeprefix("-").isdecimal())
        at = next((m.start() for m in whole if len(m[0].removeprefix("-")) > _MOST_DIGITS), 0)
        raise malformed(text, at, f"The number has more than {_MOST_DIGITS} digits.") from None
    except _TwiceError as error:
        line, column = _second(text, error.key)
        raise Malformed(repeated_key(error.key), line, column) from None
    level: list[Any] = [[value]]
    for _ in range(DEEPEST + 2):
        level = [entry for each in level for entry in _entries(each) if isinstance(entry, dict | list)]
    if level:
        raise _too_deep(text)
    return value


def _number(text: str) -> int | float:
    number = float(text)
    # On its way to an API server, a whole number loses its point.
    return int(number) if abs(number) < 2**53 and number.is_integer() else number


class _NoNumberError(ValueError):
    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


def _no_number(word: str) -> None:
    """NaN and infinities, which Python reads."""
    raise _NoNumberError(word)


def _entries(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return cast("dict[str, Any]", value).values()
    return cast("list[Any]", value)


def _too_deep(text: str) -> Malformed:
    """JSON is YAML, so the tree knows where."""
    try:
        composed(text)
    except Malformed as malformed:
        return malformed
    return Malformed(f"The document is nested deeper than {DEEPEST} levels.", 1, 1)


_MOST_DIGITS = sys.get_int_max_str_digits()
_NUMBERS = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9][-+.0-9eE]*|-?[A-Za-z]+', re.DOTALL)
"""Numbers and words; and strings, to step over what is in them."""

_SURROGATE = r"\\u[dD][%s][0-9a-fA-F]{2}"
_ESCAPES = re.compile(
    rf"\\\\|{_SURROGATE % '89abAB'}{_SURROGATE % 'c-fC-F'}|(?P<half>{_SURROGATE % '89a-fA-F'})"
)
"""Escapes of JSON: a backslash, a pair of surrogates, and half of one, which is no text."""


class _TwiceError(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _TwiceError(key)
            seen.add(key)
    return value


def _json_fault(text: str, error: json.JSONDecodeError) -> Malformed:
    if (guess := seeming(text)) is not None:
        return malformed(text, guess.offset, guess.message)
    before = text[: error.pos].rstrip()
    after = text[error.pos :].lstrip()[:1]
    message = next((message for words, message in _FAULTS if words in error.msg), error.msg)
    if before.endswith(",") and after in {"}", "]"}:
        return malformed(
            text, len(before) - 1, f"This is not JSON: a ',' stands before the closing '{after}'; remove it."
        )
    if "{{" in text[error.pos - 1 : error.pos + 2]:
        return Malformed(HELM, error.lineno, error.colno)
    if "Unterminated" in error.msg:
        message = "a string is not closed; the text may have been cut off"
    elif not after:
        message = "it ends before its last bracket is closed; it may have been cut off"
    elif after == "'":
        message = 'strings stand in double quotes ("), not single ones'
    return Malformed(f"This is not JSON: {message}.", error.lineno, error.colno)


_FAULTS = (
    (
        "Expecting value",
        "a value is missing here, or it is a word without quotes other than true, false and null",
    ),
    ("property name", "the name of a field, in double quotes, is missing here"),
    ("':' delimiter", "a ':' is missing between a name and its value"),
    ("',' delimiter", "a ',' or a closing bracket is missing before this"),
    (
        "control character",
        "a string has a line break or a tab in it; write `\\n` or `\\t`, or close the string before it",
    ),
    ("\\u", "`\\u` takes four hexadecimal digits; double the backslash if it is meant as such"),
    ("escape", "a backslash in a string must be doubled"),
    ("Extra data", "the value has ended before this"),
)
"""Words of Python's decoder and what to say instead."""


def _second(text: str, key: str) -> tuple[int, int]:
    """Where a key stands a second time; JSON is YAML, so the tree knows."""
    try:
        node = composed(text)
    except Malformed:
        return 1, 1
    queue = [node] if node is not None else []
    while queue:
        node = queue.pop()
        if isinstance(node, MappingNode):
            named = [name for name, _ in node.value if name.value == key]
            if len(named) > 1:
                return named[1].start_mark.line + 1, named[1].start_mark.column + 1
            queue += [entry for _, entry in node.value]
        elif isinstance(node, SequenceNode):
            queue += node.value
    return 1, 1
