"""What the routes of a fleet need: the keys of their clusters, and of the secrets of these."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from moongate.api.base import FleetId, ListenerId, Ref
from moongate.api.gateway import Gateway
from moongate.api.route import ConnectionRoute, RequestRule, Route
from moongate.attach.backends import reached_from
from moongate.attach.connections import own_hosts
from moongate.attach.fleets import fleet_of
from moongate.attach.gateways import OWN_CERTIFICATE
from moongate.attach.listeners import fleet_owners
from moongate.attach.routes import DEFAULTS, ROUTES, is_default, route_shards
from moongate.attach.rule_filters import extension_refs, rule_filters
from moongate.engine import Failed, query
from moongate.features.base import Effective, ExtraCluster
from moongate.policies.effective import extended, extra_resources, natives, rule_policies
from moongate.store import SHARDS, find_in, get
from moongate.xds.cluster_keys import CertificateSecret, PolicyCluster, PolicySecret, ResourceKey
from moongate.xds.connection_destinations import connection_cluster, connection_destination, connection_source
from moongate.xds.destinations import rule_destination, secrets_for
from moongate.xds.route_entries import kept_resources
from moongate.xds.served_listeners import first_gateway, listeners_serving, served_on

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from moongate.engine import Db
    from moongate.policies.effective import Settings


@query
def route_resources(db: Db, fleet: FleetId, route: Ref) -> tuple[ResourceKey, ...]:
    """The clusters and secrets that a route needs in a fleet, for all listeners and rules.

    They include the clusters and secrets of the last good versions that replace refused entries.
    """
    resource = get(db, Route, route)
    if resource is None:
        return ()
    serving = listeners_serving(db, fleet, resource)
    return tuple(dict.fromkeys(key for at in serving for key in _needed_on(db, fleet, at, resource)))


@query
def _resources_on(db: Db, fleet: FleetId, listener: ListenerId, route: Ref) -> tuple[ResourceKey, ...]:
    """What a route needs on one listener. It is asked only where that of all listeners is not known."""
    resource = get(db, Route, route)
    return () if resource is None else tuple(_needed_on(db, fleet, listener, resource))


def _known_resources(db: Db, fleet: FleetId, route: Ref) -> tuple[ResourceKey, ...]:
    """What a route needs on those listeners of which it is known; others may be of another Gateway."""
    serving = served_on.attempt(db, fleet, route)
    if isinstance(serving, Failed):
        return ()
    needed = (_resources_on.attempt(db, fleet, at, route) for at in serving)
    return tuple(dict.fromkeys(key for of in needed if not isinstance(of, Failed) for key in of))


def _needed_on(db: Db, fleet: FleetId, listener: ListenerId, route: Route) -> Iterator[ResourceKey]:
    """What a route needs on one of the listeners that serve it."""
    if isinstance(route, ConnectionRoute):
        source = connection_source(db, fleet, route.ref) if own_hosts(db, listener, route.ref) else None
        if source is not None:
            yield connection_cluster(db, fleet, listener, route.ref)
            yield from connection_destination(db, source.listener, route.ref).secrets
        return
    for index, rule in enumerate(route.spec.rules):
        yield from rule_destination(db, listener, route.ref, index).needs()
        yield from of_policies(db, listener, route.ref, rule.name or "")
        yield from of_filters(db, listener, route, index)
    yield from kept_resources(db, listener, route.ref)


def of_filters(db: Db, listener: ListenerId, route: Route, index: int) -> tuple[ResourceKey, ...]:
    """What the filters of a rule need that are features; nothing where the rule is closed because of one."""
    rule = route.spec.rules[index]
    own: Settings = tuple((f, Effective(value, route.ref)) for f, value in natives(rule))
    if isinstance(rule, RequestRule):
        filters = (*rule.filters, *(each for ref in rule.backend_refs for each in ref.filters))
        own += extended(db, extension_refs(filters), route.ref.namespace)
    if not any(f.clusters or f.secrets for f, _ in own) or rule_filters(db, route, index).failed:
        return ()
    fleet = fleet_of(db, listener.gateway)
    keys: list[ResourceKey] = []
    for feature, effective in own:
        if feature.clusters is not None:
            keys += (key for each in feature.clusters(db, effective) for key in _extra(db, fleet, each))
        if feature.secrets is not None:
            keys += (PolicySecret(each.name, fleet, each) for each in feature.secrets(db, effective))
    return tuple(dict.fromkeys(keys))


def of_policies(db: Db, listener: ListenerId, route: Ref, rule: str) -> tuple[ResourceKey, ...]:
    """What the policies of a rule need besides its destination."""
    fleet = fleet_of(db, listener.gateway)
    keys: list[ResourceKey] = []
    for each in extra_resources(db, rule_policies(db, listener, route, rule)):
        if isinstance(each, ExtraCluster):
            keys += _extra(db, fleet, each)
        else:
            keys.append(PolicySecret(each.name, fleet, each))
    return tuple(keys)


def _extra(db: Db, fleet: FleetId, each: ExtraCluster) -> Iterator[ResourceKey]:
    """A cluster that a feature needs, and what TLS to its backends needs."""
    yield PolicyCluster(each.name, fleet, each)
    if each.own_service and each.host:
        yield CertificateSecret(fleet, OWN_CERTIFICATE)
    gateway = first_gateway(db, fleet)
    for of in each.backends:
        yield from secrets_for(fleet, reached_from(db, gateway, of.target, False))


@query
def route_shards_of(db: Db, fleet: FleetId) -> tuple[int, ...]:
    """The shards in which a fleet's Gateways and ListenerSets have routes, sorted."""
    owners = fleet_owners(db, fleet)
    if len(owners) == 1:
        return route_shards(db, *owners)
    return tuple(sorted(_owners_by_shard(db, fleet)))


