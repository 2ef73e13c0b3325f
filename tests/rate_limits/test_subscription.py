from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from moongate.ads.sotw import SotwServer
from moongate.rate_limits.subscription import NODE, follow
from moongate.xds.wire import RATE_LIMIT_CONFIG, encode
from tests.deadline import DEADLINE_S
from tests.rate_limits.configs import config, level

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from moongate.rate_limits.config import Limits

ONE, TWO = ({"shop": encode(config(level("user", limit=(n, "DAY"))))} for n in (1, 2))
FAULTY = {"shop": encode(config(level("user", limit=(3, "UNKNOWN"))))}


@asynccontextmanager
async def following(address: str) -> AsyncGenerator[list[Limits]]:
    """The configurations that a service takes."""
    taken: list[Limits] = []
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(follow(address, taken.append))
        yield taken
        task.cancel()


async def test_what_cannot_be_used_is_refused_and_the_former_stays(tmp_path: Path) -> None:
    server, address = SotwServer(RATE_LIMIT_CONFIG, NODE), f"unix:{tmp_path}/s"
    with capture_logs() as log:
        async with server.listen(address), following(address) as taken:
            for resources in (ONE, FAULTY, TWO):
                server.publish(resources)
                await server.settled()

    assert [limit.requests for limits in taken for limit in limits] == [1, 2]
    refusals = [entry["message"] for entry in log if entry["event"] == "rate_limits.refused"]
    assert refusals == ["shop > user: the limit needs a unit; the unit is 0."]


async def test_it_connects_again_to_a_moongate_that_comes_back(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    async with following(address) as taken:
        for resources in (ONE, TWO):
            server = SotwServer(RATE_LIMIT_CONFIG, NODE)
            server.publish(resources)
            async with server.listen(address):
                await server.settled()

    assert [limit.requests for limits in taken for limit in limits] == [1, 2]
