"""When an Envoy asks again for a port that it could not bind.

Theory of operation
===================
A port may go from one Envoy of moongate to another: two Gateways exchange their ports, or a new Gateway takes
the port of a deleted one. Two processes cannot have it at the same time. The Envoy that gets it may ask
first, and no event says when the port is free. So whenever an Envoy of moongate leaves ports, a *handover*
begins for all others: for a short time they ask again and again, and nobody reports that the port is taken.
They ask some times at least, because time may pass in which the whole machine stands still.
If the Envoy that gets the port must still start, the handover lasts until then, and the other one keeps the
port open meanwhile (``fleets``).

If another program has the port, its user must act. So that is reported, and the Envoy asks from time to time.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Final

RETRY_S: Final = 2.0
"""Seconds until an Envoy asks again for a port that another program has."""

SOON_S: Final = 0.01
"""The same during a handover: the other Envoy closes its sockets in some milliseconds."""

HANDOVER_S: Final = 0.5
"""How long a handover lasts."""

LEAST: Final = 5
"""How often an Envoy has asked when it ends."""


class PortHandover:
    """The handover of ports to one Envoy."""

    def __init__(self) -> None:
        self._ends = -inf
        self._asked = LEAST
        """How often, since a handover began."""
        self._wake = asyncio.Event()

    @property
    def under_way(self) -> bool:
        """Whether another Envoy of moongate has just left ports, so that this one may get them soon."""
        return monotonic() < self._ends or self._asked < LEAST

    def begin(self, seconds: float = HANDOVER_S) -> None:
        """Another Envoy leaves ports, within some seconds."""
        self._ends = max(self._ends, monotonic() + seconds)
        self._asked = 0
        self._wake.set()

    def cancel(self) -> None:
        """The Envoy is to end, so nobody needs to wait any more."""
        self._wake.set()

    async def time_to_ask(self) -> None:
        """Return when the Envoy should ask again."""
        self._wake.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), SOON_S if self.under_way else RETRY_S)
        self._asked += 1
