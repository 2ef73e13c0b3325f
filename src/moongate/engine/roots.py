"""Roots: the query calls that code outside of the engine observes, queued while their values are in doubt."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from moongate.engine.nodes import ABSENT

if TYPE_CHECKING:
    from collections.abc import Hashable

    from moongate.engine.failures import Failed
    from moongate.engine.nodes import Node

T = TypeVar("T")


class Root(Generic[T]):
    """A query call that code outside of the engine observes. It is queued while its value is in doubt."""

    __slots__ = ("eager", "node", "owner", "rank", "urgent", "valued")

    def __init__(self, node: Node, rank: int, owner: Hashable, *, eager: bool) -> None:
        self.node = node
        self.rank = rank
        self.owner = owner
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


class Roots:
    """The queues of the roots in doubt: an urgent one, and one for each rank."""

    def __init__(self) -> None:
        # OrderedDict, because finding the first entry of a dict walks over all entries removed before it.
        self._urgent: OrderedDict[Root[Any], None] = OrderedDict()
        self._dirty: dict[int, OrderedDict[Root[Any], None]] = {}
        self._queued: Counter[Hashable] = Counter()
        """How many roots of an owner are in a queue."""

    def __contains__(self, root: Root[Any]) -> bool:
        return root.node.root is root

    def add(self, node: Node, rank: int, owner: Hashable, *, eager: bool) -> Root[Any]:
        """The root of a node. If it has none, a new one is created and queued."""
        root = node.root
        if root is None:
            root = node.root = Root(node, rank, owner, eager=eager)
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
            queue = self._urgent
        else:
            queue = self._dirty.setdefault(root.rank, OrderedDict())
        if root not in queue:
            queue[root] = None
            self._queued[root.owner] += 1

    def defer(self, root: Root[Any]) -> None:
        """Move a root from the urgent queue to that of its rank, if it is urgent."""
        if root in self._urgent:
            self.dequeue(root)
            self.enqueue(root)

    def dequeue(self, root: Root[Any]) -> None:
        """Remove a root from its queue, if it is in one."""
        dirty = self._dirty.get(root.rank)
        queue = self._urgent if root in self._urgent else dirty
        if queue is None or root not in queue:
            return
        del queue[root]
        if dirty is not None and not dirty:
            # A dict that was long keeps its memory.
            del self._dirty[root.rank]
        self._queued[root.owner] -= 1
        if not self._queued[root.owner]:
            del self._queued[root.owner]

    def has_queued(self, owner: Hashable) -> bool:
        """Whether a root of an owner is in a queue."""
        return owner in self._queued

    def is_urgent(self, root: Root[Any]) -> bool:
        """Whether a root is in the urgent queue."""
        return root in self._urgent

    def next_urgent(self) -> Root[Any] | None:
        """The first of the urgent queue."""
        return next(iter(self._urgent), None)

    def next_dirty(self) -> Root[Any] | None:
        """The first root of the lowest rank in the other queues."""
        return next(iter(self._dirty[min(self._dirty)])) if self._dirty else None
