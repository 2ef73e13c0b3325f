"""Manifests in files and folders: read once, or watched, as batches for the store.

Rules
=====
1. What is read: the files that were named, whatever they are called; of folders, and the folders within,
   all that end in ``.yaml``, ``.yml`` or ``.json`` and do not begin with a dot; "-" is standard input.
2. A change is in force some milliseconds after it was written. Only when a resource would disappear, its
   file must be quiet for ``SETTLE`` first: editors and copying programs empty a file before they fill it.
3. Files that change together are one batch.
4. No more than ``SLICE`` is worked without giving way to the other tasks of the event loop.

Theory of operation
===================
Each folder is watched by itself, under its real path, and so is what a symbolic link leads to. An event
about a known file makes it read again; one about a folder, a link or a path that was missing makes all be
listed again. Whenever the set of folders changes the watch is set up anew, and all is listed once more
*after* that, so that nothing slips between. Listing compares stamps, and the texts of what differs.
"""

# The watcher speaks of paths as strings, and there are thousands of them.
# ruff: noqa: PTH100, PTH112, PTH116, PTH118, PTH120, PTH123

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import NamedTuple

from asyncinotify import Inotify, Mask
from msgspec import Struct

from moongate.api.base import Ref, Resource
from moongate.api.envoygateway import EnvoyGateway
from moongate.problem import Problem
from moongate.sources.chunks import Place
from moongate.sources.diagnostics import Diagnostic
from moongate.sources.folder import STDIN, Folder, Unreadable

SUFFIXES = (".yaml", ".yml", ".json")
"""Endings of the files that are read in folders."""

STEP = 0.002
"""Seconds: a burst of events is over when a step brings no other. This is what a change waits."""
LONGEST_BURST = 0.05
TICK = 0.05
"""Seconds to wait for events before looking at what is unsettled."""

SETTLE = 0.05
"""Seconds of quiet after which a file is believed that a resource is gone."""
PATIENCE = 1.0
"""Seconds after which it is believed though the file is still being written."""
SLICE = 0.01
"""Seconds of work between two pauses."""

_EVENTS = (
    Mask.CREATE
    | Mask.MODIFY
    | Mask.CLOSE_WRITE
    | Mask.ATTRIB
    | Mask.MOVED_FROM
    | Mask.MOVED_TO
    | Mask.DELETE
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
    | Mask.ONLYDIR
)


