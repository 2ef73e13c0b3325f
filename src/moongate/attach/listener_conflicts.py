"""Which listeners of one Gateway cannot be served together with others of it, and which overlap.

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

Source: Gateway API, ``Listener``, GEP-1713 (ListenerSets) and GEP-3567 (overlapping TLS); the reference.
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
CERTIFICATES: Final = "OverlappingCertificates"
"""The reason of a listener with a certificate that holds for hostnames of another one."""
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


class SecurePlace(NamedTuple):
    """What a listener of HTTPS serves: its port and hostname, and the names of its certificates."""

    id: ListenerId
    port: int
    hostname: str
    sans: tuple[str, ...]


class Overlap(NamedTuple):
    """That clients may take a listener for another: the reason of its condition, and a message."""

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
    lost: dict[ListenerId, Conflict] = {}
    for port, sharing in _grouped(places, lambda place: place.port).items():
        lost.update(_of_protocols(port, [place for place in sharing if place.protocol != "UDP"]))
    apart = [p for p in places if p.protocol not in ("TCP", "UDP") and p.id not in lost]
    for (port, hostname), sharing in _grouped(apart, lambda place: (place.port, place.hostname)).items():
        lost.update(_of_hostnames(port, hostname, sharing))
    for protocol in ("TCP", "UDP"):
        alike = [place for place in places if place.protocol == protocol]
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


def overlaps(places: Sequence[SecurePlace]) -> dict[ListenerId, Overlap]:
    """The listeners of HTTPS that clients may take for another one of their port.

    An overlap of certificates counts before one of hostnames. Of several others, the first counts.
    """
    found: dict[ListenerId, Overlap] = {}
    for sharing in _grouped(places, lambda place: place.port).values():
        if len(sharing) == 1:
            continue
        sans = _Names((san, n) for n, place in enumerate(sharing) for san in place.sans)
        hostnames = _Names((place.hostname, n) for n, place in enumerate(sharing))
        for n, place in enumerate(sharing):
            clash = min((c for san in place.sans if (c := sans.first(san, but=n)) is not None), default=None)
            if clash is not None:
                other = sharing[clash]
                mine, theirs = next((a, b) for a in place.sans for b in other.sans if _overlap(a, b))
                message = (
                    f"The certificate's name {mine} overlaps with {theirs} of listener {called(other.id)}. "
                    "So that browsers do not send requests for one over a connection of the other, HTTP/2 is "
                    "not offered unless a ClientTrafficPolicy sets alpnProtocols."
                )
                found[place.id] = Overlap(CERTIFICATES, message)
            elif (near := hostnames.first(place.hostname, but=n)) is not None:
                other = sharing[near]
                message = (
                    f"The hostname {place.hostname or '(any)'} overlaps with {other.hostname or '(any)'} of "
                    f"listener {called(other.id)}."
                )
                found[place.id] = Overlap("OverlappingHostnames", message)
    return found


class _Names:
    """Names of listeners, to find the first listener with one that overlaps with another name.

    Args:
        names: each with the number of its listener, in order; "" for any name.
    """

    def __init__(self, names: Iterable[tuple[str, int]]) -> None:
        self._all: list[int] = []
        self._named: dict[str, list[int]] = {}
        self._under: dict[str, list[int]] = {}
        """Wildcard → those with a name that it covers."""
        for name, at in names:
            self._note(self._all, at)
            self._note(self._named.setdefault(name, []), at)
            if name and not name.startswith("*."):
                self._note(self._under.setdefault(_wildcard(name), []), at)

    def first(self, name: str, *, but: int) -> int | None:
        """The first listener other than ``but`` with a name that stands for some name as ``name`` does."""
        near = [self._named.get("", [])]
        if not name:
            near.append(self._all)
        else:
            near.append(self._named.get(name, []))
            near.append(
                self._under.get(name, []) if name.startswith("*.") else self._named.get(_wildcard(name), [])
            )
        return min((at for some in near for at in some if at != but), default=None)

    def _note(self, some: list[int], at: int) -> None:
        # To find one other than a certain one, the first two are enough.
        if len(some) < 2 and at not in some:
            some.append(at)


def _wildcard(name: str) -> str:
    """The wildcard of certificates that covers a name: ``*`` is one label."""
    return "*." + name.partition(".")[2]


def _overlap(one: str, other: str) -> bool:
    """Whether both stand for some name. ``*`` is one label, as in certificates; "" is any name."""
    if one == other or not one or not other:
        return True
    return _covers(one, other) or _covers(other, one)


def _covers(wildcard: str, host: str) -> bool:
    first, _, rest = host.partition(".")
    return wildcard.startswith("*.") and first != "*" and rest == wildcard[2:]


def _named(places: Iterable[Place]) -> str:
    return ", ".join(sorted(place.id.name for place in places))


def _grouped(places: Iterable[P], key: Callable[[P], K]) -> dict[K, list[P]]:
    groups: dict[K, list[P]] = defaultdict(list)
    for place in places:
        groups[key(place)].append(place)
    return groups
