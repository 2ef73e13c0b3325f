"""Listing the files to read at some paths, the folders to watch, and their faults.

Rules
=====
1. A folder stands for all files in it and in its subfolders that end in ``SUFFIXES`` and do not begin with a
   dot.
2. A folder that cannot be read is a fault. Its files stay listed as before, because a file that cannot be
   seen is not a deleted file.
3. Folders are read ``MOST_NESTED`` levels deep. Links that form a cycle are followed once.
"""

# The watcher uses strings for paths, and there are thousands of them.
# ruff: noqa: PTH100, PTH110, PTH112, PTH115, PTH116, PTH118, PTH120, PTH122

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from moongate.problem import Problem
from moongate.sources.chunks import Place
from moongate.sources.diagnostics import EMPTY, Diagnostic
from moongate.sources.reading import reason

SUFFIXES: Final = (".yaml", ".yml", ".json")
"""The endings of files that are read in folders."""
MOST_NESTED: Final = 64
"""The most levels of nested folders."""


class Stamp(NamedTuple):
    """Equal stamps mean an equal file, unless it was written just now."""

    device: int
    inode: int
    size: int
    modified_ns: int


class ListedFile(NamedTuple):
    """A file to read.

    Args:
        stamp: None until the file was examined.
        root: the path of the user below which the file is.
        folder: the real path of its folder.
    """

    stamp: Stamp | None
    root: str
    folder: str


class Walked(NamedTuple):
    """A folder whose manifests are read: its path for messages, and the path of the user above it."""

    shown: str
    root: str


class Listing:
    """What there is, and what must be watched to know when that changes. Keys of sets and maps are real paths
    unless said otherwise."""

    def __init__(self) -> None:
        self.files: dict[str, ListedFile] = {}
        """By the path that is shown."""
        self.kept: set[str] = set()
        """Those of them that were read before, and are in a folder that cannot be read."""
        self.walked: dict[str, Walked] = {}
        """Folders whose manifests are read."""
        self.closed: set[str] = set()
        """Folders among them that cannot be read."""
        self.named: dict[str, str] = {}
        """Files that are not in such a folder, or are reached through a link → the path that is shown."""
        self.awaited: set[str] = set()
        """Paths that change what is listed when they come or go."""
        self.linked: set[str] = set()
        """Folders that links lead to, and those that hold them."""
        self.missing: list[str] = []
        """As they were asked for; so are ``folders``."""
        self.folders: list[str] = []
        self.unreadable: dict[str, str] = {}
        """Folders by the path that is shown → why nothing in them is read."""
        self.passed: dict[str, str] = {}
        """What is not read though somebody may expect it, by the path that is shown → why."""
        self.watched: dict[str, bool] = {}
        """Folders to watch → whether files in them are read. Otherwise it only counts what comes and goes."""

    def keep(self, before: Listing) -> None:
        """Take over the files of folders that cannot be read any more."""
        if not self.closed:
            return
        for path, file in before.files.items():
            if path not in self.files and any(is_within(file.folder, folder) for folder in self.closed):
                self.files[path] = file
                self.kept.add(path)

    def matters(self, path: str) -> bool:
        """Whether what is written to a path may change what is read; what comes and goes always may."""
        folder, name = os.path.split(path)
        if folder in self.walked and name.endswith(SUFFIXES) and not name.startswith("."):
            return True
        return path in self.named or path in self.awaited or path in self.walked

    def filled(self) -> set[str]:
        """The folders with manifests, by the path that is shown."""
        return {os.path.dirname(file) for file in self.files}

    def is_out_of_reach(self, file: str) -> bool:
        """Whether a file is gone because a path above it is, or cannot be read."""
        if not self.missing and not self.unreadable:
            return False  # nearly always; thousands of files are asked for
        return file not in self.files and any(
            is_within(file, path) for path in (*self.missing, *self.unreadable)
        )

    def diagnostics(self) -> Iterator[Diagnostic]:
        for path in self.missing:
            problem = Problem(
                "", "There is no such file or folder; it is read as soon as there is.", "NotFound"
            )
            yield Diagnostic(Place(path, 0, 0), None, problem)
        for path, message in self.unreadable.items():
            yield Diagnostic(Place(path, 0, 0), None, Problem("", message, "Unreadable"))
        for path, message in self.passed.items():
            yield Diagnostic(Place(path, 0, 0), None, Problem("", message, "NotRead"), "warning")
        for root in self.folders:
            # Of paths that overlap, the first has the files.
            within = os.path.realpath(root)
            if not any(
                file.root == root or os.path.commonpath((file.folder, within)) == within
                for file in self.files.values()
            ) and not any(is_within(folder, within) for folder in self.closed):
                message = (
                    f"The folder has no manifests, which are files that end in {', '.join(SUFFIXES)}. "
                    "A Gateway of class moongate, an HTTPRoute and a Backend make a beginning; "
                    "`moongate quickstart --show` prints some."
                )
                yield Diagnostic(Place(root, 0, 0), None, Problem("", message, EMPTY), "warning")


