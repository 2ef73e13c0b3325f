"""Which backends a cluster has, by its key, and how it reaches them.

A cluster and its load assignment are built apart, of the same members. All clusters of a rule have those of
one listener (``listener_of``), as all listeners of the route share them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from moongate import names
from moongate.api.route import Route
from moongate.attach.backends import Backend, Target, backend, named, reached_from, target
from moongate.attach.extension_filters import extension
from moongate.attach.route_kinds import route_kind
from moongate.engine import query
from moongate.store import get
from moongate.xds import sinks
from moongate.xds.cluster_keys import (
    BackendCluster,
    MirrorCluster,
    PolicyCluster,
    RuleCluster,
    SinkCluster,
    StableRule,
)
from moongate.xds.connection_destinations import (
    connection_destination,
    connection_section,
    connection_source,
    goes_to_server_names,
)
from moongate.xds.destinations import index_of, rule_to_service, to_service
from moongate.xds.served_listeners import first_gateway, served_on

if TYPE_CHECKING:
    from moongate.api.base import ListenerId, Ref
    from moongate.engine import Db
    from moongate.xds.cluster_keys import ClusterKey


OF_CONNECTIONS: Final = (names.ALL_RULES, names.OF_SERVER_NAMES)
"""What the key of a cluster has in place of a rule, if it is that of a route of connections."""


class Member(NamedTuple):
    """One backend of a cluster.

    Args:
        target: the backend.
        locality: the name of its locality.
        weight: that of the locality.
        to_service: whether requests go to the Service's cluster IP.
        fallback: whether it is used only if the others are unhealthy, whatever the backend itself says.
    """

    target: Target
    locality: str
    weight: int
    to_service: bool
    fallback: bool = False


@query
def rule_members(db: Db, route: Ref, rule: int) -> tuple[tuple[Target, int], ...]:
    """The backends of a rule with their weights. A rule's clusters depend on no other part of its route."""
    resource = get(db, Route, route)
    if resource is None or rule >= len(resource.spec.rules):
        return ()
    return tuple((target(ref, route.namespace), ref.weight) for ref in resource.spec.rules[rule].backend_refs)


@query
def weights(db: Db, route: Ref, rule: StableRule) -> tuple[int, ...]:
    """The weights of a rule's members; none when the rule is gone."""
    resource = get(db, Route, route)
    index = None if resource is None else index_of(resource, rule)
    if resource is None or index is None:
        return ()
    refs = resource.spec.rules[index].backend_refs
    return tuple(refs[n].weight for n, _ in rule.members)


@query
def _rule_name(db: Db, route: Ref, rule: int) -> str:
    resource = get(db, Route, route)
    if resource is None or rule >= len(resource.spec.rules):
        return ""
    if rule in OF_CONNECTIONS:
        return connection_section(resource)
    return resource.spec.rules[rule].name or ""


def section_of(db: Db, key: RuleCluster | MirrorCluster) -> str:
    """The name of the rule that a cluster belongs to."""
    return key.rule.name if isinstance(key.rule, StableRule) else _rule_name(db, key.route, key.rule)


def members_of(db: Db, key: ClusterKey) -> list[Member] | None:
    """The backends of a cluster; ``None`` if its rule or backend is gone."""
    if isinstance(key, RuleCluster) and is_of_connections(key):
        return _connection_members(db, key)
    if isinstance(key, RuleCluster) and any(
        extension(db, ref, key.route.namespace).faulty for ref in key.extensions
    ):
        # Routes may still use it for a moment, and no request may lack what the filter adds.
        return None
    return request_members(db, key) or None


def is_of_connections(key: ClusterKey) -> bool:
    """Whether a cluster is that of a route of connections."""
    return isinstance(key, RuleCluster) and key.rule in OF_CONNECTIONS


def _connection_members(db: Db, key: RuleCluster) -> list[Member] | None:
    """The backends that connections of a route go to; there may be none that can be used."""
    listener = listener_of(db, key)
    if listener is None:
        return None
    routed = rule_to_service(db, listener, key.route, section_of(db, key))
    return [
        Member(at, names.backend(key.name, n), weight, routed)
        for n, at, weight in connection_destination(db, listener, key.route).members
    ]


