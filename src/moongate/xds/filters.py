"""The HTTP filters of a listener's chain, in the order of the table of features.

Theory of operation
===================
As in Envoy Gateway, a chain has a filter while a route on it uses the filter; so the first use of a feature
changes the listener. A route and its chain then change at different times, and open connections keep the
chain with which they were accepted. Three rules make sure that no request passes without its filter:

* With *stable chains* (in the configuration that moongate ships) one disabled instance of each filter that
  routes can configure stands in every chain from the start. Nothing about the chain changes then.
* A filter that has to be configured in the chain is *bound* to it. With stable chains the chain marks its
  connections with the bound filters that it has (``mark``), and a route that relies on one matches only
  connections with that mark; a second route answers all others with 500. So the order in which Envoy gets
  listener and routes does not matter, nor whether it accepts both, nor the age of a connection.
  Some filters keep nobody out, such as one that compresses responses. Where a connection lacks only these,
  the second route serves it without them (``Spared``), unless the table is patched.
  If per-route config is too large to be copied to every route, for example an htpasswd of hundreds of users,
  and the chain can carry all of it, the filter is bound as well.
* A filter leaves a chain only after the routes that rely on it; until then it *lingers*. While a chain lacks
  a filter, routes that rely on it and cannot do without it answer 500 (``missing_on``). There are two
  possible causes: Envoy refused the listener (``chain_transitions`` writes that into cells), or Envoy refused
  the filter, and ``quarantine`` keeps it out of the listener.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.config.listener.v3.listener_components_pb2 import Filter
from envoy.config.route.v3.route_components_pb2 import FilterConfig
from envoy.extensions.filters.common.set_filter_state.v3.value_pb2 import FilterStateValue
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.extensions.filters.network.set_filter_state.v3.set_filter_state_pb2 import Config as SetFilterState
from envoy.type.matcher.v3.filter_state_pb2 import FilterStateMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.any_pb2 import Any as AnyMessage

from moongate import names
from moongate.api.route import Route
from moongate.attach.envoy_listeners import (
    TableId,
    chain_of,
    envoy_listener,
    has_patched_routes,
    http_groups,
    table_of,
)
from moongate.attach.fleets import fleet_of
from moongate.attach.gateways import config, fleet_proxy
from moongate.attach.route_kinds import CALL_STATS, KIND_FILTERS, route_kind
from moongate.attach.routes import attached_hosts, attached_in, route_shards
from moongate.engine import Contained, Failed, query
from moongate.features import FEATURES
from moongate.features.base import ChainPlace
from moongate.policies.effective import effective_policy, effective_rule
from moongate.policies.http_listeners import chain_facts, chain_policy
from moongate.store import get
from moongate.xds.fallbacks import ALL, kept_out
from moongate.xds.statistics import counts_calls
from moongate.xds.wire import LISTENER, encode, fingerprint, packed, sized, version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from google.protobuf.message import Message

    from moongate.api.base import FleetId, ListenerId, Ref
    from moongate.api.envoyproxy import FilterPosition
    from moongate.attach.route_kinds import KindFilter
    from moongate.engine import Db
    from moongate.features.base import Effective, Feature, ListenerFacts
    from moongate.features.base import HttpFilter as HttpFilterOf
    from moongate.xds.fallbacks import Fallback

LARGE: Final = 4 * 1024
"""Bytes of a filter's config from which on the chain has it, if it can, instead of each route.

An HTTPRoute has up to 2,048 Envoy routes, and a policy may hold for thousands of HTTPRoutes.
"""

MARK: Final = "moongate.filters"
"""The key of the filter state with the names of a connection's bound filters, each between two bars."""


AS_IT_STANDS: Final = FilterConfig(config=AnyMessage())
"""What a route says to a filter that is off in the chain, to have it as it is there."""


class ChainFilter(NamedTuple):
    """An HTTP filter of a chain; sorts in the order of the chain.

    Args:
        order: position of the feature in the table; filters of kinds of routes come after all of them.
        name: the instance; the key of its config on routes.
        body: the encoded ``HttpFilter``.
        bound: whether the chain carries a part of its config that routes rely on.
    """

    order: int
    name: str
    body: bytes
    bound: bool

    def is_a(self, type_: str) -> bool:
        """Whether it is an instance of one of Envoy's types of filters."""
        return self.name.startswith(type_)

    def __repr__(self) -> str:
        return sized(self, self._fields)


class Spared(NamedTuple):
    """What a route does where a connection's chain lacks a bound filter that requests may pass without.

    Args:
        name: the instance of the filter that stands in every chain.
        config: what the route says to it, packed and encoded; empty for nothing.
    """

    name: str
    config: bytes


