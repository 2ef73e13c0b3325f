"""Compares our Structs with the CRDs that they mirror, field by field.

For the tests of every module that declares a kind: give ``differences`` the kind and its CRD, and expect none
but those that are known, each with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import yaml
from msgspec import inspect as types

from moongate.api.base import Resource, Rule

Schema = Mapping[str, Any]

CRDS = Path(__file__).parents[2].parent / "shared" / "crds"
"""Where the CRDs of Gateway API and Envoy Gateway are laid beside a checkout; they are not part of it."""


@cache
def schema(crd: str, version: str) -> Schema:
    """The schema of one version of a CRD, by its path below ``CRDS``; skips the test when there is none."""
    path = CRDS / crd
    if not path.exists():
        pytest.skip(f"the CRDs are not beside the checkout: there is no {path.name}")
    document = yaml.load(path.read_text(), yaml.CSafeLoader)
    return next(v["schema"]["openAPIV3Schema"] for v in document["spec"]["versions"] if v["name"] == version)


_ABSENT = re.compile(r": the default is .* in the CRD, None here$")


def differences(
    kind: type[Resource], crd: str, known: Mapping[str, str] | None = None, *, version: str = ""
) -> list[str]:
    """What differs between a kind and its CRD, as ``path: what``; empty when it is mirrored.

    In a policy that merges, ``None`` may stand for a default: a merge then knows what the policy says itself.

    Args:
        kind: what is compared.
        crd: path of the CRD below ``CRDS``.
        known: differences that are meant (or beginnings of them), each with its reason. One that does not
            exist any more is a difference too.
        version: of the CRD; the first of the kind if there is none.
    """
    whole = schema(crd, version or kind.VERSIONS[0])
    info = types.type_info(kind)
    assert isinstance(info, types.StructType)
    ignored = {"apiVersion", "kind", "metadata", "status"}
    properties = {name: value for name, value in whole["properties"].items() if name not in ignored}
    fields = tuple(field for field in info.fields if field.encode_name not in ignored)
    lines = list(_object("", {**whole, "properties": properties}, kind, fields))
    if "mergeType" in properties["spec"]["properties"]:
        lines = [line for line in lines if not _ABSENT.search(line)]
    meant = {start: [line for line in lines if line.startswith(start)] for start in known or {}}
    excused = {line for excusing in meant.values() for line in excusing}
    return [line for line in lines if line not in excused] + [
        f"{start}: this difference is known, but there is none" for start, own in meant.items() if not own
    ]


def _object(path: str, crd: Schema, cls: type, fields: tuple[types.Field, ...]) -> Iterator[str]:
    ours = {field.encode_name: field for field in fields}
    theirs = crd.get("properties", {})
    for name in sorted(theirs.keys() - ours.keys()):
        yield f"{path}.{name}: is not declared"
    for name in sorted(ours.keys() - theirs.keys()):
        yield f"{path}.{name}: is not in the CRD"
    for name in sorted(ours.keys() & theirs.keys()):
        field, below, here = ours[name], theirs[name], f"{path}.{name}"
        required = name in crd.get("required", ()) and "default" not in below
        if field.required != required:
            yield f"{here}: required is {required} in the CRD, {field.required} here"
        expected, actual = _filled(below, below.get("default")), _filled(below, _default(field))
        if expected != actual:
            yield f"{here}: the default is {expected!r} in the CRD, {actual!r} here"
        rules = _field_rules(cls)
        yield from _value(
            here, below, field.type, rules.get(field.name, ()), rules.get(f"{field.name}[]", ())
        )


def _value(
    path: str, crd: Schema, declared: types.Type, about: tuple[Rule, ...] = (), each: tuple[Rule, ...] = ()
) -> Iterator[str]:
    """Differences of one value; ``about``, ``each``: rules that its holder has for it, for its entries."""
    type_, extra = _plain(declared)
    if extra.get("unbuilt"):
        return
    own = ()
    match type_:
        case types.StructType():
            own = _rules(type_.cls)
            yield from _object(path, crd, type_.cls, type_.fields)
        case types.VarTupleType():
            yield from _same(path, "minItems", crd.get("minItems"), type_.min_length)
            yield from _same(path, "maxItems", crd.get("maxItems"), type_.max_length)
            keys = {"map": tuple(crd.get("x-kubernetes-list-map-keys", ())), "set": ()}.get(
                crd.get("x-kubernetes-list-type", "")
            )
            yield from _same(path, "unique entries", keys, extra.get("unique_by"))
            if "items" not in crd:
                yield f"{path}: is {crd.get('type')} in the CRD, a list here"
                return
            yield from _value(f"{path}[]", crd["items"], type_.item_type, each)
        case types.DictType():
            yield from _same(path, "minProperties", crd.get("minProperties"), type_.min_length)
            yield from _same(path, "maxProperties", crd.get("maxProperties"), type_.max_length)
            values = crd.get("additionalProperties")
            if not isinstance(values, dict):
                yield f"{path}: is {crd.get('type')} in the CRD, a map here"
                return
            yield from _value(f"{path}[]", cast("Schema", values), type_.value_type, each)
        case _:
            yield from _scalar(path, crd, type_)
    expected = {_normal(rule["rule"]) for rule in crd.get("x-kubernetes-validations", ())}
    actual = {_normal(rule.expression) for rule in (*own, *about)}
    for rule in sorted(expected - actual):
        yield f"{path}: lacks the rule {rule}"
    for rule in sorted(actual - expected):
        yield f"{path}: has a rule of its own, {rule}"


def _scalar(path: str, crd: Schema, type_: types.Type) -> Iterator[str]:
    if crd.get("x-kubernetes-int-or-string"):
        if not isinstance(type_, types.UnionType):
            yield f"{path}: is a whole number or a string in the CRD"
        return
    names: Mapping[type, str] = {
        types.StrType: "string",
        types.BytesType: "string",
        types.IntType: "integer",
        types.BoolType: "boolean",
        types.FloatType: "number",
    }
    if isinstance(type_, types.LiteralType):
        enum = crd.get("enum") or next((each["enum"] for each in crd.get("allOf", ()) if "enum" in each), ())
        yield from _same(path, "enum", sorted(map(str, enum)), sorted(map(str, type_.values)))
        return
    yield from _same(path, "type", crd.get("type"), names.get(type(type_)))
    yield from _same(path, "enum", crd.get("enum"), None)
    yield from _same(path, "base64", crd.get("format") == "byte", isinstance(type_, types.BytesType))
    if isinstance(type_, types.StrType):
        yield from _same(path, "minLength", crd.get("minLength") or None, type_.min_length or None)
        yield from _same(path, "maxLength", crd.get("maxLength"), type_.max_length)
        yield from _same(path, "pattern", _linear(crd.get("pattern")), type_.pattern)
    if isinstance(type_, types.IntType | types.FloatType):
        # A format says the range too, which the API server does not hold to; ours may.
        bits = {"int32": 31, "int64": 63}.get(crd.get("format", ""))
        low, high, most = type_.ge, type_.le, crd.get("maximum")
        if bits is not None:
            low = None if low == -(2**bits) else low
            high = None if high == 2**bits - 1 else high
            most = None if most == 2**bits - 1 else most
        yield from _same(path, "minimum", crd.get("minimum"), low)
        yield from _same(path, "maximum", most, high)


_LINEAR = {r"^[!-~]+([\t ]?[!-~]+)*$": r"^[!-~]+([\t ][!-~]+)*$"}
"""Patterns that Go takes in linear time and Python does not, each as it stands here."""


def _linear(pattern: str | None) -> str | None:
    return _LINEAR.get(pattern, pattern) if pattern is not None else None


def _same(path: str, what: str, theirs: object, ours: object) -> Iterator[str]:
    if theirs != ours:
        yield f"{path}: {what} is {theirs!r} in the CRD, {ours!r} here"


def _plain(declared: types.Type) -> tuple[types.Type, dict[str, Any]]:
    """A type without ``| None`` and annotations, and what these say."""
    extra: dict[str, Any] = {}
    while True:
        if isinstance(declared, types.Metadata):
            extra |= cast("dict[str, Any]", declared.extra or {})
            declared = declared.type
            continue
        if isinstance(declared, types.UnionType):
            parts = [part for part in declared.types if not isinstance(part, types.NoneType)]
            if len(parts) == 1:
                declared = parts[0]
                continue
        return declared, extra


def _default(field: types.Field) -> Any:
    made = field.default_factory is not msgspec.NODEFAULT
    value = field.default_factory() if made else field.default
    if value is msgspec.NODEFAULT or value is None or value in ((), {}):
        return None
    return msgspec.json.decode(msgspec.json.encode(value))  # lists for tuples


def _filled(crd: Schema, value: Any) -> Any:
    """A value with the CRD's own defaults below it."""
    if isinstance(value, dict) and "properties" in crd:
        entries = cast("dict[str, Any]", value)
        whole = {
            name: _filled(below, entries.get(name, below.get("default")))
            for name, below in crd["properties"].items()
        }
        return {name: entry for name, entry in whole.items() if entry is not None}
    if isinstance(value, list) and "items" in crd:
        return [_filled(crd["items"], entry) for entry in cast("list[Any]", value)]
    return cast("Any", value)


def _rules(cls: type) -> tuple[Rule, ...]:
    return tuple(rule for base in cls.__mro__ for rule in base.__dict__.get("RULES", ()))


def _field_rules(cls: type) -> dict[str, tuple[Rule, ...]]:
    by_field: dict[str, tuple[Rule, ...]] = {}
    for base in cls.__mro__:
        for key, rules in base.__dict__.get("FIELD_RULES", {}).items():
            by_field[key] = by_field.get(key, ()) + rules
    return by_field


def _normal(expression: str) -> str:
    return " ".join(expression.split())
