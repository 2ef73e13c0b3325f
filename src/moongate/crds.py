"""CustomResourceDefinitions of Envoy Gateway's kinds, from the models with which moongate checks manifests.

Theory of operation
===================
A schema comes from a walk over the types of a model, the same as those of ``api/plans.py``:

- A Struct is an object with its fields, required ones, and ``RULES`` as ``x-kubernetes-validations``.
- A tuple is a list. One that is marked ``unique_by`` is a map or a set, so that an API server too refuses
  two equal entries, and two appliers may each own entries of it.
- Limits, patterns, enums and defaults are those of the types. Where ``None`` stands for a default, so that a
  merge can see what a policy sets, the API server fills in none either.
- Descriptions are the docstrings of the fields, else what their pattern asks for, else the docstring of their
  Struct. Python does not keep docstrings of fields, so they are read from the sources of the models.

Facts
-----
* A field whose model takes anything, such as one that is not built yet, takes anything here.
* The status has a schema of its own, which takes what any controller may write for such a kind.

Source: Kubernetes, "Extend the Kubernetes API with CustomResourceDefinitions", for what makes a schema
structural.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from msgspec import Meta
from msgspec import inspect as types

from moongate.api.backend import Backend
from moongate.api.base import Model, Resource, form, unique_by
from moongate.api.envoypatchpolicy import EnvoyPatchPolicy
from moongate.api.httproutefilter import HTTPRouteFilter
from moongate.api.plans import default_of, extra_of, field_rules_of, rules_of
from moongate.api.shared import ControllerName, ParentReference
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.policies.client_traffic_policy import ClientTrafficPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from msgspec import Struct

    from moongate.api.base import Rule

Schema = dict[str, Any]


class StatusCondition(Model, frozen=True, kw_only=True):
    """One aspect of the state of a resource."""

    type: Annotated[
        str,
        form(
            r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
            r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
            "the name of the aspect, such as 'Accepted'",
            high=316,
        ),
    ]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[
        str,
        form(
            r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
            "why, in one word for programs, such as 'Invalid'",
            low=1,
            high=1024,
        ),
    ]
    message: Annotated[str, Meta(max_length=32768)]
    """Why, in sentences for people."""
    observed_generation: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    """The generation of the resource that this is about."""
    last_transition_time: datetime
    """When ``status`` changed last."""


class PolicyAncestorStatus(Model, frozen=True, kw_only=True):
    """How a policy fares under one Gateway."""

    ancestor_ref: ParentReference
    """The Gateway, or the listener of it."""
    controller_name: ControllerName
    """Who wrote this."""
    conditions: Annotated[tuple[StatusCondition, ...], Meta(min_length=1, max_length=8), unique_by("type")]


class PolicyStatus(Model, frozen=True, kw_only=True):
    """How a policy fares under each Gateway that it concerns."""

    ancestors: Annotated[tuple[PolicyAncestorStatus, ...], Meta(max_length=16)]


class BackendStatus(Model, frozen=True, kw_only=True):
    """Whether routes can use the backend."""

    conditions: Annotated[tuple[StatusCondition, ...], Meta(max_length=8), unique_by("type")] = ()


class Definition(NamedTuple):
    """What the model of a kind does not say of its CustomResourceDefinition.

    Args:
        kind: the model.
        plural: the name in URLs.
        short: the name that is quick to write, ``kubectl get btp``.
        status: what controllers write, if the kind has a status.
        columns: what ``kubectl get`` shows of it before the age: headings, each with a JSON path.
    """

    kind: type[Resource]
    plural: str
    short: str
    status: type[Model] | None
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What the kind may be called on a command line, in lower case, as ``kubectl`` has it."""
        singular = self.kind.KIND.lower()
        return singular, self.plural, self.short, f"{self.plural}.{self.kind.GROUP}"


DEFINITIONS = (
    Definition(
        Backend,
        "backends",
        "be",
        BackendStatus,
        (("Status", '.status.conditions[?(@.type=="Accepted")].reason'),),
    ),
    Definition(BackendTrafficPolicy, "backendtrafficpolicies", "btp", PolicyStatus),
    Definition(ClientTrafficPolicy, "clienttrafficpolicies", "ctp", PolicyStatus),
    Definition(
        EnvoyPatchPolicy,
        "envoypatchpolicies",
        "epp",
        PolicyStatus,
        (
            ("Accepted", '.status.ancestors[0].conditions[?(@.type=="Accepted")].status'),
            ("Programmed", '.status.ancestors[0].conditions[?(@.type=="Programmed")].status'),
        ),
    ),
    Definition(HTTPRouteFilter, "httproutefilters", "hrf", None),
)
"""The kinds whose models are whole. An API server would pass wrong values in one that is not."""

