"""The graph that the engine works on: cells and memoized calls, with their edges.

A process with thousands of Gateways has a million nodes, so each node is as small as possible. Most nodes
have one reader, which is stored directly; a few readers are a tuple, and many are a dict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from moongate.engine.queries import Query
    from moongate.engine.roots import Root

CLEAN: Final = 0
"""Its value is current, as far as changes have been propagated."""
SUSPECT: Final = 1
"""The value of a node that it read may have changed."""
STALE: Final = 2
"""It must run again."""
RUNNING: Final = 3

ABSENT: Final[Any] = object()
"""The value of a call that has not run yet."""

_FEW: Final = 8
"""Up to this many readers a tuple is as fast as a dict, with a quarter of its size."""


class Node:
    """A cell or a memoized query call.

    Args:
        query: the query, ``None`` for a cell.
        key: the key of the cell, or the arguments of the call.
        value: the present value.
        state: CLEAN, SUSPECT, STALE or RUNNING; a cell is always CLEAN.
    """

    __slots__ = ("_readers", "key", "query", "reads", "root", "state", "suspects", "value")

    def __init__(self, query: Query[..., Any] | None, key: Any, value: Any, state: int) -> None:
        self.query = query
        self.key = key
        self.value = value
        self.state = state
        self.root: Root[Any] | None = None
        """The root, if code outside of the engine observes this call."""
        self.reads: tuple[Node, ...] = ()
        """The nodes that the call read in its last run, in order."""
        self._readers: Node | tuple[Node, ...] | dict[Node, None] | None = None
        self.suspects: dict[Node, None] | None = None
        """The nodes in ``reads`` whose values may have changed."""

    @property
    def readers(self) -> tuple[Node, ...] | dict[Node, None]:
        """The calls that read this node, in the order of their first read."""
        readers = self._readers
        if readers is None:
            return ()
        return (readers,) if isinstance(readers, Node) else readers

    @property
    def has_readers(self) -> bool:
        """Whether any call reads this node."""
        return self._readers is not None

    def add_reader(self, reader: Node) -> bool:
        """Note a call that reads this node. True if it is the first."""
        readers = self._readers
        if readers is None:
            self._readers = reader
            return True
        if isinstance(readers, dict):
            readers[reader] = None
        elif readers is not reader:
            few = (readers,) if isinstance(readers, Node) else readers
            if reader not in few:
                self._readers = (*few, reader) if len(few) < _FEW else dict.fromkeys((*few, reader))
        return False

    def drop_reader(self, reader: Node) -> None:
        """Forget a call that read this node."""
        readers = self._readers
        if isinstance(readers, dict):
            readers.pop(reader, None)
            if not readers:
                self._readers = None
        else:
            few = tuple(each for each in self.readers if each is not reader)
            self._readers = few[0] if len(few) == 1 else few or None

    def __repr__(self) -> str:
        return f"cell {self.key!r}" if self.query is None else f"{self.query.name}{self.key!r}"
