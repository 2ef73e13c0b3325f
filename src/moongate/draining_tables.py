"""Keeping account of the route configurations that only draining listeners use (``xds.draining``).

Theory of operation
===================
A route configuration that leaves a fleet may be in use: Envoy asks for it until the last listener is gone
that names it. So it is noted, with the place at which it was used, and forgotten as soon as no Envoy asks for
it any more, or when it is back at that place.

One that comes to another place than the one at which Envoys use it gets another name there, and so does one
whose place loses hostnames to a narrower one, or gets them back. It keeps that name for as long as it stays
in place, because a further change of the name would change its listener. An Envoy listener gets another name
wherever it is opened anew.

While all Gateways of a fleet are rejected, its Envoys keep what they have, and nothing is noted.
"""

from __future__ import annotations

from functools import partial
from itertools import count
from operator import ne
from typing import TYPE_CHECKING, TypeVar

from moongate.attach.envoy_listeners import Renamed, renamed
from moongate.attach.fleets import keeps_what_it_has
from moongate.engine import Failed
from moongate.fleet_inventory import INVENTORY
from moongate.xds.draining import draining, successors, table_uses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from moongate.api.base import FleetId
    from moongate.engine import Root
    from moongate.world import World
    from moongate.xds.draining import TableUse

P = TypeVar("P")


class _Fleet:
    def __init__(self, root: Root[tuple[TableUse, ...]]) -> None:
        self.root = root
        self.current: dict[str, TableUse] = {}
        self.draining: dict[str, TableUse] = {}
        self.renamed: dict[str, str] = {}
        """Usual name → the name at the present place."""
        self.opened: dict[str, tuple[int, tuple[str, ...]]] = {}
        """Envoy listener → the port and the addresses at which it is open."""
        self.renamed_listeners: dict[str, str] = {}
        """The same as ``renamed``, of Envoy listeners."""


class DrainingTables:
    """Writes into cells which route configurations are to be kept although no listener names them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._fleets: dict[FleetId, _Fleet] = {}

    def start(self, fleet_id: FleetId) -> None:
        """A fleet has come."""
        root = self._world.observers.observe(
            table_uses, (fleet_id,), INVENTORY, lambda root: self._on_uses(fleet_id, root.value)
        )
        self._fleets[fleet_id] = _Fleet(root)

    def end(self, fleet_id: FleetId) -> None:
        """A fleet is gone: nothing is kept for it any more."""
        fleet = self._fleets.pop(fleet_id, None)
        if fleet is not None:
            self._world.observers.release(fleet.root)
            self._world.write(draining(fleet_id), None)
            self._world.write(renamed(fleet_id), None)

    def review(self, fleet_id: FleetId, is_asked_for: Callable[[str], bool]) -> bool:
        """Forget what no Envoy asks for any more. True if the world is to be settled again.

        Args:
            fleet_id: whose.
            is_asked_for: whether some Envoy asks for a route configuration, or may do so, by its name.
        """
        fleet = self._fleets.get(fleet_id)
        if fleet is None:
            return False
        fleet.draining = {name: each for name, each in fleet.draining.items() if is_asked_for(name)}
        return self._write(fleet_id, fleet)

    def _on_uses(self, fleet_id: FleetId, uses: tuple[TableUse, ...] | Failed | None) -> None:
        """Note what has left. Called before it is handed out."""
        if uses is None or isinstance(uses, Failed):
            return
        if keeps_what_it_has.attempt(self._world.db, fleet_id) is not False:
            return
        fleet = self._fleets[fleet_id]
        if self._rename(fleet_id, fleet, uses):
            return  # This is called again, with the new names.
        before, fleet.current = fleet.current, {each.table.name: each for each in uses}
        fleet.opened = _opened(uses)
        left = {name: each for name, each in before.items() if name not in fleet.current}
        # Of one that left twice, from two places, connections of the first are taken for those of the last.
        fleet.draining = {n: each for n, each in (fleet.draining | left).items() if n not in fleet.current}
        self._write(fleet_id, fleet)

    def _rename(self, fleet_id: FleetId, fleet: _Fleet, uses: tuple[TableUse, ...]) -> bool:
        """Give another name to what Envoys may use by its name at another place. True if anything has one."""
        tables = {each.table.name: each for each in uses}
        _give_names(fleet.renamed, tables, fleet.draining | fleet.current, partial(_is_elsewhere, uses))
        _give_names(fleet.renamed_listeners, _opened(uses), fleet.opened, ne)
        return self._write_renamed(fleet_id, fleet)

    def _write(self, fleet_id: FleetId, fleet: _Fleet) -> bool:
        known = fleet.current.keys() | fleet.draining.keys()
        fleet.renamed = {of: name for of, name in fleet.renamed.items() if name in known}
        fleet.renamed_listeners = {
            of: name for of, name in fleet.renamed_listeners.items() if name in fleet.opened
        }
        wrote = self._write_renamed(fleet_id, fleet)
        drain = sorted((name, each.match) for name, each in fleet.draining.items())
        return self._world.write(draining(fleet_id), tuple(drain) or None) or wrote

    def _write_renamed(self, fleet_id: FleetId, fleet: _Fleet) -> bool:
        tables, listeners = fleet.renamed, fleet.renamed_listeners
        others = Renamed(tuple(sorted(tables.items())), tuple(sorted(listeners.items())))
        return self._world.write(renamed(fleet_id), others if any(others) else None)


def _opened(uses: tuple[TableUse, ...]) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {each.listener: (each.match.port, each.addresses) for each in uses}


def _give_names(
    names: dict[str, str],
    placed: Mapping[str, P],
    used: Mapping[str, P],
    is_elsewhere: Callable[[P, P], bool],
) -> None:
    """Give another name to what is used by its name at another place.

    Args:
        names: usual name → name; is changed.
        placed: by name, where something is to be.
        used: by name, where something is, or was and may still be used.
        is_elsewhere: whether the first of two places is another one than the second.
    """
    usual = {name: of for of, name in names.items()}
    taken = {*used, *placed}
    for name, place in placed.items():
        if name in used and is_elsewhere(place, used[name]):
            of = usual.get(name, name)
            other = next(one for n in count(1) if (one := f"{of}/moved/{n}") not in taken)
            taken.add(other)
            names[of] = other


def _is_elsewhere(uses: tuple[TableUse, ...], use: TableUse, former: TableUse) -> bool:
    """Whether connections that come to a table now could not do so before, or must not be taken for others.

    Clients choose which hostname they ask for, so that keeps nobody away. But where another listener has some
    of the former hostnames now, the connections of before are that one's.
    """
    if use.isolated != former.isolated:
        return True  # what it serves changes together with what the narrower ones serve
    if not set(use.addresses) <= set(former.addresses):
        return True
    if use.match == former.match:
        return False
    if use.match != former.match._replace(hostname=use.match.hostname):
        return True
    return not set(successors(former.match, uses)) <= set(use.table.members)
