"""Propagation: what a change puts in doubt is marked, and nothing runs.

The direct readers of what changed are marked at once. What is above those may be most of the graph, so it
waits in a queue and is marked in slices, and at the latest when somebody asks for a value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moongate.engine.nodes import CLEAN, RUNNING, STALE, SUSPECT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.engine.nodes import Node
    from moongate.engine.roots import Roots

STRIDE: Final = 256
"""Nodes that are marked or found to be as they were before the driver has its turn: well below 1 ms."""


class Propagation:
    """Marks readers, and queues the roots among them.

    Args:
        roots: where roots that come into doubt are queued.
    """

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self.waiting: list[Node] = []
        """Marked nodes whose readers have still to be marked."""

    def changed(self, node: Node) -> None:
        """Mark the readers of a node that has another value."""
        self._mark_stale(node, self.waiting, urgent=False)

    def changed_urgently(self, node: Node) -> None:
        """Mark the readers of a node that has another value, and what is near above them."""
        above: list[Node] = []
        self._mark_stale(node, above, urgent=True)
        looks = 0
        while above and looks <= STRIDE:
            below, above = above, []
            looks += sum(self._mark_suspect(each, above, urgent=True) for each in below)
        self.waiting += above

    def slices(self) -> Iterator[None]:
        """Mark all that waits, stopping now and then."""
        looks = 0
        while self.waiting:
            looks += self._mark_suspect(self.waiting.pop(), self.waiting, urgent=False)
            if looks > STRIDE:
                looks = 0
                yield

    def finish(self) -> None:
        """Mark all that waits."""
        if self.waiting:
            for _ in self.slices():
                pass

    def _mark_stale(self, node: Node, above: list[Node], *, urgent: bool) -> None:
        """Mark the direct readers of a changed node, and note those whose readers have still to be marked.

        Never further, for what is marked while a query runs is forgotten when that ends.
        """
        for reader in node.readers:
            state = reader.state
            if state == RUNNING:
                continue
            # What was in doubt before has its readers marked, or noted; but these may have to be urgent now.
            if state == CLEAN or urgent:
                above.append(reader)
            reader.state = STALE
            if reader.root is not None:
                self._roots.enqueue(reader.root, urgent=urgent)

    def _mark_suspect(self, node: Node, above: list[Node], *, urgent: bool) -> int:
        """Mark the readers of a marked node, noting what put each in doubt; how much work that was."""
        for reader in node.readers:
            if reader.suspects is None:
                reader.suspects = {node: None}
            else:
                reader.suspects[node] = None
            if was_clean := reader.state == CLEAN:
                reader.state = SUSPECT
                above.append(reader)
            if reader.root is not None and (was_clean or urgent):
                self._roots.enqueue(reader.root, urgent=urgent)
        return 1 + len(node.readers)
