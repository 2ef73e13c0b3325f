"""Ports of this machine that several Gateways ask for: which Gateways come first.

Theory of operation
===================
Where Envoys run on this machine, those of different fleets cannot open the same address and port. The kernel
would let the first one win, so the outcome would depend on the history. ``rivals`` decides it from the
resources alone: the Gateways that come before another one in the order of age, and ask for a port of it at an
address that *meets* one of its addresses. ``listeners`` refuses the later Gateway's listener.

In a cluster each Envoy has an address of its own, so there are no rivals.

Facts
-----
* Linux refuses a socket at an address if another socket listens at the same port on that address, or if one
  of the two is open for all addresses of its family
* a socket for all IPv6 addresses takes IPv4 as well, unless it is restricted to IPv6

Source: Gateway API, reason ``PortUnavailable`` of a listener; GEP-713 for the order of age.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, NamedTuple

from moongate.api.base import FleetId, Ref
from moongate.api.gateway import Gateway
from moongate.api.listenerset import ListenerSet
from moongate.attach.fleets import bind_addresses, fleet_of, seniority, takes_ipv4
from moongate.attach.gateways import ALL_IPV4, ALL_IPV6, on_host
from moongate.attach.listener_sets import known_gateway_of
from moongate.engine import Failed, query
from moongate.store import Index, find

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.engine import Db


class Claim(NamedTuple):
    """A Gateway that asks for a port, and the fleet whose Envoys would open it."""

    gateway: Ref
    fleet: FleetId


def _by_port(owner: Gateway | ListenerSet) -> Iterator[tuple[int, Ref]]:
    for port in dict.fromkeys(listener.port for listener in owner.spec.listeners):
        yield port, owner.ref


PORT_USERS: Index[Gateway | ListenerSet, Ref] = Index("port-users", (Gateway, ListenerSet), _by_port)
"""Port, as it is written → Gateways and ListenerSets with a listener on it."""


def listening(db: Db, port: int) -> tuple[Ref, ...]:
    """The Gateways and ListenerSets with a listener on a port, as it is written, sorted."""
    return find(db, PORT_USERS, port)


@query
def claims(db: Db, port: int) -> tuple[Claim, ...]:
    """The Gateways that ask for a port of this machine, the oldest first; none in a cluster.

    One whose fleet is not known, and never was, is taken to have Envoys of its own: others must not fail with
    it.
    """
    if not on_host(db):
        return ()
    candidates = {known_gateway_of(db, owner) for owner in listening(db, port)}
    gateways = sorted(
        (gateway for gateway in candidates if gateway is not None),
        key=lambda gateway: (seniority(db, gateway), gateway),
    )
    known = ((gateway, fleet_of.last_good(db, gateway)) for gateway in gateways)
    return tuple(
        Claim(gateway, FleetId(gateway) if isinstance(fleet, Failed) else fleet) for gateway, fleet in known
    )


def rivals(db: Db, gateway: Ref, port: int) -> Iterator[Claim]:
    """The claims on a port that come before the claim of a Gateway, and cannot be served together with it.

    The first of them has the port nearly always, so a caller that stops there reads one, however many ask.
    """
    fleet = fleet_of(db, gateway)
    for claim in claims(db, port):
        if claim.gateway == gateway:
            return
        if claim.fleet != fleet and _meet(db, claim.fleet, fleet):
            yield claim


@query
def _meet(db: Db, one: FleetId, other: FleetId) -> bool:
    """Whether the Envoys of two fleets cannot open the same port; so as long as it is not known."""
    return any(
        mine == theirs or (mine.version == theirs.version and None in (mine.address, theirs.address))
        for mine in _interfaces(db, one)
        for theirs in _interfaces(db, other)
    )


class _Interfaces(NamedTuple):
    """The addresses of one IP version that a socket is open for: a single one, or all (``None``)."""

    version: int
    address: str | None


_ALL: Final = (_Interfaces(4, None), _Interfaces(6, None))


def _interfaces(db: Db, fleet: FleetId) -> tuple[_Interfaces, ...]:
    addresses = bind_addresses.last_good(db, fleet)
    if isinstance(addresses, Failed):
        return _ALL
    return tuple(
        each for host in addresses for each in _interfaces_of(host, ipv4=takes_ipv4(db, fleet, host))
    )


def _interfaces_of(host: str, *, ipv4: bool) -> tuple[_Interfaces, ...]:
    if host == ALL_IPV6:
        return _ALL if ipv4 else (_Interfaces(6, None),)
    if host == ALL_IPV4:
        return (_Interfaces(4, None),)
    try:
        address = ip_address(host)
    except ValueError:
        return (_Interfaces(0, host),)  # Envoy refuses it.
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if int(address) == 0:
        return (_Interfaces(address.version, None),)
    return (_Interfaces(address.version, str(address)),)
