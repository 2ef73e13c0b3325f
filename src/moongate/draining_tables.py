"""Keeping account of the route configurations that only draining listeners use (``xds.draining``).

Theory of operation
===================
Envoy asks for a route configuration until the last listener that names it is gone. So a route configuration
that leaves a fleet may still be in use. It is noted with its *use* (which connections come to it), and kept
until no Envoy asks for it any more, or until it is back in the fleet.

If a route configuration is to serve other connections than before, the open ones must not meet its new
routes. So it gets another name. That happens when its listener moves to another port or to further addresses,
and when an HTTPS listener loses hostnames to a narrower one, or gets them back. It keeps this name as long as
it is in the fleet, because a change of the name changes its listener. An Envoy listener that is to be opened
at other addresses gets another name too.

While all Gateways of a fleet are rejected, its Envoys keep what they have, and nothing is noted.
"""

from __future__ import annotations

from functools import partial
from itertools import count
from operator import ne
from typing import TYPE_CHECKING, TypeVar

from moongate import names
from moongate.attach.envoy_listeners import Renamed, renamed
from moongate.attach.fleets import keeps_what_it_has
from moongate.engine import Failed
from moongate.fleet_inventory import INVENTORY
from moongate.xds.draining import draining, fleet_uses, successors
from moongate.xds.wire import ROUTE, SCOPE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from moongate.api.base import FleetId
    from moongate.attach.envoy_listeners import RouteTable
    from moongate.engine import Root
    from moongate.world import World
    from moongate.xds.draining import FleetUses, Place, TableUse

U = TypeVar("U")


class _Fleet:
    def __init__(self, root: Root[FleetUses]) -> None:
        self.root = root
        self.current: dict[str, TableUse] = {}
        self.draining: dict[str, TableUse] = {}
        self.renamed: dict[str, str] = {}
        """Usual name → present name of a route configuration."""
        self.opened: dict[str, Place] = {}
        """Present name of an Envoy listener → where it is open."""
        self.renamed_listeners: dict[str, str] = {}
        """Usual name → present name of an Envoy listener."""


class DrainingTables:
    """Writes into cells which route configurations are to be kept although no listener names them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._fleets: dict[FleetId, _Fleet] = {}

    def start(self, fleet_id: FleetId) -> None:
        """A fleet has come."""
        root = self._world.observers.observe(
            fleet_uses, (fleet_id,), INVENTORY, lambda root: self._on_uses(fleet_id, root.value)
        )
        self._fleets[fleet_id] = _Fleet(root)

    def end(self, fleet_id: FleetId) -> None:
        """A fleet is gone: nothing is kept for it any more."""
        fleet = self._fleets.pop(fleet_id, None)
        if fleet is not None:
            self._world.observers.release(fleet.root)
            self._world.write(draining(fleet_id), None)
            self._world.write(renamed(fleet_id), None)

    def review(self, fleet_id: FleetId, is_asked_for: Callable[[str, str], bool]) -> bool:
        """Forget what no Envoy asks for any more. True if the world must be settled again.

        Args:
            fleet_id: the fleet.
            is_asked_for: whether an Envoy asks for a resource, by type URL and name, or may do so.
        """
        fleet = self._fleets.get(fleet_id)
        if fleet is None:
            return False
        fleet.draining = {
            name: each for name, each in fleet.draining.items() if is_asked_for(*_resource(each.table))
        }
        return self._write(fleet_id, fleet)

    def _on_uses(self, fleet_id: FleetId, uses: FleetUses | Failed | None) -> None:
        """Note what leaves the fleet. Called before the change is handed out."""
        if uses is None or isinstance(uses, Failed):
            return
        if keeps_what_it_has.attempt(self._world.db, fleet_id) is not False:
            return
        fleet = self._fleets[fleet_id]
        if self._rename(fleet_id, fleet, uses):
            return  # This is called again, with the new names.
        before, fleet.current = fleet.current, {each.table.name: each for each in uses.tables}
        fleet.opened = dict(uses.places)
        left = {name: each for name, each in before.items() if name not in fleet.current}
        # If one leaves a second time, with another use, only that use is noted, for all its connections.
        fleet.draining = {n: each for n, each in (fleet.draining | left).items() if n not in fleet.current}
        self._write(fleet_id, fleet)

    def _rename(self, fleet_id: FleetId, fleet: _Fleet, uses: FleetUses) -> bool:
        """Give other names to what Envoys may still use in another way. True if a name has changed."""
        tables = {each.table.chain: each for each in uses.tables}
        former = {each.table.chain: each for each in (*fleet.draining.values(), *fleet.current.values())}
        _rename(fleet.renamed, tables, former, partial(_needs_other_name, uses.tables))
        _rename(fleet.renamed_listeners, dict(uses.places), fleet.opened, ne)
        return self._write_renamed(fleet_id, fleet)

    def _write(self, fleet_id: FleetId, fleet: _Fleet) -> bool:
        chains = {each.table.chain for each in (*fleet.current.values(), *fleet.draining.values())}
        fleet.renamed = {of: name for of, name in fleet.renamed.items() if name in chains}
        fleet.renamed_listeners = {
            of: name for of, name in fleet.renamed_listeners.items() if name in fleet.opened
        }
        wrote = self._write_renamed(fleet_id, fleet)
        drain = sorted((name, each.match, each.table.scoped) for name, each in fleet.draining.items())
        return self._world.write(draining(fleet_id), tuple(drain) or None) or wrote

    def _write_renamed(self, fleet_id: FleetId, fleet: _Fleet) -> bool:
        tables, listeners = fleet.renamed, fleet.renamed_listeners
        others = Renamed(tuple(sorted(tables.items())), tuple(sorted(listeners.items())))
        return self._world.write(renamed(fleet_id), others if any(others) else None)


def _resource(table: RouteTable) -> tuple[str, str]:
    """The type URL and name of a resource of a table, which Envoy asks for as long as it uses the table."""
    return (SCOPE, names.scope(table.name, names.OTHERS)) if table.scoped else (ROUTE, table.name)


def _rename(
    names: dict[str, str],
    uses: Mapping[str, U],
    former: Mapping[str, U],
    needs_other_name: Callable[[U, U], bool],
) -> None:
    """Give another name to each thing whose present name stands for another use in an Envoy.

    Args:
        names: usual name → present name. This function changes it.
        uses: the new use of each, by present name.
        former: the use that Envoys may have of each, by present name.
        needs_other_name: whether a new use and a former one must not have the same name.
    """
    usual = {name: of for of, name in names.items()}
    taken = {*former, *uses}
    for name, use in uses.items():
        if name in former and needs_other_name(use, former[name]):
            of = usual.get(name, name)
            other = next(one for n in count(1) if (one := f"{of}/moved/{n}") not in taken)
            taken.add(other)
            names[of] = other


def _needs_other_name(uses: tuple[TableUse, ...], use: TableUse, former: TableUse) -> bool:
    """Whether open connections of the former use must not meet the routes of a new use.

    Clients choose the hostname that they ask for, so a change of the hostname alone needs no other name. But
    if another listener has some of the former hostnames now, the open connections belong to that one.
    """
    if use.isolated != former.isolated:
        return True  # its routes have to change at the same moment as those of the narrower listeners
    if not set(use.addresses) <= set(former.addresses):
        return True
    if use.match == former.match:
        return False
    if use.match != former.match._replace(hostname=use.match.hostname):
        return True
    return not set(successors(former.match, uses)) <= set(use.table.members)
