from __future__ import annotations

import asyncio
import tracemalloc
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from redis.asyncio import Redis
from structlog.testing import capture_logs

from moongate.rate_limits import counters as counters_module
from moongate.rate_limits.config import Limit
from moongate.rate_limits.counters import CountersError, Hit, MemoryCounters, RedisCounters
from moongate.rate_limits.redis_address import redis_address
from moongate.rate_limits.redis_client import redis_client
from tests.deadline import DEADLINE_S
from tests.redis_servers import RedisServer, redis_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

_Unit = RateLimitResponse.RateLimit.Unit
LIMIT = Limit(domain="shop", path=(("user", ""),), requests=3, unit=_Unit.YEAR)


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path / "redis") as server:
        yield server


def hit(user: str = "anne", hits: int = 1, *, now: float = 0.0, limit: Limit = LIMIT) -> Hit:
    return Hit(limit, limit.bucket([("user", user)], now), limit.ends(now), hits)


@asynccontextmanager
async def counting(url: str) -> AsyncGenerator[RedisCounters]:
    address = redis_address(url)
    async with redis_client(address) as client, RedisCounters(client, str(address)) as counters:
        yield counters


async def test_memory_counts_each_bucket_for_itself() -> None:
    counters = MemoryCounters(lambda: 0.0)

    counts = await counters.add([hit("anne"), hit("bob", 5), hit("anne", 0), hit("anne", 2)])

    assert counts == [1, 5, 1, 3]


async def test_memory_keeps_no_long_values_of_clients() -> None:
    """A header may have 60 kB, and there may be a quarter of a million buckets."""
    counters = MemoryCounters(lambda: 0.0)
    tracemalloc.start()
    try:
        counts = [await counters.add([hit("x" * 50_000 + str(n % 200))]) for n in range(400)]
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert counts == [[1]] * 200 + [[2]] * 200
    assert kept < 1_000_000


async def test_memory_forgets_a_bucket_when_its_window_ends() -> None:
    """Otherwise the memory would grow with each window."""
    now = 59.0
    counters = MemoryCounters(lambda: now)
    minute = Limit(domain="shop", path=(), requests=1, unit=_Unit.MINUTE)
    await counters.add([hit(now=now, limit=minute)])
    before = len(list(counters.buckets))

    now = 60.0

    assert before == 1
    assert list(counters.buckets) == []
    assert await counters.add([hit(now=now, limit=minute)]) == [1]


async def test_memory_keeps_no_more_buckets_than_it_may() -> None:
    """Clients choose the values of buckets, and could fill the memory. The one that is used stays."""
    counters = MemoryCounters(lambda: 0.0, most=3)

    for n in range(10):
        await counters.add([hit("anne"), hit(f"user {n}")])

    assert len(list(counters.buckets)) == 3
    assert await counters.add([hit("anne")]) == [11]


@pytest.mark.slow
async def test_redis_has_the_same_names_as_envoys_own_service(redis: RedisServer) -> None:
    """Both count together, and counts outlive a change from one to the other."""
    async with counting(redis.url) as counters, Redis(port=redis.port) as client:
        counts = await counters.add([hit("anne", 2), hit("bob")])
        value, seconds = await client.get("shop_user_anne_0"), await client.ttl("shop_user_anne_0")

    assert counts == [2, 1]
    assert value == b"2"
    assert 0 < seconds <= 365 * 86_400


@pytest.mark.slow
async def test_hits_at_the_same_time_are_all_counted(redis: RedisServer) -> None:
    """They share pipelines, and each gets its own count."""
    async with counting(redis.url) as counters:
        counts = await asyncio.gather(*(counters.add([hit("anne"), hit(f"user {n}")]) for n in range(1500)))

    assert sorted(mine for mine, _ in counts) == list(range(1, 1501))
    assert {other for _, other in counts} == {1}


@pytest.mark.slow
async def test_counts_outlive_the_process_and_redis(redis: RedisServer) -> None:
    async with counting(redis.url) as counters:
        await counters.add([hit("anne", 2)])
    await redis.kill()
    await redis.start()

    async with counting(redis.url) as counters:
        assert await counters.add([hit("anne")]) == [3]


@pytest.mark.slow
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


@pytest.mark.slow
async def test_a_redis_that_is_not_there_at_the_start_is_found_later(redis: RedisServer) -> None:
    await redis.kill()
    async with counting(redis.url) as counters:
        with pytest.raises(CountersError):
            await counters.add([hit()])
        await redis.start()
        while counters.trouble:  # noqa: ASYNC110 - it is for those who ask
            await asyncio.sleep(0.01)

        assert await counters.add([hit()]) == [1]


@pytest.mark.slow
async def test_hits_that_wait_for_a_pipeline_fail_with_redis(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or Envoy would wait for their answers, and then take each for a timeout."""
    monkeypatch.setattr(counters_module, "LONGEST_PIPELINE", 1)
    async with counting(redis.url) as counters:
        await counters.add([hit()])
        await redis.kill()
        async with asyncio.timeout(DEADLINE_S):
            answers = await asyncio.gather(*(counters.add([hit()]) for _ in range(3)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [CountersError] * 3


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
