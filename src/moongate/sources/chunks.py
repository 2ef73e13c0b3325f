"""Splitting the text of a file into documents without parsing them, and their places in the file.

In YAML, ``---`` at the beginning of a line is always a marker, so splitting is very cheap. Each document is
then parsed separately, so a caller that remembers the results of texts parses only changed documents.

Lines and columns count from 1, columns in characters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Place(NamedTuple):
    """A position in a file; line and column count from 1, and are 0 for the whole file."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        file = _printable(self.file)
        return f"{file}:{self.line}:{self.column}" if self.line else file


def _printable(path: str) -> str:
    """A path in a form that is safe to print: a file name may be no text, or contain control characters."""
    if path.isprintable():
        return path
    # A byte that is not UTF-8 is in the string as U+DC00 and itself.
    codes = (ord(c) - 0xDC00 if 0xDC80 <= ord(c) <= 0xDCFF else ord(c) for c in path)
    return "".join(c if c.isprintable() else f"\\x{code:02x}" for c, code in zip(path, codes, strict=True))


class Chunk(NamedTuple):
    """The text of one document, and how many lines and characters are before it in its file.

    ``column`` counts the characters on the first line of the chunk; it is 0 except for JSON texts that share
    a line.
    """

    text: str
    line: int = 0
    column: int = 0

    def place(self, file: str, line: int, column: int) -> Place:
        """The place in the file of a position in the chunk."""
        return Place(file, self.line + line, column + (self.column if line == 1 else 0))


def chunks(text: str, line: int = 0) -> Iterator[Chunk]:
    """The documents of a YAML stream, not parsed. Joined in order, they are the text.

    Args:
        text: the text without a byte order mark.
        line: how many lines are before it.
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
    """The chunks of an edited text, relative to those before the edit.

    Args:
        head: how many old chunks are unchanged at the beginning.
        middle: the new chunks after them.
        tail: how many old chunks are unchanged at the end.
        moved: by how many lines the tail has moved.
    """

    head: int
    middle: list[Chunk]
    tail: int
    moved: int


def recut(text: str, old: Sequence[Chunk]) -> Recut:
    """The chunks of an edited text. Only the changed part is split again."""
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
    # The end of a chunk depends on the marker after it, and the first chunk of the tail may follow a
    # directive.
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

    If the rest of the text is not JSON, it is one chunk.
    """
    start = line = line_start = 0
    decoder = json.JSONDecoder()
    while True:
        visible = _VISIBLE.search(text, start)
        if visible is None:
            return
        # Continue counting from the former value, because a file may have many values, even on one line.
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


def json_stream(text: str, *, certain: bool) -> list[Chunk] | None:
    """The documents of a text that holds nothing but values of JSON; ``None`` if it is YAML.

    As for ``kubectl``, that does not depend on the name of a file. An object of YAML in braces begins alike.

    Args:
        text: the text without a byte order mark.
        certain: take it for JSON in any case, so that its faults are those of JSON.
    """
    if not certain and text.lstrip()[:1] != "{":
        return None
    cut = list(values(text))
    if certain or _is_json(cut[-1].text):
        return cut
    return None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _markers(text: str) -> Iterator[int]:
    """The offsets of the lines that begin or end a document, and the end of the text."""
    at = 0
    # In a file of megabytes, searching a fixed string is many times faster than a pattern.
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
