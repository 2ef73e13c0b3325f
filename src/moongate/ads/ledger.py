"""The subscriptions of one Envoy for one type and its versions, stored as the difference from the snapshot.

Theory of operation
===================
Hundreds of Envoys have the same thousands of resources, and nearly all versions are those of the snapshot. So
the ledger of a stream stores only exceptions: names whose version differs from the snapshot. All other names
and versions are those of the snapshot, which all ledgers share.

The snapshot changes in place, so each edit must be entered (``enter``). The version that Envoy has is then an
exception until Envoy acknowledges the new one.

The names that Envoy subscribes to are stored in the same way: as a list, or as "all of the snapshot except
…", whichever is shorter.

A name may be that of a *collection*: it stands for all resources whose name differs from it only after the
last slash. Envoy waits for an answer to the name itself, too: no resource has it.

Facts
-----
* an exception is removed as soon as its version equals that of the snapshot
* an edit is entered name by name, and the snapshot is ahead of the ledger until all are entered; so the form
  changes only after that
* a set or dictionary that has shrunk keeps its memory, but a copy of it does not

Source: xRFC TP1, "Glob collections".
"""

from __future__ import annotations

from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from moongate.xds.wire import XdsResource

_NONE: Final[Mapping[str, Collection[str]]] = MappingProxyType({})


def is_collection(name: str) -> bool:
    """Whether a subscription to a name is one to a collection."""
    return name.endswith("/*") and name.startswith("xdstp://")


def collection_of(name: str) -> str:
    """The collection that a resource is in."""
    return f"{name.rpartition('/')[0]}/*"


def is_within(name: str, collection: str) -> bool:
    """Whether a name is that of a resource in a collection."""
    return name != collection and collection_of(name) == collection