def lingering(table: TableId) -> tuple[str, TableId]:
    """The cell with the filters that a chain keeps although no route needs them: a tuple, or absent."""
    return ("lingering-filters", table)


def lacking(table: TableId) -> tuple[str, TableId]:
    """The cell with the filters that an Envoy lacks because it refused the listener; or absent.

    Each name comes with Envoy's message about the refused listener.
    """
    return ("lacking-filters", table)


@query
def stable_chains(db: Db) -> bool:
    """Whether every chain has all filters, used or not."""
    return config(db).runtime_flags.on("StableFilterChains")


@query
def http_filters(db: Db, chain: str, members: tuple[ListenerId, ...]) -> tuple[ChainFilter, ...]:
    """The HTTP filters of the chain of some listeners, without the router, in the order of the chain.

    A filter that Envoy refuses is replaced by its last good version, or left out if there is none.
    """
    table = TableId(fleet_of(db, members[0].gateway), chain)
    return in_order(_served(db, table, members), _moves(db, table.fleet))


@query
def _moves(db: Db, fleet: FleetId) -> tuple[FilterPosition, ...]:
    """Which filters an EnvoyProxy moves to another place in the chains of a fleet."""
    return fleet_proxy(db, fleet).spec.filter_order


def in_order(filters: tuple[ChainFilter, ...], moves: tuple[FilterPosition, ...]) -> tuple[ChainFilter, ...]:
    """Filters in the order of the chain, after some moves, one after another.

    A move is of all instances of a type together, and has no effect where there is none of it, or none of the
    type before or after which they are to stand.
    """
    for move in moves:
        moved = [one for one in filters if one.is_a(move.name)]
        rest = [one for one in filters if not one.is_a(move.name)]
        goal = move.before if move.before is not None else move.after
        places = [n for n, one in enumerate(rest) if goal is not None and one.is_a(goal)]
        if moved and places:
            place = places[0] if move.before is not None else places[-1] + 1
            filters = (*rest[:place], *moved, *rest[place:])
    return filters


def _served(db: Db, table: TableId, members: tuple[ListenerId, ...]) -> tuple[ChainFilter, ...]:
    """The filters of a chain, those left out that Envoy refuses."""
    filters, out = _asked_for(db, table, members), _kept_out(db, table)
    if not out:
        return filters
    served: list[ChainFilter] = []
    for one in filters:
        fallback = out.get(version(one.body))
        if fallback is None:
            served.append(one)
        else:
            # What Envoy has in force may rely on it, until that is closed.
            served += [former for of, former in fallback.last_good or () if of == table.name]
    return tuple(served)


@query
def missing_on(db: Db, listener: ListenerId) -> tuple[tuple[str, str], ...]:
    """The filters that routes of a listener may rely on but some Envoy lacks; with its message, sorted.

    Either the quarantine keeps the filter out of the chain, or an Envoy has refused the listener.
    """
    table = table_of(db, listener)
    if table is None:
        return ()
    missing: dict[str, str] = dict(db.read(lacking(table)) or {})
    if (out := _kept_out(db, table)) and (chain := chain_of(db, table)) is not None:
        for one in _asked_for(db, table, chain[1]):
            if (fallback := out.get(version(one.body))) is not None:
                missing[one.name] = fallback.message
    return tuple(sorted(missing.items()))


def _asked_for(db: Db, table: TableId, members: tuple[ListenerId, ...]) -> tuple[ChainFilter, ...]:
    """The filters that a chain should have."""
    filters = {one.name: one for one in db.read(lingering(table)) or ()}
    filters |= {one.name: one for one in needed_filters(db, members)}
    if stable_chains(db):
        filters |= {one.name: one for some in _standing().values() for one in some}
    at = ChainPlace(names.listener(members[0]), chain_facts(db, members))
    for name, on in at.facts.kind_filters:
        if on:
            filters[name] = _switched_on(name)
        elif not stable_chains(db):
            filters.pop(name, None)
    filters |= {one.name: one for one in policy_filters(db, members)}
    return _counting(db, table.fleet, (_completed(db, one, at) for one in filters.values()))


def _completed(db: Db, one: ChainFilter, at: ChainPlace) -> ChainFilter:
    """A filter with the part of its config that depends on its chain."""
    http_filter = FEATURES[one.order].http_filter if one.order < len(FEATURES) else None
    if http_filter is None or http_filter.in_chain is None:
        return one
    message = HttpFilter.FromString(one.body)
    message.typed_config.CopyFrom(packed(http_filter.in_chain(db, at, message.typed_config)))
    return one._replace(body=encode(message))


