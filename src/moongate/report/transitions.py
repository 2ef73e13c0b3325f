"""The conditions that turned bad or good since the last call.

Theory of operation
===================
Type, reason and message identify a degradation: a resource that has the same one at two parents has one
degradation. Its begin is reported, and each change of its message. Its end is reported when the part of the
resource that had it has none of that type any more. The degradations of a deleted resource are not reported.
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
    """The degradations of all resources, and which of them were reported."""

    def __init__(self) -> None:
        self._now: dict[Ref, _Degradations] = {}
        self._reported: dict[Ref, _Degradations] = {}
        self._touched: dict[Ref, None] = {}

    def look(self, ref: Ref, resource: Resource, status: Struct) -> None:
        """Take a resource's status as it is now."""
        now = _grouped(t for t in degradations(resource, status) if _is_reported(ref, t))
        if now or ref in self._now:
            self._now[ref] = now
            self._touched[ref] = None

    def forget(self, ref: Ref) -> None:
        """The resource is gone."""
        for known in (self._now, self._reported, self._touched):
            known.pop(ref, None)

    def transitions(self) -> list[Transition]:
        """What began or ended since this was last asked, by resource; what began comes first."""
        transitions: list[Transition] = []
        for ref in sorted(self._touched):
            before, now = self._reported.pop(ref, {}), self._now[ref]
            transitions += [
                Transition(ref, now[says].degradation, bad=True) for says in now if says not in before
            ]
            transitions += [
                Transition(ref, held.degradation, bad=False)
                for says, held in before.items()
                if not any(says[0] == other[0] and held.parts & kept.parts for other, kept in now.items())
            ]
            if now:
                self._reported[ref] = now
            else:
                del self._now[ref]
        self._touched.clear()
        return transitions


class _Held(NamedTuple):
    degradation: Degradation
    parts: frozenset[str]
    """The parts of the resource that have it."""


_Says = tuple[str, str, str]
"""Type, reason and message. Not the path: it moves with every entry before it."""

_Degradations = dict[_Says, _Held]

_REPORTED_ELSEWHERE = frozenset({"RouteRulesOverlap", "OverlappingTLSConfig", "Warning"})
"""Types that are about what works all the same, or that are reported with the manifest."""

_OF_ENVOY = frozenset({"Invalid", "AddressNotAssigned", "NoResources"})
"""Reasons of a Gateway that is not programmed because its Envoy starts, ended, or refused something. The log
has these as events of the Envoy, and the listener or route that was refused has a condition of its own."""


def _is_reported(ref: Ref, degradation: Degradation) -> bool:
    if degradation.condition == "Programmed" and not degradation.part and ref.is_a(Gateway):
        return degradation.problem.reason not in _OF_ENVOY
    return degradation.condition not in _REPORTED_ELSEWHERE


def _grouped(degradations: Iterable[Degradation]) -> _Degradations:
    held: _Degradations = {}
    for degradation in degradations:
        says = (degradation.condition, degradation.problem.reason, degradation.problem.message)
        known = held.get(says, _Held(degradation, frozenset()))
        held[says] = known._replace(parts=known.parts | {degradation.part})
    return held
