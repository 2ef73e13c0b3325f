"""``moongate stop``: end a running moongate, and the Envoys that it would leave running."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from moongate.cli.printing import say
from moongate.cli.status import process_of, run_of
from moongate.cli.usage_errors import REFUSED, UsageError

if TYPE_CHECKING:
    from moongate.infra.rundir import RunDirectory

_DRAIN_S = 60.0
"""Seconds that requests in flight have when no moongate runs that knows better."""


def stop(
    *,
    run_dir: Annotated[
        Path | None,
        Parameter(help="The folder of one run, or the folder that contains the folders of runs."),
    ] = None,
) -> int:
    """End a running moongate and its Envoys, after their requests in flight.

    It also ends the Envoys that `moongate run --keep-envoys` has left running,
    whether that still runs or not.

    For example:

        moongate stop
        moongate stop --run-dir /run/moongate

    Exits 0 when all of it has ended, 1 when nothing runs, 2 on bad usage.
    """
    from moongate.infra.rundir import RunDirectory, kept

    base = run_dir
    ended = 0
    try:
        folder = run_of(run_dir)
    except UsageError as error:
        if error.code != REFUSED or not kept(run_dir):
            raise
    else:
        pid = process_of(folder)
        if run_dir == folder:
            base = folder.parent
        # The run removes its folder after all else.
        _end(pid)
        say(f"moongate (process {pid}) has ended.")
    for each in kept(base):
        with RunDirectory(each, keep=True) as run:
            ended += asyncio.run(_end_envoys(run))
    if ended:
        say(f"{ended} Envoy{'s' * (ended > 1)} that it left running {'have' if ended > 1 else 'has'} ended.")
    return 0


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            select.select([process], [], [])
        finally:
            os.close(process)


async def _end_envoys(run: RunDirectory) -> int:
    from moongate.infra.ending import end_kept

    envoys = [envoy for envoy in run.envoys() if envoy.running() is not None]
    async with asyncio.TaskGroup() as tasks:
        for envoy in envoys:
            tasks.create_task(end_kept(envoy, _DRAIN_S))
    return len(envoys)
