"""Ending an Envoy that nobody supervises: one that a former moongate left running."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import httpx

from moongate.infra.admin import Admin
from moongate.patience import within

if TYPE_CHECKING:
    from moongate.infra.rundir import EnvoyFiles

TERM_WAIT_S: Final = 5.0
"""Seconds from SIGTERM to SIGKILL."""


async def end_kept(envoy: EnvoyFiles, drain_s: float) -> None:
    """Drain and end an Envoy, and remove its files.

    Args:
        envoy: its files.
        drain_s: how long to wait for requests in flight, in seconds.
    """
    pid = envoy.running()
    if pid is not None:
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                await _end(envoy, pidfd, drain_s)
            finally:
                os.close(pidfd)
    envoy.remove()


async def _end(envoy: EnvoyFiles, pidfd: int, drain_s: float) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    with suppress(TimeoutError, httpx.HTTPError):
        async with within(drain_s), Admin(envoy.admin) as admin:
            await admin.drain()
            await admin.idle()
    loop.add_reader(pidfd, ended.set)
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(pidfd, number)
            with suppress(TimeoutError):
                async with within(TERM_WAIT_S):
                    await ended.wait()
                return
    finally:
        loop.remove_reader(pidfd)
