"""States of files, and of what is in force: the values that ``folder`` and ``closing`` decide about."""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property
from typing import Final, NamedTuple

from msgspec import Struct

from moongate.api.base import Ref, Resource
from moongate.api.envoygateway import EnvoyGateway
from moongate.sources.chunks import Chunk
from moongate.sources.manifests import Document, Entry
from moongate.sources.suspicion import is_like, kinds_in

_WORD: Final = re.compile(r"[A-Za-z0-9](?:[\w.-]*\w)?")
"""Names of resources."""


class Unreadable(NamedTuple):
    """Stands for the text of a file that exists but cannot be read."""

    message: str
    line: int = 1
    column: int = 1
    text: str | None = None
    """The text as far as it can be read; None if nothing can be."""


class LastGood(Struct, frozen=True):
    """A resource in force, as a later process may put it in force again.

    Args:
        file: the file that it came from.
        text: its document, as it was written.
        at: when it was put in force, in seconds since 1970; 0 for now.
    """

    file: str
    text: str
    at: int = 0


class File:
    """The state of one file."""

    def __init__(
        self,
        path: str,
        chunks: tuple[Chunk, ...],
        read: tuple[Document, ...],
        unreadable: Unreadable | None = None,
    ) -> None:
        self.path = path
        self.chunks = chunks
        self.documents = read
        self.unreadable = unreadable
        self.faulty = [number for number, document in enumerate(read) if document.faulty]
        self.broken = unreadable is not None or any(read[number].broken for number in self.faulty)
        self.retained: set[Ref] = set()
        """Resources that the file defined before it was broken, and does not define now."""
        self.adopted: set[Ref] = set()
        """Resources of other files that went in the edit in which this file was broken, and may be in it."""

    def may_define(self, ref: Ref) -> bool:
        """Whether a part with faults may be meant as a resource: it says its name, and a kind like it."""
        return any(
            ref.name in words and any(is_like(kind, ref.kind) for kind in kinds)
            for words, kinds in self._unsound
        )

    @property
    def words(self) -> frozenset[str]:
        """The words of the parts with faults."""
        return frozenset[str]().union(*(words for words, _ in self._unsound))

    @cached_property
    def _unsound(self) -> list[tuple[frozenset[str], frozenset[str]]]:
        """The words and the kinds of each part with faults."""
        texts = [self.documents[number].text for number in self.faulty]
        if self.unreadable is not None:
            texts.append(self.unreadable.text or "")
        return [(frozenset(_WORD.findall(text)), kinds_in(text)) for text in texts]

    @cached_property
    def numbers(self) -> dict[Document, list[int]]:
        """Document → its positions among the file's documents; several if the file repeats its text."""
        numbers: dict[Document, list[int]] = {}
        for number, document in enumerate(self.documents):
            numbers.setdefault(document, []).append(number)
        return numbers


class Definition(NamedTuple):
    file: str
    document: Document
    entry: Entry

    @property
    def text(self) -> str:
        return self.entry.text or self.document.text


class Held(NamedTuple):
    """A resource in force, with the file and the text that it came from.

    ``text`` is "" for a stand-in. ``at`` is when a former process put it in force, if it is only recalled.
    """

    resource: Resource | EnvoyGateway
    file: str
    text: str = ""
    at: int = 0


def difference(old: File, new: File) -> tuple[list[Document], list[Document]]:
    """The removed and the added documents, each as often as it is removed or added."""
    before, after = old.documents, new.documents
    head = 0
    for one, other in zip(before, after, strict=False):
        if one is not other:
            break
        head += 1
    tail = 0
    for one, other in zip(reversed(before[head:]), reversed(after[head:]), strict=False):
        if one is not other:
            break
        tail += 1
    gone, come = before[head : len(before) - tail], after[head : len(after) - tail]
    if not gone or not come:
        return list(gone), list(come)
    many, others = Counter(gone), Counter(come)
    return list((many - others).elements()), list((others - many).elements())
