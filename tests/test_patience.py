"""Waits in which a process stands still."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from moongate.patience import Clock, Patience, join, run, within
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


async def test_what_ended_while_the_process_stood_still_was_in_time() -> None:
    async with within(SECONDS):
        task = asyncio.current_task()
        assert task is not None
        ended = asyncio.Event()
        asyncio.get_running_loop().call_later(SECONDS / 2, ended.set)
        time.sleep(2 * SECONDS)  # noqa: ASYNC251 - this is the standstill
        await ended.wait()

    assert not task.cancelling()


async def test_what_takes_longer_is_not_waited_for() -> None:
    began = time.monotonic()

    with pytest.raises(TimeoutError):
        async with within(SECONDS):
            await asyncio.Event().wait()

    assert time.monotonic() - began >= SECONDS * 0.99


async def test_an_error_inside_of_a_limit_is_its_own() -> None:
    with pytest.raises(OSError, match="full"):
        async with within(SECONDS):
            raise OSError("full")


def test_a_clock_goes_on_by_one_step_in_a_standstill() -> None:
    times = iter([100.0, 100.5, 101.0, 900.0, 900.25])
    clock = Clock(1.0, lambda: next(times))

    assert [clock() for _ in range(4)] == [0.5, 1.0, 2.0, 2.25]


def test_a_program_that_ended_while_the_process_stood_still_was_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-Z stops a command and what it runs."""
    time_of_process = time.monotonic
    jumps = iter([0.0, 0.0])
    stood_still_s = 0.0

    def monotonic() -> float:
        nonlocal stood_still_s
        stood_still_s += next(jumps, 100.0 if not stood_still_s else 0.0)
        return time_of_process() + stood_still_s

    monkeypatch.setattr(subprocess, "_time", monotonic)

    done = run([sys.executable, "-c", "import sys; print(1); print(2, file=sys.stderr); sys.exit(3)"], 60)

    assert (done.returncode, done.stdout, done.stderr) == (3, b"1\n", b"2\n")
    assert stood_still_s == 100


def test_a_program_that_does_not_end_is_killed() -> None:
    with pytest.raises(subprocess.TimeoutExpired, match="sleep"):
        run(["sleep", "600"], SECONDS)
