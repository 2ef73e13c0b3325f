from __future__ import annotations

import tracemalloc

from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse

from moongate.rate_limits.config import Limit
from moongate.rate_limits.counters import FORGOTTEN_AT_ONCE, Hit, MemoryCounters

_Unit = RateLimitResponse.RateLimit.Unit
LIMIT = Limit(domain="shop", path=(("user", ""),), requests=3, unit=_Unit.YEAR)


def hit(user: str = "anne", hits: int = 1, *, now: float = 0.0, limit: Limit = LIMIT) -> Hit:
    return Hit(limit, limit.bucket([("user", user)], now), limit.ends(now), hits)


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


async def test_the_end_of_a_window_holds_up_no_hit() -> None:
    """All its buckets end at once, and may be a quarter of a million: each hit forgets some of them."""
    now = 59.0
    counters = MemoryCounters(lambda: now)
    minute = Limit(domain="shop", path=(), requests=1, unit=_Unit.MINUTE)
    for n in range(100):
        await counters.add([hit(f"user {n}", now=now, limit=minute)])
    now = 60.0

    kept: list[int] = []
    while len(counters.buckets) > 1:
        assert await counters.add([hit(now=now, limit=minute, hits=0)]) == [0]
        kept.append(len(counters.buckets))

    assert kept == [100 - FORGOTTEN_AT_ONCE * n + 1 for n in range(1, 100 // FORGOTTEN_AT_ONCE + 1)]
