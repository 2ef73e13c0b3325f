"""What Envoy asked for of one type and what it has, kept as the difference from the snapshot.

Theory of operation
===================
Hundreds of Envoys have the same thousands of resources, and nearly all of them have what the snapshot has. So
a ledger of one stream says "what Envoy asks for, as the snapshot has it, except …". The names and versions
are the snapshot's own, and all ledgers share them.

The snapshot changes in place, so each edit of it must be entered (``enter``): what Envoy has is then an
exception, until Envoy acknowledges what the snapshot has now.

The names that Envoy asks for are kept in the same way: as a list, or as "all of the snapshot, except …",
whichever is shorter.

Facts
-----
* exceptions are dropped as soon as they are none
* while an edit is entered name by name, the snapshot is ahead of the ledger; so nothing is written in another
  form before the edit is entered whole (``compact``)
* a set or dictionary that has shrunk keeps its room, and a copy of it does not
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from moongate.xds.wire import XdsResource


class Names:
    """A set of names, most of which may be all names of the snapshot."""

    __slots__ = ("_count", "_inverted", "_listed", "_peak", "_shared", "_view")

    def __init__(self, view: Mapping[str, XdsResource], names: Iterable[str]) -> None:
        """Make a set of these names.

        Args:
            view: what the snapshot has of the type, as it is at any time.
            names: what is in the set.
        """
        self._view = view
        self._listed = set(names)
        """The names in the set; when inverted, those that are in either the set or the snapshot, not both."""
        self._inverted = False
        self._count = len(self._listed)
        """How many names are in the set."""
        self._shared = sum(name in view for name in self._listed)
        """How many of them the snapshot has."""
        self._peak = 0
        self.compact()

    def __contains__(self, name: object) -> bool:
        return (name in self._listed) != (self._inverted and name in self._view)

    def __iter__(self) -> Iterator[str]:
        if self._inverted:
            yield from (name for name in self._view if name not in self._listed)
            yield from self.unknown()
        else:
            yield from self._listed

    def __len__(self) -> int:
        return self._count

    def unknown(self) -> Iterator[str]:
        """The names in the set that the snapshot does not have."""
        return (name for name in self._listed if name not in self._view)

    def add(self, name: str) -> None:
        if name not in self:
            self._toggle(name)
            self._count += 1
            self._shared += name in self._view
            self.compact()

    def discard(self, name: str) -> None:
        if name in self:
            self._toggle(name)
            self._count -= 1
            self._shared -= name in self._view
            self.compact()

    def enter(self, name: str, *, existed: bool) -> None:
        """Take note of an edit of the snapshot: the set stays the same.

        Args:
            name: what the edit changed.
            existed: whether the snapshot had the name before.
        """
        exists = name in self._view
        if exists != existed:
            if self._inverted:
                self._toggle(name)
            if name in self:
                self._shared += 1 if exists else -1

    def entries(self) -> int:
        """How many names are kept for this set alone."""
        return len(self._listed)

    def compact(self) -> None:
        """Take the shorter form, if it is much shorter. To be called when all edits are entered."""
        other = self._count
        if not self._inverted:
            other += len(self._view) - 2 * self._shared
        if 2 * other < len(self._listed):
            self._inverted = not self._inverted
            self._listed = set(self._listed ^ self._view.keys())  # a copy, for the difference has shrunk
        elif _is_roomy(len(self._listed), self._peak):
            self._listed = set(self._listed)
        else:
            self._peak = max(self._peak, len(self._listed))
            return
        self._peak = len(self._listed)

    def _toggle(self, name: str) -> None:
        self._listed ^= {name}


class Ledger:
    """What Envoy asks for of one type, and the version that it has of each."""

    __slots__ = ("_exceptions", "_peak", "_view", "_wildcard", "names")

    def __init__(
        self,
        view: Mapping[str, XdsResource],
        names: Iterable[str],
        held: Mapping[str, str],
        *,
        wildcard: bool,
    ) -> None:
        """Begin with what Envoy says when it opens its stream.

        Args:
            view: what the snapshot has of the type, as it is at any time.
            names: what Envoy asks for by name.
            held: name → version of what Envoy says it has, of what it asks for.
            wildcard: whether Envoy asks for all there is.
        """
        self._view = view
        self._wildcard = wildcard
        self.names = Names(view, names)
        """What Envoy asks for by name."""
        self._exceptions: dict[str, str | None] = {}
        """Name → version of what Envoy has otherwise than the snapshot; None where it has nothing."""
        self._peak = 0
        self._fill(held)

    @property
    def wildcard(self) -> bool:
        """Whether Envoy asks for all there is."""
        return self._wildcard

    @wildcard.setter
    def wildcard(self, wildcard: bool) -> None:
        held = dict(self.held())
        self._wildcard = wildcard
        self._fill(held)

    def wants(self, name: str) -> bool:
        """Whether Envoy asks for a name, by itself or with all others."""
        return self._wildcard or name in self.names

    def get(self, name: str) -> str | None:
        """The version that Envoy has under a name."""
        return self._exceptions[name] if name in self._exceptions else self._wanted(name)

    def set(self, name: str, version: str | None) -> None:
        """Note what Envoy has under a name."""
        if version != self._wanted(name):
            self._exceptions[name] = version
            self._peak = max(self._peak, len(self._exceptions))
        elif name in self._exceptions:
            del self._exceptions[name]
            if _is_roomy(len(self._exceptions), self._peak):
                self._exceptions = dict(self._exceptions)
                self._peak = len(self._exceptions)

    def subscribe(self, name: str) -> None:
        """Note that Envoy asks for a name. What it has under it is not known any more."""
        self.names.add(name)
        self.set(name, None)

    def unsubscribe(self, name: str) -> None:
        """Note that Envoy does not ask for a name by itself any more, and has dropped what it had."""
        self.names.discard(name)
        self.set(name, None)

    def enter(self, name: str, before: str | None) -> None:
        """Take note of one name in an edit of the snapshot, which has happened.

        Args:
            name: what differs.
            before: the version before the edit; None when there was none.
        """
        self.names.enter(name, existed=before is not None)
        if self.wants(name):
            self.set(name, self._exceptions.get(name, before))

    def compact(self) -> None:
        """Save room. To be called when an edit is entered whole."""
        self.names.compact()

    def held(self) -> Iterator[tuple[str, str]]:
        """All that Envoy has: (name, version)."""
        for name in self._view if self._wildcard else self.names:
            if name not in self._exceptions and (version := self._wanted(name)) is not None:
                yield name, version
        for name, version in self._exceptions.items():
            if version is not None:
                yield name, version

    def holds_anything(self) -> bool:
        """Whether Envoy has anything."""
        return next(self.held(), None) is not None

    def unsettled(self) -> Iterator[str]:
        """The names under which Envoy has something else than the snapshot, or that do not exist."""
        yield from self._exceptions
        yield from self.names.unknown()

    def entries(self) -> int:
        """How many names and versions are kept for this stream alone."""
        return len(self._exceptions) + self.names.entries()

    def _wanted(self, name: str) -> str | None:
        """The version that Envoy should have under a name, and has if there is no exception."""
        resource = self._view.get(name)
        return resource.version if resource is not None and self.wants(name) else None

    def _fill(self, held: Mapping[str, str]) -> None:
        wanted = self._view if self._wildcard else self.names
        versions = ((name, held.get(name)) for name in {**dict.fromkeys(wanted), **held})
        self._exceptions = {name: version for name, version in versions if version != self._wanted(name)}
        self._peak = len(self._exceptions)


def _is_roomy(length: int, peak: int) -> bool:
    """Whether what was once longer has much more room than it needs."""
    return 4 * length < peak
