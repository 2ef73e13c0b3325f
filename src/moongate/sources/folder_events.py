"""Events of the kernel about changes in folders, so that no polling is necessary.

Theory of operation
===================
A watch belongs to the folder that was at a path when the watch was added, not to the path. When that folder
is deleted, moved or unmounted, the watch gets no later events of the path, even if a new folder is created
there. Nor do events report a file system that is mounted over a watched folder, so the kernel's table of
mounts is watched too. The watches are then *stale*, and the caller must create new ones. Changes that only
the old watches saw are not reported, so the caller must then list all files again. But the old watches still
say which files were closed.

A watch has the events of all names in its folder, and a log among them may be written thousands of times a
second. The kernel joins equal events that nobody has taken yet. So the event loop is not woken while a burst
goes on, and for some time after events that do not matter.
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
from collections.abc import Callable
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
LONGEST_PAUSE_S: Final = 0.016
"""The longest time without a look at the events, while only those come that do not matter."""
_MOST_IDLE: Final = 1000
"""Events that do not matter after which a look ends, because they may come faster than they are taken."""

_GONE = Mask.DELETE_SELF | Mask.MOVE_SELF
_ENTRIES = Mask.CREATE | Mask.ATTRIB | Mask.MOVED_FROM | Mask.MOVED_TO | Mask.DELETE | _GONE | Mask.ONLYDIR
_WRITES = Mask.MODIFY | Mask.CLOSE_WRITE
_MODIFIED, _ATTRIBUTES, _OVERFLOW = Mask.MODIFY.value, Mask.ATTRIB.value, Mask.Q_OVERFLOW.value
_OF_CONTENT = (_WRITES | Mask.ATTRIB).value
"""Events of a file that say neither that it came nor that it went."""
_ENDED = (_GONE | Mask.IGNORED | Mask.UNMOUNT).value

_LIMITS: Final = {errno.ENOSPC: "fs.inotify.max_user_watches", errno.EMFILE: "fs.inotify.max_user_instances"}


class FolderEvents:
    """A context manager that receives the events of folders while it is active.

    Args:
        folders: the real paths of the folders, and whether files in them are read. If not, it is only heard
            what comes and goes.
        writing: paths of files that were written and not closed yet; kept up to date.
        matters: whether it matters what is written to a path in these folders.

    Attributes:
        stale: whether a watched folder is no longer at its path.
        unheard: folders that cannot be watched.
        limit: the kernel setting that must be raised to watch these; empty if another reason prevents it.
    """

    def __init__(
        self,
        folders: Mapping[str, bool],
        writing: dict[str, None] | None = None,
        matters: Callable[[str], bool] = lambda _path: True,
    ) -> None:
        self.stale = False
        self.unheard: tuple[str, ...] = ()
        self.limit = ""
        self._folders = folders
        self._writing = {} if writing is None else writing
        self._matters = matters
        self._news = asyncio.Event()
        self._more = False
        """Whether the last look ended before all events were taken."""
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

    def watch(self, folders: Mapping[str, bool]) -> None:
        """Watch these folders from now on, each as it is now, and no others.

        The old watches end after the new ones have begun, so that the close of each file is seen.
        """
        before, last = self._inotify, self._stack
        self.unheard = ()
        self.limit = ""
        self._folders = folders
        with last:
            with ExitStack() as stack:
                self._inotify, stale = self._begun(stack)
                self._stack = stack.pop_all()
            if before is not None:
                self._take(before, {})
                self._more = False
        # What happened to the folders before does not matter: they are watched as they are now.
        self.stale = stale

    def _begun(self, stack: ExitStack) -> tuple[Inotify | None, bool]:
        """Return new watches, which end with the stack, and whether a folder is no longer there."""
        self._mounts = _mounts_of(self._folders)
        try:
            inotify = stack.enter_context(Inotify(sync_timeout=0))
        except OSError as error:
            self._note(sorted(self._folders), error)
            return None, False
        stale = False
        unheard: list[str] = []
        for folder, is_read in sorted(self._folders.items()):
            try:
                inotify.add_watch(folder, _ENTRIES | _WRITES if is_read else _ENTRIES)  # pyright: ignore[reportUnknownMemberType]  # a bare PathLike
            except (FileNotFoundError, NotADirectoryError):
                stale = True  # It was removed after the listing. A new listing shows that.
            except OSError as error:
                unheard.append(folder)
                self._note(unheard, error)
        return inotify, stale

    async def burst(self, patience_s: float | None) -> list[str]:
        """Wait for a burst of events, and return the changed paths; empty after a timeout without events."""
        paths: dict[str, None] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._ready()
                pause_s = STEP_S
                while not self._look(paths) and not self.stale:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                    await self._ready()
        # An event loop that was held up hears of the timeout and of events at once, and the timeout wins.
        if not paths and not self.stale and not self._look(paths):
            return []
        until = time.monotonic() + LONGEST_BURST_S
        while time.monotonic() < until:
            await asyncio.sleep(STEP_S)
            if not self._look(paths):
                break
        return list(paths)

    async def _ready(self) -> None:
        """Wait until there is news. The event loop is woken by events of folders only here."""
        if self._more:
            return
        loop, inotify = asyncio.get_running_loop(), self._inotify
        if inotify is not None:
            loop.add_reader(inotify.fd, self._news.set)
        try:
            await self._news.wait()
        finally:
            if inotify is not None:
                loop.remove_reader(inotify.fd)

    def _look(self, paths: dict[str, None]) -> bool:
        """Take the events that there are, if folders can be watched. Returns whether one of them matters."""
        self._news.clear()
        return self._inotify is not None and self._take(self._inotify, paths)

    def _take(self, inotify: Inotify, paths: dict[str, None]) -> bool:
        """Take the events that there are. Returns whether one of them matters."""
        some = self._more = False
        idle = 0
        while (event := inotify.sync_get()) is not None:
            mask = event.mask.value  # Operations of a Mask take many times as long.
            if mask & _OVERFLOW:
                paths |= dict.fromkeys(self._folders)
                self._writing.clear()
            elif event.path is not None:
                path = str(event.path)
                if mask & _MODIFIED:
                    self._writing[path] = None
                elif not mask & _ATTRIBUTES:
                    # The file was closed, removed or replaced.
                    self._writing.pop(path, None)
                if not mask & ~_OF_CONTENT and event.name is not None and not self._matters(path):
                    idle += 1
                    if idle == _MOST_IDLE:
                        self._more = True
                        break
                    continue
                paths[path] = None
            some = True
            self.stale |= bool(mask & _ENDED)
        return some

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