class Loaded(Struct, frozen=True):
    """What the manifests came to, at first or after a change.

    Args:
        batch: new states of resources, None for those that are gone; everything, the first time.
        diagnostics: all about the files as they are now, not only about those that changed.
        configuration: the EnvoyGateway among the manifests, if there is one.
        files: those that were read for this.
        parsed: documents that had to be parsed for this.
    """

    batch: Mapping[Ref, Resource | None]
    diagnostics: tuple[Diagnostic, ...]
    configuration: EnvoyGateway | None
    files: tuple[str, ...]
    parsed: int

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The diagnostics that keep something out of force."""
        return tuple(diagnostic for diagnostic in self.diagnostics if diagnostic.severity == "error")


def load(paths: Iterable[str | Path], *, namespace: str = "default") -> Loaded:
    """All manifests in these files and folders, as they are now."""
    return Files(paths, namespace=namespace).load()


async def watch(paths: Iterable[str | Path], *, namespace: str = "default") -> AsyncGenerator[Loaded, None]:
    """All manifests in these files and folders, then what changes, until cancelled."""
    async with aclosing(Files(paths, namespace=namespace).watch()) as news:
        async for loaded in news:
            yield loaded


class Files:
    """The manifests at some paths.

    Args:
        paths: of files and folders; "-" is standard input, which is read once.
        namespace: of resources that name none.
    """

    def __init__(self, paths: Iterable[str | Path], *, namespace: str = "default") -> None:
        self.paths = tuple(dict.fromkeys(str(path) for path in paths))
        self.folder = Folder(namespace=namespace)
        self._listing = _Listing()
        self._unsettled: dict[str, _Unsettled] = {}
        self._reported: tuple[tuple[Diagnostic, ...], EnvoyGateway | None] | None = None

    def load(self) -> Loaded:
        """Everything, as it is now."""
        paths = self._opened()
        parsed = self.folder.parsed
        for _ in self._staged(paths):
            pass
        return self._loaded(self.folder.commit(), paths, parsed)

    async def watch(self) -> AsyncGenerator[Loaded, None]:
        """Everything, then what changes; ends after the first if there is nothing that could change."""
        paths = self._opened()
        parsed = self.folder.parsed
        await _in_slices(self._staged(paths))
        yield self._loaded(self.folder.commit(), paths, parsed)
        while self._listing.watched:
            watched = self._listing.watched
            async with aclosing(_bursts(watched, self._patience)) as bursts:
                fresh = True
                async for events in bursts:
                    loaded = await self._heard(events, everything=fresh)
                    fresh = False
                    if loaded is not None:
                        yield loaded
                    if watched != self._listing.watched:
                        break

    def _patience(self) -> float | None:
        return TICK if self._unsettled else None

    async def _heard(self, events: Sequence[str], *, everything: bool) -> Loaded | None:
        """The next state, None when nothing differs."""
        now = time.monotonic()
        paths, unsure = self._meant(events)
        for path in paths & self._unsettled.keys():
            self._unsettled[path] = self._unsettled[path]._replace(last=now)
        if everything or unsure:
            before = self._listing
            self._listing = await asyncio.to_thread(_listed, self.paths)
            paths |= _differing(before, self._listing)
        due = {path for path, unsettled in self._unsettled.items() if unsettled.due(now)}
        if not paths and not due and not (everything or unsure):
            return None
        # What waits is looked at again whenever something else changes: a resource may have moved there.
        read = sorted(paths | self._unsettled.keys())
        parsed = self.folder.parsed
        await _in_slices(self._staged(read))
        losing = self.folder.losing()
        for path in losing - due:
            self._unsettled.setdefault(path, _Unsettled(now, now))
            self.folder.unstage(path)
        for path in self._unsettled.keys() - (losing - due):
            del self._unsettled[path]
        reported = self._reported
        loaded = self._loaded(self.folder.commit(), read, parsed)
        return loaded if loaded.batch or self._reported != reported else None

    def _meant(self, events: Iterable[str]) -> tuple[set[str], bool]:
        """The files that events are about, and whether that needs a new listing of all."""
        listing = self._listing
        paths: set[str] = set()
        unsure = False
        for event in events:
            named = listing.named.get(event)
            if named is not None:
                paths.add(named)
            if event in listing.awaited or event in listing.walked:
                unsure = True
                continue
            directory, name = os.path.split(event)
            walked = listing.walked.get(directory)
            if walked is None:
                unsure |= named is None and directory in listing.linked
                continue
            path = os.path.join(walked.shown, name)
            if listing.linked:
                unsure = True
            elif path in listing.files:
                paths.add(path)
            elif not name.startswith("."):
                mode = _mode(event)
                if mode is None:
                    pass  # It came and went.
                elif not stat.S_ISREG(mode):
                    unsure = True
                elif name.endswith(SUFFIXES):
                    paths.add(path)
                    listing.files[path] = _Found(None, walked.root, directory)
        return paths, unsure

    def _opened(self) -> list[str]:
        """The files to read at first; what can be read only once is read here."""
        for path in self.paths:
            mode = _mode(path, follow=True) if path != "-" else None
            if path == "-":
                text = _decoded(sys.stdin.buffer.read())
            elif mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                text = _text(path)  # A pipe, as of `moongate validate <(helm template …)`.
            else:
                continue
            for _ in self.folder.stage(STDIN if path == "-" else path, text):
                pass
        self._listing = _listed(self.paths)
        return sorted(self._listing.files)

    def _staged(self, paths: Iterable[str]) -> Iterator[None]:
        for path in paths:
            text = _text(path)
            if text is None:
                self._listing.files.pop(path, None)
            yield from self.folder.stage(path, text)
            yield

    def _loaded(self, batch: Mapping[Ref, Resource | None], files: Sequence[str], parsed: int) -> Loaded:
        diagnostics = (*self._listing.diagnostics(), *self.folder.diagnostics())
        self._reported = (diagnostics, self.folder.configuration)
        return Loaded(
            batch, diagnostics, self.folder.configuration, tuple(files), self.folder.parsed - parsed
        )


class _Unsettled(NamedTuple):
    """When a file first seemed to lose a resource, and when it was last written."""

    first: float
    last: float

    def due(self, now: float) -> bool:
        return now - self.last >= SETTLE or now - self.first >= PATIENCE


async def _in_slices(steps: Iterator[None]) -> None:
    until = time.monotonic() + SLICE
    for _ in steps:
        if time.monotonic() >= until:
            await asyncio.sleep(0)
            until = time.monotonic() + SLICE


async def _bursts(
    folders: Iterable[str], patience: Callable[[], float | None]
) -> AsyncGenerator[list[str], None]:
    """Paths that something happened to; empty at first, and when nothing did for ``patience`` seconds.

    The kernel reports events, so nothing runs while nothing happens.
    """
    loop = asyncio.get_running_loop()
    news = asyncio.Event()
    with Inotify(sync_timeout=0) as inotify:
        try:
            for folder in sorted(folders):
                inotify.add_watch(folder, _EVENTS)  # pyright: ignore[reportUnknownMemberType]  # a bare PathLike
        except (FileNotFoundError, NotADirectoryError):
            # A folder went between listing and watching. A new listing shows which; wait, or this turns fast.
            await asyncio.sleep(TICK)
            yield []
            return
        loop.add_reader(inotify.fd, news.set)
        try:
            yield []
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(patience()):
                        await news.wait()
                yield await _burst(inotify, news)
        finally:
            loop.remove_reader(inotify.fd)


async def _burst(inotify: Inotify, news: asyncio.Event) -> list[str]:
    """What has happened, and what goes on happening without a pause."""
    paths: dict[str, None] = {}
    until = time.monotonic() + LONGEST_BURST
    while news.is_set():
        news.clear()
        while (event := inotify.sync_get()) is not None:
            if event.mask & Mask.Q_OVERFLOW:
                paths |= dict.fromkeys(str(watch.path) for watch in inotify.watches)
            elif event.path is not None:
                paths[str(event.path)] = None
        if time.monotonic() < until:
            await asyncio.sleep(STEP)
    return list(paths)


# --- listing --------------------------------------------------------------------------------------


class _Stamp(NamedTuple):
    """Equal stamps mean an equal file, unless it was written just now."""

    device: int
    inode: int
    size: int
    modified_ns: int


class _Found(NamedTuple):
    stamp: _Stamp | None
    root: str
    """The path that was asked for, by which the file was found."""
    folder: str
    """Real path of the folder that it was found in."""


class _Walked(NamedTuple):
    shown: str
    root: str


class _Listing:
    """What there is, and what must be watched to know when that changes. Keys of sets and maps are real paths
    unless said otherwise."""

    def __init__(self) -> None:
        self.files: dict[str, _Found] = {}
        """By the path that is shown."""
        self.walked: dict[str, _Walked] = {}
        """Folders whose manifests are read."""
        self.named: dict[str, str] = {}
        """Files that are not in such a folder, or are reached through a link → the path that is shown."""
        self.awaited: set[str] = set()
        """Paths that change what is listed when they come or go."""
        self.linked: set[str] = set()
        """Folders that links lead to, and those that hold them."""
        self.missing: list[str] = []
        """As they were asked for; so are ``folders``."""
        self.folders: list[str] = []
        self.watched: frozenset[str] = frozenset()

    def diagnostics(self) -> Iterator[Diagnostic]:
        for path in self.missing:
            problem = Problem(
                "", "There is no such file or folder; it is read as soon as there is.", "NotFound"
            )
            yield Diagnostic(Place(path, 0, 0), None, problem)
        for root in self.folders:
            # Of paths that overlap, the first has the files.
            within = os.path.realpath(root)
            if not any(
                file.root == root or os.path.commonpath((file.folder, within)) == within
                for file in self.files.values()
            ):
                message = (
                    f"The folder has no manifests, which are files that end in {', '.join(SUFFIXES)}. "
                    "A Gateway of class moongate, an HTTPRoute and a Backend make a beginning; "
                    "`moongate quickstart --show` prints some."
                )
                yield Diagnostic(Place(root, 0, 0), None, Problem("", message, "Empty"), "warning")


def _listed(paths: Iterable[str]) -> _Listing:
    listing = _Listing()
    watched: set[str] = set()
    seen: set[tuple[int, int]] = set()
    for path in paths:
        if path == "-":
            continue
        try:
            status = os.stat(path)
        except OSError:
            listing.missing.append(path)
            there = os.path.abspath(path)
            while not os.path.isdir(there):
                there, lacking = os.path.split(there)
                listing.awaited.add(os.path.join(os.path.realpath(there), lacking))
            watched.add(os.path.realpath(there))
            continue
        if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
            continue
        # The folder around is watched as well: it has the events of a path that is moved or replaced.
        around, name = os.path.split(os.path.abspath(path))
        around = os.path.realpath(around)
        watched.add(around)
        if stat.S_ISDIR(status.st_mode):
            listing.awaited.add(os.path.join(around, name))
            listing.folders.append(path)
            _walk(path, path, listing, seen)
        elif (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            listing.files[path] = _Found(_stamp(status), path, around)
            real = os.path.realpath(path)
            listing.named[os.path.join(around, name)] = listing.named[real] = path
            listing.awaited.add(os.path.join(around, name))
            if real != os.path.join(around, name):
                listing.linked |= {around, os.path.dirname(real)}
    listing.watched = frozenset(watched | listing.walked.keys() | listing.linked)
    return listing


def _walk(folder: str, root: str, listing: _Listing, seen: set[tuple[int, int]]) -> None:
    real = os.path.realpath(folder)
    if real in listing.walked:
        return  # Two links lead here, or one leads back up.
    listing.walked[real] = _Walked("" if folder == "." else folder, root)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return  # It went meanwhile, or is not ours to read.
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            path = entry.path.removeprefix("./") if folder == "." else entry.path
            if entry.is_symlink():
                listing.linked |= {real, os.path.dirname(os.path.realpath(path))}
            if entry.is_dir():
                _walk(path, root, listing, seen)
            elif entry.name.endswith(SUFFIXES) and entry.is_file():
                status = entry.stat()
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    listing.files[path] = _Found(_stamp(status), root, real)
                if entry.is_symlink():
                    listing.named[os.path.realpath(path)] = path
        except OSError:
            continue


def _differing(before: _Listing, after: _Listing) -> set[str]:
    """Files to read again."""
    just_now = time.time_ns() - 1_000_000_000
    changed = before.files.keys() - after.files.keys()
    for path, file in after.files.items():
        old = before.files.get(path)
        assert file.stamp is not None
        if old is None or old.stamp != file.stamp or file.stamp.modified_ns > just_now:
            changed.add(path)
    return changed


def _stamp(status: os.stat_result) -> _Stamp:
    return _Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _mode(path: str, *, follow: bool = False) -> int | None:
    try:
        return os.stat(path, follow_symlinks=follow).st_mode
    except OSError:
        return None


# --- reading --------------------------------------------------------------------------------------


def _text(path: str) -> str | Unreadable | None:
    """The text of a file, None when there is none."""
    try:
        with open(path, "rb", buffering=0) as file:  # a buffer takes longer to make than a small file to read
            return _decoded(file.read())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        return Unreadable(f"The file cannot be read: {(error.strerror or str(error)).lower()}.")


def _decoded(data: bytes) -> str | Unreadable:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        return Unreadable(
            f"The byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8.",
            before.count("\n") + 1,
            len(before) - before.rfind("\n"),
        )
