"""Which EnvoyPatchPolicies change the resources of a fleet, in which order, and what they name.

Theory of operation
===================
A policy targets a Gateway of its namespace, or, where the Gateways of a class share Envoys, that class. All
policies of a fleet are in one order, by priority and then by age, and so are all their patches.

What is made to be cheap for Envoy or to outlive changes has other names and places than the reference's. So
what patches name is built as the reference builds it: a patched route configuration stays whole, as does one
of a patched listener (``envoy_listeners``), and a rule whose cluster is named has that cluster
(``named_rules``).

Source: the reference's EnvoyPatchPolicy; ``docs/reference/xds-names.md`` for the names.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from moongate.api.base import GATEWAY_GROUP, FleetId, Ref
from moongate.api.envoypatchpolicy import EnvoyPatchPolicy
from moongate.api.gateway import Gateway, GatewayClass
from moongate.attach.fleets import fleet_of, members
from moongate.attach.gateways import config, managed, managed_classes, merges_gateways
from moongate.engine import query
from moongate.problem import Problem
from moongate.store import Index, find, get
from moongate.xds.wire import CLUSTER, ENDPOINT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.engine import Db

_CLUSTERS: Final = (CLUSTER, ENDPOINT)
_OF_RULE = re.compile(r"([a-z]+route/[^/]+/[^/]+)/rule/(\d+)(?:/backend/\d+|-mirror-\d+)?")


class PatchTarget(NamedTuple):
    """What a policy targets.

    Args:
        ancestor: whose status entry it has.
        fleet: whose resources it changes; ``None`` when it changes none.
        problem: why it changes none.
    """

    ancestor: Ref
    fleet: FleetId | None
    problem: Problem | None = None


def _by_target(policy: EnvoyPatchPolicy) -> Iterator[tuple[str, Ref]]:
    yield policy.spec.target_ref.name, policy.ref


PATCH_POLICIES: Index[EnvoyPatchPolicy, Ref] = Index("patch-policies", (EnvoyPatchPolicy,), _by_target)
"""Name of a target → policies that name it."""


@query
def patch_target(db: Db, policy: Ref) -> PatchTarget | None:
    """What a policy targets; ``None`` when that is not ours, or does not exist."""
    resource = get(db, EnvoyPatchPolicy, policy)
    if resource is None:
        return None
    named = named_by(resource)
    gateway = Ref.of(Gateway, policy.namespace, named.name)
    if named.is_a(GatewayClass):
        if named not in managed_classes(db) and get(db, GatewayClass, named) is not None:
            return None  # another controller's
        ancestor, fleet = named, FleetId(named)
        if named not in managed_classes(db):
            problem = _no_class(named)
        else:
            problem = None if merges_gateways(db, named.name) else _not_merged(named)
    elif not managed(db, gateway):
        return None
    else:
        ancestor, fleet = gateway, fleet_of(db, gateway)
        problem = kind_fault(named)
        if problem is None and fleet.owner != gateway:
            problem = _merged(fleet)
    if not config(db).extension_apis.enable_envoy_patch_policy:
        problem = Problem("", "EnvoyPatchPolicy is disabled in the EnvoyGateway configuration:"
            " set extensionApis.enableEnvoyPatchPolicy there.", "Disabled")  # fmt: skip
    return PatchTarget(ancestor, None if problem is not None else fleet, problem)


def named_by(policy: EnvoyPatchPolicy) -> Ref:
    """What a policy names as its target, whatever kind that is."""
    ref = policy.spec.target_ref
    namespace = "" if ref.kind == GatewayClass.KIND else policy.metadata.namespace
    return Ref(ref.kind, namespace, ref.name, ref.group)


def _no_class(named: Ref) -> Problem:
    return Problem("spec.targetRef", f"There is no GatewayClass {named.name} of ours.", "Invalid")


def _not_merged(named: Ref) -> Problem:
    message = (
        f"The Gateways of GatewayClass {named.name} do not share their Envoys (EnvoyProxy mergeGateways):"
        " name the Gateway."
    )
    return Problem("spec.targetRef", message, "Invalid")


def _merged(fleet: FleetId) -> Problem:
    message = (
        "The Envoys of this Gateway are those of all Gateways of its class (EnvoyProxy mergeGateways):"
        f" name the GatewayClass {fleet.owner.name}."
    )
    return Problem("spec.targetRef", message, "Invalid")


def kind_fault(named: Ref) -> Problem | None:
    """Why something cannot be a target because of its kind; ``None`` if it can."""
    if named.is_a(Gateway) or named.is_a(GatewayClass):
        return None
    message = (
        f"The target is a {named.kind} of group {named.group or 'core'};"
        f" it must be a Gateway or a GatewayClass of group {GATEWAY_GROUP}."
    )
    return Problem("spec.targetRef", message, "Invalid")


@query
def patch_policies(db: Db, fleet: FleetId) -> tuple[Ref, ...]:
    """The policies that change the resources of a fleet, in the order in which they are applied."""
    if not members(db, fleet):
        return ()
    naming = find(db, PATCH_POLICIES, fleet.owner.name)
    if fleet.owner.is_a(Gateway):
        # A policy means the Gateway of its namespace. What fails of a namesake is no matter of this one.
        naming = [each for each in naming if each.namespace == fleet.owner.namespace]
    return tuple(
        sorted(
            (each for each in naming if (target := patch_target(db, each)) and target.fleet == fleet),
            key=lambda each: (_rank(db, each), each),
        )
    )


@query
def _rank(db: Db, policy: Ref) -> tuple[int, tuple[str, str, str]]:
    resource = get(db, EnvoyPatchPolicy, policy)
    return (resource.spec.priority or 0, resource.age) if resource is not None else (0, ("", "", ""))


@query
def named_resources(db: Db, fleet: FleetId) -> frozenset[tuple[str, str]]:
    """``(type URL, name)`` of each resource that patches of a fleet name."""
    return frozenset(each for policy in patch_policies(db, fleet) for each in _names(db, policy))


@query
def _names(db: Db, policy: Ref) -> tuple[tuple[str, str], ...]:
    resource = get(db, EnvoyPatchPolicy, policy)
    return () if resource is None else tuple(each.target for each in resource.spec.json_patches)


@query
def named_rules(db: Db, fleet: FleetId, route: Ref) -> frozenset[int]:
    """The rules of a route whose own clusters patches of a fleet name."""
    named = (
        _OF_RULE.fullmatch(name) for type_url, name in named_resources(db, fleet) if type_url in _CLUSTERS
    )
    of = f"{route.kind.lower()}/{route.namespace}/{route.name}"
    return frozenset(int(match[2]) for match in named if match is not None and match[1] == of)
