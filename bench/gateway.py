"""What is measured: ``python -m bench.gateway PATH...`` is ``moongate run PATH...`` that shows figures.

``moongate status`` shows them too, but with everything else that it knows: that costs more than a change.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import os
import signal
import sys
from asyncio.events import Handle
from collections import Counter, defaultdict
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse

from bench.child import answer_commands, write_line
from moongate.ads.session import Session
from moongate.report.logs import configure
from moongate.run import LaptopOptions, run_laptop
from moongate.xds.wire import ENDPOINT

if TYPE_CHECKING:
    from types import FrameType

    from moongate.run import Laptop


_SAMPLE_S = 0.002
"""Seconds of CPU between two looks at what a callback does."""

_LONG_S = 0.005
"""Seconds of CPU after which it is noted what a callback does."""

_DEPTH = 4
"""How many functions name the place in a callback where it was mostly seen."""

_HEAD = 200
"""In how many bytes of a response its type stands for certain."""

_MOST = 5
"""How many long callbacks are reported."""


class _Turns:
    """How long the callbacks of the event loop take, since ``watch``.

    While one of them runs, all else waits: so the longest is the longest that an endpoint can wait for code
    that does something else.
    """

    def __init__(self) -> None:
        self._run = Handle._run  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        self._longest: tuple[float, float, str] = (0.0, 0.0, "")
        self._long: Counter[str] = Counter()
        self._began = 0.0
        self._seen: Counter[str] = Counter()

    def watch(self) -> None:
        """Forget what was, and look at each callback from now on, which costs it a microsecond."""
        self._longest = (0.0, 0.0, "")
        self._long.clear()
        turns, run = self, self._run

        def timed(handle: Handle) -> None:
            named = _name(handle)
            turns._seen = Counter()
            cpu, began = thread_time(), perf_counter()
            turns._began = cpu
            run(handle)
            took = thread_time() - cpu, perf_counter() - began
            seen, turns._seen = turns._seen, Counter()  # a signal may come at any time
            if took[0] > _LONG_S:
                named = " in ".join((*(place for place, _ in seen.most_common(1)), named))
                turns._long[named] = max(turns._long[named], round(1000 * took[0]))
            if took > turns._longest[:2]:
                turns._longest = (*took, named)

        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, _SAMPLE_S, _SAMPLE_S)

        Handle._run = timed  # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]

    def _look(self, _signal: int, frame: FrameType | None) -> None:
        if thread_time() - self._began < _LONG_S:
            return
        places: list[str] = []
        while frame is not None:
            if "/moongate/" in frame.f_code.co_filename:
                places.append(frame.f_code.co_qualname)
            frame = frame.f_back
        self._seen[" < ".join(places[:_DEPTH])] += 1

    def long(self) -> dict[str, int]:
        """The longest callbacks since ``watch``: what they were, and milliseconds of CPU."""
        return dict(self._long.most_common(_MOST))

    def longest(self) -> dict[str, Any]:
        """The longest since ``watch``: milliseconds of CPU and of time, and what it was."""
        cpu, took, what = self._longest
        return {"cpu_ms": 1000 * cpu, "ms": 1000 * took, "what": what}


class _Sent:
    """When endpoints were handed to the stream: what comes after is gRPC's and Envoy's.

    The clock is that of the system, as in the benchmark.
    """

    def __init__(self) -> None:
        times = self._times = defaultdict[str, list[float]](list)
        following = Session.next

        def noted(self: Session, now: float) -> bytes | None:
            response = following(self, now)
            if response is not None and ENDPOINT.encode() in response[:_HEAD]:
                at = perf_counter()
                for resource in DeltaDiscoveryResponse.FromString(response).resources:
                    times[resource.name].append(at)
            return response

        Session.next = noted

    def of(self, name: str) -> list[float]:
        """When endpoints with ``name`` in theirs were sent; they are forgotten thereby."""
        times = [at for each in self._times if name in each for at in self._times[each]]
        self._times.clear()
        return times


def _name(handle: Handle) -> str:
    """Whose callback it is: the name of a task, or a function."""
    callback: object = getattr(handle, "_callback", None)
    task = getattr(callback, "__self__", None)
    return task.get_name() if isinstance(task, asyncio.Task) else repr(callback)


async def _run(paths: tuple[str, ...]) -> None:
    turns, sent = _Turns(), _Sent()
    serving: list[asyncio.Task[None]] = []

    def served(running: Laptop) -> None:
        def await_served() -> None:
            """Wait until all that was read is acknowledged: ``turns`` says whether it is."""
            serving[:] = [tasks.create_task(running.served(timeout_s=None), name="served")]

        answer_commands(
            {
                "figures": running.figures,
                "settle": gc.collect,
                "profile": profile,
                "watch": turns.watch,
                "await served": await_served,
                "sent": sent.of,
                "turns": lambda: {
                    "slices": running.slices,
                    "settling": running.status.settling(),
                    "served": all(task.done() for task in serving),
                    "longest": turns.longest(),
                    "long": turns.long(),
                },
            },
            lambda: os.kill(os.getpid(), signal.SIGTERM),
        )
        write_line("served")

    profiler = cProfile.Profile()

    def profile(to: str | None) -> str:
        nonlocal profiler
        if to is None:
            profiler = cProfile.Profile()
            profiler.enable()
            return "profiling"
        profiler.disable()
        profiler.dump_stats(to)
        return to

    async with asyncio.TaskGroup() as tasks:
        await run_laptop(LaptopOptions(paths=paths), served=served)
        for task in serving:
            task.cancel()


if __name__ == "__main__":
    configure("json")
    asyncio.run(_run(tuple(sys.argv[1:])))
