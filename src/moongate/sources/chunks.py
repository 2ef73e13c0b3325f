"""Cuts the text of a file into its documents, without reading them; and where a document stands in its file.

``---`` at the beginning of a line can be nothing but a marker in YAML, so to cut costs next to nothing. Each
piece is then read by itself, so that whoever remembers the answer for a text reads only what changed.

Lines and columns count from 1, columns in characters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Place(NamedTuple):
    """A position in a file; line and column count from 1, and are 0 when the whole is meant."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        file = _printable(self.file)
        return f"{file}:{self.line}:{self.column}" if self.line else file


def _printable(path: str) -> str:
    """A path as it may be shown: the name of a file may be no text, or steer a terminal."""
    if path.isprintable():
        return path
    # A byte that is not UTF-8 is in the string as U+DC00 and itself.
    codes = (ord(c) - 0xDC00 if 0xDC80 <= ord(c) <= 0xDCFF else ord(c) for c in path)
    return "".join(c if c.isprintable() else f"\\x{code:02x}" for c, code in zip(path, codes, strict=True))


class Chunk(NamedTuple):
    """The text of one document, and how many lines and characters stand before it in its file.

    ``column`` counts on the line that the chunk begins in; it is 0 but for JSON texts that share a line.
    """

    text: str
    line: int = 0
    column: int = 0

    def place(self, file: str, line: int, column: int) -> Place:
        """Where a position within the chunk is in the file."""
        return Place(file, self.line + line, column + (self.column if line == 1 else 0))


def chunks(text: str, line: int = 0) -> Iterator[Chunk]:
    """The documents of a YAML stream, cut but not parsed; joined in their order they are the text.

    Args:
        text: without a byte order mark.
        line: how many lines stand before it.
    """
    start = 0
    length = len(text)
    for end in _markers(text):
        piece = text[start:end]
        # A directive (%YAML, %TAG) belongs to the document that the next marker opens.
        if end < length and (piece[0] == "%" or "\n%" in piece) and _DIRECTIVES.fullmatch(piece):
            continue
        yield Chunk(piece, line)
        line += piece.count("\n")
        start = end


class Recut(NamedTuple):
    """How the chunks of an edited text are had from those before the edit.

    Args:
        head: how many of the old ones it begins with.
        middle: what comes then.
        tail: how many of the old ones it ends with.
        moved: lines by which those have moved.
    """

    head: int
    middle: list[Chunk]
    tail: int
    moved: int


def recut(text: str, old: Sequence[Chunk]) -> Recut:
    """The chunks of an edited text; costs the comparison of two texts, and the cutting of what differs."""
    head = start = 0
    for chunk in old:
        if not text.startswith(chunk.text, start):
            break
        start += len(chunk.text)
        head += 1
    tail = 0
    end = len(text)
    for chunk in reversed(old[head:]):
        if end - len(chunk.text) < start or not text.endswith(chunk.text, start, end):
            break
        end -= len(chunk.text)
        tail += 1
    # The marker after a chunk says where it ends, and the first of the tail may follow a directive.
    if head:
        head -= 1
        start -= len(old[head].text)
    if tail:
        end += len(old[len(old) - tail].text)
        tail -= 1
    line = old[head].line if head < len(old) else 0
    middle = list(chunks(text[start:end], line))
    moved = 0
    if tail:
        moved = line + text.count("\n", start, end) - old[len(old) - tail].line
    return Recut(head, middle, tail, moved)


def values(text: str) -> Iterator[Chunk]:
    """The documents of a JSON text: one value, or several one after another.

    What is no JSON is one chunk, to the end.
    """
    start = line = line_start = 0
    decoder = json.JSONDecoder()
    while True:
        visible = _VISIBLE.search(text, start)
        if visible is None:
            return
        # Counted on from the value before: a file may have many values, and all of them on one line.
        line += text.count("\n", start, visible.start())
        line_start = text.rfind("\n", start, visible.start()) + 1 or line_start
        start = visible.start()
        try:
            _, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = len(text)
        yield Chunk(text[start:end], line, start - line_start)
        line_start = text.rfind("\n", start, end) + 1 or line_start
        line += text.count("\n", start, end)
        start = end


def _markers(text: str) -> Iterator[int]:
    """Offsets of the lines that open or close a document, and of the end."""
    at = 0
    # A search for a fixed string: many times faster than a pattern, on the megabytes of a big file.
    dotted = text.startswith("...") or "\n..." in text
    if dotted:
        for marker in re.finditer(r"^(?:---|\.\.\.)(?=\s|\Z)", text, re.MULTILINE):
            if marker.start():
                yield marker.start()
        yield len(text)
        return
    while (at := text.find("\n---", at)) >= 0:
        if text[at + 4 : at + 5] in _AFTER:
            yield at + 1
        at += 4
    yield len(text)


_DIRECTIVES = re.compile(r"(?:\.\.\.[^\n]*\n)?(?:%[^\n]*\n|[ \t]*(?:#[^\n]*)?\r?\n)*")
_VISIBLE = re.compile(r"\S")
_AFTER = frozenset(("", " ", "\t", "\r", "\n"))
