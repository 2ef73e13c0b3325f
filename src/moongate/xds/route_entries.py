"""One Envoy route, as it is joined into tables; and what stands in for one that an Envoy refused.

Theory of operation
===================
A table of routes is taken or refused as a whole, so an entry that was refused must not stay in it. What
matched the same before, its last good form, is put in its place, with the clusters that this form needs. An
entry whose match is new answers 500, for what it matches is not meant for a wider route; only if Envoy
refuses that as well, so that it is the match that is at fault, the entry is left out.

So a request is answered by the entry that is to answer it, in one of its forms, or with 500. A last good form
lets pass what it let pass before. Where that is not what the entry lets pass, it is closed; but while an
entry is only suspected, Envoy still has in force what was before, and so it stays (``Fallback.strict``).

Which entries were refused is found outside (``quarantine``) and read from cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from msgspec import structs

from moongate import names
from moongate.attach.fleets import fleet_of
from moongate.attach.routes import attached_hosts
from moongate.attach.scopes import has_scope
from moongate.xds.draining import tables_of
from moongate.xds.fallbacks import kept_out
from moongate.xds.scoped_chains import FINDER, HOST_HEADERS
from moongate.xds.wire import ROUTE, SCOPE, encode, message_field, sized, version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moongate.api.base import FleetId, ListenerId, Ref
    from moongate.engine import Db
    from moongate.features.base import ServiceLimit
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
        excessive: which rule it closes because all Envoy routes of that would be too large.
        limits: what the rate limit service must know for it.
    """

    rank: tuple[Any, ...]
    host: str
    route: Ref
    body: bytes
    needs: tuple[ResourceKey, ...] = ()
    excessive: int | None = None
    limits: tuple[ServiceLimit, ...] = ()

    def __repr__(self) -> str:
        return sized(self, self._fields)


def in_force(
    db: Db, listener: ListenerId, route: Ref, entries: tuple[RouteEntry, ...], *, scoped: bool
) -> Iterator[RouteEntry]:
    """The entries of a route, with fallbacks for those that are kept out of its table.

    Args:
        db: what is read.
        listener: that serves them.
        route: of which they are.
        entries: in the form of the table.
        scoped: whether that is a scoped one.
    """
    out: Mapping[str, Fallback] = {}
    host: str | None = None
    for entry in entries:
        if entry.host != host:
            host = entry.host
            out = _kept_out(db, listener, host, route, scoped=scoped)
        fallback = out.get(version(entry.body)) if out else None
        if fallback is None:
            yield entry
        else:
            others = (_in_place_of(entry, fallback), fail_closed(entry))
            yield from [other for other in others if version(other.body) not in out][:1]


def kept_resources(db: Db, listener: ListenerId, route: Ref) -> Iterator[ResourceKey]:
    """What the last good forms that stand in for a route's entries send requests to."""
    hosts = attached_hosts(db, route, listener)
    for at in dict.fromkeys(at for host in hosts for at in resources_with(db, listener, host)):
        for fallback in kept_out(db, *at, route).values():
            if fallback.last_good is not None:
                yield from fallback.last_good.needs


def _kept_out(db: Db, listener: ListenerId, host: str, route: Ref, *, scoped: bool) -> Mapping[str, Fallback]:
    """What is kept out of any resource with these entries.

    So a table that takes another form begins with what was kept out of it before.
    """
    out: Mapping[str, Fallback] = {}
    for at in resources_with(db, listener, host):
        more = kept_out(db, *at, route)
        if more and (at[1] == SCOPE) != scoped:
            more = {form: _in_any_form(fallback) for form, fallback in more.items()}
        if more:
            out = {**more, **out} if out else more
    return out


def _in_any_form(fallback: Fallback) -> Fallback:
    """What stands in for an entry, too, in a table of another form than the one that it was kept out of.

    A last good form that would mean something else there does not: it may look for the Host in another place,
    or lack what switches a filter on.
    """
    former: RouteEntry | None = fallback.last_good
    for each in VirtualHost.FromString(former.body).routes if former is not None else ():
        of_host = any(header.name.lower() in HOST_HEADERS for header in each.match.headers)
        if of_host or each.typed_per_filter_config:
            return structs.replace(fallback, last_good=None, strict=True)
    return fallback


def resources_with(db: Db, listener: ListenerId, host: str) -> Iterator[tuple[FleetId, str, str]]:
    """The resources with the routes of a hostname of a listener: fleet, type URL and name of each."""
    fleet = fleet_of(db, listener.gateway)
    for table, scoped in tables_of(db, listener):
        if scoped:
            yield fleet, SCOPE, names.scope(table, host if has_scope(db, host) else names.OTHERS)
        else:
            yield fleet, ROUTE, table


def fail_closed(of: RouteEntry) -> RouteEntry:
    """The entry with nothing left but its match, answered with 500."""
    message = _unbound(of)
    shut = Route(name=message.name, match=message.match, metadata=message.metadata)
    shut.metadata.filter_metadata.pop(FINDER, None)  # no filter is to answer instead
    shut.direct_response.status = 500
    return of._replace(body=message_field(VirtualHost.ROUTES_FIELD_NUMBER, encode(shut)), needs=())


def matched(entry: RouteEntry) -> object:
    """What an entry is known by under its hostname: its route, and what it matches."""
    return (entry.route, encode(_unbound(entry).match))


def _unbound(entry: RouteEntry) -> Route:
    # The last: of a route for some connections, and one for all others, that has the match alone.
    return VirtualHost.FromString(entry.body).routes[-1]


def _in_place_of(entry: RouteEntry, fallback: Fallback) -> RouteEntry:
    """What is in force instead of an entry, at its place."""
    former: RouteEntry | None = fallback.last_good
    if former is None or (fallback.strict and not _as_strict(former, entry)):
        return fail_closed(entry)
    return former._replace(rank=entry.rank)


def _as_strict(former: RouteEntry, entry: RouteEntry) -> bool:
    """Whether the former form of an entry lets nothing pass that the entry does not.

    What a policy adds to a route is its per-filter configuration. Where that differs, nobody can tell.
    """
    old, new = (VirtualHost.FromString(each.body).routes[0] for each in (former, entry))
    guarded = dict(new.typed_per_filter_config) == dict(old.typed_per_filter_config)
    return guarded and (old.HasField("direct_response") or not new.HasField("direct_response"))
