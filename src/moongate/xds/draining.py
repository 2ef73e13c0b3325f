"""Route configurations that only draining listeners use.

Theory of operation
===================
A listener of Envoy that is replaced or removed drains: connections that are open live on, and ask the route
configuration by which they came. When a listener of a Gateway is renamed, or another one becomes the first of
its port, that configuration has no place in the fleet any more, but Envoy still uses it. So it is kept up to
date, with the routes that a new connection of the same kind would meet now. An old connection is then not
cut, and it is no way around a policy that came later.

A listener that moves to another port keeps its name. Its connections of before drain at the former place, and
must not meet the routes of the new one; nor may the new place be opened with the routes of the former. So the
configuration of the new place has another name as long as the former may be in use.

Which these are is a fact about Envoys: ``draining_tables`` (the module beside ``world``) writes it into
cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from moongate.attach.envoy_listeners import RouteTable, chain_groups
from moongate.attach.fleets import bind_addresses
from moongate.attach.listeners import listener_at
from moongate.attach.routes import wider
from moongate.engine import query

if TYPE_CHECKING:
    from moongate.api.base import FleetId, ListenerId
    from moongate.attach.listeners import ChainKind
    from moongate.engine import Db


class ChainMatch(NamedTuple):
    """What a connection must match to come to a route configuration.

    Args:
        kind: what the chain is made of.
        port: the port on which Envoy listens.
        hostname: the hostname that it asks for in the TLS handshake; "" for any.
    """

    kind: ChainKind
    port: int
    hostname: str


class TableUse(NamedTuple):
    """A route configuration, and which connections use it.

    Args:
        match: what a connection must match to come to it.
        addresses: the addresses on which the port is open.
        table: the route configuration.
    """

    match: ChainMatch
    addresses: tuple[str, ...]
    table: RouteTable


def draining(fleet: FleetId) -> tuple[str, FleetId]:
    """The cell with what draining listeners use: ``((name, ChainMatch), …)``, sorted; or absent."""
    return ("draining-tables", fleet)


@query
def table_uses(db: Db, fleet: FleetId) -> tuple[TableUse, ...]:
    """The route configurations that a fleet is to have, each with the connections that use it."""
    return tuple(
        TableUse(
            ChainMatch(group.kind, envoy.container_port, _hostname(db, group.kind, group.members)),
            bind_addresses(db, fleet),
            group.table,
        )
        for envoy, group in chain_groups(db, fleet)
    )


@query
def draining_tables(db: Db, fleet: FleetId) -> tuple[RouteTable, ...]:
    """The route configurations that only draining listeners use, each with the listeners that succeed it.

    It has none where a new connection would not be accepted; all requests are then answered with 404.
    """
    drain: tuple[tuple[str, ChainMatch], ...] = db.read(draining(fleet)) or ()
    if not drain:
        return ()
    members = {use.match: use.table.members for use in table_uses(db, fleet)}
    return tuple(
        RouteTable(name, next((members[each] for each in _successors(match) if each in members), ()))
        for name, match in drain
    )


def _successors(match: ChainMatch) -> list[ChainMatch]:
    """What a connection that once came by ``match`` may match now, the narrowest first."""
    names = [match.hostname, *wider(match.hostname), ""] if match.hostname else [""]
    return [match._replace(hostname=name) for name in names]


def _hostname(db: Db, kind: ChainKind, members: tuple[ListenerId, ...]) -> str:
    if kind == "HTTP":
        return ""
    first = listener_at(db, members[0])
    return first.hostname if first is not None else ""
