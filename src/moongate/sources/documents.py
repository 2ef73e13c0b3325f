"""Text → documents: YAML and JSON manifests as plain data, and where each field of them stands.

Theory of operation
===================
A file is first cut at its document markers, as text, which costs next to nothing; ``---`` at the beginning of
a line can be nothing else in YAML. Each piece is then parsed by itself, so that whoever remembers the answer
for a text parses only what changed. Lines and columns are not kept: when a fault has to be shown, the tree of
that one document is composed again and walked along the field's path.

Facts
-----
* scalars mean what they mean to ``kubectl``: ``yes`` and ``on`` are booleans, ``1e3`` and ``089`` numbers,
  times and ``12:30`` strings; keys are always strings
* a key that stands twice is an error, as is a document that is mostly aliases of aliases
* lines and columns count from 1, columns in characters
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import yaml
from yaml._yaml import CParser
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError


class Place(NamedTuple):
    """A position in a file; line and column count from 1, and are 0 when the whole is meant."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


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


class Malformed(Exception):  # noqa: N818  it is data for a finding, caught by who asked
    """A text that is no document.

    Args:
        message: what was found and what would be right.
        line: within the chunk, from 1.
        column: from 1.
    """

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


DEEPEST = 200
"""Levels of nesting; the deepest field of any kind is above 20."""

EXPANDED = 200_000
"""Values that a document with aliases may come to."""


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
    # Where a chunk ends is told by the marker after it, and the first of the tail may follow a directive.
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
    start = 0
    decoder = json.JSONDecoder()
    while True:
        found = _VISIBLE.search(text, start)
        if found is None:
            return
        start = found.start()
        line = text.count("\n", 0, start)
        column = start - (text.rfind("\n", 0, start) + 1)
        try:
            _, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = len(text)
        yield Chunk(text[start:end], line, column)
        start = end


def parsed_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        Malformed
    """
    for escape in _ESCAPES.finditer(text) if "\\u" in text else ():
        if escape["half"]:
            line = text.count("\n", 0, escape.start()) + 1
            column = escape.start() - text.rfind("\n", 0, escape.start())
            raise Malformed(f"{escape[0]} is half of a surrogate pair, which is no text.", line, column)
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise _json_fault(text, error) from None
    except RecursionError:
        raise Malformed(f"The document is nested deeper than {DEEPEST} levels.", 1, 1) from None
    except _TwiceError as error:
        line, column = _second(text, error.key)
        raise Malformed(_twice(error.key), line, column) from None


def parsed_yaml(text: str) -> Any:
    """The value of a YAML text that holds one document; None when there is only white space and comments.

    Raises:
        Malformed
    """
    node = _composed(text)
    if node is None:
        return None
    try:
        return _Values(text).value(node, 0)
    except RecursionError:
        raise Malformed(f"The document is nested deeper than {DEEPEST} levels.", 1, 1) from None


def position(text: str, path: str, *, key: bool = False) -> tuple[int, int]:
    """Line and column, within the text, of a field.

    Args:
        text: one document, which parses.
        path: as in a ``Problem``: ``spec.rules[0].name``, ``metadata.labels[app]``; "" for the whole.
        key: wanted is the field's name rather than its value.

    Returns:
        The place of the value; of the name, if the value begins on a line of its own; of what the field
        would stand in, if there is no such field.
    """
    try:
        node = _composed(text)
    except Malformed as error:
        return error.line, error.column
    if node is None:
        return 1, 1
    mark = node.start_mark
    rest = path
    while rest:
        step = _step(node, rest)
        if step is None:
            break
        name, node, rest = step
        if name is None:
            mark = node.start_mark
        elif (key and not rest) or node.start_mark.line != name.start_mark.line:
            mark = name.start_mark
        else:
            mark = node.start_mark
    return mark.line + 1, mark.column + 1


# --- cutting --------------------------------------------------------------------------------------


def _markers(text: str) -> Iterator[int]:
    """Offsets of the lines that open or close a document, and of the end."""
    at = 0
    # A search for a fixed string: many times faster than a pattern, on the megabytes of a big file.
    dotted = text.startswith("...") or "\n..." in text
    if dotted:
        for found in re.finditer(r"^(?:---|\.\.\.)(?=\s|\Z)", text, re.MULTILINE):
            if found.start():
                yield found.start()
        yield len(text)
        return
    while (at := text.find("\n---", at)) >= 0:
        if text[at + 4 : at + 5] in _AFTER:
            yield at + 1
        at += 4
    yield len(text)


_DIRECTIVES = re.compile(r"(?:\.\.\.[^\n]*\n)?(?:%[^\n]*\n|[ \t]*(?:#[^\n]*)?\r?\n)*")
_VISIBLE = re.compile(r"\S")
_SURROGATE = r"\\u[dD][%s][0-9a-fA-F]{2}"
_ESCAPES = re.compile(
    rf"\\\\|{_SURROGATE % '89abAB'}{_SURROGATE % 'c-fC-F'}|(?P<half>{_SURROGATE % '89a-fA-F'})"
)
"""Escapes of JSON: a backslash, a pair of surrogates, and half of one, which is no text."""
_AFTER = frozenset(("", " ", "\t", "\r", "\n"))


# --- YAML -----------------------------------------------------------------------------------------

_PLAIN = "plain"


class _Composer(CParser):
    """libyaml's composer. Tags are left as they stand, or ``plain`` for a scalar that is to be looked at."""

    def __init__(self, text: str) -> None:
        CParser.__init__(self, text)

    def resolve(self, kind: type[Node], value: str | None, implicit: Any) -> str:
        return _PLAIN if kind is ScalarNode and implicit[0] else ""

    def descend_resolver(self, current_node: Node | None, current_index: Any) -> None:
        pass

    def ascend_resolver(self) -> None:
        pass


