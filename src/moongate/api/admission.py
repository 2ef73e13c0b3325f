"""From a manifest to a typed resource, or to the list of what is wrong with it, as an API server would judge.

Theory of operation
===================
From each Struct a *plan* is made once: its fields by wire name, which of them have defaults, which lead to
Structs below, which rules it carries. A document then goes through three walks:

1. *filled*: nulls are dropped and the defaults of the CRD put in; the given document is left as it is.
2. ``msgspec.convert``, which is fast and strict, but stops at the first fault. Only when it finds one, a slow
   walk of our own (*faults*) tells them all, each with its path, the value found and what would be right.
3. *judged*: the CEL rules (``rules``), and that entries of lists differ where they must.

What is said of a value that is wrong is in ``words``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, Union, cast

import msgspec
from msgspec import Struct
from msgspec import inspect as types

from moongate.api.base import Model, Resource, Rule
from moongate.api.diagnostics import bounded, did_you_mean, exact, shown, wrong
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.rules import Ruleset, ruleset
from moongate.problem import Problem

M = TypeVar("M", bound=Model)
R = TypeVar("R", bound=Resource)


class Admission(NamedTuple):
    """What became of one document.

    ``resource`` is None exactly when there are problems.
    """

    resource: Resource | None
    problems: tuple[Problem, ...]


def admit(
    document: Mapping[str, Any],
    kinds: Mapping[tuple[str, str], type[Resource]],
    *,
    namespace: str,
    tolerant: bool = False,
) -> Admission:
    """The resource that a document says, with the CRD's defaults, or all that is wrong with it.

    Args:
        document: a parsed manifest, of plain dictionaries and lists; it is not changed.
        kinds: (group, kind) → type of the resource.
        namespace: what an object of a namespaced kind gets when it names none.
        tolerant: answer the resource besides its faults, as far as its shape allows: an object that is in a
            cluster already may be older than the rule that it breaks.
    """
    kind = _kind(document, kinds)
    if isinstance(kind, Problem):
        return Admission(None, (kind,))
    metadata, problems = _metadata(document.get("metadata"), kind, namespace)
    body = {key: value for key, value in document.items() if key not in {"apiVersion", "kind", "status"}}
    if problems:
        # The rest is judged all the same, so that a user sees everything at once.
        _, others = checked(kind, kind.stored(body | {"metadata": {"name": "unnamed"}}))
        return Admission(None, (*problems, *others))
    stored = kind.stored(body | {"metadata": metadata})
    value, faults = checked(kind, stored)
    if kind.PRIVATE:
        faults = tuple(_discreet(fault) if fault.path == kind.PRIVATE else fault for fault in faults)
    if value is None and tolerant:
        value = _made(kind, stored)
    return Admission(value, faults)


def admit_configuration(document: Mapping[str, Any]) -> tuple[EnvoyGateway | None, tuple[Problem, ...]]:
    """The configuration that a document says, or all that is wrong with it."""
    version = f"{EnvoyGateway.GROUP}/{EnvoyGateway.VERSION}"
    for key, right in (("apiVersion", version), ("kind", EnvoyGateway.KIND)):
        if document.get(key) != right:
            return None, (Problem(key, f"{key} is {shown(document.get(key))}; it must be {right!r}."),)
    return checked(EnvoyGateway, {k: v for k, v in document.items() if k not in {"apiVersion", "kind"}})


def checked(model: type[M], document: dict[str, Any]) -> tuple[M | None, tuple[Problem, ...]]:
    """An object of any model, with defaults, or all that is wrong with the document."""
    plan = _plan(model)
    whole = plan.filled(document)
    try:
        value = msgspec.convert(whole, model)
    except msgspec.ValidationError as error:
        return None, tuple(plan.faults(whole)) or (Problem("", f"{error}."),)
    problems = plan.judged(whole)
    return (None, tuple(problems)) if problems else (value, ())


def _discreet(fault: Problem) -> Problem:
    """The fault without the value that it was found in, which nobody else may read."""
    return Problem(fault.path, f"{fault.path} must be an object, its values in base64.", fault.reason)


def _made(kind: type[R], document: dict[str, Any]) -> R | None:
    """The object, whatever its values are; ``None`` where not even their types are right.

    A rule may be younger than an object, a type is not: queries rely on it.
    """
    plan = _plan(kind)
    try:
        made: R = plan.made(plan.filled(document))
    except (msgspec.ValidationError, TypeError):
        return None
    return made


NOT_SUPPORTED = "NotSupported"
"""Reason of what is said about fields that have no effect yet."""


def no_effect(path: str) -> Problem:
    """What is said about a field of ``unbuilt``."""
    return Problem(path, f"{path} is not supported by this version and has no effect.", NOT_SUPPORTED)


def unbuilt(resource: Model) -> Iterator[str]:
    """Field paths of all that is set in a resource, is accepted, and has no effect yet."""
    return (path for path, _, value in _plan(type(resource)).marked(resource, "unbuilt") if value is not None)


def deprecated(resource: Model) -> Iterator[tuple[str, str]]:
    """Field paths of all that is set in a resource and deprecated, each with the path to write instead."""
    for path, successors, value in _plan(type(resource)).marked(resource, "deprecated"):
        for below, (instead, only_if_true) in successors.items():
            at, found = path, value
            for name in below.split(".") if below else ():
                at = f"{at}.{name}"
                found = cast("dict[str, Any]", found).get(name) if isinstance(found, dict) else None
            if found is True or (found not in (None, (), []) and not only_if_true):
                yield at, f"{at.rpartition('.')[0]}.{instead}"


@functools.cache
def marked_fields(model: type[Model], mark: str) -> tuple[str, ...]:
    """The fields (Python names) of a model whose type has a mark, such as ``unbuilt``."""
    info = types.type_info(model)
    assert isinstance(info, types.StructType)
    return tuple(field.name for field in info.fields if mark in _extra(field.type))


def _kind(
    document: Mapping[str, Any], kinds: Mapping[tuple[str, str], type[Resource]]
) -> type[Resource] | Problem:
    version, name = document.get("apiVersion"), document.get("kind")
    for key, value in (("apiVersion", version), ("kind", name)):
        if not isinstance(value, str) or not value:
            return Problem(
                key, f"{key} is {shown(value)}; a manifest says what it is in apiVersion and kind."
            )
    assert isinstance(version, str)
    assert isinstance(name, str)
    group, _, number = version.rpartition("/")
    found = kinds.get((group, name))
    if found is None:
        groups = [g for g, k in kinds if k == name]
        if groups:
            right = " or ".join(sorted(repr(g or "v1") for g in groups))
            return Problem("apiVersion", f"There is no kind {name} in {version!r}; its group is {right}.")
        meant = did_you_mean(name, [k for _, k in kinds])
        return Problem("kind", f"{name!r} of {version!r} is not a kind that is read here.{meant}")
    if number not in found.VERSIONS:
        right = " or ".join(repr(f"{group}/{v}" if group else v) for v in found.VERSIONS)
        return Problem("apiVersion", f"apiVersion of {name} is {version!r}; it must be {right}.")
    return found


_KEPT = ("uid", "labels", "annotations", "generation")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")


def _metadata(given: object, kind: type[Resource], namespace: str) -> tuple[dict[str, Any], list[Problem]]:
    if not isinstance(given, dict):
        return {}, [Problem("metadata", f"metadata is {shown(given)}; it must be an object with a name.")]
    meta = cast("dict[str, Any]", given)
    problems: list[Problem] = []
    kept: dict[str, Any] = {key: meta[key] for key in _KEPT if meta.get(key) is not None}

    kept["name"] = name = meta.get("name")
    form, longest = (_DNS_LABEL, 63) if kind.NAME_IS_LABEL else (_DNS_SUBDOMAIN, 253)
    if not isinstance(name, str) or not form.match(name) or len(name) > longest:
        dots = "" if kind.NAME_IS_LABEL else ", '.'"
        problems.append(
            Problem(
                "metadata.name",
                f"The name is {shown(name)}; it must have 1 to {longest} characters of a-z, 0-9, '-'{dots}, "
                "beginning and ending with a letter or digit.",
            )
        )

    # A namespace on an object that has none is what ``kubectl -n`` writes too: it means nothing.
    if not kind.CLUSTER_SCOPED:
        kept["namespace"] = where = meta.get("namespace") or namespace
        if not isinstance(where, str) or not _DNS_LABEL.match(where) or len(where) > 63:
            problems.append(
                Problem(
                    "metadata.namespace",
                    f"The namespace is {shown(where)}; it must have 1 to 63 characters of a-z, 0-9, '-', "
                    "beginning and ending with a letter or digit.",
                )
            )

    created: Any = meta.get("creationTimestamp")
    if hasattr(created, "isoformat"):  # YAML reads an unquoted time as one
        created = created.isoformat().replace("+00:00", "Z")
    if created is not None:
        kept["creationTimestamp"] = created
    return kept, problems


# --- plans ----------------------------------------------------------------------------------------


class _Leaf:
    """A value without parts that need a look: scalars, and what is not ours to judge."""

    def __init__(self, type_: types.Type) -> None:
        self.type = type_
        self.exact = exact(type_)
        self.bare = _bare(type_)

    fills = judges = hides = False
    """Whether the walk of that name has anything to do here or below."""

    def filled(self, value: Any) -> Any:
        return value

    def faults(self, value: Any) -> Iterator[Problem]:
        message = wrong(self.type, value)
        if message:
            yield Problem("", message)

    def made(self, value: Any) -> Any:
        return msgspec.convert(value, self.bare)

    def judged(self, value: Any) -> list[Problem]:
        """A newline at the end, which ``$`` of Python lets pass and that of RE2 does not."""
        if self.exact is None or not isinstance(value, str) or value[-1:] != "\n":
            return []
        return list(self.faults(value))

    def marked(self, value: Any, mark: str) -> Iterator[tuple[str, Any, Any]]:
        """Fields whose type has a mark (``Meta(extra=...)``): path, what the mark says, the field's value."""
        return iter(())


