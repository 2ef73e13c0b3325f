"""Where a field stands in the text of a document.

Lines and columns are not kept when a document is read: when a fault has to be shown, the tree of that one
document is composed again and walked along the field's path.
"""

from __future__ import annotations

import re

from yaml.nodes import MappingNode, Node, SequenceNode

from moongate.sources.yaml_documents import Malformed, composed


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
        node = composed(text)
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


def _step(node: Node, path: str) -> tuple[Node | None, Node, str] | None:
    """The first step along a path: name (None for an entry of a list), value, and the path that is left."""
    if isinstance(node, SequenceNode):
        index = re.match(r"\[(\d+)\]\.?", path)
        if index is None or int(index[1]) >= len(node.value):
            return None
        return None, node.value[int(index[1])], path[index.end() :]
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
