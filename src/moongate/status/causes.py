"""The faults behind the conditions of a status, each at its own field.

A condition is about a part of a resource, and its message is the one of the reference. Who mends a manifest
wants the field: the rule of a route, not the parentRef at which the rule is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.api.gateway import Gateway
from moongate.api.listenerset import ListenerSet
from moongate.api.route import Route
from moongate.attach.listeners import listeners
from moongate.attach.routes import USE_DEFAULTS, attachments
from moongate.engine import Contained
from moongate.status.routes import faults

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moongate.api.base import Resource
    from moongate.engine import Db
    from moongate.problem import Problem

_NOTHING_IS_SERVED = "The listener serves nothing until this is fixed."


def causes(db: Db, resource: Resource) -> Mapping[tuple[str, str], tuple[Problem, ...]]:
    """(Field of the part, type of its condition) → the faults behind it.

    Nothing where a query failed: the status says so, and its conditions are all there is.
    """
    try:
        return _causes(db, resource)
    except Contained:
        return {}


def _causes(db: Db, resource: Resource) -> dict[tuple[str, str], tuple[Problem, ...]]:
    by_condition: dict[tuple[str, str], tuple[Problem, ...]] = {}
    match resource:
        case Gateway() | ListenerSet():
            positions = {listener.name: n for n, listener in enumerate(resource.spec.listeners)}
            for listener in listeners(db, resource.ref):
                at = f"spec.listeners[{positions[listener.id.name]}]"
                effect = "" if listener.ready else _NOTHING_IS_SERVED
                by_condition[at, "ResolvedRefs"] = tuple(
                    fault.saying(effect).under(at) for fault in listener.certificate_faults
                ) + tuple(fault.saying(effect) for fault in listener.client_faults)
        case Route():
            refs = list(resource.spec.parent_refs)
            for attachment in attachments(db, resource.ref):
                parent = attachment.parent
                at = f"spec.parentRefs[{refs.index(parent)}]" if parent in refs else USE_DEFAULTS
                route_faults = faults(db, resource, attachment)
                by_condition[at, "PartiallyInvalid"] = refused = tuple(
                    fault for _, fault in route_faults.refused
                )
                by_condition[at, "Accepted"] = refused if attachment.problem is None else ()
                by_condition[at, "ResolvedRefs"] = route_faults.unresolved
                by_condition[at, "BackendsAvailable"] = route_faults.without_endpoints
        case _:
            pass
    return by_condition
