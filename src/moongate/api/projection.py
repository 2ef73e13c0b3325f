"""What a CEL expression reads of ``self``, and the part of a value that holds no more than that.

Theory of operation
===================
An expression reaches into ``self`` by *chains*: ``self.matches[0].path.type``, ``f.requestRedirect`` where
``f`` is bound by a macro such as ``self.filters.all(f, …)``. From the chains of an expression each field name
gets its *uses*, wherever it stands. The part of a value is then made by one walk: fields that have no use are
left out, at every depth, and what has one is kept as far as its uses need it.

Rules
=====
1. The expression answers the same about the part as about the whole. Where that is not certain, because an
   object or the entry of a list is used by itself and not by its fields, the part is the whole.
2. Names are taken without their place: a field ``type`` that is used anywhere is kept everywhere.
"""

from __future__ import annotations

import re
from typing import Any

from msgspec import Struct

_STRING = re.compile(r'r?"""(?s:.*?)"""|r?"(?:\\.|[^"\\])*"' + r"|r?'(?:\\.|[^'\\])*'")
_BINDER = re.compile(r"\.(?:all|exists|exists_one|filter|map)\(\s*([A-Za-z_]\w*)\s*,")
_CHAIN = re.compile(r"(?<![\w.])([A-Za-z_]\w*)(?![\w(])((?:\.[A-Za-z_]\w*(?![\w(])|\[\d+\])*)")
_STEP = re.compile(r"\.(\w+)|\[\d+\]")
_OF_COLLECTION = re.compile(r"\.(?:size|all|exists|exists_one|filter|map)\(")
_OF_RESULT = re.compile(r"[)}]\s*(?:\.[A-Za-z_]\w*(?![\w(])|\[)|\]\s*\[")
_LISTED = re.compile(r"\.(?:filter|map)\(")
_WORDS = frozenset(("true", "false", "null", "in"))

PRESENCE = 0
"""It is asked whether there is a value: ``has(self.a)``."""
FIELDS = 1
"""Fields of the value are used: ``self.a.b``."""
ENTRIES = 2
"""Entries of the value are used, or counted: ``self.a.all(…)``, ``size(self.a)``."""
WHOLE = 3
"""The value itself is used: ``self.a == 'b'``."""


class Projection(Struct, frozen=True):
    """What some expressions read.

    Args:
        of_self: how ``self`` is used.
        uses: field name → how it is used, the most of all its uses; in a fixed order.
    """

    of_self: int
    uses: tuple[tuple[str, int], ...]

    def part(self, value: Any) -> Any:
        """The part of ``self`` that is read; the same part for values that differ in what is not read."""
        return value if self.of_self == WHOLE else self._part(value, self.of_self)

    def _part(self, value: Any, use: int) -> Any:
        if isinstance(value, dict):
            entries: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType] - a cast is a call
            # Whoever asks for the entries of an object asks for its keys: it is a map, and no field is known.
            return entries if use == ENTRIES else self._fields(entries)
        if isinstance(value, list):
            listed: list[Any] = value  # pyright: ignore[reportUnknownVariableType] - a cast is a call
            return [self._part(entry, FIELDS) for entry in listed]
        return value

    def _fields(self, value: dict[str, Any]) -> dict[str, Any]:
        part: dict[str, Any] = {}
        for name, use in self.uses:
            if name in value:
                if use == PRESENCE:
                    part[name] = True
                elif use == WHOLE:
                    part[name] = value[name]
                else:
                    part[name] = self._part(value[name], use)
        return part


EVERYTHING = Projection(WHOLE, ())
"""For an expression of which is not known what it reads."""


def projection(expression: str) -> Projection:
    """What an expression in CEL reads of ``self``."""
    text = _STRING.sub("''", expression)
    if _OF_RESULT.search(text) or not all(_is_counted(text, macro.end()) for macro in _LISTED.finditer(text)):
        return EVERYTHING
    binders = {macro.start(1): macro[1] for macro in _BINDER.finditer(text)}
    variables = {"self", *binders.values()}
    uses: dict[str, int] = {}
    of_self = PRESENCE
    for chain in _CHAIN.finditer(text):
        variable, steps = chain[1], list(_STEP.finditer(chain[2]))
        if chain.start() in binders or variable in _WORDS:
            continue
        if variable not in variables:
            return EVERYTHING
        names = [variable, *(step[1] for step in steps)]  # None for an index
        if names[-1] is None:
            return EVERYTHING
        last = _use_at_end(text, chain)
        for name, following in zip(names, [*names[1:], ""], strict=True):
            if name is None:
                continue
            use = last if following == "" else ENTRIES if following is None else FIELDS
            if name == variable and name != "self":
                if use != FIELDS:
                    return EVERYTHING
            elif name == "self" and name is names[0]:
                of_self = max(of_self, use)
            else:
                uses[name] = max(uses.get(name, PRESENCE), use)
    return Projection(of_self, tuple(sorted(uses.items())))


def _use_at_end(text: str, chain: re.Match[str]) -> int:
    """How the value that a chain leads to is used."""
    before, after = text[: chain.start()], text[chain.end() :].lstrip()
    if before.endswith("has(") and after.startswith(")"):
        return PRESENCE
    if _OF_COLLECTION.match(after) or (before.endswith("size(") and after.startswith(")")):
        return ENTRIES
    return WHOLE


def _is_counted(text: str, start: int) -> bool:
    """Whether of the list that a macro makes only the size is used; its arguments begin at ``start``."""
    depth = 1
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if not depth:
            return text.startswith(".size()", at + 1)
    return False
