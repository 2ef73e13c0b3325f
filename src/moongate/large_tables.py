"""Which tables stay scoped (``attach.scopes``), because they were large once.

Theory of operation
===================
A request whose Host has no part of its own in a scoped table costs Envoy more, so small tables stand whole.
From hundreds of exact hostnames on (``attach.sizes``), changes of the whole table would cost more. To change
the form of a table is to change its listener, so one that was large once stays scoped until moongate ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.attach.envoy_listeners import scoped_chains
from moongate.attach.scopes import scoped_now
from moongate.engine import Failed
from moongate.fleet_inventory import INVENTORY

if TYPE_CHECKING:
    from moongate.api.base import FleetId
    from moongate.engine import Root
    from moongate.world import World


class LargeTables:
    """Writes into cells which tables have been scoped."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._roots: dict[FleetId, Root[frozenset[str]]] = {}
        self._scoped: dict[FleetId, frozenset[str]] = {}

    def start(self, fleet_id: FleetId) -> None:
        """A fleet has come."""
        self._scoped[fleet_id] = frozenset()
        self._roots[fleet_id] = self._world.observers.observe(
            scoped_now, (fleet_id,), INVENTORY, lambda root: self._on_chains(fleet_id, root.value)
        )

    def end(self, fleet_id: FleetId) -> None:
        """A fleet is gone."""
        if (root := self._roots.pop(fleet_id, None)) is not None:
            self._world.observers.release(root)
            del self._scoped[fleet_id]
            self._world.write(scoped_chains(fleet_id), None)

    def _on_chains(self, fleet_id: FleetId, chains: frozenset[str] | Failed | None) -> None:
        """Note which tables are scoped. Called before the change is handed out."""
        if chains is None or isinstance(chains, Failed):
            return
        self._scoped[fleet_id] |= chains
        self._world.write(scoped_chains(fleet_id), self._scoped[fleet_id] or None)
