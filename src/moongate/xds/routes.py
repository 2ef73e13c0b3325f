"""RouteConfigurations: the Envoy routes of rules, joined per hostname, shard and listener.

Theory of operation
===================
``rule_routes`` encodes the Envoy routes of one route on one listener; ``virtual_host`` orders and joins those
of a hostname, ``host_part`` the virtual hosts of a shard, ``route_configuration`` the shards. On the wire a
repeated field is its entries one after another, so joining is concatenation: one edited route among thousands
costs one encoding and a few joins. A hostname may have thousands of routes, too: its entries are sorted per
shard of routes, and sorted parts are merged.
"""

from __future__ import annotations

from itertools import chain, groupby, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from envoy.config.route.v3.route_components_pb2 import DirectResponseAction, RouteMatch, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration

from moongate import names
from moongate.api.gateway import Gateway
from moongate.attach.fleets import fleet_of
from moongate.attach.listeners import is_alone, last_judged_at
from moongate.attach.routes import (
    ANY,
    host_shards,
    hosts,
    last_host_shards,
    may_serve,
    reserved,
    routes_at,
    shards_at,
    wider,
)
from moongate.attach.scopes import has_scope, other_hosts, split_hosts
from moongate.engine import Contained, Failed, query
from moongate.store import get, shard
from moongate.xds import misdirected
from moongate.xds.draining import all_tables, table_named
from moongate.xds.fallbacks import Concern, Suspect, in_steps, kept_out
from moongate.xds.metadata import holders, metadata, shown
from moongate.xds.route_entries import RouteEntry, fail_closed, in_force, matched, resources_with
from moongate.xds.rule_routes import closed_entries, route_entries_of
from moongate.xds.scoped_chains import OWN_SCOPE, ScopeHead, scope_head
from moongate.xds.shaping_policies import shaping_policies
from moongate.xds.statistics import has_virtual_host_stats, virtual_cluster
from moongate.xds.wire import ROUTE, SCOPE, Encoded, XdsResource, encode, message_field, version

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

    from moongate.api.base import FleetId, ListenerId, Ref
    from moongate.engine import Db
    from moongate.xds.fallbacks import Fallback

IN_ORDER: Final = 64
"""Up to so many virtual hosts stand in the reference's order: that of their first route. Above, it is by
shard: their order means nothing to Envoy, and sorting thousands for one that changed would cost more than it
tells."""

DECODED: Final = 32
"""Entries that are decoded at a time: about 1 ms."""

COMPARED: Final = 8
"""Entries of a route, and of a listener, that tell which settings of policies Envoy takes."""

_RANK: Final = attrgetter("rank")


class Host(Encoded, frozen=True):
    """One virtual host.

    Args:
        rank: of its first route; ``()`` when it has none.
        name: in xDS.
        domain: its hostname.
        body: the encoded entry of ``RouteConfiguration.virtual_hosts``; empty when it has no route.
        version: that of the body.
        entries: what it was joined from.
    """

    rank: tuple[Any, ...]
    name: str
    domain: str
    body: bytes
    version: str
    entries: tuple[RouteEntry, ...]


class Part(Encoded, frozen=True):
    """The virtual hosts of one shard of a listener: as such, and joined."""

    at: tuple[ListenerId, int]
    hosts: tuple[Host, ...]
    body: bytes
    version: str


@query
def host_entries(db: Db, listener: ListenerId, host: str, part: int, scoped: bool) -> tuple[RouteEntry, ...]:
    """What one shard of routes has under a hostname, in force and sorted."""
    entries: list[RouteEntry] = []
    routes = routes_at(db, listener, host, part)
    built_entries = route_entries_of.attempt_each(db, [(listener, route, scoped) for route in routes])
    for route, built in zip(routes, built_entries, strict=True):
        # Whatever failed may be what keeps strangers out.
        served = built
        if isinstance(built, Failed):
            served = closed_entries.attempt(db, listener, route, host, scoped)
        if isinstance(served, Failed):
            # Not even what it matches on is known. A rule that Envoy could not match on is left out as well.
            continue
        # Without what only the rate limit service must know: another limit changes no table.
        of_host = tuple(
            each._replace(limits=()) if each.limits else each for each in served if each.host == host
        )
        entries += in_force(db, listener, route, of_host, scoped=scoped)
    return tuple(sorted(entries, key=_RANK))


