"""Events of the kernel about changes in folders, so that no polling is necessary.

Theory of operation
===================
A watch belongs to the folder that was at a path when the watch was added, not to the path. When that folder
is deleted, moved or unmounted, the watch gets no later events of the path, even if a new folder is created
there. Nor do events report a file system that is mounted over a watched folder, so the kernel's table of
mounts is watched too. The watches are then *stale*, and the caller must create new ones. Changes that only
the old watches saw are not reported, so the caller must then list all files again. But the old watches still
say which files were closed.
"""

# Folders are strings here, as in ``files``.
# ruff: noqa: PTH120

from __future__ import annotations

import asyncio
import errno
import os
import re
import select
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from asyncinotify import Inotify, Mask

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
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
        self._mount_table = ExitStack()

        self._mounts: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._follow_mounts()
        self.watch(self._folders)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._mount_table.close()

    def watch(self, folders: Iterable[str]) -> None:
        """Watch these folders from now on, each as it is now, and no others.

        The old watches end after the new ones have begun, so that the close of each file is seen.
        """
        before, last = self._inotify, self._stack
        self.unheard = ()
        self.limit = ""
        self._folders = sorted(folders)
        with last:
            with ExitStack() as stack:
                self._inotify, stale = self._begun(stack)
                self._stack = stack.pop_all()
            if before is not None:
                self._take(before, {})
        # What happened to the folders before does not matter: they are watched as they are now.
        self.stale = stale

    def _begun(self, stack: ExitStack) -> tuple[Inotify | None, bool]:
        """Return new watches, which end with the stack, and whether a folder is no longer there."""
        self._mounts = _mounts_of(self._folders)
        try:
            inotify = stack.enter_context(Inotify(sync_timeout=0))
        except OSError as error:
            self._note(self._folders, error)
            return None, False
        stale = False
        unheard: list[str] = []
        for folder in self._folders:
            try:
                inotify.add_watch(folder, _EVENTS)  # pyright: ignore[reportUnknownMemberType]  # a bare PathLike
            except (FileNotFoundError, NotADirectoryError):
                stale = True  # It was removed after the listing. A new listing shows that.
            except OSError as error:
                unheard.append(folder)
                self._note(unheard, error)
        loop = asyncio.get_running_loop()
        loop.add_reader(inotify.fd, self._news.set)
        stack.callback(loop.remove_reader, inotify.fd)
        return inotify, stale

    async def burst(self, patience_s: float | None) -> list[str]:
        """Wait for a burst of events, and return the changed paths; empty after a timeout without events."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._news.wait()
        paths: dict[str, None] = {}
        until = time.monotonic() + LONGEST_BURST_S
        while self._news.is_set():
            self._news.clear()
            if self._inotify is not None:
                self._take(self._inotify, paths)
            if time.monotonic() < until:
                await asyncio.sleep(STEP_S)
        return list(paths)

    def _take(self, inotify: Inotify, paths: dict[str, None]) -> None:
        while (event := inotify.sync_get()) is not None:
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

    def _follow_mounts(self) -> None:
        """Get to know of each change of the table of mounts, where the system has one."""
        stack, loop = self._mount_table, asyncio.get_running_loop()
        with suppress(OSError):
            table = stack.enter_context(_MOUNTS.open("rb"))
            changes = stack.enter_context(select.epoll())
            # The table can always be read; a change of it is "urgent data".
            changes.register(table.fileno(), select.EPOLLPRI | select.EPOLLET)
            loop.add_reader(changes.fileno(), self._take_mounts, changes)
            stack.callback(loop.remove_reader, changes.fileno())

    def _take_mounts(self, changes: select.epoll) -> None:
        changes.poll(0)
        if _mounts_of(self._folders) != self._mounts:
            self.stale = True
            self._news.set()

    def _note(self, unheard: Iterable[str], error: OSError) -> None:
        self.unheard = tuple(unheard)
        self.limit = _LIMITS.get(error.errno or 0, self.limit)


_MOUNTS: Final = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(rb"\\([0-7]{3})")


def _mounts_of(folders: Iterable[str]) -> dict[str, str]:
    """The folders → the mount that each of them is on; empty where the system has no table of mounts.

    Nothing is asked of the file systems themselves, because they may not answer.
    Source: proc_pid_mountinfo(5).
    """
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return {}
    mounts: dict[str, str] = {}
    for line in lines:
        number, _, device, root, point, *_ = line.split(b" ")
        path = _ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), point)
        # Of those that are mounted at one path, the last is on top.
        mounts[os.fsdecode(path)] = f"{number} {device} {root}"
    return {folder: _mount_of(folder, mounts) for folder in folders}


def _mount_of(folder: str, mounts: Mapping[str, str]) -> str:
    while folder not in mounts and folder != (above := os.path.dirname(folder)):
        folder = above
    return mounts.get(folder, "")
