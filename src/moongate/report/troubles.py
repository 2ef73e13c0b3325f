"""Which conditions turned bad, and which are well again, since it was last asked.

Theory of operation
===================
A trouble is known by what it says: a resource that has the same one at two parents has one. It is told when
it comes or says something else; its end is told when the part of the resource that had it has none of that
type any more. A resource that is deleted takes its troubles along in silence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from moongate.api.gateway import Gateway
from moongate.status.troubles import troubles

if TYPE_CHECKING:
    from collections.abc import Iterable

    from msgspec import Struct

    from moongate.api.base import Ref, Resource
    from moongate.status.troubles import Trouble


class Turn(NamedTuple):
    """A condition that turned.

    Args:
        resource: whose.
        trouble: the one that came, or that ended.
        bad: whether it came.
    """

    resource: Ref
    trouble: Trouble
    bad: bool


class Troubles:
    """The troubles of all resources that have some, and what has turned."""

    def __init__(self) -> None:
        self._now: dict[Ref, _Troubles] = {}
        self._told: dict[Ref, _Troubles] = {}
        self._touched: dict[Ref, None] = {}

    def look(self, ref: Ref, resource: Resource, status: Struct) -> None:
        """Take a resource's status as it is now."""
        now = _grouped(t for t in troubles(resource, status) if _worth_telling(ref, t))
        if now or ref in self._now:
            self._now[ref] = now
            self._touched[ref] = None

    def forget(self, ref: Ref) -> None:
        """The resource is gone."""
        for known in (self._now, self._told, self._touched):
            known.pop(ref, None)

    def turns(self) -> list[Turn]:
        """What turned since this was last asked, by resource; what came before what ended."""
        told: list[Turn] = []
        for ref in sorted(self._touched):
            before, now = self._told.pop(ref, {}), self._now[ref]
            told += [Turn(ref, now[says].trouble, bad=True) for says in now if says not in before]
            told += [
                Turn(ref, held.trouble, bad=False)
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
    trouble: Trouble
    parts: frozenset[str]
    """The parts of the resource that have it."""


_Says = tuple[str, str, str]
"""Type, reason and message. Not the path: it moves with every entry before it."""

_Troubles = dict[_Says, _Held]

_TOLD_ELSEWHERE = frozenset({"RouteRulesOverlap", "OverlappingTLSConfig", "Warning"})
"""Types that tell of what works, or that is told of the manifest already."""

_OF_ENVOY = frozenset({"Invalid", "AddressNotAssigned", "NoResources"})
"""Reasons of a Gateway that is not programmed because its Envoy starts, ended, or refused something. The log
has these as events of the Envoy, and the listener or route that was refused tells it, too."""


def _worth_telling(ref: Ref, trouble: Trouble) -> bool:
    if trouble.condition == "Programmed" and not trouble.part and ref.kind == Gateway.KIND:
        return trouble.problem.reason not in _OF_ENVOY
    return trouble.condition not in _TOLD_ELSEWHERE


def _grouped(found: Iterable[Trouble]) -> _Troubles:
    held: _Troubles = {}
    for trouble in found:
        says = (trouble.condition, trouble.problem.reason, trouble.problem.message)
        known = held.get(says, _Held(trouble, frozenset()))
        held[says] = known._replace(parts=known.parts | {trouble.part})
    return held