@query
def virtual_host(db: Db, listener: ListenerId, host: str, scoped: bool) -> Host:
    """One virtual host of a whole or a scoped table, its routes in Gateway API precedence."""
    parts = host_entries.each(db, [(listener, host, n, scoped) for n in shards_at(db, listener, host)])
    entries = parts[0] if len(parts) == 1 else tuple(sorted(chain.from_iterable(parts), key=_RANK))
    name = names.virtual_host(listener, host)
    if not entries and not reserved(db, listener, host) and not _has_routes(db, listener, host, scoped):
        return Host((), name, host, b"", version(b""), ())
    head = _host_head(db, name, host, scoped)
    if "virtual_host" in holders(db, fleet_of(db, listener.gateway)):
        head.metadata.MergeFromString(
            metadata(listener.gateway, listener.name, gateway_annotations(db, listener.gateway))
        )
    if has_virtual_host_stats(db, fleet_of(db, listener.gateway)):
        head.virtual_clusters.append(virtual_cluster(host))
    body = encode(head) + b"".join([p.body for p in entries])
    entry = message_field(RouteConfiguration.VIRTUAL_HOSTS_FIELD_NUMBER, body)
    return Host(entries[0].rank if entries else (), name, host, entry, version(entry), entries)


def _host_head(db: Db, name: str, host: str, scoped: bool) -> VirtualHost:
    head = VirtualHost(name=name, domains=[host])
    if scoped and has_scope(db, host):
        head.metadata.MergeFrom(OWN_SCOPE)
    return head


def _has_routes(db: Db, listener: ListenerId, host: str, scoped: bool) -> bool:
    """Whether a hostname is to have routes, also if Envoy refuses all of them even as answers with 500.

    Then its requests must not fall to a wider hostname, whose routes may let everybody pass.
    """
    routes = (route for n in shards_at(db, listener, host) for route in routes_at(db, listener, host, n))
    built = (route_entries_of.attempt(db, listener, route, scoped) for route in routes)
    return any(
        entry.host == host for entries in built if not isinstance(entries, Failed) for entry in entries
    )


@query
def gateway_annotations(db: Db, gateway: Ref) -> tuple[tuple[str, str], ...]:
    """The annotations of a Gateway that metadata shows."""
    resource = get(db, Gateway, gateway)
    return () if resource is None else shown(resource.metadata.annotations)


@query
def host_part(db: Db, listener: ListenerId, part: int, scoped: bool) -> Part:
    """The virtual hosts of one shard; without those that have a part of their own in a scoped table."""
    named = other_hosts(db, listener, part) if scoped else hosts(db, listener, part)
    built = virtual_host.attempt_each(db, [(listener, host, scoped) for host in named])
    return _part(
        listener,
        part,
        [_host_in_force(db, listener, *each, scoped) for each in zip(named, built, strict=True)],
    )


def _part(listener: ListenerId, part: int, of: Iterable[Host]) -> Part:
    served = tuple([host for host in of if host.body])
    body = b"".join([host.body for host in served])
    return Part((listener, part), served, body, version(body))


def _host_in_force(db: Db, listener: ListenerId, host: str, built: Host | Failed, scoped: bool) -> Host:
    """A virtual host. While it cannot be built, its last good form, or a closed one if there is none."""
    if not isinstance(built, Failed):
        return built
    kept = virtual_host.last_good(db, listener, host, scoped)
    return _closed_host(db, listener, host, scoped) if isinstance(kept, Failed) else kept


def _closed_host(db: Db, listener: ListenerId, host: str, scoped: bool) -> Host:
    """A virtual host that cannot be built: all of its requests are answered with 500."""
    name = names.virtual_host(listener, host)
    message = _host_head(db, name, host, scoped)
    message.routes.add(match=RouteMatch(prefix="/"), direct_response=DirectResponseAction(status=500))
    entry = message_field(RouteConfiguration.VIRTUAL_HOSTS_FIELD_NUMBER, encode(message))
    return Host((), name, host, entry, version(entry), ())


