"""Finding the position of a field in the text of a document.

Lines and columns are not stored when a document is read. To show a fault, the document is parsed again into a
tree of positions, and the path of the field is followed in that tree. The trees of the last few documents are
cached, because several faults of one document are shown together.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from yaml.nodes import MappingNode, Node, SequenceNode

from moongate.sources.yaml_documents import Malformed, composed


def position(text: str, path: str, *, key: bool = False) -> tuple[int, int]:
    """Line and column of a field in the text.

    Args:
        text: one document without syntax errors.
        path: a path as in a ``Problem``: ``spec.rules[0].name``, ``metadata.labels[app]``; "" for the
            document.
        key: whether to return the position of the field's name instead of its value.

    Returns:
        The position of the value; of the name, if the value begins on a line of its own; of the nearest
        parent, if the field does not exist.
    """
    spot, rest = _outline(text), path
    line, column = spot.line, spot.column
    while rest:
        step = _step(spot, rest)
        if step is None:
            break
        name, spot, rest = step
        at = name if name is not None and ((key and not rest) or spot.line != name.line) else spot
        line, column = at.line, at.column
    return line, column


class _Spot(NamedTuple):
    """The position of a value. ``lengths`` are the lengths of its keys, the longest first."""

    line: int
    column: int
    entries: tuple[_Spot, ...] = ()
    fields: dict[str, tuple[_Spot, _Spot]] | None = None
    lengths: tuple[int, ...] = ()


@lru_cache(maxsize=4)
def _outline(text: str) -> _Spot:
    try:
        node = composed(text)
    except Malformed as error:
        return _Spot(error.line, error.column)
    return _spot(node, {}) if node is not None else _Spot(1, 1)


def _spot(node: Node, spots: dict[int, _Spot]) -> _Spot:
    """The positions of a node and all below. ``spots`` has nodes that aliases refer to more than once."""
    line, column = node.start_mark.line + 1, node.start_mark.column + 1
    if not isinstance(node, SequenceNode | MappingNode):
        return _Spot(line, column)
    spot = spots.get(id(node))
    if spot is not None:
        return spot
    if isinstance(node, SequenceNode):
        spot = _Spot(line, column, tuple(_spot(entry, spots) for entry in node.value))
    else:
        fields: dict[str, tuple[_Spot, _Spot]] = {}
        for name, entry in node.value:
            if isinstance(name.value, str):
                fields.setdefault(name.value, (_spot(name, spots), _spot(entry, spots)))
        spot = _Spot(line, column, (), fields, tuple(sorted({len(name) for name in fields}, reverse=True)))
    spots[id(node)] = spot
    return spot


def _step(spot: _Spot, path: str) -> tuple[_Spot | None, _Spot, str] | None:
    """The first step along a path: name (None for an entry of a list), value, and the path that is left."""
    if spot.fields is None:
        index = re.match(r"\[(\d{1,9})\]\.?", path)
        if index is None or int(index[1]) >= len(spot.entries):
            return None
        return None, spot.entries[int(index[1])], path[index.end() :]
    # Keys may contain dots, so the longest matching key is used. The key of a map is in brackets.
    for length in spot.lengths:
        for start, end in ((1, length + 2), (0, length)):
            if path[end : end + 1] in {"", ".", "["} and (
                not start or path[:1] + path[end - 1 : end] == "[]"
            ):
                field = spot.fields.get(path[start : start + length])
                if field is not None:
                    return *field, path[end:].removeprefix(".")
    return None
