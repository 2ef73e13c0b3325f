"""Envoys that owe an answer for too long."""

from __future__ import annotations

import asyncio
import time

from moongate.ads.lateness import Lateness
from tests.deadline import DEADLINE_S

PERIOD_S = 0.05


class Fleet:
    """A fleet that has answered up to some edit, and the changes of its lateness."""

    def __init__(self, seconds: float = PERIOD_S) -> None:
        self.answered = 0
        self.newest = 0
        self.changed = asyncio.Event()
        self.lateness = Lateness(seconds, self.changed.set)

    def look(self, *, newest: int | None = None, answered: int | None = None) -> None:
        self.newest = self.newest if newest is None else newest
        self.answered = self.answered if answered is None else answered
        self.lateness.look(self.newest, lambda seq: seq <= self.answered)

    async def change(self) -> bool:
        """Whether it is late after the next change."""
        async with asyncio.timeout(DEADLINE_S):
            await self.changed.wait()
        self.changed.clear()
        return self.lateness.since is not None


async def test_an_edit_that_is_not_answered_for_makes_late_until_it_is() -> None:
    fleet = Fleet()
    before = asyncio.get_running_loop().time()
    fleet.look(newest=1)

    assert await fleet.change()
    assert fleet.lateness.since is not None
    assert before <= fleet.lateness.since <= asyncio.get_running_loop().time() - PERIOD_S

    fleet.look(answered=1)
    assert not await fleet.change()


async def test_who_is_always_some_edits_behind_is_not_late() -> None:
    """A busy gateway gets edits all the time, and each one is answered for."""
    fleet = Fleet(1000)
    fleet.look(newest=1)
    for edit in range(2, 100):
        fleet.look(newest=edit)
        fleet.look(answered=edit - 1)

    assert fleet.lateness.since is None
    assert not fleet.changed.is_set()


async def test_an_answer_to_an_older_edit_does_not_end_the_wait_for_a_newer_one() -> None:
    """Envoy may hang at any edit."""
    fleet = Fleet()
    fleet.look(newest=1)
    fleet.look(newest=2)
    fleet.look(answered=1)

    assert await fleet.change()


async def test_nothing_runs_while_nothing_is_owed() -> None:
    """No polling: a gateway at rest costs nothing."""
    fleet = Fleet()
    fleet.look(newest=1, answered=1)
    fleet.look(newest=2, answered=1)
    fleet.look(answered=2)
    fleet.look()

    later = asyncio.Event()
    asyncio.get_running_loop().call_later(3 * PERIOD_S, later.set)
    await later.wait()
    assert not fleet.changed.is_set()


async def test_a_fleet_that_ends_is_no_longer_late() -> None:
    fleet = Fleet()
    fleet.look(newest=1)
    assert await fleet.change()

    fleet.lateness.cancel()

    assert not await fleet.change()


async def test_who_stood_still_itself_blames_nobody() -> None:
    """After a SIGSTOP of moongate, answers of Envoys may have come that nobody has read."""
    fleet = Fleet()
    fleet.look(newest=1)
    time.sleep(2 * PERIOD_S)  # noqa: ASYNC251 - this is the standstill
    asyncio.get_running_loop().call_soon(lambda: fleet.look(answered=1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert fleet.lateness.since is None
    assert not fleet.changed.is_set()
