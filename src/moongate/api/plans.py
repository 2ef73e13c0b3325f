"""What the walks of admission have to do for the objects of a Struct: its *plan*, which is made once.

Theory of operation
===================
A plan knows the fields of a Struct by wire name: which of them have defaults, which lead to Structs below,
and which rules it carries. Each walk visits only the parts in which it has something to do:

- *filled* drops nulls, and fields without a meaning for a gateway, and puts in the defaults of the CRD; the
  document is left as it is.
- *declared* drops the fields that are not declared.
- *faults* finds all that is wrong with the types, each with its path, the value and what would be right.
- *judged* asks the CEL rules, and whether entries of lists differ where they must.
- *made* builds the object whatever its values are, as long as their types are right.
- *marked* finds what is set of the fields with a mark (``Meta(extra=…)``).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple, Union, cast

import msgspec
from msgspec import Struct
from msgspec import inspect as types

from moongate.api.base import Model, Rule
from moongate.api.diagnostics import bounded, did_you_mean, has_pattern, shown, type_name, wrong
from moongate.api.rules import ruleset
from moongate.problem import Problem


class Leaf:
    """A value without parts that need a look: scalars, and what is not ours to judge."""

    def __init__(self, type_: types.Type) -> None:
        self.type = type_
        self.bare = _bare(type_)
        self.judges = has_pattern(type_)
        self.fills = _is_base64(type_)
        self.private: str = extra_of(type_).get("private", "")

    marks: frozenset[str] = frozenset()
    names_secret = False

    # ``fills``, ``judges`` and ``marks``: whether the walk of that name has anything to do here or below, and
    # which marks stand below.

    def filled(self, value: Any) -> Any:
        # Source: encoding/base64 of Go, which passes over line breaks, and over nothing else.
        broken = self.fills and isinstance(value, str) and ("\n" in value or "\r" in value)
        return value.translate(_LINE_BREAKS) if broken else value

    def declared(self, value: Any) -> Any:
        return value

    def faults(self, value: Any, above: Above = ()) -> Iterator[Problem]:
        message = wrong(self.type, value)
        if message and self.private:
            message = f"The value must be {self.private}; it may be a secret, so it is not shown."
        if message:
            yield Problem("", message)

    def made(self, value: Any) -> Any:
        return msgspec.convert(value, self.bare)

    def judged(self, value: Any) -> list[Problem]:
        """The fault of a newline at the end: ``$`` of Python takes it, and that of RE2 does not."""
        if not self.judges or not isinstance(value, str) or value[-1:] != "\n":
            return []
        return list(self.faults(value))

    def marked(self, value: Any, mark: str) -> Iterator[tuple[str, Any, Any]]:
        """Fields whose type has a mark (``Meta(extra=...)``): path, what the mark says, the field's value."""
        return iter(())


