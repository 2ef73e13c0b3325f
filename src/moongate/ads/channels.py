"""One type of one stream: what Envoy asked for, what it has, what is on its way and what waits.

A channel keeps books and decides nothing; ``session`` says when something leaves.
"""

from __future__ import annotations

from collections import deque
from itertools import islice, takewhile
from math import inf
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct, field

from moongate.ads.ledger import Ledger
from moongate.ads.responses import Response
from moongate.xds.wire import XdsResource

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

T = TypeVar("T")

ABSENT = ""
"""Held in place of a version: Envoy knows that the name does not exist."""

UNKNOWN = "?"
"""Held in place of a version: Envoy may or may not have it, so whatever is true must be said."""


class Batch(Struct):
    """What one response says."""

    news: dict[str, XdsResource] = field(default_factory=dict[str, XdsResource])
    gone: list[str] = field(default_factory=list[str])
    oldest: float = inf
    """The oldest edit that it carries; inf when it carries none that anybody waits for."""
    applied: bool = False
    """Sent again only to be acknowledged: Envoy applied it, but for the culprits beside it."""

    def __bool__(self) -> bool:
        return bool(self.news or self.gone)

    def versions(self) -> dict[str, str]:
        """Name → version of the news."""
        return {name: resource.version for name, resource in self.news.items()}

    def take(self) -> Batch:
        taken = Batch(self.news, self.gone, self.oldest)
        self.news, self.gone, self.oldest = {}, [], inf
        return taken

    def part(self, names: Collection[str]) -> Batch:
        """Take out the news of these names."""
        news = {name: self.news.pop(name) for name in sorted(names) if name in self.news}
        part = Batch(news, [], self.oldest)
        if not self:
            self.oldest = inf
        return part

    def drop(self, name: str) -> None:
        self.news.pop(name, None)
        if name in self.gone:
            self.gone.remove(name)

    def halves(self) -> tuple[Batch, Batch]:
        news = list(self.news.items())
        middle = len(news) // 2
        return (
            Batch(dict(news[:middle]), self.gone, self.oldest),
            Batch(dict(news[middle:]), [], self.oldest),
        )


class Flight(Struct):
    """A response that was sent, and is not answered yet."""

    response: Response
    batch: Batch
    heard_at: float = inf
    """When the client was first heard of after this was sent; inf when it was not."""
    endpoints: dict[str, XdsResource] = field(default_factory=dict[str, XdsResource])
    """Those that the clusters of the batch had, of the same name, when it was sent."""


class Refused(Struct):
    version: str
    message: str
    seq: float
    """The oldest edit whose version was refused since the last one that is in force."""
    again: bool = False
    """To be sent again though it did not change."""


class Channel(Struct):
    """One type of one stream."""

    type_url: str
    ledger: Ledger
    """What Envoy asks for, and what it has."""
    dirty: set[str] = field(default_factory=set[str])
    dirty_since: float = inf
    staged: Batch = field(default_factory=Batch)
    staged_seq: int = 0
    """The edit as of which ``staged`` is true."""
    flight: Flight | None = None
    timed_out: dict[str, Batch] = field(default_factory=dict[str, Batch])
    """What nobody waits for any more, by nonce: the answers may still come."""
    retries: deque[Batch] = field(default_factory=deque[Batch])
    """Parts of refused batches."""
    pending_removal: dict[str, int] = field(default_factory=dict[str, int])
    """Gone from the snapshot at this edit, which listeners and routes have still to follow. Oldest first."""
    lingering: dict[str, float] = field(default_factory=dict[str, float])
    """To be removed at this time. Earliest first."""
    absent: dict[str, int] = field(default_factory=dict[str, int])
    """Route tables that Envoy asks for and may have kept, and that the fleet is without as of this edit."""
    rejected: dict[str, Refused] = field(default_factory=dict[str, Refused])
    reopened: dict[str, tuple[str, int]] = field(default_factory=dict[str, tuple[str, int]])
    """Listener → the version that was sent again when what had its address open was closed, and how often."""
    returning: set[str] = field(default_factory=set[str])
    """What was gone and out of use, and is back and not acknowledged yet."""
    initial_pending: bool = False
    """The client asked for everything and was not answered yet."""

    def mark(self, name: str, seq: int) -> None:
        if not self.dirty:
            self.dirty_since = seq
        self.dirty.add(name)

    def take_back(self, batch: Batch) -> None:
        """Settle anew what was to be sent. It stays as old as it was."""
        if batch:
            self.dirty_since = min(batch.oldest, self.dirty_since if self.dirty else inf)
            self.dirty.update(batch.news, batch.gone)

    def cancel_removal(self, name: str) -> None:
        """Cancel the removal of ``name``."""
        self.pending_removal.pop(name, None)
        self.lingering.pop(name, None)

    def forget(self, name: str) -> None:
        """Know nothing about ``name`` any more."""
        self.cancel_removal(name)
        self.ledger.set(name, None)
        self.absent.pop(name, None)
        self.rejected.pop(name, None)
        self.reopened.pop(name, None)
        self.returning.discard(name)
        self.dirty.discard(name)
        self.staged.drop(name)
        for batch in (*self.retries, *([self.flight.batch] if self.flight else [])):
            batch.drop(name)

    def known(self) -> set[str]:
        flying = self.flight.batch.news if self.flight else {}
        held = (name for name, _ in self.ledger.held())
        return {*held, *self.dirty, *self.staged.news, *self.rejected, *flying}

    def take(self, batch: Batch) -> None:
        """Note that Envoy has what ``batch`` says."""
        for name, resource in batch.news.items():
            self.ledger.set(name, resource.version)
            self.rejected.pop(name, None)
            self.reopened.pop(name, None)
            self.returning.discard(name)
        for name in batch.gone:
            self.rejected.pop(name, None)
            self.ledger.set(name, ABSENT if name in self.ledger.names else None)

    def linger(self, switched: float, due: float) -> None:
        """Let what is gone as of the edit ``switched``, or an earlier one, linger until ``due``."""
        names = [*takewhile(lambda name: self.pending_removal[name] <= switched, self.pending_removal)]
        self.pending_removal = _without_first(self.pending_removal, len(names))
        self.lingering |= dict.fromkeys(names, due)

    def expired(self, now: float) -> list[str]:
        """Take out what has lingered long enough."""
        names = [*takewhile(lambda name: self.lingering[name] <= now, self.lingering)]
        self.lingering = _without_first(self.lingering, len(names))
        return names

    def next_due(self) -> Iterable[float]:
        for due in self.lingering.values():
            return (due,)
        return ()

    def oldest(self) -> float:
        """The oldest edit that waits here or is unanswered; inf when there is none."""
        waiting = [self.staged.oldest if self.staged else inf, self.dirty_since if self.dirty else inf]
        if self.flight is not None:
            waiting.append(self.flight.batch.oldest)
        waiting.extend(batch.oldest for batch in self.retries)
        return min(waiting)

    def refused_since(self, unused: float = -inf) -> float:
        """The oldest edit that Envoy refused while an earlier version stays in force; inf when none.

        Args:
            unused: what is gone as of this edit, or an earlier one, is out of use.
        """
        return min(
            (
                refused.seq
                for name, refused in self.rejected.items()
                if self.ledger.get(name) is not None
                and not (name in self.pending_removal and self.pending_removal[name] <= unused)
            ),
            default=inf,
        )


def _without_first(entries: dict[str, T], count: int) -> dict[str, T]:
    """The rest in a dictionary of its own: one of which entries are deleted keeps its room."""
    return dict(islice(entries.items(), count, None)) if count else entries
