"""The HTTP filters of a listener's chain: those that some route on it uses, in the order of the table.

A filter that no route uses is not there, as in the reference; so the first use of a feature changes the
listener, and later ones do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter

from moongate.api.httproute import HTTPRoute
from moongate.attach.routes import ROUTES, attached_hosts
from moongate.engine import Failed, query
from moongate.features import FEATURES, cors
from moongate.features.base import Effective
from moongate.policies import POLICY_KINDS, effective_route_policy
from moongate.store import SHARDS, find, get
from moongate.xds.wire import encode, packed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.base import ListenerId, Ref
    from moongate.api.httproute import HTTPRouteRule
    from moongate.engine import Db
    from moongate.features.base import Feature

_ROUTE_POLICIES = tuple(kind.KIND for kind in POLICY_KINDS if kind.KIND != "ClientTrafficPolicy")


class Used(NamedTuple):
    """A filter that a route uses; sorts in the order of the chain.

    Args:
        order: position of the feature in the table.
        name: the instance.
        body: the encoded ``HttpFilter``.
    """

    order: int
    name: str
    body: bytes


@query
def http_filters(db: Db, members: tuple[ListenerId, ...]) -> tuple[bytes, ...]:
    """Encoded ``HttpFilter`` entries for listeners that share a connection manager, the router excluded."""
    used: dict[str, Used] = {}
    for listener in members:
        for part in range(SHARDS):
            for one in filters_in(db, listener, part):
                used.setdefault(one.name, one)
    return tuple(one.body for one in sorted(used.values()))


@query
def filters_in(db: Db, listener: ListenerId, part: int) -> tuple[Used, ...]:
    """The filters that the routes of one shard use on a listener, each once, sorted.

    A route that cannot be judged is left out; it has no filters, as it is not served.
    """
    used: dict[str, Used] = {}
    for route in find(db, ROUTES, (listener.gateway, part)):
        found = filters_of.attempt(db, listener, route)
        for one in () if isinstance(found, Failed) else found:
            used.setdefault(one.name, one)
    return tuple(sorted(used.values()))


@query
def filters_of(db: Db, listener: ListenerId, route: Ref) -> tuple[Used, ...]:
    """The filters that one route uses on a listener, sorted."""
    found = get(db, HTTPRoute, route)
    if found is None or not attached_hosts(db, route, listener):
        return ()
    used: dict[str, Used] = {}
    for rule in found.spec.rules:
        for feature, effective in rule_features(db, listener, route, rule):
            if (filter_ := feature.http_filter) is None:
                continue
            name = filter_.instance(effective.owner)
            if name not in used:
                message = HttpFilter(
                    name=name, typed_config=packed(filter_.chain(db, effective)), disabled=filter_.disabled
                )
                used[name] = Used(FEATURES.index(feature), name, encode(message))
    return tuple(sorted(used.values()))


def rule_features(
    db: Db, listener: ListenerId, route: Ref, rule: HTTPRouteRule
) -> Iterator[tuple[Feature[Any], Effective[Any]]]:
    """The features that hold for a rule, from its policies and its own filters, in the order of the table.

    A field with a fault is left out; what that means for the rule is for ``routes`` to say.
    """
    own_cors = next((f.cors for f in rule.filters if f.cors is not None), None)
    if own_cors is not None:
        yield cors.FEATURE, Effective(cors.from_filter(own_cors), route)
    for kind in _ROUTE_POLICIES:
        policy = effective_route_policy(db, kind, listener, route, rule.name or "")
        if policy is None:
            continue
        for feature, effective in policy.features():
            if feature is cors.FEATURE and own_cors is not None:
                continue
            if not policy.faults_of(feature):
                yield feature, effective
