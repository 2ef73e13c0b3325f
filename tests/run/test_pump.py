"""The pump: a write becomes changes that are handed out; who waits for it waits for no more than that."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import asynccontextmanager
from itertools import repeat
from typing import TYPE_CHECKING

import pytest

from moongate.run.pump import Outlet, Pump, run_others
from moongate.world import Changes, World
from moongate.xds.wire import CLUSTER, ENDPOINT
from tests import worlds
from tests.deadline import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from moongate.api.base import Resource

pytestmark = pytest.mark.usefixtures("only_own_garbage")


class Running:
    """A world with a pump, and what was handed out, in order; no Envoy."""

    def __init__(self) -> None:
        self.world = World()
        self.pump = Pump(self.world)
        self.turns: list[Changes] = []
        self.endpoints: list[tuple[int, Changes]] = []
        self.outlet = Outlet(self._endpoints, self.publish, self.observe)
        self.to_correct: list[Resource] = []
        self.to_write: list[Resource] = []
        self.to_write_amid: list[Resource] = []
        self.observed: list[int] = []
        """How many turns were handed out at each look at the answers."""

    def _endpoints(self, changes: Changes) -> None:
        """Keep what is handed out between two slices, with the turns before; then write, as a source may."""
        if changes.put:
            self.endpoints.append((len(self.turns), changes))
        while self.to_write:
            self.put(self.to_write.pop())

    def publish(self, changes: Changes) -> Iterator[None]:
        """Keep what is handed out at the end of a turn; before the last of it, write, as a source may."""
        while self.to_write_amid:
            self.put(self.to_write_amid.pop())
        yield from repeat(None, 50)
        self.turns.append(changes)

    def observe(self) -> Iterator[None]:
        """Write what an Envoy's answer would lead to, once."""
        self.observed.append(len(self.turns))
        yield
        while self.to_correct:
            self.world.apply({(resource := self.to_correct.pop()).ref: resource})
            self.pump.on_answer()

    def put(self, *resources: Resource) -> None:
        self.world.apply({resource.ref: resource for resource in resources})
        self.pump.on_write()

    async def settled(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self.pump.settled(_at_once)

    def clusters(self) -> set[str]:
        """Names of the clusters that were handed out."""
        return {
            r.name for turn in self.turns for put in turn.put.values() for r in put if r.type_url == CLUSTER
        }


async def _at_once() -> None:
    """No Envoy has anything to acknowledge."""


@asynccontextmanager
async def running(*resources: Resource) -> AsyncGenerator[Running]:
    """A pump that runs; these resources were handed out already."""
    run = Running()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(run.pump.run(run.outlet))
        if resources:
            run.put(*resources)
            await run.settled()
        yield run
        task.cancel()


@pytest.fixture
def shortest_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop runs after each step of the pump."""
    monkeypatch.setattr("moongate.run.pump.SLICE_S", 0)


@pytest.mark.slow
async def test_what_was_written_is_handed_out_when_it_is_settled() -> None:
    async with running() as run:
        run.put(*worlds.routes_with_services(2))
        await run.settled()

        assert len(run.clusters()) == 2


async def test_nothing_runs_while_nothing_is_written() -> None:
    async with running(*worlds.routes_with_services(1)) as run:
        turns = len(run.turns)

        for _ in range(100):
            await asyncio.sleep(0)

        assert len(run.turns) == turns


async def test_what_comes_of_an_answer_is_waited_for() -> None:
    """An Envoy refuses a route, the quarantine withholds it: a caller sees the end of that."""
    async with running() as run:
        *_, last = worlds.routes_with_services(2)
        run.put(*(r for r in worlds.routes_with_services(2) if r is not last))
        run.to_correct.append(last)
        await run.settled()

        assert run.world.store.resources()[last.ref] == last
        assert run.world.settled


async def test_endpoints_that_come_during_a_turn_are_handed_out_before_its_end() -> None:
    async with running(*worlds.routes_with_services(200)) as run:
        before = len(run.turns)

        run.put(*(worlds.route(n, "/other") for n in range(200)))
        run.to_write.append(worlds.endpoint_slice(7, last_octet=99))
        await run.settled()

    ((turns, changes),) = run.endpoints
    assert turns == before, "the turn was still on"
    assert {r.type_url for put in changes.put.values() for r in put} == {ENDPOINT}


@pytest.mark.usefixtures("shortest_slices")
async def test_endpoints_that_come_while_changes_are_handed_out_do_not_wait_for_the_end() -> None:
    """To hand out thousands of routes takes long, too."""
    async with running(*worlds.routes_with_services(2)) as run:
        before = len(run.turns)

        run.put(worlds.route(1, "/other"))
        run.to_write_amid.append(worlds.endpoint_slice(1, last_octet=99))
        await run.settled()

    ((turns, changes),) = run.endpoints
    assert turns == before, "not all was handed out"
    assert {r.type_url for put in changes.put.values() for r in put} == {ENDPOINT}


@pytest.mark.usefixtures("shortest_slices")
async def test_answers_are_looked_at_when_all_that_was_written_is_handed_out() -> None:
    """They are compared with what Envoys should have, so a write while changes are handed out goes first."""
    async with running() as run:
        run.put(*worlds.routes_with_services(2))
        run.to_write_amid.append(worlds.route(1, "/other"))
        await run.settled()

    assert run.observed == [2]


async def test_what_passes_through_several_callbacks_waits_for_one_slice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A changed file and an Envoy's answer do: a slice before each of them would add up."""
    monkeypatch.setattr("moongate.run.pump.SLICE_S", 0)
    async with running() as run:
        run.put(*worlds.routes_with_services(2))
        slices: list[int] = []
        for _ in range(4):
            await asyncio.sleep(0)
            slices.append(run.pump.slices)

    assert slices == [1, 1, 1, 2]


class Circle:
    """Refers to itself, so that only the garbage collector frees it."""

    def __init__(self) -> None:
        self.own = self


@pytest.mark.usefixtures("shortest_slices")
async def test_garbage_is_collected_after_a_small_change() -> None:
    """An Envoy and its streams end as circles, and a moongate that runs for months has thousands of them."""
    async with running(*worlds.routes_with_services(2)) as run:
        circle = Circle()
        alive = weakref.ref(circle)
        slices = run.pump.slices

        run.put(worlds.route(1, "/other"))
        await run.settled()
        del circle
        gc.collect()

        assert run.pump.slices > slices
        assert alive() is None


async def test_a_long_turn_leaves_no_pile_to_search_for_garbage() -> None:
    """What it makes takes the place of what it frees, so Python sees no growth until it has to search all."""
    searched: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            ages = range(info["generation"] + 1)
            searched.append(sum(len(gc.get_objects(generation=age)) for age in ages))

    async with running(*worlds.routes_with_services(300), worlds.retries(1)) as run:
        gc.collect()
        gc.freeze()
        gc.callbacks.append(note)
        try:
            for times in (2, 3):
                run.put(worlds.retries(times))
                await run.settled()
        finally:
            gc.callbacks.remove(note)
            gc.unfreeze()

    assert searched
    assert max(searched) < 10_000


@pytest.mark.usefixtures("shortest_slices")
async def test_half_a_write_is_not_settled() -> None:
    """What belongs together is put in force in slices, and no Envoy may be handed a part of it."""
    async with running(*worlds.routes_with_services(2)) as run:
        many = {resource.ref: resource for resource in worlds.routes_with_services(20)}
        with run.pump.writing():
            turns, endpoints = len(run.turns), len(run.endpoints)
            for _ in run.world.applying(many, most=1):
                run.pump.on_write()
                await run_others()
            half = run.turns[turns:], run.endpoints[endpoints:]
        run.pump.on_write()
        await run.settled()

    assert half == ([], [])
    assert len(run.clusters()) == 20


@pytest.mark.usefixtures("shortest_slices")
async def test_a_turn_that_has_begun_waits_for_a_write() -> None:
    """What it has settled so far is not handed out beside half of what comes."""
    async with running(*worlds.routes_with_services(2)) as run:
        turns, slices = len(run.turns), run.pump.slices
        run.put(*worlds.routes_with_services(10))
        while run.pump.slices == slices:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
        with run.pump.writing():
            slices = run.pump.slices
            for _ in range(100):
                await run_others()
            stood_still = run.pump.slices <= slices + 1 and len(run.turns) == turns
        await run.settled()

    assert stood_still
    assert len(run.clusters()) == 10


@pytest.mark.usefixtures("shortest_slices")
async def test_what_made_the_process_grow_is_not_searched_for_garbage() -> None:
    """It lives long, and to look through it again and again would hold up all else."""
    async with running(*worlds.routes_with_services(2)) as run:
        for many in (200_000, 100_000):  # the second time there are fewer than there were before
            large = [[n] for n in range(many)]
            frozen = gc.get_freeze_count()
            run.put(worlds.route(1, f"/with/{many}"))
            await run.settled()

            assert gc.get_freeze_count() >= frozen + many

            large.clear()
            run.put(worlds.route(1, f"/without/{many}"))
            await run.settled()
        gc.unfreeze()


@pytest.mark.usefixtures("shortest_slices")
async def test_nobody_waits_for_a_slice_and_for_a_search_for_garbage() -> None:
    """Both take some milliseconds, so the event loop runs in between."""
    seen: list[int] = []
    searches: list[tuple[int, int]] = []

    async def look(pump: Pump) -> None:
        while True:
            seen.append(pump.slices)
            await asyncio.sleep(0)

    async with running(*worlds.routes_with_services(2)) as run, asyncio.TaskGroup() as tasks:

        def note(phase: str, info: dict[str, int]) -> None:
            if phase == "start" and info["generation"] == 2:
                searches.append((run.pump.slices, seen[-1]))

        looking = tasks.create_task(look(run.pump))
        large = [[n] for n in range(100_000)]
        await asyncio.sleep(0)
        gc.callbacks.append(note)
        try:
            run.put(worlds.route(1, "/other"))
            await run.settled()
        finally:
            gc.callbacks.remove(note)
            looking.cancel()
            gc.unfreeze()

    assert large
    assert searches
    assert [slices for slices, last_seen in searches if slices != last_seen] == []
