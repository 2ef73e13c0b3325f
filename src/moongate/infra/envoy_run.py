"""One run of an Envoy: a process that we started, or one that a former moongate left running.

Theory of operation
===================
Envoy writes its access log and its log into two FIFOs in the folder of the run, which this process reads. A
pipe without a name would end with the moongate that made it. A FIFO is opened anew by the next one. Meanwhile
a write of Envoy fails at once, and the line is lost: Envoy neither waits nor keeps it.

The end of a process is an event of a *pidfd*, because only a child can be waited for.

Facts
-----
* Envoy ignores SIGPIPE
* the exit status of an adopted process is unknown
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from moongate.infra.rundir import EnvoyFiles

CHILDREN: Final[set[int]] = set()
"""The processes that were started here in a session of their own, and not waited for yet."""


class ProcessRun:
    """A process; ``close`` when it has ended, or is left running.

    Args:
        pid: its process id.
        child: the same, if this process has started it.

    Attributes:
        status: its exit status, or the negative number of the signal that ended it; ``None`` while it runs,
            and if it was adopted.
        ended: set when it has ended.

    Raises:
        OSError: it has ended.
    """

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self.status: int | None = None
        self.ended = asyncio.Event()
        self._child = child
        if child is not None:
            CHILDREN.add(pid)
        self._pidfd = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_end)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def close(self) -> None:
        """Forget the process."""
        if self._child is not None and self._child.returncode is None:
            # It is left running; nobody is to warn of that.
            self._child.returncode = 0
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        if self._child is not None:
            self.status = self._child.wait()
            CHILDREN.discard(self.pid)
        self.ended.set()


class EnvoyRun(ProcessRun):
    """A process with its two FIFOs."""

    def __init__(self, pid: int, pipes: Pipes, child: subprocess.Popen[bytes] | None) -> None:
        super().__init__(pid, child)
        self.access_log, self.log = pipes.access_log, pipes.log
        self._pipes = pipes

    @classmethod
    async def start(
        cls, command: Sequence[str], files: EnvoyFiles, stdout: int | None, lifeline: int | None = None
    ) -> Self:
        """Start a process.

        Args:
            command: the program and its arguments.
            files: the paths of its FIFOs.
            stdout: the descriptor that it gets as its standard output, instead of a FIFO.
            lifeline: what it holds open as long as it runs (see ``rundir``). It is its standard input, which
                Envoy does not read.
        """
        pipes = await Pipes.open(files)
        try:
            with os.fdopen(os.open(files.log, os.O_WRONLY | os.O_CLOEXEC), "wb") as log:
                access_log = os.open(files.access_log, os.O_WRONLY | os.O_CLOEXEC)
                with os.fdopen(access_log, "wb") as lines:
                    # asyncio's own would wait for the child, and close its pipes, when the loop ends.
                    child = subprocess.Popen(  # noqa: ASYNC220
                        command,
                        stdin=subprocess.DEVNULL if lifeline is None else lifeline,
                        stdout=lines if stdout is None else stdout,
                        stderr=log,
                        start_new_session=True,
                    )
            return cls(child.pid, pipes, child)
        except BaseException:
            pipes.close()
            raise

    @classmethod
    async def adopt(cls, pid: int, files: EnvoyFiles) -> Self:
        """Go on with a process that runs already.

        Raises:
            OSError: it has ended.
        """
        pipes = await Pipes.open(files)
        try:
            return cls(pid, pipes, None)
        except BaseException:
            pipes.close()
            raise

    def close(self) -> None:
        """Forget the process."""
        super().close()
        self._pipes.close()


class Pipes:
    """Our ends of the two FIFOs of an Envoy."""

    def __init__(
        self,
        access_log: asyncio.StreamReader,
        log: asyncio.StreamReader,
        transports: Sequence[asyncio.BaseTransport],
    ) -> None:
        self.access_log = access_log
        self.log = log
        self._transports = transports

    @classmethod
    async def open(cls, files: EnvoyFiles) -> Self:
        access_log, first = await _reader(files.access_log)
        try:
            log, second = await _reader(files.log)
        except BaseException:
            first.close()
            raise
        return cls(access_log, log, (first, second))

    def close(self) -> None:
        for transport in self._transports:
            transport.close()


async def _reader(path: Path) -> tuple[asyncio.StreamReader, asyncio.BaseTransport]:
    with suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    # Without O_NONBLOCK this would wait for somebody who opens it for writing.
    fifo = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)
    reader = asyncio.StreamReader(limit=1 << 18)
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, fifo)
    return reader, transport
