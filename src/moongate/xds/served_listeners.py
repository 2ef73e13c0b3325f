"""The listeners of a fleet on which Envoy serves a route, in the order that all of its resources share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moongate.api.base import FleetId, ListenerId, Ref
from moongate.api.gateway import Gateway
from moongate.api.route import Route
from moongate.attach.envoy_listeners import is_served
from moongate.attach.fleets import members, seniority
from moongate.attach.listener_sets import known_gateway_of
from moongate.attach.routes import DEFAULTS, attachments_at, default_parents, named_parents
from moongate.engine import Failed, query
from moongate.store import get

if TYPE_CHECKING:
    from moongate.engine import Db


def first_gateway(db: Db, fleet: FleetId) -> Ref:
    """The Gateway whose certificate the clusters of policies show, which all Gateways of a fleet share."""
    return fleet.owner if fleet.owner.is_a(Gateway) else next(iter(members(db, fleet)), fleet.owner)


@query
def served_on(db: Db, fleet: FleetId, route: Ref) -> tuple[ListenerId, ...]:
    """The listeners of a fleet that Envoy serves and that take a route.

    They stand in the order of the fleet's Gateways and their sets, and for each in that of the route's
    parentRefs.
    """
    resource = get(db, Route, route)
    return listeners_serving(db, fleet, resource) if resource is not None else ()


def listeners_serving(db: Db, fleet: FleetId, route: Route) -> tuple[ListenerId, ...]:
    """As ``served_on``, for who has the route at hand."""
    # A fleet may have thousands of Gateways and ListenerSets, and a route names few of them.
    named = (parent for parent in named_parents(route) if parent is not None and parent != DEFAULTS)
    parents = [*named, *default_parents(db, route)]
    judged = (attachments_at.last_good(db, route.ref, owner) for owner in _in_order(db, fleet, parents))
    attachments = (each for of in judged if not isinstance(of, Failed) for each in of)
    taken = (at for attachment in attachments for at, _ in attachment.hosts)
    # Of a listener that fails, the last that was known counts, so that it does not concern the others.
    return tuple(dict.fromkeys(at for at in taken if is_served.last_good(db, fleet, at) is True))


def _in_order(db: Db, fleet: FleetId, parents: list[Ref]) -> list[Ref]:
    """Those of some owners of listeners that are of a fleet: Gateways by age, each with its sets by age."""
    gateways = members(db, fleet)
    places: list[tuple[int, bool, Any, Ref]] = []
    for owner in dict.fromkeys(parents):
        gateway = known_gateway_of(db, owner)
        if gateway in gateways:
            of_set = owner != gateway
            places.append((gateways.index(gateway), of_set, seniority(db, owner) if of_set else (), owner))
    return [owner for *_, owner in sorted(places)]
