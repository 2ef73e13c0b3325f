"""Finding the conditions that turned bad, or good again, since the last call.

Theory of operation
===================
A degradation is identified by its type, reason and message. So the same degradation at two parents of a route
counts once, but it is reported at each field that causes it: both parentRefs, or both listeners. It is
reported when it begins, and when its reason or message changes. Its end is reported once, when the part of
the resource that had it has no degradation of that type any more. When a resource is deleted, its
degradations end without a report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec import structs

from moongate.api.gateway import Gateway
from moongate.api.listenerset import ListenerSet
from moongate.status.degraded import degradations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from msgspec import Struct

    from moongate.api.base import Ref, Resource
    from moongate.status.degraded import Degradation


class Transition(NamedTuple):
    """A degradation that began or ended.

    Args:
        resource: the resource that has it.
        degradation: the one that began or ended.
        bad: whether it began.
    """

    resource: Ref
    degradation: Degradation
    bad: bool


class Transitions:
    """The degradations of all resources, and those that were reported.

    Args:
        logged: whether the log has a field of a resource already, because it is not built yet.
    """

    def __init__(self, logged: Callable[[Ref, str], bool] = lambda _ref, _path: False) -> None:
        self._logged = logged
        self._now: dict[Ref, _Degradations] = {}
        self._reported: dict[Ref, _Degradations] = {}
        self._touched: dict[Ref, None] = {}

    def look(self, ref: Ref, resource: Resource, status: Struct) -> None:
        """Note the present status of a resource."""
        now = _grouped(filter(None, (self._reportable(ref, t) for t in degradations(resource, status))))
        if now or ref in self._now:
            self._now[ref] = now
            self._touched[ref] = None

    def _reportable(self, ref: Ref, degradation: Degradation) -> Degradation | None:
        """A degradation without the fields that the log has already; ``None`` if nothing of it is left."""
        if not _is_reported(ref, degradation):
            return None
        problems = tuple(p for p in degradation.problems if not self._logged(ref, p.path))
        return structs.replace(degradation, problems=problems) if problems else None

    def forget(self, ref: Ref) -> None:
        """Note that a resource was deleted."""
        for by_ref in (self._now, self._reported, self._touched):
            by_ref.pop(ref, None)

    def transitions(self) -> list[Transition]:
        """The degradations that began or ended since the last call, sorted by resource, beginnings first."""
        transitions: list[Transition] = []
        for ref in sorted(self._touched):
            before, now = self._reported.pop(ref, {}), self._now[ref]
            transitions += [
                Transition(ref, degradation, bad=True)
                for text, group in now.items()
                if text not in before
                for degradation in group.degradations
            ]
            transitions += [
                Transition(ref, group.degradations[0], bad=False)
                for text, group in before.items()
                if not any(text[0] == other[0] and group.parts & kept.parts for other, kept in now.items())
            ]
            if now:
                self._reported[ref] = now
            else:
                del self._now[ref]
        self._touched.clear()
        return transitions


class _Group(NamedTuple):
    degradations: tuple[Degradation, ...]
    """The same degradation of several parts, once for each field that causes it."""
    parts: frozenset[str]
    """The parts of the resource that have it."""


_Text = tuple[str, str, tuple[str, ...]]
"""Type, reason and messages. Without the paths, because an index in them may change."""

_Degradations = dict[_Text, _Group]

_OF_MANIFESTS = "Warning"
"""The type of a condition that repeats what is logged with the manifest."""

_OF_LISTENERS = "ListenersNotValid"
"""A reason of a Gateway or ListenerSet that only lists its listeners; each has a condition that says more."""

_OF_ENVOY = frozenset({"Invalid", "AddressNotAssigned", "NoResources", "Pending"})
"""Reasons of a Gateway that is not programmed because its Envoy starts, has ended, is late or refuses a part.
These are logged as events of the Envoy, and the refused listener or route has a condition of its own."""


def _is_reported(ref: Ref, degradation: Degradation) -> bool:
    reason = degradation.problems[0].reason
    if degradation.condition == "Programmed" and (ref.is_a(Gateway) or ref.is_a(ListenerSet)):
        return reason != "Pending" if degradation.part else reason not in _OF_ENVOY
    if reason == _OF_LISTENERS:
        return False
    return degradation.condition != _OF_MANIFESTS


def _grouped(degradations: Iterable[Degradation]) -> _Degradations:
    groups: _Degradations = {}
    for degradation in degradations:
        problems = degradation.problems
        text = (degradation.condition, problems[0].reason, tuple(problem.message for problem in problems))
        group = groups.get(text, _Group((), frozenset()))
        if all(degradation.problems != other.problems for other in group.degradations):
            group = group._replace(degradations=(*group.degradations, degradation))
        groups[text] = group._replace(parts=group.parts | {degradation.part})
    return groups
