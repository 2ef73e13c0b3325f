"""Waiting for news for some time, in which this process can hear of it.

Theory of operation
===================
While the process stands still (it is suspended, or it gets no CPU), time passes, and news comes that nobody
reads. A single timer would be over before the news is read. So a wait consists of steps. A standstill takes
one of them, and in the others the event loop or the other thread gets its turn.

Deadlines of users are not for this: who says "within 15 s" means the clock on the wall.
"""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import asynccontextmanager
from subprocess import DEVNULL, PIPE
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path
    from threading import Thread

STEPS: Final = 20


class Patience:
    """A timer of the event loop.

    Args:
        seconds: how long it lasts, not counting standstills.
        on_end: called when it is over.
    """

    def __init__(self, seconds: float, on_end: Callable[[], None]) -> None:
        self._step_s = seconds / STEPS
        self._steps = STEPS
        self._on_end = on_end
        self._timer = self._next()

    def cancel(self) -> None:
        self._timer.cancel()

    def _next(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._step_s, self._step)

    def _step(self) -> None:
        self._steps -= 1
        if self._steps:
            self._timer = self._next()
        else:
            self._on_end()


@asynccontextmanager
async def within(seconds: float) -> AsyncGenerator[None]:
    """A limit for what is awaited inside, not counting standstills.

    Raises:
        TimeoutError: it took longer.
    """
    async with asyncio.timeout(None) as limit:
        now = asyncio.get_running_loop().time
        patience = Patience(seconds, lambda: limit.reschedule(now()))
        try:
            yield
        finally:
            patience.cancel()


class Clock:
    """Seconds that pass while this process goes on.

    From one look at it to the next, it goes on by one step at most. So who waits for a time looks once in a
    step, and while nobody waits the clock may stand.

    Args:
        step_s: the longest time between two looks of one who waits.
        time: a clock that goes on in a standstill, in seconds.
    """

    def __init__(self, step_s: float, time: Callable[[], float] = monotonic) -> None:
        self.step_s = step_s
        self._time = time
        self._looked = time()
        self._shown = 0.0

    def __call__(self) -> float:
        now = self._time()
        self._shown += min(now - self._looked, self.step_s)
        self._looked = now
        return self._shown


def run(command: Sequence[str | Path], seconds: float) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, with what it prints, but for so many seconds at most, not counting
    standstills.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it did not end in time, and was killed.
    """
    with subprocess.Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE) as process:  # noqa: S603
        try:
            for _ in range(STEPS):
                try:
                    printed, complaint = process.communicate(timeout=seconds / STEPS)
                except subprocess.TimeoutExpired:
                    continue
                return subprocess.CompletedProcess(command, process.returncode, printed, complaint)
        finally:
            process.kill()
    raise subprocess.TimeoutExpired([*map(str, command)], seconds)


def join(thread: Thread, seconds: float) -> None:
    """Wait for the end of a thread, but for so many seconds at most, not counting standstills."""
    for _ in range(STEPS):
        thread.join(seconds / STEPS)
        if not thread.is_alive():
            return
