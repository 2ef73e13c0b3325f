"""Ports of UDP that one Envoy serves while another one drains them."""

from __future__ import annotations

from moongate.ads.events import Acknowledged
from moongate.ads.needs import Socket, addresses
from moongate.ads.udp_ports import Draining
from moongate.api.base import Ref
from moongate.api.gateway import Gateway
from moongate.running_fleet import RunningFleet
from moongate.shared_udp_ports import note_ports, shared_ports
from moongate.xds.wire import LISTENER
from tests.core import EG, gateway
from tests.fleets import unstarted

LATER = Draining(60.0, "noon")


def acknowledged(*versions: tuple[str, str], gone: tuple[str, ...] = ()) -> Acknowledged:
    return Acknowledged(
        fleet="default/eg", node="eg", stream=1, type_url=LISTENER, versions=versions, gone=gone
    )


def serving() -> tuple[RunningFleet, Socket]:
    """A fleet with a listener of UDP, and where its Envoy has that open."""
    world, fleet = unstarted(gateway("{name: dns, port: 8053, protocol: UDP}"))
    listeners = world.xds()["default/eg"][LISTENER]
    [(name, listener)] = listeners.items()
    assert not note_ports(fleet, acknowledged((name, "older")), listeners, LATER)
    [socket] = addresses(listener)
    assert fleet.served_at(socket) == ()

    assert not note_ports(fleet, acknowledged((name, listener.version)), listeners, LATER)

    return fleet, socket


async def test_a_port_is_served_that_an_envoy_has_in_the_newest_version() -> None:
    fleet, socket = serving()

    assert [member.name for member in fleet.served_at(socket)] == ["dns"]


async def test_a_listener_that_goes_drains_its_port() -> None:
    fleet, socket = serving()

    assert note_ports(fleet, acknowledged(gone=("default/eg/dns",)), {}, LATER)
    assert fleet.served_at(socket) == ()


async def test_who_serves_a_port_that_another_drains_is_said_until_when() -> None:
    fleet, socket = serving()
    other = Socket(socket.host, 8054, is_udp=True)
    draining = {socket: ("default/former", LATER), other: ("default/former", LATER)}

    [shared] = shared_ports(fleet, EG, draining)

    assert shared.name == "dns"
    assert shared.message.startswith("Until noon the Envoy of default/former has port 8053 of UDP open")
    assert list(shared_ports(fleet, Ref.of(Gateway, "default", "other"), draining)) == []
