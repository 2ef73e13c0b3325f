"""Demand: which cells queries read, whether these hold anything or not.

A source that could fill thousands of cells fills those that are asked for, and hears when others are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping

    from moongate.engine.nodes import Node

K = TypeVar("K", bound="Hashable")


class Demand(Generic[K]):
    """The keys, of those it is about, whose cells some query reads; and how they differ from the last time.

    Args:
        cells: all cells, by key.
        concerns: whether it is about a key.
    """

    def __init__(self, cells: Mapping[K, Node], concerns: Callable[[K], bool]) -> None:
        self._cells = cells
        self._concerns = concerns
        self._wanted: dict[K, None] = {}
        """As last handed out."""
        self._touched: dict[K, None] = {}
        self.note(cells)

    def note(self, keys: Iterable[K]) -> None:
        """Look again at some keys: their cells have a first reader now, or lost the last one."""
        self._touched.update((key, None) for key in keys if self._concerns(key))

    def take(self) -> dict[K, bool]:
        """What differs since the last time: keys that are wanted now, or no longer.

        While something is in doubt this is provisional, for who reads what is then not known.
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
        """All that were wanted when the differences were last taken, in the order in which they came up."""
        return tuple(self._wanted)
