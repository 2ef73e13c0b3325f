"""Which routes are attached to which listeners, and under which hostnames.

Theory of operation
===================
Indexes group routes by parent and by hostname, in shards, so one changed route does not require a walk over
all routes of its Gateway. ``attachments`` matches one route with the listeners of its parents. It reads
``attachable``, which contains only the fields of a listener that matter to routes. So after a certificate
rotation its value is equal, and no route is computed again.

Source: Gateway API, ``parentRefs`` and ``hostnames`` of routes; GEP-3155 for statuses.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import Struct

from moongate.api.base import GATEWAY_GROUP, ListenerId, Ref
from moongate.api.diagnostics import did_you_mean
from moongate.api.gateway import Gateway
from moongate.api.listenerset import ListenerSet
from moongate.api.route import RequestRoute, Route
from moongate.api.shared import ParentReference
from moongate.attach.judged_alone import PROTOCOLS
from moongate.attach.listener_sets import gateway_of
from moongate.attach.listeners import Attachable, attachable, is_beside, was_beside
from moongate.attach.matches import EVERYTHING, unbuildable
from moongate.attach.namespaces import namespace_labels, selects
from moongate.attach.route_kinds import REQUEST_ROUTE_TYPES, ROUTE_TYPES, route_kind, written_matches
from moongate.attach.rule_filters import rule_filters
from moongate.engine import Failed, query
from moongate.problem import Problem
from moongate.store import Index, PartedIndex, find, find_in, get, parts, shard

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

    from moongate.engine import Db

MOST_NAMED = 5
"""How many hostnames or listeners a message names."""
INVALID_RULE = "InvalidRule"
"""The reason why a route is not accepted that has too many rules for its kind."""
ANY = "*"
"""The hostname of the virtual host for requests that no other virtual host matches."""


USE_DEFAULTS: Final = "spec.useDefaultGateways"
"""The field of a route that stands for parents which it does not name."""
DEFAULTS: Final = Ref.of(Gateway, "", "")
"""Stands for all default Gateways (``defaultScope``), where a route has them as parents."""


def _by_parent(route: Route) -> Iterator[tuple[Ref, int, Ref]]:
    ref = route.ref
    for parent in named_parents(route):
        if parent is not None:
            yield parent, shard(str(ref)), ref


def _named(route: RequestRoute) -> Iterator[tuple[Ref, str]]:
    for parent in named_parents(route):
        if parent is not None:
            for host in route.hostnames or ("",):
                yield parent, host


def takes_by_default(gateway: Gateway) -> bool:
    """Whether a Gateway is a parent of all routes that ask for the default Gateways."""
    return gateway.spec.default_scope == "All"


def _by_scope(gateway: Gateway) -> Iterator[tuple[str, Ref]]:
    if takes_by_default(gateway):
        yield "All", gateway.ref


def _hostnames(route: RequestRoute) -> Iterator[tuple[Ref, int, str]]:
    for parent, host in _named(route):
        yield parent, shard(host), host


def _by_hostname(route: RequestRoute) -> Iterator[tuple[tuple[Ref, str], int, Ref]]:
    ref = route.ref
    for parent, host in _named(route):
        yield (parent, host), shard(str(ref)), ref


def _by_path(route: RequestRoute) -> Iterator[tuple[tuple[Ref, str, tuple[str, str]], Ref]]:
    for parent, host in _named(route):
        for path in paths(route):
            yield (parent, host, path), route.ref


DEFAULT_GATEWAYS: Index[Gateway, Ref] = Index("default-gateways", (Gateway,), _by_scope)
"""Scope → the Gateways that are parents of all routes which ask for it."""
ROUTES: PartedIndex[Route, int, Ref] = PartedIndex("routes", ROUTE_TYPES, _by_parent)
"""Gateway or ListenerSet, or DEFAULTS; shard of the route → routes that name it as parent."""
HOSTNAMES: PartedIndex[RequestRoute, int, str] = PartedIndex("hostnames", REQUEST_ROUTE_TYPES, _hostnames)
"""Gateway or ListenerSet; shard of the hostname → hostnames as written in its routes; "" for none."""
ROUTES_BY_HOSTNAME: PartedIndex[RequestRoute, int, Ref] = PartedIndex(
    "routes-by-hostname", REQUEST_ROUTE_TYPES, _by_hostname
)
"""(Gateway or ListenerSet, hostname as written); shard of the route → routes. Most hostnames have few."""
ROUTES_BY_PATH: Index[RequestRoute, Ref] = Index("routes-by-path", REQUEST_ROUTE_TYPES, _by_path)
"""(Gateway or ListenerSet, hostname as written, key of a path) → routes with a match on that path."""


class Attachment(Struct, frozen=True):
    """One parentRef of a route that leads to a Gateway of this controller.

    Args:
        parent: the parentRef as written.
        gateway: the Gateway whose Envoys serve what it names.
        owner: the Gateway or ListenerSet that it names.
        hosts: the listeners that take the route, each with the hostnames it has there, sorted.
        problem: why no listener takes it, if none does.
    """

    parent: ParentReference
    gateway: Ref
    owner: Ref
    hosts: tuple[tuple[ListenerId, tuple[str, ...]], ...]
    problem: Problem | None = None


def paths(route: RequestRoute) -> tuple[tuple[str, str], ...]:
    """The paths that a route matches on, each once, as ``HTTPPathMatch.key`` has them."""
    written = (written_matches(route.KIND, rule) or (EVERYTHING,) for rule in route.spec.rules)
    return tuple(dict.fromkeys(match.path.key for matches in written for match in matches))


@query
def attachments(db: Db, route: Ref) -> tuple[Attachment, ...]:
    """The parentRefs of a route that lead to a Gateway of ours, in the order of the spec."""
    resource = get(db, Route, route)
    return () if resource is None else attachments_of(db, resource)


def attachments_of(db: Db, resource: Route) -> tuple[Attachment, ...]:
    """As ``attachments``, for a query that reads the route itself and so runs again with each edit of it."""
    route = resource.ref
    named = [parent_of(parent, route.namespace) for parent in resource.spec.parent_refs]
    judged = {owner: iter(attachments_at(db, route, owner)) for owner in named if owner is not None}
    in_order = [next(judged[owner], None) for owner in named if owner is not None]
    for gateway in default_parents(db, resource):
        in_order += attachments_at(db, route, gateway)
    return tuple(attachment for attachment in in_order if attachment is not None)


def named_parents(resource: Route) -> dict[Ref | None, None]:
    """The Gateways and ListenerSets that a route names as parents, ours or not; ``None`` for another kind.

    ``DEFAULTS`` is one of them where the route asks for the default Gateways.
    """
    named = dict.fromkeys(parent_of(parent, resource.ref.namespace) for parent in resource.spec.parent_refs)
    return named | ({DEFAULTS: None} if resource.by_default else {})


def default_parents(db: Db, resource: Route) -> list[Ref]:
    """The Gateways that are parents of a route by default alone: those that it names are so anyway."""
    if not resource.by_default:
        return []
    named = named_parents(resource)
    return [gateway for gateway in find(db, DEFAULT_GATEWAYS, "All") if gateway not in named]


def default_parent(gateway: Ref) -> ParentReference:
    """The parentRef, in a status, of a route that a Gateway takes by default."""
    return ParentReference(name=gateway.name, namespace=gateway.namespace)


@query
def is_default(db: Db, gateway: Ref) -> bool:
    """As ``takes_by_default``; False for a Gateway that does not exist."""
    resource = get(db, Gateway, gateway)
    return resource is not None and takes_by_default(resource)


def as_parent(db: Db, owner: Ref) -> tuple[Ref, ...]:
    """What routes name of which a Gateway or ListenerSet is a parent."""
    return (owner, DEFAULTS) if owner.is_a(Gateway) and is_default(db, owner) else (owner,)


def routes_under(db: Db, owner: Ref, part: int) -> list[Ref]:
    """The routes of one shard of which a Gateway or ListenerSet is a parent, sorted."""
    return sorted({route for parent in as_parent(db, owner) for route in find_in(db, ROUTES, parent, part)})


@query
def attachments_at(db: Db, route: Ref, owner: Ref) -> tuple[Attachment, ...]:
    """The parentRefs of a route that name one Gateway or ListenerSet, in the order of the spec.

    None if that is not ours. Queries about one owner of listeners read only this, so a failure at another one
    does not affect them.
    """
    resource = get(db, Route, route)
    gateway = gateway_of(db, owner)
    if resource is None or gateway is None:
        return ()
    parents = [p for p in resource.spec.parent_refs if parent_of(p, route.namespace) == owner]
    if not parents and resource.by_default and owner == gateway and is_default(db, gateway):
        parents = [default_parent(gateway)]
    return tuple(_judge(db, resource, parent, gateway, owner) for parent in parents)


def attached_hosts(db: Db, route: Ref, listener: ListenerId) -> tuple[str, ...]:
    """The hostnames under which a listener serves a route, sorted; empty when it does not."""
    return _hosts_at(attachments_at(db, route, listener.owner), listener)


def _hosts_at(attachments: tuple[Attachment, ...], listener: ListenerId) -> tuple[str, ...]:
    hosts = {host for each in attachments for at, names in each.hosts if at == listener for host in names}
    return tuple(sorted(hosts))


@query
def route_shards(db: Db, owner: Ref) -> tuple[int, ...]:
    """The shards in which routes name an owner of listeners as parent, sorted: one with one route has one."""
    return _parts(db, ROUTES, as_parent(db, owner))


def _parts(db: Db, index: PartedIndex[Any, int, Any], keys: Iterable[Hashable]) -> tuple[int, ...]:
    """The parts that any of some keys has, sorted."""
    return tuple(sorted({part for key in keys for part in parts(db, index, key)}))


class Attached(NamedTuple):
    """The routes of one shard that the listeners of an owner take.

    Args:
        routes: each route with the listeners that take it. A listener is named twice when two parentRefs lead
            there.
        counts: how often each listener is named by routes that count as attached.
    """

    routes: tuple[tuple[Ref, tuple[ListenerId, ...]], ...]
    counts: Mapping[ListenerId, int]


@query
def attached_in(db: Db, owner: Ref, part: int) -> Attached:
    """The routes of one shard with the listeners of an owner that take them.

    A route whose query failed is left out; its own status reports the failure, and it answers 500 wherever it
    may be served.
    """
    routes = routes_under(db, owner, part)
    attached = attachments_at.attempt_each(db, [(route, owner) for route in routes])
    taken = tuple(
        (route, tuple(at for attachment in judged for at, _ in attachment.hosts))
        for route, judged in zip(routes, attached, strict=True)
        if not isinstance(judged, Failed)
    )
    counted = (listeners for route, listeners in taken if listeners and _counts(db, route))
    return Attached(taken, dict(Counter(at for listeners in counted for at in listeners)))


def _counts(db: Db, route: Ref) -> bool:
    """Whether a route counts as attached to the listeners that take it."""
    return route_kind(route.kind).counts_if_refused or refused_whole.attempt(db, route) is not True


@query
def refused_whole(db: Db, route: Ref) -> bool:
    """Whether no rule of a route is accepted, because of its matches or filters. Its requests get errors."""
    resource = get(db, Route, route)
    if resource is None or not resource.spec.rules:
        return False
    return all(
        unbuildable(written_matches(route.kind, rule)) is not None
        or rule_filters(db, resource, index).refused
        for index, rule in enumerate(resource.spec.rules)
    )


@query
def attached_counts(db: Db, owner: Ref) -> Mapping[ListenerId, int]:
    """``attachedRoutes`` of the statuses of listeners: pairs of route and parentRef that each takes."""
    counts: dict[ListenerId, int] = {}
    for part in attached_in.each(db, [(owner, part) for part in route_shards(db, owner)]):
        for at, count in part.counts.items():
            counts[at] = counts.get(at, 0) + count
    return counts


@query
def hosts_in(db: Db, owner: Ref, part: int) -> Mapping[ListenerId, tuple[str, ...]]:
    """The hostnames of one shard that routes may have on the listeners of an owner, sorted.

    A hostname stands in the shard that it hashes to. Some may turn out to have no route that is allowed.
    """
    directory = _directory(db, owner)
    served: dict[ListenerId, set[str]] = {}
    written = (host for key in as_parent(db, owner) for host in find_in(db, HOSTNAMES, key, part))
    for host in written:
        if host:
            for place in directory.covering(host):
                served.setdefault(directory.listeners[place].id, set()).add(host)
    for each in directory.listeners:
        # A route without hostname, or with a wider one, is served under the listener's own hostname.
        host = each.hostname or ANY
        if shard(host) == part and _may_have(db, each.id, host):
            served.setdefault(each.id, set()).add(host)
    return {listener: tuple(sorted(hosts)) for listener, hosts in served.items()}


def hosts(db: Db, listener: ListenerId, part: int) -> tuple[str, ...]:
    """Those of ``hosts_in`` that are of one listener."""
    return hosts_in(db, listener.owner, part).get(listener, ())


@query
def host_shards_of(db: Db, owner: Ref) -> Mapping[ListenerId, tuple[int, ...]]:
    """The shards in which listeners of an owner may have hostnames, sorted."""
    own = {shard(each.hostname or ANY) for each in _directory(db, owner).listeners}
    shards = sorted({*_parts(db, HOSTNAMES, as_parent(db, owner)), *own})
    by_listener: dict[ListenerId, list[int]] = {}
    for part, served in zip(shards, hosts_in.each(db, [(owner, part) for part in shards]), strict=True):
        for listener in served:
            by_listener.setdefault(listener, []).append(part)
    return {listener: tuple(numbers) for listener, numbers in by_listener.items()}


def host_shards(db: Db, listener: ListenerId) -> tuple[int, ...]:
    """The shards in which a listener may have hostnames, sorted."""
    return host_shards_of(db, listener.owner).get(listener, ())


def last_host_shards(db: Db, listener: ListenerId) -> tuple[int, ...]:
    """As ``host_shards``; while that fails, as it last was, and none if it never was."""
    kept = host_shards_of.last_good(db, listener.owner)
    return () if isinstance(kept, Failed) else kept.get(listener, ())


def _may_have(db: Db, listener: ListenerId, host: str) -> bool:
    """Whether a listener may have something under its own hostname. Most routes have narrower ones."""
    written = _parts(db, HOSTNAMES, as_parent(db, listener.owner))
    return any(shard(name) in written for name in written_as(db, listener, host)) or reserved(
        db, listener, host
    )


def shards_at(db: Db, listener: ListenerId, host: str) -> tuple[int, ...]:
    """The shards of the routes that a listener may serve under a hostname, sorted."""
    return _parts(db, ROUTES_BY_HOSTNAME, _under(db, listener, host))


def _under(db: Db, listener: ListenerId, host: str) -> list[tuple[Ref, str]]:
    """The parents and hostnames that routes may have written which a listener serves under ``host``."""
    parents, written = as_parent(db, listener.owner), written_as(db, listener, host)
    return [(parent, name) for parent in parents for name in written]


def routes_at(db: Db, listener: ListenerId, host: str, part: int) -> list[Ref]:
    """The routes of one shard that a listener serves under a hostname, sorted.

    A route whose query failed is included if it may be served there: it answers 500. Otherwise its requests
    could match another route that lets them pass.
    """
    at = _under(db, listener, host)
    candidates = {route for key in at for route in find_in(db, ROUTES_BY_HOSTNAME, key, part)}
    return taken_under(db, candidates, listener, host, also_unjudged=True)


def routes_on(db: Db, listener: ListenerId, host: str, path: tuple[str, str]) -> list[Ref]:
    """The routes that a listener serves under a hostname and that match on a path, sorted.

    A route whose query failed is left out: only statuses read this, and its own status reports the failure.

    Args:
        db: the database.
        listener: the listener.
        host: the hostname.
        path: as ``HTTPPathMatch.key`` has it.
    """
    at = [(parent, name, path) for parent, name in _under(db, listener, host)]
    candidates = {route for key in at for route in find(db, ROUTES_BY_PATH, key)}
    return taken_under(db, candidates, listener, host)


def reserved(db: Db, listener: ListenerId, host: str) -> bool:
    """Whether a hostname is a listener's own and would fall to a wider one, were there nothing under it.

    Only HTTP listeners of one port share a table; connections of HTTPS are assigned before there is a host.
    """
    directory = _directory(db, listener.owner)
    own = directory.get(listener)
    if own is None or own.protocol != "HTTP" or not own.hostname or own.hostname != host:
        return False
    covering = (directory.listeners[place] for place in directory.covering(host))
    return any(a.port == own.port and a.hostname != host for a in covering) or any(
        is_beside(db, listener, own.port, other) for other in (*wider(host), "")
    )


def may_serve(db: Db, listener: ListenerId, host: str) -> bool:
    """Whether a hostname still belongs to a listener, as far as its Gateway can be judged."""
    directory = _directory.last_good(db, listener.owner)
    own = None if isinstance(directory, Failed) else directory.get(listener)
    if isinstance(directory, Failed) or own is None:
        return False
    if host == ANY:
        return True
    # What it had may have a narrower owner by now. So that counts which the listener itself may not know yet.
    covered = intersection(host, own.hostname)
    return covered is not None and not _is_isolated(db, covered, own, directory, was_beside)


def intersection(one: str, other: str) -> str | None:
    """The hostname that both hostnames cover: the more specific of the two; ``None`` if they do not overlap.

    >>> intersection("*.example.com", "a.b.example.com")
    'a.b.example.com'

    Args:
        one: a hostname, ``*.example.com`` for any number of labels before it, "" for all.
        other: likewise.
    """
    if one == other or not other:
        return one or other
    if not one:
        return other
    if one.startswith("*.") and other.endswith(one[1:]):
        return other
    if other.startswith("*.") and one.endswith(other[1:]):
        return one
    return None


def wider(host: str) -> list[str]:
    """The wildcards that cover a hostname, the narrowest first.

    >>> wider("a.example.com")
    ['*.example.com', '*.com']
    """
    labels = host.removeprefix("*.").split(".")
    start = 0 if host.startswith("*.") else 1
    return [w for n in range(start, len(labels)) if (w := "*." + ".".join(labels[n:])) != host]


@query
def _own_hostname(db: Db, listener: ListenerId) -> str | None:
    """The hostname of a listener, "" for all; ``None`` when there is no such listener."""
    own = _directory(db, listener.owner).get(listener)
    return None if own is None else own.hostname


class _Directory(NamedTuple):
    """The listeners of an owner, and where they stand by what routes look for.

    With a walk over all listeners for each route, thousands of routes on hundreds of listeners would take
    minutes.
    """

    listeners: tuple[Attachable, ...]
    places: Mapping[ListenerId, int]
    named: Mapping[str, tuple[int, ...]]
    of_hostname: Mapping[str, tuple[int, ...]]
    has_wildcards: bool

    def get(self, listener: ListenerId) -> Attachable | None:
        place = self.places.get(listener)
        return None if place is None else self.listeners[place]

    def covering(self, host: str) -> list[int]:
        """The places of the listeners whose hostname covers all of ``host``, in order."""
        names = (host, *wider(host), "") if self.has_wildcards else (host, "")
        return sorted(place for name in names for place in self.of_hostname.get(name, ()))

    def near(self, hostnames: tuple[str, ...]) -> tuple[Attachable, ...]:
        """The listeners that may serve a route with these hostnames, and maybe others, in order."""
        if not hostnames or any(name.startswith("*.") for name in hostnames):
            return self.listeners
        places = {place for name in hostnames for place in self.covering(name)}
        return tuple(self.listeners[place] for place in sorted(places))


@query
def _directory(db: Db, owner: Ref) -> _Directory:
    listeners = attachable(db, owner)
    named: defaultdict[str, list[int]] = defaultdict(list)
    of_hostname: defaultdict[str, list[int]] = defaultdict(list)
    for place, each in enumerate(listeners):
        named[each.id.name].append(place)
        of_hostname[each.hostname].append(place)
    return _Directory(
        listeners,
        {each.id: place for place, each in enumerate(listeners)},
        {name: tuple(places) for name, places in named.items()},
        {name: tuple(places) for name, places in of_hostname.items()},
        any(name.startswith("*.") for name in of_hostname),
    )


def listeners_of(db: Db, owner: Ref) -> tuple[ListenerId, ...]:
    """The listeners of an owner, in the order of its spec."""
    return tuple(each.id for each in _directory(db, owner).listeners)


def hosts_if_taken(db: Db, listener: ListenerId, route: Route) -> tuple[str, ...]:
    """The hostnames that a route has on a listener if that takes it, sorted."""
    directory = _directory(db, listener.owner)
    own = directory.get(listener)
    return () if own is None else _hosts_on(db, route.hostnames, own, directory)


def written_as(db: Db, listener: ListenerId, host: str) -> list[str]:
    """The hostnames that routes may have written that are served under ``host``."""
    own = _own_hostname(db, listener)
    return [host, "", *wider(host)] if own is not None and host == (own or ANY) else [host]


def taken_under(
    db: Db, candidates: set[Ref], listener: ListenerId, host: str, *, also_unjudged: bool = False
) -> list[Ref]:
    """Those of some routes that a listener serves under a hostname, sorted."""
    routes: list[Ref] = []
    in_order = sorted(candidates)
    attached = attachments_at.attempt_each(db, [(route, listener.owner) for route in in_order])
    for route, judged in zip(in_order, attached, strict=True):
        if isinstance(judged, Failed):
            taken = also_unjudged and is_open_to(db, listener, route)
        else:
            taken = host in _hosts_at(judged, listener)
        if taken:
            routes.append(route)
    return routes


def is_open_to(db: Db, listener: ListenerId, route: Ref) -> bool:
    """Whether a listener accepts routes of a kind and namespace; True also if that is not known."""
    own = _directory(db, listener.owner).get(listener)
    if own is None or (GATEWAY_GROUP, route.kind) not in own.kinds:
        return False
    if own.from_ == "Selector" and isinstance(namespace_labels.attempt(db, route.namespace), Failed):
        return True
    return _allows(db, own, route.namespace)


def _unmatched(parent: ParentReference, owner: Ref, listeners: tuple[Attachable, ...]) -> str:
    if not listeners:
        return f"The {owner.kind} has no listener that could be used; its own status tells why."
    listed = ", ".join(f"{a.id.name} (port {a.port})" for a in listeners)
    criteria = [] if parent.section_name is None else [f"name {parent.section_name!r}"]
    criteria += [] if parent.port is None else [f"port {parent.port}"]
    meant = did_you_mean(parent.section_name or "", (a.id.name for a in listeners))
    return f"The {owner.kind} has no listener of {' and '.join(criteria)}; it has {listed}.{meant}"


def _judge(db: Db, resource: Route, parent: ParentReference, gateway: Ref, owner: Ref) -> Attachment:
    route, hostnames = resource.ref, resource.hostnames
    directory = _directory(db, owner)
    if parent.section_name is None:
        near, named = directory.near(hostnames), directory.listeners
    else:
        near = named = tuple(directory.listeners[n] for n in directory.named.get(parent.section_name, ()))
    open_to = _open_to(db, route, parent, near)
    taken = tuple((a.id, names) for a in open_to if (names := _hosts_on(db, hostnames, a, directory)))
    if taken and route_kind(route.kind).one_rule and (count := len(resource.spec.rules)) != 1:
        message = f"A {route.kind} has one rule, and this one has {count}: put their backends into one rule."
        return Attachment(parent, gateway, owner, (), Problem("spec.rules", message, INVALID_RULE))
    if taken:
        return Attachment(parent, gateway, owner, taken)
    named = tuple(a for a in named if parent.port in (None, a.port))
    if not named:
        problem = Problem("", _unmatched(parent, owner, directory.listeners), "NoMatchingParent")
        return Attachment(parent, gateway, owner, (), problem)
    willing = _open_to(db, route, parent, named)
    if not willing:
        names = ", ".join(a.id.name for a in named)
        message = (
            f"None of the listeners that are meant ({names}) takes routes of kind {route.kind} "
            f"from namespace {route.namespace}."
        )
        protocols = dict.fromkeys(a.protocol for a in named)
        if protocols.keys().isdisjoint(PROTOCOLS):
            has = ", ".join(map(repr, protocols))
            message = f"The listeners that are meant ({names}) have a protocol that is not served: {has}."
        return Attachment(parent, gateway, owner, (), Problem("", message, "NotAllowedByListeners"))
    served = ", ".join(f"{a.id.name} ({a.hostname or ANY})" for a in willing[:MOST_NAMED])
    message = (
        f"No hostname of the {route.kind} ({', '.join(hostnames[:MOST_NAMED])}) is served by the listeners "
        f"of this parent: {served}. Give the route one of their hostnames, or the {owner.kind} a listener "
        "for it."
    )
    return Attachment(parent, gateway, owner, (), Problem("", message, "NoMatchingListenerHostname"))


def _open_to(
    db: Db, route: Ref, parent: ParentReference, listeners: tuple[Attachable, ...]
) -> list[Attachable]:
    """The listeners at the port of a parentRef that accept routes of a kind and namespace."""
    return [
        a
        for a in listeners
        if parent.port in (None, a.port)
        and (GATEWAY_GROUP, route.kind) in a.kinds
        and _allows(db, a, route.namespace)
    ]


def _allows(db: Db, listener: Attachable, namespace: str) -> bool:
    match listener.from_:
        case "All":
            return True
        case "Selector":
            return listener.selector is not None and selects(db, listener.selector, namespace)
        case _:
            return namespace == listener.id.owner.namespace


def _hosts_on(
    db: Db, hostnames: tuple[str, ...], listener: Attachable, directory: _Directory
) -> tuple[str, ...]:
    if not hostnames:
        return (listener.hostname or ANY,)
    names = {h or ANY for name in hostnames if (h := intersection(name, listener.hostname)) is not None}
    return tuple(sorted(name for name in names if not _is_isolated(db, name, listener, directory)))


def _is_isolated(
    db: Db,
    host: str,
    listener: Attachable,
    directory: _Directory,
    beside: Callable[[Db, ListenerId, int, str], bool] = is_beside,
) -> bool:
    # A hostname belongs to the most specific listener of a port (GatewayHTTPListenerIsolation), whether
    # or not that one takes the route. Of two that cover it, the longer is the more specific.
    own = listener.hostname
    covering = (directory.listeners[place] for place in directory.covering(host))
    narrower = (a.hostname for a in covering if a.id != listener.id and a.port == listener.port)
    if any(other == host or len(other) > len(own) for other in narrower):
        return True
    others = (host, *(other for other in wider(host) if len(other) > len(own)))
    return any(beside(db, listener.id, listener.port, other) for other in others)


def parent_of(parent: ParentReference, namespace: str) -> Ref | None:
    """The Gateway or ListenerSet that a parentRef in a resource of ``namespace`` names, or ``None``."""
    if parent.group != GATEWAY_GROUP or parent.kind not in (Gateway.KIND, ListenerSet.KIND):
        return None
    return Ref(parent.kind, parent.namespace or namespace, parent.name, parent.group)