@query
def route_configuration(db: Db, fleet: FleetId, name: str) -> XdsResource | None:
    """One route configuration of a fleet; ``None`` when there is none of that name."""
    parts = table_parts(db, fleet, name)
    if parts is None:
        return None
    head = encode(_head(name))
    others = _misdirected(db, fleet, name, parts, scoped=False)
    return XdsResource.joined(ROUTE, name, [(head, version(head)), *_joined(parts), *others])


def _misdirected(
    db: Db, fleet: FleetId, chain: str, parts: tuple[Part, ...], *, scoped: bool
) -> list[tuple[bytes, str]]:
    """The virtual hosts for requests on a connection of another listener, each with its version.

    Args:
        db: what is read.
        fleet: whose table it is.
        chain: the chain that uses it.
        parts: of the table, or of the part that others share.
        scoped: whether it is a scoped one.
    """
    by_shard = {part.at[1]: part for part in parts}

    def has(host: str) -> bool:
        if scoped and has_scope(db, host):
            return False
        part = by_shard.get(shard(host))
        return part is not None and any(each.domain == host for each in part.hosts)

    return [(entry, version(entry)) for entry in misdirected.virtual_hosts(db, fleet, chain, has)]


def _joined(parts: tuple[Part, ...]) -> list[tuple[bytes, str]]:
    """The virtual hosts of a table, some or many in a piece, each piece with its version."""
    joined: list[tuple[bytes, str]] = []
    for _, of_listener in groupby(parts, key=lambda part: part.at[0]):
        own = list(of_listener)
        if sum(len(p.hosts) for p in own) <= IN_ORDER:
            few = sorted(chain.from_iterable(p.hosts for p in own), key=_RANK)
            joined += [(host.body, host.version) for host in few]
        else:
            joined += [(part.body, part.version) for part in own]
    return joined


@query
def scope_shards(db: Db, fleet: FleetId) -> tuple[tuple[str, ListenerId, int], ...]:
    """Where scoped tables of a fleet may have hostnames: ``((table, listener, shard), …)``.

    Fails as ``scopes_in`` does.
    """
    return tuple(
        (table.name, listener, n)
        for table in all_tables(db, fleet)
        if table.scoped and others_are_built(db, fleet, table.name)
        for listener in table.members
        # Those of a Gateway that never could be judged have none: the part that others share closes them.
        for n in last_host_shards(db, listener)
    )


@query
def scope(db: Db, fleet: FleetId, table: str, host: str) -> XdsResource | None:
    """The part of a scoped table of one hostname; ``None`` when nothing is served there."""
    served = [part.body for part in scope_parts(db, fleet, table, host)]
    if not served:
        others_are_built(db, fleet, table)
        return None
    return XdsResource.of(SCOPE, names.scope(table, host), _in_scope(scope_head(table, host), served))


def scope_parts(db: Db, fleet: FleetId, table: str, host: str | None = None) -> tuple[Part, ...]:
    """What a part of a scoped table that was just built is joined from; the arguments are the builder's."""
    if host is None:
        return parts_of(db, fleet, table)
    parts = (_part_at(db, listener, host) for listener in _listeners_in(db, fleet, table, host))
    return tuple(part for part in parts if part.hosts)


def _part_at(db: Db, listener: ListenerId, host: str) -> Part:
    """What a listener has of the part of a hostname."""
    built = virtual_host.attempt(db, listener, host, True)
    if isinstance(built, Failed) and not may_serve(db, listener, host):
        return _part(listener, shard(host), ())  # it is another listener's
    return _part(listener, shard(host), (_host_in_force(db, listener, host, built, True),))


