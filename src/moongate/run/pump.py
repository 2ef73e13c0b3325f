"""The pump: settles the world after each write, and hands out the changes.

Theory of operation
===================
Code that writes into the world calls ``on_write``. Code with another event, such as an Envoy that became
ready, calls ``wake``. Both begin a *turn*. A turn settles the world in slices of a few milliseconds, and the
event loop runs between them. Endpoints that changed in the meantime are settled and handed out after each
slice, so they do not wait for the rest. When the world is settled, the turn hands out all other changes, and
then looks at the answers of the Envoys; both in slices too.

A write of thousands of resources is cut in slices too, by who writes. While it goes on (``writing``), half of
it is in the world, so the pump stands still: nothing is settled or handed out until all of it is there.

Facts
-----
* a write during a turn belongs to that turn if the turn still settles it; writes are counted, and ``settled``
  returns when all writes before its call are handed out
* what is excluded from garbage collection is never freed if it ends as a circle of garbage, as Envoys and
  their streams do. So objects are excluded only when very many are new, or a turn has made many: a small
  change leaves its own to Python. What is large and may come to an end, as a fleet, breaks its own circles
* an Envoy's answer can cause further writes (a quarantine). They are counted separately: a caller that waits
  for its own write also waits for them, but not for writes of others
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from moongate.loading import NewObjects

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator

    from moongate.world import Changes, World

SLICE_S: Final = 0.003
"""Seconds of work before the event loop runs again.

An endpoint waits for several slices on its way, so one slice is much shorter than the time that it may wait.
"""

PASSES: Final = 3
"""How often the event loop runs between two slices.

What comes from outside passes through several callbacks, one after another, and would wait for a slice before
each of them.
"""


class Outlet(Struct, frozen=True):
    """The receivers of the changes of a world.

    Args:
        publish_endpoints: receives changed endpoints, in the middle of a turn.
        publish: receives all other changes, at the end of a turn; in steps.
        observe: looks at the answers of the Envoys, in steps; it may write into the world because of them.
    """

    publish_endpoints: Callable[[Changes], None]
    publish: Callable[[Changes], Iterator[None]]
    observe: Callable[[], Iterator[None]]


class Pump:
    """Settles a world after each change. ``slices`` counts how often a turn paused for the event loop."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._wake = asyncio.Event()
        self._turned = asyncio.Event()
        self._whole = asyncio.Event()
        self._writers = 0
        """How many writes are half done."""
        self._written = self._published = self._answered = self._turns = 0
        self._turning = False
        self._new = NewObjects()
        self.slices = 0

    @property
    def settling(self) -> bool:
        """Whether something that was written is not handed out yet."""
        return self._published < self._written

    def wake(self) -> None:
        """Begin a turn, because an Envoy or a process changed its state."""
        self._wake.set()

    def on_write(self) -> None:
        """Begin a turn, because a cell of the world was written."""
        self._written += 1
        self._wake.set()

    def on_answer(self) -> None:
        """Begin a turn, because a cell of the world was written in consequence of an Envoy's answer."""
        self._answered += 1
        self.on_write()

    @contextmanager
    def writing(self) -> Generator[None]:
        """What is written inside is one write: nothing is settled or handed out until the end."""
        self._writers += 1
        self._whole.clear()
        try:
            yield
        finally:
            self._writers -= 1
            if not self._writers:
                self._whole.set()

    async def run(self, outlet: Outlet) -> None:
        """Run turns until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._turning = True
            self._new = NewObjects()
            await self._take(self._world.settle(), outlet)
            written = self._written  # All of it is settled, except for endpoints if very many come.
            await self._take(outlet.publish(self._world.take()), outlet)
            if self._world.settled:
                await self._take(outlet.observe(), outlet)
            # Else something was written while much was handed out: the next turn looks at the answers.
            if self._world.settled:
                self._published = written
            else:
                self._wake.set()
            self._turns += 1
            self._turning = False
            self._turned.set()
            await asyncio.sleep(0)

    async def _take(self, steps: Iterator[None], outlet: Outlet) -> None:
        """Run steps in slices. Between slices, changed endpoints are handed out and the event loop runs."""
        while True:
            await self._all_written()
            # Endpoints have a slice of their own: they do not wait for the rest, nor can they starve it.
            run_slice(self._world.settle(urgent=True))
            endpoints = self._world.take(urgent=True)
            outlet.publish_endpoints(endpoints)
            if endpoints:
                await run_others()  # they are sent
                await self._all_written()
            if run_slice(steps):
                return
            self.slices += 1
            await run_others()
            if self._new.are_many:
                # What comes meanwhile waits for this or for a slice, and not for both.
                self._new.exclude()
                await run_others()

    async def until(self, claim: Callable[[], bool]) -> None:
        """Return when ``claim()`` is true. It is called after each turn."""
        while not claim():
            self._turned.clear()
            await self._turned.wait()

    async def settled(self, acknowledged: Callable[[], Awaitable[None]]) -> None:
        """Return when all writes before the call are handed out and acknowledged.

        Args:
            acknowledged: returns when the Envoys have acknowledged all that was handed out before its call.
        """
        while True:
            # Do not wait for later writes of others, but wait for writes that Envoy's answers cause.
            written, answered = self._written, self._answered
            await self.until(partial(self._has_published, written))
            await acknowledged()
            # Those answers are seen in the next turn. A turn that has begun already may miss them.
            await self.until(partial(self._has_turned, self._turns + self._turning + self._wake.is_set()))
            if self._answered == answered:
                return

    async def _all_written(self) -> None:
        while self._writers:
            await self._whole.wait()

    def _has_published(self, written: int) -> bool:
        return self._published >= written

    def _has_turned(self, turns: int) -> bool:
        return self._turns >= turns


async def run_others() -> None:
    """Let the event loop run callbacks, and those that follow from them."""
    for _ in range(PASSES):
        await asyncio.sleep(0)


async def run_in_slices(steps: Iterator[None]) -> None:
    """Run steps in slices, between which the event loop runs."""
    if run_slice(steps):
        return
    new = NewObjects()
    await run_others()
    while not run_slice(steps):
        await run_others()
        if new.are_many:
            new.exclude()
            await run_others()


def run_slice(steps: Iterator[None]) -> bool:
    """Run steps for the length of a slice. Whether none is left."""
    end = perf_counter() + SLICE_S
    return all(perf_counter() <= end for _ in steps)
