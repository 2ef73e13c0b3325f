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
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any

from bench.child import answer_commands, write_line
from moongate.report.logs import configure
from moongate.run import LaptopOptions, run_laptop

if TYPE_CHECKING:
    from moongate.run import Laptop


class _Turns:
    """How long the callbacks of the event loop take, since ``watch``.

    While one of them runs, all else waits: so the longest is the longest that an endpoint can wait for code
    that does something else.
    """

    def __init__(self) -> None:
        self._run = Handle._run  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        self._longest: tuple[float, float, str] = (0.0, 0.0, "")

    def watch(self) -> None:
        """Forget what was, and look at each callback from now on, which costs it a microsecond."""
        self._longest = (0.0, 0.0, "")
        turns, run = self, self._run

        def timed(handle: Handle) -> None:
            named = _name(handle)
            cpu, began = thread_time(), perf_counter()
            run(handle)
            took = thread_time() - cpu, perf_counter() - began
            if took > turns._longest[:2]:
                turns._longest = (*took, named)

        Handle._run = timed  # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]

    def longest(self) -> dict[str, Any]:
        """The longest since ``watch``: milliseconds of CPU and of time, and what it was."""
        cpu, took, what = self._longest
        return {"cpu_ms": 1000 * cpu, "ms": 1000 * took, "what": what}


def _name(handle: Handle) -> str:
    """Whose callback it is: the name of a task, or a function."""
    callback: object = getattr(handle, "_callback", None)
    task = getattr(callback, "__self__", None)
    return task.get_name() if isinstance(task, asyncio.Task) else repr(callback)


async def _run(paths: tuple[str, ...]) -> None:
    turns = _Turns()

    def served(running: Laptop) -> None:
        answer_commands(
            {
                "figures": running.figures,
                "settle": gc.collect,
                "profile": profile,
                "watch": turns.watch,
                "turns": lambda: {
                    "slices": running.slices,
                    "settling": running.status.settling(),
                    "longest": turns.longest(),
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

    await run_laptop(LaptopOptions(paths=paths), served=served)


if __name__ == "__main__":
    configure("json")
    asyncio.run(_run(tuple(sys.argv[1:])))
