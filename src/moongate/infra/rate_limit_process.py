"""The rate limit service of a laptop: a process that is started, kept running and ended with moongate.

Theory of operation
===================
A supervisor task runs ``python -m moongate.rate_limits`` again and again until it is stopped. It hands over
the settings on standard input, as a file in memory.

With other settings it starts another process. The former one answers until that is ready, and until Envoys
have connected to it, so that requests are counted meanwhile.

If Envoys may outlive moongate, the service does too: it has a *lifeline* (``rundir``), and ends when they
have ended. The next moongate goes on with it, if it has the settings that it would be started with. Otherwise
the kernel is asked to kill it when this process dies (``launch``).

A service that runs is asked from time to time whether it answers. Each request would wait for one that does
not, such as one that is stopped. So that one is killed, and started again as if it had ended.

What the service writes to standard error are events as JSON, which become part of our log. It is a FIFO, so
that the next moongate can read on.

Facts
-----
* it is in a session of its own, so that a Ctrl-C in the terminal reaches only us: Envoys that drain ask it
  until they end
* settings may contain passwords, which arguments would show to every user of the machine
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
import structlog

from moongate.infra import launch
from moongate.infra.ending import TERM_WAIT_S
from moongate.infra.envoy_run import ProcessRun
from moongate.infra.process import Backoff, State, is_stopped
from moongate.infra.rundir import open_fifo
from moongate.patience import within

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from types import TracebackType

    from moongate.infra.rundir import ServiceFiles

_log = structlog.get_logger("moongate")

SERVING: Final = "serving"
"""The event that says that the service with this ``pid`` has a configuration."""

MOVED_WITHIN_S: Final = 5.0
"""Seconds in which Envoys have left a process whose socket is another's; see ``rate_limits.service``."""

ASKED_EVERY_S: Final = 5.0
"""Seconds between two questions whether it answers."""

SILENT_S: Final = 10.0
"""Seconds without an answer after which it is started again. Under load, or with many limits, it is slow."""

STARTED_WITHIN_S: Final = 30.0
"""Seconds after which one that has not answered yet is started again. Under load, Python starts slowly."""

_LONGEST_LINE: Final = 1 << 20
_LEVELS: Final = frozenset({"debug", "info", "warning", "error"})


async def _never() -> bool:
    return False


async def _at_once() -> None:
    pass