@query
def policy_filters(db: Db, members: tuple[ListenerId, ...]) -> tuple[ChainFilter, ...]:
    """The filters that the policy of listeners that share a chain puts into it."""
    policy = chain_policy(db, members)
    return tuple(
        ChainFilter(FEATURES.index(feature), one.name, _encoded(one.name, chain, disabled=False), bound=False)
        for feature, effective in (policy.features() if policy is not None else ())
        if (one := feature.listener_filter) is not None and (chain := one.chain(effective.value)) is not None
    )


def listener_filters(db: Db, listener: ListenerId) -> frozenset[str]:
    """The names of the filters that a policy puts into the chain of a listener."""
    table = table_of(db, listener)
    chain = chain_of(db, table) if table is not None else None
    return frozenset(one.name for one in policy_filters(db, chain[1])) if chain is not None else frozenset()


def _counting(db: Db, fleet: FleetId, filters: Iterable[ChainFilter]) -> tuple[ChainFilter, ...]:
    """Filters of a chain, sorted, with or without the one that counts calls of gRPC.

    Routes that are made of calls bring it, unless the EnvoyProxy says that it counts all of them or none.
    """
    counts = counts_calls(db, fleet)
    if counts is None:
        return tuple(sorted(filters))
    others = (one for one in filters if one.name != CALL_STATS.name)
    return tuple(sorted((*others, *((_kind_filter(CALL_STATS, stable=False),) if counts else ()))))


def _kept_out(db: Db, table: TableId) -> Mapping[str, Fallback]:
    """The filters that the quarantine keeps out of all chains of a table's listener."""
    chain = chain_of(db, table)
    return kept_out(db, table.fleet, LISTENER, chain[0], ALL) if chain is not None else {}


def chains_with(
    db: Db, fleet: FleetId, listener: str, form: str
) -> tuple[str, tuple[ListenerId, ...]] | None:
    """The name of a filter that chains of a listener are to have, and whose chains these are.

    Args:
        db: what is read.
        fleet: whose listener.
        listener: its name.
        form: the version of the filter.
    """
    names: set[str] = set()
    members: list[ListenerId] = []
    envoy = envoy_listener(db, fleet, listener)
    groups = () if envoy is None else envoy.groups
    for group in (each for each in groups if each.has_table):
        filters = _asked_for(db, TableId(fleet, group.name), group.members)
        if having := {one.name for one in filters if version(one.body) == form}:
            names |= having
            members += group.members
    return (min(names), tuple(members)) if names else None


@query
def chain_filters(db: Db, fleet: FleetId) -> tuple[tuple[str, tuple[ChainFilter, ...]], ...]:
    """The filters that routes need in each HTTP chain of a fleet: ``(chain, filters)``."""
    needed: list[tuple[str, tuple[ChainFilter, ...]]] = []
    for _, group in http_groups(db, fleet):
        filters = needed_filters.last_good(db, group.members)
        if isinstance(filters, Failed):
            raise Contained(filters)
        needed.append((group.name, filters))
    return tuple(needed)


@query
def needed_filters(db: Db, members: tuple[ListenerId, ...]) -> tuple[ChainFilter, ...]:
    """The filters that some route on the listeners of a chain uses, sorted."""
    owners = dict.fromkeys(listener.owner for listener in members)
    shards = [(owner, part) for owner in owners for part in route_shards(db, owner)]
    own = frozenset(members)
    needed: list[tuple[ChainFilter, ...]] = []
    for shard, built in zip(shards, filters_in.attempt_each(db, shards), strict=True):
        kept = filters_in.last_good(db, *shard) if isinstance(built, Failed) else built
        if isinstance(kept, Failed):
            raise Contained(kept)  # Routes must not rely on filters that the chain may lack.
        needed += [of for listener, of in kept if listener in own]
    return _counting(db, fleet_of(db, members[0].gateway), _each_once(needed))


@query
def filters_in(db: Db, owner: Ref, part: int) -> tuple[tuple[ListenerId, tuple[ChainFilter, ...]], ...]:
    """The filters that the routes of one shard need on the listeners of an owner that need any, sorted.

    A route whose query failed is left out; it needs no filters, because it is not served.
    """
    attached = attached_in(db, owner, part).routes
    calls = [
        (listener, route)
        for route, listeners in attached
        if route_kind(route.kind).matches is not None
        for listener in dict.fromkeys(listeners)
    ]
    by_listener: dict[ListenerId, list[tuple[ChainFilter, ...]]] = {}
    for (listener, _), filters in zip(calls, filters_of.attempt_each(db, calls), strict=True):
        if filters and not isinstance(filters, Failed):
            by_listener.setdefault(listener, []).append(filters)
    return tuple((listener, _each_once(filters)) for listener, filters in sorted(by_listener.items()))


