"""Waiting for news for some time, in which this process can hear of it.

Theory of operation
===================
While the process stands still (it is suspended, or it gets no CPU), time passes, and news comes that nobody
reads. A single timer would be over before the news is read. So a wait consists of steps. A standstill takes
one of them, and in the others the event loop or the other thread gets its turn.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
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


def join(thread: Thread, seconds: float) -> None:
    """Wait for the end of a thread, but for so many seconds at most, not counting standstills."""
    for _ in range(STEPS):
        thread.join(seconds / STEPS)
        if not thread.is_alive():
            return
