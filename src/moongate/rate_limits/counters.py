"""Counters of requests: in memory, or in Redis.

A counter is a *bucket*: one limit, one set of values, one window. Its name contains the start of its window,
so that the next window is another bucket, and nothing has to be reset.

In Redis, buckets have the names and the form that Envoy's own service gives them, so both count together, and
counts outlive a change from one to the other. A hit is ``INCRBY`` and ``EXPIRE`` in one pipeline. Hits that
arrive while a pipeline is under way share the next one: under load this costs a fraction of a pipeline for
each.

If Redis fails, hits fail at once until it answers again, which a task asks from time to time.

Facts
-----
* all counts of one process go through one event loop, so a count in memory needs no lock
* values of buckets come from clients. So at most ``MOST_BUCKETS`` are kept in memory; of more, the one is
  forgotten that was counted least recently. And of a long name only a digest is kept: a header may have 60 kB
* a hit in Redis may have been counted though its answer never came, so it is not repeated
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from hashlib import blake2b
from time import time  # noqa: TID251 - windows are aligned to the clock
from typing import TYPE_CHECKING, Final, Protocol, Self

import structlog
from cachetools import TLRUCache
from msgspec import Struct

from moongate.rate_limits.config import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from redis.asyncio import Redis
    from redis.asyncio.cluster import RedisCluster

    from moongate.rate_limits.config import Limit

_log = structlog.get_logger("moongate.rate_limits")

MOST_BUCKETS: Final = 250_000
"""How many buckets are kept in memory: some 100 MB."""

LONGEST_PIPELINE: Final = 500
"""The most hits in one pipeline."""

LONGEST_NAME: Final = 256
"""The most characters of a bucket's name that are kept in memory."""

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
"""Seconds between two tries to reach Redis: the first pause, and the longest, as it doubles each time."""


class CountersError(Exception):
    """Nothing was counted, or nobody knows. The message says why."""


class Hit(Struct, frozen=True):
    """What one request adds to one bucket.

    Args:
        limit: of the bucket.
        bucket: its name, which is unique among all limits and windows.
        ends: when its window ends, in seconds since 1970.
        hits: how many; 0 only asks.
    """

    limit: Limit
    bucket: str
    ends: int
    hits: int


class Bucket(Struct):
    """What is known of a bucket: its limit, its count, and when its window ends."""

    limit: Limit
    ends: int
    used: int = 0


class Buckets:
    """The buckets whose window has not ended, as far as this process knows them."""

    def __init__(self, clock: Callable[[], float] = time, *, most: int = MOST_BUCKETS) -> None:
        self._kept: TLRUCache[str, Bucket] = TLRUCache(
            most, ttu=lambda _name, bucket, _now: bucket.ends, timer=clock
        )

    def of(self, hit: Hit) -> Bucket:
        """The bucket of a hit."""
        name = hit.bucket if len(hit.bucket) <= LONGEST_NAME else _digest(hit.bucket)
        bucket = self._kept.get(name)
        if bucket is None:
            bucket = self._kept[name] = Bucket(hit.limit, hit.ends)
        # The configuration may have changed within the window.
        bucket.limit = hit.limit
        return bucket

    def __iter__(self) -> Iterator[Bucket]:
        """All of them."""
        self._kept.expire()
        return iter([self._kept[name] for name in list(self._kept)])


class Counters(Protocol):
    """Where requests are counted."""

    @property
    def buckets(self) -> Buckets:
        """What this process knows of the buckets."""
        ...

    @property
    def trouble(self) -> str:
        """Why nothing can be counted now; "" if it can."""
        ...

    async def add(self, hits: Sequence[Hit]) -> list[int]:
        """Count hits, and return the new count of each bucket.

        Raises:
            CountersError: they may not have been counted.
        """
        ...


class MemoryCounters:
    """Counters of this process alone, which end with it."""

    trouble: str = ""

    def __init__(self, clock: Callable[[], float] = time, *, most: int = MOST_BUCKETS) -> None:
        self.buckets = Buckets(clock, most=most)

    async def add(self, hits: Sequence[Hit]) -> list[int]:
        counts: list[int] = []
        for hit in hits:
            bucket = self.buckets.of(hit)
            bucket.used += hit.hits
            counts.append(bucket.used)
        return counts


class RedisCounters:
    """Counters in Redis, which outlive this process, and which others share: an async context manager.

    Args:
        client: of the Redis.
        shown: what to call this Redis in logs.
        clock: tells which buckets are over.
    """

    def __init__(
        self,
        client: Redis | RedisCluster,
        shown: str,
        clock: Callable[[], float] = time,
    ) -> None:
        self.buckets = Buckets(clock)
        self.trouble = ""
        self._client = client
        self._shown = shown
        self._lost = False
        self._waiting: list[tuple[Sequence[Hit], asyncio.Future[list[int]]]] = []
        self._arrived = asyncio.Event()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        """Begin to count, whether Redis can be reached or not."""
        await self._tasks.__aenter__()
        self._counting = self._tasks.create_task(self._count(), name="counters in Redis")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._counting.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def add(self, hits: Sequence[Hit]) -> list[int]:
        if self._lost:
            raise CountersError(self.trouble)
        counts: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiting.append((hits, counts))
        self._arrived.set()
        return await counts

    async def _count(self) -> None:
        while True:
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            batch = self._waiting[:LONGEST_PIPELINE]
            del self._waiting[:LONGEST_PIPELINE]
            try:
                await self._count_batch(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next hits may succeed
                await self._recover(error, batch)

    async def _count_batch(self, batch: Sequence[tuple[Sequence[Hit], asyncio.Future[list[int]]]]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for hits, _ in batch:
            for hit in hits:
                pipeline.incrby(hit.bucket, hit.hits)
                pipeline.expire(hit.bucket, SECONDS[hit.limit.unit])
        answers = iter(await pipeline.execute(raise_on_error=False))
        refused = ""
        for hits, counts in batch:
            of_hits = [(next(answers), next(answers))[0] for _ in hits]
            refusal = next((answer for answer in of_hits if isinstance(answer, Exception)), None)
            if refusal is not None:
                refused = f"{self._shown} refuses to count: {refusal}"
                _fail(counts, refused)
                continue
            for hit, used in zip(hits, of_hits, strict=True):
                self.buckets.of(hit).used = used
            # Whoever asked may not wait any more.
            if not counts.done():
                counts.set_result(of_hits)
        self._note(refused)

    async def _recover(
        self, error: Exception, batch: Sequence[tuple[Sequence[Hit], asyncio.Future[list[int]]]]
    ) -> None:
        """Fail all hits until Redis answers again."""
        self._lost = True
        self._note(f"{self._shown} does not count: {_words(error)}")
        for _, counts in (*batch, *self._waiting):
            _fail(counts, self.trouble)
        self._waiting.clear()
        pause_s = FIRST_PAUSE_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            with suppress(Exception):
                await self._client.ping()  # pyright: ignore[reportUnknownMemberType]
                break
        self._lost = False
        self._note("")

    def _note(self, trouble: str) -> None:
        """Log a trouble when it begins, and when it is over."""
        if trouble and not self.trouble:
            _log.error("redis_lost", message=trouble)
        elif self.trouble and not trouble:
            _log.info("redis_back", message=f"{self._shown} counts again.")
        self.trouble = trouble


def _digest(name: str) -> str:
    return blake2b(name.encode(errors="surrogatepass"), digest_size=32).hexdigest()


def _fail(counts: asyncio.Future[list[int]], message: str) -> None:
    if not counts.done():
        counts.set_exception(CountersError(message))


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
