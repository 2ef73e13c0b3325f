"""Roots: the calls that somebody outside observes, queued while their values are in doubt."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from moongate.engine.nodes import ABSENT, CLEAN

if TYPE_CHECKING:
    from moongate.engine.failures import Failed
    from moongate.engine.nodes import Node

T = TypeVar("T")


class Root(Generic[T]):
    """A query call that somebody outside observes; the ``Db`` names it while its value is in doubt."""

    __slots__ = ("eager", "node", "rank", "urgent", "valued")

    def __init__(self, node: Node, rank: int, *, eager: bool) -> None:
        self.node = node
        self.rank = rank
        self.eager = eager
        self.urgent = False
        """Whether it was last settled because of an urgent write."""
        self.valued = False
        """Whether it had a value, and not ``None``, when it was last settled to the end."""

    @property
    def value(self) -> T | Failed | None:
        """The value as last settled, ``None`` before the first time; it does not settle."""
        value = self.node.value
        return None if value is ABSENT else value

    @property
    def in_doubt(self) -> bool:
        """Whether its value may be another now, as far as changes have been propagated."""
        return self.node.state != CLEAN


class Roots:
    """The queues of the roots in doubt: an urgent one, and one for each rank."""

    def __init__(self) -> None:
        # Ordered, because the first of a plain dict is found by walking over all that were taken before it.
        self._urgent: OrderedDict[Root[Any], None] = OrderedDict()
        self._dirty: dict[int, OrderedDict[Root[Any], None]] = {}

    def __contains__(self, root: Root[Any]) -> bool:
        return root.node.root is root

    def add(self, node: Node, rank: int, *, eager: bool) -> Root[Any]:
        """The root of a node, a new one where there is none; a new one is queued."""
        root = node.root
        if root is None:
            root = node.root = Root(node, rank, eager=eager)
            # Also one that was computed long ago: this observer has not seen it.
            self.enqueue(root)
        return root

    def remove(self, root: Root[Any]) -> None:
        """Forget a root."""
        root.node.root = None
        self.dequeue(root)

    def enqueue(self, root: Root[Any], *, urgent: bool = False) -> None:
        """Queue a root, where it is not queued yet; an urgent one that is eager goes before all others."""
        if root in self._urgent:
            return
        if urgent and root.eager and root.valued:
            self.dequeue(root)
            self._urgent[root] = None
        else:
            self._dirty.setdefault(root.rank, OrderedDict())[root] = None

    def dequeue(self, root: Root[Any]) -> None:
        """Take a root out of whatever queue it is in."""
        self._urgent.pop(root, None)
        if (queue := self._dirty.get(root.rank)) is not None:
            queue.pop(root, None)
            if not queue:
                # One that was long keeps its size.
                del self._dirty[root.rank]

    def is_urgent(self, root: Root[Any]) -> bool:
        """Whether a root is in the urgent queue."""
        return root in self._urgent

    def next_urgent(self) -> Root[Any] | None:
        """The first of the urgent queue."""
        return next(iter(self._urgent), None)

    def next_dirty(self) -> Root[Any] | None:
        """The first of the other queues: of the lowest rank that has any."""
        return next(iter(self._dirty[min(self._dirty)])) if self._dirty else None
