"""The rules of a CRD in CEL, asked about plain data.

Theory of operation
===================
All rules of one object are joined by ``&&`` into one program, because most of the cost of a run does not
depend on the length of the program. If the whole is true, each rule is. If it is false, or cannot be
evaluated, each rule is evaluated by itself.

Facts
-----
* a rule that cannot be evaluated counts as broken, as it does for an API server
* rules that compare with ``oldSelf`` are about an update, which a manifest is not; they are passed over
* answers are remembered by the part of ``self`` that the rules read (``projection``), in a store of bounded
  size: most objects differ in what no rule reads
"""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import TYPE_CHECKING, Any

import msgspec

from moongate.api.projection import ENTRIES, PRESENCE, WHOLE, projection
from moongate.expressions import add_stdlib_to_context, cel
from moongate.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from moongate.api.base import Rule

MEMORY = 4096
"""Answers that one set of rules remembers."""
MEMORABLE = 512
"""Bytes of ``self`` up to which an answer is worth remembering."""

_ESCAPED = re.compile(r"\.__([a-z]+)__\b")
_LIBRARY = re.compile(
    r"\.(split|trim|substring|lowerAscii|upperAscii|replace|indexOf|join)\(|\bis(IP|CIDR)\("
)


class Ruleset:
    """Some rules about one ``self``."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules
        # Kubernetes escapes a field named like a CEL keyword, ``__namespace__``; this CEL needs no escape.
        self.texts = tuple(_ESCAPED.sub(r".\1", " ".join(rule.expression.split())) for rule in rules)
        self.joined = " && ".join(f"({text})" for text in self.texts)
        self.reads = projection(self.joined)
        self.remembered: dict[bytes, bool] = {}

    @functools.cached_property
    def program(self) -> Callable[[Any], bool]:
        return _program(self.joined)

    @functools.cached_property
    def programs(self) -> list[Callable[[Any], bool]]:
        return [_program(text) for text in self.texts]

    def broken(self, value: Any) -> list[Problem]:
        """A problem for each rule that does not hold."""
        part = self.reads.part(value)
        try:
            key = _encoder.encode(part)
        except (TypeError, ValueError, OverflowError):
            key = None  # nobody has checked the value yet, so it may be of any type
        satisfied = self.remembered.get(key) if key is not None else None
        if satisfied is None:
            satisfied = self.program(part)
            if key is not None and len(key) <= MEMORABLE:
                if len(self.remembered) >= MEMORY:
                    self.remembered.clear()
                self.remembered[key] = satisfied
        if satisfied:
            return []
        return [
            Problem(at, f"{rule.message}{_values(text, broken)}")
            for rule, text, program in zip(self.rules, self.texts, self.programs, strict=True)
            if not program(part)
            for at, broken in _culprits(program, part, value)
        ]


_encoder = msgspec.msgpack.Encoder()

MOST_ENTRIES = 4
"""Entries of a list of which a message shows values."""
LONGEST_SHOWN = 60
"""Characters of a value up to which a message shows it."""


def _culprits(program: Callable[[Any], bool], part: Any, value: Any) -> list[tuple[str, Any]]:
    """The entries of a list that break a rule, each with its path; the value itself, if it is no list, or if
    only several entries together break the rule."""
    # Only what holds for no entries at all asks each of them for something, and not for one that is missing.
    if not isinstance(value, list) or not program([]):
        return [("", value)]
    entries: list[Any] = value  # pyright: ignore[reportUnknownVariableType] - a cast is a call
    alone = [(f"[{n}]", [entry]) for n, entry in enumerate(entries) if not program([part[n]])]
    return [(at, entry) for at, [entry] in alone[:MOST_ENTRIES]] or [("", entries)]


def _values(expression: str, value: Any) -> str:
    """A sentence with the values that a rule compares. Its message says what must be, this says what is."""
    uses = projection(expression).uses
    read = [name for name, use in uses if use == WHOLE]
    if isinstance(value, list):
        return _sentence(_of_entries("", value, read))  # pyright: ignore[reportUnknownArgumentType]
    if not isinstance(value, dict):
        return f" The value is {value!r}." if _is_shown(value) else ""
    fields: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType] - a cast is a call
    shown = _of_fields("", fields, read)
    for name, _ in uses:
        below: object = fields.get(name)
        if isinstance(below, dict):
            named = [field for field in re.findall(rf"\b{name}\.(\w+)", expression) if field in below]
            shown += _of_fields(f"{name}.", below, list(dict.fromkeys(named)))  # pyright: ignore[reportUnknownArgumentType]
    for name, use in uses:
        if use == ENTRIES and isinstance(fields.get(name), list):
            shown += _of_entries(name, fields[name], read)
    kinds = {use for _, use in uses}
    if PRESENCE in kinds and kinds <= {PRESENCE, ENTRIES}:
        # The rule asks only which fields there are.
        shown = [f"{name} is set" for name, _ in uses if name in fields]
    return _sentence(shown)


def _of_fields(at: str, fields: dict[str, Any], read: list[str]) -> list[str]:
    return [f"{at}{name} is {fields[name]!r}" for name in read if _is_shown(fields.get(name))]


def _of_entries(name: str, entries: list[Any], read: list[str]) -> list[str]:
    return [
        shown
        for n, entry in enumerate(entries[:MOST_ENTRIES])
        if isinstance(entry, dict)
        for shown in _of_fields(f"{name}[{n}].", entry, read)  # pyright: ignore[reportUnknownArgumentType]
    ]


def _sentence(shown: list[str]) -> str:
    return f" Here {' and '.join(shown)}." if shown else ""


def _is_shown(value: Any) -> bool:
    plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    return plain and len(repr(value)) <= LONGEST_SHOWN


def ruleset(rules: tuple[Rule, ...]) -> Ruleset | None:
    """The rules that a manifest can break; ``None`` if there is none such."""
    static = tuple(rule for rule in rules if "oldSelf" not in rule.expression)
    return Ruleset(static) if static else None


def _program(expression: str) -> Callable[[Any], bool]:
    """The expression as a predicate of ``self``; one that cannot be evaluated does not hold."""
    program = cel.compile(expression)
    library = cel.Context() if _LIBRARY.search(expression) else None
    if library is not None:
        add_stdlib_to_context(library)
        for name, function in _FUNCTIONS.items():
            library.add_function(name, function)

    def holds(value: Any) -> bool:
        try:
            if library is None:
                return program.execute({"self": value}) is True
            library.add_variable("self", value)
            return program.execute(library) is True
        except Exception:  # noqa: BLE001  whatever the library raises: the rule could not be evaluated
            return False

    return holds


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _is_cidr(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "lowerAscii": str.lower,
    "upperAscii": str.upper,
    "isIP": _is_ip,
    "isCIDR": _is_cidr,
}
"""What Kubernetes adds to CEL and the library does not have under that name."""