@query
def _owners_by_shard(db: Db, fleet: FleetId) -> Mapping[int, tuple[Ref, ...]]:
    """The Gateways and ListenerSets of a fleet that may have routes in a shard, by shard."""
    owners = fleet_owners(db, fleet)
    by_shard: dict[int, list[Ref]] = {}
    shards = route_shards.attempt_each(db, [(owner,) for owner in owners])
    for owner, known in zip(owners, shards, strict=True):
        for part in range(SHARDS) if isinstance(known, Failed) else known:
            by_shard.setdefault(part, []).append(owner)
    return {part: tuple(named) for part, named in by_shard.items()}


@query
def _owners_in(db: Db, fleet: FleetId, part: int) -> tuple[Ref, ...]:
    return _owners_by_shard(db, fleet).get(part, ())


class Needs(NamedTuple):
    """What a route needs in a fleet.

    Args:
        route: the route.
        keys: the clusters, and the secrets of policies.
        all_known: whether that is all. What the fleet has for the route besides then stays.
    """

    route: Ref
    keys: tuple[ResourceKey, ...]
    all_known: bool = True


@query
def resource_keys(db: Db, fleet: FleetId, part: int) -> tuple[Needs, ...]:
    """What each route of one shard needs in a fleet.

    Requests to a cluster that does not exist fail. So where a query failed that is about one listener, the
    others of the route have their clusters all the same.
    """
    owners = fleet_owners(db, fleet)
    if len(owners) > 1:
        # Few of many have a route in this shard.
        owners = _owners_in(db, fleet, part)
    routes = sorted({route for owner in owners for route in _routes_that_may_be_under(db, owner, part)})
    needed = route_resources.attempt_each(db, [(fleet, route) for route in routes])
    return tuple(
        Needs(route, _known_resources(db, fleet, route), all_known=False)
        if isinstance(keys, Failed)
        else Needs(route, keys)
        for route, keys in zip(routes, needed, strict=True)
    )


def _routes_that_may_be_under(db: Db, owner: Ref, part: int) -> Iterator[Ref]:
    """As ``routes_under``; and those without parentRefs of a Gateway of which nobody knows if it takes them.

    A route says itself which listeners take it.
    """
    by_default = owner.is_a(Gateway) and is_default.attempt(db, owner) is not False
    for parent in (owner, DEFAULTS) if by_default else (owner,):
        yield from find_in(db, ROUTES, parent, part)
