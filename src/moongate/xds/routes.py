"""RouteConfigurations: built per route, joined per hostname, shard and listener.

Theory of operation
===================
``route_entries_of`` encodes the Envoy routes of one route on one listener; ``virtual_host`` orders and
joins those of a hostname, ``host_part`` the virtual hosts of a shard, ``route_configuration`` the shards. On
the wire a repeated field is its entries one after another, so joining is concatenation: one edited route
among thousands costs one encoding and a few joins. A hostname may have thousands of routes, too: its entries
are sorted per shard of routes, and sorted parts are merged.

Source: Gateway API, HTTPRouteMatch (precedence); the reference's shapes.
"""

from __future__ import annotations

from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from envoy.config.route.v3.route_components_pb2 import Route, RouteAction, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from msgspec import Struct

from moongate import names
from moongate.api.base import Ref
from moongate.api.gateway import Gateway
from moongate.api.route import RequestRoute
from moongate.attach.envoy_listeners import route_configurations, table_of
from moongate.attach.gateways import proxy
from moongate.attach.listeners import attachable
from moongate.attach.matches import matches, precedence, unbuildable
from moongate.attach.route_kinds import order, route_kind, written_matches
from moongate.attach.routes import attached_hosts, hosts, reserved, routes_at, shards_at
from moongate.attach.rule_filters import rewrite_of, rule_filters
from moongate.engine import Failed, query
from moongate.features.base import RouteEdit
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.policies.effective import effective_rule
from moongate.policies.http_listeners import listener_facts, listener_failed
from moongate.store import SHARDS, get
from moongate.xds.destinations import Destination, of_policies, rule_destination
from moongate.xds.filters import chain_filter, filters_of, has_mark, missing
from moongate.xds.matches import matcher
from moongate.xds.metadata import holders, metadata, shown
from moongate.xds.route_entries import RouteEntry, in_force
from moongate.xds.route_filters import (
    apply_direct_response,
    apply_headers,
    apply_rewrite,
    header_options,
    redirect_action,
)
from moongate.xds.wire import ROUTE, XdsResource, encode, message_field, packed

if TYPE_CHECKING:
    from moongate.api.base import ListenerId
    from moongate.api.route import RequestRule
    from moongate.attach.matches import Match
    from moongate.attach.rule_filters import RuleFilters
    from moongate.engine import Db
    from moongate.policies.effective import RuleSettings
    from moongate.xds.filters import ChainFilter

IN_ORDER: Final = 64
"""Up to so many virtual hosts stand in the reference's order: that of their first route. Above, it is by
shard: their order means nothing to Envoy, and sorting thousands for one that changed would cost more than it
tells."""

_RANK: Final = attrgetter("rank")


class Host(Struct, frozen=True):
    """One virtual host.

    Args:
        rank: of its first route; ``()`` when it has none.
        name: in xDS.
        body: the encoded entry of ``RouteConfiguration.virtual_hosts``; empty when it has no route.
        entries: what it was joined from.
    """

    rank: tuple[Any, ...]
    name: str
    body: bytes
    entries: tuple[RouteEntry, ...]


class Part(Struct, frozen=True):
    """The virtual hosts of one shard: as such, and joined."""

    hosts: tuple[Host, ...]
    body: bytes


@query
def route_entries_of(db: Db, listener: ListenerId, route: Ref) -> tuple[RouteEntry, ...]:
    """The Envoy routes of a route on a listener, one per rule, match and hostname."""
    found = get(db, RequestRoute, route)
    served = attached_hosts(db, route, listener)
    if found is None or not served:
        return ()
    told: list[RouteEntry] = []
    in_order = proxy(db, listener.gateway).spec.preserve_route_order
    for index, rule in enumerate(found.spec.rules):
        told += _rule_pieces(db, listener, found, index, rule, served, in_order=bool(in_order))
    return tuple(told)


