"""The status of a route: one entry per parentRef that is ours, in the order of the spec.

Source: Gateway API, RouteParentStatus; GEP-1364; the reference's reasons.
"""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from moongate.api.base import Condition, ListenerId, Ref
from moongate.api.route import ConnectionRoute, RequestRoute, Route
from moongate.api.shared import ParentReference
from moongate.attach.connections import route_of
from moongate.attach.gateways import controller_name
from moongate.attach.matches import matches, overlap_key, unbuildable
from moongate.attach.route_kinds import order, written_matches
from moongate.attach.routes import ANY, INVALID_RULE, attachments_of, paths, routes_on
from moongate.attach.rule_filters import rule_filters
from moongate.engine import Failed, query
from moongate.policies.effective import effective_rule
from moongate.problem import Problem
from moongate.status.conditions import condition, sentence, unsupported
from moongate.status.missing_filters import not_programmed, refusals
from moongate.store import get
from moongate.xds.connection_destinations import connection_destination
from moongate.xds.destinations import rule_destination
from moongate.xds.rule_routes import MOST_BYTES, excessive_rules

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from moongate.attach.routes import Attachment
    from moongate.engine import Db

MAX_PARENTS: Final = 32
_NOT_REACHED: Final = (
    "No request reaches the route by this parent: it is answered by another route, or with 404."
)
_NO_CONNECTION: Final = (
    "No connection reaches the route by this parent: it goes to another route, or is closed."
)
MAX_NAMED: Final = 5
"""How many of the routes that overlap with one are named to it. The others are not even counted: each that
came or went would change the statuses of all."""


