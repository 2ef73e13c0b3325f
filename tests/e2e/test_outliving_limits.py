"""``moongate run --keep-envoys``: who counts for rate limits goes on with the Envoys, and ends with them."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import psutil
import pytest

from tests.cli.process import Moongate, left_in
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import Echo
from tests.e2e.rate_limiters import patient
from tests.e2e.test_outliving import reported
from tests.e2e.test_recovery import ended
from tests.ports import free_port
from tests.redis_servers import redis_server
from tests.run.conftest import app, text, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.envoy, pytest.mark.slow]


class Home:
    """A folder of manifests with a limit, and one for runs, that several moongates share."""

    def __init__(self, folder: Path, backend: Echo) -> None:
        self.runs = folder / "runs"
        self.shop = folder / "shop"
        self.shop.mkdir()
        self.port = free_port()
        (self.shop / "app.yaml").write_text(app(self.port, backend.port))
        (self.shop / "config.yaml").write_bytes(msgspec.yaml.encode(patient()))
        self.limit(2)

    def limit(self, requests: int) -> None:
        rule = f"{{limit: {{requests: {requests}, unit: Year}}}}"
        body = f"rateLimit: {{global: {{rules: [{rule}]}}}}"
        policy = m.policy("BackendTrafficPolicy", "limits", body, "HTTPRoute/app")
        (self.shop / "limits.yaml").write_text(text(policy))

    def moongate(self, *options: str) -> Moongate:
        return Moongate("run", self.shop, "--run-dir", self.runs, "--keep-envoys", *options)

    def service(self) -> dict[str, Any]:
        """What moongate knows of the service."""
        return reported(self.runs, "--of", "rate-limits")["rateLimits"]["service"]

    async def statuses(self, count: int) -> list[int]:
        async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
            return [(await client.get(f"http://127.0.0.1:{self.port}/")).status_code for _ in range(count)]

    def processes(self) -> list[psutil.Process]:
        """Those that run from the folder of runs, but for moongate itself."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(word.startswith(f"{self.runs}/") for word in process.info["cmdline"] or ())
        ]

    def envoys(self) -> list[psutil.Process]:
        return [process for process in self.processes() if "--config-path" in process.cmdline()]


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    """A home that ends what still runs from it."""
    with TemporaryDirectory(prefix="mg-", dir="/tmp") as folder:
        async with asyncio.timeout(120), Echo("backend").serving() as backend:
            home = Home(Path(folder), backend)
            yield home
            for process in home.processes():
                process.kill()


async def test_limits_hold_while_no_moongate_runs_and_the_next_one_goes_on_with_the_counts(
    home: Home,
) -> None:
    async with home.moongate() as first:
        await first.says("gateway.serving")
        pid = home.service()["pid"]
        assert await home.statuses(1) == [200]
        await first.killed()
        assert await home.statuses(3) == [200, 429, 429]

    async with home.moongate() as second:
        await second.says("rate_limits.adopted")
        await second.says("gateway.serving")
        assert home.service()["pid"] == pid
        assert await home.statuses(1) == [429]
        home.limit(6)
        await until(lambda: answers(home, 200))
        assert await second.ended_by(signal.SIGTERM) == 0

    assert 429 in await home.statuses(6)
    async with Moongate("stop", "--run-dir", home.runs) as stop:
        await stop.process.communicate()
    await until(lambda: home.processes() == [])
    assert left_in(home.runs) == []


async def answers(home: Home, status: int) -> bool:
    return await home.statuses(1) == [status]


async def test_it_ends_when_the_envoys_have_ended_that_ask_it(home: Home) -> None:
    async with home.moongate() as first:
        await first.says("gateway.serving")
        await first.killed()
    [envoy] = home.envoys()
    assert len(home.processes()) == 2

    envoy.kill()

    await until(lambda: home.processes() == [])


@pytest.mark.parametrize("difference", ["stopped", "redis"])
async def test_one_that_is_not_as_it_would_be_started_now_is_replaced(home: Home, difference: str) -> None:
    async with redis_server(home.runs.parent / "redis") as redis:
        async with home.moongate() as first:
            await first.says("gateway.serving")
            pid = home.service()["pid"]
            await first.killed()
        options = ["--redis", redis.url] if difference == "redis" else []
        if difference == "stopped":
            os.kill(pid, signal.SIGSTOP)

        async with home.moongate(*options) as second:
            await second.says("rate_limits.replaced")
            await second.says("rate_limits.serving")
            await until(lambda: ended(pid))
            service = home.service()
            assert await home.statuses(3) == [200, 200, 429]

    assert service["pid"] != pid
    assert (service["counts_in"] == "memory") == (difference == "stopped")