def list_paths(paths: Iterable[str]) -> Listing:
    """What there is now."""
    listing = Listing()
    watched: set[str] = set()
    read: set[str] = set()
    seen: set[tuple[int, int]] = set()
    for path in paths:
        try:
            status = os.stat(path)
        except OSError as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                listing.missing.append(path)
            else:
                listing.unreadable[path] = _why(error)
                real = os.path.realpath(path)
                listing.closed |= {real, os.path.dirname(real)}
            there = os.path.abspath(path)
            while not os.path.isdir(there):
                there, lacking = os.path.split(there)
                listing.awaited.add(os.path.join(os.path.realpath(there), lacking))
            read.add(os.path.realpath(there))  # What comes may be a file, whose end must not be missed.
            continue
        # The folder around is watched as well: it has the events of a path that is moved or replaced.
        around, name = os.path.split(os.path.abspath(path))
        around = os.path.realpath(around)
        watched.add(around)
        listing.awaited.add(os.path.join(around, name))
        if stat.S_ISDIR(status.st_mode):
            listing.folders.append(path)
            _walk(path, listing, seen)
        elif (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            listing.files[path] = ListedFile(stamp(status), path, around)
            real = os.path.realpath(path)
            listing.named[os.path.join(around, name)] = listing.named[real] = path
            if real != os.path.join(around, name):
                listing.linked |= {around, os.path.dirname(real)}
    read |= {*listing.walked, *listing.linked, *map(os.path.dirname, listing.named)}
    listing.watched = {folder: folder in read for folder in (watched | read) - listing.closed}
    return listing


def differing(before: Listing, after: Listing) -> set[str]:
    """Files to read again."""
    just_now = time.time_ns() - 1_000_000_000
    changed = before.files.keys() - after.files.keys()
    for path, file in after.files.items():
        old = before.files.get(path)
        if old is None or old.stamp != file.stamp or file.stamp is None or file.stamp.modified_ns > just_now:
            changed.add(path)
    return changed


def stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _walk(root: str, listing: Listing, seen: set[tuple[int, int]]) -> None:
    nested = [_opened(root, root, listing)]
    while nested:
        folder = nested[-1]
        entry = next(folder.entries, None)
        if entry is None:
            nested.pop()
            continue
        if entry.name.startswith("."):
            continue
        path = entry.path.removeprefix("./") if root == "." else entry.path
        try:
            if entry.is_symlink():
                listing.linked |= {folder.real, os.path.dirname(os.path.realpath(path))}
            if _is_folder(entry):
                if len(nested) < MOST_NESTED:
                    nested.append(_opened(path, root, listing))
                else:
                    listing.unreadable[path] = (
                        f"Folders are read {MOST_NESTED} deep; this one is deeper, so move it up, "
                        "or remove it."
                    )
            elif entry.name.endswith(SUFFIXES):
                _take(entry, path, root, folder.real, listing, seen)
            elif entry.name.lower().endswith(SUFFIXES):
                right = os.path.splitext(entry.name)[1].lower()
                listing.passed[path] = (
                    f"The file is not read: its name must end in {right}, in small letters."
                )
            elif entry.is_symlink() and not os.path.exists(path):
                there = os.readlink(path)
                listing.passed[path] = (
                    f"It is a symbolic link that leads nowhere ({there}), so it is not read."
                )
        except OSError:
            if entry.name.endswith(SUFFIXES):  # A link that leads back to itself, say.
                listing.files[path] = ListedFile(None, root, folder.real)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads back to itself


class _Folder(NamedTuple):
    real: str
    entries: Iterator[os.DirEntry[str]]


def _opened(path: str, root: str, listing: Listing) -> _Folder:
    """A folder to walk through; without entries when there is nothing to be had."""
    real = os.path.realpath(path)
    if real in listing.walked:
        return _Folder(real, iter(()))  # Two links lead here, or one leads back up.
    listing.walked[real] = Walked("" if path == "." else path, root)
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return _Folder(real, iter(()))  # It went meanwhile.
    except OSError as error:
        listing.closed.add(real)
        listing.unreadable[path] = _why(error)
        return _Folder(real, iter(()))
    return _Folder(real, iter(entries))


def _take(
    entry: os.DirEntry[str],
    path: str,
    root: str,
    folder: str,
    listing: Listing,
    seen: set[tuple[int, int]],
) -> None:
    try:
        status = entry.stat()
    except FileNotFoundError:
        if entry.is_symlink():  # It leads nowhere, as who reads it hears.
            listing.files[path] = ListedFile(None, root, folder)
        return
    except OSError:
        listing.files[path] = ListedFile(None, root, folder)  # Who reads it hears why it cannot be read.
        return
    if (status.st_dev, status.st_ino) not in seen:
        seen.add((status.st_dev, status.st_ino))
        listing.files[path] = ListedFile(stamp(status), root, folder)
    if entry.is_symlink():
        listing.named[os.path.realpath(path)] = path


def _why(error: OSError) -> str:
    return f"It cannot be read: {reason(error)}. What was read of it before stays in force."


def is_within(path: str, folder: str) -> bool:
    """Whether a path is a folder or in it."""
    if folder == ".":
        return not path.startswith("/")
    return path == folder or path.startswith(folder.rstrip("/") + "/")
