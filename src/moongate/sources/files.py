"""Manifests in files and folders: read once, or watched, as batches for the store.

Rules
=====
1. What is read: the files that were named, whatever they are called; of folders, and the folders within,
   what ``listing`` says; "-" is standard input.
2. A change is in force some milliseconds after it was written. A file that is open for writing is read when
   it is closed: a shell empties it long before a program has written, and half a policy may let everybody
   pass. Only when a resource would disappear, its file must be quiet for ``SETTLE`` besides: some editors
   remove a file before they write it anew.
3. Files that change together are one batch.
4. No step works for more than ``SLICE`` before other tasks of the event loop get their turn, and nothing
   blocks the loop. A thread reads what takes longer: a document that is as big as a hundred others.
5. A fault of a file or folder is a diagnostic of it; all others are read.

Theory of operation
===================
Each folder is watched by itself, under its real path, and so is what a symbolic link leads to. An event
about a known file makes it read again; one about a folder, a link or a path that was missing makes all be
listed again. Whenever the set of folders changes, or one is replaced, the watches are set up anew, and all is
listed once more *after* that, so that nothing slips between. Listing compares stamps, and the texts of what
differs. Folders that cannot be watched, as the kernel has a limit, are looked at every ``RETRY_S``.
"""

# The watcher speaks of paths as strings, and there are thousands of them.
# ruff: noqa: PTH100, PTH116, PTH118, PTH120

from __future__ import annotations

import asyncio
import gc
import os
import stat
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct, structs

from moongate.api.base import Ref, Resource
from moongate.api.envoygateway import EnvoyGateway
from moongate.loading import NewObjects
from moongate.problem import Problem
from moongate.sources.chunks import Place
from moongate.sources.closing import Suspect, closing_effect
from moongate.sources.diagnostics import EMPTY, Diagnostic, as_of
from moongate.sources.file_states import LastGood, Unreadable
from moongate.sources.folder import STDIN, Folder
from moongate.sources.folder_events import LONGEST_BURST_S, FolderEvents
from moongate.sources.listing import SUFFIXES, ListedFile, Listing, Stamp, differing, is_within, list_paths
from moongate.sources.reading import decoded, file_text
from moongate.sources.suspicion import EVERYTHING

TICK = 0.05
"""Seconds to wait for events before looking at what is unsettled."""
RETRY_S = 10.0
"""Seconds between two looks at folders that cannot be watched."""
FIRST_PAUSE_S = 0.05
"""Seconds before watches are set up anew that could not be; each further pause is twice as long."""

SETTLE = 0.05
"""Seconds of quiet after which an edit is taken to be whole."""
SETTLE_USED = 0.5
"""The same, if another file may have to change too. A disk may take long for one file."""
EMPTIED_S = 10.0
"""Seconds after which a folder is believed that it has no manifests any more."""
OPEN_S = 5.0
"""Seconds without a change after which a file is read though it was not closed, if no resource would go."""
LONG_EDIT = 2.5
"""Seconds after which a pause of ``SETTLE`` is enough: it is probably between two edits, not within one."""
PATIENCE = 3.0
"""Seconds after which an edit is taken to be whole though files still change."""
SLICE = 0.003
"""Seconds of work between two pauses: as many as in a slice of the pump, as both may be at work."""

_UNKNOWN = Stamp(0, 0, 0, 0)
"""Of files that no file has."""