def request_members(db: Db, key: ClusterKey) -> list[Member]:
    """The backends of a cluster to which requests go; none if its rule is gone."""
    if isinstance(key, BackendCluster):
        return [Member(key.target, key.name, 1, to_service(db, key.fleet.owner))]
    if isinstance(key, PolicyCluster):
        return [
            Member(each.target, names.backend(key.name, n), each.weight, False, each.fallback)
            for n, each in enumerate(key.made_of.backends)
            if each.weight
        ]
    if isinstance(key, SinkCluster):
        # All backends of a sink have the name of one locality, as in the reference.
        name, routed = names.backend(key.name, -1), sinks.to_service(db, key.fleet)
        return [
            Member(target(ref, ""), name, ref.weight, routed, bool(ref.fallback))
            for ref in sinks.permitted(db, key.fleet, key.name)
            if ref.weight
        ]
    listener = listener_of(db, key)
    if listener is None:
        return []
    routed = rule_to_service(db, listener, key.route, section_of(db, key))
    if isinstance(key, MirrorCluster):
        return [Member(key.target, names.backend(key.name, -1), 1, routed)]
    own = key.name.removesuffix(names.backend("", key.backend))
    return [
        Member(at, names.backend(own, n), weight, routed)
        for n, at, weight in _weighted(db, key)
        if weight and key.backend in (-1, n)
    ]


def _weighted(db: Db, key: RuleCluster) -> list[tuple[int, Target, int]]:
    """The backends of a rule's cluster, each with the index of its backendRef and its weight."""
    if not isinstance(key.rule, StableRule):
        return [(n, at, weight) for n, (at, weight) in enumerate(rule_members(db, key.route, key.rule))]
    members = key.rule.members
    # A single locality gets all requests, whatever its weight is.
    shares = (1,) if len(members) == 1 else weights(db, key.route, key.rule)
    return [(n, at, weight) for (n, at), weight in zip(members, shares, strict=False)]


def backends_of(db: Db, key: ClusterKey, members: list[Member]) -> list[Backend]:
    """The backends of a cluster as it speaks to them, in the order of its members."""
    backends = [_spoken_to(key, reached_by(db, key, at, routed)) for at, _, _, routed, _ in members]
    if isinstance(key, SinkCluster):
        return [sinks.with_hostname(db, each.target, of) for each, of in zip(members, backends, strict=True)]
    if len(backends) > 1:
        return [named(each.target, of) for each, of in zip(members, backends, strict=True)]
    return backends


def reached_by(db: Db, key: ClusterKey, at: Target, routed: bool) -> Backend:
    """A backend as a cluster reaches it: without TLS of our own where clients speak it to the backend."""
    if isinstance(key, RuleCluster) and key.rule == names.OF_SERVER_NAMES:
        return backend(db, at, routed)
    if isinstance(key, RuleCluster) and key.rule == names.ALL_RULES:
        source = connection_source(db, key.fleet, key.route)
        if source is None or source.passes_through:
            return backend(db, at, routed)
    of_rule = reached_from(db, _gateway(db, key), at, routed)
    return of_rule if isinstance(key, RuleCluster) else named(at, of_rule)


def _gateway(db: Db, key: ClusterKey) -> Ref:
    """The Gateway whose certificate a cluster shows to its backends."""
    if isinstance(key, RuleCluster | MirrorCluster):
        listener = listener_of(db, key)
        if listener is not None:
            return listener.gateway
    return first_gateway(db, key.fleet)


def listener_of(db: Db, key: RuleCluster | MirrorCluster) -> ListenerId | None:
    """The listener whose policies a cluster of a route has."""
    listeners = served_on(db, key.fleet, key.route)
    if key.rule == names.OF_SERVER_NAMES:
        return next((at for at in listeners if goes_to_server_names(db, at, key.route)), None)
    if key.rule == names.ALL_RULES:
        source = connection_source(db, key.fleet, key.route)
        if source is None or goes_to_server_names(db, source.listener, key.route):
            return None
        return source.listener
    return key.listener if key.listener in listeners else next(iter(listeners), None)


def _spoken_to(key: ClusterKey, of: Backend) -> Backend:
    """A backend with the protocol that the requests of a cluster ask for."""
    match key:
        case BackendCluster():
            return of if of.protocol == key.protocol else of.speaking(key.protocol)
        case RuleCluster() | MirrorCluster():
            return of.speaking(route_kind(key.route.kind).upstream)
        case PolicyCluster():
            return of.speaking("HTTP2" if key.made_of.http2 else None)
        case SinkCluster():
            return of
