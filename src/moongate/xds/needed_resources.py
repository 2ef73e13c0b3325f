"""What the routes of a fleet need: the keys of their clusters, and of the secrets of these."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.api.base import FleetId, ListenerId, Ref
from moongate.api.route import ConnectionRoute, RequestRule, Route
from moongate.attach.backends import reached_from
from moongate.attach.connections import own_hosts
from moongate.attach.fleets import fleet_of
from moongate.attach.gateways import OWN_CERTIFICATE
from moongate.attach.listeners import fleet_owners
from moongate.attach.routes import route_shards, routes_under
from moongate.attach.rule_filters import extension_refs, rule_filters
from moongate.engine import Failed, query
from moongate.features.base import Effective, ExtraCluster
from moongate.policies.effective import extended, extra_resources, natives, rule_policies
from moongate.store import SHARDS, get
from moongate.xds.cluster_keys import CertificateSecret, PolicyCluster, PolicySecret, ResourceKey
from moongate.xds.connection_destinations import connection_cluster, connection_destination, connection_source
from moongate.xds.destinations import rule_destination, secrets_for
from moongate.xds.route_entries import kept_resources
from moongate.xds.served_listeners import first_gateway, listeners_serving

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
    keys: dict[ResourceKey, None] = {}
    if isinstance(resource, ConnectionRoute):
        serving = [at for at in listeners_serving(db, fleet, resource) if own_hosts(db, at, route)]
        source = connection_source(db, fleet, route)
        if not serving or source is None:
            return ()
        keys.update(dict.fromkeys(connection_cluster(db, fleet, at, route) for at in serving))
        keys.update(dict.fromkeys(connection_destination(db, source.listener, route).secrets))
        return tuple(keys)
    for listener in listeners_serving(db, fleet, resource):
        for index, rule in enumerate(resource.spec.rules):
            keys.update(dict.fromkeys(rule_destination(db, listener, route, index).needs()))
            keys.update(dict.fromkeys(of_policies(db, listener, route, rule.name or "")))
            keys.update(dict.fromkeys(of_filters(db, listener, resource, index)))
        keys.update(dict.fromkeys(kept_resources(db, listener, route)))
    return tuple(keys)


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


@query
def resource_keys(
    db: Db, fleet: FleetId, part: int
) -> tuple[tuple[Ref, tuple[ResourceKey, ...] | None], ...]:
    """The clusters, and the secrets of policies, that each route of one shard needs in a fleet.

    The value is ``None`` for a route whose query failed: the fleet then keeps the route's clusters and
    secrets. Requests to a cluster that does not exist fail.
    """
    owners = fleet_owners(db, fleet)
    if len(owners) > 1:
        # Few of many have a route in this shard.
        owners = _owners_in(db, fleet, part)
    routes = sorted({route for owner in owners for route in routes_under(db, owner, part)})
    needed = route_resources.attempt_each(db, [(fleet, route) for route in routes])
    return tuple(
        (route, None if isinstance(keys, Failed) else keys)
        for route, keys in zip(routes, needed, strict=True)
    )