def _composed(text: str) -> Node | None:
    if text.startswith("..."):
        # The end of the document before; blanks keep what follows in its place.
        text = "   " + text[3:]
    try:
        return _Composer(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _yaml_fault(text, error) from None
    except ReaderError as error:
        # libyaml tells an offset in bytes.
        before = text.encode()[: error.position].decode(errors="replace")
        raise Malformed(
            f"There is a character that YAML does not allow, {error.character!r}."
            if isinstance(error.character, str)
            else f"There is a character that YAML does not allow, U+{error.character:04X}.",
            before.count("\n") + 1,
            len(before) - (before.rfind("\n") + 1) + 1,
        ) from None
    except RecursionError:
        raise Malformed(f"The document is nested deeper than {DEEPEST} levels.", 1, 1) from None


class _Values:
    """Turns the nodes of one document into plain data."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._left = EXPANDED if "*" in text else sys.maxsize

    def value(self, node: Node, depth: int) -> Any:
        tag = node.tag
        if type(node) is ScalarNode:
            if tag == _PLAIN:
                return _scalar(node.value)
            return node.value if not tag else self._tagged(node, tag)
        self._left -= len(node.value) + 1
        if self._left < 0:
            raise _at(node, f"The aliases of this document come to more than {EXPANDED} values.")
        if depth > DEEPEST:
            raise _at(node, f"The document is nested deeper than {DEEPEST} levels.")
        if type(node) is SequenceNode:
            if tag and tag != "tag:yaml.org,2002:seq":
                raise _at(node, f"The tag {tag!r} has no meaning here; leave it out.")
            return [self.value(entry, depth + 1) for entry in node.value]
        assert type(node) is MappingNode
        if tag and tag != "tag:yaml.org,2002:map":
            raise _at(node, f"The tag {tag!r} has no meaning here; leave it out.")
        return self._mapping(node, depth + 1)

    def _mapping(self, node: MappingNode, depth: int) -> dict[str, Any]:
        pairs: dict[str, Any] = {}
        merged: list[Node] = []
        for name, entry in node.value:
            if type(name) is not ScalarNode:
                raise _at(
                    name, _HELM if "{{" in self._text else "A key must be a string, not a list or an object."
                )
            key = name.value
            if name.tag == _PLAIN:
                key = _plain_key(key)
                if key is None:
                    raise _at(name, "The key is empty; put it in quotes if that is meant.")
                if key == "<<":
                    merged.append(entry)
                    continue
            if key in pairs:
                raise _at(name, _twice(key))
            # Most entries are such scalars; a call for each would cost more than all the rest.
            pairs[key] = _scalar(entry.value) if entry.tag == _PLAIN else self.value(entry, depth)
        for entry in merged:
            for source in entry.value if type(entry) is SequenceNode else [entry]:
                if type(source) is not MappingNode:
                    raise _at(source, "'<<' takes in the fields of an object, or of each object of a list.")
                # What stands in the object itself wins, then what was merged first.
                pairs = self.value(source, depth) | pairs
        return pairs

    def _tagged(self, node: ScalarNode, tag: str) -> Any:
        match tag.removeprefix("tag:yaml.org,2002:"):
            case "str" | "!":
                return node.value
            case "int" | "float" | "bool" | "null":
                return _scalar(node.value)
            case _:
                raise _at(node, f"The tag {tag!r} has no meaning here; leave it out.")


_WORDS: dict[str, Any] = {
    word: value
    for value, words in (
        (None, "~ null Null NULL"),
        (True, "true True TRUE yes Yes YES on On ON"),
        (False, "false False FALSE no No NO off Off OFF"),
        (math.inf, ".inf .Inf .INF +.inf +.Inf +.INF"),
        (-math.inf, "-.inf -.Inf -.INF"),
        (math.nan, ".nan .NaN .NAN"),
    )
    for word in words.split()
} | {"": None}
_NUMERIC = frozenset("0123456789+-.")
_INT = re.compile(r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")


def _scalar(text: str) -> Any:
    """What a plain scalar means."""
    if text[:1] not in _NUMERIC:
        return _WORDS.get(text, text)
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        digits = text.replace("_", "")
        bare = digits.lstrip("+-")
        if len(bare) > 1 and bare[0] == "0" and bare[1] in "01234567":
            digits = digits.replace("0", "0o", 1)
        try:
            return int(digits, 0)
        except ValueError:
            return text
    if not _FLOAT.match(text):
        return text
    number = float(text)
    # On its way through JSON, as kubectl sends it, a whole number loses its point.
    return int(number) if abs(number) < 2**53 and number.is_integer() else number


@lru_cache(maxsize=4096)
def _plain_key(text: str) -> str | None:
    """The key that a plain scalar means; ``None`` if it is empty. Most keys are the fields of a few kinds."""
    value = _scalar(text)
    if value is None:
        return None
    if isinstance(value, str):
        return sys.intern(value)
    return str(value).lower() if isinstance(value, bool) else text


def _at(node: Node, message: str) -> Malformed:
    return Malformed(message, node.start_mark.line + 1, node.start_mark.column + 1)


def _twice(key: str) -> str:
    return f"The key {key!r} stands twice in one object; keep one of them."


_HELM = (
    "This is a template of Helm, not a manifest: '{{' is for Helm to fill in. "
    "Render it first, with `helm template`, and load what it prints."
)

_HINTS = (
    (
        "mapping values are not allowed",
        "a second ':' stands on the line; put the value in quotes, or mend the indentation",
    ),
    (
        "could not find expected ':'",
        "a key without ':' and value stands on the line before, or a quote is not closed",
    ),
    ("did not find expected key", "this line is indented otherwise than its neighbours"),
    ("did not find expected '-' indicator", "this line is indented otherwise than the list before it"),
    ("did not find expected ',' or", "a ',' or a closing bracket is missing before this"),
    ("found unexpected end of stream", "a quote or bracket is not closed"),
    ("found undefined alias", "an alias (*name) needs its anchor (&name) above it, in the same document"),
    ("cannot start any token", "a value that begins with this character must be in quotes"),
    (
        "found unknown escape character",
        "in double quotes a backslash must be doubled; single quotes take it as it is",
    ),
    ("block sequence entries are not allowed", "a list begins on a line of its own, below its key"),
)


def _yaml_fault(text: str, error: yaml.MarkedYAMLError) -> Malformed:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark is not None else (0, 0)
    told = error.problem or "it is not YAML"
    if "unexpected end of stream" in told and error.context_mark is not None:
        # Where the quote opens says more than where the text ends.
        line, column = error.context_mark.line, error.context_mark.column
    lines = text.split("\n")
    shown = lines[line] if line < len(lines) else ""
    if "{{" in shown or (line and "{{" in lines[line - 1]):
        return Malformed(_HELM, line + 1, column + 1)
    for number in (line, line - 1):
        indent = (
            lines[number][: len(lines[number]) - len(lines[number].lstrip())]
            if 0 <= number < len(lines)
            else ""
        )
        if "\t" in indent:
            return Malformed(
                "The line is indented with a tab; YAML takes spaces only.", number + 1, indent.index("\t") + 1
            )
    hint = next((hint for words, hint in _HINTS if words in told), "")
    about = f" ({error.context})" if error.context and not hint else ""
    return Malformed(f"This is not YAML: {told}{about}{': ' + hint if hint else ''}.", line + 1, column + 1)


# --- JSON -----------------------------------------------------------------------------------------


class _TwiceError(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _TwiceError(key)
            seen.add(key)
    return found


def _json_fault(text: str, error: json.JSONDecodeError) -> Malformed:
    before = text[: error.pos].rstrip()
    after = text[error.pos :].lstrip()[:1]
    message = f"This is not JSON: {error.msg[0].lower()}{error.msg[1:]}."
    if before.endswith(",") and after in {"}", "]"}:
        at = len(before) - 1
        return Malformed(
            f"This is not JSON: a ',' stands before the closing '{after}'; remove it.",
            text.count("\n", 0, at) + 1,
            at - text.rfind("\n", 0, at),
        )
    if "{{" in text[error.pos - 1 : error.pos + 2]:
        message = _HELM
    elif not after:
        message = "This is not JSON: it ends before its last bracket is closed."
    elif after == "'":
        message = 'This is not JSON: strings stand in double quotes ("), not single ones.'
    return Malformed(message, error.lineno, error.colno)


def _second(text: str, key: str) -> tuple[int, int]:
    """Where a key stands a second time; JSON is YAML, so the tree knows."""
    try:
        node = _composed(text)
    except Malformed:
        return 1, 1
    queue = [node] if node is not None else []
    while queue:
        node = queue.pop()
        if isinstance(node, MappingNode):
            named = [name for name, _ in node.value if name.value == key]
            if len(named) > 1:
                return named[1].start_mark.line + 1, named[1].start_mark.column + 1
            queue += [entry for _, entry in node.value]
        elif isinstance(node, SequenceNode):
            queue += node.value
    return 1, 1


# --- places ---------------------------------------------------------------------------------------


def _step(node: Node, path: str) -> tuple[Node | None, Node, str] | None:
    """The first step along a path: name (None for an entry of a list), value, and the path that is left."""
    if isinstance(node, SequenceNode):
        found = re.match(r"\[(\d+)\]\.?", path)
        if found is None or int(found[1]) >= len(node.value):
            return None
        return None, node.value[int(found[1])], path[found.end() :]
    if not isinstance(node, MappingNode):
        return None
    # Keys may hold dots, so the longest that fits is the one; a map's key stands in brackets.
    best: tuple[Node, Node, str] | None = None
    longest = -1
    for name, entry in node.value:
        key = name.value
        if not isinstance(key, str) or len(key) <= longest:
            continue
        for written in (f"[{key}]", key):
            after = path[len(written) :]
            if path.startswith(written) and after[:1] in ("", ".", "["):
                best, longest = (name, entry, after.removeprefix(".")), len(key)
    return best
