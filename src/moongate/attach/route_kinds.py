"""The table of route kinds: the only module that distinguishes them.

Theory of operation
===================
All other modules know only ``Route``: its parents, hostnames, rules and backends. Each difference between
kinds is a field of ``RouteKind``; a module that needs it reads the row of the route's kind. A kind that
matches on requests has ``matches``, and becomes Envoy routes in a route table. The other kinds have none, and
become filter chains.

A new kind needs a module in ``api``, a function that returns the matches of a rule, and its row here.

Source: Gateway API, the kinds that each listener protocol supports; the reference for what a kind brings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from envoy.extensions.filters.http.grpc_stats.v3.config_pb2 import FilterConfig as GrpcStats
from envoy.extensions.filters.http.grpc_web.v3.grpc_web_pb2 import GrpcWeb
from msgspec import Struct

from moongate.api.grpcroute import GRPCRoute
from moongate.api.httproute import HTTPRoute
from moongate.api.route import ConnectionRoute, RequestRoute, Route
from moongate.api.tcproute import TCPRoute
from moongate.api.tlsroute import TLSRoute
from moongate.api.udproute import UDPRoute
from moongate.attach.grpc_matches import call_matches

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from moongate.api.route import RouteRule
    from moongate.attach.matches import RequestMatch


Protocol = Literal["HTTP", "HTTP2", "GRPC", "TCP", "UDP"]
"""What a backend speaks, in the reference's words: part of a merged cluster's name."""


class KindFilter(Struct, frozen=True, kw_only=True):
    """An HTTP filter that a kind of routes brings, after the filters of features.

    Args:
        name: Envoy's filter type.
        chain: its configuration in a chain that has it because it serves such routes, as in the reference.
        stable: its configuration where it stands in every chain, disabled, and such routes switch it on.
    """

    name: str
    chain: Callable[[], Message]
    stable: Callable[[], Message]


class RouteKind(Struct, frozen=True, kw_only=True):
    """A kind of routes.

    Args:
        name: the kind.
        protocols: what a listener must speak to take its routes.
        passthrough: whether a TLS listener may take them that does not end TLS itself.
        type: the resource; ``None`` for a kind that is known and not built yet.
        matches: what a rule matches on, in its order; ``None`` for a kind that looks at no requests.
        one_rule: whether a route with several rules is not accepted.
        upstream: the protocol that its backends speak, whatever they say themselves.
        upgrades: the protocols that a request may ask to be upgraded to.
        filters: HTTP filters that such routes need, in order.
        broken_status: what requests are answered with whose backend cannot be used.
        least_direct_status: the lowest status that Envoy may answer with by itself.
        counts_if_refused: whether a listener counts a route among those that are attached to it, also if no
            rule of the route is accepted.
    """

    name: str
    protocols: tuple[str, ...]
    passthrough: bool = False
    type: type[Route] | None = None
    matches: Callable[[Any], tuple[RequestMatch, ...]] | None = None
    one_rule: bool = False
    upstream: Protocol | None = None
    upgrades: tuple[str, ...] = ()
    filters: tuple[KindFilter, ...] = ()
    broken_status: int = 500
    least_direct_status: int = 200
    counts_if_refused: bool = True


def _stats_of_all_methods() -> GrpcStats:
    message = GrpcStats(emit_filter_state=True)
    message.stats_for_all_methods.value = True
    return message


def _stats_of_clusters() -> GrpcStats:
    # Envoy makes statistics for each method that anybody asks for, and never forgets one.
    return GrpcStats(emit_filter_state=True)


CALL_STATS: Final = KindFilter(
    name="envoy.filters.http.grpc_stats", chain=_stats_of_all_methods, stable=_stats_of_clusters
)
"""What counts calls of gRPC; an EnvoyProxy may have it in all chains, or in none."""

ROUTE_KINDS: Final = (
    RouteKind(
        name=HTTPRoute.KIND,
        protocols=("HTTP", "HTTPS"),
        type=HTTPRoute,
        matches=lambda rule: rule.matches,
        upgrades=("websocket",),
    ),
    RouteKind(
        name=GRPCRoute.KIND,
        protocols=("HTTP", "HTTPS"),
        type=GRPCRoute,
        matches=call_matches,
        upstream="GRPC",
        filters=(
            KindFilter(name="envoy.filters.http.grpc_web", chain=GrpcWeb, stable=GrpcWeb),
            CALL_STATS,
        ),
        broken_status=503,  # UNAVAILABLE for a client of gRPC, where 500 is UNKNOWN
        least_direct_status=300,  # of 2xx a client expects a message, which Envoy's own answer has not
        counts_if_refused=False,
    ),
    RouteKind(name=TCPRoute.KIND, protocols=("TCP", "TLS"), type=TCPRoute, one_rule=True, upstream="TCP"),
    RouteKind(name=TLSRoute.KIND, protocols=("TLS",), passthrough=True, type=TLSRoute, upstream="TCP"),
    RouteKind(name=UDPRoute.KIND, protocols=("UDP",), type=UDPRoute, one_rule=True, upstream="UDP"),
)
"""All kinds. Of two routes that match the same requests, the one whose kind comes first wins, whichever is
older."""

KIND_FILTERS: Final = tuple(one for kind in ROUTE_KINDS for one in kind.filters)
"""The HTTP filters of all kinds, in the order of a chain."""

_KINDS: Final = {kind.name: kind for kind in ROUTE_KINDS}
_ORDER: Final = {kind.name: n for n, kind in enumerate(ROUTE_KINDS)}

ROUTE_TYPES: Final[tuple[type[Route], ...]] = tuple(
    kind.type for kind in ROUTE_KINDS if kind.type is not None
)
"""The kinds that moongate builds."""
REQUEST_ROUTE_TYPES: Final[tuple[type[RequestRoute], ...]] = tuple(
    route for route in ROUTE_TYPES if issubclass(route, RequestRoute)
)
"""The built kinds that match on requests."""
CONNECTION_ROUTE_TYPES: Final[tuple[type[ConnectionRoute], ...]] = tuple(
    route for route in ROUTE_TYPES if issubclass(route, ConnectionRoute)
)
"""The built kinds that take connections as they are."""


def route_kind(name: str) -> RouteKind:
    """The row of a kind."""
    return _KINDS[name]


def order(name: str) -> int:
    """The position of a kind in the table."""
    return _ORDER[name]


def kinds_for(protocol: str, *, passthrough: bool) -> tuple[str, ...]:
    """The kinds whose routes a listener can take.

    Args:
        protocol: what it speaks.
        passthrough: whether it is a TLS listener that does not end TLS itself.
    """
    return tuple(
        kind.name
        for kind in ROUTE_KINDS
        if protocol in kind.protocols and (kind.passthrough or not passthrough)
    )


def written_matches(kind: str, rule: RouteRule) -> tuple[RequestMatch, ...]:
    """The matches of a rule, in their order."""
    matches = route_kind(kind).matches
    return () if matches is None else matches(rule)
