"""Waits in which a process stands still."""

from __future__ import annotations

import asyncio
import threading
import time

from moongate.patience import Patience, join
from tests.deadline import DEADLINE_S

SECONDS = 0.2


async def test_a_timer_ends_after_its_time() -> None:
    ended = asyncio.Event()
    began = time.monotonic()
    Patience(SECONDS, ended.set)

    async with asyncio.timeout(DEADLINE_S):
        await ended.wait()

    assert time.monotonic() - began >= SECONDS * 0.99


async def test_what_came_while_the_process_stood_still_is_heard_before_the_timer_ends() -> None:
    """Some turns of the event loop pass until a task has the news that a reader got."""
    heard = list[str]()
    patience = Patience(SECONDS, lambda: heard.append("end"))
    time.sleep(2 * SECONDS)  # noqa: ASYNC251 - this is the standstill

    for _ in range(10):
        await asyncio.sleep(0)
    heard.append("news")
    patience.cancel()

    assert heard == ["news"]


async def test_a_timer_that_is_cancelled_does_not_end() -> None:
    ended, later = asyncio.Event(), asyncio.Event()
    Patience(SECONDS / 10, ended.set).cancel()
    Patience(SECONDS, later.set)
    await later.wait()

    assert not ended.is_set()


def test_a_thread_is_waited_for_although_the_process_stood_still() -> None:
    """All its threads did, so this one needs a moment more."""
    stand_still, ended = threading.Event(), list[bool]()

    def work() -> None:
        stand_still.wait()
        time.sleep(SECONDS / 4)
        ended.append(True)

    class Suspended(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            """The first wait is over when the process goes on."""
            if not stand_still.is_set():
                time.sleep(2 * SECONDS)
                stand_still.set()
                return
            super().join(timeout)

    thread = Suspended(target=work)
    thread.start()
    join(thread, SECONDS)

    assert ended == [True]


def test_a_thread_that_does_not_end_is_given_up() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()

    join(thread, SECONDS / 10)

    assert thread.is_alive()
    end.set()
    thread.join()