class Names:
    """A set of names, which may be nearly equal to all names of the snapshot."""

    __slots__ = ("_count", "_inverted", "_listed", "_peak", "_shared", "_view")

    def __init__(self, view: Mapping[str, XdsResource], names: Iterable[str]) -> None:
        """Make a set of these names.

        Args:
            view: the resources of the type in the snapshot; changes with it.
            names: the names in the set.
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
        """Note an edit of the snapshot, which does not change the set.

        Args:
            name: the name that the edit changed.
            existed: whether the snapshot had the name before.
        """
        exists = name in self._view
        if exists != existed:
            if self._inverted:
                self._toggle(name)
            if name in self:
                self._shared += 1 if exists else -1

    def entries(self) -> int:
        """How many names are stored for this set alone."""
        return len(self._listed)

    def compact(self) -> None:
        """Switch to the shorter form if it is much shorter. Called when all edits are entered."""
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
    """The resources of one type that Envoy subscribes to, and the version that it has of each."""

    __slots__ = ("_exceptions", "_members", "_peak", "_view", "_wildcard", "collections", "names")

    def __init__(
        self,
        view: Mapping[str, XdsResource],
        names: Iterable[str],
        versions: Mapping[str, str],
        *,
        wildcard: bool,
        members: Mapping[str, Collection[str]] = _NONE,
    ) -> None:
        """Create the ledger from the first request of Envoy for the type.

        Args:
            view: the resources of the type in the snapshot; changes with it.
            names: the names that Envoy subscribes to.
            versions: name → version that Envoy has already.
            wildcard: whether Envoy subscribes to all resources of the type.
            members: collection → the names in it that the snapshot has; changes with it.
        """
        self._view = view
        self._members = members
        self._wildcard = wildcard
        self.names = Names(view, names)
        """The names that Envoy subscribes to, those of collections included."""
        self.collections = {name for name in self.names if is_collection(name)}
        """The collections that Envoy subscribes to."""
        self._exceptions: dict[str, str | None] = {}
        """Name → version that Envoy has, if it differs from the snapshot; None if Envoy has none."""
        self._peak = 0
        self._fill(versions)

    @property
    def wildcard(self) -> bool:
        """Whether Envoy subscribes to all resources of the type."""
        return self._wildcard

    @wildcard.setter
    def wildcard(self, wildcard: bool) -> None:
        versions = dict(self.versions())
        self._wildcard = wildcard
        self._fill(versions)

    def wants(self, name: str) -> bool:
        """Whether Envoy subscribes to a name, directly, by the wildcard or by a collection."""
        return (
            self._wildcard
            or name in self.names
            or (bool(self.collections) and collection_of(name) in self.collections)
        )

    def within(self, collection: str) -> list[str]:
        """The names in a collection that the snapshot has, or of which Envoy has another version."""
        members = self._members.get(collection, ())
        others = (n for n in self._exceptions if n not in self._view and is_within(n, collection))
        return [*members, *others]

    def get(self, name: str) -> str | None:
        """The version of a resource that Envoy has."""
        return self._exceptions[name] if name in self._exceptions else self._wanted(name)

    def set(self, name: str, version: str | None) -> None:
        """Note the version of a resource that Envoy has."""
        if version != self._wanted(name):
            self._exceptions[name] = version
            self._peak = max(self._peak, len(self._exceptions))
        elif name in self._exceptions:
            del self._exceptions[name]
            self._compact()

    def subscribe(self, name: str) -> None:
        """Note a subscription to a name. The version that Envoy has is unknown from now on."""
        self.names.add(name)
        self.set(name, None)
        if is_collection(name):
            self.collections.add(name)
            for member in self.within(name):
                self.set(member, None)

    def unsubscribe(self, name: str) -> None:
        """Note that Envoy has ended its subscription to a name, and has dropped the resource."""
        members = self.within(name) if name in self.collections else ()
        self.names.discard(name)
        self.collections.discard(name)
        for each in (name, *members):
            self.set(each, None)

    def enter(self, before: Mapping[str, str | None]) -> list[str]:
        """Note an edit that the snapshot has already. Returns the names to which Envoy subscribes.

        Args:
            before: each name that the edit changed, with the version before; None if there was none.
        """
        view, exceptions = self._view, self._exceptions
        entered: list[str] = []
        for name, was in before.items():
            resource = view.get(name)
            if was is None or resource is None:
                self.names.enter(name, existed=was is not None)
            if not self.wants(name):
                continue
            entered.append(name)
            # As ``set`` does it, which would ask once more: an edit may have thousands of names.
            version = exceptions.get(name, was)
            if version != (None if resource is None else resource.version):
                exceptions[name] = version
            else:
                exceptions.pop(name, None)
        self._peak = max(self._peak, len(exceptions))
        self._compact()
        self.names.compact()
        return entered

    def versions(self) -> Iterator[tuple[str, str]]:
        """All resources that Envoy has: (name, version)."""
        for name in self._subscribed():
            if name not in self._exceptions and (version := self._wanted(name)) is not None:
                yield name, version
        for name, version in self._exceptions.items():
            if version is not None:
                yield name, version

    def holds_anything(self) -> bool:
        """Whether Envoy has any resource."""
        return next(self.versions(), None) is not None

    def unsettled(self) -> Iterator[str]:
        """The names whose version differs from the snapshot, or that do not exist."""
        yield from self._exceptions
        yield from self.names.unknown()

    def entries(self) -> int:
        """How many names and versions are stored for this stream alone."""
        return len(self._exceptions) + self.names.entries()

    def _wanted(self, name: str) -> str | None:
        """The version of a resource that Envoy should have, and has if there is no exception."""
        resource = self._view.get(name)
        return resource.version if resource is not None and self.wants(name) else None

    def _subscribed(self) -> Iterable[str]:
        """The names that Envoy subscribes to, as far as the snapshot or a subscription has them."""
        if self._wildcard:
            return self._view
        members = (self._members.get(collection, ()) for collection in self.collections)
        return chain(self.names, *members) if self.collections else self.names

    def _compact(self) -> None:
        """Save memory. Called when exceptions were removed."""
        if _is_roomy(len(self._exceptions), self._peak):
            self._exceptions = dict(self._exceptions)
            self._peak = len(self._exceptions)

    def _fill(self, versions: Mapping[str, str]) -> None:
        self._exceptions = {
            name: version
            for name in chain(self._subscribed(), versions)
            if (version := versions.get(name)) != self._wanted(name)
        }
        self._peak = len(self._exceptions)


def _is_roomy(length: int, peak: int) -> bool:
    """Whether a collection that was longer has much more memory than it needs."""
    return 4 * length < peak
