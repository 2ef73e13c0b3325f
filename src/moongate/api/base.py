"""What every API type shares: the base Struct, references, metadata, conditions, CEL rules, durations.

Rules
=====
1. A Struct mirrors one object of a CRD: field for field, with the CRD's default, range, pattern and enum.
2. A field of the reference that moongate does not build yet is declared ``Unbuilt``: it is accepted, and
   the resource's status says that it has no effect. A field that is not declared at all is an error.
3. What the CRD says in CEL stands in ``RULES`` of the Struct that it is about, or, when it is about a list,
   a map or a scalar, in ``FIELD_RULES`` of the Struct that holds it.
4. A list that the CRD calls a map or a set is marked ``unique_by``: two equal entries are an error.

Annotations are not postponed here: msgspec evaluates those of the base classes anew for each of hundreds of
Structs, which would be a part of each start.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

from msgspec import Meta, Struct, structs

from moongate.problem import Problem

GATEWAY_GROUP = "gateway.networking.k8s.io"
ENVOY_GROUP = "gateway.envoyproxy.io"


@functools.cache
def fields_of(model: type[Struct]) -> tuple[structs.FieldInfo, ...]:
    """The fields of a Struct. To find them out anew takes a millisecond for a big one."""
    return structs.fields(model)


class Rule(Struct, frozen=True):
    """One ``x-kubernetes-validations`` entry.

    Args:
        expression: CEL over ``self``, the object with defaults applied; as the CRD has it.
        message: what is wrong and what would be right, to the user.
    """

    expression: str
    message: str


class Model(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True
):
    """Base of API types: immutable, ``camelCase`` on the wire, unknown fields refused.

    Sequences are tuples and maps are never mutated, so that two equal specs compare equal and the
    engine can stop at an equal result.
    """

    RULES: ClassVar[tuple[Rule, ...]] = ()
    """Rules about the object; those of its base classes hold too."""
    DROPPED: ClassVar[frozenset[str]] = frozenset()
    """Fields that the object may have and that mean nothing to a gateway; they are dropped on admission."""
    ATOMIC: ClassVar[bool] = False
    """Server-side apply replaces the object as a whole, so that its fields have no owners of their own."""
    NAMES_SECRET: ClassVar[bool] = False
    """It refers to a Secret. No message quotes what is in its place, because it may be the secret itself."""
    FIELD_RULES: ClassVar[Mapping[str, tuple[Rule, ...]]] = {}
    """Rules about one field: attribute name → rules whose ``self`` is the field's value. ``"name[]"`` is each
    entry of a list (or each value of a map). Those of the base classes hold too."""


def form(pattern: str, description: str, *, low: int | None = None, high: int | None = None) -> Meta:
    """Annotation of a string that must have a form.

    Args:
        pattern: the CRD's regular expression.
        description: what it asks for, to follow "it must be"; a user never sees the pattern.
        low: fewest characters.
        high: most characters.
    """
    return Meta(pattern=pattern, min_length=low, max_length=high, extra={"form": description})


def private(description: str) -> Meta:
    """Annotation of a value that may be a secret, so that no message quotes it.

    Args:
        description: what it must be, to follow "it must be".
    """
    return Meta(extra={"private": description})


def not_built_yet(consequence: str) -> Meta:
    """Annotation of a field of the reference that is accepted and not built yet; its status says so.

    Args:
        consequence: what follows from it for a user who sets the field; half a sentence.
    """
    return Meta(extra={"unbuilt": consequence})


Unbuilt = Annotated[Any, not_built_yet("it has no effect")]
"""A field of the reference that is accepted but has no effect yet."""


def deprecated(instead: str, *below: str, only_if_true: bool = False) -> Meta:
    """Annotation of a field that is deprecated; a status says so where it is set.

    Args:
        instead: the field beside it that says the same.
        below: the paths of what is deprecated below a field that is ``Unbuilt`` and so has no Struct. Without
            any it is the field itself.
        only_if_true: to set it to false says the same as not to set it.
    """
    return Meta(extra={"deprecated": dict.fromkeys(below or ("",), (instead, only_if_true))})


def null_is(value: str) -> Meta:
    """Annotation of a map of a built-in kind. An API server reads a null in it as the empty value, while it
    drops a null from a map of a CRD.

    Args:
        value: the empty value, as on the wire.
    """
    return Meta(extra={"null": value})


BuiltInStrings = Annotated[dict[str, str], null_is("")]
"""A map of strings in a built-in kind, such as labels."""


def unique_by(*keys: str) -> Meta:
    """Annotation of a list that is a map or a set in the CRD (``x-kubernetes-list-type``).

    Args:
        keys: wire names of the fields that tell two entries apart (``x-kubernetes-list-map-keys``); none for
            a set of scalars.
    """
    return Meta(extra={"unique_by": keys})


SET = unique_by()
"""Annotation of a list whose entries all differ."""


class Ref(NamedTuple):
    """Which resource.

    Args:
        kind: one of several kinds of that name; the group says which.
        namespace: "" for cluster-scoped kinds.
        name: unique in its namespace.
        group: "" for the core of Kubernetes. It comes last, so that references sort by kind, namespace, name.
    """

    kind: str
    namespace: str
    name: str
    group: str

    @classmethod
    def of(cls, kind: "type[Resource]", namespace: str, name: str) -> "Ref":
        """The reference to a resource of a kind that is known as a type."""
        return cls(kind.KIND, namespace, name, kind.GROUP)

    def is_a(self, kind: "type[Resource]") -> bool:
        """Whether it refers to a resource of this kind."""
        return self.kind == kind.KIND and self.group == kind.GROUP

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class ListenerId(NamedTuple):
    """Which listener.

    Args:
        gateway: the Gateway whose Envoys serve it.
        owner: the resource whose spec has it: the Gateway itself, or a ListenerSet that adds to it.
        name: its name in that spec; an owner has each name once.
    """

    gateway: Ref
    owner: Ref
    name: str


class FleetId(NamedTuple):
    """Which fleet: the Envoys that share a configuration.

    Args:
        owner: the Gateway whose Envoys they are, or the GatewayClass whose Gateways share them
            (``mergeGateways``).
    """

    owner: Ref


class ObjectMeta(Model, frozen=True, kw_only=True):
    """The part of ``metadata`` that has a meaning here; the rest is accepted and dropped on admission."""

    name: str
    namespace: str = ""
    uid: str = ""
    labels: BuiltInStrings = {}
    annotations: BuiltInStrings = {}
    generation: int = 0
    creation_timestamp: str = ""
    """"2026-01-31T12:00:00Z", always in UTC; "" when unknown, which sorts as the oldest."""

    def __repr__(self) -> str:
        return f"ObjectMeta({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Of the annotations only the keys: ``kubectl apply`` stores whole manifests in their values."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        return [*(shown | {"annotations": sorted(self.annotations)}).items()]


class Resource(Model, frozen=True, kw_only=True):
    """Base of every kind: ``apiVersion``, ``kind`` and ``status`` are taken off on admission."""

    GROUP: ClassVar[str] = ""
    VERSIONS: ClassVar[tuple[str, ...]] = ("v1",)
    """Versions that are read; the first is the one that is written in statuses."""
    KIND: ClassVar[str] = ""
    CLUSTER_SCOPED: ClassVar[bool] = False
    PRIVATE: ClassVar[bool] = False
    """No message may quote any of its values but its name."""
    BUILT_IN: ClassVar[bool] = False
    """The kind belongs to Kubernetes, which adds fields with its releases. So what an API server has admitted
    may have fields that are not declared here."""
    NAME_IS_LABEL: ClassVar[bool] = False
    """The name must be one DNS label (no dots), as that of a Namespace or a Service."""
    NAME_HAS_SIGNER: ClassVar[bool] = False
    """The name may begin with that of a signer, and has colons then."""
    STRICTER: ClassVar["Mapping[str, type[Resource]]"] = {}
    """The versions that allow less than this type says, each with a type for the checks of a manifest."""

    metadata: ObjectMeta

    def refused(self, document: Mapping[str, Any]) -> Iterator[Problem]:
        """What an API server refuses besides what types and CEL say; for kinds that Kubernetes checks in Go.

        Args:
            document: this resource as it was written.
        """
        del document
        return iter(())

    @classmethod
    def stored(cls, document: dict[str, Any]) -> dict[str, Any]:
        """What an API server keeps of what a user wrote, before defaults; usually the same.

        Args:
            document: not to be changed; its shape is not checked yet.
        """
        return document

    @property
    def ref(self) -> Ref:
        return Ref(self.KIND, self.metadata.namespace, self.metadata.name, self.GROUP)

    @property
    def age(self) -> tuple[str, str, str]:
        """Sorts resources of a kind as the reference does: the oldest first, then namespace, then name."""
        meta = self.metadata
        return (meta.creation_timestamp, meta.namespace, meta.name)


class Condition(Struct, frozen=True, kw_only=True, rename="camel"):
    """``metav1.Condition`` without its time: queries know no clock, the status writer sets it."""

    type: str
    status: str
    reason: str
    message: str
    observed_generation: int = 0


DurationStr = Annotated[
    str,
    form(
        r"^([0-9]{1,5}(h|m|s|ms)){1,4}$",
        "a duration with at most 5 digits before each unit, such as '600s', '1h30m' or '48h'",
    ),
]
"""GEP-2257 duration: one to four number-unit pairs, "1h30m", "250ms"."""

_UNITS = {"h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_LONGEST = 4 * 99_999 * _UNITS["h"]
_PART = re.compile(r"(\d+)(ms|h|m|s)")


def milliseconds(duration: DurationStr) -> int:
    """Length of a Gateway API duration, in whole milliseconds.

    >>> milliseconds("1h30m")
    5400000

    Args:
        duration: "0s" is legal and means *off* to most callers, so they must test for 0 themselves. What
            is not of the form of ``DurationStr`` counts as far as it can be read.

    Returns:
        0 .. 1_439_985_600_000, which ``DurationStr`` can say at the most.

    Source:
        GEP-2257, "Gateway API Duration Format".
    """
    return min(sum(int(n[-20:]) * _UNITS[unit] for n, unit in _PART.findall(duration)), _LONGEST)
