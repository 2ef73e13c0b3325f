"""The status of a BackendTLSPolicy: where it is in force, and what is wrong with its CAs.

Theory of operation
===================
A policy targets backends, and its *ancestors* are the parents of the routes that send requests there: they
are found by an index from backends to routes, in shards, as thousands of routes may send to one backend. So a
route that comes or goes re-runs one small part.

Rules
=====
1. A policy of which no route of ours needs anything has no status.
2. Of two policies for the same port, or for the same backend as a whole, the older one is in force. The other
   says so under the ancestors of the older one.
3. CAs that cannot be used are a fault for all ancestors: ``NoValidCACertificate``.

Source: Gateway API, ``BackendTLSPolicy`` and GEP-1897; the reference's reasons and limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from moongate.api.backendtlspolicy import BackendTLSPolicy
from moongate.api.base import GATEWAY_GROUP, Ref
from moongate.api.gateway import Gateway
from moongate.api.httproute import HTTPRouteFilter
from moongate.api.listenerset import ListenerSet
from moongate.api.route import RequestRule, Route
from moongate.api.shared import ParentReference
from moongate.attach.backend_tls import (
    INVALID,
    INVALID_BACKEND_TLS,
    authorities_problem,
    authorities_refusal,
    authorities_source,
    policy_of,
)
from moongate.attach.backends import Target, backend, kind_problem, section_of, target
from moongate.attach.fleets import fleet_of
from moongate.attach.gateways import controller_name, rejection
from moongate.attach.grants import granted
from moongate.attach.listener_sets import gateway_of
from moongate.attach.policies import named, winner
from moongate.attach.route_kinds import ROUTE_TYPES
from moongate.attach.routes import attachments
from moongate.engine import query
from moongate.problem import Problem
from moongate.status.conditions import condition, summary
from moongate.status.policies import AncestorStatus, PolicyStatus, cut
from moongate.store import PartedIndex, find_in, get, parts, shard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.base import Condition
    from moongate.engine import Db


_CLOSED: Final = "Until this is fixed, no request is sent to its targets."


class _Ancestor(NamedTuple):
    """The parent of a route, as it is written; sorts like the ancestors of other policies."""

    namespace: str
    name: str
    section: str
    port: int
    kind: str
    group: str


def _by_backend(route: Route) -> Iterator[tuple[Ref, int, Ref]]:
    ref = route.ref
    for at in dict.fromkeys(each.ref for each in _targets(route)):
        yield at, shard(str(ref)), ref


USERS: PartedIndex[Route, int, Ref] = PartedIndex("backend-users", ROUTE_TYPES, _by_backend)
"""Backend; shard of the route → routes that send or copy requests to it."""


@query
def backend_tls_status(db: Db, policy: Ref) -> PolicyStatus | None:
    """The status of a BackendTLSPolicy; ``None`` if no route of ours needs anything of it."""
    resource = get(db, BackendTLSPolicy, policy)
    if resource is None:
        return None
    generation, name = resource.metadata.generation, controller_name(db)
    problem = authorities_problem(db, policy)
    if problem is not None:
        problem = problem.saying(_CLOSED)
    conditions: dict[_Ancestor, dict[str, Condition]] = {
        at: {each.type: each for each in _conditions(problem or _refused(db, policy, at), generation)}
        for at in _ancestors(db, policy)
    }
    for older, message in _conflicts(db, policy).items():
        refused = condition("Accepted", "False", "Conflicted", message, generation)
        for ancestor in _ancestors(db, older):
            conditions.setdefault(ancestor, {})["Accepted"] = refused
    ancestors = [
        AncestorStatus(
            ancestor_ref=ParentReference(
                group=at.group,
                kind=at.kind,
                namespace=at.namespace,
                name=at.name,
                section_name=at.section or None,
                port=at.port or None,
            ),
            controller_name=name,
            conditions=tuple(by_type.values()),
        )
        for at, by_type in sorted(conditions.items())
    ]
    return PolicyStatus(ancestors=tuple(cut(ancestors, generation))) if ancestors else None


@query
def ancestors_in(db: Db, policy: Ref, at: Ref, part: int) -> tuple[_Ancestor, ...]:
    """The parents of those routes in one shard that send to a backend under a policy, sorted."""
    ancestors: set[_Ancestor] = set()
    for route in find_in(db, USERS, at, part):
        if not any(each.ref == at and _is_under(db, policy, route, each) for each in _sends_to(db, route)):
            continue
        for attachment in attachments(db, route):
            if attachment.problem is None and rejection(db, attachment.gateway) is None:
                parent = attachment.parent
                namespace = parent.namespace or route.namespace
                section, port = parent.section_name or "", parent.port or 0
                ancestors.add(_Ancestor(namespace, parent.name, section, port, parent.kind, parent.group))
    return tuple(sorted(ancestors))


@query
def _sends_to(db: Db, route: Ref) -> tuple[Target, ...]:
    resource = get(db, Route, route)
    return () if resource is None else tuple(dict.fromkeys(_targets(resource)))


def _targets(route: Route) -> Iterator[Target]:
    """The backends to which a route sends or copies requests, as it names them."""
    namespace = route.metadata.namespace
    for rule in route.spec.rules:
        for ref in rule.backend_refs:
            if ref.weight:
                yield target(ref, namespace)
        for used in rule.filters if isinstance(rule, RequestRule) else ():
            if used.request_mirror is not None:
                yield target(used.request_mirror.backend_ref, namespace)
            if isinstance(used, HTTPRouteFilter) and used.external_auth is not None:
                yield target(used.external_auth.backend_ref, namespace)


def _is_under(db: Db, policy: Ref, route: Ref, at: Target) -> bool:
    """Whether a policy is in force for the requests that a route sends to a backend."""
    if kind_problem(at) is not None or policy_of(db, at.ref, section_of(db, at)) != policy:
        return False
    if not granted(db, GATEWAY_GROUP, route.kind, route.namespace, at.ref):
        return False
    problem = backend(db, at, False).problem
    return problem is None or problem.reason == INVALID_BACKEND_TLS


def _refused(db: Db, policy: Ref, at: _Ancestor) -> Problem | None:
    """What the Envoys under an ancestor refuse of the CAs."""
    owner = Ref(at.kind, at.namespace, at.name, at.group)
    gateway = gateway_of(db, owner) if owner.is_a(Gateway) or owner.is_a(ListenerSet) else None
    if gateway is None:
        return None
    refused = authorities_refusal(db, fleet_of(db, gateway), authorities_source(db, policy))
    if refused is None:
        return None
    effect = _CLOSED if refused.before is None else "Until it takes others, it goes on with those before."
    message = f"Envoy refuses the CAs: {refused.message}."
    return Problem("spec.validation", message, "InvalidCACertificateRef").saying(effect)


def _ancestors(db: Db, policy: Ref) -> list[_Ancestor]:
    calls = [
        (policy, at, part)
        for at in dict.fromkeys(each.ref for each in named(db, policy))
        for part in parts(db, USERS, at)
    ]
    return sorted({each for ancestors in ancestors_in.each(db, calls) for each in ancestors})


def _conflicts(db: Db, policy: Ref) -> dict[Ref, str]:
    """The policies that have precedence at targets of a policy, each with what to say of it."""
    conflicts: dict[Ref, str] = {}
    for at, section in named(db, policy):
        older = winner(db, policy.kind, at, section)
        if older is not None and older != policy and older not in conflicts:
            where = f"port {section} of {at}" if section else str(at)
            conflicts[older] = (
                f"{older} applies to {where} already, and has precedence over this policy: it is older, or "
                "first by name. So this policy has no effect there."
            )
    return conflicts


def _conditions(problem: Problem | None, generation: int) -> tuple[Condition, ...]:
    if problem is None:
        resolved = "All references are resolved."
        return (
            condition("Accepted", "True", "Accepted", "The policy is in force.", generation),
            condition("ResolvedRefs", "True", "ResolvedRefs", resolved, generation),
        )
    message = summary([problem])
    if problem.reason == INVALID:
        return (condition("Accepted", "False", INVALID, message, generation),)
    return (
        condition("Accepted", "False", "NoValidCACertificate", message, generation),
        condition("ResolvedRefs", "False", problem.reason, message, generation),
    )
