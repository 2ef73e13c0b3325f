"""The ports of UDP that an Envoy has open: those that it serves, and those that it only drains.

A port of UDP can be open in several processes, and the kernel gives each client to one of them. An Envoy that
is no longer to serve a port has it open until its listener has drained, and what comes to it meanwhile is
lost to the Envoy that serves it now.

Facts
-----
* Envoy closes the sockets of a listener of UDP exactly when ``--drain-time-s`` is over, whatever it drains
* an Envoy that ends closes them at once
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from moongate.ads.needs import Socket


class Draining(NamedTuple):
    """Until when an Envoy has a port open that it does not serve any more.

    Args:
        ends: on the clock of the caller.
        until: the same for users.
    """

    ends: float
    until: str


class UdpPorts:
    """The ports of UDP of one Envoy."""

    def __init__(self) -> None:
        self._pid: int | None = None
        self._served: dict[str, frozenset[Socket]] = {}
        """By listener."""
        self._draining: dict[Socket, Draining] = {}

    def note(self, pid: int | None, listener: str, sockets: Iterable[Socket], draining: Draining) -> bool:
        """Note what a listener is open on now. Returns whether it drains a port of UDP that it had.

        Args:
            pid: the process. A new one has nothing open of the former one.
            listener: its name.
            sockets: all that it is open on; none if it is removed.
            draining: until when it drains what it had.
        """
        if pid != self._pid:
            self._pid = pid
            self._served.clear()
            self._draining.clear()
        now = frozenset(socket for socket in sockets if socket.is_udp)
        before = self._served.pop(listener, frozenset())
        if now:
            self._served[listener] = now
        served = {at for sockets in self._served.values() for at in sockets}
        self._draining = {at: of for at, of in self._draining.items() if at not in served}
        self._draining |= dict.fromkeys(before - served, draining)
        return not before <= served

    def draining(self, pid: int | None, now: float) -> Mapping[Socket, Draining]:
        """The ports that a process drains."""
        if pid is None or pid != self._pid:
            return {}
        return {at: draining for at, draining in self._draining.items() if draining.ends > now}

    def serving(self, socket: Socket) -> tuple[str, ...]:
        """The listeners that are open on a port."""
        return tuple(listener for listener, sockets in self._served.items() if socket in sockets)
