"""The value of a YAML document, as plain data.

Facts
-----
* scalars mean what they mean to ``kubectl``: ``yes``, ``y`` and ``on`` are booleans, ``1e3`` and ``089``
  numbers, times and ``12:30`` strings; keys are always strings
* a key that stands twice is an error, as is a document that is mostly aliases of aliases
"""

from __future__ import annotations

import math
import re
import sys
from functools import lru_cache
from typing import Any

import yaml
from yaml._yaml import CParser
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from moongate.sources.mistaken import HELM, seeming

DEEPEST = 200
"""Levels of nesting; the deepest field of any kind is above 20."""

EXPANDED = 200_000
"""Values that a document with aliases may come to."""


class Malformed(Exception):  # noqa: N818  it is data for a diagnostic, caught by who asked
    """A text that is no document.

    Args:
        message: what is wrong and what would be right.
        line: within the chunk, from 1.
        column: from 1.
        trace: the frames of an exception that nobody foresaw, for the log.
    """

    def __init__(self, message: str, line: int, column: int, trace: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column
        self.trace = trace


def malformed(text: str, offset: int, message: str) -> Malformed:
    """A fault of a text at an offset."""
    return Malformed(message, text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset))


def parsed_yaml(text: str) -> Any:
    """The value of a YAML text that holds one document; None when there is only white space and comments.

    Raises:
        Malformed
    """
    node = composed(text)
    return None if node is None else _Values(text).value(node, 0)


_PLAIN = "plain"


class _Composer(CParser):
    """libyaml's composer. Tags are left as they stand, or ``plain`` for a scalar that is to be looked at."""

    def resolve(self, kind: type[Node], value: str | None, implicit: Any) -> str:
        return _PLAIN if kind is ScalarNode and implicit[0] else ""

    def descend_resolver(self, current_node: Node | None, current_index: Any) -> None:
        """Called before each node; tags do not depend on where it stands."""

    def ascend_resolver(self) -> None:
        """Called after each node."""


class _CountingComposer(_Composer):
    """Counts levels: libyaml's composer calls itself for each, so the stack could overflow."""

    def __init__(self, text: str) -> None:
        CParser.__init__(self, text)
        self._depth = 0

    def descend_resolver(self, current_node: Node | None, current_index: Any) -> None:
        self._depth += 1
        if self._depth > DEEPEST + 2:
            assert current_node is not None
            raise _too_deep(current_node)

    def ascend_resolver(self) -> None:
        self._depth -= 1


