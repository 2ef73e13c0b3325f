"""Global rate limits of a run: moongate, its own rate limit service, and a real Envoy."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from moongate.rate_limits.redis_address import redis_address
from moongate.rate_limits.settings import Redis
from moongate.run import Laptop
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import Echo
from tests.e2e.conftest import until
from tests.e2e.rate_limiters import envoys_own, patient
from tests.e2e.standstills import undisturbed
from tests.ports import free_port
from tests.redis_servers import redis_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.e2e.manifests import Document

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

NOTHING = "limit: {requests: 0, unit: Year}"
ALL = f"{{{NOTHING}}}"
BY_PATH = f"{{clientSelectors: [{{path: {{value: /}}}}], {NOTHING}}}"
BY_METHOD = f"{{clientSelectors: [{{methods: [{{value: GET}}]}}], {NOTHING}, shared: true}}"


MUCH = "limit: {requests: 1000000, unit: Second}"
STRICT = f"{{clientSelectors: [{{headers: [{{name: x-one, value: y}}]}}], {NOTHING}}}"
GENEROUS = f"{{clientSelectors: [{{headers: [{{name: x-other, value: y}}]}}], {MUCH}}}"


def limited(*rules: str) -> Document:
    body = f"rateLimit: {{type: Global, global: {{rules: [{', '.join(rules)}]}}}}"
    return m.policy("BackendTrafficPolicy", "limits", body, "HTTPRoute/app")


def client_of(port: int, **headers: str) -> httpx.AsyncClient:
    """A client of a port. Headers have ``_`` for ``-``."""
    return httpx.AsyncClient(
        trust_env=False,
        base_url=f"http://127.0.0.1:{port}",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        timeout=DEADLINE_S,
    )


@asynccontextmanager
async def asking(port: int, **headers: str) -> AsyncGenerator[set[int]]:
    """Requests while the block runs, and the statuses that they got. Headers have ``_`` for ``-``."""
    statuses, done = set[int](), asyncio.Event()

    async def ask() -> None:
        async with client_of(port, **headers) as client:
            while not done.is_set():
                statuses.add((await client.get("/")).status_code)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(ask())
        try:
            yield statuses
        finally:
            done.set()


@asynccontextmanager
async def serving(**options: Any) -> AsyncGenerator[tuple[Laptop, Echo, int]]:
    """A gateway without routes, a backend, and the port of the listener. Envoy has much patience."""
    port = free_port()
    async with Echo("one").serving() as one, Laptop(config=patient(), **options) as laptop:
        http = f"[{{name: http, port: {port}, protocol: HTTP}}]"
        await laptop.apply([m.gateway("gateway", http), m.local("one", one.port)], timeout_s=DEADLINE_S)
        yield laptop, one, port


def app() -> Document:
    route = m.route("app", f"[{{{m.to('one')}}}]")
    del route["spec"]["hostnames"]
    return route


async def test_no_request_passes_that_both_configurations_refuse() -> None:
    """Neither while the service is started for the first limit, nor when rules change under load.

    A request by former routes may be under way for a fifth of a second; who stands still is tried anew.
    """
    await undisturbed(change_rules, [])


async def change_rules() -> None:
    async with serving() as (laptop, one, port), asking(port) as statuses:
        await laptop.apply([app(), limited(ALL)], timeout_s=DEADLINE_S)
        for n in range(30):
            await laptop.apply([limited((BY_PATH, BY_METHOD, ALL)[n % 3])], timeout_s=DEADLINE_S)

    assert statuses == {404, 429}
    assert one.requests == []


@asynccontextmanager
async def counted_by(who: str, folder: Path) -> AsyncGenerator[dict[str, Any]]:
    """The options of a gateway whose requests are counted by moongate's service, or by Envoy's."""
    if who == "moongate":
        yield {}
        return
    port, xds = free_port(), free_port()
    async with (
        redis_server(folder / "redis") as redis,
        envoys_own(folder, redis.port, f"127.0.0.1:{xds}", GRPC_PORT=str(port)),
    ):
        yield {"rate_limit_service": f"127.0.0.1:{port}", "rate_limit_xds_port": xds}


@pytest.mark.parametrize("who", ["moongate", "envoy"])
async def test_a_rule_that_moves_lets_nothing_pass_that_both_configurations_refuse(who: str) -> None:
    """Rules are known by their place; a generous one comes before a strict one, and leaves."""
    await undisturbed(partial(move_a_rule, who), [])


async def move_a_rule(who: str) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        options = await stack.enter_async_context(counted_by(who, folder))
        laptop, one, port = await stack.enter_async_context(serving(**options))
        await laptop.apply([app(), limited(STRICT)], timeout_s=DEADLINE_S)
        async with client_of(port) as client:
            await until_status(client, 429, {"x-one": "y"})
            one.requests.clear()
            async with asking(port, x_one="y") as statuses:
                for n in range(20):
                    await laptop.apply(
                        [limited(*((GENEROUS, STRICT), (STRICT,))[n % 2])], timeout_s=DEADLINE_S
                    )
            passed = list(one.requests)
            await laptop.apply([limited(GENEROUS)], timeout_s=DEADLINE_S)
            await until_status(client, 200, {"x-other": "y"})

    assert statuses == {429}
    assert passed == []


async def until_status(client: httpx.AsyncClient, status: int, headers: dict[str, str]) -> None:
    """Return when a request is answered with a status: another's service says nothing of its limits."""
    async with asyncio.timeout(DEADLINE_S):
        while (await client.get("/", headers=headers)).status_code != status:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # no event tells it


