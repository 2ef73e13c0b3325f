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
from typing import TYPE_CHECKING

from bench.child import answer_commands, write_line
from moongate.report.logs import configure
from moongate.run import LaptopOptions, run_laptop

if TYPE_CHECKING:
    from moongate.run import Laptop


async def _run(paths: tuple[str, ...]) -> None:
    def served(running: Laptop) -> None:
        answer_commands(
            {"figures": running.figures, "settle": gc.collect, "profile": profile},
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
