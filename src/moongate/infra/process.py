"""One Envoy process on this machine: started, kept running, drained and ended.

Theory of operation
===================
A supervisor task runs Envoy again and again until it is stopped. Each run of Envoy has these steps: start it
(through ``launch``, so that the kernel ends Envoy with us), read its output, poll its admin socket until it
is live, and wait for its end. If Envoy ends unexpectedly, the supervisor starts it again after a pause. The
pause doubles each time, and is short again after Envoy has run for a while.

A start can fail: Envoy does not know an argument, the disk is full, or no process can be created. The
supervisor does not raise such an error, because other Envoys of this moongate still serve. ``start_error``
has the reason, and the start is repeated after a pause, or at once when the options change.

When the context exits, Envoy drains: it accepts no new connections, we wait for requests in flight, then
comes SIGTERM, then SIGKILL. If we are interrupted (a second Ctrl-C, a cancellation), Envoy is killed and
waited for before the context exits.

Another bootstrap needs another process (``renew``). Envoy is first asked whether it would take the bootstrap;
if not, the one that runs goes on. Else that one drains, and the next one is started. If this does not start,
the former bootstrap is taken again, and ``bootstrap_error`` says why. Other arguments wait for the next
start. They are tried beforehand in the same way, and if Envoy does not take them, each start has the former
ones, and ``arguments_error`` says why.

Envoy may also outlive us. It is then started without ``launch``, left running at the end, and adopted by the
next moongate if it is as one would be that is started now: bootstrap, arguments and version of Envoy. It is
asked which scopes it has, because it does not tell its control plane. If it does not answer, it is ended.

Facts
-----
* Envoy is live only after it has received its first listeners and clusters, so xDS must be served before
* xDS never makes Envoy exit. If it exits before it is live, its arguments or its bootstrap are wrong, or the
  machine lacks something that they need
* Envoy runs in a session of its own, so that a Ctrl-C in the terminal reaches only us, and we drain
* its pipes are always read, even if the lines are dropped, because a full pipe would block Envoy's threads
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import nullcontext, suppress
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Self

import httpx
import structlog
from msgspec import DecodeError, Struct, structs

from moongate.infra import launch
from moongate.infra.admin import Admin
from moongate.infra.binary import EnvoyMissingError, build, is_of_the_wheel
from moongate.infra.bootstrap import EnvoyOptions, arguments, as_json
from moongate.infra.dry_run import bootstrap_refusal
from moongate.infra.ending import TERM_WAIT_S, end_kept
from moongate.infra.envoy_log import LOG_FORMAT, LogFolder, unopened
from moongate.infra.envoy_run import EnvoyRun
from moongate.infra.rundir import command_line
from moongate.patience import within

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap

    from moongate.infra.envoy_log import Entry, Unopened
    from moongate.infra.rundir import EnvoyFiles

_log = structlog.get_logger("moongate.infra")

_CHUNK = 1 << 18
# Seconds between polls of the admin socket.
_FIRST_POLL_S, _LONGEST_POLL_S = 0.01, 0.1
# Seconds from SIGTERM to SIGKILL if nobody wants to wait for requests in flight; see also ``TERM_WAIT_S``.
_HURRIED_WAIT_S = 1.0
# Seconds for an answer of an Envoy that a former moongate left running.
_ANSWER_WITHIN_S = 5.0
_ENDED_BY_OTHERS = frozenset({-signal.SIGKILL, -signal.SIGTERM})
# Of an access log line that is longer, only this many bytes of its end are kept.
_LONGEST_LINE = 1 << 20


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"  # for the next start
    DRAINING = "draining"  # accepts no more connections
    STOPPED = "stopped"
    FAILED = "failed"  # could not be started; the next try comes after a pause


class EnvoyFailedError(Exception):
    """Envoy could not be started, or has been stopped. The message has the last error that Envoy logged."""


class Backoff(Struct, frozen=True, kw_only=True):
    """Pauses between an end and the next start, in seconds.

    Args:
        first_s: the pause after the first unexpected end; each further one doubles it.
        longest_s: the limit of the pause.
        longest_failing_s: the limit of the pause while Envoy cannot be started.
        reset_after_s: if Envoy ran longer than this, the next pause is the first again.
    """

    first_s: float = 0.1
    longest_s: float = 15.0
    longest_failing_s: float = 60.0
    reset_after_s: float = 30.0


class EnvoyProcess:
    """An async context manager that keeps one Envoy running.

    Args:
        gateway: the name of its fleet, for the log.
        binary: the Envoy binary.
        files: the paths of its files; they are written at each start and removed at the end.
        bootstrap: its configuration at the start; the admin address in it is ``files.admin``.
        options: arguments, and how long to drain; ``configure`` changes them.
        beside: a context that is entered for each run of Envoy, such as a control plane that listens.
        access_log: is called with whole lines of Envoy's standard output, and must not block; or the
            descriptor that Envoy gets as its standard output.
        keep: whether Envoy may outlive this process (see ``leave``): it goes on if this process is killed,
            and one that a former moongate left running is adopted.
        lifeline: what Envoy holds open as long as it runs, see ``rundir``.
        backoff: pauses between restarts.
        on_change: is called when ``state`` has changed.
        on_unopened: is called with each listener that Envoy has dropped because it could not open it.
        on_adopted: is called with the names of the scopes that an Envoy has that is adopted.

    Attributes:
        state: the present state.
        restarts: how often it was started again after an unexpected end.
        pid: of the running process, or None.
        adopted: whether that is one that a former moongate left running.
        admin: the Unix socket of its admin interface.
        last_error: the last error that Envoy logged.
        start_error: why it could not be started; empty if it could.
        bootstrap_error: why it does not run with its newest bootstrap; empty if it does.
        arguments_error: why it does not start with its newest arguments; empty if it does.
        unusable: whether the binary is no Envoy that this machine can run, whatever its options.
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
        access_log: Callable[[bytes], None] | int = lambda _lines: None,
        keep: bool = False,
        lifeline: int | None = None,
        backoff: Backoff = Backoff(),  # noqa: B008 - frozen
        on_change: Callable[[], None] = lambda: None,
        on_unopened: Callable[[Unopened], None] = lambda _listener: None,
        on_adopted: Callable[[Sequence[str]], None] = lambda _scopes: None,
    ) -> None:
        self.gateway = gateway
        self.state = State.STARTING
        self.restarts = 0
        self.pid: int | None = None
        self.adopted = False
        self.admin = files.admin
        self.last_error = ""
        self.start_error = ""
        self.bootstrap_error = ""
        self.arguments_error = ""
        self.unusable = False
        self._binary = binary
        self._is_checked = is_of_the_wheel(binary)
        """Whether the binary was checked to be an Envoy that runs here. A failed start leaves that open."""
        self._files = files
        self._bootstrap: Bootstrap = bootstrap
        self._requested: Bootstrap = bootstrap
        self._proven: Bootstrap | None = None
        """The bootstrap with which it last served."""
        self._proven_options: EnvoyOptions | None = None
        """The options with which it last started to serve."""
        self._refused_options: EnvoyOptions | None = None
        """Options with which it does not start."""
        self._options = self._running = options
        self._beside = beside
        self._access_log = access_log
        self._keep = keep
        self._lifeline = lifeline
        self._backoff = backoff
        self._on_change = on_change
        self._on_unopened = on_unopened
        self._on_adopted = on_adopted
        self._log = _log.bind(gateway=gateway)
        self._group = asyncio.TaskGroup()
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._roused = asyncio.Event()
        self._renewed = asyncio.Event()
        self._drain_skipped = asyncio.Event()
        self._trying = asyncio.Lock()
        """Held while Envoy is asked about a bootstrap, which has one file."""
        self._left = asyncio.Event()
        self._process: EnvoyRun | None = None

    async def __aenter__(self) -> Self:
        """Start Envoy, and return at once. See :meth:`ready`."""
        await self._group.__aenter__()
        self._group.create_task(self._supervise(), name=f"envoy {self.gateway}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain and end Envoy. A cancellation ends it at once."""
        self._stopping.set()
        self._roused.set()
        # Without the error, or else the group would cancel the supervisor, which must drain.
        await self._group.__aexit__(None, None, None)
        # It may refer to this object, and a circle of garbage may stay in memory for ever.
        self._beside = nullcontext

    async def ready(self) -> None:
        """Return when Envoy serves.

        Raises:
            EnvoyFailedError: it could not be started, or is stopped.
        """
        await self.until(lambda: self.state in {State.READY, State.FAILED, State.STOPPED})
        if self.state is not State.READY:
            raise self.failure()

    def failure(self) -> EnvoyFailedError:
        """An error that says why Envoy does not run."""
        return EnvoyFailedError(f"Envoy of {self.gateway} {self.state}. {self.start_error}".strip())

    async def until(self, claim: Callable[[], bool]) -> None:
        """Return when ``claim()`` is true. It is called again after each change of the state."""
        while not claim():
            await self._changed.wait()

    def take(self, options: EnvoyOptions) -> None:
        """Set the options of the next start of Envoy, which comes at once if the last start failed."""
        self._options = options
        if self.arguments_error and not _starts_alike(options, self._refused_options):
            self._refused_options, self.arguments_error = None, ""
            self._on_change()
        self._roused.set()
        if self.state is State.FAILED:
            self._enter(State.STARTING)

    async def configure(self, options: EnvoyOptions) -> None:
        """Set options: log levels apply as soon as Envoy serves, all others from its next start.

        Raises:
            httpx.HTTPStatusError: Envoy does not know a component; its log levels do not change.
        """
        self.take(options)
        await self._try_arguments(options)
        await self.until(lambda: self.state is not State.STARTING)
        # An Envoy that is not ready gets the newest options at its next start.
        if self.state is not State.READY or self._options is not options:
            return
        if options.log_levels != self._running.log_levels:
            try:
                # If Envoy ends just now, it gets them at its next start.
                with suppress(httpx.TransportError):
                    async with Admin(self._files.admin) as admin:
                        await admin.set_log_levels(options.log_levels)
            except httpx.HTTPStatusError:
                self._options = structs.replace(options, log_levels=self._running.log_levels)
                raise
            self._running = structs.replace(self._running, log_levels=options.log_levels)

    async def renew(self, bootstrap: Bootstrap) -> None:
        """Run Envoy with another bootstrap, as soon as that can be."""
        self._requested = bootstrap
        await self._try_arguments(self._options)
        refusal = await self._refusal(bootstrap, self._startable) if self._proven is not None else ""
        if self._requested is not bootstrap:
            return
        if refusal:
            self.keep_bootstrap(refusal)
            return
        self.bootstrap_error = ""
        if bootstrap != self._bootstrap:
            self._log.info("envoy.renewed", pid=self.pid)
            self._bootstrap = bootstrap
            self._renewed.set()
            self._roused.set()
        self._on_change()

    async def _try_arguments(self, options: EnvoyOptions) -> None:
        """Ask Envoy whether it would start with other arguments than those with which it serves."""
        proven = self._proven_options
        if proven is None or _starts_alike(options, proven) or _starts_alike(options, self._refused_options):
            return
        refusal = await self._refusal(self._bootstrap, options)
        if refusal and self._options is options:
            self._keep_arguments(options, refusal)

    async def _refusal(self, bootstrap: Bootstrap, options: EnvoyOptions) -> str:
        """Why Envoy would not start with a bootstrap and options; empty if it would, as far as it can tell
        beforehand."""
        tried = self._files.bootstrap.with_suffix(".new.json")
        async with self._trying:
            try:
                _write_privately(tried, as_json(bootstrap))
                return await bootstrap_refusal(self._binary, tried, self._arguments(tried, options))
            except OSError as error:
                return _sentence(error)
            finally:
                with suppress(OSError):
                    tried.unlink(missing_ok=True)

    @property
    def _startable(self) -> EnvoyOptions:
        """The newest options, with the last arguments with which Envoy started where it refuses those."""
        proven = self._proven_options
        if proven is None or not _starts_alike(self._options, self._refused_options):
            return self._options
        return structs.replace(proven, log_levels=self._options.log_levels, drain_s=self._options.drain_s)

    def _keep_arguments(self, options: EnvoyOptions, reason: str) -> None:
        """Note why it does not start with some options."""
        if reason != self.arguments_error:
            self._log.error("envoy.arguments_refused", message=reason)
        self._refused_options, self.arguments_error = options, reason
        self._on_change()

    def keep_bootstrap(self, reason: str) -> None:
        """Note why it does not run with the bootstrap that was asked for last."""
        if reason != self.bootstrap_error:
            self._log.error("envoy.bootstrap_refused", message=reason)
        self.bootstrap_error = reason
        self._on_change()

    @property
    def listener_drain_s(self) -> int:
        """How long the Envoy that runs drains a listener that is changed or removed."""
        return self._running.listener_drain_s

    def skip_drain(self) -> None:
        """End the current drain at once, or the next one."""
        self._drain_skipped.set()

    def leave(self) -> None:
        """Leave Envoy running at the end, for the next moongate. One that does not serve yet is ended."""
        if self._keep and self.state is State.READY:
            self._log.info("envoy.left", pid=self.pid)
            self._left.set()

    def files_lost(self) -> None:
        """Note that somebody has removed the files of Envoy.

        One that starts may not have read them yet, so it is started again. For one that runs, the files are
        written again by which the next moongate finds it.
        """
        if self._process is None:
            return  # They are written at the start.
        if self.state is State.STARTING:
            self._log.warning("envoy.files_lost", pid=self._process.pid)
            self._process.send(signal.SIGKILL)
        else:
            with suppress(OSError):
                self._write_bootstrap()
                self._files.write_record(self._process.pid)

    async def _supervise(self) -> None:
        pause = self._backoff.first_s
        try:
            while not self._stopping.is_set():
                began = monotonic()
                status, start_error = await self._run_once()
                if self._stopping.is_set():
                    break
                if monotonic() - began > self._backoff.reset_after_s:
                    pause = self._backoff.first_s
                if self._renewed.is_set():
                    continue
                if start_error and not _starts_alike(self._running, self._proven_options or self._running):
                    self._keep_arguments(self._running, start_error)
                    continue
                if start_error and self._proven is not None and self._proven != self._bootstrap:
                    self._bootstrap = self._proven
                    self.keep_bootstrap(start_error)
                    continue
                if start_error:
                    self._fail(start_error, pause)
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
            if not self._left.is_set():
                with suppress(OSError):
                    self._files.remove()
            self._enter(State.STOPPED)

    async def _run_once(self) -> tuple[int | None, str]:
        """Run Envoy once: its exit status (see ``_run``), and why it could not be started, or ""."""
        self._roused.clear()
        self._renewed.clear()
        self._running = self._startable
        self.unusable = False
        self._enter(State.STARTING)
        self.last_error = ""
        try:
            async with self._beside():
                status = await self._run()
        except EnvoyMissingError as error:
            self.unusable = True
            return 0, str(error)
        except TimeoutError:
            return 0, f"`{self._binary} --version` does not end."
        except Exception as error:  # noqa: BLE001 - it concerns this Envoy alone
            if not isinstance(error, OSError | ValueError):
                self._log.exception("envoy.failed")
            return 0, _sentence(error)
        if self.state is not State.STARTING or status is None or status in _ENDED_BY_OTHERS:
            return status, ""
        self._is_checked = False
        ((what, how),) = _end(status).items()
        return status, self.last_error or f"It ended with {what} {how}, without a message."

    def _fail(self, reason: str, pause: float) -> None:
        # The same reason is not logged again.
        log = self._log.debug if reason == self.start_error else self._log.error
        log("envoy.failed", message=reason, retry_in_s=pause)
        self.start_error = reason
        self._enter(State.FAILED)

    async def _run(self) -> int | None:
        """Run Envoy until it ends or is left: its exit status, or the negative number of the signal that
        ended it; ``None`` if that is not known."""
        process = await self._taken_over() if self._keep else None
        self.adopted = process is not None
        if process is None:
            process = await self._started()
        try:
            self._process, self.pid = process, process.pid
            self._log.info("envoy.adopted" if self.adopted else "envoy.started", pid=process.pid)
            async with Admin(self._files.admin) as admin, asyncio.TaskGroup() as tasks:
                if not isinstance(self._access_log, int):
                    reading = self._read_access_log(process.access_log, self._access_log)
                    lines = tasks.create_task(reading)
                else:
                    lines = None
                log = tasks.create_task(self._read_log(process.log))
                announcer = tasks.create_task(self._announce_ready(admin))
                ender = tasks.create_task(self._end_when_stopping(process, admin))
                ended = tasks.create_task(process.ended.wait())
                left = tasks.create_task(self._left.wait())
                await asyncio.wait({ended, left}, return_when=asyncio.FIRST_COMPLETED)
                # What it has written is read to its end, unless it still runs.
                for task in (announcer, ender, ended, left, *((log, lines) if self._left.is_set() else ())):
                    if task is not None:
                        task.cancel()
            return process.status
        finally:
            # It still runs only if it is left, or after a cancellation or an error.
            if not (process.ended.is_set() or self._left.is_set()):
                process.send(signal.SIGKILL)
                await process.ended.wait()
            process.close()
            self._process = self.pid = None
            if not self._left.is_set():
                self._files.record.unlink(missing_ok=True)

    async def _started(self) -> EnvoyRun:
        if not self._is_checked:
            await build(self._binary)
            self._is_checked = True
        self._files.admin.unlink(missing_ok=True)
        self._write_bootstrap()
        stdout = self._access_log if isinstance(self._access_log, int) else None
        process = await EnvoyRun.start(self._command(), self._files, stdout, self._lifeline)
        # On a full disk Envoy is found without it.
        with suppress(OSError):
            self._files.write_record(process.pid)
        return process

    async def _taken_over(self) -> EnvoyRun | None:
        """The Envoy that a former moongate left running, if it is as one would be that is started now.

        If it is not, it is ended.
        """
        pid = self._files.running()
        if pid is None:
            return None
        process = await EnvoyRun.adopt(pid, self._files)
        try:
            difference = await self._difference(pid)
        except BaseException:
            process.close()
            raise
        if not difference:
            return process
        process.close()
        self._log.warning("envoy.replaced", pid=pid, message=difference)
        await end_kept(self._files, self._options.drain_s)
        return None

    async def _difference(self, pid: int) -> str:
        """How a running Envoy differs from one that would be started now; empty if it does not."""
        with suppress(OSError):
            if self._files.bootstrap.read_bytes() != as_json(self._bootstrap):
                return "Its bootstrap is another one."
        arguments = self._arguments(self._files.bootstrap, self._running)
        if _without_levels(command_line(pid)[1:]) != _without_levels(arguments):
            return "Its arguments are others."
        try:
            installed = await build(self._binary)
        except (EnvoyMissingError, TimeoutError) as error:
            # Rather the Envoy that runs than none.
            self._log.warning("envoy.failed", message=str(error))
            if unknown := await self._hand_on_scopes():
                self._log.warning("envoy.parts_unknown", pid=pid, message=unknown)
            return ""
        try:
            async with within(_ANSWER_WITHIN_S), Admin(self._files.admin) as admin:
                running = await admin.version()
                if running == installed:
                    await admin.set_log_levels(self._options.log_levels)
        except (TimeoutError, httpx.HTTPError):
            return "It does not answer."
        if running != installed:
            return f"It is Envoy {running}, and moongate starts {installed}."
        return await self._hand_on_scopes()

    async def _hand_on_scopes(self) -> str:
        """Hand on which scopes a running Envoy has; what it means if that cannot be known, or ""."""
        try:
            async with Admin(self._files.admin) as admin:
                scopes = await admin.scopes()
        except (httpx.HTTPError, DecodeError) as error:
            return (
                "It does not say for which hostnames it has routes, so it might go on to answer for those "
                f"that have been removed: {_sentence(error)}"
            )
        self._on_adopted(scopes)
        return ""

    def _write_bootstrap(self) -> None:
        """Write the file unless it has this content, so that Envoy can start again even on a full disk."""
        content = as_json(self._bootstrap)
        with suppress(OSError):
            if self._files.bootstrap.read_bytes() == content:
                return
        _write_privately(self._files.bootstrap, content)

    def _command(self) -> list[str]:
        envoy = [str(self._binary), *self._arguments(self._files.bootstrap, self._running)]
        if self._keep:
            return envoy
        # -I -S: without the environment and site packages, Python starts in a few milliseconds.
        return [sys.executable, "-I", "-S", str(Path(launch.__file__)), str(os.getpid()), *envoy]

    def _arguments(self, bootstrap: Path, options: EnvoyOptions) -> list[str]:
        cpus = len(os.sched_getaffinity(0))
        return [*arguments(bootstrap, options, cpus=cpus, log_format=LOG_FORMAT)]

    async def _announce_ready(self, admin: Admin) -> None:
        began = monotonic()
        pause = _FIRST_POLL_S
        while not await _live(admin):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL_S)
        # The drain at its end needs it.
        admin.hold()
        if self.state is State.STARTING:
            if not self.adopted:
                self._log.info("envoy.ready", pid=self.pid, ms=round(1000 * (monotonic() - began)))
            self.start_error = ""
            self._proven, self._proven_options = self._bootstrap, self._running
            self._enter(State.READY)

    async def _end_when_stopping(self, process: EnvoyRun, admin: Admin) -> None:
        await self._until_ending()
        # If the deadline passes or Envoy does not answer, it is ended all the same.
        with suppress(TimeoutError):
            async with within(self._options.drain_s):
                await self._drain_or_skip(admin)
        if self.state is not State.DRAINING:
            self._enter(State.DRAINING)
        process.send(signal.SIGTERM)
        patience_s = _HURRIED_WAIT_S if self._drain_skipped.is_set() else TERM_WAIT_S
        try:
            async with within(patience_s):
                await process.ended.wait()
        except TimeoutError:
            self._log.warning("envoy.killed", pid=process.pid, after_s=patience_s)
            process.send(signal.SIGKILL)

    async def _until_ending(self) -> None:
        """Return when this run of Envoy is to end."""
        async with asyncio.TaskGroup() as tasks:
            waits = [tasks.create_task(event.wait()) for event in (self._stopping, self._renewed)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()

    async def _drain_or_skip(self, admin: Admin) -> None:
        """Drain, until somebody loses patience: an Envoy that is suspended does not even answer."""
        async with asyncio.TaskGroup() as tasks:
            drain = tasks.create_task(self._drain(admin))
            skip = tasks.create_task(self._drain_skipped.wait())
            await asyncio.wait({drain, skip}, return_when=asyncio.FIRST_COMPLETED)
            drain.cancel()
            skip.cancel()

    async def _drain(self, admin: Admin) -> None:
        # It may serve already though the last poll was too early to see it.
        serves = self.state is State.READY or await _live(admin)
        if serves and not self._drain_skipped.is_set():
            with suppress(httpx.HTTPError):
                await admin.drain()
                self._enter(State.DRAINING)
                await admin.idle()

    async def _read_access_log(self, lines: asyncio.StreamReader, hand_on: Callable[[bytes], None]) -> None:
        rest = b""
        while chunk := await lines.read(_CHUNK):
            whole, newline, tail = chunk.rpartition(b"\n")
            if newline:
                hand_on(rest + whole + newline)
                rest = tail
            else:
                rest = (rest + chunk)[-_LONGEST_LINE:]
        if rest:
            hand_on(rest + b"\n")

    async def _read_log(self, log: asyncio.StreamReader) -> None:
        folder = LogFolder()
        while chunk := await log.read(_CHUNK):
            for entry in folder.feed(chunk):
                self._take_entry(entry)
        for entry in folder.end():
            self._take_entry(entry)

    def _take_entry(self, entry: Entry) -> None:
        if (listener := unopened(entry)) is not None:
            self._on_unopened(listener)
        else:
            self._log_entry(entry.level, entry.component, entry.message)

    def _log_entry(self, level: str, component: str, message: str) -> None:
        if level in {"error", "critical"} or component == "stderr":
            self.last_error = message
        if self.state is State.DRAINING and level == "warning":
            return  # These warnings are about its xDS streams, which end with the gateway.
        getattr(self._log, level)("envoy.log", component=component, message=message)

    def _enter(self, state: State) -> None:
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()
        self._on_change()


def _starts_alike(one: EnvoyOptions, other: EnvoyOptions | None) -> bool:
    """Whether Envoy gets the same arguments by both, but for its log levels, which can be changed later."""
    if other is None:
        return False
    return structs.replace(one, log_levels=other.log_levels, drain_s=other.drain_s) == other


def _write_privately(file: Path, content: bytes) -> None:
    """Write a file that only its user can read: in a bootstrap may stand tokens for its sinks."""
    file.touch(mode=0o600)
    file.write_bytes(content)


def lateness(since: str, *, pid: int | None, connected: bool) -> str:
    """What it means that an Envoy does not acknowledge its configuration: sentences for a user.

    Args:
        since: since when it has not.
        pid: its process.
        connected: whether it has connected to moongate.
    """
    envoy = "Envoy" if pid is None else f"Envoy (process {pid})"
    if pid is not None and is_stopped(pid):
        return (
            f"{envoy} is stopped and has not acknowledged its configuration since {since}. Requests wait, "
            f"and what changed is not in force. `kill -CONT {pid}` lets it go on."
        )
    if not connected:
        return (
            f"{envoy} has not connected to moongate since {since}, so what changed is not in force. "
            "If it is new, it serves nothing yet; its log is part of moongate's."
        )
    return (
        f"{envoy} has not acknowledged its configuration since {since}, so it may still serve requests as "
        "before. It is slow, waits for the certificates or endpoints of what changed, or hangs."
    )


def is_stopped(pid: int) -> bool:
    """Whether a signal or a debugger has stopped a process. Source: proc_pid_stat(5), state T or t."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in {"T", "t"}
    except (OSError, IndexError):
        return False


async def _live(admin: Admin) -> bool:
    try:
        return await admin.live()
    except httpx.HTTPError:
        # Its socket does not exist yet.
        return False


def _sentence(error: Exception) -> str:
    """An error as a sentence."""
    if isinstance(error, OSError):
        where = f": {error.filename}." if error.filename else ""
        return f"{error.strerror or error}{where}"
    return f"{type(error).__name__}: {error}."


def _without_levels(arguments: Sequence[str]) -> list[str]:
    """Arguments of Envoy without its log levels, which can be changed while it runs."""
    levels = {"--log-level", "--component-log-level"}
    return [
        word
        for n, word in enumerate(arguments)
        if word not in levels and (n == 0 or arguments[n - 1] not in levels)
    ]


def _end(status: int | None) -> dict[str, str | int]:
    """An exit status as fields of a log event."""
    if status is None:
        return {}
    return {"status": status} if status >= 0 else {"signal": signal.Signals(-status).name}
