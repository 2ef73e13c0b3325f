"""The status of an EnvoyPatchPolicy: whose resources it changes, and which of its patches are applied.

Source: Gateway API, ``PolicyStatus``; the reference's EnvoyPatchPolicy for types and reasons of conditions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.api.envoypatchpolicy import EnvoyPatchPolicy
from moongate.attach.envoy_listeners import usual_names
from moongate.attach.gateways import controller_name
from moongate.attach.patch_policies import patch_target
from moongate.engine import query
from moongate.status.conditions import accepted, condition
from moongate.status.policies import AncestorRef, AncestorStatus, PolicyStatus
from moongate.store import get
from moongate.xds.json_patches import fault, target_of
from moongate.xds.patches import NotApplied, patching, result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moongate.api.base import Condition, FleetId, Ref
    from moongate.engine import Db
    from moongate.xds.patches import Patched


@query
def patch_policy_status(db: Db, policy: Ref) -> PolicyStatus | None:
    """The status of an EnvoyPatchPolicy; ``None`` when nothing of ours is its target."""
    resource, target = get(db, EnvoyPatchPolicy, policy), patch_target(db, policy)
    if resource is None or target is None:
        return None
    generation = resource.metadata.generation
    problems = [target.problem] if target.problem is not None else []
    conditions = [accepted(problems, generation, message="The policy is in force.")]
    if target.fleet is not None:
        conditions.append(_programmed(_not_applied(db, resource, target.fleet), generation))
    at = target.ancestor
    return PolicyStatus(
        ancestors=(
            AncestorStatus(
                ancestor_ref=AncestorRef(group=at.group, kind=at.kind, namespace=at.namespace, name=at.name),
                controller_name=controller_name(db),
                conditions=tuple(conditions),
            ),
        )
    )


def _not_applied(db: Db, policy: EnvoyPatchPolicy, fleet: FleetId) -> list[NotApplied]:
    """The patches of a policy that change nothing, in order."""
    ref = policy.ref
    passed_over: list[NotApplied] = []
    for n in range(len(policy.spec.json_patches)):
        path = f"spec.jsonPatches[{n}]"
        message, named = fault(db, ref, n), target_of(db, ref, n)
        if message is not None:
            passed_over.append(NotApplied(ref, path, message, missing=False))
        elif named is not None:
            patched = _patched(db, fleet, named)
            if patched is None:
                passed_over.append(NotApplied(ref, path, f"There is no {'/'.join(named)}.", missing=True))
                continue
            of = result(db, patched).not_applied
            passed_over += [each for each in of if (each.owner, each.path) == (ref, path)]
    return passed_over


def _patched(db: Db, fleet: FleetId, named: tuple[str, str]) -> Patched | None:
    """The patched resource of a usual name; it may have another one in Envoy just now."""
    for at in (named, *usual_names(db, fleet).get(named, ())):
        patched: Patched | None = db.read(patching(fleet, *at))
        if patched is not None:
            return patched
    return None


def _programmed(not_applied: Sequence[NotApplied], generation: int) -> Condition:
    if not not_applied:
        return condition("Programmed", "True", "Programmed", "All patches are applied.", generation)
    reason = "ResourceNotFound" if any(each.missing for each in not_applied) else "Invalid"
    message = "\n".join(f"{each.path}: {each.message}" for each in not_applied)
    return condition("Programmed", "False", reason, message, generation)