def _each_once(filters: Iterable[tuple[ChainFilter, ...]]) -> tuple[ChainFilter, ...]:
    """The filters of several sets, those of one name once, sorted."""
    by_name: dict[str, ChainFilter] = {}
    for some in filters:
        for one in some:
            by_name.setdefault(one.name, one)
    return tuple(sorted(by_name.values()))


@query
def filters_of(db: Db, listener: ListenerId, route: Ref) -> tuple[ChainFilter, ...]:
    """The filters that one route needs in the chain of a listener, sorted.

    Filters that every chain has are not included.
    """
    resource = get(db, Route, route)
    if resource is None or not attached_hosts(db, route, listener):
        return ()
    needed = {} if stable_chains(db) else {one.name: one for one in kind_filters(db, route.kind)}
    for rule in resource.spec.rules:
        for feature, effective in effective_rule(db, listener, route, rule).features:
            one = chain_filter(db, feature, effective)
            if one is not None and (one.bound or not stable_chains(db)):
                needed.setdefault(one.name, one)
    return tuple(sorted(needed.values()))


def kind_filters(db: Db, kind: str) -> tuple[ChainFilter, ...]:
    """The filters that a kind of routes brings, as they stand in the chain."""
    return _of_kind(kind, stable=stable_chains(db))


@cache
def _of_kind(kind: str, *, stable: bool) -> tuple[ChainFilter, ...]:
    return tuple(_kind_filter(one, stable=stable) for one in route_kind(kind).filters)


def _switched_on(name: str) -> ChainFilter:
    """A filter of a kind of routes, for all requests of a listener."""
    one = next(each for each in KIND_FILTERS if each.name == name)
    return _kind_filter(one, stable=False)


def _kind_filter(one: KindFilter, *, stable: bool) -> ChainFilter:
    """A filter of a kind of routes; it comes after those of features."""
    order = len(FEATURES) + KIND_FILTERS.index(one)
    body = _encoded(one.name, one.stable() if stable else one.chain(), disabled=stable)
    return ChainFilter(order, one.name, body, bound=False)


def chain_filter(db: Db, feature: Feature[Any], effective: Effective[Any]) -> ChainFilter | None:
    """The filter that a feature needs in the chain; ``None`` when it is none."""
    http_filter = feature.http_filter
    if http_filter is None or (http_filter.of_clusters and stable_chains(db)):
        return None
    order = FEATURES.index(feature)
    if not stable_chains(db):
        chain = http_filter.chain(db, effective)
        named = http_filter.named
        name = named(effective) if named is not None else http_filter.instance(effective.owner)
        if http_filter.per_config:
            name = f"{name}/{fingerprint(encode(chain))}"
        body = _encoded(name, chain, disabled=http_filter.disabled)
        return ChainFilter(order, name, body, bound=False)
    if http_filter.stable is None:
        return _bound(order, http_filter.instance(effective.owner), http_filter.chain(db, effective))
    if (large := _large(db, feature, effective)) is not None:
        return large
    chain = http_filter.stable(effective.value)
    for standing in _standing()[order]:
        if _encoded(standing.name, chain, disabled=True) == standing.body:
            return standing
    return _bound(order, http_filter.stem, chain)


def route_config(db: Db, feature: Feature[Any], effective: Effective[Any]) -> Message | None:
    """What each route says to the filter of a feature; ``None`` when it says nothing."""
    if feature.http_filter is None or feature.http_filter.forwarding is not None:
        return None
    if stable_chains(db) and _large(db, feature, effective) is not None:
        return AS_IT_STANDS
    return feature.http_filter.route(db, effective)


def spared(db: Db, listener: ListenerId, feature: Feature[Any], effective: Effective[Any]) -> Spared | None:
    """What a route does without the bound filter of a feature; ``None`` if no request passes without it."""
    http_filter = feature.http_filter
    # A patch may say at one Envoy route who may pass, and is written for that one alone.
    if http_filter is None or http_filter.instead is None or has_patched_routes(db, listener):
        return None
    if http_filter.chain_says_all:
        return _spared_of(db, FEATURES.index(feature), *effective.owners)
    return _spared(http_filter, http_filter.instead(db, effective))


