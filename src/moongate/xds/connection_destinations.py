"""Where a route of connections sends them: to one cluster, whatever its backends are.

All rules of a TCPRoute, UDPRoute or TLSRoute share it (``connection_destination``). Its name says nothing of
the backends, so they can change while the filter chain of the route stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Struct

from moongate import names
from moongate.api.backend import Backend as BackendResource
from moongate.api.base import FleetId, ListenerId, Ref
from moongate.api.route import ConnectionRoute, Route
from moongate.api.tlsroute import TLSRoute
from moongate.attach.backend_tls import INVALID_BACKEND_TLS, own_tls
from moongate.attach.backends import Backend, Target, target
from moongate.attach.fleets import fleet_of
from moongate.attach.listeners import passes_through
from moongate.attach.route_kinds import route_kind
from moongate.engine import query
from moongate.problem import Problem
from moongate.store import get
from moongate.xds.cluster_keys import ResourceKey, RuleCluster
from moongate.xds.destinations import judged_backend, no_endpoints, rule_to_service, secrets_for
from moongate.xds.served_listeners import served_on

if TYPE_CHECKING:
    from moongate.attach.backend_tls import UpstreamTLS
    from moongate.attach.backends import Transport
    from moongate.engine import Db


class ConnectionDestination(Struct, frozen=True):
    """Where the connections of a route go: to the backends that share its cluster.

    Args:
        members: the backends that can be used, each with its index among all of the route, and its weight;
            also those that have no endpoints at present.
        dynamic: whether the only one stands for the hosts that clients ask for in the TLS handshake.
        secrets: what TLS to these needs.
        unresolved: why the others cannot: condition ``ResolvedRefs``.
    """

    members: tuple[tuple[int, Target, int], ...] = ()
    dynamic: bool = False
    secrets: tuple[ResourceKey, ...] = ()
    unresolved: tuple[Problem, ...] = ()


@query
def connection_destination(db: Db, listener: ListenerId, route: Ref) -> ConnectionDestination:
    """The backends of all rules of a route of connections, as a listener serves it."""
    resource = get(db, ConnectionRoute, route)
    if resource is None:
        return ConnectionDestination()
    transport: Transport = "UDP" if route_kind(route.kind).upstream == "UDP" else "TCP"
    to_service = rule_to_service(db, listener, route, connection_section(resource))
    fleet, speaks_tls = fleet_of(db, listener.gateway), not passes_through(db, listener)
    members: list[tuple[tuple[int, Target, int], Backend]] = []
    faults: list[tuple[str, int, Problem]] = []
    of_names: bool | None = None
    dynamic = False
    refs = [
        (f"spec.rules[{index}].backendRefs[{n}]", ref)
        for index, rule in enumerate(resource.spec.rules)
        for n, ref in enumerate(rule.backend_refs)
    ]
    for place, (path, ref) in enumerate(refs):
        at = target(ref, route.namespace, transport)
        judged = judged_backend(db, listener.gateway, route, at, to_service)
        if judged.dynamic:
            dynamic = True
            problem = _unresolvable(db, listener, route, at, alone=len(refs) == 1)
        else:
            problem = judged.problem or _unfit(at, judged, of_names=of_names)
            if problem is None and judged.tls is not None:
                if speaks_tls:
                    problem = _unspoken(db, at, judged.tls)
                elif (source := connection_source(db, fleet, route)) and not source.passes_through:
                    problem = _ENDED_ELSEWHERE
        if problem is None and ref.weight:
            members.append(((place, at, ref.weight), judged))
            of_names = of_names if judged.empty else judged.dns
        if problem is None and judged.empty:
            problem = no_endpoints(db, "", at)
        if problem is not None:
            faults.append((path, ref.weight, problem))
    # One without endpoints has its place all the same, or the way to speak TLS would be another one whenever
    # endpoints come or go.
    secrets = (key for _, judged in members for key in secrets_for(fleet, judged)) if speaks_tls else ()
    rest = _NOTHING_LEFT[transport] if all(judged.empty for _, judged in members) else _REST[transport]
    return ConnectionDestination(
        tuple(member for member, _ in members),
        dynamic and bool(members) and len(refs) == 1,
        tuple(dict.fromkeys(secrets)),
        tuple(
            problem.saying(rest if weight else "Its weight is 0, so it would get nothing.").under(path)
            for path, weight, problem in faults
        ),
    )


_ENDED_ELSEWHERE: Final = Problem(
    "",
    "the backend wants TLS (BackendTLSPolicy, or its tls), which the route's other listeners speak to it; on "
    "this one clients speak it, so that needs a route of its own",
    INVALID_BACKEND_TLS,
)
"""Why a route cannot pass TLS on to a backend to which it speaks TLS for other listeners: both have one
cluster."""


_REST: Final = {
    "TCP": "All connections go to the other backends.",
    "UDP": "All datagrams go to the other backends.",
}


_NOTHING_LEFT: Final = {
    "TCP": "No other backend is left, so connections are closed.",
    "UDP": "No other backend is left, so datagrams are dropped.",
}


def _unspoken(db: Db, at: Target, tls: UpstreamTLS) -> Problem | None:
    """Why Envoy cannot speak TLS to a backend for connections that it passes there."""
    if at.transport == "UDP":
        message = (
            f"{at.ref} wants TLS (BackendTLSPolicy, or its tls), which datagrams do not have; name the ports "
            "that have it by sectionName in the policy"
        )
        return Problem("", message, INVALID_BACKEND_TLS)
    checks = tls.validation
    own = own_tls(db, at.ref) if at.kind == BackendResource.KIND else None
    is_public = own is not None and own.well_known_ca_certificates and not own.insecure_skip_verify
    if is_public and not (checks.sni or checks.sni_of_endpoint or checks.names):
        # A request has a host, that its certificate must name. A connection has none.
        message = (
            f"{at.ref} takes any certificate of the system's CAs, and anybody can have one; set spec.tls.sni"
        )
        return Problem("", message, INVALID_BACKEND_TLS)
    return None


def _unfit(at: Target, judged: Backend, *, of_names: bool | None) -> Problem | None:
    """Why a sound backend cannot be in the cluster of a route of connections.

    Args:
        at: the backend.
        judged: its properties.
        of_names: whether the backends before it have hostnames; ``None`` if there is none.
    """
    if not judged.empty and of_names is not None and judged.dns is not of_names:
        has, others = ("hostnames", "addresses") if judged.dns else ("addresses", "hostnames")
        message = (
            f"{at.ref} has {has}, and the backends before it have {others}; all backends of the route share "
            "one cluster of Envoy, which cannot have both"
        )
        return Problem("", message, "UnsupportedAddressType")
    return None


def _unresolvable(db: Db, listener: ListenerId, route: Ref, at: Target, *, alone: bool) -> Problem | None:
    """Why connections cannot go to the hosts that clients ask for, or ``None``."""
    what = f"{at.ref} is of type DynamicResolver"
    if route.kind != TLSRoute.KIND or not passes_through(db, listener):
        message = f"{what}; only a TLSRoute on a listener that passes TLS on knows which host is asked for"
        return Problem("", message, "UnsupportedValue")
    if not alone:
        return Problem("", f"{what}, which can only be the one backend of a route", "InvalidBackendRef")
    return None


@query
def goes_to_server_names(db: Db, listener: ListenerId, route: Ref) -> bool:
    """Whether connections of a route go to the hosts that clients ask for."""
    return connection_destination(db, listener, route).dynamic


def connection_section(route: Route) -> str:
    """The name of the rule of a route of connections; "" where it has several, which share a cluster."""
    (first, *others) = route.spec.rules or (None,)
    return (first.name or "") if first is not None and not others else ""


def connection_cluster(db: Db, fleet: FleetId, listener: ListenerId, route: Ref) -> RuleCluster:
    """The cluster that the backends of a route of connections share.

    Its name says nothing of the backends. They may change, and the filter chain of the route stays: Envoy
    would close the connections of a chain that changes. But the cluster of hosts that clients ask for is
    another one: only chains with a guard lead there.
    """
    rules = names.OF_SERVER_NAMES if goes_to_server_names(db, listener, route) else names.ALL_RULES
    return RuleCluster(names.connection_cluster(route, rules), fleet, route, rules)


class ConnectionSource(NamedTuple):
    """The listener for which the cluster of a route of connections is built.

    Args:
        listener: of several, the first at which Envoy ends connections, else the first.
        passes_through: whether clients speak TLS to the backends, at all listeners of the route.
    """

    listener: ListenerId
    passes_through: bool


@query
def connection_source(db: Db, fleet: FleetId, route: Ref) -> ConnectionSource | None:
    """Where the connections of a cluster come from; ``None`` if no listener takes the route.

    To a backend that wants TLS nothing is sent in the clear: if Envoy ends connections at some listener, it
    speaks TLS to the backends itself.
    """
    serving = served_on(db, fleet, route)
    ending = next((at for at in serving if not passes_through(db, at)), None)
    if ending is not None:
        return ConnectionSource(ending, passes_through=False)
    return ConnectionSource(serving[0], passes_through=True) if serving else None
