"""Counters in Redis, which outlive this process, and which others share.

Buckets have the names and the form that Envoy's own service gives them, so both count together, and counts
outlive a change from one to the other. A hit is ``INCRBY`` and ``EXPIRE`` in one pipeline. Hits that arrive
while a pipeline is under way share the next one: under load this costs a fraction of a pipeline for each.

Each server has a *lane*: its waiting hits, and whether it counts. One Redis has one lane; a cluster has one
for each of its members that write. If a server fails, the hits in its lane fail at once until it answers
again, which a task asks from time to time. Those of other lanes go on.

Facts
-----
* a hit may have been counted though its answer never came, so it is not repeated
* when a member of a cluster fails, another one may take its slots. The client learns that only if it asks, so
  a lane that has failed asks before each try. Its hits are then those of the other one's lane
* certificates are read from their files when a connection is made anew after a failure: they may have been
  renewed
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import time  # noqa: TID251 - windows are aligned to the clock
from typing import TYPE_CHECKING, Final, Self, TypeAlias

import structlog
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import SlotNotCoveredError
from redis.exceptions import TimeoutError as RedisTimeoutError

from moongate.rate_limits.config import SECONDS
from moongate.rate_limits.counters import Buckets, CountersError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from redis.asyncio import Redis

    from moongate.rate_limits.counters import Hit

    _Waiting: TypeAlias = tuple[Sequence[Hit], asyncio.Future[list[int]]]

_log = structlog.get_logger("moongate.rate_limits")

LONGEST_PIPELINE: Final = 500
"""The most hits in one pipeline."""

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
"""Seconds between two tries to reach Redis: the first pause, and the longest, as it doubles each time."""


class RedisCounters:
    """An async context manager: inside, hits are counted in Redis.

    Args:
        client: of the Redis.
        shown: what to call this Redis in logs.
        files: those with certificates, which a new connection reads.
        clock: tells which buckets are over.
    """

    def __init__(
        self,
        client: Redis | RedisCluster,
        shown: str,
        files: Sequence[str] = (),
        clock: Callable[[], float] = time,
    ) -> None:
        self.buckets = Buckets(clock)
        self._client = client
        self._shown = shown
        self._files = files
        self._lanes: dict[str, _Lane] = {}
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        """Begin to count, whether Redis can be reached or not."""
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lane in self._lanes.values():
            lane.task.cancel()
        await self._tasks.__aexit__(None, None, None)

    @property
    def trouble(self) -> str:
        return next((lane.trouble for lane in self._lanes.values() if lane.trouble), "")

    async def add(self, hits: Sequence[Hit]) -> list[int]:
        members = [self._member_of(hit) for hit in hits]
        parts = {name: [hit for hit, of in zip(hits, members, strict=True) if of == name] for name in members}
        waiting = [self._lane(name).add(part) for name, part in parts.items()]
        if len(waiting) == 1:
            return await waiting[0]
        answers = zip(parts, await asyncio.gather(*waiting), strict=True)
        counts = {name: iter(of_part) for name, of_part in answers}
        return [next(counts[name]) for name in members]

    def _member_of(self, hit: Hit) -> str:
        """The member of a cluster that has a bucket; "" if that is not known yet, or there is no cluster."""
        if not isinstance(self._client, RedisCluster):
            return ""
        try:
            member = self._client.get_node_from_key(hit.bucket)
        except SlotNotCoveredError:
            return ""
        return member.name if member is not None else ""

    def _lane(self, member: str) -> _Lane:
        lane = self._lanes.get(member)
        if lane is None:
            shown = f"{self._shown}, member {member}," if member else self._shown
            lane = self._lanes[member] = _Lane(self._client, member, shown, self._files, self.buckets)
            lane.task = self._tasks.create_task(lane.count(), name=f"counters in {shown}")
        return lane


class _Lane:
    """The hits of one server.

    Args:
        client: of the Redis.
        member: the name of the member of a cluster; "" of one Redis.
        shown: what to call it in logs.
        files: those with certificates.
        buckets: what is known of buckets.

    Attributes:
        task: which runs ``count``.
        trouble: why it does not count now; "" if it does.
    """

    task: asyncio.Task[None]

    def __init__(
        self,
        client: Redis | RedisCluster,
        member: str,
        shown: str,
        files: Sequence[str],
        buckets: Buckets,
    ) -> None:
        self.trouble = ""
        self._client = client
        self._member = member
        self._shown = shown
        self._files = files
        self._buckets = buckets
        self._lost = False
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()

    def add(self, hits: Sequence[Hit]) -> asyncio.Future[list[int]]:
        """Count hits; the result has the new count of each bucket, or is a ``CountersError``."""
        counts: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        if self._lost:
            _fail(counts, self.trouble)
        else:
            self._waiting.append((hits, counts))
            self._arrived.set()
        return counts

    async def count(self) -> None:
        """Count what arrives, until cancelled."""
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

    async def _count_batch(self, batch: Sequence[_Waiting]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for hits, _ in batch:
            for hit in hits:
                pipeline.incrby(hit.bucket, hit.hits)
                pipeline.expire(hit.bucket, SECONDS[hit.limit.unit])
        answers = await pipeline.execute(raise_on_error=False)
        for answer in answers:
            # A cluster's client gives it back, and the next pipeline would wait for the same.
            if isinstance(answer, RedisConnectionError | RedisTimeoutError):
                raise answer
        each, refused = iter(answers), ""
        for hits, counts in batch:
            of_hits = [(next(each), next(each))[0] for _ in hits]
            refusal = next((answer for answer in of_hits if isinstance(answer, Exception)), None)
            if refusal is not None:
                refused = f"{self._shown} refuses to count: {refusal}"
                _fail(counts, refused)
                continue
            for hit, used in zip(hits, of_hits, strict=True):
                self._buckets.of(hit).used = used
            # Whoever asked may not wait any more.
            if not counts.done():
                counts.set_result(of_hits)
        self._note(refused)

    async def _recover(self, error: Exception, batch: Sequence[_Waiting]) -> None:
        """Fail all hits until the server answers again, or is none of the cluster any more."""
        self._lost = True
        self._note(f"{self._shown} does not count: {self._why(error)}")
        for _, counts in (*batch, *self._waiting):
            _fail(counts, self.trouble)
        self._waiting.clear()
        pause_s = FIRST_PAUSE_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            try:
                await self._reach()
            except Exception as reason:  # noqa: BLE001 - whatever it is, the next try may succeed
                # A connection that was closed may be refused for another reason, such as a new password.
                self._note(f"{self._shown} does not count: {self._why(reason)}")
            else:
                break
        self._lost = False
        self._note("")

    async def _reach(self) -> None:
        """Return when the server answers, or nobody will ask it any more; raise anything if it does not."""
        if isinstance(self._client, RedisCluster):
            await self._client.initialize()
            await self._client.nodes_manager.initialize()
            for member in self._client.get_primaries():
                if member.name == self._member:
                    await member.execute_command("PING")
        else:
            # Connections keep the certificates that they were made with.
            await self._client.connection_pool.disconnect()
            self._client.connection_pool.reset()
            await self._client.ping()  # pyright: ignore[reportUnknownMemberType]

    def _why(self, error: Exception) -> str:
        # The error about a file that is missing does not name it.
        faults = [fault for file in self._files if (fault := _fault_of_file(file))]
        return faults[0] if faults else _words(error)

    def _note(self, trouble: str) -> None:
        """Log a trouble when it begins, and when it is over."""
        if trouble and not self.trouble:
            _log.error("redis_lost", message=trouble)
        elif self.trouble and not trouble:
            _log.info("redis_back", message=f"{self._shown} counts again.")
        self.trouble = trouble


def _fail(counts: asyncio.Future[list[int]], message: str) -> None:
    if not counts.done():
        counts.set_exception(CountersError(message))


def _fault_of_file(file: str) -> str:
    """Why a file cannot be read; "" if it can."""
    try:
        Path(file).open("rb").close()
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}."
    return ""


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
