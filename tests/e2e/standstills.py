"""Tests that measure times are run anew when somebody stood still meanwhile.

Theory of operation
===================
A pulse beats while such a test runs: it waits for a moment, then asks each Envoy whether it lives. If a beat
takes longer, and this process did not work in that time, then this process stood still or an Envoy did.
A test that fails by an assertion and was disturbed in this way says nothing, so it is run anew, some times at
most. Whoever fails undisturbed, fails.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from functools import wraps
from pathlib import Path
from time import monotonic, process_time
from typing import TYPE_CHECKING, Any, Final

import httpx

from moongate.infra.admin import Admin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Sequence

    from tests.e2e.conftest import Site

    Test = Callable[..., Awaitable[None]]

BEAT_S: Final = 0.05
STANDSTILL_S: Final = 0.1
"""What is shorter disturbs no test: none judges by less than 150 ms."""
RUNS: Final = 10


class Pulse:
    """Notes how long this process or an Envoy stood still.

    Args:
        admins: the admin sockets of the Envoys.
    """

    def __init__(self, admins: Sequence[Path]) -> None:
        self._admins = admins
        self._longest_s = 0.0
        self._begin()

    @property
    def longest_s(self) -> float:
        """The longest standstill, also that of a beat that has not ended."""
        return max(self._longest_s, self._late_s())

    async def beat(self) -> None:
        """Beat until it is cancelled."""
        async with AsyncExitStack() as stack:
            envoys = [await stack.enter_async_context(Admin(admin)) for admin in self._admins]
            while True:
                self._begin()
                await asyncio.sleep(BEAT_S)
                for envoy in envoys:
                    with suppress(httpx.HTTPError):
                        await envoy.live()
                self._longest_s = self.longest_s

    def _begin(self) -> None:
        self._began, self._worked = monotonic(), process_time()

    def _late_s(self) -> float:
        return monotonic() - self._began - BEAT_S - (process_time() - self._worked)


async def undisturbed(test: Test, admins: Sequence[Path]) -> None:
    """Run a test, and run it anew while it fails and was disturbed.

    Raises:
        AssertionError: it failed and was not disturbed, or was each time.
    """
    for left in reversed(range(RUNS)):
        failure: Exception | None = None
        pulse = Pulse(admins)
        async with asyncio.TaskGroup() as tasks:
            beating = tasks.create_task(pulse.beat())
            try:
                await test()
            except Exception as error:  # noqa: BLE001 - it is raised outside of the group, which would wrap it
                failure = error
            longest_s = pulse.longest_s
            beating.cancel()
        if failure is None:
            return
        if not left or longest_s < STANDSTILL_S or not isinstance(failure, AssertionError):
            raise failure


def measures_time(**only: Container[object]) -> Callable[[Test], Test]:
    """Marks a test of a ``site`` that judges by times.

    Args:
        only: the values of its parameters with which it does; it does with all if there are none.
    """

    def mark(test: Test) -> Test:
        @wraps(test)
        async def run(**arguments: Any) -> None:
            if all(arguments[name] in values for name, values in only.items()):
                await undisturbed(lambda: test(**arguments), admins(arguments["site"]))
            else:
                await test(**arguments)

        return run

    return mark


def admins(site: Site) -> list[Path]:
    """The admin sockets of its Envoys."""
    return [Path(fleet["envoy"]["admin"].removeprefix("unix:")) for fleet in site.laptop.fleets.report()]
