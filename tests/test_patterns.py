"""No regular expression that reads what users write can take for ever.

Python's ``re`` goes back and tries again, so a repetition within a repetition that can share out the same
text in several ways takes time that doubles with every character. These tests look at the form of
every pattern that a module compiles or a type has.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import typing
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import msgspec
import pytest

import moongate
from moongate.api.base import Model

codes: Any = importlib.import_module("re._constants")
parser: Any = importlib.import_module("re._parser")

Items = list[tuple[Any, Any]]
"""A sequence as ``re`` parses it: of each element what it is, and its arguments."""

MANY = 30
"""Repetitions up to which two within each other are no danger."""
ALL = frozenset(range(256))

REPEATS = {codes.MAX_REPEAT, codes.MIN_REPEAT}
CATEGORIES = {
    codes.CATEGORY_DIGIT: r"\d",
    codes.CATEGORY_SPACE: r"\s",
    codes.CATEGORY_WORD: r"\w",
    codes.CATEGORY_NOT_DIGIT: r"\D",
    codes.CATEGORY_NOT_SPACE: r"\S",
    codes.CATEGORY_NOT_WORD: r"\W",
}


@cache
def matching(pattern: str) -> frozenset[int]:
    return frozenset(n for n in ALL if re.fullmatch(pattern, chr(n), re.ASCII))


def members(op: Any, argument: Any) -> frozenset[int] | None:
    """The characters of an element that is always one character; None for any other element."""
    if op is codes.LITERAL:
        return frozenset({argument})
    if op is codes.NOT_LITERAL:
        return ALL - {argument}
    if op is codes.ANY:
        return ALL
    if op is not codes.IN:
        return None
    chars: set[int] = set()
    for kind, value in argument:
        if kind is codes.LITERAL:
            chars.add(value)
        elif kind is codes.RANGE:
            chars.update(range(value[0], value[1] + 1))
        elif kind is codes.CATEGORY:
            chars |= matching(CATEGORIES[value])
    return ALL - chars if (codes.NEGATE, None) in argument else frozenset(chars)


def below(op: Any, argument: Any) -> list[Items]:
    """The sequences within an element."""
    if op in REPEATS:
        return [argument[2]]
    if op is codes.SUBPATTERN:
        return [argument[3]]
    if op is codes.BRANCH:
        return list(argument[1])
    if op in {codes.ASSERT, codes.ASSERT_NOT}:
        return [argument[1]]
    return []


def everything(items: Items) -> Iterator[tuple[Any, Any]]:
    for op, argument in items:
        yield op, argument
        for inner in below(op, argument):
            yield from everything(inner)


def sequences(items: Items) -> Iterator[Items]:
    """The alternatives of a sequence, without the groups around its elements."""
    ways: list[Items] = [[]]
    for op, argument in items:
        if op is codes.SUBPATTERN:
            inner = list(sequences(argument[3]))
        elif op is codes.BRANCH:
            inner = [way for each in argument[1] for way in sequences(each)]
        else:
            inner = [[(op, argument)]]
        ways = [[*way, *more] for way in ways for more in inner]
    yield from ways


def used(items: Items) -> frozenset[int]:
    chars = (members(op, argument) or frozenset[int]() for op, argument in everything(items))
    return frozenset[int]().union(*chars)


def first(items: Items) -> frozenset[int]:
    """The characters that a sequence without groups can begin with."""
    chars: frozenset[int] = frozenset()
    for op, argument in items:
        own = members(op, argument)
        if own is not None:
            return chars | own
        if op in REPEATS:
            chars |= frozenset[int]().union(*(first(way) for way in sequences(argument[2])))
            if argument[0]:
                return chars
    return chars


def repeats(items: Items) -> bool:
    return any(op in REPEATS and argument[1] > MANY for op, argument in everything(items))


def ambiguous(pattern: str, flags: int = 0) -> list[str]:
    """Why a pattern may take for ever."""
    faults: list[str] = []
    for op, argument in everything(parser.parse(pattern, flags)):
        if op not in REPEATS or argument[1] <= MANY:
            continue
        ways = list(sequences(argument[2]))
        for n, way in enumerate(ways):
            if any(first(way) & first(other) for other in ways[:n]):
                faults.append("two alternatives of a repetition begin alike")
            separated = any(
                (chars := members(*item)) is not None and not chars & used([*way[:at], *way[at + 1 :]])
                for at, item in enumerate(way)
            )
            if repeats(way) and not separated:
                faults.append("nothing separates the turns of a repetition that has another within it")
    return faults


@cache
def compiled() -> dict[str, re.Pattern[Any]]:
    """The patterns of all modules, by where they stand."""
    patterns: dict[str, re.Pattern[Any]] = {}
    for module in pkgutil.walk_packages(moongate.__path__, "moongate."):
        if not module.name.endswith("__main__"):
            for name, value in vars(importlib.import_module(module.name)).items():
                if isinstance(value, re.Pattern):
                    patterns[f"{module.name}.{name}"] = value
    return patterns


def models(base: type[Model] = Model) -> Iterator[type[Model]]:
    for model in base.__subclasses__():
        yield model
        yield from models(model)


def declared(hint: object) -> Iterator[str]:
    """The patterns in an annotation."""
    for meta in getattr(hint, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.pattern is not None:
            yield meta.pattern
    for part in (*typing.get_args(hint), getattr(hint, "__origin__", None)):
        if part is not None and not isinstance(part, type | str):
            yield from declared(part)


def of_types() -> Iterable[str]:
    compiled()  # has imported all modules
    hints = (
        hint for model in models() for hint in typing.get_type_hints(model, include_extras=True).values()
    )
    return sorted({pattern for hint in hints for pattern in declared(hint)})


def test_no_pattern_of_a_module_can_take_for_ever() -> None:
    """One that can lets a line in a manifest stop everything for good."""
    faults = {
        name: ambiguity
        for name, pattern in compiled().items()
        if (ambiguity := ambiguous(typing.cast("str", pattern.pattern), pattern.flags & re.VERBOSE))
    }

    assert len(compiled()) > 20
    assert faults == {}


def test_no_pattern_of_a_type_can_take_for_ever() -> None:
    """A CRD is judged by Go, which knows no such danger: its pattern may have to differ here."""
    assert len(list(of_types())) > 20
    assert {pattern: faults for pattern in of_types() if (faults := ambiguous(pattern))} == {}


@pytest.mark.parametrize("pattern", [r"(a+)+", r"[!-~]+([\t ]?[!-~]+)*", r"(a*b?)*", r"(?:x(a|ab*)*)"])
def test_a_pattern_that_can_is_known(pattern: str) -> None:
    assert ambiguous(pattern)


@pytest.mark.parametrize("pattern", [r"[!-~]+([\t ][!-~]+)*", r"(?:[^\"\\]|\\.)*", r"x(\.x([-x]*x)?)*"])
def test_a_pattern_that_cannot_is_not_blamed(pattern: str) -> None:
    assert not ambiguous(pattern)