@query
def _listeners_in(db: Db, fleet: FleetId, table: str, host: str) -> tuple[ListenerId, ...]:
    """The listeners of a table that may have a hostname: mostly one of them does."""
    by_hostname = _members_by_hostname(db, fleet, table)
    at = (place for name in (host, *wider(host), "") for place in by_hostname.get(name, ()))
    return tuple(member for _, member in sorted(at))


@query
def _members_by_hostname(
    db: Db, fleet: FleetId, table: str
) -> Mapping[str, tuple[tuple[int, ListenerId], ...]]:
    """The listeners of a table by their hostname, each with its place. One that fails is as it last was."""
    named = table_named(db, fleet, table)
    by_hostname: dict[str, list[tuple[int, ListenerId]]] = {}
    for place, member in enumerate(named.members if named is not None else ()):
        if (own := last_judged_at(db, member)) is not None:
            by_hostname.setdefault(own.hostname, []).append((place, member))
    return {hostname: tuple(at) for hostname, at in by_hostname.items()}


@query
def scope_of_others(db: Db, fleet: FleetId, table: str) -> XdsResource | None:
    """The part of a scoped table with all that has no part of its own; there also if it is empty."""
    parts = table_parts(db, fleet, table)
    if parts is None:
        return None
    others = _misdirected(db, fleet, names.chain_of_table(table), parts, scoped=True)
    body = _in_scope(scope_head(table, None), [piece for piece, _ in (*_joined(parts), *others)])
    return XdsResource.of(SCOPE, names.scope(table, names.OTHERS), body)


def _in_scope(head: ScopeHead, virtual_hosts: Sequence[bytes]) -> bytes:
    number = ScopedRouteConfiguration.ROUTE_CONFIGURATION_FIELD_NUMBER
    return head.scope + message_field(number, b"".join((head.table, *virtual_hosts)))


@query
def others_are_built(db: Db, fleet: FleetId, table: str) -> bool:
    """Whether a scoped table has the part that others share. Fails while that cannot be built."""
    return scope_of_others(db, fleet, table) is not None


@query
def scopes_in(db: Db, fleet: FleetId, table: str, listener: ListenerId, part: int) -> tuple[str, ...]:
    """The hostnames of one shard of a listener that have a part of their own in a scoped table, sorted.

    Fails while the part that others share cannot be built: a hostname that is no more to have a part of its
    own keeps it until the shared one answers for it.
    """
    others_are_built(db, fleet, table)
    return split_hosts(db, listener, part)[0]


@query
def table_parts(db: Db, fleet: FleetId, name: str) -> tuple[Part, ...] | None:
    """The parts of a table, listener by listener; ``None`` when there is no table of that name."""
    table = table_named(db, fleet, name)
    if table is None:
        return None
    if fleet.owner.is_a(Gateway) and is_alone(db, fleet.owner):
        return _parts(db, table.members, scoped=table.scoped)
    # Also for a table that only one of several owners has now: as it last was, another had its part in it.
    built = parts_beside_others.attempt_each(db, [(listener, table.scoped) for listener in table.members])
    in_force = (
        _parts_in_force(db, *each, scoped=table.scoped) for each in zip(table.members, built, strict=True)
    )
    return tuple(part for parts in in_force for part in parts)


def _parts(db: Db, listeners: tuple[ListenerId, ...], *, scoped: bool) -> tuple[Part, ...]:
    """The virtual hosts of some listeners by shard.

    A shard that cannot be built is as it last was. What never was built is closed.
    """
    # In one join: with one for each listener, the table would begin again after each of them.
    shards = [(listener, n, scoped) for listener in listeners for n in host_shards(db, listener)]
    built = zip(shards, host_part.attempt_each(db, shards), strict=True)
    return tuple(_kept_part(db, *at) if isinstance(part, Failed) else part for at, part in built)


def _kept_part(db: Db, listener: ListenerId, shard_: int, scoped: bool) -> Part:
    kept = host_part.last_good(db, listener, shard_, scoped)
    former = {host.name: host for host in kept.hosts} if not isinstance(kept, Failed) else {}
    named = hosts(db, listener, shard_)
    others = (host for host in named if not (scoped and has_scope(db, host)))
    closed = [_closed_host(db, listener, host, scoped) for host in others]
    return _part(listener, shard_, [former.get(host.name, host) for host in closed])