@query
def closed_entries(db: Db, listener: ListenerId, route: Ref, host: str) -> tuple[RouteEntry, ...]:
    """The matches of a route under a hostname, each answered with 500: what it means cannot be built.

    It does not read whether the listener takes the route, as that may be what cannot be told.
    """
    resource = get(db, RequestRoute, route)
    if resource is None:
        return ()
    in_order = proxy(db, listener.gateway).spec.preserve_route_order
    entries: list[RouteEntry] = []
    for index, rule in enumerate(resource.spec.rules):
        for match in _plain_matches(resource, rule):
            message = Route(
                name=names.route(names.rule(route, index), match.index, host), match=matcher(match)
            )
            message.direct_response.status = 500
            rank = _rank(resource, index, match, in_order=bool(in_order))
            body = message_field(VirtualHost.ROUTES_FIELD_NUMBER, encode(message))
            entries.append(RouteEntry(rank, host, route, body))
    return tuple(entries)


@query
def host_entries(db: Db, listener: ListenerId, host: str, part: int) -> tuple[RouteEntry, ...]:
    """What one shard of routes has under a hostname, in force and sorted."""
    entries: list[RouteEntry] = []
    for route in routes_at(db, listener, host, part):
        built = route_entries_of.attempt(db, listener, route)
        if isinstance(built, Failed):
            # Whatever failed may be what keeps strangers out.
            built = closed_entries.attempt(db, listener, route, host)
        if isinstance(built, Failed):
            # Not even what it matches can be told. A rule that Envoy could not match on is left out as well.
            continue
        entries += in_force(db, listener, route, tuple(each for each in built if each.host == host))
    return tuple(sorted(entries, key=_RANK))


@query
def virtual_host(db: Db, listener: ListenerId, host: str) -> Host:
    """One virtual host, its routes in Gateway API precedence."""
    parts = [host_entries(db, listener, host, n) for n in shards_at(db, listener, host)]
    entries = parts[0] if len(parts) == 1 else tuple(sorted(chain.from_iterable(parts), key=_RANK))
    name = names.virtual_host(listener, host)
    if not entries and not reserved(db, listener, host):
        return Host((), name, b"", ())
    head = VirtualHost(name=name, domains=[host])
    if "virtual_host" in holders(db, listener.gateway):
        head.metadata.MergeFromString(
            metadata(listener.gateway, listener.name, gateway_annotations(db, listener.gateway))
        )
    body = encode(head) + b"".join([p.body for p in entries])
    entry = message_field(RouteConfiguration.VIRTUAL_HOSTS_FIELD_NUMBER, body)
    return Host(entries[0].rank if entries else (), name, entry, entries)


@query
def gateway_annotations(db: Db, gateway: Ref) -> tuple[tuple[str, str], ...]:
    """The annotations of a Gateway that metadata shows."""
    found = get(db, Gateway, gateway)
    return () if found is None else shown(found.metadata.annotations)


@query
def host_part(db: Db, listener: ListenerId, part: int) -> Part:
    """The virtual hosts of one shard."""
    told = [h for host in hosts(db, listener, part) if (h := virtual_host(db, listener, host)).body]
    return Part(tuple(told), b"".join([h.body for h in told]))


@query
def route_configuration(db: Db, gateway: Ref, name: str) -> XdsResource | None:
    """One route configuration of a fleet; ``None`` when there is none of that name."""
    table = next((t for t in route_configurations(db, gateway) if t.name == name), None)
    if table is None:
        return None
    body = [encode(_head(name))]
    for listener in table.members:
        parts = [host_part(db, listener, n) for n in range(SHARDS)]
        if sum(len(p.hosts) for p in parts) <= IN_ORDER:
            body += [h.body for h in sorted(chain.from_iterable(p.hosts for p in parts), key=_RANK)]
        else:
            body += [p.body for p in parts]
    return XdsResource.of(ROUTE, name, b"".join(body))


def _head(name: str) -> RouteConfiguration:
    return RouteConfiguration(name=name, ignore_port_in_host_matching=True)


