"""Writing lines in a thread, so that the event loop never waits for their reader.

Theory of operation
===================
A write to a pipe without a reader, or to a stopped terminal, blocks. So lines are handed to a thread, which
writes them in order and in big pieces. When a few megabytes are pending, further lines are dropped and
counted until there is room again. So each gap is in one place, where its size can be written. The same holds
for a disk that is full.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, Self

from moongate.patience import join

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

MOST_PENDING_BYTES: Final = 4 << 20
CLOSE_WITHIN_S: Final = 1.0
AGAIN_AFTER_S: Final = 1.0

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a disk that has no room, which may end."""


class LineWriter:
    """A context manager that writes lines to a file descriptor.

    Args:
        fd: the file descriptor; it is not closed.
        name: the name of the thread.
        form: called in the thread with whole lines, the number of lines that were dropped after them, and
            whether this is the end. It returns the bytes to write, and whether it must be called again after
            a second even without new lines.
    """

    def __init__(self, fd: int, name: str, form: Callable[[bytes, int, bool], tuple[bytes, bool]]) -> None:
        self.dropped = 0
        self._fd = fd
        self._form = form
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._gap = 0
        self._torn = False
        self._news = threading.Condition()
        self._closed = False
        # A daemon thread, because a blocked write to a stopped terminal must not prevent our exit.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the pending lines; give up after a second without a reader."""
        with self._news:
            self._closed = True
            self._news.notify()
        join(self._thread, CLOSE_WITHIN_S)

    def write(self, lines: bytes) -> None:
        """Hand over whole lines. Never blocks; drops them if too many are pending."""
        with self._news:
            if self._gap or self._pending_bytes + len(lines) > MOST_PENDING_BYTES:
                count = lines.count(b"\n")
                self.dropped += count
                self._gap += count
                return
            self._pending.append(lines)
            self._pending_bytes += len(lines)
            self._news.notify()

    def _run(self) -> None:
        again = False
        while True:
            with self._news:
                while not (self._pending or self._gap or self._closed):
                    if not self._news.wait(AGAIN_AFTER_S if again else None):
                        break
                lines = b"".join(self._pending)
                self._pending.clear()
                gap, self._gap = self._gap, 0
                closed = self._closed
            unwritten = b""
            if not closed or lines or gap or again:
                data, again = self._form(lines, gap, closed)
                unwritten = self._put(data)
            if closed:
                return
            with self._news:
                self._pending_bytes -= len(lines)
                if unwritten:
                    lost = unwritten.count(b"\n") if lines else 0
                    self.dropped += lost
                    self._gap += gap + lost
                    self._news.wait_for(lambda: self._closed, AGAIN_AFTER_S)

    def _put(self, data: bytes) -> bytes:
        """Write; return what a full disk does not take."""
        view = memoryview(b"\n" + data if self._torn and data else data)
        try:
            while view:
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    select.select([], [self._fd], [])
        except OSError as error:
            if error.errno in _FULL:
                # What is written later must not continue the line that was cut.
                self._torn = self._torn or 0 < len(view) < len(data)
                return bytes(view)
            # The reader has closed the pipe (`moongate | head`): the gateway goes on without a log.
            self._fd = os.open(os.devnull, os.O_WRONLY)
        self._torn = False
        return b""
