"""The fleets, the Gateways that each one serves, and the settings of all its Envoys.

Theory of operation
===================
A fleet is a set of Envoys that share one configuration. It serves one Gateway, or with ``mergeGateways`` all
Gateways of a class. xDS resources and Envoy processes belong to a fleet; statuses belong to Gateways. The
builders of xDS resources read the ``members`` of a fleet; ``fleet_of`` is the opposite direction.

Source: EnvoyProxy ``mergeGateways``; Envoy Gateway names a merged fleet after its class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moongate.api.base import FleetId, Ref
from moongate.api.gateway import Gateway, GatewayClass
from moongate.attach.gateways import (
    ALL_IPV4,
    ALL_IPV6,
    BIND,
    GATEWAYS,
    LOCALHOST,
    fleet_proxy,
    managed,
    managed_classes,
    merges_gateways,
    rejection,
)
from moongate.engine import Failed, query
from moongate.store import find, get

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moongate.api.base import Resource
    from moongate.engine import Db


@query
def fleets(db: Db) -> tuple[FleetId, ...]:
    """All fleets, sorted. Each serves at least one Gateway."""
    owners: list[Ref] = []
    for gateway_class in managed_classes(db):
        gateways = find(db, GATEWAYS, gateway_class.name)
        merged = bool(gateways) and merges_gateways(db, gateway_class.name)
        owners += [gateway_class] if merged else gateways
    return tuple(map(FleetId, sorted(owners)))


@query
def members(db: Db, fleet: FleetId) -> tuple[Ref, ...]:
    """The Gateways that a fleet serves, the oldest first; none when there is no such fleet (any more)."""
    if not fleet.owner.is_a(GatewayClass):
        return (fleet.owner,) if managed(db, fleet.owner) and fleet_of(db, fleet.owner) == fleet else ()
    if fleet.owner not in managed_classes(db) or not merges_gateways(db, fleet.owner.name):
        return ()
    gateways = find(db, GATEWAYS, fleet.owner.name)
    return tuple(sorted(gateways, key=lambda gateway: (seniority(db, gateway), gateway)))


@query
def fleet_of(db: Db, gateway: Ref) -> FleetId:
    """The fleet that serves a Gateway, if that is ours."""
    resource = get(db, Gateway, gateway)
    if resource is None or not merges_gateways(db, resource.spec.gateway_class_name):
        return FleetId(gateway)
    return FleetId(Ref.of(GatewayClass, "", resource.spec.gateway_class_name))


@query
def keeps_what_it_has(db: Db, fleet: FleetId) -> bool:
    """Whether all Gateways of a fleet are rejected, so its Envoys keep their configuration.

    A Gateway counts as rejected if the query for it fails.
    """
    gateways = members(db, fleet)
    return bool(gateways) and all(rejection.attempt(db, gateway) is not None for gateway in gateways)


def seniority(db: Db, ref: Ref) -> tuple[bool, tuple[str, str, str]]:
    """Sorts resources of a kind by age. One of unknown age is the youngest, and displaces no other."""
    last_age = age.last_good(db, ref)
    return (True, ("", "", "")) if isinstance(last_age, Failed) else (False, last_age)


@query
def age(db: Db, ref: Ref) -> tuple[str, str, str]:
    """What sorts resources of a kind, the oldest first."""
    resource: Resource | None = db.read(ref)
    return ("", "", "") if resource is None else resource.age


@query
def bind_addresses(db: Db, fleet: FleetId) -> tuple[str, ...]:
    """The addresses that the listeners of a fleet are opened on, at least one."""
    bind: str | None = db.read(BIND)
    family = fleet_proxy(db, fleet).spec.ip_family
    if bind is None or bind == ALL_IPV4:
        return (ALL_IPV6 if family in ("IPv6", "DualStack") else ALL_IPV4,)
    if bind != LOCALHOST:
        return (bind,)
    gateways = (get(db, Gateway, gateway) for gateway in members(db, fleet))
    addresses = [address for gateway in gateways if gateway is not None for address in gateway.spec.addresses]
    own = tuple(dict.fromkeys(a.value for a in addresses if a.type == "IPAddress" and a.value))
    return own or _LOOPBACKS[family]


def takes_ipv4(db: Db, fleet: FleetId, address: str) -> bool:
    """Whether a listener of a fleet at one of its ``bind_addresses``, an IPv6 address, takes IPv4 as well."""
    return address == ALL_IPV6 and fleet_proxy(db, fleet).spec.ip_family == "DualStack"


_LOOPBACKS: Final[Mapping[str | None, tuple[str, ...]]] = {
    None: ("127.0.0.1",),
    "IPv4": ("127.0.0.1",),
    "IPv6": ("::1",),
    "DualStack": ("127.0.0.1", "::1"),
}
"""By ``ipFamily``. Without one IPv4 alone: a machine, and a container even more, may be without IPv6."""
