"""Kinds come and go in a folder that is served: it ends as it began, and no request beside them fails."""

from __future__ import annotations

import pytest

from moongate.kinds import KINDS
from tests.e2e.walking import KINDS_IN_TURN, walking

pytestmark = pytest.mark.envoy


def test_each_kind_has_its_turn() -> None:
    assert KINDS_IN_TURN.keys() == {kind for _, kind in KINDS}


async def test_a_folder_that_gains_and_loses_each_kind_ends_as_it_began() -> None:
    async with walking() as walk:
        await walk.goes_round()
        before = walk.state()

        await walk.goes_round()

        assert list(before.differences(walk.state())) == []
        assert walk.asked > 20
        assert walk.failed == []


@pytest.mark.long
async def test_fifty_rounds_take_no_memory() -> None:
    async with walking() as walk:
        for _ in range(10):
            await walk.goes_round()
        before = walk.state()

        for _ in range(40):
            await walk.goes_round()

        after = walk.state()
        assert list(before.differences(after)) == []
        grown = {name for name, n in after.objects.items() if n >= before.objects[name] + 40}
        # asyncio keeps up to a hundred timers that are cancelled.
        assert grown - {"TimerHandle", "Context"} == set()
        assert after.blocks < before.blocks + 40 * 100
        assert after.rss < 1.03 * before.rss
        assert after.envoy_rss < 1.03 * before.envoy_rss
        assert walk.failed == []
