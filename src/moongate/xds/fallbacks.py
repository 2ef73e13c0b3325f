"""What stands in for an entry that an Envoy refused, and the cells that hold it.

A joined resource (a route configuration, a listener) is taken or refused as a whole, so an entry that was
refused must not stay in it. Which entries these are is found outside (``quarantine``), and read from cells by
whoever builds entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from msgspec import Struct

from moongate.xds.wire import sized

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import TypeVar

    from moongate.api.base import FleetId, ListenerId, Ref
    from moongate.engine import Db

    T = TypeVar("T")

Group: TypeAlias = "Ref | str"
"""Entries of a resource that are built together: those of one route, or what a builder has a name for."""

ALL: Final = ""
"""The group of all entries of a resource that has few."""

STEP: Final = 256
"""Entries that are compared at a time: well below 1 ms."""


class Fallback(Struct, frozen=True):
    """What becomes of an entry that is kept out of a resource.

    Args:
        last_good: its last form that all Envoys took, if there was one.
        strict: whether nothing may pass that its own form would not let pass. That is so when it is known to
            be at fault, and when nothing of the resource was ever in force. While it is only suspected, its
            last good form stands in for it, which Envoy still has in force.
        message: what Envoy says of the resource that it refused with it.
    """

    last_good: Any
    strict: bool
    message: str = ""


class Suspect(NamedTuple):
    """An entry that may be what an Envoy refuses.

    Args:
        group: what it is built with.
        version: the content version of its body.
        last_good: the form of it that all Envoys took before; ``None`` when there was none.
        steady: whether that form may stand in as it is while the entry is only suspected.
        body: the encoded entry.
    """

    group: Group
    version: str
    last_good: Any
    steady: bool = True
    body: bytes = b""

    def __repr__(self) -> str:
        return sized(self, self._fields)


class Concern(Struct, frozen=True):
    """Whom an entry concerns that is kept out.

    Args:
        what: the entry, in words.
        resources: the resources that it is made from.
        listeners: the listeners that are not served as they should be because of it.
        policies: the policies with settings in it that may be meant.
    """

    what: str
    resources: tuple[Ref, ...] = ()
    listeners: tuple[ListenerId, ...] = ()
    policies: tuple[Ref, ...] = ()


def withheld(fleet: FleetId, type_url: str, name: str, group: Group) -> tuple[str, FleetId, str, str, Group]:
    """The cell with what is kept out of a resource: ``{version of entry: Fallback}``, or absent."""
    return ("withheld", fleet, type_url, name, group)


def kept_out(db: Db, fleet: FleetId, type_url: str, name: str, group: Group) -> Mapping[str, Fallback]:
    """What is kept out of a resource, by version of the entry."""
    return db.read(withheld(fleet, type_url, name, group)) or {}


def in_steps(entries: Sequence[T], count: int = STEP) -> Iterator[Sequence[T]]:
    """Entries, ``count`` at a time."""
    return (entries[start : start + count] for start in range(0, len(entries), count))