def _rule_pieces(
    db: Db,
    listener: ListenerId,
    route: RequestRoute,
    index: int,
    rule: RequestRule,
    served: tuple[str, ...],
    *,
    in_order: bool,
) -> list[RouteEntry]:
    written = written_matches(route.KIND, rule)
    if unbuildable(written) is not None:
        return []
    ref = route.ref
    filters = rule_filters(db, ref, rule)
    destination = rule_destination(db, listener, ref, index)
    settings = effective_rule(db, listener, ref, rule)
    base, bound = _rule_route(db, listener, route.KIND, rule, filters, destination, settings)
    if base.typed_per_filter_config:
        # What it says to a filter means nothing where there is none: it fails with the filters of its chain.
        filters_of(db, listener, ref)
    of_rule = names.rule(ref, index)
    tail = _metadata(route, rule, settings) if "route" in holders(db, listener.gateway) else b""
    needs = destination.clusters() + of_policies(db, listener, ref, rule.name or "")
    told: list[RouteEntry] = []
    for match in matches(written, filters.matches, cors=filters.cors is not None):
        message = Route()
        message.CopyFrom(base)
        _finish(db, listener, message, filters, match)
        message.match.CopyFrom(matcher(match))
        rank = _rank(route, index, match, in_order=in_order)
        for host in served:
            message.name = names.route(of_rule, match.index, host, preflight=match.preflight)
            body = message_field(VirtualHost.ROUTES_FIELD_NUMBER, encode(message) + tail)
            if bound:
                body = _for_marked(message, bound, tail)
            told.append(RouteEntry(rank, host, ref, body, needs))
    return told


def _plain_matches(route: RequestRoute, rule: RequestRule) -> list[Match]:
    """What a rule matches on without its filters; nothing when Envoy could not match on it."""
    written = written_matches(route.KIND, rule)
    return matches(written) if unbuildable(written) is None else []


def _rank(route: RequestRoute, index: int, match: Match, *, in_order: bool) -> tuple[Any, ...]:
    place = (order(route.KIND), *route.age, index, match.index, match.preflight)
    return ((), *place) if in_order else (precedence(match), *place)


def _metadata(route: RequestRoute, rule: RequestRule, settings: RuleSettings) -> bytes:
    """The encoded field of an Envoy route that names its rule and the policies which shaped it."""
    shaped = tuple(policy for policy in settings.owners if policy.kind == BackendTrafficPolicy.KIND)
    described = metadata(route.ref, rule.name or "", shown(route.metadata.annotations), shaped)
    return message_field(Route.METADATA_FIELD_NUMBER, described)


def _rule_route(
    db: Db,
    listener: ListenerId,
    kind: str,
    rule: RequestRule,
    filters: RuleFilters,
    destination: Destination,
    settings: RuleSettings,
) -> tuple[Route, tuple[str, ...]]:
    """What all Envoy routes of a rule have in common: action, headers, timeouts, per-route filter config.

    With it come the names of the filters that the chain has to have for it.
    """
    message = Route()
    apply_headers(message, filters)
    lacking = db.read(missing(listener.gateway, table_of(db, listener))) or ()
    used: list[ChainFilter] = []
    for feature, effective in settings.features:
        if feature.http_filter is not None and (one := chain_filter(db, feature, effective)) is not None:
            config = feature.http_filter.route(db, effective)
            message.typed_per_filter_config[one.name].CopyFrom(packed(config))
            used.append(one)
    failed = settings.failed or listener_failed(db, listener)
    if failed or filters.failed or any(one.name in lacking for one in used):
        message.direct_response.status = 500
    elif filters.direct is not None:
        apply_direct_response(message, filters.direct)
    elif filters.redirect is not None:
        message.redirect.SetInParent()
    elif destination.status:
        message.direct_response.status = destination.status
    else:
        _forward(db, listener, kind, rule, message, filters, destination, settings)
    return message, tuple(one.name for one in used if one.bound)


