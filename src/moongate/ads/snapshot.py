"""The resources that one fleet of Envoys should have, and their edits.

A snapshot is edited in place and counts its edits. Sessions get the differences of each edit and look up
nothing else, so the cost depends on the size of the change.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, TypeAlias

from moongate.ads.departures import Departures
from moongate.ads.ledger import collection_of
from moongate.ads.needs import NEEDED_BY, needs_scopes
from moongate.ads.responses import Responses
from moongate.ads.scopes import is_shared
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SCOPE, SECRET

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from moongate.xds.wire import XdsResource

Key: TypeAlias = tuple[str, str]
"""(type URL, resource name)."""


PART: Final = 500
"""How many resources are put in one edit if there may be several. Each takes some microseconds."""

_IN_TURN: Final = (CLUSTER, ENDPOINT, SECRET, SCOPE, ROUTE)
"""The types that may be put one after the other: first what others refer to."""

Differences: TypeAlias = "Mapping[str, Mapping[str, str | None]]"
"""What an edit changed: type URL → name → the version before the edit; None if there was none.

Names that the fleet has no more stand before the others of their type.
"""


class Snapshot:
    """The resources of one fleet by type and name, shared by all its sessions."""

    def __init__(self, *, part: int = PART) -> None:
        """Create one that nobody has published anything in.

        Args:
            part: how many resources are put in one edit if there may be several.
        """
        self._part = part
        self._resources: defaultdict[str, dict[str, XdsResource]] = defaultdict(dict)
        self.responses = Responses()
        """The responses that its sessions have sent and that are not answered yet."""
        self.seq = 0
        """How many edits there were. 0: nobody has published anything yet, not even emptiness."""
        self.departures = Departures()
        """The scopes that the fleet had once, and that an Envoy may still have."""
        self._members: dict[str, dict[str, None]] = {}
        self._former: dict[str, XdsResource] = {}
        """By name, the cluster before those that no Envoy has taken yet."""
        self._needs: dict[Key, tuple[str, bool]] = {}
        """Needed type, and name of what may need it → the version that was looked at, and whether it does."""

    def __bool__(self) -> bool:
        """Whether the fleet should have anything at all."""
        return any(self._resources.values())

    def apply(self, put: Iterable[XdsResource], gone: Iterable[Key]) -> Differences:
        """Make one edit.

        Returns:
            The real differences. An equal resource is no change, and neither is the removal of a name that is
            not there.
            A name that is both in ``gone`` and in ``put`` stays.
        """
        removed: dict[Key, XdsResource] = {}
        for type_url, name in gone:
            if (former := self._resources[type_url].pop(name, None)) is not None:
                removed[type_url, name] = former
        changed: defaultdict[str, dict[str, str | None]] = defaultdict(dict)
        # Thousands may come at once, so this does little for each.
        for resource in put:
            type_url, name, version = resource.type_url, resource.name, resource.version
            resources = self._resources[type_url]
            former = (removed.pop((type_url, name), None) if removed else None) or resources.get(name)
            if former is None or former.version != version:
                changed[type_url].setdefault(name, None if former is None else former.version)
                if type_url == CLUSTER and former is not None:
                    self._keep_former(former, version)
            resources[name] = resource
        withdrawn: defaultdict[str, dict[str, str | None]] = defaultdict(dict)
        for (type_url, name), former in removed.items():
            withdrawn[type_url][name] = former.version
        differences = {t: withdrawn.get(t, {}) | changed.get(t, {}) for t in (*withdrawn, *changed)}
        if differences or not self.seq:
            self.seq += 1
        for type_url, names in withdrawn.items():
            for name in names:
                self._note(type_url, name, existed=True)
        for type_url, names in changed.items():
            for name in (name for name, version in names.items() if version is None):
                self._note(type_url, name, existed=False)
        return differences

    def in_parts(self, put: Sequence[XdsResource], gone: Collection[Key]) -> list[Sequence[XdsResource]]:
        """What may be put one part after the other, each by an edit of its own, as nothing new refers to it.

        That is so if all of it changes what is there: then whatever is in force finds what it refers to after
        each of these edits. A new cluster without its endpoints would be taken for one that has none. And a
        listener is put together with its routes, and with the end of another that has its address.

        Args:
            put: resources that are new or changed.
            gone: what the last of these edits is to end.
        """
        if len(put) <= self._part or any(type_url == LISTENER for type_url, _ in gone):
            return [put]
        by_type: dict[str, list[XdsResource]] = {type_url: [] for type_url in _IN_TURN}
        # What answers for hostnames without a scope may only do so once the scopes are as they should be.
        shared: list[XdsResource] = []
        for each in put:
            if each.type_url not in by_type or each.name not in self._resources[each.type_url]:
                return [put]
            is_last = each.type_url == SCOPE and is_shared(each.name)
            (shared if is_last else by_type[each.type_url]).append(each)
        in_turn = [each for some in (*by_type.values(), shared) for each in some]
        return [in_turn[at : at + self._part] for at in range(0, len(in_turn), self._part)]

    def gone_in_parts(self, gone: Collection[Key], put: Iterable[XdsResource]) -> list[Collection[Key]]:
        """What may leave one part after the other: the first by the edit with the last of what comes.

        That is what lingers after its last use in any case, so it may as well leave a little later. Clusters
        leave first, as in one edit, for their endpoints and secrets stay as long as they do.

        Args:
            gone: names that are to leave.
            put: what comes by that edit; it stays.
        """
        if len(gone) <= PART:
            return [gone]
        comes = {(each.type_url, each.name) for each in put}
        by_type: dict[str, list[Key]] = {type_url: [] for type_url in (CLUSTER, ENDPOINT, SECRET)}
        first: list[Key] = []
        for key in gone:
            if key not in comes:
                by_type.get(key[0], first).append(key)
        later = [key for some in by_type.values() for key in some]
        return [first, *(later[at : at + PART] for at in range(0, len(later), PART))]

    def depart(self, names: Iterable[str]) -> list[str]:
        """Note scopes that an Envoy has. Those that the fleet should not have depart in one edit.

        Only tables count that listeners of the fleet use. What else Envoy has is for connections that drain.

        Returns:
            the names that depart.
        """
        listeners = self.of(LISTENER).values()
        used = {table for listener in listeners for table in needs_scopes(listener)}
        departed = [name for name in names if self.get(SCOPE, name) is None and collection_of(name) in used]
        if departed:
            self.seq += 1
            for name in departed:
                self.departures.left(name, self.seq)
        return departed

    def get(self, type_url: str, name: str) -> XdsResource | None:
        """The resource, or None when the fleet should not have it."""
        return self._resources[type_url].get(name)

    def of(self, type_url: str) -> Mapping[str, XdsResource]:
        """All resources of one type, by name. A live view, not a copy."""
        return self._resources[type_url]

    def members(self, type_url: str) -> Mapping[str, Collection[str]]:
        """Collection → the names in it, for a type that has collections. A live view, not a copy."""
        return self._members if type_url == SCOPE else {}

    def former(self, name: str) -> XdsResource | None:
        """The cluster of a name before those that no Envoy has taken yet; None if there was none.

        An Envoy that refuses the newest one, and has started since, gets this one.
        """
        return self._former.get(name)

    def taken(self, name: str, version: str) -> None:
        """Note that an Envoy has a cluster in force: what was before the newest is not needed any more."""
        newest = self.get(CLUSTER, name)
        if newest is not None and newest.version == version:
            self._former.pop(name, None)

    def recall(self, cluster: XdsResource) -> None:
        """Take a cluster that a former process had in force, if the newest one is another."""
        newest = self.get(CLUSTER, cluster.name)
        if newest is not None and newest.version != cluster.version:
            self._former.setdefault(cluster.name, cluster)

    def forget_former(self, name: str) -> None:
        """Note that an Envoy refuses what was before the newest as well."""
        self._former.pop(name, None)

    def needs(self, resource: XdsResource, type_url: str) -> bool:
        """Whether a resource needs others of a type, as a listener its routes. Each version is read once."""
        key = type_url, resource.name
        version, answer = self._needs.get(key, ("", False))
        if version != resource.version:
            answer = bool(NEEDED_BY[type_url].names(resource))
            self._needs[key] = resource.version, answer
        return answer

    def _keep_former(self, replaced: XdsResource, version: str) -> None:
        former = self._former.setdefault(replaced.name, replaced)
        if former.version == version:
            del self._former[replaced.name]

    def _note(self, type_url: str, name: str, *, existed: bool) -> None:
        exists = name in self._resources[type_url]
        if type_url == SCOPE and exists != existed:
            collection = collection_of(name)
            members = self._members.setdefault(collection, {})
            if exists:
                members[name] = None
                self.departures.came(name)
            else:
                del members[name]
                self.departures.left(name, self.seq)
            if not members:
                del self._members[collection]
        if not exists:
            for needed in NEEDED_BY:
                self._needs.pop((needed, name), None)
            if type_url == CLUSTER:
                self._former.pop(name, None)
