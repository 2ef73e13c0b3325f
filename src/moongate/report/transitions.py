"""Which conditions turned bad, and which are well again, since it was last asked.

Theory of operation
===================
A degradation is known by what it says: a resource that has the same one at two parents has one. It is
reported when it comes or says something else; its end is reported when the part of the resource that had it
has none of that type any more. When a resource is deleted, nothing is reported of its degradations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from moongate.api.gateway import Gateway
from moongate.status.degraded import degradations

if TYPE_CHECKING:
    from collections.abc import Iterable

    from msgspec import Struct

    from moongate.api.base import Ref, Resource
    from moongate.status.degraded import Degradation


class Transition(NamedTuple):
    """A condition that turned.

    Args:
        resource: whose.
        degradation: the one that came, or that ended.
        bad: whether it came.
    """

    resource: Ref
    degradation: Degradation
    bad: bool


class Transitions:
    """The degradations of all resources that have some, and what has turned."""

    def __init__(self) -> None:
        self._now: dict[Ref, _Degradations] = {}
        self._told: dict[Ref, _Degradations] = {}
        self._touched: dict[Ref, None] = {}

    def look(self, ref: Ref, resource: Resource, status: Struct) -> None:
        """Take a resource's status as it is now."""
        now = _grouped(t for t in degradations(resource, status) if _worth_telling(ref, t))
        if now or ref in self._now:
            self._now[ref] = now
            self._touched[ref] = None

    def forget(self, ref: Ref) -> None:
        """The resource is gone."""
        for known in (self._now, self._told, self._touched):
            known.pop(ref, None)

    def transitions(self) -> list[Transition]:
        """What turned since this was last asked, by resource; what came before what ended."""
        told: list[Transition] = []
        for ref in sorted(self._touched):
            before, now = self._told.pop(ref, {}), self._now[ref]
            told += [Transition(ref, now[says].degradation, bad=True) for says in now if says not in before]
            told += [
                Transition(ref, held.degradation, bad=False)
                for says, held in before.items()
                if not any(says[0] == other[0] and held.parts & kept.parts for other, kept in now.items())
            ]
            if now:
                self._told[ref] = now
            else:
                del self._now[ref]
        self._touched.clear()
        return told


class _Held(NamedTuple):
    degradation: Degradation
    parts: frozenset[str]
    """The parts of the resource that have it."""


_Says = tuple[str, str, str]
"""Type, reason and message. Not the path: it moves with every entry before it."""

_Degradations = dict[_Says, _Held]

_TOLD_ELSEWHERE = frozenset({"RouteRulesOverlap", "OverlappingTLSConfig", "Warning"})
"""Types that tell of what works, or that is told of the manifest already."""

_OF_ENVOY = frozenset({"Invalid", "AddressNotAssigned", "NoResources"})
"""Reasons of a Gateway that is not programmed because its Envoy starts, ended, or refused something. The log
has these as events of the Envoy, and the listener or route that was refused tells it, too."""


def _worth_telling(ref: Ref, degradation: Degradation) -> bool:
    if degradation.condition == "Programmed" and not degradation.part and ref.kind == Gateway.KIND:
        return degradation.problem.reason not in _OF_ENVOY
    return degradation.condition not in _TOLD_ELSEWHERE


def _grouped(found: Iterable[Degradation]) -> _Degradations:
    held: _Degradations = {}
    for degradation in found:
        says = (degradation.condition, degradation.problem.reason, degradation.problem.message)
        known = held.get(says, _Held(degradation, frozenset()))
        held[says] = known._replace(parts=known.parts | {degradation.part})
    return held
