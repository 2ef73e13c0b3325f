"""One Envoy on this machine: started, kept running, drained, ended without a trace.

Theory of operation
===================
A supervisor task runs Envoy again and again until it is stopped. One run of Envoy is: start it (through
``launch``, so that the kernel ends Envoy when moongate ends), read its output, poll its admin socket until it
is live, wait for its end. After an unexpected end the supervisor starts it again, after a pause. The pause
doubles each time, and is reset when Envoy has run for a while.

A start can fail: an unknown argument, a full disk, too many processes. The supervisor raises no exception,
because other Envoys of this process serve. ``trouble`` has the reason, and the supervisor tries again after a
pause, or at once when the options change.

Leaving the context drains: Envoy accepts no new connections, completes the requests in flight, and gets
SIGTERM, then SIGKILL. Even after a second Ctrl-C or a cancellation, the context ends only when Envoy has
ended.

Facts
-----
* Envoy becomes live only after it got its first listeners and clusters, so xDS must be served during the
  start
* Envoy never ends because of xDS: an end before it is live means that its arguments or its bootstrap are
  wrong, or that the machine lacks a resource that they need
* it runs in its own session: a Ctrl-C in the terminal reaches moongate, which drains, and not Envoy
* its pipes are always read, even if the lines are dropped, because a full pipe would stop Envoy's threads
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import nullcontext, suppress
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Self

import httpx
import structlog
from msgspec import Struct, structs

from moongate.infra import launch
from moongate.infra.admin import Admin
from moongate.infra.binary import can_run
from moongate.infra.bootstrap import EnvoyOptions, arguments, as_json
from moongate.infra.envoy_log import LOG_FORMAT, LogFolder

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap

    from moongate.infra.rundir import EnvoyFiles

_log = structlog.get_logger("moongate.infra")

_CHUNK = 1 << 18
# Pauses between questions to the admin socket, in seconds: it cannot call us.
_FIRST_POLL_S, _LONGEST_POLL_S = 0.01, 0.1
_TERM_WAIT_S = 5.0
_ENDED_BY_OTHERS = frozenset({-signal.SIGKILL, -signal.SIGTERM})
# An access log line longer than this is not kept for its end.
_LONGEST_LINE = 1 << 20


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"  # to be started again
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"  # could not be started; is tried again


class EnvoyFailedError(Exception):
    """Envoy could not be started, or has been stopped; the message holds its last words."""


class Backoff(Struct, frozen=True, kw_only=True):
    """Pauses between an end and the next start, in seconds.

    Args:
        first_s: after the first unexpected end; each further one doubles it.
        longest_s: never more than this.
        longest_failing_s: never more than this, while Envoy cannot be started.
        forgiven_after_s: an Envoy that lived longer than this counts as the first again.
    """

    first_s: float = 0.1
    longest_s: float = 15.0
    longest_failing_s: float = 60.0
    forgiven_after_s: float = 30.0


class EnvoyProcess:
    """An async context manager that keeps one Envoy running.

    Args:
        gateway: whose Envoy it is, for the log.
        binary: what to run.
        files: where its files are; they are written at each start and removed at the end.
        bootstrap: what it starts with; its admin address is ``files.admin``.
        options: arguments, and how long to drain; ``configure`` changes them.
        beside: entered for each life of Envoy; what it needs, such as a control plane that listens.
        access_log: takes whole lines of Envoy's standard output; must not block.
        backoff: pauses between restarts.
        on_change: called when ``state`` has changed.

    Attributes:
        state: what it does now.
        restarts: how often it was started again after an unexpected end.
        pid: of the running process, or None.
        last_words: the last error that Envoy logged.
        trouble: why it could not be started; empty when it could.
        unusable: whether this machine cannot run the binary, whatever the options.
    """

    def __init__(
        self,
        gateway: str,
        *,
        binary: Path,
        files: EnvoyFiles,
        bootstrap: Bootstrap,
        options: EnvoyOptions = EnvoyOptions(),  # noqa: B008 - frozen
        beside: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
        access_log: Callable[[bytes], None] = lambda _lines: None,
        backoff: Backoff = Backoff(),  # noqa: B008 - frozen
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.gateway = gateway
        self.state = State.STARTING
        self.restarts = 0
        self.pid: int | None = None
        self.last_words = ""
        self.trouble = ""
        self.unusable = False
        self._binary = binary
        self._files = files
        self._bootstrap = bootstrap
        self._options = self._running = options
        self._beside = beside
        self._access_log = access_log
        self._backoff = backoff
        self._on_change = on_change
        self._log = _log.bind(gateway=gateway)
        self._group = asyncio.TaskGroup()
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._roused = asyncio.Event()
        self._hurried = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Begin; returns at once. See :meth:`ready`."""
        await self._group.__aenter__()
        self._group.create_task(self._supervise(), name=f"envoy {self.gateway}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain and end Envoy; a cancellation meanwhile ends it at once."""
        self._stopping.set()
        self._roused.set()
        # The error is kept from the group, which would cancel the supervisor; it is to drain.
        await self._group.__aexit__(None, None, None)

    async def ready(self) -> None:
        """Return when Envoy serves.

        Raises:
            EnvoyFailedError: it could not be started, or is stopped.
        """
        await self.until(lambda: self.state in {State.READY, State.FAILED, State.STOPPED})
        if self.state is not State.READY:
            raise self.failure()

    def failure(self) -> EnvoyFailedError:
        """Why it does not run, as an error."""
        return EnvoyFailedError(f"Envoy of {self.gateway} {self.state}. {self.trouble}".strip())

    async def until(self, claim: Callable[[], bool]) -> None:
        """Return when ``claim`` holds; it is asked again whenever the state has changed."""
        while not claim():
            await self._changed.wait()

    def take(self, options: EnvoyOptions) -> None:
        """Take other options, for the next start of Envoy: at once if it could not be started."""
        self._options = options
        self._roused.set()
        if self.state is State.FAILED:
            self._enter(State.STARTING)

    async def configure(self, options: EnvoyOptions) -> None:
        """Take other options: log levels hold as soon as it serves, the rest from the next start of Envoy on.

        Raises:
            httpx.HTTPStatusError: Envoy knows no such component; it keeps the levels that it had.
        """
        self.take(options)
        await self.until(lambda: self.state is not State.STARTING)
        # One that is to be started takes the newest options then.
        if self.state is not State.READY or self._options is not options:
            return
        if options.log_levels != self._running.log_levels:
            try:
                # An Envoy that ends just now takes them with its next start.
                with suppress(httpx.TransportError):
                    async with Admin(self._files.admin) as admin:
                        await admin.set_log_levels(options.log_levels)
            except httpx.HTTPStatusError:
                self._options = structs.replace(options, log_levels=self._running.log_levels)
                raise
            self._running = structs.replace(self._running, log_levels=options.log_levels)

    def hurry(self) -> None:
        """Let a drain that is under way, or is to come, end at once."""
        self._hurried.set()

    async def _supervise(self) -> None:
        pause = self._backoff.first_s
        try:
            while not self._stopping.is_set():
                began = monotonic()
                status, trouble = await self._try()
                if self._stopping.is_set():
                    break
                if monotonic() - began > self._backoff.forgiven_after_s:
                    pause = self._backoff.first_s
                if trouble:
                    await self._fail(trouble, pause)
                    longest_s = self._backoff.longest_failing_s
                else:
                    self._log.warning("envoy.ended", **_end(status), restart_in_s=pause)
                    self._enter(State.WAITING)
                    longest_s = self._backoff.longest_s
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._roused.wait(), pause)
                pause = self._backoff.first_s if self._roused.is_set() else min(2 * pause, longest_s)
                if not self._stopping.is_set():
                    self.restarts += 1
        finally:
            with suppress(OSError):
                self._files.remove()
            self._enter(State.STOPPED)

    async def _try(self) -> tuple[int, str]:
        """One life of Envoy: how it ended, as ``_live`` has it, and why it could not be started."""
        self._roused.clear()
        self._running = self._options
        self._enter(State.STARTING)
        self.last_words = ""
        try:
            async with self._beside():
                status = await self._live()
        except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this Envoy alone
            if not isinstance(error, OSError | ValueError):
                self._log.exception("envoy.failed")
            return 0, _words(error)
        if self.state is not State.STARTING or status in _ENDED_BY_OTHERS:
            return status, ""
        ((what, how),) = _end(status).items()
        return status, self.last_words or f"It ended with {what} {how}, and said nothing."

    async def _fail(self, trouble: str, pause: float) -> None:
        # What stays so is not logged again.
        log = self._log.debug if trouble == self.trouble else self._log.error
        log("envoy.failed", message=trouble, retry_in_s=pause)
        if self.restarts == 0:
            self.unusable = not await can_run(self._binary)
        self.trouble = trouble
        self._enter(State.FAILED)

    async def _live(self) -> int:
        """One life of Envoy; its exit status, or the negative number of the signal that ended it."""
        self._files.admin.unlink(missing_ok=True)
        self._write_bootstrap()
        process = await asyncio.create_subprocess_exec(
            *self._command(),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
            limit=_CHUNK,
        )
        try:
            self.pid = process.pid
            self._files.write_record(process.pid)
            self._log.info("envoy.started", pid=process.pid)
            async with Admin(self._files.admin) as admin, asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read_access_log(process))
                tasks.create_task(self._read_log(process))
                announcer = tasks.create_task(self._announce_ready(admin))
                ender = tasks.create_task(self._end_when_told(process, admin))
                status = await process.wait()
                announcer.cancel()
                ender.cancel()
            return status
        finally:
            # Only after a cancellation or an error is it still there.
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                # Reads its pipes to their end too: unread ones would be left open.
                await process.communicate()
            self.pid = None
            self._files.record.unlink(missing_ok=True)

    def _write_bootstrap(self) -> None:
        """Write it where it is not there yet: an Envoy that ended starts again on a full disk, too."""
        content = as_json(self._bootstrap)
        with suppress(OSError):
            if self._files.bootstrap.read_bytes() == content:
                return
        self._files.bootstrap.write_bytes(content)

    def _command(self) -> list[str]:
        cpus = len(os.sched_getaffinity(0))
        envoy = arguments(self._files.bootstrap, self._running, cpus=cpus, log_format=LOG_FORMAT)
        # -I -S: nothing of the environment, no site packages: a start of a few milliseconds.
        launcher = [sys.executable, "-I", "-S", str(Path(launch.__file__)), str(os.getpid())]
        return [*launcher, str(self._binary), *envoy]

    async def _announce_ready(self, admin: Admin) -> None:
        began = monotonic()
        pause = _FIRST_POLL_S
        while not await _live(admin):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL_S)
        if self.state is State.STARTING:
            self._log.info("envoy.ready", pid=self.pid, ms=round(1000 * (monotonic() - began)))
            self.trouble = ""
            self._enter(State.READY)

    async def _end_when_told(self, process: Process, admin: Admin) -> None:
        await self._stopping.wait()
        was_ready = self.state is State.READY
        self._enter(State.DRAINING)
        if was_ready:
            # Neither a deadline nor an Envoy that does not answer keeps us from ending it.
            with suppress(TimeoutError, httpx.HTTPError):
                async with asyncio.timeout(self._options.drain_s):
                    await self._drain(admin)
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(_TERM_WAIT_S):
                await process.wait()
        except TimeoutError:
            self._log.warning("envoy.killed", pid=process.pid, after_s=_TERM_WAIT_S)
            with suppress(ProcessLookupError):
                process.kill()

    async def _drain(self, admin: Admin) -> None:
        pause = _FIRST_POLL_S
        if self._hurried.is_set():
            return
        await admin.drain()
        while busy := await admin.busy():
            self._log.debug("envoy.draining", in_flight=busy)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurried.wait(), pause)
                return
            pause = min(2 * pause, _LONGEST_POLL_S)

    async def _read_access_log(self, process: Process) -> None:
        assert process.stdout is not None, "standard output was asked for as a pipe"
        rest = b""
        while chunk := await process.stdout.read(_CHUNK):
            whole, newline, tail = chunk.rpartition(b"\n")
            if newline:
                self._access_log(rest + whole + newline)
                rest = tail
            else:
                rest = (rest + chunk)[-_LONGEST_LINE:]
        if rest:
            self._access_log(rest + b"\n")

    async def _read_log(self, process: Process) -> None:
        assert process.stderr is not None, "standard error was asked for as a pipe"
        folder = LogFolder()
        while chunk := await process.stderr.read(_CHUNK):
            for entry in folder.feed(chunk):
                self._tell(entry.level, entry.component, entry.message)
        for entry in folder.end():
            self._tell(entry.level, entry.component, entry.message)

    def _tell(self, level: str, component: str, message: str) -> None:
        if level in {"error", "critical"} or component == "stderr":
            self.last_words = message
        if self.state is State.DRAINING and level == "warning":
            return  # What breaks when a gateway ends is its streams.
        getattr(self._log, level)("envoy.log", component=component, message=message)

    def _enter(self, state: State) -> None:
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_change()


async def _live(admin: Admin) -> bool:
    try:
        return await admin.live()
    except httpx.HTTPError:
        # Its socket is not there yet.
        return False


def _words(error: Exception) -> str:
    """What went wrong, in a sentence."""
    if isinstance(error, OSError):
        where = f": {error.filename}." if error.filename else ""
        return f"{error.strerror or error}{where}"
    return f"{type(error).__name__}: {error}."


def _end(status: int) -> dict[str, str | int]:
    """How it ended, as fields of a log event."""
    return {"status": status} if status >= 0 else {"signal": signal.Signals(-status).name}
