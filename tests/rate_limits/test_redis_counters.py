from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from redis.asyncio import Redis
from structlog.testing import capture_logs

from moongate.rate_limits import redis_counters
from moongate.rate_limits.config import Limits
from moongate.rate_limits.counters import CountersError
from moongate.rate_limits.redis_address import redis_address
from moongate.rate_limits.redis_client import redis_client
from moongate.rate_limits.redis_counters import RedisCounters
from moongate.rate_limits.service import RateLimitService
from tests.deadline import DEADLINE_S
from tests.rate_limits.configs import config, descriptor, level, request
from tests.rate_limits.test_counters import hit
from tests.redis_servers import RedisServer, redis_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

pytestmark = pytest.mark.slow


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path / "redis") as server:
        yield server


@asynccontextmanager
async def counting(url: str) -> AsyncGenerator[RedisCounters]:
    address = redis_address(url)
    async with redis_client(address) as client, RedisCounters(client, str(address)) as counters:
        yield counters


async def test_redis_has_the_same_names_as_envoys_own_service(redis: RedisServer) -> None:
    """Both count together, and counts outlive a change from one to the other."""
    async with counting(redis.url) as counters, Redis(port=redis.port) as client:
        counts = await counters.add([hit("anne", 2), hit("bob")])
        value, seconds = await client.get("shop_user_anne_0"), await client.ttl("shop_user_anne_0")

    assert counts == [2, 1]
    assert value == b"2"
    assert 0 < seconds <= 365 * 86_400


async def test_hits_at_the_same_time_are_all_counted(redis: RedisServer) -> None:
    """They share pipelines, and each gets its own count."""
    async with counting(redis.url) as counters:
        counts = await asyncio.gather(*(counters.add([hit("anne"), hit(f"user {n}")]) for n in range(1500)))

    assert sorted(mine for mine, _ in counts) == list(range(1, 1501))
    assert {other for _, other in counts} == {1}


async def test_counts_outlive_the_process_and_redis(redis: RedisServer) -> None:
    async with counting(redis.url) as counters:
        await counters.add([hit("anne", 2)])
    await redis.kill()
    await redis.start()

    async with counting(redis.url) as counters:
        assert await counters.add([hit("anne")]) == [3]


async def test_a_redis_that_dies_fails_hits_at_once_and_is_found_again(redis: RedisServer) -> None:
    """Each is said once, however many requests there are."""
    with capture_logs() as log:
        async with counting(redis.url) as counters:
            await counters.add([hit()])
            await redis.kill()
            for _ in range(5):
                with pytest.raises(CountersError, match="does not count"):
                    await counters.add([hit()])
            trouble = counters.trouble
            await redis.start()
            while counters.trouble:  # noqa: ASYNC110 - it is for those who ask
                await asyncio.sleep(0.01)
            counts = await counters.add([hit()])

    assert trouble.startswith(f"Redis at 127.0.0.1:{redis.port} does not count: ConnectionError")
    assert counts == [2]
    assert [entry["event"] for entry in log] == ["redis_lost", "redis_back"]


async def test_a_redis_that_is_not_there_at_the_start_is_found_later(redis: RedisServer) -> None:
    await redis.kill()
    async with counting(redis.url) as counters:
        with pytest.raises(CountersError):
            await counters.add([hit()])
        await redis.start()
        while counters.trouble:  # noqa: ASYNC110 - it is for those who ask
            await asyncio.sleep(0.01)

        assert await counters.add([hit()]) == [1]


