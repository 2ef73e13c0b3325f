"""When an Envoy asks again for a port that another process had."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from time import monotonic

import pytest

from moongate.infra.port_handover import LEAST, PortHandover
from tests.deadline import DEADLINE_S


def test_a_handover_begins_when_another_envoy_leaves_ports() -> None:
    """Without one, the port belongs to another program, and its user is told so at once."""
    handover = PortHandover()
    assert not handover.under_way

    handover.begin()

    assert handover.under_way


async def test_a_handover_to_an_envoy_that_starts_is_not_cut_short_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its user would be told for a moment that a port is taken, which is about to be left."""
    handover = PortHandover()
    handover.begin(1000)

    handover.begin()
    await ask(handover, LEAST)
    monkeypatch.setattr("moongate.infra.port_handover.monotonic", lambda: monotonic() + 10)

    assert handover.under_way


async def test_a_handover_does_not_end_because_the_machine_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An Envoy that had no time to ask again would be said to want a port of another program."""
    handover = PortHandover()
    handover.begin()
    monkeypatch.setattr("moongate.infra.port_handover.monotonic", lambda: monotonic() + 10)

    await ask(handover, LEAST - 1)
    assert handover.under_way

    await ask(handover, 1)
    assert not handover.under_way


async def ask(handover: PortHandover, times: int) -> None:
    for _ in range(times):
        await handover.time_to_ask()


@pytest.mark.parametrize("event", [PortHandover.begin, PortHandover.cancel])
async def test_a_wait_ends_when_ports_are_left_and_when_the_envoy_is_to_end(
    monkeypatch: pytest.MonkeyPatch, event: Callable[[PortHandover], None]
) -> None:
    """Otherwise it would have no end here."""
    monkeypatch.setattr("moongate.infra.port_handover.RETRY_S", inf)
    handover = PortHandover()
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(handover.time_to_ask())
        await asyncio.sleep(0)
        event(handover)


async def test_an_event_from_before_the_wait_does_not_end_it() -> None:
    """The last handover may be long over, and then nobody has left ports since."""
    handover = PortHandover()
    handover.cancel()
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(handover.time_to_ask())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
        handover.cancel()
