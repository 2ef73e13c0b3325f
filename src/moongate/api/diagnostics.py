"""What is said of a value that is wrong: a sentence that names it, and what would be right."""

from __future__ import annotations

import difflib
import functools
import re
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec import inspect as types

if TYPE_CHECKING:
    from collections.abc import Iterable


def wrong(type_: types.Type, value: Any, form: str = "") -> str | None:
    """What is wrong with a scalar, as a sentence; None when nothing is.

    Args:
        type_: what it should be.
        value: plain data.
        form: what the pattern of the type asks for, in words.
    """
    match type_:
        case types.Metadata():
            extra = cast("dict[str, Any]", type_.extra or {})  # pyright: ignore[reportUnknownMemberType]
            return wrong(type_.type, value, extra.get("form", form))
        case types.UnionType():
            messages = [wrong(part, value, form) for part in type_.types]
            faults = [message for message in messages if message]
            return None if len(faults) < len(messages) else faults[0]
        case types.LiteralType():
            values = type_.values
            if any(value == right and type(value) is type(right) for right in values):
                return None
            choices = [str(right) for right in values]
            quotes = _quoted(value) if isinstance(values[0], str) else ""
            meant = did_you_mean(value, choices) if isinstance(value, str) else ""
            if meant and len(choices) > _FEW:
                return f"The value is {shown(value)}.{meant} It must be one of {', '.join(choices)}{quotes}."
            return f"The value is {shown(value)}; it must be one of {', '.join(choices)}{quotes}.{meant}"
        case types.StrType():
            pattern = _exact(type_)
            if not isinstance(value, str):
                scalar = isinstance(value, bool | int | float)
                unlike = scalar and pattern is not None and not pattern.search(str(value).lower())
                right = form if unlike else f"a string{_quoted(value)}"
                return f"The value is {shown(value)}; it must be {right}."
            message = bounded(len(value), type_.min_length, type_.max_length, "characters")
            if message:
                return f"{shown(value)} has {message}"
            if pattern is not None and not pattern.search(value):
                return f"The value is {shown(value)}; it must be {form}."
        case types.IntType() | types.FloatType():
            whole = isinstance(type_, types.IntType)
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                number = "whole number" if whole else "number"
                bare = ", without quotes" if isinstance(value, str) and value.isdecimal() else ""
                return f"The value is {shown(value)}; it must be a {number}{bare}."
            low, high = type_.ge, type_.le
            if (low is not None and value < low) or (high is not None and value > high):
                return f"{shown(value)} is out of range; it must be {_span(low, high)}."
        case types.BoolType():
            if not isinstance(value, bool):
                return f"The value is {shown(value)}; it must be true or false, without quotes."
        case types.BytesType():
            hint = f"; {form}" if form else ""
            if not isinstance(value, str):
                return f"The value is {type_name(value)}; it must be a string in base64{hint}."
            if not _is_base64(str(value)):
                return f"The value is not base64{_why_not_base64(str(value))}{hint}."
            if type_.min_length and not value:
                return f"The value is empty; it must be at least one byte in base64{hint}."
        case types.NoneType():
            return None if value is None else f"The value is {shown(value)}; it must be null."
        case _:
            pass
    return None


def _is_base64(text: str) -> bool:
    try:
        msgspec.convert(text, bytes)
    except msgspec.ValidationError:
        return False
    return True


def _why_not_base64(text: str) -> str:
    """What keeps a text from being base64, in words that do not quote it, because it may be a secret."""
    if _is_base64(re.sub(r"\s", "", text)):
        return ": there are blanks in it"
    if _is_base64(text.replace("-", "+").replace("_", "/")):
        return ": it has '-' and '_', as in URLs, for '+' and '/'"
    if _is_base64(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)):
        return ": it must end with '=' until its length is a multiple of 4"
    return ""


def has_pattern(type_: types.Type) -> bool:
    """Whether it is a string that must match a pattern."""
    while isinstance(type_, types.Metadata):
        type_ = type_.type
    return isinstance(type_, types.StrType) and type_.pattern is not None


def _exact(type_: types.StrType) -> re.Pattern[str] | None:
    """The pattern of a string type, with ``$`` meaning the very end, as in RE2."""
    return _compiled(type_.pattern) if type_.pattern is not None else None


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    # "$" stands for itself within brackets and after a backslash, and for the end everywhere else.
    parts = re.findall(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", pattern, re.DOTALL)
    return re.compile("".join(r"\Z" if part == "$" else part for part in parts))


def bounded(count: int, low: int | None, high: int | None, what: str) -> str | None:
    """The end of a sentence about a number of things; None when there are neither too few nor too many."""
    if (low is None or count >= low) and (high is None or count <= high):
        return None
    return f"{count} {what}; it must have {_span(low, high)}."


def _span(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"between {low} and {high}"
    return f"at least {low}" if low is not None else f"at most {high}"


def _quoted(value: object) -> str:
    """What to do with a number or a boolean that is to be a string."""
    return ": write it in quotes" if isinstance(value, bool | int | float) else ""


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """A question to follow a sentence, with the known name that is most like the word; "" if none is."""
    names = list(candidates)
    alike = [name for name in names if name.lower() == word.lower()]
    close = alike or difflib.get_close_matches(word, names, n=1)
    if not close:
        # Another word for the same begins alike: "Regex", "RegularExpression".
        begun = [name for name in names if len(word) > 2 and name.lower().startswith(word[:3].lower())]
        close = begun if len(begun) == 1 else []
    return f" Did you mean {close[0]!r}?" if close else ""


def type_name(value: object) -> str:
    """The type of a value, for messages that do not quote it, because it may be a secret."""
    match value:
        case None:
            return "empty"
        case list() | tuple():
            return "a list"
        case dict():
            return "an object"
        case str():
            return "a string"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case _:
            return f"of type {type(value).__name__}"


class _VeiledText(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return type_name(self)


class _VeiledInt(int):
    def __repr__(self) -> str:
        return type_name(self)


class _VeiledOther:
    """A value that no manifest can hold."""

    def __init__(self, value: object) -> None:
        self._is = type_name(value)

    def __repr__(self) -> str:
        return self._is


class _VeiledFloat(float):
    def __repr__(self) -> str:
        return type_name(self)


def veiled(value: Any) -> Any:
    """A copy of plain data of which messages show the types alone; keys of objects stay as they are."""
    match value:
        case dict():
            return {key: veiled(entry) for key, entry in cast("dict[Any, Any]", value).items()}
        case list() | tuple():
            return [veiled(entry) for entry in cast("list[Any]", value)]
        case str():
            return _VeiledText(value)
        case bool():
            return value
        case int():
            return _VeiledInt(value)
        case float():
            return _VeiledFloat(value)
        case None:
            return None
        case _:
            return _VeiledOther(value)


_FEW = 10
"""How many choices are read at a glance. What was probably meant stands before more of them."""

_LONGEST = 80


def shown(value: object) -> str:
    """A value as a message quotes it: short, in YAML's words."""
    match value:
        case None:
            return "missing"
        case bool():
            return str(value).lower()
        case dict():
            return "an object"
        case list() | tuple():
            return "a list"
        case _:
            shown = repr(value)
            return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"
