"""Finding the conditions of a status that mean degradation, each at the fields that cause it.

Source: Gateway API, types and reasons of conditions; the reference for those that it adds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from msgspec import Struct

from moongate.api.envoypatchpolicy import EnvoyPatchPolicy
from moongate.api.gateway import Gateway
from moongate.api.listenerset import ListenerSet
from moongate.api.route import Route
from moongate.attach.routes import USE_DEFAULTS
from moongate.problem import Problem
from moongate.status.gateways import GatewayStatus
from moongate.status.listener_sets import ListenerSetStatus
from moongate.status.policies import PolicyStatus
from moongate.status.routes import RouteStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from moongate.api.base import Condition, Resource

T = TypeVar("T")

Severity = Literal["error", "warning"]

SEVERITIES: Final[Mapping[tuple[str, str], Severity]] = {
    ("Accepted", "False"): "error",
    ("ResolvedRefs", "False"): "error",
    ("Programmed", "False"): "error",
    ("PartiallyInvalid", "True"): "error",
    ("Conflicted", "True"): "error",
    ("BackendsAvailable", "False"): "warning",
    ("RouteRulesOverlap", "True"): "warning",
    ("OverlappingTLSConfig", "True"): "warning",
    ("PortShared", "True"): "warning",
    ("InsecureFrontendValidationMode", "True"): "warning",
    ("Warning", "True"): "warning",
}
"""Conditions that mean degradation: (type, status) → severity."""

_PATH_FIRST = re.compile(r"(spec[\w.\[\]-]*\w\]?): (.*)")


class Degradation(Struct, frozen=True):
    """One condition that means degradation.

    Args:
        part: the part of the resource: a listener, a parent, an ancestor; "" for the whole resource.
        at: the field of that part. The paths of the problems may be below that field, or elsewhere.
        condition: the type of the condition.
        status: ``True`` or ``False``.
        problems: what its message says: the problem of each field, with the reason of the condition.
        severity: ``error`` if some configuration is not in force because of it.
    """

    part: str
    at: str
    condition: str
    status: str
    problems: tuple[Problem, ...]
    severity: Severity


def degradations(resource: Resource, status: Struct) -> Iterator[Degradation]:
    """The degradations in a resource's status.

    ``Programmed`` is left out if another condition of the same part is an error, because it is then only a
    consequence.
    """
    for part, at, conditions in _parts(resource, status):
        bad = [c for c in conditions if (c.type, c.status) in SEVERITIES]
        others = any(c.type != "Programmed" and SEVERITIES[c.type, c.status] == "error" for c in bad)
        for condition in bad:
            if condition.type == "Programmed" and others:
                continue
            yield Degradation(
                part,
                at,
                condition.type,
                condition.status,
                tuple(_problems(condition, at)),
                SEVERITIES[condition.type, condition.status],
            )


def faulty_fields(resource: Resource, status: Struct) -> frozenset[str]:
    """The paths of the fields because of which a resource is not in force as it is written."""
    errors = (each for each in degradations(resource, status) if each.severity == "error")
    return frozenset(problem.path for error in errors for problem in error.problems)


def _problems(condition: Condition, at: str) -> Iterator[Problem]:
    """The problems in the message of a condition; those without a path are at ``at``."""
    path, lines = at, list[str]()
    for line in condition.message.split("\n"):
        match = _PATH_FIRST.match(line)
        if match is None:
            lines.append(line)
            continue
        if lines:
            yield Problem(path, "\n".join(lines), condition.reason)
        path, lines = match[1], [match[2]]
    yield Problem(path, "\n".join(lines), condition.reason)


def _parts(resource: Resource, status: Struct) -> Iterator[tuple[str, str, Sequence[Condition]]]:
    """The parts of a status: the name of each, its field in the spec, and its conditions."""
    match resource, status:
        case (Gateway(), GatewayStatus()) | (ListenerSet(), ListenerSetStatus()):
            yield "", "", status.conditions
            listeners = [listener.name for listener in resource.spec.listeners]
            for listener in status.listeners:
                at = _entry("spec.listeners", listeners, listener.name)
                yield f"listener {listener.name}", at, listener.conditions
        case Route(), RouteStatus():
            refs = list(resource.spec.parent_refs)
            for parent in status.parents:
                ref = parent.parent_ref
                named = "/".join(filter(None, (ref.namespace, ref.name, ref.section_name)))
                by_default = resource.by_default and ref not in refs
                at = USE_DEFAULTS if by_default else _entry("spec.parentRefs", refs, ref)
                yield f"parent {named}", at, parent.conditions
        case _, PolicyStatus():
            for ancestor in status.ancestors:
                yield _ancestor(ancestor), _targets_of(resource), ancestor.conditions
        case _:
            yield "", "", getattr(status, "conditions", ())
            for ancestor in getattr(status, "ancestors", ()):
                yield _ancestor(ancestor), "", ancestor.conditions


def _entry(path: str, entries: Sequence[T], entry: T) -> str:
    """The path of an entry; of the list if it is gone, as a resource may be newer than its status."""
    return f"{path}[{entries.index(entry)}]" if entry in entries else path


def _ancestor(entry: Any) -> str:
    ref = entry.ancestor_ref
    section = getattr(ref, "section_name", None)
    return f"ancestor {'/'.join(filter(None, (ref.namespace, ref.name, section)))}"


def _targets_of(policy: Any) -> str:
    """The field in which a policy has its targets."""
    spec = policy.spec
    if isinstance(policy, EnvoyPatchPolicy):
        return "spec.targetRef"
    if spec.target_refs:
        return "spec.targetRefs"
    return "spec.targetRef" if spec.target_ref is not None else "spec.targetSelectors"
