"""Notices when the folder of the run, or a socket in it, is removed, and lets it be created again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from moongate.sources.folder_events import FolderEvents

if TYPE_CHECKING:
    from moongate.infra.rundir import RunDirectory

_log = structlog.get_logger("moongate")

LOOK_AGAIN_S: Final = 5.0
"""Seconds between two looks at a folder that cannot be watched or created."""


async def restoring(run: RunDirectory) -> None:
    """Keep the folder of a run complete, until cancelled."""
    message = ""
    while True:
        with FolderEvents({str(run.path): False}) as events:
            while True:
                try:
                    restored = await run.restore()
                except OSError as error:
                    if message != (message := _reason(error)):
                        _log.warning("run.lost", folder=str(run.path), message=message)
                    await asyncio.sleep(LOOK_AGAIN_S)
                    break
                message = ""
                if restored:
                    _log.warning("run.restored", folder=str(run.path), files=[each.name for each in restored])
                if events.stale:
                    break
                await events.burst(LOOK_AGAIN_S if events.unheard else None)


def _reason(error: OSError) -> str:
    why = f"{error.strerror}." if error.strerror else str(error)
    return (
        f"{why} Envoys that run go on serving, but none can be started, and `moongate status` does not find "
        "this run. It is tried again from time to time."
    )
