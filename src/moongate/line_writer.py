"""Lines that are written beside the event loop, so that nothing ever waits for who reads them.

Theory of operation
===================
A pipe that nobody reads and a terminal that is stopped block whoever writes into them. So lines are handed
to a thread, which writes them in big pieces and in their order. What it cannot get rid of is dropped beyond a
few megabytes, all of it until there is room again, and counted: a gap is in one place, and can be said there.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

MOST_PENDING_BYTES: Final = 4 << 20
CLOSE_WITHIN_S: Final = 1.0
AGAIN_AFTER_S: Final = 1.0


class LineWriter:
    """A context manager that writes lines to a file descriptor.

    Args:
        fd: where to; it is not closed.
        name: of the thread.
        form: makes what is written, in the thread, of whole lines, of the number of lines that were dropped
            after them, and of whether this is the end. Also says whether it wants to be asked again in a
            second, without news.
    """

    def __init__(self, fd: int, name: str, form: Callable[[bytes, int, bool], tuple[bytes, bool]]) -> None:
        self.dropped = 0
        self._fd = fd
        self._form = form
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._gap = 0
        self._news = threading.Condition()
        self._closed = False
        # A daemon: it may hang in a write to a stopped terminal, and must not keep us from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is pending; give up after a second if nobody reads."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join(CLOSE_WITHIN_S)

    def write(self, lines: bytes) -> None:
        """Hand over whole lines. Never blocks; drops them when too much is pending."""
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
            if not closed or lines or gap or again:
                data, again = self._form(lines, gap, closed)
                self._put(data)
            if closed:
                return
            with self._news:
                self._pending_bytes -= len(lines)

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    select.select([], [self._fd], [])
        except OSError:
            # Nobody reads any more (`moongate | head`): the gateway goes on without a log.
            self._fd = os.open(os.devnull, os.O_WRONLY)