async def test_a_raised_limit_is_in_force_when_it_is_applied() -> None:
    """It waits for the routes of Envoys, and ``apply`` for it."""
    async with serving() as (laptop, _one, port):
        await laptop.apply([app(), limited(STRICT)], timeout_s=DEADLINE_S)
        async with client_of(port) as client:
            statuses: list[int] = []
            for _ in range(5):
                for rule, header in ((GENEROUS, "x-other"), (STRICT, "x-one")):
                    await laptop.apply([limited(rule)], timeout_s=DEADLINE_S)
                    statuses.append((await client.get("/", headers={header: "y"})).status_code)

    assert statuses == [200, 429] * 5


async def test_another_redis_lets_no_request_pass_uncounted() -> None:
    """The former process answers until the next one does. What Redis does not count within a second passes,
    so this is tried anew where somebody stood still."""
    await undisturbed(count_in_another_redis, [])


async def count_in_another_redis() -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        redis = await stack.enter_async_context(redis_server(folder))
        laptop, one, port = await stack.enter_async_context(serving())
        await laptop.apply([app(), limited(ALL)], timeout_s=DEADLINE_S)
        before = (await laptop.limits())["service"]["pid"]
        async with asking(port) as statuses:
            laptop.rate_limits.count_in(Redis(address=redis_address(redis.url)))
            await until(lambda: not psutil.pid_exists(before))
        async with client_of(port) as client:
            assert (await client.get("/")).status_code == 429
        after = await laptop.limits()

    assert after["service"]["counts_in"] != "memory"
    assert after["limits"][0]["used"]
    assert statuses == {429}
    assert one.requests == []


@pytest.mark.parametrize("value", [b"anne", b"Zo\xeb", b"\xff", b"a b|c_d_1*", b"x" * 40_000])
async def test_a_client_with_an_odd_value_is_counted(value: bytes) -> None:
    """Or every limit for each value of a header could be passed by sending one that is no text."""
    each = "clientSelectors: [{headers: [{name: x-user, type: Distinct}]}], limit: {requests: 1, unit: Year}"
    async with serving() as (laptop, one, port):
        await laptop.apply([app(), limited(f"{{{each}}}")], timeout_s=DEADLINE_S)
        async with client_of(port) as client:
            asked = [await client.get("/", headers=[(b"x-user", value)]) for _ in range(3)]

    assert [answer.status_code for answer in asked] == [200, 429, 429]
    assert len(one.requests) == 1
