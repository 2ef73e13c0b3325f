"""The forms of tables that are scoped once they are large (``attach.envoy_listeners.next_forms``).

Theory of operation
===================
From hundreds of exact hostnames on (``attach.sizes``), each change of a whole table costs Envoy more than all
else, so such a table is scoped. But a request whose Host has no part of its own costs Envoy much more in a
scoped table, so a table with routes for such hosts stands whole.

To change the form of a table is to change its listener. So a table that was large once stays scoped, until
such a route comes. Then it is whole as long as it is there and moongate runs.

The form stands in a cell. Were it a query, each new hostname would put all in doubt that depends on the form
of its table, which is every route of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.attach.envoy_listeners import next_forms, table_forms
from moongate.engine import Failed
from moongate.fleet_inventory import FORM

if TYPE_CHECKING:
    from moongate.api.base import FleetId
    from moongate.attach.envoy_listeners import TableForm
    from moongate.engine import Root
    from moongate.world import World


class LargeTables:
    """Keeps the cells with the forms of tables."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._roots: dict[FleetId, Root[tuple[tuple[str, TableForm], ...]]] = {}

    def start(self, fleet_id: FleetId) -> None:
        """A fleet has come."""
        self._roots[fleet_id] = self._world.observers.observe(
            next_forms, (fleet_id,), FORM, lambda root: self._on_forms(fleet_id, root.value)
        )

    def end(self, fleet_id: FleetId) -> None:
        """A fleet is gone."""
        if (root := self._roots.pop(fleet_id, None)) is not None:
            self._world.observers.release(root)
            self._world.write(table_forms(fleet_id), None)

    def _on_forms(self, fleet_id: FleetId, forms: tuple[tuple[str, TableForm], ...] | Failed | None) -> None:
        """Put forms in force, before all else is settled. While the query fails, all stay as they are."""
        if forms is not None and not isinstance(forms, Failed):
            self._world.write(table_forms(fleet_id), dict(forms) or None)
