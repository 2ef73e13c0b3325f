"""Roots: the query calls that code outside of the engine observes, queued while their values are in doubt."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from moongate.engine.nodes import ABSENT, CLEAN

if TYPE_CHECKING:
    from moongate.engine.failures import Failed
    from moongate.engine.nodes import Node

T = TypeVar("T")


class Root(Generic[T]):
    """A query call that code outside of the engine observes. It is queued while its value is in doubt."""

    __slots__ = ("eager", "node", "rank", "urgent", "valued")

    def __init__(self, node: Node, rank: int, *, eager: bool) -> None:
        self.node = node
        self.rank = rank
        self.eager = eager
        self.urgent = False
        """Whether the last settling was for an urgent write."""
        self.valued = False
        """Whether it had a value other than ``None`` when it was last settled completely."""

    @property
    def value(self) -> T | Failed | None:
        """The last settled value, ``None`` before the first time. Reading it does not settle."""
        value = self.node.value
        return None if value is ABSENT else value

    @property
    def in_doubt(self) -> bool:
        """Whether its value may have changed, as far as changes have been propagated."""
        return self.node.state != CLEAN


class Roots:
    """The queues of the roots in doubt: an urgent one, and one for each rank."""

    def __init__(self) -> None:
        # OrderedDict, because finding the first entry of a dict walks over all entries removed before it.
        self._urgent: OrderedDict[Root[Any], None] = OrderedDict()
        self._dirty: dict[int, OrderedDict[Root[Any], None]] = {}

    def __contains__(self, root: Root[Any]) -> bool:
        return root.node.root is root

    def add(self, node: Node, rank: int, *, eager: bool) -> Root[Any]:
        """The root of a node. If it has none, a new one is created and queued."""
        root = node.root
        if root is None:
            root = node.root = Root(node, rank, eager=eager)
            # Also if the value was computed long ago, because this observer has not seen it.
            self.enqueue(root)
        return root

    def remove(self, root: Root[Any]) -> None:
        """Forget a root."""
        root.node.root = None
        self.dequeue(root)

    def enqueue(self, root: Root[Any], *, urgent: bool = False) -> None:
        """Queue a root unless it is queued already. An urgent and eager one goes before all others."""
        if root in self._urgent:
            return
        if urgent and root.eager and root.valued:
            self.dequeue(root)
            self._urgent[root] = None
        else:
            self._dirty.setdefault(root.rank, OrderedDict())[root] = None

    def dequeue(self, root: Root[Any]) -> None:
        """Remove a root from its queue, if it is in one."""
        self._urgent.pop(root, None)
        if (queue := self._dirty.get(root.rank)) is not None:
            queue.pop(root, None)
            if not queue:
                # A dict that was long keeps its memory.
                del self._dirty[root.rank]

    def is_urgent(self, root: Root[Any]) -> bool:
        """Whether a root is in the urgent queue."""
        return root in self._urgent

    def next_urgent(self) -> Root[Any] | None:
        """The first of the urgent queue."""
        return next(iter(self._urgent), None)

    def next_dirty(self) -> Root[Any] | None:
        """The first root of the lowest rank in the other queues."""
        return next(iter(self._dirty[min(self._dirty)])) if self._dirty else None
