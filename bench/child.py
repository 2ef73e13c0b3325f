"""Processes of the benchmark that answer commands: a line of JSON in, a line of JSON out.

So figures from inside a process cost a line each. What a process logs goes to a file. A child ends
with its standard input, so that none outlives the benchmark.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable

_LONGEST_LINE = 1 << 24


class Child:
    """An async context manager: a module of this package as a process.

    Args:
        module: its name.
        arguments: of its command line.
        log: takes its standard error.
    """

    def __init__(self, module: str, *arguments: str, log: Path) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._log = log

    async def __aenter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process: Process = await asyncio.create_subprocess_exec(
                *self._command, stdin=PIPE, stdout=PIPE, stderr=log, limit=_LONGEST_LINE, env=_environment()
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(20):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def line(self) -> Any:
        """The next line that it writes.

        Raises:
            RuntimeError: it has ended; the message holds the end of its log.
        """
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            await self._process.wait()
            words = self._log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self._command[2]} ended with status {self._process.returncode}: {words}")
        return json.loads(line)

    async def ask(self, command: str, **arguments: Any) -> Any:
        """Its answer to a command."""
        assert self._process.stdin is not None
        with suppress(ConnectionError):  # then ``line`` says why
            self._process.stdin.write(json.dumps([command, arguments]).encode() + b"\n")
            await self._process.stdin.drain()
        return await self.line()


def answer_commands(commands: dict[str, Callable[..., Any]], at_end: Callable[[], None]) -> None:
    """In a child: answer what comes by standard input, in turns of the running event loop."""
    loop = asyncio.get_running_loop()
    rest = b""

    def read() -> None:
        nonlocal rest
        chunk = os.read(0, 1 << 20)
        if not chunk:
            loop.remove_reader(0)
            at_end()
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            command, arguments = json.loads(line)
            write_line(commands[command](**arguments))

    loop.add_reader(0, read)


def write_line(what: Any) -> None:
    """In a child: write a line of JSON."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _environment() -> dict[str, str]:
    # Children import this package from where it is, whatever the folder that the benchmark was started in.
    here = str(Path(__file__).resolve().parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))}
