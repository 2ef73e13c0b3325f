"""Global rate limits from a BackendTrafficPolicy to a backend, with moongate's own service."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from moongate.run import Laptop
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import Echo
from tests.e2e.rate_limiters import envoys_own, patient
from tests.ports import free_port
from tests.redis_servers import redis_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

OVER = 429
PER_USER = """
clientSelectors: [{headers: [{name: user, type: Distinct}]}]
limit: {requests: 2, unit: Year}
"""


class Shop:
    """A gateway with one route to one backend, and limits for each user."""

    def __init__(self, laptop: Laptop, client: httpx.AsyncClient, backend: Echo, port: int) -> None:
        self.laptop = laptop
        self.backend = backend
        self._client = client
        self._port = port

    async def statuses(self, *users: str) -> list[int]:
        """What a request of each of these users is answered with."""
        url = f"http://127.0.0.1:{self._port}/"
        requests = (self._client.get(url, headers={"host": "shop.test", "user": user}) for user in users)
        return [(await request).status_code for request in requests]


@asynccontextmanager
async def shop(*, config: Any = None, **more: Any) -> AsyncGenerator[Shop]:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="mg-", dir="/tmp"))
        backend = await stack.enter_async_context(Echo("up").serving())
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=DEADLINE_S))
        laptop = await stack.enter_async_context(Laptop(run_dir=folder, config=config or patient(), **more))
        port = free_port()
        await laptop.apply(
            [
                m.gateway("gateway", f"[{{name: http, port: {port}, protocol: HTTP}}]"),
                m.local("up", backend.port),
                m.route("shop", f"[{{{m.to('up')}}}]"),
                limits(PER_USER),
            ],
            timeout_s=DEADLINE_S,
        )
        yield Shop(laptop, client, backend, port)


def limits(*rules: str) -> dict[str, Any]:
    body = {"rateLimit": {"global": {"rules": [m.spec(rule) for rule in rules]}}}
    return {
        **m.policy("BackendTrafficPolicy", "limits", "{}"),
        "spec": {
            "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "shop"}],
            **body,
        },
    }


@pytest.mark.proves("BackendTrafficPolicy", "rateLimit.global.rules[].limit.requests")
async def test_a_policy_limits_each_user_and_the_use_is_known() -> None:
    """It holds when ``apply`` returns. What is over the limit does not reach the backend."""
    async with shop() as at:
        answers = await at.statuses("anne", "anne", "anne", "bob")
        report = await at.laptop.limits()
        reached = len(at.backend.requests)
        await at.laptop.delete(limits(), timeout_s=DEADLINE_S)
        after = await at.statuses("anne")
        without = await at.laptop.limits()

    assert answers == [200, 200, OVER, 200]
    assert reached == 3
    assert after == [200]
    [limit] = report["limits"]
    assert (limit["requests"], limit["unit"], limit["used"], limit["buckets"]) == (2, "YEAR", 3, 2)
    assert without["limits"] == ()


@pytest.mark.proves("BackendTrafficPolicy", "rateLimit.global.rules[].limit.unit")
async def test_a_limit_is_for_a_time() -> None:
    """Here for a second, after which requests pass again."""
    async with shop() as at:
        await at.laptop.apply(limits(PER_USER.replace("Year", "Second")), timeout_s=DEADLINE_S)
        while OVER not in await at.statuses("anne", "anne", "anne"):
            pass
        while await at.statuses("anne") != [200]:
            pass


@pytest.mark.proves("BackendTrafficPolicy", "rateLimit.global.rules[].shadowMode")
async def test_what_is_above_a_limit_in_shadow_passes_and_is_counted() -> None:
    async with shop() as at:
        await at.laptop.apply(limits(f"{PER_USER}shadowMode: true"), timeout_s=DEADLINE_S)
        answers = await at.statuses(*["anne"] * 5)
        report = await at.laptop.limits()

    assert answers == [200] * 5
    assert [limit["used"] for limit in report["limits"]] == [5]


async def test_an_edit_of_a_limit_keeps_the_counts() -> None:
    async with shop() as at:
        before = await at.statuses("anne", "anne", "anne")
        await at.laptop.apply(limits(PER_USER.replace("requests: 2", "requests: 4")), timeout_s=DEADLINE_S)
        after = await at.statuses("anne", "anne")

    assert before == [200, 200, OVER]
    assert after == [200, OVER]


async def test_counts_in_redis_outlive_moongate(tmp_path: Path) -> None:
    async with redis_server(tmp_path / "redis") as redis:
        async with shop(redis=redis.url) as at:
            before = await at.statuses("anne")
        async with shop(redis=redis.url) as at:
            after = await at.statuses("anne", "anne")

    assert (before, after) == ([200], [200, OVER])


async def test_an_option_that_says_who_counts_allows_limits(tmp_path: Path) -> None:
    """Without ``rateLimit`` in a configuration of the user's there would be none."""
    config = {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyGateway",
        "extensionApis": {"enableBackend": True},
    }
    async with redis_server(tmp_path / "redis") as redis, shop(redis=redis.url, config=config) as at:
        # Envoy lets pass what is not counted within a second.
        async with asyncio.timeout(DEADLINE_S):
            while OVER not in await at.statuses("anne", "anne", "anne"):
                pass


async def test_the_service_is_started_again_and_ends_with_moongate() -> None:
    async with shop() as at:
        first = (await at.laptop.limits())["service"]["pid"]
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_S):
            while OVER not in await at.statuses("anne", "anne", "anne"):  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.05)
        second = (await at.laptop.limits())["service"]["pid"]

    assert first != second
    assert not psutil.pid_exists(second)


@pytest.mark.parametrize(("closed", "status"), [(False, 200), (True, 500)])
async def test_without_redis_requests_are_treated_as_the_configuration_says(
    closed: bool, status: int
) -> None:
    backend = {"type": "Redis", "redis": {"url": "redis://:secret@127.0.0.1:1"}}
    config = {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyGateway",
        "extensionApis": {"enableBackend": True},
        "rateLimit": {"backend": backend, "failClosed": closed, "timeout": f"{DEADLINE_S:.0f}s"},
    }
    async with shop(config=config) as at:
        answers = await at.statuses("anne", "anne", "anne")
        report = await at.laptop.limits()

    assert answers == [status] * 3
    assert report["service"]["trouble"].startswith("Redis at 127.0.0.1:1 does not count")
    assert "secret" not in str(report)


async def test_envoys_may_ask_a_service_that_moongate_configures(tmp_path: Path) -> None:
    """Here that of Envoy's project. It alone knows how much is used."""
    port, xds = free_port(), free_port()
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_server(tmp_path / "redis"))
        own = envoys_own(tmp_path, redis.port, f"127.0.0.1:{xds}", GRPC_PORT=str(port))
        await stack.enter_async_context(own)
        at = await stack.enter_async_context(
            shop(rate_limit_service=f"127.0.0.1:{port}", rate_limit_xds_port=xds)
        )
        async with asyncio.timeout(DEADLINE_S):
            while OVER not in await at.statuses("anne", "anne", "anne"):  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.05)
        report = await at.laptop.limits()

    assert report["service"] == {"address": f"127.0.0.1:{port}", "trouble": ""}
    assert [limit["used"] for limit in report["limits"]] == [None]
