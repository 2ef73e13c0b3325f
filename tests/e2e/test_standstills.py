"""A test that measures times is run anew when somebody stood still, and only then."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tests.e2e.conftest import Site
from tests.e2e.standstills import RUNS, STANDSTILL_S, Pulse, admins, measures_time, undisturbed

LONG_S = 0.3


class Judge:
    """Stands still, and then fails the first times."""

    def __init__(self, *, fails: int = 1) -> None:
        self.runs = 0
        self._fails = fails

    async def judge(self) -> None:
        self.runs += 1
        time.sleep(LONG_S)  # noqa: ASYNC251 - it stands still
        assert self.runs > self._fails


async def test_what_fails_while_the_process_stood_still_is_measured_anew() -> None:
    judge = Judge()

    await undisturbed(judge.judge, [])

    assert judge.runs == 2


async def test_what_the_process_does_itself_is_no_standstill() -> None:
    """But another may be on its processor meanwhile."""
    pulse = Pulse([])
    began, worked = time.monotonic(), time.process_time()

    while time.process_time() < worked + LONG_S:
        pass

    stood_still_s = time.monotonic() - began - (time.process_time() - worked)
    assert pulse.longest_s < stood_still_s + STANDSTILL_S / 2


async def test_what_always_fails_fails() -> None:
    """However often somebody stands still."""
    judge = Judge(fails=RUNS)

    with pytest.raises(AssertionError):
        await undisturbed(judge.judge, [])

    assert judge.runs == RUNS


async def test_another_failure_is_not_hidden() -> None:
    """A deadline that is over, for example."""

    async def judge() -> None:
        time.sleep(LONG_S)  # noqa: ASYNC251 - it stands still
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await undisturbed(judge, [])


@pytest.mark.envoy
@pytest.mark.asyncio(loop_scope="module")
async def test_what_fails_while_an_envoy_stood_still_is_measured_anew(site: Site) -> None:
    [fleet] = site.laptop.fleets.report()
    pid, runs = fleet["envoy"]["pid"], 0
    assert admins(site)

    @measures_time()
    async def judge(site: Site) -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(LONG_S, os.kill, (pid, signal.SIGCONT)).start()
            await site.status("nobody.test")
        assert runs > 1

    await judge(site=site)

    assert runs == 2


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.envoy
async def test_a_test_that_does_not_judge_by_times_is_run_once(site: Site) -> None:
    judge = Judge()

    @measures_time(fault={"is slow"})
    async def test(site: Site, fault: str) -> None:
        await judge.judge()

    with pytest.raises(AssertionError):
        await test(site=site, fault="answers 500")

    assert judge.runs == 1
