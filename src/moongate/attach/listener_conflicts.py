"""Which listeners of one Gateway cannot be served together with others of it.

Theory of operation
===================
The listeners of a Gateway stand in the order of precedence: its own, and then those of its ListenerSets, the
oldest set first. All functions here are pure, and take time in proportion to the number of listeners: a
Gateway may have a thousand ListenerSets.

Rules
=====
1. Where neither of two listeners of one owner is older, neither wins: both are refused, and no order of the
   spec matters.
2. A Gateway goes before its ListenerSets, and an older set before a younger one. So whoever comes later never
   takes a port or hostname from another team.
3. A ListenerSet that disagrees with itself about the protocol of a port has no say in it. So it takes the
   port from nobody.

Source: Gateway API, ``Listener``, GEP-1713 (ListenerSets); the reference.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from moongate.api.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from moongate.api.base import ListenerId

K = TypeVar("K")
P = TypeVar("P")

HOSTNAME: Final = "HostnameConflict"
"""The reason of a listener whose hostname another one has on its port."""
PROTOCOL: Final = "ProtocolConflict"
"""The reason of a listener whose port is used with another protocol."""
PORT_UNAVAILABLE: Final = "PortUnavailable"
"""The reason of a listener whose port cannot be opened for it."""


class Place(NamedTuple):
    """What a listener asks for."""

    id: ListenerId
    protocol: str
    port: int
    hostname: str


class Conflict(NamedTuple):
    """Why a listener cannot be served together with others: the reason of its conditions, and a message."""

    reason: str
    message: str


def transport(protocol: str) -> str:
    """Listeners of different transports exclude each other. HTTPS and TLS do not: the hostname decides."""
    return "TLS" if protocol == "HTTPS" else protocol


def container_port(port: int, shift: int) -> int:
    """The port on which Envoy listens for a port of a listener."""
    return port + shift if port < 1024 else port


def called(listener: ListenerId) -> str:
    """The name of a listener, for one who may look for it in its Gateway."""
    of_set = listener.owner != listener.gateway
    return f"{listener.name} of {listener.owner}" if of_set else listener.name


def conflicts(places: Sequence[Place], shift: int) -> dict[ListenerId, Conflict]:
    """The listeners of a Gateway that cannot be served because of others of it.

    Args:
        places: what they ask for, in the order of precedence.
        shift: what is added to privileged ports.
    """
    if len(places) < 2:
        return {}
    lost: dict[ListenerId, Conflict] = {}
    for port, sharing in _grouped(places, lambda place: place.port).items():
        lost.update(_of_protocols(port, [place for place in sharing if place.protocol != "UDP"]))
    apart = [p for p in places if p.protocol not in ("TCP", "UDP") and p.id not in lost]
    for (port, hostname), sharing in _grouped(apart, lambda place: (place.port, place.hostname)).items():
        lost.update(_of_hostnames(port, hostname, sharing))
    for protocol in ("TCP", "UDP"):
        alike = [place for place in places if place.protocol == protocol and place.id not in lost]
        for port, (first, *later) in _grouped(alike, lambda place: place.port).items():
            message = f"Port {port} is taken by listener {called(first.id)}, of the same protocol."
            for place in later:
                lost.setdefault(place.id, Conflict(PROTOCOL, message))
    lost.update(_of_shifted_ports([place for place in places if place.id not in lost], shift))
    return lost


def _of_protocols(port: int, sharing: list[Place]) -> Iterator[tuple[ListenerId, Conflict]]:
    if len({transport(place.protocol) for place in sharing}) <= 1:
        return
    first: Place | None = None
    for owner, own in _grouped(sharing, lambda place: place.id.owner).items():
        if len({transport(place.protocol) for place in own}) > 1:
            message = f"Port {port} is asked for with protocols that exclude each other, by {_named(own)}."
            yield from ((place.id, Conflict(PROTOCOL, message)) for place in own)
            if owner.is_a(Gateway):
                message = f"The listeners of {owner} exclude each other at port {port}: {_named(own)}."
                others = (place for place in sharing if place.id.owner != owner)
                yield from ((place.id, Conflict(PROTOCOL, message)) for place in others)
                return
            continue
        first = first or own[0]
        if transport(own[0].protocol) != transport(first.protocol):
            message = (
                f"Port {port} has the protocol {first.protocol}, because of listener {called(first.id)}, "
                "which comes first."
            )
            yield from ((place.id, Conflict(PROTOCOL, message)) for place in own)


def _of_hostnames(port: int, hostname: str, sharing: list[Place]) -> Iterator[tuple[ListenerId, Conflict]]:
    (owner, own), *later = _grouped(sharing, lambda place: place.id.owner).items()
    host = hostname or "(any)"
    if len(own) > 1:
        message = f"Port {port} has several listeners for hostname {host}: {_named(own)}."
        yield from ((place.id, Conflict(HOSTNAME, message)) for place in own)
    what = f"several listeners of {owner}" if len(own) > 1 else f"listener {called(own[0].id)}"
    message = f"Hostname {host} of port {port} belongs to {what}, which comes first."
    yield from ((place.id, Conflict(HOSTNAME, message)) for _, places in later for place in places)


def _of_shifted_ports(places: Iterable[Place], shift: int) -> Iterator[tuple[ListenerId, Conflict]]:
    """80 and 10080 are one port to Envoy where privileged ports are shifted; the first has it."""
    taken: dict[tuple[bool, int], int] = {}
    for place in places:
        at = container_port(place.port, shift)
        other = taken.setdefault((place.protocol == "UDP", at), place.port)
        if other != place.port:
            message = (
                f"Envoy would listen on port {at} for it, as it does for a listener of port {other} already."
            )
            yield place.id, Conflict(PORT_UNAVAILABLE, message)


def _named(places: Iterable[Place]) -> str:
    return ", ".join(sorted(place.id.name for place in places))


def _grouped(places: Iterable[P], key: Callable[[P], K]) -> dict[K, list[P]]:
    groups: dict[K, list[P]] = defaultdict(list)
    for place in places:
        groups[key(place)].append(place)
    return groups
