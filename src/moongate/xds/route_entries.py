"""One Envoy route, as it is joined into tables; and what stands in for one that an Envoy refused.

Theory of operation
===================
A table of routes is taken or refused as a whole, so an entry that was refused must not stay in it. Its last
good form is put in its place, with the clusters that this form needs. An entry that never was good answers
500, for what it matches is not meant for a wider route; only if Envoy refuses that as well, so that it is the
match that is at fault, the entry is left out.

Which entries were refused is found outside (``quarantine``) and read from cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost

from moongate.attach.envoy_listeners import table_of
from moongate.xds.fallbacks import withheld
from moongate.xds.wire import ROUTE, encode, message_field, sized, version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.base import ListenerId, Ref
    from moongate.engine import Db
    from moongate.xds.cluster_keys import ResourceKey
    from moongate.xds.fallbacks import Fallback


class RouteEntry(NamedTuple):
    """One Envoy route; sorts by precedence.

    Args:
        rank: Gateway API precedence, then age and name of the route, then rule and match.
        host: the hostname it is served under.
        route: the route of the API behind it.
        body: the encoded entry of ``VirtualHost.routes``.
        needs: the clusters that it sends requests to, and what else its policies need.
    """

    rank: tuple[Any, ...]
    host: str
    route: Ref
    body: bytes
    needs: tuple[ResourceKey, ...] = ()

    def __repr__(self) -> str:
        return sized(self, self._fields)


def in_force(
    db: Db, listener: ListenerId, route: Ref, entries: tuple[RouteEntry, ...]
) -> Iterator[RouteEntry]:
    """The entries of a route, with stand-ins for those that its table does without."""
    kept_out = _kept_out(db, listener, route)
    for each in entries:
        fallback = kept_out.get(version(each.body)) if kept_out else None
        if fallback is None:
            yield each
        elif fallback.last_good is not None:
            yield (_kept if fallback.culprit else _as_before)(each, fallback.last_good)
        elif fallback.culprit and version((shut := fail_closed(each)).body) not in kept_out:
            yield shut


def kept_resources(db: Db, listener: ListenerId, route: Ref) -> Iterator[ResourceKey]:
    """What the last good forms that stand in for a route's entries send requests to."""
    for fallback in _kept_out(db, listener, route).values():
        if fallback.last_good is not None:
            yield from fallback.last_good.needs


def _kept_out(db: Db, listener: ListenerId, route: Ref) -> dict[str, Fallback]:
    table = table_of(db, listener)
    if table is None:
        return {}
    return db.read(withheld(table.fleet, ROUTE, table.name, route)) or {}


def fail_closed(of: RouteEntry) -> RouteEntry:
    """The entry with nothing left but its match, answered with 500."""
    # The last: of a route for some connections, and one for all others, that has the match alone.
    message = VirtualHost.FromString(of.body).routes[-1]
    shut = Route(name=message.name, match=message.match, metadata=message.metadata)
    shut.direct_response.status = 500
    return of._replace(body=message_field(VirtualHost.ROUTES_FIELD_NUMBER, encode(shut)), needs=())


def _as_before(suspected: RouteEntry, last_good: RouteEntry) -> RouteEntry:
    return suspected._replace(body=last_good.body, needs=last_good.needs)


def _kept(refused: RouteEntry, last_good: RouteEntry) -> RouteEntry:
    """The last good form, as far as it does not let through what the refused one would not.

    What a policy adds to a route is its per-filter configuration. Where that differs, the requests of the
    last good form are answered with 500.
    """
    new, old = (VirtualHost.FromString(each.body).routes[0] for each in (refused, last_good))
    guarded = dict(new.typed_per_filter_config) == dict(old.typed_per_filter_config)
    open_ = guarded and (old.HasField("direct_response") or not new.HasField("direct_response"))
    return _as_before(refused, last_good if open_ else fail_closed(last_good))
