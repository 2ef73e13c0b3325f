"""The state of one resource type on one stream: subscriptions, versions, the response in flight, the queue.

A channel only keeps records; ``session`` decides when to send.
"""

from __future__ import annotations

from collections import deque
from itertools import chain, islice, takewhile
from math import inf
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from msgspec import Struct, field

from moongate.ads.ledger import Ledger, is_within
from moongate.ads.responses import Response
from moongate.xds.wire import XdsResource

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

T = TypeVar("T")

ABSENT = ""
"""A value in place of a version: Envoy knows that the resource does not exist."""

UNKNOWN = "?"
"""A value in place of a version: Envoy may or may not have the resource, so it must be sent or removed."""


class Batch(Struct):
    """The content of one response."""

    news: dict[str, XdsResource] = field(default_factory=dict[str, XdsResource])
    gone: dict[str, None] = field(default_factory=dict[str, None])
    """The names to remove, as an ordered set."""
    oldest: float = inf
    """The oldest edit that it carries; inf if no other channel waits for it."""
    applied: bool = False
    """Whether Envoy has applied it already, and refused only others: it is sent again for the ACK alone."""

    def __bool__(self) -> bool:
        return bool(self.news or self.gone)

    def versions(self) -> dict[str, str]:
        """Name → version of the news."""
        return {name: resource.version for name, resource in self.news.items()}

    def take(self) -> Batch:
        taken = Batch(self.news, self.gone, self.oldest)
        self.news, self.gone, self.oldest = {}, {}, inf
        return taken

    def part(self, names: Collection[str]) -> Batch:
        """Take out the news and removals of these names."""
        news = {name: self.news.pop(name) for name in sorted(names) if name in self.news}
        gone = {name: self.gone.pop(name) for name in sorted(names) if name in self.gone}
        part = Batch(news, gone, self.oldest)
        if not self:
            self.oldest = inf
        return part

    def drop(self, name: str) -> None:
        self.news.pop(name, None)
        self.gone.pop(name, None)

    def halves(self) -> tuple[Batch, Batch]:
        news = list(self.news.items())
        middle = len(news) // 2
        return (
            Batch(dict(news[:middle]), self.gone, self.oldest),
            Batch(dict(news[middle:]), {}, self.oldest),
        )

    def singly(self) -> list[Batch]:
        """The same as batches with one resource each."""
        return self.of_size(1)

    def of_size(self, size: int) -> list[Batch]:
        """The same as batches with at most so many resources each; none if it has only removals."""
        news = iter(self.news.items())
        each: list[Batch] = []
        while part := dict(islice(news, size)):
            each.append(Batch(part, {}, self.oldest))
        if each:
            each[0].gone = self.gone
        return each


class Flight(Struct):
    """A response that was sent and not answered yet."""

    response: Response
    batch: Batch
    heard_at: float = inf
    """The time of the first request that came after this was sent; inf if none came."""
    endpoints: dict[str, XdsResource] = field(default_factory=dict[str, XdsResource])
    """The load assignments that the clusters of the batch had when it was sent, by name."""


class Refused(Struct):
    version: str
    message: str
    seq: float
    """The oldest edit with a refused version after the version in force."""
    again: bool = False
    """Whether to send the same version again."""
    lacks: tuple[tuple[str, str], ...] = ()
    """The clusters that it needs, and that Envoy refuses and does not have: it was not sent."""


