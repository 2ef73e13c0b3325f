"""The references of policies, as their features list them: permission, existence, and field path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moongate.api.base import ENVOY_GROUP, Ref, fields_of
from moongate.attach.backends import backend, fault_of_backend, kind_problem, named
from moongate.attach.grants import granted
from moongate.attach.refused import absence
from moongate.engine import query
from moongate.features import FEATURES
from moongate.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.attach.policies import Policy
    from moongate.engine import Db
    from moongate.features.base import Effective, Feature, Reference


def references(policy: Policy) -> Iterator[tuple[str, Ref]]:
    """What the settings of a policy refer to, as written: the field path of the name, and the resource."""
    wire_names = {field.name: field.encode_name for field in fields_of(type(policy.spec))}
    for feature in FEATURES:
        if feature.kind != policy.KIND or feature.references is None:
            continue
        value = feature.of(policy.spec)
        for reference in feature.references(value) if value is not None else ():
            if reference.accepted:
                path = f"spec.{wire_names[feature.field]}.{reference.path}.name"
                yield path, reference.target_from(policy.ref).ref


def reference_problems(db: Db, feature: Feature[Any], effective: Effective[Any]) -> Iterator[Problem]:
    """The problems of the references of a field; their paths start below the field."""
    for reference in feature.references(effective.value) if feature.references is not None else ():
        problem = _problem(db, feature.kind, effective.owner_of(reference.path), reference)
        if problem is not None:
            yield problem


def _problem(db: Db, kind: str, owner: Ref, reference: Reference) -> Problem | None:
    path, target = reference.path, reference.target_from(owner)
    if not reference.accepted:
        name = f"{target.group}/{target.kind}" if target.group else target.kind
        *others, last = (kind for _, kind in reference.kinds)
        right = f"{', '.join(others)} or {last}" if others else last
        return Problem(path, f"{path.rpartition('.')[2]} names a {name}; it must name a {right}.")
    # Before existence: without a grant, nobody learns what another namespace has.
    if target.namespace and not granted(db, ENVOY_GROUP, kind, owner.namespace, target.ref):
        return Problem(
            path,
            f"{target.ref} is in another namespace; no ReferenceGrant there allows a {kind} of namespace "
            f"{owner.namespace} to refer to it.",
        )
    if kind_problem(target) is None:
        problem = named(target, backend(db, target, False)).problem
        if problem is None:
            return None
        return Problem(path, f"{fault_of_backend(target.ref, problem).message.rstrip('.')}.")
    return None if _exists(db, target.ref) else Problem(path, f"{target.ref} {absence(db, target.ref)}.")


@query
def _exists(db: Db, ref: Ref) -> bool:
    """A query of its own, so that an edit of the resource does not disturb who only asks for this."""
    return db.read(ref) is not None
