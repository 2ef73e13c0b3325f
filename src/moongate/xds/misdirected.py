"""Requests on a connection of HTTPS that belong to another listener of the same port.

A client may reuse a connection for every hostname that the certificate covers (HTTP/2 and HTTP/3 do). But the
listener was chosen in the TLS handshake, and has the policies and routes of its own hostname alone. So where
another listener is the one for the Host of a request, it is answered with 421, upon which a client opens
another connection. A Host that no listener is for is answered with 404, as ever.

Source: Gateway API, ``Listener.hostname`` and GEP-3567; RFC 9110, 421 Misdirected Request. Envoy Gateway does
not do this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from moongate.attach.envoy_listeners import envoy_listeners
from moongate.attach.gateways import config
from moongate.attach.listeners import SECURE, last_judged_at
from moongate.attach.patch_policies import named_resources
from moongate.attach.routes import ANY, intersection
from moongate.engine import query
from moongate.xds.wire import ROUTE, encode, message_field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from moongate.api.base import FleetId, ListenerId
    from moongate.engine import Db

MISDIRECTED: Final = 421
MOST_NEIGHBOURS: Final = 64
"""Up to so many other hostnames of its port a listener knows. With more, each that comes or goes would
change hundreds of tables."""


class Neighbours(NamedTuple):
    """The hostnames of a port of HTTPS, and of TLS.

    Args:
        own: the hostname of one listener; "" for any.
        others: those of the others, sorted.
    """

    own: str
    others: tuple[str, ...]


@query
def neighbours(db: Db, fleet: FleetId, chain: str) -> Neighbours | None:
    """The hostnames of the port of an HTTPS chain; ``None`` when there are no others, or it is not HTTPS."""
    if not config(db).runtime_flags.on("MisdirectedRequests"):
        return None
    return _neighbours(db, fleet).get(chain)


@query
def _neighbours(db: Db, fleet: FleetId) -> Mapping[str, Neighbours]:
    """What ``neighbours`` says of each HTTPS chain of a fleet that has any."""
    by_chain: dict[str, Neighbours] = {}
    for envoy in envoy_listeners(db, fleet):
        groups = [group for group in envoy.groups if group.kind in SECURE]
        own = {group.name: _hostname(db, group.members[0]) for group in groups}
        hostnames = sorted({*own.values(), *(_hostname(db, each) for each in envoy.shut)})
        if not 1 < len(hostnames) <= MOST_NEIGHBOURS + 1:
            continue
        for group in groups:
            if group.kind == "HTTPS":
                mine = own[group.name]
                by_chain[group.name] = Neighbours(mine, tuple(host for host in hostnames if host != mine))
    return by_chain


def virtual_hosts(db: Db, fleet: FleetId, chain: str, has: Callable[[str], bool]) -> Iterator[bytes]:
    """The encoded entries for what is misdirected to an HTTPS chain.

    Args:
        db: what is read.
        fleet: whose chain it is.
        chain: its name, and that of its route configuration.
        has: whether a hostname has a virtual host in the route configuration anyway.
    """
    at = neighbours(db, fleet, chain)
    if at is None or (ROUTE, chain) in named_resources(db, fleet):
        # A patch is written for the virtual hosts that routes have, and may add such hostnames itself.
        return
    others = [host for host in at.others if not has(host or ANY)]
    if others:
        host = VirtualHost(name=f"{chain}/misdirected", domains=[host or ANY for host in others])
        route = host.routes.add(name=f"{chain}/misdirected")
        route.match.prefix = "/"
        route.direct_response.status = MISDIRECTED
        yield _entry(host)
    if at.own and not has(at.own) and any(intersection(at.own, other) == at.own for other in others):
        # A wider one would answer for it.
        yield _entry(VirtualHost(name=f"{chain}/directed", domains=[at.own]))


def _entry(host: VirtualHost) -> bytes:
    return message_field(RouteConfiguration.VIRTUAL_HOSTS_FIELD_NUMBER, encode(host))


def _hostname(db: Db, listener: ListenerId) -> str:
    own = last_judged_at(db, listener)
    return own.hostname if own is not None else ""