class List:
    """A list; its entries must differ in ``keys`` (or altogether, when that is empty) unless it is None."""

    def __init__(self, type_: types.VarTupleType, keys: tuple[str, ...] | None) -> None:
        self.type = type_
        self.keys = keys
        self.item = _node(type_.item_type)
        self.fills = self.item.fills
        self.judges = keys is not None or self.item.judges
        self.marks = self.item.marks
        self.names_secret = self.item.names_secret

    def filled(self, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        entries: list[Any] = value  # pyright: ignore[reportUnknownVariableType] - a cast is a call
        fill = self.item.filled
        return [fill(entry) for entry in entries]

    def declared(self, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [self.item.declared(entry) for entry in cast("list[Any]", value)]

    def faults(self, value: Any, above: Above = ()) -> Iterator[Problem]:
        if not isinstance(value, list | tuple):
            is_now = type_name(value) if self.names_secret else shown(value)
            dashed = isinstance(value, dict) and isinstance(self.item, Plan)
            how = ", whose entries begin with '- '" if dashed else ""
            yield Problem("", f"The value is {is_now}; it must be a list{how}.")
            return
        entries = cast("list[Any]", value)
        message = bounded(len(entries), self.type.min_length, self.type.max_length, "entries")
        if message:
            yield Problem("", f"The list has {message}")
        for index, entry in enumerate(entries):
            for problem in self.item.faults(entry, above):
                yield problem.under(f"[{index}]")

    def made(self, value: Any) -> Any:
        return tuple(self.item.made(entry) for entry in msgspec.convert(value, list[Any]))

    def judged(self, value: Any) -> list[Problem]:
        problems: list[Problem] = []
        if self.item.judges:
            for index, entry in enumerate(value):
                problems += [problem.under(f"[{index}]") for problem in self.item.judged(entry)]
        if self.keys is not None and len(value) > 1:
            problems += self._repeated(value)
        return problems

    def _repeated(self, value: list[Any]) -> Iterator[Problem]:
        seen: dict[Any, int] = {}
        for index, entry in enumerate(value):
            key = tuple(entry.get(name) for name in self.keys) if self.keys else entry
            first = seen.setdefault(key, index)
            if first != index:
                what = ", ".join(f"{n} {entry.get(n)!r}" for n in self.keys) if self.keys else shown(entry)
                yield Problem(f"[{index}]", f"The entry repeats {what} of [{first}]; each may stand once.")

    def marked(self, value: Any, mark: str) -> Iterator[tuple[str, Any, Any]]:
        for index, entry in enumerate(value or ()):
            for path, *rest in self.item.marked(entry, mark):
                yield f"[{index}].{path}", *rest


class Map:
    """A map of strings to values."""

    names_secret = False

    def __init__(self, type_: types.DictType, null: str | None) -> None:
        self.type = type_
        self.null = null
        """What a null means: this value, or without it that there is no entry."""
        self.key = _node(type_.key_type)
        self.item = _node(type_.value_type)
        self.fills = True  # nulls have a meaning in each map
        self.judges = self.item.judges
        self.marks = self.item.marks

    def filled(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        entries: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType] - a cast is a call
        if None in entries.values():
            entries = {
                key: self.null if entry is None else entry
                for key, entry in entries.items()
                if entry is not None or self.null is not None
            }
        fill = self.item.filled
        return {key: fill(entry) for key, entry in entries.items()} if self.item.fills else entries

    def declared(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: self.item.declared(entry) for key, entry in cast("dict[str, Any]", value).items()}

    def faults(self, value: Any, above: Above = ()) -> Iterator[Problem]:
        if not isinstance(value, dict):
            yield Problem("", f"The value is {shown(value)}; it must be an object.")
            return
        entries = cast("dict[Any, Any]", value)
        message = bounded(len(entries), self.type.min_length, self.type.max_length, "entries")
        if message:
            yield Problem("", f"The object has {message}")
        for key, entry in entries.items():
            for problem in self.key.faults(key):
                yield Problem(f"[{key}]", f"Of the key: {problem.message}", problem.reason)
            for problem in self.item.faults(entry, above):
                yield problem.under(f"[{key}]")

    def made(self, value: Any) -> Any:
        entries = msgspec.convert(value, dict[str, Any])
        return {key: self.item.made(entry) for key, entry in entries.items()}

    def judged(self, value: Any) -> list[Problem]:
        entries = cast("dict[str, Any]", value).items()
        return [problem.under(f"[{key}]") for key, entry in entries for problem in self.item.judged(entry)]

    def marked(self, value: Any, mark: str) -> Iterator[tuple[str, Any, Any]]:
        for key, entry in cast("dict[str, Any]", value or {}).items():
            for path, *rest in self.item.marked(entry, mark):
                yield f"[{key}].{path}", *rest


class Plan:
    """A Struct: what the walks have to do for its objects."""

    def __init__(self, info: types.StructType) -> None:
        self.cls = cls = info.cls
        self.dropped = cls.DROPPED if issubclass(cls, Model) else frozenset[str]()
        self.names_secret = issubclass(cls, Model) and cls.NAMES_SECRET
        self.fields: dict[str, Node] = {field.encode_name: _node(field.type) for field in info.fields}
        self.holds_secret = self.names_secret or any(node.names_secret for node in self.fields.values())
        """A secret may have been written in its place, because it names a Secret or a field of it does."""
        self.names = {field.name: field.encode_name for field in info.fields}
        self.required = [field.encode_name for field in info.fields if field.required]
        self.defaults: list[tuple[str, Any]] = [
            (field.encode_name, self.fields[field.encode_name].filled(default))
            for field in info.fields
            if (default := default_of(field)) is not None
        ]
        self.rules = ruleset(rules_of(cls))
        self.field_rules = [
            (self.names[key.removesuffix("[]")], key.endswith("[]"), rules)
            for key, own in field_rules_of(cls).items()
            if (rules := ruleset(own)) is not None
        ]
        self.marked_here: dict[str, list[tuple[str, str, Any]]] = {}
        """Mark → the fields that have it: Python name, wire name, what the mark says."""
        for field in info.fields:
            for mark, detail in extra_of(field.type).items():
                self.marked_here.setdefault(mark, []).append((field.name, field.encode_name, detail))
        unbuilt = {wire for _, wire, detail in self.marked_here.get("unbuilt", ()) if detail}

        self.filling = [(wire, node) for wire, node in self.fields.items() if node.fills]
        self.judging = [(wire, node) for wire, node in self.fields.items() if node.judges]
        # What stands in a field that has no effect has none either; the field itself is enough to name.
        self.marked_below: dict[str, list[tuple[str, str, Node]]] = {}
        """Mark → the fields in which something has it: Python name, wire name, what is there."""
        for name, wire in self.names.items():
            for mark in sorted(self.fields[wire].marks) if wire not in unbuilt else ():
                self.marked_below.setdefault(mark, []).append((name, wire, self.fields[wire]))
        self.fills = True  # nulls are dropped of any object
        self.judges = bool(self.rules or self.field_rules or self.judging)
        self.marks = frozenset((*self.marked_here, *self.marked_below))

    def filled(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        entries: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType] - a cast is a call
        # A null at a field that does not exist stays, so that the field is named: {scheme:https} is one.
        whole = {key: entry for key, entry in entries.items() if entry is not None or key not in self.fields}
        if self.dropped:
            for key in self.dropped & whole.keys():
                del whole[key]
        for wire, node in self.filling:
            entry = whole.get(wire)
            if entry is not None:
                whole[wire] = node.filled(entry)
        for wire, default in self.defaults:
            if wire not in whole:
                whole[wire] = default
        return whole

    def declared(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            key: node.declared(entry)
            for key, entry in cast("dict[str, Any]", value).items()
            if (node := self.fields.get(key)) is not None
        }

    def faults(self, value: Any, above: Above = ()) -> Iterator[Problem]:
        if not isinstance(value, dict):
            is_now = type_name(value) if self.holds_secret else shown(value)
            yield Problem("", f"The value is {is_now}; it must be an object{self._content()}.")
            return
        entries = cast("dict[Any, Any]", value)
        unknown = [str(key) for key in entries if key not in self.fields]
        questions: list[str] = []
        for key, entry in entries.items():
            node = self.fields.get(key)
            if node is not None:
                for problem in node.faults(entry, (Level(self, key), *above)):
                    yield problem.under(key)
            else:
                free = [wire for wire in self.fields if wire not in entries]
                meant = (
                    self._same_namespace(key)
                    or did_you_mean(str(key), free)
                    or did_you_mean(str(key), list(self.fields))
                    or self._right_place(str(key), unknown, above)
                )
                questions.append(meant)
                yield Problem(str(key), f"There is no field {str(key)!r} here.{meant}")
        for wire in self.required:
            # One slip, one message: where a required field is misspelt, the question names it.
            if wire not in entries and not any(repr(wire) in question for question in questions):
                yield Problem(wire, f"{wire} is missing; it is required.")

    def _content(self) -> str:
        """What an object of this type holds: what it must hold, or what it may."""
        if self.required:
            return f" with {' and '.join(self.required)}"
        return f", with fields such as {', '.join(list(self.fields)[:3])}" if self.fields else ""

    def _same_namespace(self, key: object) -> str:
        """Why a reference has no namespace, which other references have."""
        return (
            " It names what is in its own namespace." if key == "namespace" and "name" in self.fields else ""
        )

    def _right_place(self, key: str, unknown: Sequence[str], above: Above) -> str:
        """Where a field belongs whose line has too few or too many blanks before it; "" if nowhere near.

        Args:
            key: the field.
            unknown: all fields of the object that it does not have: they were probably moved together.
            above: the levels that the object is in.
        """
        below = self.field_with(key, unknown) or self.field_with(key, unknown, lists=True)
        if below is not None:
            each = "each entry of " if isinstance(self.fields[below], List) else ""
            return f" It is a field of {each}{below}: put it there, further to the right."
        beside = above[0].plan.field_with(key, unknown) if above else None
        if beside is not None:
            return f" It is a field of {beside}, which stands beside {above[0].key}."
        around = next((level for level in above if key in level.plan.fields), None)
        return outdented(key, around.key) if around is not None else ""

    def field_with(self, key: str, keys: Sequence[str], *, lists: bool = False) -> str | None:
        """The field whose object has a field ``key``, and as many of ``keys`` as can be.

        Args:
            key: the field that it must have.
            keys: all fields that it may have.
            lists: look at the objects in lists instead.
        """
        plans = {
            wire: node.item if isinstance(node, List) else node
            for wire, node in self.fields.items()
            if isinstance(node, List) == lists
        }
        having = {
            wire: len(plan.fields.keys() & set(keys))
            for wire, plan in plans.items()
            if isinstance(plan, Plan) and key in plan.fields
        }
        return max(having, key=having.__getitem__, default=None)

    def made(self, value: Any) -> Any:
        entries = msgspec.convert(value, dict[str, Any])
        return self.cls(
            **{
                name: self.fields[wire].made(entries[wire])
                for name, wire in self.names.items()
                if wire in entries
            }
        )

    def judged(self, value: Any) -> list[Problem]:
        problems: list[Problem] = []
        if self.rules is not None:
            problems += self.rules.broken(value)
        for wire, each, rules in self.field_rules:
            if wire not in value:
                continue
            entry = value[wire]
            if each:
                below = cast("dict[str, Any]", entry).items() if isinstance(entry, dict) else enumerate(entry)
                for key, item in below:
                    problems += [problem.under(f"{wire}[{key}]") for problem in rules.broken(item)]
            else:
                problems += [problem.under(wire) for problem in rules.broken(entry)]
        for wire, node in self.judging:
            if wire in value:
                below = node.judged(value[wire])
                if below:
                    problems += [problem.under(wire) for problem in below]
        return problems

    def marked(self, value: Any, mark: str) -> Iterator[tuple[str, Any, Any]]:
        if value is None:
            return
        for name, wire, detail in self.marked_here.get(mark, ()):
            yield wire, detail, getattr(value, name)
        for name, wire, node in self.marked_below.get(mark, ()):
            for path, *rest in node.marked(getattr(value, name), mark):
                yield f"{wire}{path}" if path.startswith("[") else f"{wire}.{path}", *rest


class Level(NamedTuple):
    """An object of a manifest that contains the value at which a walk looks."""

    plan: Plan
    key: str
    """The field of the object that leads further in."""


Above = tuple[Level, ...]
"""The objects around a value, the innermost first."""


def outdented(key: str, beside: str) -> str:
    """A sentence for a field that was written inside of a field that it belongs beside."""
    return f" {key!r} belongs beside {beside!r}: put it there, further to the left."


Node = Leaf | List | Map | Plan


_plans: dict[type[Struct], Plan] = {}
"""All that were made; bounded by the number of Struct types."""


@functools.cache  # bounded likewise, and faster than a look-up here
def plan(cls: type[Struct]) -> Plan:
    """The plan of a Struct, which is made once."""
    info = types.type_info(cls)
    assert isinstance(info, types.StructType)
    return _planned(info)


def _planned(info: types.StructType) -> Plan:
    """The plan of a Struct from its type information, which has that of the Structs below it too."""
    made = _plans.get(info.cls)
    if made is None:
        made = _plans[info.cls] = Plan(info)
    return made


def _node(type_: types.Type) -> Node:
    extra, whole = extra_of(type_), type_
    while isinstance(type_, types.Metadata):
        type_ = type_.type
    if isinstance(type_, types.UnionType):
        parts = [part for part in type_.types if not isinstance(part, types.NoneType)]
        if len(parts) == 1:
            return _node(types.Metadata(type=parts[0], extra=extra))
    if isinstance(type_, types.StructType):
        return _planned(type_)
    if isinstance(type_, types.VarTupleType):
        return List(type_, extra.get("unique_by"))
    if isinstance(type_, types.DictType):
        return Map(type_, extra.get("null"))
    return Leaf(whole)


_LINE_BREAKS = str.maketrans("", "", "\r\n")


def _is_base64(type_: types.Type) -> bool:
    match type_:
        case types.Metadata():
            return _is_base64(type_.type)
        case types.UnionType():
            return any(map(_is_base64, type_.types))
        case _:
            return isinstance(type_, types.BytesType)


def _bare(type_: types.Type) -> Any:
    """The type of a scalar, without what limits its values."""
    match type_:
        case types.Metadata():
            return _bare(type_.type)
        case types.UnionType():
            return Union[tuple(_bare(part) for part in type_.types)]  # noqa: UP007 - their number is not known
        case types.LiteralType():
            return Union[tuple(type(value) for value in type_.values)]  # noqa: UP007
        case types.StrType():
            return str
        case types.IntType(ge=ge, le=le):
            # Limits may be younger than an object, but not these: an integer of the API has 32 bits unless
            # its limits go beyond, does not turn from negative to positive, and a port has 16 bits.
            low = 0 if ge is not None and ge >= 0 else -(2**31)
            high = le if le == 2**16 - 1 else max(le or 0, 2**31 - 1)
            return Annotated[int, msgspec.Meta(ge=low, le=high)]
        case types.FloatType():
            return float
        case types.BoolType():
            return bool
        case types.BytesType():
            return bytes
        case types.NoneType():
            return None
        case _:
            return Any


def extra_of(type_: types.Type) -> dict[str, Any]:
    """What ``Meta(extra=...)`` says of a type, or of the one alternative to None."""
    match type_:
        case types.Metadata():
            return extra_of(type_.type) | cast("dict[str, Any]", type_.extra or {})  # pyright: ignore[reportUnknownMemberType]
        case types.UnionType():
            parts = [part for part in type_.types if not isinstance(part, types.NoneType)]
            return extra_of(parts[0]) if len(parts) == 1 else {}
        case _:
            return {}


def default_of(field: types.Field) -> Any:
    """A field's default as plain data, or None when an absent field stays absent."""
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return None
    if value is None or value in ((), {}):
        return None
    return msgspec.json.decode(msgspec.json.encode(value))  # ``to_builtins`` would leave tuples


def rules_of(cls: type) -> tuple[Rule, ...]:
    """The rules about the objects of a class, those of its base classes first."""
    return tuple(rule for base in reversed(cls.__mro__) for rule in base.__dict__.get("RULES", ()))


def field_rules_of(cls: type) -> dict[str, tuple[Rule, ...]]:
    """The rules about single fields of a class, with those of its base classes, as in ``FIELD_RULES``."""
    by_field: dict[str, tuple[Rule, ...]] = {}
    for base in reversed(cls.__mro__):
        for key, rules in base.__dict__.get("FIELD_RULES", {}).items():
            by_field[key] = by_field.get(key, ()) + rules
    return by_field
