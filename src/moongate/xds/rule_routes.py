"""The Envoy routes of one route of the Gateway API on one listener: one per rule, match and hostname.

Theory of operation
===================
The common part of a rule's Envoy routes is built once: destination, headers, per-route filter config,
timeouts. Each match of the rule gets a copy with its matcher and with the rewrites that depend on the match.
Each hostname gets a copy of that with its own name.

A rule answers 500 if its policies or filters cannot be built, or if its chain does not have its filters yet.
A rule with a regular expression that Envoy would refuse has no Envoy route.

What a rule says is in each copy, so a file of some kilobytes can ask for gigabytes. A rule whose Envoy routes
would take more than ``MOST_BYTES`` answers 500.

Source: Gateway API, HTTPRouteMatch (precedence); the reference's shapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from envoy.config.core.v3.base_pb2 import HeaderValue
from envoy.config.route.v3.route_components_pb2 import Route, RouteAction, VirtualHost
from msgspec import structs

from moongate import names
from moongate.api.route import RequestRoute
from moongate.attach.fleets import fleet_of
from moongate.attach.gateways import CLOSED, proxy
from moongate.attach.listeners import attachable
from moongate.attach.matches import matches, precedence, unbuildable
from moongate.attach.route_kinds import order, route_kind, written_matches
from moongate.attach.routes import attached_hosts
from moongate.attach.rule_filters import rewrite_of, rule_filters
from moongate.attach.scopes import has_scope, is_scoped
from moongate.engine import query
from moongate.features.base import MatchedRule, RouteEdit
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.policies.effective import effective_rule, without_clusters
from moongate.policies.http_listeners import http3_port, listener_facts, listener_failed
from moongate.store import get
from moongate.xds.destinations import rule_destination
from moongate.xds.dynamic_resolvers import GUARD, unguarded
from moongate.xds.filters import (
    AS_IT_STANDS,
    chain_filter,
    filters_of,
    forwarding_config,
    has_mark,
    is_dispensable,
    kind_filters,
    listener_filters,
    missing_on,
    route_config,
    spared,
    stable_chains,
)
from moongate.xds.matches import matcher
from moongate.xds.metadata import holders, metadata, shown
from moongate.xds.needed_resources import of_filters, of_policies
from moongate.xds.route_entries import RouteEntry
from moongate.xds.route_filters import (
    Origin,
    apply_direct_response,
    apply_headers,
    apply_rewrite,
    header_options,
    redirect_action,
    redirect_origin,
    without_request_port,
)
from moongate.xds.scoped_chains import HOST_HEADER, HOST_HEADERS, switched_on
from moongate.xds.statistics import route_stat_name
from moongate.xds.wire import encode, message_field, packed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from google.protobuf.any_pb2 import Any as AnyMessage

    from moongate.api.base import ListenerId, Ref
    from moongate.api.route import RequestRule
    from moongate.attach.matches import Match
    from moongate.attach.rule_filters import Mirror, RuleFilters
    from moongate.engine import Db
    from moongate.features.base import ListenerFacts, ServiceLimit
    from moongate.policies.effective import RuleSettings
    from moongate.xds.destinations import Destination
    from moongate.xds.filters import ChainFilter, Spared


MOST_BYTES: Final = 4 * 1024 * 1024
"""What the Envoy routes of one rule on one listener may take."""


class _ServedRule(NamedTuple):
    """A rule on one listener, with all inputs of its Envoy routes."""

    listener: ListenerId
    route: RequestRoute
    rule: RequestRule
    filters: RuleFilters
    destination: Destination
    settings: RuleSettings
    terms: _Terms
    scoped: bool


class _Terms(NamedTuple):
    """The inputs that all routes of a listener share.

    Args:
        in_order: whether rules stay in the order in which they are written.
        described: whether Envoy routes have metadata.
        absent: the names of the filters that the listener's chain should have but lacks.
        failed: whether the listener's own policy cannot be built, or may be one that cannot be read, or the
            chain lacks a filter of it.
        closed: the namespaces whose routes are closed for such a reason, and single routes.
        facts: values of the listener's policy that features of routes use; of filters of kinds of routes
            those that are off, as what is on for all of a listener is on in its chain.
        http3_port: the port at which clients reach the listener by HTTP/3; 0 if they do not.
    """

    in_order: bool
    described: bool
    absent: tuple[str, ...]
    failed: bool
    closed: frozenset[Ref | str]
    facts: ListenerFacts
    http3_port: int


@query
def _terms(db: Db, listener: ListenerId) -> _Terms:
    """The shared inputs in one value, because thousands of routes read it: each then has only one edge."""
    closed: frozenset[Ref | str] = db.read(CLOSED) or frozenset()
    absent = tuple(name for name, _ in missing_on(db, listener))
    facts = listener_facts(db, listener)
    return _Terms(
        in_order=_in_order(db, listener),
        described="route" in holders(db, fleet_of(db, listener.gateway)),
        absent=absent,
        failed=listener_failed(db, listener)
        or not closed.isdisjoint(("", *_above(listener)))
        or not listener_filters(db, listener).isdisjoint(absent),
        closed=closed,
        facts=structs.replace(facts, kind_filters=tuple(each for each in facts.kind_filters if not each[1])),
        http3_port=http3_port(db, listener),
    )


def _above(listener: ListenerId) -> tuple[Ref | str, ...]:
    """What is above the routes of a listener and may be closed: its owner, its Gateway, their namespaces."""
    return (listener.owner, listener.owner.namespace, listener.gateway, listener.gateway.namespace)


@query
def route_entries_of(db: Db, listener: ListenerId, route: Ref, scoped: bool) -> tuple[RouteEntry, ...]:
    """The Envoy routes of a route on a listener, one per rule, match and hostname.

    Args:
        db: what is read.
        listener: on which.
        route: of which.
        scoped: whether they are for a scoped table.
    """
    resource = get(db, RequestRoute, route)
    hosts = attached_hosts(db, route, listener)
    if resource is None or not hosts:
        return ()
    return tuple(
        entry
        for index in range(len(resource.spec.rules))
        for entry in _entries_within(db, listener, resource, index, hosts, scoped=scoped)
    )


@query
def closed_entries(
    db: Db, listener: ListenerId, route: Ref, host: str, scoped: bool
) -> tuple[RouteEntry, ...]:
    """The matches of a route under a hostname, each answered with 500, because the route cannot be built.

    This does not read whether the listener accepts the route, as that query may be the one that failed.
    """
    resource = get(db, RequestRoute, route)
    if resource is None:
        return ()
    return tuple(
        entry
        for index in range(len(resource.spec.rules))
        for entry in _closed_rule(db, listener, resource, index, (host,), scoped=scoped)
    )


@query
def excessive_rules(db: Db, listener: ListenerId, route: Ref) -> tuple[int, ...]:
    """The rules of a route that answer 500 because their Envoy routes would be too large, by index."""
    entries = route_entries_of(db, listener, route, is_scoped(db, listener))
    return tuple(dict.fromkeys(entry.excessive for entry in entries if entry.excessive is not None))


def _closed_rule(
    db: Db, listener: ListenerId, route: RequestRoute, index: int, hosts: tuple[str, ...], *, scoped: bool
) -> Iterator[RouteEntry]:
    written = written_matches(route.KIND, route.spec.rules[index])
    in_order = _in_order(db, listener)
    for match in matches(written) if unbuildable(written) is None else ():
        for host in hosts:
            name = names.route(names.rule(route.ref, index), match.index, host)
            message = Route(name=name, match=matcher(match))
            message.direct_response.status = 500
            if scoped:
                _look_at_host(message, own=has_scope(db, host))
            body = message_field(VirtualHost.ROUTES_FIELD_NUMBER, encode(message))
            yield RouteEntry(_rank(route, index, match, in_order=in_order), host, route.ref, body)


def _entries_within(
    db: Db, listener: ListenerId, route: RequestRoute, index: int, hosts: tuple[str, ...], *, scoped: bool
) -> Iterator[RouteEntry]:
    """The entries of a rule, which is closed where they are too large together."""
    entries: list[RouteEntry] = []
    size = 0
    for entry in _rule_entries(db, listener, route, index, hosts, scoped=scoped):
        entries.append(entry)
        size += len(entry.body)
        if size > MOST_BYTES:
            closed = _closed_rule(db, listener, route, index, hosts, scoped=scoped)
            return (each._replace(excessive=index) for each in closed)
    return iter(entries)


def _rule_entries(
    db: Db, listener: ListenerId, route: RequestRoute, index: int, hosts: tuple[str, ...], *, scoped: bool
) -> Iterator[RouteEntry]:
    rule, ref = route.spec.rules[index], route.ref
    written = written_matches(route.KIND, rule)
    if unbuildable(written) is not None:
        return
    filters, settings = rule_filters(db, route, index), effective_rule(db, listener, ref, rule)
    if filters.failed:
        settings = without_clusters(settings, ref)
    served = _ServedRule(
        listener,
        route,
        rule,
        filters,
        rule_destination(db, listener, ref, index),
        settings,
        _terms(db, listener),
        scoped,
    )
    base, bound = _common_route(db, served)
    if base.typed_per_filter_config:
        if scoped:
            base.metadata.MergeFrom(switched_on(base.typed_per_filter_config))
        # Per-route config without its filter has no effect, so a rule fails with the filters of its chain.
        filters_of(db, listener, ref)
    rule_name, in_order = names.rule(ref, index), served.terms.in_order
    tail = _metadata(served) if served.terms.described else b""
    needs = (
        *served.destination.needs(),
        *of_policies(db, listener, ref, rule.name or ""),
        *of_filters(db, listener, route, index),
    )
    for match in matches(written, served.filters.matches, cors=served.filters.cors is not None):
        message = Route()
        message.CopyFrom(base)
        _apply_match(db, served, message, match)
        rank = _rank(route, index, match, in_order=in_order)
        port = _well_known_port(db, served) if message.HasField("redirect") else 0
        for host in hosts:
            message.name = names.route(rule_name, match.index, host, preflight=match.preflight)
            at = MatchedRule(rule_name, match.path, message.name, names.listener(listener))
            _configure_for_match(db, served, message, at)
            forms = without_request_port(message, host, port) if port else (message,)
            for form in forms if scoped else ():
                _look_at_host(form, own=has_scope(db, host))
            limits = _limits(served, at) if message.HasField("route") else ()
            yield RouteEntry(
                rank, host, ref, _joined(forms, bound, tail, scoped=scoped), needs, limits=limits
            )


def _look_at_host(message: Route, *, own: bool) -> None:
    """Let matches on the Host look at where it is while Envoy looks for the route.

    Args:
        message: the route; also after this was done for another hostname.
        own: whether the hostname has a part of its own in the scoped table.
    """
    for header in message.match.headers:
        if header.name.lower() in HOST_HEADERS:
            header.name = ":authority" if own else HOST_HEADER


def _in_order(db: Db, listener: ListenerId) -> bool:
    """Whether rules stay in the order in which they are written."""
    return bool(proxy(db, listener.gateway).spec.preserve_route_order)


def _rank(route: RequestRoute, index: int, match: Match, *, in_order: bool) -> tuple[Any, ...]:
    place = (order(route.KIND), *route.age, index, match.index, match.preflight)
    return ((), *place) if in_order else (precedence(match), *place)


def _metadata(served: _ServedRule) -> bytes:
    """The encoded field of an Envoy route that names its rule and the policies which shaped it."""
    route, rule = served.route, served.rule
    shaped = tuple(policy for policy in served.settings.owners if policy.kind == BackendTrafficPolicy.KIND)
    described = metadata(route.ref, rule.name or "", shown(route.metadata.annotations), shaped)
    return message_field(Route.METADATA_FIELD_NUMBER, described)


def _common_route(db: Db, served: _ServedRule) -> tuple[Route, dict[str, Spared | None]]:
    """The common part of a rule's Envoy routes: action, headers, timeouts, per-route filter config.

    The second value has the names of the bound filters that it relies on, each with what it does where a
    connection's chain lacks it: ``None`` if no request may pass then.
    """
    filters, settings, terms = served.filters, served.settings, served.terms
    message = Route()
    apply_headers(message, filters)
    if terms.http3_port:
        there = f'h3=":{terms.http3_port}"; ma=86400'
        message.response_headers_to_add.add(header=HeaderValue(key="alt-svc", value=there))
    used: list[ChainFilter] = []
    bound: dict[str, Spared | None] = {}
    forwarding: dict[str, AnyMessage] = {}
    for feature, effective in settings.features:
        config, one = route_config(db, feature, effective), chain_filter(db, feature, effective)
        is_absent = one is not None and one.name in terms.absent and not one.bound
        if one is not None and is_absent and is_dispensable(db, served.listener, feature, effective, one):
            continue
        if one is not None and one.bound:
            bound[one.name] = spared(db, served.listener, feature, effective)
        if config is not None and one is not None:
            message.typed_per_filter_config[one.name].CopyFrom(packed(config))
            used.append(one)
        elif one is not None and (config := forwarding_config(feature, effective, terms.facts)) is not None:
            forwarding[one.name] = packed(config)
            used.append(one)
    switched_off = {name for name, _ in terms.facts.kind_filters}
    for one in kind_filters(db, served.route.KIND):
        if one.name in switched_off:
            continue
        if stable_chains(db):
            message.typed_per_filter_config[one.name].CopyFrom(packed(AS_IT_STANDS))
        used.append(one)
    of = (served.route.metadata.namespace, served.route.ref)
    failed = settings.failed or terms.failed or not terms.closed.isdisjoint(of)
    closed = any(one.name in terms.absent and bound.get(one.name) is None for one in used)
    if failed or filters.failed or closed:
        message.direct_response.status = 500
    elif filters.direct is not None:
        apply_direct_response(message, filters.direct)
    elif filters.redirect is not None:
        message.redirect.SetInParent()
    elif served.destination.status:
        message.direct_response.status = served.destination.status
    else:
        for name, config in forwarding.items():
            message.typed_per_filter_config[name].CopyFrom(config)
        _forward(served, message)
    return message, {one.name: bound[one.name] for one in used if one.bound}


def _configure_for_match(db: Db, served: _ServedRule, message: Route, rule: MatchedRule) -> None:
    """The per-route config of filters that depends on the match."""
    for feature, effective in served.settings.features:
        of_match = feature.http_filter.of_match if feature.http_filter is not None else None
        if of_match is None or (one := chain_filter(db, feature, effective)) is None:
            continue
        if one.name in message.typed_per_filter_config:
            message.typed_per_filter_config[one.name].CopyFrom(packed(of_match(effective, rule)))


def _limits(served: _ServedRule, rule: MatchedRule) -> tuple[ServiceLimit, ...]:
    """What the rate limit service must know for an Envoy route."""
    return tuple(
        limit
        for feature, effective in served.settings.features
        if feature.limits is not None
        for limit in feature.limits(effective, rule)
    )


def _joined(
    forms: tuple[Route, ...], bound: Mapping[str, Spared | None], tail: bytes, *, scoped: bool
) -> bytes:
    """The encoded routes of one match under one hostname.

    If the match has bound filters, connections whose chain lacks them do not meet its first routes. Further
    ones do without the filters that can be spared; without the others, the last one answers 500. The last
    route always has the match alone.
    """
    needed = [name for name, instead in bound.items() if instead is None]
    spare = {name: instead for name, instead in bound.items() if instead is not None}
    joined = [_marked(form, bound) for form in forms]
    if spare:
        joined += [_marked(_spared(form, spare, scoped=scoped), needed) for form in forms]
    number = VirtualHost.ROUTES_FIELD_NUMBER
    encoded = b"".join(message_field(number, encode(message) + tail) for message in joined)
    if not needed:
        return encoded
    unmarked = Route(name=f"{forms[-1].name}/filter-missing", match=forms[-1].match)
    unmarked.direct_response.status = 500
    return encoded + message_field(number, encode(unmarked))


def _marked(form: Route, bound: Collection[str]) -> Route:
    """A route for connections whose chain has some bound filters."""
    if not bound:
        return form
    message = Route()
    message.CopyFrom(form)
    message.match.filter_state.extend(has_mark(name) for name in bound)
    return message


def _spared(form: Route, spare: Mapping[str, Spared], *, scoped: bool) -> Route:
    """A route that does without some bound filters."""
    message = Route()
    message.CopyFrom(form)
    message.name = f"{form.name}/filter-spared"
    for name, instead in spare.items():
        message.typed_per_filter_config.pop(name, None)
        if instead.config:
            message.typed_per_filter_config[instead.name].ParseFromString(instead.config)
    if scoped:
        message.metadata.MergeFrom(switched_on(message.typed_per_filter_config))
    return message


def _forward(served: _ServedRule, message: Route) -> None:
    action = message.route
    _apply_destination(action, served.rule, served.destination)
    rewrite = served.filters.rewrite
    if served.destination.dynamic and rewrite is not None and rewrite.hostname is not None:
        message.typed_per_filter_config[GUARD].CopyFrom(packed(unguarded()))
    for protocol in route_kind(served.route.KIND).upgrades:
        action.upgrade_configs.add(upgrade_type=protocol)
    copies = dict(served.destination.mirrors)
    for mirror in served.filters.mirrors:
        if (key := copies.get(mirror.index)) is not None:
            _add_mirror(action, mirror, key.name)
    edit = RouteEdit(message, served.terms.facts)
    for feature, effective in served.settings.features:
        if feature.route is not None:
            feature.route(edit, effective)
        if feature.statistics is not None and (pattern := feature.statistics(effective.value)) is not None:
            message.stat_prefix = route_stat_name(pattern, served.route.ref, served.rule)


def _add_mirror(action: RouteAction, mirror: Mirror, cluster: str) -> None:
    policy = action.request_mirror_policies.add(cluster=cluster, disable_shadow_host_suffix_append=True)
    share = policy.runtime_fraction.default_value
    if mirror.millionths is None:
        share.numerator, share.denominator = 100, share.HUNDRED
    else:
        share.numerator, share.denominator = mirror.millionths, share.MILLION


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
        filters = rule.backend_refs[weighted_cluster.backend].filters
        requests = (f.request_header_modifier for f in filters if f.request_header_modifier is not None)
        responses = (f.response_header_modifier for f in filters if f.response_header_modifier is not None)
        add, remove = header_options(requests)
        entry.request_headers_to_add.extend(add)
        entry.request_headers_to_remove.extend(remove)
        add, remove = header_options(responses)
        entry.response_headers_to_add.extend(add)
        entry.response_headers_to_remove.extend(remove)
        for rewrite in map(rewrite_of, filters):
            if rewrite is not None and rewrite.hostname is not None:
                entry.host_rewrite_literal = rewrite.hostname
                if destination.dynamic:
                    entry.typed_per_filter_config[GUARD].CopyFrom(packed(unguarded()))
    # Envoy uses one status for all requests whose cluster does not exist.
    action.cluster_not_found_response_code = (
        RouteAction.INTERNAL_SERVER_ERROR
        if destination.unavailable_status == 500
        else RouteAction.SERVICE_UNAVAILABLE
    )


def _apply_match(db: Db, served: _ServedRule, message: Route, match: Match) -> None:
    """The part that depends on the match: the matcher, and rewrites of a prefix."""
    filters = served.filters
    if message.HasField("redirect") and filters.redirect is not None:
        message.redirect.CopyFrom(redirect_action(filters.redirect, match.path, _origin(db, served.listener)))
    elif message.HasField("route") and filters.rewrite is not None:
        apply_rewrite(message.route, filters.rewrite, match.path)
    tunnels = message.match.HasField("connect_matcher")
    message.match.CopyFrom(matcher(match))
    if tunnels:
        # The request for a tunnel has no path.
        message.match.connect_matcher.SetInParent()


def _well_known_port(db: Db, served: _ServedRule) -> int:
    """The port of the redirect of a rule if it is the well-known one of its scheme, else 0."""
    redirect = served.filters.redirect
    origin = redirect_origin(redirect, _origin(db, served.listener)) if redirect is not None else None
    return origin.port if origin is not None and origin.well_known else 0


@query
def _origin(db: Db, listener: ListenerId) -> Origin:
    """The scheme and port by which clients reach a listener."""
    at = next((each for each in attachable(db, listener.owner) if each.id == listener), None)
    if at is None:
        return Origin("http", 80)
    return Origin("https" if at.protocol in ("HTTPS", "TLS") else "http", at.port)