class _List:
    """A list; its entries must differ in ``keys`` (or altogether, when that is empty) unless it is None."""

    def __init__(self, type_: types.VarTupleType, keys: tuple[str, ...] | None) -> None:
        self.type = type_
        self.keys = keys
        self.item = _node(type_.item_type)
        self.fills = self.item.fills
        self.judges = keys is not None or self.item.judges or _patterned(self.item)
        self.hides = self.item.hides

    def filled(self, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        fill = self.item.filled
        return [fill(entry) for entry in cast("list[Any]", value)]

    def faults(self, value: Any) -> Iterator[Problem]:
        if not isinstance(value, list | tuple):
            yield Problem("", f"The value is {shown(value)}; it must be a list.")
            return
        entries = cast("list[Any]", value)
        message = bounded(len(entries), self.type.min_length, self.type.max_length, "entries")
        if message:
            yield Problem("", f"The list has {message}")
        for index, entry in enumerate(entries):
            for problem in self.item.faults(entry):
                yield problem.under(f"[{index}]")

    def made(self, value: Any) -> Any:
        return tuple(self.item.made(entry) for entry in msgspec.convert(value, list[Any]))

    def judged(self, value: Any) -> list[Problem]:
        problems: list[Problem] = []
        if self.item.judges or _patterned(self.item):
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


class _Map:
    """A map of strings to values."""

    def __init__(self, type_: types.DictType) -> None:
        self.type = type_
        self.key = _node(type_.key_type)
        self.item = _node(type_.value_type)
        self.fills = self.item.fills
        self.judges = self.item.judges or _patterned(self.item)
        self.hides = self.item.hides

    def filled(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        fill = self.item.filled
        return {key: fill(entry) for key, entry in cast("dict[str, Any]", value).items()}

    def faults(self, value: Any) -> Iterator[Problem]:
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
            for problem in self.item.faults(entry):
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


class _Plan:
    """A Struct: what the walks have to do for its objects."""

    def __init__(self, cls: type[Struct]) -> None:
        self.cls = cls
        self.fills = self.judges = self.hides = True

    def complete(self) -> _Plan:
        """The plan with its fields."""
        info = types.type_info(self.cls)
        assert isinstance(info, types.StructType)
        self.closed = info.forbid_unknown_fields
        self.fields: dict[str, _Node] = {}
        self.required = [f.encode_name for f in info.fields if f.required]
        self.marks: list[tuple[str, str, dict[str, Any]]] = []
        self.defaults: list[tuple[str, Any]] = []
        names: dict[str, str] = {}
        self.names = names
        for field in info.fields:
            wire = names[field.name] = field.encode_name
            node = self.fields[wire] = _node(field.type)
            if extra := _extra(field.type):
                self.marks.append((field.name, wire, extra))
            default = _default(field)
            if default is not None:
                self.defaults.append((wire, node.filled(default)))
        self.filling = [(wire, node) for wire, node in self.fields.items() if node.fills]
        self.judging = [(w, n) for w, n in self.fields.items() if n.judges or _patterned(n)]
        self.hiding = [
            (field.name, field.encode_name, self.fields[field.encode_name])
            for field in info.fields
            if self.fields[field.encode_name].hides and not _extra(field.type).get("unbuilt")
        ]
        self.rules = ruleset(_inherited(self.cls, "RULES"))
        self.field_rules: list[tuple[str, bool, Ruleset]] = []
        for key, rules in _inherited_by_field(self.cls).items():
            found = ruleset(rules)
            if found is not None:
                self.field_rules.append((names[key.removesuffix("[]")], key.endswith("[]"), found))
        return self

    def filled(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        given = cast("dict[str, Any]", value)
        whole = {key: entry for key, entry in given.items() if entry is not None}
        for wire, node in self.filling:
            entry = whole.get(wire)
            if entry is not None:
                whole[wire] = node.filled(entry)
        for wire, default in self.defaults:
            if wire not in whole:
                whole[wire] = default
        return whole

    def faults(self, value: Any) -> Iterator[Problem]:
        if not isinstance(value, dict):
            yield Problem("", f"The value is {shown(value)}; it must be an object.")
            return
        entries = cast("dict[Any, Any]", value)
        for key, entry in entries.items():
            node = self.fields.get(key)
            if node is not None:
                for problem in node.faults(entry):
                    yield problem.under(key)
            elif self.closed:
                free = [wire for wire in self.fields if wire not in entries]
                meant = (
                    did_you_mean(str(key), free)
                    or did_you_mean(str(key), list(self.fields))
                    or self._belongs(str(key))
                )
                yield Problem(str(key), f"There is no field {str(key)!r} here.{meant}")
        for wire in self.required:
            if wire not in entries:
                yield Problem(wire, f"{wire} is missing; it is required.")

    def _belongs(self, key: str) -> str:
        """Where a field stands that was put one level too high: its lines lack some blanks."""
        below = ((wire, node) for wire, node in self.fields.items() if isinstance(node, _Plan))
        right = next((wire for wire, node in below if key in node.fields), None)
        return f" It is a field of {right}: put it there, further to the right." if right else ""

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
            found = value[wire]
            if each:
                listed = (
                    cast("dict[str, Any]", found).items() if isinstance(found, dict) else enumerate(found)
                )
                for index, entry in listed:
                    problems += [problem.under(f"{wire}[{index}]") for problem in rules.broken(entry)]
            else:
                problems += [problem.under(wire) for problem in rules.broken(found)]
        for wire, node in self.judging:
            if wire in value:
                below = node.judged(value[wire])
                if below:
                    problems += [problem.under(wire) for problem in below]
        return problems

    def marked(self, value: Any, mark: str) -> Iterator[tuple[str, Any, Any]]:
        if value is None:
            return
        for name, wire, extra in self.marks:
            if mark in extra:
                yield wire, extra[mark], getattr(value, name)
        for name, wire, node in self.hiding:
            for path, *rest in node.marked(getattr(value, name), mark):
                yield f"{wire}{path}" if path.startswith("[") else f"{wire}.{path}", *rest


_Node = _Leaf | _List | _Map | _Plan


def _patterned(node: _Node) -> bool:
    return isinstance(node, _Leaf) and node.exact is not None


@functools.cache  # bounded by the number of Struct types
def _plan(cls: type[Struct]) -> _Plan:
    return _Plan(cls).complete()


def _node(type_: types.Type) -> _Node:
    extra, given = _extra(type_), type_
    while isinstance(type_, types.Metadata):
        type_ = type_.type
    if isinstance(type_, types.UnionType):
        parts = [part for part in type_.types if not isinstance(part, types.NoneType)]
        if len(parts) == 1:
            return _node(types.Metadata(type=parts[0], extra=extra))
    if isinstance(type_, types.StructType):
        return _plan(type_.cls)
    if isinstance(type_, types.VarTupleType):
        return _List(type_, extra.get("unique_by"))
    if isinstance(type_, types.DictType):
        return _Map(type_)
    return _Leaf(given)


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
        case types.IntType():
            return int
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


def _extra(type_: types.Type) -> dict[str, Any]:
    """What ``Meta(extra=...)`` says of a type, or of the one alternative to None."""
    match type_:
        case types.Metadata():
            return _extra(type_.type) | cast("dict[str, Any]", type_.extra or {})  # pyright: ignore[reportUnknownMemberType]
        case types.UnionType():
            parts = [part for part in type_.types if not isinstance(part, types.NoneType)]
            return _extra(parts[0]) if len(parts) == 1 else {}
        case _:
            return {}


def _default(field: types.Field) -> Any:
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


def _inherited(cls: type, name: str) -> tuple[Rule, ...]:
    return tuple(rule for base in reversed(cls.__mro__) for rule in base.__dict__.get(name, ()))


def _inherited_by_field(cls: type) -> dict[str, tuple[Rule, ...]]:
    found: dict[str, tuple[Rule, ...]] = {}
    for base in reversed(cls.__mro__):
        for key, rules in base.__dict__.get("FIELD_RULES", {}).items():
            found[key] = found.get(key, ()) + rules
    return found