class ParentStatus(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """``RouteParentStatus``."""

    parent_ref: ParentReference
    controller_name: str
    conditions: tuple[Condition, ...]


class RouteStatus(Struct, frozen=True, kw_only=True, rename="camel"):
    """``RouteStatus``."""

    parents: tuple[ParentStatus, ...]


class Faults(Struct, frozen=True):
    """The problems of a route's rules, each with its field; conditions are made from them.

    Args:
        refused: rules that cannot be served, by index: ``Accepted`` or ``PartiallyInvalid``.
        unresolved: references that cannot be used: ``ResolvedRefs``.
        without_endpoints: backends that have none: ``BackendsAvailable``.
    """

    refused: tuple[tuple[int, Problem], ...]
    unresolved: tuple[Problem, ...]
    without_endpoints: tuple[Problem, ...]


@query
def route_status(db: Db, route: Ref) -> RouteStatus | None:
    """The status of a route; ``None`` if this controller serves none of its parents."""
    resource = get(db, Route, route)
    if resource is None:
        return None
    name = controller_name(db)
    parents = [
        ParentStatus(parent_ref=a.parent, controller_name=name, conditions=_conditions(db, resource, a))
        for a in attachments_of(db, resource)
    ]
    return RouteStatus(parents=tuple(parents[:MAX_PARENTS])) if parents else None


@query
def match_keys(db: Db, route: Ref) -> tuple[tuple[tuple[str, str], str], ...]:
    """What a route matches on: per match its path, and all of it as text."""
    resource = get(db, Route, route)
    if resource is None:
        return ()
    keys: dict[tuple[tuple[str, str], str], None] = {}
    for index, rule in enumerate(resource.spec.rules):
        for match in matches(written_matches(route.kind, rule), rule_filters(db, resource, index).matches):
            keys[match.path.key, overlap_key(match)] = None
    return tuple(keys)


@query
def overlaps(
    db: Db, listener: ListenerId, host: str, path: tuple[str, str]
) -> tuple[tuple[str, tuple[Ref, ...]], ...]:
    """What several routes of a hostname match on, those with one path, each with the first of these routes.

    There are enough of them to name ``MAX_NAMED`` to each, and to know whether there are more.
    """
    routes = routes_on(db, listener, host, path)
    if len(routes) < 2:
        return ()
    by_key: dict[str, list[Ref]] = {}
    for route, keys in zip(routes, match_keys.attempt_each(db, [(route,) for route in routes]), strict=True):
        for key in _at_path(keys, path):
            by_key.setdefault(key, []).append(route)
    shared = ((key, sharing) for key, sharing in by_key.items() if len(sharing) > 1)
    return tuple((key, tuple(sharing[: MAX_NAMED + 2])) for key, sharing in sorted(shared))


@query
def overlapped_by(
    db: Db, listener: ListenerId, host: str, path: tuple[str, str], route: Ref
) -> tuple[Ref, ...]:
    """The first of the routes that match the same requests of one path as ``route`` under a hostname, sorted.

    Those to be named, and one more if there is.
    """
    sharing = dict(overlaps(db, listener, host, path))
    if not sharing:
        return ()
    own = _at_path(match_keys.attempt(db, route), path)
    others = {other for key in own for other in sharing.get(key, ())}
    return tuple(nsmallest(MAX_NAMED + 1, others - {route}))


def _at_path(keys: tuple[tuple[tuple[str, str], str], ...] | Failed, path: tuple[str, str]) -> list[str]:
    """Those of ``match_keys`` that are on one path."""
    return [] if isinstance(keys, Failed) else [key for of, key in keys if of == path]


def faults(db: Db, route: Route, attachment: Attachment) -> Faults:
    """The problems of a route's rules at one of its parents."""
    refused: list[tuple[int, Problem]] = []
    unresolved: list[Problem] = []
    without: list[Problem] = []
    gateway = attachment.gateway
    at = attachment.hosts[0][0] if attachment.hosts else ListenerId(gateway, attachment.owner, "")
    if isinstance(route, ConnectionRoute):
        return Faults((), tuple(map(_as_sentence, connection_destination(db, at, route.ref).unresolved)), ())
    for index, rule in enumerate(route.spec.rules):
        if (fault := unbuildable(written_matches(route.KIND, rule))) is not None:
            message = (
                f"Failed to process route rule {index}: {fault}. Its requests go to the next rule that "
                "matches them, or are answered with 404."
            )
            refused.append((index, Problem(f"spec.rules[{index}]", message, "UnsupportedValue")))
            continue
        filters = rule_filters(db, route, index)
        closed = (
            fault.saying(f"Requests of rule {index} are answered with 500.") for fault in filters.refused
        )
        refused += [(index, fault.under(f"spec.rules[{index}]")) for fault in closed]
        destination = rule_destination(db, at, route.ref, index)
        unresolved += destination.unresolved
        without += destination.without_endpoints
    refused += ((index, _excess(index)) for index in _excessive(db, route.ref, attachment))
    return Faults(tuple(refused), tuple(map(_as_sentence, unresolved)), tuple(without))


def _not_reached(route: Route) -> str:
    return _NO_CONNECTION if isinstance(route, ConnectionRoute) else _NOT_REACHED


def _excessive(db: Db, route: Ref, attachment: Attachment) -> list[int]:
    """The rules that are too large for some listener of a parent, each once."""
    rules: set[int] = set()
    for listener, _ in attachment.hosts:
        excessive = excessive_rules.attempt(db, listener, route)
        rules.update(() if isinstance(excessive, Failed) else excessive)
    return sorted(rules)


def _excess(index: int) -> Problem:
    message = (
        f"The Envoy routes of rule {index}, one for each match and hostname, would take more than "
        f"{MOST_BYTES >> 20} MiB together, as each has all filters and policies of the rule. Requests are "
        "answered with 500 until it has fewer matches or hostnames, or less that each must have."
    )
    return Problem(f"spec.rules[{index}]", message, "UnsupportedValue")


def _as_sentence(fault: Problem) -> Problem:
    return Problem(fault.path, sentence(fault.message), fault.reason)


def _conditions(db: Db, route: Route, attachment: Attachment) -> tuple[Condition, ...]:
    generation = route.metadata.generation
    problem = attachment.problem
    if problem is not None and problem.reason == INVALID_RULE:
        # What the rules refer to is not looked at.
        message = problem.saying(_not_reached(route)).message
        return (condition("Accepted", "False", INVALID_RULE, message, generation), *unsupported(route))
    of_rules = faults(db, route, attachment)
    unresolved, without = of_rules.unresolved, of_rules.without_endpoints
    older = "".join(_older(db, route, attachment))
    conditions = list(_accepted(route, of_rules.refused, generation, older))
    if problem is not None:
        conditions = [c for c in conditions if c.type != "Accepted"]
        message = problem.saying(_not_reached(route)).message
        conditions.append(condition("Accepted", "False", problem.reason, message, generation))
    if unresolved:
        message = "\n".join(dict.fromkeys(f"{fault.path}: {fault.message}" for fault in unresolved))
        conditions.append(condition("ResolvedRefs", "False", _reasons(unresolved), message, generation))
    else:
        message = "Resolved all the Object references for the Route"
        conditions.append(condition("ResolvedRefs", "True", "ResolvedRefs", message, generation))
    if without:
        conditions.append(
            condition("BackendsAvailable", "False", _reasons(without), _messages(without), generation)
        )
    if others := _overlapping(db, route, attachment):
        kinds = sorted({route.KIND, *(other.kind for other in others)}, key=order)
        message = (
            f"Some rules match the same requests as rules of {_named(others)}. They go to "
            f"{f'{kinds[0]}s first, and among these to ' if len(kinds) > 1 else ''}the oldest of "
            "these routes, or to the first by namespace and name if none is older."
        )
        conditions.append(condition("RouteRulesOverlap", "True", "RouteRulesOverlap", message, generation))
    conditions += not_programmed(_refusals(db, route, attachment), generation)
    return (*conditions, *unsupported(route))


def _refusals(db: Db, route: Route, attachment: Attachment) -> Iterator[str]:
    """Why the listeners of a parent lack filters that a route relies on."""
    for listener, _ in attachment.hosts:
        settings = (effective_rule(db, listener, route.ref, rule) for rule in route.spec.rules)
        yield from (message for _, message in refusals(db, listener, settings))


def _overlapping(db: Db, route: Route, attachment: Attachment) -> set[Ref]:
    """The first of the routes with rules that match the same requests as rules of a route."""
    return {
        other
        for listener, hosts in attachment.hosts
        for host in hosts
        for path in (paths(route) if isinstance(route, RequestRoute) else ())
        for other in overlapped_by(db, listener, host, path, route.ref)
    }


def _named(others: set[Ref]) -> str:
    first = ", ".join(map(str, nsmallest(MAX_NAMED, others)))
    return f"{first} and others" if len(others) > MAX_NAMED else first


def _older(db: Db, route: Route, attachment: Attachment) -> Iterator[str]:
    """The older routes that get connections for which a route asks too: the rest of a sentence."""
    if not isinstance(route, ConnectionRoute):
        return
    for listener, hosts in attachment.hosts:
        winners = {host: route_of(db, listener, host) for host in hosts}
        lost = {host: of for host, of in winners.items() if of is not None and of != route.ref}
        if lost:
            of_them = "" if hosts == (ANY,) else f" for {', '.join(list(lost)[:MAX_NAMED])}"
            owners = ", ".join(dict.fromkeys(map(str, lost.values())))
            yield f"; but the connections of listener {listener.name}{of_them} go to {owners}, which is older"


def _accepted(
    route: Route, refused: Sequence[tuple[int, Problem]], generation: int, older: str = ""
) -> tuple[Condition, ...]:
    accepted = condition("Accepted", "True", "Accepted", f"Route is accepted{older}", generation)
    if not refused:
        return (accepted,)
    problems = [fault for _, fault in refused]
    rules = sorted({index for index, _ in refused})
    if len(rules) == len(route.spec.rules):
        return (condition("Accepted", "False", _reasons(problems), _messages(problems), generation),)
    dropped = " ".join(map(str, rules))
    message = f"Dropped Rule(s) [{dropped}]: {_messages(problems)}"
    return (accepted, condition("PartiallyInvalid", "True", _reasons(problems), message, generation))


def _reasons(problems: Iterable[Problem]) -> str:
    """Several reasons on one condition are joined, as the reference does."""
    return ",".join(sorted({f.reason for f in problems}))


def _messages(problems: Iterable[Problem]) -> str:
    return "\n".join(dict.fromkeys(f.message for f in problems))