class RateLimitProcess:
    """An async context manager that keeps one rate limit service running.

    Args:
        settings: what the service reads on its standard input.
        files: the paths of its files.
        lifeline: a descriptor of what the service lives as long as; None if it is to end with this process.
        is_same: whether the service that runs already has these settings.
        answered: waits until the service at its socket has answered something.
        on_change: called when ``state`` has changed.
        backoff: pauses between restarts.

    Attributes:
        state: the present state.
        pid: of the running process, or None.
        restarts: how often it was started again after an unexpected end.
        last_end: how it ended the last time that nobody wanted that; "" if it never did.
        last_error: the last line of what it wrote that is no event, such as the end of a traceback.
    """

    def __init__(
        self,
        settings: bytes,
        files: ServiceFiles,
        *,
        lifeline: int | None = None,
        is_same: Callable[[], Awaitable[bool]] = _never,
        answered: Callable[[], Coroutine[Any, Any, None]] = _at_once,
        on_change: Callable[[], None] = lambda: None,
        backoff: Backoff = Backoff(),  # noqa: B008 - frozen
    ) -> None:
        self.state = State.STARTING
        self.pid: int | None = None
        self.restarts = 0
        self.last_end = ""
        self.last_error = ""
        self._settings = settings
        self._files = files
        self._lifeline = lifeline
        self._is_same = is_same
        self._answered = answered
        self._on_change = on_change
        self._backoff = backoff
        self._former: list[ProcessRun] = []
        """Those that answer until their successor is ready."""
        self._unfit: ProcessRun | None = None
        self._silence = ""
        """Why the present process was killed; "" if it was not."""
        self._stopping = asyncio.Event()
        self._left = asyncio.Event()
        self._renewed = asyncio.Event()
        self._changed = asyncio.Event()
        self._log_fd = -1
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        """Start the service, and return at once. See ``ready``."""
        self._log_fd = open_fifo(self._files.log)
        await self._group.__aenter__()
        log = self._group.create_task(self._read_log(), name="log of the rate limit service")
        supervisor = self._group.create_task(self._supervise(), name="rate limit service")
        supervisor.add_done_callback(lambda _: log.cancel())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the service, unless it is left."""
        self._stopping.set()
        await self._group.__aexit__(None, None, None)
        os.close(self._log_fd)

    def leave(self) -> None:
        """Let the service go on when this ends; it ends when its lifeline does."""
        self._left.set()

    def take(self, settings: bytes) -> None:
        """Let a service with other settings take the place of the present one."""
        self._settings = settings
        self._renewed.set()

    async def ready(self) -> None:
        """Return when the service answers, or has been ended."""
        while self.state not in {State.READY, State.STOPPED}:
            await self._changed.wait()

    async def _supervise(self) -> None:
        pause_s = self._backoff.first_s
        adopted = await self._adopted()
        while not self._stopping.is_set():
            began = monotonic()
            self._renewed.clear()
            self._silence = ""
            try:
                status = await self._run(adopted or self._started())
                why = {"message": self._silence} if self._silence else {"status": status}
            except OSError as error:
                why = {"message": f"It cannot be started: {error.strerror}."}
            adopted = None
            if self._stopping.is_set():
                break
            if self._renewed.is_set():
                continue
            if monotonic() - began > self._backoff.reset_after_s:
                pause_s = self._backoff.first_s
            _log.warning("rate_limits.ended", **why, restart_in_s=pause_s)
            self.last_end = why.get("message") or f"It ended with status {why['status']}."
            self._enter(State.WAITING)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            pause_s = min(2 * pause_s, self._backoff.longest_s)
            self.restarts += 1
        self._end_former()
        self._enter(State.STOPPED)

    async def _run(self, process: ProcessRun) -> int | None:
        """Wait until a process has ended, is left or superseded: its exit status, negative if a signal ended
        it; ``None`` if it is not known."""
        self.pid = process.pid
        superseded = False
        try:
            async with asyncio.TaskGroup() as tasks:
                events = (process.ended, self._stopping, self._renewed)
                waits = [tasks.create_task(event.wait()) for event in events]
                watch = tasks.create_task(self._end_if_silent(process))
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for task in (*waits, watch):
                    task.cancel()
            if self._stopping.is_set():
                if not self._left.is_set():
                    await _end(process)
            elif not process.ended.is_set():
                superseded = True
                self._former.append(process)
            return process.status
        finally:
            if not superseded:
                if not (process.ended.is_set() or self._left.is_set()):
                    # After a cancellation or an error.
                    process.send(signal.SIGKILL)
                    await process.ended.wait()
                process.close()
                if process.ended.is_set():
                    self._files.record.unlink(missing_ok=True)
            self.pid = None

    async def _end_if_silent(self, process: ProcessRun) -> None:
        """Kill a process once it does not answer for too long, also one that has never answered."""
        patience_s = STARTED_WITHIN_S
        try:
            async with within(patience_s):
                await self._lives()
            while True:
                await asyncio.sleep(ASKED_EVERY_S)
                patience_s = SILENT_S
                async with within(patience_s):
                    await self._answered()
        except TimeoutError:
            state = "It is stopped" if is_stopped(process.pid) else "It hangs"
            self._silence = f"{state}, has not answered for {patience_s:g} s, and was killed."
            process.send(signal.SIGKILL)

    async def _lives(self) -> None:
        """Return when the process serves, or answers although it has no configuration yet."""
        async with asyncio.TaskGroup() as tasks:
            signs = [tasks.create_task(self.ready()), tasks.create_task(self._answered())]
            await asyncio.wait(signs, return_when=asyncio.FIRST_COMPLETED)
            for sign in signs:
                sign.cancel()

    async def _adopted(self) -> ProcessRun | None:
        """The process that a former moongate left running, if it has our settings.

        If it has not, it is ended when another one is ready.
        """
        pid = self._files.running()
        if pid is None:
            return None
        try:
            process = ProcessRun(pid)
        except OSError:
            return None
        if await self._is_same():
            _log.info("rate_limits.adopted", pid=pid)
            self._enter(State.READY)
            return process
        _log.info("rate_limits.replaced", pid=pid)
        self._former.append(process)
        # It may be stopped: nobody is to wait for it longer than necessary.
        self._unfit = process
        return None

    def _started(self) -> ProcessRun:
        self._enter(State.STARTING)
        settings, end = os.memfd_create("moongate"), None
        try:
            os.write(settings, self._settings)
            os.lseek(settings, 0, os.SEEK_SET)
            if self._lifeline is not None:
                # It must not hold its own lifeline open for writing.
                end = os.open(f"/proc/self/fd/{self._lifeline}", os.O_RDONLY | os.O_NONBLOCK)
            # asyncio's own would end the child when the loop does.
            child = subprocess.Popen(  # noqa: S603 - a fixed command
                _command(self._files, end),
                env=_environment(),
                stdin=settings,
                stdout=subprocess.DEVNULL,
                stderr=self._log_fd,
                pass_fds=() if end is None else (end,),
                start_new_session=True,
            )
        finally:
            os.close(settings)
            if end is not None:
                os.close(end)
        process = ProcessRun(child.pid, child)
        # On a full disk it is found without it.
        with suppress(OSError):
            self._files.write_record(process.pid)
        _log.info("rate_limits.started", pid=process.pid)
        return process

    async def _read_log(self) -> None:
        reader = asyncio.StreamReader(limit=_LONGEST_LINE)
        fifo = os.fdopen(os.dup(self._log_fd), "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), fifo
        )
        try:
            while True:
                try:
                    self._take_line(await reader.readline())
                except ValueError:
                    continue  # it is longer, and skipped
        finally:
            transport.close()

    def _take_line(self, line: bytes) -> None:
        try:
            entry = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError:
            self.last_error = line.decode(errors="replace").rstrip()
            _log.error("rate_limits.log", message=self.last_error)
            return
        event, level = entry.pop("event", ""), entry.pop("level", "info")
        if event == SERVING and entry.get("pid") == self.pid:
            self._enter(State.READY)
            self._end_former()
        if level in _LEVELS:
            getattr(_log, level)(f"rate_limits.{event}", **entry)

    def _end_former(self) -> None:
        for process in self._former:
            self._group.create_task(self._retire(process), name="former rate limit service")
        self._former.clear()

    async def _retire(self, process: ProcessRun) -> None:
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(MOVED_WITHIN_S if process is not self._unfit else 0):
                    await self._stopping.wait()
            await _end(process)
        finally:
            process.close()

    def _enter(self, state: State) -> None:
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_change()


async def _end(process: ProcessRun) -> None:
    process.send(signal.SIGTERM)
    try:
        async with within(TERM_WAIT_S):
            await process.ended.wait()
    except TimeoutError:
        process.send(signal.SIGKILL)
        await process.ended.wait()


def _command(files: ServiceFiles, lifeline: int | None) -> list[str]:
    # -P: modules in the working directory have no part in it.
    service = [sys.executable, "-P", "-m", *files.command]
    if lifeline is not None:
        return [*service, str(lifeline)]
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
