"""Which tables are scoped because they are large (``attach.scopes``).

Theory of operation
===================
A request whose Host has no part of its own in a scoped table costs Envoy more, so a small table stands whole.
From ``LARGE`` exact hostnames on, changes of the whole table would cost more. To change the form of a table
is to change its listener, so a table that was large once stays scoped until moongate ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.attach.envoy_listeners import large_tables
from moongate.attach.scopes import tables_by_size
from moongate.engine import Failed
from moongate.fleet_inventory import INVENTORY

if TYPE_CHECKING:
    from moongate.api.base import FleetId
    from moongate.engine import Root
    from moongate.world import World


class LargeTables:
    """Writes into cells which tables are large, or have been."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._roots: dict[FleetId, Root[tuple[tuple[str, bool], ...]]] = {}
        self._large: dict[FleetId, frozenset[str]] = {}

    def start(self, fleet_id: FleetId) -> None:
        """A fleet has come."""
        self._large[fleet_id] = frozenset()
        self._roots[fleet_id] = self._world.observers.observe(
            tables_by_size, (fleet_id,), INVENTORY, lambda root: self._on_sizes(fleet_id, root.value)
        )

    def end(self, fleet_id: FleetId) -> None:
        """A fleet is gone."""
        if (root := self._roots.pop(fleet_id, None)) is not None:
            self._world.observers.release(root)
            del self._large[fleet_id]
            self._world.write(large_tables(fleet_id), None)

    def _on_sizes(self, fleet_id: FleetId, sizes: tuple[tuple[str, bool], ...] | Failed | None) -> None:
        """Note which tables are large. Called before the change is handed out."""
        if sizes is None or isinstance(sizes, Failed):
            return
        before = self._large[fleet_id]
        large = frozenset(name for name, is_large in sizes if is_large or name in before)
        self._large[fleet_id] = large
        self._world.write(large_tables(fleet_id), large or None)
