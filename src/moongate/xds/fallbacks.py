"""What stands in for an entry that an Envoy refused, and the cells in which that is found.

A joined resource (a route configuration, a listener) is taken or refused as a whole, so an entry that was
refused must not stay in it. Which entries these are is found outside (``quarantine``), and read from cells by
whoever builds entries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from moongate.api.base import FleetId, Ref

Group: TypeAlias = "Ref"
"""Entries of a resource that are built together: those of one route."""


class Fallback(Struct, frozen=True):
    """What becomes of an entry that is kept out of a resource.

    Args:
        last_good: its last form that an Envoy took, if there was one.
        culprit: whether it is known to be at fault, and not only suspected. What is suspected is as it was
            before: in its last good form, which Envoy still has in force, or left out.
    """

    last_good: Any
    culprit: bool


class Suspect(NamedTuple):
    """An entry that may be what an Envoy refuses.

    Args:
        group: what it is built with.
        version: the content version of its body.
        last_good: the form of it that the Envoy took before; ``None`` when there was none.
        origin: the resource that it is made from.
    """

    group: Group
    version: str
    last_good: Any
    origin: Ref


def withheld(fleet: FleetId, type_url: str, name: str, group: Group) -> tuple[str, FleetId, str, str, Group]:
    """The cell with what is kept out of a resource: ``{version of entry: Fallback}``, or absent."""
    return ("withheld", fleet, type_url, name, group)