def is_dispensable(
    db: Db, listener: ListenerId, feature: Feature[Any], effective: Effective[Any], one: ChainFilter
) -> bool:
    """Whether requests pass where the chain lacks the filter of a feature.

    If no other instance of it stands in the chain, they do only if nothing is to be said to that.
    """
    if one.bound:
        return spared(db, listener, feature, effective) is not None
    http_filter = feature.http_filter
    return (
        http_filter is not None
        and http_filter.instead is not None
        and not has_patched_routes(db, listener)
        and http_filter.instead(db, effective) is None
    )


@query
def _spared_of(db: Db, order: int, owner: Ref, parent: Ref | None) -> Spared | None:
    """As ``spared``, once for all routes of a policy, which may have thousands of settings."""
    policy = effective_policy(db, owner, parent, None)
    feature: Feature[Any] = FEATURES[order]
    effective, http_filter = policy.effective(feature) if policy is not None else None, feature.http_filter
    if effective is None or http_filter is None or http_filter.instead is None:
        return None
    return _spared(http_filter, http_filter.instead(db, effective))


def _spared(http_filter: HttpFilterOf[Any], config: Message | None) -> Spared:
    small = config is not None and config.ByteSize() < LARGE
    return Spared(http_filter.stem, encode(packed(config)) if config is not None and small else b"")


def forwarding_config(
    feature: Feature[Any], effective: Effective[Any], facts: ListenerFacts
) -> Message | None:
    """What a route says to the filter of a feature only if it forwards to a backend; ``None`` for nothing."""
    forwarding = feature.http_filter.forwarding if feature.http_filter is not None else None
    return forwarding(effective, facts) if forwarding is not None else None


def _large(db: Db, feature: Feature[Any], effective: Effective[Any]) -> ChainFilter | None:
    """The bound filter with all that a policy says, if that is too large for each route; or ``None``."""
    if feature.http_filter is None or not feature.http_filter.chain_says_all:
        return None
    return _large_of(db, FEATURES.index(feature), *effective.owners)


@query
def _large_of(db: Db, order: int, owner: Ref, parent: Ref | None) -> ChainFilter | None:
    """As ``_large``, once for all routes of a policy, which share the answer."""
    policy = effective_policy(db, owner, parent, None)
    feature: Feature[Any] = FEATURES[order]
    effective = policy.effective(feature) if policy is not None else None
    if effective is None or feature.http_filter is None:
        return None
    if feature.http_filter.route(db, effective).ByteSize() < LARGE:
        return None
    return _bound(order, feature.http_filter.stem, feature.http_filter.chain(db, effective))


def _bound(order: int, stem: str, chain: Message) -> ChainFilter:
    # The name has a hash of the config, so a filter is added or removed but never replaced while a route uses
    # it. Users choose the config, and two configs with one name would share the filter.
    name = f"{stem}/{fingerprint(encode(chain))}"
    return ChainFilter(order, name, _encoded(name, chain, disabled=True), bound=True)


def _encoded(name: str, chain: Message, *, disabled: bool) -> bytes:
    return encode(HttpFilter(name=name, typed_config=packed(chain), disabled=disabled))


@cache
def _standing() -> Mapping[int, tuple[ChainFilter, ...]]:
    """The filters of every stable chain, by their order in it."""
    standing: dict[int, tuple[ChainFilter, ...]] = {}
    for order, one in enumerate(feature.http_filter for feature in FEATURES):
        if one is not None and one.stable is not None:
            first = ChainFilter(
                order, one.stem, _encoded(one.stem, one.stable(None), disabled=True), bound=False
            )
            others = (_bound(order, one.stem, one.stable(value)) for value in one.forms)
            standing[order] = (first, *(other._replace(bound=False) for other in others))
    of_kinds = (_kind_filter(one, stable=True) for one in KIND_FILTERS)
    return standing | {one.order: (one,) for one in of_kinds}


def mark(filters: tuple[ChainFilter, ...]) -> Filter | None:
    """The network filter that marks connections with their chain's bound filters; ``None`` if it has none."""
    bound = [one.name for one in filters if one.bound]
    if not bound:
        return None
    value = FilterStateValue(
        object_key=MARK,
        factory_key="envoy.string",
        format_string=SubstitutionFormatString(
            text_format_source=DataSource(inline_string=f"|{'|'.join(bound)}|")
        ),
    )
    return Filter(name=MARK, typed_config=packed(SetFilterState(on_new_connection=[value])))


def has_mark(name: str) -> FilterStateMatcher:
    """The match on the mark of a connection, for a route that relies on a bound filter."""
    return FilterStateMatcher(key=MARK, string_match=StringMatcher(contains=f"|{name}|"))
