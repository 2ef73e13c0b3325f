"""What the rate limit service is told: for each domain all its limits.

Theory of operation
===================
Each Envoy route comes with the limits that the service must know for it (``RouteEntry.limits``). They are
joined in three steps: those of a route on a listener, those of a shard of routes, by domain, and those of a
domain. So a changed route costs itself, its shard, and the join of the domains whose limits differ.

The domain of a policy may have routes on several Gateways, so a domain is no fleet's: what is told is the
union over all fleets. A limit is known by its domain and by the first entry of its descriptors; shared
limits come from each route that they are for, and are told once.

While no policy has global limits, nothing here reads a route.

Source: the rate limit service of Envoy, rls_conf.proto; Envoy Gateway's descriptors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from msgspec import Struct

from moongate.attach.envoy_listeners import http_groups
from moongate.attach.fleets import fleets, keeps_what_it_has
from moongate.attach.gateways import RATE_LIMIT_SERVICE
from moongate.attach.route_kinds import route_kind
from moongate.attach.routes import attached_in, route_shards
from moongate.attach.scopes import is_scoped
from moongate.engine import Contained, Failed, query
from moongate.features import FEATURES
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.rate_limits.rls_conf_pb2 import RateLimitConfig
from moongate.store import Index, find
from moongate.xds.rule_routes import route_entries_of
from moongate.xds.wire import RATE_LIMIT_CONFIG, Encoded, XdsResource, encode, message_field

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.base import FleetId, ListenerId, Ref
    from moongate.engine import Db
    from moongate.features.base import ServiceLimit

SERVICE: Final = RATE_LIMIT_SERVICE
"""The cell with where the service is: the path of its Unix socket, or ``host:port``."""

_Key: TypeAlias = "tuple[Ref, int]"
"""A shard: the owner of listeners, and the number of the shard among its routes."""


def _asking(policy: BackendTrafficPolicy) -> Iterator[tuple[str, Ref]]:
    of_kind = (f for f in FEATURES if f.limits is not None and f.kind == policy.KIND)
    if any(f.of(policy.spec) is not None for f in of_kind):
        yield "", policy.ref


LIMITING = Index("limiting", (BackendTrafficPolicy,), _asking)
""""" → the policies that may have global limits."""


class DomainPart(Encoded, frozen=True):
    """The limits of a domain that come from one shard, each by its first entry."""

    limits: tuple[tuple[str, bytes], ...]


@query
def limits_of(db: Db, listener: ListenerId, route: Ref) -> tuple[ServiceLimit, ...]:
    """The limits of a route on a listener, each once, sorted."""
    entries = route_entries_of(db, listener, route, is_scoped(db, listener))
    return tuple(sorted({limit for entry in entries for limit in entry.limits}))


@query
def limits_in(db: Db, owner: Ref, part: int) -> tuple[tuple[str, DomainPart], ...]:
    """The limits of one shard of routes, by domain, sorted."""
    calls = [
        (listener, route)
        for route, listeners in attached_in(db, owner, part).routes
        if route_kind(route.kind).matches is not None
        for listener in dict.fromkeys(listeners)
    ]
    domains: dict[str, dict[str, bytes]] = {}
    for call, limits in zip(calls, limits_of.attempt_each(db, calls), strict=True):
        kept = limits_of.last_good(db, *call) if isinstance(limits, Failed) else limits
        for limit in () if isinstance(kept, Failed) else kept:
            domains.setdefault(limit.domain, {}).setdefault(limit.key, limit.body)
    return tuple(
        (domain, DomainPart(tuple(sorted(limits.items())))) for domain, limits in sorted(domains.items())
    )


@query
def _domains_in(db: Db, owner: Ref, part: int) -> tuple[str, ...]:
    return tuple(domain for domain, _ in limits_in(db, owner, part))


@query
def _part_of(db: Db, domain: str, owner: Ref, part: int) -> DomainPart | None:
    return next((limits for name, limits in limits_in(db, owner, part) if name == domain), None)


@query
def _shards(db: Db, fleet: FleetId) -> tuple[_Key, ...]:
    """The shards of routes that the Envoys of a fleet serve."""
    owners = dict.fromkeys(member.owner for _, group in http_groups(db, fleet) for member in group.members)
    return tuple((owner, part) for owner in owners for part in route_shards(db, owner))


class _Domain(NamedTuple):
    name: str
    shards: tuple[_Key, ...]


@query
def _domains(db: Db) -> tuple[_Domain, ...]:
    """All domains, each with the shards that have limits of it, sorted."""
    if not find(db, LIMITING, ""):
        return ()
    shards = [shard for fleet in fleets(db) for shard in _shards(db, fleet)]
    of: dict[str, list[_Key]] = {}
    for shard, names in zip(shards, _domains_in.attempt_each(db, shards), strict=True):
        kept = _domains_in.last_good(db, *shard) if isinstance(names, Failed) else names
        if isinstance(kept, Failed):
            raise Contained(kept)
        for name in kept:
            of.setdefault(name, []).append(shard)
    return tuple(_Domain(name, tuple(shards)) for name, shards in sorted(of.items()))


class Domains(Struct, frozen=True):
    """The domains that have limits.

    Args:
        names: their names, sorted.
        growing: whether a fleet keeps its configuration, as its Gateways are rejected: it may still ask for
            domains that are not named any more.
    """

    names: tuple[str, ...]
    growing: bool


@query
def rate_limit_domains(db: Db) -> Domains:
    """All domains that have limits."""
    of = tuple(domain.name for domain in _domains(db))
    frozen = (keeps_what_it_has.attempt(db, fleet) is not False for fleet in fleets(db))
    return Domains(of, growing=bool(find(db, LIMITING, "")) and any(frozen))


@query
def _shards_of(db: Db, name: str) -> tuple[_Key, ...]:
    return next((domain.shards for domain in _domains(db) if domain.name == name), ())


@query
def rate_limit_config(db: Db, name: str) -> XdsResource | None:
    """What the service is told of a domain; ``None`` when it has no limits (any more)."""
    limits: dict[str, bytes] = {}
    for part in _part_of.each(db, [(name, *shard) for shard in _shards_of(db, name)]):
        for key, body in part.limits if part is not None else ():
            limits.setdefault(key, body)
    if not limits:
        return None
    head = encode(RateLimitConfig(name=name, domain=name))
    number: Any = RateLimitConfig.DESCRIPTORS_FIELD_NUMBER
    entries = (message_field(number, limits[key]) for key in sorted(limits))
    return XdsResource.of(RATE_LIMIT_CONFIG, name, head + b"".join(entries))