@query
def parts_beside_others(db: Db, listener: ListenerId, scoped: bool) -> tuple[Part, ...]:
    """The parts of a listener in a table of a fleet that several Gateways or ListenerSets share."""
    return _parts(db, (listener,), scoped=scoped)


def _parts_in_force(
    db: Db, listener: ListenerId, built: tuple[Part, ...] | Failed, *, scoped: bool
) -> tuple[Part, ...]:
    """The parts of a listener in a table of a fleet that several Gateways or ListenerSets share.

    One that fails must not freeze the others: it stays as it was, without the hostnames that are another's
    now. If it never was, requests for its hostname are answered with 500, because they must not meet the
    routes of another.
    """
    if not isinstance(built, Failed):
        return built
    kept = parts_beside_others.last_good(db, listener, scoped)
    if isinstance(kept, Failed):
        return (_closed(db, listener, kept),)
    return tuple(_without_lost(db, listener, part) for part in kept)


def _without_lost(db: Db, listener: ListenerId, part: Part) -> Part:
    """A former part of a listener without the hostnames that no longer belong to it."""
    kept = [host for host in part.hosts if may_serve(db, listener, host.domain)]
    return part if len(kept) == len(part.hosts) else _part(listener, part.at[1], kept)


def _closed(db: Db, listener: ListenerId, failed: Failed) -> Part:
    """All requests of a listener answered with 500."""
    own = last_judged_at(db, listener)
    if own is None:
        raise Contained(failed)
    host = own.hostname or ANY
    return _part(listener, shard(host), [_closed_host(db, listener, host, scoped=False)])


def parts_of(db: Db, fleet: FleetId, name: str) -> tuple[Part, ...]:
    """What a route configuration that was just built is joined from."""
    parts = table_parts.attempt(db, fleet, name)
    return () if isinstance(parts, Failed) else parts or ()


def _head(name: str) -> RouteConfiguration:
    return RouteConfiguration(name=name, ignore_port_in_host_matching=True)


def differing(good: tuple[Part, ...], now: tuple[Part, ...]) -> Iterator[list[Suspect]]:
    """The entries of a table that are not in another, each with its form there; in steps.

    An entry is known by its route and by what it matches, as its place may pass to another one. While it is
    only suspected, its form there may stand in as it is if all that matched before does so now, in the same
    order. Otherwise that form would answer requests that were answered by something else, and maybe refused.

    Args:
        good: the parts of the other, which Envoy took.
        now: the parts of the table. One that did not change is the same object in both.
    """
    before = {part.at: part for part in good}
    pairs: list[tuple[tuple[RouteEntry, ...], tuple[RouteEntry, ...]]] = []
    steady = True
    for part in now:
        old = before.pop(part.at, None)
        if old is part:
            continue
        hosts = {host.name: host for host in old.hosts} if old is not None else {}
        for host in part.hosts:
            former = hosts.pop(host.name, None)
            if former is None or former.body != host.body:
                pairs.append((former.entries if former is not None else (), host.entries))
        steady = steady and not hosts
        yield []
    steady = steady and not any(part.hosts for part in before.values())
    changes: list[_Change] = []
    for former_entries, entries in pairs:
        changes.append((yield from _change(former_entries, entries)))
    steady = steady and all(change.steady for change in changes)
    for change in changes:
        for some in in_steps(change.entries, DECODED):
            yield [
                Suspect(
                    entry.route, version(entry.body), change.forms.get(matched(entry)), steady, entry.body
                )
                for entry in some
            ]


class _Change(NamedTuple):
    """What is new under a hostname.

    Args:
        entries: those that are new or changed.
        forms: what was there before of the routes of these, by what it is known by.
        steady: whether all that matched before does so now, in the same order.
    """

    entries: list[RouteEntry]
    forms: Mapping[object, RouteEntry]
    steady: bool