def composed(text: str) -> Node | None:
    """The tree of a document, with the places of its nodes; ``None`` if there is nothing in it."""
    if text.startswith("..."):
        # The end of the document before; blanks keep what follows in its place.
        text = "   " + text[3:]
    # Each level begins with one of these. Most texts have few of them, and counting is a sixth of the work.
    composer = _CountingComposer if sum(map(text.count, "[{:-?")) > DEEPEST else _Composer
    try:
        return composer(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _yaml_fault(text, error) from None
    except ReaderError as error:
        # libyaml gives an offset in bytes.
        before = text.encode()[: error.position].decode(errors="replace")
        if (guess := seeming(text)) is not None:
            raise malformed(text, guess.offset, guess.message) from None
        raise Malformed(
            f"There is a character that YAML does not allow, U+{_code(error.character):04X}; remove it.",
            before.count("\n") + 1,
            len(before) - (before.rfind("\n") + 1) + 1,
        ) from None


class _Values:
    """Turns the nodes of one document into plain data."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._values_left = EXPANDED if "*" in text else sys.maxsize

    def value(self, node: Node, depth: int) -> Any:
        tag = node.tag
        if type(node) is ScalarNode:
            if tag == _PLAIN:
                return _scalar(node.value)
            return node.value if not tag else self._tagged(node, tag)
        self._values_left -= len(node.value) + 1
        if self._values_left < 0:
            raise _at(
                node,
                f"The aliases of this document come to more than {EXPANDED} values; write some of them out.",
            )
        if depth > DEEPEST:
            raise _too_deep(node)
        if type(node) is SequenceNode:
            if tag and tag != "tag:yaml.org,2002:seq":
                raise _at(node, _NO_TAG)
            return [self.value(entry, depth + 1) for entry in node.value]
        assert type(node) is MappingNode
        if tag and tag != "tag:yaml.org,2002:map":
            raise _at(node, _NO_TAG)
        return self._mapping(node, depth + 1)

    def _mapping(self, node: MappingNode, depth: int) -> dict[str, Any]:
        pairs: dict[str, Any] = {}
        merged: list[Node] = []
        for name, entry in node.value:
            if type(name) is not ScalarNode:
                raise _at(
                    name, HELM if "{{" in self._text else "A key must be a string, not a list or an object."
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
                raise _at(name, _repeated_key(node, name, key))
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
                raise _at(node, _NO_TAG)


_WORDS: dict[str, Any] = {
    word: value
    for value, words in (
        (None, "~ null Null NULL"),
        (True, "true True TRUE y Y yes Yes YES on On ON"),
        (False, "false False FALSE n N no No NO off Off OFF"),
        (math.inf, ".inf .Inf .INF +.inf +.Inf +.INF"),
        (-math.inf, "-.inf -.Inf -.INF"),
        (math.nan, ".nan .NaN .NAN"),
    )
    for word in words.split()
} | {"": None}
_NUMERIC = frozenset("0123456789+-.")
_INT = re.compile(r"[-+]?(?:0[bB][01_]+|0[oO]?[0-7_]+|0[xX][0-9a-fA-F_]+|0|[1-9][0-9_]*)\Z")
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
            number = int(digits, 0)
        except ValueError:
            return text
        if abs(number) < 2**64:
            return number
    plain = text if text[0] == "." else text.replace("_", "")
    if not _FLOAT.match(plain):
        return text
    number = float(plain)
    if math.isinf(number):
        return text  # for Go, it is out of range
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


_NO_TAG = "A tag ('!…') has no meaning here; leave it out, or put a value that begins with '!' in quotes."


def _too_deep(node: Node) -> Malformed:
    return _at(node, f"The document is nested deeper than {DEEPEST} levels.")


def _at(node: Node, message: str) -> Malformed:
    return Malformed(message, node.start_mark.line + 1, node.start_mark.column + 1)


_HINTS = (
    (
        "mapping values are not allowed",
        "a second ':' stands on the line; put the value in quotes, or mend the indentation",
    ),
    ("mapping keys are not allowed", "a key that begins with '?' must be in quotes"),
    (
        "could not find expected ':'",
        "a key without ':' and value stands on the line before, or a quote is not closed",
    ),
    ("did not find expected key", "this line is indented otherwise than its neighbours"),
    ("did not find expected '-' indicator", "this line is indented otherwise than the list before it"),
    ("did not find expected ',' or", "a ',' or a closing bracket is missing before this"),
    ("did not find expected node content", "a value is missing here, or a bracket is not closed"),
    (
        "did not find expected <document start>",
        "the document has ended before this; put `---` on a line between two documents",
    ),
    ("found unexpected end of stream", "a quote or bracket is not closed"),
    ("found unexpected document indicator", "a quote is not closed before the `---`"),
    ("found undefined alias", "an alias (*name) needs its anchor (&name) above it, in the same document"),
    ("found duplicate anchor", "the anchor (&name) stands twice in the document; rename one of them"),
    (
        "did not find expected alphabetic or numeric character",
        "an anchor (&name) or alias (*name) has no name; put a value that begins with '&' or '*' in quotes",
    ),
    ("cannot start any token", "a value that begins with this character must be in quotes"),
    (
        "found unknown escape character",
        "in double quotes a backslash must be doubled; single quotes take it as it is",
    ),
    (
        "did not find expected hex",
        "in double quotes, `\\x` takes two hexadecimal digits, `\\u` four and `\\U` eight",
    ),
    ("found invalid Unicode character escape code", "there is no character of this number"),
    ("block sequence entries are not allowed", "a list begins on a line of its own, below its key"),
    ("found unexpected ':'", "a ':' stands in a value between brackets; put the value in quotes"),
    (
        "did not find expected comment or line break",
        "the text of '|' or '>' begins on the next line, indented further",
    ),
    ("found undefined tag handle", "a value that begins with '!' must be in quotes"),
    ("while scanning a tag", "a value that begins with '!' must be in quotes"),
    (
        "while scanning a directive",
        "a line that begins with '%' is a directive, and only `%YAML 1.1` and `%TAG` exist",
    ),
    ("found incompatible YAML document", "it asks for another version than YAML 1.1 or 1.2"),
    ("found a tab character", "there is a tab where only spaces may be"),
)
"""Fragments of libyaml's messages, and what the user reads instead."""


_LINE_END = re.compile(r"\r\n|[\n\r\x85\u2028\u2029]")
"""What libyaml counts lines by."""


def _yaml_fault(text: str, error: yaml.MarkedYAMLError) -> Malformed:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark is not None else (0, 0)
    if (guess := seeming(text)) is not None:
        return malformed(text, guess.offset, guess.message)
    problem = error.problem or "it is not YAML"
    if "unexpected end of stream" in problem and error.context_mark is not None:
        # Where the quote opens says more than where the text ends.
        line, column = error.context_mark.line, error.context_mark.column
    lines = _LINE_END.split(text)
    shown = lines[line] if line < len(lines) else ""
    if "{{" in shown or (line and "{{" in lines[line - 1]):
        return Malformed(HELM, line + 1, column + 1)
    if (opened := _opened(lines, error) or _continued(lines, error)) is not None:
        return opened
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
    # The words of the parser are for those who know its grammar.
    words = f"{problem} ({error.context})" if error.context else problem
    hint = next((hint for fragment, hint in _HINTS if fragment in words), words)
    return Malformed(f"This is not YAML: {hint}.", line + 1, column + 1)


_OPENED = {"while parsing a flow sequence": ("[", "]"), "while parsing a flow mapping": ("{", "}")}


def _opened(lines: list[str], error: yaml.MarkedYAMLError) -> Malformed | None:
    """The fault at the beginning of what the parser was reading when it failed on a later line, if that says
    more."""
    about, mark = error.context_mark, error.problem_mark
    if about is None or mark is None or about.line >= mark.line or about.line >= len(lines):
        return None
    if error.context in _OPENED:
        opening, closing = _OPENED[error.context]
        return Malformed(
            f"This is not YAML: the '{opening}' is not closed with a '{closing}'.",
            about.line + 1,
            about.column + 1,
        )
    if "could not find expected ':'" not in (error.problem or ""):
        return None
    line = lines[about.line]
    key = _KEY_WITHOUT_SPACE.match(line, about.column)
    if key is not None:
        # What follows may be a secret.
        return Malformed(
            f"This is not YAML: a space is missing after '{key[1]}'.", about.line + 1, about.column + 1
        )
    if not line.startswith(("'", '"'), about.column) and not _COLON.search(line, about.column):
        return Malformed(_NO_COLON, about.line + 1, about.column + 1)
    return None


def _continued(lines: list[str], error: yaml.MarkedYAMLError) -> Malformed | None:
    """The fault of the line before, where a key is taken for the rest of that line's value."""
    mark = error.problem_mark
    if mark is None or "mapping values are not allowed" not in (error.problem or ""):
        return None
    if mark.line >= len(lines) or _COLON.search(lines[mark.line], 0, mark.column):
        return None  # It is the second ':' of the line.
    above = (n for n in reversed(range(mark.line)) if lines[n].strip() and lines[n].lstrip()[0] != "#")
    before = next(above, None)
    if before is None:
        return None
    # The words of that line may be a secret.
    if _COLON.search(lines[before]):
        message = (
            "this line is indented further than the one before, whose key has a value already; "
            "begin it where that line begins"
        )
        indent = len(lines[mark.line]) - len(lines[mark.line].lstrip())
        return Malformed(f"This is not YAML: {message}.", mark.line + 1, indent + 1)
    indent = len(lines[before]) - len(lines[before].lstrip())
    return Malformed(_NO_COLON, before + 1, indent + 1)


_NO_COLON = "This is not YAML: this line has no ':' after its key."
_COLON = re.compile(r":(?:\s|$)")

_KEY_WITHOUT_SPACE = re.compile(r"([\w.-]+:)[^\s:]")


def _code(character: str | int) -> int:
    return ord(character) if isinstance(character, str) else character


def _repeated_key(node: MappingNode, again: Node, key: str) -> str:
    # Keys of different text may mean the same, such as `yes` and `true`.
    first = next(name for name, _ in node.value if key in (name.value, _plain_key(name.value)))
    above = again.start_mark.line - first.start_mark.line
    where = f"{above} line{'s' * (above > 1)} above" if above else "before it on this line"
    if key in ("apiVersion", "kind") and not again.start_mark.column:
        return f"The key {key!r} stands here and {where}: put `---` on a line between two documents."
    return f"The key {key!r} stands twice in one object, here and {where}; keep one of them."


def repeated_key(key: str) -> str:
    return f"The key {key!r} stands twice in one object; keep one of them."
