"""Route tables that *return*: they were removed, no listener in force used them meanwhile, and they are back.

Fact
----
* an old listener that drains keeps its route table in Envoy, even after the table was removed. Envoy would
  give the old version of the table to a new listener, instead of waiting for the new version

So a table that returns is sent before the listeners that use it, and they wait for its answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.ads.ledger import collection_of
from moongate.ads.scopes import shared
from moongate.xds.wire import ROUTE, SCOPE

if TYPE_CHECKING:
    from moongate.ads.channels import Channel
    from moongate.ads.snapshot import Snapshot


def note_return(tables: Channel, snapshot: Snapshot, name: str, before: str | None, listening: float) -> None:
    """Note whether a route table returns, and no listener in force used it in the meantime.

    Args:
        tables: the channel of route tables, or of scopes.
        snapshot: what the fleet has since the edit.
        name: the name of a resource that differs.
        before: its version before the edit; None if the fleet did not have it.
        listening: the last edit before this one up to which Envoy has all listeners in force.
    """
    table = table_of(tables, name)
    if tables.type_url == ROUTE and snapshot.get(ROUTE, name) is None:
        tables.returning.discard(name)
    if not has_table(snapshot, tables.type_url, table):
        tables.absent[table] = snapshot.seq
    elif before is None and (since := tables.absent.pop(table, None)) is not None and since <= listening:
        # Envoy may also have scopes still that the table does not have any more.
        tables.returning.update((name,) if table == name else tables.ledger.within(table))
    elif shared(table) in tables.returning:
        # The shared scope does not come into force without it.
        tables.returning.add(name)


def has_table(snapshot: Snapshot, type_url: str, table: str) -> bool:
    """Whether a fleet has a route table, whole or in scopes."""
    return snapshot.get(type_url, table) is not None or table in snapshot.members(type_url)


def table_of(tables: Channel, name: str) -> str:
    """The route table that a resource is, or the collection of scopes that it is in."""
    return collection_of(name) if tables.type_url == SCOPE else name