class Loaded(Struct, frozen=True):
    """What the manifests came to, at first or after a change.

    Args:
        batch: new states of resources, None for those that are gone; everything, the first time.
        diagnostics: all about the files as they are now, not only about those that changed.
        configuration: the EnvoyGateway among the manifests, if there is one.
        closed: the namespaces whose requests are refused; with "" all are.
        shut: the routes and Gateways whose requests are refused besides.
        files: those that were read for this.
        parsed: documents that had to be parsed for this.
        states: what a later process must know to put resources in force again, as far as it differs; None
            for resources that it could not.
    """

    batch: Mapping[Ref, Resource | None]
    diagnostics: tuple[Diagnostic, ...]
    configuration: EnvoyGateway | None
    closed: tuple[str, ...]
    shut: frozenset[Ref]
    files: tuple[str, ...]
    parsed: int
    states: Mapping[Ref, LastGood | None]

    @property
    def refused(self) -> frozenset[Ref | str] | None:
        """All whose requests are refused, for the cell ``CLOSED``; None if there is nothing."""
        return self.shut.union(self.closed) or None

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
        permissive: whether routes are served at the start though a document that may be a security policy
            cannot be read.
    """

    def __init__(
        self, paths: Iterable[str | Path], *, namespace: str = "default", permissive: bool = False
    ) -> None:
        self.paths = tuple(dict.fromkeys(str(path) for path in paths))
        self.folder = Folder(namespace=namespace, strict=not permissive)
        self._lasting = list(self.paths)
        """The paths that can be read more than once."""
        self._listing = Listing()
        self._events: FolderEvents | None = None
        self._unsettled: dict[Ref | str, _Since] = {}
        """The changes that wait, of resources and of files that close requests."""
        self._stood_still_s = 0.0
        self._quiet_since = self._edit_since = 0.0
        """When something was last written, not counting when nobody looked, and when the edit began."""
        self._writing: dict[str, None] = {}
        """The files of watched folders that somebody has open for writing, by real path."""
        self._open: dict[str, float] = {}
        """Those of them that are to be read, each with the time at which it is read at the latest."""
        self._reported: tuple[object, ...] | None = None
        self._once: set[str] = set()
        """The paths that were read, and cannot be read again."""
        self._visited: set[str] = set()
        """The folders that were read some time, by real path."""
        self._former: Mapping[Ref, LastGood] = {}
        self._states: dict[Ref, LastGood | None] = {}
        """The states that nobody was handed yet."""
        self._recalled: dict[str, int] = {}
        """The paths that cannot be read since the start, whose last good state is known → when that was."""

    def recall(self, states: Mapping[Ref, LastGood]) -> None:
        """Use these states, of a former process, for what has a fault when it is first read."""
        if self._reported is None:
            self._former = dict(states)

    def load(self) -> Loaded:
        """Everything, as it is now."""
        paths = self._opened()
        parsed = self.folder.parsed
        for steps in (self._at_first(paths), self.folder.committing(), self._note_states()):
            for _ in steps:
                pass
        return self._loaded(paths, parsed)

    async def watch(self) -> AsyncGenerator[Loaded, None]:
        """Everything, then what changes; ends after the first if there is nothing that could change.

        If it was watched before, what is gone since then may still come back, as with any change.
        """
        again = self._reported is not None
        if not again:
            paths = self._opened()
            parsed = self.folder.parsed
            await _in_slices(self._at_first(paths))
            await self._commit()
            # A policy that somebody writes anew just now may not have been there.
            before = self._listing
            self._listing = await asyncio.to_thread(list_paths, self._lasting)
            self._listing.keep(before)
            late = sorted(differing(before, self._listing))
            if late:
                await _in_slices(self._staged(late))
                now = self._now()
                waits = _Waits(self._listing, self._unsettled, set(), now, now)
                await self._commit(waits, begins=False)
            await _in_slices(self._note_states())
            yield self._loaded(sorted({*paths, *late}), parsed)
        pause = FIRST_PAUSE_S

        with FolderEvents(self._listing.watched, self._writing, self._matters) as events:
            self._events = events
            looked = self._now()
            while watched := self._listing.watched:
                until = time.monotonic() + RETRY_S
                changed: list[str] | None = None  # what slipped between listing and watching
                while True:
                    loaded = await self._next(changed or (), everything=changed is None, again=again)
                    again = False
                    if loaded is not None:
                        yield loaded
                    if events.stale or watched != self._listing.watched:
                        break
                    if events.unheard and time.monotonic() >= until:
                        break
                    patience_s = self._patience_s(until)
                    began = time.monotonic()
                    changed = await events.burst(patience_s)
                    took_s = time.monotonic() - began
                    if patience_s is None:
                        looked = self._now()
                        continue
                    # With this process the whole machine may have stood still, and whoever writes.
                    self._stood_still_s += max(0.0, took_s - patience_s - LONGEST_BURST_S - TICK)
                    before, looked = looked, self._now()
                    # Nor was it quiet in the rest of a long turn: nobody listened.
                    self._quiet_since += max(0.0, looked - before - patience_s - TICK)
                # Who replaces a folder again and again does not make this turn fast.
                pause = min(2 * pause, RETRY_S) if changed is None else FIRST_PAUSE_S
                if changed is None and events.stale:
                    await asyncio.sleep(pause)
                events.watch(self._listing.watched)

    def _now(self) -> float:
        """The time, not counting standstills while changes wait."""
        return time.monotonic() - self._stood_still_s

    def _matters(self, path: str) -> bool:
        return self._listing.matters(path)

    def _patience_s(self, until: float) -> float | None:
        files = (*self.folder.waiting.values(), *self.folder.closing.reopening)
        waits = [TICK] if any(not self._listing.is_out_of_reach(file) for file in files) else []
        if self._open:
            waits.append(max(0.0, min(self._open.values()) - self._now()))
        if self._events is not None and self._events.unheard:
            waits.append(max(0.0, until - time.monotonic()))
        return min(waits, default=None)

    async def _next(self, events: Sequence[str], *, everything: bool, again: bool) -> Loaded | None:
        """The next state, None when nothing differs.

        Args:
            events: the paths that changed.
            everything: whether to list all files, and read those that differ.
            again: whether to read all files, and return the state in any case.
        """
        now = self._now()
        paths, unsure = self._meant(events)
        if everything or unsure:
            before = self._listing
            self._listing = await asyncio.to_thread(list_paths, self._lasting)
            self._listing.keep(before)
            paths |= differing(before, self._listing)
            if again:
                paths |= self._listing.files.keys()
        written = self._being_written()
        begins = _is_whole(now - self._edit_since, now - self._quiet_since)
        if paths or written or any(os.path.dirname(event) in self._listing.walked for event in events):
            self._quiet_since = now
            self._edit_since = now if begins else self._edit_since
        self._open |= dict.fromkeys(paths & written, now + OPEN_S)
        late = {path for path, until in self._open.items() if until <= now}
        paths = (paths - written) | late | (self._open.keys() - written)
        self._open = {
            path: until for path, until in self._open.items() if path in written and path not in late
        }
        if not paths and not self._unsettled and not (everything or unsure):
            return None
        read = sorted(paths)
        parsed = self.folder.parsed
        await _in_slices(self._staged(read))
        waits = _Waits(self._listing, self._unsettled, written, now, self._quiet_since)
        await self._commit(waits, begins=begins)
        await _in_slices(self._note_states())
        closing = self.folder.closing
        # What has waited, and is held back only until a file is opened, does not wait once more.
        waited = [ref for ref in closing.held_back if ref in self._unsettled] if closing.reopening else ()
        unsettled = (*self.folder.waiting, *closing.reopening, *waited)
        since = _Since(now, self._edit_since)
        self._unsettled = {what: self._unsettled.get(what, since) for what in unsettled}
        reported = self._reported
        loaded = self._loaded(read, parsed)
        return loaded if again or loaded.batch or self._reported != reported else None

    async def _commit(self, waits: _Waits | None = None, *, begins: bool = True) -> None:
        """Make what is staged current. Who cancels this waits for the end, as there is no half of an edit."""
        steps = self.folder.committing(waits, begins=begins)
        try:
            await _in_slices(steps)
        finally:
            for _ in steps:
                pass

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
                # A folder or a link may have taken the name of the file.
                mode = _mode(event)
                unsure |= mode is not None and not stat.S_ISREG(mode)
            elif not name.startswith("."):
                mode = _mode(event)
                if mode is None:
                    pass  # It came and went.
                elif not stat.S_ISREG(mode):
                    unsure = True
                elif name.endswith(SUFFIXES):
                    paths.add(path)
                    listing.files[path] = ListedFile(None, walked.root, directory)
        return paths, unsure

    def _being_written(self) -> set[str]:
        """The files that somebody has open for writing."""
        paths: set[str] = set()
        for event in self._writing:
            directory, name = os.path.split(event)
            walked = self._listing.walked.get(directory)
            shown = os.path.join(walked.shown, name) if walked is not None else ""
            paths |= {self._listing.named.get(event, ""), shown} & self._listing.files.keys()
        return paths

    def _opened(self) -> list[str]:
        """The files to read at first; what can be read only once is read here."""
        self._lasting = [path for path in self._lasting if not self._read_once(path)]
        self._listing = list_paths(self._lasting)
        return sorted(self._listing.files)

    def _read_once(self, path: str) -> bool:
        """Read standard input, or a pipe, as of ``moongate validate <(helm template …)``."""
        mode = _mode(path, follow=True) if path != "-" else None
        if path == "-":
            text = decoded(sys.stdin.buffer.read())
        elif mode is not None and stat.S_ISFIFO(mode):
            text = file_text(path, pipes=True)
        else:
            return False
        shown = STDIN if path == "-" else path
        self._once.add(shown)
        for _ in self.folder.stage(shown, text):
            pass
        return True

    def _at_first(self, paths: Sequence[str]) -> Iterator[bool]:
        by_file: dict[str, list[LastGood]] = {}
        for state in self._former.values():
            by_file.setdefault(state.file, []).append(state)
        # The lasting path of each of thousands of files would be a part of each start.
        read = paths if by_file else ()
        states_by_path = {path: by_file[file] for path in read if (file := _lasting(path)) in by_file}
        for folder in (*self._listing.unreadable, *self._listing.missing):
            above = _lasting(folder)
            for file, states in by_file.items():
                if is_within(file, above):
                    path = folder + file.removeprefix(above)
                    states_by_path[path] = states
                    real = os.path.realpath(os.path.dirname(path))
                    self._listing.files[path] = ListedFile(_UNKNOWN, folder, real)
                    latest = max(state.at for state in states)
                    self._recalled[folder] = max(latest, self._recalled.get(folder, 0))
        yield from self._staged(paths)
        yield from self.folder.recall(states_by_path, self._former.values())

    def _staged(self, paths: Iterable[str]) -> Iterator[bool]:
        out_of_reach = {*self._listing.unreadable, *self._listing.missing}
        self._recalled = {path: at for path, at in self._recalled.items() if path in out_of_reach}
        self._visited |= self._listing.walked.keys() - self._listing.closed
        self.folder.closing.hidden = any(
            path not in self._recalled
            and path not in self._listing.files
            and os.path.realpath(path) not in self._visited
            for path in self._listing.unreadable
        )
        self.folder.closing.out_of_reach = self._listing.kept
        for path in paths:
            try:
                text = file_text(path)
                if text is None:
                    self._listing.files.pop(path, None)
                elif isinstance(text, Unreadable) and path in self._listing.files:
                    # The right to read it, or its folder, comes back without a change of its stamp.
                    self._listing.files[path] = self._listing.files[path]._replace(stamp=None)
                yield from self.folder.stage(path, text)
            except Exception as error:  # noqa: BLE001 - a bug that one file meets must not stop the others
                message = f"The file cannot be read because of a bug of moongate: {type(error).__name__}."
                yield from self.folder.stage(path, Unreadable(message))
            yield False

    def _loaded(self, files: Sequence[str], parsed: int) -> Loaded:
        diagnostics = (
            *map(self._with_effect, self._listing.diagnostics()),
            *self._emptied(),
            *(self._without_manifests() if self._reported is None else ()),
            *self._unheard(),
            *self.folder.diagnostics(),
        )
        states, self._states = self._states, {}
        closing = self.folder.closing
        self._reported = (diagnostics, self.folder.configuration, closing.closed, closing.shut)
        return Loaded(
            self.folder.batch(),
            diagnostics,
            self.folder.configuration,
            closing.closed,
            closing.shut,
            tuple(files),
            self.folder.parsed - parsed,
            states,
        )

    def _note_states(self) -> Iterator[bool]:
        """Note what a later process must know; in steps, of which the last ones may be left for next time."""
        if self.folder.closing.is_unlike_former:
            return  # The next process is to compare with the same.
        now = int(time.time())  # noqa: TID251 - messages of a later process have a date
        former, seen = self._former, set[Ref]()
        lasting: dict[str, str] = {}
        for ref, state in self.folder.news():
            seen.add(ref)
            if state is None or state.file in self._once:
                self._states[ref] = None
            else:
                before, file = former.get(ref), lasting.get(state.file)
                if file is None:
                    file = lasting[state.file] = _lasting(state.file)
                self._states.pop(ref, None)
                if before is None or (before.file, before.text) != (file, state.text):
                    self._states[ref] = LastGood(file, state.text, state.at or now)
            yield False
        self._states |= {ref: None for ref in former if ref not in seen}
        self._former = {}

    def _without_manifests(self) -> Iterator[Diagnostic]:
        """The paths that have files, but no manifest. To be asked once, because it walks over all files."""
        files: dict[str, list[str]] = {STDIN: [STDIN]} if "-" in self.paths else {}
        for path, file in self._listing.files.items():
            files.setdefault(file.root, []).append(path)
        for root, below in files.items():
            if not all(map(self.folder.is_empty, below)):
                continue
            message = "There is no manifest in it, only comments, a list without items, or nothing."
            if root == STDIN:
                message = (
                    "Standard input holds no manifest. Perhaps the program that was to write some failed."
                )
            yield Diagnostic(Place(root, 0, 0), None, Problem("", message, EMPTY), "warning")

    def _with_effect(self, fault: Diagnostic) -> Diagnostic:
        """The fault of a path, with what is in force of it meanwhile."""
        files = self.folder.waiting.values()
        kept = sum(
            self._listing.is_out_of_reach(file) and is_within(file, fault.place.file) for file in files
        )
        at = self._recalled.get(fault.place.file, 0)
        if at and not kept:
            return structs.replace(fault, effect=f"What was in it stays in force{as_of(at)}.")
        if fault.severity == "error" and kept:
            return structs.replace(fault, effect=f"{_stay(kept)} in force until then{as_of(at)}.")
        closing = self.folder.closing
        if closing.strict and closing.hidden and fault.problem.reason == "Unreadable":
            suspect = Suspect(fault.place.file, EVERYTHING)
            effect = closing_effect("", [suspect], at_start=closing.at_start)
            return structs.replace(fault, effect=effect)
        return fault

    def _emptied(self) -> Iterator[Diagnostic]:
        """Warnings about folders whose last manifest went a moment ago."""
        if not self.folder.waiting:
            return  # Nearly always; the folders of thousands of files would be a part of each change.
        filled = self._listing.filled()
        lost = Counter[str]()
        for file, count in Counter(self.folder.waiting.values()).items():
            folder = os.path.dirname(file)
            if file and folder not in filled and not self._listing.is_out_of_reach(file):
                lost[folder] += count
        for folder, count in sorted(lost.items()):
            they = "it is" if count == 1 else "they are"
            message = (
                f"The folder has no manifests any more. {_stay(count)} in force for {EMPTIED_S:.0f} seconds, "
                f"in case the folder is being rebuilt; after that, {they} removed."
            )
            yield Diagnostic(Place(folder or ".", 0, 0), None, Problem("", message, "Emptied"), "warning")

    def _unheard(self) -> Iterator[Diagnostic]:
        events = self._events
        folders = [f for f in events.unheard if f in self._listing.walked] if events is not None else []
        if events is None or not events.limit or not folders:
            return
        more = f" and of {len(folders) - 1} more folders" if len(folders) > 1 else ""
        message = (
            f"The kernel watches no more folders for this user, so changes of this{more} are seen only every "
            f"{RETRY_S:.0f} seconds; raise its limit with `sysctl {events.limit}=…`."
        )
        place = Place(self._listing.walked[folders[0]].shown or ".", 0, 0)
        yield Diagnostic(place, None, Problem("", message, "Unwatched"), "warning")


class _Since(NamedTuple):
    """When a change began to wait, and when the edit began that it is a part of."""

    change: float
    edit: float


class _Waits:
    """Says whether changes that may be the first half of an edit wait, at a certain time.

    Args:
        listing: what there is now.
        since: the changes that wait already.
        written: the files that somebody has open for writing.
        now: the time.
        quiet_since: when something was last written.
    """

    def __init__(
        self,
        listing: Listing,
        since: Mapping[Ref | str, _Since],
        written: set[str],
        now: float,
        quiet_since: float,
    ) -> None:
        self._listing, self._since, self._written = listing, since, written
        self._now, self._quiet_since = now, quiet_since

    def unfinished(self, what: Ref | str, file: str, /, *, used: bool) -> bool:
        if what not in self._since or file in self._written:
            return True
        # Counted from the first change of the edit. Otherwise a program that writes again and again would
        # hold all of them back.
        age, quiet = self._now - self._since[what].edit, self._now - self._quiet_since
        return not (_is_whole(age, quiet) or (not used and quiet >= SETTLE))

    def stays(self, what: Ref | str, file: str, /, *, used: bool) -> bool:
        if self.unfinished(what, file, used=used) or self._listing.is_out_of_reach(file):
            return True
        emptied = file not in self._listing.files and os.path.dirname(file) not in self._filled
        return emptied and self._now - self._since[what].change < EMPTIED_S

    @cached_property
    def _filled(self) -> set[str]:
        """The folders with manifests."""
        return self._listing.filled()


def _is_whole(age: float, quiet: float) -> bool:
    """Whether an edit is taken to be whole that began, and was quiet, so many seconds ago."""
    return quiet >= (SETTLE_USED if age < LONG_EDIT else SETTLE) or age >= PATIENCE


def _lasting(path: str) -> str:
    """A path as text that another process understands, wherever it was started; its bytes may be no text."""
    return os.fsencode(os.path.abspath(path)).decode(errors="backslashreplace")


def _stay(count: int) -> str:
    return "The resource that it had stays" if count == 1 else f"The {count} resources that it had stay"


async def _in_slices(steps: Iterator[bool]) -> None:
    """Take all steps; each says whether the next is long."""
    until = time.monotonic() + SLICE
    new: NewObjects | None = None
    for long in steps:
        if long:
            await asyncio.to_thread(next, steps, False)
        if time.monotonic() >= until:
            await asyncio.sleep(0)
            new = new or NewObjects()
            if gc.isenabled() and new.are_many:
                new.exclude()
                await asyncio.sleep(0)
            until = time.monotonic() + SLICE


def _mode(path: str, *, follow: bool = False) -> int | None:
    try:
        return os.stat(path, follow_symlinks=follow).st_mode
    except OSError:
        return None
