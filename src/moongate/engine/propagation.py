"""Propagation: marking all calls that a change puts in doubt, without running them.

The direct readers of a changed node are marked at once. The readers above them may be most of the graph, so
they are queued and marked in slices, at the latest when a value is requested.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from moongate.engine.nodes import CLEAN, RUNNING, STALE, SUSPECT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from moongate.engine.nodes import Node
    from moongate.engine.roots import Roots

STRIDE: Final = 256
"""How many nodes are marked or checked before the caller gets control again: well below 1 ms."""


class Propagation:
    """Marks readers, and queues the roots among them.

    Args:
        roots: the queues for roots in doubt.
    """

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self.waiting: list[Node] = []
        """Marked nodes whose readers are not all marked yet."""
        self._rest: dict[Node, Iterator[Node]] = {}
        """The readers still to be marked, of nodes that have more of them than are marked at once."""

    def changed(self, node: Node) -> None:
        """Mark the readers of a node whose value changed."""
        self._mark_stale(node, self.waiting, urgent=False)

    def changed_urgently(self, node: Node) -> None:
        """Mark the readers of a node whose value changed, and the nearest readers above them, at once."""
        above: list[Node] = []
        self._mark_stale(node, above, urgent=True)
        looks = 0
        while above and looks <= STRIDE:
            below, above = above, []
            looks += sum(self._mark_suspect(each, each.readers, above, urgent=True) for each in below)
        self.waiting += above

    def slices(self) -> Iterator[None]:
        """Mark all queued nodes, pausing after each stride."""
        looks = 0
        while self.waiting:
            node = self.waiting.pop()
            # A reader that comes later reads the node after it was settled, so it is not in doubt.
            readers = self._rest.pop(node, None) or iter(tuple(node.readers))
            some = tuple(islice(readers, STRIDE))
            looks += self._mark_suspect(node, some, self.waiting, urgent=False)
            if len(some) == STRIDE:
                self._rest[node] = readers
                self.waiting.append(node)
            if looks > STRIDE:
                looks = 0
                yield

    def finish(self) -> None:
        """Mark all queued nodes."""
        if self.waiting:
            for _ in self.slices():
                pass

    def _mark_stale(self, node: Node, above: list[Node], *, urgent: bool) -> None:
        """Mark the direct readers of a changed node, and note those whose readers must be marked later.

        Only direct readers, because a mark on a running query is lost when the query ends.
        """
        for reader in node.readers:
            state = reader.state
            if state == RUNNING:
                continue
            # If it was in doubt before, its readers are marked or noted already, but may need to be urgent
            # now.
            if state == CLEAN or urgent:
                above.append(reader)
            reader.state = STALE
            if reader.root is not None:
                self._roots.enqueue(reader.root, urgent=urgent)

    def _mark_suspect(self, node: Node, readers: Collection[Node], above: list[Node], *, urgent: bool) -> int:
        """Mark readers of a marked node, and note this node as their suspect. Returns the work done."""
        for reader in readers:
            if reader.suspects is None:
                reader.suspects = {node: None}
            else:
                reader.suspects[node] = None
            if was_clean := reader.state == CLEAN:
                reader.state = SUSPECT
                above.append(reader)
            if reader.root is not None and (was_clean or urgent):
                self._roots.enqueue(reader.root, urgent=urgent)
        return 1 + len(readers)