async def test_hits_that_wait_for_a_pipeline_fail_with_redis(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or Envoy would wait for their answers, and then take each for a timeout."""
    monkeypatch.setattr(redis_counters, "LONGEST_PIPELINE", 1)
    async with counting(redis.url) as counters:
        await counters.add([hit()])
        await redis.kill()
        async with asyncio.timeout(DEADLINE_S):
            answers = await asyncio.gather(*(counters.add([hit()]) for _ in range(3)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [CountersError] * 3


async def test_what_redis_refuses_concerns_that_request_alone(redis: RedisServer) -> None:
    """Somebody has another value under the name of one bucket."""
    async with counting(redis.url) as counters, Redis(port=redis.port) as client:
        await client.set("shop_user_anne_0", "text")
        anne, bob = await asyncio.gather(
            counters.add([hit("anne")]), counters.add([hit("bob")]), return_exceptions=True
        )

    assert isinstance(anne, CountersError)
    assert "refuses to count" in str(anne)
    assert bob == [1]


@pytest.mark.parametrize(
    ("wrong", "right", "why"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "maxmemory"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "read only"),
    ],
)
async def test_a_redis_that_takes_nothing_fails_hits_until_it_does_again(
    redis: RedisServer, wrong: str, right: str, why: str
) -> None:
    """It is full, or has become a replica: it answers, and counts nothing."""
    admin: Any = Redis.from_url(redis.url)  # pyright: ignore[reportUnknownMemberType]
    async with counting(redis.url) as counters, admin:
        first = await counters.add([hit()])
        await admin.execute_command(wrong)
        with pytest.raises(CountersError, match="refuses to count"):
            await counters.add([hit()])
        assert why in counters.trouble
        await admin.execute_command(right)
        last = await counters.add([hit()])

        assert (first, last) == ([1], [2])
        assert counters.trouble == ""


async def test_a_password_is_used_and_not_shown(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(redis_server(tmp_path / "r", "requirepass pa/ss"))
        at = f"127.0.0.1:{server.port}"
        good = await stack.enter_async_context(counting(f"redis://:pa%2Fss@{at}"))
        bad = await stack.enter_async_context(counting(f"redis://:wrong@{at}"))

        assert await good.add([hit()]) == [1]
        with pytest.raises(CountersError) as error:
            await bad.add([hit()])

    assert str(error.value).startswith(f"Redis at {at} does not count")
    assert "wrong@" not in str(error.value)


async def test_a_password_that_has_changed_is_named_as_the_reason(tmp_path: Path) -> None:
    """The connection that stands goes on to count; when it is lost, another one is refused."""
    async with (
        redis_server(tmp_path / "r", "requirepass first") as server,
        counting(f"redis://:first@127.0.0.1:{server.port}") as counters,
        Redis(port=server.port, password="first") as client,
        asyncio.timeout(DEADLINE_S),
    ):
        admin: Any = client
        before = [await counters.add([hit()])]
        await admin.execute_command("CONFIG SET requirepass second")
        before.append(await counters.add([hit()]))
        await admin.execute_command("CLIENT KILL TYPE normal SKIPME yes")
        with pytest.raises(CountersError):
            await counters.add([hit()])
        while "AuthenticationError" not in counters.trouble:  # noqa: ASYNC110 - it is for those who ask
            await asyncio.sleep(0.05)
        await admin.execute_command("CONFIG SET requirepass first")
        while counters.trouble:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.05)
        after = await counters.add([hit()])

    assert (before, after) == ([[1], [2]], [3])


async def test_two_services_have_one_count_and_each_its_own_limit(redis: RedisServer) -> None:
    """As those of two laptops. One is started again, and goes on with the count."""
    answers: list[str] = []
    for limit in (3, 5, 3):
        async with counting(redis.url) as counters:
            service = RateLimitService(counters, lambda: 59.0)
            service.take(Limits([config(level("user", limit=(limit, "MINUTE")))]))
            asked = [await service.answer(request(descriptor(("user", "anne")))) for _ in range(2)]
            answers += [RateLimitResponse.Code.Name(answer.overall_code) for answer in asked]

    assert answers == ["OK"] * 4 + ["OVER_LIMIT"] * 2


async def test_a_clock_that_is_late_counts_in_the_window_before(redis: RedisServer) -> None:
    """Each laptop has its own clock; neither disturbs what the other one counts."""
    async with counting(redis.url) as early, counting(redis.url) as late:
        services = [RateLimitService(early, lambda: 61.5), RateLimitService(late, lambda: 58.5)]
        for service in services:
            service.take(Limits([config(level("user", limit=(1, "MINUTE")))]))
        asked = [await each.answer(request(descriptor(("user", "anne")))) for each in (*services, *services)]

    codes = [RateLimitResponse.Code.Name(answer.overall_code) for answer in asked]
    assert codes == ["OK", "OK", "OVER_LIMIT", "OVER_LIMIT"]
