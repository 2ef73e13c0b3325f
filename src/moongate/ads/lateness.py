"""Noticing Envoys that do not acknowledge what was published for them.

Theory of operation
===================
One edit of a fleet's snapshot is *awaited* at a time: the newest one at the moment at which the wait begins.
If all Envoys of the fleet have answered for it in time, the wait ends, and the next one begins if there are
newer edits. Else the fleet is *late* until the edit is answered for. So an Envoy that is always some edits
behind is not late, and one that is stuck is late after one period, or two at the most. A timer exists only
during a wait.

Time in which this process stands still does not count, because answers may have come that nobody has read.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from moongate.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Callable

LATE_SECONDS: Final = 10.0
"""How long Envoys may take for an edit. A big first configuration takes some seconds."""


class Lateness:
    """Whether the Envoys of one fleet are late.

    Args:
        seconds: how long they may take.
        on_change: called when ``since`` has changed.

    Attributes:
        since: the time on the event loop's clock from which they owe an answer; None unless they are late.
    """

    def __init__(self, seconds: float, on_change: Callable[[], None]) -> None:
        self.since: float | None = None
        self._seconds = seconds
        self._on_change = on_change
        self._awaited = 0
        """The edit that is awaited; 0 if none is."""
        self._began = 0.0
        self._timer: Patience | None = None

    def look(self, newest: int, settled: Callable[[int], bool]) -> None:
        """Note that there is an edit, or an answer.

        Args:
            newest: the number of the newest edit.
            settled: whether all Envoys have answered up to an edit.
        """
        if self._awaited:
            if not settled(self._awaited):
                return
            is_newest = self._awaited == newest
            self.cancel()
            if is_newest:
                return
        if newest and not settled(newest):
            self._awaited = newest
            self._began = asyncio.get_running_loop().time()
            self._timer = Patience(self._seconds, self._ring)

    def cancel(self) -> None:
        """End the wait, as answered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._awaited = 0
        self._set(None)

    def _ring(self) -> None:
        self._timer = None
        self._set(self._began)

    def _set(self, since: float | None) -> None:
        if self.since != since:
            self.since = since
            self._on_change()
