"""The pump: settles the world after each write, and hands out what differs.

Theory of operation
===================
After a write into the world the writer calls ``on_write``; after another event, for example when an Envoy
became ready, the caller calls ``wake``. Then a *turn* begins. It settles the world in slices of a few
milliseconds, and the event loop runs between the slices. Endpoints that changed in the meantime are settled
and handed out after each slice, so they do not wait. When all is settled, the turn hands out the other
changes and handles the answers of Envoys, in slices as well.

Facts
-----
* a write while a turn runs is part of that turn as far as it is settled; writes are counted, and
  ``settled`` returns when those before its call are handed out
* an Envoy's answer can lead to further writes (a quarantine); they are counted apart, as a caller that waits
  for its own write waits for them too, but not for writes of others
"""

from __future__ import annotations

import asyncio
import gc
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from moongate.world import Changes, World

SLICE_S: Final = 0.003
"""Seconds that the world is settled before the event loop has its turn.

News that pass through several callbacks wait as often, so it is short beside what an endpoint may wait.
"""


class Outlet(Struct, frozen=True):
    """Where the changes of a world go.

    Args:
        publish_endpoints: takes endpoints that changed, in the middle of a turn.
        publish: takes what differs, at the end of a turn.
        observe: looks at what the Envoys have answered, in steps, and may write into the world because of it.
    """

    publish_endpoints: Callable[[Changes], None]
    publish: Callable[[Changes], None]
    observe: Callable[[], Iterator[None]]


class Pump:
    """Settles a world whenever there is a reason to. ``slices`` counts how often a turn gave way."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._wake = asyncio.Event()
        self._turned = asyncio.Event()
        self._written = self._published = self._answered = self._turns = 0
        self._turning = False
        self.slices = 0

    def wake(self) -> None:
        """Begin a turn: there are facts to look at."""
        self._wake.set()

    def on_write(self) -> None:
        """Begin a turn: something was written into cells of the world."""
        self._written += 1
        self._wake.set()

    def on_answer(self) -> None:
        """Begin a turn: something was written into cells of the world because of what an Envoy answered."""
        self._answered += 1
        self.on_write()

    async def run(self, outlet: Outlet) -> None:
        """Take turns until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._turning = True
            await self._take(self._world.settle(), outlet)
            written = self._written  # all of it is settled, but for endpoints if they come as a flood
            outlet.publish(self._world.take())
            await self._take(outlet.observe(), outlet)
            if self._world.settled:
                self._published = written
            else:
                self._wake.set()
            self._turns += 1
            self._turning = False
            self._turned.set()
            await asyncio.sleep(0)

    async def _take(self, steps: Iterator[None], outlet: Outlet) -> None:
        """Take steps in slices; the event loop runs in between, and endpoints are handed out."""
        while True:
            # Each has a slice of its own: endpoints wait for no one, and a flood of them stops no one.
            _go_on(self._world.settle(urgent=True))
            outlet.publish_endpoints(self._world.take(urgent=True))
            if _go_on(steps):
                return
            self.slices += 1
            # What thousands of queries make lives long. To look through all of it would take 0.1 s and
            # more at a time, so each slice's share is looked through once, and then never again.
            gc.collect(1)
            gc.freeze()
            await asyncio.sleep(0)

    async def until(self, claim: Callable[[], bool]) -> None:
        """Return when ``claim`` holds; it is asked after each turn."""
        while not claim():
            self._turned.clear()
            await self._turned.wait()

    async def settled(self, acknowledged: Callable[[], Awaitable[None]]) -> None:
        """Return when all that was written before the call is handed out and acknowledged.

        Args:
            acknowledged: returns when the Envoys have acknowledged what was handed out before its call.
        """
        while True:
            # What others put in force meanwhile is not waited for, but what comes of Envoy's answers is.
            written, answered = self._written, self._answered
            await self.until(partial(self._has_published, written))
            await acknowledged()
            # The pump has still to see those answers; a turn that began before them does not.
            await self.until(partial(self._has_turned, self._turns + self._turning + self._wake.is_set()))
            if self._answered == answered:
                return

    def _has_published(self, written: int) -> bool:
        return self._published >= written

    def _has_turned(self, turns: int) -> bool:
        return self._turns >= turns


def _go_on(steps: Iterator[None]) -> bool:
    """Take steps for a slice. True if there are no more."""
    end = perf_counter() + SLICE_S
    return not any(perf_counter() > end for _ in steps)
