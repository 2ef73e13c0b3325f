"""HTTPS listeners of a port that a client may take for each other, as their names overlap.

Theory of operation
===================
A browser uses an open connection for another hostname too, if the certificate covers it and HTTP/2 is spoken.
Where certificates of two listeners overlap, a request would come by the connection of the wrong one. So such
listeners do not offer HTTP/2, unless a policy says so. If the hostnames alone overlap, that is only said.

All Gateways of a fleet share its ports. ``_names_on`` has the names of a port, and finds an overlap by
look-ups: as ``*`` stands for one label, names overlap that are equal, or of which one is ``*.`` and the other
one more label before the same rest.

Source: GEP-3567 (overlapping TLS); the reference for reasons, and for certificates of other servers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Struct

from moongate.attach.fleets import fleet_of, members
from moongate.attach.listeners import all_last_judged, last_judged_at
from moongate.engine import query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from moongate.api.base import FleetId, ListenerId
    from moongate.attach.listeners import Listener
    from moongate.engine import Db

ALPN: Final = "unless a ClientTrafficPolicy sets alpnProtocols"


class Overlap(NamedTuple):
    """What overlaps with the names of a listener.

    Args:
        reason: of the condition ``OverlappingTLSConfig``.
        message: what overlaps, and what follows.
        http1_only: whether HTTP/2 is not offered for it.
    """

    reason: str
    message: str
    http1_only: bool = False


class _Name(NamedTuple):
    name: str
    listener: ListenerId


class _Port(Struct, frozen=True):
    """The names of the HTTPS listeners of a port.

    Args:
        sans: name of a certificate → the listeners that serve it.
        under: rest of a name behind its first label → names of certificates.
        hostnames: hostname → the listener; "" for any.
        hostnames_under: likewise.
        opaque: hostnames of listeners with a certificate that is not known; "" for any.
        opaque_under: likewise.
        shared: whether the port has several listeners.
    """

    sans: Mapping[str, tuple[_Name, ...]]
    under: Mapping[str, tuple[_Name, ...]]
    hostnames: Mapping[str, tuple[_Name, ...]]
    hostnames_under: Mapping[str, tuple[_Name, ...]]
    opaque: Mapping[str, tuple[_Name, ...]]
    opaque_under: Mapping[str, tuple[_Name, ...]]
    shared: bool


@query
def overlap(db: Db, listener: ListenerId) -> Overlap | None:
    """What overlaps with the names of a listener; an overlap of certificates counts most."""
    own = last_judged_at(db, listener)
    if own is None or not _takes_part(own):
        return None
    port = _names_on(db, fleet_of(db, listener.gateway), own.port)
    for mine in own.sans:
        other = next(_others(own, _meeting(mine, port.sans, port.under)), None)
        if other is not None:
            message = (
                f"The certificate's name {mine} overlaps with {other.name} of {_called(own, other)}. So that "
                "browsers do not send requests for one over a connection of the other, HTTP/2 is not offered "
                f"{ALPN}."
            )
            return Overlap("OverlappingCertificates", message, http1_only=True)
    if _meets_unknown(own, port):
        message = (
            "Certificates of another server are served on the port, and their names are not known. In case "
            f"they overlap, HTTP/2 is not offered {ALPN}."
        )
        return Overlap("SDSCertificateOpaque", message, http1_only=True)
    other = next(_others(own, _meeting_hostname(own.hostname, port)), None)
    if other is None:
        return None
    theirs = other.name or "(any)"
    message = f"The hostname {own.hostname or '(any)'} overlaps with {theirs} of {_called(own, other)}."
    return Overlap("OverlappingHostnames", message)


def _takes_part(listener: Listener) -> bool:
    return listener.ready and listener.protocol == "HTTPS"


@query
def _ports(db: Db, fleet: FleetId) -> Mapping[int, _Port]:
    judged = all_last_judged(db, members(db, fleet))
    by_port: dict[int, list[Listener]] = {}
    for each in judged:
        if _takes_part(each):
            by_port.setdefault(each.port, []).append(each)
    return {port: _port(sharing) for port, sharing in by_port.items()}


@query
def _names_on(db: Db, fleet: FleetId, port: int) -> _Port:
    return _ports(db, fleet).get(port) or _port(())


def _port(sharing: Sequence[Listener]) -> _Port:
    sans = [_Name(san, each.id) for each in sharing for san in dict.fromkeys(each.sans)]
    hostnames = [_Name(each.hostname, each.id) for each in sharing]
    opaque = [_Name(each.hostname, each.id) for each in sharing if each.has_unknown_certificate]
    by_name = (_by(names, key) for names in (sans, hostnames, opaque) for key in (_whole, _rest))
    return _Port(*by_name, shared=len(sharing) > 1)


def _by(names: list[_Name], key: Callable[[str], str]) -> dict[str, tuple[_Name, ...]]:
    groups: dict[str, list[_Name]] = {}
    for each in names:
        groups.setdefault(key(each.name), []).append(each)
    return {name: tuple(group) for name, group in groups.items()}


def _whole(name: str) -> str:
    return name


def _rest(name: str) -> str:
    return name.partition(".")[2]


def _meeting(
    name: str, names: Mapping[str, tuple[_Name, ...]], under: Mapping[str, tuple[_Name, ...]]
) -> Iterator[_Name]:
    """The names that stand for some host that a name stands for, too."""
    yield from names.get(name, ())
    rest = _rest(name)
    if name.startswith("*."):
        yield from under.get(rest, ())
    else:
        yield from names.get(f"*.{rest}", ())


def _meeting_hostname(hostname: str, port: _Port) -> Iterator[_Name]:
    if not hostname:
        for some in port.hostnames.values():
            yield from some
        return
    yield from port.hostnames.get("", ())
    yield from _meeting(hostname, port.hostnames, port.hostnames_under)


def _meets_unknown(own: Listener, port: _Port) -> bool:
    """Whether an unknown certificate may cover what a listener's covers, or the listener has one."""
    if not port.shared:
        return False  # it meets nobody
    if own.has_unknown_certificate or "" in port.opaque:
        return True
    return any(True for san in own.sans for _ in _meeting(san, port.opaque, port.opaque_under))


def _others(own: Listener, names: Iterator[_Name]) -> Iterator[_Name]:
    return (each for each in names if each.listener != own.id)


def _called(own: Listener, other: _Name) -> str:
    """Another listener, as the status of a listener names it."""
    at = "" if other.listener.owner == own.id.owner else f" of {other.listener.owner}"
    return f"listener {other.listener.name}{at}"
