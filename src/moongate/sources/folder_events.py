"""Events of the kernel about changes in folders, so that no polling is necessary.

Theory of operation
===================
A watch belongs to the folder that was at a path when the watch was added, not to the path. When that folder
is deleted, moved or unmounted, the watch gets no later events of the path, even if a new folder is created
there. The watches are then *stale*, and the caller must create new ones. Events between the two are lost, so
the caller must then list all files again.
"""

from __future__ import annotations

import asyncio
import errno
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final, Self

from asyncinotify import Inotify, Mask

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

STEP_S: Final = 0.002
"""A burst of events ends when none comes for this long. It is the delay of each change."""
LONGEST_BURST_S: Final = 0.05

_GONE = Mask.DELETE_SELF | Mask.MOVE_SELF
_EVENTS = (
    Mask.CREATE
    | Mask.MODIFY
    | Mask.CLOSE_WRITE
    | Mask.ATTRIB
    | Mask.MOVED_FROM
    | Mask.MOVED_TO
    | Mask.DELETE
    | _GONE
    | Mask.ONLYDIR
)
_ENDED = _GONE | Mask.IGNORED | Mask.UNMOUNT

_LIMITS: Final = {errno.ENOSPC: "fs.inotify.max_user_watches", errno.EMFILE: "fs.inotify.max_user_instances"}


class FolderEvents:
    """A context manager that receives the events of folders while it is active.

    Args:
        folders: the real paths of the folders.
        writing: paths of files that were written and not closed yet; kept up to date.

    Attributes:
        stale: whether a watched folder is no longer at its path.
        unheard: folders that cannot be watched.
        limit: the kernel setting that must be raised to watch these; empty if another reason prevents it.
    """

    def __init__(self, folders: Iterable[str], writing: dict[str, None] | None = None) -> None:
        self.stale = False
        self.unheard: tuple[str, ...] = ()
        self.limit = ""
        self._folders = sorted(folders)
        self._writing = {} if writing is None else writing
        self._news = asyncio.Event()
        self._inotify: Inotify | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            try:
                self._inotify = stack.enter_context(Inotify(sync_timeout=0))
            except OSError as error:
                self._note(self._folders, error)
            else:
                unheard: list[str] = []
                for folder in self._folders:
                    try:
                        self._inotify.add_watch(folder, _EVENTS)  # pyright: ignore[reportUnknownMemberType]  # a bare PathLike
                    except (FileNotFoundError, NotADirectoryError):
                        self.stale = True  # It was removed after the listing. A new listing shows that.
                    except OSError as error:
                        unheard.append(folder)
                        self._note(unheard, error)
                loop = asyncio.get_running_loop()
                loop.add_reader(self._inotify.fd, self._news.set)
                stack.callback(loop.remove_reader, self._inotify.fd)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    async def burst(self, patience_s: float | None) -> list[str]:
        """Wait for a burst of events, and return the changed paths; empty after a timeout without events."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._news.wait()
        paths: dict[str, None] = {}
        until = time.monotonic() + LONGEST_BURST_S
        while self._news.is_set():
            self._news.clear()
            self._take(paths)
            if time.monotonic() < until:
                await asyncio.sleep(STEP_S)
        return list(paths)

    def _take(self, paths: dict[str, None]) -> None:
        assert self._inotify is not None, "events come only through it"
        while (event := self._inotify.sync_get()) is not None:
            if event.mask & Mask.Q_OVERFLOW:
                paths |= dict.fromkeys(self._folders)
                self._writing.clear()
            elif event.path is not None:
                path = str(event.path)
                paths[path] = None
                if event.mask & Mask.MODIFY:
                    self._writing[path] = None
                elif not event.mask & Mask.ATTRIB:
                    # The file was closed, removed or replaced.
                    self._writing.pop(path, None)
            self.stale |= bool(event.mask & _ENDED)

    def _note(self, unheard: Iterable[str], error: OSError) -> None:
        self.unheard = tuple(unheard)
        self.limit = _LIMITS.get(error.errno or 0, self.limit)
