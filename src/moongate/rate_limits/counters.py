"""Counters of requests, and those in memory; ``redis_counters`` has those in Redis.

A counter is a *bucket*: one limit, one set of values, one window. Its name contains the start of its window,
so that the next window is another bucket, and nothing has to be reset.

Facts
-----
* all counts of one process go through one event loop, so a count in memory needs no lock
* values of buckets come from clients. So at most ``MOST_BUCKETS`` are kept in memory; of more, the one is
  forgotten that was counted least recently. And of a name only a digest is kept: a header may have 60 kB
* a window ends for all its buckets at once, and requests must not wait until a quarter of a million of them
  are forgotten. So with each hit some are, ``FORGOTTEN_AT_ONCE``
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from time import time  # noqa: TID251 - windows are aligned to the clock
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from moongate.rate_limits.config import Limit

MOST_BUCKETS: Final = 250_000
"""How many buckets are kept in memory: some 100 MB."""

FORGOTTEN_AT_ONCE: Final = 10
"""How many buckets whose window has ended are forgotten with each hit: more than come."""


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


class Bucket(Struct, gc=False):
    """What is known of a bucket: its limit, its count, and when its window ends."""

    limit: Limit
    ends: int
    used: int = 0


class Buckets:
    """The buckets whose window has not ended, as far as this process knows them."""

    def __init__(self, clock: Callable[[], float] = time, *, most: int = MOST_BUCKETS) -> None:
        self._clock = clock
        self._most = most
        self._kept: OrderedDict[bytes, Bucket] = OrderedDict()
        """The one that was counted least recently comes first."""
        self._windows: dict[int, dict[bytes, None]] = {}
        """The buckets of each window, by its end."""

    def of(self, hit: Hit) -> Bucket:
        """The bucket of a hit."""
        self._forget_ended()
        name = _digest(hit.bucket)
        bucket = self._kept.get(name)
        if bucket is None:
            bucket = self._kept[name] = Bucket(hit.limit, hit.ends)
            self._windows.setdefault(hit.ends, {})[name] = None
            if len(self._kept) > self._most:
                oldest, forgotten = self._kept.popitem(last=False)
                del self._windows[forgotten.ends][oldest]
        else:
            self._kept.move_to_end(name)
            # The configuration may have changed within the window.
            bucket.limit = hit.limit
        return bucket

    def __iter__(self) -> Iterator[Bucket]:
        """All of them."""
        now = self._clock()
        return iter([bucket for bucket in self._kept.values() if bucket.ends > now])

    def __len__(self) -> int:
        """How many are in memory, with those that have ended and are not forgotten yet."""
        return len(self._kept)

    def _forget_ended(self) -> None:
        now = self._clock()
        left = FORGOTTEN_AT_ONCE
        while left and self._windows and (ends := min(self._windows)) <= now:
            names = self._windows[ends]
            while left and names:
                del self._kept[names.popitem()[0]]
                left -= 1
            if not names:
                del self._windows[ends]


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


def _digest(name: str) -> bytes:
    return blake2b(name.encode(errors="surrogatepass"), digest_size=16).digest()
