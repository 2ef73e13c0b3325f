"""The rate limit service of a laptop: a process that is started, kept running and ended with moongate.

Theory of operation
===================
A supervisor task runs ``python -m moongate.rate_limits`` again and again until it is stopped. It hands over
the settings on standard input, which it keeps open: if this process dies, that ends, and so does the service.
The kernel is asked to kill it too (``launch``), in case that it hangs.

What the service writes to standard error are events as JSON, which become part of our log.

Facts
-----
* it is in a session of its own, so that a Ctrl-C in the terminal reaches only us: Envoys that drain ask it
  until they end
* settings may contain passwords, which arguments would show to every user of the machine
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
import structlog

from moongate.infra import launch
from moongate.infra.ending import TERM_WAIT_S
from moongate.infra.envoy_run import CHILDREN
from moongate.infra.process import Backoff, State

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_log = structlog.get_logger("moongate")

SERVING: Final = "serving"
"""The event that says that the service has a configuration."""

_LONGEST_LINE: Final = 1 << 20
_LEVELS: Final = frozenset({"debug", "info", "warning", "error"})


class RateLimitProcess:
    """An async context manager that keeps one rate limit service running.

    Args:
        settings: what the service reads on its standard input, as one line.
        on_change: called when ``state`` has changed.
        backoff: pauses between restarts.

    Attributes:
        state: the present state.
        pid: of the running process, or None.
        restarts: how often it was started again after an unexpected end.
        last_error: the last line of what it wrote that is no event, such as the end of a traceback.
    """

    def __init__(
        self,
        settings: bytes,
        *,
        on_change: Callable[[], None] = lambda: None,
        backoff: Backoff = Backoff(),  # noqa: B008 - frozen
    ) -> None:
        self.state = State.STARTING
        self.pid: int | None = None
        self.restarts = 0
        self.last_error = ""
        self._settings = settings
        self._on_change = on_change
        self._backoff = backoff
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        """Start the service, and return at once. See ``ready``."""
        await self._group.__aenter__()
        self._group.create_task(self._supervise(), name="rate limit service")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the service."""
        self._stopping.set()
        await self._group.__aexit__(None, None, None)

    async def ready(self) -> None:
        """Return when the service answers, or has been ended."""
        while self.state not in {State.READY, State.STOPPED}:
            await self._changed.wait()

    async def _supervise(self) -> None:
        pause_s = self._backoff.first_s
        while not self._stopping.is_set():
            began = monotonic()
            self._enter(State.STARTING)
            try:
                status = await self._run()
                why = {"status": status}
            except OSError as error:
                why = {"message": f"It cannot be started: {error.strerror}."}
            if self._stopping.is_set():
                break
            if monotonic() - began > self._backoff.reset_after_s:
                pause_s = self._backoff.first_s
            _log.warning("rate_limits.ended", **why, restart_in_s=pause_s)
            self._enter(State.WAITING)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(2 * pause_s, self._backoff.longest_s)
            self.restarts += 1
        self._enter(State.STOPPED)

    async def _run(self) -> int:
        """Run the service once, and return its exit status, negative if a signal ended it."""
        process = await asyncio.create_subprocess_exec(
            *_command(),
            env=_environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,
        )
        CHILDREN.add(process.pid)
        try:
            self.pid = process.pid
            _log.info("rate_limits.started", pid=process.pid)
            assert process.stdin is not None, "it is a pipe"
            assert process.stderr is not None, "it is a pipe"
            with suppress(ConnectionError):
                process.stdin.write(self._settings + b"\n")
                await process.stdin.drain()
            async with asyncio.TaskGroup() as tasks:
                log = tasks.create_task(self._read_log(process.stderr))
                ender = tasks.create_task(self._end_when_stopping(process))
                status = await process.wait()
                await asyncio.wait({log})
                ender.cancel()
            return status
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            CHILDREN.discard(process.pid)
            self.pid = None

    async def _end_when_stopping(self, process: asyncio.subprocess.Process) -> None:
        await self._stopping.wait()
        with suppress(ProcessLookupError):
            process.terminate()
            try:
                async with asyncio.timeout(TERM_WAIT_S):
                    await process.wait()
            except TimeoutError:
                process.kill()

    async def _read_log(self, lines: asyncio.StreamReader) -> None:
        while line := await lines.readline():
            try:
                entry = msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.DecodeError:
                self.last_error = line.decode(errors="replace").rstrip()
                _log.error("rate_limits.log", message=self.last_error)
                continue
            event, level = entry.pop("event", ""), entry.pop("level", "info")
            if event == SERVING:
                self._enter(State.READY)
            if level in _LEVELS:
                getattr(_log, level)(f"rate_limits.{event}", **entry)

    def _enter(self, state: State) -> None:
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_change()


def _command() -> list[str]:
    # -P: modules in the working directory have no part in it.
    service = [sys.executable, "-P", "-m", "moongate.rate_limits"]
    return [sys.executable, "-I", "-S", str(Path(launch.__file__)), str(os.getpid()), *service]


def _environment() -> dict[str, str]:
    """Our environment, and where our own sources are; gRPC's own log is for nobody."""
    sources = str(Path(__file__).parents[2])
    others = os.environ.get("PYTHONPATH", "")
    return {
        **os.environ,
        "GRPC_VERBOSITY": "NONE",
        "PYTHONPATH": os.pathsep.join(filter(None, (sources, others))),
    }
