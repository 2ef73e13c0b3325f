"""Demand: which cells queries read, even if the cells are empty.

A source that could fill thousands of cells fills only those in demand, and learns of changes of the demand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping

    from moongate.engine.nodes import Node

K = TypeVar("K", bound="Hashable")


class Demand(Generic[K]):
    """The keys whose cells are read by a query, and the changes since the last call.

    Args:
        cells: all cells, by key.
        concerns: whether a key belongs to this demand.
    """

    def __init__(self, cells: Mapping[K, Node], concerns: Callable[[K], bool]) -> None:
        self._cells = cells
        self._concerns = concerns
        self._wanted: dict[K, None] = {}
        """The keys in demand at the last ``take``."""
        self._touched: dict[K, None] = {}
        self.note(cells)

    def note(self, keys: Iterable[K]) -> None:
        """Note keys whose cells got their first reader, or lost their last one."""
        self._touched.update((key, None) for key in keys if self._concerns(key))

    def take(self) -> dict[K, bool]:
        """The changes since the last call: key → whether it is wanted now.

        The result is provisional while any value is in doubt, because the readers may change.
        """
        changes: dict[K, bool] = {}
        for key in self._touched:
            node = self._cells.get(key)
            wanted = node is not None and node.has_readers
            if wanted != (key in self._wanted):
                changes[key] = wanted
                if wanted:
                    self._wanted[key] = None
                else:
                    del self._wanted[key]
        self._touched.clear()
        return changes

    def wanted(self) -> tuple[K, ...]:
        """All keys in demand at the last ``take``, in the order in which they appeared."""
        return tuple(self._wanted)
