"""The faults behind the conditions of a status, each at its own field.

A condition is about a part of a resource, and its message is the one of the reference. Who mends a manifest
wants the field: the rule of a route, not the parentRef at which the rule is refused. The field may be in
another resource: what a Gateway does not report is written in its EnvoyProxy, and a filter of a rule may be a
resource of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from moongate.api.base import Ref
from moongate.api.gateway import Gateway
from moongate.api.httproutefilter import HTTPRouteFilter
from moongate.api.listenerset import ListenerSet
from moongate.api.route import RequestRule, Route
from moongate.attach.extension_filters import extension
from moongate.attach.fleets import fleet_of
from moongate.attach.gateways import rejection, written_in
from moongate.attach.listeners import listeners
from moongate.attach.routes import USE_DEFAULTS, attachments
from moongate.engine import Contained
from moongate.problem import Problem
from moongate.status.gateways import of_envoy_proxy
from moongate.status.routes import faults
from moongate.xds.telemetry import telemetry_problems

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from moongate.api.base import Resource
    from moongate.engine import Db

_CLOSED_RULES = "Requests of rules with this filter are answered with 500."
_NOTHING_IS_SERVED = "The listener serves nothing until this is fixed."


class Cause(NamedTuple):
    """A fault behind a condition.

    Args:
        resource: the resource with the field: the one with the condition, or one that it refers to.
        problem: the fault, with the path in that resource.
    """

    resource: Ref
    problem: Problem


def causes(db: Db, resource: Resource) -> Mapping[tuple[str, str], tuple[Cause, ...]]:
    """(Field of the part, type of its condition) → the faults behind it.

    Nothing where a query failed: the status says so, and its conditions are all there is.
    """
    try:
        return _causes(db, resource)
    except Contained:
        return {}


def _causes(db: Db, resource: Resource) -> dict[tuple[str, str], tuple[Cause, ...]]:
    by_condition: dict[tuple[str, str], tuple[Cause, ...]] = {}

    def of_its_own(problems: Iterable[Problem]) -> tuple[Cause, ...]:
        return tuple(Cause(resource.ref, problem) for problem in problems)

    match resource:
        case Gateway() | ListenerSet():
            positions = {listener.name: n for n, listener in enumerate(resource.spec.listeners)}
            for listener in listeners(db, resource.ref):
                at = f"spec.listeners[{positions[listener.id.name]}]"
                effect = "" if listener.ready else _NOTHING_IS_SERVED
                certificates = (fault.saying(effect).under(at) for fault in listener.certificate_faults)
                clients = (fault.saying(effect) for fault in listener.client_faults)
                by_condition[at, "ResolvedRefs"] = of_its_own((*certificates, *clients))
            if isinstance(resource, Gateway) and rejection(db, resource.ref) is None:
                by_condition["", "Accepted"] = tuple(_of_telemetry(db, resource.ref))
        case Route():
            refs = list(resource.spec.parent_refs)
            for attachment in attachments(db, resource.ref):
                parent = attachment.parent
                at = f"spec.parentRefs[{refs.index(parent)}]" if parent in refs else USE_DEFAULTS
                route_faults = faults(db, resource, attachment)
                refused = tuple(_of_rule(db, resource, index, fault) for index, fault in route_faults.refused)
                by_condition[at, "PartiallyInvalid"] = refused
                by_condition[at, "Accepted"] = refused if attachment.problem is None else ()
                by_condition[at, "ResolvedRefs"] = of_its_own(route_faults.unresolved)
                by_condition[at, "BackendsAvailable"] = of_its_own(route_faults.without_endpoints)
        case _:
            pass
    return by_condition


def _of_rule(db: Db, route: Route, index: int, fault: Problem) -> Cause:
    """What is wrong with a rule; in a filter that it names, if that has the fault: it has no status."""
    rule = route.spec.rules[index]
    for n, used in enumerate(rule.filters if isinstance(rule, RequestRule) else ()):
        if used.extension_ref is None or fault.path != f"spec.rules[{index}].filters[{n}]":
            continue
        namespace = route.metadata.namespace
        written = extension(db, used.extension_ref, namespace).fault
        if written is not None:
            message = f"It cannot be used: {written.message}. {_CLOSED_RULES}"
            problem = Problem(written.path, message, fault.reason)
            return Cause(Ref.of(HTTPRouteFilter, namespace, used.extension_ref.name), problem)
    return Cause(route.ref, fault)


def _of_telemetry(db: Db, gateway: Ref) -> Iterator[Cause]:
    for problem in telemetry_problems(db, fleet_of(db, gateway)):
        owner = written_in(db, gateway, problem.path)
        # The configuration is no resource.
        yield Cause(gateway, of_envoy_proxy(problem)) if owner is None else Cause(owner, problem)
