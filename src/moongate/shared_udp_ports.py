"""Ports of UDP that the Envoys of two fleets have open, since one drains what the other serves now.

The kernel gives each client of such a port to one of the two (``ads.udp_ports``). Nothing but time helps, so
the status of the Gateway that serves it says how long that lasts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.ads.needs import Socket, addresses
from moongate.status.gateways import SharedPort

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from moongate.ads.events import Acknowledged
    from moongate.ads.udp_ports import Draining
    from moongate.api.base import Ref
    from moongate.running_fleet import RunningFleet
    from moongate.xds.wire import XdsResource


def note_ports(
    fleet: RunningFleet, event: Acknowledged, listeners: Mapping[str, XdsResource], draining: Draining
) -> bool:
    """Note on which ports the listeners are open that an Envoy has answered for. Whether it drains some now.

    Args:
        fleet: that of the Envoy.
        event: its answer.
        listeners: what the fleet should have, by name.
        draining: until when it drains what it has served.
    """
    newest = ((listeners.get(name), version) for name, version in event.versions)
    opened = {each.name: addresses(each) for each, version in newest if each and each.version == version}
    closed = dict.fromkeys(event.gone, frozenset[Socket]())
    drains = [
        fleet.udp_ports.note(fleet.process.pid, name, sockets, draining)
        for name, sockets in (*opened.items(), *closed.items())
    ]
    return any(drains)


def draining_ports(
    fleets: Iterable[tuple[str, RunningFleet]], now: float
) -> dict[Socket, tuple[str, Draining]]:
    """The ports of UDP that Envoys drain, each with the fleet of one that does so longest.

    Args:
        fleets: those that run or end, with their names.
        now: the time on the clock of the event loop.
    """
    ports = (
        (socket, (name, draining))
        for name, fleet in fleets
        for socket, draining in fleet.udp_ports.draining(fleet.process.pid, now).items()
    )
    return dict(sorted(ports, key=lambda port: port[1][1].ends))


def shared_ports(
    fleet: RunningFleet, owner: Ref, draining: Mapping[Socket, tuple[str, Draining]]
) -> Iterator[SharedPort]:
    """The ports of UDP of a Gateway or ListenerSet that the Envoy of another fleet drains."""
    for socket, (former, of) in draining.items():
        for member in fleet.served_at(socket):
            if member.owner == owner:
                yield SharedPort(
                    member.name,
                    f"Until {of.until} the Envoy of {former} has port {socket.port} of UDP open, too, as it "
                    "served it before and drains it: until then some packets for a UDPRoute are lost, and "
                    "clients of HTTP/3 may have to use TCP. How long that takes is shutdown.drainTimeout of "
                    "the EnvoyProxy there.",
                )
