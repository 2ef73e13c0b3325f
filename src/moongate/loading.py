"""Loading many resources at once, without a look through all of them again and again.

A look for garbage among the objects of thousands of resources takes 0.1 s, and nothing else runs meanwhile.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

_NEW: Final = 10_000
"""How many objects may be new before they are excluded from garbage collection."""

_NEW_IN_TURN: Final = 2_500
"""How many of them a turn may make. To look through as many takes about as long as a slice.

Python starts a collection by what was made less what was freed. So an edit that replaces what thousands of
queries have answered starts none, until one has to look through all of it at once.
"""


class NewObjects:
    """The objects that are new since some long work began. They live long, as answers of queries do."""

    def __init__(self) -> None:
        self._most = min(_NEW, len(gc.get_objects()) + _NEW_IN_TURN)

    @property
    def are_many(self) -> bool:
        """Whether there are so many that they are to be excluded between two slices."""
        return len(gc.get_objects()) > self._most

    def exclude(self) -> None:
        """Exclude them from garbage collection, after a search for garbage among them alone."""
        gc.collect()
        gc.freeze()
        self._most = _NEW_IN_TURN


@contextmanager
def loading() -> Generator[None]:
    """Keep the garbage collector from the objects of the first load: they live as long as the process.

    To look through them again and again while they grow in number costs a tenth of a load of thousands of
    routes, or much more if it is done as often as by default.
    """
    gc.disable()
    gc.freeze()  # modules live as long, too
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