_CATEGORY = "envoy-gateway"
_AGE = {"jsonPath": ".metadata.creationTimestamp", "name": "Age", "type": "date"}


def custom_resource_definition(definition: Definition) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind, as a document."""
    kind, plural = definition.kind, definition.plural
    (version,) = kind.VERSIONS
    schema = _object(kind)
    schema["properties"] |= {
        "apiVersion": {"description": f"`{kind.GROUP}/{version}`.", "type": "string"},
        "kind": {"description": f"`{kind.KIND}`.", "type": "string"},
        "metadata": {"type": "object"},
    }
    if definition.status is not None:
        schema["properties"]["status"] = _object(definition.status)
    schema["properties"] = dict(sorted(schema["properties"].items()))
    schema["required"] = ["spec"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{kind.GROUP}"},
        "spec": {
            "group": kind.GROUP,
            "names": {
                "categories": [_CATEGORY],
                "kind": kind.KIND,
                "listKind": f"{kind.KIND}List",
                "plural": plural,
                "shortNames": [definition.short],
                "singular": kind.KIND.lower(),
            },
            "scope": "Cluster" if kind.CLUSTER_SCOPED else "Namespaced",
            "versions": [
                {
                    "additionalPrinterColumns": [
                        *(
                            {"jsonPath": path, "name": name, "type": "string"}
                            for name, path in definition.columns
                        ),
                        _AGE,
                    ],
                    "name": version,
                    "schema": {"openAPIV3Schema": schema},
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}} if definition.status is not None else {},
                }
            ],
        },
    }


def _object(cls: type[Struct]) -> Schema:
    """The schema of the objects of a class."""
    info = types.type_info(cls)
    assert isinstance(info, types.StructType)
    assert issubclass(cls, Model)
    schema: Schema = {"description": _prose(inspect.getdoc(cls) or ""), "type": "object"}
    rules, docs = field_rules_of(cls), _field_docs(cls)
    if properties := {
        field.encode_name: _field(
            field, docs.get(field.name, ""), rules.get(field.name, ()), rules.get(f"{field.name}[]", ())
        )
        for field in info.fields
    }:
        schema["properties"] = properties
    if required := [field.encode_name for field in info.fields if field.required]:
        schema["required"] = required
    if cls.ATOMIC:
        schema["x-kubernetes-map-type"] = "atomic"
    return _ruled(schema, rules_of(cls))


def _field(field: types.Field, doc: str, about: tuple[Rule, ...], each: tuple[Rule, ...]) -> Schema:
    """The schema of a field.

    Args:
        field: the field.
        doc: its docstring.
        about: rules that its holder has for it.
        each: rules that its holder has for each of its entries.
    """
    schema = _value(field.type, each)
    if (default := default_of(field)) is not None:
        schema["default"] = default
    if description := " ".join(_sentences(extra_of(field.type), doc)):
        schema = {"description": description} | schema | {"description": description}
    return _ruled(schema, about)


def _sentences(extra: Mapping[str, Any], doc: str) -> Iterator[str]:
    """What is said of a field: its docstring, else what its pattern asks for; and what its marks mean."""
    text = _prose(doc)
    if "unbuilt" in extra:
        yield f"Accepted and not built yet; {extra['unbuilt']}."
    for below, (instead, _) in extra.get("deprecated", {}).items():
        if not below and not text.startswith("Deprecated"):
            yield f"Deprecated: use {instead}."
    if text:
        yield text
    elif "form" in extra:
        yield f"{extra['form'][0].upper()}{extra['form'][1:]}."


def _value(type_: types.Type, each: tuple[Rule, ...] = ()) -> Schema:
    """The schema of the values of a type; ``each``: rules about the entries of a list or a map."""
    match bare := _bare(type_):
        case types.StructType():
            return _object(bare.cls)
        case types.VarTupleType():
            schema = _bounded({"type": "array"}, "Items", bare.min_length, bare.max_length)
            schema["items"] = _ruled(_value(bare.item_type), each)
            if (keys := extra_of(type_).get("unique_by")) is not None:
                schema["x-kubernetes-list-type"] = "map" if keys else "set"
            if keys:
                schema["x-kubernetes-list-map-keys"] = list(keys)
            return schema
        case types.DictType():
            schema = _bounded({"type": "object"}, "Properties", bare.min_length, bare.max_length)
            schema["additionalProperties"] = _ruled(_value(bare.value_type), each)
            return schema
        case types.LiteralType():
            (kind,) = {type(value) for value in bare.values}
            return {"enum": list(bare.values), "type": "string" if kind is str else "integer"}
        case types.AnyType():
            return {"x-kubernetes-preserve-unknown-fields": True}
        case _:
            return _scalar(bare)


def _scalar(type_: types.Type) -> Schema:
    match type_:
        case types.StrType():
            schema = _bounded({"type": "string"}, "Length", type_.min_length, type_.max_length)
            return schema if type_.pattern is None else schema | {"pattern": type_.pattern}
        case types.BytesType():
            return {"format": "byte", "type": "string"}
        case types.DateTimeType():
            return {"format": "date-time", "type": "string"}
        case types.BoolType():
            return {"type": "boolean"}
        case types.IntType(ge=low, le=high):
            bits = 32 if low is not None and high is not None and low >= -(2**31) and high < 2**31 else 64
            most = 2 ** (bits - 1) - 1
            # The format says its own range, and an API server holds to it.
            limits = {"minimum": low if low != -most - 1 else None, "maximum": high if high != most else None}
            schema = {"format": f"int{bits}", "type": "integer"}
            return schema | {name: limit for name, limit in limits.items() if limit is not None}
        case types.FloatType(ge=low, le=high):
            limits = {"minimum": low, "maximum": high}
            return {"type": "number"} | {name: limit for name, limit in limits.items() if limit is not None}
        case types.UnionType(types=parts):
            # The only union that a schema can have, and that the models have: a number, perhaps with a unit.
            (text,) = (part for part in map(_bare, parts) if isinstance(part, types.StrType))
            assert {type(_bare(part)) for part in parts} <= {types.StrType, types.IntType, types.NoneType}
            return {
                "anyOf": [{"type": "integer"}, {"type": "string"}],
                "pattern": text.pattern,
                "x-kubernetes-int-or-string": True,
            }
        case _:
            raise AssertionError(f"{type_} has no schema yet")


def _bare(type_: types.Type) -> types.Type:
    """A type without annotations, and without the ``None`` of a field that may be absent."""
    while True:
        match type_:
            case types.Metadata():
                type_ = type_.type
            case types.UnionType():
                parts = [part for part in type_.types if not isinstance(part, types.NoneType)]
                if len(parts) > 1:
                    return type_
                (type_,) = parts
            case _:
                return type_


def _bounded(schema: Schema, what: str, low: int | None, high: int | None) -> Schema:
    limits = {f"min{what}": low or None, f"max{what}": high}
    return schema | {name: limit for name, limit in limits.items() if limit is not None}


def _ruled(schema: Schema, rules: tuple[Rule, ...]) -> Schema:
    """A schema with more rules."""
    if rules:
        own = schema.get("x-kubernetes-validations", [])
        added = [{"message": rule.message, "rule": " ".join(rule.expression.split())} for rule in rules]
        schema["x-kubernetes-validations"] = [*own, *added]
    return schema


def _prose(doc: str) -> str:
    """A docstring as a paragraph; what is code there has one quote on each side, as in Markdown."""
    return " ".join(doc.split()).replace("``", "`")


# --- docstrings of fields -------------------------------------------------------------------------


@functools.cache
def _field_docs(cls: type[Model]) -> dict[str, str]:
    """The docstrings of the fields of a class, by their names in Python; those of its base classes too."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, Model):
            docs |= _docs_of_module(base.__module__).get(base.__qualname__, {})
    return docs


@functools.cache
def _docs_of_module(module: str) -> dict[str, dict[str, str]]:
    """Class → field → docstring: a string that stands below the field."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {
        node.name: {
            field.target.id: inspect.cleandoc(below.value.value)
            for field, below in pairwise(node.body)
            if isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        }
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