def _change(
    good: tuple[RouteEntry, ...], now: tuple[RouteEntry, ...]
) -> Generator[list[Suspect], None, _Change]:
    """How the entries of a hostname differ from others; in steps."""
    taken: set[bytes] = set()
    bodies: set[bytes] = set()
    for entries, into in ((good, taken), (now, bodies)):
        for some in in_steps(entries):
            into.update(entry.body for entry in some)
            yield []
    changed: list[RouteEntry] = []
    routes: set[Ref] = set()
    for some in in_steps(now):
        differing_ones = [entry for entry in some if entry.body not in taken]
        changed += differing_ones
        routes.update(entry.route for entry in differing_ones)
        yield []
    forms: dict[object, RouteEntry] = {}
    order: list[object] = []
    for some in in_steps(good, DECODED):
        for entry in some:
            order.append(entry.body if entry.body in bodies else matched(entry))
            if entry.route in routes:
                # The first of several that match the same is the one that answers.
                forms.setdefault(matched(entry), entry)
        yield []
    met = 0
    for some in in_steps(now, DECODED):
        for entry in some:
            key = entry.body if entry.body in taken else matched(entry)
            met += met < len(order) and order[met] == key
        yield []
    return _Change(changed, forms, met == len(order))


@query
def concern(db: Db, fleet: FleetId, name: str, route: Ref, form: str) -> Concern | None:
    """Whom an entry of a table concerns that is kept out; ``None`` when the table is not to have it any more.

    Args:
        db: what is read.
        fleet: whose table.
        name: of the table.
        route: the route that the entry is made from.
        form: the version of the entry, or of what stands in for it.
    """
    return _concern(db, (fleet, ROUTE, name), name, route, form)


@query
def scope_concern(db: Db, fleet: FleetId, name: str, route: Ref, form: str) -> Concern | None:
    """As ``concern``, of an entry of a part of a scoped table."""
    return _concern(db, (fleet, SCOPE, name), names.table_of_scope(name), route, form)


def _concern(db: Db, at: tuple[FleetId, str, str], name: str, route: Ref, form: str) -> Concern | None:
    table = table_named(db, at[0], name)
    if table is None:
        return None
    out = kept_out(db, *at, route)
    good = ((of, fallback.last_good) for of, fallback in out.items())
    forms = {form, *(of for of, former in good if former is not None and version(former.body) == form)}
    for listener in table.members:
        for entry in route_entries_of(db, listener, route, table.scoped):
            own, closed = version(entry.body), version(fail_closed(entry).body)
            if at in resources_with(db, listener, entry.host) and not forms.isdisjoint((own, closed)):
                # If Envoy refuses its match alone, no policy is at fault.
                fallback = out.get(own) if closed not in out else None
                policies = _policies_at_fault(db, listener, entry, fallback, scoped=table.scoped)
                return Concern(str(route), (route,), policies=policies)
    return None


def _policies_at_fault(
    db: Db, listener: ListenerId, entry: RouteEntry, fallback: Fallback | None, *, scoped: bool
) -> tuple[Ref, ...]:
    """The policies that Envoy may refuse an entry for."""
    if fallback is None:
        return ()
    former: RouteEntry | None = fallback.last_good
    if former is None or former.body == fail_closed(former).body:  # nothing but its match was ever good
        good = tuple(_others(db, listener, entry.route, scoped=scoped))
    else:
        good = (former.body,)
    policies = shaping_policies.attempt(db, listener, entry.route, entry.body, good)
    return () if isinstance(policies, Failed) else policies


def _others(db: Db, listener: ListenerId, route: Ref, *, scoped: bool) -> Iterator[bytes]:
    """Some entries in force on a listener: first other ones of a route, then any."""
    own = in_force(db, listener, route, route_entries_of(db, listener, route, scoped), scoped=scoped)
    yield from (entry.body for entry in islice(own, COMPARED))
    built = (
        virtual_host.attempt(db, listener, host, scoped)
        for n in host_shards(db, listener)
        for host in hosts(db, listener, n)
    )
    of_listener = (entry for host in built if not isinstance(host, Failed) for entry in host.entries)
    yield from (entry.body for entry in islice(of_listener, COMPARED))
