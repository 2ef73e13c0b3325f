"""How ready listeners share Envoy's listeners and route configurations.

Theory of operation
===================
Envoy has one listener for a port. Nothing tells plaintext HTTP connections of a port apart before their first
request, so all HTTP listeners of a port share one filter chain and one route configuration; each HTTPS
listener has its own, chosen by the hostname in the TLS handshake.

Source: the reference's grouping of listeners, and its naming schemes v1 and ``XDSNameSchemeV2``.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from moongate import names
from moongate.api.base import ListenerId
from moongate.attach.gateways import config
from moongate.attach.listeners import HTTP, Listener, listeners
from moongate.engine import query

if TYPE_CHECKING:
    from moongate.api.base import Ref
    from moongate.engine import Db


class EnvoyListener(Struct, frozen=True):
    """Listeners of one port that share an Envoy listener.

    Args:
        name: the resource's name, which is also the route configuration's where there is no TLS.
        chain: name of the filter chain for all members, where there is no TLS.
        port: the listeners' own.
        container_port: where Envoy listens.
        stat_port: the port that statistics are named after.
        members: in the order of the spec, at least one.
        tls: each member has a filter chain and a route configuration of its own; else they share one.
    """

    name: str
    chain: str
    port: int
    container_port: int
    stat_port: int
    members: tuple[ListenerId, ...]
    tls: bool


class RouteTable(NamedTuple):
    """A route configuration: its name, and the listeners whose virtual hosts it holds, in order."""

    name: str
    members: tuple[ListenerId, ...]


@query
def envoy_listeners(db: Db, gateway: Ref) -> tuple[EnvoyListener, ...]:
    """How the ready HTTP and HTTPS listeners of a Gateway share Envoy listeners, by first member."""
    ports: dict[int, list[Listener]] = defaultdict(list)
    for each in listeners(db, gateway):
        if each.ready and each.protocol in HTTP:
            ports[each.container_port].append(each)
    by_port = config(db).runtime_flags.on("XDSNameSchemeV2")
    told: list[EnvoyListener] = []
    for members in ports.values():
        first = members[0]
        own = names.listener(first.id)
        told.append(
            EnvoyListener(
                name=f"tcp-{first.port}" if by_port else own,
                chain=f"http-{first.port}" if by_port else own,
                port=first.port,
                container_port=first.container_port,
                stat_port=first.port if by_port else first.container_port,
                members=tuple(m.id for m in members),
                tls=first.protocol == "HTTPS",
            )
        )
    return tuple(told)


@query
def route_configurations(db: Db, gateway: Ref) -> tuple[RouteTable, ...]:
    """The route configurations of a Gateway: one for an HTTPS listener, one for the HTTP ones of a port."""
    return tuple(
        table
        for envoy in envoy_listeners(db, gateway)
        for table in (
            [RouteTable(names.listener(member), (member,)) for member in envoy.members]
            if envoy.tls
            else [RouteTable(envoy.chain, envoy.members)]
        )
    )


@query
def table_of(db: Db, listener: ListenerId) -> str:
    """The name of the route configuration with a listener's routes; "" when Envoy does not serve it."""
    tables = route_configurations(db, listener.gateway)
    return next((table.name for table in tables if listener in table.members), "")
