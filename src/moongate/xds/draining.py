"""Route configurations that only draining listeners use.

Theory of operation
===================
When a listener of Envoy is replaced or removed, it drains: open connections stay open, and still use the
route configuration with which they were accepted. When a listener of a Gateway is renamed, or another one
becomes the first of its port, the fleet needs that route configuration no more, but Envoy still uses it. So
it is kept up to date, with the routes that a new connection of the same kind would get now. Then open
connections are not cut, and they are no way around a policy that came later.

A listener that moves to another port keeps its name in the Gateway. Its open connections drain at the former
port, and must not get the routes of the new port; and the new port must not be opened with the former routes.
So the route configuration for the new port has another name. The same holds for an HTTPS listener that loses
a hostname to a narrower listener, or gets it back: Envoy then switches to the new chains and their routes at
once, and open connections get the routes of both listeners.

Which route configurations are in use is a fact about Envoys: the module ``moongate.draining_tables`` writes
it into cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from moongate.attach.envoy_listeners import (
    RouteTable,
    envoy_listeners,
    http_groups,
    placement_of,
    route_configurations,
)
from moongate.attach.fleets import bind_addresses, fleet_of
from moongate.attach.listeners import last_judged_at
from moongate.attach.routes import wider
from moongate.engine import query

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        isolated: the hostnames of narrower matches at the same port, sorted; their connections do not use it.
        table: the route configuration.
    """

    match: ChainMatch
    addresses: tuple[str, ...]
    isolated: tuple[str, ...]
    table: RouteTable


class Place(NamedTuple):
    """Where an Envoy listener is open.

    Args:
        port: its number.
        is_udp: whether it is one of UDP.
        addresses: the addresses on which it is open.
    """

    port: int
    is_udp: bool
    addresses: tuple[str, ...]


class FleetUses(NamedTuple):
    """What a fleet is to have.

    Args:
        places: each Envoy listener, by name: ``((name, place), …)``.
        tables: the route configurations.
    """

    places: tuple[tuple[str, Place], ...]
    tables: tuple[TableUse, ...]


def draining(fleet: FleetId) -> tuple[str, FleetId]:
    """The cell with what draining listeners use: ``((name, ChainMatch, scoped), …)``, sorted; or absent."""
    return ("draining-tables", fleet)


@query
def table_uses(db: Db, fleet: FleetId) -> tuple[TableUse, ...]:
    """The route configurations that a fleet is to have, each with the connections that use it."""
    used = [
        (
            ChainMatch(group.kind, envoy.container_port, _hostname(db, group.kind, group.members)),
            group.table,
        )
        for envoy, group in http_groups(db, fleet)
    ]
    isolated: dict[ChainMatch, set[str]] = {match: set() for match, _ in used}
    for match, _ in used:
        for wide in _wider(match):
            if wide in isolated:
                isolated[wide].add(match.hostname)
    addresses = bind_addresses(db, fleet)
    return tuple(TableUse(match, addresses, tuple(sorted(isolated[match])), table) for match, table in used)


@query
def fleet_uses(db: Db, fleet: FleetId) -> FleetUses:
    """The Envoy listeners and route configurations that a fleet is to have."""
    addresses = bind_addresses(db, fleet)
    places = tuple(
        (envoy.name, Place(envoy.container_port, envoy.is_udp, addresses))
        for envoy in envoy_listeners(db, fleet)
    )
    return FleetUses(places, table_uses(db, fleet))


@query
def draining_tables(db: Db, fleet: FleetId) -> tuple[RouteTable, ...]:
    """The route configurations that only draining listeners use, each with its successors.

    If a new connection would not be accepted, there are none, and all requests are answered with 404.
    """
    drain: tuple[tuple[str, ChainMatch, bool], ...] = db.read(draining(fleet)) or ()
    if not drain:
        return ()
    uses = table_uses(db, fleet)
    return tuple(RouteTable(name, successors(match, uses), scoped) for name, match, scoped in drain)


@query
def all_tables(db: Db, fleet: FleetId) -> tuple[RouteTable, ...]:
    """The route configurations of a fleet, those that only draining listeners use last."""
    return (*route_configurations(db, fleet), *draining_tables(db, fleet))


@query
def tables_of(db: Db, listener: ListenerId) -> tuple[tuple[str, bool], ...]:
    """The route configurations that the routes of a listener stand in: name, and whether it is scoped.

    None when Envoy does not serve it. Who else is in them does not matter to those who ask for this.
    """
    placement = placement_of(db, listener)
    own = (placement.group.table,) if placement is not None and placement.group.has_table else ()
    others = draining_tables(db, fleet_of(db, listener.gateway))
    tables = (*own, *(table for table in others if listener in table.members))
    return tuple((table.name, table.scoped) for table in tables)


@query
def _tables_by_name(db: Db, fleet: FleetId) -> Mapping[str, RouteTable]:
    return {table.name: table for table in reversed(all_tables(db, fleet))}


def table_named(db: Db, fleet: FleetId, name: str) -> RouteTable | None:
    """The route configuration of a name; ``None`` when there is none."""
    return _tables_by_name(db, fleet).get(name)


def successors(match: ChainMatch, uses: tuple[TableUse, ...]) -> tuple[ListenerId, ...]:
    """The listeners that would take new connections like those that came by ``match``."""
    members = {use.match: use.table.members for use in uses}
    own = next((members[each] for each in (match, *_wider(match)) if each in members), ())
    narrower = (use.table.members for use in uses if match in _wider(use.match))
    return (*own, *(member for some in narrower for member in some))


def _wider(match: ChainMatch) -> list[ChainMatch]:
    """The matches that take a connection if nothing matches its hostname, the narrowest first."""
    names = [*wider(match.hostname), ""] if match.hostname else []
    return [match._replace(hostname=name) for name in names]


def _hostname(db: Db, kind: ChainKind, members: tuple[ListenerId, ...]) -> str:
    if kind == "HTTP":
        return ""
    first = last_judged_at(db, members[0])
    return first.hostname if first is not None else ""
