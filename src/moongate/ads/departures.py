"""The scopes that a fleet had once, and that an Envoy may still have.

Theory of operation
===================
Envoy does not say at a new connection which scopes it has. So an Envoy that connects again is sent the
removal of all that has *departed* from the fleet. A name is kept for that until all Envoys that are *known*
are *clear* of it, which means that they do not have it for certain:

* an Envoy that is connected is clear up to the last edit for which it has answered. On a new stream that is
  not known until it has answered for all that it was sent at first
* an Envoy that is away is clear as far as it was at the end of its stream. It stays known for
  ``AWAY_SECONDS``, because it may never come back

Edits are numbered. A name has the number of the edit by which it left, so that of all names only the oldest
one is compared. It is compared with one Envoy, the one that was not clear the last time, until that is clear.

Envoys are told apart by their node ids. If several have one id and one of them connects, it may be any of
these, so it counts as the one that is clear of the least.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from moongate.ads.ledger import is_within

if TYPE_CHECKING:
    from collections.abc import Iterator

AWAY_SECONDS: Final = 86_400.0
"""How long an Envoy that is away is known. It may be suspended, or cut off, for hours."""


class Stream(Protocol):
    """What is asked of the session of a stream."""

    node: str

    def cleared(self) -> float:
        """The last edit up to which Envoy has no departed scopes; -inf if that is not known yet."""
        ...


class Departures:
    """The names that have departed from one fleet, and its Envoys that may have them."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, int] = OrderedDict()
        """Name → the edit by which it left. Earliest first."""
        self._envoys: list[_Envoy] = []
        self._behind = 0
        """The index of the Envoy that was not clear the last time."""

    def __len__(self) -> int:
        return len(self._names)

    def within(self, collection: str) -> Iterator[str]:
        """The names in a collection that an Envoy may still have."""
        return (name for name in self._names if is_within(name, collection))

    def left(self, name: str, seq: int) -> None:
        """Note that a name has left the fleet by an edit."""
        self._names[name] = seq
        self._names.move_to_end(name)

    def came(self, name: str) -> None:
        """Note that the fleet has a name (again)."""
        self._names.pop(name, None)

    def connected(self, stream: Stream, now: float) -> None:
        """Note that an Envoy has opened a stream."""
        away = self._away(stream.node, now)
        clear = min((envoy.clear for envoy in away), default=-inf)
        if away:
            self._envoys.remove(max(away, key=lambda envoy: envoy.clear))
        self._envoys.append(_Envoy(stream.node, clear, stream))

    def disconnected(self, stream: Stream, now: float) -> None:
        """Note that a stream has ended."""
        for envoy in self._envoys:
            if envoy.stream is stream:
                envoy.clear = max(envoy.clear, stream.cleared())
                envoy.stream = None
                envoy.until = now + AWAY_SECONDS

    def runs(self, node: str, now: float) -> None:
        """Note that an Envoy runs that may be connected, or may not yet."""
        if not (self._away(node, now) or any(envoy.node == node for envoy in self._envoys)):
            self._envoys.append(_Envoy(node, -inf, None, now + AWAY_SECONDS))

    def forget(self, now: float) -> None:
        """Forget the names of which all Envoys are clear. Called after edits and answers."""
        if not self._names:
            return
        oldest = next(iter(self._names.values()))
        for n in range(len(self._envoys)):
            at = (self._behind + n) % len(self._envoys)
            if self._envoys[at].clear_up_to(now) < oldest:
                self._behind = at
                return
        least = min((envoy.clear_up_to(now) for envoy in self._envoys), default=inf)
        while self._names and next(iter(self._names.values())) <= least:
            self._names.popitem(last=False)

    def _away(self, node: str, now: float) -> list[_Envoy]:
        """The Envoys with a node id that are away. Forgets those that are not known any more."""
        self._envoys = [envoy for envoy in self._envoys if now < envoy.until]
        return [envoy for envoy in self._envoys if envoy.stream is None and envoy.node == node]


class _Envoy(Struct, eq=False):
    node: str
    clear: float
    """The edit up to which it had no departed scopes when this stream opened, or when the last one ended."""
    stream: Stream | None
    """None if it is away."""
    until: float = inf
    """The time until which it is known."""

    def clear_up_to(self, now: float) -> float:
        """The edit up to which it has no departed scopes; inf if it is not known any more."""
        if self.stream is not None:
            return max(self.clear, self.stream.cleared())
        return self.clear if now < self.until else inf