class Dropped(NamedTuple):
    """The end of a resource in the snapshot, while Envoy still has the resource."""

    seq: int
    """The edit that dropped it."""
    since: float
    """The oldest edit that the version in force may be without: a change before the end may be unsent."""


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
    """Batches that timed out, by nonce. Their answers may still come."""
    retries: deque[Batch] = field(default_factory=deque[Batch])
    """Parts of refused batches, and of those that are not sent as one."""
    pending_removal: dict[str, Dropped] = field(default_factory=dict[str, Dropped])
    """Name → its end. Listeners and routes of that edit must be in force first. Sorted by the edit."""
    lingering: dict[str, float] = field(default_factory=dict[str, float])
    """Name → the time of its removal. Earliest first."""
    absent: dict[str, int] = field(default_factory=dict[str, int])
    """Route table to which Envoy subscribes, and which it may still have → the edit that dropped it.

    A table in scopes has the name of their collection.
    """
    rejected: dict[str, Refused] = field(default_factory=dict[str, Refused])
    kept: set[str] = field(default_factory=set[str])
    """Secrets and scopes that Envoy may keep as they are now, although it did not put them in force."""
    reopened: dict[str, tuple[str, int]] = field(default_factory=dict[str, tuple[str, int]])
    """Listener → its version that was sent again after its address was closed, and how many times."""
    waiting: dict[str, float] = field(default_factory=dict[str, float])
    """Scope that others share → until when it waits for these, once it has waited. See ``scopes``."""
    returning: set[str] = field(default_factory=set[str])
    """Route tables that were removed and unused, and are back but not answered yet; or all their scopes."""
    initial_pending: bool = False
    """Whether the first answer to a wildcard subscription is still to be sent."""

    def mark(self, name: str, seq: int) -> None:
        if not self.dirty:
            self.dirty_since = seq
        self.dirty.add(name)
        if self.pending_removal or self.lingering:
            if (dropped := self.pending_removal.get(name)) is not None:
                # It may be in use again, in the version from before the removal.
                self.dirty_since = min(self.dirty_since, dropped.since)
            self.cancel_removal(name)

    def mark_all(self, names: Collection[str], seq: int) -> None:
        """As ``mark``, for many names."""
        if self.pending_removal or self.lingering:
            for name in names:
                self.mark(name, seq)
        elif names:
            if not self.dirty:
                self.dirty_since = seq
            self.dirty.update(names)

    def take_back(self, batch: Batch) -> None:
        """Mark the resources of an unsent batch as dirty again. They keep the age of the batch."""
        if batch:
            self.dirty_since = min(batch.oldest, self.dirty_since if self.dirty else inf)
            self.dirty.update(batch.news, batch.gone)

    def cancel_removal(self, name: str) -> None:
        """Cancel the removal of ``name``."""
        self.pending_removal.pop(name, None)
        self.lingering.pop(name, None)

    def forget(self, name: str) -> None:
        """Drop all state of ``name``."""
        self.cancel_removal(name)
        self.ledger.set(name, None)
        self.absent.pop(name, None)
        self.rejected.pop(name, None)
        self.reopened.pop(name, None)
        self.returning.discard(name)
        self.kept.discard(name)
        self.waiting.pop(name, None)
        self.dirty.discard(name)
        self.staged.drop(name)
        for batch in (*self.retries, *([self.flight.batch] if self.flight else [])):
            batch.drop(name)

    def has(self, name: str) -> bool:
        """Whether Envoy has some version of a resource, or may have one."""
        return self.ledger.get(name) not in (None, ABSENT)

    def names(self) -> set[str]:
        """All names of which there is any state."""
        return {*(name for name, _ in self.ledger.versions()), *self.under_way()}

    def within(self, collection: str) -> set[str]:
        """The names in a collection, as far as there is any state of them."""
        under_way = (name for name in self.under_way() if is_within(name, collection))
        return {*self.ledger.within(collection), *under_way}

    def under_way(self) -> set[str]:
        """The names that are to be sent or removed, wait for an answer, or were refused."""
        batches = (self.staged, *self.retries, *([self.flight.batch] if self.flight else []))
        return {*self.dirty, *self.rejected, *(n for b in batches for n in (*b.news, *b.gone))}

    def take(self, batch: Batch) -> None:
        """Note that Envoy accepted ``batch``."""
        for name, resource in batch.news.items():
            self.ledger.set(name, resource.version)
            self.rejected.pop(name, None)
            self.reopened.pop(name, None)
            self.returning.discard(name)
            self.kept.discard(name)
            self.waiting.pop(name, None)
        for name in batch.gone:
            self.rejected.pop(name, None)
            if name not in self.dirty:
                self.returning.discard(name)
            if name in self.ledger.names:
                self.ledger.set(name, ABSENT)
            else:
                self.ledger.set(name, None)
                self.kept.discard(name)
        if not self.kept:
            self.kept.clear()  # a set that has become empty keeps its memory

    def linger(self, switched: float, due: float) -> None:
        """Let resources that the edit ``switched``, or an earlier one, dropped linger until ``due``."""
        names = [*takewhile(lambda name: self.pending_removal[name].seq <= switched, self.pending_removal)]
        self.pending_removal = _without_first(self.pending_removal, len(names))
        self.lingering |= dict.fromkeys(names, due)

    def postpone_removals(self, seq: int) -> None:
        """Let what is pending removal, or lingers, wait for listeners and routes of the edit ``seq``."""
        self.pending_removal = dict.fromkeys((*self.lingering, *self.pending_removal), Dropped(seq, seq))
        self.lingering = {}

    def expired(self, now: float) -> list[str]:
        """Take out the names whose lingering ends."""
        names = [*takewhile(lambda name: self.lingering[name] <= now, self.lingering)]
        self.lingering = _without_first(self.lingering, len(names))
        return names

    def next_due(self) -> Iterable[float]:
        for due in self.lingering.values():
            return (due,)
        return ()

    def oldest(self) -> float:
        """The oldest edit that is unsent or unanswered here; inf if there is none."""
        if not (self.dirty or self.staged or self.flight or self.retries):
            return inf  # as most channels at each answer
        waiting = [self.staged.oldest if self.staged else inf, self.dirty_since if self.dirty else inf]
        if self.flight is not None:
            waiting.append(self.flight.batch.oldest)
        waiting.extend(batch.oldest for batch in self.retries)
        return min(waiting)

    def outdated_since(self, unused: float = -inf) -> float:
        """The oldest edit that is not in force although nothing of it is to be sent; inf when there is none.

        An earlier version is in force, because Envoy refused a later one, or the resource left before it was
        sent.

        Args:
            unused: resources that this edit, or an earlier one, dropped are out of use.
        """
        dropped = self.pending_removal
        refused = (
            refused.seq
            for name, refused in self.rejected.items()
            if self.ledger.get(name) is not None and not (name in dropped and dropped[name].seq <= unused)
        )
        unchanged = (each.since for each in dropped.values() if each.seq > unused)
        return min(chain(refused, unchanged), default=inf)


def _without_first(entries: dict[str, T], count: int) -> dict[str, T]:
    """The other entries in a new dictionary, because a dictionary does not free memory on deletion."""
    return dict(islice(entries.items(), count, None)) if count else entries
