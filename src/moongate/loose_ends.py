"""References that lead nowhere: a policy for a route of another name guards nothing, and no status says so.

In a cluster such a resource may be somebody else's, so statuses stay silent about it, as the reference's do.
On a laptop everything is there, and a name that matches nothing is a slip.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from moongate.api.base import GATEWAY_GROUP, Ref
from moongate.api.gateway import Gateway, GatewayClass
from moongate.api.httproute import HTTPRoute
from moongate.attach.policies import Policy
from moongate.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from moongate.api.base import Resource

REASON = "TargetNotFound"


def loose_ends(held: Mapping[Ref, Resource], refs: Iterable[Ref]) -> Iterator[tuple[Ref, Problem]]:
    """What some resources refer to that is not there.

    Args:
        held: everything in force.
        refs: whose references to look at; what is not held is passed over.
    """
    for ref in refs:
        for path, target in _targets(held.get(ref)):
            if target not in held:
                yield ref, Problem(path, f"There is no {target}.{_meant(target, held)}{_effect(ref)}", REASON)


def _targets(resource: Resource | None) -> Iterator[tuple[str, Ref]]:
    match resource:
        case Gateway():
            yield "spec.gatewayClassName", Ref(GatewayClass.KIND, "", resource.spec.gateway_class_name)
        case HTTPRoute():
            for n, parent in enumerate(resource.spec.parent_refs):
                if (parent.group, parent.kind) == (GATEWAY_GROUP, Gateway.KIND):
                    namespace = parent.namespace or resource.metadata.namespace
                    yield f"spec.parentRefs[{n}].name", Ref(Gateway.KIND, namespace, parent.name)
        case Policy():
            if resource.spec.target_ref is not None:
                yield (
                    "spec.targetRef.name",
                    _named(resource, resource.spec.target_ref.kind, resource.spec.target_ref.name),
                )
            else:
                for n, target in enumerate(resource.spec.target_refs):
                    yield f"spec.targetRefs[{n}].name", _named(resource, target.kind, target.name)
        case _:
            return


def _named(policy: Policy, kind: str, name: str) -> Ref:
    return Ref(kind, policy.metadata.namespace, name)


def _meant(target: Ref, held: Mapping[Ref, Resource]) -> str:
    known = [ref.name for ref in held if (ref.kind, ref.namespace) == (target.kind, target.namespace)]
    close = difflib.get_close_matches(target.name, known, 1, 0.5) or (known if len(known) == 1 else [])
    return f" Did you mean {close[0]!r}?" if close else ""


def _effect(ref: Ref) -> str:
    match ref.kind:
        case "SecurityPolicy":
            return " Nothing is guarded by this reference."
        case Gateway.KIND:
            return " This Gateway is not served."
        case _:
            return ""
