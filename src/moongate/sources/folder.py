"""All manifests of a folder, and which of their resources are in force: a state machine without I/O.

Rules
=====
1. If a document has a fault, the last good state of its resource stays in force. Other documents of the file
   are not affected. A SecurityPolicy without a last good state lets no request pass (``Entry.closed``), and
   a document that may be such a policy closes what it may concern (``closing``). At the start, the last good
   state may be known from the former process (``recall``).
2. A document that cannot be read at all could define any resource of its file. As long as the file has such a
   document, no resource that the file once defined is removed because its definition is missing. A resource
   that has faults and was never in force may be one of its kind with another name, and keeps these.
3. If two documents define the same resource, the one that was first in force stays. The other is an error
   with both places, and takes over when the first is removed.
4. Files that change together are one batch, so a resource that moves to another file does not change.
5. A change that may be the first half of an edit over several files may wait (``commit``): which ones do is
   said in ``unfinished_edits``.

Theory of operation
===================
``stage`` splits a file into documents and looks up the text of each among those already read, so only edited
documents are parsed and admitted. ``commit`` compares the staged files with the former ones, document by
document, and decides again for each resource that a changed document defines. Only texts of loaded files are
remembered. Places are computed only when a diagnostic needs them.

A commit of thousands of files takes a second, so it is cut in steps (``committing``), which must all be
taken: the batch is whole only after the last one.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from weakref import WeakValueDictionary

from moongate.api.backendtlspolicy import FaultyBackendTLSPolicy
from moongate.api.base import Ref, Resource
from moongate.api.core import Secret
from moongate.api.envoygateway import EnvoyGateway
from moongate.attach.policies import Policy
from moongate.kinds import KINDS
from moongate.policies.security_policy import FaultySecurityPolicy
from moongate.problem import Problem
from moongate.sources import chunks as cutting
from moongate.sources.chunks import Chunk, Place
from moongate.sources.closing import HIDDEN, Closing, Suspect, closing_effect, is_guard
from moongate.sources.diagnostics import NOWHERE, Diagnostic, Severity, as_of, some
from moongate.sources.file_states import Definition, File, Held, LastGood, Unreadable, difference
from moongate.sources.in_force import HeldResources
from moongate.sources.manifests import CONFIGURATION, LONG, Document, read_document
from moongate.sources.unfinished_edits import Waits, unready

STDIN = "<stdin>"
"""The file name of standard input."""


class Folder:
    """Files of manifests.

    Args:
        namespace: of resources that name none.
        strict: whether documents that cannot be read close what they may concern (``closing``).
    """

    def __init__(self, *, namespace: str = "default", strict: bool = False) -> None:
        self.namespace = namespace
        self.closing = Closing(strict=strict)
        self.parsed = 0
        """The number of documents parsed so far, which is the cost of the changes."""
        self._files: dict[str, File] = {}
        self._staged: dict[str, File | None] = {}
        self._read: WeakValueDictionary[tuple[str, bool], Document] = WeakValueDictionary()
        self._definitions: dict[Ref, list[Definition]] = {}
        self._faulty: set[str] = set()
        self._broken: dict[str, None] = {}
        """The files that came with faults in the current edit."""
        self._saying: defaultdict[str, dict[str, None]] = defaultdict(dict)
        """Word → those of them whose texts have it, apart from ``_unindexed``."""
        self._unindexed: dict[str, None] = {}
        self._repeated: set[Ref] = set()
        self._held = HeldResources()
        self._waiting: dict[Ref, str] = {}
        """The resources with a change that waits → the file that each is in force from, or ""."""
        self._edited: dict[Ref, Held | None] = {}
        """What the current edit has changed → what was in force before it."""
        self._starts = True
        """Whether the start is a part of the current edit."""
        self._batch: dict[Ref, Resource | None] = {}
        """What differs since the last batch that was taken."""
        self._news: dict[Ref, None] = {}

    def __len__(self) -> int:
        """The number of resources in force."""
        return len(self._held) - (CONFIGURATION in self._held)

    def is_empty(self, path: str) -> bool:
        """Whether a file holds nothing but comments and white space, or is not there."""
        file = self._files.get(path)
        return file is None or not (file.faulty or file.unreadable or any(d.entries for d in file.documents))

    def __contains__(self, ref: Ref) -> bool:
        """Whether a resource of this folder is in force."""
        return ref in self._held

    def update(self, path: str, text: str | Unreadable | None) -> dict[Ref, Resource | None]:
        """``update_many`` with one file."""
        return self.update_many({path: text})

    def update_many(self, files: Mapping[str, str | Unreadable | None]) -> dict[Ref, Resource | None]:
        """Update several files together, and return the changes for the store.

        Args:
            files: path → text; None for a deleted file.

        Returns:
            New states of resources; None for those to be removed.
        """
        for path, text in files.items():
            for _ in self.stage(path, text):
                pass
        return self.commit()

    def stage(self, path: str, text: str | Unreadable | None) -> Iterator[bool]:
        """Read a changed file, which takes effect with the next ``commit``. Yields after each parsed
        document.

        A caller may do other work between two steps. Each step yields whether the next one is long, so that
        the caller may run it in a thread.
        """
        if text is None:
            self._staged[path] = None
            return
        if isinstance(text, Unreadable):
            self._staged[path] = File(path, (), (), text)
            return
        text = text.removeprefix("\ufeff")
        chunks = cutting.json_stream(text, certain=path.endswith(".json"))
        if chunks is not None:
            read = yield from self._documents(chunks, is_json=True)
            self._staged[path] = File(path, tuple(chunks), tuple(read))
            return
        old = self._staged.get(path) or self._files.get(path) or File(path, (), ())
        cut = cutting.recut(text, old.chunks)
        middle = yield from self._documents(cut.middle, is_json=False)
        tail = old.chunks[len(old.chunks) - cut.tail :]
        if cut.moved:
            tail = tuple(chunk._replace(line=chunk.line + cut.moved) for chunk in tail)
        self._staged[path] = File(
            path,
            (*old.chunks[: cut.head], *cut.middle, *tail),
            (*old.documents[: cut.head], *middle, *old.documents[len(old.documents) - cut.tail :]),
        )

    def _documents(self, chunks: Iterable[Chunk], *, is_json: bool) -> Generator[bool, None, list[Document]]:
        read: list[Document] = []
        for chunk in chunks:
            document = self._read.get((chunk.text, is_json))
            if document is None:
                if len(chunk.text) > LONG:
                    yield True
                document = self._read[chunk.text, is_json] = read_document(
                    chunk.text, is_json, self.namespace
                )
                self.parsed += 1
                yield False
            read.append(document)
        return read

    def recall(
        self, by_path: Mapping[str, Sequence[LastGood]], former: Collection[LastGood] = ()
    ) -> Iterator[bool]:
        """Put in force what a former process had of the staged files that have faults, before they take
        effect with the next ``commit``. So their faults have the effects of faults that come later.

        Args:
            by_path: path → what was in force of that file. One that is not staged cannot be reached, and
                stays so.
            former: all that was in force, of these files and others.

        Yields:
            As ``stage``.
        """
        staged, self._staged = self._staged, {}
        for path, states in by_path.items():
            new = staged.get(path)
            if path in staged and (new is None or not (new.faulty or new.unreadable)):
                continue
            chunks: list[Chunk] = []
            read: list[Document] = []
            for state in states:
                values = cutting.json_stream(state.text, certain=False)
                chunks += values or [Chunk(state.text)]
                read += yield from self._documents(values or [Chunk(state.text)], is_json=bool(values))
            self._staged[path] = File(path, tuple(chunks), tuple(read))
        yield from self.committing()
        times = {(state.file, state.text): state.at for states in by_path.values() for state in states}
        by_file = {path: states[0].file for path, states in by_path.items() if states}
        for ref, held in self._held.items():
            at = times.get((by_file.get(held.file, ""), held.text), held.at)
            self._held[ref] = held._replace(at=at)
        self._staged = staged
        self.closing.at_start = True
        self.closing.former = functools.cache(lambda: self._in_force_once(former))

    def _in_force_once(self, former: Iterable[LastGood]) -> HeldResources:
        """What was in force in a former process."""
        held = HeldResources()
        for state in former:
            for entry in read_document(state.text, False, self.namespace).entries:
                if entry.ref is not None and entry.resource is not None:
                    held[entry.ref] = Held(entry.resource, state.file, state.text)
        return held

    def commit(self, waits: Waits | None = None, *, begins: bool = True) -> dict[Ref, Resource | None]:
        """``committing`` at once. Returns the same as ``update_many``."""
        for _ in self.committing(waits, begins=begins):
            pass
        return self.batch()

    def batch(self) -> dict[Ref, Resource | None]:
        """What differs since the last call: the same as ``update_many`` returns."""
        batch, self._batch = self._batch, {}
        return batch

    def committing(self, waits: Waits | None = None, *, begins: bool = True) -> Iterator[bool]:
        """Make the staged states of files the current ones; in steps, as ``stage``.

        Between two steps a caller may ask for places, but for nothing else.

        Args:
            waits: says whether a change waits that may be the first half of an edit. If it does, the resource
                stays as it is, and each later commit asks again.
            begins: whether this is no part of the edit that the commits before are about.
        """
        touched = dict.fromkeys((*self._waiting, *self.closing.held_back))
        if begins:
            self._starts = self.closing.at_start
            self._edited.clear()
            for of_edit in (self._broken, self._saying, self._unindexed):
                of_edit.clear()
        for path, new in self._staged.items():
            self._replace(path, new, touched)
            yield False
        self._staged.clear()

        decisions = yield from self._decisions(touched)
        former: dict[Ref, Held | None] = {}
        if self.closing.is_begun() and self._starts:
            # It was written while moongate started, so nothing is known of what was served before.
            self.closing.at_start = True
            decisions = yield from self._decisions(touched)
        elif self.closing.is_begun():
            # The files of one edit come one after another, so what came with it counts as later.
            former = yield from self._taken_back()
            decisions = yield from self._decisions(touched | dict.fromkeys(former))
        back = yield from self.closing.holds_back(decisions, self._held)
        # A removal that is held back waits once as any other, because it may be half of an edit. When it is
        # held back no more, it waits only as long as anything else does.
        waited = {ref for ref, is_removal in self.closing.held_back.items() if is_removal}
        released = [ref for ref in waited if ref not in back and decisions[ref] is None]
        others = {
            ref: after
            for ref, after in decisions.items()
            if back.get(ref, True) and not (after is None and ref in waited)
        }
        waiting = (yield from unready(self._held, others, waits)) if waits is not None else {}
        if waiting:
            waiting |= dict.fromkeys(released)
        self._waiting = dict.fromkeys(waiting, "")
        yield from self.closing.update(
            decisions,
            self._held,
            back,
            self._waiting,
            lambda path: waits is None or self._may_open(path, decisions, waits),
        )
        if any(after is not None and isinstance(after.resource, Policy) for after in decisions.values()):
            yield from self._held.expect_policies()
        for ref, after in decisions.items():
            yield False
            held = self._held.get(ref)
            stays = ref in self._waiting or ref in self.closing.held_back
            # What only comes from another file now has nothing to wait for.
            same = held is not None and after is not None and held.resource == after.resource
            self._put(ref, held if stays and not same else after, former)
            if ref in self._waiting and ref in self._held:
                self._waiting[ref] = self._held[ref].file
        self.closing.end(self._held)

    def _decisions(self, refs: Iterable[Ref]) -> Generator[bool, None, dict[Ref, Held | None]]:
        """What is to be in force of some resources, and the suspects among the files meanwhile; in steps."""
        decisions: dict[Ref, Held | None] = {}
        for ref in refs:
            decisions[ref] = self._decision(ref, self._held.get(ref))
            yield False
        faulty = (self._files[path] for path in self._faulty)
        yield from self.closing.suspect(
            faulty, decisions, self._held, lambda ref: bool(self._definitions.get(ref))
        )
        for ref in sorted(filter(is_guard, self._repeated)):
            after = decisions[ref] if ref in decisions else self._held.get(ref)
            self.closing.repeated(
                ref,
                [
                    d.file
                    for d in self._definitions[ref]
                    if after is not None and d.entry.resource not in (None, after.resource)
                ],
            )
        return decisions

    def _taken_back(self) -> Generator[bool, None, dict[Ref, Held | None]]:
        """Put back what the current edit has changed, except new policies → what it had come to; in steps."""
        former: dict[Ref, Held | None] = {}
        for ref, before in self._edited.items():
            yield False
            if before is not None or not is_guard(ref):
                former[ref] = self._held.pop(ref, None)
                if before is not None:
                    self._held[ref] = before
        return former

    def _put(self, ref: Ref, after: Held | None, former: Mapping[Ref, Held | None]) -> None:
        """Put a resource in force, and into the batch if it is another than the former one."""
        held = self._held.get(ref)
        before = former.get(ref, held)
        if after is None:
            self._held.pop(ref, None)
        else:
            self._held[ref] = after
        old, new = before and before.resource, after and after.resource
        differs = old != new
        if differs or (before and before.file) != (after and after.file):
            self._news[ref] = None
        if (held and held.resource) != new and not self.closing.at_start:
            self._edited.setdefault(ref, held)
        if differs and ref != CONFIGURATION:
            assert not isinstance(new, EnvoyGateway)
            self._batch[ref] = new

    def news(self) -> Iterator[tuple[Ref, LastGood | None]]:
        """What differs in how a later process could put resources in force again, since this was last called
        and came to its end; None for those that it could not. Secrets are among these, because what is in
        them must not be copied."""
        for ref in self._news:
            held = self._held.get(ref)
            is_recorded = held is not None and held.text and not ref.is_a(Secret)
            yield ref, LastGood(held.file, held.text, held.at) if held and is_recorded else None
        self._news.clear()

    def _may_open(self, path: str, decisions: Mapping[Ref, Held | None], waits: Waits) -> bool:
        """Whether a file that closes nothing any more is to have no effect any more."""
        if any(is_guard(ref) for ref in self._waiting):
            return False
        file = self._files.get(path)
        if file is not None and any(
            is_guard(entry.ref) and (held := decisions.get(entry.ref)) is not None and held.file == path
            for document in file.documents
            for entry in document.entries
            if entry.ref is not None
        ):
            return True
        if path == HIDDEN:
            return not waits.unfinished(path, path, used=True)
        return not waits.stays(path, path, used=True)

    @property
    def waiting(self) -> Mapping[Ref, str]:
        """The resources with a change that waits, each with the file that it is in force from, or ""."""
        return self._waiting

    @property
    def visited(self) -> int:
        """The number of resources in force that edits have looked up so far, which is their cost."""
        return self._held.visited

    @property
    def remembered(self) -> int:
        """The number of document texts that need not be parsed again."""
        return len(self._read)

    @property
    def configuration(self) -> EnvoyGateway | None:
        """The EnvoyGateway among the manifests that is in force."""
        held = self._held.get(CONFIGURATION)
        if held is None:
            return None
        assert isinstance(held.resource, EnvoyGateway)
        return held.resource

    @property
    def resources(self) -> Mapping[Ref, Resource]:
        """All resources in force."""
        return {
            ref: held.resource
            for ref, held in self._held.items()
            if not isinstance(held.resource, EnvoyGateway)
        }

    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """The diagnostics of the current files, sorted by place."""
        diagnostics: list[Diagnostic] = []
        for path in self._faulty:
            diagnostics += self._of_file(self._files[path])
        for ref in self._repeated:
            diagnostics += self._of_repetition(ref)
        diagnostics += self._of_closing()
        return tuple(sorted(diagnostics, key=lambda diagnostic: diagnostic.place))

    def diagnostic(self, ref: Ref, problem: Problem, severity: Severity) -> Diagnostic:
        """A diagnostic about a resource, with its place if this folder defines it."""
        return Diagnostic(self.place(ref, problem.path) or NOWHERE, ref, problem, severity)

    def place(self, ref: Ref, path: str = "") -> Place | None:
        """The place of a resource in force, or of one of its fields; None if this folder does not define it.

        While its file is broken, this may be another definition than the one in force.
        """
        held = self._held.get(ref)
        definitions = self._definitions.get(ref, ())
        if held is None or not definitions:
            return None
        chosen = next(
            (d for d in definitions if d.entry.resource == held.resource and d.file == held.file),
            definitions[0],
        )
        return self._place(chosen, path)

    def faulty_place(self, ref: Ref) -> Place | None:
        """The place of a resource that is not in force because of its faults; None if there is none."""
        definitions = self._definitions.get(ref, ())
        return self._place(definitions[0], "metadata.name") if definitions and ref not in self._held else None

    def unread_place(self) -> Place | None:
        """The first place of a document of which nobody knows what it defines; None if there is none."""
        broken = [file for path in self._faulty if (file := self._files[path]).broken]
        unread = (each for file in broken for each in self._of_file(file))
        return min((each.place for each in unread if _is_unread(each)), default=None)

    # --- deciding ---------------------------------------------------------------------------------

    def _replace(self, path: str, new: File | None, touched: dict[Ref, None]) -> None:
        old = self._files.get(path) or File(path, (), ())
        gone, come = difference(old, new or File(path, (), ()))
        for document in gone:
            for entry in document.entries:
                if entry.ref is not None:
                    self._definitions[entry.ref].remove(Definition(path, document, entry))
                    touched[entry.ref] = None
        for document in come:
            for entry in document.entries:
                if entry.ref is not None:
                    self._definitions.setdefault(entry.ref, []).append(Definition(path, document, entry))
                    touched[entry.ref] = None

        candidates = old.retained | {e.ref for d in gone for e in d.entries if e.ref is not None}
        # If the file was away for a moment, what it had is still to be removed.
        candidates |= self._waiting.keys() - old.adopted
        touched.update(dict.fromkeys(sorted(old.retained | old.adopted)))
        self._faulty.discard(path)
        self._broken.pop(path, None)
        self._unindexed.pop(path, None)
        if new is None:
            self._files.pop(path, None)
            return
        self._files[path] = new
        if new.faulty or new.unreadable is not None:
            self._faulty.add(path)
            self._broken[path] = self._unindexed[path] = None
            new.adopted |= {ref for ref in old.adopted if new.may_define(ref)}
        # Not resources that are in force through another file.
        own = {ref for ref in candidates if ref in self._held and self._held[ref].file == path}
        if new.broken:
            new.retained |= own
        elif own and new.faulty:
            # A resource that is not in force because of its faults may be one of these, with a wrong name.
            unsound = (
                entry.ref
                for number in new.faulty
                for entry in new.documents[number].entries
                if entry.resource is None and entry.ref is not None and entry.ref not in self._held
            )
            kinds = {(ref.group, ref.kind) for ref in unsound}
            new.retained |= {ref for ref in own if (ref.group, ref.kind) in kinds}

    def _decision(self, ref: Ref, before: Held | None) -> Held | None:
        definitions = self._definitions.get(ref, [])
        if len(definitions) > 1:
            self._repeated.add(ref)
        else:
            self._repeated.discard(ref)
        if not definitions:
            self._definitions.pop(ref, None)
            if before is not None:
                file = self._files.get(before.file)
                if file is not None and (ref in file.retained or ref in file.adopted):
                    return before
                return self._adopted(ref, before)
            return None
        if len(definitions) > 1:
            definitions = sorted(definitions, key=self._order)
        if before is None or isinstance(before.resource, FaultySecurityPolicy | FaultyBackendTLSPolicy):
            return _first(definitions)
        # Prefer the same file, and in that file the same text.
        chosen = min(definitions, key=lambda d: (d.file != before.file, d.entry.resource != before.resource))
        if chosen.file != before.file:
            chosen = min(definitions, key=lambda d: d.entry.resource != before.resource)
        if chosen.entry.resource is None:
            return before._replace(file=chosen.file)
        return Held(chosen.entry.resource, chosen.file, chosen.text)

    def _adopted(self, ref: Ref, held: Held) -> Held | None:
        """A resource that goes, if it may have moved into a file that came with faults in the same edit."""
        for path in self._unindexed:
            for word in self._files[path].words:
                self._saying[word][path] = None
        self._unindexed.clear()
        for path in self._saying.get(ref.name, ()):
            if path in self._broken and self._files[path].may_define(ref):
                self._files[path].adopted.add(ref)
                return held._replace(file=path)
        return None

    def _order(self, definition: Definition) -> tuple[str, int, int]:
        file = self._files[definition.file]
        at = definition.document.entries.index(definition.entry)
        return definition.file, file.numbers[definition.document][0], at

    # --- diagnostics -------------------------------------------------------------------------------

    def _of_file(self, file: File) -> Iterator[Diagnostic]:
        effect = ""
        suspects: dict[object, list[Suspect]] = {}
        for suspect in self.closing.suspects.get(file.path, ()):
            suspects.setdefault(suspect.part, []).append(suspect)

        def closing(effect: str, part: object) -> str:
            return closing_effect(effect, suspects.get(part, ()), at_start=self.closing.at_start)

        if retained := file.retained | file.adopted:
            kept = sorted(ref for ref in retained if ref in self._held and ref not in self._definitions)
            if kept:
                count = "1 resource" if len(kept) == 1 else f"{len(kept)} resources"
                since = as_of(max(self._held[ref].at for ref in kept))
                effect = f"The last good state of {count} stays in force{since}: {some(kept)}."
        # What is retained of a file is named once, so nothing is said of its other documents.
        retains = bool(effect)
        if file.unreadable is not None:
            problem = Problem("", file.unreadable.message, "Unreadable")
            place = Place(file.path, file.unreadable.line, file.unreadable.column)
            yield Diagnostic(place, None, problem, effect=closing(effect, file.unreadable) or _UNREAD_FILE)
        for number in file.faulty:
            chunk, document = file.chunks[number], file.documents[number]
            if document.malformed is not None:
                at = document.malformed
                problem = Problem("", at.message, "Malformed")
                place = chunk.place(file.path, at.line, at.column)
                both = closing(effect if retains else _UNREAD, document)
                yield Diagnostic(place, None, problem, effect=both, trace=at.trace)
                effect = ""
            for entry in document.entries:
                own = ""
                if entry.severity == "error" and entry.ref is None:
                    unread = _NOT_IN_FORCE if entry.named else _UNREAD
                    own, effect = effect if retains else unread, ""
                elif entry.severity == "error" and entry.ref is not None:
                    own = self._effect(entry.ref)
                    if effect and entry.ref not in self._held:
                        own, effect = f"{own} {effect}", ""
                own = closing(own, entry)
                for index, problem in enumerate(entry.problems):
                    place = chunk.place(file.path, *document.position(entry, problem))
                    seen_from_file = problem.under(entry.at) if entry.at and problem.path else problem
                    yield Diagnostic(place, entry.named, seen_from_file, entry.severity, "" if index else own)

    def _effect(self, ref: Ref) -> str:
        held = self._held.get(ref)
        if held is None:
            return _NOT_IN_FORCE
        if isinstance(held.resource, FaultySecurityPolicy | FaultyBackendTLSPolicy):
            return "Requests to its targets are answered with 500 until this is fixed."
        if any(d.entry.resource == held.resource for d in self._definitions.get(ref, ())):
            return ""
        return f"Its last good state stays in force{as_of(held.at)}."

    def _of_closing(self) -> Iterator[Diagnostic]:
        """What is not in force as it is written because of documents of others that cannot be read."""
        shut, held_back = self.closing.shut, self.closing.held_back
        for ref in sorted({*shut, *held_back} - self.closing.leaving):
            cause = self.closing.cause(ref)
            if cause not in self.closing.reopening:
                until = f"{cause} is mended" if cause != HIDDEN else "all folders can be read"
                because = f"until {until}: something there that cannot be read may say who may pass."
            elif ref in shut:
                unread = cause or "a folder"
                because = (
                    f"until the edit is whole: {unread} could not be read, and may have said who may pass."
                )
            else:
                continue  # Nothing is wrong: like the other changes of an edit, it waits for its end.
            held = self._held.get(ref)
            definitions = self._definitions.get(ref)
            place = self._place(min(definitions, key=self._order), "") if definitions else NOWHERE
            if ref in shut:
                message = f"It is {'removed' if ref in held_back else 'new'}, and not served {because}"
                effect = "Requests to it are answered with 500."
            else:
                message = f"{'Its removal' if held_back[ref] else 'This'} waits {because}"
                effect = _NOT_IN_FORCE_YET if held is None else "What was in force before stays so."
            yield Diagnostic(place, ref, Problem("", message, "HeldBack"), effect=effect)

    def _of_repetition(self, ref: Ref) -> Iterator[Diagnostic]:
        definitions = sorted(self._definitions[ref], key=self._order)
        held = self._held.get(ref)
        winner = 0
        if held is not None:
            winner = min(
                range(len(definitions)),
                key=lambda i: (
                    definitions[i].file != held.file,
                    definitions[i].entry.resource != held.resource,
                ),
            )
        # A file may contain the same text more than once.
        seen: Counter[Definition] = Counter()
        places: list[Place] = []
        for definition in definitions:
            places.append(self._place(definition, "metadata.name", seen[definition]))
            seen[definition] += 1
        effect = f"The definition at {places[winner]} is in force." if held is not None else ""
        for number, definition in enumerate(definitions):
            if number == winner:
                continue
            at = f"{definition.entry.at}.metadata.name" if definition.entry.at else "metadata.name"
            message = f"{ref} is defined twice: here and at {places[winner]}. Keep one of the two."
            suspects = [each for each in self.closing.suspects.get(definition.file, ()) if each.part == ref]
            both = closing_effect(effect, suspects, at_start=self.closing.at_start)
            yield Diagnostic(places[number], ref, Problem(at, message, "Repeated"), effect=both)

    def _place(self, definition: Definition, path: str, occurrence: int = 0) -> Place:
        file = self._files[definition.file]
        chunk = file.chunks[file.numbers[definition.document][occurrence]]
        line, column = definition.document.position(definition.entry, Problem(path, ""))
        return chunk.place(file.path, line, column)


_NOT_IN_FORCE = "It is not in force until this is fixed."
_NOT_IN_FORCE_YET = "It is not in force until then."
_UNREAD = "Nothing of this document is in force."
_UNREAD_FILE = "Nothing of this file is in force."


def _first(definitions: Iterable[Definition]) -> Held | None:
    """The definition to put in force if none is yet: the first without faults, or else a closed stand-in."""
    held: Held | None = None
    for definition in definitions:
        if definition.entry.resource is not None:
            return Held(definition.entry.resource, definition.file, definition.text)
        if definition.entry.closed is not None:
            held = held or Held(definition.entry.closed, definition.file)
    return held


def _is_unread(diagnostic: Diagnostic) -> bool:
    """Whether a diagnostic is about a document that defines no resource, as its text or its kind is wrong."""
    ref = diagnostic.resource
    return diagnostic.severity == "error" and (ref is None or (ref.group, ref.kind) not in KINDS)
