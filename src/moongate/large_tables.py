"""Which tables have been scoped because they were large (``attach.scopes``), and are to stay as they are.

Theory of operation
===================
From hundreds of exact hostnames on (``attach.sizes``), each change of a whole table costs Envoy more than all
else, so such a table is scoped. But a request whose Host has no part of its own costs Envoy much more in a
scoped table, so a table with routes for such hosts stands whole.

To change the form of a table is to change its listener. So a table that was large once stays scoped, until
such a route comes. Then it is whole as long as it is there and moongate runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.attach.envoy_listeners import table_forms
from moongate.attach.scopes import forms_now
from moongate.engine import Failed
from moongate.fleet_inventory import INVENTORY

if TYPE_CHECKING:
    from moongate.api.base import FleetId
    from moongate.engine import Root
    from moongate.world import World


class LargeTables:
    """Writes into cells which tables have been scoped, and whether they still are."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._roots: dict[FleetId, Root[tuple[tuple[str, bool], ...]]] = {}
        self._forms: dict[FleetId, dict[str, bool]] = {}

    def start(self, fleet_id: FleetId) -> None:
        """A fleet has come."""
        self._forms[fleet_id] = {}
        self._roots[fleet_id] = self._world.observers.observe(
            forms_now, (fleet_id,), INVENTORY, lambda root: self._on_forms(fleet_id, root.value)
        )

    def end(self, fleet_id: FleetId) -> None:
        """A fleet is gone."""
        if (root := self._roots.pop(fleet_id, None)) is not None:
            self._world.observers.release(root)
            del self._forms[fleet_id]
            self._world.write(table_forms(fleet_id), None)

    def _on_forms(self, fleet_id: FleetId, forms: tuple[tuple[str, bool], ...] | Failed | None) -> None:
        """Note which tables are scoped. Called before the change is handed out."""
        if forms is None or isinstance(forms, Failed):
            return
        before = self._forms[fleet_id]
        self._forms[fleet_id] = {name: scoped for name, scoped in forms if scoped or name in before}
        self._world.write(table_forms(fleet_id), self._forms[fleet_id] or None)
