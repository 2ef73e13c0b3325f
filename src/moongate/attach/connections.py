"""Which route gets the connections of a listener: of those that take a hostname, the oldest.

Theory of operation
===================
A listener of TLS chooses by the hostname that a client asks for in the handshake (SNI); one of TCP or UDP has
one route for all. Envoy refuses a listener in which two filter chains match alike. So each hostname of a
listener has one route (``route_of``), and a route has the hostnames that are its own there (``own_hosts``).

A route is found by its place: the owner of the listener, the ``sectionName`` and a hostname, each as written.
Of thousands of routes on dozens of listeners, a changed one is compared only with those at the same place.

Source: Gateway API, TLSRoute, TCPRoute and UDPRoute; the reference, for the oldest route of a listener.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.api.base import Ref
from moongate.api.route import ConnectionRoute
from moongate.attach.fleets import age
from moongate.attach.route_kinds import CONNECTION_ROUTE_TYPES, order
from moongate.attach.routes import (
    attached_hosts,
    attachments_at,
    hosts_if_taken,
    is_open_to,
    listeners_of,
    parent_of,
    taken_under,
    written_as,
)
from moongate.engine import Failed, query
from moongate.store import Index, PartedIndex, find, find_in, get, parts, shard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from moongate.api.base import ListenerId
    from moongate.engine import Db


def _by_parent(route: ConnectionRoute) -> Iterator[tuple[Ref, int, Ref]]:
    ref = route.ref
    for parent in route.spec.parent_refs:
        if (owner := parent_of(parent, route.metadata.namespace)) is not None:
            yield owner, shard(str(ref)), ref


def _by_place(route: ConnectionRoute) -> Iterator[tuple[tuple[Ref, str, str], Ref]]:
    for parent in route.spec.parent_refs:
        if (owner := parent_of(parent, route.metadata.namespace)) is not None:
            for host in route.hostnames or ("",):
                yield (owner, parent.section_name or "", host), route.ref


CONNECTION_ROUTES: PartedIndex[ConnectionRoute, int, Ref] = PartedIndex(
    "connection-routes", CONNECTION_ROUTE_TYPES, _by_parent
)
"""Gateway or ListenerSet; shard of the route → routes of connections that name it as parent."""
ROUTES_BY_PLACE: Index[ConnectionRoute, Ref] = Index(
    "connection-routes-by-place", CONNECTION_ROUTE_TYPES, _by_place
)
"""(Gateway or ListenerSet, ``sectionName`` or "", hostname as written or "") → routes of connections."""


@query
def connections_in(db: Db, owner: Ref, part: int) -> Mapping[ListenerId, tuple[Ref, ...]]:
    """The routes of connections in one shard that each listener of an owner takes, sorted.

    While a route cannot be judged, it is where it was; if it never was judged, wherever it may be.
    """
    taken: dict[ListenerId, list[Ref]] = {}
    routes = find_in(db, CONNECTION_ROUTES, owner, part)
    settled = attachments_at.attempt_each(db, [(route, owner) for route in routes])
    for route, now in zip(routes, settled, strict=True):
        judged = attachments_at.last_good(db, route, owner) if isinstance(now, Failed) else now
        listeners: Iterable[ListenerId]
        if isinstance(judged, Failed):
            listeners = (each for each in listeners_of(db, owner) if is_open_to(db, each, route))
        else:
            listeners = (listener for each in judged for listener, _ in each.hosts)
        for listener in dict.fromkeys(listeners):
            taken.setdefault(listener, []).append(route)
    return {listener: tuple(routes) for listener, routes in taken.items()}


@query
def _shards_of(db: Db, owner: Ref) -> Mapping[ListenerId, tuple[int, ...]]:
    shards = parts(db, CONNECTION_ROUTES, owner)
    by_listener: dict[ListenerId, list[int]] = {}
    for part, taken in zip(shards, connections_in.each(db, [(owner, part) for part in shards]), strict=True):
        for listener in taken:
            by_listener.setdefault(listener, []).append(part)
    return {listener: tuple(numbers) for listener, numbers in by_listener.items()}


@query
def connection_shards(db: Db, listener: ListenerId) -> tuple[int, ...]:
    """The shards with routes of connections that a listener takes, sorted."""
    return _shards_of(db, listener.owner).get(listener, ())


@query
def route_of(db: Db, listener: ListenerId, host: str) -> Ref | None:
    """The route that gets the connections of a listener for a hostname; ``None`` if there is none.

    A route that cannot be judged is one, if it may be: its connections must not reach another one's backends.
    """
    places = [
        (listener.owner, section, written)
        for section in ("", listener.name)
        for written in written_as(db, listener, host)
    ]
    candidates = {route for place in places for route in find(db, ROUTES_BY_PLACE, place)}
    routes = taken_under(db, candidates, listener, host, also_unjudged=True)
    if len(routes) <= 1:
        return next(iter(routes), None)
    ages = zip(age.each(db, [(route,) for route in routes]), routes, strict=True)
    return min(ages, key=lambda each: (each[0], order(each[1].kind)))[1]


@query
def own_hosts(db: Db, listener: ListenerId, route: Ref) -> tuple[str, ...]:
    """The hostnames of a listener whose connections go to a route, sorted."""
    hosts = attached_hosts(db, route, listener)
    return tuple(host for host in hosts if route_of(db, listener, host) == route)


@query
def hosts_in_doubt(db: Db, listener: ListenerId, route: Ref) -> tuple[str, ...]:
    """The hostnames of a listener that would be a route's own, if it takes that, sorted."""
    resource = get(db, ConnectionRoute, route)
    hosts = hosts_if_taken(db, listener, resource) if resource is not None else ()
    return tuple(host for host in hosts if route_of(db, listener, host) == route)