def _for_marked(message: Route, bound: tuple[str, ...], tail: bytes) -> bytes:
    """The route for connections whose chain has its bound filters, and after it 500 for all others."""
    number = VirtualHost.ROUTES_FIELD_NUMBER
    marked, unmarked = Route(), Route(name=f"{message.name}/filter-missing", match=message.match)
    marked.CopyFrom(message)
    marked.match.filter_state.extend(has_mark(name) for name in bound)
    unmarked.direct_response.status = 500
    return message_field(number, encode(marked) + tail) + message_field(number, encode(unmarked))


def _forward(
    db: Db,
    listener: ListenerId,
    kind: str,
    rule: RequestRule,
    message: Route,
    filters: RuleFilters,
    destination: Destination,
    settings: RuleSettings,
) -> None:
    action = message.route
    _apply_destination(action, rule, destination)
    for protocol in route_kind(kind).upgrades:
        action.upgrade_configs.add(upgrade_type=protocol)
    weighted_clusters = dict(destination.mirrors)
    for mirror in filters.mirrors:
        if (key := weighted_clusters.get(mirror.index)) is not None:
            policy = action.request_mirror_policies.add(
                cluster=key.name, disable_shadow_host_suffix_append=True
            )
            weighted_cluster = policy.runtime_fraction.default_value
            if mirror.millionths is None:
                weighted_cluster.numerator, weighted_cluster.denominator = 100, weighted_cluster.HUNDRED
            else:
                weighted_cluster.numerator, weighted_cluster.denominator = (
                    mirror.millionths,
                    weighted_cluster.MILLION,
                )
    edit = RouteEdit(message, listener_facts(db, listener))
    for feature, effective in settings.features:
        if feature.route is not None:
            feature.route(edit, effective)


def _apply_destination(action: RouteAction, rule: RequestRule, destination: Destination) -> None:
    if not destination.weighted:
        action.cluster = destination.weighted_clusters[0].key.name
        return
    clusters = action.weighted_clusters.clusters
    if destination.unavailable:
        clusters.add(name=names.INVALID_CLUSTER).weight.value = destination.unavailable
    for weighted_cluster in destination.weighted_clusters:
        if not weighted_cluster.routable:
            continue
        entry = clusters.add(name=weighted_cluster.key.name)
        entry.weight.value = weighted_cluster.weight
        if weighted_cluster.backend < 0:
            continue
        given = rule.backend_refs[weighted_cluster.backend].filters
        add, remove = header_options(f.request_header_modifier for f in given if f.request_header_modifier)
        entry.request_headers_to_add.extend(add)
        entry.request_headers_to_remove.extend(remove)
        add, remove = header_options(f.response_header_modifier for f in given if f.response_header_modifier)
        entry.response_headers_to_add.extend(add)
        entry.response_headers_to_remove.extend(remove)
        for f in given:
            rewrite = rewrite_of(f)
            if rewrite is not None and rewrite.hostname is not None:
                entry.host_rewrite_literal = rewrite.hostname
    # Envoy answers one status for all that a missing cluster would have got.
    action.cluster_not_found_response_code = (
        RouteAction.SERVICE_UNAVAILABLE if destination.empty else RouteAction.INTERNAL_SERVER_ERROR
    )


def _finish(db: Db, listener: ListenerId, message: Route, filters: RuleFilters, match: Match) -> None:
    """What depends on the match: rewrites of its prefix."""
    if message.HasField("redirect") and filters.redirect is not None:
        message.redirect.CopyFrom(redirect_action(filters.redirect, match.path, _port(db, listener)))
    elif message.HasField("route") and filters.rewrite is not None:
        apply_rewrite(message.route, filters.rewrite, match.path)


@query
def _port(db: Db, listener: ListenerId) -> int:
    return next((a.port for a in attachable(db, listener.gateway) if a.id == listener), 0)
