"""The command as a process of its own, for what serves until it gets a signal."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.deadline import DEADLINE_S


class Moongate:
    """``moongate`` with some arguments; killed at the end of the block, if it still runs then.

    Args:
        new_session: whether it has no controlling terminal, as a daemon.
        stderr: whether what it says on standard error is taken, too.
    """

    def __init__(self, *arguments: str | int | Path, new_session: bool = False, stderr: bool = True) -> None:
        self._arguments = [str(argument) for argument in arguments]
        self._new_session = new_session
        self._stderr = asyncio.subprocess.STDOUT if stderr else asyncio.subprocess.DEVNULL
        self._said = ""
        self.process: Process

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "moongate",
            *self._arguments,
            stdout=PIPE,
            stderr=self._stderr,
            start_new_session=self._new_session,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()

    async def says(self, word: str) -> str:
        """All that it said until a line with ``word`` came."""
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            while line := (await self.process.stdout.readline()).decode():
                self._said += line
                if word in line:
                    return self._said
        raise AssertionError(f"it ended without {word!r}:\n{self._said}")

    async def killed(self) -> None:
        """Kill it, so that it can clean up nothing."""
        self.process.kill()
        await self.process.communicate()

    async def ended_by(self, number: int) -> int | None:
        """The exit code after a signal."""
        self.process.send_signal(number)
        async with asyncio.timeout(DEADLINE_S):
            await self.process.communicate()
        return self.process.returncode


def left_in(folder: Path) -> list[str]:
    """What is in a folder, by name; nothing if it is gone."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
