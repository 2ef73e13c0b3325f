"""The failures of queries in statuses: a bug of moongate is reported on the resources that it concerns.

Theory of operation
===================
An exception in a query is contained, and so are the failures of its readers. ``concerned`` finds the
resources of the failed calls, and ``with_failures`` adds the failures to their statuses, with the id that the
log has too. These two are not queries: a failure is a fact about queries, and not one of their inputs.

Rules
=====
1. The arguments of a call name the resources that it concerns. Of several, only the most specific count: if a
   route cannot be built on a listener, the status of the listener's Gateway does not report it. A fleet
   stands for all its Gateways, but only if the call names nothing of theirs: what fails of one Gateway leaves
   the others of its fleet as they should be.
2. A call without a resource among its arguments concerns the resources of its readers, because the failure
   reaches them. If it reaches no call with a resource, the GatewayClasses report it.
3. If a status cannot be computed, its last value stays, and only the failure is added. If it never could be
   computed, it has only the failure.
4. The text of an exception is never shown, because it may contain a secret.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from moongate.api.backend import Backend
from moongate.api.backendtlspolicy import BackendTLSPolicy
from moongate.api.base import GATEWAY_GROUP, FleetId, Ref
from moongate.api.envoypatchpolicy import EnvoyPatchPolicy
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway, GatewayClass
from moongate.api.listenerset import ListenerSet
from moongate.api.route import Route
from moongate.attach.backends import Target
from moongate.attach.fleets import members
from moongate.attach.gateways import PROXY_USERS, controller_name, managed, managed_classes
from moongate.attach.listener_sets import gateway_of_set
from moongate.attach.patch_policies import PatchTarget, patch_target
from moongate.attach.policies import Policy, named_targets, selected, selected_shards
from moongate.attach.route_kinds import ROUTE_TYPES
from moongate.attach.routes import default_parent, default_parents
from moongate.engine import Failed
from moongate.policies import POLICY_KINDS
from moongate.status.backend_tls import USERS
from moongate.status.backends import BackendStatus
from moongate.status.conditions import condition
from moongate.status.gateways import AncestorRef as ProxyAncestorRef
from moongate.status.gateways import EnvoyProxyStatus, GatewayClassStatus, GatewayStatus, ProxyAncestor
from moongate.status.listener_sets import ListenerSetStatus
from moongate.status.policies import AncestorRef, AncestorStatus, PolicyStatus
from moongate.status.routes import ParentStatus, RouteStatus
from moongate.store import find, find_in, get, parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from msgspec import Struct

    from moongate.api.base import Condition, Resource
    from moongate.api.shared import ParentReference
    from moongate.engine import Db

INTERNAL: Final = "InternalError"
"""The reason of conditions that say so."""

MOST_NAMED: Final = 5
"""Failures that one condition names."""

_LEVELS: Final[tuple[frozenset[str], ...]] = (
    frozenset(kind.KIND for kind in (*POLICY_KINDS, BackendTLSPolicy, EnvoyPatchPolicy)),
    frozenset(route.KIND for route in ROUTE_TYPES),
    frozenset({Backend.KIND}),
    frozenset({EnvoyProxy.KIND}),
    frozenset({ListenerSet.KIND}),
    frozenset({Gateway.KIND}),
    frozenset({GatewayClass.KIND}),
)
"""Kinds that have a status, the most specific first."""


def concerned(db: Db) -> Mapping[Ref, tuple[Failed, ...]]:
    """The resources that failures concern, each with its failures by id."""
    by_ref: dict[Ref, dict[str, Failed]] = {}
    of_all: dict[str, Failed] = {}
    for args, failed in db.failed_calls():
        owners = _owners(db, args)
        for ref in owners:
            by_ref.setdefault(ref, {})[failed.id] = failed
        if not owners:
            of_all[failed.id] = failed
    for by_id in by_ref.values():
        for id_ in by_id:
            of_all.pop(id_, None)
    for ref in _classes(db) if of_all else ():
        by_ref.setdefault(ref, {}).update(of_all)
    return {ref: tuple(failed for _, failed in sorted(by_id.items())) for ref, by_id in by_ref.items()}


def with_failures(
    db: Db, resource: Resource, status: Struct | None, failures: Sequence[Failed]
) -> Struct | None:
    """A status with the failures of its resource; ``None`` if another controller serves the resource.

    Args:
        db: where to look who is ours.
        resource: what the status is of.
        status: as it was last computed; ``None`` if it never could be.
        failures: at least one.
    """
    named = ", ".join(failed.id for failed in failures[:MOST_NAMED])
    more = f" and {len(failures) - MOST_NAMED} more" if len(failures) > MOST_NAMED else ""
    message = (
        f"Internal error {named}{more}: a part of this could not be computed. What was in force of that part "
        "before stays in force where that is safe; otherwise it is closed. This is a bug of moongate; its "
        "log says more under this id."
    )
    generation = resource.metadata.generation
    kept_out = condition("Programmed", "False", INTERNAL, message, generation)
    refused = condition("Accepted", "False", INTERNAL, message, generation)
    match status if status is not None else _bare(db, resource):
        case GatewayStatus() | ListenerSetStatus() as gateway:
            # Whether it is accepted is not known if nothing else is.
            added = (kept_out,) if status is not None else (refused, kept_out)
            return structs.replace(gateway, conditions=_replaced(gateway.conditions, *added))
        case RouteStatus() as route:
            added = (kept_out,) if status is not None else (refused, kept_out)
            parents = (
                structs.replace(parent, conditions=_replaced(parent.conditions, *added))
                for parent in route.parents
            )
            return RouteStatus(parents=tuple(parents))
        case PolicyStatus() | EnvoyProxyStatus() as policy:
            ancestors: Any = (
                structs.replace(ancestor, conditions=_replaced(ancestor.conditions, refused))
                for ancestor in policy.ancestors
            )
            return structs.replace(policy, ancestors=tuple(ancestors))
        case BackendStatus() | GatewayClassStatus() as other:
            return structs.replace(other, conditions=_replaced(other.conditions, refused))
        case _:
            return None


def _owners(db: Db, args: Any) -> tuple[Ref, ...]:
    """The most specific of the resources that are arguments of a call."""
    keys = dict.fromkeys(_keys(args))
    of_fleets = (ref for key in keys if isinstance(key, FleetId) for ref in _members(db, key))
    for refs in ([key for key in keys if isinstance(key, Ref)], list(dict.fromkeys(of_fleets))):
        levels = (tuple(ref for ref in refs if ref.kind in kinds) for kinds in _LEVELS)
        if owners := next((owners for owners in levels if owners), ()):
            return owners
    return ()


def _members(db: Db, fleet: FleetId) -> tuple[Ref, ...]:
    gateways = members.attempt(db, fleet)
    return (fleet.owner,) if isinstance(gateways, Failed) else gateways


def _keys(key: Any) -> Iterator[Ref | FleetId]:
    """The resources and fleets that arguments of a call name."""
    if isinstance(key, Ref | FleetId):
        yield key
    elif isinstance(key, Target):
        yield key.ref
    elif isinstance(key, tuple):
        for each in key:  # pyright: ignore[reportUnknownVariableType] - a key: its parts are keys, or scalars
            yield from _keys(each)


def _replaced(conditions: tuple[Condition, ...], *by: Condition) -> tuple[Condition, ...]:
    types = {each.type for each in by}
    return (*(each for each in conditions if each.type not in types), *by)


def _bare(db: Db, resource: Resource) -> Struct | None:
    """A status without a condition; ``None`` when the resource is not ours, as far as that is known."""
    ref = resource.ref
    match resource:
        case Gateway() | GatewayClass() | ListenerSet() if not _is_ours(db, ref):
            return None
        case Gateway():
            return GatewayStatus()
        case ListenerSet():
            return ListenerSetStatus()
        case GatewayClass():
            return GatewayClassStatus(conditions=())
        case Backend():
            return BackendStatus(conditions=())
        case Route():
            name = _controller(db)
            parents = [
                ParentStatus(parent_ref=parent, controller_name=name, conditions=())
                for parent, gateway in _parents(db, resource)
                if _is_ours(db, gateway)
            ]
            return RouteStatus(parents=tuple(parents)) if parents else None
        case EnvoyProxy():
            users = [
                ProxyAncestorRef(
                    group=GATEWAY_GROUP, kind=user.kind, namespace=user.namespace, name=user.name
                )
                for user in find(db, PROXY_USERS, ref)
                if _is_ours(db, user)
            ]
            proxies = tuple(ProxyAncestor(ancestor_ref=user, conditions=()) for user in users)
            return EnvoyProxyStatus(ancestors=proxies) if proxies else None
        case BackendTLSPolicy():
            name = _controller(db)
            above = dict.fromkeys(
                structs.replace(parent, namespace=gateway.namespace)
                for route in _senders(db, resource)
                for parent, gateway in _parents(db, route)
                if _is_ours(db, gateway)
            )
            of_routes = tuple(
                AncestorStatus(ancestor_ref=parent, controller_name=name, conditions=()) for parent in above
            )
            return PolicyStatus(ancestors=of_routes) if of_routes else None
        case Policy():
            name = _controller(db)
            policies = tuple(
                AncestorStatus(
                    ancestor_ref=AncestorRef(
                        group=GATEWAY_GROUP, kind=at.kind, namespace=at.namespace, name=at.name
                    ),
                    controller_name=name,
                    conditions=(),
                )
                for at in dict.fromkeys(_ancestors(db, resource))
                if _is_ours(db, at)
            )
            return PolicyStatus(ancestors=policies) if policies else None
        case EnvoyPatchPolicy():
            target = patch_target.attempt(db, ref)
            at = (
                target.ancestor
                if isinstance(target, PatchTarget)
                else Ref.of(Gateway, ref.namespace, resource.spec.target_ref.name)
            )
            if not _is_ours(db, at):
                return None
            return PolicyStatus(ancestors=(AncestorStatus(
                ancestor_ref=AncestorRef(group=at.group, kind=at.kind, namespace=at.namespace, name=at.name),
                controller_name=_controller(db),
                conditions=(),
            ),))  # fmt: skip
        case _:
            return None


def _ancestors(db: Db, policy: Policy) -> Iterator[Ref]:
    """What is above what a policy targets, as far as it is known: at least what the policy names."""
    shards = selected_shards.attempt(db, policy.ref)
    calls = [] if isinstance(shards, Failed) else [(policy.ref, *at) for at in shards]
    chosen = [shard for shard in selected.attempt_each(db, calls) if not isinstance(shard, Failed)]
    named = [target.ref for target in named_targets(policy.spec, policy.metadata.namespace)]
    for target in chain(*chosen, named):
        resource = db.read(target)
        if isinstance(resource, Route):
            yield from (gateway for _, gateway in _parents(db, resource))
        else:
            yield target


def _senders(db: Db, policy: BackendTLSPolicy) -> Iterator[Route]:
    """The routes that send to what a policy targets."""
    for target in named_targets(policy.spec, policy.metadata.namespace):
        for part in parts(db, USERS, target.ref):
            for ref in find_in(db, USERS, target.ref, part):
                if (route := get(db, Route, ref)) is not None:
                    yield route


def _parents(db: Db, route: Route) -> Iterator[tuple[ParentReference, Ref]]:
    for parent in route.spec.parent_refs:
        yield (
            parent,
            Ref(parent.kind, parent.namespace or route.metadata.namespace, parent.name, parent.group),
        )
    yield from ((default_parent(gateway), gateway) for gateway in default_parents(db, route))


def _is_ours(db: Db, ref: Ref) -> bool:
    """Whether a Gateway, ListenerSet or GatewayClass is known to be ours; else somebody else may answer."""
    if ref.is_a(Gateway):
        return managed.attempt(db, ref) is True
    if ref.is_a(ListenerSet):
        return isinstance(gateway_of_set.attempt(db, ref), Ref)
    return ref.is_a(GatewayClass) and ref in _classes(db)


def _classes(db: Db) -> tuple[Ref, ...]:
    classes = managed_classes.attempt(db)
    return () if isinstance(classes, Failed) else classes


def _controller(db: Db) -> str:
    name = controller_name.attempt(db)
    return "" if isinstance(name, Failed) else name
